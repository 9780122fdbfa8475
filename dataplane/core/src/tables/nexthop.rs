//! Destination → where it goes next: port, neighbour, MTU. A mirror of the kernel's tables.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use super::lpm::Lpm;
use super::record::{NextHop, Port, Prefix, Route};
use super::service::reduce;
use crate::emit::mapped;
use crate::packet::PortId;
use crate::verdict::NextHopId;

/// What routing says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Via(NextHopId),
    /// A neighbour by this port that nobody has asked for yet.
    OnLink(PortId),
    /// One of the gateway's own addresses.
    Local,
    /// No route, or one that says so: answer.
    Unreachable,
    /// Drop in silence.
    Blackhole,
}

/// Routes with several ways, at most.
pub(super) const MAX_SEVERAL: usize = 1 << 16;

const FEW: usize = 16;

/// All that a packet needs to leave by a next hop whose MAC is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
pub struct Adjacency {
    /// Destination and source, as they stand in the frame.
    pub macs: [u8; 12],
    pub port: PortId,
    /// 0: untagged.
    pub vlan: u16,
    /// 0: the MAC or the port is not known, so nothing is small enough to leave.
    pub mtu: u16,
}

impl Adjacency {
    const NONE: Self = Self { macs: [0; 12], port: PortId(0), vlan: 0, mtu: 0 };
}

#[derive(Clone, Debug, Default)]
pub struct Routing {
    ports: Vec<Option<Port>>,
    hops: Vec<Option<NextHop>>,
    /// Of each next hop, with its port's part.
    adjacencies: Vec<Adjacency>,
    /// Routes as [`Coded`] numbers, so that most need no second look.
    routes: Lpm,
    /// Which addresses may be the kernel's.
    local: Local,
    several: Vec<Several>,
    free: Vec<u16>,
    /// Ports by device and VLAN, sorted.
    by_tag: Vec<((u16, u16), PortId)>,
}

/// Each way with the sum of the weights up to and with it.
type Several = Box<[(u32, NextHopId)]>;

/// What nearly every address is told by that it is not the kernel's: how many of those have a hash.
#[derive(Clone, Debug)]
struct Local {
    hosts: Box<[u32; HASHES]>,
    /// Prefixes that are no single addresses; they may hold anything.
    wide: u32,
}

const HASHES: usize = 4096;

impl Default for Local {
    fn default() -> Self {
        Self { hosts: Box::new([0; HASHES]), wide: 0 }
    }
}

impl Local {
    #[inline(always)]
    fn may_hold(&self, ip: Ipv6Addr) -> bool {
        self.wide | self.hosts[hash(ip)] != 0
    }

    fn counter(&mut self, prefix: Prefix) -> &mut u32 {
        let whole = if prefix.addr.is_ipv4() { 32 } else { 128 };
        if prefix.len < whole { &mut self.wide } else { &mut self.hosts[hash(mapped(prefix.addr))] }
    }

    fn add(&mut self, prefix: Prefix) {
        *self.counter(prefix) += 1;
    }

