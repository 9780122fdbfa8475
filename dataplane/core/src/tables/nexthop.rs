//! Destination → where it goes next: port, neighbour, MTU. A mirror of the kernel's tables.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use hashbrown::HashMap;

use super::lpm::{Hashing, Lpm, hashing};
use super::record::{NextHop, Port, Prefix, Route};
use super::service::reduce;
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

#[derive(Clone, Debug)]
pub struct Routing {
    ports: Vec<Option<Port>>,
    hops: Vec<Option<NextHop>>,
    prefixes: Lpm,
    /// Routes by the number that `prefixes` holds.
    routes: Vec<Option<Route>>,
    numbers: HashMap<Prefix, u32, Hashing>,
    free: Vec<u32>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            hops: Vec::new(),
            prefixes: Lpm::new(),
            routes: Vec::new(),
            numbers: HashMap::with_hasher(hashing()),
            free: Vec::new(),
        }
    }
}

impl Routing {
    /// Where this destination goes; several ways are shared out by the hash, in proportion to their weights.
    #[inline]
    pub fn route(&self, ip: Ipv6Addr, v4: bool, hash: u32) -> Hop {
        let Some(number) = self.prefixes.lookup(ip, v4) else { return Hop::Unreachable };
        match self.routes.get(number as usize) {
            Some(Some(Route::Via(ways))) => match ways.as_slice() {
                [(one, _)] => Hop::Via(*one),
                several => choose(several, hash).map_or(Hop::Unreachable, Hop::Via),
            },
            Some(Some(Route::OnLink(port))) => Hop::OnLink(*port),
            Some(Some(Route::Local)) => Hop::Local,
            Some(Some(Route::Blackhole)) => Hop::Blackhole,
            Some(Some(Route::Unreachable) | None) | None => Hop::Unreachable,
        }
    }

    #[inline]
    pub fn hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(usize::from(id.0))?.as_ref()
    }

    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// May a packet from this source come in by this port? (Strict reverse path check, any of several ways will do.)
    pub fn comes_by(&self, ip: Ipv6Addr, v4: bool, port: PortId) -> bool {
        let Some(number) = self.prefixes.lookup(ip, v4) else { return false };
        match self.routes.get(number as usize) {
            Some(Some(Route::Via(ways))) => {
                ways.iter().any(|(hop, _)| self.hop(*hop).is_some_and(|hop| hop.port == port))
            }
            Some(Some(Route::OnLink(by))) => *by == port,
            Some(Some(Route::Local | Route::Unreachable | Route::Blackhole) | None) | None => false,
        }
    }

    /// The gateway's own address on this port, of the family wanted: the source of answers.
    pub fn own_address(&self, port: PortId, v4: bool) -> Option<IpAddr> {
        let own = |port: &Port| port.addresses.iter().map(|prefix| prefix.addr).find(|ip| ip.is_ipv4() == v4);
        self.port(port).and_then(own).or_else(|| self.ports.iter().flatten().find_map(own))
    }

    /// The port of a device and VLAN.
    pub fn find_port(&self, device: u16, vlan: u16) -> Option<PortId> {
        let index = self
            .ports
            .iter()
            .position(|port| port.as_ref().is_some_and(|port| port.device == device && port.vlan == vlan))?;
        u16::try_from(index).ok().map(PortId)
    }

    pub(super) fn set_port(&mut self, id: PortId, port: Option<&Port>) {
        set(&mut self.ports, usize::from(id.0), port);
    }

    pub(super) fn set_hop(&mut self, id: NextHopId, hop: Option<NextHop>) {
        set(&mut self.hops, usize::from(id.0), hop.as_ref());
    }

    pub(super) fn set_route(&mut self, prefix: Prefix, route: Option<&Route>) {
        match (route, self.numbers.get(&prefix).copied()) {
            (Some(route), Some(number)) => self.routes[number as usize] = Some(route.clone()),
            (Some(route), None) => {
                let number =
                    self.free.pop().unwrap_or_else(|| u32::try_from(self.routes.len()).unwrap_or(u32::MAX));
                set(&mut self.routes, number as usize, Some(route));
                self.numbers.insert(prefix, number);
                self.prefixes.insert(prefix, number);
            }
            (None, Some(number)) => {
                self.numbers.remove(&prefix);
                self.prefixes.remove(prefix);
                self.routes[number as usize] = None;
                self.free.push(number);
            }
            (None, None) => {}
        }
    }

    pub fn routes(&self) -> usize {
        self.numbers.len()
    }
}

fn set<T: Clone>(list: &mut Vec<Option<T>>, index: usize, value: Option<&T>) {
    if index >= list.len() {
        list.resize_with(index + 1, || None);
    }
    list[index] = value.cloned();
}

fn choose(ways: &[(NextHopId, u16)], hash: u32) -> Option<NextHopId> {
    let total: usize = ways.iter().map(|(_, weight)| usize::from(*weight).max(1)).sum();
    let mut left = reduce(hash, total);
    for (hop, weight) in ways {
        let weight = usize::from(*weight).max(1);
        if left < weight {
            return Some(*hop);
        }
        left -= weight;
    }
    None
}
