//! Backends that answer clients directly: what they are sent, byte by byte, and how flows live whose replies take another
//! way.
#![allow(clippy::cast_possible_truncation, reason = "test data of our own, all small")]

mod lab;

use lab::{Lab, cut, icmp_about, ip, may_be_cut, prefix};
use sluice_core::checksum;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::parse::{ACK, FIN, RST, SYN};
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{DropReason, Fate, NextHopId};

const OUT: Fate = Fate::Forward(PortId(1));
const BACK: Fate = Fate::Forward(PortId(0));
const ALL: [Dispatch; 3] = [Dispatch::Option, Dispatch::Geneve, Dispatch::Ipip];

/// The lab's services of one backend that answers directly, who needs not be guarded by us.
fn lab(dispatch: Dispatch, change: impl Fn(&mut Service)) -> Lab {
    let mut lab = Lab::new();
    set(&mut lab, dispatch, change);
    let settings = Settings { guarded: Vec::new(), ..lab.tables.settings.clone() };
    lab.change(&[
        Change::Settings(settings),
        Change::Class(lab.backend_class(), Some(PolicyClass::default())),
    ]);
    lab
}

fn set(lab: &mut Lab, dispatch: Dispatch, change: impl Fn(&mut Service)) {
    for (id, v4, proto) in [(1, true, 6), (2, false, 6), (3, true, 17)] {
        let mut record = Service {
            proto,
            algorithm: Algorithm::Maglev(251),
            forwarding: Forwarding::Dsr(dispatch),
            backends: vec![backend(v4, 1)],
            ..Service::default()
        };
        change(&mut record);
        lab.change(&[Change::Service(ServiceId(id), Some(record))]);
    }
}

fn backend(v4: bool, n: u8) -> Backend {
    Backend {
        id: BackendId(u32::from(n)),
        ip: ip(&if v4 { format!("10.244.0.1{n}") } else { format!("2001:db8:2::1{n}") }),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    }
}

fn server(v4: bool) -> FlowKey {
    let lab = Lab::new();
    let to = backend(v4, 1);
    FlowKey { dst: mapped(to.ip), dport: 8080, ..lab.client_to_service(v4, 40000) }
}

/// The same packet, one hop on.
fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let v4 = frame[12] == 0x08;
    let mut frame = frame.to_vec();
    if v4 {
        frame[14 + 8] -= 1;
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14 + 7] -= 1;
    }
    frame
}

fn syn(key: FlowKey) -> Frame {
    Frame { flags: SYN, ..Frame::new(key) }
}

