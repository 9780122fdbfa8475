//! Address → identity: who is talking, which classes judge them, and which peer sets they are in.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::lpm::Lpm;
use super::record::{ClassId, Identity, IdentitySlot, PeerSetId, Prefix};

/// Peer sets below this number are found in the row itself, without another memory access.
const NEAR: u32 = 128;

/// One identity as the path reads it: one cache line.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub struct Row {
    pub number: u32,
    pub egress: Option<ClassId>,
    pub ingress: Option<ClassId>,
    pub world: bool,
    /// Bit n: in peer set n.
    near: [u64; NEAR as usize / 64],
    far: Far,
}

/// Membership in the sets from [`NEAR`] on, in whichever form is smaller; what lies beyond is "no".
#[derive(Clone, Debug)]
enum Far {
    Bits(Box<[u64]>),
    /// Sorted.
    List(Box<[u32]>),
}

impl Default for Far {
    fn default() -> Self {
        Self::List(Box::default())
    }
}

impl Far {
    fn new(sets: &[u32]) -> Self {
        let words = sets.iter().max().map_or(0, |most| (most - NEAR) as usize / 64 + 1);
        // Bits are quicker, so they may cost somewhat more; but one high number shall not cost kilobytes.
        if words > sets.len() * 4 {
            let mut list = sets.to_vec();
            list.sort_unstable();
            return Self::List(list.into());
        }
        let mut bits = alloc::vec![0; words];
        for set in sets {
            bits[(set - NEAR) as usize / 64] |= 1_u64 << (set % 64);
        }
        Self::Bits(bits.into())
    }

    #[inline]
    fn contains(&self, set: u32) -> bool {
        match self {
            Self::Bits(bits) => {
                bits.get((set - NEAR) as usize / 64).is_some_and(|word| word >> (set % 64) & 1 != 0)
            }
            Self::List(list) => list.binary_search(&set).is_ok(),
        }
    }
}

impl Row {
    fn new(identity: &Identity) -> Self {
        let (near_sets, far_sets): (Vec<u32>, Vec<u32>) =
            identity.peer_sets.iter().map(|set| set.0).partition(|set| *set < NEAR);
        let mut near = [0; NEAR as usize / 64];
        for set in near_sets {
            near[set as usize / 64] |= 1_u64 << (set % 64);
        }
        Self {
            number: identity.number,
            egress: identity.egress,
            ingress: identity.ingress,
            world: identity.world,
            near,
            far: Far::new(&far_sets),
        }
    }

    #[inline]
    pub fn in_set(&self, set: PeerSetId) -> bool {
        match self.near.get(set.0 as usize / 64) {
            Some(word) => word >> (set.0 % 64) & 1 != 0,
            None => set == PeerSetId::ANY || self.far.contains(set.0),
        }
    }
}

/// All identities and who has which address.
#[derive(Clone, Debug)]
pub struct Ipcache {
    addresses: Lpm,
    rows: Vec<Row>,
    /// Which rows stand for an identity that exists; slot 0 always does.
    live: Vec<bool>,
}

impl Default for Ipcache {
    fn default() -> Self {
        Self { addresses: Lpm::new(), rows: alloc::vec![Row::default()], live: alloc::vec![true] }
    }
}

impl Ipcache {
    /// Who has this address. Nobody knows: slot 0, which is in no class and in no set.
    #[inline]
    pub fn lookup(&self, ip: Ipv6Addr, v4: bool) -> &Row {
        let slot = self.addresses.lookup(ip, v4).unwrap_or(0) as usize;
        self.rows.get(slot).unwrap_or(&self.rows[0])
    }

    /// The slot of whoever has this address.
    pub fn slot(&self, ip: Ipv6Addr, v4: bool) -> IdentitySlot {
        IdentitySlot(self.addresses.lookup(ip, v4).unwrap_or(0))
    }

    /// The identity in this slot; nobody knows who is in a slot that is not there.
    pub fn row(&self, slot: u32) -> &Row {
        self.rows.get(slot as usize).unwrap_or(&self.rows[0])
    }

    #[inline]
    pub fn prefetch(&self, ip: Ipv6Addr, v4: bool) {
        self.addresses.prefetch(ip, v4);
    }

    /// The classes that this identity names.
    pub(super) fn classes_of(&self, slot: IdentitySlot) -> [Option<ClassId>; 2] {
        self.rows.get(slot.0 as usize).map_or([None; 2], |row| [row.egress, row.ingress])
    }

    /// Who has this very prefix.
    pub(super) fn slot_of(&self, prefix: Prefix) -> Option<IdentitySlot> {
        self.addresses.get(prefix).map(IdentitySlot)
    }

    pub(super) fn has(&self, slot: IdentitySlot) -> bool {
        self.live.get(slot.0 as usize).copied().unwrap_or(false)
    }

    pub(super) fn set_identity(&mut self, slot: IdentitySlot, identity: Option<&Identity>) {
        let index = slot.0 as usize;
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, Row::default);
            self.live.resize(index + 1, false);
        }
        self.rows[index] = identity.map(Row::new).unwrap_or_default();
        self.live[index] = identity.is_some();
    }

    pub(super) fn set_address(&mut self, prefix: Prefix, slot: Option<IdentitySlot>) {
        match slot {
            Some(slot) => self.addresses.insert(prefix, slot.0),
            None => self.addresses.remove(prefix),
        };
    }

    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    pub fn identities(&self) -> usize {
        self.live.iter().skip(1).filter(|live| **live).count()
    }
}
