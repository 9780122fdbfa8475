//! `path`: the packet path in process. The harness alone and the harness with the path are measured in turn; their
//! difference is the path.

use std::hint::black_box;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use sluice_core::event::{EventSink, FlowEvent};
use sluice_core::packet::{BURST, Packet};
use sluice_core::parse::{ACK, SYN};
use sluice_core::path::{Fates, forward};
use sluice_core::state::{Config, State};
use sluice_core::tables::Tables;
use sluice_core::time::Now;
use sluice_core::verdict::Fate;

use crate::args::{Attack, PathArgs, Scenario, Skew};
use crate::clock::to_float;
use crate::machine::{self, Machine};
use crate::traffic::{Say, Traffic, frame, key};
use crate::{alloc, clock, pages, world};

/// How far the harness may move between rounds before its figures say more about the machine than about the path.
const QUIET: f64 = 1.05;
/// How fast the packets' clock goes, a burst.
const BURST_TIME: u64 = 2_000;
const SEED: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

#[derive(Debug, Serialize)]
struct Report {
    scenario: Scenario,
    flows: u32,
    ipv6: bool,
    vlan: bool,
    attack: Option<Attack>,
    skew: Skew,
    batch: u16,
    workers: u8,
    policies: u32,
    services: u32,
    prefixes: u32,
    rounds: u32,
    packets_per_round: u64,
    ns_per_packet_min: f64,
    ns_per_packet_median: f64,
    mpps_per_core: f64,
    null_ns: f64,
    /// Median over minimum of the harness alone.
    null_moved: f64,
    bytes_per_flow: f64,
    allocations_per_packet: f64,
    burst_ns_p50: u64,
    burst_ns_p99: u64,
    burst_ns_max: u64,
    huge_page_bytes: u64,
    resident_bytes: u64,
    /// Share of an attack's packets that was not forwarded.
    dropped: f64,
    machine: Machine,
}

pub(crate) fn run(args: &PathArgs) -> anyhow::Result<()> {
    let tables = world::tables(args)?;
    let mut runs: Vec<Run> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..args.workers)
            .map(|worker| {
                let tables = &tables;
                scope.spawn(move || {
                    if args.workers > 1 {
                        core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(worker) });
                    }
                    Rig::new(args, tables, worker)?.measure()
                })
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
            .collect::<anyhow::Result<_>>()
    })?;
    // Of several workers the slowest is shown: that is what a core can be counted on for.
    runs.sort_by(|a, b| clock::median(&a.path).total_cmp(&clock::median(&b.path)));
    let run = runs.pop().context("no worker")?;
    let moved = clock::median(&run.null) / clock::min(&run.null);
    ensure!(
        args.anyway || moved <= QUIET,
        "the harness alone moved by {:.1} % between rounds: this machine is not quiet enough (--anyway prints regardless)",
        (moved - 1.0) * 100.0
    );
    print(args, &report(args, &run, moved))
}

