//! The walk of packets through `forward`, one idea a test, and the law that the books balance whatever comes.

mod lab;

use lab::{Lab, POLICY_DENIED_PEER, cut, icmp_about, may_be_cut};
use sluice_core::emit::{Frame, mapped};
use sluice_core::event::EventKind;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::parse::{ACK, FIN, RST, SYN};
use sluice_core::tables::record::{
    Change, ClassId, Frontend, FrontendKey, Identity, IdentitySlot, NextHop, PolicyClass, Prefix, Route,
    Service, ServiceId, Settings,
};
use sluice_core::time::Now;
use sluice_core::verdict::{DropReason, Fate, NextHopId};

const OUT: Fate = Fate::Forward(PortId(1));
const BACK: Fate = Fate::Forward(PortId(0));

#[test]
fn a_connection_to_a_service_goes_to_one_backend_and_back() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let key = lab.client_to_service(v4, 40000);
        let (fate, sent) = lab.send(0, &lab.tcp(key, SYN));
        assert_eq!(fate, OUT);
        let to = lab.key_of(&sent);
        assert!(lab.is_backend(&to), "{to:?}");
        assert_eq!((to.src, to.sport), (key.src, key.sport), "the client is kept");
        let (fate, answer) = lab.send(1, &lab.tcp(to.reverse(), SYN | ACK));
        assert_eq!(fate, BACK);
        assert_eq!(lab.key_of(&answer), key.reverse());
        for frame in [&sent, &answer] {
            lab.assert_sound(frame);
        }
        let (_, again) = lab.send(0, &lab.tcp(key, ACK));
        assert_eq!(lab.key_of(&again), to, "the flow keeps its backend");
    }
}

#[test]
fn a_flow_that_policy_does_not_allow_is_dropped_with_its_reason() {
    let mut lab = Lab::new();
    let key = lab.stranger_to_backend(true, 8080);
    let (fate, _) = lab.send(0, &lab.tcp(key, SYN));
    assert_eq!(fate, Fate::Drop(DropReason::PolicyDenied));
    let denied = lab.events.last().unwrap();
    assert_eq!(denied.kind, EventKind::Drop(DropReason::PolicyDenied));
    assert!(!denied.denied_egress);
    assert_eq!(denied.source, POLICY_DENIED_PEER);
}

#[test]
fn who_may_not_send_is_told_so_if_asked_for_and_who_may_not_be_reached_is_silent() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let plain = lab.plain(v4, 50000);
        let closed = PolicyClass { default_deny: true, ..PolicyClass::default() };
        let sender = Identity { number: 700, egress: Some(ClassId(77)), ..Identity::default() };
        let host = if v4 { 32 } else { 128 };
        lab.change(&[
            Change::Class(ClassId(77), Some(closed)),
            Change::Identity(IdentitySlot(77), Some(sender)),
            Change::Address(Prefix { addr: plain.source(), len: host }, Some(IdentitySlot(77))),
        ]);
        assert_eq!(
            lab.send(0, &lab.tcp(plain, SYN)).0,
            Fate::Drop(DropReason::PolicyDenied),
            "not asked for"
        );
        lab.change(&[Change::Settings(Settings { deny_response: true, ..lab.tables.settings.clone() })]);
        let (fate, told) = lab.send(0, &lab.tcp(plain, SYN));
        assert_eq!(fate, Fate::Answer(PortId(0)));
        lab.assert_sound(&told);
        assert_eq!(lab.key_of(&told).dst, plain.src);
        assert_eq!(lab.quoted_key(&told), plain);
        let error = if v4 { &told[34..36] } else { &told[54..56] };
        assert_eq!(error, if v4 { [3, 13] } else { [1, 1] }, "prohibited");
        assert!(lab.events.last().unwrap().denied_egress, "it is told of as a drop all the same");
        let stranger = lab.stranger_to_backend(v4, 8080);
        assert_eq!(lab.send(0, &lab.tcp(stranger, SYN)).0, Fate::Drop(DropReason::PolicyDenied));
        assert_eq!(lab.state.counters.ends(), lab.state.counters.received);
    }
}

