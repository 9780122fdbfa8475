//! Peer sets: what one rule entry names, made once however many rules name the same.

use std::collections::{BTreeSet, HashMap};

use super::atoms::Atoms;
use super::numbered::Numbered;
use super::slots::{NamedPort, Slot, Slots};

/// Some peers: those with one of the atoms (`None`: everybody), and, with a port, those alone that call it so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Peers {
    /// Sorted, without duplicates.
    pub atoms: Option<Vec<u32>>,
    pub port: Option<NamedPort>,
}

/// Peers without others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Definition {
    pub plus: Peers,
    pub minus: Vec<Peers>,
}

#[derive(Clone, Debug)]
pub(crate) struct PeerSet {
    pub definition: Definition,
    users: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct PeerSets {
    pub all: Numbered<PeerSet>,
    known: HashMap<Definition, u32>,
    /// Sets that start from everybody.
    from_everybody: BTreeSet<u32>,
}

impl Peers {
    pub(crate) fn everybody() -> Self {
        Self::default()
    }

    pub(crate) fn is_everybody(&self) -> bool {
        self.atoms.is_none() && self.port.is_none()
    }

    pub(crate) fn has(&self, slot: &Slot) -> bool {
        self.atoms.as_ref().is_none_or(|atoms| atoms.iter().any(|atom| slot.atoms.contains(atom)))
            && self.port.as_ref().is_none_or(|port| slot.key.ports.contains(port))
    }
}

impl Definition {
    pub(crate) fn has(&self, slot: &Slot) -> bool {
        self.plus.has(slot) && !self.minus.iter().any(|minus| minus.has(slot))
    }

    fn atoms(&self) -> impl Iterator<Item = u32> {
        self.minus.iter().chain([&self.plus]).filter_map(|peers| peers.atoms.as_ref()).flatten().copied()
    }
}

impl PeerSets {
    pub(crate) fn new() -> Self {
        Self { all: Numbered::starting_at(0), known: HashMap::new(), from_everybody: BTreeSet::new() }
    }

    /// The set, with one more user. Slots that are in a new one learn of it and are told of in `touched`.
    pub(crate) fn take(
        &mut self,
        definition: Definition,
        atoms: &mut Atoms,
        slots: &mut Slots,
        touched: &mut BTreeSet<u32>,
    ) -> u32 {
        if let Some(id) = self.known.get(&definition) {
            if let Some(set) = self.all.get_mut(*id) {
                set.users += 1;
            }
            return *id;
        }
        let id = self.all.add(PeerSet { definition: definition.clone(), users: 1 });
        for atom in definition.atoms() {
            atoms.hold(atom);
            if let Some(atom) = atoms.all.get_mut(atom) {
                atom.sets.insert(id);
            }
        }
        if definition.plus.atoms.is_none() {
            self.from_everybody.insert(id);
        }
        for slot in Self::members(&definition, atoms, slots) {
            if let Some(slot) = slots.all.get_mut(slot) {
                slot.sets.insert(id);
            }
            touched.insert(slot);
        }
        self.known.insert(definition, id);
        id
    }

    fn members(definition: &Definition, atoms: &Atoms, slots: &Slots) -> Vec<u32> {
        let candidates: BTreeSet<u32> = match &definition.plus.atoms {
            None => slots.all.iter().map(|(id, _)| id).collect(),
            Some(list) => list
                .iter()
                .filter_map(|atom| atoms.all.get(*atom))
                .flat_map(|atom| &atom.slots)
                .copied()
                .collect(),
        };
        let is_in = |id: &u32| slots.all.get(*id).is_some_and(|slot| definition.has(slot));
        candidates.into_iter().filter(is_in).collect()
    }

    /// One user less. The atoms of a set that goes are to be given back by the caller.
    pub(crate) fn give_back(
        &mut self,
        id: u32,
        atoms: &mut Atoms,
        slots: &mut Slots,
        touched: &mut BTreeSet<u32>,
    ) -> Vec<u32> {
        let Some(set) = self.all.get_mut(id) else { return Vec::new() };
        set.users -= 1;
        if set.users > 0 {
            return Vec::new();
        }
        let Some(PeerSet { definition, .. }) = self.all.remove(id) else { return Vec::new() };
        for slot in Self::members(&definition, atoms, slots) {
            if let Some(slot) = slots.all.get_mut(slot) {
                slot.sets.remove(&id);
            }
            touched.insert(slot);
        }
        let held: Vec<u32> = definition.atoms().collect();
        for atom in &held {
            if let Some(atom) = atoms.all.get_mut(*atom) {
                atom.sets.remove(&id);
            }
        }
        self.from_everybody.remove(&id);
        self.known.remove(&definition);
        held
    }

    /// Which sets is a new slot in? Its atoms are known already.
    pub(crate) fn meet(&self, slot: &mut Slot, atoms: &Atoms) {
        let by_atom = slot.atoms.iter().filter_map(|atom| atoms.all.get(*atom)).flat_map(|atom| &atom.sets);
        let candidates: BTreeSet<u32> = by_atom.chain(&self.from_everybody).copied().collect();
        let is_in = |id: &u32| self.all.get(*id).is_some_and(|set| set.definition.has(slot));
        slot.sets = candidates.into_iter().filter(is_in).collect();
    }
}
