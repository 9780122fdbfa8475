//! All flows of one worker: an index of cache-line buckets in front of a slab, both directions of a flow in the index.
//!
//! A bucket holds eight 16-bit tags and eight references. A key may lie in two buckets, chosen by independent halves of a
//! keyed hash, so nobody without the key can fill a bucket on purpose. At 80 % load a key costs 10 bytes: 20 for both
//! directions, 64 + 44 for the flow, 128 in all.
//!
//! Expiry is a sweep: the slab is walked in memory order, a bounded number of entries a turn, so that the whole is seen
//! every few seconds. That costs a flow no bytes for list links, and the walk reads memory in the order in which
//! hardware prefetches it; a timer wheel would jump about. The price is that a flow may live [`SWEEP_SECONDS`] longer than
//! its timeout.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use hashbrown::HashMap;

use super::flow::{self, Cold, Hot, Keys, LIVE, REPLIED, Timeouts, V4};
use crate::flow_key::FlowKey;
use crate::intrinsics::{Seed, hash, hash_words, matching, prefetch};
use crate::path::short::{Glance, Leaves};
use crate::time::Now;

/// In how many seconds the sweep passes every entry.
pub const SWEEP_SECONDS: u64 = 4;
/// Entries looked at in one turn, at most: some microseconds.
const SWEEP_MOST: usize = 512;
/// And removed, which costs more: when a million flows run out at once, no burst waits for longer than these take.
const REMOVE_MOST: u32 = 64;
/// Distinct frontends and NAT addresses that flows of one worker may refer to.
const MAX_ADDRESSES: usize = u16::MAX as usize;
const LANES: usize = 8;

/// Eight places for keys: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; LANES],
    refs: [u32; LANES],
}

/// A key's hash, and where it may lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    first: u32,
    second: u32,
    tag: u16,
    /// For choices that want a hash of the flow (several next hops, random backends).
    pub hash: u32,
}

impl Place {
    pub(crate) const NOWHERE: Self = Self { first: 0, second: 0, tag: 0, hash: 0 };
}

/// A flow and a direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRef(u32);

impl FlowRef {
    /// No flow.
    pub const NONE: Self = Self(0);

    const fn new(index: u32, is_reply: bool) -> Self {
        Self(index << 1 | is_reply as u32)
    }

    #[inline]
    pub const fn index(self) -> u32 {
        self.0 >> 1
    }

    #[inline]
    pub const fn is_reply(self) -> bool {
        self.0 & 1 != 0
    }

    /// The same flow seen from the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A new flow to be remembered.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub keys: Keys,
    pub hot: Hot,
    pub cold: Cold,
}

/// Why a flow could not be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// No room.
    Full,
    /// Its reply key belongs to another flow.
    Collision,
}

#[derive(Debug)]
pub struct FlowTable {
    seed: Seed,
    buckets: Vec<Bucket>,
    /// Entry 0 is never used, so that a zero reference is none.
    hot: Vec<Hot>,
    cold: Vec<Cold>,
    free: Vec<u32>,
    /// Entries from here on were never used.
    high: u32,
    live: u32,
    addresses: Vec<[u32; 4]>,
    /// The number of each of them.
    numbers: HashMap<[u32; 4], u16, ahash::RandomState>,
    half_open: VecDeque<u32>,
    cursor: u32,
    swept: Now,
}

impl FlowTable {
    pub fn new(max_flows: u32, seed: Seed) -> Self {
        let flows = max_flows.clamp(16, 1 << 30) as usize;
        // Two keys a flow at 80 % load: 2.5 places a flow, 8 places a bucket.
        let buckets = (flows * 5).div_ceil(2 * LANES);
        let mut addresses = Vec::with_capacity(MAX_ADDRESSES);
        addresses.push([0; 4]);
        Self {
            seed,
            buckets: vec![Bucket::default(); buckets.max(2)],
            hot: vec![Hot::default(); flows + 1],
            cold: vec![Cold::default(); flows + 1],
            free: Vec::new(),
            high: 1,
            live: 0,
            addresses,
            // As large as they can become, so that none of them grows under a packet.
            numbers: HashMap::with_capacity_and_hasher(
                MAX_ADDRESSES,
                ahash::RandomState::with_seeds(seed.0[0], seed.0[1], seed.0[2], seed.0[3]),
            ),
            half_open: VecDeque::with_capacity((flows / 4).clamp(16, 1 << 20)),
            cursor: 1,
            swept: Now(0),
        }
    }

