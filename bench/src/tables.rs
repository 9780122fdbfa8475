//! `tables`: each table and stage for itself.
//!
//! Every figure is the best and the median of several rounds, in nanoseconds an operation. Random keys are drawn
//! beforehand. Rows of bursts and of what is fetched ahead take the path's own steps for 64 packets, in its order; rows
//! "one by one" say what it would cost without.

mod expiry;
mod flows;
mod rings;

use std::hint::black_box;
use std::net::{IpAddr, Ipv6Addr};

use serde::Serialize;
use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::intrinsics::prefetch;
use sluice_core::packet::{BURST, PortId};
use sluice_core::tables::Tables;
use sluice_core::tables::lpm::Lpm;
use sluice_core::tables::maglev::{self, DEFAULT_SEEDS};
use sluice_core::tables::record::*;
use sluice_core::tables::service::{Balanced, Match};
use sluice_core::verdict::{Action, NextHopId};

use crate::args::TablesArgs;
use crate::clock;
use crate::random::Random;

const ROUNDS: usize = 9;
/// Keys asked for in a round.
const ASKED: usize = 1 << 18;

#[derive(Debug, Serialize)]
struct Row {
    operation: String,
    ns_min: f64,
    ns_median: f64,
}

/// Measures and prints.
struct Bench<'a> {
    args: &'a TablesArgs,
}