#[test]
fn removing_an_allowance_cuts_the_flow_and_spares_others() {
    let mut lab = Lab::new();
    let key = lab.client_to_service(true, 40000);
    lab.send(0, &lab.tcp(key, SYN));
    let other = lab.plain(true, 50000);
    lab.send(0, &lab.udp(other));
    let closed = PolicyClass { default_deny: true, ..PolicyClass::default() };
    lab.change(&[Change::Class(lab.backend_class(), Some(closed))]);
    let (fate, _) = lab.send(0, &lab.tcp(key, ACK));
    assert_eq!(fate, Fate::Drop(DropReason::PolicyDenied));
    assert_eq!(lab.send(0, &lab.udp(other)).0, OUT);
    // And it stays cut: what follows belongs to no connection.
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::UnknownConnection));
}

#[test]
fn a_cut_connection_does_not_come_back_by_the_other_sides_segments() {
    let mut lab = Lab::new();
    lab.state.config.pickup = true;
    let key = lab.stranger_to_backend(true, 8080);
    // The backend may talk to anyone; the stranger may not talk to the backend.
    let again = lab.send(1, &lab.tcp(key.reverse(), ACK)).0;
    assert_eq!(again, Fate::Drop(DropReason::UnknownConnection));
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::PolicyDenied));
    let plain = lab.plain(true, 50000);
    assert_eq!(lab.send(0, &lab.tcp(plain, ACK)).0, OUT, "what both may open is taken up");
}

#[test]
fn before_the_first_generation_nothing_passes_and_flows_of_the_last_process_wait() {
    let mut lab = Lab::new();
    let key = lab.client_to_service(true, 40000);
    let (_, sent) = lab.send(0, &lab.tcp(key, SYN));
    let tables = std::mem::take(&mut lab.tables);
    for frame in [lab.tcp(key, ACK), lab.udp(lab.plain(true, 50000))] {
        assert_eq!(lab.send(0, &frame).0, Fate::Drop(DropReason::NotReady));
    }
    lab.tables = tables;
    let (fate, again) = lab.send(0, &lab.tcp(key, ACK));
    assert_eq!((fate, lab.key_of(&again)), (OUT, lab.key_of(&sent)));
}

#[test]
fn a_flow_whose_backend_is_gone_is_cut() {
    let mut lab = Lab::new();
    let key = lab.client_to_service(true, 40000);
    let (_, sent) = lab.send(0, &lab.tcp(key, SYN));
    lab.remove_backend(&lab.key_of(&sent));
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::NoBackend));
    let (fate, sent) = lab.send(0, &lab.tcp(key, SYN));
    assert_eq!(fate, OUT, "a new connection finds another");
    assert!(lab.is_backend(&lab.key_of(&sent)));
}

#[test]
fn strangers_in_the_middle_of_a_connection_are_unknown() {
    let mut lab = Lab::new();
    let key = lab.plain(true, 40000);
    assert_eq!(lab.send(0, &lab.tcp(key, ACK)).0, Fate::Drop(DropReason::UnknownConnection));
}

#[test]
fn a_new_connection_may_reuse_the_ports_of_a_finished_one() {
    let mut lab = Lab::new();
    let key = lab.plain(true, 40000);
    lab.send(0, &lab.tcp(key, SYN));
    lab.send(1, &lab.tcp(key.reverse(), SYN | ACK));
    lab.send(0, &lab.tcp(key, FIN | ACK));
    lab.send(1, &lab.tcp(key.reverse(), FIN | ACK));
    let before = lab.state.counters.flows_created;
    assert_eq!(lab.send(0, &lab.tcp(key, SYN)).0, OUT);
    assert_eq!(lab.state.counters.flows_created, before + 1);
}

#[test]
fn time_exceeded_comes_from_the_gateway_and_quotes_the_packet() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let key = lab.plain(v4, 40000);
        let mut frame = lab.udp_frame(key);
        frame.ttl = 1;
        let (fate, answer) = lab.send(0, &frame.build());
        assert_eq!(fate, Fate::Answer(PortId(0)));
        lab.assert_sound(&answer);
        let told = lab.key_of(&answer);
        assert_eq!((told.src, told.dst), (lab.gateway(v4), key.src));
        assert_eq!(lab.state.counters.dropped_for(DropReason::TtlExceeded), 1);
    }
}

