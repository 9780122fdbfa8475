//! `rfc2544`: throughput, latency, frame loss and back-to-back frames of a device between two interfaces, by frame size.

use std::fs;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::blast::{self, facts, say};
use super::generator::Generator;
use super::order::Order;
use super::trial::{Outcome, Trials};
use crate::args::Rfc2544Args;
use crate::clock::to_float;
use crate::machine::{self, Machine};
use crate::page::{Page, Plot, Series};
use crate::stop::{self, Stop};

/// Results for one size, or for the mix.
#[derive(Debug, Serialize)]
struct BySize {
    size: String,
    /// Packets a second that come out when more than fits goes in: the scale of the rest.
    saturated: f64,
    /// The highest rate at which nothing is lost, and its bits a second on the wire.
    throughput: f64,
    throughput_bits: f64,
    /// At that rate, in nanoseconds.
    latency_p50: u64,
    latency_p99: u64,
    latency_most: u64,
    /// Offered rate and share lost.
    frame_loss: Vec<(f64, f64)>,
    /// Packets of the longest burst without loss.
    back_to_back: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    seconds: f64,
    stopped_early: bool,
    sizes: Vec<BySize>,
}

pub(crate) fn run(args: &Rfc2544Args) -> anyhow::Result<()> {
    let stop = stop::on_signals()?;
    let rig = Rig { trials: Trials::new(&args.sink)?, order: blast::order(&args.traffic, &[])?, args };
    if !rig.trials.native {
        say("the sink runs in the kernel's generic hook: its own cost is in the figures");
    }
    let mut sizes = Vec::new();
    for size in &args.sizes {
        if stop.asked() {
            break;
        }
        let measured = rig.size(size, &stop)?;
        say(&line(&measured));
        sizes.push(measured);
    }
    let report =
        Report { machine: machine::here(), seconds: args.seconds, stopped_early: stop.asked(), sizes };
    if let Some(file) = &args.csv {
        fs::write(file, csv(&report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.html {
        fs::write(file, page(&report).html()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    print(args, &report)
}

struct Rig<'a> {
    args: &'a Rfc2544Args,
    trials: Trials,
    order: Order,
}

impl Rig<'_> {
    fn size(&self, name: &str, stop: &Stop) -> anyhow::Result<BySize> {
        let order = self.order.of_sizes(&[name.to_owned()])?;
        let order = Order { seconds: self.args.seconds, ..order };
        let sizes = order.sizes.iter().map(|size| f64::from(*size));
        let mean = sizes.sum::<f64>() / to_float(order.sizes.len() as u64);
        // Learned addresses, warm caches, awake workers.
        Generator::start(&Order { seconds: self.args.warm_up.max(0.1), ..order.clone() })?.finish()?;
        self.trials.settle()?;
        let saturated = self.trials.run(&order)?.forwarded;
        // A table of zeros would be no news of the device.
        ensure!(
            saturated > 0.0 || stop.asked(),
            "nothing of what left by {} came back on {}: does the device forward to {}, and is {} its address?",
            self.args.traffic.interface,
            self.args.sink,
            order.target,
            self.args.traffic.to_mac
        );
        let best = self.throughput(&order, saturated, stop)?;
        let mut frame_loss = Vec::new();
        for tenths in (1..=12).rev().take_while(|_| !stop.asked()) {
            let rate = saturated * f64::from(tenths) / 10.0;
            let outcome = self.trials.run(&Order { rate, ..order.clone() })?;
            frame_loss.push((outcome.offered, outcome.loss));
            // The RFC ends after two trials in a row without loss.
            if frame_loss.iter().rev().take_while(|(_, loss)| *loss <= self.args.loss).count() >= 2 {
                break;
            }
        }
        Ok(BySize {
            size: name.to_owned(),
            saturated,
            throughput: best.offered,
            // Preamble and gap are on the wire, too.
            throughput_bits: best.offered * (mean + 20.0) * 8.0,
            latency_p50: best.latency[0],
            latency_p99: best.latency[1],
            latency_most: best.latency[3],
            frame_loss,
            back_to_back: self.back_to_back(&order, saturated, stop)?,
        })
    }

    /// By halving what is between the highest rate without loss and the lowest with some.
    fn throughput(&self, order: &Order, saturated: f64, stop: &Stop) -> anyhow::Result<Outcome> {
        let (mut good, mut bad, mut best) = (0.0, saturated * 1.1, Outcome::default());
        for _ in 0..self.args.steps {
            if stop.asked() {
                break;
            }
            let rate = f64::midpoint(good, bad);
            let outcome = self.trials.run(&Order { rate, ..order.clone() })?;
            if outcome.loss <= self.args.loss {
                (good, best) = (rate, outcome);
            } else {
                bad = rate;
            }
        }
        Ok(best)
    }

    /// The longest burst at full speed without loss, up to what the device passes in the time of a trial.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of packets")]
    fn back_to_back(&self, order: &Order, saturated: f64, stop: &Stop) -> anyhow::Result<u64> {
        let (mut good, mut bad) = (0, (saturated * self.args.seconds) as u64 + 1);
        while bad - good > good / 16 + 1 && !stop.asked() {
            let packets = if good == 0 { (bad / 8).max(1) } else { u64::midpoint(good, bad) };
            let outcome = self.trials.run(&Order { packets, ..order.clone() })?;
            if outcome.loss <= self.args.loss {
                good = packets;
            } else {
                bad = packets;
            }
            if bad <= 1 {
                break;
            }
        }
        Ok(good)
    }
}

fn line(row: &BySize) -> String {
    format!(
        "{:>5} bytes: {:>9.0} packets/s ({:.3} Gbit/s) without loss, {:>9.0} saturated, {:.1} us median latency, {} back to back",
        row.size,
        row.throughput,
        row.throughput_bits / 1e9,
        row.saturated,
        to_float(row.latency_p50) / 1e3,
        row.back_to_back
    )
}

fn csv(report: &Report) -> String {
    let mut text = String::from(
        "size,saturated,throughput,bits,latency_p50_ns,latency_p99_ns,latency_most_ns,back_to_back\n",
    );
    for row in &report.sizes {
        text += &format!(
            "{},{:.0},{:.0},{:.0},{},{},{},{}\n",
            row.size,
            row.saturated,
            row.throughput,
            row.throughput_bits,
            row.latency_p50,
            row.latency_p99,
            row.latency_most,
            row.back_to_back
        );
    }
    text
}

fn page(report: &Report) -> Page {
    let head =
        ["size", "without loss/s", "Gbit/s", "saturated/s", "latency p50", "p99", "most", "back to back"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let us = |ns: u64| format!("{:.1} us", to_float(ns) / 1e3);
    for row in &report.sizes {
        rows.push(vec![
            row.size.clone(),
            format!("{:.0}", row.throughput),
            format!("{:.3}", row.throughput_bits / 1e9),
            format!("{:.0}", row.saturated),
            us(row.latency_p50),
            us(row.latency_p99),
            us(row.latency_most),
            row.back_to_back.to_string(),
        ]);
    }
    let by_size = |of: &dyn Fn(&BySize) -> f64| {
        let point = |row: &BySize| Some((row.size.parse().ok()?, of(row)));
        report.sizes.iter().filter_map(point).collect()
    };
    let series = |name: &str, points| Series { name: name.to_owned(), points };
    let loss = |row: &BySize| {
        let points = row.frame_loss.iter().rev().map(|(rate, loss)| (*rate, loss * 100.0));
        series(&format!("{} bytes", row.size), points.collect())
    };
    Page {
        title: "RFC 2544".into(),
        facts: facts(&report.machine),
        tables: vec![("By frame size".into(), rows)],
        plots: vec![
            Plot {
                title: "Throughput".into(),
                x: "frame size in bytes".into(),
                y: "packets a second".into(),
                series: vec![
                    series("without loss", by_size(&|row| row.throughput)),
                    series("saturated", by_size(&|row| row.saturated)),
                ],
            },
            Plot {
                title: "Latency at that rate".into(),
                x: "frame size in bytes".into(),
                y: "microseconds".into(),
                series: vec![
                    series("median", by_size(&|row| to_float(row.latency_p50) / 1e3)),
                    series("99 of 100", by_size(&|row| to_float(row.latency_p99) / 1e3)),
                ],
            },
            Plot {
                title: "Frame loss".into(),
                x: "offered packets a second".into(),
                y: "per cent lost".into(),
                series: report.sizes.iter().map(loss).collect(),
            },
        ],
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn print(args: &Rfc2544Args, report: &Report) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        report.sizes.iter().for_each(|row| println!("{}", line(row)));
    }
    Ok(())
}
