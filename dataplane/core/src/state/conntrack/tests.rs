//! The flow table against a plain map, and what happens at its edges.

use std::collections::{HashMap, HashSet, VecDeque};
use std::vec::Vec;

use super::*;
use crate::state::flow::Timeouts;

fn key(n: u32, v4: bool) -> FlowKey {
    let ip = |net: u8, n: u32| {
        let mut octets = [0; 16];
        if v4 {
            octets[10..12].fill(0xff);
            octets[12] = net;
        } else {
            octets[0] = 0xfd;
            octets[1] = net;
        }
        octets[13..].copy_from_slice(&n.to_be_bytes()[1..]);
        octets.into()
    };
    FlowKey { src: ip(10, n), dst: ip(20, 1), sport: 4000, dport: 80, proto: 6, v4 }
}

fn translated(key: FlowKey, n: u32) -> NewFlow {
    let mut to = key;
    let mut octets = to.dst.octets();
    octets[15] = 100 + u8::try_from(n % 8).unwrap();
    to.dst = octets.into();
    to.dport = 8080;
    NewFlow { keys: Keys { original: key, translated: to }, hot: Hot::default(), cold: Cold::default() }
}

fn table(flows: u32) -> FlowTable {
    FlowTable::new(flows, Seed([1, 2, 3, 4]))
}

#[test]
fn both_directions_find_the_flow_and_leave_as_the_other_side() {
    for v4 in [true, false] {
        let mut table = table(100);
        let new = translated(key(7, v4), 3);
        let flow = table.insert(&new, Now(0)).unwrap();
        assert_eq!(table.find(&new.keys.original), Some(flow));
        assert_eq!(table.leaves_as(flow), new.keys.translated);
        let reply = table.find(&new.keys.translated.reverse()).unwrap();
        assert!(reply.is_reply());
        assert_eq!(table.leaves_as(reply), new.keys.original.reverse());
        assert_eq!(table.find(&new.keys.translated), None);
        table.remove(flow);
        assert_eq!(table.find(&new.keys.original), None);
        assert_eq!(table.occupancy().0, 0);
    }
}

#[test]
fn fills_to_the_last_flow_and_agrees_with_a_map() {
    let mut table = table(20_000);
    let mut model = HashMap::new();
    for n in 0..20_000 {
        let new = translated(key(n, n % 3 != 0), n);
        let flow = table.insert(&new, Now(0)).unwrap_or_else(|e| panic!("flow {n} of 20000: {e:?}"));
        model.insert(new.keys.original, flow);
    }
    assert_eq!(table.insert(&translated(key(20_000, true), 0), Now(0)), Err(InsertError::Full));
    for (key, flow) in &model {
        assert_eq!(table.find(key), Some(*flow));
    }
    assert!(table.bytes_per_flow() <= 128, "{} bytes a flow", table.bytes_per_flow());
}

/// One packet of nineteen million was dropped for want of this, of new flows through a full table that made room for each.
#[test]
fn small_tables_fill_to_the_last_flow_and_stay_full_while_flows_come_and_go() {
    for seed in 0..2000 {
        let mut table = FlowTable::new(64, Seed([seed, 2, 3, 4]));
        let mut flows = VecDeque::new();
        for n in 0..200 {
            if n >= 64 {
                table.remove(flows.pop_front().unwrap());
            }
            let flow = table.insert(&translated(key(n, true), n), Now(0));
            flows.push_back(flow.unwrap_or_else(|e| panic!("flow {n} of seed {seed}: {e:?}")));
        }
        let held: HashSet<FlowKey> = flows.iter().map(|flow| table.keys(*flow).original).collect();
        assert!((136..200).all(|n| held.contains(&key(n, true)) && table.find(&key(n, true)).is_some()));
    }
}

