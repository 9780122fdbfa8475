//! The model evaluated rule by rule, for one flow at a time: slow, obvious, and apart from everything that is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_core::tables::record::Prefix;
use sluice_policy::config::{Enforcement, Options};
use sluice_policy::fqdn;
use sluice_policy::labels::{Label, LabelSet, Operator, Selector, is_relevant};
use sluice_policy::objects::{Endpoint, NodeObject, Objects};
use sluice_policy::policy::above::{Above, Talk};
use sluice_policy::policy::{
    Direction, Effect, Entity, Peer, Peers, Policy, PortName, Ports, Rule, Subject, Tier,
};

/// Everything that a decision depends on.
pub struct Slow<'a> {
    pub objects: &'a Objects,
    pub options: &'a Options,
    pub names: &'a BTreeMap<String, Vec<IpAddr>>,
}

/// One side of a flow.
#[derive(Clone, Debug, Default)]
pub struct Who {
    labels: LabelSet,
    node: Option<LabelSet>,
    /// What names and CIDR groups look at: only those outside have it.
    outside: Option<IpAddr>,
    /// What CIDRs look at: those outside, and others if they are meant, too.
    addresses: Vec<IpAddr>,
    is_endpoint: bool,
    is_local: bool,
    ports: Vec<(String, u8, u16)>,
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub proto: u8,
    /// For ICMP: the type.
    pub port: u16,
    pub talk: Talk,
}

/// Stands for a denial above ports until the end.
const SAID: u8 = 1;

