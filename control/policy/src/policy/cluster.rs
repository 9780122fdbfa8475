//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy: what administrators say before and after all others.
//!
//! It never switches default deny on. Rules are ordered: by the policy's priority, in a policy by their place.

use std::sync::Arc;

use super::above::{Above, Hands, Kind};
use super::ports::{named, no_port};
use super::{
    Direction, Effect, Peer, Peers, Policy, PortName, PortSpec, Ports, Rule, Source, Spot, Subject, Tier,
};
use crate::decode::{Fields, Place, Problems, prefix};
use crate::labels::{NAMESPACE, NAMESPACE_LABELS, Operator, Selector};
use crate::objects::Metadata;
use crate::tree::Node;

pub const KIND: &str = "ClusterNetworkPolicy";

/// As many rules, peers, networks … as one list may have.
const MOST: usize = 25;

pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Option<Policy> {
    let source = Source { kind: KIND, namespace: String::new(), name: metadata.name };
    let mut whole = Fields::new(node, place, problems);
    let spec = whole.object("spec");
    for known in ["apiVersion", "kind", "metadata", "status"] {
        whole.raw(known);
    }
    whole.deny_unknown();
    let Some((spec, place)) = spec else {
        whole.error(node, "a ClusterNetworkPolicy needs a spec");
        return None;
    };
    let at = Spot::new(spec, &place);
    let mut fields = Fields::new(spec, place, whole.problems);
    let (tier, priority) = (fields.text("tier"), fields.int("priority", 0, 1000));
    let subject = fields.object("subject");
    let lists = [
        (Direction::Ingress, "ingress", "from", fields.list("ingress")),
        (Direction::Egress, "egress", "to", fields.list("egress")),
    ];
    fields.deny_unknown();
    if priority.is_none() && fields.some("priority").is_none() {
        fields.error(spec, "priority is missing");
    }
    let tier = match tier.as_deref() {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        _ => {
            fields.error(spec, "tier must be Admin or Baseline");
            None
        }
    };
    let subject = match subject {
        Some((node, place)) => pods(node, place, fields.problems),
        None => {
            fields.error(spec, "subject is missing");
            None
        }
    };
    let mut rules = Vec::new();
    for (direction, list, peers, items) in lists {
        let items = items.unwrap_or_default();
        if items.len() > MOST {
            fields.error(spec, format!("{list} may have {MOST} rules at most"));
        }
        for (index, (item, place)) in items.into_iter().enumerate() {
            // What is missing was told; the rules are read all the same, for what is wrong with them.
            let order = priority.unwrap_or(0) * 100 + i64::try_from(index).unwrap_or(i64::MAX);
            let at = Spot::new(item, &place);
            let tier = tier.unwrap_or(Tier::Admin);
            let reader = Reader { direction, list, index, tier, priority: order, at };
            rules.extend(reader.rule(item, place, peers, fields.problems));
        }
    }
    let (_, _, subject) = (tier?, priority?, subject?);
    Some(Policy {
        source,
        subject: Subject::Endpoints(subject),
        rules,
        default_deny: [false; 2],
        log: None,
        at,
    })
}

/// `{namespaces: …}` or `{pods: {namespaceSelector, podSelector}}`.
fn pods(node: &Node, place: Place, problems: &mut Problems) -> Option<Selector> {
    let mut fields = Fields::new(node, place, problems);
    let (namespaces, pods) = (fields.object("namespaces"), fields.object("pods"));
    fields.deny_unknown();
    match (namespaces, pods) {
        (Some(namespaces), None) => {
            Some(by_namespace(Selector::default(), Some(namespaces), fields.problems))
        }
        (None, Some(pods)) => Some(namespaced_pod(pods, fields.problems)),
        _ => {
            fields.error(node, "exactly one of namespaces and pods is needed");
            None
        }
    }
}

fn namespaced_pod((node, place): (&Node, Place), problems: &mut Problems) -> Selector {
    let mut fields = Fields::new(node, place, problems);
    let (namespaces, pods) = (fields.object("namespaceSelector"), fields.object("podSelector"));
    fields.deny_unknown();
    let own = pods.map(|(node, place)| Selector::read(&mut Fields::new(node, place, fields.problems)));
    by_namespace(own.unwrap_or_default(), namespaces, fields.problems)
}

/// Demand a namespace with these labels.
fn by_namespace(mut own: Selector, namespaces: Option<(&Node, Place)>, problems: &mut Problems) -> Selector {
    let read = |(node, place): (&Node, Place)| Selector::read(&mut Fields::new(node, place, problems));
    for requirement in namespaces.map(read).unwrap_or_default().0 {
        let key = format!("{NAMESPACE_LABELS}{}", requirement.key);
        own.and("k8s", &key, requirement.operator);
    }
    own.and("k8s", NAMESPACE, Operator::Exists);
    own
}

