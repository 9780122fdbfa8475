//! Packets that wait for a moment: for the address of a neighbour, which the kernel asks for, or for the row of a service,
//! which is being built.

use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::tables::record::ServiceId;
use sluice_core::time::Now;
use sluice_core::verdict::DropReason;

use crate::io::Frame;

/// Frames kept for neighbours and for rows (so many of each), for one neighbour, and for one row. What comes beyond is dropped: its sender will send again.
pub const MOST: usize = 256;
const MOST_EACH: usize = 16;
const MOST_A_ROW: usize = 128;
const PATIENCE: u64 = Now::SECOND;
/// What is wanted is asked for again after this.
const ASK_AGAIN: u64 = Now::SECOND / 2;

/// What packets wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Neighbour {
        port: PortId,
        ip: IpAddr,
    },
    /// The Maglev row of a service.
    Row(ServiceId),
}

impl Wanted {
    /// Why a packet is dropped that waited in vain.
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Neighbour { .. } => DropReason::StaleOrUnroutable,
            Self::Row(_) => DropReason::NotReady,
        }
    }

    const fn is_row(self) -> bool {
        matches!(self, Self::Row(_))
    }

    const fn most(self) -> usize {
        match self {
            Self::Neighbour { .. } => MOST_EACH,
            Self::Row(_) => MOST_A_ROW,
        }
    }
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
    /// Keep a frame. Gives it back when there is no room; says whether what is wanted should be asked for now.
    pub fn keep(&mut self, frame: Frame, wanted: Wanted, now: Now) -> (Result<(), Frame>, bool) {
        self.asked.retain(|(_, at)| now.0.saturating_sub(at.0) < ASK_AGAIN);
        let each = self.held.iter().filter(|held| held.wanted == wanted).count();
        let asked = self.asked.iter().position(|(asked, _)| *asked == wanted);
        // A row comes once it is asked for; if nobody waits for it, it came, and is gone again.
        let again = each == 0 && wanted.is_row();
        let ask = asked.map_or(self.asked.len() < MOST, |_| again);
        if ask && asked.is_none() {
            self.asked.push((wanted, now));
        }
        if self.waiting(wanted.is_row()) >= MOST || each >= wanted.most() {
            return (Err(frame), ask);
        }
        self.held.push(Held { frame, wanted, since: now });
        (Ok(()), ask)
    }

    /// Frames that are to be forwarded again now that something changed; up to a burst's worth. `has`: is there a row for this
    /// service, or none needed?
    pub fn retry(&mut self, most: usize, has: impl Fn(ServiceId) -> bool) -> impl Iterator<Item = Frame> {
        let may = move |held: &mut Held| !matches!(held.wanted, Wanted::Row(service) if !has(service));
        self.held.extract_if(.., may).take(most).map(|held| Frame { again: true, ..held.frame })
    }

    /// A frame that waited too long, and what for.
    pub fn expired(&mut self, now: Now) -> Option<(Frame, Wanted)> {
        let index = self.held.iter().position(|held| now.0.saturating_sub(held.since.0) > PATIENCE)?;
        let Held { frame, wanted, .. } = self.held.remove(index);
        Some((frame, wanted))
    }

    /// Does any wait for what comes within microseconds?
    pub fn waits_for_rows(&self) -> bool {
        self.held.iter().any(|held| held.wanted.is_row())
    }

    /// How many wait for rows, or for neighbours.
    pub fn waiting(&self, rows: bool) -> usize {
        self.held.iter().filter(|held| held.wanted.is_row() == rows).count()
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
