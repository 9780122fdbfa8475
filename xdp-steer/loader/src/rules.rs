//! Steering rules as the maps hold them.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;

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

    /// A whole address: these have a map of their own.
    pub const fn is_address(&self) -> bool {
        self.prefix_len == 128
    }

    pub(crate) const fn key(&self) -> Key<[u32; 4]> {
        Key::new(self.prefix_len, self.address)
    }
}