pub(crate) fn run(args: &TablesArgs) -> anyhow::Result<()> {
    let bench = Bench { args };
    flows::run(&bench)?;
    for (count, quick) in [(1_000, true), (100_000, true), (1_000_000, false)] {
        if quick || !args.quick {
            bench.lpm_v4(count)?;
        }
    }
    bench.lpm_v6()?;
    bench.policy()?;
    bench.maglev()?;
    bench.services()?;
    bench.next_hop()?;
    rings::run(&bench)?;
    bench.publish()
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(self.args.filter.as_str())
    }

    /// Measure `work`, which does `count` operations each time.
    fn measure(&self, operation: String, count: usize, mut work: impl FnMut()) -> anyhow::Result<()> {
        if !self.wants(&operation) {
            return Ok(());
        }
        work();
        let per = |time: f64| time / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let times: Vec<f64> = (0..ROUNDS).map(|_| per(clock::time(&mut work).0)).collect();
        self.report(operation, &times)
    }

    /// Something else that is worth knowing.
    #[expect(clippy::print_stderr, reason = "a command line tool")]
    fn note(&self, text: String) {
        eprintln!("{text}");
    }

    /// Nanoseconds an operation, by round.
    #[expect(clippy::print_stdout, reason = "a command line tool")]
    fn report(&self, operation: String, times: &[f64]) -> anyhow::Result<()> {
        let row = Row { operation, ns_min: clock::min(times), ns_median: clock::median(times) };
        if self.args.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            println!("{:<52} {:>12.1} {:>12.1}", row.operation, row.ns_min, row.ns_median);
        }
        Ok(())
    }

    fn lpm_v4(&self, count: u32) -> anyhow::Result<()> {
        let name = format!("lpm v4 lookup, {count} prefixes");
        if !self.wants(&name) {
            return Ok(());
        }
        let mut random = Random::new(3);
        let prefixes: Vec<Prefix> = (0..count).map(|_| v4_prefix(&mut random)).collect();
        let asked: Vec<Ipv6Addr> = (0..ASKED).map(|_| inside(&prefixes, &mut random)).collect();
        self.lpm(&name, &prefixes, &asked, true)
    }

    fn lpm_v6(&self) -> anyhow::Result<()> {
        for (what, lengths) in [
            ("as in the global table", &[48_u8, 48, 48, 48, 32, 32, 44, 40, 36, 64][..]),
            ("hosts and networks", &[128, 128, 128, 64, 48][..]),
        ] {
            let name = format!("lpm v6 lookup, 200000 prefixes, {what}");
            if !self.wants(&name) {
                continue;
            }
            let mut random = Random::new(4);
            let prefixes: Vec<Prefix> = (0..200_000).map(|_| v6_prefix(&mut random, lengths)).collect();
            let asked: Vec<Ipv6Addr> = (0..ASKED).map(|_| inside(&prefixes, &mut random)).collect();
            self.lpm(&name, &prefixes, &asked, false)?;
        }
        Ok(())
    }

    fn lpm(&self, name: &str, prefixes: &[Prefix], asked: &[Ipv6Addr], v4: bool) -> anyhow::Result<()> {
        let mut lpm = Lpm::new();
        for (value, prefix) in (0..).zip(prefixes) {
            lpm.insert(*prefix, value);
        }
        self.measure(format!("{name}, one by one"), ASKED, || {
            for ip in asked {
                black_box(lpm.lookup(*ip, v4));
            }
        })?;
        self.measure(format!("{name}, prefetched"), ASKED, || {
            for burst in asked.chunks(BURST) {
                burst.iter().for_each(|ip| lpm.prefetch(*ip, v4));
                for ip in burst {
                    black_box(lpm.lookup(*ip, v4));
                }
            }
        })?;
        let some = &prefixes[..prefixes.len().min(10_000)];
        self.measure(name.replace("lookup", "remove and insert"), some.len(), || {
            for prefix in some {
                let value = lpm.remove(*prefix).unwrap_or(0);
                lpm.insert(*prefix, value);
            }
        })
    }

    fn policy(&self) -> anyhow::Result<()> {
        let name = "policy decision, 64 k entries, 512 classes";
        if !self.wants(name) {
            return Ok(());
        }
        let mut random = Random::new(5);
        let mut changes: Vec<Change> =
            (0..512).map(|id| Change::Class(ClassId(id), Some(policy_class(&mut random)))).collect();
        for n in 0..256 {
            let sets: Vec<u32> = (0..20).map(|set| set * 13 + n % 7).collect();
            let peer_sets = sets.into_iter().map(PeerSetId).collect();
            let identity = Identity { number: n, peer_sets, ..Identity::default() };
            changes.push(Change::Identity(IdentitySlot(n + 1), Some(identity)));
            let addr = IpAddr::from([10, 0, 0, n.to_le_bytes()[0]]);
            changes.push(Change::Address(Prefix { addr, len: 32 }, Some(IdentitySlot(n + 1))));
        }
        let mut tables = Tables::default();
        tables.apply(&changes, None)?;
        let asked: Vec<(ClassId, Ipv6Addr, u16)> = (0..ASKED)
            .map(|_| {
                let peer = IpAddr::from([10, 0, 0, random.below(256).to_le_bytes()[0]]);
                let port = 1000 + u16::try_from(random.below(320)).unwrap_or(0);
                (ClassId(random.below(512)), mapped(peer), port)
            })
            .collect();
        let row = |ip| tables.ipcache.lookup(ip, true);
        self.measure("identity of a host".into(), ASKED, || {
            for (_, peer, _) in &asked {
                black_box(row(*peer).number);
            }
        })?;
        for (hot, classes) in [("one class", 1), ("8 classes", 8), ("all classes", 512)] {
            let of = |class: ClassId| Some(ClassId(class.0 % classes));
            let known: Vec<_> =
                asked.iter().map(|(class, peer, port)| (of(*class), row(*peer), *port)).collect();
            self.measure(format!("{name}, {hot}, identities fetched"), ASKED, || {
                for burst in known.chunks(BURST) {
                    burst.iter().for_each(|(_, peer, _)| prefetch(*peer));
                    for (class, peer, port) in burst {
                        black_box(tables.policies.decide(*class, peer, 6, *port));
                    }
                }
            })?;
            self.measure(format!("{name}, {hot}, with the identity, one by one"), ASKED, || {
                for (class, peer, port) in &asked {
                    black_box(tables.policies.decide(of(*class), row(*peer), 6, *port));
                }
            })?;
        }
        Ok(())
    }

    fn maglev(&self) -> anyhow::Result<()> {
        for (size, count, weight) in
            [(16381_u32, 16, 100), (16381, 1000, 100), (65521, 1000, 100), (65521, 1000, 0)]
        {
            let kind = if weight == 0 { "of different weights" } else { "of one weight" };
            let name = format!("maglev build, {size} slots, {count} backends {kind}");
            if !self.wants(&name) {
                continue;
            }
            let weight = |n: u16| if weight == 0 { 50 + n % 100 } else { weight };
            let mut backends: Vec<(String, u16)> = (0..count)
                .map(|n: u16| {
                    let [a, b] = n.to_be_bytes();
                    (maglev::backend_name([10, 1, a, b].into(), 8080, 6), weight(n))
                })
                .collect();
            backends.sort();
            self.measure(name, 1, || {
                black_box(maglev::build(&backends, size, DEFAULT_SEEDS[0]));
            })?;
        }
        Ok(())
    }

    fn services(&self) -> anyhow::Result<()> {
        for count in [1_u32, 512, 10_000] {
            let name = format!("maglev pick, {count} services");
            if !self.wants(&name) || (self.args.quick && count > 512) {
                continue;
            }
            let mut tables = Tables::default();
            let changes: Vec<Change> = (0..count).flat_map(service).collect();
            tables.apply(&changes, None)?;
            let mut random = Random::new(6);
            let asked: Vec<FlowKey> = (0..ASKED).map(|_| client(&mut random, count)).collect();
            let (services, row) = (&tables.services, tables.ipcache.lookup(asked[0].src, true));
            let found = |key| match services.lookup(key, row) {
                Match::Service(_, service) => Some(service),
                Match::None | Match::Refused(_) => None,
            };
            let known: Vec<(&FlowKey, &Balanced)> =
                asked.iter().filter_map(|key| Some((key, found(key)?))).collect();
            anyhow::ensure!(known.len() == ASKED, "not every key of the bench has a service");
            let mut slots = [0; BURST];
            self.measure(format!("{name}, prefetched"), ASKED, || {
                for burst in known.chunks(BURST) {
                    burst.iter().for_each(|(_, service)| service.prefetch());
                    for ((key, service), slot) in burst.iter().zip(&mut slots) {
                        *slot = service.slot(services.hash(key, false));
                    }
                    for ((_, service), slot) in burst.iter().zip(&slots) {
                        black_box(service.at(*slot));
                    }
                }
            })?;
            self.measure(format!("{name}, one by one"), ASKED, || {
                for (key, service) in &known {
                    black_box(service.pick(services.hash(key, false)));
                }
            })?;
            let name = name.replace("maglev pick", "frontend");
            self.measure(format!("{name}, prefetched"), ASKED, || {
                for burst in asked.chunks(BURST) {
                    burst.iter().for_each(|key| services.prefetch(key));
                    for key in burst {
                        black_box(services.lookup(key, row));
                    }
                }
            })?;
            self.measure(format!("{name}, one by one"), ASKED, || {
                for key in &asked {
                    black_box(services.lookup(key, row));
                }
            })?;
        }
        Ok(())
    }

    fn next_hop(&self) -> anyhow::Result<()> {
        if !self.wants("next hop") {
            return Ok(());
        }
        let mut tables = Tables::default();
        let mut changes = vec![Change::Port(PortId(0), Some(Port::default()))];
        for n in 0..1000 {
            let ip = IpAddr::from([10, 0, 0, 1]);
            let hop = NextHop { port: PortId(0), ip, mac: Some([2; 6]), mtu: 1500 };
            changes.push(Change::NextHop(NextHopId(n), Some(hop)));
        }
        tables.apply(&changes, None)?;
        let mut random = Random::new(7);
        let asked: Vec<NextHopId> =
            (0..ASKED).map(|_| NextHopId(u16::try_from(random.below(1000)).unwrap_or(0))).collect();
        self.measure("next hop of 1000, with its port".into(), ASKED, || {
            for id in &asked {
                let hop = tables.routing.hop(*id);
                black_box(hop.and_then(|hop| Some((hop.mac, tables.routing.port(hop.port)?.mac))));
            }
        })
    }

    fn publish(&self) -> anyhow::Result<()> {
        let count = 10_000;
        let name = format!("apply, a change of 1 of {count} services");
        if !self.wants(&name) || self.args.quick {
            return Ok(());
        }
        let mut tables = Tables::default();
        let all: Vec<Change> = (0..count).flat_map(service).collect();
        self.measure(format!("apply, {count} services of 16 backends from nothing"), 1, || {
            tables = Tables::default();
            black_box(tables.apply(&all, None).is_ok());
        })?;
        let mut twin = Tables::default();
        self.measure("the same to the twin".into(), 1, || {
            twin = Tables::default();
            black_box(twin.apply(&all, Some(&tables)).is_ok());
        })?;
        let mut n = 0;
        self.measure(name, 1, || {
            n += 1;
            let mut changes: Vec<Change> = service(n % count).into_iter().collect();
            if let Change::Service(_, Some(record)) = &mut changes[0] {
                record.backends.truncate(15);
            }
            black_box(tables.apply(&changes, None).is_ok());
        })
    }
}

