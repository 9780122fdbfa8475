//! Reading packets, hashing keys, the flow table at its sizes, and rewriting.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::checksum::Delta;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::intrinsics::Seed;
use sluice_core::packet::{BURST, Packet, PortId};
use sluice_core::parse::{ACK, parse};
use sluice_core::rewrite;
use sluice_core::state::conntrack::{FlowRef, FlowTable, NewFlow, Place};
use sluice_core::state::flow::{Cold, Hot, Keys, Timeouts};
use sluice_core::time::Now;

use super::{ASKED, Bench};
use crate::clock::{self, Undisturbed};
use crate::random::Random;

const SEED: Seed =
    Seed([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89]);

pub(super) fn run(bench: &Bench<'_>) -> anyhow::Result<()> {
    packets(bench)?;
    for (flows, quick) in [(1 << 16, true), (1_000_000, false), (10_000_000, false)] {
        if quick || !bench.args.quick {
            table(bench, flows)?;
        }
    }
    Ok(())
}

fn key(v6: bool, n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        (
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, u16::from(b), u16::from_be_bytes([c, d])).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1).into(),
        )
    } else {
        (Ipv4Addr::new(10, b, c, d).into(), Ipv4Addr::new(198, 18, 0, 1).into())
    };
    FlowKey { src: mapped(src), dst: mapped(dst), sport: 1024 + u16::from(a), dport: 80, proto: 6, v4: !v6 }
}

/// What the flow's packets leave as: to a backend.
fn translated(key: &FlowKey) -> FlowKey {
    FlowKey { dst: mapped(Ipv4Addr::new(172, 16, 0, 1).into()), dport: 8080, ..*key }
}

fn packets(bench: &Bench<'_>) -> anyhow::Result<()> {
    const ROOM: usize = 2048;
    for (name, v6, vlan) in
        [("IPv4 TCP", false, None), ("IPv6 TCP", true, None), ("IPv4 TCP with a tag", false, Some(7))]
    {
        let mut arena = vec![0; BURST * ROOM];
        for (room, n) in arena.chunks_exact_mut(ROOM).zip(0..) {
            let bytes = Frame { flags: ACK, vlan, ..Frame::new(key(v6, n)) }.build();
            room[256..256 + bytes.len()].copy_from_slice(&bytes);
        }
        let length = if v6 { 74 } else { 54 } + if vlan.is_some() { 4 } else { 0 };
        let packets: Vec<Packet<'_>> = arena
            .chunks_exact_mut(ROOM)
            .filter_map(|room| Packet::new(room, 256, length, PortId(0)))
            .collect();
        bench.measure(format!("parse, {name}"), BURST * 1024, || {
            for _ in 0..1024 {
                for packet in &packets {
                    black_box(parse(packet).is_ok());
                }
            }
        })?;
    }
    let table = FlowTable::new(1024, SEED);
    for (name, v6) in [("v4", false), ("v6", true)] {
        let keys: Vec<FlowKey> = (0..1024).map(|n| key(v6, n)).collect();
        bench.measure(format!("hash of a key, {name}, with its places"), 1024 * 64, || {
            for _ in 0..64 {
                for key in &keys {
                    black_box(table.place(key));
                }
            }
        })?;
    }
    rewriting(bench)
}

fn rewriting(bench: &Bench<'_>) -> anyhow::Result<()> {
    let from = key(false, 1);
    let to = translated(&from);
    let (ip, l4): (Delta, Delta) = rewrite::deltas(&from, &to);
    let mut bytes = Frame { flags: ACK, ..Frame::new(from) }.build();
    let mut room = vec![0; 2048];
    room[256..256 + bytes.len()].copy_from_slice(&bytes);
    let length = bytes.len();
    let Some(packet) = Packet::new(&mut room, 256, length, PortId(0)) else { return Ok(()) };
    let headers = parse(&packet).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
    bench.measure("rewrite to a backend, checksums with it".into(), 1 << 16, || {
        for _ in 0..1 << 16 {
            rewrite::translate(black_box(&mut bytes), &headers, &to, ip, l4);
        }
    })
}

