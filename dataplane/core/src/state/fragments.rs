//! Fragments follow their first one: a bounded table from (source, destination, id, protocol) to its ports.
//!
//! Only the first fragment says which flow a datagram belongs to. Later ones that come before it are dropped (their sender
//! will send again; holding them would let anyone fill memory). Fragments that overlap what was seen poison the datagram:
//! overlapping is how policies are fooled, honest senders never do it.

use hashbrown::HashMap;

use crate::flow_key::FlowKey;
use crate::intrinsics::Seed;
use crate::parse::Fragment;
use crate::tables::lpm::Hashing;
use crate::time::Now;
use crate::verdict::DropReason;

const LIFETIME: u64 = 30 * Now::SECOND;
/// Pieces of one datagram whose places are remembered; 64 KiB in 1500-byte frames are 45.
pub(crate) const MAX_PIECES: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Datagram {
    src: u128,
    dst: u128,
    id: u32,
    proto: u8,
}

#[derive(Clone, Debug)]
struct Pieces {
    sport: u16,
    dport: u16,
    born: Now,
    poisoned: bool,
    /// Start and end of what was seen, in units of 8 bytes.
    seen: arrayvec::ArrayVec<(u16, u16), MAX_PIECES>,
    /// Where the datagram ends, once that is known.
    end: Option<u16>,
}

impl Pieces {
    /// All of it was seen. It is remembered for what of it waits, but makes room for others.
    fn are_all(&self) -> bool {
        let seen: u16 = self.seen.iter().map(|(start, end)| end - start).sum();
        self.end == Some(seen) && !self.poisoned
    }

    /// This piece is not of a datagram that an honest sender makes of the others: it overlaps one, or lies behind the end, or is
    /// the last and not at the end.
    fn contradict(&self, place: (u16, u16), end: Option<u16>) -> bool {
        let reaches = self.seen.iter().fold(place.1, |most, (_, end)| most.max(*end));
        self.seen.iter().any(|(start, end)| place.0 < *end && *start < place.1)
            || self.end.or(end).is_some_and(|end| end < reaches)
            || (self.end.is_some() && end.is_some())
    }

    fn have(&self, place: (u16, u16)) -> bool {
        self.seen.iter().any(|(start, end)| *start <= place.0 && place.1 <= *end)
    }
}

/// Datagrams of which fragments are on their way.
#[derive(Debug)]
pub struct Fragments {
    table: HashMap<Datagram, Pieces, Hashing>,
    most: usize,
    /// How many of them were seen whole.
    whole: usize,
    /// When a full table was last looked through for what had its time.
    looked: Now,
}

/// Looking through a full table takes microseconds: under a flood, not for every packet.
const LOOK_EVERY: u64 = Now::SECOND / 10;

impl Fragments {
    /// What datagrams are told apart by is their senders' to choose: hence the key.
    pub fn new(most: u32, seed: Seed) -> Self {
        let most = most as usize;
        Self {
            table: HashMap::with_capacity_and_hasher(most, seed.hashing()),
            most,
            whole: 0,
            looked: Now(0),
        }
    }

