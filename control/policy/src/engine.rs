//! Objects in, changes out: the compiled policy of a world that changes, at a cost in proportion to what is touched.
//!
//! Everything that rules and identities have in common is kept once and counted: demands on peers ([`atoms`]), sets of
//! peers ([`sets`]), those who can be told apart ([`slots`]), and the rules that judge them ([`classes`]). A pod that
//! appears joins its slot or makes one; a policy that changes rebuilds the classes that it is part of. What changed since
//! the last telling is compared and told as records.

mod addresses;
mod asking;
mod atoms;
mod classes;
mod hearings;
mod names;
mod numbered;
mod sets;
mod slots;
mod specs;
mod telling;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use sluice_core::tables::record::{Change, Prefix};

use crate::config::{CidrMatches, Enforcement};
use crate::identity::Numbers;
use crate::labels::Filter;
use crate::objects::{Endpoint, Namespace, NodeObject};
use crate::policy::groups::CidrGroup;
use crate::policy::{Direction, Entity, Peer, Peers as RulePeers, Policy, Source, Subject, cluster};
use crate::service::Service;

use atoms::{Atoms, What};
use classes::Class;
use numbered::Numbered;
use sets::{PeerSets, Peers};
use slots::Slots;
use specs::{Rules, Spec, SpecRule};

pub use asking::{Asked, Party, SpecRuleView};
pub use hearings::{Heard, Hearing};
pub use names::PatternSet;
pub use slots::NamedPort;
pub use specs::RuleName;

/// What the engine must know beside objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which Node we are.
    pub node: String,
    pub cluster: String,
    pub enforcement: Enforcement,
    pub audit: bool,
    /// Which labels tell identities apart.
    pub filter: Filter,
    /// Judge nodes by host policies.
    pub host_firewall: bool,
    /// Pods may always be reached from their own node.
    pub allow_localhost: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// ClusterNetworkPolicy objects count.
    pub cluster_network_policy: bool,
    /// Whom CIDRs select by address, beside the world.
    pub cidr_matches: CidrMatches,
    /// Names are learned by the dataplane; it must only be told which identities their addresses get.
    pub names_elsewhere: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster: "default".to_owned(),
            enforcement: Enforcement::Default,
            audit: false,
            filter: Filter::default(),
            host_firewall: true,
            allow_localhost: true,
            ipv4: true,
            ipv6: true,
            cluster_network_policy: true,
            cidr_matches: CidrMatches::default(),
            names_elsewhere: false,
        }
    }
}

/// One object that came, changed or went (`None`, or no specs).
#[derive(Clone, Debug)]
pub enum ObjectChange {
    Namespace(String, Option<Namespace>),
    Node(String, Option<NodeObject>),
    Endpoint((String, String), Option<Endpoint>),
    Policy(Source, Vec<Policy>),
    Group(String, Option<CidrGroup>),
    /// A service, with its backends' addresses.
    Service((String, String), Option<(Service, Vec<IpAddr>)>),
    /// Where the API server is, as far as it is no node.
    ApiServer(Vec<IpAddr>),
    /// The addresses of a name, by all that is known now.
    Name(String, Vec<IpAddr>),
}

#[derive(Clone, Debug)]
pub struct Engine {
    settings: Settings,
    namespaces: BTreeMap<String, Namespace>,
    endpoints: BTreeMap<(String, String), Endpoint>,
    nodes: BTreeMap<String, NodeObject>,
    groups: BTreeMap<String, CidrGroup>,
    services: BTreeMap<(String, String), (Service, Vec<IpAddr>)>,
    api_servers: BTreeSet<IpAddr>,
    /// Names with addresses, and back.
    names: BTreeMap<String, BTreeSet<IpAddr>>,
    names_of: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Patterns, and what they stand for.
    pub(crate) patterns: names::Names,

