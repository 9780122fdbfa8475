//! Slots: who can be told apart. Pods with the same labels and the same named ports are one; so is a prefix.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_core::tables::record::{Identity, Prefix};

use super::atoms::What;
use super::numbered::Numbered;
use crate::decode::masked;
use crate::labels::{LabelSet, Operator, Requirement};

/// A named port: its name, protocol and number.
pub type NamedPort = (String, u8, u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Known by number alone. Those that are endpoints can be a policy's subject.
    Reserved {
        endpoint: bool,
    },
    /// A pod or machine; `local`: on our own node.
    Endpoint {
        local: bool,
    },
    Node,
    Prefix,
}

/// What tells identities apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub labels: LabelSet,
    /// The labels of its Node object, for host policies and peers that are nodes.
    pub node_labels: Option<LabelSet>,
    /// The addresses that it stands for, if it stands for addresses (the world of one family: all of them).
    pub prefixes: Vec<Prefix>,
    /// Sorted.
    pub ports: Vec<NamedPort>,
    pub role: Role,
    pub audit: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub key: Key,
    pub number: u32,
    pub users: u32,
    pub atoms: BTreeSet<u32>,
    /// Peer sets that it is in.
    pub sets: BTreeSet<u32>,
    /// Classes: ingress, egress.
    pub classes: [Option<u32>; 2],
    /// As last told.
    pub told: Option<Identity>,
}

impl Slot {
    pub(crate) fn is_world(&self) -> bool {
        self.key.labels.iter().any(|label| label.source == "reserved" && label.key.starts_with("world"))
    }

    pub(crate) fn is_subject(&self) -> bool {
        match self.key.role {
            Role::Reserved { endpoint } => endpoint,
            Role::Endpoint { .. } => true,
            Role::Node | Role::Prefix => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slots {
    pub all: Numbered<Slot>,
    known: HashMap<Key, u32>,
    by_label: HashMap<String, HashMap<String, BTreeSet<u32>>>,
    by_node_label: HashMap<String, HashMap<String, BTreeSet<u32>>>,
    by_prefix: BTreeMap<Prefix, BTreeSet<u32>>,
    /// Identities that differ in ports alone have the same number.
    pub by_number: HashMap<u32, BTreeSet<u32>>,
    /// How many slots have a named port: by name and protocol, then by number.
    pub named: HashMap<(String, u8), BTreeMap<u16, u32>>,
    /// Names whose numbers have changed since somebody looked.
    pub named_anew: BTreeSet<(String, u8)>,
}

impl Slots {
    /// Slot 0 stands for the unknown.
    pub(crate) fn new() -> Self {
        Self {
            all: Numbered::starting_at(1),
            known: HashMap::new(),
            by_label: HashMap::new(),
            by_node_label: HashMap::new(),
            by_prefix: BTreeMap::new(),
            by_number: HashMap::new(),
            named: HashMap::new(),
            named_anew: BTreeSet::new(),
        }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.known.get(key).copied()
    }

    pub(crate) fn add(&mut self, key: Key, number: u32) -> u32 {
        let slot = Slot {
            key: key.clone(),
            number,
            users: 0,
            atoms: BTreeSet::new(),
            sets: BTreeSet::new(),
            classes: [None; 2],
            told: None,
        };
        let id = self.all.add(slot);
        self.file(id, &key, true);
        self.by_number.entry(number).or_default().insert(id);
        self.known.insert(key, id);
        id
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Slot> {
        let slot = self.all.remove(id)?;
        self.known.remove(&slot.key);
        self.file(id, &slot.key, false);
        if let Some(slots) = self.by_number.get_mut(&slot.number) {
            slots.remove(&id);
            if slots.is_empty() {
                self.by_number.remove(&slot.number);
            }
        }
        Some(slot)
    }

    fn file(&mut self, id: u32, key: &Key, put: bool) {
        let change = |list: &mut BTreeSet<u32>| {
            if put {
                list.insert(id)
            } else {
                list.remove(&id)
            };
        };
        for label in &key.labels {
            let values = self.by_label.entry(label.key.clone()).or_default();
            change(values.entry(label.value.clone()).or_default());
        }
        for label in key.node_labels.iter().flatten() {
            let values = self.by_node_label.entry(label.key.clone()).or_default();
            change(values.entry(label.value.clone()).or_default());
        }
        for prefix in &key.prefixes {
            change(self.by_prefix.entry(*prefix).or_default());
        }
        for (name, proto, number) in &key.ports {
            let numbers = self.named.entry((name.clone(), *proto)).or_default();
            let users = numbers.entry(*number).or_default();
            *users = if put { *users + 1 } else { users.saturating_sub(1) };
            let (came, went) = (put && *users == 1, *users == 0);
            if went {
                numbers.remove(number);
            }
            if came || went {
                self.named_anew.insert((name.clone(), *proto));
            }
        }
    }

    /// Slots that could fit, no more than all of them.
    pub(crate) fn candidates(&self, what: &What) -> Vec<u32> {
        match what {
            What::Labels(selector) => self.by_requirements(&self.by_label, &selector.0, None),
            What::Nodes(selector) => self.by_requirements(&self.by_node_label, &selector.0, Some(Role::Node)),
            What::Cidr { prefix, .. } => self.inside(*prefix),
            What::Group { name, .. } | What::Name(name) => {
                self.by_label.get(name).into_iter().flat_map(HashMap::values).flatten().copied().collect()
            }
        }
    }

    /// Slots of prefixes within this one.
    pub(crate) fn inside(&self, prefix: Prefix) -> Vec<u32> {
        let most = if prefix.addr.is_ipv4() { 32 } else { 128 };
        let start = Prefix { addr: prefix.addr, len: 0 };
        self.by_prefix
            .range(start..)
            .take_while(|(own, _)| {
                own.addr.is_ipv4() == prefix.addr.is_ipv4()
                    && masked(own.addr, prefix.len.min(most)) == prefix.addr
            })
            .filter(|(own, _)| own.len >= prefix.len)
            .flat_map(|(_, slots)| slots.iter().copied())
            .collect()
    }

    /// By the demand that the fewest fulfil.
    fn by_requirements(
        &self,
        index: &HashMap<String, HashMap<String, BTreeSet<u32>>>,
        requirements: &[Requirement],
        role: Option<Role>,
    ) -> Vec<u32> {
        let mut best: Option<Vec<&BTreeSet<u32>>> = None;
        let count = |lists: &[&BTreeSet<u32>]| lists.iter().map(|list| list.len()).sum::<usize>();
        for requirement in requirements.iter().filter(|requirement| requirement.source != "cidr") {
            let values = index.get(&requirement.key);
            let lists: Vec<&BTreeSet<u32>> = match &requirement.operator {
                Operator::In(wanted) => {
                    wanted.iter().filter_map(|value| values.and_then(|values| values.get(value))).collect()
                }
                Operator::Exists => values.into_iter().flat_map(HashMap::values).collect(),
                Operator::NotIn(_) | Operator::DoesNotExist => continue,
            };
            if best.as_ref().is_none_or(|best| count(&lists) < count(best)) {
                best = Some(lists);
            }
        }
        match best {
            Some(lists) => lists.into_iter().flatten().copied().collect(),
            None => {
                let fits = |slot: &Slot| role.is_none_or(|role| slot.key.role == role);
                self.all.iter().filter(|(_, slot)| fits(slot)).map(|(id, _)| id).collect()
            }
        }
    }
}
