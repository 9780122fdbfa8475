//! Keys, values and numbers of the maps. Addresses are four words in network order, as they lie in the packet; IPv4 is
//! `::ffff:a.b.c.d`.

/// What belongs to whom, whole addresses: a hash of [`block`] → flags of its 256 addresses. It comes first: in a trie each of ten
/// thousand services would cost a walk of a dozen nodes. Addresses of services lie side by side, and in blocks those of ten
/// thousand are a few kilobytes that stay in the first cache; an entry each would be two lines from memory a packet.
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

/// Four bits of flags for each of a block's 256 addresses, the even one in the lower half of a byte; 0: nothing is said of it.
pub type Block = [u8; 128];

/// The block of an address: its first 120 bits.
#[inline(always)]
pub const fn block([a, b, c, d]: [u32; 4]) -> [u32; 4] {
    [a, b, c, d & 0xffff_ff00_u32.to_be()]
}

/// Where an address has its flags in its block: byte, and shift.
#[inline(always)]
pub const fn place([_, _, _, d]: [u32; 4]) -> (usize, u32) {
    let last = u32::from_be(d) & 0xff;
    ((last >> 1) as usize, (last & 1) * 4)
}

/// Key of the trie.
#[allow(missing_debug_implementations, reason = "compiled into the XDP program, which prints nothing")]
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RuleKey {
    pub prefix_len: u32,
    pub address: [u32; 4],
}

const _: () = assert!(size_of::<RuleKey>() == 20);
const _: () = assert!((TO | FROM | OWN | TUNNEL) >> 4 == 0);

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