    /// Flows now, and at most.
    pub fn occupancy(&self) -> (u32, u32) {
        (self.live, u32::try_from(self.hot.len() - 1).unwrap_or(u32::MAX))
    }

    /// Bytes that one flow costs: entry and its share of the index.
    pub fn bytes_per_flow(&self) -> usize {
        size_of::<Hot>() + size_of::<Cold>() + self.buckets.len() * size_of::<Bucket>() / (self.hot.len() - 1)
    }

    /// Where this key may lie.
    #[inline]
    pub fn place(&self, key: &FlowKey) -> Place {
        self.spread(hash(key, &self.seed))
    }

    /// The same for a packet that was only glanced at.
    #[inline]
    pub(crate) fn place_of(&self, glance: &Glance) -> Place {
        let ports = (glance.sport, glance.dport, glance.proto);
        self.spread(hash_words(&glance.src, &glance.dst, ports, glance.v4, &self.seed))
    }

    #[inline]
    fn spread(&self, [low, high]: [u64; 2]) -> Place {
        let count = self.buckets.len() as u64;
        let first = scale(low, count);
        let second = scale(high, count);
        let top = |word: u64| word.to_be_bytes();
        let [a, b, c, d, ..] = top(low);
        let [e, f, ..] = top(high);
        Place { first, second, tag: u16::from_be_bytes([e, f]) | 1, hash: u32::from_be_bytes([a, b, c, d]) }
    }

    #[inline]
    pub fn prefetch_bucket(&self, place: &Place) {
        prefetch(&self.buckets[place.first as usize]);
    }

    /// A flow is about to be made whose replies will have this key: start fetching what that will write to.
    #[inline]
    pub(crate) fn expect(&self, reply: &FlowKey) {
        let place = self.place(reply);
        prefetch(&self.buckets[place.first as usize]);
        prefetch(&self.buckets[place.second as usize]);
        let next = self.free.last().copied().unwrap_or(self.high) as usize;
        if let (Some(hot), Some(cold)) = (self.hot.get(next), self.cold.get(next)) {
            prefetch(hot);
            prefetch(cold);
        }
    }

    /// A flow with the right tag, most likely the right one; its line is being fetched. Check with [`Self::verify`].
    #[inline]
    pub fn candidate(&self, place: &Place, v4: bool) -> FlowRef {
        for bucket in [place.first, place.second] {
            let bucket = &self.buckets[bucket as usize];
            let bits = matching(&bucket.tags, place.tag);
            if bits != 0 {
                let found = FlowRef(bucket.refs[bits.trailing_zeros() as usize]);
                prefetch(&self.hot[found.index() as usize]);
                if !v4 {
                    // Its counts do not fit the line.
                    prefetch(&self.cold[found.index() as usize]);
                }
                return found;
            }
        }
        FlowRef::NONE
    }

    /// The flow of this key: the candidate if it is right, else whatever a full search finds.
    #[inline]
    pub fn verify(&self, key: &FlowKey, place: &Place, candidate: FlowRef) -> Option<FlowRef> {
        if candidate != FlowRef::NONE && self.matches(candidate, key) {
            return Some(candidate);
        }
        self.search(key, place)
    }

    pub fn find(&self, key: &FlowKey) -> Option<FlowRef> {
        self.search(key, &self.place(key))
    }

    /// Looked at again even where there was no candidate: a packet earlier in the burst may have made the flow.
    #[cold]
    fn search(&self, key: &FlowKey, place: &Place) -> Option<FlowRef> {
        [place.first, place.second].iter().find_map(|bucket| {
            let bucket = &self.buckets[*bucket as usize];
            let mut bits = matching(&bucket.tags, place.tag);
            while bits != 0 {
                let found = FlowRef(bucket.refs[bits.trailing_zeros() as usize]);
                if self.matches(found, key) {
                    return Some(found);
                }
                bits &= bits - 1;
            }
            None
        })
    }

