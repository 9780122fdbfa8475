//! Prefixes behind an anchor where there are many: a trie of six bits a step (a "tree bitmap"), whose nodes and values lie
//! in blocks without gaps.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

use arrayvec::ArrayVec;

/// Bits that one node takes.
const STRIDE: u8 = 6;

/// Six bits of a prefix: which prefixes end here (bit `2^n - 1 + bits` for one with n bits left), which go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node {
    ends: u64,
    goes_on: u64,
    /// First of this node's values, in the order of `ends`.
    values: u32,
    /// First of its children, in the order of `goes_on`.
    children: u32,
}

/// For each six bits, the bits in `ends` of the prefixes that hold them.
const HOLDERS: [u64; 64] = {
    let mut holders = [0; 64];
    let mut slot = 0;
    while slot < 64 {
        let mut n = 0;
        while n < STRIDE {
            holders[slot] |= 1 << ((1 << n) - 1 + (slot >> (STRIDE - n)));
            n += 1;
        }
        slot += 1;
    }
    holders
};

const fn below(bits: u64, at: u32) -> u32 {
    (bits & ((1 << at) - 1)).count_ones()
}

/// The next six bits.
const fn step(rest: u64) -> u32 {
    (rest >> (64 - STRIDE)) as u32
}

/// Where a prefix of `len < STRIDE` more bits ends.
const fn end(rest: u64, len: u8) -> u32 {
    (1 << len) - 1 + (step(rest) >> (STRIDE - len))
}

/// Values are not zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Trie {
    pub(super) nodes: Blocks<Node>,
    pub(super) values: Blocks<u32>,
}

impl Trie {
    /// What the longest of those that hold an address that goes on like this has; 0: there is none.
    #[inline]
    pub(super) fn lookup(&self, root: u32, mut rest: u64) -> u32 {
        let mut node = &self.nodes.items[root as usize];
        // (The first value is never used, and zero.)
        let mut best = 0;
        loop {
            let slot = step(rest);
            let ends = node.ends & HOLDERS[slot as usize];
            let here = node.values + below(node.ends, 63 - ends.leading_zeros() % 64);
            best = select_unpredictable(ends != 0, here, best);
            if node.goes_on >> slot & 1 == 0 {
                return self.values.items[best as usize];
            }
            node = &self.nodes.items[(node.children + below(node.goes_on, slot)) as usize];
            rest <<= STRIDE;
        }
    }