#[test]
fn packets_beyond_the_mtu_are_answered_with_the_mtu() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let mut frame = lab.udp_frame(lab.plain(v4, 40000));
        frame.payload = vec![7; 1600];
        let (fate, answer) = lab.send(0, &frame.build());
        assert_eq!(fate, Fate::Answer(PortId(0)));
        lab.assert_sound(&answer);
        let at = if v4 { 14 + 20 + 6 } else { 14 + 40 + 6 };
        assert_eq!(u16::from_be_bytes([answer[at], answer[at + 1]]), 1500);
    }
}

#[test]
fn an_error_from_behind_the_service_reaches_the_client_in_its_own_terms() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let key = lab.client_to_service(v4, 40000);
        let (_, sent) = lab.send(0, &lab.tcp(key, SYN));
        let error = icmp_about(&sent, lab.router_behind(v4));
        let (fate, error) = lab.send(1, &error);
        assert_eq!(fate, BACK);
        lab.assert_sound(&error);
        assert_eq!(lab.key_of(&error).dst, key.src);
        let inner = lab.quoted_key(&error);
        assert_eq!(inner, key, "the client sees the packet that it sent");
    }
}

#[test]
fn an_error_about_nothing_is_not_forwarded() {
    let mut lab = Lab::new();
    let ghost = lab.tcp(lab.plain(true, 41000), SYN);
    let (fate, _) = lab.send(1, &icmp_about(&ghost, lab.router_behind(true)));
    assert_eq!(fate, Fate::Drop(DropReason::UnknownConnection));
}

#[test]
fn what_is_too_long_goes_in_pieces_both_ways_if_it_may() {
    let mut lab = Lab::new();
    let key = lab.client_to_service_udp(4000);
    let (_, frame) = lab.send(0, &lab.udp(key));
    let to = lab.key_of(&frame);
    for id in 0..12 {
        let hop = *lab.tables.routing.hop(NextHopId(id)).unwrap();
        lab.change(&[Change::NextHop(NextHopId(id), Some(NextHop { mtu: 700, ..hop }))]);
    }
    for (port, key, becomes) in [(0, key, to), (1, to.reverse(), key.reverse())] {
        let datagram = may_be_cut(Frame { payload: vec![9; 1400], ..Frame::new(key) }.build());
        assert_eq!(lab.send(port, &datagram), (Fate::Cut(700), datagram.clone()));
        for piece in cut(&datagram, 700) {
            let (fate, frame) = lab.send(port, &piece);
            assert_eq!((fate, frame.len()), (Fate::Forward(PortId(1 - port)), piece.len()));
            let gone = lab.key_of(&frame);
            assert_eq!((gone.src, gone.dst), (becomes.src, becomes.dst));
        }
    }
    let counters = &lab.state.counters;
    assert_eq!((counters.cut, counters.dropped(), counters.answered), (2, 0, 0));
    assert_eq!(counters.received, counters.ends());
}

#[test]
fn a_piece_that_is_too_long_is_cut_once_more() {
    let mut lab = Lab::new();
    let datagram = Frame { payload: vec![9; 2900], ..Frame::new(lab.client_to_service_udp(4000)) };
    let pieces = cut(&may_be_cut(datagram.build()), 1500);
    let mut left = 0;
    for id in 0..12 {
        let hop = *lab.tables.routing.hop(NextHopId(id)).unwrap();
        lab.change(&[Change::NextHop(NextHopId(id), Some(NextHop { mtu: 700, ..hop }))]);
    }
    for piece in &pieces {
        assert_eq!(lab.send(0, piece).0, Fate::Cut(700));
        for part in cut(piece, 700) {
            let (fate, frame) = lab.send_again(0, &part);
            assert_eq!(fate, Fate::Forward(PortId(1)));
            left += frame.len() - 34;
        }
    }
    assert_eq!(left, 2908);
}

