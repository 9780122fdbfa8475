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

mod entry;
mod insert;
mod sweep;
mod waiting;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use super::flow::{self, Cold, Hot, Keys, LIVE, REPLIED, V4};
use crate::flow_key::FlowKey;
use crate::intrinsics::{Seed, hash, hash_v4, hash_v6, matching, prefetch, rest};
use crate::lines::Lines;
use crate::parse::TCP;
use crate::time::Now;

use entry::arrives_v6;
pub(crate) use entry::{Entry, differ};
pub use sweep::SWEEP_SECONDS;
use waiting::Waiting;

/// Distinct frontends and NAT addresses that flows of one worker may refer to.
const MAX_ADDRESSES: usize = u16::MAX as usize;
/// So many have numbers that are in some cache whenever they are in use.
const FEW_ADDRESSES: usize = 256;
const LANES: usize = 8;

/// Eight places for keys: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; LANES],
    refs: [u32; LANES],
}

/// The hash of a key, which says where it may lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place([u64; 2]);

impl Place {
    pub(crate) const NOWHERE: Self = Self([0; 2]);

    /// For choices that want a hash of the flow (several next hops, random backends).
    #[inline]
    pub const fn hash(self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// Never zero: that is the tag of nothing.
    #[inline(always)]
    const fn tag(self) -> u16 {
        (self.0[1] >> 48) as u16 | 1
    }
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
    /// Those that entries of IPv6 flows have a number of.
    addresses: Vec<[u64; 2]>,
    /// The number of each of them.
    numbers: Lines<[u64; 2], 3>,
    half_open: Waiting,
    cursor: u32,
    swept: Now,
    /// The last turn of the sweep left something to the next.
    behind: bool,
}

impl FlowTable {
    pub fn new(max_flows: u32, seed: Seed) -> Self {
        let flows = max_flows.clamp(16, 1 << 30) as usize;
        // Two keys a flow at 80 % load: 2.5 places a flow, 8 places a bucket.
        let buckets = (flows * 5).div_ceil(2 * LANES);
        let mut addresses: Vec<[u64; 2]> = touched([u64::MAX; 2], MAX_ADDRESSES).into();
        addresses.push([0; 2]);
        Self {
            seed,
            buckets: vec![Bucket::default(); buckets.max(2)],
            hot: vec![Hot::default(); flows + 1],
            cold: vec![Cold::default(); flows + 1],
            // As long as it can become: nothing is moved when many flows end at once.
            free: touched(u32::MAX, flows).into(),
            high: 1,
            live: 0,
            addresses,
            // As large as they can become, so that none of them grows under a packet.
            numbers: Lines::with_room(MAX_ADDRESSES, seed),
            half_open: Waiting::new((flows / 4).clamp(16, 1 << 20)),
            cursor: 1,
            swept: Now(0),
            behind: false,
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
        Place(hash(key, &self.seed))
    }

    /// The same for words as they stand in an IPv4 packet.
    #[inline(always)]
    pub(crate) fn place_v4(&self, addresses: u64, rest: u64) -> Place {
        Place(hash_v4(addresses, rest, &self.seed))
    }

    #[inline(always)]
    pub(crate) fn place_v6(&self, src: [u64; 2], dst: [u64; 2], rest: u64) -> Place {
        Place(hash_v6(src, dst, rest, &self.seed))
    }

    /// The bucket that a key is looked for first, as an index.
    #[inline(always)]
    fn first(&self, place: &Place) -> u32 {
        scale(place.0[0], self.buckets.len() as u64)
    }

    #[inline(always)]
    fn second(&self, place: &Place) -> u32 {
        scale(place.0[1], self.buckets.len() as u64)
    }

    #[inline(always)]
    fn both(&self, place: &Place) -> [u32; 2] {
        [self.first(place), self.second(place)]
    }

    #[inline(always)]
    pub fn prefetch_bucket(&self, place: &Place) {
        prefetch(&self.buckets[self.first(place) as usize]);
    }

    /// The other one is needed, too, where there is no flow yet.
    #[inline]
    pub(crate) fn prefetch_second(&self, place: &Place) {
        prefetch(&self.buckets[self.second(place) as usize]);
    }

    /// Some flows are about to be made, and after `before` of them one whose replies will have this key: start fetching what
    /// it will write to. Where that key may lie.
    #[inline]
    pub(crate) fn expect(&self, reply: &FlowKey, before: usize) -> Place {
        let place = self.place(reply);
        self.prefetch_bucket(&place);
        self.prefetch_second(&place);
        let free = self.free.len();
        let next = if before < free {
            self.free[free - 1 - before] as usize
        } else {
            self.high as usize + (before - free)
        };
        if let (Some(hot), Some(cold)) = (self.hot.get(next), self.cold.get(next)) {
            prefetch(hot);
            prefetch(cold);
        }
        place
    }

    /// The same for the number of what an IPv6 flow asks for, where such addresses are many.
    #[inline(always)]
    pub(crate) fn expect_number(&self, ip: Ipv6Addr) {
        if self.addresses.len() > FEW_ADDRESSES {
            self.numbers.prefetch(flow::halves(ip));
        }
    }

    /// A flow with the right tag, most likely the right one; its line is being fetched. Check with [`Self::verify`].
    #[inline]
    pub fn candidate(&self, place: &Place, v4: bool) -> FlowRef {
        self.in_first(place, v4).unwrap_or_else(|| self.in_second(place, v4))
    }

    /// The same, if it is in the bucket that is looked at first.
    #[inline(always)]
    pub(crate) fn in_first(&self, place: &Place, v4: bool) -> Option<FlowRef> {
        self.tagged(self.first(place), place.tag(), v4)
    }

    #[inline]
    pub(crate) fn in_second(&self, place: &Place, v4: bool) -> FlowRef {
        self.tagged(self.second(place), place.tag(), v4).unwrap_or(FlowRef::NONE)
    }

    #[inline(always)]
    fn tagged(&self, bucket: u32, tag: u16, v4: bool) -> Option<FlowRef> {
        let bucket = &self.buckets[bucket as usize];
        let bits = matching(&bucket.tags, tag);
        if bits == 0 {
            return None;
        }
        let found = FlowRef(bucket.refs[bits.trailing_zeros() as usize % LANES]);
        if let Some(hot) = self.hot.get(found.index() as usize) {
            prefetch(hot);
        }
        if !v4 && let Some(cold) = self.cold.get(found.index() as usize) {
            // Its counts do not fit the line, and may lie on two others.
            prefetch(&cold.packets);
            prefetch(&cold.bytes[1]);
        }
        Some(found)
    }

    /// The flow of this key: the candidate if it is right, else whatever a full search finds.
    #[inline]
    pub fn verify(&self, key: &FlowKey, place: &Place, candidate: FlowRef) -> Option<FlowRef> {
        if candidate != FlowRef::NONE && self.matches(candidate, key) {
            return Some(candidate);
        }
        self.search(key, place)
    }

    /// The flow of this key, which may lie there.
    #[inline(always)]
    pub(crate) fn find_at(&self, key: &FlowKey, place: &Place) -> Option<FlowRef> {
        if self.has_alike(place) { self.search(key, place) } else { None }
    }

    /// Is there a key with this one's tag where it may lie?
    #[inline(always)]
    fn has_alike(&self, place: &Place) -> bool {
        let [first, second] = self.both(place).map(|bucket| &self.buckets[bucket as usize].tags);
        matching(first, place.tag()) | matching(second, place.tag()) != 0
    }

    pub fn find(&self, key: &FlowKey) -> Option<FlowRef> {
        self.search(key, &self.place(key))
    }

    /// Looked at again even where there was no candidate: a packet earlier in the burst may have made the flow.
    #[cold]
    fn search(&self, key: &FlowKey, place: &Place) -> Option<FlowRef> {
        for bucket in self.both(place) {
            let bucket = &self.buckets[bucket as usize];
            let mut bits = matching(&bucket.tags, place.tag());
            while bits != 0 {
                let found = FlowRef(bucket.refs[bits.trailing_zeros() as usize % LANES]);
                if self.matches(found, key) {
                    return Some(found);
                }
                bits &= bits - 1;
            }
        }
        None
    }

    /// Is this the flow and direction of the key?
    #[inline]
    fn matches(&self, found: FlowRef, key: &FlowKey) -> bool {
        let (hot, side) = (self.hot(found), usize::from(found.is_reply()));
        let family = if key.v4 { V4 | LIVE } else { LIVE };
        let stranger = if key.v4 {
            hot.sides[side][0] ^ flow::pair(key.src, key.dst)
        } else {
            differ(arrives_v6(hot, &self.addresses, side), [flow::halves(key.src), flow::halves(key.dst)])
        };
        stranger == 0
            && hot.ports[side] == flow::ports(key.sport, key.dport)
            && hot.proto == key.proto
            && hot.flags & (V4 | LIVE) == family
    }

    /// All that the short way needs of what it takes for the flow of a packet.
    #[inline(always)]
    pub(crate) fn entry(&mut self, found: FlowRef) -> Option<Entry<'_>> {
        let index = found.index() as usize;
        let hot = self.hot.get_mut(index)?;
        Some(Entry { hot, cold: &mut self.cold, index, addresses: &self.addresses })
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
        let (hot, other) = (self.hot(flow), usize::from(!flow.is_reply()));
        let v4 = hot.is(V4);
        let (src, dst) = if v4 {
            flow::addresses(hot.sides[other][0])
        } else {
            let [src, dst] = arrives_v6(hot, &self.addresses, other);
            (flow::address(src), flow::address(dst))
        };
        let (sport, dport) = flow::two_ports(hot.ports[other]);
        FlowKey { src, dst, sport, dport, proto: hot.proto, v4 }.reverse()
    }

