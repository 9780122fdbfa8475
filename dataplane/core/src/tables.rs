//! One generation of everything that is looked up and never changed by a packet.
//!
//! A `Tables` is built by applying [`record::Change`]s; the publisher keeps two of them, changes the one that no worker
//! can see, and swaps (see `sluice-run`'s epoch). To a worker it is immutable.

pub mod record;

pub mod egress;
pub mod ipcache;
pub mod lpm;
pub mod maglev;
pub mod nexthop;
pub mod ownership;
pub mod policy;
pub mod service;

use alloc::string::String;
use core::fmt;

use record::{Change, Settings};

/// Slots, classes, sets and the like are dense numbers given out by control; beyond this they are a mistake.
const MAX_DENSE: u32 = 1 << 22;
/// One prefix more than what lpm can number.
const MAX_ROUTES: usize = 1 << 20;

/// All lookups of one generation.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Flows admitted under another number are judged again. Zero: nothing was published yet.
    pub generation: u32,
    pub settings: Settings,
    pub ipcache: ipcache::Ipcache,
    pub policies: policy::Policies,
    pub services: service::Services,
    pub routing: nexthop::Routing,
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
    /// Make these changes, all or none. `twin` is the other copy, already changed: what is dear to build is taken from
    /// it. The cost is in proportion to the changes.
    pub fn apply(&mut self, changes: &[Change], twin: Option<&Self>) -> Result<(), ApplyError> {
        changes.iter().try_for_each(check)?;
        for change in changes {
            self.make(change, twin);
        }
        if changes.iter().any(Change::touches_flows) {
            // Zero means "never published"; skip it when the count wraps.
            self.generation = self.generation.wrapping_add(1).max(1);
        }
        Ok(())
    }

    fn make(&mut self, change: &Change, twin: Option<&Self>) {
        match change {
            Change::Identity(slot, identity) => self.ipcache.set_identity(*slot, identity.as_ref()),
            Change::Address(prefix, slot) => self.ipcache.set_address(*prefix, *slot),
            Change::Class(id, class) => self.policies.set(*id, class.as_ref()),
            Change::Service(id, service) => {
                self.services.set_service(*id, service.as_ref(), twin.map(|twin| &twin.services));
            }
            Change::Frontend(key, frontend) => self.services.set_frontend(*key, frontend.as_ref()),
            Change::Settings(settings) => {
                self.services.set_seeds(settings.hash_seed);
                self.settings = settings.clone();
            }
            Change::Port(id, port) => self.routing.set_port(*id, port.as_ref()),
            Change::NextHop(id, hop) => self.routing.set_hop(*id, *hop),
            Change::Route(prefix, route) => self.routing.set_route(*prefix, route.as_ref()),
        }
    }
}

/// Can this be made at all? Everything that `make` could stumble over is looked at here.
fn check(change: &Change) -> Result<(), ApplyError> {
    let dense = |what: &str, number: u32| match number < MAX_DENSE {
        true => Ok(()),
        false => Err(ApplyError(alloc::format!("{what} {number} is beyond the limit of {MAX_DENSE}"))),
    };
    match change {
        Change::Identity(slot, identity) => {
            dense("identity slot", slot.0)?;
            if slot.0 == 0 {
                return Err(ApplyError("identity slot 0 stands for the unknown and cannot be set".into()));
            }
            identity.iter().flat_map(|i| &i.peer_sets).try_for_each(|set| dense("peer set", set.0))
        }
        Change::Address(prefix, slot) => {
            check_prefix(prefix)?;
            slot.map_or(Ok(()), |slot| dense("identity slot", slot.0))
        }
        Change::Class(id, _) => dense("class", id.0),
        Change::Service(_, service) => check_service(service.as_ref()),
        Change::Settings(settings)
            if settings.workers == 0 || settings.snat_ports.0 > settings.snat_ports.1 =>
        {
            Err(ApplyError("settings need a worker and a port range that is not empty".into()))
        }
        Change::Route(prefix, _) => check_prefix(prefix),
        Change::Frontend(..) | Change::Settings(_) | Change::Port(..) | Change::NextHop(..) => Ok(()),
    }
}

fn check_prefix(prefix: &record::Prefix) -> Result<(), ApplyError> {
    let most = if prefix.addr.is_ipv4() { 32 } else { 128 };
    if prefix.len > most {
        return Err(ApplyError(alloc::format!("{}/{} is no prefix", prefix.addr, prefix.len)));
    }
    Ok(())
}

fn check_service(service: Option<&record::Service>) -> Result<(), ApplyError> {
    let Some(service) = service else { return Ok(()) };
    if let record::Algorithm::Maglev(size) = service.algorithm
        && !maglev::SIZES.contains(&size)
    {
        return Err(ApplyError(alloc::format!("{size} is not a size of a Maglev table")));
    }
    if service.backends.len() >= usize::from(u16::MAX) {
        return Err(ApplyError(alloc::format!("{} backends are more than 65534", service.backends.len())));
    }
    Ok(())
}

/// Used by the mirror to stay within what can be numbered.
pub const fn max_routes() -> usize {
    MAX_ROUTES
}
