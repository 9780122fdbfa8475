//! IPv6: a hash table for each of six anchor lengths, longest first, and a trie for the lengths between two anchors. All but
//! the first ask for no more than half an address, so that a key and what it holds are a quarter of a line. A lookup begins
//! in the middle: a site (/48) says whether there is anything longer in it, so that most addresses ask for one or two keys.
//!
//! Most prefixes are as long as an anchor (/128 hosts, /64 links, /48 sites, /32 providers): they cost one memory access.
//! An entry exists for an anchor's key as soon as any prefix lies below it; what is longer than the anchor and shorter
//! than the next one is in a trie of six bits a step (a "tree bitmap"), whose nodes and values lie in blocks without gaps.

use alloc::vec;
use alloc::vec::Vec;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use super::{Hashing, hashing};
use crate::tables::open::{Held, Key, Open, fold};

/// Longest first; the last one holds everything. Hosts (/128) are apart: only their keys need all of an address.
const ANCHORS: [u8; 5] = [64, 48, 32, 16, 0];
const HOST: u8 = 128;

/// The anchor that a lookup begins with, and its place: what is longer is asked for only where there is something longer.
const SITE: u8 = 48;
const SITES: usize = 1;

#[derive(Clone, Debug)]
pub(super) struct V6 {
    hosts: Class<Halves>,
    networks: [Class<u64>; ANCHORS.len()],
    /// How many keys of hosts and of /64s each site has: those with any say so in their entry.
    below: HashMap<u64, u32, Hashing>,
}

impl Default for V6 {
    fn default() -> Self {
        let below = HashMap::with_hasher(hashing());
        Self { hosts: Class::default(), networks: Default::default(), below }
    }
}

/// The mask of an anchor, and what of an address lies behind it as far as the next one, from the top.
const fn mask(anchor: u8) -> u64 {
    if anchor == 0 { 0 } else { u64::MAX << (64 - anchor) }
}

#[inline(always)]
const fn behind((high, low): Halves, anchor: u8) -> u64 {
    if anchor == 64 { low } else { high << anchor }
}

impl V6 {
    #[inline(never)]
    pub(super) fn lookup(&self, ip: u128) -> Option<u32> {
        let ip = halves(ip);
        if let Some(site) = self.networks[SITES].keys.find(ip.0 & mask(SITE)) {
            if site.value & LONGER != 0
                && let Some(value) = self.longer(ip)
            {
                return Some(value);
            }
            if let Some(value) = self.networks[SITES].under(site, behind(ip, SITE)) {
                return Some(value);
            }
        }
        self.networks.iter().zip(ANCHORS).skip(SITES + 1).find_map(|(class, anchor)| class.lookup(ip, anchor))
    }

    /// What is longer than a site.
    #[inline(always)]
    fn longer(&self, ip: Halves) -> Option<u32> {
        match self.hosts.keys.find(ip) {
            Some(host) => host.own(),
            None => self.networks[0].lookup(ip, ANCHORS[0]),
        }
    }

    #[inline(never)]
    pub(super) fn prefetch(&self, ip: u128) {
        let ip = halves(ip);
        if !self.hosts.keys.is_small() {
            self.hosts.keys.prefetch(ip);
        }
        for (class, anchor) in self.networks.iter().zip(ANCHORS) {
            if !class.keys.is_small() {
                class.keys.prefetch(ip.0 & mask(anchor));
            }
        }
    }

    pub(super) fn get(&self, ip: u128, len: u8) -> Option<u32> {
        let ip = halves(ip);
        if len == HOST {
            return self.hosts.get(ip, 0, 0);
        }
        let (n, anchor) = class_of(len);
        self.networks[n].get(ip.0 & mask(anchor), behind(ip, anchor), len - anchor)
    }

    pub(super) fn insert(&mut self, ip: u128, len: u8, value: u32) -> Option<u32> {
        let (ip, before) = (halves(ip), self.keys_below());
        let old = if len == HOST {
            self.hosts.insert(ip, 0, 0, value)
        } else {
            let (n, anchor) = class_of(len);
            self.networks[n].insert(ip.0 & mask(anchor), behind(ip, anchor), len - anchor, value)
        };
        self.tell_site(ip, before);
        old
    }

    pub(super) fn remove(&mut self, ip: u128, len: u8) -> Option<u32> {
        let (ip, before) = (halves(ip), self.keys_below());
        let old = if len == HOST {
            self.hosts.remove(ip, 0, 0)
        } else {
            let (n, anchor) = class_of(len);
            self.networks[n].remove(ip.0 & mask(anchor), behind(ip, anchor), len - anchor)
        };
        self.tell_site(ip, before);
        old
    }

    fn keys_below(&self) -> usize {
        self.hosts.keys.len() + self.networks[0].keys.len()
    }

