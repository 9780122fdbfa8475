//! Address → identity: who is talking, which classes judge them, and which peer sets they are in.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::lpm::Lpm;
use super::record::{ClassId, Identity, IdentitySlot, PeerSetId, Prefix};

/// One identity as the path reads it.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub number: u32,
    pub egress: Option<ClassId>,
    pub ingress: Option<ClassId>,
    pub world: bool,
    /// Bit n: in peer set n. As long as its highest set needs; what lies beyond is "no".
    sets: Vec<u64>,
}

impl Row {
    fn new(identity: &Identity) -> Self {
        let words = identity.peer_sets.iter().map(|set| set.0 as usize / 64 + 1).max().unwrap_or(0);
        let mut sets = alloc::vec![0; words];
        for set in &identity.peer_sets {
            sets[set.0 as usize / 64] |= 1_u64 << (set.0 % 64);
        }
        Self {
            number: identity.number,
            egress: identity.egress,
            ingress: identity.ingress,
            world: identity.world,
            sets,
        }
    }

    #[inline]
    pub fn in_set(&self, set: PeerSetId) -> bool {
        set == PeerSetId::ANY
            || self.sets.get(set.0 as usize / 64).is_some_and(|word| word >> (set.0 % 64) & 1 != 0)
    }
}

/// All identities and who has which address.
#[derive(Clone, Debug)]
pub struct Ipcache {
    addresses: Lpm,
    rows: Vec<Row>,
}

impl Default for Ipcache {
    fn default() -> Self {
        Self { addresses: Lpm::new(), rows: alloc::vec![Row::default()] }
    }
}

impl Ipcache {
    /// Who has this address. Nobody knows: slot 0, which is in no class and in no set.
    #[inline]
    pub fn lookup(&self, ip: Ipv6Addr, v4: bool) -> &Row {
        let slot = self.addresses.lookup(ip, v4).unwrap_or(0) as usize;
        self.rows.get(slot).unwrap_or(&self.rows[0])
    }

    #[inline]
    pub fn prefetch(&self, ip: Ipv6Addr, v4: bool) {
        self.addresses.prefetch(ip, v4);
    }

    pub(super) fn set_identity(&mut self, slot: IdentitySlot, identity: Option<&Identity>) {
        let index = slot.0 as usize;
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, Row::default);
        }
        self.rows[index] = identity.map(Row::new).unwrap_or_default();
    }

    pub(super) fn set_address(&mut self, prefix: Prefix, slot: Option<IdentitySlot>) {
        match slot {
            Some(slot) => self.addresses.insert(prefix, slot.0),
            None => self.addresses.remove(prefix),
        }
    }

    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    pub fn identities(&self) -> usize {
        self.rows.len() - 1
    }
}
