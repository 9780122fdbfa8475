//! Who has which address: nodes, endpoints, and every prefix that somebody speaks of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_core::tables::record::{Change, IdentitySlot, Prefix};

use super::Engine;
use super::atoms::prefix_labels;
use super::slots::{Key, Role};
use crate::decode::{host, masked};
use crate::fqdn;
use crate::identity::{HOST, KUBE_APISERVER, REMOTE_NODE, RESERVED, Scope, WORLD, WORLD_IPV4, WORLD_IPV6};
use crate::labels::{self, CLUSTER, Label, LabelSet, NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT};
use crate::objects::{Endpoint, Namespace, NodeObject};
use crate::policy::groups::CidrGroup;

/// Who lays claim to an address. The first in this order has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Node(String),
    Endpoint(String, String),
    Prefix,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub claims: BTreeMap<Prefix, BTreeMap<Owner, u32>>,
    pub told: BTreeMap<Prefix, u32>,
    /// Prefixes that rules and groups name, and how often.
    used: BTreeMap<Prefix, u32>,
    /// Which groups have this prefix.
    groups: BTreeMap<Prefix, BTreeSet<String>>,
    /// Name patterns that rules ask for.
    patterns: BTreeSet<String>,
}

impl Addresses {
    /// Who is told to have this very prefix.
    pub(crate) fn owner(&self, prefix: Prefix) -> Option<(&Owner, u32)> {
        let (owner, slot) = self.claims.get(&prefix)?.first_key_value()?;
        Some((owner, *slot))
    }

    /// The slot of an address, by the longest prefix.
    pub(crate) fn lookup(&self, ip: IpAddr) -> Option<u32> {
        let most = host(ip).len;
        (0..=most).rev().find_map(|len| Some(self.owner(Prefix { addr: masked(ip, len), len })?.1))
    }
}

impl Engine {
    pub(super) fn add_reserved(&mut self) {
        for (number, name) in RESERVED {
            let mut labels: LabelSet = [Label::reserved(name)].into();
            if number == KUBE_APISERVER {
                labels.insert(Label::reserved("remote-node"));
            }
            let prefixes = match number {
                WORLD if self.settings.ipv4 != self.settings.ipv6 => vec![everything(self.settings.ipv4)],
                WORLD_IPV4 if self.settings.ipv4 && self.settings.ipv6 => vec![everything(true)],
                WORLD_IPV6 if self.settings.ipv4 && self.settings.ipv6 => vec![everything(false)],
                _ => Vec::new(),
            };
            let endpoint = matches!(name, "init" | "health" | "ingress");
            let role = Role::Reserved { endpoint };
            let key = Key {
                labels,
                node_labels: None,
                prefixes: prefixes.clone(),
                ports: Vec::new(),
                role,
                audit: false,
            };
            let slot = self.add_slot(key, number);
            for prefix in prefixes {
                self.claim(prefix, Owner::Prefix, slot);
            }
        }
    }

    /// Reserved slots have their own numbers.
    fn slot_from_the_start(number: u32) -> Option<u32> {
        let place = RESERVED.iter().position(|(own, _)| *own == number)?;
        u32::try_from(place + 1).ok()
    }

    /// The slot of a reserved identity; of the world, that of the addresses that nobody speaks of.
    pub fn reserved_slot(&self, number: u32) -> Option<IdentitySlot> {
        let families = [true, false].into_iter().filter(|v4| self.world_number(*v4) == number);
        let mut worlds = families.filter_map(|v4| self.addresses.owner(everything(v4)));
        worlds.next().map(|(_, slot)| slot).or_else(|| Self::slot_from_the_start(number)).map(IdentitySlot)
    }

    fn world_number(&self, v4: bool) -> u32 {
        match (self.settings.ipv4 && self.settings.ipv6, v4) {
            (false, _) => WORLD,
            (true, true) => WORLD_IPV4,
            (true, false) => WORLD_IPV6,
        }
    }