    /// A key below this address's site may have come or gone.
    fn tell_site(&mut self, ip: Halves, before: usize) {
        let (now, key) = (self.keys_below(), ip.0 & mask(SITE));
        let sites = &mut self.networks[SITES].keys;
        if now > before {
            *self.below.entry(key).or_insert(0) += 1;
            sites.make(key).value |= LONGER;
        } else if now < before
            && let Some(count) = self.below.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.below.remove(&key);
                if let Some(site) = sites.find_mut(key) {
                    site.value &= !LONGER;
                    if site.is_nothing() {
                        sites.remove(key);
                    }
                }
            }
        }
    }
}

fn class_of(len: u8) -> (usize, u8) {
    let n = ANCHORS.iter().position(|anchor| *anchor <= len).unwrap_or(ANCHORS.len() - 1);
    (n, ANCHORS[n])
}

/// The prefixes from one anchor up to the next.
#[derive(Clone, Debug)]
struct Class<K> {
    keys: Open<K, Entry>,
    trie: Trie,
}

impl<K> Default for Class<K> {
    fn default() -> Self {
        Self { keys: Open::default(), trie: Trie::default() }
    }
}

impl Class<u64> {
    #[inline(always)]
    fn lookup(&self, ip: Halves, anchor: u8) -> Option<u32> {
        self.under(self.keys.find(ip.0 & mask(anchor))?, behind(ip, anchor))
    }
}

/// In these, `rest` is what follows the anchor, and `len` how much longer than the anchor the prefix is.
impl<K: Key> Class<K> {
    /// What of an entry holds an address that goes on like this.
    #[inline(always)]
    fn under(&self, entry: &Entry, rest: u64) -> Option<u32> {
        if entry.root != 0
            && let Some(value) = self.trie.lookup(entry.root, rest)
        {
            return Some(value);
        }
        entry.own()
    }

    fn get(&self, key: K, rest: u64, len: u8) -> Option<u32> {
        let entry = self.keys.find(key)?;
        if len == 0 {
            return entry.own();
        }
        (entry.root != 0).then(|| self.trie.get(entry.root, rest, len))?
    }

    fn insert(&mut self, key: K, rest: u64, len: u8, value: u32) -> Option<u32> {
        let entry = self.keys.make(key);
        if len == 0 {
            let old = entry.own();
            entry.value = entry.value & LONGER | (value + 1);
            return old;
        }
        if entry.root == 0 {
            entry.root = self.trie.nodes.allocate(1);
        }
        let root = entry.root;
        self.trie.insert(root, rest, len, value)
    }

    fn remove(&mut self, key: K, rest: u64, len: u8) -> Option<u32> {
        let entry = self.keys.find_mut(key)?;
        let old = if len == 0 {
            let old = entry.own();
            entry.value &= LONGER;
            old
        } else if entry.root != 0 {
            let (old, empty) = self.trie.remove(entry.root, rest, len);
            if empty {
                self.trie.nodes.release(entry.root, 1);
                entry.root = 0;
            }
            old
        } else {
            None
        };
        if entry.is_nothing() {
            self.keys.remove(key);
        }
        old
    }
}

/// What lies at one anchor's key.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Of the prefix that is as long as the anchor, plus one; and [`LONGER`].
    value: u32,
    /// Of the trie with what is longer; 0: none.
    root: u32,
}

/// There is a longer key below this site.
const LONGER: u32 = 1 << 31;

impl Entry {
    /// What the prefix that is as long as the anchor has.
    #[inline(always)]
    const fn own(&self) -> Option<u32> {
        (self.value & !LONGER).checked_sub(1)
    }
}

impl Held for Entry {
    #[inline]
    fn is_nothing(&self) -> bool {
        self.value == 0 && self.root == 0
    }
}

/// An address's upper and lower half.
type Halves = (u64, u64);

#[expect(clippy::cast_possible_truncation, reason = "splits 128 bits into halves")]
const fn halves(key: u128) -> Halves {
    ((key >> 64) as u64, key as u64)
}

impl Key for Halves {
    #[inline]
    fn mixed(self) -> u64 {
        fold(self.0, self.1)
    }
}

impl Key for u64 {
    #[inline]
    fn mixed(self) -> u64 {
        fold(self, 0)
    }
}

/// Bits that one node takes.
const STRIDE: u8 = 6;

/// Six bits of a prefix: which prefixes end here (bit `2^n - 1 + bits` for one with n bits left), which go on.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
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

#[derive(Clone, Debug, Default)]
struct Trie {
    nodes: Blocks<Node>,
    values: Blocks<u32>,
}

impl Trie {
    #[inline]
    fn lookup(&self, root: u32, mut rest: u64) -> Option<u32> {
        let mut node = &self.nodes.items[root as usize];
        let mut best = None;
        loop {
            let slot = step(rest);
            let ends = node.ends & HOLDERS[slot as usize];
            if ends != 0 {
                best = Some(node.values + below(node.ends, 63 - ends.leading_zeros()));
            }
            if node.goes_on >> slot & 1 == 0 {
                return best.map(|at| self.values.items[at as usize]);
            }
            node = &self.nodes.items[(node.children + below(node.goes_on, slot)) as usize];
            rest <<= STRIDE;
        }
    }

