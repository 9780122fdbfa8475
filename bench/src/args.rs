//! What can be asked for on the command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(name = "sluice-bench", version, about = "Measure packet paths and tables honestly")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole packet path in process: real code, real tables, frames in memory
    Path(PathArgs),
    /// Each table and stage for itself
    Tables(TablesArgs),
}

/// What the packets meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// Established flows, routed only
    Forward,
    /// Established flows between guarded endpoints, policy in both directions
    Policy,
    /// Established flows to services, rewritten to a backend
    Lb,
    /// Established flows to services of guarded endpoints: identity, policy, rewrite, next hop, counters
    Gateway,
    /// Every packet opens a flow of `gateway`: the whole admission
    New,
}

/// How often each flow is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Skew {
    Uniform,
    /// Exponent 1: a few flows have most packets
    Zipf,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct PathArgs {
    #[arg(long, value_enum, default_value = "gateway")]
    pub scenario: Scenario,
    /// Flows that packets belong to
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub flows: u32,
    /// IPv6 instead of IPv4
    #[arg(long)]
    pub ipv6: bool,
    /// Tagged frames in and out
    #[arg(long)]
    pub vlan: bool,
    /// UDP instead of TCP
    #[arg(long)]
    pub udp: bool,
    /// Policy classes, each with ten port ranges of six entries
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub policies: u32,
    /// Services, each with sixteen backends
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub services: u32,
    /// Prefixes that routing and identities know besides
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=4_000_000))]
    pub prefixes: u32,
    /// Packets a burst
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub batch: u16,
    /// Threads, each with state of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: u8,
    #[arg(long, value_enum, default_value = "uniform")]
    pub skew: Skew,
    /// Rounds; each measures the harness alone and the path in turn
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub rounds: u32,
    /// Packets a round
    #[arg(long, default_value_t = 2_000_000)]
    pub packets: u64,
    /// Print although the machine was not quiet
    #[arg(long)]
    pub anyway: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct TablesArgs {
    /// Only what contains this
    #[arg(default_value = "")]
    pub filter: String,
    /// Leave out what takes long or much memory
    #[arg(long)]
    pub quick: bool,
    /// One JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
}
