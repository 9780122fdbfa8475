//! `veth`: the whole gateway over virtual cables, its peers beside it in the same run. Each peer with each number of services has
//! a lane of its own and the same cores; they take turns, so that what the machine does beside hits all of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::lab::{FRONT_MAC, Lane};
use super::ledger;
use super::order::Order;
use super::peers::{Gateway, Room};
use super::rules::{self, Services};
use super::trial::{Outcome, Remote};
use crate::args::{Flows, Peer, VethArgs};
use crate::clock::{max, median, min};
use crate::machine::{self, Machine};
use crate::stop::{self, Stop};

/// Where clients are; a flow more is an address more, then a port more.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 0);
pub(crate) const ADDRESSES: u32 = 1 << 20;
/// Flows that there is place for: new ones make room for each other.
const FLOWS: u32 = 4_000_000;

/// One line of the result: a peer with so many services and such traffic.
#[derive(Debug, Serialize)]
struct Row {
    services: u32,
    traffic: Flows,
    peer: Peer,
    /// Packets a second that came out when more than fits went in, by round.
    saturated: Vec<f64>,
    saturated_median: f64,
    /// The highest rate at which nothing was lost.
    loss_free: Option<f64>,
    /// Sluice's saturated rate over this peer's, round by round: least, median, most.
    sluice_over_this: Option<[f64; 3]>,
    /// This peer's saturated rate over its own with the first number of services.
    over_first_services: Option<[f64; 3]>,
    ready_seconds: f64,
    /// At half the saturated rate: seconds, packets, packets lost.
    soak: Option<(f64, u64, u64)>,
    /// What gateway and cables counted meanwhile: where what was lost went.
    soak_counts: ledger::Counts,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    split: &'static str,
    seconds: f64,
    rounds: usize,
    flows: u32,
    frame_size: u16,
    /// From one service's address to the next.
    apart: u32,
    /// Packets that can wait for a gateway on AF_XDP.
    ring: u32,
    rows: Vec<Row>,
}

pub(crate) fn run(args: &VethArgs) -> anyhow::Result<()> {
    let stop = stop::on_signals()?;
    let machine = machine::here();
    ensure!(std::thread::available_parallelism()?.get() >= 2, "two cores are needed: one for each side");
    let most = args.services.iter().max().map_or(0, |most| u64::from(*most) * u64::from(args.apart));
    ensure!(most < 1 << 20, "so many services, so far apart, do not fit in 10.96.0.0/12");
    let _room = ConntrackRoom::make();
    // Who is started from here on keeps off the gateway's core, unless it is the gateway: an operator's box does the same.
    core_affinity::set_for_current(core_affinity::CoreId { id: args.generator_core });
    let mut contenders = Vec::new();
    for services in &args.services {
        for peer in &args.peers {
            if !stop.asked() {
                contenders.push(Contender::build(args, contenders.len(), *peer, *services)?);
            }
        }
    }
    let rows = measure(args, &stop, &mut contenders)?;
    print(args, rows, machine)
}

/// A peer in its lane, and trials at the lane's ends.
struct Contender {
    services: u32,
    trials: Remote,
    gateway: Gateway,
    /// The first flow that was not seen yet.
    next: u64,
}

