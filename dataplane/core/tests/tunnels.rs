//! Two gateways in a row: one in front of clients lets backends answer directly, one in front of the backends opens its
//! tunnels; and everything that may not be opened.
#![allow(clippy::cast_possible_truncation, reason = "test data of our own, all small")]

mod lab;

use std::net::IpAddr;

use lab::{Lab, answer, icmp_about, ip, prefix};
use proptest::prelude::*;
use sluice_core::checksum;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::parse::{ACK, SYN};
use sluice_core::tables::record::*;
use sluice_core::verdict::{DropReason, Fate};

const OUT: Fate = Fate::Forward(PortId(1));
const BACK: Fate = Fate::Forward(PortId(0));
const BOTH: [Dispatch; 2] = [Dispatch::Geneve, Dispatch::Ipip];

/// The gateway in front of clients. Its backend is number 1; tunnels go to `end`, if that is not the backend.
fn front(dispatch: Dispatch, end: Option<[&str; 2]>) -> Lab {
    let mut lab = Lab::new();
    for (id, v4, proto) in [(1, true, 6), (2, false, 6), (3, true, 17)] {
        let reach =
            end.map_or(Reach::Itself, |[v4_end, v6_end]| Reach::By(ip(if v4 { v4_end } else { v6_end })));
        let record = Service {
            proto,
            algorithm: Algorithm::Maglev(251),
            forwarding: Forwarding::Dsr(dispatch),
            backends: vec![Backend { reach, ..backend(v4) }],
            ..Service::default()
        };
        lab.change(&[Change::Service(ServiceId(id), Some(record))]);
    }
    let settings = Settings {
        guarded: Vec::new(),
        tunnel_sources: vec![prefix("198.18.0.0/24"), prefix("2001:db8:77::/64")],
        ..lab.tables.settings.clone()
    };
    lab.change(&[Change::Settings(settings)]);
    lab
}

fn backend(v4: bool) -> Backend {
    Backend {
        id: BackendId(1),
        ip: ip(if v4 { "10.244.0.11" } else { "2001:db8:2::11" }),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    }
}

/// The gateway in front of the backends, with the objects or without.
fn behind(knows_services: bool) -> Lab {
    let mut lab = Lab::new();
    let settings = Settings {
        tunnels: Ends {
            addresses: ["10.244.0.0/24", "2001:db8:2::/64", "192.0.2.1/32", "2001:db8:1::1/128"]
                .map(prefix)
                .to_vec(),
            peers: vec![prefix("198.18.0.0/24"), prefix("2001:db8:77::/64")],
        },
        ..lab.tables.settings.clone()
    };
    lab.change(&[
        Change::Settings(settings),
        Change::Class(lab.backend_class(), Some(PolicyClass::default())),
    ]);
    if !knows_services {
        for (v4, proto) in [(true, 6), (false, 6), (true, 17)] {
            let dst = lab.client_to_service(v4, 1).destination();
            lab.change(&[
                Change::Frontend(FrontendKey { ip: dst, port: 80, proto }, None),
                Change::Frontend(FrontendKey { ip: dst, port: 0, proto: 0 }, None),
            ]);
        }
    }
    lab
}

fn through(front: &mut Lab, frame: &[u8]) -> Vec<u8> {
    let (fate, frame) = front.send(0, frame);
    assert_eq!(fate, OUT);
    frame
}

fn syn(key: FlowKey) -> Vec<u8> {
    Frame { flags: SYN, ..Frame::new(key) }.build()
}