#[test]
fn later_fragments_follow_the_first_through_translation() {
    let mut lab = Lab::new();
    let key = lab.client_to_service_udp(40000);
    let (first, second) = lab.fragments(key);
    assert_eq!(lab.send(0, &second).0, Fate::Drop(DropReason::FirstFragmentMissing));
    let (fate, sent) = lab.send(0, &first);
    assert_eq!(fate, OUT);
    let (fate, later) = lab.send(0, &second);
    assert_eq!(fate, OUT);
    assert_eq!(sent[30..34], later[30..34], "both go to the same backend");
}

#[test]
fn spoofed_and_martian_sources_are_refused() {
    let mut lab = Lab::new();
    let mut key = lab.plain(true, 40000);
    key.src = "::ffff:127.0.0.1".parse().unwrap();
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Drop(DropReason::InvalidSourceIp));
    key.src = lab.gateway(true);
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Drop(DropReason::InvalidSourceIp));
    // A guarded address that comes in by the wrong side.
    let inside = lab.plain(true, 40000).reverse();
    assert_eq!(lab.send(0, &lab.udp(inside)).0, Fate::Drop(DropReason::InvalidSourceIp));
}

#[test]
fn a_packet_that_ends_beyond_what_offsets_can_say_is_refused() {
    let mut lab = Lab::new();
    let mut frame = lab.udp_frame(lab.plain(true, 40000));
    // The largest IPv4 packet, behind an Ethernet header, ends beyond 64 KiB.
    frame.payload = vec![0; 65_535 - 28];
    assert_eq!(lab.send(0, &frame.build()).0, Fate::Drop(DropReason::InvalidPacket));
}

#[test]
fn an_unknown_neighbour_is_asked_for_and_the_packet_held() {
    let mut lab = Lab::new();
    let mut key = lab.plain(true, 40000);
    key.dst = "::ffff:10.244.0.99".parse().unwrap();
    let ip = "10.244.0.99".parse().unwrap();
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Hold { port: PortId(1), ip });
}

#[test]
fn no_route_is_answered_and_blackholes_are_silent() {
    let mut lab = Lab::new();
    let mut key = lab.plain(true, 40000);
    key.dst = "::ffff:198.18.0.1".parse().unwrap();
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Answer(PortId(0)));
    lab.change(&[Change::Route(lab::prefix("198.18.0.0/15"), Some(Route::Blackhole))]);
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Drop(DropReason::NoRoute));
}

#[test]
fn the_gateways_own_addresses_are_the_kernels() {
    let mut lab = Lab::new();
    let mut key = lab.plain(true, 40000);
    key.dst = lab.gateway(true);
    assert_eq!(lab.send(0, &lab.udp(key)).0, Fate::Pass);
}

#[test]
fn unknown_ports_of_a_service_address_do_not_leak_and_pings_are_answered() {
    for v4 in [true, false] {
        let mut lab = Lab::new();
        let mut key = lab.client_to_service(v4, 40000);
        key.dport = 4444;
        assert_eq!(lab.send(0, &lab.tcp(key, SYN)).0, Fate::Drop(DropReason::NoBackend));
        let (fate, pong) = lab.send(0, &lab.ping(key).build());
        assert_eq!(fate, Fate::Answer(PortId(0)));
        lab.assert_sound(&pong);
    }
}

#[test]
fn a_service_without_backends_refuses_with_a_reset() {
    let mut lab = Lab::new();
    lab.remove_all_backends();
    let key = lab.client_to_service(true, 40000);
    let (fate, reset) = lab.send(0, &lab.tcp(key, SYN));
    assert_eq!(fate, Fate::Answer(PortId(0)));
    lab.assert_sound(&reset);
    assert_eq!(lab.key_of(&reset), key.reverse());
    assert_eq!(reset[14 + 20 + 13], RST | ACK);
}

#[test]
fn clients_inside_the_cluster_may_have_backends_of_their_own() {
    let mut lab = Lab::new();
    let inside = lab.client_to_service(true, 40000);
    let outside = FlowKey { src: mapped([198, 51, 100, 7].into()), ..inside };
    let key = FrontendKey { ip: [203, 0, 113, 80].into(), port: 80, proto: 6 };
    let scoped = Frontend {
        service: Some(ServiceId(9)),
        inside: Some(ServiceId(1)),
        cluster_only: false,
        source_ranges: Vec::new(),
        source_ranges_deny: false,
    };
    lab.change(&[
        Change::Service(ServiceId(9), Some(Service { proto: 6, ..Service::default() })),
        Change::Frontend(key, Some(scoped)),
    ]);
    assert_eq!(lab.send(0, &lab.tcp(inside, SYN)).0, OUT);
    assert_eq!(lab.send(0, &lab.tcp(outside, SYN)).0, Fate::Drop(DropReason::NoBackend));
    // Neither list may go while the frontend leads to it.
    for id in [1, 9] {
        assert!(lab.tables.apply(&[Change::Service(ServiceId(id), None)], None).is_err());
    }
}

