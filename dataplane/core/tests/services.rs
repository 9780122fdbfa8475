//! Services as packets meet them: every way to a backend and back, and what happens when backends come and go.
#![allow(clippy::cast_possible_truncation, reason = "test data of our own, all small")]

mod lab;

use std::collections::HashSet;

use lab::{Lab, icmp_about, ip, prefix};
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::parse::{ACK, RST, SYN};
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{DropReason, Fate};

const OUT: Fate = Fate::Forward(PortId(1));
const BACK: Fate = Fate::Forward(PortId(0));
const SERVICES: [(u32, bool, u8); 3] = [(1, true, 6), (2, false, 6), (3, true, 17)];

fn backends(v4: bool, numbers: &[u8]) -> Vec<Backend> {
    let addr = |n: u8| ip(&if v4 { format!("10.244.0.1{n}") } else { format!("2001:db8:2::1{n}") });
    let backend = |n: &u8| Backend {
        id: BackendId(u32::from(*n)),
        ip: addr(*n),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    };
    numbers.iter().map(backend).collect()
}

fn service(v4: bool, proto: u8, numbers: &[u8]) -> Service {
    let backends = backends(v4, numbers);
    Service { proto, algorithm: Algorithm::Maglev(251), reject: true, backends, ..Service::default() }
}

/// A lab whose services have these backends and whatever else is asked for.
fn lab(numbers: &[u8], change: impl Fn(&mut Service)) -> Lab {
    lab_of(1000, numbers, change)
}

fn lab_of(flows: u32, numbers: &[u8], change: impl Fn(&mut Service)) -> Lab {
    let mut lab = Lab::with_flows(flows);
    set(&mut lab, numbers, change);
    let settings = Settings {
        snat_addresses: vec![ip("192.0.2.3"), ip("2001:db8:1::3")],
        ..lab.tables.settings.clone()
    };
    // Whom policy lets in is not the question here.
    let open = PolicyClass::default();
    lab.change(&[
        Change::Settings(settings),
        Change::Class(lab.backend_class(), Some(open)),
        Change::Route(prefix("192.0.2.3/32"), Some(Route::Local)),
        Change::Route(prefix("2001:db8:1::3/128"), Some(Route::Local)),
    ]);
    lab
}

fn set(lab: &mut Lab, numbers: &[u8], change: impl Fn(&mut Service)) {
    for (id, v4, proto) in SERVICES {
        let mut record = service(v4, proto, numbers);
        change(&mut record);
        lab.change(&[Change::Service(ServiceId(id), Some(record))]);
    }
}

/// A client of the service.
fn asks(v4: bool, proto: u8, sport: u16) -> FlowKey {
    let (src, dst) =
        if v4 { ("192.0.2.11", "203.0.113.80") } else { ("2001:db8:1::11", "2001:db8:cafe::80") };
    FlowKey { src: mapped(ip(src)), dst: mapped(ip(dst)), sport, dport: 80, proto, v4 }
}

fn opening(key: FlowKey) -> Vec<u8> {
    Frame { flags: SYN, payload: vec![1; 5], ..Frame::new(key) }.build()
}

/// The backend that a new flow gets.
fn gets(lab: &mut Lab, key: FlowKey) -> u8 {
    let (fate, sent) = lab.send(0, &opening(key));
    assert_eq!(fate, OUT);
    lab.key_of(&sent).dst.octets()[15]
}