fn report(args: &PathArgs, run: &Run, moved: f64) -> Report {
    let median = clock::median(&run.path);
    Report {
        scenario: args.scenario,
        flows: args.flows,
        ipv6: args.ipv6,
        vlan: args.vlan,
        attack: args.attack,
        skew: args.skew,
        batch: args.batch,
        workers: args.workers,
        policies: args.policies,
        services: args.services,
        prefixes: args.prefixes,
        rounds: args.rounds,
        packets_per_round: args.packets,
        ns_per_packet_min: clock::min(&run.path),
        ns_per_packet_median: median,
        mpps_per_core: 1000.0 / median,
        null_ns: clock::median(&run.null),
        null_moved: moved,
        bytes_per_flow: run.bytes_per_flow,
        allocations_per_packet: run.allocations_per_packet,
        burst_ns_p50: run.bursts.value_at_quantile(0.5),
        burst_ns_p99: run.bursts.value_at_quantile(0.99),
        burst_ns_max: run.bursts.max(),
        huge_page_bytes: run.huge_page_bytes,
        resident_bytes: run.resident_bytes,
        dropped: run.dropped,
        machine: machine::here(),
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn print(args: &PathArgs, report: &Report) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    let Report { ns_per_packet_min: least, ns_per_packet_median: median, null_ns, null_moved, .. } = report;
    println!(
        "{:?}, {} flows: {least:.1} ns a packet at best, {median:.1} in the median,",
        args.scenario, args.flows
    );
    println!(
        "{:.1} Mpps a core; the harness's {null_ns:.1} ns (moved by {:.1} %) are not in these figures.",
        report.mpps_per_core,
        (null_moved - 1.0) * 100.0
    );
    println!(
        "{:.1} bytes a flow, {} allocations a packet.",
        report.bytes_per_flow, report.allocations_per_packet
    );
    println!(
        "Bursts of {}: {} ns in the median, {} for 99 of 100, {} at most, clock included.",
        args.batch, report.burst_ns_p50, report.burst_ns_p99, report.burst_ns_max
    );
    if let Some(attack) = report.attack {
        println!("Under {attack:?}, {:.1} % of all packets were dropped.", report.dropped * 100.0);
    }
    println!(
        "{} MiB resident, {} of them in huge pages.",
        report.resident_bytes >> 20,
        report.huge_page_bytes >> 20
    );
    Ok(())
}

/// What one worker measured.
#[derive(Debug)]
struct Run {
    /// Nanoseconds a packet by round: the harness alone, and the path without it.
    null: Vec<f64>,
    path: Vec<f64>,
    bursts: Histogram<u64>,
    allocations_per_packet: f64,
    bytes_per_flow: f64,
    huge_page_bytes: u64,
    resident_bytes: u64,
    dropped: f64,
}

/// Takes events as a ring would: writes them down, one behind the other.
#[derive(Debug)]
struct Slots {
    ring: Vec<Option<FlowEvent>>,
    at: usize,
}

impl EventSink for Slots {
    fn emit(&mut self, event: &FlowEvent) {
        let len = self.ring.len();
        self.ring[self.at] = Some(*event);
        self.at = (self.at + 1) % len;
    }
}

/// One worker's bench.
pub(crate) struct Rig<'a> {
    args: &'a PathArgs,
    tables: &'a Tables,
    state: State,
    traffic: Traffic,
    events: Slots,
    fates: Fates,
    flows: Vec<u32>,
    now: Now,
    say: Say,
    /// What is sent instead, and the next of it.
    attack: Vec<Vec<u8>>,
    next: usize,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(args: &'a PathArgs, tables: &'a Tables, worker: u8) -> anyhow::Result<Self> {
        let mut rig = Self {
            args,
            tables,
            state: state(args),
            traffic: Traffic::new(args, u64::from(worker) + 7),
            events: Slots { ring: vec![None; 4096], at: 0 },
            fates: Fates::new(),
            flows: Vec::with_capacity(BURST),
            now: Now::from_secs(100),
            say: if args.scenario == Scenario::New { Say::Open } else { Say::Go },
            attack: args.attack.map(|attack| crate::attack::frames(args, attack)).unwrap_or_default(),
            next: 0,
        };
        if args.scenario != Scenario::New {
            rig.establish()?;
        }
        Ok(rig)
    }

    /// Open every flow and let its server answer, all through the path itself.
    fn establish(&mut self) -> anyhow::Result<()> {
        let mut frames: Vec<Vec<u8>> = Vec::with_capacity(BURST);
        for first in (0..self.args.flows).step_by(BURST) {
            let keys = (first..self.args.flows.min(first + 64)).map(|n| key(self.args, n));
            let vlan = self.args.vlan.then_some(world::CLIENT_VLAN);
            frames.clear();
            frames.extend(keys.map(|key| frame(key, SYN, vlan)));
            let answers = self.through(&frames, world::CLIENTS)?;
            self.through(&answers, world::SERVERS)?;
        }
        let (live, _) = self.state.flows.occupancy();
        ensure!(live == self.args.flows, "{live} flows were made, not {}", self.args.flows);
        Ok(())
    }

    /// Send frames; what their receivers would answer.
    fn through(
        &mut self,
        frames: &[Vec<u8>],
        port: sluice_core::packet::PortId,
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut packets = self.traffic.show_frames(frames, port);
        forward(self.tables, &mut self.state, self.now, &mut packets, &mut self.fates, &mut self.events);
        let answer = |(packet, fate): (&Packet<'_>, &Fate)| {
            ensure!(matches!(fate, Fate::Forward(_)), "a packet ended as {fate:?}");
            let headers =
                sluice_core::parse::parse(packet).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
            let vlan = (headers.vlan != 0).then_some(headers.vlan);
            Ok(frame(headers.key.reverse(), SYN | ACK, vlan))
        };
        packets.iter().zip(&self.fates).map(answer).collect()
    }

    fn measure(mut self) -> anyhow::Result<Run> {
        let bursts = self.args.packets / u64::from(self.args.batch);
        // Caches and branch predictors have seen both before the first round.
        self.alone(bursts / 8);
        self.with_path(bursts / 8)?;
        let (mut null, mut path) = (Vec::new(), Vec::new());
        let (mut allocations, mut packets) = (0, 0);
        for _ in 0..self.args.rounds {
            let alone = self.alone(bursts);
            let both = self.with_path(bursts)?;
            null.push(alone);
            path.push(both.nanoseconds / to_float(both.packets) - alone);
            allocations += both.allocations;
            packets += both.packets;
        }
        let (huge_page_bytes, resident_bytes) = (pages::in_use(), pages::resident());
        let counters = &self.state.counters;
        let dropped = to_float(counters.dropped()) / to_float(counters.received.max(1));
        Ok(Run {
            dropped,
            huge_page_bytes,
            resident_bytes,
            null,
            path,
            bursts: self.histogram(bursts.min(20_000))?,
            allocations_per_packet: to_float(allocations) / to_float(packets),
            bytes_per_flow: to_float(self.state.flows.bytes_per_flow() as u64),
        })
    }

    /// Nanoseconds a packet of making frames and doing nothing with them.
    fn alone(&mut self, bursts: u64) -> f64 {
        let (time, ()) = clock::time(|| {
            for slot in 0..bursts {
                black_box(self.show(slot));
            }
        });
        time / to_float(bursts * u64::from(self.args.batch))
    }

    /// The same frames, and the path.
    fn with_path(&mut self, bursts: u64) -> anyhow::Result<Taken> {
        if self.say == Say::Go {
            return self.pass(bursts);
        }
        // Every flow once, then the table is emptied, as often as it takes; emptying is not counted.
        let all = u64::from(self.args.flows.div_ceil(u32::from(self.args.batch)));
        let mut sum = Taken::default();
        for _ in 0..(bursts / all).max(1) {
            self.empty();
            let taken = self.pass(all)?;
            sum.nanoseconds += taken.nanoseconds;
            sum.packets += taken.packets;
            sum.allocations += taken.allocations;
        }
        Ok(sum)
    }

    /// Forget every flow, so that each can be opened again. The table has been in use, as that of a gateway has: no page of
    /// it is written for the first time.
    fn empty(&mut self) {
        let (flows, mut from) = (&mut self.state.flows, 0);
        while let Some((next, flow)) = { flows.iter_from(from).next() } {
            flows.remove(flow);
            from = next;
        }
        self.traffic.rewind();
    }

    fn pass(&mut self, bursts: u64) -> anyhow::Result<Taken> {
        let (forwarded, allocated) = (self.state.counters.forwarded, alloc::count());
        let (nanoseconds, packets) = clock::time(|| (0..bursts).map(|slot| self.burst(slot)).sum());
        let allocations = alloc::count() - allocated;
        let forwarded = self.state.counters.forwarded - forwarded;
        let all = self.args.attack.is_some() || forwarded == packets;
        ensure!(all, "{} of {packets} packets were not forwarded", packets - forwarded);
        Ok(Taken { nanoseconds, packets, allocations })
    }

    #[inline(always)]
    fn burst(&mut self, slot: u64) -> u64 {
        self.now.0 += BURST_TIME;
        let (tables, now) = (self.tables, self.now);
        let (mut packets, rest) = self.show(slot);
        forward(tables, rest.state, now, &mut packets, rest.fates, rest.events);
        black_box(rest.fates);
        packets.len() as u64
    }

    /// The next burst, and who takes it.
    #[inline(always)]
    fn show(&mut self, slot: u64) -> (arrayvec::ArrayVec<Packet<'_>, BURST>, Receiver<'_>) {
        let batch = usize::from(self.args.batch);
        let packets = if self.attack.is_empty() {
            self.traffic.some(batch, &mut self.flows);
            self.traffic.show(slot, self.say, &self.flows)
        } else {
            let first = if self.next + batch > self.attack.len() { 0 } else { self.next };
            self.next = first + batch;
            self.traffic.show_frames(&self.attack[first..first + batch], world::CLIENTS)
        };
        (packets, Receiver { state: &mut self.state, fates: &mut self.fates, events: &mut self.events })
    }

    /// So many bursts through [`crate::count::measured`]; how many packets it was.
    pub(crate) fn count(mut self, bursts: u64) -> anyhow::Result<u64> {
        let forwarded = self.state.counters.forwarded;
        for slot in 0..bursts {
            self.now.0 += BURST_TIME;
            let (tables, now) = (self.tables, self.now);
            let (mut packets, rest) = self.show(slot);
            crate::count::measured(tables, rest.state, now, &mut packets, rest.fates, rest.events);
        }
        Ok(self.state.counters.forwarded - forwarded)
    }

    /// How long single bursts take, with the clock in it; those are left out in which somebody else had the core.
    fn histogram(&mut self, bursts: u64) -> anyhow::Result<Histogram<u64>> {
        let mut histogram = Histogram::new_with_max(10_000_000_000, 3)?;
        if self.say == Say::Open {
            self.empty();
        }
        let mut undisturbed = clock::Undisturbed::new();
        for slot in 0..bursts {
            let (tables, now) = (self.tables, self.now);
            let (mut packets, rest) = self.show(slot);
            let (time, ()) =
                clock::time(|| forward(tables, rest.state, now, &mut packets, rest.fates, rest.events));
            if undisturbed.was_ours(time) {
                histogram.saturating_record(whole(time));
            }
        }
        Ok(histogram)
    }
}

/// Everything that a burst changes.
struct Receiver<'r> {
    state: &'r mut State,
    fates: &'r mut Fates,
    events: &'r mut Slots,
}

/// What a stretch of packets took.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    nanoseconds: f64,
    packets: u64,
    allocations: u64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time, far below 2^63 ns")]
const fn whole(time: f64) -> u64 {
    time as u64
}

fn state(args: &PathArgs) -> State {
    State::new(Config::new(args.flows.max(1024), SEED))
}
