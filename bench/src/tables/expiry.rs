//! Flows that run out, all at once: what each costs, and the longest that a burst waits for it.
//!
//! A million flows take a million turns of the bench, and whoever wants the core meanwhile (on a virtual machine also those
//! that it does not see) makes some of them longer by far than the table does. So the same flows run out of an equal table
//! several times, turn by turn the same work; a turn's time is the median of its times. What is no turn's own is in the
//! longest of any run, which is shown beside it.

use std::hint::black_box;

use sluice_core::state::conntrack::{FlowRef, FlowTable};
use sluice_core::state::flow::Timeouts;
use sluice_core::time::Now;

use super::Bench;
use super::flows::{SEED, new};
use crate::clock;

const RUNS: usize = 5;
/// As often as a busy worker turns.
const TURN: u64 = 20_000;
const OPENED: u64 = 100;

pub(super) fn run(bench: &Bench<'_>, flows: u32) -> anyhow::Result<()> {
    let nothing: Vec<f64> = (0..10_000).map(|_| clock::time(|| ()).0).collect();
    let clock = clock::median(&nothing);
    let runs = (0..RUNS).map(|_| turns(flows)).collect::<anyhow::Result<Vec<_>>>()?;
    let count = runs[0].len();
    anyhow::ensure!(runs.iter().all(|run| run.len() == count), "the runs of the bench are not alike");
    let each: Vec<f64> =
        runs.iter().map(|run| run.iter().map(|time| time - clock).sum::<f64>() / f64::from(flows)).collect();
    let mut turns: Vec<f64> = (0..count)
        .map(|turn| clock::median(&runs.iter().map(|run| run[turn]).collect::<Vec<f64>>()))
        .collect();
    turns.sort_by(f64::total_cmp);
    let turn = |what: &str| format!("turn of expiry, {flows} flows, {what}");
    bench.report(format!("flow expire, {flows} flows"), &each)?;
    bench.report(turn("999 of 1000"), &[turns[count * 999 / 1000]])?;
    bench.report(turn("the longest"), &[clock::max(&turns)])?;
    let longest: Vec<f64> = runs.iter().map(|run| clock::max(run)).collect();
    bench.report(turn("the longest of a run, whoever had the core"), &longest)
}

/// The time of each turn, from the first that may take out a flow until none is left.
fn turns(flows: u32) -> anyhow::Result<Vec<f64>> {
    let mut table = FlowTable::new(flows, SEED);
    let opened = Now::from_secs(OPENED);
    anyhow::ensure!((0..flows).all(|n| table.insert(&new(n), opened).is_ok()), "the table took fewer flows");
    let timeouts = Timeouts::default();
    let lives = table.find(&new(0).keys.original).map(|flow| timeouts.of(table.hot(flow)));
    let over = Now::from_secs(OPENED + 1 + u64::from(lives.unwrap_or(0)));
    let mut now = Now(over.0 - TURN);
    let shown = |_: &FlowTable, over: &[FlowRef]| {
        black_box(over);
    };
    // What lay before is caught up with.
    table.sweep(now, &timeouts, shown);
    while table.is_behind() {
        table.sweep(now, &timeouts, shown);
    }
    let (mut turns, mut left) = (Vec::with_capacity(1 << 18), flows);
    while left > 0 {
        now.0 += TURN;
        let (time, removed) = clock::time(|| table.sweep(now, &timeouts, shown));
        left -= removed;
        turns.push(time);
    }
    Ok(turns)
}
