//! Somebody watches: matching packets go into a ring of bounded size, with an exact count of those that found no room. A
//! watch ends by itself (its packets are seen, its time is over, or nobody listens any more), and with the last one the
//! worker is back on the ordinary path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_core::event::EventSink;
use sluice_core::packet::Packet;
use sluice_core::path::Fates;
use sluice_core::state::State;
use sluice_core::tables::Tables;
use sluice_core::time::Now;
use sluice_core::watch::{Filter, Sighting, forward_seen};

/// Packets between a worker and the listener.
const SIGHTINGS: usize = 1024;
/// Bytes of their frames.
const FRAME_BYTES: usize = 4 << 20;
/// Watches of one worker at a time.
pub const MOST: usize = 4;

/// The worker's end.
#[derive(Debug)]
pub struct Watch {
    filter: Filter,
    left: u64,
    until: Now,
    frames: bool,
    sightings: Producer<(Sighting, [u16; 2])>,
    bytes: Producer<u8>,
    lost: Arc<AtomicU64>,
}

/// The listener's end; dropping it ends the watch.
#[derive(Debug)]
pub struct Watcher {
    sightings: Consumer<(Sighting, [u16; 2])>,
    bytes: Consumer<u8>,
    lost: Arc<AtomicU64>,
}

/// A packet that was seen, with its bytes as it came and as it went (empty: not asked for, or it did not leave).
#[derive(Clone, Debug)]
pub struct Seen {
    pub sighting: Sighting,
    pub frames: [Vec<u8>; 2],
}

/// Watch for at most `packets` that fit, until then. `frames`: copy their bytes, too.
pub fn watch(filter: Filter, packets: u64, until: Now, frames: bool) -> (Watch, Watcher) {
    let (sightings, seen) = RingBuffer::new(SIGHTINGS);
    let (bytes, copied) = RingBuffer::new(if frames { FRAME_BYTES } else { 0 });
    let lost = Arc::new(AtomicU64::new(0));
    let watcher = Watcher { sightings: seen, bytes: copied, lost: Arc::clone(&lost) };
    (Watch { filter, left: packets, until, frames, sightings, bytes, lost }, watcher)
}

impl Watcher {
    /// The oldest packet that was not taken yet.
    pub fn take(&mut self) -> Option<Seen> {
        let (sighting, lengths) = self.sightings.pop().ok()?;
        let frames = lengths.map(|length| self.frame(length.into()));
        Some(Seen { sighting, frames })
    }

    fn frame(&mut self, length: usize) -> Vec<u8> {
        let Ok(chunk) = self.bytes.read_chunk(length) else { return Vec::new() };
        let (one, two) = chunk.as_slices();
        let frame = [one, two].concat();
        chunk.commit_all();
        frame
    }

    /// Packets that fitted and found no room.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Will nothing more come? The worker has let go, and all was taken.
    pub fn is_over(&self) -> bool {
        self.sightings.is_abandoned() && self.sightings.is_empty()
    }
}

impl Watch {
    fn is_over(&self, now: Now) -> bool {
        self.left == 0 || now >= self.until || self.sightings.is_abandoned()
    }

    fn see(&mut self, sighting: &Sighting, came: &[u8], went: &[u8]) {
        if self.left == 0 || !self.filter.fits(sighting) {
            return;
        }
        self.left -= 1;
        let frames = if self.frames { [came, went] } else { [&[][..]; 2] };
        let lengths = frames.map(|frame| u16::try_from(frame.len()).unwrap_or(0));
        let bytes = frames[0].len() + frames[1].len();
        if self.sightings.slots() == 0 || self.bytes.slots() < bytes {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for frame in frames {
            put(&mut self.bytes, frame);
        }
        // There is room: this is the only one who fills it.
        let _ = self.sightings.push((*sighting, lengths));
    }
}

fn put(ring: &mut Producer<u8>, frame: &[u8]) {
    let Ok(mut chunk) = ring.write_chunk(frame.len()) else { return };
    let (one, two) = chunk.as_mut_slices();
    let (first, second) = frame.split_at(one.len());
    one.copy_from_slice(first);
    two.copy_from_slice(second);
    chunk.commit_all();
}

/// All watches of a worker.
#[derive(Debug, Default)]
pub struct Watches {
    list: Vec<Watch>,
    /// The frame as it came, before the path rewrites it in place.
    came: Vec<u8>,
}

impl Watches {
    /// Is nobody watching? Those that are over are let go.
    #[inline]
    pub fn none(&mut self, now: Now) -> bool {
        if self.list.is_empty() {
            return true;
        }
        self.list.retain(|watch| !watch.is_over(now));
        self.list.is_empty()
    }