#[test]
fn snat_hides_the_client_and_every_answer_finds_back() {
    for (v4, proto) in [(true, 6), (true, 17), (false, 6)] {
        let mut lab = lab(&[1, 2, 3, 4], |service| service.forwarding = Forwarding::Snat);
        let key = asks(v4, proto, 40000);
        let (fate, sent) = lab.send(0, &opening(key));
        assert_eq!(fate, OUT);
        lab.assert_sound(&sent);
        let to = lab.key_of(&sent);
        assert_eq!(to.source(), ip(if v4 { "192.0.2.3" } else { "2001:db8:1::3" }));
        assert!(lab.is_backend(&to) && to.sport >= 32768);
        let answer = Frame { flags: SYN | ACK, ..Frame::new(to.reverse()) }.build();
        let (fate, answer) = lab.send(1, &answer);
        assert_eq!((fate, lab.key_of(&answer)), (BACK, key.reverse()));
        lab.assert_sound(&answer);
        let (fate, error) = lab.send(1, &icmp_about(&sent, lab.router_behind(v4)));
        assert_eq!((fate, lab.quoted_key(&error)), (BACK, key));
        lab.assert_sound(&error);
    }
}

#[test]
fn a_backend_that_asks_its_own_service_hears_itself_through_the_gateway() {
    for v4 in [true, false] {
        let mut lab = lab(&[1], |_| ());
        let own = backends(v4, &[1])[0].ip;
        let key = FlowKey { src: mapped(own), ..asks(v4, 6, 40000) };
        let (fate, sent) = lab.send(1, &opening(key));
        assert_eq!(fate, OUT);
        let to = lab.key_of(&sent);
        assert_eq!(to.destination(), own);
        assert_ne!(to.source(), own);
        let (fate, answer) = lab.send(1, &lab.tcp(to.reverse(), SYN | ACK));
        assert_eq!((fate, lab.key_of(&answer)), (OUT, key.reverse()));
        lab.assert_sound(&answer);
    }
}

/// Flow `n` of as many as are wanted, all to one frontend.
fn of_many(n: u32) -> FlowKey {
    let host = 1 + (n / 50_000) as u8;
    FlowKey { src: mapped(ip(&format!("198.51.100.{host}"))), ..asks(true, 17, 1000 + (n % 50_000) as u16) }
}

#[test]
fn sixty_thousand_flows_an_address_to_one_destination_do_not_collide() {
    const ADDRESSES: u32 = 2;
    let mut lab = lab_of(140_000, &[1], |service| service.forwarding = Forwarding::Snat);
    let settings = Settings {
        snat_addresses: vec![ip("192.0.2.3"), ip("192.0.2.4")],
        snat_ports: (1024, 65535),
        ..lab.tables.settings.clone()
    };
    lab.change(&[Change::Settings(settings)]);
    let mut seen = HashSet::new();
    for n in 0..ADDRESSES * 60_000 {
        let (fate, sent) = lab.send(0, &opening(of_many(n)));
        assert_eq!(fate, OUT, "flow {n}");
        let to = lab.key_of(&sent);
        assert!(seen.insert((to.src, to.sport)), "flow {n} shares its source");
    }
    assert_eq!(lab.state.counters.nat_exhausted, 0);
    for n in (0..ADDRESSES * 60_000).step_by(997) {
        let (_, sent) = lab.send(0, &opening(of_many(n)));
        let to = lab.key_of(&sent);
        let (fate, answer) = lab.send(1, &lab.udp(to.reverse()));
        assert_eq!((fate, lab.key_of(&answer)), (BACK, of_many(n).reverse()));
    }
}

#[test]
fn a_used_up_address_is_answered_counted_and_free_again_in_time() {
    let mut lab = lab(&[1], |service| service.forwarding = Forwarding::Snat);
    let settings = Settings { snat_ports: (40000, 40099), ..lab.tables.settings.clone() };
    lab.change(&[Change::Settings(settings)]);
    for n in 0..100 {
        assert_eq!(lab.send(0, &opening(of_many(n))).0, OUT);
    }
    let (fate, told) = lab.send(0, &opening(of_many(100)));
    assert_eq!(fate, Fate::Answer(PortId(0)));
    assert_eq!(lab.quoted_key(&told), of_many(100));
    assert_eq!(lab.state.counters.nat_exhausted, 1);
    assert_eq!(lab.state.counters.dropped_for(DropReason::NoNatMapping), 1);
    // Other destinations still have all ports.
    let other = FlowKey { proto: 6, ..of_many(100) };
    assert_eq!(lab.send(0, &opening(other)).0, OUT);
    for second in 1..60 {
        lab.tick(Now::from_secs(second));
    }
    assert_eq!(lab.send(0, &opening(of_many(100))).0, OUT);
}

