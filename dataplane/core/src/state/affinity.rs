//! Which backend a client had last, for services whose clients come back to the same one.
//!
//! A bounded memory: four places a bucket, and where all are taken the one that was used longest ago is given up. Whoever
//! is forgotten gets the backend that his address alone hashes to, which is the same one unless backends have changed.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv6Addr;

use crate::flow_key::FlowKey;
use crate::intrinsics::{Seed, hash};
use crate::tables::record::{BackendId, ServiceId};

const WAYS: usize = 4;
/// As many as Cilium has.
const MOST: u32 = 65_536;

/// A client, a service, and the backend between them; `used` 0 is a free place.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    client: u128,
    service: u32,
    backend: u32,
    /// Second of last use, and one.
    used: u32,
}

/// One worker's memory.
#[derive(Debug)]
pub struct Affinity {
    seed: Seed,
    buckets: Vec<[Entry; WAYS]>,
}

impl Affinity {
    /// With room in proportion to that for flows.
    pub fn new(max_flows: u32, seed: Seed) -> Self {
        let entries = (max_flows / 4).clamp(64, MOST) as usize;
        Self { seed, buckets: vec![[Entry::default(); WAYS]; entries / WAYS] }
    }

    /// The backend that this client had from this service less than `timeout` seconds ago.
    pub fn recall(&self, client: Ipv6Addr, service: ServiceId, timeout: u32, now: u32) -> Option<BackendId> {
        let bucket = &self.buckets[self.place(client, service)];
        let known = bucket.iter().find(|entry| entry.is_of(client, service))?;
        (now.saturating_sub(known.used - 1) <= timeout).then_some(BackendId(known.backend))
    }

    /// Remember it; true if another had to be given up.
    pub fn remember(&mut self, client: Ipv6Addr, service: ServiceId, backend: BackendId, now: u32) -> bool {
        let place = self.place(client, service);
        let bucket = &mut self.buckets[place];
        let known = bucket.iter().position(|entry| entry.is_of(client, service));
        let oldest = (0..WAYS).min_by_key(|way| bucket[*way].used).unwrap_or(0);
        let way = known.unwrap_or(oldest);
        let gives_up = known.is_none() && bucket[way].used != 0;
        bucket[way] = Entry {
            client: client.to_bits(),
            service: service.0,
            backend: backend.0,
            used: now.saturating_add(1),
        };
        gives_up
    }

    fn place(&self, client: Ipv6Addr, service: ServiceId) -> usize {
        let [a, b, c, d] = service.0.to_be_bytes();
        let (sport, dport) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let key = FlowKey { src: client, dst: client, sport, dport, proto: 0, v4: false };
        let [word, _] = hash(&key, &self.seed);
        usize::try_from(word % self.buckets.len() as u64).unwrap_or(0)
    }
}

impl Entry {
    fn is_of(&self, client: Ipv6Addr, service: ServiceId) -> bool {
        self.used != 0 && self.client == client.to_bits() && self.service == service.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_given_up_first() {
        let mut affinity = Affinity::new(0, Seed([1, 2, 3, 4]));
        let client = |n: u32| Ipv6Addr::from(u128::from(n));
        let given_up =
            (0..1000).filter(|n| affinity.remember(client(*n), ServiceId(1), BackendId(*n), *n)).count();
        assert_eq!(given_up, 1000 - 64);
        assert_eq!(affinity.recall(client(999), ServiceId(1), 10, 1000), Some(BackendId(999)));
        assert_eq!(affinity.recall(client(999), ServiceId(1), 10, 1010), None, "too long ago");
        assert_eq!(affinity.recall(client(999), ServiceId(2), 10, 1000), None, "another service");
        assert_eq!(affinity.recall(client(0), ServiceId(1), 9999, 1000), None, "forgotten");
        assert!(!affinity.remember(client(999), ServiceId(1), BackendId(5), 2000), "its own place");
    }
}
