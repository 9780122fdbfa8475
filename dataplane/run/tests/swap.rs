//! Tables change while packets are forwarded: every packet sees exactly one generation, and none is lost.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on says so, and changes few of the records"
)]

mod gateway;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway::{CLIENTS, Gateway, SERVERS, publisher, world};
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::parse::SYN;
use sluice_core::tables::record::{
    Algorithm, Backend, BackendId, BackendState, Change, Frontend, FrontendKey, NextHop, Port, Reach,
    Service, ServiceId,
};
use sluice_core::tables::service::Bare;
use sluice_core::time::Now;
use sluice_run::epoch::Publisher;
use sluice_run::hold::Wanted;
use sluice_run::io::fault::Rates;

const GENERATIONS: u16 = 200;

/// Generation `n` writes its number into both addresses of every link header that leaves to the servers.
fn generation(n: u16) -> Vec<Change> {
    let [high, low] = n.to_be_bytes();
    let marked = |change| match change {
        Change::Port(id, Some(port)) if port.device == SERVERS => {
            Some(Change::Port(id, Some(Port { mac: [2, 0, 0, 0, high, low], ..port })))
        }
        Change::NextHop(id, Some(hop)) if hop.port.0 == SERVERS => {
            Some(Change::NextHop(id, Some(NextHop { mac: Some([4, 0, 0, 0, high, low]), ..hop })))
        }
        _ => None,
    };
    world::network().into_iter().filter_map(marked).collect()
}

#[test]
fn every_packet_sees_one_generation_and_none_is_lost() {
    let mut publisher = publisher(1);
    let mut gateway = Gateway::new(&mut publisher, Rates::default(), 1);
    publisher.publish(generation(1)).unwrap();
    // A worker that has not looked yet counts as asleep, and nobody waits for those.
    gateway.worker.turn(Now(0));
    let over = AtomicBool::new(false);
    let (sent, seen) = std::thread::scope(|scope| {
        scope.spawn(|| publish_all(&mut publisher, &over));
        let frames: Vec<_> = (0..32).map(frame).collect();
        let (mut arrived, mut left, mut seen) = (0_u64, Vec::new(), std::collections::BTreeSet::new());
        while !over.load(Ordering::Acquire) {
            frames.iter().for_each(|frame| gateway.arrive(CLIENTS, frame));
            arrived += frames.len() as u64;
            gateway.worker.turn(Now(arrived));
            left.extend(gateway.left(SERVERS));
        }
        assert_eq!(left.len() as u64, arrived, "none is lost");
        for frame in &left {
            assert_eq!(frame[4..6], frame[10..12], "half of one generation and half of another");
            seen.insert(frame[4..6].to_vec());
        }
        (arrived, seen.len())
    });
    gateway.assert_balanced(sent);
    assert!(seen > 10, "only {seen} generations were seen");
}

fn publish_all(publisher: &mut Publisher, over: &AtomicBool) {
    for n in 2..GENERATIONS {
        let version = publisher.publish(generation(n)).unwrap();
        // Every other one is followed by the next at once.
        if n.is_multiple_of(2) {
            assert!(publisher.seen().wait(version, Duration::from_secs(20)), "the worker stands still");
        }
    }
    over.store(true, Ordering::Release);
}

fn frame(n: u16) -> Vec<u8> {
    let ip = |text: &str| mapped(text.parse().unwrap());
    let (dst, dport) = if n.is_multiple_of(2) { ("203.0.113.80", 80) } else { ("10.244.0.11", 8080) };
    let key = FlowKey { src: ip("192.0.2.11"), dst: ip(dst), sport: 40_000 + n, dport, proto: 6, v4: true };
    Frame { flags: SYN, ..Frame::new(key) }.build()
}

/// More services than rows are built for at once, each with the backend of the world and so many that nobody has.
fn services(others: u8) -> Vec<Change> {
    let backend = |ip: [u8; 4]| Backend {
        id: BackendId(u32::from_be_bytes(ip)),
        ip: ip.into(),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    };
    let one = |n: u8| {
        let id = ServiceId(1000 + u32::from(n));
        let mut backends = vec![backend([10, 244, 0, 11])];
        backends.extend((0..others).map(|k| Backend { weight: 0, ..backend([10, 99, n, k]) }));
        let record =
            Service { proto: 6, algorithm: Algorithm::Maglev(16_381), backends, ..Service::default() };
        let frontend = Frontend {
            service: Some(id),
            inside: None,
            cluster_only: false,
            source_ranges: Vec::new(),
            source_ranges_deny: false,
        };
        let key = FrontendKey { ip: [203, 0, 114, n].into(), port: 80, proto: 6 };
        [Change::Service(id, Some(record)), Change::Frontend(key, Some(frontend))]
    };
    (0..64).flat_map(one).collect()
}

