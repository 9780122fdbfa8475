//! A source port for a flow whose source is translated: from this worker's slice of the range, free towards that
//! destination. The flow table itself knows what is in use: a port is taken if the reply it would cause has a flow.

use core::net::Ipv6Addr;

use super::conntrack::FlowTable;
use crate::flow_key::FlowKey;

/// Ports tried before giving up. At 90 % use of a slice towards one destination this finds a free one all but once in
/// eight hundred times.
const TRIES: u32 = 64;

/// Give the packet the source address `ip` and a port from the slice (first port, how many) that `fits`. `None`: none is
/// free.
#[expect(clippy::cast_possible_truncation, reason = "below the size of the slice, which fits 16 bits")]
pub fn source(
    flows: &FlowTable,
    key: &FlowKey,
    ip: Ipv6Addr,
    slice: (u16, u16),
    hash: u32,
    fits: impl Fn(&FlowKey) -> bool,
) -> Option<FlowKey> {
    let (first, count) = (u32::from(slice.0), u32::from(slice.1).max(1));
    // Start somewhere else for each flow, go on by a step that visits every port before it repeats.
    let start = hash % count;
    (0..TRIES.min(count)).map(|n| first + (start + n * step(count)) % count).find_map(|port| {
        let to = FlowKey { src: ip, sport: port as u16, ..*key };
        (fits(&to) && flows.find(&to.reverse()).is_none()).then_some(to)
    })
}

/// A prime that does not divide the count.
fn step(count: u32) -> u32 {
    [7919, 104_729, 1_299_709].into_iter().find(|prime| !count.is_multiple_of(*prime)).unwrap_or(1)
}
