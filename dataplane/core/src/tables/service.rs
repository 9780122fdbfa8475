//! Virtual address and port → service → one of its backends.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use hashbrown::HashMap;

use super::ipcache::Row;
use super::lpm::{Hashing, hashing};
use super::maglev;
use super::record::{
    Algorithm, Backend, BackendId, BackendState, Forwarding, Frontend, FrontendKey, Prefix, Service,
    ServiceId,
};
use crate::emit::mapped;
use crate::flow_key::FlowKey;
use crate::verdict::DropReason;

/// (address, port, protocol) of a frontend or (address, port, 0) of a backend, packed for hashing.
type Packed = (u128, u32);

fn packed(ip: Ipv6Addr, port: u16, proto: u8) -> Packed {
    (u128::from(ip), u32::from(port) << 8 | u32::from(proto))
}

/// A service as the path reads it.
#[derive(Clone, Debug)]
pub struct Balanced {
    pub record: Service,
    /// Maglev's slots: indices into the record's backends. Shared by the copies of the tables.
    row: Arc<[u16]>,
    /// Backends that may get new flows, as indices.
    usable: Vec<u16>,
}

impl Balanced {
    fn new(record: &Service, seed: u32, twin: Option<&Self>) -> Self {
        if let Some(twin) = twin.filter(|twin| twin.record == *record) {
            return twin.clone();
        }
        let usable = usable(&record.backends);
        let row = match record.algorithm {
            Algorithm::Maglev(size) => maglev_row(record, &usable, size, seed),
            Algorithm::Random => Arc::default(),
        };
        Self { record: record.clone(), row, usable }
    }

    /// The backend for a new flow with this hash.
    #[inline]
    pub fn pick(&self, hash: u32) -> Option<&Backend> {
        let index = if self.row.is_empty() {
            *self.usable.get(reduce(hash, self.usable.len()))?
        } else {
            self.row[hash as usize % self.row.len()]
        };
        self.record.backends.get(usize::from(index))
    }

    /// The backend with this id, if it is still there for flows that it already has.
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.record.backends.iter().find(|backend| backend.id == id)
    }

    /// Maglev's row as backends, a slot each.
    pub fn row(&self) -> impl Iterator<Item = &Backend> {
        self.row.iter().filter_map(|index| self.record.backends.get(usize::from(*index)))
    }
}

/// Spread a hash over `count` choices.
pub fn reduce(hash: u32, count: usize) -> usize {
    // Multiplied first, so that choices do not hang on the low bits alone.
    let mixed = u64::from(hash.wrapping_mul(0x9e37_79b1));
    ((mixed * count as u64) >> 32) as usize
}

/// Active backends with a weight; when there are none, those that still serve while terminating.
#[expect(
    clippy::cast_possible_truncation,
    reason = "backends are counted in u16: control sends at most 65535"
)]
fn usable(backends: &[Backend]) -> Vec<u16> {
    let those = |state: BackendState| -> Vec<u16> {
        let fits = |b: &Backend| b.state == state && b.weight > 0;
        backends.iter().enumerate().filter(|(_, b)| fits(b)).map(|(index, _)| index as u16).collect()
    };
    let active = those(BackendState::Active);
    if active.is_empty() { those(BackendState::Terminating) } else { active }
}

fn maglev_row(record: &Service, usable: &[u16], size: u32, seed: u32) -> Arc<[u16]> {
    let mut named: Vec<(String, u16, u16)> = usable
        .iter()
        .map(|index| {
            let backend = &record.backends[usize::from(*index)];
            (maglev::backend_name(backend.ip, backend.port, record.proto), backend.weight, *index)
        })
        .collect();
    named.sort();
    let backends: Vec<(String, u16)> =
        named.iter().map(|(name, weight, _)| (name.clone(), *weight)).collect();
    maglev::build(&backends, size, seed).iter().map(|slot| named[usize::from(*slot)].2).collect()
}