#[test]
fn a_connection_through_both_is_answered_for_the_service() {
    for dispatch in BOTH {
        for v4 in [true, false] {
            for (knows, end) in [(true, None), (true, Some(["10.244.0.15", "2001:db8:2::15"])), (false, None)]
            {
                let (mut front, mut behind) = (front(dispatch, end), behind(knows));
                let key = front.client_to_service(v4, 40000);
                // Nobody says which port in plain IP but the objects.
                let dport = if knows || dispatch == Dispatch::Geneve { 8080 } else { 80 };
                for flags in [SYN, ACK] {
                    let tunnel = through(&mut front, &front_frame(key, flags));
                    let (fate, frame) = behind.send(0, &tunnel);
                    assert_eq!(fate, OUT, "{dispatch:?} {v4} {knows} {end:?}");
                    behind.assert_sound(&frame);
                    let to = behind.key_of(&frame);
                    if knows && end.is_some() && dispatch == Dispatch::Ipip {
                        // The choice is ours; the same as without tunnels.
                        assert!(behind.is_backend(&to));
                    } else {
                        assert_eq!((to.destination(), to.dport), (backend(v4).ip, dport));
                    }
                    assert_eq!((to.src, to.sport), (key.src, key.sport), "the client is seen");
                    let reply = Frame { flags: flags | ACK, ..Frame::new(to.reverse()) }.build();
                    let (fate, reply) = behind.send(1, &reply);
                    assert_eq!((fate, behind.key_of(&reply)), (BACK, key.reverse()));
                    behind.assert_sound(&reply);
                }
                assert_eq!(behind.state.flows.occupancy().0, 1);
            }
        }
    }
}

#[test]
fn a_packet_that_waits_for_the_backends_neighbour_waits_as_it_came() {
    for dispatch in BOTH {
        for v4 in [true, false] {
            let (mut front, mut behind) = (front(dispatch, None), behind(true));
            let unknown = backend(v4).ip;
            let len = if v4 { 32 } else { 128 };
            let route = Change::Route(Prefix { addr: unknown, len }, None);
            behind.change(&[route]);
            let key = front.client_to_service(v4, 40000);
            let tunnel = through(&mut front, &front_frame(key, SYN));
            let (fate, kept) = behind.send(0, &tunnel);
            assert_eq!(fate, Fate::Hold { port: PortId(1), ip: unknown });
            assert_eq!(kept, tunnel, "{dispatch:?} {v4}");
        }
    }
}

fn front_frame(key: FlowKey, flags: u8) -> Vec<u8> {
    Frame { flags, payload: vec![1, 2, 3], ..Frame::new(key) }.build()
}

#[test]
fn strangers_tunnels_are_packets_like_any_other() {
    for dispatch in BOTH {
        for v4 in [true, false] {
            let mut front = front(dispatch, None);
            let settings = Settings {
                tunnel_sources: vec![prefix("198.51.100.0/24"), prefix("2001:db8:66::/64")],
                ..front.tables.settings.clone()
            };
            front.change(&[Change::Settings(settings)]);
            let tunnel = through(&mut front, &syn(front_key(v4)));
            let mut plain = behind(true);
            let settings = plain.tables.settings.clone();
            plain.change(&[Change::Settings(Settings { tunnels: Ends::default(), ..settings })]);
            assert_eq!(behind(true).send(0, &tunnel), plain.send(0, &tunnel));
            // To an address where none end.
            let mut closed = behind(true);
            let tunnels =
                Ends { addresses: vec![prefix("192.0.2.9/32")], ..closed.tables.settings.tunnels.clone() };
            closed.change(&[Change::Settings(Settings { tunnels, ..closed.tables.settings.clone() })]);
            let tunnel = through(&mut self::front(dispatch, None), &syn(front_key(v4)));
            assert_eq!(closed.send(0, &tunnel), plain.send(0, &tunnel));
        }
    }
}

fn front_key(v4: bool) -> FlowKey {
    Lab::new().client_to_service(v4, 40000)
}

#[test]
fn what_we_guard_sends_no_tunnels() {
    let inner = syn(front_key(true))[14..].to_vec();
    for (proto, dport) in [(4, 0), (41, 0), (17, 6081), (17, 4789), (17, 8472)] {
        let key = FlowKey {
            src: mapped(ip("10.244.0.15")),
            dst: mapped(ip("192.0.2.11")),
            dport,
            proto,
            ..front_key(true)
        };
        let frame = Frame { payload: inner.clone(), ..Frame::new(key) }.build();
        assert_eq!(
            behind(true).send(1, &frame).0,
            Fate::Drop(DropReason::EncapsulationProhibited),
            "{proto}"
        );
        // Where no tunnels end, such packets are nothing special.
        assert_eq!(Lab::new().send(1, &frame).0, BACK);
    }
}

