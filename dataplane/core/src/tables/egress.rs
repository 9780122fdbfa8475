//! Which sources leave with another address, and with which.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use hashbrown::{HashMap, HashSet};

use super::lpm::{Hashing, hashing};
use super::prefix_set::PrefixSet;
use super::record::{Leave, Port, Prefix, Settings};
use super::service::reduce;
use crate::emit::mapped;
use crate::packet::PortId;

/// What the path asks of the settings' address translation.
#[derive(Clone, Debug)]
pub struct Egress {
    sources: PrefixSet,
    exclude: PrefixSet,
    masquerade: Pool,
    services: Pool,
    addresses: HashSet<u128, Hashing>,
}

impl Default for Egress {
    fn default() -> Self {
        Self::new(&Settings::default())
    }
}

/// What becomes of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    Keep,
    Replace(Addresses<'a>),
    /// It should be replaced, but there is no address of its family.
    NoAddress,
}

/// Addresses to replace a source with: its own first, then the others, for when that one has no port left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<'a> {
    all: &'a [Ipv6Addr],
    first: usize,
}

impl<'a> Addresses<'a> {
    pub fn iter(self) -> impl Iterator<Item = Ipv6Addr> + 'a {
        let (before, own) = self.all.split_at(self.first.min(self.all.len()));
        own.iter().chain(before).copied()
    }
}

impl Egress {
    pub(super) fn new(settings: &Settings) -> Self {
        let rules = &settings.masquerade;
        let all = rules.addresses.iter().chain(&settings.snat_addresses);
        let mut addresses = HashSet::with_hasher(hashing());
        addresses.extend(all.map(|ip| mapped(*ip).to_bits()));
        Self {
            sources: PrefixSet::new(&rules.sources),
            exclude: PrefixSet::new(&rules.exclude),
            masquerade: Pool::new(&rules.addresses),
            services: Pool::new(&settings.snat_addresses),
            addresses,
        }
    }

    /// Is this source to be masqueraded on its way to this destination, and as whom? Sources do not masquerade before
    /// each other. The same source always gets the same address, as long as that has a port left.
    #[inline]
    pub fn masquerade(&self, src: Ipv6Addr, dst: Ipv6Addr, v4: bool) -> Source<'_> {
        let applies = self.sources.contains(src, v4)
            && !self.exclude.contains(dst, v4)
            && !self.sources.contains(dst, v4);
        if applies { self.masquerade.choose(src, v4) } else { Source::Keep }
    }

    /// The address that replaces the client's on its way to a backend of an SNAT service. Never [`Source::Keep`].
    #[inline]
    pub fn service_source(&self, src: Ipv6Addr, v4: bool) -> Source<'_> {
        self.services.choose(src, v4)
    }

    /// Is this one of the addresses that sources are replaced with?
    #[inline]
    pub fn is_nat_address(&self, ip: Ipv6Addr) -> bool {
        self.addresses.contains(&ip.to_bits())
    }
}

/// Sources that leave with an address that a policy gives them.
#[derive(Clone, Debug)]
pub struct Departures {
    sources: HashMap<u128, Box<[Departure]>, Hashing>,
    /// How many ways lead out with each address.
    addresses: HashMap<u128, u32, Hashing>,
    /// The first address of each family that a port has.
    ports: HashMap<PortId, [Ipv6Addr; 2], Hashing>,
}

/// What holds for one prefix of destinations.
#[derive(Clone, Copy, Debug)]
struct Departure {
    base: u128,
    mask: u128,
    leave: Leave,
    v4: bool,
    /// The new source, if there is one.
    address: [Ipv6Addr; 1],
}

impl Default for Departures {
    fn default() -> Self {
        Self {
            sources: HashMap::with_hasher(hashing()),
            addresses: HashMap::with_hasher(hashing()),
            ports: HashMap::with_hasher(hashing()),
        }
    }
}

