//! Steering rules as the maps hold them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use sluice_steer_abi::layout;

pub use sluice_steer_abi::layout::{FROM, OWN, PROBE_IDENTIFIER, TO, TUNNEL};

/// A prefix in the form of the maps: IPv4 as IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    pub prefix_len: u32,
    pub address: [u32; 4],
}

impl Rule {
    /// The prefix `ip/len`; host bits are cleared, as the trie wants them.
    pub fn new(ip: IpAddr, len: u8) -> Self {
        let (bits, prefix_len) = match ip {
            IpAddr::V4(ip) => (u128::from(ip.to_ipv6_mapped()), 96 + u32::from(len.min(32))),
            IpAddr::V6(ip) => (u128::from(ip), u32::from(len.min(128))),
        };
        let mask = if prefix_len == 0 { 0 } else { u128::MAX << (128 - prefix_len) };
        let octets = (bits & mask).to_be_bytes();
        let mut address = [0; 4];
        for (word, bytes) in address.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self { prefix_len, address }
    }

    /// A whole address: these have a map of their own, in blocks.
    pub const fn is_address(&self) -> bool {
        self.prefix_len == 128
    }

    pub(crate) const fn key(&self) -> Key<[u32; 4]> {
        Key::new(self.prefix_len, self.address)
    }
}

/// What the map of addresses holds.
pub type Blocks = BTreeMap<[u32; 4], layout::Block>;

/// The whole addresses among the rules.
pub fn blocks(rules: &BTreeMap<Rule, u32>) -> Blocks {
    let mut blocks = Blocks::new();
    for (rule, flags) in rules.iter().filter(|(rule, _)| rule.is_address()) {
        let block = blocks.entry(layout::block(rule.address)).or_insert([0; _]);
        let (byte, shift) = layout::place(rule.address);
        block[byte] |= (flags.to_le_bytes()[0] & 0xf) << shift;
    }
    blocks
}

/// The rules that a block stands for.
pub fn of_block(key: [u32; 4], block: &layout::Block) -> impl Iterator<Item = (Rule, u32)> {
    (0..256).filter_map(move |last: u32| {
        let address = [key[0], key[1], key[2], key[3] | last.to_be()];
        let (byte, shift) = layout::place(address);
        let flags = u32::from(block[byte] >> shift & 0xf);
        (flags != 0).then_some((Rule { prefix_len: 128, address }, flags))
    })
}
