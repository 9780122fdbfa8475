//! An entry in the hands of the short way: does the packet belong to it, and how does it leave?

use crate::state::flow::{Cold, Hot};

/// A flow that may be the one of a packet, and what it needs besides its hot line.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub hot: &'a mut Hot,
    pub(super) cold: &'a mut [Cold],
    pub(super) index: usize,
    pub(super) addresses: &'a [[u64; 2]],
}

impl Entry<'_> {
    /// Source and destination that packets of an IPv6 flow arrive with in this direction.
    #[inline(always)]
    pub(crate) fn arrives_v6(&self, side: usize) -> [[u64; 2]; 2] {
        arrives_v6(self.hot, self.addresses, side)
    }

    #[inline(always)]
    pub(crate) fn count_v6(&mut self, side: usize, len: usize) {
        if let Some(cold) = self.cold.get_mut(self.index) {
            cold.count(side, len);
        }
    }
}

/// The outer side as it is, the middle one by its number. Of an IPv4 flow, which has no numbers, anything.
#[inline(always)]
pub(super) fn arrives_v6(hot: &Hot, addresses: &[[u64; 2]], side: usize) -> [[u64; 2]; 2] {
    let numbered = if hot.other[side] == 0 { None } else { addresses.get(usize::from(hot.other[side])) };
    [hot.sides[side], *numbered.unwrap_or(&hot.sides[1 - side])]
}

/// Zero if both pairs of addresses are the same.
#[inline(always)]
pub(crate) const fn differ(a: [[u64; 2]; 2], b: [[u64; 2]; 2]) -> u64 {
    (a[0][0] ^ b[0][0]) | (a[0][1] ^ b[0][1]) | (a[1][0] ^ b[1][0]) | (a[1][1] ^ b[1][1])
}