/// One rule, and where it stands.
struct Reader {
    direction: Direction,
    list: &'static str,
    index: usize,
    tier: Tier,
    priority: i64,
    at: Spot,
}

impl Reader {
    fn rule(&self, node: &Node, place: Place, key: &'static str, problems: &mut Problems) -> Vec<Rule> {
        let mut fields = Fields::new(node, place, problems);
        let (name, action) = (fields.text("name"), fields.text("action"));
        let (listed, protocols) = (fields.list(key), fields.list("protocols"));
        fields.deny_unknown();
        if name.is_some_and(|name| name.len() > 100) {
            fields.error(node, "name is longer than 100");
        }
        let effect = match action.as_deref() {
            Some("Accept") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            Some("Pass") => Effect::Pass,
            _ => {
                fields.error(node, "action must be Accept, Deny or Pass");
                Effect::Allow
            }
        };
        let ports = protocols.map_or(Ports::All, |items| self.ports(&items, &mut fields));
        let Some(listed) = listed.filter(|items| !items.is_empty()) else {
            return vec![self.make(effect, Peers::Anyone, ports)];
        };
        if listed.len() > MOST {
            fields.error(node, format!("{key} may have {MOST} items at most"));
        }
        let (mut found, mut rules, mut closed) = (Vec::new(), Vec::new(), false);
        for (item, place) in listed {
            let named = item.get("domainNames").is_some();
            let peers = self.peer(item, place, fields.problems);
            if named && effect != Effect::Allow {
                fields.error(item, "domainNames are for Accept alone");
            }
            if named {
                rules.push(self.asking(&peers));
            }
            closed |= peers.is_empty();
            found.extend(peers);
        }
        let portless = |peer: &Peer| matches!(peer, Peer::Cidr { .. } | Peer::Nodes(_) | Peer::Name(_));
        let is_named = |ports: &Ports| matches!(ports, Ports::Some(specs) if specs.iter().any(|s| matches!(s.port, PortName::Named(_))));
        if is_named(&ports) && found.iter().any(portless) {
            fields.error(node, "networks, nodes and domainNames have no named ports");
        }
        // A peer that says nothing may be one of a later version. What it would have kept out must not come in.
        if closed && effect != Effect::Allow {
            rules.push(self.make(Effect::Deny, Peers::Anyone, ports.clone()));
        }
        rules.push(self.make(effect, Peers::Any(found), ports));
        rules
    }

    fn make(&self, effect: Effect, peers: Peers, ports: Ports) -> Rule {
        Rule {
            direction: self.direction,
            list: self.list,
            index: self.index,
            effect,
            tier: self.tier,
            priority: self.priority,
            peers,
            ports,
            authenticate: false,
            above: None,
            at: self.at.clone(),
        }
    }

    /// Names are learned from answers, so the cluster's DNS may be asked for them.
    fn asking(&self, names: &[Peer]) -> Rule {
        let patterns = names.iter().filter_map(|peer| match peer {
            Peer::Name(pattern) => Some(pattern.clone()),
            Peer::Endpoints(_)
            | Peer::Nodes(_)
            | Peer::Cidr { .. }
            | Peer::Group { .. }
            | Peer::Entity(_)
            | Peer::Service { .. } => None,
        });
        let kind = Kind::Dns(patterns.collect());
        let above = Above { server_names: Vec::new(), hands: Hands::Reader, kind };
        let mut dns = Selector::default();
        dns.and("", "k8s-app", Operator::In(vec!["kube-dns".to_owned()]));
        let called =
            |name: &str| [6, 17, 132].map(|proto| PortSpec { proto, port: PortName::Named(name.to_owned()) });
        let ports = Ports::Some([called("dns"), called("dns-tcp")].concat());
        let rule = self.make(Effect::Allow, Peers::Any(vec![Peer::Endpoints(dns)]), ports);
        Rule { above: Some(Arc::new(above)), ..rule }
    }

