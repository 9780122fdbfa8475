//! Sources that leave the cluster with the address that a policy gives them.
#![allow(clippy::cast_possible_truncation, reason = "test data of our own, all small")]

mod lab;

use lab::{Lab, ip, prefix};
use sluice_core::emit::Frame;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::tables::record::*;
use sluice_core::verdict::{DropReason, Fate};

const BACK: Fate = Fate::Forward(PortId(0));

fn lab(ways: &[(&str, Leave)]) -> Lab {
    let mut lab = Lab::new();
    lab.masquerade();
    let ways = ways.iter().map(|(to, leave)| (prefix(to), *leave)).collect();
    lab.change(&[
        Change::Egress(ip("10.244.0.11"), Some(ways)),
        Change::Route(prefix("192.0.2.7/32"), Some(Route::Local)),
    ]);
    lab
}

/// The source that a packet to this address leaves with.
fn leaves(lab: &mut Lab, from: &str, to: &str) -> Result<String, Fate> {
    let key = lab.inside_to_world(true, 5000);
    let key =
        FlowKey { src: sluice_core::emit::mapped(ip(from)), dst: sluice_core::emit::mapped(ip(to)), ..key };
    let (fate, frame) = lab.send(1, &Frame { payload: vec![1], ..Frame::new(key) }.build());
    if fate != BACK {
        return Err(fate);
    }
    lab.assert_sound(&frame);
    let sent = lab.key_of(&frame);
    // The answer finds back.
    let (fate, answer) = lab.send(0, &lab.udp(sent.reverse()));
    assert_eq!((fate, lab.key_of(&answer)), (Fate::Forward(PortId(1)), key.reverse()));
    Ok(sent.source().to_string())
}

#[test]
fn the_longest_prefix_says_with_which_address() {
    let own = Leave::With(ip("192.0.2.7"));
    let mut lab = lab(&[
        ("198.51.100.0/24", own),
        ("198.51.100.128/25", Leave::Usual),
        ("198.51.100.192/26", Leave::Elsewhere),
        ("198.51.100.192/26", own),
    ]);
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.7").as_deref(), Ok("192.0.2.7"));
    // An exception is masqueraded as everything else is; what another gateway does we leave to it.
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.130").as_deref(), Ok("192.0.2.2"));
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.200").as_deref(), Ok("10.244.0.11"));
    // Whom no policy means.
    assert_eq!(leaves(&mut lab, "10.244.0.12", "198.51.100.7").as_deref(), Ok("192.0.2.2"));
    // Gone again.
    lab.change(&[Change::Egress(ip("10.244.0.11"), None)]);
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.8").as_deref(), Ok("192.0.2.2"));
    assert!(!lab.tables.departures.is_nat_address(sluice_core::emit::mapped(ip("192.0.2.7"))));
}

#[test]
fn without_the_address_or_the_gateway_nothing_leaves() {
    for (leave, reason) in [
        (Leave::NoAddress, DropReason::NoEgressAddress),
        (Leave::NoGateway, DropReason::NoEgressGateway),
        // Not an address of ours.
        (Leave::With(ip("192.0.2.99")), DropReason::NoEgressAddress),
    ] {
        let mut lab = lab(&[("0.0.0.0/0", leave)]);
        assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.7"), Err(Fate::Drop(reason)));
        assert_eq!(lab.state.counters.dropped_for(reason), 1);
    }
    assert_eq!((DropReason::NoEgressAddress.number(), DropReason::NoEgressGateway.number()), (204, 194));
}

#[test]
fn who_leaves_through_a_port_has_its_first_address_whichever_that_is() {
    let mut lab = lab(&[("0.0.0.0/0", Leave::Through(PortId(0)))]);
    let port = lab.tables.routing.port(PortId(0)).unwrap().clone();
    let first = port.addresses.iter().find(|own| own.addr.is_ipv4()).unwrap().addr;
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.7"), Ok(first.to_string()));
    let another = Port { addresses: vec![prefix("192.0.2.7/24")], ..port.clone() };
    lab.change(&[Change::Port(PortId(0), Some(another))]);
    assert_eq!(leaves(&mut lab, "10.244.0.11", "198.51.100.8").as_deref(), Ok("192.0.2.7"));
    // A port without an address, and one that is not there.
    lab.change(&[Change::Port(PortId(0), Some(Port { addresses: Vec::new(), ..port }))]);
    assert!(!lab.tables.departures.is_nat_address(sluice_core::emit::mapped(ip("192.0.2.7"))));
    for nothing in [PortId(0), PortId(9)] {
        let ways = vec![(prefix("0.0.0.0/0"), Leave::Through(nothing))];
        lab.change(&[Change::Egress(ip("10.244.0.11"), Some(ways))]);
        let dropped = Err(Fate::Drop(DropReason::NoEgressAddress));
        assert_eq!(leaves(&mut lab, "10.244.0.11", &format!("198.51.100.{}", 20 + nothing.0)), dropped);
    }
}

#[test]
fn what_stays_in_the_cluster_keeps_its_address() {
    let mut lab = lab(&[("0.0.0.0/0", Leave::With(ip("192.0.2.7")))]);
    // 192.0.2.12 has an identity of the cluster's.
    assert_eq!(leaves(&mut lab, "10.244.0.11", "192.0.2.12").as_deref(), Ok("10.244.0.11"));
}