#[test]
fn a_client_keeps_its_backend_for_the_time_of_its_affinity() {
    let affine = |service: &mut Service| service.affinity_seconds = 60;
    let mut lab = lab(&[1, 2], affine);
    let first = gets(&mut lab, asks(true, 6, 1000));
    for sport in 1001..1030 {
        assert_eq!(gets(&mut lab, asks(true, 6, sport)), first, "the port does not matter");
    }
    // Others come; who has a backend keeps it, whatever his address hashes to now.
    let forget = |lab: &mut Lab, at: u64| lab.now = Now::from_secs(at);
    let mut moved = 0;
    for n in 1..=40_u8 {
        let client = |sport| FlowKey { src: mapped(ip(&format!("198.51.100.{n}"))), ..asks(true, 6, sport) };
        set(&mut lab, &[1, 2], affine);
        forget(&mut lab, u64::from(n) * 1000);
        let own = gets(&mut lab, client(1));
        set(&mut lab, &[1, 2, 3, 4], affine);
        forget(&mut lab, u64::from(n) * 1000 + 59);
        assert_eq!(gets(&mut lab, client(2)), own);
        forget(&mut lab, u64::from(n) * 1000 + 59 + 61);
        moved += u32::from(gets(&mut lab, client(3)) != own);
    }
    assert!((10..=30).contains(&moved), "{moved} of 40 moved to the two that came, once their time was over");
}

#[test]
fn affinity_ends_where_the_backend_gets_no_new_flows() {
    let affine = |service: &mut Service| service.affinity_seconds = 60;
    for state in
        [BackendState::Terminating, BackendState::Quarantined, BackendState::Maintenance, BackendState::Kept]
    {
        let mut lab = lab(&[1, 2], affine);
        let first = gets(&mut lab, asks(true, 6, 1000));
        set(&mut lab, &[1, 2], |service| {
            affine(service);
            service.backends[usize::from(first - 11)].state = state;
        });
        assert_ne!(gets(&mut lab, asks(true, 6, 1001)), first, "{state:?}");
    }
}

#[test]
fn flows_of_a_backend_that_leaves_go_on_until_it_is_gone() {
    for state in
        [BackendState::Terminating, BackendState::Quarantined, BackendState::Maintenance, BackendState::Kept]
    {
        let mut lab = lab(&[1, 2], |_| ());
        let key = asks(true, 6, 1000);
        let first = gets(&mut lab, key);
        set(&mut lab, &[1, 2], |service| service.backends[usize::from(first - 11)].state = state);
        let (fate, sent) = lab.send(0, &lab.tcp(key, ACK));
        assert_eq!((fate, lab.key_of(&sent).dst.octets()[15]), (OUT, first));
        for sport in 1001..1100 {
            assert_ne!(gets(&mut lab, asks(true, 6, sport)), first, "no new one comes");
        }
        let left: Vec<u8> = [1, 2].into_iter().filter(|n| n + 10 != first).collect();
        set(&mut lab, &left, |_| ());
        assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::NoBackend));
    }
}

#[test]
fn who_may_open_a_flow_finds_another_backend_without_losing_a_packet() {
    for proto in [6, 17] {
        let mut lab = lab(&[1, 2], |_| ());
        let key = asks(true, proto, 1000);
        let first = gets(&mut lab, key);
        let left: Vec<u8> = [1, 2].into_iter().filter(|n| n + 10 != first).collect();
        set(&mut lab, &left, |_| ());
        assert_ne!(gets(&mut lab, key), first);
        let counters = &lab.state.counters;
        assert_eq!((counters.dropped(), counters.flows_cut), (0, 1));
        assert_eq!(counters.flows_created - counters.flows_ended, u64::from(lab.state.flows.occupancy().0));
    }
}

