//! The latest flows and losses, in the order in which they came, and word of new ones.
//!
//! Whoever reads has a place in this order and asks for what comes next: a slow reader holds up nobody and takes no memory;
//! what was overwritten before it came by is counted to it. Places count events, those that were lost included, so that the
//! count is right whatever was overwritten.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_core::event::{EventKind, FlowEvent};
use sluice_feed::event::SentEvent;
use tokio::sync::watch;

/// As many as Hubble's ring holds by default.
pub const KEPT: usize = 4095;
/// How often losses are told at most, in milliseconds.
const LOSSES_EVERY: u64 = 1000;
/// What rates are measured over, in milliseconds.
const MINUTE: u64 = 60_000;

/// What happened, and when it reached us (milliseconds since 1970).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub place: u64,
    pub what: What,
    pub milliseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Flow(FlowEvent),
    /// So many events were lost on their way to us.
    Lost(u64),
}

impl Seen {
    /// The place behind this one.
    fn next(&self) -> u64 {
        self.place + if let What::Lost(count) = self.what { count } else { 1 }
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "events are told with the time of day")]
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
pub struct History {
    ring: Mutex<Ring>,
    /// The place of the next entry.
    news: watch::Sender<u64>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Seen>,
    /// The place of the next one.
    next: u64,
    flows: u64,
    events: u64,
    /// What the dataplane said of all its losses, if it has said anything.
    lost: Option<u64>,
    /// Losses that no entry tells of yet, and when the last one did.
    untold: u64,
    told_at: u64,
}

/// A few entries from one place on.
#[derive(Debug, Default)]
pub struct Piece {
    /// Events that were overwritten between the place asked for and the first one here.
    pub missed: u64,
    pub entries: Vec<Seen>,
    /// Where what follows begins.
    pub next: u64,
}

/// How full it is, and how fast it fills.
#[derive(Debug)]
pub struct Fill {
    pub kept: u64,
    /// Flows seen in all.
    pub seen: u64,
    /// Flows a second, of the last minute or as much of it as is kept.
    pub rate: f64,
    pub uptime: Duration,
}

impl Default for History {
    #[expect(clippy::disallowed_methods, reason = "how long we have been here is told")]
    fn default() -> Self {
        Self { ring: Mutex::default(), news: watch::channel(0).0, began: Instant::now() }
    }
}

impl History {
    /// `lost` counts all that were ever lost by this dataplane.
    pub fn add(&self, events: Vec<SentEvent>, lost: u64) {
        let milliseconds = now();
        let mut ring = self.lock();
        // What was lost before we were there is none of our story; a new dataplane counts anew.
        ring.untold += lost.checked_sub(ring.lost.unwrap_or(lost)).unwrap_or(lost);
        ring.lost = Some(lost);
        if ring.untold > 0 && milliseconds.abs_diff(ring.told_at) >= LOSSES_EVERY {
            let what = What::Lost(std::mem::take(&mut ring.untold));
            ring.told_at = milliseconds;
            ring.push(what, milliseconds);
        }
        ring.events += events.len() as u64;
        for event in events.into_iter().map(FlowEvent::from) {
            // How a flow ended is for the metrics; Hubble has no such event.
            if event.kind != EventKind::End {
                ring.flows += 1;
                ring.push(What::Flow(event), milliseconds);
            }
        }
        let next = ring.next;
        drop(ring);
        self.news.send_replace(next);
    }

    /// At most so many entries from this place on.
    pub fn read(&self, place: u64, most: usize) -> Piece {
        let ring = self.lock();
        let first = ring.index(place);
        let entries: Vec<Seen> = ring.entries.range(first..).take(most).copied().collect();
        let missed = ring.oldest().saturating_sub(place);
        Piece { missed, next: entries.last().map_or(place + missed, Seen::next), entries }
    }

    /// At most so many entries before this place, the latest last.
    pub fn before(&self, place: u64, most: usize) -> Vec<Seen> {
        let ring = self.lock();
        let end = ring.index(place);
        ring.entries.range(end.saturating_sub(most)..end).copied().collect()
    }

    /// The places of the oldest entry and of the next one.
    pub fn ends(&self) -> (u64, u64) {
        let ring = self.lock();
        (ring.oldest(), ring.next)
    }