    /// Is this the flow and direction of the key?
    #[inline]
    fn matches(&self, found: FlowRef, key: &FlowKey) -> bool {
        let (src, dst) = (flow::words(key.src, key.v4), flow::words(key.dst, key.v4));
        let hot = self.hot(found);
        let (src, dst) = ((&src, key.sport), (&dst, key.dport));
        is_between(hot, &self.addresses, found.is_reply(), src, dst, (key.proto, key.v4))
    }

    /// All that the short way needs of a flow, if it is the flow and direction of the packet.
    #[inline(always)]
    pub(crate) fn entry_of(&mut self, found: FlowRef, glance: &Glance) -> Option<Entry<'_>> {
        let index = found.index() as usize;
        let hot = self.hot.get_mut(index)?;
        let (src, dst) = ((&glance.src, glance.sport), (&glance.dst, glance.dport));
        is_between(hot, &self.addresses, found.is_reply(), src, dst, (glance.proto, glance.v4))
            .then_some(Entry { hot, cold: &mut self.cold, index, addresses: &self.addresses })
    }

    #[inline]
    pub fn hot(&self, flow: FlowRef) -> &Hot {
        &self.hot[flow.index() as usize]
    }

    #[inline]
    pub fn parts(&mut self, flow: FlowRef) -> (&mut Hot, &mut Cold) {
        let index = flow.index() as usize;
        (&mut self.hot[index], &mut self.cold[index])
    }

    pub fn cold(&self, flow: FlowRef) -> &Cold {
        &self.cold[flow.index() as usize]
    }

    /// What packets of this direction look like when they leave.
    #[inline]
    pub fn leaves_as(&self, flow: FlowRef) -> FlowKey {
        let (hot, Leaves { src, dst, sport, dport }) = (self.hot(flow), self.leaves(flow));
        let v4 = hot.is(V4);
        FlowKey {
            src: flow::address(*src, v4),
            dst: flow::address(*dst, v4),
            sport,
            dport,
            proto: hot.proto,
            v4,
        }
    }

    #[inline(always)]
    fn leaves(&self, flow: FlowRef) -> Leaves<'_> {
        leaves(self.hot(flow), &self.addresses, flow.is_reply())
    }

    /// Both keys of a flow.
    pub fn keys(&self, flow: FlowRef) -> Keys {
        let index = flow.index();
        Keys {
            original: self.leaves_as(FlowRef::new(index, true)).reverse(),
            translated: self.leaves_as(FlowRef::new(index, false)),
        }
    }

    /// Remember a flow under both its keys. The addresses of `new.hot` are filled in here.
    pub fn insert(&mut self, new: &NewFlow, now: Now) -> Result<FlowRef, InsertError> {
        let (original, reply) = (new.keys.original, new.keys.translated.reverse());
        let places = [self.place(&original), self.place(&reply)];
        if self.search(&reply, &places[1]).is_some() {
            return Err(InsertError::Collision);
        }
        let mut hot = new.hot;
        self.fill_addresses(&mut hot, &new.keys).ok_or(InsertError::Full)?;
        let index = self.allocate().ok_or(InsertError::Full)?;
        hot.flags |= LIVE;
        hot.seen = now.seconds();
        self.hot[index as usize] = hot;
        self.cold[index as usize] = new.cold;
        self.cold[index as usize].created = now.seconds();
        for (place, is_reply) in places.iter().zip([false, true]) {
            if !self.link(place, FlowRef::new(index, is_reply)) {
                self.unlink(&original, FlowRef::new(index, false));
                self.give_back(index);
                return Err(InsertError::Full);
            }
        }
        self.live += 1;
        if hot.proto != crate::parse::TCP || hot.tcp().half_open() {
            self.remember_half_open(index);
        }
        Ok(FlowRef::new(index, false))
    }

    fn fill_addresses(&mut self, hot: &mut Hot, keys: &Keys) -> Option<()> {
        let v4 = keys.original.v4;
        hot.flags = if v4 { hot.flags | V4 } else { hot.flags & !V4 };
        hot.proto = keys.original.proto;
        let (a, d) = (flow::words(keys.original.src, v4), flow::words(keys.translated.dst, v4));
        hot.outer = [a, d];
        hot.middle = [self.number(keys.original.dst, d, v4)?, self.number(keys.translated.src, a, v4)?];
        hot.outer_ports = [keys.original.sport, keys.translated.dport];
        hot.middle_ports = [keys.original.dport, keys.translated.sport];
        Some(())
    }

    /// The number of an address in the list of those in the middle. The list only grows: it holds frontends and NAT
    /// addresses, which are few.
    fn number(&mut self, ip: Ipv6Addr, same: [u32; 4], v4: bool) -> Option<u16> {
        let words = flow::words(ip, v4);
        if words == same {
            return Some(0);
        }
        if let Some(number) = self.numbers.get(&words) {
            return Some(*number);
        }
        let number = u16::try_from(self.addresses.len()).ok().filter(|n| usize::from(*n) < MAX_ADDRESSES)?;
        self.addresses.push(words);
        self.numbers.insert(words, number);
        Some(number)
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if (self.high as usize) < self.hot.len() {
            self.high += 1;
            return Some(self.high - 1);
        }
        None
    }

    /// The flow that has waited longest for its other side; the caller removes it. `None`: there is none we know of.
    pub fn longest_half_open(&mut self) -> Option<FlowRef> {
        // Bounded: entries that have become something since are skipped, but not for ever.
        for _ in 0..64 {
            let index = self.half_open.pop_front()?;
            let hot = &self.hot[index as usize];
            let waiting =
                if hot.proto == crate::parse::TCP { hot.tcp().half_open() } else { !hot.is(REPLIED) };
            if hot.is(LIVE) && waiting {
                return Some(FlowRef::new(index, false));
            }
        }
        None
    }

    fn remember_half_open(&mut self, index: u32) {
        // The list is as long as memory was set aside for; the oldest are forgotten, not the newest.
        if self.half_open.len() == self.half_open.capacity() {
            self.half_open.pop_front();
        }
        self.half_open.push_back(index);
    }

    /// Put a reference into one of the key's two buckets, moving another key to its second bucket if need be.
    fn link(&mut self, place: &Place, reference: FlowRef) -> bool {
        let free = |bucket: u32| matching(&self.buckets[bucket as usize].tags, 0).count_ones();
        let (first, second) = (free(place.first), free(place.second));
        // The first bucket is the one that look-ups have prefetched: prefer it unless it is much fuller.
        let best = if first + 2 < second || first == 0 { place.second } else { place.first };
        self.put(best, place.tag, reference) || self.make_room(place, reference)
    }

    fn put(&mut self, bucket: u32, tag: u16, reference: FlowRef) -> bool {
        let bucket = &mut self.buckets[bucket as usize];
        // A tag is never zero but where nothing lies.
        let lane = matching(&bucket.tags, 0).trailing_zeros() as usize;
        if lane >= LANES {
            return false;
        }
        bucket.refs[lane] = reference.0;
        bucket.tags[lane] = tag;
        true
    }

    #[cold]
    fn make_room(&mut self, place: &Place, reference: FlowRef) -> bool {
        for bucket in [place.first, place.second] {
            for lane in 0..LANES {
                let moved = FlowRef(self.buckets[bucket as usize].refs[lane]);
                let other = self.place(&self.key_of(moved));
                let target = if other.first == bucket { other.second } else { other.first };
                if target != bucket && self.put(target, other.tag, moved) {
                    self.buckets[bucket as usize].refs[lane] = reference.0;
                    self.buckets[bucket as usize].tags[lane] = place.tag;
                    return true;
                }
            }
        }
        false
    }

    /// The key under which a reference lies in the index.
    fn key_of(&self, reference: FlowRef) -> FlowKey {
        self.leaves_as(reference.other()).reverse()
    }

    fn unlink(&mut self, key: &FlowKey, reference: FlowRef) {
        let place = self.place(key);
        for bucket in [place.first, place.second] {
            let bucket = &mut self.buckets[bucket as usize];
            if let Some(lane) = bucket.refs.iter().position(|r| *r == reference.0) {
                bucket.refs[lane] = 0;
                bucket.tags[lane] = 0;
                return;
            }
        }
    }

    /// Forget a flow.
    pub fn remove(&mut self, flow: FlowRef) {
        let index = flow.index();
        for is_reply in [false, true] {
            let reference = FlowRef::new(index, is_reply);
            self.unlink(&self.key_of(reference), reference);
        }
        self.give_back(index);
        self.live -= 1;
    }

    fn give_back(&mut self, index: u32) {
        self.hot[index as usize] = Hot::default();
        self.free.push(index);
    }

    /// Look at as many entries as time asks for; the expired ones are shown to `ended` and removed.
    pub fn sweep(&mut self, now: Now, timeouts: &Timeouts, mut ended: impl FnMut(&Self, FlowRef)) -> u32 {
        let elapsed = now.0.saturating_sub(self.swept.0).min(SWEEP_SECONDS * Now::SECOND);
        let due = elapsed * u64::from(self.high) / (SWEEP_SECONDS * Now::SECOND);
        if due == 0 {
            return 0;
        }
        self.swept = now;
        let mut removed = 0;
        for _ in 0..usize::try_from(due).map_or(SWEEP_MOST, |due| due.min(SWEEP_MOST)) {
            let index = self.cursor;
            self.cursor = if index + 1 >= self.high { 1 } else { index + 1 };
            let hot = &self.hot[index as usize];
            if hot.is(LIVE) && now.seconds().saturating_sub(hot.seen) > timeouts.of(hot) {
                let flow = FlowRef::new(index, false);
                ended(self, flow);
                self.remove(flow);
                removed += 1;
                if removed >= REMOVE_MOST {
                    break;
                }
            }
        }
        removed
    }

    /// All flows, in memory order, from this entry on; with each the entry to go on from.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, FlowRef)> + '_ {
        (start.max(1)..self.high)
            .filter(|index| self.hot[*index as usize].is(LIVE))
            .map(|index| (index + 1, FlowRef::new(index, false)))
    }
}