/// All trials, and a row for each kind of traffic and each contender.
fn measure(args: &VethArgs, stop: &Stop, contenders: &mut [Contender]) -> anyhow::Result<Vec<Row>> {
    let who: Vec<(Peer, u32)> = contenders.iter().map(|c| (c.gateway.peer, c.services)).collect();
    let mut rows = Vec::new();
    for traffic in &args.traffic {
        let mut saturated: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        // One round more: the first warms up and is not counted.
        for round in 0..=args.rounds {
            for (contender, rates) in contenders.iter_mut().zip(&mut saturated) {
                if stop.asked() {
                    break;
                }
                let outcome = contender.trial(args, *traffic, 0.0, args.seconds)?;
                if round > 0 {
                    rates.push(outcome.forwarded);
                }
            }
        }
        for (contender, rates) in contenders.iter_mut().zip(&saturated) {
            if rates.is_empty() {
                continue;
            }
            let (peer, services) = (contender.gateway.peer, contender.services);
            let rates_of = |peer, services| {
                let at = who.iter().position(|other| *other == (peer, services))?;
                Some(&saturated[at])
            };
            let sluice = rates_of(Peer::Sluice, services).filter(|_| peer != Peer::Sluice);
            let first = rates_of(peer, args.services[0]).filter(|_| services != args.services[0]);
            let loss_free = (args.steps > 0 && !stop.asked())
                .then(|| contender.search(args, *traffic, max(rates)))
                .transpose()?;
            let soak = (args.soak > 0.0 && !stop.asked() && peer == Peer::Sluice)
                .then(|| contender.soak(args, *traffic, median(rates) / 2.0))
                .transpose()?;
            let (soak, soak_counts) = soak.unzip();
            let row = Row {
                services,
                traffic: *traffic,
                peer,
                saturated_median: median(rates),
                saturated: rates.clone(),
                loss_free,
                sluice_over_this: sluice.map(|ours| ratios(ours, rates)),
                over_first_services: first.map(|few| ratios(rates, few)),
                ready_seconds: contender.gateway.ready_seconds,
                soak,
                soak_counts: soak_counts.unwrap_or_default(),
            };
            say(&line(&row));
            rows.push(row);
        }
    }
    Ok(rows)
}

impl Contender {
    fn build(args: &VethArgs, number: usize, peer: Peer, services: u32) -> anyhow::Result<Self> {
        let gateway = Gateway::start(
            peer,
            number,
            Services { count: services, apart: args.apart },
            args.gateway_core,
            Room { ring: args.ring, flows: FLOWS },
        )?;
        let Lane { name, gateway: inner, outside, front, to, .. } = &gateway.lane;
        let beside_generator = args.two_cores && peer.is_af_xdp();
        let core = if beside_generator { args.generator_core } else { args.gateway_core };
        gateway.lane.threaded(inner, front, core, beside_generator)?;
        if peer.is_af_xdp() {
            gateway.lane.full_means_wait()?;
        }
        let trials = Remote::start(outside, to)?;
        // The sink's program must be on before packets come.
        std::thread::sleep(Duration::from_millis(200));
        gateway.lane.threaded(outside, to, args.generator_core, true)?;
        say(&format!("{name} with {services} services: ready in {:.2} s", gateway.ready_seconds));
        Ok(Self { services, trials, gateway, next: 0 })
    }

    fn trial(&mut self, args: &VethArgs, traffic: Flows, rate: f64, seconds: f64) -> anyhow::Result<Outcome> {
        let order = Order {
            interface: self.gateway.lane.from.clone(),
            from_mac: [2, 0, 0, 0, 0, 9],
            to_mac: FRONT_MAC,
            source: CLIENTS.into(),
            target: IpAddr::V4(rules::FIRST),
            addresses: ADDRESSES,
            targets: self.services.max(1),
            apart: args.apart,
            sport: 1024,
            dport: rules::SERVICE_PORT,
            flows: if traffic == Flows::New { 0 } else { args.flows },
            first: if traffic == Flows::New { self.next } else { 0 },
            rate,
            seconds,
            packets: 0,
            sizes: vec![args.frame_size],
            core: Some(args.generator_core),
        };
        let outcome = self.trials.run(&order)?;
        if traffic == Flows::New {
            // Established traffic uses the first flows; new ones begin behind them.
            self.next = self.next.max(args.flows.into()) + outcome.sent;
        }
        Ok(outcome)
    }

