//! Several ways, one outcome: the short way and the long one, bursts and single packets, watched and not, the stages that the
//! rig times and all of them in one go.

mod lab;

use lab::Lab;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{ACK, SYN};
use sluice_core::path::stages::{Stages, Words};
use sluice_core::time::Now;
use sluice_core::verdict::Fate;
use sluice_core::watch::Verdict;

/// What the rig times is what the path does.
#[test]
fn the_stages_one_by_one_do_what_forward_does() {
    let mut lab = Lab::new();
    let key = lab.client_to_service(true, 40000);
    let to = lab.send(0, &lab.tcp(key, SYN)).1;
    let answer = lab.tcp(lab.key_of(&to).reverse(), SYN | ACK);
    lab.send(1, &answer);
    let frame = lab.tcp(key, ACK);
    lab.send(0, &frame);
    let (mut room, mut stages) = (vec![0; 2048], Stages::new());
    room[256..256 + frame.len()].copy_from_slice(&frame);
    let mut burst = [Packet::new(&mut room, 256, frame.len(), PortId(0)).unwrap()];
    stages.classify(&lab.state.flows, &burst);
    assert_eq!(stages.ordinary(), 1);
    stages.look_up(&lab.state.flows);
    assert_eq!(stages.found(&lab.state.flows), 1);
    stages.leave(&lab.state.flows, &mut burst[0], 0).unwrap();
    let (fate, sent) = lab.send(0, &frame);
    assert_eq!(fate, Fate::Forward(PortId(1)));
    assert_eq!(burst[0].bytes()[14..], sent[14..], "but for the link header");
    let stranger = FlowKey { sport: 40001, ..key };
    for (key, known) in [(key, 1), (stranger, 0)] {
        stages.ask(&lab.state.flows, &[Words::of(&key)]);
        stages.look_up(&lab.state.flows);
        assert_eq!(stages.found(&lab.state.flows), known);
    }
}

proptest::proptest! {
    /// The short way decides, rewrites and counts like the long way, packet by packet, also across changes.
    #[test]
    fn the_short_way_does_what_the_long_way_does(
        packets in proptest::collection::vec(lab::any_packet(), 1..120), change in 0_u8..7,
    ) {
        let (mut short, mut long) = (Lab::with_flows(64), Lab::with_flows(64));
        long.state.config.short = false;
        for (n, (port, frame)) in packets.iter().enumerate() {
            let (by_short, by_long) = (short.send(*port, frame), long.send(*port, frame));
            proptest::prop_assert_eq!(&by_short, &by_long);
            // What went to a server comes back, so that both directions are known.
            if let (Fate::Forward(PortId(1)), Some(answer)) = (by_short.0, lab::answer(&by_short.1)) {
                proptest::prop_assert_eq!(short.send(1, &answer), long.send(1, &answer));
                proptest::prop_assert_eq!(short.send(*port, frame), long.send(*port, frame));
            }
            if n == packets.len() / 2 {
                short.disturb(change);
                long.disturb(change);
            }
            short.tick(Now(n as u64 * Now::SECOND / 4));
            long.tick(Now(n as u64 * Now::SECOND / 4));
            proptest::prop_assert_eq!(&short.state.counters, &long.state.counters);
        }
        proptest::prop_assert_eq!(&short.events.0, &long.events.0);
        let counts = |lab: &Lab| {
            let flows = &lab.state.flows;
            flows.iter_from(0).map(|(_, flow)| flows.hot(flow).counts(flows.cold(flow))).collect::<Vec<_>>()
        };
        proptest::prop_assert_eq!(counts(&short), counts(&long));
    }

    /// What is found out for a whole burst beforehand changes nothing: each packet fares as it would alone, the long way.
    #[test]
    fn a_burst_fares_like_its_packets_one_by_one(
        packets in proptest::collection::vec((lab::any_packet(), 1_usize..4), 1..80),
        sizes in proptest::collection::vec(1_usize..64, 1..8), change in 0_u8..7,
    ) {
        let (mut burst, mut single) = (Lab::with_flows(64), Lab::with_flows(64));
        single.state.config.short = false;
        // Some come several times in a row: the first opens a flow that the others belong to.
        let packets: Vec<(u16, Vec<u8>)> =
            packets.into_iter().flat_map(|(packet, times)| vec![packet; times]).collect();
        let (mut rest, mut sizes) = (&packets[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let (some, others) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = others;
            let one_by_one: Vec<_> = some.iter().map(|(port, frame)| single.send(*port, frame)).collect();
            proptest::prop_assert_eq!(burst.send_burst(some), one_by_one);
            proptest::prop_assert_eq!(&burst.state.counters, &single.state.counters);
            if rest.len() < packets.len() / 2 {
                burst.disturb(change);
                single.disturb(change);
            }
        }
        proptest::prop_assert_eq!(&burst.events.0, &single.events.0);
    }

    /// Who is watched decides, rewrites, counts and tells like who is not.
    #[test]
    fn a_watched_packet_fares_like_any_other(
        packets in proptest::collection::vec(lab::any_packet(), 1..120), change in 0_u8..4,
    ) {
        let (mut watched, mut plain) = (Lab::with_flows(64), Lab::with_flows(64));
        for (n, (port, frame)) in packets.iter().enumerate() {
            let (sighting, seen) = watched.send_seen(*port, frame);
            let other = plain.send(*port, frame);
            proptest::prop_assert_eq!((sighting.fate, &seen), (other.0, &other.1));
            let dropped = matches!(sighting.verdict(), Verdict::Dropped);
            proptest::prop_assert_eq!(dropped, sighting.reason().is_some());
            if n == packets.len() / 2 {
                watched.disturb(change);
                plain.disturb(change);
            }
            proptest::prop_assert_eq!(&watched.state.counters, &plain.state.counters);
        }
        proptest::prop_assert_eq!(&watched.events.0, &plain.events.0);
    }
}
