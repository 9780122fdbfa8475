//! Two gateways with the same objects behind one ECMP route: one dies, and its connections come to the other, which knows
//! nothing of them. Which go on, in each mode.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test data of our own; figures are told"
)]

mod lab;

use lab::{Lab, ip, prefix};
use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::parse::{ACK, SYN};
use sluice_core::state::{Config, State};
use sluice_core::tables::record::*;
use sluice_core::verdict::{Fate, NextHopId};

const OUT: Fate = Fate::Forward(PortId(1));
const CONNECTIONS: u16 = 2000;

/// A gateway with a service of these backends, each on a machine of its own behind one router.
fn gateway(forwarding: Forwarding, backends: &[u8]) -> Lab {
    let mut lab = Lab::with_flows(10_000);
    let backend = |n: &u8| Backend {
        id: BackendId(u32::from(*n)),
        ip: ip(&format!("10.245.0.{n}")),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    };
    let record = Service {
        proto: 6,
        algorithm: Algorithm::Maglev(16_381),
        forwarding,
        backends: backends.iter().map(backend).collect(),
        ..Service::default()
    };
    let settings = Settings { snat_addresses: vec![ip("192.0.2.3")], ..lab.tables.settings.clone() };
    lab.change(&[
        Change::Service(ServiceId(1), Some(record)),
        Change::Settings(settings),
        Change::Route(prefix("192.0.2.3/32"), Some(Route::Local)),
        Change::Route(prefix("10.245.0.0/24"), Some(Route::Via(vec![(NextHopId(5), 1)]))),
    ]);
    lab
}

/// Where a packet arrives, and as whose: what a backend must find the same for a connection to go on. For backends that
/// answer directly, their address; the client sees to the rest.
fn arrives(lab: &mut Lab, key: FlowKey, flags: u8) -> Option<(FlowKey, bool)> {
    let (fate, frame) = lab.send(0, &lab.tcp(key, flags));
    (fate == OUT).then(|| {
        let to = lab.key_of(&frame);
        let direct = to.proto != 6;
        (if direct { FlowKey { src: key.src, sport: key.sport, dport: 0, ..to } } else { to }, direct)
    })
}

/// The share of connections through the first gateway that go on through the second.
fn survivors(forwarding: Forwarding, first: &[u8], second: &[u8], pickup: bool) -> f64 {
    let (mut dies, mut lives) = (gateway(forwarding, first), gateway(forwarding, second));
    // Every process has a key of its own for its flow table, and so for its choice of ports.
    lives.state = State::new(Config { pickup, ..Config::new(10_000, [5, 6, 7, 8]) });
    let mut went_on = 0;
    for n in 0..CONNECTIONS {
        let key = FlowKey { src: mapped(ip("192.0.2.11")), ..dies.client_to_service(true, 20_000 + n) };
        let before = arrives(&mut dies, key, SYN);
        assert!(before.is_some());
        went_on += u32::from(arrives(&mut lives, key, ACK) == before);
    }
    f64::from(went_on) / f64::from(CONNECTIONS)
}

#[test]
fn the_other_gateway_takes_over_what_its_mode_lets_it() {
    let all: Vec<u8> = (1..=100).collect();
    let shuffled: Vec<u8> = all.iter().rev().copied().collect();
    let fewer: Vec<u8> = (2..=100).collect();
    let direct = Forwarding::Dsr(Dispatch::Ipip);
    let shares = [
        ("dsr", survivors(direct, &all, &shuffled, false)),
        ("dsr, one of 100 backends gone at the same time", survivors(direct, &all, &fewer, false)),
        ("dnat in the first minute after a start", survivors(Forwarding::Dnat, &all, &shuffled, true)),
        ("dnat later", survivors(Forwarding::Dnat, &all, &shuffled, false)),
        ("snat", survivors(Forwarding::Snat, &all, &shuffled, true)),
    ];
    for (mode, share) in shares {
        println!("figure: {mode}: {:.1} % of established connections go on", share * 100.0);
    }
    let [dsr, fewer, early, late, snat] = shares.map(|(_, share)| share);
    assert!((dsr - 1.0).abs() < f64::EPSILON, "both choose the same backend, and nobody asks how it began");
    assert!(fewer > 0.96, "those of the lost backend, and the few that its loss moves");
    assert!((early - 1.0).abs() < f64::EPSILON, "the same choice, and beginnings are not asked for");
    assert!(late < f64::EPSILON, "a segment that opens nothing belongs to no known connection");
    // The port that the dead gateway had given the client is anyone's guess.
    assert!(snat < 0.01, "{snat}");
}