fn v4_prefix(random: &mut Random) -> Prefix {
    // About what the global table has: most are /24, none is longer.
    let len = [24, 24, 24, 24, 24, 22, 23, 20, 16, 19][random.below(10) as usize];
    let ip = (0x0100_0000 + random.below(0xde00_0000)) & (u32::MAX << (32 - u32::from(len)));
    Prefix { addr: IpAddr::from(ip.to_be_bytes()), len }
}

fn v6_prefix(random: &mut Random, lengths: &[u8]) -> Prefix {
    let len = lengths[random.below(u32::try_from(lengths.len()).unwrap_or(1)) as usize];
    // 4096 providers, 1024 sites of each.
    let provider = u128::from(random.below(4096)) << 96;
    let site = u128::from(random.below(1024)) << 80;
    let rest = u128::from(random.next()) << 16 & ((1 << 80) - 1);
    let ip = (0x2a00 << 112 | provider | site | rest) & (u128::MAX << (128 - u32::from(len)));
    Prefix { addr: IpAddr::from(ip.to_be_bytes()), len }
}

/// An address inside one of the prefixes.
fn inside(prefixes: &[Prefix], random: &mut Random) -> Ipv6Addr {
    let prefix = prefixes[random.below(u32::try_from(prefixes.len()).unwrap_or(1)) as usize];
    match prefix.addr {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
            let [a, b, c, d, ..] = random.next().to_be_bytes();
            let ip = ip.to_bits() | u32::from_be_bytes([a, b, c, d]) & host;
            mapped(IpAddr::from(ip.to_be_bytes()))
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
            let noise = u128::from(random.next()) << 64 | u128::from(random.next());
            Ipv6Addr::from_bits(ip.to_bits() | noise & host)
        }
    }
}