    /// What this very prefix has; 0: nothing.
    pub(super) fn get(&self, root: u32, mut rest: u64, mut len: u8) -> u32 {
        let mut node = &self.nodes.items[root as usize];
        while len >= STRIDE {
            let slot = step(rest);
            if node.goes_on >> slot & 1 == 0 {
                return 0;
            }
            node = &self.nodes.items[(node.children + below(node.goes_on, slot)) as usize];
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let end = end(rest, len);
        let at = if node.ends >> end & 1 != 0 { node.values + below(node.ends, end) } else { 0 };
        self.values.items[at as usize]
    }

    /// What was there; 0: nothing.
    pub(super) fn insert(&mut self, root: u32, mut rest: u64, mut len: u8, value: u32) -> u32 {
        let mut at = root as usize;
        while len >= STRIDE {
            at = self.child(at, step(rest));
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let end = end(rest, len);
        let node = &mut self.nodes.items[at];
        let rank = below(node.ends, end);
        if node.ends >> end & 1 != 0 {
            return core::mem::replace(&mut self.values.items[(node.values + rank) as usize], value);
        }
        node.values = self.values.widen(node.values, node.ends.count_ones(), rank, value);
        node.ends |= 1 << end;
        0
    }

    /// The child behind these six bits, made if need be.
    fn child(&mut self, at: usize, slot: u32) -> usize {
        let node = self.nodes.items[at];
        let rank = below(node.goes_on, slot);
        if node.goes_on >> slot & 1 != 0 {
            return (node.children + rank) as usize;
        }
        let children = self.nodes.widen(node.children, node.goes_on.count_ones(), rank, Node::default());
        let node = &mut self.nodes.items[at];
        node.children = children;
        node.goes_on |= 1 << slot;
        (children + rank) as usize
    }

    /// If all are the one of no bits, or none, what that has.
    pub(super) fn own(&self, root: u32) -> Option<u32> {
        let node = &self.nodes.items[root as usize];
        (node.goes_on == 0 && node.ends <= 1).then(|| self.get(root, 0, 0))
    }

    /// What was there; 0: nothing.
    pub(super) fn remove(&mut self, root: u32, mut rest: u64, mut len: u8) -> u32 {
        let mut way: ArrayVec<(usize, u32), 11> = ArrayVec::new();
        let mut at = root as usize;
        while len >= STRIDE {
            let (node, slot) = (&self.nodes.items[at], step(rest));
            if node.goes_on >> slot & 1 == 0 {
                return 0;
            }
            way.push((at, slot));
            at = (node.children + below(node.goes_on, slot)) as usize;
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let (end, node) = (end(rest, len), self.nodes.items[at]);
        if node.ends >> end & 1 == 0 {
            return 0;
        }
        let rank = below(node.ends, end);
        let old = self.values.items[(node.values + rank) as usize];
        self.nodes.items[at].values = self.values.narrow(node.values, node.ends.count_ones(), rank);
        self.nodes.items[at].ends &= !(1 << end);
        while self.nodes.items[at].ends == 0 && self.nodes.items[at].goes_on == 0 {
            let Some((parent, slot)) = way.pop() else { return old };
            let node = self.nodes.items[parent];
            let children =
                self.nodes.narrow(node.children, node.goes_on.count_ones(), below(node.goes_on, slot));
            self.nodes.items[parent].children = children;
            self.nodes.items[parent].goes_on &= !(1 << slot);
            at = parent;
        }
        old
    }
}

/// Runs of up to 64 items without gaps in one list; freed runs are used again for runs of the same length.
#[derive(Clone, Debug)]
pub(super) struct Blocks<T> {
    /// The first item is never used, so that 0 is "none".
    pub(super) items: Vec<T>,
    free: Vec<Vec<u32>>,
}

impl<T: Copy + Default> Default for Blocks<T> {
    fn default() -> Self {
        Self { items: vec![T::default()], free: vec![Vec::new(); 65] }
    }
}

impl<T: Copy + Default> Blocks<T> {
    pub(super) fn allocate(&mut self, count: u32) -> u32 {
        let at = self.free[count as usize].pop().unwrap_or_else(|| {
            let at = self.items.len();
            self.items.resize(at + count as usize, T::default());
            u32::try_from(at).unwrap_or(0)
        });
        self.items[at as usize..][..count as usize].fill(T::default());
        at
    }

    pub(super) fn release(&mut self, at: u32, count: u32) {
        if count > 0 {
            self.free[count as usize].push(at);
        }
    }

    /// The run with one more item, `item` at `rank`; the run moves.
    fn widen(&mut self, at: u32, count: u32, rank: u32, item: T) -> u32 {
        let new = self.allocate(count + 1) as usize;
        let (at_, rank_, count_) = (at as usize, rank as usize, count as usize);
        self.items.copy_within(at_..at_ + rank_, new);
        self.items[new + rank_] = item;
        self.items.copy_within(at_ + rank_..at_ + count_, new + rank_ + 1);
        self.release(at, count);
        u32::try_from(new).unwrap_or(0)
    }

    /// The run without the item at `rank`; the run moves.
    fn narrow(&mut self, at: u32, count: u32, rank: u32) -> u32 {
        let new = if count > 1 { self.allocate(count - 1) as usize } else { 0 };
        if count > 1 {
            let (at_, rank_, count_) = (at as usize, rank as usize, count as usize);
            self.items.copy_within(at_..at_ + rank_, new);
            self.items.copy_within(at_ + rank_ + 1..at_ + count_, new + rank_);
        }
        self.release(at, count);
        u32::try_from(new).unwrap_or(0)
    }
}
