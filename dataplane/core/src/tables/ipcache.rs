//! Address → identity: who is talking, which classes judge them, and which peer sets they are in.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::lpm::Lpm;
use super::record::{ClassId, Identity, IdentitySlot, PeerSetId, Prefix};
use crate::intrinsics::{Seed, prefetch};

/// Words of membership that are in the row itself, without another memory access.
const NEAR: usize = 2;

/// The bit that stands for a peer set. The first one stands for everybody.
pub(super) const fn bit(set: PeerSetId) -> u32 {
    // `PeerSetId::ANY` is the largest number.
    set.0.wrapping_add(1)
}

const _: () = assert!(bit(PeerSetId::ANY) == 0);

/// A bit that no row has.
pub(super) const NOBODY: u32 = u32::MAX;

/// One identity as the path reads it: one cache line.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Row {
    pub number: u32,
    pub egress: Option<ClassId>,
    pub ingress: Option<ClassId>,
    pub world: bool,
    form: Form,
    /// The first words of membership, and one that is zero for whoever asks beyond.
    near: [u64; NEAR + 1],
    far: Box<[u64]>,
}

/// How far-away sets are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// There are none, and nothing is in `far`.
    Near,
    /// All words are in `far`, and one that is zero.
    Words,
    /// The numbers of their bits are in `far`, sorted, because most words would be zero.
    List,
}

const _: () = assert!(size_of::<Row>() == 64);

impl Default for Row {
    fn default() -> Self {
        Self::new(&Identity::default())
    }
}

impl Row {
    fn new(identity: &Identity) -> Self {
        let mut bits: Vec<u32> = identity.peer_sets.iter().map(|set| bit(*set)).chain([0]).collect();
        bits.retain(|bit| *bit != NOBODY);
        bits.sort_unstable();
        let (near_bits, far_bits) = bits.split_at(bits.partition_point(|bit| word(*bit) < NEAR));
        let mut near = [0; NEAR + 1];
        set_bits(&mut near, near_bits);
        let words = bits.last().map_or(0, |last| word(*last) + 1);
        // Words are quicker, so they may cost somewhat more; but one high number shall not cost kilobytes.
        let (form, far) = if far_bits.is_empty() {
            (Form::Near, Vec::new())
        } else if words > NEAR + far_bits.len() * 4 {
            (Form::List, far_bits.iter().copied().map(u64::from).collect())
        } else {
            let mut all = alloc::vec![0; words + 1];
            set_bits(&mut all, &bits);
            (Form::Words, all)
        };
        let Identity { number, egress, ingress, world, .. } = *identity;
        Self { number, egress, ingress, world, form, near, far: far.into() }
    }

    #[inline]
    pub fn in_set(&self, set: PeerSetId) -> bool {
        self.which(self.words(), &[bit(set)]) != 0
    }

    /// Where [`Self::which`] looks.
    #[inline(always)]
    pub(super) fn words(&self) -> &[u64] {
        if self.form == Form::Words { &self.far } else { &self.near }
    }

    /// Which of these bits are set in the row's words, the first lowest.
    ///
    /// From set to set the answer is another, and no CPU could foresee it: nothing here branches on it.
    #[inline(always)]
    pub(super) fn which<const N: usize>(&self, words: &[u64], bits: &[u32; N]) -> u32 {
        // (There is always one, so that no index needs to be checked.)
        let Some(last) = words.len().checked_sub(1) else { return 0 };
        let mut set = 0;
        for (bit, n) in bits.iter().zip(0..) {
            set |= u32::from(words[word(*bit).min(last)] >> (bit % 64) & 1 != 0) << n;
        }
        if self.form == Form::List { set | self.listed(bits) } else { set }
    }

    /// The same for bits that are in the list.
    #[cold]
    fn listed<const N: usize>(&self, bits: &[u32; N]) -> u32 {
        let is_listed = |bit: u32| self.far.binary_search(&u64::from(bit)).is_ok();
        bits.iter().zip(0..).map(|(bit, n)| u32::from(is_listed(*bit)) << n).sum()
    }

    /// Start fetching what [`Self::which`] will read besides the row.
    #[inline(always)]
    pub(crate) fn prefetch_far(&self) {
        if let Some(word) = self.far.first() {
            prefetch(word);
        }
    }
}

/// The word that a bit is in.
#[inline(always)]
const fn word(bit: u32) -> usize {
    (bit / 64) as usize
}

fn set_bits(words: &mut [u64], bits: &[u32]) {
    for bit in bits {
        words[word(*bit)] |= 1_u64 << (bit % 64);
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
        Self::keyed(Seed::default())
    }
}

impl Ipcache {
    pub fn keyed(seed: Seed) -> Self {
        Self { addresses: Lpm::keyed(seed), rows: alloc::vec![Row::default()], live: alloc::vec![true] }
    }

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
