//! A source port for a flow whose source is translated: from this worker's slice of the range, free towards that
//! destination. The flow table itself knows what is in use: a port is taken if the reply it would cause has a flow.

use core::net::Ipv6Addr;

use super::conntrack::FlowTable;
use crate::flow_key::FlowKey;
use crate::parse::SCTP;
use crate::time::Now;

/// Ports tried before giving up. With 93 % of a slice in use towards one destination all of them are taken once in 10^16
/// times, with 99 % once in two hundred.
const TRIES: u32 = 512;

/// For how long a destination without a free port is not looked at again: a search that fails costs some ten
/// microseconds, and nobody shall be able to ask for many of them.
const REST: u64 = Now::SECOND / 20;
const RESTING: usize = 64;

/// Give the packet the source address `ip` and a port from the slice (first port, how many) that `fits`. `None`: none is
/// free. SCTP keeps its port if it can: ends may have agreed on it.
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
    let own = (key.proto == SCTP && (first..first + count).contains(&u32::from(key.sport)))
        .then_some(u32::from(key.sport));
    let others = (0..TRIES.min(count)).map(|n| first + (start + n * step(count)) % count);
    own.into_iter().chain(others).find_map(|port| {
        let to = FlowKey { src: ip, sport: port as u16, ..*key };
        (fits(&to) && flows.find(&to.reverse()).is_none()).then_some(to)
    })
}

/// A prime that does not divide the count.
fn step(count: u32) -> u32 {
    [7919, 104_729, 1_299_709].into_iter().find(|prime| !count.is_multiple_of(*prime)).unwrap_or(1)
}

/// Destinations that lately had no free port.
#[derive(Debug)]
pub struct Exhausted {
    /// The destination's hash, and until when it rests.
    resting: [(u32, Now); RESTING],
}

impl Default for Exhausted {
    fn default() -> Self {
        Self { resting: [(0, Now(0)); RESTING] }
    }
}

impl Exhausted {
    pub fn note(&mut self, destination: u32, now: Now) {
        self.resting[destination as usize % RESTING] = (destination, Now(now.0 + REST));
    }

    pub fn is_resting(&self, destination: u32, now: Now) -> bool {
        let (known, until) = self.resting[destination as usize % RESTING];
        known == destination && now.0 < until.0
    }
}
