//! Specs: policies with their demands resolved to atoms and their entries numbered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_core::tables::record::{PortRange, RuleId};

use super::atoms::What;
use super::classes::{Effect, Item, Rank};
use super::numbered::Numbered;
use super::sets::Peers;
use super::slots::NamedPort;
use crate::labels::{CLUSTER, NAMESPACE, Operator, Selector};
use crate::policy::above::Above;
use crate::policy::{self, Direction, Entity, Peer, Policy, PortName, Ports, Rule, Source};

/// What a rule number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    pub source: Source,
    /// Which of the object's specs.
    pub spec: usize,
    /// Its list (`ingress`, `egressDeny`, …) and its place there.
    pub list: &'static str,
    pub index: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub policy: Policy,
    pub subject: u32,
    pub rules: Vec<SpecRule>,
    pub classes: BTreeSet<u32>,
    /// Atoms that it holds, each once for every time that it names it.
    pub held: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct SpecRule {
    pub id: RuleId,
    pub direction: Direction,
    pub rank: Rank,
    /// `None`: nobody.
    pub peers: Option<Peers>,
    pub ports: Ports,
    /// What it asks above ports, if it is to be heard there.
    pub above: Option<Arc<Above>>,
}

impl SpecRule {
    pub(crate) fn allows(&self) -> bool {
        !matches!(self.rank.effect, Effect::Deny | Effect::Pass)
    }
}

impl Spec {
    /// Does it have anything to say about this direction?
    pub(crate) fn speaks(policy: &Policy, direction: Direction) -> bool {
        policy.denies_by_default(direction) || policy.rules.iter().any(|rule| rule.direction == direction)
    }

    /// The port names that its rules of one direction use.
    pub(crate) fn port_names(policy: &Policy, direction: Direction) -> BTreeSet<(&str, u8)> {
        let mut names = BTreeSet::new();
        for rule in policy.rules.iter().filter(|rule| rule.direction == direction) {
            let Ports::Some(specs) = &rule.ports else { continue };
            for spec in specs {
                if let PortName::Named(name) = &spec.port {
                    names.insert((name.as_str(), spec.proto));
                }
            }
        }
        names
    }

    /// May classes keep their keys when this policy takes the place of that one?
    pub(crate) fn selects_alike(old: &Policy, new: &Policy) -> bool {
        old.subject == new.subject
            && old.default_deny == new.default_deny
            && [Direction::Ingress, Direction::Egress].into_iter().all(|direction| {
                Self::speaks(old, direction) == Self::speaks(new, direction)
                    && Self::port_names(old, direction) == Self::port_names(new, direction)
            })
    }
}

/// Numbers of rule entries, the same for as long as the entry is there.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    names: Numbered<RuleName>,
    known: HashMap<RuleName, u32>,
}

impl Rules {
    pub(crate) fn new() -> Self {
        Self { names: Numbered::starting_at(1), known: HashMap::new() }
    }

    pub(crate) fn take(&mut self, name: RuleName) -> RuleId {
        if let Some(id) = self.known.get(&name) {
            return RuleId(*id);
        }
        let id = self.names.add(name.clone());
        self.known.insert(name, id);
        RuleId(id)
    }

    pub(crate) fn give_back(&mut self, name: &RuleName) {
        if let Some(id) = self.known.remove(name) {
            self.names.remove(id);
        }
    }

    pub(crate) fn get(&self, id: RuleId) -> Option<&RuleName> {
        self.names.get(id.0)
    }
}

pub(crate) fn rank(rule: &Rule) -> Rank {
    let effect = match (rule.effect, rule.authenticate, &rule.above) {
        (policy::Effect::Deny, _, _) => Effect::Deny,
        (policy::Effect::Pass, _, _) => Effect::Pass,
        (policy::Effect::Allow, true, _) => Effect::Authenticate,
        (policy::Effect::Allow, false, None) => Effect::Allow,
        (policy::Effect::Allow, false, Some(above)) if above.is_dns() => Effect::Dns,
        (policy::Effect::Allow, false, Some(_)) => Effect::Inspect,
    };
    Rank { tier: rule.tier, priority: rule.priority, effect }
}

