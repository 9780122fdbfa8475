//! Objects → records: the only way that tables come to be.
//!
//! An endpoint's identity is its label set. A rule's peers are a set of identities, made once however many rules name the
//! same; identities carry the sets that they are in. Identities selected by the same rules share a class, whose ranges
//! list, in order of precedence, what applies to each port.

mod class;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::tables::record::{
    Change, ClassId, Identity as IdentityRecord, PeerSetId, Prefix, Records, RuleId, diff,
};

use crate::config::{Enforcement, Options};
use crate::decode::{Problem, Problems, host};
use crate::identity::{self, Identities, Identity, holds};
use crate::labels::{CLUSTER, Label, LabelSet, NAMESPACE};
use crate::objects::Objects;
use crate::observed::Naming;
use crate::policy::{Direction, Entity, Peer, Peers, Policy, Rule, Source, Subject};
use crate::service::frontends::{self, Shown};

/// What a rule number stands for.
#[derive(Clone, Debug)]
pub struct RuleName {
    pub source: Source,
    pub list: &'static str,
    pub index: usize,
}

/// A set of objects, understood.
#[derive(Debug)]
pub struct Compiled {
    pub objects: Objects,
    pub options: Options,
    pub identities: Identities,
    pub frontends: Vec<Shown>,
    pub records: Records,
    pub warnings: Vec<Problem>,
    pub rules: Vec<RuleName>,
    /// For each identity and direction: the policies that select it, by their place in `objects.policies`.
    selecting: Vec<[Vec<usize>; 2]>,
    addresses: BTreeMap<IpAddr, (usize, String)>,
}

impl Compiled {
    pub fn new(objects: Objects, options: Options, problems: Problems) -> Self {
        let mut compiler = Compiler::new(&objects, &options);
        compiler.identities();
        compiler.rules();
        compiler.classes();
        let Compiler { identities, addresses, selecting, rules, mut changes, warnings, .. } = compiler;
        let frontends = frontends::all(&objects, &options);
        changes.extend(frontends::changes(&frontends));
        changes.push(Change::Settings(options.settings.clone()));
        let records = changes.into_iter().map(|change| (change.key(), change)).collect();
        let warnings = problems.warnings.into_iter().chain(warnings).collect();
        Self { objects, options, identities, frontends, records, warnings, rules, selecting, addresses }
    }

    /// Does this policy select this identity?
    pub fn selects(&self, policy: &Policy, number: u32) -> bool {
        let labels = self.identities.by_number(number).map(|identity| &identity.labels);
        match &policy.subject {
            Subject::Endpoints(selector) => labels.is_some_and(|labels| selector.matches(labels)),
            Subject::Nodes(_) => false,
        }
    }

    /// Is this identity among the peers of this rule?
    pub fn names(&self, rule: &Rule, number: u32) -> bool {
        let identity = self.identities.by_number(number);
        identity.is_some_and(|identity| {
            Compiler::new(&self.objects, &self.options).is_peer(&rule.peers, identity)
        })
    }

    /// What leads from an older state of the world to this one.
    pub fn changes_since(&self, old: Option<&Self>) -> Vec<Change> {
        diff(&old.map(|old| old.records.clone()).unwrap_or_default(), &self.records)
    }

