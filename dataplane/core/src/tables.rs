//! One generation of everything that is looked up and never changed by a packet.
//!
//! A `Tables` is built by applying [`record::Change`]s; the publisher keeps two of them, changes the one that no worker
//! can see, and swaps (see `sluice-run`'s epoch). To a worker it is immutable.

pub mod record;

pub mod egress;
pub mod ipcache;
pub mod lpm;
pub mod maglev;
pub mod names;
pub mod nexthop;
mod open;
pub mod ownership;
pub mod policy;
pub mod prefix_set;
pub mod service;
pub mod tunnels;
mod uses;

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::IpAddr;

use hashbrown::HashSet;
use service::Rows;

use crate::intrinsics::Seed;
use record::{
    Algorithm, Backend, BackendId, Change, Pattern, PolicyClass, PortRange, Prefix, Route, Service, Settings,
};

/// Slots, classes, sets and the like are dense numbers given out by control; beyond this they are a mistake.
const MAX_DENSE: u32 = 1 << 22;

/// Rows of more slots than this together are not waited for: about a millisecond's work.
const SLOTS_AT_ONCE: u64 = 1 << 18;

/// All lookups of one generation.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Flows admitted under another number are judged again. Zero: nothing was published yet.
    pub generation: u32,
    pub settings: Settings,
    pub ipcache: ipcache::Ipcache,
    pub policies: policy::Policies,
    pub services: service::Services,
    pub egress: egress::Egress,
    pub tunnels: tunnels::Tunnels,
    pub departures: egress::Departures,
    /// What the gateway guards (of the settings, made ready for search).
    pub guarded: prefix_set::PrefixSet,
    pub routing: nexthop::Routing,
    pub names: names::Names,
    uses: uses::Uses,
}

/// Why a list of changes was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyError(pub String);

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ApplyError {}

impl Tables {
    /// Empty, with a key for the table of addresses: names that others choose lead to addresses that they choose.
    pub fn keyed(seed: Seed) -> Self {
        Self { ipcache: ipcache::Ipcache::keyed(seed), ..Self::default() }
    }

    /// Make these changes, all or none. Of several for one key the last counts; removing what is not there does nothing.
    /// `twin` is the other copy, already changed: what is dear to build (Maglev rows) is shared with it. The cost is in
    /// proportion to the changes.
    pub fn apply(&mut self, changes: &[Change], twin: Option<&Self>) -> Result<(), ApplyError> {
        self.apply_with(changes, twin.map_or(Rows::Now, |twin| Rows::Of(&twin.services)))
    }

    /// The same, but where many Maglev rows would have to be built, none is: they are built beside the path
    /// ([`service::Services::bare`]), and a flow that needs one waits for it ([`crate::verdict::Fate::AwaitRow`]).
    pub fn apply_soon(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        let rows = if self.slots_to_fill(changes) > SLOTS_AT_ONCE { Rows::Later } else { Rows::Now };
        self.apply_with(changes, rows)
    }

    fn apply_with(&mut self, changes: &[Change], rows: Rows<'_>) -> Result<(), ApplyError> {
        changes.iter().try_for_each(check).map_err(ApplyError)?;
        self.check_references(changes).map_err(ApplyError)?;
        self.check_room(changes).map_err(ApplyError)?;
        for change in changes {
            self.count_uses(change);
            self.make(change, rows);
        }
        if changes.iter().any(Change::touches_flows) {
            // Zero means "never published"; skip it when the count wraps.
            self.generation = self.generation.wrapping_add(1).max(1);
        }
        Ok(())
    }

    /// Slots of all rows that these changes ask for.
    fn slots_to_fill(&self, changes: &[Change]) -> u64 {
        let slots = |service: &Service| match service.algorithm {
            Algorithm::Maglev(size) => u64::from(size),
            Algorithm::Random => 0,
        };
        let of = |change: &Change| {
            if let Change::Service(_, Some(service)) = change {
                slots(service)
            } else if let Change::Settings(settings) = change
                && settings.hash_seed[0] != self.settings.hash_seed[0]
            {
                self.services.iter().map(slots).sum()
            } else {
                0
            }
        };
        changes.iter().map(of).sum()
    }

    fn make(&mut self, change: &Change, rows: Rows<'_>) {
        match change {
            Change::Identity(slot, identity) => self.ipcache.set_identity(*slot, identity.as_ref()),
            Change::Address(prefix, slot) | Change::Learned(prefix, slot) => {
                self.ipcache.set_address(*prefix, *slot)
            }
            Change::Pattern(id, pattern) => self.names.set_pattern(*id, pattern.as_ref()),
            Change::DnsRules(id, rules) => self.names.set_rules(*id, rules.as_deref()),
            // Only who learns names looks at it.
            Change::Named(..) => {}
            Change::Class(id, class) => self.policies.set(*id, class.as_ref()),
            Change::Service(id, service) => self.services.set_service(*id, service.as_ref(), rows),
            Change::Frontend(key, frontend) => self.services.set_frontend(*key, frontend.as_ref()),
            // For who announces addresses and who asks backends, beside the path.
            Change::Exposed(..) | Change::Probe(..) => {}
            Change::Egress(ip, ways) => self.departures.set(*ip, ways.as_deref()),
            Change::Settings(settings) => {
                self.services.set_seeds(settings.hash_seed, rows);
                self.egress = egress::Egress::new(settings);
                self.tunnels = tunnels::Tunnels::new(settings);
                self.guarded = prefix_set::PrefixSet::new(&settings.guarded);
                self.settings = settings.clone();
            }
            Change::Port(id, port) => {
                self.routing.set_port(*id, port.as_ref());
                self.departures.set_port(*id, port.as_ref());
            }
            Change::NextHop(id, hop) => self.routing.set_hop(*id, *hop),
            Change::Route(prefix, route) => self.routing.set_route(*prefix, route.as_ref()),
        }
    }

