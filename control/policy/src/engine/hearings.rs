//! Hearings: who is to be asked about what is said above ports, once a flow is allowed so far.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sluice_core::tables::record::{PeerSetId, RuleId};

use super::numbered::Numbered;
use crate::policy::above::Above;

/// One rule that allows: those in the peer set, if what they say fits (`None`: whatever they say).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heard {
    pub peers: PeerSetId,
    pub rule: RuleId,
    pub above: Option<Arc<Above>>,
}

/// All rules that allow on the same ports at the same priority. What one of them is content with passes.
pub type Hearing = Vec<Heard>;

#[derive(Clone, Debug)]
pub(crate) struct Hearings {
    all: Numbered<(Hearing, u32)>,
    known: HashMap<Hearing, u32>,
    /// Those that came or went since somebody looked.
    touched: BTreeSet<u32>,
}

impl Hearings {
    pub(crate) fn new() -> Self {
        Self { all: Numbered::starting_at(0), known: HashMap::new(), touched: BTreeSet::new() }
    }

    /// The number of this hearing, with one more user.
    pub(crate) fn take(&mut self, hearing: Hearing) -> u32 {
        if let Some(id) = self.known.get(&hearing) {
            if let Some((_, users)) = self.all.get_mut(*id) {
                *users += 1;
            }
            return *id;
        }
        let id = self.all.add((hearing.clone(), 1));
        self.known.insert(hearing, id);
        self.touched.insert(id);
        id
    }

    pub(crate) fn give_back(&mut self, id: u32) {
        let Some((_, users)) = self.all.get_mut(id) else { return };
        *users -= 1;
        if *users == 0
            && let Some((hearing, _)) = self.all.remove(id)
        {
            self.known.remove(&hearing);
            self.touched.insert(id);
        }
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Hearing> {
        self.all.get(id).map(|(hearing, _)| hearing)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Hearing)> {
        self.all.iter().map(|(id, (hearing, _))| (id, hearing))
    }
}
