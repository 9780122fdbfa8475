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
    /// The gateway and its peers over virtual cables, in turn, on the same cores
    Veth(VethArgs),
    /// What the gateway's processes have of memory at most, with as many live flows as it has place for
    Memory(MemoryArgs),
    /// Throughput, latency, frame loss and longest burst of a device between two interfaces
    Rfc2544(Rfc2544Args),
    /// Send traffic by an interface, and count what comes out of another
    Blast(BlastArgs),
    /// Count what arrives on an interface from a generator
    Sink(SinkArgs),
    /// Forward frames between two interfaces over AF_XDP as they are
    L2fwd(L2fwdArgs),
    /// Packets through the path for an instrument that counts instructions
    #[command(hide = true)]
    Count(PathArgs),
    /// Make traffic as ordered on standard input
    #[command(hide = true)]
    Generate,
    /// Carry out orders from standard input against a sink
    #[command(hide = true)]
    Trials { sink: String },
    /// Let everything pass on an interface, until the end of input
    #[command(hide = true)]
    Pass { interface: String },
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

/// Packets that mean no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Attack {
    /// Every packet a SYN of a new client to a service
    SynFlood,
    /// Fragments of datagrams that never become whole
    Fragments,
    /// Random addresses, ports and protocols
    Random,
    /// Headers that lie: lengths, versions, checksums
    Malformed,
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
    /// Send this instead of the flows' own packets; they are there, but nobody hears of them
    #[arg(long, value_enum)]
    pub attack: Option<Attack>,
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

/// What waits for a gateway while its core is taken away, at half a million packets a second: 30 ms. A hypervisor that gives a
/// machine its share of time often takes cores away for 10 and 20 ms.
const RING: u32 = 16_384;

fn power_of_two(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|ring: &u32| ring.is_power_of_two() && (64..=1 << 20).contains(ring))
        .ok_or_else(|| "a power of two from 64 to 1048576 is needed".to_owned())
}

/// Whom the gateway is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// `sluice run`
    Sluice,
    /// AF_XDP forwarding with our I/O and nothing else
    L2fwd,
    /// The same over the xsk-rs crate; `scripts/bench-xsk.sh` builds it
    XskRs,
    /// The kernel's routing alone
    Kernel,
    /// The kernel with nftables rules as kube-proxy writes them
    Nftables,
    /// The kernel with iptables rules as kube-proxy writes them
    Iptables,
}

impl Peer {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::L2fwd => "l2fwd",
            Self::XskRs => "xsk-rs",
            Self::Kernel => "kernel",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    pub(crate) const fn is_af_xdp(self) -> bool {
        matches!(self, Self::Sluice | Self::L2fwd | Self::XskRs)
    }
}