    atoms: Atoms,
    slots: Slots,
    sets: PeerSets,
    classes: Numbered<Class>,
    hearings: hearings::Hearings,
    class_ids: HashMap<classes::Key, u32>,
    specs: Numbered<Spec>,
    spec_ids: BTreeMap<(Source, usize), u32>,
    /// Specs whose peers depend on services, or on groups by their labels.
    on_services: BTreeSet<u32>,
    on_groups: BTreeSet<u32>,
    /// Specs that refer to groups by name, which may not be there.
    names_groups: BTreeSet<u32>,
    rules: Rules,
    numbers: Numbers,
    addresses: addresses::Addresses,
    touched: Touched,
}

/// What may have to be told.
#[derive(Clone, Debug, Default)]
struct Touched {
    slots: BTreeSet<u32>,
    /// Slots whose rules may be others now.
    subjects: BTreeSet<u32>,
    classes: BTreeSet<u32>,
    addresses: BTreeSet<Prefix>,
    /// Prefixes whose labels may be others now.
    labels: BTreeSet<Prefix>,
    gone: Vec<Change>,
}

impl Engine {
    pub fn new(settings: Settings, numbers: Numbers) -> Self {
        let mut engine = Self {
            settings,
            namespaces: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            services: BTreeMap::new(),
            api_servers: BTreeSet::new(),
            names: BTreeMap::new(),
            names_of: BTreeMap::new(),
            patterns: names::Names::default(),
            atoms: Atoms::default(),
            slots: Slots::new(),
            sets: PeerSets::new(),
            classes: Numbered::starting_at(0),
            hearings: hearings::Hearings::new(),
            class_ids: HashMap::new(),
            specs: Numbered::starting_at(0),
            spec_ids: BTreeMap::new(),
            on_services: BTreeSet::new(),
            on_groups: BTreeSet::new(),
            names_groups: BTreeSet::new(),
            rules: Rules::new(),
            numbers,
            addresses: addresses::Addresses::default(),
            touched: Touched::default(),
        };
        engine.add_reserved();
        // Rules that nobody wrote may speak of our own node.
        let demands = specs::demands(&Peer::Entity(Entity::Host), &engine.settings.cluster);
        for what in demands.iter().flatten() {
            engine.take_atom(what);
        }
        engine
    }