    /// The highest rate without loss, by halving what is between the highest that was and the lowest that was not.
    fn search(&mut self, args: &VethArgs, traffic: Flows, most: f64) -> anyhow::Result<f64> {
        let (mut good, mut bad) = (0.0, most * 1.05);
        for _ in 0..args.steps {
            let rate = f64::midpoint(good, bad);
            let outcome = self.trial(args, traffic, rate, args.seconds)?;
            if outcome.loss <= args.loss {
                good = outcome.offered;
            } else {
                bad = rate;
            }
        }
        Ok(good)
    }

    fn soak(
        &mut self,
        args: &VethArgs,
        traffic: Flows,
        rate: f64,
    ) -> anyhow::Result<((f64, u64, u64), ledger::Counts)> {
        let before = ledger::read(&self.gateway)?;
        let outcome = self.trial(args, traffic, rate, args.soak)?;
        let counts = ledger::between(&before, &ledger::read(&self.gateway)?);
        Ok(((outcome.seconds, outcome.sent, outcome.sent - outcome.received.min(outcome.sent)), counts))
    }
}

/// Least, median and most of the ratios of each round.
fn ratios(ours: &[f64], theirs: &[f64]) -> [f64; 3] {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    [min(&ratios), median(&ratios), max(&ratios)]
}

fn line(row: &Row) -> String {
    let mpps = |rate: f64| format!("{:.3}", rate / 1e6);
    let free = row.loss_free.map_or_else(String::new, |rate| format!(", {} without loss", mpps(rate)));
    let over = row
        .sluice_over_this
        .map_or_else(String::new, |[a, b, c]| format!(", Sluice is {b:.2} of it ({a:.2} to {c:.2})"));
    let flat = row.over_first_services.map_or_else(String::new, |[least, middle, most]| {
        format!(", {middle:.2} of its rate with few services ({least:.2} to {most:.2})")
    });
    let soak = row.soak.map_or_else(String::new, |(seconds, sent, lost)| {
        let places =
            if lost == 0 { String::new() } else { format!(" ({})", ledger::telling(&row.soak_counts)) };
        format!(", {lost} of {sent} lost in {seconds:.0} s at half of it{places}")
    });
    format!(
        "{:>6} services, {:<11} {:<10} {} Mpps ({} to {}){free}{over}{flat}{soak}",
        row.services,
        format!("{:?}", row.traffic).to_lowercase(),
        row.peer.name(),
        mpps(row.saturated_median),
        mpps(min(&row.saturated)),
        mpps(max(&row.saturated)),
    )
}

#[expect(clippy::print_stderr, reason = "a command line tool's progress")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn print(args: &VethArgs, rows: Vec<Row>, machine: Machine) -> anyhow::Result<()> {
    let split = if args.two_cores {
        "generator, sink and, for AF_XDP, the receiving half of the driver on one core; the gateway on the other"
    } else {
        "generator and sink on one core; the gateway with its whole driver on the other"
    };
    if args.json {
        let VethArgs { seconds, rounds, flows, frame_size, apart, ring, .. } = *args;
        println!(
            "{}",
            serde_json::to_string(&Report {
                machine,
                split,
                seconds,
                rounds,
                flows,
                frame_size,
                apart,
                ring,
                rows
            })?
        );
        return Ok(());
    }
    println!("{split}; frames of {} bytes, {} rounds of {} s", args.frame_size, args.rounds, args.seconds);
    rows.iter().for_each(|row| println!("{}", line(row)));
    Ok(())
}

/// Room in the kernel's connection tracking for what the trials open, as a node that forwards would have it; as before
/// when this goes.
struct ConntrackRoom(Option<String>);

const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

impl ConntrackRoom {
    fn make() -> Self {
        let before = fs::read_to_string(CONNTRACK_MAX).ok();
        // Where it cannot be had, new flows of the kernel's peers are measured against a full table.
        let made = fs::write(CONNTRACK_MAX, "4000000").context("no room");
        Self(before.filter(|_| made.is_ok()))
    }
}

impl Drop for ConntrackRoom {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            drop(fs::write(CONNTRACK_MAX, before));
        }
    }
}