#[test]
fn masqueraded_sources_leave_with_our_address_and_replies_find_back() {
    let mut lab = Lab::new();
    lab.masquerade();
    let key = lab.inside_to_world(true, 40000);
    let (fate, sent) = lab.send(1, &lab.udp(key));
    assert_eq!(fate, BACK);
    let to = lab.key_of(&sent);
    assert_eq!(to.source().to_string(), "192.0.2.2");
    lab.assert_sound(&sent);
    let (fate, reply) = lab.send(0, &lab.udp(to.reverse()));
    assert_eq!((fate, lab.key_of(&reply)), (OUT, key.reverse()));
    lab.assert_sound(&reply);
}

#[test]
fn masqueraded_pings_keep_apart_by_identifier() {
    let mut lab = Lab::new();
    lab.masquerade();
    let mut seen = std::collections::HashSet::new();
    for host in 20..70 {
        let mut key = lab.inside_to_world(true, 7);
        let mut octets = key.src.octets();
        octets[15] = host;
        key.src = octets.into();
        (key.proto, key.dport) = (1, 0);
        let (fate, sent) = lab.send(1, &Frame::new(key).build());
        assert_eq!(fate, BACK);
        lab.assert_sound(&sent);
        assert!(seen.insert(lab.key_of(&sent).sport), "two hosts share an identifier");
    }
}

#[test]
fn tags_lead_to_the_port_of_their_vlan_and_leave_with_its_own() {
    let mut lab = Lab::new();
    lab.add_vlan(100);
    let mut frame = lab.udp_frame(lab.plain(true, 40000));
    frame.vlan = Some(100);
    let (fate, sent) = lab.send(0, &frame.build());
    assert_eq!(fate, OUT);
    assert_eq!(sent[12..14], [0x08, 0x00], "the way out is untagged");
    frame.vlan = Some(101);
    assert_eq!(lab.send(0, &frame.build()).0, Fate::Drop(DropReason::VlanFiltered));
}

#[test]
fn a_full_table_gives_up_half_open_flows_and_keeps_established_ones() {
    let mut lab = Lab::with_flows(64);
    let kept = lab.plain(true, 1000);
    lab.send(0, &lab.tcp(kept, SYN));
    lab.send(1, &lab.tcp(kept.reverse(), SYN | ACK));
    lab.send(0, &lab.tcp(kept, ACK));
    for port in 2000..3000 {
        assert_eq!(lab.send(0, &lab.tcp(lab.plain(true, port), SYN)).0, OUT, "port {port}");
    }
    assert_eq!(lab.send(0, &lab.tcp(kept, ACK)).0, OUT);
    assert!(lab.state.counters.flows_evicted >= 900);
    for port in 0..64 {
        let key = lab.plain(true, 4000 + port);
        lab.send(0, &lab.tcp(key, SYN));
        lab.send(1, &lab.tcp(key.reverse(), SYN | ACK));
        lab.send(0, &lab.tcp(key, ACK));
    }
    assert_eq!(lab.send(0, &lab.tcp(lab.plain(true, 9), SYN)).0, Fate::Drop(DropReason::FlowTableFull));
}

#[test]
fn audit_forwards_and_says_so() {
    let mut lab = Lab::new();
    let audit = PolicyClass { default_deny: true, audit: true, ranges: Vec::new() };
    lab.change(&[Change::Class(lab.backend_class(), Some(audit))]);
    let key = lab.stranger_to_backend(true, 8080);
    assert_eq!(lab.send(0, &lab.tcp(key, SYN)).0, OUT);
    assert!(lab.events.iter().any(|event| event.kind == EventKind::New && event.audit));
}

