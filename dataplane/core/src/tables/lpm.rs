//! Longest-prefix match: an address → the value of the longest prefix that holds it.
//!
//! IPv4 is direct-indexed: one array of 2^24 entries, and groups of 256 for what is longer than /24, so a lookup is one
//! memory access, at most two. The array is allocated as zero pages and costs resident memory only where prefixes are.
//! IPv6 asks one hash table per prefix length that occurs, longest first; host routes are one of them.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use ahash::RandomState;
use hashbrown::HashMap;

use super::record::Prefix;
use crate::intrinsics;

/// Largest value that can be stored.
pub const MAX_VALUE: u32 = (1 << 24) - 2;

const LEAF_BITS: u32 = 0x00ff_ffff;
const DEPTH_SHIFT: u32 = 24;
/// The entry is the number of a group of 256, not a leaf.
const GROUP: u32 = 1 << 31;

/// Hashing of keys that only control chooses: speed matters, flooding does not.
pub type Hashing = RandomState;

pub fn hashing() -> Hashing {
    RandomState::with_seeds(0x736c_7569, 0x6365_6c70, 0x6d74_6162, 0x6c65_7331)
}

/// A map from prefixes to numbers.
#[derive(Clone, Debug)]
pub struct Lpm {
    v4: V4,
    v6: V6,
    entries: usize,
}

impl Default for Lpm {
    fn default() -> Self {
        Self::new()
    }
}

impl Lpm {
    pub fn new() -> Self {
        Self { v4: V4::new(), v6: V6::new(), entries: 0 }
    }

    /// Map the prefix to a value of at most [`MAX_VALUE`]. Host bits of the prefix do not count.
    pub fn insert(&mut self, prefix: Prefix, value: u32) {
        let new = match prefix.addr {
            IpAddr::V4(ip) => self.v4.insert(u32::from(ip), prefix.len.min(32), value.min(MAX_VALUE)),
            IpAddr::V6(ip) => self.v6.insert(u128::from(ip), prefix.len.min(128), value),
        };
        self.entries += usize::from(new);
    }

    pub fn remove(&mut self, prefix: Prefix) {
        let gone = match prefix.addr {
            IpAddr::V4(ip) => self.v4.remove(u32::from(ip), prefix.len.min(32)),
            IpAddr::V6(ip) => self.v6.remove(u128::from(ip), prefix.len.min(128)),
        };
        self.entries -= usize::from(gone);
    }

    /// Addresses are as keys hold them: IPv4 as IPv4-mapped.
    #[inline]
    pub fn lookup(&self, ip: Ipv6Addr, v4: bool) -> Option<u32> {
        if v4 { self.v4.lookup(low(ip)) } else { self.v6.lookup(u128::from(ip)) }
    }

    #[inline]
    pub fn prefetch(&self, ip: Ipv6Addr, v4: bool) {
        if v4 && let Some(entry) = self.v4.root.get((low(ip) >> 8) as usize) {
            intrinsics::prefetch(entry);
        }
    }