/// What a packet to a known address meets.
#[derive(Clone, Copy, Debug)]
pub enum Match<'a> {
    /// Not an address of any service.
    None,
    Service(ServiceId, &'a Balanced),
    Refused(DropReason),
}

/// All services of one generation.
#[derive(Clone, Debug)]
pub struct Services {
    frontends: HashMap<Packed, Frontend, Hashing>,
    /// How many frontends each address has.
    addresses: HashMap<u128, u32, Hashing>,
    services: HashMap<u32, Balanced, Hashing>,
    /// How many services have a backend here, whatever the protocol.
    backends: HashMap<Packed, u32, Hashing>,
    seeds: [u32; 3],
}

impl Default for Services {
    fn default() -> Self {
        Self {
            frontends: HashMap::with_hasher(hashing()),
            addresses: HashMap::with_hasher(hashing()),
            services: HashMap::with_hasher(hashing()),
            backends: HashMap::with_hasher(hashing()),
            seeds: maglev::DEFAULT_SEEDS,
        }
    }
}

impl Services {
    /// What the destination of this packet stands for, as its source may use it.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, source: &Row) -> Match<'_> {
        if !self.addresses.contains_key(&u128::from(key.dst)) {
            return Match::None;
        }
        let Some(frontend) = self.frontends.get(&packed(key.dst, key.dport, key.proto)) else {
            // An unknown port of a known address: nothing leaks past the services to whoever has the address.
            let known = self.frontends.contains_key(&packed(key.dst, 0, 0));
            return if known { Match::Refused(DropReason::NoBackend) } else { Match::None };
        };
        if let Some(reason) = refused(frontend, key, source) {
            return Match::Refused(reason);
        }
        let Some(id) = frontend.service else { return Match::Refused(DropReason::NoBackend) };
        match self.services.get(&id.0) {
            Some(service) => Match::Service(id, service),
            None => Match::Refused(DropReason::NoBackend),
        }
    }

    pub fn is_frontend_address(&self, ip: Ipv6Addr) -> bool {
        self.addresses.contains_key(&u128::from(ip))
    }

    pub fn is_frontend(&self, key: &FlowKey) -> bool {
        self.frontends.contains_key(&packed(key.dst, key.dport, key.proto))
    }

    pub fn is_backend(&self, ip: Ipv6Addr, port: u16) -> bool {
        self.backends.contains_key(&packed(ip, port, 0))
    }

    pub fn service(&self, id: ServiceId) -> Option<&Balanced> {
        self.services.get(&id.0)
    }

    pub fn frontend(&self, key: FrontendKey) -> Option<&Frontend> {
        self.frontends.get(&packed(mapped(key.ip), key.port, key.proto))
    }

    /// Cilium's hash of a packet for choosing a backend. With affinity the source port is left out.
    #[inline]
    pub fn hash(&self, key: &FlowKey, affinity: bool) -> u32 {
        let sport = if affinity { 0 } else { key.sport };
        // Cilium's programs read ports and addresses as they lie in the packet, on little-endian machines.
        let ports = u32::from(key.dport.swap_bytes()) << 16 | u32::from(sport.swap_bytes());
        let octets = key.src.octets();
        let word =
            |at: usize| u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        if key.v4 {
            jhash::three_words([word(12), ports, u32::from(key.proto)], self.seeds[1])
        } else {
            jhash::six_words(
                [word(0), word(4), word(8), word(12), ports, u32::from(key.proto)],
                self.seeds[2],
            )
        }
    }

    pub(super) fn set_seeds(&mut self, seeds: [u32; 3]) {
        self.seeds = seeds;
    }

    pub(super) fn set_frontend(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        let ip = mapped(key.ip);
        let (slot, address) = (packed(ip, key.port, key.proto), u128::from(ip));
        match frontend {
            Some(frontend) => {
                if self.frontends.insert(slot, frontend.clone()).is_none() {
                    *self.addresses.entry(address).or_insert(0) += 1;
                }
            }
            None => {
                if self.frontends.remove(&slot).is_some() {
                    release(&mut self.addresses, address);
                }
            }
        }
    }

    pub(super) fn set_service(&mut self, id: ServiceId, record: Option<&Service>, twin: Option<&Self>) {
        if let Some(old) = self.services.remove(&id.0) {
            for backend in &old.record.backends {
                release(&mut self.backends, packed(mapped(backend.ip), backend.port, 0));
            }
        }
        let Some(record) = record else { return };
        for backend in &record.backends {
            *self.backends.entry(packed(mapped(backend.ip), backend.port, 0)).or_insert(0) += 1;
        }
        let built = Balanced::new(record, self.seeds[0], twin.and_then(|twin| twin.service(id)));
        self.services.insert(id.0, built);
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Does any service rewrite sources?
    pub fn any_snat(&self) -> bool {
        self.services.values().any(|service| service.record.forwarding == Forwarding::Snat)
    }
}

