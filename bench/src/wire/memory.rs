//! `memory`: the most that each of the gateway's processes has had of memory, when its table of flows is as full as it was made for.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::lab::{FRONT_MAC, Lane};
use super::order::Order;
use super::peers::{Gateway, Room};
use super::rules::Services;
use super::trial::Remote;
use super::{rules, veth};
use crate::args::{MemoryArgs, Peer};
use crate::machine::{self, Machine};

/// Until counters have been shown.
const SHOWN: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    services: u32,
    flows_max: u32,
    /// Flows that were live at the end.
    flows: u64,
    /// Process, bytes.
    peaks: Vec<(String, u64)>,
}

pub(crate) fn run(args: &MemoryArgs) -> anyhow::Result<()> {
    let machine = machine::here();
    core_affinity::set_for_current(core_affinity::CoreId { id: args.generator_core });
    let room = Room { flows: args.flows, ..Room::DEFAULT };
    let gateway = Gateway::start(
        Peer::Sluice,
        0,
        Services { count: args.services, apart: 1 },
        args.gateway_core,
        room,
    )?;
    let Lane { gateway: inner, outside, front, from, to, .. } = &gateway.lane;
    gateway.lane.threaded(inner, front, args.generator_core, true)?;
    let mut trials = Remote::start(outside, to)?;
    std::thread::sleep(Duration::from_millis(200));
    gateway.lane.threaded(outside, to, args.generator_core, true)?;
    trials.run(&Order {
        interface: from.clone(),
        from_mac: [2, 0, 0, 0, 0, 9],
        to_mac: FRONT_MAC,
        source: veth::CLIENTS.into(),
        target: IpAddr::V4(rules::FIRST),
        addresses: veth::ADDRESSES,
        targets: args.services,
        apart: 1,
        sport: 1024,
        dport: rules::SERVICE_PORT,
        flows: 0,
        first: 0,
        rate: args.rate,
        seconds: f64::from(args.flows) / args.rate * 2.0,
        packets: args.flows.into(),
        sizes: vec![64],
        core: Some(args.generator_core),
    })?;
    std::thread::sleep(SHOWN);
    let status = gateway.status()?;
    let workers = status.pointer("/dataplane/workers").and_then(Value::as_array).context("no workers")?;
    let flows = workers.iter().filter_map(|worker| worker["flows"].as_u64()).sum();
    let (services, flows_max) = (args.services, args.flows);
    print(args, &Report { machine, services, flows_max, flows, peaks: gateway.peaks()? })
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn print(args: &MemoryArgs, report: &Report) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    println!("{} of {} flows live, {} services; at most:", report.flows, report.flows_max, report.services);
    report.peaks.iter().for_each(|(name, bytes)| println!("{name:<16} {:>6} MiB", bytes >> 20));
    Ok(())
}
