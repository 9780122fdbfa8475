//! Virtual address and port → service → one of its backends.

mod balanced;
mod doors;
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
use doors::{Door, Doors, Seat, Seats};

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
    /// What the path asks, for all that is not rare.
    doors: Doors,
    frontends: HashMap<Packed, Entrance, Hashing>,
    /// Shared by the copies of the tables: a Maglev row is built once.
    seats: Seats,
    /// Those whose row is still to be built.
    bare: BTreeSet<ServiceId>,
    /// How many services have a backend here.
    backends: HashMap<Packed, u32, Hashing>,
    seeds: [u32; 3],
}

impl Default for Services {
    fn default() -> Self {
        Self {
            doors: Doors::default(),
            frontends: HashMap::with_hasher(hashing()),
            seats: Seats::default(),
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
        match self.doors.find(key.dst, key.dport, key.proto) {
            // An unknown port of a known address: nothing leaks past the services to whoever has the address.
            None if self.doors.find(key.dst, 0, 0).is_some() => Match::Refused(DropReason::NoBackend),
            None => Match::None,
            Some(Door::Open(seat)) => self.seated(seat),
            Some(Door::Kept) => self.ask(key, source),
        }
    }

    #[inline]
    fn seated(&self, seat: Seat) -> Match<'_> {
        match self.seats.get(seat) {
            Some((id, service)) => Match::Service(id, service),
            None => Match::Refused(DropReason::NoBackend),
        }
    }

    /// Not everybody may use it, or not everybody gets the same.
    fn ask(&self, key: &FlowKey, source: &Identity) -> Match<'_> {
        let Some(entrance) = self.frontends.get(&packed(key.dst, key.dport, key.proto)) else {
            return Match::None;
        };
        if let Some(reason) = refused(entrance, key, source) {
            return Match::Refused(reason);
        }
        let scoped = entrance.record.inside.filter(|_| is_inside(source));
        let id = scoped.or(entrance.record.service);
        let found = id.and_then(|id| Some((id, self.service(id)?)));
        found.map_or(Match::Refused(DropReason::NoBackend), |(id, service)| Match::Service(id, service))
    }

    /// Start fetching what [`Self::lookup`] of this key will read first.
    #[inline]
    pub fn prefetch(&self, key: &FlowKey) {
        self.doors.prefetch(key.dst, key.dport, key.proto);
    }

    pub fn is_frontend_address(&self, ip: Ipv6Addr) -> bool {
        self.doors.has_address(ip)
    }

    /// Start fetching what that will read first.
    #[inline]
    pub(crate) fn prefetch_address(&self, ip: Ipv6Addr) {
        self.doors.prefetch_address(ip);
    }

    pub fn is_frontend(&self, key: &FlowKey) -> bool {
        self.doors.find(key.dst, key.dport, key.proto).is_some()
    }

    pub fn is_backend(&self, ip: Ipv6Addr, port: u16, proto: u8) -> bool {
        self.backends.contains_key(&packed(ip, port, proto))
    }

    /// What the row of this service is to be built from, if it lacks one; it is put in by [`Self::put_row`].
    pub fn bare(&self, id: ServiceId) -> Option<Bare> {
        let service = self.seats.of(id).filter(|service| !service.is_ready())?;
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
        if let Some(service) = self.seats.of_mut(row.id)
            && row.seed == seed
            && service.record == row.built.record
        {
            *service = Arc::clone(&row.built);
            self.bare.remove(&row.id);
        }
    }

    pub fn service(&self, id: ServiceId) -> Option<&Balanced> {
        self.seats.of(id).map(Arc::as_ref)
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
        for (id, service) in self.seats.iter_mut() {
            *service = rows.of(&service.record, id, seeds[0]);
        }
        let bare = self.seats.iter().filter(|(_, service)| !service.is_ready());
        self.bare = bare.map(|(id, _)| id).collect();
    }

    pub(super) fn set_frontend(&mut self, key: FrontendKey, frontend: Option<&Frontend>) {
        let ip = mapped(key.ip);
        let slot = packed(ip, key.port, key.proto);
        // The new one comes before the old one goes, so that nothing both have seems to be gone.
        let door = frontend.map(|record| match record.service {
            Some(id) if is_open(record) => Door::Open(self.seats.take(id)),
            _ => Door::Kept,
        });
        match self.doors.set(ip, key.port, key.proto, door) {
            Some(Door::Open(seat)) => self.seats.release(seat),
            Some(Door::Kept) | None => {}
        }
        match frontend {
            Some(record) => {
                let ranges = PrefixSet::new(&record.source_ranges);
                self.frontends.insert(slot, Entrance { record: record.clone(), ranges });
            }
            None => drop(self.frontends.remove(&slot)),
        }
    }

    pub(super) fn set_service(&mut self, id: ServiceId, record: Option<&Service>, rows: Rows<'_>) {
        let old = self.seats.of(id).map(Arc::clone);
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
            let service = same.unwrap_or_else(|| rows.of(record, id, self.seeds[0]));
            if service.is_ready() {
                self.bare.remove(&id);
            } else {
                self.bare.insert(id);
            }
            self.seats.set(id, Some(service));
        } else {
            self.bare.remove(&id);
            self.seats.set(id, None);
        }
    }

    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Service> {
        self.seats.iter().map(|(_, service)| &service.record)
    }

    pub fn is_empty(&self) -> bool {
        self.seats.len() == 0
    }

    /// Does any service rewrite sources?
    pub fn any_snat(&self) -> bool {
        self.iter().any(|record| record.forwarding == Forwarding::Snat)
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
    fn of(self, record: &Service, id: ServiceId, seed: u32) -> Arc<Balanced> {
        let theirs = match self {
            Self::Later => return Arc::new(Balanced::later(record)),
            Self::Now => None,
            Self::Of(twin) if twin.seeds[0] == seed => twin.seats.of(id),
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

/// Does everybody who comes get the same?
const fn is_open(frontend: &Frontend) -> bool {
    !frontend.cluster_only && frontend.source_ranges.is_empty() && frontend.inside.is_none()
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