#[test]
fn counts_are_exact_beyond_32_bits() {
    for v4 in [true, false] {
        let mut table = table(16);
        let flow = table.insert(&translated(key(1, v4), 1), Now(0)).unwrap();
        let (hot, cold) = table.parts(flow);
        hot.set_counts(cold, [if v4 { u64::from(u32::MAX) } else { 5 }, 7], [1 << 40, 9]);
        hot.count(cold, false, 1500);
        hot.count(cold, true, 60);
        let more = if v4 { 1 << 32 } else { 6 };
        assert_eq!(hot.counts(cold), ([more, 8], [(1 << 40) + 1500, 69]));
        assert_eq!(table.find(&key(1, v4)), Some(flow), "counting must not touch the addresses");
    }
}

#[test]
fn the_sweep_ends_what_is_idle_and_spares_what_is_not() {
    let mut table = table(1000);
    let mut flows = Vec::new();
    for n in 0..1000 {
        flows.push(table.insert(&translated(key(n, true), n), Now(0)).unwrap());
    }
    let spared = flows[500];
    let mut ended = 0;
    for tenth in 0..600 {
        let now = Now(tenth * Now::SECOND / 10);
        table.parts(spared).0.seen = now.seconds();
        table.sweep(now, &Timeouts::default(), |table, over| {
            ended += over.iter().filter(|flow| table.hot(**flow).is(LIVE)).count();
        });
    }
    assert_eq!((ended, table.occupancy().0), (999, 1));
    assert!(table.find(&key(500, true)).is_some());
}

#[test]
fn after_a_pause_the_sweep_catches_up_a_bounded_piece_a_turn() {
    let flows = 3000;
    let mut table = table(flows);
    for n in 0..flows {
        table.insert(&translated(key(n, true), n), Now(0)).unwrap();
    }
    let now = Now(100_000 * Now::SECOND);
    let mut turns = 0;
    loop {
        let removed = table.sweep(now, &Timeouts::default(), |_, _| ());
        turns += 1;
        assert!(removed < 128, "{removed} in one turn");
        if !table.is_behind() {
            break;
        }
    }
    assert_eq!(table.occupancy().0, 0);
    assert!(turns >= flows / 128 && turns <= flows / 64 + 2, "{turns} turns");
    // Nothing is due to be looked at: nobody is kept awake for it.
    table.sweep(Now(now.0 + 1), &Timeouts::default(), |_, _| ());
    assert!(!table.is_behind());
}

#[test]
fn the_longest_waiting_half_open_flow_goes_first() {
    let mut table = table(16);
    for n in 0..16 {
        table.insert(&translated(key(n, true), n), Now(0)).unwrap();
    }
    let established = table.find(&key(0, true)).unwrap();
    table.parts(established).0.tcp = 2;
    let victim = table.longest_half_open().unwrap();
    assert_eq!(table.keys(victim).original, key(1, true));
}

#[test]
fn every_flow_is_where_its_keys_say_while_flows_come_and_go() {
    const FLOWS: u32 = 5000;
    let mut table = table(FLOWS);
    let (mut model, mut next, mut noise) = (Vec::new(), 0, 7_u32);
    for round in 0..6 {
        while table.occupancy().0 < FLOWS {
            let new = translated(key(next, next % 3 != 0), next);
            model.push((new.keys, table.insert(&new, Now(0)).unwrap()));
            next += 1;
        }
        for (keys, flow) in &model {
            assert_eq!(table.find(&keys.original), Some(*flow));
            assert_eq!(table.find(&keys.translated.reverse()), Some(flow.other()));
            let place = table.place(&keys.original);
            assert_eq!(table.find_at(&keys.original, &place), Some(*flow));
            assert_ne!(table.candidate(&place, keys.original.v4), FlowRef::NONE);
        }
        model.retain(|(keys, flow)| {
            noise = noise.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            let stays = round < 5 && noise >> 30 != 0;
            if !stays {
                table.remove(*flow);
                assert_eq!(table.find(&keys.original), None);
            }
            stays
        });
    }
    assert!(table.buckets.iter().all(|bucket| bucket.tags == [0; LANES] && bucket.refs == [0; LANES]));
}
