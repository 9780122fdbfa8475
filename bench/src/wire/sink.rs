//! `sink`: count what arrives on an interface, and how long it was on its way.

use std::io::Read;
use std::time::Duration;

use serde::Serialize;

use super::programs::{Programs, layout, quantile};
use super::trial::Trials;
use crate::args::SinkArgs;
use crate::clock::to_float;

#[derive(Debug, Serialize)]
struct Seen {
    seconds: u64,
    packets: u64,
    bytes: u64,
    packets_per_second: f64,
    /// Packets that are not from a generator of ours; they were left to the kernel.
    others: u64,
    latency_ns_p50: u64,
    latency_ns_p99: u64,
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
pub(crate) fn run(args: &SinkArgs) -> anyhow::Result<()> {
    let stop = crate::stop::on_signals()?;
    let trials = Trials::new(&args.interface)?;
    let mut before = trials.counts()?;
    let mut seconds = 0;
    while seconds < args.seconds && !stop.asked() {
        stop.wait(Duration::from_secs(1));
        seconds += 1;
        let (now, latencies) = (trials.counts()?, trials.latencies()?);
        let seen = Seen {
            seconds,
            packets: now.received,
            bytes: now.received_bytes,
            packets_per_second: to_float(now.received - before.received),
            others: now.others,
            latency_ns_p50: quantile(&latencies, 0.5),
            latency_ns_p99: quantile(&latencies, 0.99),
        };
        before = now;
        if args.json {
            println!("{}", serde_json::to_string(&seen)?);
        } else {
            println!(
                "{seconds:>5} s  {:>12.0} packets/s  {:>14} packets  {:>8.1} us median, {:>8.1} us for 99 of 100",
                seen.packets_per_second,
                seen.packets,
                to_float(seen.latency_ns_p50) / 1e3,
                to_float(seen.latency_ns_p99) / 1e3
            );
        }
    }
    Ok(())
}

/// `pass`: hold a program that lets everything through on an interface, until the end of input.
pub(crate) fn pass(interface: &str) -> anyhow::Result<()> {
    let mut programs = Programs::load()?;
    programs.attach(layout::PASS, interface)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
