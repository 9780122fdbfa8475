//! Which worker owns a flow. It follows from the tables alone, for both directions and through every translation, so
//! that a packet that arrives on another worker's queue is handed to the one that knows its flow.

use super::{Tables, egress};
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
        let (first, last) = self.settings.snat_ports;
        if (first..=last).contains(&key.dport) && egress::is_nat_address(&self.settings, key.destination()) {
            return sole(slice_of(key.dport, (first, last), workers));
        }
        let client = |ip: core::net::Ipv6Addr, port: u16| pick(half(u128::from(ip), port), workers);
        if self.services.is_frontend(key) {
            return sole(client(key.src, key.sport));
        }
        let both = half(u128::from(key.src), key.sport) ^ half(u128::from(key.dst), key.dport);
        let from = self.services.is_backend(key.src, key.sport);
        let to = self.services.is_backend(key.dst, key.dport);
        match (from, to) {
            (true, false) => sole(client(key.dst, key.dport)),
            (false, true) => sole(client(key.src, key.sport)),
            (true, true) => Owner { first: client(key.dst, key.dport), second: Some(pick(both, workers)) },
            (false, false) => sole(pick(both, workers)),
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
fn half(ip: u128, port: u16) -> u64 {
    let folded = (ip as u64) ^ ((ip >> 64) as u64).rotate_left(29) ^ u64::from(port) << 48;
    let mixed = (folded ^ folded >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "the result is below `workers`")]
fn pick(hash: u64, workers: u8) -> WorkerId {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    WorkerId(((mixed * u64::from(workers)) >> 32) as u8)
}