impl Departures {
    pub(super) fn set(&mut self, source: IpAddr, ways: Option<&[(Prefix, Leave)]>) {
        let source = mapped(source).to_bits();
        for old in self.sources.remove(&source).iter().flatten() {
            super::service::release(&mut self.addresses, old.address[0].to_bits());
        }
        let Some(ways) = ways else { return };
        let mut ways: Vec<Departure> = ways.iter().map(|way| Departure::new(way, &self.ports)).collect();
        // The longest first; of equals the first that was told.
        ways.sort_by_key(|way| core::cmp::Reverse(way.mask));
        for way in &ways {
            *self.addresses.entry(way.address[0].to_bits()).or_insert(0) += 1;
        }
        self.sources.insert(source, ways.into());
    }

    /// A port has other addresses: who leaves with the first of them leaves with another.
    pub(super) fn set_port(&mut self, id: PortId, port: Option<&Port>) {
        let none = Ipv6Addr::UNSPECIFIED;
        let all = || port.iter().flat_map(|port| &port.addresses).map(|prefix| prefix.addr);
        let first = |v4: bool| all().find(|ip| ip.is_ipv4() == v4).map_or(none, mapped);
        let now = [first(true), first(false)];
        if self.ports.insert(id, now).unwrap_or([none; 2]) == now {
            return;
        }
        let ways = self.sources.values_mut().flatten().filter(|way| way.leave == Leave::Through(id));
        for way in ways {
            super::service::release(&mut self.addresses, way.address[0].to_bits());
            way.address[0] = now[usize::from(!way.v4)];
            *self.addresses.entry(way.address[0].to_bits()).or_insert(0) += 1;
        }
    }

    /// How this source leaves for this destination, and with which address, if a policy says so.
    pub fn find(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Option<(Leave, Addresses<'_>)> {
        if self.sources.is_empty() {
            return None;
        }
        let way =
            self.sources.get(&src.to_bits())?.iter().find(|way| dst.to_bits() & way.mask == way.base)?;
        let nothing = matches!(way.leave, Leave::Through(_)) && way.address[0].is_unspecified();
        let leave = if nothing { Leave::NoAddress } else { way.leave };
        Some((leave, Addresses { all: &way.address, first: 0 }))
    }

    /// Is this one of the addresses that sources are replaced with?
    pub fn is_nat_address(&self, ip: Ipv6Addr) -> bool {
        self.addresses.contains_key(&ip.to_bits())
    }
}

impl Departure {
    fn new((to, leave): &(Prefix, Leave), ports: &HashMap<PortId, [Ipv6Addr; 2], Hashing>) -> Self {
        let v4 = to.addr.is_ipv4();
        let fixed = if to.addr.is_ipv4() { 96 } else { 0 } + u32::from(to.len);
        let mask = u128::MAX.checked_shl(128 - fixed).unwrap_or(0);
        let address = match leave {
            Leave::With(ip) => Some(mapped(*ip)),
            Leave::Through(port) => ports.get(port).map(|of| of[usize::from(!v4)]),
            Leave::Usual | Leave::Elsewhere | Leave::NoAddress | Leave::NoGateway => None,
        };
        let address = [address.unwrap_or(Ipv6Addr::UNSPECIFIED)];
        Self { base: mapped(to.addr).to_bits() & mask, mask, leave: *leave, v4, address }
    }
}

/// Addresses of both families to choose from.
#[derive(Clone, Debug, Default)]
struct Pool {
    v4: Box<[Ipv6Addr]>,
    v6: Box<[Ipv6Addr]>,
}

impl Pool {
    fn new(addresses: &[IpAddr]) -> Self {
        let family = |v4| addresses.iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| mapped(*ip)).collect();
        Self { v4: family(true), v6: family(false) }
    }

    fn choose(&self, src: Ipv6Addr, v4: bool) -> Source<'_> {
        let all = if v4 { &self.v4 } else { &self.v6 };
        if all.is_empty() {
            return Source::NoAddress;
        }
        Source::Replace(Addresses { all, first: reduce(fold(src), all.len()) })
    }
}

fn fold(ip: Ipv6Addr) -> u32 {
    let words = ip.octets();
    words.chunks_exact(4).fold(0, |sum: u32, w| {
        sum.rotate_left(7).wrapping_mul(0x9e37_79b1) ^ u32::from_be_bytes([w[0], w[1], w[2], w[3]])
    })
}
