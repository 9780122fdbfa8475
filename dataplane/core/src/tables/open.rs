//! A hash table that the path can look ahead in: open addressing, linear probing, at most half full; what is removed is
//! closed up, so there are no tombstones. Keys are control's, not packets': speed matters, flooding does not.

use alloc::vec::{IntoIter, Vec};

use crate::intrinsics;

pub(super) trait Key: Copy + Eq + Default {
    /// Its low bits say where a search begins.
    fn mixed(self) -> u64;
}

pub(super) trait Held: Copy + Default {
    /// Nothing is held where this is true.
    fn is_nothing(&self) -> bool;
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Slot<K, V> {
    key: K,
    held: V,
}

#[derive(Clone, Debug)]
pub(super) struct Open<K, V> {
    /// Their number is a power of two, or zero.
    slots: Vec<Slot<K, V>>,
    used: usize,
}

impl<K, V> Default for Open<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), used: 0 }
    }
}

/// Two words folded into one.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "folds 128 bits into 64")]
pub(super) fn fold(high: u64, low: u64) -> u64 {
    let product =
        u128::from(high ^ 0x9e37_79b9_7f4a_7c15) * u128::from(low.rotate_left(32) ^ 0xd6e8_feb8_6659_fd93);
    (product as u64) ^ ((product >> 64) as u64)
}

impl<K: Key, V: Held> Open<K, V> {
    /// Where a search for the key begins.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits count")]
    fn start(&self, key: K) -> usize {
        key.mixed() as usize & (self.slots.len().wrapping_sub(1))
    }

    #[inline]
    fn position(&self, key: K) -> Option<usize> {
        let mut at = self.start(key);
        loop {
            let slot = self.slots.get(at)?;
            if slot.key == key && !slot.held.is_nothing() {
                return Some(at);
            }
            if slot.held.is_nothing() {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    pub(super) fn find(&self, key: K) -> Option<&V> {
        self.position(key).map(|at| &self.slots[at].held)
    }

    pub(super) fn find_mut(&mut self, key: K) -> Option<&mut V> {
        self.position(key).map(|at| &mut self.slots[at].held)
    }

    /// Start fetching what [`Self::find`] of this key will read first.
    #[inline]
    pub(super) fn prefetch(&self, key: K) {
        if let Some(slot) = self.slots.get(self.start(key)) {
            intrinsics::prefetch(slot);
        }
    }

    /// What is held for this key, new if need be. The caller puts something into it.
    pub(super) fn make(&mut self, key: K) -> &mut V {
        if let Some(at) = self.position(key) {
            return &mut self.slots[at].held;
        }
        if (self.used + 1) * 2 > self.slots.len() {
            self.grow();
        }
        self.used += 1;
        let at = self.vacant(key);
        self.slots[at] = Slot { key, held: V::default() };
        &mut self.slots[at].held
    }

    fn vacant(&self, key: K) -> usize {
        let mut at = self.start(key);
        while !self.slots[at].held.is_nothing() {
            at = (at + 1) & (self.slots.len() - 1);
        }
        at
    }

    fn grow(&mut self) {
        let larger = alloc::vec![Slot::default(); (self.slots.len() * 2).max(16)];
        let old: IntoIter<Slot<K, V>> = core::mem::replace(&mut self.slots, larger).into_iter();
        for slot in old.filter(|slot| !slot.held.is_nothing()) {
            let at = self.vacant(slot.key);
            self.slots[at] = slot;
        }
    }

    /// Take the (emptied) place of this key out: those behind it that may move up do.
    pub(super) fn remove(&mut self, key: K) {
        let wrap = self.slots.len() - 1;
        let mut hole = self.start(key);
        while self.slots[hole].key != key || !self.slots[hole].held.is_nothing() {
            hole = (hole + 1) & wrap;
        }
        self.used -= 1;
        self.slots[hole] = Slot::default();
        let mut at = (hole + 1) & wrap;
        while !self.slots[at].held.is_nothing() {
            let home = self.start(self.slots[at].key);
            // It may move if its home does not lie between the hole (exclusive) and itself.
            if at.wrapping_sub(home) & wrap >= at.wrapping_sub(hole) & wrap {
                self.slots[hole] = self.slots[at];
                self.slots[at] = Slot::default();
                hole = at;
            }
            at = (at + 1) & wrap;
        }
    }
}