    fn peer(&self, node: &Node, place: Place, problems: &mut Problems) -> Vec<Peer> {
        let mut fields = Fields::new(node, place, problems);
        let (namespaces, pods) = (fields.object("namespaces"), fields.object("pods"));
        let mut given = usize::from(namespaces.is_some()) + usize::from(pods.is_some());
        let mut found = Vec::new();
        if let Some(namespaces) = namespaces {
            found.push(Peer::Endpoints(by_namespace(Selector::default(), Some(namespaces), fields.problems)));
        }
        if let Some(pods) = pods {
            found.push(Peer::Endpoints(namespaced_pod(pods, fields.problems)));
        }
        if self.direction == Direction::Egress {
            for key in ["nodes", "networks", "domainNames"] {
                given += usize::from(fields.some(key).is_some());
            }
            if let Some((node, place)) = fields.object("nodes") {
                let selector = Selector::read(&mut Fields::new(node, place, fields.problems));
                found.push(Peer::Nodes(selector));
            }
            for (text, node, place) in fields.texts("networks") {
                match prefix(&text) {
                    Ok(prefix) => found.push(Peer::Cidr { prefix, except: Vec::new() }),
                    Err(what) => fields.problems.errors.push(place.problem(node, what)),
                }
            }
            for (text, node, place) in fields.texts("domainNames") {
                match domain(&text) {
                    Some(pattern) => found.push(Peer::Name(pattern)),
                    None => fields
                        .problems
                        .errors
                        .push(place.problem(node, format!("{text:?} is no domain name"))),
                }
            }
        }
        fields.deny_unknown();
        if given > 1 {
            fields.error(node, "only one kind of peer may be in one item");
        }
        if given == 0 {
            fields.warn(
                node,
                "a peer that says nothing: Accept lets nobody through for it, Deny and Pass deny all",
            );
        }
        found
    }

    fn ports(&self, items: &[(&Node, Place)], fields: &mut Fields<'_, '_>) -> Ports {
        if items.is_empty() {
            let node = fields.node;
            fields.error(node, "protocols needs an item, or is to be left out");
        }
        let read = |(node, place): &(&Node, Place)| protocol(node, place.clone(), fields.problems);
        Ports::Some(items.iter().flat_map(read).collect())
    }
}

/// `*.example.com` is any name below, at any depth.
fn domain(text: &str) -> Option<String> {
    let (star, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        edge(bytes.first().copied())
            && edge(bytes.last().copied())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let fits = rest.contains('.') && rest.split('.').all(is_label) && text.len() <= 255;
    fits.then(|| crate::fqdn::normal(&format!("{}{rest}", if star { "**." } else { "" })))
}

/// `{tcp: {destinationPort: {number: 80}}}` and its kin.
fn protocol(node: &Node, place: Place, problems: &mut Problems) -> Vec<PortSpec> {
    let mut fields = Fields::new(node, place, problems);
    let mut specs = Vec::new();
    let mut given = 0;
    for (key, proto) in [("tcp", 6), ("udp", 17), ("sctp", 132)] {
        let Some((node, place)) = fields.object(key) else { continue };
        given += 1;
        let mut inner = Fields::new(node, place, fields.problems);
        let port = inner.object("destinationPort");
        inner.deny_unknown();
        let (first, last) = match port {
            Some((node, place)) => range(node, place, inner.problems).unwrap_or((1, 0)),
            None => (0, u16::MAX),
        };
        if first <= last {
            specs.push(PortSpec { proto, port: PortName::Range(first, last) });
        }
    }
    if let Some(name) = fields.text("destinationNamedPort") {
        given += 1;
        match named(&name) {
            Some(port) => specs.extend([6, 17, 132].map(|proto| PortSpec { proto, port: port.clone() })),
            None => fields.error(node, no_port(&name)),
        }
    }
    fields.deny_unknown();
    if given != 1 {
        fields.error(node, "exactly one of tcp, udp, sctp and destinationNamedPort is needed");
    }
    specs
}

fn range(node: &Node, place: Place, problems: &mut Problems) -> Option<(u16, u16)> {
    let mut fields = Fields::new(node, place, problems);
    let (number, range) = (fields.int("number", 1, 65535), fields.object("range"));
    fields.deny_unknown();
    let (first, last) = match (number, range) {
        (Some(number), None) => (number, number),
        (None, Some((node, place))) => {
            let mut inner = Fields::new(node, place, fields.problems);
            let ends = (inner.int("start", 1, 65535), inner.int("end", 1, 65535));
            inner.deny_unknown();
            let (Some(start), Some(end)) = ends else {
                inner.error(node, "a range needs start and end");
                return None;
            };
            if start >= end {
                inner.error(node, format!("start {start} is not below end {end}"));
                return None;
            }
            (start, end)
        }
        _ => {
            fields.error(node, "exactly one of number and range is needed");
            return None;
        }
    };
    Some((u16::try_from(first).ok()?, u16::try_from(last).ok()?))
}