#[test]
fn before_the_first_generation_nothing_passes() {
    let mut lab = Lab::new();
    lab.tables.generation = 0;
    assert_eq!(lab.send(0, &lab.udp(lab.plain(true, 1))).0, Fate::Drop(DropReason::NotReady));
}

#[test]
fn idle_flows_end_with_their_totals() {
    let mut lab = Lab::new();
    let key = lab.plain(true, 40000);
    lab.send(0, &lab.udp(key));
    lab.send(1, &lab.udp(key.reverse()));
    for second in 0..200 {
        lab.tick(Now::from_secs(second));
    }
    let end = lab.events.iter().find(|event| event.kind == EventKind::End).expect("an end");
    assert_eq!(end.packets, [1, 1]);
    assert_eq!(lab.state.flows.occupancy().0, 0);
}

#[test]
fn a_snapshot_carries_connections_into_another_process() {
    let mut lab = Lab::new();
    let key = lab.client_to_service(true, 40000);
    let (_, sent) = lab.send(0, &lab.tcp(key, SYN));
    let to = lab.key_of(&sent);
    lab.send(1, &lab.tcp(to.reverse(), SYN | ACK));
    lab.send(0, &lab.tcp(key, ACK));
    let records: Vec<_> =
        lab.state.flows.iter_from(0).map(|(_, flow)| lab.state.export(flow, Now(0))).collect();
    let mut other = Lab::new();
    for record in &records {
        other.state.import(record, Now(0)).unwrap();
    }
    let (fate, again) = other.send(0, &other.tcp(key, ACK));
    assert_eq!((fate, other.key_of(&again)), (OUT, to));
    let (fate, answer) = other.send(1, &other.tcp(to.reverse(), ACK));
    assert_eq!((fate, other.key_of(&answer)), (BACK, key.reverse()));
}

#[test]
fn one_backend_behind_two_services_serves_one_client_port_through_both() {
    let mut lab = Lab::new();
    lab.second_service();
    let first = lab.client_to_service(true, 40000);
    let mut second = first;
    second.dport = 81;
    let mut seen = std::collections::HashSet::new();
    for key in [first, second] {
        let (fate, sent) = lab.send(0, &lab.tcp(key, SYN));
        assert_eq!(fate, OUT);
        let to = lab.key_of(&sent);
        assert!(seen.insert(to), "both flows look alike to the backend");
        let (fate, answer) = lab.send(1, &lab.tcp(to.reverse(), SYN | ACK));
        assert_eq!((fate, lab.key_of(&answer)), (BACK, key.reverse()));
    }
}

#[test]
fn identities_that_nobody_knows_are_judged_as_such() {
    let mut lab = Lab::new();
    lab.change(&[Change::Address(lab::prefix("0.0.0.0/0"), None)]);
    let mut key = lab.stranger_to_backend(true, 8080);
    key.src = "::ffff:198.51.100.77".parse().unwrap();
    assert_eq!(lab.send(0, &lab.tcp(key, SYN)).0, Fate::Drop(DropReason::PolicyDenied));
    assert_eq!(lab.events.last().unwrap().source, 0);
    lab.change(&[Change::Address(lab::prefix("0.0.0.0/0"), Some(IdentitySlot(1)))]);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(256))]
    /// Whatever comes, in whatever state the tables are: no panic, and every packet is in exactly one count.
    #[test]
    fn the_books_balance(packets in proptest::collection::vec(lab::any_packet(), 1..80), change in 0_u8..7) {
        let mut lab = Lab::with_flows(32);
        for (n, (port, frame)) in packets.iter().enumerate() {
            lab.send(*port, frame);
            if n == packets.len() / 2 {
                lab.disturb(change);
            }
            lab.tick(Now(n as u64 * Now::SECOND / 2));
        }
        proptest::prop_assert_eq!(lab.state.counters.received, packets.len() as u64);
        proptest::prop_assert_eq!(lab.state.counters.received, lab.state.counters.ends());
        let live = u64::from(lab.state.flows.occupancy().0);
        proptest::prop_assert_eq!(lab.state.counters.flows_created - lab.state.counters.flows_ended, live);
    }
}