    /// Everything.
    pub fn changes(&self) -> Vec<Change> {
        self.records.values().cloned().collect()
    }

    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.rules.get((id.0 as usize).checked_sub(1)?)
    }

    /// Identity and name behind an address that belongs to somebody.
    pub fn owner(&self, ip: IpAddr) -> Option<(&Identity, &str)> {
        let (index, name) = self.addresses.get(&ip)?;
        Some((self.identities.all.get(*index)?, name.as_str()))
    }

    /// The policies that switched default deny on for this identity.
    pub fn enforcing(&self, number: u32, direction: Direction) -> Vec<Value> {
        let Some(index) = self.identities.all.iter().position(|identity| identity.number == number) else {
            return Vec::new();
        };
        let selecting = &self.selecting[index][usize::from(direction == Direction::Egress)];
        let mut named: Vec<&Source> = selecting
            .iter()
            .map(|policy| &self.objects.policies[*policy])
            .filter(|policy| policy.denies_by_default(direction))
            .map(|policy| &policy.source)
            .collect();
        named.sort();
        named.dedup();
        named
            .into_iter()
            .map(|source| json!({"kind": source.kind, "namespace": source.namespace, "name": source.name}))
            .collect()
    }

    pub fn show_identities(&self) -> Value {
        let show = |identity: &Identity| {
            let labels: Vec<String> = identity.labels.iter().map(ToString::to_string).collect();
            json!({"identity": identity.number, "labels": labels})
        };
        self.identities.all.iter().map(show).collect()
    }

    pub fn show_endpoints(&self) -> Value {
        let show = |endpoint: &crate::objects::Endpoint| {
            let owner = endpoint.addresses.first().and_then(|ip| self.owner(*ip));
            let number = owner.map_or(0, |(identity, _)| identity.number);
            json!({
                "kind": endpoint.kind,
                "namespace": endpoint.namespace,
                "name": endpoint.name,
                "addresses": endpoint.addresses,
                "identity": number,
                "ingress_enforced": !self.enforcing(number, Direction::Ingress).is_empty(),
                "egress_enforced": !self.enforcing(number, Direction::Egress).is_empty(),
            })
        };
        self.objects.endpoints.values().map(show).collect()
    }

    pub fn show_policies(&self) -> Value {
        let show = |(index, policy): (usize, &Policy)| {
            let selects =
                self.selecting.iter().filter(|by| by.iter().any(|list| list.contains(&index))).count();
            let count = |direction| policy.rules.iter().filter(|rule| rule.direction == direction).count();
            json!({
                "kind": policy.source.kind,
                "namespace": policy.source.namespace,
                "name": policy.source.name,
                "selects": format!("{selects} identities"),
                "ingress": count(Direction::Ingress),
                "egress": count(Direction::Egress),
                "default_deny": {
                    "ingress": policy.denies_by_default(Direction::Ingress),
                    "egress": policy.denies_by_default(Direction::Egress),
                },
            })
        };
        self.objects.policies.iter().enumerate().map(show).collect()
    }

    pub fn show_services(&self) -> Value {
        self.frontends.iter().map(frontends::show).collect()
    }

    /// Everything compiled, for `dump`.
    pub fn dump(&self) -> Value {
        let classes: Vec<Value> = self
            .records
            .values()
            .filter_map(|change| match change {
                Change::Class(id, Some(class)) => Some(class::show(*id, class, self)),
                _ => None,
            })
            .collect();
        let ipcache: Vec<Value> = self
            .records
            .values()
            .filter_map(|change| match change {
                Change::Address(prefix, Some(slot)) => {
                    let number = self.identities.all.get(slot.0 as usize - 1).map(|identity| identity.number);
                    Some(json!({"prefix": format!("{}/{}", prefix.addr, prefix.len), "identity": number}))
                }
                _ => None,
            })
            .collect();
        json!({
            "frontends": self.show_services(),
            "policies": classes,
            "identities": self.show_identities(),
            "ipcache": ipcache,
        })
    }
}

impl Naming for Compiled {
    fn endpoint(&self, ip: IpAddr) -> Option<String> {
        self.owner(ip).map(|(_, name)| name.to_owned())
    }