    pub fn len(&self) -> usize {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

#[inline]
fn low(ip: Ipv6Addr) -> u32 {
    let o = ip.octets();
    u32::from_be_bytes([o[12], o[13], o[14], o[15]])
}

#[derive(Clone, Debug)]
struct V4 {
    root: Vec<u32>,
    groups: Vec<[u32; 256]>,
    free: Vec<u32>,
    /// What was inserted, by length: needed to find what shows through when a prefix goes.
    prefixes: Vec<HashMap<u32, u32, Hashing>>,
}

/// A leaf is `depth << 24 | value + 1`; zero is empty.
const fn leaf(value: u32, depth: u8) -> u32 {
    (depth as u32) << DEPTH_SHIFT | (value + 1)
}

const fn depth(entry: u32) -> u32 {
    (entry & !GROUP) >> DEPTH_SHIFT
}

const fn mask(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

impl V4 {
    fn new() -> Self {
        let prefixes = (0..=32).map(|_| HashMap::with_hasher(hashing())).collect();
        Self { root: vec![0; 1 << 24], groups: Vec::new(), free: Vec::new(), prefixes }
    }

    #[inline]
    fn lookup(&self, ip: u32) -> Option<u32> {
        let mut entry = self.root[(ip >> 8) as usize];
        if entry & GROUP != 0 {
            entry = self.groups[(entry & LEAF_BITS) as usize][(ip & 0xff) as usize];
        }
        match entry & LEAF_BITS {
            // The default route is kept apart, so that it need not fill the array.
            0 => self.prefixes[0].get(&0).copied(),
            found => Some(found - 1),
        }
    }

    fn insert(&mut self, ip: u32, len: u8, value: u32) -> bool {
        let ip = ip & mask(len);
        let new = self.prefixes[usize::from(len)].insert(ip, value).is_none();
        if len > 0 {
            self.fill(ip, len, leaf(value, len), |entry| depth(entry) <= u32::from(len));
        }
        new
    }

    fn remove(&mut self, ip: u32, len: u8) -> bool {
        let ip = ip & mask(len);
        if self.prefixes[usize::from(len)].remove(&ip).is_none() {
            return false;
        }
        if len > 0 {
            let shorter = (1..len).rev().find_map(|shorter| {
                let value = self.prefixes[usize::from(shorter)].get(&(ip & mask(shorter)))?;
                Some(leaf(*value, shorter))
            });
            self.fill(ip, len, shorter.unwrap_or(0), |entry| depth(entry) == u32::from(len));
        }
        true
    }

    /// Write an entry over the prefix's range, wherever `over` agrees.
    fn fill(&mut self, ip: u32, len: u8, new: u32, over: impl Fn(u32) -> bool) {
        let first = (ip >> 8) as usize;
        if len > 24 {
            let group = self.group(first);
            let start = (ip & 0xff) as usize;
            for entry in &mut self.groups[group][start..start + (1 << (32 - len))] {
                if over(*entry) {
                    *entry = new;
                }
            }
            self.collapse(first, group);
            return;
        }
        for index in first..first + (1 << (24 - len)) {
            let entry = self.root[index];
            if entry & GROUP != 0 {
                for entry in &mut self.groups[(entry & LEAF_BITS) as usize] {
                    if over(*entry) {
                        *entry = new;
                    }
                }
            } else if over(entry) && entry != new {
                self.root[index] = new;
            }
        }
    }

    /// The group behind this root entry, made of it if there is none.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 groups, one a root entry")]
    fn group(&mut self, index: usize) -> usize {
        let entry = self.root[index];
        if entry & GROUP != 0 {
            return (entry & LEAF_BITS) as usize;
        }
        let group = self.free.pop().map_or(self.groups.len(), |free| free as usize);
        if group == self.groups.len() {
            self.groups.push([entry; 256]);
        } else {
            self.groups[group] = [entry; 256];
        }
        self.root[index] = GROUP | group as u32;
        group
    }

    /// A group in which nothing is longer than /24 is one entry again.
    #[expect(clippy::cast_possible_truncation, reason = "there are at most 2^24 groups, one a root entry")]
    fn collapse(&mut self, index: usize, group: usize) {
        let first = self.groups[group][0];
        if depth(first) <= 24 && self.groups[group].iter().all(|entry| *entry == first) {
            self.root[index] = first;
            self.free.push(group as u32);
        }
    }
}

#[derive(Clone, Debug)]
struct V6 {
    /// By prefix length, longest first; lengths without prefixes are not there.
    lengths: Vec<(u8, HashMap<u128, u32, Hashing>)>,
}

const fn mask6(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len) }
}

impl V6 {
    fn new() -> Self {
        Self { lengths: Vec::new() }
    }

    #[inline]
    fn lookup(&self, ip: u128) -> Option<u32> {
        self.lengths.iter().find_map(|(len, table)| table.get(&(ip & mask6(*len))).copied())
    }

    fn insert(&mut self, ip: u128, len: u8, value: u32) -> bool {
        let at = self.lengths.partition_point(|(there, _)| *there > len);
        if self.lengths.get(at).is_none_or(|(there, _)| *there != len) {
            self.lengths.insert(at, (len, HashMap::with_hasher(hashing())));
        }
        self.lengths[at].1.insert(ip & mask6(len), value).is_none()
    }

    fn remove(&mut self, ip: u128, len: u8) -> bool {
        let Some(at) = self.lengths.iter().position(|(there, _)| *there == len) else { return false };
        let gone = self.lengths[at].1.remove(&(ip & mask6(len))).is_some();
        if self.lengths[at].1.is_empty() {
            self.lengths.remove(at);
        }
        gone
    }
}
