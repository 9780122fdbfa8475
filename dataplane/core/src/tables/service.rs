//! Virtual address and port → service → one of its backends.

mod balanced;
mod packet_hash;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::net::Ipv6Addr;

use hashbrown::HashMap;

use super::ipcache::Row as Identity;
use super::lpm::{Hashing, hashing};
use super::maglev;
use super::prefix_set::PrefixSet;
use super::record::{Forwarding, Frontend, FrontendKey, Service, ServiceId};
use crate::emit::mapped;
use crate::flow_key::FlowKey;
use crate::verdict::DropReason;

pub use balanced::{Balanced, reduce};

/// (address, port, protocol) packed for hashing.
type Packed = (u128, u32);

#[inline]
fn packed(ip: Ipv6Addr, port: u16, proto: u8) -> Packed {
    (ip.to_bits(), u32::from(port) << 8 | u32::from(proto))
}

/// What a packet to a known address meets.
#[derive(Clone, Copy, Debug)]
pub enum Match<'a> {
    /// Not an address of any service.
    None,
    Service(ServiceId, &'a Balanced),
    Refused(DropReason),
}

/// A frontend with its source ranges made ready for search.
#[derive(Clone, Debug)]
struct Entrance {
    record: Frontend,
    ranges: PrefixSet,
}

/// All services of one generation.
#[derive(Clone, Debug)]
pub struct Services {
    frontends: HashMap<Packed, Entrance, Hashing>,
    /// How many frontends each address has.
    addresses: HashMap<u128, u32, Hashing>,
    /// Shared by the copies of the tables: a Maglev row is built once.
    services: HashMap<u32, Arc<Balanced>, Hashing>,
    /// Those whose row is still to be built.
    bare: BTreeSet<ServiceId>,
    /// How many services have a backend here.
    backends: HashMap<Packed, u32, Hashing>,
    seeds: [u32; 3],
}

impl Default for Services {
    fn default() -> Self {
        Self {
            frontends: HashMap::with_hasher(hashing()),
            addresses: HashMap::with_hasher(hashing()),
            services: HashMap::with_hasher(hashing()),
            bare: BTreeSet::new(),
            backends: HashMap::with_hasher(hashing()),
            seeds: maglev::DEFAULT_SEEDS,
        }
    }
}