/// 16 ranges of 8 entries.
fn policy_class(random: &mut Random) -> PolicyClass {
    let entry = |set| PolicyEntry { peers: PeerSetId(set), action: Action::Allow, rule: RuleId(set + 1) };
    let ranges = (0..16_u16).map(|n| PortRange {
        proto: 6,
        first: 1000 + n * 20,
        last: 1010 + n * 20,
        entries: (0..8).map(|_| entry(random.below(256))).collect(),
    });
    PolicyClass { default_deny: true, audit: false, ranges: ranges.collect() }
}

fn service(n: u32) -> [Change; 2] {
    let [_, b, c, d] = n.to_be_bytes();
    let backend = |m: u8| Backend {
        id: BackendId(u32::from(m)),
        ip: IpAddr::from([10, c, d, m]),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    };
    let record = Service {
        proto: 6,
        algorithm: Algorithm::Maglev(16381),
        backends: (0..16).map(backend).collect(),
        ..Service::default()
    };
    let frontend = Frontend {
        service: Some(ServiceId(n)),
        inside: None,
        cluster_only: false,
        source_ranges: Vec::new(),
        source_ranges_deny: false,
    };
    let key = FrontendKey { ip: IpAddr::from([198, b, c, d]), port: 80, proto: 6 };
    [Change::Service(ServiceId(n), Some(record)), Change::Frontend(key, Some(frontend))]
}

fn client(random: &mut Random, services: u32) -> FlowKey {
    let [_, b, c, d] = random.below(services).to_be_bytes();
    let [e, f, g, ..] = random.next().to_be_bytes();
    FlowKey {
        src: mapped(IpAddr::from([20, e, f, g])),
        dst: mapped(IpAddr::from([198, b, c, d])),
        sport: u16::from_be_bytes([f, e]),
        dport: 80,
        proto: 6,
        v4: true,
    }
}