#[test]
fn without_backends_clients_are_told_or_left_in_silence() {
    for (v4, proto) in [(true, 6), (true, 17), (false, 6)] {
        let mut lab = lab(&[], |_| ());
        let key = asks(v4, proto, 1000);
        let (fate, told) = lab.send(0, &opening(key));
        assert_eq!(fate, Fate::Answer(PortId(0)));
        lab.assert_sound(&told);
        if proto == 6 {
            assert_eq!(lab.key_of(&told), key.reverse());
            assert_eq!(told[14 + if v4 { 20 } else { 40 } + 13], RST | ACK);
        } else {
            assert_eq!((told[34], told[35]), (3, 3), "port unreachable");
            assert_eq!(lab.quoted_key(&told), key);
        }
        set(&mut lab, &[], |service| service.reject = false);
        assert_eq!(lab.send(0, &opening(key)).0, Fate::Drop(DropReason::NoBackend));
        assert_eq!(lab.state.counters.dropped_for(DropReason::NoBackend), 2);
    }
}

#[test]
fn node_ports_live_on_our_own_addresses_beside_the_kernels() {
    let mut lab = lab(&[1, 2, 3, 4], |_| ());
    for v4 in [true, false] {
        let own = lab.gateway(v4);
        let frontend = Frontend {
            service: Some(ServiceId(if v4 { 1 } else { 2 })),
            inside: None,
            cluster_only: false,
            source_ranges: Vec::new(),
            source_ranges_deny: false,
        };
        let at = FrontendKey { ip: own.to_canonical(), port: 30080, proto: 6 };
        lab.change(&[Change::Frontend(at, Some(frontend))]);
        let key = FlowKey { dst: own, dport: 30080, ..asks(v4, 6, 1000) };
        let (fate, sent) = lab.send(0, &opening(key));
        assert_eq!(fate, OUT);
        let to = lab.key_of(&sent);
        let (fate, answer) = lab.send(1, &lab.tcp(to.reverse(), SYN | ACK));
        assert_eq!((fate, lab.key_of(&answer)), (BACK, key.reverse()));
        assert_eq!(lab.send(0, &opening(FlowKey { dport: 30081, ..key })).0, Fate::Pass);
    }
}

#[test]
fn sctp_reaches_a_backend_and_comes_back() {
    for v4 in [true, false] {
        let mut lab = lab(&[1, 2, 3, 4], |_| ());
        let key = asks(v4, 132, 1000);
        let at = FrontendKey { ip: key.destination(), port: 80, proto: 132 };
        let frontend = lab.tables.services.frontend(FrontendKey { proto: 6, ..at }).cloned();
        let frontend = frontend.map(|frontend| Frontend { service: Some(ServiceId(7)), ..frontend });
        let record = service(v4, 132, &[1, 2, 3, 4]);
        lab.change(&[Change::Service(ServiceId(7), Some(record)), Change::Frontend(at, frontend)]);
        let (fate, sent) = lab.send(0, &opening(key));
        assert_eq!(fate, OUT);
        let to = lab.key_of(&sent);
        assert!(lab.is_backend(&to));
        let l4 = if v4 { 34 } else { 54 };
        let mut part = sent[l4..].to_vec();
        let told = u32::from_le_bytes([part[8], part[9], part[10], part[11]]);
        part[8..12].fill(0);
        assert_eq!(sluice_core::checksum::crc32c(&part), told);
        let (fate, answer) = lab.send(1, &Frame::new(to.reverse()).build());
        assert_eq!((fate, lab.key_of(&answer)), (BACK, key.reverse()));
    }
}
