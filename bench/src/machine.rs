//! What a figure was measured on: without it a figure is worth nothing.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub command: String,
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// The commit of the tree that we are in, with a plus sign if it was changed; nothing outside of one.
    pub commit: String,
    /// How busy the machine was, over a minute.
    pub load: String,
}

pub(crate) fn here() -> Machine {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(": ").nth(1).unwrap_or_default().to_owned()
    };
    let args: Vec<String> = std::env::args().skip(1).collect();
    Machine {
        command: format!("sluice-bench {}", args.join(" ")),
        cpu: format!("{} (family {}, model {})", field("model name"), field("cpu family"), field("model\t")),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        commit: commit(),
        load: file("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
    }
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(id) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { id + "+" } else { id }
}
