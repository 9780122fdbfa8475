//! What control said, as far as whoever learns names must know it: who has which addresses, which patterns are asked for,
//! and the identities of addresses in the place of others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use sluice_core::dns::Name;
use sluice_core::tables::names::Names;
use sluice_core::tables::record::{Change, IdentitySlot, Named, PatternId, Prefix};

/// An address as a prefix.
pub fn host(addr: IpAddr) -> Prefix {
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

/// Does the prefix hold this address?
pub fn is_within(ip: IpAddr, prefix: Prefix) -> bool {
    ip.is_ipv4() == prefix.addr.is_ipv4() && masked(ip, prefix.len) == prefix.addr
}

fn masked(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(ip) => (ip
            & std::net::Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)))
        .into(),
        IpAddr::V6(ip) => (ip
            & std::net::Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
        .into(),
    }
}

/// What a change means for what was learned.
#[derive(Debug, Default)]
pub struct Meaning {
    /// Addresses within these may be somebody else's now.
    pub prefixes: Vec<Prefix>,
    /// Patterns came or went.
    pub patterns: bool,
    /// These identities stand for addresses of names now.
    pub came: Vec<Named>,
    /// These do not any more.
    pub went: HashSet<IdentitySlot>,
    /// Who is in the world is another question now: any address may need another identity.
    pub all: bool,
}

#[derive(Debug)]
pub struct Index {
    prefixes: HashMap<Prefix, IdentitySlot>,
    /// How many prefixes there are of each length: IPv4, IPv6.
    lengths: [[u32; 129]; 2],
    world: HashSet<IdentitySlot>,
    slots: HashMap<Named, IdentitySlot>,
    named: HashMap<IdentitySlot, Named>,
    names: Names,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            prefixes: HashMap::new(),
            lengths: [[0; 129]; 2],
            world: HashSet::new(),
            slots: HashMap::new(),
            named: HashMap::new(),
            names: Names::default(),
        }
    }
}

impl Index {
    pub fn take(&mut self, changes: &[Change]) -> Meaning {
        let mut meaning = Meaning::default();
        for change in changes {
            match change {
                Change::Address(prefix, slot) => {
                    self.set_prefix(*prefix, *slot);
                    meaning.prefixes.push(*prefix);
                }
                Change::Identity(slot, identity) => {
                    let is_world = identity.as_ref().is_some_and(|identity| identity.world);
                    let was_world = self.world.contains(slot);
                    if is_world {
                        self.world.insert(*slot);
                    } else {
                        self.world.remove(slot);
                    }
                    meaning.all |= was_world && !is_world;
                }
                Change::Pattern(id, pattern) => {
                    self.names.set_pattern(*id, pattern.as_ref());
                    meaning.patterns = true;
                }
                Change::Named(slot, named) => {
                    if let Some(old) = self.named.remove(slot) {
                        self.slots.remove(&old);
                        meaning.went.insert(*slot);
                    }
                    if let Some(named) = named {
                        self.named.insert(*slot, named.clone());
                        self.slots.insert(named.clone(), *slot);
                        meaning.came.push(named.clone());
                    }
                }
                Change::Class(..)
                | Change::Service(..)
                | Change::Frontend(..)
                | Change::Exposed(..)
                | Change::Settings(_)
                | Change::Port(..)
                | Change::NextHop(..)
                | Change::Route(..)
                | Change::DnsRules(..)
                | Change::Egress(..)
                | Change::Probe(..)
                | Change::Learned(..) => {}
            }
        }
        meaning
    }

    fn set_prefix(&mut self, prefix: Prefix, slot: Option<IdentitySlot>) {
        let lengths = &mut self.lengths[usize::from(prefix.addr.is_ipv6())];
        let count = &mut lengths[usize::from(prefix.len.min(128))];
        match slot {
            Some(slot) => *count += u32::from(self.prefixes.insert(prefix, slot).is_none()),
            None => *count -= u32::from(self.prefixes.remove(&prefix).is_some()),
        }
    }

    /// Whose the address is by what control said, and by which prefix.
    pub fn base(&self, ip: IpAddr) -> Option<(Prefix, IdentitySlot)> {
        let lengths = &self.lengths[usize::from(ip.is_ipv6())];
        let used = (0..=host(ip).len).rev().filter(|len| lengths[usize::from(*len)] > 0);
        used.map(|len| Prefix { addr: masked(ip, len), len })
            .find_map(|prefix| Some((prefix, *self.prefixes.get(&prefix)?)))
    }

    /// Who has this very address by what control said.
    pub fn told(&self, ip: IpAddr) -> Option<IdentitySlot> {
        self.prefixes.get(&host(ip)).copied()
    }

    /// Pods and nodes keep their own identity, whatever names they have.
    pub fn is_world(&self, slot: IdentitySlot) -> bool {
        self.world.contains(&slot)
    }

    pub fn slot(&self, named: &Named) -> Option<IdentitySlot> {
        self.slots.get(named).copied()
    }

    pub fn named(&self, slot: IdentitySlot) -> Option<&Named> {
        self.named.get(&slot)
    }

    /// The patterns that ask for the addresses of this name. Sorted.
    pub fn asking(&self, name: &Name) -> Box<[PatternId]> {
        let mut found = BTreeSet::new();
        self.names.fitting(name, |id| {
            if self.names.pattern(id).is_some_and(|pattern| pattern.selects) {
                found.insert(id);
            }
        });
        found.into_iter().collect()
    }

    pub fn text(&self, id: PatternId) -> String {
        self.names.pattern(id).map_or_else(String::new, |pattern| pattern.text.clone())
    }
}