    /// Both keys of a flow.
    pub fn keys(&self, flow: FlowRef) -> Keys {
        let index = flow.index();
        Keys {
            original: self.leaves_as(FlowRef::new(index, true)).reverse(),
            translated: self.leaves_as(FlowRef::new(index, false)),
        }
    }

    /// The flow that has waited longest for its other side; the caller removes it. `None`: there is none we know of.
    pub fn longest_half_open(&mut self) -> Option<FlowRef> {
        // Bounded: entries that have become something since are skipped, but not for ever.
        for _ in 0..64 {
            let index = self.half_open.take()?;
            let hot = &self.hot[index as usize];
            let waiting = if hot.proto == TCP { hot.tcp().half_open() } else { !hot.is(REPLIED) };
            if hot.is(LIVE) && waiting {
                return Some(FlowRef::new(index, false));
            }
        }
        None
    }

    /// Where the key under which a reference lies in the index may lie.
    #[inline]
    fn place_of(&self, reference: FlowRef) -> Place {
        let (hot, side) = (self.hot(reference), usize::from(reference.is_reply()));
        let rest = rest(hot.ports[side], hot.proto);
        if hot.is(V4) {
            return self.place_v4(hot.sides[side][0], rest);
        }
        let [src, dst] = arrives_v6(hot, &self.addresses, side);
        self.place_v6(src, dst, rest)
    }

