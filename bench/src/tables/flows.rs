//! Reading packets, hashing keys, the flow table at its sizes, and rewriting.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::intrinsics::Seed;
use sluice_core::packet::{BURST, Packet, PortId};
use sluice_core::parse::{ACK, parse};
use sluice_core::path::stages::{Stages, Words};
use sluice_core::state::conntrack::{FlowTable, NewFlow};
use sluice_core::state::flow::{Cold, Hot, Keys, SERVICE, TRANSLATED};
use sluice_core::state::tcp::TcpState;
use sluice_core::time::Now;

use super::{ASKED, Bench, expiry};
use crate::clock;
use crate::random::Random;

pub(super) const SEED: Seed =
    Seed([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89]);

/// Bytes of a frame's room.
const ROOM: usize = 2048;

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
        let (table, mut stages) = (FlowTable::new(1024, SEED), Stages::new());
        stages.classify(&table, &packets);
        anyhow::ensure!(stages.ordinary() == BURST, "the packets of the bench are not ordinary");
        bench.measure(format!("classify (read, check, hash), {name}"), BURST * 1024, || {
            for _ in 0..1024 {
                black_box(&mut stages).classify(&table, &packets);
            }
        })?;
        bench.measure(format!("parse in full, {name}"), BURST * 1024, || {
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
    let mut table = FlowTable::new(1024, SEED);
    let mut arena = vec![0; BURST * ROOM];
    let mut burst = Vec::new();
    for (room, n) in arena.chunks_exact_mut(ROOM).zip(0..) {
        let mut flow = new(n);
        flow.hot.flags |= TRANSLATED;
        table.insert(&flow, Now::from_secs(100)).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let bytes = Frame { flags: ACK, ..Frame::new(flow.keys.original) }.build();
        room[256..256 + bytes.len()].copy_from_slice(&bytes);
        burst.extend(Packet::new(room, 256, bytes.len(), PortId(0)));
    }
    let mut stages = Stages::new();
    stages.classify(&table, &burst);
    stages.look_up(&table);
    anyhow::ensure!(stages.found(&table) == BURST, "the flows of the bench are not found");
    bench.measure("rewrite to a backend, checksums with it".into(), BURST * 1024, || {
        for _ in 0..1024 {
            for (packet, n) in burst.iter_mut().zip(0..) {
                black_box(stages.leave(&table, packet, n));
            }
        }
    })
}

fn table(bench: &Bench<'_>, flows: u32) -> anyhow::Result<()> {
    let name = |what: &str| format!("flow {what}, {flows} flows");
    if !["hit", "miss", "insert", "expire"].iter().any(|what| bench.wants(&name(what))) {
        return Ok(());
    }
    let begin = Now::from_secs(100);
    let rounds = if flows > 1_000_000 { 1 } else { 5 };
    let inserts: anyhow::Result<Vec<f64>> = (0..rounds).map(|_| admitted(flows, begin)).collect();
    bench.report(format!("{}, prefetched", name("insert")), &inserts?)?;
    let mut table = FlowTable::new(flows, SEED);
    bench.note(format!("{} bytes a flow of {flows}", table.bytes_per_flow()));
    let (time, all) = clock::time(|| (0..flows).all(|n| table.insert(&new(n), begin).is_ok()));
    anyhow::ensure!(all, "the table took fewer than {flows} flows");
    bench.report(format!("{}, one by one", name("insert")), &[time / f64::from(flows)])?;
    let mut random = Random::new(8);
    let mut asked = |first: u32| -> Vec<Words> {
        (0..ASKED).map(|_| Words::of(&key(false, first + random.below(flows)))).collect()
    };
    let mut stages = Stages::new();
    for (what, keys, expected) in [("hit", asked(0), ASKED), ("miss", asked(flows), 0)] {
        let mut found = 0;
        bench.measure(name(what), ASKED, || {
            found = 0;
            for keys in keys.chunks(BURST) {
                stages.ask(&table, keys);
                stages.look_up(&table);
                found += stages.found(&table);
            }
        })?;
        // With a filter it may not have been asked for.
        let asked = bench.wants(&name(what));
        anyhow::ensure!(
            !asked || found.abs_diff(expected) < ASKED / 1000,
            "{found} of {ASKED} flows were found"
        );
    }
    expiry::run(bench, flows)
}

/// Nanoseconds a flow of filling a table, burst by burst. The keys are read from packets elsewhere, so they are made before.
fn admitted(flows: u32, now: Now) -> anyhow::Result<f64> {
    let opened = Hot { tcp: TcpState::SynSent as u8, flags: SERVICE | TRANSLATED, ..Hot::default() };
    let mut table = FlowTable::new(flows, SEED);
    let (mut stages, mut total, mut made) = (Stages::new(), 0.0, 0);
    let all: Vec<u32> = (0..flows).collect();
    for some in all.chunks(BURST * 16) {
        let keys: Vec<Keys> = some.iter().map(|n| keys(*n)).collect();
        let words: Vec<Words> = keys.iter().map(|keys| Words::of(&keys.original)).collect();
        let (time, count) = clock::time(|| {
            let bursts = keys.chunks(BURST).zip(words.chunks(BURST));
            bursts.fold(0, |count, (keys, words)| {
                stages.ask(&table, words);
                stages.look_up(&table);
                count + stages.admit(&mut table, keys, &opened, now)
            })
        });
        (total, made) = (total + time, made + count);
    }
    anyhow::ensure!(made == flows as usize, "the table took fewer than {flows} flows");
    Ok(total / f64::from(flows))
}

fn keys(n: u32) -> Keys {
    let original = key(false, n);
    Keys { original, translated: translated(&original) }
}

/// A flow past its SYN, so that ordinary packets find it.
pub(super) fn new(n: u32) -> NewFlow {
    let hot = Hot { tcp: TcpState::Established as u8, ..Hot::default() };
    NewFlow { keys: keys(n), hot, cold: Cold::default() }
}
