//! Packets whose neighbour's address is not known yet: kept for a moment while the kernel asks for it.

use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::time::Now;

use crate::io::Frame;

/// Frames kept in all, and for one neighbour. What comes beyond is dropped: its sender will send again.
pub const MOST: usize = 256;
const MOST_EACH: usize = 16;
const PATIENCE: u64 = Now::SECOND;
/// A neighbour is asked for again after this.
const ASK_AGAIN: u64 = Now::SECOND / 2;

/// A neighbour to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub port: PortId,
    pub ip: IpAddr,
}

#[derive(Debug)]
struct Held {
    frame: Frame,
    wanted: Wanted,
    since: Now,
}

#[derive(Debug, Default)]
pub struct Hold {
    held: Vec<Held>,
    asked: Vec<(Wanted, Now)>,
}

impl Hold {
    /// Keep a frame. Gives it back when there is no room; says whether the neighbour should be asked for now.
    pub fn keep(&mut self, frame: Frame, wanted: Wanted, now: Now) -> (Result<(), Frame>, bool) {
        self.asked.retain(|(_, at)| now.0.saturating_sub(at.0) < ASK_AGAIN);
        let ask = self.asked.len() < MOST && !self.asked.iter().any(|(asked, _)| *asked == wanted);
        if ask {
            self.asked.push((wanted, now));
        }
        let each = self.held.iter().filter(|held| held.wanted == wanted).count();
        if self.held.len() >= MOST || each >= MOST_EACH {
            return (Err(frame), ask);
        }
        self.held.push(Held { frame, wanted, since: now });
        (Ok(()), ask)
    }

    /// All frames, to be forwarded again now that something changed; up to a burst's worth.
    pub fn retry(&mut self, most: usize) -> impl Iterator<Item = Frame> + '_ {
        let count = self.held.len().min(most);
        self.held.drain(..count).map(|held| Frame { again: true, ..held.frame })
    }

    /// A frame that waited too long.
    pub fn expired(&mut self, now: Now) -> Option<Frame> {
        let index = self.held.iter().position(|held| now.0.saturating_sub(held.since.0) > PATIENCE)?;
        Some(self.held.remove(index).frame)
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