    /// Where both directions of a flow lie.
    #[inline]
    fn places_of(&self, flow: FlowRef) -> [Place; 2] {
        [flow, flow.other()].map(|flow| self.place_of(flow))
    }

    fn unlink(&mut self, place: &Place, reference: FlowRef) {
        for bucket in self.both(place) {
            let bucket = &mut self.buckets[bucket as usize];
            // (By the tag: in which place it lies, no CPU could foresee.)
            let mut bits = matching(&bucket.tags, place.tag());
            while bits != 0 {
                let lane = bits.trailing_zeros() as usize % LANES;
                if bucket.refs[lane] == reference.0 {
                    (bucket.refs[lane], bucket.tags[lane]) = (0, 0);
                    return;
                }
                bits &= bits - 1;
            }
        }
    }

    /// Forget a flow.
    pub fn remove(&mut self, flow: FlowRef) {
        let flow = FlowRef::new(flow.index(), false);
        self.forget(flow, &self.places_of(flow));
    }

    fn forget(&mut self, flow: FlowRef, places: &[Place; 2]) {
        self.unlink(&places[0], flow);
        self.unlink(&places[1], flow.other());
        self.give_back(flow.index());
        self.live -= 1;
    }

    fn give_back(&mut self, index: u32) {
        self.hot[index as usize] = Hot::default();
        self.free.push(index);
    }

    /// All flows, in memory order, from this entry on; with each the entry to go on from.
    pub fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, FlowRef)> + '_ {
        (start.max(1)..self.high)
            .filter(|index| self.hot[*index as usize].is(LIVE))
            .map(|index| (index + 1, FlowRef::new(index, false)))
    }
}

/// Room for so many whose pages have been written to: the kernel takes a fraction of a millisecond for one, and no packet
/// shall wait for that.
fn touched<T: Clone>(value: T, count: usize) -> VecDeque<T> {
    let mut room = VecDeque::from(vec![value; count]);
    room.clear();
    room
}

/// The low half of a hash, scaled to `count` choices.
#[inline]
fn scale(hash: u64, count: u64) -> u32 {
    (((hash & 0xffff_ffff) * count) >> 32) as u32
}

#[cfg(test)]
mod tests;