    fn take(&mut self, prefix: Prefix) {
        *self.counter(prefix) -= 1;
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folds 128 bits into twelve")]
fn hash(ip: Ipv6Addr) -> usize {
    let bits = ip.to_bits();
    let folded = ((bits >> 64) as u64 ^ bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (folded >> 52) as usize % HASHES
}

/// A route as the 24-bit number that the prefix table holds: what it is, and one id.
#[derive(Clone, Copy)]
enum Coded {
    Via(NextHopId),
    OnLink(PortId),
    Local,
    Unreachable,
    Blackhole,
    /// Index into `several`.
    Several(u16),
}

impl Coded {
    const fn number(self) -> u32 {
        let (kind, id) = match self {
            Self::Unreachable => (0, 0),
            Self::Via(id) => (1, id.0),
            Self::OnLink(port) => (2, port.0),
            Self::Local => (3, 0),
            Self::Blackhole => (4, 0),
            Self::Several(index) => (5, index),
        };
        (kind << 16) | id as u32
    }

    #[inline]
    const fn of(number: u32) -> Self {
        let [a, b, kind, _] = number.to_le_bytes();
        let id = u16::from_le_bytes([a, b]);
        match kind {
            1 => Self::Via(NextHopId(id)),
            2 => Self::OnLink(PortId(id)),
            3 => Self::Local,
            4 => Self::Blackhole,
            5 => Self::Several(id),
            _ => Self::Unreachable,
        }
    }
}

impl Routing {
    /// Where this destination goes; several ways are shared out by the hash, in proportion to their weights.
    #[inline]
    pub fn route(&self, ip: Ipv6Addr, v4: bool, hash: u32) -> Hop {
        match self.routes.lookup(ip, v4).map(Coded::of) {
            Some(Coded::Via(id)) => Hop::Via(id),
            Some(Coded::OnLink(port)) => Hop::OnLink(port),
            Some(Coded::Local) => Hop::Local,
            Some(Coded::Blackhole) => Hop::Blackhole,
            Some(Coded::Several(index)) => self.choose(index, hash).map_or(Hop::Unreachable, Hop::Via),
            Some(Coded::Unreachable) | None => Hop::Unreachable,
        }
    }

    fn choose(&self, index: u16, hash: u32) -> Option<NextHopId> {
        let ways = self.several.get(usize::from(index))?;
        let total = ways.last()?.0 as usize;
        let at = reduce(hash, total);
        if total == ways.len() {
            // All weigh one.
            return ways.get(at).map(|(_, id)| *id);
        }
        // Of few, all are looked at: a search would go another way each time, and no CPU could foresee it.
        let before = |(sum, _): &(u32, NextHopId)| *sum as usize <= at;
        let index = match ways.len() {
            0..=FEW => ways.iter().map(|way| usize::from(before(way))).sum(),
            _ => ways.partition_point(before),
        };
        ways.get(index).map(|(_, id)| *id)
    }

    /// Is this an address of the kernel's?
    #[inline(always)]
    pub fn is_local(&self, ip: Ipv6Addr, v4: bool) -> bool {
        self.local.may_hold(ip) && self.is_routed_here(ip, v4)
    }

    #[inline(never)]
    fn is_routed_here(&self, ip: Ipv6Addr, v4: bool) -> bool {
        matches!(self.routes.lookup(ip, v4).map(Coded::of), Some(Coded::Local))
    }

    /// Start fetching what [`Self::route`] will read first.
    #[inline]
    pub fn prefetch(&self, ip: Ipv6Addr, v4: bool) {
        self.routes.prefetch(ip, v4);
    }

    #[inline]
    pub fn hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(usize::from(id.0))?.as_ref()
    }

    /// `None`: no such next hop, or its MAC or port is not known.
    pub fn adjacency(&self, id: NextHopId) -> Option<&Adjacency> {
        self.way(id).filter(|way| way.mtu > 0)
    }

    /// The same for those who compare the MTU anyway.
    #[inline(always)]
    pub(crate) fn way(&self, id: NextHopId) -> Option<&Adjacency> {
        self.adjacencies.get(usize::from(id.0))
    }

    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// May a packet from this source come in by this port? (Strict reverse path check, any of several ways will do.)
    pub fn comes_by(&self, ip: Ipv6Addr, v4: bool, port: PortId) -> bool {
        let by = |id: &NextHopId| self.hop(*id).is_some_and(|hop| hop.port == port);
        match self.routes.lookup(ip, v4).map(Coded::of) {
            Some(Coded::Via(id)) => by(&id),
            Some(Coded::Several(index)) => {
                self.several.get(usize::from(index)).is_some_and(|ways| ways.iter().any(|(_, id)| by(id)))
            }
            Some(Coded::OnLink(on)) => on == port,
            Some(Coded::Local | Coded::Unreachable | Coded::Blackhole) | None => false,
        }
    }

    /// Is there any way to this source at all? (Loose reverse path check.)
    pub fn is_reachable(&self, ip: Ipv6Addr, v4: bool) -> bool {
        matches!(self.route(ip, v4, 0), Hop::Via(_) | Hop::OnLink(_))
    }

    /// The gateway's own address on this port, of the family wanted: the source of answers.
    pub fn own_address(&self, port: PortId, v4: bool) -> Option<IpAddr> {
        let own = |port: &Port| port.addresses.iter().map(|prefix| prefix.addr).find(|ip| ip.is_ipv4() == v4);
        self.port(port).and_then(own).or_else(|| self.ports.iter().flatten().find_map(own))
    }

    /// The port of a device and VLAN.
    #[inline]
    pub fn find_port(&self, device: u16, vlan: u16) -> Option<PortId> {
        let at = self.by_tag.binary_search_by_key(&(device, vlan), |(tag, _)| *tag).ok()?;
        Some(self.by_tag[at].1)
    }

    pub(super) fn set_port(&mut self, id: PortId, port: Option<&Port>) {
        set(&mut self.ports, usize::from(id.0), port);
        let ports = self.ports.iter().zip(0..).filter_map(|(port, n)| Some((port.as_ref()?, PortId(n))));
        self.by_tag = ports.map(|(port, id)| ((port.device, port.vlan), id)).collect();
        // Of two ports with one tag, which is a mistake, the lower counts.
        self.by_tag.sort_unstable();
        self.by_tag.dedup_by_key(|(tag, _)| *tag);
        let by_it = |hop: &Option<NextHop>| hop.is_some_and(|hop| hop.port == id);
        let hops: Vec<usize> = (0..self.hops.len()).filter(|index| by_it(&self.hops[*index])).collect();
        for index in hops {
            self.adjacencies[index] = self.joined(index);
        }
    }

    pub(super) fn set_hop(&mut self, id: NextHopId, hop: Option<NextHop>) {
        let index = usize::from(id.0);
        set(&mut self.hops, index, hop.as_ref());
        self.adjacencies.resize(self.hops.len(), Adjacency::NONE);
        self.adjacencies[index] = self.joined(index);
    }

    fn joined(&self, index: usize) -> Adjacency {
        self.whole(index).unwrap_or(Adjacency::NONE)
    }

    fn whole(&self, index: usize) -> Option<Adjacency> {
        let hop = self.hops.get(index)?.as_ref()?;
        let port = self.port(hop.port)?;
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&hop.mac?);
        macs[6..].copy_from_slice(&port.mac);
        Some(Adjacency { macs, port: hop.port, vlan: port.vlan, mtu: hop.mtu })
    }

    pub(super) fn set_route(&mut self, prefix: Prefix, route: Option<&Route>) {
        let old = match route {
            Some(route) => {
                let coded = self.coded(route);
                self.routes.insert(prefix, coded.number())
            }
            None => self.routes.remove(prefix),
        };
        let was_local = matches!(old.map(Coded::of), Some(Coded::Local));
        match (was_local, matches!(route, Some(Route::Local))) {
            (false, true) => self.local.add(prefix),
            (true, false) => self.local.take(prefix),
            (true, true) | (false, false) => {}
        }
        if let Some(Coded::Several(index)) = old.map(Coded::of) {
            self.several[usize::from(index)] = Box::default();
            self.free.push(index);
        }
    }

    fn coded(&mut self, route: &Route) -> Coded {
        match route {
            Route::Via(ways) => match ways.as_slice() {
                [] => Coded::Unreachable,
                [(one, _)] => Coded::Via(*one),
                several => self.store(several),
            },
            Route::OnLink(port) => Coded::OnLink(*port),
            Route::Local => Coded::Local,
            Route::Unreachable => Coded::Unreachable,
            Route::Blackhole => Coded::Blackhole,
        }
    }

    fn store(&mut self, ways: &[(NextHopId, u16)]) -> Coded {
        let mut sum = 0;
        let ways = ways.iter().map(|(id, weight)| {
            sum += u32::from(*weight).max(1);
            (sum, *id)
        });
        let ways: Several = ways.collect();
        if let Some(index) = self.free.pop() {
            self.several[usize::from(index)] = ways;
            return Coded::Several(index);
        }
        match u16::try_from(self.several.len()) {
            Ok(index) => {
                self.several.push(ways);
                Coded::Several(index)
            }
            // More than `MAX_SEVERAL` are refused before they come here; should one slip through, its first way serves.
            Err(_) => ways.first().map_or(Coded::Unreachable, |(_, id)| Coded::Via(*id)),
        }
    }

    pub(super) fn several(&self) -> usize {
        self.several.len() - self.free.len()
    }

    pub fn routes(&self) -> usize {
        self.routes.len()
    }
}

fn set<T: Clone>(list: &mut Vec<Option<T>>, index: usize, value: Option<&T>) {
    if index >= list.len() {
        list.resize_with(index + 1, || None);
    }
    list[index] = value.cloned();
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn several_ways_are_shared_by_weight_and_their_room_is_used_again() {
        let mut routing = Routing::default();
        let prefix = Prefix { addr: [10, 0, 0, 0].into(), len: 8 };
        let route = Route::Via(vec![(NextHopId(1), 3), (NextHopId(2), 1)]);
        for _ in 0..100 {
            routing.set_route(prefix, Some(&route));
            routing.set_route(prefix, Some(&Route::Local));
        }
        assert_eq!((routing.several(), routing.several.len()), (0, 1));
        routing.set_route(prefix, Some(&route));
        let ip = core::net::Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped();
        let first = (0..4000_u32).filter(|n| routing.route(ip, true, n * 77_777) == Hop::Via(NextHopId(1)));
        let first = first.count();
        assert!((2900..3100).contains(&first), "{first} of 4000 by the way of weight 3 of 4");
    }

    #[test]
    fn addresses_of_the_kernels_are_told_from_others_as_long_as_they_are_there() {
        let mut routing = Routing::default();
        let prefix = |addr: &str, len| Prefix { addr: addr.parse().unwrap(), len };
        let local = |routing: &Routing, ip: &str| {
            let ip: IpAddr = ip.parse().unwrap();
            routing.is_local(mapped(ip), ip.is_ipv4())
        };
        let way = Route::Via(vec![(NextHopId(1), 1)]);
        routing.set_route(prefix("0.0.0.0", 0), Some(&way));
        routing.set_route(prefix("192.0.2.1", 32), Some(&Route::Local));
        routing.set_route(prefix("2001:db8::1", 128), Some(&Route::Local));
        assert!(local(&routing, "192.0.2.1") && local(&routing, "2001:db8::1"));
        assert!(!local(&routing, "192.0.2.2") && !local(&routing, "2001:db8::2"));
        // All that is in a prefix, but for what goes elsewhere all the same.
        routing.set_route(prefix("198.51.100.0", 24), Some(&Route::Local));
        routing.set_route(prefix("198.51.100.7", 32), Some(&way));
        assert!(local(&routing, "198.51.100.1") && !local(&routing, "198.51.100.7"));
        // Said twice is said once, and what becomes another way is no longer ours.
        routing.set_route(prefix("192.0.2.1", 32), Some(&Route::Local));
        routing.set_route(prefix("192.0.2.1", 32), Some(&way));
        routing.set_route(prefix("198.51.100.0", 24), None);
        assert!(!local(&routing, "192.0.2.1") && !local(&routing, "198.51.100.1"));
        assert!(routing.local.wide == 0 && routing.local.hosts.iter().sum::<u32>() == 1);
    }
}