    fn labels(&self, number: u32) -> Vec<String> {
        let identity = self.identities.by_number(number);
        identity.map(|identity| identity.labels.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    fn rule(&self, id: RuleId) -> Option<Value> {
        let rule = Self::rule(self, id)?;
        Some(json!({
            "kind": rule.source.kind,
            "namespace": rule.source.namespace,
            "name": rule.source.name,
            "list": rule.list,
            "index": rule.index,
        }))
    }

    fn enforced_by(&self, number: u32, egress: bool) -> Vec<Value> {
        self.enforcing(number, if egress { Direction::Egress } else { Direction::Ingress })
    }
}

/// The steps from objects to records.
struct Compiler<'a> {
    objects: &'a Objects,
    options: &'a Options,
    identities: Identities,
    addresses: BTreeMap<IpAddr, (usize, String)>,
    /// Named ports of the endpoints of each identity.
    named_ports: HashMap<usize, Vec<(String, u8, u16)>>,
    peer_sets: HashMap<(Peers, Option<(String, u8, u16)>), PeerSetId>,
    members: Vec<Vec<PeerSetId>>,
    rules: Vec<RuleName>,
    selecting: Vec<[Vec<usize>; 2]>,
    changes: Vec<Change>,
    warnings: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    fn new(objects: &'a Objects, options: &'a Options) -> Self {
        Self {
            objects,
            options,
            identities: Identities::new(),
            addresses: BTreeMap::new(),
            named_ports: HashMap::new(),
            peer_sets: HashMap::new(),
            members: Vec::new(),
            rules: Vec::new(),
            selecting: Vec::new(),
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Who there is: nodes, endpoints, and every prefix that a policy names.
    fn identities(&mut self) {
        for node in self.objects.nodes.values() {
            let number = if node.name == self.options.node { identity::HOST } else { identity::REMOTE_NODE };
            let index =
                self.identities.all.iter().position(|identity| identity.number == number).unwrap_or(0);
            for ip in &node.addresses {
                self.addresses.insert(*ip, (index, node.name.clone()));
            }
        }
        for endpoint in self.objects.endpoints.values().filter(|endpoint| !endpoint.host_network) {
            let index =
                self.identities.of_labels(self.objects.identity_labels(endpoint, &self.options.cluster));
            let ports = self.named_ports.entry(index).or_default();
            for port in &endpoint.ports {
                if !ports.contains(port) {
                    ports.push(port.clone());
                }
            }
            let name = format!("{}/{}", endpoint.namespace, endpoint.name);
            for ip in &endpoint.addresses {
                self.addresses.insert(*ip, (index, name.clone()));
            }
        }
        self.prefixes();
        for (ip, (index, _)) in &self.addresses {
            self.changes.push(Change::Address(host(*ip), Some(self.identities.all[*index].slot)));
        }
    }

    fn prefixes(&mut self) {
        let mut prefixes = Vec::new();
        for rule in self.objects.policies.iter().flat_map(|policy| &policy.rules) {
            let Peers::Any(peers) = &rule.peers else { continue };
            for peer in peers {
                match peer {
                    Peer::Cidr { prefix, except } => prefixes.extend(except.iter().chain([prefix]).copied()),
                    Peer::Group { except, .. } => prefixes.extend(except.iter().copied()),
                    Peer::Service { .. } => prefixes.extend(self.service_prefixes(peer)),
                    Peer::Endpoints(_) | Peer::Nodes(_) | Peer::Entity(_) | Peer::Name(_) => {}
                }
            }
        }
        prefixes.extend(self.objects.groups.iter().flat_map(|group| &group.prefixes).copied());
        prefixes.sort();
        prefixes.dedup();
        for prefix in prefixes.into_iter().filter(|prefix| prefix.len > 0) {
            let index = self.identities.of_prefix(prefix);
            // An address of the cluster keeps its own identity.
            if !self.addresses.contains_key(&prefix.addr) || host(prefix.addr) != prefix {
                self.changes.push(Change::Address(prefix, Some(self.identities.all[index].slot)));
            }
        }
        for (number, zero) in [(identity::WORLD_IPV4, "0.0.0.0"), (identity::WORLD_IPV6, "::")] {
            let world = self.identities.all.iter().find(|identity| identity.number == number);
            if let (Some(world), Ok(addr)) = (world, zero.parse()) {
                let prefix = Prefix { addr, len: 0 };
                self.changes.push(Change::Address(prefix, Some(world.slot)));
            }
        }
    }

    /// Backends of services without a selector, which only have addresses.
    fn service_prefixes(&self, peer: &Peer) -> Vec<Prefix> {
        let meant =
            |service: &&crate::service::Service| service.selector.is_empty() && is_meant(peer, service);
        let mut prefixes = Vec::new();
        for service in self.objects.services.values().filter(meant) {
            for slice in self
                .objects
                .slices
                .values()
                .filter(|s| s.namespace == service.namespace && s.service == service.name)
            {
                prefixes.extend(slice.endpoints.iter().flat_map(|e| &e.addresses).map(|ip| host(*ip)));
            }
        }
        prefixes
    }

    /// Give each rule its number and each set of peers its own.
    fn rules(&mut self) {
        self.members = vec![Vec::new(); self.identities.all.len()];
        for policy in &self.objects.policies {
            for rule in &policy.rules {
                self.rules.push(RuleName {
                    source: policy.source.clone(),
                    list: rule.list,
                    index: rule.index,
                });
                self.peer_set(&rule.peers, None);
            }
        }
    }

    /// The number of a set of peers; with a named port only those peers that have it under this number.
    fn peer_set(&mut self, peers: &Peers, port: Option<(String, u8, u16)>) -> PeerSetId {
        if *peers == Peers::Anyone && port.is_none() {
            return PeerSetId::ANY;
        }
        let key = (peers.clone(), port);
        if let Some(id) = self.peer_sets.get(&key) {
            return *id;
        }
        let id = PeerSetId(u32::try_from(self.peer_sets.len()).unwrap_or(u32::MAX - 1));
        for index in 0..self.identities.all.len() {
            let has_port = key
                .1
                .as_ref()
                .is_none_or(|port| self.named_ports.get(&index).is_some_and(|ports| ports.contains(port)));
            if has_port && self.is_peer(&key.0, &self.identities.all[index]) {
                self.members[index].push(id);
            }
        }
        self.peer_sets.insert(key, id);
        id
    }

    fn is_peer(&self, peers: &Peers, identity: &Identity) -> bool {
        match peers {
            Peers::Anyone => true,
            Peers::Any(list) => list.iter().any(|peer| self.is_one(peer, identity)),
        }
    }

    fn is_one(&self, peer: &Peer, identity: &Identity) -> bool {
        match peer {
            Peer::Endpoints(selector) => selector.matches(&identity.labels),
            Peer::Cidr { prefix, except } => in_prefix(prefix, except, identity),
            Peer::Group { name, selector, except } => self
                .objects
                .groups
                .iter()
                .filter(|group| group.is_meant(name.as_deref(), selector.as_ref()))
                .flat_map(|group| &group.prefixes)
                .any(|prefix| in_prefix(prefix, except, identity)),
            Peer::Entity(entity) => self.is_entity(*entity, identity),
            Peer::Nodes(selector) => self.is_node(selector, identity),
            Peer::Service { .. } => self.is_service(peer, identity),
            // Names are learned from answers; until one is, nobody has it.
            Peer::Name(_) => false,
        }
    }

    fn is_entity(&self, entity: Entity, identity: &Identity) -> bool {
        let reserved = |name: &str| identity.labels.contains(&Label::reserved(name));
        match entity {
            Entity::All => true,
            Entity::None => false,
            Entity::World => identity.is_world(),
            Entity::WorldIpv4 => reserved("world-ipv4"),
            Entity::WorldIpv6 => reserved("world-ipv6"),
            Entity::Host => reserved("host"),
            Entity::RemoteNode => reserved("remote-node"),
            Entity::KubeApiserver => reserved("kube-apiserver"),
            Entity::Init => reserved("init"),
            Entity::Health => reserved("health"),
            Entity::Unmanaged => reserved("unmanaged"),
            Entity::Ingress => reserved("ingress"),
            Entity::Cluster => {
                let names =
                    ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"];
                names.iter().any(|name| reserved(name))
                    || identity.labels.contains(&Label::k8s(CLUSTER, &self.options.cluster))
            }
        }
    }

    /// Nodes share two identities; a selector that fits one node of a kind fits the kind.
    fn is_node(&self, selector: &crate::labels::Selector, identity: &Identity) -> bool {
        self.objects.nodes.values().any(|node| {
            let own = if node.name == self.options.node { identity::HOST } else { identity::REMOTE_NODE };
            let labels: LabelSet =
                node.labels.iter().map(|(key, value)| Label::new("node", key, value)).collect();
            own == identity.number && selector.matches(&labels)
        })
    }

    /// A service's pods, by its own selector; or its backends' addresses.
    fn is_service(&self, peer: &Peer, identity: &Identity) -> bool {
        self.objects.services.values().filter(|service| is_meant(peer, service)).any(|service| {
            if service.selector.is_empty() {
                let backends = self.service_prefixes(peer);
                return identity.prefix.is_some_and(|prefix| backends.contains(&prefix));
            }
            identity.labels.contains(&Label::k8s(NAMESPACE, &service.namespace))
                && service
                    .selector
                    .iter()
                    .all(|(key, value)| identity.labels.contains(&Label::k8s(key, value)))
        })
    }

    /// Put identities that the same rules select into one class a direction.
    fn classes(&mut self) {
        self.selecting = vec![[Vec::new(), Vec::new()]; self.identities.all.len()];
        let mut classes: HashMap<(Direction, Vec<usize>, Vec<(String, u8, u16)>), ClassId> = HashMap::new();
        let mut records: Vec<[Option<ClassId>; 2]> = Vec::new();
        for index in 0..self.identities.all.len() {
            let is_endpoint = self.identities.all[index].labels.iter().any(|label| label.key == NAMESPACE);
            let mut own = [None, None];
            for direction in [Direction::Ingress, Direction::Egress] {
                let side = usize::from(direction == Direction::Egress);
                let selecting = self.select(index, direction);
                self.selecting[index][side].clone_from(&selecting);
                let always = self.options.enforcement == Enforcement::Always && is_endpoint;
                if self.options.enforcement == Enforcement::Never || (selecting.is_empty() && !always) {
                    continue;
                }
                let ports = self.named_ports.get(&index).cloned().unwrap_or_default();
                let key = (direction, selecting, ports);
                own[side] = Some(match classes.get(&key) {
                    Some(id) => *id,
                    None => {
                        let id = ClassId(u32::try_from(classes.len()).unwrap_or(u32::MAX));
                        let class = self.class(&key.1, direction, &key.2, always);
                        self.changes.push(Change::Class(id, Some(class)));
                        classes.insert(key, id);
                        id
                    }
                });
            }
            records.push(own);
        }
        for (index, [ingress, egress]) in records.into_iter().enumerate() {
            let identity = &self.identities.all[index];
            let mut peer_sets = self.members[index].clone();
            peer_sets.sort_unstable();
            peer_sets.dedup();
            let world = identity.is_world();
            let record = IdentityRecord { number: identity.number, egress, ingress, peer_sets, world };
            self.changes.push(Change::Identity(identity.slot, Some(record)));
        }
    }

    /// The policies that say something about this identity in this direction.
    fn select(&self, index: usize, direction: Direction) -> Vec<usize> {
        let labels = &self.identities.all[index].labels;
        let is_endpoint = labels.iter().any(|label| label.key == NAMESPACE || label.key == "init");
        let speaks = |policy: &Policy| {
            policy.denies_by_default(direction) || policy.rules.iter().any(|rule| rule.direction == direction)
        };
        let selects = |policy: &Policy| match &policy.subject {
            Subject::Endpoints(selector) => is_endpoint && selector.matches(labels),
            // Host policies are not enforced on the live host.
            Subject::Nodes(_) => false,
        };
        let policies = self.objects.policies.iter().enumerate();
        policies.filter(|(_, policy)| speaks(policy) && selects(policy)).map(|(n, _)| n).collect()
    }

    /// The rules of these policies in this direction, each with its number.
    fn rules_of(&self, policies: &[usize], direction: Direction) -> Vec<(RuleId, &'a Rule)> {
        let mut rules = Vec::new();
        let mut number = 0;
        for (index, policy) in self.objects.policies.iter().enumerate() {
            for rule in &policy.rules {
                number += 1;
                if policies.contains(&index) && rule.direction == direction {
                    rules.push((RuleId(number), rule));
                }
            }
        }
        rules
    }
}

fn in_prefix(prefix: &Prefix, except: &[Prefix], identity: &Identity) -> bool {
    if prefix.len == 0 {
        let world = if prefix.addr.is_ipv4() { identity::WORLD_IPV4 } else { identity::WORLD_IPV6 };
        if identity.number == world {
            return true;
        }
    }
    identity.prefix.is_some_and(|own| holds(prefix, &own) && !except.iter().any(|hole| holds(hole, &own)))
}

/// Does a `toServices` peer mean this service?
fn is_meant(peer: &Peer, service: &crate::service::Service) -> bool {
    let Peer::Service { namespace, name, selector } = peer else { return false };
    let labels: LabelSet = service.labels.iter().map(|(key, value)| Label::k8s(key, value)).collect();
    namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace)
        && name.as_ref().is_none_or(|name| *name == service.name)
        && selector.as_ref().is_none_or(|selector| selector.matches(&labels))
        && (name.is_some() || selector.is_some())
}
