//! The latest events, and everyone who wants to hear of new ones.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_core::event::FlowEvent;
use sluice_feed::event::SentEvent;
use tokio::sync::broadcast;

/// As many as Hubble's ring holds by default.
const KEPT: usize = 4095;
const LISTENERS_LAG: usize = 4096;

/// An event and when it reached us (seconds since 1970, with millisecond precision).
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub event: FlowEvent,
    pub milliseconds: u64,
}

/// Which of the events that are kept: a span of time, and of that the first or the last so many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub first: Option<usize>,
    pub last: Option<usize>,
    pub since: Option<u64>,
    pub until: Option<u64>,
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
    news: broadcast::Sender<Seen>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Seen>,
    seen: u64,
    lost: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { ring: Mutex::default(), news: broadcast::channel(LISTENERS_LAG).0 }
    }
}

impl History {
    pub fn add(&self, events: Vec<SentEvent>, lost: u64) {
        let milliseconds = now();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.lost = lost;
        for event in events {
            let seen = Seen { event: event.into(), milliseconds };
            ring.seen += 1;
            if ring.events.len() == KEPT {
                ring.events.pop_front();
            }
            ring.events.push_back(seen);
            // Nobody listening is no mistake.
            let _ = self.news.send(seen);
        }
    }

    /// The events of this part that `tell` has a word for, oldest first.
    pub fn part(&self, part: &Part, tell: impl Fn(&Seen) -> Option<String>) -> Vec<String> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, until) = (part.since.unwrap_or(0), part.until.unwrap_or(u64::MAX));
        let within = |seen: &&Seen| (since..=until).contains(&seen.milliseconds);
        if let Some(first) = part.first {
            return ring.events.iter().filter(within).filter_map(tell).take(first).collect();
        }
        let most = part.last.unwrap_or(usize::MAX);
        let mut found: Vec<String> =
            ring.events.iter().rev().filter(within).filter_map(tell).take(most).collect();
        found.reverse();
        found
    }

    pub fn listen(&self) -> broadcast::Receiver<Seen> {
        self.news.subscribe()
    }

    /// Events seen and lost in all.
    pub fn counts(&self) -> (u64, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.seen, ring.lost)
    }
}
