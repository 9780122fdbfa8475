//! Atoms: the smallest demands that rules make on a peer or a subject, each kept once, with who fulfils it.
//!
//! Two indexes keep a change cheap: an identity that appears asks only the atoms that could fit one of its labels, and
//! an atom that appears asks only the identities that have a label it needs.

use std::collections::{BTreeSet, HashMap};

use sluice_core::tables::record::Prefix;

use super::numbered::Numbered;
use super::slots::{Slot, Slots};
use crate::decode::{masked, prefix as parse_prefix};
use crate::identity::holds;
use crate::labels::{LabelSet, Operator, Selector};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Identities with these labels.
    Labels(Selector),
    /// Nodes with these labels of their Node object.
    Nodes(Selector),
    /// Addresses in the prefix, but for the holes.
    Cidr { prefix: Prefix, except: Vec<Prefix> },
    /// Addresses in a CIDR group, but for the holes.
    Group { name: String, except: Vec<Prefix> },
    /// Addresses learned for names that fit.
    Name(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Atom {
    pub what: What,
    users: u32,
    pub slots: BTreeSet<u32>,
    /// Peer sets that have it among what they ask for.
    pub sets: BTreeSet<u32>,
    /// Specs whose subject it is.
    pub subjects: BTreeSet<u32>,
    filed: Filed,
}

/// Where the atom is found when an identity appears.
#[derive(Clone, Debug)]
enum Filed {
    Values(String, Vec<String>),
    Key(String),
    Everywhere,
    /// By what it is.
    Itself,
}

#[derive(Clone, Debug)]
pub(crate) struct Atoms {
    pub all: Numbered<Atom>,
    known: HashMap<What, u32>,
    by_value: HashMap<String, HashMap<String, BTreeSet<u32>>>,
    by_key: HashMap<String, BTreeSet<u32>>,
    everywhere: BTreeSet<u32>,
    by_prefix: HashMap<Prefix, BTreeSet<u32>>,
    by_group: HashMap<String, BTreeSet<u32>>,
    by_name: HashMap<String, BTreeSet<u32>>,
}

impl Default for Atoms {
    fn default() -> Self {
        Self {
            all: Numbered::starting_at(0),
            known: HashMap::new(),
            by_value: HashMap::new(),
            by_key: HashMap::new(),
            everywhere: BTreeSet::new(),
            by_prefix: HashMap::new(),
            by_group: HashMap::new(),
            by_name: HashMap::new(),
        }
    }
}

impl What {
    /// Prefixes that must be told apart for this to be decidable by address.
    pub(crate) fn prefixes(&self) -> Vec<Prefix> {
        match self {
            Self::Cidr { prefix, except } => except.iter().copied().chain([*prefix]).collect(),
            Self::Group { except, .. } => except.clone(),
            Self::Labels(selector) => {
                let cidrs = selector.0.iter().filter(|requirement| requirement.source == "cidr");
                cidrs
                    .filter_map(|requirement| parse_prefix(&requirement.key.replace('-', ":")).ok())
                    .collect()
            }
            Self::Nodes(_) | Self::Name(_) => Vec::new(),
        }
    }

    pub(crate) fn fits(&self, slot: &Slot) -> bool {
        let key = &slot.key;
        let hole = |except: &[Prefix], own: Prefix| except.iter().any(|hole| holds(hole, &own));
        match self {
            Self::Labels(selector) => selector.matches(&key.labels),
            Self::Nodes(selector) => key.node_labels.as_ref().is_some_and(|labels| selector.matches(labels)),
            Self::Cidr { prefix, except } => {
                key.prefixes.iter().any(|own| holds(prefix, own) && !hole(except, *own))
            }
            Self::Group { name, except } => {
                key.labels.iter().any(|label| label.source == "cidrgroup" && label.key == *name)
                    && !key.prefixes.iter().any(|own| hole(except, *own))
            }
            Self::Name(pattern) => {
                key.labels.iter().any(|label| label.source == "fqdn" && label.key == *pattern)
            }
        }
    }
}

impl Atoms {
    /// The atom for this demand, with one more user. New ones are matched with all identities; their numbers tell.
    pub(crate) fn take(&mut self, what: &What, slots: &mut Slots) -> (u32, bool) {
        if let Some(number) = self.known.get(what) {
            if let Some(atom) = self.all.get_mut(*number) {
                atom.users += 1;
            }
            return (*number, false);
        }
        let filed = self.place_for(what);
        let atom = Atom {
            what: what.clone(),
            users: 1,
            slots: BTreeSet::new(),
            sets: BTreeSet::new(),
            subjects: BTreeSet::new(),
            filed,
        };
        let number = self.all.add(atom);
        self.known.insert(what.clone(), number);
        self.file(number, true);
        let found: BTreeSet<u32> = slots.candidates(what).into_iter().collect();
        let fitting: BTreeSet<u32> = found
            .into_iter()
            .filter(|slot| slots.all.get(*slot).is_some_and(|slot| what.fits(slot)))
            .collect();
        for slot in &fitting {
            if let Some(slot) = slots.all.get_mut(*slot) {
                slot.atoms.insert(number);
            }
        }
        if let Some(atom) = self.all.get_mut(number) {
            atom.slots = fitting;
        }
        (number, true)
    }

    pub(crate) fn find(&self, what: &What) -> Option<u32> {
        self.known.get(what).copied()
    }

    /// One user more of an atom that is there.
    pub(crate) fn hold(&mut self, number: u32) {
        if let Some(atom) = self.all.get_mut(number) {
            atom.users += 1;
        }
    }

    /// One user less; true if it was the last and the atom is gone.
    pub(crate) fn give_back(&mut self, number: u32, slots: &mut Slots) -> bool {
        let Some(atom) = self.all.get_mut(number) else { return false };
        atom.users -= 1;
        if atom.users > 0 {
            return false;
        }
        self.file(number, false);
        let Some(atom) = self.all.remove(number) else { return false };
        self.known.remove(&atom.what);
        for slot in &atom.slots {
            if let Some(slot) = slots.all.get_mut(*slot) {
                slot.atoms.remove(&number);
            }
        }
        true
    }

    /// Ask every atom that could fit a new identity.
    pub(crate) fn meet(&mut self, number: u32, slots: &mut Slots) {
        let Some(slot) = slots.all.get_mut(number) else { return };
        let mut candidates: BTreeSet<u32> = self.everywhere.clone();
        let of_node = slot.key.node_labels.iter().flatten();
        for label in slot.key.labels.iter().chain(of_node) {
            candidates.extend(self.by_key.get(&label.key).into_iter().flatten());
            let values = self.by_value.get(&label.key).and_then(|values| values.get(&label.value));
            candidates.extend(values.into_iter().flatten());
            match label.source.as_str() {
                "cidrgroup" => candidates.extend(self.by_group.get(&label.key).into_iter().flatten()),
                "fqdn" => candidates.extend(self.by_name.get(&label.key).into_iter().flatten()),
                _ => {}
            }
        }
        for own in &slot.key.prefixes {
            for len in 0..=own.len {
                let outer = Prefix { addr: masked(own.addr, len), len };
                candidates.extend(self.by_prefix.get(&outer).into_iter().flatten());
            }
        }
        for candidate in candidates {
            let Some(atom) = self.all.get_mut(candidate) else { continue };
            if atom.what.fits(slot) {
                atom.slots.insert(number);
                slot.atoms.insert(candidate);
            }
        }
    }

    /// Forget an identity that goes.
    pub(crate) fn part(&mut self, number: u32, atoms: &BTreeSet<u32>) {
        for atom in atoms {
            if let Some(atom) = self.all.get_mut(*atom) {
                atom.slots.remove(&number);
            }
        }
    }

    /// The demand of a selector that the fewest other atoms are filed under.
    fn place_for(&self, what: &What) -> Filed {
        let (What::Labels(selector) | What::Nodes(selector)) = what else { return Filed::Itself };
        let mut best = (Filed::Everywhere, usize::MAX);
        for requirement in selector.0.iter().filter(|requirement| requirement.source != "cidr") {
            let key = &requirement.key;
            let (filed, crowd) = match &requirement.operator {
                Operator::In(values) => {
                    let lists = self.by_value.get(key);
                    let crowd =
                        |value: &String| lists.and_then(|lists| lists.get(value)).map_or(0, BTreeSet::len);
                    (Filed::Values(key.clone(), values.clone()), values.iter().map(crowd).sum())
                }
                Operator::Exists => {
                    (Filed::Key(key.clone()), self.by_key.get(key).map_or(0, BTreeSet::len) + 1000)
                }
                Operator::NotIn(_) | Operator::DoesNotExist => continue,
            };
            if crowd < best.1 {
                best = (filed, crowd);
            }
        }
        best.0
    }

    fn file(&mut self, number: u32, put: bool) {
        let Some(atom) = self.all.get(number) else { return };
        let change = |list: &mut BTreeSet<u32>| {
            if put {
                list.insert(number)
            } else {
                list.remove(&number)
            };
        };
        match (&atom.filed, &atom.what) {
            (Filed::Values(key, values), _) => {
                let lists = self.by_value.entry(key.clone()).or_default();
                for value in values {
                    let list = lists.entry(value.clone()).or_default();
                    change(list);
                    if list.is_empty() {
                        lists.remove(value);
                    }
                }
            }
            (Filed::Key(key), _) => change(self.by_key.entry(key.clone()).or_default()),
            (Filed::Itself, What::Cidr { prefix, .. }) => change(self.by_prefix.entry(*prefix).or_default()),
            (Filed::Itself, What::Group { name, .. }) => {
                change(self.by_group.entry(name.clone()).or_default())
            }
            (Filed::Itself, What::Name(name)) => change(self.by_name.entry(name.clone()).or_default()),
            (Filed::Everywhere | Filed::Itself, _) => change(&mut self.everywhere),
        }
    }
}

/// Labels of a prefix: itself, and the world of its family; a prefix of everything is the world alone.
pub(crate) fn prefix_labels(prefix: Prefix, world: &str) -> LabelSet {
    use crate::labels::Label;
    let mut labels: LabelSet = [Label::reserved(world)].into();
    if prefix.len > 0 {
        labels.insert(Label::cidr(prefix));
    }
    labels
}