#[test]
fn a_tunnel_makes_nobody_honest_and_opens_nothing_but_what_we_guard() {
    for dispatch in BOTH {
        // The inner source is one of those behind us, or us.
        for source in ["10.244.0.15", "192.0.2.1", "127.0.0.1"] {
            let mut tunnel = through(&mut front(dispatch, None), &syn(front_key(true)));
            let at = tunnel.len() - 40 + 12;
            let mut behind = behind(true);
            let IpAddr::V4(source) = ip(source) else { unreachable!() };
            tunnel[at..at + 4].copy_from_slice(&source.octets());
            let l3 = at - 12;
            tunnel[l3 + 10..l3 + 12].fill(0);
            let sum = checksum::of(&tunnel[l3..l3 + 20]);
            tunnel[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(behind.send(0, &tunnel).0, Fate::Drop(DropReason::InvalidSourceIp));
        }
        // The backend is somebody else's.
        let mut behind = behind(false);
        behind
            .change(&[Change::Settings(Settings { guarded: Vec::new(), ..behind.tables.settings.clone() })]);
        let tunnel = through(&mut front(dispatch, None), &syn(front_key(true)));
        assert_eq!(behind.send(0, &tunnel).0, Fate::Drop(DropReason::NoBackend));
    }
    // Policy is asked as ever.
    let mut behind = behind(true);
    let closed = PolicyClass { default_deny: true, ..PolicyClass::default() };
    behind.change(&[Change::Class(behind.backend_class(), Some(closed))]);
    let tunnel = through(&mut front(Dispatch::Ipip, None), &syn(front_key(true)));
    assert_eq!(behind.send(0, &tunnel).0, Fate::Drop(DropReason::PolicyDenied));
}

#[test]
fn geneve_that_names_the_service_only_when_a_connection_begins_is_followed() {
    let (mut front, mut behind) = (front(Dispatch::Geneve, None), behind(false));
    let key = front_key(true);
    let tunnel = through(&mut front, &syn(key));
    assert_eq!(behind.send(0, &tunnel).0, OUT);
    let ack = front.tcp(key, ACK);
    let mut later = through(&mut front, &ack);
    // Without the option, as other gateways send it.
    later.drain(14 + 20 + 8 + 8..14 + 20 + 8 + 8 + 12);
    later[42] = 0;
    later[43] = 0;
    for (at, less) in [(16, 12), (38, 12)] {
        let len = u16::from_be_bytes([later[at], later[at + 1]]) - less;
        later[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
    later[24..26].fill(0);
    let sum = checksum::of(&later[14..34]);
    later[24..26].copy_from_slice(&sum.to_be_bytes());
    let (fate, frame) = behind.send(0, &later);
    assert_eq!((fate, behind.key_of(&frame).dport), (OUT, 8080));
    behind.assert_sound(&frame);
    // Of a connection that nobody told us of.
    assert_eq!(self::behind(false).send(0, &later).0, Fate::Drop(DropReason::UnknownConnection));
}

#[test]
fn two_services_with_one_backend_do_not_mix_up() {
    let (mut front, mut behind) = (front(Dispatch::Geneve, None), behind(true));
    let record = front.tables.services.service(ServiceId(1)).unwrap().record.clone();
    let dst = front_key(true).destination();
    let also = Frontend {
        service: Some(ServiceId(9)),
        ..front.tables.services.frontend(FrontendKey { ip: dst, port: 80, proto: 6 }).unwrap().clone()
    };
    for lab in [&mut front, &mut behind] {
        lab.change(&[
            Change::Service(ServiceId(9), Some(record.clone())),
            Change::Frontend(FrontendKey { ip: dst, port: 81, proto: 6 }, Some(also.clone())),
        ]);
    }
    // One client port, one backend, two services: Cilium's tables collide here.
    for dport in [80, 81] {
        let key = FlowKey { dport, ..front_key(true) };
        let tunnel = through(&mut front, &syn(key));
        let (fate, frame) = behind.send(0, &tunnel);
        assert_eq!(fate, OUT);
        let (fate, reply) = behind.send(1, &behind.tcp(behind.key_of(&frame).reverse(), SYN | ACK));
        assert_eq!((fate, behind.key_of(&reply)), (BACK, key.reverse()));
        behind.assert_sound(&reply);
    }
    assert_eq!(behind.state.flows.occupancy().0, 2);
}

#[test]
fn segments_are_made_to_fit_the_tunnel_if_asked() {
    let with_mss = |key: FlowKey, flags: u8, odd: bool| {
        let mut frame = Frame { flags, ..Frame::new(key) }.build();
        let l4 = if key.v4 { 34 } else { 54 };
        let options: [u8; 8] =
            if odd { [1, 2, 4, 0x05, 0xb4, 1, 1, 0] } else { [2, 4, 0x05, 0xb4, 1, 1, 1, 0] };
        frame.extend(options);
        frame[l4 + 12] = 7 << 4;
        let word = if key.v4 { 16 } else { 18 };
        let len = u16::from_be_bytes([frame[word], frame[word + 1]]) + 8;
        frame[word..word + 2].copy_from_slice(&len.to_be_bytes());
        if key.v4 {
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        frame[l4 + 16..l4 + 18].fill(0);
        let skip = if key.v4 { 12 } else { 0 };
        let pseudo = checksum::pseudo(&key.src.octets()[skip..], &key.dst.octets()[skip..], 6, 28);
        let sum = !checksum::add(checksum::sum(&frame[l4..]), pseudo);
        frame[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    for dispatch in BOTH {
        for (v4, odd) in [(true, false), (true, true), (false, false), (false, true)] {
            for clamp in [true, false] {
                let (mut front, mut behind) = (front(dispatch, None), behind(true));
                for lab in [&mut front, &mut behind] {
                    lab.change(&[Change::Settings(Settings {
                        clamp_mss: clamp,
                        ..lab.tables.settings.clone()
                    })]);
                }
                let key = front_key(v4);
                let tunnel = through(&mut front, &with_mss(key, SYN, odd));
                let (_, frame) = behind.send(0, &tunnel);
                behind.assert_sound(&frame);
                let reply = with_mss(behind.key_of(&frame).reverse(), SYN | ACK, odd);
                let (fate, reply) = behind.send(1, &reply);
                assert_eq!(fate, BACK);
                behind.assert_sound(&reply);
                let more = match (dispatch, v4) {
                    (Dispatch::Ipip, true) => 20 + 40,
                    (Dispatch::Ipip, false) => 40 + 60,
                    (_, true) => 62 + 40,
                    (_, false) => 94 + 60,
                };
                let wanted = if clamp { 1500 - more } else { 1460 };
                for frame in [frame, reply] {
                    let at = frame.len() - if odd { 5 } else { 6 };
                    assert_eq!(
                        u16::from_be_bytes([frame[at], frame[at + 1]]),
                        wanted,
                        "{dispatch:?} {v4} {odd}"
                    );
                }
            }
        }
    }
}

#[test]
fn fragments_and_errors_come_through_tunnels() {
    for dispatch in BOTH {
        let (mut front, mut behind) = (front(dispatch, None), behind(true));
        let key = front.client_to_service_udp(40000);
        let (first, second) = front.fragments(key);
        for fragment in [first, second] {
            let tunnel = through(&mut front, &fragment);
            let (fate, frame) = behind.send(0, &tunnel);
            assert_eq!((fate, frame.len()), (OUT, fragment.len()));
            assert_eq!(frame[30..34], [10, 244, 0, 11]);
        }
        // What a router says about the answer finds the backend, in its terms.
        for v4 in [true, false] {
            let key = front_key(v4);
            let tunnel = through(&mut front, &syn(key));
            let (_, frame) = behind.send(0, &tunnel);
            let to = behind.key_of(&frame);
            let router = ip(if v4 { "192.0.2.12" } else { "2001:db8:1::12" });
            let error = icmp_about(&front.tcp(key.reverse(), ACK), router);
            let tunnel = through(&mut front, &error);
            let (fate, error) = behind.send(0, &tunnel);
            assert_eq!((fate, behind.quoted_key(&error)), (OUT, to.reverse()));
            behind.assert_sound(&error);
        }
    }
}

#[test]
fn every_packet_of_a_tunnelled_flow_has_the_same_owner() {
    for dispatch in BOTH {
        for knows in [true, false] {
            for v4 in [true, false] {
                let (mut front, mut behind) = (front(dispatch, None), behind(knows));
                behind.change(&[Change::Settings(Settings { workers: 4, ..behind.tables.settings.clone() })]);
                let mut owners = std::collections::HashSet::new();
                for sport in 40000..40040 {
                    let key = front.client_to_service(v4, sport);
                    let tunnel = through(&mut front, &syn(key));
                    let dport = if knows || dispatch == Dispatch::Geneve { 8080 } else { 80 };
                    let to = FlowKey { dst: mapped(backend(v4).ip), dport, ..key };
                    let reply = behind.tcp(to.reverse(), SYN | ACK);
                    let owner_of = |fate, here| {
                        if let Fate::HandOver(owner) = fate {
                            return owner.0;
                        }
                        assert_eq!(fate, here);
                        0
                    };
                    let owner = owner_of(behind.send(0, &tunnel).0, OUT);
                    let replies = owner_of(behind.send(1, &reply).0, BACK);
                    assert_eq!(owner, replies);
                    owners.insert(owner);
                }
                assert_eq!(owners.len(), 4);
            }
        }
    }
}

#[test]
fn one_gateway_can_be_both_and_does_not_send_on_what_was_sent_to_it() {
    for dispatch in BOTH {
        let mut front = front(dispatch, None);
        let mut both = behind(true);
        let record = front.tables.services.service(ServiceId(1)).unwrap().record.clone();
        both.change(&[Change::Service(ServiceId(1), Some(record))]);
        let key = front_key(true);
        // Its own choice, in a tunnel …
        let (_, own) = both.send(0, &syn(key));
        assert_ne!(both.key_of(&own), key);
        // … ends when another gateway's choice comes.
        let tunnel = through(&mut front, &syn(key));
        let (fate, frame) = both.send(0, &tunnel);
        assert_eq!(fate, OUT);
        assert_eq!((both.key_of(&frame).destination(), both.key_of(&frame).dport), (backend(true).ip, 8080));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever is inside a tunnel: no panic, and every packet is in exactly one count.
    #[test]
    fn hostile_tunnels_are_counted_and_nothing_else(
        bytes in prop::collection::vec(any::<u8>(), 0..160), proto in prop::sample::select(vec![4_u8, 41, 17]),
        cut in 0_usize..200, damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        sane in any::<bool>(), geneve in any::<bool>(), v4 in any::<bool>(),
    ) {
        let mut behind = behind(true);
        let frame = if sane {
            let dispatch = if geneve { Dispatch::Geneve } else { Dispatch::Ipip };
            let mut frame = through(&mut front(dispatch, None), &syn(front_key(v4)));
            if let Some((index, value)) = damage {
                let at = index.index(frame.len());
                frame[at] = value;
            }
            frame.truncate(frame.len().saturating_sub(cut % 64));
            frame
        } else {
            let key = FlowKey { src: mapped(ip("198.18.0.7")), dst: mapped(ip("10.244.0.11")), dport: 6081, proto, ..front_key(true) };
            Frame { payload: bytes, ..Frame::new(key) }.build()
        };
        behind.send(0, &frame);
        let out = behind.send(0, &frame);
        if let Some(answer) = answer(&out.1) {
            behind.send(1, &answer);
        }
        prop_assert_eq!(behind.state.counters.received, behind.state.counters.ends());
    }
}
