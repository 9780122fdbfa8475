//! One trial: so much traffic into one interface, and what of it came out of the other.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::generator::Generator;
use super::order::Order;
use super::programs::{Counts, Programs, layout, quantile};

/// When nothing came for so long, the last packet has come.
const QUIET: Duration = Duration::from_millis(60);
/// Looks before packets that come all the time are taken for somebody else's.
const LOOKS: usize = 50;

/// What came of a trial.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub sent: u64,
    pub received: u64,
    pub seconds: f64,
    /// Packets a second.
    pub offered: f64,
    pub forwarded: f64,
    /// Share of what was sent.
    pub loss: f64,
    /// Nanoseconds: median, 99 and 99.9 of 100, most.
    pub latency: [u64; 4],
}

/// A sink on an interface, and orders for a generator beside it.
#[derive(Debug)]
pub(crate) struct Trials {
    sink: Programs,
    pub native: bool,
}

impl Trials {
    pub(crate) fn new(sink: &str) -> anyhow::Result<Self> {
        let mut programs = Programs::load()?;
        let native = programs.attach(layout::ABSORB, sink)?;
        Ok(Self { sink: programs, native })
    }

    pub(crate) fn counts(&self) -> anyhow::Result<Counts> {
        self.sink.counts()
    }

    pub(crate) fn latencies(&self) -> anyhow::Result<Vec<u64>> {
        self.sink.latencies()
    }

    /// Wait until what was sent has come or is lost: it must not be counted with what follows.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let mut before = self.counts()?.received;
        for _ in 0..LOOKS {
            std::thread::sleep(QUIET);
            let now = self.counts()?.received;
            if now == before {
                break;
            }
            before = now;
        }
        Ok(())
    }

    pub(crate) fn run(&self, order: &Order) -> anyhow::Result<Outcome> {
        let (before, latencies) = (self.counts()?, self.latencies()?);
        let told = Generator::start(order)?.finish()?;
        self.settle()?;
        let received = self.counts()?.received - before.received;
        let latencies: Vec<u64> =
            self.latencies()?.iter().zip(latencies).map(|(now, before)| now - before).collect();
        Ok(outcome(told.counts.sent, received, told.seconds, &latencies))
    }
}

/// Put figures together.
pub(crate) fn outcome(sent: u64, received: u64, seconds: f64, latencies: &[u64]) -> Outcome {
    let (sent_f, received_f) = (crate::clock::to_float(sent), crate::clock::to_float(received));
    Outcome {
        sent,
        received,
        seconds,
        offered: sent_f / seconds,
        forwarded: received_f / seconds,
        loss: if sent == 0 { 0.0 } else { 1.0 - (received_f / sent_f).min(1.0) },
        latency: [0.5, 0.99, 0.999, 1.0].map(|q| quantile(latencies, q)),
    }
}

/// `trials`: carry out orders from standard input, a line each, answered by a line each. So trials can be run in a
/// network namespace by somebody outside it.
pub(crate) fn serve(sink: &str) -> anyhow::Result<()> {
    let trials = Trials::new(sink)?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        writeln!(output, "{}", serde_json::to_string(&trials.run(&order)?)?)?;
        output.flush()?;
    }
    Ok(())
}

/// The other side of [`serve`].
#[derive(Debug)]
pub(crate) struct Remote {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Remote {
    /// In the network namespace of this name, pinned to a core by whoever runs it.
    pub(crate) fn start(namespace: &str, sink: &str) -> anyhow::Result<Self> {
        let mut child = inside(namespace, &std::env::current_exe()?)
            .args(["trials", sink])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start trials")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, input, output })
    }

    pub(crate) fn run(&mut self, order: &Order) -> anyhow::Result<Outcome> {
        let input = self.input.as_mut().context("no input")?;
        writeln!(input, "{}", serde_json::to_string(order)?)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the trials ended; what they said is above")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The end of its input is its end; it takes its program off the interface.
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// A command in a network namespace; all else stays as it is.
pub(crate) fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}