    fn world(&self, v4: bool) -> &'static str {
        match (self.settings.ipv4 && self.settings.ipv6, v4) {
            (false, _) => "world",
            (true, true) => "world-ipv4",
            (true, false) => "world-ipv6",
        }
    }

    pub(super) fn add_slot(&mut self, key: Key, number: u32) -> u32 {
        let slot = self.slots.add(key, number);
        self.atoms.meet(slot, &mut self.slots);
        if let Some(slot) = self.slots.all.get_mut(slot) {
            self.sets.meet(slot, &self.atoms);
        }
        self.touched.slots.insert(slot);
        self.touched.subjects.insert(slot);
        slot
    }

    pub(super) fn slot(&mut self, key: Key) -> u32 {
        if let Some(slot) = self.slots.find(&key) {
            return slot;
        }
        let number = match key.role {
            Role::Endpoint { .. } => self.numbers.take(&key.labels, Scope::Cluster),
            Role::Prefix => self.numbers.take(&key.labels, Scope::Local),
            Role::Node | Role::Reserved { .. } => {
                let has = |name: &str| key.labels.contains(&Label::reserved(name));
                match (has("host"), has("kube-apiserver")) {
                    (true, _) => HOST,
                    (false, true) => KUBE_APISERVER,
                    (false, false) => REMOTE_NODE,
                }
            }
        };
        self.add_slot(key, number)
    }

    fn claim(&mut self, prefix: Prefix, owner: Owner, slot: u32) {
        let before = self.addresses.claims.entry(prefix).or_default().insert(owner, slot);
        self.touched.addresses.insert(prefix);
        if let Some(slot) = self.slots.all.get_mut(slot) {
            slot.users += 1;
        }
        before.into_iter().for_each(|slot| self.release(slot));
    }

    fn unclaim(&mut self, prefix: Prefix, owner: &Owner) {
        let Some(claims) = self.addresses.claims.get_mut(&prefix) else { return };
        let slot = claims.remove(owner);
        if claims.is_empty() {
            self.addresses.claims.remove(&prefix);
        }
        self.touched.addresses.insert(prefix);
        slot.into_iter().for_each(|slot| self.release(slot));
    }

    pub(super) fn release(&mut self, id: u32) {
        let Some(slot) = self.slots.all.get_mut(id) else { return };
        slot.users -= 1;
        if slot.users > 0 || matches!(slot.key.role, Role::Reserved { .. }) {
            return;
        }
        let Some(slot) = self.slots.remove(id) else { return };
        if matches!(slot.key.role, Role::Endpoint { .. } | Role::Prefix) {
            self.numbers.give_back(&slot.key.labels);
        }
        self.atoms.part(id, &slot.atoms);
        slot.classes.into_iter().flatten().for_each(|class| self.leave_class(class));
        if slot.told.is_some() {
            self.touched.gone.push(Change::Identity(IdentitySlot(id), None));
        }
    }

    /// What the claims say now, where it is not what was told.
    pub(super) fn tell_addresses(&mut self, changes: &mut Vec<Change>) {
        for prefix in std::mem::take(&mut self.touched.addresses) {
            let now = self.addresses.owner(prefix).map(|(_, slot)| slot);
            let before = match now {
                Some(slot) => self.addresses.told.insert(prefix, slot),
                None => self.addresses.told.remove(&prefix),
            };
            if before != now {
                changes.push(Change::Address(prefix, now.map(IdentitySlot)));
            }
        }
    }

    pub(super) fn all_addresses(&self) -> impl Iterator<Item = Change> {
        self.addresses.told.iter().map(|(prefix, slot)| Change::Address(*prefix, Some(IdentitySlot(*slot))))
    }

    pub(super) fn set_namespace(&mut self, name: &str, namespace: Option<Namespace>) {
        if self.namespaces.get(name) == namespace.as_ref() {
            return;
        }
        match namespace {
            Some(namespace) => drop(self.namespaces.insert(name.to_owned(), namespace)),
            None => drop(self.namespaces.remove(name)),
        }
        let first = (name.to_owned(), String::new());
        let own: Vec<Endpoint> = self
            .endpoints
            .range(first..)
            .take_while(|((namespace, _), _)| namespace == name)
            .map(|(_, endpoint)| endpoint.clone())
            .collect();
        own.iter().for_each(|endpoint| self.place(endpoint));
    }

    pub(super) fn set_endpoint(&mut self, key: (String, String), endpoint: Option<Endpoint>) {
        let before = match &endpoint {
            Some(endpoint) => self.endpoints.insert(key.clone(), endpoint.clone()),
            None => self.endpoints.remove(&key),
        };
        let counted = |endpoint: &Option<Endpoint>| -> BTreeSet<IpAddr> {
            let kept = endpoint.iter().filter(|endpoint| !endpoint.host_network);
            kept.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
        };
        let now = counted(&endpoint);
        if let Some(endpoint) = &endpoint {
            self.place(endpoint);
        }
        for ip in counted(&before).difference(&now) {
            self.unclaim(host(*ip), &Owner::Endpoint(key.0.clone(), key.1.clone()));
        }
    }

    /// Give an endpoint's addresses to its slot. A pod on its node's network is its node.
    fn place(&mut self, endpoint: &Endpoint) {
        if endpoint.host_network || endpoint.addresses.is_empty() {
            return;
        }
        let mut ports = endpoint.ports.clone();
        ports.sort();
        ports.dedup();
        // Where CIDRs select pods, pods with the same labels are no longer the same.
        let by_address =
            self.settings.cidr_matches.pods.then(|| endpoint.addresses.iter().map(|ip| host(*ip)).collect());
        let key = Key {
            labels: self.endpoint_labels(endpoint),
            node_labels: None,
            prefixes: by_address.unwrap_or_default(),
            ports,
            role: Role::Endpoint { local: !endpoint.node.is_empty() && endpoint.node == self.settings.node },
            audit: endpoint.audit || self.namespaces.get(&endpoint.namespace).is_some_and(|own| own.audit),
        };
        let slot = self.slot(key);
        for ip in &endpoint.addresses {
            self.claim(host(*ip), Owner::Endpoint(endpoint.namespace.clone(), endpoint.name.clone()), slot);
        }
    }

    /// The identity labels of an endpoint: its own as far as they tell identities apart, its namespace's, and where it
    /// is.
    pub fn endpoint_labels(&self, endpoint: &Endpoint) -> LabelSet {
        // Who writes a pod's labels decides neither where it is nor as whom it runs.
        let own = endpoint
            .labels
            .iter()
            .filter(|(key, _)| !labels::is_given(key) && self.settings.filter.is_relevant(key));
        let mut labels: LabelSet = own.map(|(key, value)| Label::k8s(key, value)).collect();
        labels.insert(Label::k8s(NAMESPACE, &endpoint.namespace));
        labels.insert(Label::k8s(CLUSTER, &self.settings.cluster));
        if !endpoint.service_account.is_empty() {
            labels.insert(Label::k8s(SERVICE_ACCOUNT, &endpoint.service_account));
        }
        for (key, value) in
            self.namespaces.get(&endpoint.namespace).into_iter().flat_map(|namespace| &namespace.labels)
        {
            labels.insert(Label::k8s(&format!("{NAMESPACE_LABELS}{key}"), value));
        }
        // Kubernetes gives every namespace its name as a label; one that only occurs elsewhere has it, too.
        let own_name = format!("{NAMESPACE_LABELS}kubernetes.io/metadata.name");
        labels.insert(Label::k8s(&own_name, &endpoint.namespace));
        labels
    }

    pub(super) fn set_node(&mut self, name: &str, node: Option<NodeObject>) {
        let before = match &node {
            Some(node) => self.nodes.insert(name.to_owned(), node.clone()),
            None => self.nodes.remove(name),
        };
        let addresses = |node: &Option<NodeObject>| -> BTreeSet<IpAddr> {
            node.iter().flat_map(|node| node.addresses.iter().copied()).collect()
        };
        let now = addresses(&node);
        if let Some(node) = &node {
            self.place_node(node);
        }
        for ip in addresses(&before).difference(&now) {
            self.unclaim(host(*ip), &Owner::Node(name.to_owned()));
        }
    }

    fn place_node(&mut self, node: &NodeObject) {
        let own = node.name == self.settings.node;
        let mut labels: LabelSet = [Label::reserved(if own { "host" } else { "remote-node" })].into();
        if node.addresses.iter().any(|ip| self.api_servers.contains(ip)) {
            labels.insert(Label::reserved("kube-apiserver"));
        }
        let mut node_labels = labels.clone();
        for (key, value) in &node.labels {
            node_labels.insert(Label::new("node", key, value));
            node_labels.insert(Label::k8s(key, value));
        }
        let by_address =
            self.settings.cidr_matches.nodes.then(|| node.addresses.iter().map(|ip| host(*ip)).collect());
        let key = Key {
            labels,
            node_labels: Some(node_labels),
            prefixes: by_address.unwrap_or_default(),
            ports: Vec::new(),
            role: Role::Node,
            audit: false,
        };
        let slot = self.slot(key);
        for ip in &node.addresses {
            self.claim(host(*ip), Owner::Node(node.name.clone()), slot);
        }
    }

    pub(super) fn set_api_servers(&mut self, addresses: Vec<IpAddr>) {
        let now: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let before = std::mem::replace(&mut self.api_servers, now);
        let changed: Vec<IpAddr> = before.symmetric_difference(&self.api_servers).copied().collect();
        self.touched.labels.extend(changed.iter().map(|ip| host(*ip)));
        let nodes: Vec<NodeObject> = self
            .nodes
            .values()
            .filter(|node| node.addresses.iter().any(|ip| changed.contains(ip)))
            .cloned()
            .collect();
        nodes.iter().for_each(|node| self.place_node(node));
    }

    pub(super) fn set_group(&mut self, name: String, group: Option<CidrGroup>) {
        let prefixes = |group: Option<&CidrGroup>| -> BTreeSet<Prefix> {
            group.into_iter().flat_map(|group| group.prefixes.iter().copied()).collect()
        };
        let (now, before) = (prefixes(group.as_ref()), prefixes(self.groups.get(&name)));
        match group {
            Some(group) => drop(self.groups.insert(name.clone(), group)),
            None => drop(self.groups.remove(&name)),
        }
        for prefix in now.difference(&before) {
            self.addresses.groups.entry(*prefix).or_default().insert(name.clone());
            self.use_prefix(*prefix);
            self.relabel_inside(*prefix);
        }
        for prefix in before.difference(&now) {
            if let Some(names) = self.addresses.groups.get_mut(prefix) {
                names.remove(&name);
            }
            self.release_prefix(*prefix);
            self.relabel_inside(*prefix);
        }
        self.again(&self.on_groups.clone());
    }

    fn relabel_inside(&mut self, prefix: Prefix) {
        let start = Prefix { addr: prefix.addr, len: 0 };
        let inside = |own: &Prefix| {
            own.addr.is_ipv4() == prefix.addr.is_ipv4() && masked(own.addr, prefix.len) == prefix.addr
        };
        self.names_inside(prefix);
        let claims = self.addresses.claims.range(start..).map(|(own, _)| *own).take_while(inside);
        self.touched.labels.extend(claims.filter(|own| own.len >= prefix.len));
    }

    pub(super) fn use_prefix(&mut self, prefix: Prefix) {
        *self.addresses.used.entry(prefix).or_default() += 1;
        self.touched.labels.insert(prefix);
        self.names_inside(prefix);
    }

    /// Addresses of names in this prefix may lie in the place of another now.
    fn names_inside(&mut self, prefix: Prefix) {
        let own = self.names_of.range(prefix.addr..).map(|(ip, _)| *ip);
        let inside = own
            .take_while(|ip| ip.is_ipv4() == prefix.addr.is_ipv4() && masked(*ip, prefix.len) == prefix.addr);
        self.touched.labels.extend(inside.map(host));
    }

    pub(super) fn release_prefix(&mut self, prefix: Prefix) {
        if let Some(users) = self.addresses.used.get_mut(&prefix) {
            *users -= 1;
            if *users == 0 {
                self.addresses.used.remove(&prefix);
            }
        }
        self.touched.labels.insert(prefix);
        self.names_inside(prefix);
    }

    pub(super) fn set_name(&mut self, name: String, addresses: Vec<IpAddr>) {
        let now: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let before = self.names.get(&name).cloned().unwrap_or_default();
        for ip in now.difference(&before) {
            self.names_of.entry(*ip).or_default().insert(name.clone());
        }
        for ip in before.difference(&now) {
            if let Some(names) = self.names_of.get_mut(ip) {
                names.remove(&name);
                if names.is_empty() {
                    self.names_of.remove(ip);
                }
            }
        }
        self.touched.labels.extend(before.symmetric_difference(&now).map(|ip| host(*ip)));
        if now.is_empty() {
            self.names.remove(&name);
        } else {
            self.names.insert(name, now);
        }
    }

    pub(super) fn pattern_came(&mut self, pattern: &str) {
        self.addresses.patterns.insert(pattern.to_owned());
        self.patterns.select(pattern, true);
        self.pattern_touched(pattern);
    }

    pub(super) fn pattern_went(&mut self, pattern: &str) {
        self.addresses.patterns.remove(pattern);
        self.patterns.select(pattern, false);
        self.pattern_touched(pattern);
    }

    fn pattern_touched(&mut self, pattern: &str) {
        let meant = self.names.iter().filter(|(name, _)| fqdn::fits(pattern, name));
        self.touched.labels.extend(meant.flat_map(|(_, addresses)| addresses.iter().map(|ip| host(*ip))));
    }

    /// Name patterns that rules ask for.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.addresses.patterns.iter().map(String::as_str)
    }

    /// Give prefixes their labels anew.
    pub(super) fn relabel(&mut self) {
        while let Some(prefix) = self.touched.labels.pop_first() {
            self.patterns.stale = true;
            if prefix.len == 0 {
                self.relabel_world(prefix);
                continue;
            }
            match self.prefix_key(prefix) {
                Some(key) => {
                    let slot = self.slot(key);
                    self.claim(prefix, Owner::Prefix, slot);
                }
                None => self.unclaim(prefix, &Owner::Prefix),
            }
        }
    }

    /// The world of a family has a number of its own, but where groups have all of it, too: then it is a prefix like others.
    fn relabel_world(&mut self, prefix: Prefix) {
        let v4 = prefix.addr.is_ipv4();
        if !(if v4 { self.settings.ipv4 } else { self.settings.ipv6 }) {
            return;
        }
        let plain = self.addresses.groups.get(&prefix).is_none_or(BTreeSet::is_empty);
        let reserved = Self::slot_from_the_start(self.world_number(v4)).filter(|_| plain);
        let slot = match (reserved, self.prefix_key(prefix)) {
            (Some(slot), _) => slot,
            (None, Some(key)) => self.slot(key),
            (None, None) => return,
        };
        self.claim(prefix, Owner::Prefix, slot);
    }

    /// What a prefix is told apart by. An address of names is what its names' patterns say, in the place of the prefix that
    /// it lies in; so all addresses of the same patterns there are one. `None`: nobody speaks of it.
    fn prefix_key(&self, prefix: Prefix) -> Option<Key> {
        let own = self.base_labels(prefix);
        let fitting = self.fitting_patterns(prefix);
        let (place, mut labels) = match own {
            Some(labels) => (prefix, labels),
            None if fitting.is_empty() => return None,
            None => (0..prefix.len).rev().find_map(|len| {
                let outer = Prefix { addr: masked(prefix.addr, len), len };
                Some((outer, self.base_labels(outer)?))
            })?,
        };
        labels.extend(fitting.into_iter().map(|pattern| Label::new("fqdn", pattern, "")));
        Some(Key {
            labels,
            node_labels: None,
            prefixes: vec![place],
            ports: Vec::new(),
            role: Role::Prefix,
            audit: false,
        })
    }

    /// The patterns that fit the names of an address.
    fn fitting_patterns(&self, prefix: Prefix) -> BTreeSet<&str> {
        let names = self.names_of.get(&prefix.addr).filter(|_| host(prefix.addr) == prefix);
        let fits = |pattern: &&String| names.into_iter().flatten().any(|name| fqdn::fits(pattern, name));
        self.addresses.patterns.iter().filter(fits).map(String::as_str).collect()
    }

    /// The labels of a prefix but for names. `None`: nobody speaks of it.
    pub(super) fn base_labels(&self, prefix: Prefix) -> Option<LabelSet> {
        let mut labels = prefix_labels(prefix, self.world(prefix.addr.is_ipv4()));
        let mut is_used = prefix.len == 0 || self.addresses.used.contains_key(&prefix);
        if host(prefix.addr) == prefix && self.api_servers.contains(&prefix.addr) {
            labels.insert(Label::reserved("kube-apiserver"));
            is_used = true;
        }
        for len in 0..=prefix.len {
            let outer = Prefix { addr: masked(prefix.addr, len), len };
            for group in self.addresses.groups.get(&outer).into_iter().flatten() {
                labels.insert(Label::new("cidrgroup", group, ""));
            }
        }
        is_used.then_some(labels)
    }
}

pub(super) fn everything(v4: bool) -> Prefix {
    let addr = if v4 { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u16; 8]) };
    Prefix { addr, len: 0 }
}