/// One turn of building. Was anything published?
fn build(publisher: &mut Publisher, asked: &[u32]) -> bool {
    let (bare, wanted) = publisher.rows_to_build(asked.iter().map(|id| ServiceId(*id)));
    assert_eq!(wanted, !asked.is_empty());
    publisher.take_rows(bare.iter().map(Bare::build).collect(), wanted).is_some()
}

#[test]
fn rows_that_nobody_asks_for_are_built_all_the_same_and_published_together() {
    let mut publisher = publisher(1);
    let mut view = publisher.subscribe();
    publisher.publish(services(1)).unwrap();
    view.refresh();
    for _ in 0..10 {
        assert!(!build(&mut publisher, &[]), "not one by one");
    }
    // Of two whose rows are built, but not published, one changes.
    publisher.publish(services(2).into_iter().take(2).collect()).unwrap();
    let mut turns = 0;
    while publisher.has_rows_to_build() {
        assert!(!build(&mut publisher, &[]), "a worker looks at the older copy, and is not waited for");
        turns += 1;
        assert!(turns < 30, "a worker that is stuck keeps nobody busy");
    }
    assert_eq!(publisher.rows_pending(), 63);
    view.refresh();
    assert!(publisher.has_rows_to_build(), "nobody is in the way");
    assert!(build(&mut publisher, &[]));
    view.refresh();
    let tables = view.view();
    assert_eq!(tables.services.rows_pending(), 0);
    for id in (1000..1064).map(ServiceId) {
        let service = tables.services.service(id).unwrap();
        assert_eq!(service.record.backends.len(), if id.0 == 1000 { 3 } else { 2 });
        assert!(service.is_ready() && service.row().count() == 16_381);
    }
    assert_eq!(publisher.rows_pending(), 0);
    assert!(!build(&mut publisher, &[]), "nothing left to do");
}

#[test]
fn many_services_are_live_without_rows_and_a_new_flow_waits_for_its_own_alone() {
    let mut publisher = publisher(1);
    let mut gateway = Gateway::new(&mut publisher, Rates::default(), 1);
    let to = |n: u8, sport: u16| {
        let ip = |text: &str| mapped(text.parse().unwrap());
        let (src, dst) = (ip("192.0.2.11"), mapped([203, 0, 114, n].into()));
        let key = FlowKey { src, dst, sport, dport: 80, proto: 6, v4: true };
        Frame { flags: SYN, ..Frame::new(key) }.build()
    };
    publisher.publish(services(1)).unwrap();
    assert_eq!(publisher.rows_pending(), 64);
    for sport in [1, 2] {
        gateway.arrive(CLIENTS, &to(7, sport));
    }
    gateway.worker.turn(Now(1));
    assert!(gateway.left(SERVERS).is_empty());
    assert_eq!(gateway.wanted.pop(), Ok(Wanted::Row(ServiceId(1007))));
    assert!(gateway.wanted.pop().is_err(), "asked once");
    // What else is published does not help.
    publisher.publish(generation(1)).unwrap();
    gateway.worker.turn(Now(2));
    assert!(gateway.left(SERVERS).is_empty());
    assert!(build(&mut publisher, &[1007]), "at once");
    assert_eq!(publisher.rows_pending(), 63);
    gateway.worker.turn(Now(3));
    assert_eq!(gateway.left(SERVERS).len(), 2, "both go at once");

    publisher.publish(services(2)).unwrap();
    publisher.settle();
    gateway.arrive(CLIENTS, &to(7, 1));
    gateway.arrive(CLIENTS, &to(7, 3));
    gateway.worker.turn(Now(4));
    assert_eq!(gateway.left(SERVERS).len(), 1, "a flow that has its backend needs no row");
    assert_eq!(gateway.wanted.pop(), Ok(Wanted::Row(ServiceId(1007))), "it was there, and is gone");
    assert_eq!(publisher.rows_pending(), 64);
    assert!(build(&mut publisher, &[1007]));
    gateway.worker.turn(Now(5));
    assert_eq!(gateway.left(SERVERS).len(), 1);
    let counters = &gateway.worker.state.counters;
    assert_eq!((counters.received, counters.dropped()), (counters.ends(), 0));
}