    fn get(&self, root: u32, mut rest: u64, mut len: u8) -> Option<u32> {
        let mut node = &self.nodes.items[root as usize];
        while len >= STRIDE {
            let slot = step(rest);
            if node.goes_on >> slot & 1 == 0 {
                return None;
            }
            node = &self.nodes.items[(node.children + below(node.goes_on, slot)) as usize];
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let end = end(rest, len);
        (node.ends >> end & 1 != 0).then(|| self.values.items[(node.values + below(node.ends, end)) as usize])
    }

    fn insert(&mut self, root: u32, mut rest: u64, mut len: u8, value: u32) -> Option<u32> {
        let mut at = root as usize;
        while len >= STRIDE {
            at = self.child(at, step(rest));
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let end = end(rest, len);
        let node = &mut self.nodes.items[at];
        let rank = below(node.ends, end);
        if node.ends >> end & 1 != 0 {
            return Some(core::mem::replace(&mut self.values.items[(node.values + rank) as usize], value));
        }
        node.values = self.values.widen(node.values, node.ends.count_ones(), rank, value);
        node.ends |= 1 << end;
        None
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

    /// What was there, and whether the root holds nothing any more.
    fn remove(&mut self, root: u32, mut rest: u64, mut len: u8) -> (Option<u32>, bool) {
        let mut way: ArrayVec<(usize, u32), 11> = ArrayVec::new();
        let mut at = root as usize;
        while len >= STRIDE {
            let (node, slot) = (&self.nodes.items[at], step(rest));
            if node.goes_on >> slot & 1 == 0 {
                return (None, false);
            }
            way.push((at, slot));
            at = (node.children + below(node.goes_on, slot)) as usize;
            (rest, len) = (rest << STRIDE, len - STRIDE);
        }
        let (end, node) = (end(rest, len), self.nodes.items[at]);
        if node.ends >> end & 1 == 0 {
            return (None, false);
        }
        let rank = below(node.ends, end);
        let old = self.values.items[(node.values + rank) as usize];
        self.nodes.items[at].values = self.values.narrow(node.values, node.ends.count_ones(), rank);
        self.nodes.items[at].ends &= !(1 << end);
        while self.nodes.items[at].ends == 0 && self.nodes.items[at].goes_on == 0 {
            let Some((parent, slot)) = way.pop() else { return (Some(old), true) };
            let node = self.nodes.items[parent];
            let children =
                self.nodes.narrow(node.children, node.goes_on.count_ones(), below(node.goes_on, slot));
            self.nodes.items[parent].children = children;
            self.nodes.items[parent].goes_on &= !(1 << slot);
            at = parent;
        }
        (Some(old), false)
    }
}

/// Runs of up to 64 items without gaps in one list; freed runs are used again for runs of the same length.
#[derive(Clone, Debug)]
struct Blocks<T> {
    /// The first item is never used, so that 0 is "none".
    items: Vec<T>,
    free: Vec<Vec<u32>>,
}

impl<T: Copy + Default> Default for Blocks<T> {
    fn default() -> Self {
        Self { items: vec![T::default()], free: vec![Vec::new(); 65] }
    }
}

impl<T: Copy + Default> Blocks<T> {
    fn allocate(&mut self, count: u32) -> u32 {
        let at = self.free[count as usize].pop().unwrap_or_else(|| {
            let at = self.items.len();
            self.items.resize(at + count as usize, T::default());
            u32::try_from(at).unwrap_or(0)
        });
        self.items[at as usize..][..count as usize].fill(T::default());
        at
    }

    fn release(&mut self, at: u32, count: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_leaves_its_room_to_others() {
        let mut table = V6::default();
        let prefixes: Vec<(u128, u8)> = (0..2000_u32)
            .map(|n| {
                let len = u8::try_from(n % 129).unwrap();
                let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                (u128::from(n.wrapping_mul(0x9e37_79b1)).rotate_left(96 - n % 90) & !host, len)
            })
            .collect();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            for (ip, len) in &prefixes {
                table.insert(*ip, *len, 7);
            }
            for (ip, len) in &prefixes {
                table.remove(*ip, *len);
            }
            let room = |class: &Class<u64>| {
                assert!(class.keys.is_empty());
                (class.keys.room(), class.trie.nodes.items.len(), class.trie.values.items.len())
            };
            assert!(table.hosts.keys.is_empty() && table.below.is_empty());
            let hosts = (table.hosts.keys.room(), 0, 0);
            sizes.push(table.networks.iter().map(room).chain([hosts]).collect::<Vec<_>>());
        }
        assert_eq!(sizes[1], sizes[0]);
        assert_eq!(sizes[2], sizes[0]);
        assert!(sizes[0].iter().any(|(_, nodes, _)| *nodes > 100), "tries were needed: {sizes:?}");
    }
}