fn table(bench: &Bench<'_>, flows: u32) -> anyhow::Result<()> {
    let name = |what: &str| format!("flow {what}, {flows} flows");
    if !["hit", "miss", "insert", "expire"].iter().any(|what| bench.wants(&name(what))) {
        return Ok(());
    }
    let mut table = FlowTable::new(flows, SEED);
    let begin = Now::from_secs(100);
    let mut inserts = Vec::new();
    let rounds = if flows > 1_000_000 { 1 } else { 3 };
    for round in 0..rounds {
        table = FlowTable::new(flows, SEED);
        let (time, all) = clock::time(|| (0..flows).all(|n| table.insert(&new(n), begin).is_ok()));
        anyhow::ensure!(all, "the table took fewer than {flows} flows");
        inserts.push(time / f64::from(flows));
        if round == 0 {
            bench.note(format!("{} bytes a flow of {flows}", table.bytes_per_flow()));
        }
    }
    bench.report(name("insert"), &inserts)?;
    let mut random = Random::new(8);
    let mut asked = |first: u32| -> Vec<FlowKey> {
        (0..ASKED).map(|_| key(false, first + random.below(flows))).collect()
    };
    for (what, keys, found) in [("hit", asked(0), true), ("miss", asked(flows), false)] {
        bench.measure(name(what), ASKED, || {
            keys.chunks(BURST).for_each(|keys| look_up(&table, keys, found));
        })?;
    }
    expire(bench, &mut table, begin, flows)
}

fn new(n: u32) -> NewFlow {
    let original = key(false, n);
    // Past its SYN: a half-open flow would also be put into the list of those.
    let hot = Hot { tcp: 2, ..Hot::default() };
    NewFlow { keys: Keys { original, translated: translated(&original) }, hot, cold: Cold::default() }
}

/// A burst in three steps, as the path does it.
fn look_up(table: &FlowTable, keys: &[FlowKey], found: bool) {
    let mut works = [(Place::default(), FlowRef::NONE); BURST];
    for (key, (place, _)) in keys.iter().zip(&mut works) {
        *place = table.place(key);
        table.prefetch_bucket(place);
    }
    for (place, candidate) in works.iter_mut().take(keys.len()) {
        *candidate = table.candidate(place, true);
    }
    for (key, (place, candidate)) in keys.iter().zip(&works) {
        let flow = if *candidate == FlowRef::NONE { None } else { table.verify(key, place, *candidate) };
        debug_assert!(flow.is_some() || !found);
        black_box(flow);
    }
}

/// All flows run out at once: what each costs, and the longest that a turn was held up (by the table, not by somebody else
/// who wanted the core).
fn expire(bench: &Bench<'_>, table: &mut FlowTable, begin: Now, flows: u32) -> anyhow::Result<()> {
    let timeouts = Timeouts::default();
    let mut now = Now(begin.0 + 10_000 * Now::SECOND);
    let (mut total, mut turns, mut left) = (0.0, Vec::new(), flows);
    let (mut undisturbed, mut uncounted) = (Undisturbed::new(), 0);
    while left > 0 {
        // As often as a busy worker turns.
        now.0 += 20_000;
        let (time, removed) = clock::time(|| {
            table.sweep(now, &timeouts, |_, over| {
                black_box(over);
            })
        });
        left -= removed;
        if undisturbed.was_ours(time) {
            total += time;
            turns.push(time);
        } else {
            uncounted += removed;
        }
    }
    bench.report(format!("flow expire, {flows} flows"), &[total / f64::from(flows - uncounted)])?;
    turns.sort_by(f64::total_cmp);
    bench
        .report(format!("turn of expiry, {flows} flows, 999 of 1000"), &[turns[turns.len() * 999 / 1000]])?;
    bench.report(format!("turn of expiry, {flows} flows, the longest"), &[clock::max(&turns)])?;
    // Whose is it? As many stretches, about as long, in which nothing is done but count.
    let spins = clock::median(&turns).max(1.0);
    let mut counting = vec![0.0];
    for _ in 0..turns.len() {
        let (time, ()) = clock::time(|| {
            let mut count = 0.0;
            while black_box(count) < spins {
                count += 1.0;
            }
        });
        if undisturbed.was_ours(time) {
            counting.push(time);
        }
    }
    bench.report(
        format!("as many turns that only count, {flows} flows, the longest"),
        &[clock::max(&counting)],
    )
}
