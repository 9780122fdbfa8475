//! The packets of all golden cases through a worker whose I/O loses, doubles, delays, cuts and damages them: no panic, the
//! books balance, and no buffer is lost. And what a worker gives up on is counted with its reason.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on says so")]

mod gateway;

use std::path::{Path, PathBuf};

use gateway::{CLIENTS, Gateway, SERVERS, publisher};
use sluice_core::checksum;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::tables::record::ServiceId;
use sluice_core::time::Now;
use sluice_core::verdict::DropReason;
use sluice_policy::compile::Compiled;
use sluice_policy::{config, objects};
use sluice_run::epoch::Publisher;
use sluice_run::hold::{Hold, Wanted};
use sluice_run::io::PacketIo;
use sluice_run::io::fault::Rates;
use sluice_run::io::mem::MemIo;
use sluice_run::io::pcap::read;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../control/cli/tests/golden")
}

/// The tables of the golden cases' world.
fn golden_world() -> Publisher {
    let (gateway, problems) = config::load(&golden().join("world/gateway.yaml"));
    let gateway = gateway.unwrap_or_else(|| panic!("{problems}"));
    let (objects, problems) = objects::load(&[golden().join("world/objects.yaml")], &gateway.options.limits);
    let compiled = Compiled::new(objects, gateway.options, problems);
    let mut publisher = Publisher::default();
    publisher.publish(gateway.replay.0).unwrap();
    publisher.publish(compiled.changes()).unwrap();
    publisher
}

