//! Keys, values and numbers of the maps. Addresses are four words in network order, as they lie in the packet; IPv4 is
//! `::ffff:a.b.c.d`.

/// What belongs to whom, whole addresses: a hash of four words → flags. It comes first: in a trie each of ten thousand services
/// would cost a walk of a dozen nodes.
pub const ADDRESSES: &str = "ADDRESSES";
/// The same, prefixes: an LPM trie of [`RuleKey`] → flags.
pub const PREFIXES: &str = "PREFIXES";
/// Ports that are ours on the node's own addresses: a bit each, in words of 32.
pub const PORTS: &str = "PORTS";
/// Receive queue → AF_XDP socket.
pub const SOCKETS: &str = "SOCKETS";
/// [`Outcome`] → packets, per CPU.
pub const OUTCOMES: &str = "OUTCOMES";
/// One word: what to do with a steered packet that finds no socket ([`ON_FAILURE_DROP`] or [`ON_FAILURE_PASS`]).
pub const ON_FAILURE: &str = "ON_FAILURE";

/// The program, and the same for kernels that know no frames in several pieces.
pub const PROGRAMS: [&str; 2] = ["sluice_steer", "sluice_steer_whole"];

pub const MAX_RULES: u32 = 131_072;
pub const MAX_QUEUES: u32 = 64;
pub const PORT_WORDS: u32 = 2048;

/// Echo replies with this identifier are answers to our own probes, while the port of this number is ours.
pub const PROBE_IDENTIFIER: u16 = 29_000;

/// XDP's own numbers, which the kernel takes as the answer for a missing socket.
pub const ON_FAILURE_DROP: u32 = 1;
pub const ON_FAILURE_PASS: u32 = 2;

/// Packets to these addresses are ours.
pub const TO: u32 = 1;
/// Packets from these addresses are ours.
pub const FROM: u32 = 2;
/// The node's own address: only the ports in [`PORTS`] are ours, all else is the kernel's.
pub const OWN: u32 = 4;
/// With [`OWN`]: tunnels to this address (IP in IP, Geneve) are ours as well.
pub const TUNNEL: u32 = 8;

/// Key of the trie.
#[allow(missing_debug_implementations, reason = "compiled into the XDP program, which prints nothing")]
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RuleKey {
    pub prefix_len: u32,
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<RuleKey>() == 20);

/// What became of a packet.
#[allow(missing_debug_implementations, reason = "compiled into the XDP program, which prints nothing")]
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Outcome {
    /// Given to a socket.
    Steered = 0,
    /// Not ours: left to the kernel.
    Passed = 1,
    /// Ours, but no socket was there: dropped.
    FailedClosed = 2,
    /// Ours, but no socket was there: left to the kernel, as the operator chose.
    FailedOpen = 3,
}

pub const OUTCOME_COUNT: u32 = 4;