/// Flows that come round, or a new one with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flows {
    Established,
    New,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct VethArgs {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sluice,l2fwd,kernel,nftables,iptables")]
    pub peers: Vec<Peer>,
    /// Services, one stage after the other
    #[arg(long, value_delimiter = ',', default_value = "1,1000,10000")]
    pub services: Vec<u32>,
    /// From one service's address to the next: 103 is as 10,000 lie that a cluster draws from a /12, 1 as a pool gives them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub apart: u32,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "established,new")]
    pub traffic: Vec<Flows>,
    /// Flows of established traffic
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub flows: u32,
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Length of a trial
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Steps of the search for the highest rate without loss; 0: no search
    #[arg(long, default_value_t = 6)]
    pub steps: u32,
    /// Share that may be lost and still be called none
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Seconds at half the saturated rate, for Sluice
    #[arg(long, default_value_t = 0.0)]
    pub soak: f64,
    /// Packets that can wait for an AF_XDP peer whose core is away, 16 KiB each and device; a power of two
    #[arg(long, default_value_t = RING, value_parser = power_of_two)]
    pub ring: u32,
    /// Bytes of a frame, check sequence included
    #[arg(long, default_value_t = 64)]
    pub frame_size: u16,
    #[arg(long, default_value_t = 0)]
    pub generator_core: usize,
    #[arg(long, default_value_t = 1)]
    pub gateway_core: usize,
    /// Give AF_XDP peers their driver's receiving half on the generator's core, as with a NIC's queue on another core
    #[arg(long)]
    pub two_cores: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct MemoryArgs {
    /// Flows that there is place for, and that are opened
    #[arg(long, default_value_t = 1_000_000)]
    pub flows: u32,
    #[arg(long, default_value_t = 1000)]
    pub services: u32,
    /// New flows a second
    #[arg(long, default_value_t = 100_000.0)]
    pub rate: f64,
    #[arg(long, default_value_t = 0)]
    pub generator_core: usize,
    #[arg(long, default_value_t = 1)]
    pub gateway_core: usize,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct SinkArgs {
    #[arg(long)]
    pub interface: String,
    #[arg(long, default_value_t = u64::MAX)]
    pub seconds: u64,
    /// A JSON object a second instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct L2fwdArgs {
    /// One interface
    pub from: String,
    /// The other: frames go both ways
    pub to: String,
    /// The core that forwards
    #[arg(long)]
    pub core: Option<usize>,
    /// Sleep at once when nothing comes, and not after some tens of microseconds
    #[arg(long)]
    pub sleep: bool,
    /// Microseconds of busy polling in the kernel
    #[arg(long, default_value_t = 0)]
    pub busy_poll: u32,
    /// Packets that can wait on each interface, 16 KiB each; a power of two
    #[arg(long, default_value_t = RING, value_parser = power_of_two)]
    pub ring: u32,
    /// End with the standard input, too: whoever started it may be gone
    #[arg(long)]
    pub end_with_input: bool,
}

/// Traffic as it goes out.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct TrafficArgs {
    /// Interface to send by
    #[arg(long)]
    pub interface: String,
    /// Where frames go: the MAC address of the device under test
    #[arg(long)]
    pub to_mac: String,
    #[arg(long, default_value = "02:00:00:00:00:09")]
    pub from_mac: String,
    /// The first source address; further ones count up
    #[arg(long)]
    pub source: std::net::IpAddr,
    /// The first target address; further ones count up
    #[arg(long)]
    pub target: std::net::IpAddr,
    #[arg(long, default_value_t = 256)]
    pub addresses: u32,
    #[arg(long, default_value_t = 1)]
    pub targets: u32,
    #[arg(long, default_value_t = 1024)]
    pub sport: u16,
    #[arg(long, default_value_t = 80)]
    pub dport: u16,
    /// Flows that come round; 0: each packet opens a new one
    #[arg(long, default_value_t = 1000)]
    pub flows: u32,
    /// The core that makes the packets
    #[arg(long)]
    pub core: Option<usize>,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct BlastArgs {
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Frame sizes in turn, check sequence included, or imix
    #[arg(long, value_delimiter = ',', default_value = "64")]
    pub sizes: Vec<String>,
    /// Interface that packets come back on, to be counted
    #[arg(long)]
    pub sink: Option<String>,
    /// Packets a second; 0: as fast as it goes
    #[arg(long, default_value_t = 0.0)]
    pub rate: f64,
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Packets to send at most; 0: no limit
    #[arg(long, default_value_t = 0)]
    pub packets: u64,
    /// Seconds of the same traffic before anything is counted
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Counts over time
    #[arg(long, value_name = "FILE")]
    pub csv: Option<std::path::PathBuf>,
    /// A report with plots, one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<std::path::PathBuf>,
    /// What is sent, as pcap
    #[arg(long, value_name = "FILE")]
    pub capture: Option<std::path::PathBuf>,
    /// Packets in the capture
    #[arg(long, default_value_t = 1000)]
    pub capture_packets: u32,
}

#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Rfc2544Args {
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Interface that packets come back on
    #[arg(long)]
    pub sink: String,
    /// Frame sizes to measure one after the other, check sequence included, and imix
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024,1280,1518,imix")]
    pub sizes: Vec<String>,
    /// Length of a trial; the RFC wants 60
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// Steps of the search for the throughput
    #[arg(long, default_value_t = 7)]
    pub steps: u32,
    /// Share that may be lost and still be called none
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    #[arg(long, value_name = "FILE")]
    pub csv: Option<std::path::PathBuf>,
    /// A report with plots, one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<std::path::PathBuf>,
}
