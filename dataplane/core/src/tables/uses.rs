//! What a list of changes refers to must be there when the list is done, and nothing may go that something still refers
//! to. Looked at before anything is changed.
//!
//! Bound are what control sends: addresses to identities, identities to classes, frontends to services. What mirrors the
//! kernel is bound when it comes (a route needs its next hops, a next hop its port) but not when it goes, because the
//! kernel tells of such things in its own order; a way that leads nowhere is unreachable.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};

use super::Tables;
use super::lpm::{Hashing, hashing};
use super::record::{Change, ClassId, Frontend, FrontendKey, IdentitySlot, Prefix, Route, ServiceId};
use crate::packet::PortId;
use crate::verdict::NextHopId;

/// Something that others refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Identity(IdentitySlot),
    Class(ClassId),
    Service(ServiceId),
    Port(PortId),
    NextHop(NextHopId),
}

/// Something that refers to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum User {
    Address(Prefix),
    Identity(IdentitySlot),
    Frontend(FrontendKey),
}

/// How many users each target has; only of those that may not go while they have some.
#[derive(Clone, Debug)]
pub(super) struct Uses {
    counts: HashMap<Target, u32, Hashing>,
}

impl Default for Uses {
    fn default() -> Self {
        Self { counts: HashMap::with_hasher(hashing()) }
    }
}

impl Uses {
    pub(super) fn of(&self, target: Target) -> u32 {
        self.counts.get(&target).copied().unwrap_or(0)
    }

    fn take(&mut self, target: Target) {
        *self.counts.entry(target).or_insert(0) += 1;
    }

    fn release(&mut self, target: Target) {
        if let Some(count) = self.counts.get_mut(&target) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&target);
            }
        }
    }
}