/// What one direction comes to, with the rules that say so: (kind, name, list, index).
pub type Outcome = (&'static str, u8, BTreeSet<(String, String, usize)>);

impl Slow<'_> {
    pub fn who(&self, ip: IpAddr) -> Who {
        if let Some(node) = self.objects.nodes.values().find(|node| node.addresses.contains(&ip)) {
            return self.node(node);
        }
        let has = |endpoint: &&Endpoint| !endpoint.host_network && endpoint.addresses.contains(&ip);
        if let Some(endpoint) = self.objects.endpoints.values().find(has) {
            return self.endpoint(endpoint);
        }
        let world = if ip.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
        let mut labels: LabelSet = [Label::reserved(world)].into();
        if self.is_api_server(ip) {
            labels.insert(Label::reserved("kube-apiserver"));
        }
        Who { labels, outside: Some(ip), addresses: vec![ip], ..Who::default() }
    }

    pub fn reserved(name: &str) -> Who {
        let is_endpoint = matches!(name, "init" | "health" | "ingress");
        Who { labels: [Label::reserved(name)].into(), is_endpoint, ..Who::default() }
    }

    fn is_api_server(&self, ip: IpAddr) -> bool {
        let own = |slice: &&sluice_policy::service::Slice| {
            slice.namespace == "default" && slice.service == "kubernetes"
        };
        self.objects
            .slices
            .values()
            .filter(own)
            .any(|s| s.endpoints.iter().any(|e| e.addresses.contains(&ip)))
    }

    fn node(&self, node: &NodeObject) -> Who {
        let own = node.name == self.options.node;
        let mut labels: LabelSet = [Label::reserved(if own { "host" } else { "remote-node" })].into();
        if node.addresses.iter().any(|ip| self.is_api_server(*ip)) {
            labels.insert(Label::reserved("kube-apiserver"));
        }
        let mut of_node = labels.clone();
        of_node.extend(node.labels.iter().map(|(key, value)| Label::k8s(key, value)));
        let addresses = if self.options.cidr_matches.nodes { node.addresses.clone() } else { Vec::new() };
        Who { labels, node: Some(of_node), addresses, ..Who::default() }
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Who {
        let own = endpoint.labels.iter().filter(|(key, _)| is_relevant(key));
        let mut labels: LabelSet = own.map(|(key, value)| Label::k8s(key, value)).collect();
        labels.insert(Label::k8s("io.kubernetes.pod.namespace", &endpoint.namespace));
        labels.insert(Label::k8s("io.cilium.k8s.policy.cluster", &self.options.cluster));
        if !endpoint.service_account.is_empty() {
            labels.insert(Label::k8s("io.cilium.k8s.policy.serviceaccount", &endpoint.service_account));
        }
        let prefix = "io.cilium.k8s.namespace.labels.";
        for (key, value) in
            self.objects.namespaces.get(&endpoint.namespace).into_iter().flat_map(|own| &own.labels)
        {
            labels.insert(Label::k8s(&format!("{prefix}{key}"), value));
        }
        labels.insert(Label::k8s(&format!("{prefix}kubernetes.io/metadata.name"), &endpoint.namespace));
        Who {
            labels,
            is_endpoint: true,
            is_local: endpoint.node == self.options.node && self.options.allow_localhost,
            addresses: if self.options.cidr_matches.pods { endpoint.addresses.clone() } else { Vec::new() },
            ports: endpoint.ports.clone(),
            ..Who::default()
        }
    }

    pub fn judge(&self, judged: &Who, peer: &Who, direction: Direction, asked: &Asked) -> Outcome {
        let nothing = BTreeSet::new;
        if self.options.enforcement == Enforcement::Never {
            return ("FORWARDED", 0, nothing());
        }
        let selects = |policy: &&Policy| match &policy.subject {
            Subject::Endpoints(selector) => judged.is_endpoint && matches(selector, &judged.labels),
            Subject::Nodes(selector) => judged.node.as_ref().is_some_and(|labels| matches(selector, labels)),
        };
        let policies: Vec<&Policy> = self.objects.policies.iter().filter(selects).collect();
        let denies = policies.iter().any(|policy| policy.denies_by_default(direction))
            || judged.labels.contains(&Label::reserved("init"))
            || (self.options.enforcement == Enforcement::Always && judged.is_endpoint);
        let mut found: Vec<(&Policy, &Rule)> = Vec::new();
        for policy in &policies {
            let meant = |rule: &&Rule| {
                rule.direction == direction
                    && self.is_peer(&rule.peers, peer)
                    && is_port(&rule.ports, direction, judged, peer, asked)
            };
            found.extend(policy.rules.iter().filter(meant).map(|rule| (*policy, rule)));
        }
        let is_host = peer.labels.contains(&Label::reserved("host"));
        let local =
            direction == Direction::Ingress && judged.is_local && is_host && !judged.labels.is_empty();
        let from_host =
            local && (!policies.is_empty() || denies) && self.speaks(&policies, direction, denies);
        let outcome = decide(&found, from_host, denies, direction, asked);
        match (self.options.audit, outcome) {
            // What was said is never only audited.
            (true, ("DROPPED", reason, rules)) if reason != SAID => ("AUDIT", 0, rules),
            (_, ("DROPPED", SAID, rules)) => ("DROPPED", 133, rules),
            (_, outcome) => outcome,
        }
    }

    /// The allowance for the own node is part of what is compiled, so it needs somebody to be judged.
    fn speaks(&self, policies: &[&Policy], direction: Direction, denies: bool) -> bool {
        denies || policies.iter().any(|policy| policy.rules.iter().any(|rule| rule.direction == direction))
    }

    fn is_peer(&self, peers: &Peers, who: &Who) -> bool {
        match peers {
            Peers::Anyone => true,
            Peers::Any(list) => list.iter().any(|peer| self.is(peer, who)),
        }
    }

    fn is(&self, peer: &Peer, who: &Who) -> bool {
        let in_one = |prefixes: &[Prefix], ip: IpAddr| prefixes.iter().any(|prefix| contains(prefix, ip));
        match peer {
            Peer::Endpoints(selector) => matches(selector, &who.labels),
            Peer::Nodes(selector) => who.node.as_ref().is_some_and(|labels| {
                labels.contains(&Label::reserved("remote-node")) && matches(selector, labels)
            }),
            Peer::Cidr { prefix, except } => {
                who.addresses.iter().any(|ip| contains(prefix, *ip) && !in_one(except, *ip))
            }
            Peer::Group { name, selector, except } => who.outside.is_some_and(|ip| {
                let meant = |group: &&sluice_policy::policy::groups::CidrGroup| {
                    let labels = group.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
                    name.as_ref().is_some_and(|name| *name == group.name)
                        || selector.as_ref().is_some_and(|selector| matches(selector, &labels))
                };
                let mut groups = self.objects.groups.iter().filter(meant);
                groups.any(|group| in_one(&group.prefixes, ip)) && !in_one(except, ip)
            }),
            Peer::Entity(entity) => self.is_entity(*entity, who),
            Peer::Service { namespace, name, selector } => {
                let meant = |service: &&sluice_policy::service::Service| {
                    let labels = service.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
                    namespace.as_ref().is_none_or(|own| *own == service.namespace)
                        && name.as_ref().is_none_or(|own| *own == service.name)
                        && selector.as_ref().is_none_or(|selector| matches(selector, &labels))
                };
                self.objects.services.values().filter(meant).any(|service| self.serves(service, who))
            }
            Peer::Name(pattern) => who.outside.is_some_and(|ip| {
                self.names
                    .iter()
                    .any(|(name, ips)| ips.contains(&ip) && fqdn::fits(pattern, &fqdn::normal(name)))
            }),
        }
    }

    fn serves(&self, service: &sluice_policy::service::Service, who: &Who) -> bool {
        if service.selector.is_empty() {
            let own = |slice: &&sluice_policy::service::Slice| {
                slice.namespace == service.namespace && slice.service == service.name
            };
            let mut slices = self.objects.slices.values().filter(own);
            return slices.any(|s| {
                s.endpoints.iter().any(|e| who.addresses.iter().any(|ip| e.addresses.contains(ip)))
            });
        }
        let has = |key: &str, value: &str| who.labels.contains(&Label::k8s(key, value));
        has("io.kubernetes.pod.namespace", &service.namespace)
            && service.selector.iter().all(|(key, value)| has(key, value))
    }

    fn is_entity(&self, entity: Entity, who: &Who) -> bool {
        let has = |name: &str| who.labels.contains(&Label::reserved(name));
        let world = || ["world", "world-ipv4", "world-ipv6"].iter().any(|name| has(name));
        match entity {
            Entity::All => true,
            Entity::None => false,
            Entity::World => world(),
            Entity::WorldIpv4 => has("world-ipv4"),
            Entity::WorldIpv6 => has("world-ipv6"),
            Entity::Host => has("host"),
            Entity::RemoteNode => has("remote-node"),
            Entity::KubeApiserver => has("kube-apiserver"),
            Entity::Init => has("init"),
            Entity::Health => has("health"),
            Entity::Unmanaged => has("unmanaged"),
            Entity::Ingress => has("ingress"),
            Entity::Cluster => {
                ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"]
                    .iter()
                    .any(|name| has(name))
                    || who.labels.contains(&Label::k8s("io.cilium.k8s.policy.cluster", &self.options.cluster))
            }
        }
    }
}

/// Tier by tier, priority by priority; at one priority the strictest word counts.
fn decide(
    found: &[(&Policy, &Rule)],
    from_host: bool,
    denies: bool,
    direction: Direction,
    asked: &Asked,
) -> Outcome {
    for tier in [Tier::Admin, Tier::Normal, Tier::Baseline] {
        let of_tier: Vec<_> = found.iter().filter(|(_, rule)| rule.tier == tier).collect();
        let mut priorities: BTreeSet<i64> = of_tier.iter().map(|(_, rule)| rule.priority).collect();
        if tier == Tier::Normal && from_host {
            priorities.insert(0);
        }
        for priority in priorities {
            let here: Vec<_> = of_tier.iter().filter(|(_, rule)| rule.priority == priority).collect();
            let those = |is: &dyn Fn(&Rule) -> bool| -> BTreeSet<(String, String, usize)> {
                let fitting = here.iter().filter(|(_, rule)| is(rule));
                let name = |(policy, rule): &&&&(&Policy, &Rule)| {
                    (policy.source.name.clone(), rule.list.to_owned(), rule.index)
                };
                fitting.map(|pair| name(&pair)).collect()
            };
            let denying = those(&|rule| rule.effect == Effect::Deny);
            if !denying.is_empty() {
                return ("DROPPED", 181, denying);
            }
            let authenticating = those(&|rule| rule.effect == Effect::Allow && rule.authenticate);
            if !authenticating.is_empty() {
                return ("DROPPED", 189, authenticating);
            }
            let is_dns = |rule: &Rule| rule.above.as_ref().is_some_and(|above| above.is_dns());
            let others = those(&|rule| rule.effect == Effect::Allow && rule.above.is_some() && !is_dns(rule));
            let dns = those(&|rule| rule.effect == Effect::Allow && is_dns(rule));
            let plain = those(&|rule| rule.effect == Effect::Allow && rule.above.is_none());
            let free = from_host && tier == Tier::Normal && priority == 0;
            let allowing: Vec<_> = here.iter().filter(|(_, rule)| rule.effect == Effect::Allow).collect();
            let asking = if others.is_empty() { dns } else { others };
            if !asking.is_empty() {
                return hear(&allowing, asking, free, direction, asked);
            }
            if !plain.is_empty() || free {
                return ("FORWARDED", 0, plain);
            }
            if !those(&|rule| rule.effect == Effect::Pass).is_empty() {
                break;
            }
        }
    }
    if denies { ("DROPPED", 133, BTreeSet::new()) } else { ("FORWARDED", 0, BTreeSet::new()) }
}

/// One rule that is content is enough; kinds that contradict each other let nothing through.
fn hear(
    allowing: &[&&&(&Policy, &Rule)],
    asking: BTreeSet<(String, String, usize)>,
    free: bool,
    direction: Direction,
    asked: &Asked,
) -> Outcome {
    if asked.talk == Talk::default() {
        return ("REDIRECTED", 0, asking);
    }
    let mut content = BTreeSet::new();
    let (mut kinds, mut open, mut any) = (BTreeSet::new(), false, free);
    for (policy, rule) in allowing {
        let name = (policy.source.name.clone(), rule.list.to_owned(), rule.index);
        let heard: Option<&Above> = rule.above.as_deref();
        let heard = heard.filter(|_| policy.denies_by_default(direction) || rule.tier != Tier::Normal);
        let Some(above) = heard else {
            any = true;
            content.insert(name);
            continue;
        };
        kinds.extend(above.name());
        match above.answer(&asked.talk) {
            Some(true) => drop(content.insert(name)),
            Some(false) => {}
            None => open = true,
        }
    }
    match (any, kinds.len() > 1, content.is_empty(), open) {
        (true, ..) | (false, false, false, _) => ("FORWARDED", 0, content),
        (false, false, true, true) => ("REDIRECTED", 0, asking),
        (false, true, ..) | (false, false, true, false) => ("DROPPED", SAID, asking),
    }
}

fn is_port(ports: &Ports, direction: Direction, judged: &Who, peer: &Who, asked: &Asked) -> bool {
    let Ports::Some(specs) = ports else { return true };
    let named = if direction == Direction::Ingress { &judged.ports } else { &peer.ports };
    specs.iter().any(|spec| {
        spec.proto == asked.proto
            && match &spec.port {
                PortName::Range(first, last) => *first <= asked.port && asked.port <= *last,
                PortName::Named(name) => named.contains(&(name.clone(), asked.proto, asked.port)),
            }
    })
}

fn matches(selector: &Selector, labels: &LabelSet) -> bool {
    selector.0.iter().all(|requirement| {
        let values: Vec<&str> = labels
            .iter()
            .filter(|label| requirement.source.is_empty() || requirement.source == label.source)
            .filter(|label| requirement.key == label.key)
            .map(|label| label.value.as_str())
            .collect();
        let one_of = |wanted: &[String]| values.iter().any(|value| wanted.iter().any(|own| own == value));
        match &requirement.operator {
            Operator::In(wanted) => one_of(wanted),
            Operator::NotIn(wanted) => !one_of(wanted),
            Operator::Exists => !values.is_empty(),
            Operator::DoesNotExist => values.is_empty(),
        }
    })
}

fn contains(prefix: &Prefix, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, true),
        IpAddr::V6(ip) => (u128::from(ip), false),
    };
    let ((own, v4), (other, other_v4)) = (bits(prefix.addr), bits(ip));
    v4 == other_v4 && (prefix.len == 0 || (own ^ other) >> (128 - u32::from(prefix.len)) == 0)
}