    /// One more, if there is room; else it is over at once.
    pub fn add(&mut self, watch: Watch) {
        if self.list.len() < MOST {
            self.list.push(watch);
        }
    }

    /// The burst, packet by packet, each shown to those who watch.
    #[cold]
    pub fn forward<S: EventSink>(
        &mut self,
        tables: &Tables,
        state: &mut State,
        now: Now,
        burst: &mut [Packet<'_>],
        fates: &mut Fates,
        events: &mut S,
    ) {
        let mut all = Fates::new();
        for packet in burst {
            self.came.clear();
            self.came.extend_from_slice(packet.bytes());
            let sighting = forward_seen(tables, state, now, packet, fates, events);
            let leaves = matches!(
                sighting.fate,
                sluice_core::verdict::Fate::Forward(_) | sluice_core::verdict::Fate::Answer(_)
            );
            let went = if leaves { packet.bytes() } else { &[] };
            for watch in &mut self.list {
                watch.see(&sighting, &self.came, went);
            }
            all.push(sighting.fate);
        }
        *fates = all;
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::event::Ignore;
    use sluice_core::packet::PortId;
    use sluice_core::state::Config;
    use sluice_core::watch::Verdict;

    use super::*;

    /// Send so many frames of nonsense (they are dropped) past the watches.
    fn send(watches: &mut Watches, count: usize, now: Now) {
        let mut state = State::new(Config::new(16, [1, 2, 3, 4]));
        for _ in 0..count {
            let mut room = [7; 64];
            let mut burst = [Packet::new(&mut room, 0, 64, PortId(3)).unwrap()];
            let mut fates = Fates::new();
            if watches.none(now) {
                return;
            }
            watches.forward(&Tables::default(), &mut state, now, &mut burst, &mut fates, &mut Ignore);
            assert_eq!(fates.len(), 1);
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_what_is_seen_is_whole() {
        let (watch, mut watcher) = watch(Filter::default(), u64::MAX, Now(u64::MAX), true);
        let mut watches = Watches::default();
        watches.add(watch);
        send(&mut watches, SIGHTINGS + 5, Now(1));
        assert_eq!(watcher.lost(), 5);
        let seen = watcher.take().unwrap();
        assert_eq!(seen.frames, [vec![7; 64], Vec::new()]);
        assert_eq!((seen.sighting.verdict(), seen.sighting.port), (Verdict::Dropped, PortId(3)));
        assert_eq!(std::iter::from_fn(|| watcher.take()).count(), SIGHTINGS - 1);
        assert!(!watcher.is_over());
    }

    #[test]
    fn a_watch_ends_when_it_has_enough_is_late_or_nobody_listens() {
        let start = |packets, until| {
            let (watch, watcher) = watch(Filter::default(), packets, Now(until), false);
            let mut watches = Watches::default();
            watches.add(watch);
            (watches, watcher)
        };
        let (mut watches, mut watcher) = start(3, 100);
        send(&mut watches, 9, Now(1));
        assert!(watches.none(Now(1)));
        assert_eq!(std::iter::from_fn(|| watcher.take()).count(), 3);
        assert!(watcher.is_over() && watcher.lost() == 0);

        let (mut watches, watcher) = start(3, 100);
        assert!(!watches.none(Now(99)) && watches.none(Now(100)));
        assert!(watcher.is_over());

        let (mut watches, watcher) = start(3, 100);
        drop(watcher);
        assert!(watches.none(Now(1)));
    }

    #[test]
    fn only_what_fits_is_seen() {
        let filter = Filter { verdicts: vec![Verdict::Forwarded], ..Filter::default() };
        let (watch, mut watcher) = watch(filter, 10, Now(100), true);
        let mut watches = Watches::default();
        watches.add(watch);
        send(&mut watches, 3, Now(1));
        assert!(watcher.take().is_none() && !watches.none(Now(1)));
    }
}
