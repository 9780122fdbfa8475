//! What can be typed. Checked for form only; what it means is found out by the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::encoded;
use crate::observe::Observe;
use crate::output::Form;

/// Where the control daemon listens unless its configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/control.sock";

#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "Identity-aware gateway for bare metal: policy, load balancing and visibility on AF_XDP",
    after_help = "Exit codes: 0 done, 1 the answer is no (invalid, denied, differs), 2 could not do it."
)]
pub struct Cli {
    /// Socket of the running gateway's control daemon.
    #[arg(long, global = true, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab of network namespaces, run the gateway in it, send real traffic, show what happened, tear down.
    Demo(Demo),
    /// Run the gateway: both daemons, restarted when they die, stopped in order.
    Run(Run),
    /// Validate objects; print every problem as file:line:column: field: what is wrong.
    Check(Check),
    /// Judge flows offline: one JSON object a line in, one out.
    Verdict(Verdict),
    /// Say for one flow, rule by rule, why it is allowed or denied, and what would have allowed it.
    Explain(Explain),
    /// Which flows change their verdict between two sets of objects.
    Diff(Diff),
    /// Print the compiled tables: frontends, policies, identities, ipcache, Maglev rows.
    Dump(Dump),
    /// Run a capture through the whole packet path with virtual time; one JSON verdict a packet.
    Replay(Replay),
    /// How the running gateway is: generation, workers, devices, attach modes, table pressure.
    Status(Shown),
    /// Services with their frontends and backends.
    Services(Listed),
    /// Policies, what they select and enforce.
    Policies(Listed),
    /// Identities: number and labels.
    Identities(Listed),
    /// Endpoints: name, addresses, identity, what is enforced for them.
    Endpoints(Listed),
    /// Flows in the running gateway's tables.
    Flows(Flows),
    /// What happened lately: new, ended and dropped flows with their names, reasons and rules.
    Observe(Observe),
    /// Follow packets stage by stage through the running gateway: what was read, flow, service, identities, rules, verdict,
    /// next hop. Costs nothing when nobody traces.
    Trace(Trace),
    /// Write packets of the running gateway as pcapng for Wireshark, with verdict and deciding rules in the comment.
    Capture(Capture),
    /// DNS names that policies learned, with their addresses.
    Names(Listed),
    /// Addresses that sources are translated to, and the ports of each.
    Nat(Shown),
    /// Counters and gauges in Prometheus text form.
    Metrics,
    /// About the configuration file.
    Config(Config),
    /// Print a completion script.
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a folder.
    Man { folder: PathBuf },
    /// The lab's web server.
    #[command(hide = true)]
    DemoBackend { name: String, port: u16 },
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Keep the lab until Enter is pressed, to look around in it.
    #[arg(long)]
    pub keep: bool,
    /// Seconds of the rate measurements.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub seconds: u8,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The gateway's configuration.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Files or folders of objects; `-` is standard input.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub model: Model,
    /// Warnings (a selector that matches nothing, a CIDR over cluster addresses …) count as problems.
    #[arg(long)]
    pub strict: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Verdict {
    #[command(flatten)]
    pub objects: Objects,
    /// Questions, one JSON object a line; `-` is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub flows: PathBuf,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    pub objects: Objects,
    /// Address, namespace/name or reserved:NAME.
    #[arg(long)]
    pub from: String,
    /// Address, namespace/name, service:namespace/name or reserved:NAME.
    #[arg(long)]
    pub to: String,
    /// TCP (the default), UDP, SCTP, ICMP, ICMPv6 or a number.
    #[arg(long)]
    pub proto: Option<String>,
    /// Destination port.
    #[arg(long)]
    pub port: Option<u16>,
    /// ICMP type.
    #[arg(long)]
    pub icmp_type: Option<u8>,
    /// More of the question as a JSON object, in the form of `sluice verdict` (http, dns, kafka, sni, sport …).
    #[arg(long, value_name = "JSON")]
    pub with: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// Objects as they are.
    pub old: PathBuf,
    /// Objects as they would be.
    pub new: PathBuf,
    /// Recorded flows to judge by both, in the form of `sluice verdict`.
    #[arg(long, value_name = "FILE")]
    pub flows: Option<PathBuf>,
    #[command(flatten)]
    pub model: Model,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Dump {
    #[command(flatten)]
    pub objects: Objects,
    /// Print one frontend's Maglev row instead, a backend a slot (192.0.2.1:80/TCP, [2001:db8::1]:80/TCP).
    #[arg(long, value_name = "FRONTEND")]
    pub maglev: Option<String>,
}

#[derive(Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    pub objects: Objects,
    /// Capture to read (pcap or pcapng).
    #[arg(long = "in", value_name = "FILE")]
    pub input: PathBuf,
    /// Capture to write: what leaves the gateway.
    #[arg(long = "out", value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the objects at this virtual time (seconds since the first packet). May be given again.
    #[arg(long, value_name = "SECONDS=PATH")]
    pub change: Vec<String>,
    /// Add every counter that is not zero to the last line.
    #[arg(long)]
    pub counters: bool,
}

/// Objects and how to read them.
#[derive(Debug, Args)]
pub struct Objects {
    /// Files or folders of objects; `-` is standard input.
    #[arg(long = "objects", value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub model: Model,
}

/// What the objects mean here: who we are, and every option of policy and services under Cilium's name.
#[derive(Debug, Args)]
pub struct Model {
    /// A gateway's configuration to take defaults from.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node that we are (reserved:host); all others are reserved:remote-node.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Name of our cluster.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// When a direction is enforced.
    #[arg(long, value_name = "MODE", value_parser = ["default", "always", "never"])]
    pub enforcement: Option<String>,
    /// Forward what would be denied and report it as AUDIT.
    #[arg(long)]
    pub audit: bool,
    /// How a backend is chosen (maglev, random).
    #[arg(long, value_name = "NAME")]
    pub bpf_lb_algorithm: Option<String>,
    /// Slots of a Maglev table.
    #[arg(long, value_name = "PRIME")]
    pub bpf_lb_maglev_table_size: Option<String>,
    /// How replies come back (dnat, snat).
    #[arg(long, value_name = "MODE")]
    pub bpf_lb_mode: Option<String>,
    /// ClusterIPs may be used from outside.
    #[arg(long)]
    pub bpf_lb_external_clusterip: bool,
    /// loadBalancerSourceRanges bind all types of frontends.
    #[arg(long)]
    pub bpf_lb_source_range_all_types: bool,
    /// What a service without backends does (reject, drop).
    #[arg(long, value_name = "WHAT")]
    pub service_no_backend_response: Option<String>,
    /// Seconds that a name learned from DNS lives at least.
    #[arg(long, value_name = "SECONDS")]
    pub tofqdns_min_ttl: Option<String>,
    /// When pods may be reached from their own node whatever policy says (auto, always, policy).
    #[arg(long, value_name = "MODE")]
    pub allow_localhost: Option<String>,
    /// Whom prefixes select in the cluster (nodes, pods, nodes,pods).
    #[arg(long, value_name = "WHOM")]
    pub policy_cidr_match_mode: Option<String>,
    /// Any option by its Cilium name, as NAME=VALUE; `sluice config options` lists them.
    #[arg(long = "option", short = 'O', value_name = "NAME=VALUE")]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Shown {
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Listed {
    /// One alone: its name, namespace/name, number, an address of its own or a label; exit code 1 if there is none.
    #[arg(value_name = "WHICH")]
    pub which: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Flows {
    #[command(flatten)]
    pub filter: Filter,
    /// At most so many. With a filter the first 100,000 flows are looked at.
    #[arg(long, default_value_t = 1000)]
    pub limit: u32,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Trace {
    /// Stop after so many packets.
    #[arg(short = 'c', long, default_value_t = 10)]
    pub packets: u64,
    /// Stop after so many seconds (at most 3600).
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    #[command(flatten)]
    pub filter: WatchFilter,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
}

#[derive(Debug, Args)]
pub struct Capture {
    /// The file; `-` is standard output (`sluice capture -w - | tshark -r -`).
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Stop after so many packets.
    #[arg(short = 'c', long, default_value_t = 1000)]
    pub packets: u64,
    /// Stop after so many seconds (at most 3600).
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Packets as they come in, as they go out, or both.
    #[arg(long, value_enum, default_value_t)]
    pub side: Side,
    #[command(flatten)]
    pub filter: WatchFilter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    In,
    Out,
    #[default]
    Both,
}

/// Which packets to follow. All kinds that are given must hold; of one kind that is given several times, one.
#[derive(Debug, Default, Args)]
pub struct WatchFilter {
    /// Address, prefix, namespace/name, node, or service:namespace/name, either side.
    #[arg(long, value_name = "WHO")]
    pub ip: Vec<String>,
    /// The same, as source.
    #[arg(long, value_name = "WHO")]
    pub from: Vec<String>,
    /// The same, as destination.
    #[arg(long, value_name = "WHO")]
    pub to: Vec<String>,
    /// Port, either side.
    #[arg(long)]
    pub port: Vec<u16>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number.
    #[arg(long)]
    pub protocol: Vec<String>,
    /// Identity, either side: a number or reserved:NAME.
    #[arg(long)]
    pub identity: Vec<String>,
    /// FORWARDED, DROPPED, AUDIT, PASSED, ANSWERED, HELD, HANDED_OVER.
    #[arg(long)]
    pub verdict: Vec<String>,
    /// Reason of the drop: Cilium's name or number.
    #[arg(long, value_name = "REASON")]
    pub drop_reason: Vec<String>,
}

/// Which flows or packets. All that are given must hold.
#[derive(Debug, Default, Args)]
pub struct Filter {
    /// Address, prefix, namespace/name, node, or service:namespace/name, either side.
    #[arg(long)]
    pub ip: Option<String>,
    /// Port, either side.
    #[arg(long)]
    pub port: Option<u16>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number.
    #[arg(long)]
    pub protocol: Option<String>,
}

impl Filter {
    /// As a query string for the API.
    pub fn query(&self) -> String {
        let mut query = String::new();
        let fields = [
            ("ip", self.ip.clone()),
            ("port", self.port.map(|p| p.to_string())),
            ("protocol", self.protocol.clone()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(&value)));
            }
        }
        query
    }
}

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    pub what: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a JSON schema, for editors: of the configuration file, or of a kind of objects (CiliumNetworkPolicy …).
    Schema {
        /// Kind of objects.
        kind: Option<String>,
    },
    /// Check a configuration file and print it with all defaults filled in.
    Show { file: PathBuf },
    /// List the options of policy and services with their defaults.
    Options,
    /// Print what the dataplane daemon is told (`sluiced --settings`).
    Dataplane { file: PathBuf },
}
