//! IPv4: one array of 2^24 entries, and groups of 256 for what is longer than /24; a lookup is one memory access, at most
//! two.
//!
//! The array is allocated as zero pages and costs resident memory only where prefixes are. What is not longer than /8 is
//! kept in an array of its own that misses ask, so that a wide prefix does not fill megabytes with itself.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use hashbrown::HashMap;

use super::Hashing;
use crate::intrinsics::{self, Seed};

const ROOT: usize = 1 << 24;
const LEAF_BITS: u32 = 0x00ff_ffff;
const DEPTH_SHIFT: u32 = 24;
/// The entry is the number of a group of 256, not a leaf.
const GROUP: u32 = 1 << 31;
/// Prefixes up to this length are in `wide`.
const WIDE: u8 = 8;

pub(super) struct V4 {
    root: Box<[u32; ROOT]>,
    groups: Vec<[u32; 256]>,
    free: Vec<u32>,
    wide: Box<[u32; 256]>,
    /// Of length 0, as a leaf.
    default: u32,
    /// What was inserted, by length: needed to find what shows through when a prefix goes.
    prefixes: Vec<HashMap<u32, u32, Hashing>>,
}

impl V4 {
    pub(super) fn keyed(seed: Seed) -> Self {
        Self {
            root: zeroed(),
            groups: Vec::new(),
            free: Vec::new(),
            wide: Box::new([0; 256]),
            default: 0,
            prefixes: (0..=32).map(|_| HashMap::with_hasher(seed.hashing())).collect(),
        }
    }
}

/// Zero pages: nothing is written, so nothing is resident.
fn zeroed() -> Box<[u32; ROOT]> {
    match vec![0; ROOT].into_boxed_slice().try_into() {
        Ok(root) => root,
        Err(_) => unreachable!("the slice was made with this length"),
    }
}

impl Clone for V4 {
    fn clone(&self) -> Self {
        let mut root = zeroed();
        // Pages that hold nothing stay untouched in the copy too.
        for (from, to) in self.root.chunks_exact(1024).zip(root.chunks_exact_mut(1024)) {
            if from.iter().any(|entry| *entry != 0) {
                to.copy_from_slice(from);
            }
        }
        Self {
            root,
            groups: self.groups.clone(),
            free: self.free.clone(),
            wide: self.wide.clone(),
            default: self.default,
            prefixes: self.prefixes.clone(),
        }
    }
}

impl fmt::Debug for V4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.prefixes.iter().map(HashMap::len).sum();
        write!(f, "V4 {{ {count} prefixes, {} groups }}", self.groups.len() - self.free.len())
    }
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
    #[inline(always)]
    pub(super) fn lookup(&self, ip: u32) -> Option<u32> {
        let mut entry = self.root[(ip >> 8) as usize];
        if entry & GROUP != 0 {
            entry = self.groups[(entry & LEAF_BITS) as usize][(ip & 0xff) as usize];
        }
        if entry == 0 {
            entry = self.wide[(ip >> 24) as usize];
            if entry == 0 {
                entry = self.default;
            }
        }
        (entry & LEAF_BITS).checked_sub(1)
    }

    #[inline]
    pub(super) fn prefetch(&self, ip: u32) {
        intrinsics::prefetch(&self.root[(ip >> 8) as usize]);
    }

    pub(super) fn get(&self, ip: u32, len: u8) -> Option<u32> {
        self.prefixes[usize::from(len)].get(&(ip & mask(len))).copied()
    }

    pub(super) fn insert(&mut self, ip: u32, len: u8, value: u32) -> Option<u32> {
        let ip = ip & mask(len);
        let old = self.prefixes[usize::from(len)].insert(ip, value);
        if old != Some(value) {
            self.fill(ip, len, leaf(value, len), |entry| depth(entry) <= u32::from(len));
        }
        old
    }

    pub(super) fn remove(&mut self, ip: u32, len: u8) -> Option<u32> {
        let ip = ip & mask(len);
        let old = self.prefixes[usize::from(len)].remove(&ip)?;
        // What shows through; within one array only, the others are asked by misses.
        let shortest = if len > WIDE { WIDE + 1 } else { 1 };
        let shorter = (shortest..len).rev().find_map(|shorter| {
            let value = self.prefixes[usize::from(shorter)].get(&(ip & mask(shorter)))?;
            Some(leaf(*value, shorter))
        });
        self.fill(ip, len, shorter.unwrap_or(0), |entry| depth(entry) == u32::from(len));
        Some(old)
    }

    /// Write an entry over the prefix's range, wherever `over` agrees.
    fn fill(&mut self, ip: u32, len: u8, new: u32, over: impl Fn(u32) -> bool) {
        let write = |entries: &mut [u32]| {
            for entry in entries.iter_mut().filter(|entry| over(**entry)) {
                *entry = new;
            }
        };
        let first = (ip >> 8) as usize;
        match len {
            0 => self.default = new,
            1..=WIDE => write(&mut self.wide[(ip >> 24) as usize..][..1 << (WIDE - len)]),
            25.. => {
                let group = self.group(first);
                write(&mut self.groups[group][(ip & 0xff) as usize..][..1 << (32 - len)]);
                self.collapse(first, group);
            }
            _ => {
                for entry in &mut self.root[first..][..1 << (24 - len)] {
                    if *entry & GROUP != 0 {
                        write(&mut self.groups[(*entry & LEAF_BITS) as usize]);
                    } else if over(*entry) {
                        *entry = new;
                    }
                }
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
