//! Laws of single packets: reading never fails badly and agrees with another reader, translation can be undone, checksums
//! that are right stay right under any sequence of changes, and what is no IP packet is refused with its reason.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod lab;

use core::net::Ipv6Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::{Lab, any_packet, assert_sound};
use proptest::prelude::*;
use sluice_core::emit::Frame;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{Headers, Kind, parse};
use sluice_core::rewrite;
use sluice_core::verdict::{DropReason, Fate};

fn read(frame: &[u8]) -> Result<Headers, DropReason> {
    let mut copy = frame.to_vec();
    let len = copy.len();
    parse(&Packet::new(&mut copy, 0, len, PortId(0)).unwrap())
}

/// A key of either family; ports that are not zero, as translation gives them.
fn any_key(v4: bool) -> impl Strategy<Value = FlowKey> {
    let ip = move || {
        any::<u128>().prop_map(move |bits| {
            if v4 {
                Ipv6Addr::from_bits(0xffff << 32 | bits & 0xffff_ffff)
            } else {
                Ipv6Addr::from_bits(bits)
            }
        })
    };
    (ip(), ip(), 1..u16::MAX, 1..u16::MAX, prop::sample::select(vec![6, 17, 132]))
        .prop_map(move |(src, dst, sport, dport, proto)| FlowKey { src, dst, sport, dport, proto, v4 })
}

proptest! {
    /// What we read is what etherparse reads.
    #[test]
    fn another_reader_reads_the_same((_, frame) in any_packet()) {
        let Ok(headers) = read(&frame) else { return Ok(()) };
        // It is stricter in places that are only the ends' business.
        let Ok(theirs) = SlicedPacket::from_ethernet(&frame) else { return Ok(()) };
        if let Some(NetSlice::Ipv4(ip)) = &theirs.net {
            prop_assert_eq!(headers.key.source(), ip.header().source_addr());
            prop_assert_eq!(headers.key.destination(), ip.header().destination_addr());
            prop_assert_eq!(usize::from(headers.end - headers.l3), usize::from(ip.header().total_len()));
        }
        if headers.kind == Kind::Ports {
            let ports = match theirs.transport {
                Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
                Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
                _ => (headers.key.sport, headers.key.dport),
            };
            prop_assert_eq!((headers.key.sport, headers.key.dport), ports);
        }
    }

    #[test]
    fn the_reverse_of_the_reverse_is_the_key(key in any::<bool>().prop_flat_map(any_key)) {
        prop_assert_eq!(key.reverse().reverse(), key);
        prop_assert_eq!((key.reverse().source(), key.reverse().dport), (key.destination(), key.sport));
    }

    /// However often a packet is translated, its checksums stay right, and the way back ends where it began.
    #[test]
    fn checksums_stay_right_under_any_sequence_of_translations(
        keys in any::<bool>().prop_flat_map(|v4| prop::collection::vec(any_key(v4), 2..8)),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let proto = keys[0].proto;
        let keys: Vec<FlowKey> = keys.into_iter().map(|key| FlowKey { proto, ..key }).collect();
        let first = Frame { payload, ..Frame::new(keys[0]) }.build();
        // Addresses that may not be on a wire are for other tests.
        let Ok(headers) = read(&first) else { return Ok(()) };
        let mut frame = first.clone();
        let there = keys.windows(2).map(|pair| (pair[0], pair[1]));
        let back = keys.windows(2).rev().map(|pair| (pair[1], pair[0]));
        for (from, to) in there.chain(back) {
            let (ip, l4) = rewrite::deltas(&from, &to);
            rewrite::translate(&mut frame, &headers, &to, ip, l4);
            assert_sound(&frame);
        }
        prop_assert_eq!(frame, first);
    }
}

#[test]
fn what_is_no_ip_packet_is_refused_with_its_reason() {
    let mut lab = Lab::new();
    let packet = lab.udp(lab.plain(true, 40000));
    let with = |ethertype: [u8; 2]| [&packet[..12], &ethertype, &packet[14..]].concat();
    for (frame, reason) in [
        (with([0, 60]), DropReason::UnsupportedL2Protocol),
        (with([0x08, 0x06]), DropReason::UnsupportedL3Protocol),
        (with([0x88, 0x47]), DropReason::UnsupportedL3Protocol),
        (packet[..13].to_vec(), DropReason::InvalidPacket),
        (packet[..20].to_vec(), DropReason::InvalidPacket),
        (Vec::new(), DropReason::InvalidPacket),
    ] {
        assert_eq!(lab.send(0, &frame).0, Fate::Drop(reason), "{frame:02x?}");
    }
}