    /// Take in changes; what the dataplane must change for them.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = ObjectChange>) -> Vec<Change> {
        for change in changes {
            self.take(change);
        }
        self.settle()
    }

    fn take(&mut self, change: ObjectChange) {
        match change {
            ObjectChange::Namespace(name, labels) => self.set_namespace(&name, labels),
            ObjectChange::Node(name, node) => self.set_node(&name, node),
            ObjectChange::Endpoint(key, endpoint) => self.set_endpoint(key, endpoint),
            ObjectChange::Policy(source, specs) => self.set_policy(&source, specs),
            ObjectChange::Group(name, group) => self.set_group(name, group),
            ObjectChange::Service(key, service) => {
                match service {
                    Some(service) => drop(self.services.insert(key, service)),
                    None => drop(self.services.remove(&key)),
                }
                self.again(&self.on_services.clone());
            }
            ObjectChange::ApiServer(addresses) => self.set_api_servers(addresses),
            ObjectChange::Name(name, addresses) => self.set_name(name, addresses),
        }
    }

    fn set_policy(&mut self, source: &Source, mut policies: Vec<Policy>) {
        if !self.settings.cluster_network_policy && source.kind == cluster::KIND {
            policies.clear();
        }
        let had: Vec<usize> = self
            .spec_ids
            .range((source.clone(), 0)..=(source.clone(), usize::MAX))
            .map(|((_, index), _)| *index)
            .collect();
        for index in had.into_iter().filter(|index| *index >= policies.len()) {
            if let Some(id) = self.spec_ids.remove(&(source.clone(), index)) {
                self.remove_spec(id, index);
            }
        }
        for (index, policy) in policies.into_iter().enumerate() {
            match self.spec_ids.get(&(source.clone(), index)) {
                Some(id) => self.replace_spec(*id, index, policy),
                None => self.add_spec(source, index, policy),
            }
        }
    }

    fn add_spec(&mut self, source: &Source, index: usize, policy: Policy) {
        let what = subject(&policy.subject);
        let (subject, _) = self.take_atom(&what);
        let spec = Spec { policy, subject, rules: Vec::new(), classes: BTreeSet::new(), held: vec![subject] };
        let id = self.specs.add(spec);
        self.spec_ids.insert((source.clone(), index), id);
        self.resolve(id, index);
        self.select(id, true);
    }

    fn remove_spec(&mut self, id: u32, index: usize) {
        self.select(id, false);
        let Some(spec) = self.specs.remove(id) else { return };
        for rule in &spec.policy.rules {
            self.rules.give_back(&rule_name(&spec.policy, index, rule));
        }
        self.on_services.remove(&id);
        self.on_groups.remove(&id);
        self.names_groups.remove(&id);
        self.touched.classes.extend(&spec.classes);
        spec.held.into_iter().for_each(|atom| self.give_atom(atom));
    }

    fn replace_spec(&mut self, id: u32, index: usize, policy: Policy) {
        let Some(spec) = self.specs.get_mut(id) else { return };
        if spec.policy == policy {
            return;
        }
        let alike = Spec::selects_alike(&spec.policy, &policy);
        let old = std::mem::replace(&mut spec.policy, policy);
        let new = &spec.policy.rules;
        let kept =
            |rule: &crate::policy::Rule| new.iter().any(|n| n.list == rule.list && n.index == rule.index);
        let gone: Vec<RuleName> =
            old.rules.iter().filter(|rule| !kept(rule)).map(|rule| rule_name(&old, index, rule)).collect();
        gone.iter().for_each(|name| self.rules.give_back(name));
        if alike {
            return self.resolve(id, index);
        }
        // The old subjects are to be looked at again, and the new ones.
        self.select(id, false);
        let Some(spec) = self.specs.get(id) else { return };
        let what = subject(&spec.policy.subject);
        let (atom, _) = self.take_atom(&what);
        let Some(spec) = self.specs.get_mut(id) else { return };
        let before = std::mem::replace(&mut spec.subject, atom);
        if let Some(held) = spec.held.first_mut() {
            *held = atom;
        }
        self.give_atom(before);
        self.resolve(id, index);
        self.select(id, true);
    }

    /// Enter or leave the subjects of a spec.
    fn select(&mut self, id: u32, enter: bool) {
        let Some(subject) = self.specs.get(id).map(|spec| spec.subject) else { return };
        let Some(atom) = self.atoms.all.get_mut(subject) else { return };
        if enter {
            atom.subjects.insert(id)
        } else {
            atom.subjects.remove(&id)
        };
        self.touched.subjects.extend(&atom.slots);
    }

    /// Resolve these specs again, because what they refer to has changed.
    fn again(&mut self, ids: &BTreeSet<u32>) {
        let places: Vec<(u32, usize)> = self
            .spec_ids
            .iter()
            .filter(|(_, id)| ids.contains(id))
            .map(|((_, index), id)| (*id, *index))
            .collect();
        places.into_iter().for_each(|(id, index)| self.resolve(id, index));
    }

    /// Find the atoms of a spec's peers; its classes are to be made again.
    fn resolve(&mut self, id: u32, index: usize) {
        let Some(spec) = self.specs.get(id) else { return };
        let policy = spec.policy.clone();
        let mut held = vec![spec.subject];
        let mut rules = Vec::with_capacity(policy.rules.len());
        let (mut on_services, mut on_groups, mut names_groups) = (false, false, false);
        for rule in &policy.rules {
            let peers = match &rule.peers {
                RulePeers::Anyone => Some(Peers::everybody()),
                RulePeers::Any(list) => {
                    on_services |= list.iter().any(|peer| matches!(peer, Peer::Service { .. }));
                    let by = |label: bool| {
                        let is = |peer: &Peer| matches!(peer, Peer::Group { selector, .. } if selector.is_some() == label);
                        list.iter().any(is)
                    };
                    on_groups |= by(true);
                    names_groups |= by(false);
                    self.peers(list, &mut held)
                }
            };
            let name = rule_name(&policy, index, rule);
            rules.push(SpecRule {
                id: self.rules.take(name),
                direction: rule.direction,
                rank: specs::rank(rule),
                peers,
                ports: rule.ports.clone(),
                // Who does not deny by default does not keep out by what is said, either.
                above: rule.above.clone().filter(|_| is_heard(&policy, rule)),
            });
        }
        file(&mut self.on_services, id, on_services);
        file(&mut self.on_groups, id, on_groups);
        file(&mut self.names_groups, id, names_groups);
        let Some(spec) = self.specs.get_mut(id) else { return };
        spec.rules = rules;
        let before = std::mem::replace(&mut spec.held, held);
        self.touched.classes.extend(&spec.classes);
        // The subject is the first of both and stays held once.
        before.into_iter().skip(1).for_each(|atom| self.give_atom(atom));
    }

    /// `None`: nobody.
    fn peers(&mut self, list: &[Peer], held: &mut Vec<u32>) -> Option<Peers> {
        let mut wanted = BTreeSet::new();
        for peer in list {
            match peer {
                Peer::Group { name, selector, except } => {
                    let groups = self.groups.values();
                    let by_name = name.iter().cloned();
                    let meant =
                        |group: &&CidrGroup| selector.is_some() && group.is_meant(None, selector.as_ref());
                    let names = by_name.chain(groups.filter(meant).map(|group| group.name.clone()));
                    wanted.extend(names.map(|name| What::Group { name, except: specs::sorted(except) }));
                }
                Peer::Service { .. } => wanted.extend(self.service_demands(peer)),
                Peer::Endpoints(_) | Peer::Nodes(_) | Peer::Cidr { .. } | Peer::Entity(_) | Peer::Name(_) => {
                    match specs::demands(peer, &self.settings.cluster) {
                        Some(demands) => wanted.extend(demands),
                        None => return Some(Peers::everybody()),
                    }
                }
            }
        }
        let mut atoms: Vec<u32> = wanted.iter().map(|what| self.take_atom(what).0).collect();
        held.extend(&atoms);
        atoms.sort_unstable();
        (!atoms.is_empty()).then_some(Peers { atoms: Some(atoms), port: None })
    }

    fn service_demands(&self, peer: &Peer) -> Vec<What> {
        let mut demands = Vec::new();
        for (service, backends) in
            self.services.values().filter(|(service, _)| crate::policy::is_meant(peer, service))
        {
            if service.selector.is_empty() {
                let cidr = |ip: &IpAddr| What::Cidr { prefix: crate::decode::host(*ip), except: Vec::new() };
                demands.extend(backends.iter().map(cidr));
            } else {
                demands.push(specs::service_demand(service));
            }
        }
        demands
    }

    fn take_atom(&mut self, what: &What) -> (u32, bool) {
        let (atom, is_new) = self.atoms.take(what, &mut self.slots);
        if is_new {
            for prefix in what.prefixes() {
                self.use_prefix(prefix);
            }
            if let What::Name(pattern) = what {
                self.pattern_came(pattern);
            }
        }
        (atom, is_new)
    }

    fn give_atom(&mut self, atom: u32) {
        let Some(what) = self.atoms.all.get(atom).map(|atom| atom.what.clone()) else { return };
        if self.atoms.give_back(atom, &mut self.slots) {
            for prefix in what.prefixes() {
                self.release_prefix(prefix);
            }
            if let What::Name(pattern) = &what {
                self.pattern_went(pattern);
            }
        }
    }
}

fn file(list: &mut BTreeSet<u32>, id: u32, put: bool) {
    if put {
        list.insert(id)
    } else {
        list.remove(&id)
    };
}

fn subject(subject: &Subject) -> What {
    match subject {
        Subject::Endpoints(selector) => What::Labels(selector.clone()),
        Subject::Nodes(selector) => What::Nodes(selector.clone()),
    }
}

fn rule_name(policy: &Policy, spec: usize, rule: &crate::policy::Rule) -> RuleName {
    RuleName { source: policy.source.clone(), spec, list: rule.list, index: rule.index }
}

/// May what a rule asks above ports keep anything out?
fn is_heard(policy: &Policy, rule: &crate::policy::Rule) -> bool {
    policy.denies_by_default(rule.direction) || rule.tier != crate::policy::Tier::Normal
}

/// Both directions, in the order of a slot's classes.
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