/// A flow in the hands of the short way.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub hot: &'a mut Hot,
    cold: &'a mut [Cold],
    index: usize,
    addresses: &'a [[u32; 4]],
}

impl Entry<'_> {
    #[inline(always)]
    pub(crate) fn count(&mut self, is_reply: bool, len: usize) {
        if let Some(cold) = self.cold.get_mut(self.index) {
            self.hot.count(cold, is_reply, len);
        }
    }

    #[inline(always)]
    pub(crate) fn leaves(&self, is_reply: bool) -> Leaves<'_> {
        leaves(self.hot, self.addresses, is_reply)
    }
}

/// Does the direction of the flow lead from here to there?
#[inline(always)]
fn is_between(
    hot: &Hot,
    addresses: &[[u32; 4]],
    is_reply: bool,
    (src, sport): (&[u32; 4], u16),
    (dst, dport): (&[u32; 4], u16),
    (proto, v4): (u8, bool),
) -> bool {
    let (near, far) = (usize::from(is_reply), usize::from(!is_reply));
    let from = &hot.outer[near];
    let to = middle(addresses, hot.middle[near], &hot.outer[far]);
    let family = if v4 { V4 | LIVE } else { LIVE };
    from[0] == src[0]
        && to[0] == dst[0]
        && hot.outer_ports[near] == sport
        && hot.middle_ports[near] == dport
        && hot.proto == proto
        && hot.flags & (V4 | LIVE) == family
        && (v4 || (from[1..] == src[1..] && to[1..] == dst[1..]))
}

#[inline(always)]
fn leaves<'a>(hot: &'a Hot, addresses: &'a [[u32; 4]], is_reply: bool) -> Leaves<'a> {
    let (near, far) = (usize::from(is_reply), usize::from(!is_reply));
    Leaves {
        src: middle(addresses, hot.middle[far], &hot.outer[near]),
        dst: &hot.outer[far],
        sport: hot.middle_ports[far],
        dport: hot.outer_ports[far],
    }
}

/// B or C: by its number, or the same as the outer side.
#[inline(always)]
fn middle<'a>(addresses: &'a [[u32; 4]], number: u16, same: &'a [u32; 4]) -> &'a [u32; 4] {
    if number == 0 { same } else { &addresses[usize::from(number)] }
}

/// The low half of a hash, scaled to `count` choices.
#[inline]
fn scale(hash: u64, count: u64) -> u32 {
    (((hash & 0xffff_ffff) * count) >> 32) as u32
}

#[cfg(test)]
mod tests;
