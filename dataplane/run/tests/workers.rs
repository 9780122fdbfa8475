//! Two workers in memory: whichever worker's queue a packet comes in by, the owner of its flow handles it, once.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on says so")]

mod gateway;

use gateway::{CLIENTS, Gateway, SERVERS, headers, publisher};
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::parse::{ACK, SYN};
use sluice_core::time::Now;
use sluice_core::verdict::{DropReason, WorkerId};
use sluice_run::epoch::Publisher;
use sluice_run::io::fault::Rates;
use sluice_run::ring::exchanges;

struct Pair {
    workers: Vec<Gateway>,
    /// Keeps the tables.
    _publisher: Publisher,
    turns: u64,
}

impl Pair {
    fn new(ring: usize) -> Self {
        let mut publisher = publisher(2);
        let make =
            |(id, exchange)| Gateway::one_of(&mut publisher, WorkerId(id), exchange, Rates::default(), 1);
        let workers = (0..2).zip(exchanges(2, ring).unwrap()).map(make).collect();
        Self { workers, _publisher: publisher, turns: 0 }
    }

    fn turn(&mut self) {
        self.turns += 1;
        for gateway in &mut self.workers {
            gateway.worker.turn(Now(self.turns * Now::SECOND / 1000));
        }
    }

    /// A frame comes in by the queue of a worker; what leaves by the other side, of either worker.
    fn send(&mut self, worker: usize, device: u16, frame: &[u8]) -> Vec<Vec<u8>> {
        self.workers[worker].arrive(device, frame);
        (0..4).for_each(|_| self.turn());
        let other = 1 - device;
        self.workers.iter_mut().flat_map(|gateway| gateway.left(other)).collect()
    }

    fn count(&self, what: impl Fn(&Gateway) -> u64) -> u64 {
        self.workers.iter().map(what).sum()
    }
}

fn key(src: &str, sport: u16, dst: &str, dport: u16, proto: u8) -> FlowKey {
    let ip = |text: &str| mapped(text.parse().unwrap());
    FlowKey { src: ip(src), dst: ip(dst), sport, dport, proto, v4: !src.contains(':') }
}

/// Every kind of flow that has an owner to be found: to a service, straight, translated at its source.
fn flows() -> Vec<(u16, FlowKey)> {
    let mut flows = Vec::new();
    for n in 0..40 {
        flows.push((CLIENTS, key("192.0.2.11", 40_000 + n, "203.0.113.80", 80, 6)));
        flows.push((CLIENTS, key("2001:db8:1::11", 40_000 + n, "2001:db8:cafe::80", 80, 6)));
        flows.push((CLIENTS, key("192.0.2.11", 40_000 + n, "203.0.113.80", 80, 17)));
        flows.push((CLIENTS, key("192.0.2.11", 41_000 + n, "10.244.0.11", 8080, 6)));
        flows.push((SERVERS, key("10.244.0.11", 42_000 + n, "198.51.100.7", 53, 17)));
        flows.push((SERVERS, key("2001:db8:2::11", 42_000 + n, "2001:db8:77::7", 53, 17)));
        flows.push((SERVERS, key("10.244.0.12", 42_000 + n, "198.51.100.7", 443, 6)));
    }
    flows
}

#[test]
fn a_packet_on_any_queue_reaches_the_owner_of_its_flow() {
    let mut pair = Pair::new(64);
    let mut sent = 0;
    for (n, (device, key)) in flows().into_iter().enumerate() {
        let frame = |key: FlowKey, flags: u8| Frame { flags, payload: vec![7; 9], ..Frame::new(key) }.build();
        // By every combination of queues, first and again.
        for round in 0..2 {
            let flags = if round == 0 { SYN } else { ACK };
            let out = pair.send((n + round) % 2, device, &frame(key, flags));
            let [out] = &out[..] else { panic!("{key:?} left {} times", out.len()) };
            let to = headers(out).unwrap().key;
            let reply = frame(to.reverse(), (SYN * u8::from(round == 0)) | ACK);
            let back = pair.send((n / 2 + round) % 2, 1 - device, &reply);
            let [back] = &back[..] else { panic!("the reply to {key:?} left {} times", back.len()) };
            assert_eq!(headers(back).unwrap().key, key.reverse());
            sent += 2;
        }
    }
    assert_eq!(pair.count(|g| g.worker.state.counters.forwarded), sent);
    assert_eq!(pair.count(|g| g.worker.state.counters.flows_created), flows().len() as u64, "one owner each");
    assert!(pair.count(|g| g.worker.state.counters.handed_over) > sent / 4, "many came by the wrong queue");
    for gateway in &pair.workers {
        let counters = &gateway.worker.state.counters;
        assert_eq!(counters.received, counters.ends());
        assert!(counters.flows_created > flows().len() as u64 / 4, "the flows are shared out");
    }
}

#[test]
fn a_full_ring_between_workers_is_counted_as_a_drop() {
    let mut pair = Pair::new(1);
    for n in 0..60 {
        let key = key("192.0.2.11", 40_000 + n, "203.0.113.80", 80, 6);
        let frame = Frame { flags: SYN, payload: vec![0; 1300], ..Frame::new(key) };
        pair.workers[0].arrive(CLIENTS, &frame.build());
    }
    (0..4).for_each(|_| pair.turn());
    let left: usize = pair.workers.iter_mut().map(|gateway| gateway.left(SERVERS).len()).sum();
    let dropped = pair.count(|g| g.worker.state.counters.dropped_for(DropReason::RateLimited));
    assert!(dropped > 0, "the ring was never full");
    assert_eq!(left as u64 + dropped, 60, "each left or was counted");
    for gateway in &pair.workers {
        let counters = &gateway.worker.state.counters;
        assert_eq!(counters.received, counters.ends());
    }
}