    /// Those of which something is still to come: the others make room.
    pub fn len(&self) -> usize {
        self.table.len() - self.whole
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Note a fragment. The first leaves its ports, later ones get them: the key that is given back. One that comes
    /// `again` (it waited, or is a piece of one that was cut) is in its place already. Senders use their numbers again: with
    /// that of a datagram that was seen whole another one may begin.
    pub fn follow(
        &mut self,
        key: &FlowKey,
        fragment: Fragment,
        payload: u16,
        again: bool,
        now: Now,
    ) -> Result<FlowKey, DropReason> {
        let datagram =
            Datagram { src: key.src.into(), dst: key.dst.into(), id: fragment.id, proto: key.proto };
        let place = (fragment.offset / 8, (fragment.offset + payload).div_ceil(8));
        let (first, end) = (fragment.offset == 0, (!fragment.more).then_some(place.1));
        if let Some(pieces) = self.table.get(&datagram)
            && (now.0.saturating_sub(pieces.born.0) > LIFETIME || (first && !again && pieces.are_all()))
        {
            self.whole -= usize::from(pieces.are_all());
            self.table.remove(&datagram);
        }
        if first && !self.table.contains_key(&datagram) {
            self.make_room(now)?;
            let mut seen = arrayvec::ArrayVec::new();
            seen.push(place);
            let pieces = Pieces { sport: key.sport, dport: key.dport, born: now, poisoned: false, seen, end };
            self.whole += usize::from(pieces.are_all());
            self.table.insert(datagram, pieces);
            return Ok(*key);
        }
        let pieces = self.table.get_mut(&datagram).ok_or(DropReason::FirstFragmentMissing)?;
        if again && !pieces.poisoned && pieces.have(place) {
            return Ok(FlowKey { sport: pieces.sport, dport: pieces.dport, ..*key });
        }
        let was_whole = pieces.are_all();
        pieces.poisoned |= pieces.contradict(place, end) || pieces.seen.try_push(place).is_err();
        pieces.end = pieces.end.or(end);
        self.whole = self.whole + usize::from(pieces.are_all()) - usize::from(was_whole);
        if pieces.poisoned {
            return Err(DropReason::FragmentRefused);
        }
        Ok(FlowKey { sport: pieces.sport, dport: pieces.dport, ..*key })
    }

    /// When full, those go that are whole or had their time; if there are none, the newcomer is refused.
    fn make_room(&mut self, now: Now) -> Result<(), DropReason> {
        if self.table.len() >= self.most && now.0.saturating_sub(self.looked.0) >= LOOK_EVERY {
            self.looked = now;
            self.expire(now);
        }
        if self.table.len() >= self.most { Err(DropReason::FragmentRefused) } else { Ok(()) }
    }

    pub fn expire(&mut self, now: Now) {
        self.whole = 0;
        self.table.retain(|_, pieces| now.0.saturating_sub(pieces.born.0) <= LIFETIME && !pieces.are_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sport: u16) -> FlowKey {
        let ip = "::ffff:10.0.0.1".parse().unwrap();
        FlowKey { src: ip, dst: ip, sport, dport: 53, proto: 17, v4: true }
    }

    fn piece(id: u32, offset: u16, more: bool) -> Fragment {
        Fragment { id, offset, more }
    }

    #[test]
    fn later_fragments_get_the_ports_of_the_first() {
        let mut fragments = Fragments::new(4, Seed::default());
        let missing = fragments.follow(&key(0), piece(1, 1480, true), 1480, false, Now(0));
        assert_eq!(missing, Err(DropReason::FirstFragmentMissing));
        fragments.follow(&key(4000), piece(1, 0, true), 1480, false, Now(0)).unwrap();
        let later = fragments.follow(&key(0), piece(1, 1480, false), 100, false, Now(1)).unwrap();
        assert_eq!((later.sport, later.dport), (4000, 53));
    }

    #[test]
    fn overlaps_poison_the_datagram() {
        let mut fragments = Fragments::new(4, Seed::default());
        fragments.follow(&key(4000), piece(1, 0, true), 1480, false, Now(0)).unwrap();
        let overlap = fragments.follow(&key(0), piece(1, 1472, true), 16, false, Now(0));
        assert_eq!(overlap, Err(DropReason::FragmentRefused));
        let honest = fragments.follow(&key(0), piece(1, 1488, false), 16, false, Now(0));
        assert_eq!(honest, Err(DropReason::FragmentRefused));
    }

    #[test]
    fn one_that_waited_for_a_neighbour_is_no_overlap_of_itself() {
        let mut fragments = Fragments::new(4, Seed::default());
        for again in [false, true] {
            fragments.follow(&key(4000), piece(1, 0, true), 1480, again, Now(0)).unwrap();
            fragments.follow(&key(0), piece(1, 1480, false), 100, again, Now(0)).unwrap();
        }
        let twice = fragments.follow(&key(0), piece(1, 1480, false), 100, false, Now(0));
        assert_eq!(twice, Err(DropReason::FragmentRefused));
    }

    #[test]
    fn a_number_may_be_used_again_once_its_datagram_is_whole() {
        let mut fragments = Fragments::new(4, Seed::default());
        let mut datagram = |sport, sizes: [(u16, u16); 3]| {
            sizes.map(|(offset, len)| {
                let piece = piece(1, offset, offset + len < 3000);
                fragments.follow(&key(sport), piece, len, false, Now(0)).map(|key| key.sport)
            })
        };
        let whole = [(0, 1480), (2000, 1000), (1480, 520)];
        assert_eq!(datagram(4000, whole), [Ok(4000); 3]);
        assert_eq!(datagram(4001, whole), [Ok(4001); 3]);
        let lacking = [(0, 1480), (2000, 1000), (2000, 1000)];
        let refused = Err(DropReason::FragmentRefused);
        assert_eq!(datagram(4002, lacking), [Ok(4002), Ok(4002), refused]);
        assert_eq!(datagram(4003, whole), [refused; 3]);
    }

    #[test]
    fn whole_datagrams_make_room_for_others() {
        let mut fragments = Fragments::new(64, Seed::default());
        for id in 0..1000 {
            let now = Now(u64::from(id) * Now::SECOND / 100);
            let begun = fragments.follow(&key(4000), piece(id, 0, true), 1480, false, now);
            let ended = fragments.follow(&key(0), piece(id, 1480, false), 20, false, now);
            assert!(begun.is_ok() && ended.is_ok() && fragments.is_empty(), "{id}");
        }
        // One of them is not whole after all, and its number is used again later.
        assert!(fragments.follow(&key(0), piece(999, 1480, false), 20, false, Now::from_secs(10)).is_err());
        assert_eq!(fragments.len(), 1);
        assert!(fragments.follow(&key(0), piece(999, 0, true), 1480, false, Now::from_secs(60)).is_ok());
        assert_eq!(fragments.len(), 1);
    }

    #[test]
    fn what_lies_behind_the_end_or_is_a_second_end_poisons_the_datagram() {
        for (odd, len, more) in [(2000, 8, true), (2000, 0, false), (1480, 0, false), (2000, 520, false)] {
            let mut fragments = Fragments::new(4, Seed::default());
            let mut follow = |offset, len, more| {
                fragments.follow(&key(4000), piece(1, offset, more), len, false, Now(0)).is_ok()
            };
            assert!(follow(0, 1480, true) && follow(1480, 520, false));
            assert!(!follow(odd, len, more), "{odd} {len} {more}");
            assert_eq!(fragments.len(), 1, "{odd} {len} {more}");
        }
        // The end comes before what is behind it, or after it.
        for order in [[(1600, 8, false), (2400, 8, true)], [(2400, 8, true), (1600, 8, false)]] {
            let mut fragments = Fragments::new(4, Seed::default());
            let mut follow = |offset, len, more| {
                fragments.follow(&key(4000), piece(1, offset, more), len, false, Now(0)).is_ok()
            };
            assert!(follow(0, 1480, true) && follow(order[0].0, order[0].1, order[0].2));
            assert!(!follow(order[1].0, order[1].1, order[1].2), "{order:?}");
        }
    }

    proptest::proptest! {
        /// Whatever comes, in whatever order: those that are whole are counted as what they are.
        #[test]
        fn the_whole_ones_are_counted_right(
            pieces in proptest::collection::vec((0_u32..4, 0_u16..4, 0_u16..4, proptest::bool::ANY, proptest::bool::ANY, 0_u64..40), 1..200),
        ) {
            let (mut fragments, mut seconds) = (Fragments::new(3, Seed::default()), 0);
            for (id, offset, len, more, again, later) in pieces {
                seconds += later / 8;
                let now = Now::from_secs(seconds);
                let _ = fragments.follow(&key(4000), piece(id, offset * 8, more), len * 8, again, now);
                if later == 39 {
                    fragments.expire(now);
                }
                let whole = fragments.table.values().filter(|pieces| pieces.are_all()).count();
                proptest::prop_assert_eq!(fragments.whole, whole);
                proptest::prop_assert!(fragments.len() <= fragments.most);
            }
        }
    }

    #[test]
    fn pieces_of_one_that_was_cut_are_no_overlap_of_it() {
        let mut fragments = Fragments::new(4, Seed::default());
        fragments.follow(&key(4000), piece(1, 0, true), 1480, false, Now(0)).unwrap();
        for (offset, len) in [(0, 800), (800, 680)] {
            assert!(fragments.follow(&key(4000), piece(1, offset, true), len, true, Now(0)).is_ok());
        }
        let beyond = fragments.follow(&key(4000), piece(1, 800, true), 688, true, Now(0));
        assert_eq!(beyond, Err(DropReason::FragmentRefused));
    }

    #[test]
    fn a_full_table_refuses_until_time_makes_room() {
        let mut fragments = Fragments::new(2, Seed::default());
        for id in 0..2 {
            fragments.follow(&key(4000), piece(id, 0, true), 8, false, Now(0)).unwrap();
        }
        let third = |f: &mut Fragments, at| f.follow(&key(4000), piece(9, 0, true), 8, false, at);
        assert_eq!(third(&mut fragments, Now(0)), Err(DropReason::FragmentRefused));
        assert!(third(&mut fragments, Now::from_secs(31)).is_ok());
    }
}
