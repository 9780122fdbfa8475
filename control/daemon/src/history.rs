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
    #[expect(clippy::disallowed_methods, reason = "events are told with the time of day")]
    pub fn add(&self, events: Vec<SentEvent>, lost: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
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

    /// The latest that fit, oldest first, at most so many.
    pub fn last(&self, most: usize, fits: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Seen> =
            ring.events.iter().rev().filter(|seen| fits(seen)).take(most).copied().collect();
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
