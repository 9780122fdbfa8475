//! `blast`: send traffic by an interface, and count what comes out of another if there is one.

use std::fs;
use std::io::Write;

use anyhow::{Context, bail};
use serde::Serialize;

use super::capture;
use super::generator::{Generator, Told};
use super::order::Order;
use super::trial::{Outcome, Trials, outcome};
use crate::args::{BlastArgs, TrafficArgs};
use crate::clock::to_float;
use crate::machine::{self, Machine};
use crate::page::{Page, Plot, Series};
use crate::stop::{self, Stop};

/// What was seen so far, at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    seconds: f64,
    sent: u64,
    received: u64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    machine: Machine,
    order: &'a Order,
    stopped_early: bool,
    outcome: Outcome,
    samples: &'a [Sample],
}

pub(crate) fn run(args: &BlastArgs) -> anyhow::Result<()> {
    let order = order(&args.traffic, &args.sizes)?;
    let order = Order { rate: args.rate, seconds: args.seconds, packets: args.packets, ..order };
    let stop = stop::on_signals()?;
    if let Some(file) = &args.capture {
        capture::write(&order, args.capture_packets, file)?;
    }
    let sink = args.sink.as_deref().map(Trials::new).transpose()?;
    if args.warm_up > 0.0 && !stop.asked() {
        say(&format!("warming up for {} s", args.warm_up));
        Generator::start(&Order { seconds: args.warm_up, packets: 0, ..order.clone() })?.finish()?;
        sink.as_ref().map_or(Ok(()), Trials::settle)?;
    }
    let (samples, outcome) = send(&order, sink.as_ref(), &stop)?;
    let stopped_early = stop.asked();
    let report =
        Report { machine: machine::here(), order: &order, stopped_early, outcome, samples: &samples };
    if let Some(file) = &args.csv {
        fs::write(file, csv(&samples)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.html {
        fs::write(file, page(&report).html()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    print(args, &report)
}

/// The traffic that the options describe, at no pace yet.
pub(crate) fn order(args: &TrafficArgs, sizes: &[String]) -> anyhow::Result<Order> {
    let order = Order {
        interface: args.interface.clone(),
        from_mac: mac(&args.from_mac)?,
        to_mac: mac(&args.to_mac)?,
        source: args.source,
        target: args.target,
        addresses: args.addresses,
        targets: args.targets,
        apart: 1,
        sport: args.sport,
        dport: args.dport,
        flows: args.flows,
        first: 0,
        rate: 0.0,
        seconds: 0.0,
        packets: 0,
        sizes: Vec::new(),
        core: args.core,
    };
    order.of_sizes(sizes)
}

fn mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .context("a MAC address")?;
    let Ok(mac) = bytes.try_into() else { bail!("{text} is not a MAC address") };
    Ok(mac)
}

fn send(order: &Order, sink: Option<&Trials>, stop: &Stop) -> anyhow::Result<(Vec<Sample>, Outcome)> {
    let before = sink.map(|sink| Ok::<_, anyhow::Error>((sink.counts()?, sink.latencies()?))).transpose()?;
    let mut generator = Generator::start(order)?;
    let mut samples = Vec::new();
    let told = loop {
        let told = if stop.asked() {
            generator.stop()?
        } else {
            generator.next()?.context("the generator ended early; what it said is above")?
        };
        if told.done {
            sink.map_or(Ok(()), Trials::settle)?;
        }
        let received = match (sink, &before) {
            (Some(sink), Some((counts, _))) => sink.counts()?.received - counts.received,
            _ => 0,
        };
        samples.push(Sample { seconds: told.seconds, sent: told.counts.sent, received });
        bar(order, &told, received, sink.is_some());
        if told.done {
            break told;
        }
    };
    let latencies: Vec<u64> = match (sink, before) {
        (Some(sink), Some((_, before))) => {
            sink.latencies()?.iter().zip(before).map(|(now, before)| now - before).collect()
        }
        _ => Vec::new(),
    };
    let received = samples.last().map_or(0, |sample| sample.received);
    let mut outcome = outcome(told.counts.sent, received, told.seconds, &latencies);
    if sink.is_none() {
        outcome.loss = 0.0;
    }
    Ok((samples, outcome))
}

/// One line that is written again and again.
#[expect(clippy::print_stderr, reason = "a command line tool's progress")]
fn bar(order: &Order, told: &Told, received: u64, sink: bool) {
    let by_packets =
        if order.packets > 0 { to_float(told.counts.sent) / to_float(order.packets) } else { 0.0 };
    let share = (told.seconds / order.seconds).max(by_packets).min(1.0);
    let filled = (0..30).filter(|n| f64::from(*n) < share * 30.0).count();
    let got = if sink { format!(", {received} received") } else { String::new() };
    eprint!(
        "\r[{}{}] {:>3.0} %  {:.1} s, {} sent{got}   ",
        "#".repeat(filled),
        ".".repeat(30 - filled),
        share * 100.0,
        told.seconds,
        told.counts.sent
    );
    if told.done {
        eprintln!();
    }
    let _ = std::io::stderr().flush();
}

#[expect(clippy::print_stderr, reason = "a command line tool's progress")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

fn csv(samples: &[Sample]) -> String {
    let lines = samples.iter().map(|s| format!("{:.3},{},{}\n", s.seconds, s.sent, s.received));
    "seconds,sent,received\n".to_owned() + &lines.collect::<String>()
}

/// Packets a second between two samples.
fn rates(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let rate = |two: &[Sample]| {
        let time = two[1].seconds - two[0].seconds;
        (time > 0.01).then(|| (two[1].seconds, to_float(of(&two[1]) - of(&two[0])) / time))
    };
    samples.windows(2).filter_map(rate).collect()
}

/// What was measured on what, for the head of a page.
pub(crate) fn facts(machine: &Machine) -> Vec<(String, String)> {
    let facts = [
        ("command", machine.command.clone()),
        ("processor", format!("{}, {} cores", machine.cpu, machine.cores)),
        ("kernel", machine.kernel.clone()),
        ("commit", machine.commit.clone()),
        ("load", machine.load.clone()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

fn page(report: &Report<'_>) -> Page {
    let Outcome { sent, received, offered, forwarded, loss, latency, .. } = &report.outcome;
    let cells = |texts: &[String]| texts.to_vec();
    let head = ["sent", "received", "offered/s", "received/s", "lost", "latency p50", "p99", "p99.9", "most"];
    let row = [
        sent.to_string(),
        received.to_string(),
        format!("{offered:.0}"),
        format!("{forwarded:.0}"),
        format!("{:.4} %", loss * 100.0),
    ];
    let latencies = latency.map(|ns| format!("{:.1} us", to_float(ns) / 1e3));
    let series = |name: &str, points| Series { name: name.to_owned(), points };
    Page {
        title: format!("Traffic by {}", report.order.interface),
        facts: facts(&report.machine),
        tables: vec![(
            "What came of it".to_owned(),
            vec![head.map(str::to_owned).to_vec(), cells(&[&row[..], &latencies[..]].concat())],
        )],
        plots: vec![Plot {
            title: "Rate".into(),
            x: "seconds".into(),
            y: "packets a second".into(),
            series: vec![
                series("sent", rates(report.samples, |s| s.sent)),
                series("received", rates(report.samples, |s| s.received)),
            ],
        }],
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool")]
fn print(args: &BlastArgs, report: &Report<'_>) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    let Outcome { sent, received, offered, forwarded, loss, latency, seconds } = &report.outcome;
    println!("{sent} sent in {seconds:.2} s, {offered:.0} a second");
    if args.sink.is_some() {
        println!("{received} received, {forwarded:.0} a second, {:.4} % lost", loss * 100.0);
        let [p50, p99, p999, most] = latency.map(|ns| to_float(ns) / 1e3);
        println!(
            "latency in us: {p50:.1} median, {p99:.1} and {p999:.1} for 99 and 99.9 of 100, {most:.1} most"
        );
    }
    Ok(())
}