impl Tables {
    /// Would this list leave a reference to nothing?
    pub(super) fn check_references(&self, changes: &[Change]) -> Result<(), String> {
        let mut after: HashMap<Target, bool, Hashing> = HashMap::with_hasher(hashing());
        after.extend(changes.iter().filter_map(sets));
        let there = |target: Target| after.get(&target).copied().unwrap_or_else(|| self.has(target));
        for change in changes {
            if let Some(missing) = wants(change).into_iter().find(|target| !there(*target)) {
                return Err(format!("{} refers to {missing:?}, which does not exist", name(change)));
            }
        }
        let mut gone: HashMap<Target, u32, Hashing> = HashMap::with_hasher(hashing());
        for (target, there) in &after {
            if !there && self.uses.of(*target) > 0 {
                gone.insert(*target, 0);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        // No change of this list refers to what goes; so every user that it changes has let go of it.
        let mut seen: HashSet<User, Hashing> = HashSet::with_hasher(hashing());
        for user in changes.iter().filter_map(user).filter(|user| seen.insert(*user)) {
            for target in self.used_by(user) {
                if let Some(released) = gone.get_mut(&target) {
                    *released += 1;
                }
            }
        }
        match gone.iter().find(|(target, released)| self.uses.of(**target) > **released) {
            Some((target, _)) => Err(format!("{target:?} cannot go while something refers to it")),
            None => Ok(()),
        }
    }

    /// Keep count of the users while a change is made. Call it before.
    pub(super) fn count_uses(&mut self, change: &Change) {
        let Some(user) = user(change) else { return };
        for target in wants(change) {
            self.uses.take(target);
        }
        for target in self.used_by(user) {
            self.uses.release(target);
        }
    }

    fn has(&self, target: Target) -> bool {
        match target {
            Target::Identity(slot) => self.ipcache.has(slot),
            Target::Class(id) => self.policies.has(id),
            Target::Service(id) => self.services.service(id).is_some(),
            Target::Port(id) => self.routing.port(id).is_some(),
            Target::NextHop(id) => self.routing.hop(id).is_some(),
        }
    }

    fn used_by(&self, user: User) -> Vec<Target> {
        match user {
            User::Address(prefix) => self.ipcache.slot_of(prefix).map(Target::Identity).into_iter().collect(),
            User::Identity(slot) => {
                self.ipcache.classes_of(slot).into_iter().flatten().map(Target::Class).collect()
            }
            User::Frontend(key) => self.services.frontend(key).map(leads).unwrap_or_default(),
        }
    }
}

/// The target that this change makes (true) or removes.
fn sets(change: &Change) -> Option<(Target, bool)> {
    match change {
        Change::Identity(slot, record) => Some((Target::Identity(*slot), record.is_some())),
        Change::Class(id, record) => Some((Target::Class(*id), record.is_some())),
        Change::Service(id, record) => Some((Target::Service(*id), record.is_some())),
        Change::Port(id, record) => Some((Target::Port(*id), record.is_some())),
        Change::NextHop(id, record) => Some((Target::NextHop(*id), record.is_some())),
        Change::Address(..)
        | Change::Learned(..)
        | Change::Frontend(..)
        | Change::Exposed(..)
        | Change::Egress(..)
        | Change::Probe(..)
        | Change::Settings(_)
        | Change::Route(..)
        | Change::Pattern(..)
        | Change::DnsRules(..)
        | Change::Named(..) => None,
    }
}

/// What must be there for this change.
fn wants(change: &Change) -> Vec<Target> {
    match change {
        Change::Address(_, slot) | Change::Learned(_, slot) => {
            slot.map(Target::Identity).into_iter().collect()
        }
        Change::Identity(_, Some(identity)) => {
            [identity.egress, identity.ingress].into_iter().flatten().map(Target::Class).collect()
        }
        Change::Frontend(_, Some(frontend)) => leads(frontend),
        Change::NextHop(_, Some(hop)) => [Target::Port(hop.port)].into_iter().collect(),
        Change::Route(_, Some(Route::OnLink(port))) => [Target::Port(*port)].into_iter().collect(),
        Change::Route(_, Some(Route::Via(ways))) => ways.iter().map(|(id, _)| Target::NextHop(*id)).collect(),
        Change::Route(_, Some(Route::Local | Route::Unreachable | Route::Blackhole) | None)
        | Change::Identity(_, None)
        | Change::Frontend(_, None)
        | Change::NextHop(_, None)
        | Change::Class(..)
        | Change::Service(..)
        | Change::Exposed(..)
        | Change::Egress(..)
        | Change::Probe(..)
        | Change::Settings(_)
        | Change::Port(..)
        | Change::Pattern(..)
        | Change::DnsRules(..)
        | Change::Named(..) => Vec::new(),
    }
}

/// The services behind a frontend, of both scopes.
fn leads(frontend: &Frontend) -> Vec<Target> {
    [frontend.service, frontend.inside].into_iter().flatten().map(Target::Service).collect()
}

/// Who refers to others by this change, if its references bind.
fn user(change: &Change) -> Option<User> {
    match change {
        Change::Address(prefix, _) | Change::Learned(prefix, _) => Some(User::Address(*prefix)),
        Change::Identity(slot, _) => Some(User::Identity(*slot)),
        Change::Frontend(key, _) => Some(User::Frontend(*key)),
        Change::Class(..)
        | Change::Service(..)
        | Change::Exposed(..)
        | Change::Egress(..)
        | Change::Probe(..)
        | Change::Settings(_)
        | Change::Port(..)
        | Change::NextHop(..)
        | Change::Route(..)
        | Change::Pattern(..)
        | Change::DnsRules(..)
        | Change::Named(..) => None,
    }
}

fn name(change: &Change) -> String {
    match change {
        Change::Address(prefix, _) | Change::Learned(prefix, _) => {
            format!("address {}/{}", prefix.addr, prefix.len)
        }
        Change::Identity(slot, _) => format!("identity in slot {}", slot.0),
        Change::Frontend(key, _) => format!("frontend {} port {} protocol {}", key.ip, key.port, key.proto),
        Change::Route(prefix, _) => format!("route {}/{}", prefix.addr, prefix.len),
        Change::NextHop(id, _) => format!("next hop {}", id.0),
        Change::Class(..)
        | Change::Service(..)
        | Change::Exposed(..)
        | Change::Egress(..)
        | Change::Probe(..)
        | Change::Settings(_)
        | Change::Port(..)
        | Change::Pattern(..)
        | Change::DnsRules(..)
        | Change::Named(..) => {
            format!("{change:?}")
        }
    }
}