impl Services {
    /// What the destination of this packet stands for, as its source may use it.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, source: &Identity) -> Match<'_> {
        let Some(entrance) = self.frontends.get(&packed(key.dst, key.dport, key.proto)) else {
            // An unknown port of a known address: nothing leaks past the services to whoever has the address.
            let known = self.frontends.contains_key(&packed(key.dst, 0, 0));
            return if known { Match::Refused(DropReason::NoBackend) } else { Match::None };
        };
        if let Some(reason) = refused(entrance, key, source) {
            return Match::Refused(reason);
        }
        let scoped = entrance.record.inside.filter(|_| is_inside(source));
        let Some(id) = scoped.or(entrance.record.service) else {
            return Match::Refused(DropReason::NoBackend);
        };
        match self.services.get(&id.0) {
            Some(service) => Match::Service(id, service),
            None => Match::Refused(DropReason::NoBackend),
        }
    }

    pub fn is_frontend_address(&self, ip: Ipv6Addr) -> bool {
        self.addresses.contains_key(&ip.to_bits())
    }

    pub fn is_frontend(&self, key: &FlowKey) -> bool {
        self.frontends.contains_key(&packed(key.dst, key.dport, key.proto))
    }

    pub fn is_backend(&self, ip: Ipv6Addr, port: u16, proto: u8) -> bool {
        self.backends.contains_key(&packed(ip, port, proto))
    }

    /// What the row of this service is to be built from, if it lacks one; it is put in by [`Self::put_row`].
    pub fn bare(&self, id: ServiceId) -> Option<Bare> {
        let service = self.services.get(&id.0).filter(|service| !service.is_ready())?;
        Some(Bare { id, service: Arc::clone(service), seed: self.seeds[0] })
    }

    /// Services without a row, from this one on.
    pub fn bare_from(&self, id: ServiceId) -> impl Iterator<Item = ServiceId> + '_ {
        self.bare.range(id..).copied()
    }

    /// How many rows are to be built.
    pub fn rows_pending(&self) -> usize {
        self.bare.len()
    }

    /// Put in a row that was built beside the path, unless what it was built from is no longer what counts.
    pub fn put_row(&mut self, row: &Row) {
        let seed = self.seeds[0];
        if let Some(service) = self.services.get_mut(&row.id.0)
            && row.seed == seed
            && service.record == row.built.record
        {
            *service = Arc::clone(&row.built);
            self.bare.remove(&row.id);
        }
    }

    pub fn service(&self, id: ServiceId) -> Option<&Balanced> {
        self.services.get(&id.0).map(Arc::as_ref)
    }

    pub fn frontend(&self, key: FrontendKey) -> Option<&Frontend> {
        self.frontends.get(&packed(mapped(key.ip), key.port, key.proto)).map(|entrance| &entrance.record)
    }

    /// Cilium's hash of a packet for choosing a backend. With affinity the source port is left out.
    #[inline]
    pub fn hash(&self, key: &FlowKey, affinity: bool) -> u32 {
        packet_hash::packet_hash(key, affinity, [self.seeds[1], self.seeds[2]])
    }

    /// Another seed is another order of slots: every row is built anew.
    pub(super) fn set_seeds(&mut self, seeds: [u32; 3], rows: Rows<'_>) {
        let same_rows = self.seeds[0] == seeds[0];
        self.seeds = seeds;
        if same_rows {
            return;
        }
        for (id, service) in &mut self.services {
            *service = rows.of(&service.record, *id, seeds[0]);
        }
        let bare = self.services.iter().filter(|(_, service)| !service.is_ready());
        self.bare = bare.map(|(id, _)| ServiceId(*id)).collect();
    }

    pub(super) fn set_frontend(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        let ip = mapped(key.ip);
        let (slot, address) = (packed(ip, key.port, key.proto), ip.to_bits());
        match frontend {
            Some(record) => {
                let ranges = PrefixSet::new(&record.source_ranges);
                let entrance = Entrance { record: record.clone(), ranges };
                if self.frontends.insert(slot, entrance).is_none() {
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

    pub(super) fn set_service(&mut self, id: ServiceId, record: Option<&Service>, rows: Rows<'_>) {
        let old = self.services.remove(&id.0);
        // What both have is taken twice for a moment, so that it never seems to be gone.
        for backend in record.iter().flat_map(|record| &record.backends) {
            let proto = record.map_or(0, |record| record.proto);
            *self.backends.entry(packed(mapped(backend.ip), backend.port, proto)).or_insert(0) += 1;
        }
        for backend in old.iter().flat_map(|old| &old.record.backends) {
            let proto = old.as_ref().map_or(0, |old| old.record.proto);
            release(&mut self.backends, packed(mapped(backend.ip), backend.port, proto));
        }
        if let Some(record) = record {
            let same = old.filter(|old| old.record == *record);
            let service = same.unwrap_or_else(|| rows.of(record, id.0, self.seeds[0]));
            if service.is_ready() {
                self.bare.remove(&id);
            } else {
                self.bare.insert(id);
            }
            self.services.insert(id.0, service);
        } else {
            self.bare.remove(&id);
        }
    }

    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|service| &service.record)
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Does any service rewrite sources?
    pub fn any_snat(&self) -> bool {
        self.services.values().any(|service| service.record.forwarding == Forwarding::Snat)
    }
}

/// A service without its row.
#[derive(Clone, Debug)]
pub struct Bare {
    id: ServiceId,
    service: Arc<Balanced>,
    seed: u32,
}

impl Bare {
    /// This takes a fraction of a millisecond.
    pub fn build(&self) -> Row {
        let built = Arc::new(Balanced::new(&self.service.record, self.seed));
        Row { id: self.id, built, seed: self.seed }
    }
}

/// A row that was built beside the path.
#[derive(Clone, Debug)]
pub struct Row {
    id: ServiceId,
    built: Arc<Balanced>,
    seed: u32,
}

/// Where the rows of services that change come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rows<'a> {
    /// They are built at once.
    Now,
    /// They are built beside the path ([`Services::bare`]).
    Later,
    /// The twin's, if it has the same service and builds rows in the same way; else they are built.
    Of(&'a Services),
}

impl Rows<'_> {
    fn of(self, record: &Service, id: u32, seed: u32) -> Arc<Balanced> {
        let theirs = match self {
            Self::Later => return Arc::new(Balanced::later(record)),
            Self::Now => None,
            Self::Of(twin) if twin.seeds[0] == seed => twin.services.get(&id),
            Self::Of(_) => None,
        };
        match theirs.filter(|theirs| theirs.record == *record) {
            Some(theirs) => Arc::clone(theirs),
            None => Arc::new(Balanced::new(record, seed)),
        }
    }
}

/// One user less.
pub(super) fn release<K: core::hash::Hash + Eq>(counts: &mut HashMap<K, u32, Hashing>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Is this client part of the cluster?
#[inline]
const fn is_inside(source: &Identity) -> bool {
    source.number != 0 && !source.world
}

/// Access rules of a frontend; they bind clients outside the cluster.
#[inline]
fn refused(entrance: &Entrance, key: &FlowKey, source: &Identity) -> Option<DropReason> {
    let frontend = &entrance.record;
    if !frontend.cluster_only && frontend.source_ranges.is_empty() {
        return None;
    }
    if is_inside(source) {
        return None;
    }
    if frontend.cluster_only {
        return Some(DropReason::IsClusterIp);
    }
    let listed = entrance.ranges.contains(key.src, key.v4);
    (listed == frontend.source_ranges_deny).then_some(DropReason::SourceRange)
}