/// One user less.
fn release<K: core::hash::Hash + Eq>(counts: &mut HashMap<K, u32, Hashing>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Access rules of a frontend; they bind clients outside the cluster.
fn refused(frontend: &Frontend, key: &FlowKey, source: &Row) -> Option<DropReason> {
    let inside = source.number != 0 && !source.world;
    if inside {
        return None;
    }
    if frontend.cluster_only {
        return Some(DropReason::IsClusterIp);
    }
    if frontend.source_ranges.is_empty() {
        return None;
    }
    let listed = frontend.source_ranges.iter().any(|range| contains(range, key.source()));
    (listed == frontend.source_ranges_deny).then_some(DropReason::SourceRange)
}

/// Does the prefix hold this address?
pub fn contains(prefix: &Prefix, ip: IpAddr) -> bool {
    match (prefix.addr, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => {
            let shift = 32 - u32::from(prefix.len.min(32));
            (u64::from(u32::from(net) ^ u32::from(ip)) >> shift) == 0
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            let differ = u128::from(net) ^ u128::from(ip);
            prefix.len == 0 || differ >> (128 - u32::from(prefix.len.min(128))) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Bob Jenkins' lookup3 over words, as the Linux kernel has it.
mod jhash {
    const START: u32 = 0xdead_beef;

    fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
        let step = |x: &mut u32, y: u32, bits: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
        step(&mut c, b, 14);
        step(&mut a, c, 11);
        step(&mut b, a, 25);
        step(&mut c, b, 16);
        step(&mut a, c, 4);
        step(&mut b, a, 14);
        step(&mut c, b, 24);
        c
    }

    pub(super) fn three_words(words: [u32; 3], seed: u32) -> u32 {
        let start = seed.wrapping_add(START).wrapping_add(3 << 2);
        last(words[0].wrapping_add(start), words[1].wrapping_add(start), words[2].wrapping_add(start))
    }

    pub(super) fn six_words(words: [u32; 6], seed: u32) -> u32 {
        let start = START.wrapping_add(6 << 2).wrapping_add(seed);
        let (mut a, mut b, mut c) =
            (words[0].wrapping_add(start), words[1].wrapping_add(start), words[2].wrapping_add(start));
        let step = |x: &mut u32, y: u32, bits: u32| *x = x.wrapping_sub(y) ^ y.rotate_left(bits);
        step(&mut a, c, 4);
        c = c.wrapping_add(b);
        step(&mut b, a, 6);
        a = a.wrapping_add(c);
        step(&mut c, b, 8);
        b = b.wrapping_add(a);
        step(&mut a, c, 16);
        c = c.wrapping_add(b);
        step(&mut b, a, 19);
        a = a.wrapping_add(c);
        step(&mut c, b, 4);
        b = b.wrapping_add(a);
        last(a.wrapping_add(words[3]), b.wrapping_add(words[4]), c.wrapping_add(words[5]))
    }
}
