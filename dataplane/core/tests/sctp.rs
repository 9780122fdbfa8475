//! SCTP: its checksum is over the whole message, and its ports are better left alone.
#![allow(clippy::cast_possible_truncation, reason = "test data of our own, all small")]

mod lab;

use lab::{Lab, ip, prefix};
use sluice_core::checksum::{self, crc32c};
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::tables::record::*;
use sluice_core::verdict::{DropReason, Fate};

const SCTP: u8 = 132;
const OUT: Fate = Fate::Forward(PortId(1));
const BACK: Fate = Fate::Forward(PortId(0));

/// A service at port 80 whose backend listens on this port.
fn lab(port: u16, forwarding: Forwarding) -> Lab {
    let mut lab = Lab::new();
    for (id, v4) in [(20, true), (21, false)] {
        let backend = Backend {
            id: BackendId(1),
            ip: ip(if v4 { "10.244.0.11" } else { "2001:db8:2::11" }),
            port,
            weight: 100,
            state: BackendState::Active,
            reach: Reach::Itself,
        };
        let record = Service { proto: SCTP, forwarding, backends: vec![backend], ..Service::default() };
        let frontend = Frontend {
            service: Some(ServiceId(id)),
            inside: None,
            cluster_only: false,
            source_ranges: Vec::new(),
            source_ranges_deny: false,
        };
        let key = FrontendKey { ip: asks(v4, 1).destination(), port: 80, proto: SCTP };
        lab.change(&[Change::Service(ServiceId(id), Some(record)), Change::Frontend(key, Some(frontend))]);
    }
    let settings = Settings {
        snat_addresses: vec![ip("192.0.2.3"), ip("2001:db8:1::3")],
        ..lab.tables.settings.clone()
    };
    lab.change(&[
        Change::Settings(settings),
        Change::Class(lab.backend_class(), Some(PolicyClass::default())),
        Change::Route(prefix("192.0.2.3/32"), Some(Route::Local)),
    ]);
    lab
}

fn asks(v4: bool, sport: u16) -> FlowKey {
    FlowKey { proto: SCTP, sport, ..Lab::new().client_to_service(v4, sport) }
}

fn init(key: FlowKey) -> Vec<u8> {
    Frame { payload: (0..57).collect(), ..Frame::new(key) }.build()
}

fn l4(frame: &[u8]) -> usize {
    if frame[12] == 8 { 34 } else { 54 }
}

fn sum_of(frame: &[u8]) -> u32 {
    let at = l4(frame) + 8;
    u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

fn is_right(frame: &[u8]) -> bool {
    let mut packet = frame[l4(frame)..].to_vec();
    packet[8..12].fill(0);
    crc32c(&packet) == sum_of(frame)
}

#[test]
fn other_ports_keep_the_checksum_right_both_ways() {
    for v4 in [true, false] {
        for (port, forwarding) in [(8080, Forwarding::Dnat), (80, Forwarding::Snat), (8080, Forwarding::Snat)]
        {
            let mut lab = lab(port, forwarding);
            let (fate, frame) = lab.send(0, &init(asks(v4, 2905)));
            assert_eq!(fate, OUT);
            assert!(is_right(&frame));
            let to = lab.key_of(&frame);
            assert_eq!(to.dport, port);
            let (fate, reply) = lab.send(1, &init(to.reverse()));
            assert_eq!((fate, lab.key_of(&reply)), (BACK, asks(v4, 2905).reverse()));
            assert!(is_right(&reply));
            // What arrived damaged leaves damaged, for its receiver to see.
            let mut damaged = init(asks(v4, 2905));
            let last = damaged.len() - 1;
            damaged[last] ^= 1;
            assert!(!is_right(&lab.send(0, &damaged).1));
        }
    }
}

#[test]
fn where_ports_stay_nothing_of_the_message_changes() {
    for (port, sport, forwarding) in [(80, 2905, Forwarding::Dnat), (80, 40000, Forwarding::Snat)] {
        let mut lab = lab(port, forwarding);
        let sent = init(asks(true, sport));
        let (fate, frame) = lab.send(0, &sent);
        assert_eq!((fate, &frame[34..]), (OUT, &sent[34..]));
        assert_eq!(lab.key_of(&frame).sport, sport);
    }
    // Two clients with one port: only the first can keep it.
    let mut lab = lab(80, Forwarding::Snat);
    let other = FlowKey { src: mapped(ip("192.0.2.12")), ..asks(true, 40000) };
    let ports = [asks(true, 40000), other].map(|key| {
        let (fate, frame) = lab.send(0, &init(key));
        assert!(fate == OUT && is_right(&frame));
        lab.key_of(&frame).sport
    });
    assert!(ports[0] == 40000 && ports[1] != 40000);
}

#[test]
fn a_message_in_pieces_goes_through_unless_its_ports_would_change() {
    for (port, wanted) in [(80, OUT), (8080, Fate::Drop(DropReason::NatUnsupported))] {
        let mut lab = lab(port, Forwarding::Dnat);
        let mut first = init(asks(true, 2905));
        first.truncate(34 + 64);
        first[16..18].copy_from_slice(&84_u16.to_be_bytes());
        first[18..22].copy_from_slice(&[0xab, 0xcd, 0x20, 0]);
        first[24..26].fill(0);
        let sum = checksum::of(&first[14..34]);
        first[24..26].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(lab.send(0, &first).0, wanted);
    }
}

#[test]
fn backends_of_sctp_answer_directly_too() {
    for dispatch in [Dispatch::Option, Dispatch::Geneve, Dispatch::Ipip] {
        let mut lab = lab(8080, Forwarding::Dsr(dispatch));
        lab.change(&[Change::Settings(Settings { guarded: Vec::new(), ..lab.tables.settings.clone() })]);
        let sent = init(asks(true, 2905));
        let (fate, frame) = lab.send(0, &sent);
        assert_eq!(fate, OUT);
        let inner = &frame[frame.len() - 69..];
        let mut packet = inner.to_vec();
        packet[8..12].fill(0);
        assert_eq!(crc32c(&packet).to_le_bytes(), inner[8..12], "{dispatch:?}");
    }
}
