//! The latest flows and losses, in the order in which they came, and word of new ones.
//!
//! Whoever reads has a place in this order and asks for what comes next: a slow reader holds up nobody and takes no memory;
//! what was overwritten before it came by is counted to it.

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
    pub what: What,
    pub milliseconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Flow(FlowEvent),
    /// So many events were lost on their way to us.
    Lost(u64),
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
    /// How many entries there ever were: the place of the next one.
    next: u64,
    flows: u64,
    events: u64,
    lost: u64,
    /// Losses that no entry tells of yet, and when the last one did.
    untold: u64,
    told_at: u64,
}

/// A few entries from one place on.
#[derive(Debug, Default)]
pub struct Piece {
    /// Entries that were overwritten between the place asked for and the first one here.
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
        // A new dataplane counts anew.
        ring.untold += lost.checked_sub(ring.lost).unwrap_or(lost);
        ring.lost = lost;
        if ring.untold > 0 && milliseconds.abs_diff(ring.told_at) >= LOSSES_EVERY {
            let what = What::Lost(std::mem::take(&mut ring.untold));
            ring.told_at = milliseconds;
            ring.push(Seen { what, milliseconds });
        }
        ring.events += events.len() as u64;
        for event in events.into_iter().map(FlowEvent::from) {
            // How a flow ended is for the metrics; Hubble has no such event.
            if event.kind != EventKind::End {
                ring.flows += 1;
                ring.push(Seen { what: What::Flow(event), milliseconds });
            }
        }
        let next = ring.next;
        drop(ring);
        self.news.send_replace(next);
    }

    /// At most so many entries from this place on.
    pub fn read(&self, place: u64, most: usize) -> Piece {
        let ring = self.lock();
        let first = place.clamp(ring.oldest(), ring.next);
        let skipped = usize::try_from(first - ring.oldest()).unwrap_or(usize::MAX);
        let entries: Vec<Seen> = ring.entries.iter().skip(skipped).take(most).copied().collect();
        Piece { missed: first.saturating_sub(place), next: first + entries.len() as u64, entries }
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
        (ring.events, ring.lost)
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
        self.next - self.entries.len() as u64
    }

    fn push(&mut self, seen: Seen) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(seen);
        self.next += 1;
    }
}
