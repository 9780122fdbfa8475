//! The messages themselves.

use postcard::ser_flavors::Size;
use serde::{Deserialize, Serialize};
use sluice_core::state::snapshot::FlowRecord;
use sluice_core::tables::record::{Change, Prefix};
use sluice_core::time::Now;
use sluice_core::watch::{Filter, Sighting};

use crate::event::SentEvent;

/// Changes in one piece of a snapshot or delta, at most, and bytes of them: a service may have thousands of backends.
const PIECE: usize = 4096;
const PIECE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDataplane {
    Hello {
        version: u32,
    },
    /// A piece of generation `generation`. `whole`: the pieces together are everything, what is not among them is to go.
    Changes {
        generation: u64,
        whole: bool,
        last: bool,
        changes: Vec<Change>,
    },
    Ask {
        id: u32,
        question: Question,
    },
}

/// Patterns of DNS names, in the place of a prefix, that addresses were met for: they need an identity.
pub type WantedSet = (Prefix, Vec<String>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    Hello {
        version: u32,
    },
    /// Sets that need an identity. Right after the hello with all that are in use (`whole`), then as they are met.
    Wanted {
        sets: Vec<WantedSet>,
        whole: bool,
    },
    /// Live on every worker, this many microseconds after the last piece came.
    Ack {
        generation: u64,
        microseconds: u64,
    },
    /// Nothing was changed.
    Nack {
        generation: u64,
        why: String,
    },
    /// `lost` counts all that were ever lost.
    Events {
        events: Vec<SentEvent>,
        lost: u64,
    },
    Answer {
        id: u32,
        answer: Answer,
    },
    /// What the watch of this number saw; `lost` found no room since it began. `now` is the dataplane's time, to place the
    /// packets' times in the day. After `done` nothing more comes.
    Seen {
        watch: u32,
        now: Now,
        packets: Vec<SeenPacket>,
        lost: u64,
        done: bool,
    },
}

/// One packet, and its bytes as it came and as it went if they were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPacket {
    pub sighting: Sighting,
    /// Device (index in the settings) and VLAN.
    pub came_by: (u16, u16),
    pub leaves_by: Option<(u16, u16)>,
    pub came: Vec<u8>,
    pub went: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    Status,
    /// Flows of all workers, at most so many.
    Flows {
        limit: u32,
    },
    /// Names that were learned, at most so many.
    Names {
        limit: u32,
    },
    /// Show packets that fit, at most so many for at most so long. The number of this question is that of the watch.
    Watch {
        filter: Box<Filter>,
        packets: u64,
        milliseconds: u64,
        frames: bool,
    },
    /// Nobody listens to this watch any more.
    Unwatch {
        watch: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A JSON object; see `sluice status`.
    Status(String),
    Flows(Vec<FlowRecord>),
    /// A JSON list; see `sluice names`.
    Names(String),
    Failed(String),
    Done,
}

/// A generation as messages, none of which is longer than one may be (unless a single change is).
pub fn chunks(generation: u64, whole: bool, changes: Vec<Change>) -> Vec<ToDataplane> {
    let mut pieces = Vec::new();
    let mut rest = changes.into_iter().peekable();
    loop {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while changes.len() < PIECE
            && bytes < PIECE_BYTES
            && let Some(change) = rest.next()
        {
            bytes += size(&change);
            changes.push(change);
        }
        let last = rest.peek().is_none();
        pieces.push(ToDataplane::Changes { generation, whole, last, changes });
        if last {
            return pieces;
        }
    }
}

/// As many bytes as it becomes. What cannot be written shows when it is.
fn size(change: &Change) -> usize {
    postcard::serialize_with_flavor(change, Size::default()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use sluice_core::tables::record::{Backend, BackendId, BackendState, Reach, Service, ServiceId};

    use super::*;
    use crate::codec::encode;

    #[test]
    fn pieces_of_a_generation_are_never_too_long_however_many_backends_services_have() {
        let ip = "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap();
        let backend = |n| Backend {
            id: BackendId(u32::MAX - n),
            ip,
            port: 65_000,
            weight: 100,
            state: BackendState::Active,
            reach: Reach::By(ip),
        };
        let service = Service { backends: (0..1000).map(backend).collect(), ..Service::default() };
        let changes: Vec<Change> =
            (0..1000).map(|n| Change::Service(ServiceId(n), Some(service.clone()))).collect();
        let pieces = chunks(1, true, changes.clone());
        let mut told = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            assert!(encode(piece).is_ok(), "piece {n} is too long");
            let ToDataplane::Changes { last, changes, .. } = piece else { panic!("{piece:?}") };
            assert_eq!(*last, n + 1 == pieces.len());
            told.extend(changes.iter().cloned());
        }
        assert_eq!(told, changes);
    }
}