    /// Tables that are numbered in fewer bits than their keys have.
    fn check_room(&self, changes: &[Change]) -> Result<(), String> {
        let several =
            |change: &&Change| matches!(change, Change::Route(_, Some(Route::Via(ways))) if ways.len() > 1);
        if self.routing.several() + changes.iter().filter(several).count() > nexthop::MAX_SEVERAL {
            return Err(format!("more than {} routes with several ways", nexthop::MAX_SEVERAL));
        }
        Ok(())
    }
}

/// Can this be made at all? Everything that `make` could stumble over is looked at here.
fn check(change: &Change) -> Result<(), String> {
    match change {
        Change::Identity(slot, identity) => {
            dense("identity slot", slot.0)?;
            if slot.0 == 0 {
                return Err("identity slot 0 stands for the unknown and cannot be set".into());
            }
            identity.iter().flat_map(|i| &i.peer_sets).try_for_each(|set| dense("peer set", set.0))
        }
        Change::Address(prefix, _) | Change::Learned(prefix, _) | Change::Route(prefix, _) => {
            check_prefix(prefix)
        }
        Change::Pattern(id, pattern) => {
            dense("pattern", id.0)?;
            pattern.as_ref().map_or(Ok(()), check_pattern)
        }
        Change::DnsRules(id, _) => dense("DNS rules", id.0),
        Change::Named(slot, _) => dense("identity slot", slot.0),
        Change::Class(id, class) => {
            dense("class", id.0)?;
            class.as_ref().map_or(Ok(()), |class| check_class(id.0, class))
        }
        Change::Service(id, service) => {
            service.as_ref().map_or(Ok(()), |service| check_service(id.0, service))
        }
        Change::Settings(settings) => check_settings(settings),
        Change::Egress(_, ways) => ways.iter().flatten().try_for_each(|(prefix, _)| check_prefix(prefix)),
        Change::Frontend(..)
        | Change::Exposed(..)
        | Change::Probe(..)
        | Change::Port(..)
        | Change::NextHop(..) => Ok(()),
    }
}

fn dense(what: &str, number: u32) -> Result<(), String> {
    if number < MAX_DENSE {
        Ok(())
    } else {
        Err(format!("{what} {number} is beyond the limit of {MAX_DENSE}"))
    }
}

/// Patterns are as long as names at most, so that walking them ends.
fn check_pattern(pattern: &Pattern) -> Result<(), String> {
    if pattern.text.len() > 255 {
        return Err(format!("the pattern {} is longer than a name", pattern.text));
    }
    Ok(())
}

fn check_prefix(prefix: &Prefix) -> Result<(), String> {
    let (bits, most) = match prefix.addr {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let host = |len: u8| (1_u128 << (most - len)) - 1;
    if prefix.len > most || (prefix.len > 0 && bits & host(prefix.len) != 0) || (prefix.len == 0 && bits != 0)
    {
        return Err(format!("{}/{} is no prefix", prefix.addr, prefix.len));
    }
    Ok(())
}

fn check_class(id: u32, class: &PolicyClass) -> Result<(), String> {
    let backwards = |range: &PortRange| range.first > range.last || range.proto > PortRange::ANY_PROTO;
    let overlaps = |pair: &[PortRange]| {
        (pair[0].proto, pair[0].first) > (pair[1].proto, pair[1].first)
            || (pair[0].proto == pair[1].proto && pair[0].last >= pair[1].first)
    };
    if class.ranges.iter().any(backwards) || class.ranges.windows(2).any(overlaps) {
        return Err(format!("the ranges of class {id} are not sorted or overlap"));
    }
    Ok(())
}

fn check_service(id: u32, service: &Service) -> Result<(), String> {
    if let Algorithm::Maglev(size) = service.algorithm
        && !maglev::SIZES.contains(&size)
    {
        return Err(format!("{size} is not a size of a Maglev table (service {id})"));
    }
    if service.backends.len() >= usize::from(u16::MAX) {
        return Err(format!("service {id} has {} backends, more than 65534", service.backends.len()));
    }
    match twice(&service.backends) {
        Some(backend) => Err(format!("service {id} has backend {} twice", backend.id.0)),
        None => Ok(()),
    }
}

/// The first backend whose number an earlier one has.
fn twice(backends: &[Backend]) -> Option<&Backend> {
    // Few are compared one by one.
    if backends.len() <= 16 {
        let earlier = |n: usize, id: BackendId| backends[..n].iter().any(|backend| backend.id == id);
        return backends.iter().enumerate().find(|(n, backend)| earlier(*n, backend.id)).map(|(_, b)| b);
    }
    let mut seen: HashSet<BackendId, lpm::Hashing> = HashSet::with_hasher(lpm::hashing());
    backends.iter().find(|backend| !seen.insert(backend.id))
}

fn check_settings(settings: &Settings) -> Result<(), String> {
    let ends = settings.tunnels.addresses.iter().chain(&settings.tunnels.peers);
    settings.tunnel_sources.iter().chain(ends).try_for_each(check_prefix)?;
    let (first, last) = settings.snat_ports;
    if settings.workers == 0 || u32::from(last) + 1 < u32::from(first) + u32::from(settings.workers) {
        return Err("settings need a worker, and a port to translate with for each".into());
    }
    Ok(())
}
