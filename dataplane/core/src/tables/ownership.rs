//! Which worker owns a flow. It follows from the tables alone, for both directions and through every translation, so
//! that a packet that arrives on another worker's queue is handed to the one that knows its flow.

use core::net::Ipv6Addr;

use super::Tables;
use crate::flow_key::FlowKey;
use crate::verdict::WorkerId;

/// Whom to ask for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub first: WorkerId,
    /// Asked when the first has no such flow; it is then the owner.
    pub second: Option<WorkerId>,
}

impl Tables {
    /// The owner of the flow that this packet belongs to.
    ///
    /// Translated sources name their worker by the port. A client of a service is known by its own side, because that is
    /// what requests and replies share: requests go to a frontend, replies come from a backend. Where both sides are
    /// backends a packet may be such a reply or something between the two; the client's owner is asked first.
    pub fn owner(&self, key: &FlowKey) -> Owner {
        let workers = self.settings.workers;
        if workers <= 1 {
            return sole(WorkerId(0));
        }
        let ports = self.settings.snat_ports;
        if (ports.0..=ports.1).contains(&key.dport) && self.is_nat_address(key.dst) {
            return sole(slice_of(key.dport, ports, workers));
        }
        let client = |ip: Ipv6Addr, port: u16| pick(half(ip, port), workers);
        if self.services.is_frontend(key) {
            return sole(client(key.src, key.sport));
        }
        // A backend that answers directly, and yet by us.
        if self.services.is_frontend(&key.reverse()) {
            return sole(client(key.dst, key.dport));
        }
        // A sum, because it is the same from both sides and not zero for somebody who talks to himself.
        let both = half(key.src, key.sport).wrapping_add(half(key.dst, key.dport));
        let from = self.services.is_backend(key.src, key.sport, key.proto);
        let to = self.services.is_backend(key.dst, key.dport, key.proto);
        match (from, to) {
            (true, false) => sole(client(key.dst, key.dport)),
            (false, true) => sole(client(key.src, key.sport)),
            (true, true) => Owner { first: client(key.dst, key.dport), second: Some(pick(both, workers)) },
            (false, false) => self.by_guard(key).unwrap_or_else(|| sole(pick(both, workers))),
        }
    }
}

impl Tables {
    /// Is this one of the addresses that sources are replaced with?
    pub fn is_nat_address(&self, ip: Ipv6Addr) -> bool {
        self.egress.is_nat_address(ip) || self.departures.is_nat_address(ip)
    }

    /// The owner of a client's flow, known by the client alone.
    pub(crate) fn owner_of_client(&self, key: &FlowKey) -> Owner {
        sole(pick(half(key.src, key.sport), self.settings.workers.max(1)))
    }

    /// Where tunnels end, services are others' to know: what we guard is a server, and the other side its client.
    fn by_guard(&self, key: &FlowKey) -> Option<Owner> {
        if !self.tunnels.are_open() {
            return None;
        }
        let guards = |ip: Ipv6Addr| self.guarded.contains(ip, key.v4);
        match (guards(key.src), guards(key.dst)) {
            (true, false) => Some(self.owner_of_client(&key.reverse())),
            (false, true) => Some(self.owner_of_client(key)),
            (true, true) | (false, false) => None,
        }
    }
}

fn sole(worker: WorkerId) -> Owner {
    Owner { first: worker, second: None }
}

/// The slice of the port range that belongs to each worker: its first port and how many.
pub fn slice(worker: WorkerId, (first, last): (u16, u16), workers: u8) -> (u16, u16) {
    let size = slice_size((first, last), workers);
    let start = u32::from(first) + u32::from(worker.0) * size;
    (u16::try_from(start).unwrap_or(u16::MAX), u16::try_from(size).unwrap_or(u16::MAX))
}

fn slice_size((first, last): (u16, u16), workers: u8) -> u32 {
    ((u32::from(last) - u32::from(first) + 1) / u32::from(workers.max(1))).max(1)
}

fn slice_of(port: u16, range: (u16, u16), workers: u8) -> WorkerId {
    let index = u32::from(port - range.0) / slice_size(range, workers);
    WorkerId(u8::try_from(index.min(u32::from(workers) - 1)).unwrap_or(0))
}

/// One side of a flow, mixed.
#[expect(clippy::cast_possible_truncation, reason = "folds 128 bits into 64")]
fn half(ip: Ipv6Addr, port: u16) -> u64 {
    let ip = ip.to_bits();
    let product = u128::from(ip as u64 ^ 0x9e37_79b9_7f4a_7c15)
        * u128::from((ip >> 64) as u64 ^ u64::from(port) << 16 ^ 0xd6e8_feb8_6659_fd93);
    mix(product as u64 ^ (product >> 64) as u64)
}

/// Every bit of the result hangs on every bit of the argument.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ x >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "the result is below `workers`")]
fn pick(hash: u64, workers: u8) -> WorkerId {
    let mixed = mix(hash) >> 32;
    WorkerId(((mixed * u64::from(workers)) >> 32) as u8)
}