/// What a peer asks for, as far as it does not depend on other objects. `None`: everybody.
pub(crate) fn demands(peer: &Peer, cluster: &str) -> Option<Vec<What>> {
    Some(match peer {
        Peer::Endpoints(selector) => vec![What::Labels(selector.clone())],
        Peer::Nodes(selector) => {
            let mut selector = selector.clone();
            selector.and("reserved", "remote-node", Operator::Exists);
            vec![What::Nodes(selector)]
        }
        Peer::Cidr { prefix, except } => vec![What::Cidr { prefix: *prefix, except: sorted(except) }],
        Peer::Name(pattern) => vec![What::Name(pattern.clone())],
        Peer::Entity(Entity::All) => return None,
        Peer::Entity(entity) => entity_demands(*entity, cluster),
        Peer::Group { .. } | Peer::Service { .. } => Vec::new(),
    })
}

pub(crate) fn sorted<T: Ord + Clone>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort();
    items.dedup();
    items
}

fn entity_demands(entity: Entity, cluster: &str) -> Vec<What> {
    let reserved = |name: &str| {
        let mut selector = Selector::default();
        selector.and("reserved", name, Operator::Exists);
        What::Labels(selector)
    };
    let all = |names: &[&str]| names.iter().map(|name| reserved(name)).collect();
    match entity {
        Entity::All | Entity::None => Vec::new(),
        Entity::World => all(&["world", "world-ipv4", "world-ipv6"]),
        Entity::WorldIpv4 => all(&["world-ipv4"]),
        Entity::WorldIpv6 => all(&["world-ipv6"]),
        Entity::Host => all(&["host"]),
        Entity::RemoteNode => all(&["remote-node"]),
        Entity::KubeApiserver => all(&["kube-apiserver"]),
        Entity::Init => all(&["init"]),
        Entity::Health => all(&["health"]),
        Entity::Unmanaged => all(&["unmanaged"]),
        Entity::Ingress => all(&["ingress"]),
        Entity::Cluster => {
            let names = ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"];
            let mut demands: Vec<What> = all(&names);
            let mut own = Selector::default();
            own.and("k8s", CLUSTER, Operator::In(vec![cluster.to_owned()]));
            demands.push(What::Labels(own));
            demands
        }
    }
}

/// The pods of a service with a selector.
pub(crate) fn service_demand(service: &crate::service::Service) -> What {
    let mut selector = Selector::default();
    for (key, value) in &service.selector {
        selector.and("k8s", key, Operator::In(vec![value.clone()]));
    }
    selector.and("k8s", NAMESPACE, Operator::In(vec![service.namespace.clone()]));
    What::Labels(selector)
}

/// A rule as items: one for every range of ports that it names, with names resolved.
pub(crate) fn items(
    rule: &SpecRule,
    own_ports: &[NamedPort],
    named: &HashMap<(String, u8), BTreeMap<u16, u32>>,
    asked: &mut BTreeSet<(String, u8)>,
    out: &mut Vec<Item>,
) {
    let Some(peers) = &rule.peers else { return };
    let mut add = |proto: u16, first: u16, last: u16, peers: Peers| {
        out.push(Item {
            proto,
            first,
            last,
            rank: rule.rank,
            peers,
            rule: rule.id,
            above: rule.above.clone(),
        });
    };
    let Ports::Some(specs) = &rule.ports else {
        return add(PortRange::ANY_PROTO, 0, u16::MAX, peers.clone());
    };
    for spec in specs {
        let proto = u16::from(spec.proto);
        match &spec.port {
            PortName::Range(first, last) => add(proto, *first, *last, peers.clone()),
            PortName::Named(name) if rule.direction == Direction::Ingress => {
                for (_, _, port) in own_ports.iter().filter(|(n, p, _)| n == name && *p == spec.proto) {
                    add(proto, *port, *port, peers.clone());
                }
            }
            // Each number of the name is for those peers alone that call it so.
            PortName::Named(name) => {
                let key = (name.clone(), spec.proto);
                for port in named.get(&key).into_iter().flat_map(BTreeMap::keys) {
                    let port_of = Some((name.clone(), spec.proto, *port));
                    add(proto, *port, *port, Peers { atoms: peers.atoms.clone(), port: port_of });
                }
                asked.insert(key);
            }
        }
    }
}
