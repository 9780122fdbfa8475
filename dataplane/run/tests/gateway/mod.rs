//! A whole worker in memory, with faults if a test wants them, between clients (device 0) and servers (device 1).
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "test data of our own, small and valid"
)]

#[path = "../../../fuzz/swallow/script.rs"]
mod script;
#[path = "../../../fuzz/swallow/world.rs"]
pub mod world;

use std::sync::Arc;

use rtrb::{Consumer, RingBuffer};
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{Headers, parse};
use sluice_core::state::{Config, State};
use sluice_core::tables::record::{Change, Settings};
use sluice_core::verdict::WorkerId;
use sluice_run::answers::{Classroom, answers};
use sluice_run::epoch::Publisher;
use sluice_run::hold::Wanted;
use sluice_run::io::fault::{FaultIo, Rates};
use sluice_run::io::mem::MemIo;
use sluice_run::ring::{EventReceiver, Exchange, events, exchanges};
use sluice_run::worker::{Ends, Idle, Worker};

pub const BUFFERS: usize = 512;
pub const CLIENTS: u16 = 0;
pub const SERVERS: u16 = 1;

/// A worker with what others hold of it.
pub struct Gateway {
    pub worker: Worker<FaultIo<MemIo>>,
    pub events: EventReceiver,
    pub wanted: Consumer<Wanted>,
    _classroom: Classroom,
    pub arrived: u64,
}

/// The world's tables, for so many workers.
pub fn publisher(workers: u8) -> Publisher {
    let mut publisher = Publisher::default();
    let shared = |change: Change| match change {
        Change::Settings(settings) => Change::Settings(Settings { workers, ..settings }),
        other => other,
    };
    let changes = world::network().into_iter().chain(world::objects()).map(shared).collect();
    publisher.publish(changes).unwrap();
    publisher
}

impl Gateway {
    pub fn new(publisher: &mut Publisher, rates: Rates, seed: u64) -> Self {
        Self::one_of(publisher, WorkerId(0), exchanges(1, 1).unwrap().remove(0), rates, seed)
    }

    pub fn one_of(
        publisher: &mut Publisher,
        id: WorkerId,
        exchange: Exchange,
        rates: Rates,
        seed: u64,
    ) -> Self {
        let (sender, events) = events(1 << 14);
        let (ask, wanted) = RingBuffer::new(64);
        let config = Config { worker: id, ..Config::new(4096, [1, 2, 3, 4]) };
        let io = FaultIo::new(MemIo::new(2, BUFFERS), rates, seed);
        let (answers, classroom) = answers(id, Arc::new(()));
        let ends = Ends { tables: publisher.subscribe(), events: sender, exchange, wanted: ask, answers };
        let worker = Worker::new(io, State::new(config), ends, Idle::Poll);
        Self { worker, events, wanted, _classroom: classroom, arrived: 0 }
    }

    pub fn arrive(&mut self, device: u16, bytes: &[u8]) {
        self.arrived += 1;
        self.worker.io.inner.arrive(device, bytes);
    }

    /// What has left by a device since the last call.
    pub fn left(&mut self, device: u16) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.worker.io.inner.sent[usize::from(device)])
    }

    /// In + generated = out + drops + passed + consumed, frame by frame; and every buffer is free again or held.
    /// `sent` are all frames that ever left.
    pub fn assert_balanced(&self, sent: u64) {
        let (counters, io) = (&self.worker.state.counters, &self.worker.io);
        let happened = io.happened;
        assert_eq!(io.inner.lost, 0, "there were buffers for all");
        assert_eq!(counters.received, counters.ends(), "{counters:?}");
        let came = self.arrived - happened.dropped + happened.duplicated;
        assert_eq!(counters.received, came + counters.pieces, "{happened:?}");
        let goes = counters.forwarded + counters.answered + counters.echoed;
        assert_eq!(goes, sent + happened.refused, "{counters:?} {happened:?}");
        assert_eq!(io.inner.free_buffers() as u64 + counters.held, BUFFERS as u64);
    }
}

pub fn headers(frame: &[u8]) -> Option<Headers> {
    let mut copy = frame.to_vec();
    let len = copy.len();
    parse(&Packet::new(&mut copy, 0, len, PortId(0))?).ok()
}