#[test]
fn ipip_carries_what_the_client_sent() {
    for v4 in [true, false] {
        let mut lab = lab(Dispatch::Ipip, |_| ());
        let sent = syn(lab.client_to_service(v4, 40000)).build();
        let (fate, frame) = lab.send(0, &sent);
        assert_eq!(fate, OUT);
        let mut wanted = vec![2, 1, 0, 0, 0, if v4 { 4 } else { 8 }, 2, 0, 0, 0, 0, 1];
        if v4 {
            wanted.extend([0x08, 0x00, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4]);
            wanted.extend([0, 0, 10, 244, 0, 1, 10, 244, 0, 11]);
            let sum = checksum::of(&wanted[14..34]);
            wanted[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            wanted.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 41, 64]);
            wanted.extend("2001:db8:2::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            wanted.extend("2001:db8:2::11".parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        wanted.extend(&one_hop_on(&sent)[14..]);
        assert_eq!(frame, wanted);
        lab.assert_sound(&frame);
    }
}

#[test]
fn geneve_carries_the_backends_frame_and_the_service() {
    for v4 in [true, false] {
        let mut lab = lab(Dispatch::Geneve, |_| ());
        let key = lab.client_to_service(v4, 40000);
        let sent = syn(key).build();
        let (fate, frame) = lab.send(0, &sent);
        assert_eq!(fate, OUT);
        lab.assert_sound(&frame);
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
        assert_eq!(udp.destination_port(), 6081);
        assert!(udp.source_port() >= 0xc000);
        assert_eq!(udp.checksum() == 0, v4);
        let mut wanted: Vec<u8> = if v4 {
            let mut head = vec![3, 0x40, 0x65, 0x58, 0, 0, 2, 0, 0x01, 0x4b, 0x81, 2];
            head.extend([203, 0, 113, 80, 0, 80, 0, 0]);
            head
        } else {
            let mut head = vec![6, 0x40, 0x65, 0x58, 0, 0, 2, 0, 0x01, 0x4b, 0x81, 5];
            head.extend("2001:db8:cafe::80".parse::<std::net::Ipv6Addr>().unwrap().octets());
            head.extend([0, 80, 0, 0]);
            head
        };
        // Inside is the frame as a plain gateway would have sent it on, with the client's link header.
        wanted.extend(one_hop_on(&syn(server(v4)).build()));
        assert_eq!(udp.payload(), wanted);
        // Established packets are told of, too: the other end may have begun anew.
        let (_, later) = lab.send(0, &lab.tcp(key, ACK));
        assert_eq!(later.len(), frame.len());
        assert_eq!(lab.key_of(&later).dport, 6081);
    }
}

#[test]
fn the_option_is_told_once_a_connection_and_with_every_datagram() {
    for v4 in [true, false] {
        let mut lab = lab(Dispatch::Option, |_| ());
        let key = lab.client_to_service(v4, 40000);
        let (fate, frame) = lab.send(0, &syn(key).build());
        assert_eq!(fate, OUT);
        lab.assert_sound(&frame);
        assert_eq!(lab.key_of(&frame), server(v4));
        let plain = one_hop_on(&syn(server(v4)).build());
        if v4 {
            assert_eq!(frame[14], 0x47);
            // Port and address with their low bytes first.
            assert_eq!(frame[34..42], [0x9a, 8, 80, 0, 80, 113, 0, 203]);
            assert_eq!(frame[42..], plain[34..]);
        } else {
            let mut wanted = vec![6, 2, 0x1b, 20];
            wanted.extend("2001:db8:cafe::80".parse::<std::net::Ipv6Addr>().unwrap().octets());
            wanted.extend([0, 80, 0, 0]);
            assert_eq!((frame[14 + 5], frame[14 + 6]), (20 + 24, 60));
            assert_eq!(frame[54..78], wanted);
            assert_eq!(frame[78..], plain[54..]);
        }
        let (_, later) = lab.send(0, &lab.tcp(key, ACK));
        assert_eq!(later[12..], one_hop_on(&lab.tcp(server(v4), ACK))[12..]);
        lab.assert_sound(&later);
    }
    let mut lab = lab(Dispatch::Option, |_| ());
    for _ in 0..2 {
        let (fate, frame) = lab.send(0, &lab.udp(lab.client_to_service_udp(40000)));
        assert_eq!((fate, frame[14], frame[34]), (OUT, 0x47, 0x9a));
        lab.assert_sound(&frame);
    }
}

#[test]
fn a_full_ip_header_has_no_room_for_the_option() {
    let mut lab = lab(Dispatch::Option, |_| ());
    let mut frame = syn(lab.client_to_service(true, 40000)).build();
    // Nine words of options that mean nothing.
    frame.splice(34..34, [1; 36]);
    frame[14] = 0x4e;
    frame[16..18].copy_from_slice(&76_u16.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..70]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(lab.send(0, &frame).0, Fate::Drop(DropReason::CannotWrap));
}

#[test]
fn each_way_leaves_less_room_and_says_how_much() {
    let cases = [(Dispatch::Option, 192, 176), (Dispatch::Geneve, 138, 106), (Dispatch::Ipip, 180, 160)];
    for (dispatch, v4_room, v6_room) in cases {
        for (v4, room) in [(true, v4_room), (false, v6_room)] {
            let mut lab = lab(dispatch, |_| ());
            for id in [4, 8] {
                let hop = *lab.tables.routing.hop(NextHopId(id)).unwrap();
                lab.change(&[Change::NextHop(NextHopId(id), Some(NextHop { mtu: 200, ..hop }))]);
            }
            let sized = |key, total: usize| {
                let headers = if v4 { 40 } else { 60 };
                Frame { payload: vec![7; total - headers], ..syn(key) }.build()
            };
            let (fate, frame) = lab.send(0, &sized(lab.client_to_service(v4, 40000), room));
            assert_eq!((fate, frame.len()), (OUT, 214), "{dispatch:?} {v4}");
            let (fate, error) = lab.send(0, &sized(lab.client_to_service(v4, 40001), room + 1));
            assert_eq!(fate, Fate::Answer(PortId(0)), "{dispatch:?} {v4}");
            lab.assert_sound(&error);
            let (kind, at) = if v4 { ([3, 4], 34) } else { ([2, 0], 54) };
            assert_eq!(error[at..at + 2], kind);
            assert_eq!(usize::from(u16::from_be_bytes([error[at + 6], error[at + 7]])), room);
            assert_eq!(lab.quoted_key(&error), lab.client_to_service(v4, 40001));
            assert_eq!(lab.state.counters.dropped_for(DropReason::FragmentationNeeded), 1);
        }
    }
}

#[test]
fn what_may_be_cut_fits_its_tunnel_piece_by_piece() {
    for (dispatch, more) in [(Dispatch::Option, 8), (Dispatch::Geneve, 62), (Dispatch::Ipip, 20)] {
        let mut lab = lab(dispatch, |_| ());
        let hop = *lab.tables.routing.hop(NextHopId(4)).unwrap();
        lab.change(&[Change::NextHop(NextHopId(4), Some(NextHop { mtu: 500, ..hop }))]);
        let payload = (0..1200_u16).map(|n| n as u8).collect();
        let datagram = Frame { payload, ..lab.udp_frame(lab.client_to_service_udp(40000)) }.build();
        assert_eq!(lab.send(0, &datagram).0, Fate::Answer(PortId(0)), "it must not be cut");
        let datagram = may_be_cut(datagram);
        let (fate, same) = lab.send(0, &datagram);
        assert_eq!((fate, same == datagram), (Fate::Cut(500 - more), true), "{dispatch:?}");
        let pieces = cut(&datagram, 500 - more);
        assert_eq!(pieces.len(), 3);
        for (n, piece) in pieces.iter().enumerate() {
            let (fate, frame) = lab.send(0, piece);
            assert_eq!(fate, OUT, "{dispatch:?}");
            assert_eq!(frame.len(), piece.len() + usize::from(more));
            assert!(frame.len() <= 514);
            // Its ports are the backend's; all else is as it was.
            assert!(frame.ends_with(&piece[if n == 0 { 42 } else { 34 }..]), "{dispatch:?}");
        }
        let counters = &lab.state.counters;
        assert_eq!((counters.cut, counters.dropped(), counters.flows_created), (1, 1, 1));
        assert_eq!(counters.received, counters.ends());
    }
}

#[test]
fn a_node_takes_tunnels_for_the_backends_on_it() {
    for dispatch in ALL {
        let mut lab = lab(dispatch, |service| {
            if service.backends[0].ip.is_ipv4() {
                service.backends[0].reach = Reach::By(ip("10.244.0.12"));
            }
        });
        let (fate, frame) = lab.send(0, &syn(lab.client_to_service(true, 40000)).build());
        assert_eq!(fate, OUT);
        let wanted = if dispatch == Dispatch::Option { "10.244.0.11" } else { "10.244.0.12" };
        assert_eq!(lab.key_of(&frame).destination(), ip(wanted));
        let mac = if dispatch == Dispatch::Option { 4 } else { 5 };
        assert_eq!(frame[..6], [2, 1, 0, 0, 0, mac]);
    }
}

#[test]
fn flows_keep_their_way_when_new_ones_go_another_and_in_another_process() {
    let ways = [Forwarding::Dnat, Forwarding::Snat].into_iter().chain(ALL.map(Forwarding::Dsr));
    let node = |forwarding, service: &mut Service| {
        service.forwarding = forwarding;
        // As control tells it: the node, but for tunnels of plain IP.
        let v4 = service.backends[0].ip.is_ipv4();
        let end = Reach::By(ip(if v4 { "10.244.0.12" } else { "2001:db8:2::12" }));
        let told = forwarding != Forwarding::Dsr(Dispatch::Ipip);
        service.backends[0].reach = if told { end } else { Reach::Itself };
    };
    let snat = vec![ip("192.0.2.2"), ip("2001:db8:1::2")];
    for (old, v4) in ways.clone().flat_map(|way| [(way, true), (way, false)]) {
        for new in
            ways.clone().filter(|new| (old, *new) != (Forwarding::Dsr(ALL[1]), Forwarding::Dsr(ALL[2])))
        {
            let mut first = lab(Dispatch::Option, |service| node(old, service));
            let settings = Settings { snat_addresses: snat.clone(), ..first.tables.settings.clone() };
            first.change(&[Change::Settings(settings.clone())]);
            let key = first.client_to_service(v4, 40000);
            let (fate, opening) = first.send(0, &first.tcp(key, SYN));
            assert_eq!(fate, OUT, "{old:?}");
            // What comes back, if it does by us.
            let server =
                matches!(old, Forwarding::Dnat | Forwarding::Snat).then(|| first.key_of(&opening).reverse());
            let (_, wanted) = first.send(0, &first.tcp(key, ACK));
            let records: Vec<_> =
                first.state.flows.iter_from(0).map(|(_, flow)| first.state.export(flow, Now(0))).collect();
            // The tables change under the flows, or are those of the next process.
            let mut next = lab(Dispatch::Option, |service| node(new, service));
            next.change(&[Change::Settings(settings)]);
            for record in &records {
                next.state.import(record, Now(0)).unwrap();
            }
            set(&mut first, Dispatch::Option, |service| node(new, service));
            for lab in [&mut first, &mut next] {
                let (fate, frame) = lab.send(0, &lab.tcp(key, ACK));
                assert_eq!((fate, &frame), (OUT, &wanted), "{old:?} when it is {new:?}");
                if let Some(server) = server {
                    let (fate, frame) = lab.send(1, &lab.tcp(server, ACK));
                    assert_eq!(
                        (fate, lab.key_of(&frame)),
                        (BACK, key.reverse()),
                        "{old:?} when it is {new:?}"
                    );
                }
                assert_eq!(lab.state.counters.dropped(), 0);
            }
        }
    }
}

#[test]
fn tunnels_come_from_a_source_for_each_flow_where_there_is_a_prefix_for_them() {
    let mut lab = lab(Dispatch::Ipip, |_| ());
    let settings = Settings {
        tunnel_sources: vec![prefix("198.18.0.0/24"), prefix("2001:db8:77::/64")],
        ..lab.tables.settings.clone()
    };
    lab.change(&[Change::Settings(settings)]);
    for v4 in [true, false] {
        let mut sources = std::collections::HashSet::new();
        for sport in 40000..40100 {
            let key = lab.client_to_service(v4, sport);
            let (_, opening) = lab.send(0, &syn(key).build());
            let (_, later) = lab.send(0, &lab.tcp(key, ACK));
            let first = lab.key_of(&opening).source();
            assert_eq!(first, lab.key_of(&later).source());
            assert!(first.to_string().starts_with(if v4 { "198.18.0." } else { "2001:db8:77::" }));
            sources.insert(first);
        }
        assert!(sources.len() > 60, "{} sources for 100 flows", sources.len());
    }
}

#[test]
fn one_sided_connections_are_tracked_by_what_the_client_says() {
    for dispatch in ALL {
        let mut lab = lab(dispatch, |_| ());
        let key = lab.client_to_service(true, 40000);
        let at = |lab: &mut Lab, seconds: u64, flags| {
            for second in (lab.now.0 / Now::SECOND)..=seconds {
                lab.tick(Now(second * Now::SECOND));
            }
            assert_eq!(lab.send(0, &lab.tcp(key, flags)).0, OUT);
            lab.state.flows.occupancy().0
        };
        assert_eq!(at(&mut lab, 1, SYN), 1);
        assert_eq!(at(&mut lab, 2, ACK), 1);
        let created = lab.state.counters.flows_created;
        // An idle hour is nothing to a connection of which only one side is seen.
        at(&mut lab, 3600, ACK);
        assert_eq!(lab.state.counters.flows_created, created);
        at(&mut lab, 3601, FIN | ACK);
        at(&mut lab, 3602, SYN);
        assert_eq!(lab.state.counters.flows_created, created + 1, "a port used again is a new connection");
        at(&mut lab, 3603, RST);
        for second in 3604..3630 {
            lab.tick(Now(second * Now::SECOND));
        }
        assert_eq!(lab.state.flows.occupancy().0, 0);
    }
}

#[test]
fn another_gateways_connections_are_taken_up_in_their_middle() {
    for dispatch in ALL {
        let mut lab = lab(dispatch, |service| {
            service.backends = (1..=4).map(|n| backend(service.backends[0].ip.is_ipv4(), n)).collect();
        });
        let mut other = Lab::new();
        set(&mut other, dispatch, |service| {
            service.backends = (1..=4).rev().map(|n| backend(service.backends[0].ip.is_ipv4(), n)).collect();
        });
        let settings = Settings { guarded: Vec::new(), ..lab.tables.settings.clone() };
        other.change(&[Change::Settings(settings)]);
        other.change(&[Change::Class(other.backend_class(), Some(PolicyClass::default()))]);
        for sport in 40000..40050 {
            for v4 in [true, false] {
                let key = lab.client_to_service(v4, sport);
                let (_, first) = lab.send(0, &syn(key).build());
                let (fate, later) = other.send(0, &other.tcp(key, ACK));
                assert_eq!(fate, OUT);
                assert_eq!(lab.key_of(&first).dst, lab.key_of(&later).dst);
            }
        }
    }
}

#[test]
fn a_flood_of_half_open_flows_does_not_push_out_what_the_client_confirmed() {
    let mut lab = Lab::with_flows(64);
    set(&mut lab, Dispatch::Ipip, |_| ());
    lab.change(&[Change::Class(lab.backend_class(), Some(PolicyClass::default()))]);
    let kept = lab.client_to_service(true, 40000);
    lab.send(0, &syn(kept).build());
    lab.send(0, &lab.tcp(kept, ACK));
    for sport in 1000..3000 {
        // SYNs and blind ACKs alike.
        let flags = if sport % 2 == 0 { SYN } else { ACK };
        assert_eq!(lab.send(0, &lab.tcp(lab.client_to_service(true, sport), flags)).0, OUT);
    }
    assert!(lab.state.flows.find(&kept).is_some());
    assert!(lab.state.counters.flows_evicted > 1000);
}

#[test]
fn a_reply_that_comes_by_us_after_all_goes_through_as_it_is() {
    for dispatch in ALL {
        for v4 in [true, false] {
            let mut lab = lab(dispatch, |_| ());
            let key = lab.client_to_service(v4, 40000);
            lab.send(0, &syn(key).build());
            let reply = lab.tcp(key.reverse(), SYN | ACK);
            // Not from where the backend is.
            assert_eq!(lab.send(0, &reply).0, Fate::Drop(DropReason::InvalidSourceIp));
            for _ in 0..2 {
                let (fate, frame) = lab.send(1, &reply);
                assert_eq!(fate, BACK);
                assert_eq!(frame[14..], one_hop_on(&reply)[14..]);
            }
            // Nor for a flow that nobody opened.
            let stray = lab.tcp(lab.client_to_service(v4, 40001).reverse(), SYN | ACK);
            assert_eq!(lab.send(1, &stray).0, Fate::Drop(DropReason::InvalidSourceIp));
        }
    }
}

#[test]
fn errors_about_direct_answers_find_the_backend() {
    for dispatch in ALL {
        for v4 in [true, false] {
            let mut lab = lab(dispatch, |_| ());
            let key = lab.client_to_service(v4, 40000);
            lab.send(0, &syn(key).build());
            let router = ip(if v4 { "192.0.2.12" } else { "2001:db8:1::12" });
            let error = icmp_about(&lab.tcp(key.reverse(), ACK), router);
            let (fate, frame) = lab.send(0, &error);
            assert_eq!(fate, OUT, "{dispatch:?}");
            lab.assert_sound(&frame);
            assert_eq!(lab.key_of(&frame).destination(), backend(v4, 1).ip);
            match dispatch {
                Dispatch::Option => {
                    assert_eq!(lab.quoted_key(&frame), server(v4).reverse());
                }
                Dispatch::Ipip => {
                    let inner = 14 + if v4 { 20 } else { 40 };
                    assert_eq!(frame[inner..], one_hop_on(&error)[14..]);
                }
                Dispatch::Geneve => assert_eq!(lab.key_of(&frame).dport, 6081),
            }
        }
    }
}

#[test]
fn fragments_of_a_datagram_are_told_of_each() {
    for dispatch in ALL {
        let mut lab = lab(dispatch, |_| ());
        let (first, second) = lab.fragments(lab.client_to_service_udp(40000));
        for fragment in [first, second] {
            let (fate, frame) = lab.send(0, &fragment);
            assert_eq!(fate, OUT);
            let more = match dispatch {
                Dispatch::Option => 8,
                Dispatch::Geneve => 62,
                Dispatch::Ipip => 20,
            };
            assert_eq!(frame.len(), fragment.len() + more);
        }
    }
}

#[test]
fn where_answers_come_by_us_anyway_nothing_is_wrapped() {
    // A backend on our own node; a client that we guard.
    let mut lab = lab(Dispatch::Ipip, |service| service.backends[0].reach = Reach::Here);
    let (fate, frame) = lab.send(0, &syn(lab.client_to_service(true, 40000)).build());
    assert_eq!((fate, lab.key_of(&frame)), (OUT, server(true)));
    let mut lab = Lab::new();
    set(&mut lab, Dispatch::Ipip, |_| ());
    lab.change(&[Change::Class(lab.backend_class(), Some(PolicyClass::default()))]);
    let key = FlowKey { src: mapped(ip("10.244.0.15")), ..lab.client_to_service(true, 40000) };
    let (fate, frame) = lab.send(1, &syn(key).build());
    assert_eq!((fate, lab.key_of(&frame)), (OUT, FlowKey { src: key.src, ..server(true) }));
}

#[test]
fn policy_and_events_see_the_backend() {
    let mut lab = lab(Dispatch::Geneve, |_| ());
    let key = lab.client_to_service(true, 40000);
    lab.send(0, &syn(key).build());
    let event = lab.events.last().unwrap();
    assert_eq!((event.destination, event.translated.destination()), (500, backend(true, 1).ip));
    // Its policy turns against the flow: it is cut.
    let closed = PolicyClass { default_deny: true, ..PolicyClass::default() };
    lab.change(&[Change::Class(lab.backend_class(), Some(closed))]);
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::PolicyDenied));
    // Its backend goes: an opening packet finds another, anything else is cut.
    let mut lab = self::lab(Dispatch::Geneve, |_| ());
    lab.send(0, &syn(key).build());
    lab.send(0, &lab.tcp(key, ACK));
    set(&mut lab, Dispatch::Geneve, |service| service.backends = vec![backend(service.proto != 0, 2)]);
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::NoBackend));
    assert_eq!(lab.send(0, &syn(key).build()).0, OUT);
}

#[test]
fn a_tagged_port_carries_tunnels_too() {
    let mut lab = lab(Dispatch::Geneve, |_| ());
    lab.add_vlan(7);
    let hop = *lab.tables.routing.hop(NextHopId(4)).unwrap();
    lab.change(&[Change::NextHop(NextHopId(4), Some(NextHop { port: PortId(2), ..hop }))]);
    let (fate, frame) = lab.send(0, &syn(lab.client_to_service(true, 40000)).build());
    assert_eq!((fate, &frame[12..18]), (Fate::Forward(PortId(2)), &[0x81, 0x00, 0, 7, 0x08, 0x00][..]));
}