    /// Changes when there is something new.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Events seen and lost in all.
    pub fn counts(&self) -> (u64, u64) {
        let ring = self.lock();
        (ring.events, ring.lost.unwrap_or(0))
    }

    #[expect(clippy::cast_precision_loss, reason = "a ring of thousands, a minute of milliseconds")]
    pub fn fill(&self) -> Fill {
        let ring = self.lock();
        let (now, flows) = (now(), ring.entries.iter().filter(|seen| matches!(seen.what, What::Flow(_))));
        let recent = flows.clone().filter(|seen| now.saturating_sub(seen.milliseconds) <= MINUTE);
        let whole = ring.entries.len() < KEPT;
        let oldest = recent.clone().next().map_or(now, |seen| seen.milliseconds);
        let span = if whole { MINUTE } else { now.saturating_sub(oldest).clamp(1, MINUTE) };
        Fill {
            kept: flows.count() as u64,
            seen: ring.flows,
            rate: recent.count() as f64 * 1000.0 / span as f64,
            uptime: self.began.elapsed(),
        }
    }

    /// As if the latest so many had never been.
    #[cfg(test)]
    pub fn forget(&self, count: usize) {
        let mut ring = self.lock();
        let left = ring.entries.len() - count;
        ring.entries.truncate(left);
        ring.next -= count as u64;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.entries.front().map_or(self.next, |seen| seen.place)
    }

    /// Of the first entry that is not before this place.
    fn index(&self, place: u64) -> usize {
        self.entries.partition_point(|seen| seen.place < place)
    }

    fn push(&mut self, what: What, milliseconds: u64) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        let seen = Seen { place: self.next, what, milliseconds };
        self.next = seen.next();
        self.entries.push_back(seen);
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::flow_key::FlowKey;
    use sluice_core::time::Now;

    use super::*;

    fn event(kind: EventKind) -> SentEvent {
        let any = "::ffff:192.0.2.1".parse().unwrap();
        let key = FlowKey { src: any, dst: any, sport: 1, dport: 2, proto: 17, v4: true };
        let event = FlowEvent::of(Now(0), kind, key, key);
        event.into()
    }

    fn losses(history: &History) -> Vec<u64> {
        let lost = |seen: &Seen| if let What::Lost(count) = seen.what { Some(count) } else { None };
        history.read(0, usize::MAX).entries.iter().filter_map(lost).collect()
    }

    /// Whatever falls out of the ring, told and missed events are all that there were.
    #[test]
    fn what_was_overwritten_is_counted_with_the_losses_among_it() {
        let history = History::default();
        history.add(Vec::new(), 0);
        history.add(vec![event(EventKind::New)], 1000);
        history.add(vec![event(EventKind::New), event(EventKind::End)], 1000);
        assert_eq!(losses(&history), [1000], "and no ends of flows");
        let whole = history.read(0, usize::MAX);
        assert_eq!((whole.missed, whole.entries.len(), whole.next), (0, 3, 1002));
        assert_eq!(history.read(1000, 1).next, 1001);
        assert_eq!(history.before(1001, 1)[0].place, 1000);
        assert_eq!(history.before(1000, 9).len(), 1);
        history.add(vec![event(EventKind::New); KEPT], 1000);
        let rest = history.read(0, usize::MAX);
        assert_eq!((rest.missed, rest.entries.len()), (1002, KEPT));
        assert_eq!(history.ends(), (1002, 1002 + KEPT as u64));
        assert_eq!((history.fill().kept, history.fill().seen), (KEPT as u64, 2 + KEPT as u64));
    }

    #[test]
    fn losses_are_told_once_a_second_and_those_of_a_new_dataplane_from_zero() {
        let history = History::default();
        history.add(Vec::new(), 50);
        assert!(losses(&history).is_empty(), "that was before us");
        history.add(Vec::new(), 53);
        history.add(Vec::new(), 55);
        history.add(Vec::new(), 4);
        assert_eq!(losses(&history), [3]);
        history.lock().told_at -= LOSSES_EVERY;
        history.add(Vec::new(), 4);
        assert_eq!(losses(&history), [3, 6]);
        assert_eq!(history.counts(), (0, 4));
    }
}
