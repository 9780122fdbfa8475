//! Remembering a flow: its entry, and both its keys in the index.
//!
//! Nearly all of this is part of its callers, and nothing here branches on what only the table knows (which bucket has more
//! room): from flow to flow that is another, and no CPU could foresee it.

use core::hint::select_unpredictable;
use core::net::Ipv6Addr;

use super::{FlowRef, FlowTable, InsertError, LANES, MAX_ADDRESSES, NewFlow, Place};
use crate::checksum::Delta;
use crate::intrinsics::matching;
use crate::parse::{TCP, everyday};
use crate::rewrite;
use crate::state::flow::{self, Hot, Keys, LIVE, ODD, TRANSLATED, V4};
use crate::state::tcp::TcpState;
use crate::time::Now;

impl FlowTable {
    /// Remember a flow under both its keys. What follows from them is filled in here.
    pub fn insert(&mut self, new: &NewFlow, now: Now) -> Result<FlowRef, InsertError> {
        let places = [self.place(&new.keys.original), self.place(&new.keys.translated.reverse())];
        self.insert_at(new, &places, now)
    }

    /// The same for who knows the places of both keys. (Part of its callers, so that no flow is put together in one place to
    /// be copied to another.)
    #[inline(always)]
    pub(crate) fn insert_at(
        &mut self,
        new: &NewFlow,
        places: &[Place; 2],
        now: Now,
    ) -> Result<FlowRef, InsertError> {
        if self.has_alike(&places[1]) && self.search(&new.keys.translated.reverse(), &places[1]).is_some() {
            return Err(InsertError::Collision);
        }
        let hot = self.filled(&new.hot, &new.keys, now).ok_or(InsertError::Full)?;
        let index = self.allocate().ok_or(InsertError::Full)?;
        let waits = hot.proto != TCP || hot.tcp().half_open();
        self.hot[index as usize] = hot;
        self.cold[index as usize] = new.cold;
        self.cold[index as usize].created = now.seconds();
        let linked = self.link(&places[0], FlowRef::new(index, false))
            && self.link(&places[1], FlowRef::new(index, true));
        if !linked {
            self.take_back(&places[0], index);
            return Err(InsertError::Full);
        }
        self.live += 1;
        if waits {
            self.half_open.add(index);
        }
        Ok(FlowRef::new(index, false))
    }

    #[cold]
    fn take_back(&mut self, place: &Place, index: u32) {
        self.unlink(place, FlowRef::new(index, false));
        self.give_back(index);
    }

    /// The hot line with everything that follows from the keys.
    #[inline(always)]
    fn filled(&mut self, given: &Hot, keys: &Keys, now: Now) -> Option<Hot> {
        let (original, to) = (&keys.original, &keys.translated);
        let v4 = original.v4;
        let odd = !(everyday(original) && everyday(to));
        let family = if v4 { V4 } else { 0 } | if odd { ODD } else { 0 };
        let translated = given.is(TRANSLATED);
        let (ip, l4) = if translated { rewrite::deltas(original, to) } else { Default::default() };
        let back = |delta: Delta| if translated { delta.reverse() } else { delta };
        let (sides, other) = if v4 {
            let sides = [[flow::pair(original.src, original.dst), 0], [flow::pair(to.dst, to.src), 0]];
            (sides, [(ip + rewrite::HOP).0.to_be(), (back(ip) + rewrite::HOP).0.to_be()])
        } else {
            let (a, d) = (flow::halves(original.src), flow::halves(to.dst));
            ([a, d], [self.number(original.dst, d)?, self.number(to.src, a)?])
        };
        Some(Hot {
            sides,
            ports: [flow::ports(original.sport, original.dport), flow::ports(to.dport, to.sport)],
            other,
            l4_deltas: [l4.0.to_be(), back(l4).0.to_be()],
            proto: original.proto,
            tcp: if original.proto == TCP { given.tcp } else { TcpState::Established as u8 },
            flags: given.flags & !(V4 | ODD) | family | LIVE,
            seen: now.seconds(),
            ..*given
        })
    }

    /// The number of an address in the list of those in the middle. The list only grows: it holds frontends and NAT
    /// addresses, which are few.
    #[inline(always)]
    fn number(&mut self, ip: Ipv6Addr, same: [u64; 2]) -> Option<u16> {
        let halves = flow::halves(ip);
        if halves == same {
            return Some(0);
        }
        match u16::try_from(self.numbers.find(halves)) {
            Ok(number @ 1..) => Some(number),
            Ok(0) | Err(_) => self.next_number(halves),
        }
    }

    #[cold]
    #[inline(never)]
    fn next_number(&mut self, halves: [u64; 2]) -> Option<u16> {
        let number = u16::try_from(self.addresses.len()).ok().filter(|n| usize::from(*n) < MAX_ADDRESSES)?;
        self.addresses.push(halves);
        self.numbers.set(halves, u32::from(number));
        Some(number)
    }

    #[inline(always)]
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

    /// Put a reference into one of the key's two buckets, moving another key to its second bucket if need be.
    #[inline(always)]
    fn link(&mut self, place: &Place, reference: FlowRef) -> bool {
        let [first, second] = self.both(place);
        // A tag is never zero but where nothing lies.
        let [here, there] = [first, second].map(|bucket| matching(&self.buckets[bucket as usize].tags, 0));
        // The first bucket is the one that look-ups have prefetched: prefer it unless it is much fuller.
        let other = (here.count_ones() + 2 < there.count_ones()) | (here == 0);
        let lane = select_unpredictable(other, there, here).trailing_zeros() as usize;
        if lane >= LANES {
            return self.make_room(place, reference);
        }
        let bucket = &mut self.buckets[select_unpredictable(other, second, first) as usize];
        (bucket.refs[lane], bucket.tags[lane]) = (reference.0, place.tag());
        true
    }

    /// Have another key of one of the two buckets move away. Where no move finds room, two do: one alone, in a table as full as it
    /// may be, left one flow of some ten million out.
    #[cold]
    fn make_room(&mut self, place: &Place, reference: FlowRef) -> bool {
        let both = self.both(place);
        let vacated = [1, 2].into_iter().flat_map(|moves| both.map(|bucket| (bucket, moves)));
        for (bucket, moves) in vacated {
            if let Some(lane) = self.vacate(bucket, moves) {
                self.lay(bucket, lane, place.tag(), reference);
                return true;
            }
        }
        false
    }

    /// Free a lane of a full bucket, by so many moves at most.
    fn vacate(&mut self, bucket: u32, moves: u32) -> Option<usize> {
        for lane in 0..LANES {
            let moved = FlowRef(self.buckets[bucket as usize].refs[lane]);
            let place = self.place_of(moved);
            let [first, second] = self.both(&place);
            let target = if first == bucket { second } else { first };
            if target == bucket {
                continue;
            }
            let free = matching(&self.buckets[target as usize].tags, 0).trailing_zeros() as usize;
            let room = if free < LANES {
                Some(free)
            } else if moves > 1 {
                self.vacate(target, moves - 1)
            } else {
                None
            };
            if let Some(room) = room {
                self.lay(target, room, place.tag(), moved);
                return Some(lane);
            }
        }
        None
    }

    fn lay(&mut self, bucket: u32, lane: usize, tag: u16, reference: FlowRef) {
        let bucket = &mut self.buckets[bucket as usize];
        (bucket.refs[lane], bucket.tags[lane]) = (reference.0, tag);
    }
}