/// All packets of all cases, in the order of the cases' names.
fn packets() -> Vec<Vec<u8>> {
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(golden().join("cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let capture = |case: &PathBuf| read(std::fs::File::open(case.join("in.pcap")).unwrap()).unwrap().1;
    cases.iter().flat_map(capture).map(|frame| frame.bytes).collect()
}

#[test]
fn golden_packets_through_faults_keep_the_books() {
    let packets = packets();
    assert!(packets.len() > 150, "the golden cases are not where they were");
    let rates = Rates { drop: 50, duplicate: 80, reorder: 80, truncate: 60, flip: 150, full: 50 };
    for seed in 0..20 {
        let mut publisher = golden_world();
        let mut gateway = Gateway::new(&mut publisher, rates, seed);
        let mut sent = 0;
        for (n, burst) in packets.chunks(7).enumerate() {
            for packet in burst {
                gateway.arrive(u16::from(packet[5] == 2), packet);
            }
            gateway.worker.turn(Now::from_secs(n as u64));
            sent += gateway.left(CLIENTS).len() + gateway.left(SERVERS).len();
        }
        // Time goes on until nothing waits for anything.
        for n in 0..10 {
            gateway.worker.turn(Now::from_secs(packets.len() as u64 + n));
            sent += gateway.left(CLIENTS).len() + gateway.left(SERVERS).len();
        }
        gateway.assert_balanced(sent as u64);
        assert!(gateway.worker.io.happened.flipped > 5);
    }
}

fn to_nowhere(n: u16) -> Vec<u8> {
    let ip = |text: &str| mapped(text.parse().unwrap());
    let key = FlowKey {
        src: ip("192.0.2.11"),
        dst: ip("10.244.0.99"),
        sport: 40_000 + n,
        dport: 9,
        proto: 17,
        v4: true,
    };
    Frame::new(key).build()
}

#[test]
fn packets_for_a_neighbour_that_never_answers_are_drops_in_the_end() {
    let mut publisher = publisher(1);
    let mut gateway = Gateway::new(&mut publisher, Rates::default(), 1);
    (0..20).for_each(|n| gateway.arrive(CLIENTS, &to_nowhere(n)));
    gateway.worker.turn(Now::from_secs(1));
    let stale = |gateway: &Gateway| gateway.worker.state.counters.dropped_for(DropReason::StaleOrUnroutable);
    assert_eq!(
        (stale(&gateway), gateway.worker.state.counters.held),
        (4, 16),
        "16 wait, the rest found no room"
    );
    let wanted = gateway.wanted.pop().unwrap();
    assert!(matches!(wanted, Wanted::Neighbour { ip, .. } if ip.to_string() == "10.244.0.99"));
    assert!(gateway.wanted.pop().is_err(), "asked once");
    gateway.worker.turn(Now::from_secs(3));
    assert_eq!((stale(&gateway), gateway.worker.state.counters.held), (20, 0));
    gateway.assert_balanced(0);
    let mut told = 0;
    while let Some(event) = gateway.events.take() {
        told += u64::from(event.kind == sluice_core::event::EventKind::Drop(DropReason::StaleOrUnroutable));
    }
    assert_eq!(told, 20, "and each is told");
}

#[test]
fn who_waits_for_neighbours_takes_no_room_from_who_waits_for_rows() {
    let io = &mut MemIo::new(1, 1024);
    let mut hold = Hold::default();
    let mut keep = |wanted| {
        let frame = io.inject(&[0; 60], 0, 0).unwrap();
        hold.keep(frame, wanted, Now(0)).0.is_ok()
    };
    let neighbour = |n: u8| Wanted::Neighbour { port: PortId(0), ip: [10, 0, 0, n].into() };
    let neighbours = (0..200_u8).flat_map(|n| [neighbour(n); 2]).filter(|wanted| keep(*wanted)).count();
    let rows = (0..200).flat_map(|n| [Wanted::Row(ServiceId(n)); 2]).filter(|wanted| keep(*wanted)).count();
    assert_eq!((neighbours, rows), (256, 256));
}

/// A datagram for a backend whose link takes 1400 bytes.
fn too_long(n: u16, payload: usize) -> Vec<u8> {
    let ip = |text: &str| mapped(text.parse().unwrap());
    let key = FlowKey {
        src: ip("192.0.2.11"),
        dst: ip(gateway::world::V4[3]),
        sport: 40_000 + n,
        dport: 8080,
        proto: 17,
        v4: true,
    };
    let mut frame = Frame { payload: vec![7; payload], ..Frame::new(key) }.build();
    // A number of its own, and leave to be cut.
    frame[18..22].copy_from_slice(&[n.to_be_bytes()[0], n.to_be_bytes()[1], 0, 0]);
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn what_is_too_long_is_cut_or_counted_and_no_buffer_is_lost() {
    let mut publisher = publisher(1);
    let mut gateway = Gateway::new(&mut publisher, Rates::default(), 1);
    (0..60).for_each(|n| gateway.arrive(CLIENTS, &too_long(n, 1450)));
    gateway.worker.turn(Now(1));
    assert_eq!(gateway.worker.state.counters.cut, 60);
    for n in 0..5 {
        gateway.worker.turn(Now(2 + n));
    }
    let left = gateway.left(SERVERS);
    assert_eq!(left.len(), 120);
    assert!(left.iter().all(|frame| frame.len() <= 1414));
    assert_eq!(left.iter().map(|frame| frame.len() - 34).sum::<usize>(), 60 * 1458);
    let counters = &gateway.worker.state.counters;
    assert_eq!((counters.received, counters.forwarded, counters.ends()), (180, 120, 180));
    assert_eq!(gateway.worker.io.inner.free_buffers(), gateway::BUFFERS);

    // More pieces than may wait: the datagrams that find no room are drops, whole ones.
    (0..160).for_each(|n| gateway.arrive(CLIENTS, &too_long(100 + n, 3600)));
    for n in 0..40 {
        gateway.worker.turn(Now(20 + n));
    }
    let counters = &gateway.worker.state.counters;
    let lost = counters.dropped_for(DropReason::FragmentationNeeded);
    assert_eq!((counters.cut, lost), (60 + 160 - lost, 43), "three pieces each, room for 256 at a time");
    assert_eq!((counters.received, counters.pieces), (counters.ends(), 120 + (160 - lost) * 3));
    assert_eq!(gateway.left(SERVERS).len() as u64, (160 - lost) * 3);
    assert_eq!(gateway.worker.io.inner.free_buffers(), gateway::BUFFERS);
}
