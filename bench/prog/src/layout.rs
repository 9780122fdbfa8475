//! What the traffic programs and the rig tell each other: an order in words, counters, and a mark in each payload.

/// The order: one array of [`ORDER_WORDS`] words, in this machine's byte order unless said otherwise.
pub const ORDER: &str = "ORDER";
/// One word: no more packets once it is not 0. Not a part of the order: that is written word by word, and a packet made
/// meanwhile would be half of an order and none.
pub const HALT: &str = "HALT";
/// Counters of both programs, a word each, per CPU.
pub const COUNTS: &str = "COUNTS";
/// Latencies seen by the sink, in buckets; see [`bucket`].
pub const LATENCY: &str = "LATENCY";

pub const GENERATE: &str = "sluice_generate";
pub const ABSORB: &str = "sluice_absorb";
pub const PASS: &str = "sluice_pass";

/// Longest header that is written: Ethernet, IPv6, UDP, and 12 bytes of mark.
pub const HEADER: usize = 80;
/// Sizes of frames that follow each other.
pub const SIZES: usize = 12;

// The order, word by word.
/// Interface to send by.
pub const OUT: usize = 0;
/// Flows that come round; 0: every packet is a new one.
pub const FLOWS: usize = 1;
/// Number of the first flow.
pub const FIRST: usize = 2;
/// Source addresses; further flows differ by source port.
pub const ADDRESSES: usize = 3;
/// Destination addresses, and how far each is from the one before.
pub const TARGETS: usize = 4;
pub const APART: usize = 15;
/// Nanoseconds a packet, in 1/65536; 0: as fast as it goes.
pub const INTERVAL: usize = 5;
/// Nanoseconds from the first packet on in which packets are sent.
pub const LASTS: usize = 6;
/// Packets to send at most.
pub const BUDGET: usize = 7;
/// First source and destination address (their last 32 bits), and first source port.
pub const SOURCE: usize = 8;
pub const TARGET: usize = 9;
pub const PORT: usize = 10;
/// 4 or 6.
pub const FAMILY: usize = 11;
/// Bytes of each frame handed in, and how many of [`SIZES`] are used.
pub const LONGEST: usize = 12;
pub const SIZES_USED: usize = 13;
/// Sum over all 16-bit words of pseudo header and UDP header that no packet changes (IPv6).
pub const SUM: usize = 14;
pub const FIRST_SIZE: usize = 16;
pub const FIRST_HEADER: usize = FIRST_SIZE + SIZES;
pub const ORDER_WORDS: usize = FIRST_HEADER + HEADER / 8;

// Counters.
pub const SENT: u32 = 0;
pub const SENT_BYTES: u32 = 1;
/// Moment at which the next packet is due, in 1/65536 ns.
pub const DUE: u32 = 2;
/// Times that the program was asked for a packet.
pub const ASKED: u32 = 3;
pub const RECEIVED: u32 = 4;
pub const RECEIVED_BYTES: u32 = 5;
/// Packets that are not ours, left to the kernel.
pub const OTHERS: u32 = 6;
/// Moment of the monotonic clock at which the first packet was asked for.
pub const BEGAN: u32 = 7;
pub const COUNT_WORDS: u32 = 8;

/// First word of a payload of ours.
pub const MARK: u32 = 0x51_75_1c_e5;

/// Sixteen buckets for each power of two.
pub const BUCKETS: u32 = 64 * 16;

/// The bucket of a latency.
#[inline(always)]
pub const fn bucket(ns: u64) -> u32 {
    if ns < 16 {
        return ns as u32;
    }
    let mut power = 4;
    let mut rest = ns >> 5;
    let mut step = 32;
    // The place of the highest bit, without an instruction that BPF lacks.
    while step > 0 {
        if rest >> (step - 1) != 0 {
            power += step;
            rest >>= step;
        }
        step /= 2;
    }
    ((power - 3) << 4 | ((ns >> (power - 4)) & 15) as u32) & (BUCKETS - 1)
}
