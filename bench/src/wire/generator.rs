//! A process that makes traffic: one order on standard input, counts on standard output until it is done.
//!
//! The kernel's test runner cannot be told to stop. So it runs in a process of its own, for as long as it likes, and ends
//! with the process when the order is carried out, or when nobody listens any more.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::order::Order;
use super::programs::{Counts, Programs, interface_index};

/// How often counts are shown.
const BEAT: Duration = Duration::from_millis(100);

/// A line of output.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub counts: Counts,
    /// Seconds since the first packet was asked for.
    pub seconds: f64,
    pub done: bool,
}

/// The process's own side.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
pub(crate) fn serve() -> anyhow::Result<()> {
    // A Ctrl-C is for whoever started us; we end when they do.
    let _stop = crate::stop::on_signals()?;
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    input.read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line).context("an order that is none")?;
    let mut programs = Programs::load()?;
    programs.order(&order.words(interface_index(&order.interface)?)?)?;
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(move || {
        // The end of input is the end of interest.
        let _ = input.read_to_string(&mut String::new());
        STOP.store(true, Ordering::Relaxed);
    });
    let (longest, core) = (order.longest(), order.core);
    std::thread::scope(|scope| {
        let programs = &programs;
        let runner = scope.spawn(move || {
            if let Some(id) = core {
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            programs.run(longest, u32::MAX)
        });
        let began = Instant::now();
        loop {
            std::thread::sleep(BEAT.min(Duration::from_secs_f64(order.seconds.max(0.01))));
            if runner.is_finished() {
                match runner.join() {
                    Ok(outcome) => return outcome,
                    Err(_) => bail!("the generator panicked"),
                }
            }
            let (counts, seconds) = (programs.counts()?, began.elapsed().as_secs_f64());
            let done = seconds >= order.seconds
                || (order.packets > 0 && counts.sent >= order.packets)
                || STOP.load(Ordering::Relaxed);
            let counts = if done { programs.stop()? } else { counts };
            tell(&Told { counts, seconds: seconds.min(order.seconds), done })?;
            if done {
                // Takes the test runner with it.
                std::process::exit(0);
            }
        }
    })
}

fn tell(told: &Told) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(told)?)?;
    Ok(output.flush()?)
}

/// The other side: a running generator.
#[derive(Debug)]
pub(crate) struct Generator {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Generator {
    pub(crate) fn start(order: &Order) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(own)
            .arg("generate")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a generator")?;
        let mut input = child.stdin.take().context("no way to tell the generator")?;
        writeln!(input, "{}", serde_json::to_string(order)?)?;
        child.stdin = Some(input);
        let output = child.stdout.take().context("no way to hear the generator")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// The next counts; `None` when the generator has ended without a word.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Told>> {
        self.lines.next().map(|line| Ok(serde_json::from_str(&line?)?)).transpose()
    }

    /// Carry the order out to its end.
    pub(crate) fn finish(&mut self) -> anyhow::Result<Told> {
        while let Some(told) = self.next()? {
            if told.done {
                return Ok(told);
            }
        }
        bail!("the generator ended early; what it said is above")
    }

    /// Stop now; the last counts.
    pub(crate) fn stop(&mut self) -> anyhow::Result<Told> {
        drop(self.child.stdin.take());
        self.finish()
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
