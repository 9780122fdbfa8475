//! Tunnels to backends that answer directly: where ours come from, and which of others' end here.

use core::net::{IpAddr, Ipv6Addr};

use super::prefix_set::PrefixSet;
use super::record::{Prefix, Settings};
use crate::emit::mapped;
use crate::flow_key::FlowKey;

#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// A prefix for each family, and the bits that flows may set.
    v4: Option<(u128, u32)>,
    v6: Option<(u128, u32)>,
    addresses: PrefixSet,
    peers: PrefixSet,
    open: bool,
}

impl Tunnels {
    pub(super) fn new(settings: &Settings) -> Self {
        let first = |v4| settings.tunnel_sources.iter().find(|prefix| prefix.addr.is_ipv4() == v4).map(base);
        let ends = &settings.tunnels;
        Self {
            v4: first(true),
            v6: first(false),
            addresses: PrefixSet::new(&ends.addresses),
            peers: PrefixSet::new(&ends.peers),
            open: !ends.addresses.is_empty() && !ends.peers.is_empty(),
        }
    }

    /// Do tunnels of others end here at all?
    #[inline]
    pub const fn are_open(&self) -> bool {
        self.open
    }

    /// Is this a tunnel that we open?
    pub fn end(&self, key: &FlowKey) -> bool {
        self.open && self.addresses.contains(key.dst, key.v4) && self.peers.contains(key.src, key.v4)
    }

    /// The source for a flow of this hash; `None`: the address of the port that it leaves by.
    #[inline]
    pub fn source(&self, v4: bool, hash: u32) -> Option<Ipv6Addr> {
        let (base, free) = if v4 { self.v4 } else { self.v6 }?;
        Some(Ipv6Addr::from_bits(base | u128::from(hash & free)))
    }
}

fn base(prefix: &Prefix) -> (u128, u32) {
    let most: u8 = if matches!(prefix.addr, IpAddr::V4(_)) { 32 } else { 128 };
    let bits = u32::from(most.saturating_sub(prefix.len)).min(32);
    (mapped(prefix.addr).to_bits(), u32::MAX.checked_shr(32 - bits).unwrap_or(0))
}
