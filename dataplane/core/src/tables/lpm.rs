//! Longest-prefix match: an address → the value of the longest prefix that holds it.
//!
//! IPv4 is indexed directly ([`v4`]), IPv6 asks a hash table for each of a few anchor lengths and what is kept behind each
//! anchor ([`v6`]). Both are changed in place, at a cost that follows the prefix, not the table.

mod v4;
mod v6;

use core::net::{IpAddr, Ipv6Addr};

use ahash::RandomState;

use super::record::Prefix;
use crate::intrinsics::Seed;

/// Largest value that can be stored.
pub const MAX_VALUE: u32 = (1 << 24) - 2;

/// How maps hash; who may choose their keys says by which seed.
pub type Hashing = RandomState;

/// Hashing of keys that only control chooses: speed matters, flooding does not.
pub fn hashing() -> Hashing {
    Seed::default().hashing()
}

/// A map from prefixes to numbers.
#[derive(Clone, Debug)]
pub struct Lpm {
    v4: v4::V4,
    v6: v6::V6,
    entries: usize,
}

/// For prefixes that only control chooses.
impl Default for Lpm {
    fn default() -> Self {
        Self::keyed(Seed::default())
    }
}

impl Lpm {
    pub fn new() -> Self {
        Self::default()
    }

    /// For prefixes that others choose, as whoever answers DNS queries does.
    pub fn keyed(seed: Seed) -> Self {
        Self { v4: v4::V4::keyed(seed), v6: v6::V6::keyed(seed), entries: 0 }
    }

    /// Map the prefix to a value of at most [`MAX_VALUE`]; host bits of the prefix do not count. What it mapped to before.
    pub fn insert(&mut self, prefix: Prefix, value: u32) -> Option<u32> {
        let (len, value) = (prefix.len, value.min(MAX_VALUE));
        let old = match prefix.addr {
            IpAddr::V4(ip) => self.v4.insert(ip.to_bits(), len.min(32), value),
            IpAddr::V6(ip) => self.v6.insert(ip.to_bits(), len.min(128), value),
        };
        self.entries += usize::from(old.is_none());
        old
    }

    /// Forget the prefix. What it mapped to.
    pub fn remove(&mut self, prefix: Prefix) -> Option<u32> {
        let old = match prefix.addr {
            IpAddr::V4(ip) => self.v4.remove(ip.to_bits(), prefix.len.min(32)),
            IpAddr::V6(ip) => self.v6.remove(ip.to_bits(), prefix.len.min(128)),
        };
        self.entries -= usize::from(old.is_some());
        old
    }

    /// What this very prefix maps to.
    pub fn get(&self, prefix: Prefix) -> Option<u32> {
        match prefix.addr {
            IpAddr::V4(ip) => self.v4.get(ip.to_bits(), prefix.len.min(32)),
            IpAddr::V6(ip) => self.v6.get(ip.to_bits(), prefix.len.min(128)),
        }
    }

    /// Addresses are as keys hold them: IPv4 as IPv4-mapped.
    #[inline(always)]
    pub fn lookup(&self, ip: Ipv6Addr, v4: bool) -> Option<u32> {
        if v4 { self.v4.lookup(low(ip)) } else { self.v6.lookup(ip.to_bits()) }
    }

    /// Start fetching what [`Self::lookup`] of this address will read first.
    #[inline(always)]
    pub fn prefetch(&self, ip: Ipv6Addr, v4: bool) {
        if v4 { self.v4.prefetch(low(ip)) } else { self.v6.prefetch(ip.to_bits()) }
    }

    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an IPv4 address is the low end")]
#[inline(always)]
fn low(ip: Ipv6Addr) -> u32 {
    ip.to_bits() as u32
}
