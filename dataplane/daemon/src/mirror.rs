//! The kernel's links, addresses, routes and neighbours as records. The kernel stays the router's brain: whatever sets its
//! tables (an operator, BIRD, keepalived) sets ours within milliseconds.
//!
//! On every notification the tables are read anew and compared with what they were, so lost notifications cannot leave
//! us wrong. A reading costs in proportion to the kernel's tables.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's enums grow; what is new means nothing to us"
)]

mod hops;
mod lending;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use sluice_core::packet::PortId;
use sluice_core::tables::record::{Change, NextHop, Port, Prefix, Records, Route};
use sluice_feed::settings::Interface;

use hops::Hops;

/// How often a list that changes while it is told is asked for.
const DUMPS: usize = 4;
const MAIN_TABLE: u8 = 254;
const LOCAL_TABLE: u8 = 255;
/// RTNLGRP_*: links, neighbours, and addresses and routes of both families.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// A link as the kernel tells of it.
#[derive(Clone, Debug, Default)]
struct Link {
    name: String,
    mac: [u8; 6],
    mtu: u16,
    up: bool,
    /// The link below, and the tag, of a VLAN.
    vlan: (u32, u16),
}

#[derive(Debug)]
pub struct Mirror {
    questions: Socket,
    news: Socket,
    interfaces: Vec<Interface>,
    hops: Hops,
    /// Neighbours that an operator set for good, as of the last reading.
    fixed: HashSet<(PortId, IpAddr)>,
    /// The interface index of each device, as of the last reading.
    pub devices: Vec<Option<u32>>,
    /// The same of the kernel's devices for our VLANs, whose ports follow those of the devices.
    vlans: Vec<Option<u32>>,
    /// The interface index of every device, by name.
    names: HashMap<String, u32>,
    /// Addresses that somebody gave a device for good.
    fixed_addresses: HashSet<IpAddr>,
    /// Addresses of services that we lend the kernel: they are not its own.
    pub lent: BTreeSet<IpAddr>,
}

impl Mirror {
    pub fn new(interfaces: &[Interface]) -> io::Result<Self> {
        let mut questions = Socket::new(NETLINK_ROUTE)?;
        questions.bind_auto()?;
        questions.connect(&SocketAddr::new(0, 0))?;
        let mut news = Socket::new(NETLINK_ROUTE)?;
        news.bind_auto()?;
        for group in GROUPS {
            news.add_membership(group)?;
        }
        news.set_non_blocking(true)?;
        let devices = vec![None; interfaces.len()];
        let fixed = Default::default();
        Ok(Self {
            questions,
            news,
            interfaces: interfaces.to_vec(),
            hops: Hops::default(),
            fixed,
            devices,
            vlans: Vec::new(),
            names: HashMap::new(),
            fixed_addresses: HashSet::new(),
            lent: BTreeSet::new(),
        })
    }

    /// Readable when something changed.
    pub fn news(&self) -> RawFd {
        self.news.as_raw_fd()
    }

    /// Take all notifications off the socket. Is there any but of what we did ourselves?
    pub fn drain(&self) -> bool {
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut any = false;
        loop {
            buffer.clear();
            match self.news.recv(&mut buffer, 0) {
                Ok(_) => any |= !self.is_of_lending(&buffer),
                // Some were lost, whichever they were.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => return any,
            }
        }
    }

    /// All tables, now.
    pub fn read(&mut self) -> io::Result<Records> {
        let links = self.links()?;
        let index_of = |name: &str| links.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index);
        self.devices = self.interfaces.iter().map(|interface| index_of(&interface.name)).collect();
        self.vlans = self.vlan_links(&links);
        self.names = links.iter().map(|(index, link)| (link.name.clone(), *index)).collect();
        let mut changes = self.ports(&links)?;
        self.neighbours(&links, &mut changes)?;
        self.routes(&links, &mut changes)?;
        self.hops.end_reading();
        Ok(changes.into_iter().map(|change| (change.key(), change)).collect())
    }

    /// The kernel's device of each of our VLANs: one of that tag on top of ours, or one that has the usual name.
    fn vlan_links(&self, links: &HashMap<u32, Link>) -> Vec<Option<u32>> {
        let find = |device: &str, below: Option<u32>, tag: u16| {
            let usual = format!("{device}.{tag}");
            let is_it =
                |link: &Link| Some(link.vlan) == below.map(|below| (below, tag)) || link.name == usual;
            links.iter().find(|(_, link)| is_it(link)).map(|(index, _)| *index)
        };
        let all = self.interfaces.iter().zip(&self.devices);
        all.flat_map(|(interface, below)| {
            interface.vlans.iter().map(move |tag| find(&interface.name, *below, *tag))
        })
        .collect()
    }

    /// The port of an interface index.
    fn port_of(&self, index: u32) -> Option<PortId> {
        let port = self.devices.iter().chain(&self.vlans).position(|device| *device == Some(index))?;
        u16::try_from(port).ok().map(PortId)
    }

    /// The interface index of a port.
    fn index_of(&self, port: PortId) -> Option<u32> {
        self.devices.iter().chain(&self.vlans).nth(usize::from(port.0)).copied().flatten()
    }

    fn links(&self) -> io::Result<HashMap<u32, Link>> {
        let mut links = HashMap::new();
        for message in self.dump(RouteNetlinkMessage::GetLink(Default::default()))? {
            let RouteNetlinkMessage::NewLink(message) = message else { continue };
            // Up, and with a carrier.
            let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
            let mut link = Link { up, ..Link::default() };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Mtu(mtu) => link.mtu = u16::try_from(mtu).unwrap_or(u16::MAX),
                    LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                    LinkAttribute::Link(below) => link.vlan.0 = below,
                    LinkAttribute::LinkInfo(infos) => link.vlan.1 = tag(&infos),
                    _ => {}
                }
            }
            links.insert(message.header.index, link);
        }
        Ok(links)
    }

    /// Ports: one a device by the device's own number, then one a VLAN.
    fn ports(&mut self, links: &HashMap<u32, Link>) -> io::Result<Vec<Change>> {
        let mut addresses: HashMap<u32, Vec<Prefix>> = HashMap::new();
        self.fixed_addresses.clear();
        for message in self.dump(RouteNetlinkMessage::GetAddress(Default::default()))? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            let ip = lending::address_of(&message.attributes);
            let Some(addr) = ip.filter(|ip| !is_link_local(*ip)) else { continue };
            if message.header.flags.contains(AddressHeaderFlags::Permanent) {
                self.fixed_addresses.insert(addr);
            }
            addresses
                .entry(message.header.index)
                .or_default()
                .push(Prefix { addr, len: message.header.prefix_len });
        }
        let mut changes = Vec::new();
        let mut vlan_port = u16::try_from(self.interfaces.len()).unwrap_or(u16::MAX);
        for (device, (interface, index)) in self.interfaces.iter().zip(&self.devices).enumerate() {
            let device = u16::try_from(device).unwrap_or(u16::MAX);
            let link = index.and_then(|index| links.get(&index)).cloned().unwrap_or_default();
            let mut own = index.and_then(|index| addresses.get(&index)).cloned().unwrap_or_default();
            own.sort();
            let port = Port { mac: link.mac, mtu: link.mtu, vlan: 0, device, up: link.up, addresses: own };
            for vlan in &interface.vlans {
                let above = self.index_of(PortId(vlan_port));
                let tagged = above.and_then(|index| Some((links.get(&index)?, addresses.get(&index))));
                changes.push(Change::Port(PortId(vlan_port), Some(vlan_of(&port, *vlan, tagged))));
                vlan_port += 1;
            }
            changes.push(Change::Port(PortId(device), Some(port)));
        }
        Ok(changes)
    }

    /// Every neighbour that answered is a host route by its own next hop.
    fn neighbours(&mut self, links: &HashMap<u32, Link>, changes: &mut Vec<Change>) -> io::Result<()> {
        self.fixed.clear();
        for message in self.dump(RouteNetlinkMessage::GetNeighbour(Default::default()))? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
            let known = !matches!(
                message.header.state,
                NeighbourState::Incomplete
                    | NeighbourState::Failed
                    | NeighbourState::None
                    | NeighbourState::Noarp
            );
            let Some(port) = self.port_of(message.header.ifindex).filter(|_| known) else { continue };
            let (mut ip, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                        ip = Some(IpAddr::V6(*v6))
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes.as_slice()).ok()
                    }
                    _ => {}
                }
            }
            let (Some(ip), Some(mac)) = (ip, mac) else { continue };
            if message.header.state == NeighbourState::Permanent {
                self.fixed.insert((port, ip));
            }
            let mtu = links.get(&message.header.ifindex).map_or(1500, |link| link.mtu);
            let Some(id) = self.hops.number(port, ip) else { continue };
            changes.push(Change::NextHop(id, Some(NextHop { port, ip, mac: Some(mac), mtu })));
            let len = if ip.is_ipv4() { 32 } else { 128 };
            if !is_link_local(ip) {
                changes.push(Change::Route(Prefix { addr: ip, len }, Some(Route::Via(vec![(id, 1)]))));
            }
        }
        Ok(())
    }

    fn routes(&mut self, links: &HashMap<u32, Link>, changes: &mut Vec<Change>) -> io::Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(question))? {
                let RouteNetlinkMessage::NewRoute(message) = message else { continue };
                if matches!(message.header.table, MAIN_TABLE | LOCAL_TABLE) {
                    self.route(links, &message, changes);
                }
            }
        }
        Ok(())
    }

    fn route(&mut self, links: &HashMap<u32, Link>, message: &RouteMessage, changes: &mut Vec<Change>) {
        let v4 = message.header.address_family == AddressFamily::Inet;
        let anywhere: IpAddr =
            if v4 { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        let destination = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(address) => ip_of(address),
            _ => None,
        });
        let prefix =
            Prefix { addr: destination.unwrap_or(anywhere), len: message.header.destination_prefix_length };
        if is_link_local(prefix.addr) || prefix.addr.is_multicast() {
            return;
        }
        let route = match message.header.kind {
            RouteType::Unicast => match self.ways(links, &message.attributes, changes) {
                Some(route) => route,
                None => return,
            },
            RouteType::Local if self.lent.contains(&prefix.addr) => return,
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast => Route::Local,
            RouteType::BlackHole => Route::Blackhole,
            RouteType::Unreachable | RouteType::Prohibit => Route::Unreachable,
            _ => return,
        };
        changes.push(Change::Route(prefix, Some(route)));
    }

    /// A route's next hops, as far as they are on devices of ours.
    fn ways(
        &mut self,
        links: &HashMap<u32, Link>,
        attributes: &[RouteAttribute],
        changes: &mut Vec<Change>,
    ) -> Option<Route> {
        let mut ways = Vec::new();
        let mut on_link = None;
        let mut add = |mirror: &mut Self, attributes: &[RouteAttribute], oif: Option<u32>, weight: u16| {
            let oif = attributes
                .iter()
                .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
                .or(oif)?;
            let port = mirror.port_of(oif)?;
            let gateway = attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => ip_of(address),
                RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(ip)) => {
                    Some(IpAddr::V6(*ip))
                }
                RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet(ip)) => Some(IpAddr::V4(*ip)),
                _ => None,
            });
            match gateway {
                Some(ip) => {
                    let id = mirror.hops.number(port, ip)?;
                    let mtu = links.get(&oif).map_or(1500, |link| link.mtu);
                    // A neighbour that is known has said so before; this only stands in for one that is not.
                    if !changes
                        .iter()
                        .any(|change| matches!(change, Change::NextHop(known, _) if *known == id))
                    {
                        changes.push(Change::NextHop(id, Some(NextHop { port, ip, mac: None, mtu })));
                    }
                    ways.push((id, weight));
                }
                None => on_link = Some(port),
            }
            Some(())
        };
        add(self, attributes, None, 1);
        for attribute in attributes {
            if let RouteAttribute::MultiPath(hops) = attribute {
                for hop in hops {
                    add(self, &hop.attributes, Some(hop.interface_index), u16::from(hop.hops) + 1);
                }
            }
        }
        match (ways.is_empty(), on_link) {
            (false, _) => Some(Route::Via(ways)),
            (true, Some(port)) => Some(Route::OnLink(port)),
            (true, None) => None,
        }
    }

    /// Have the kernel find this neighbour, or make sure that it is still there.
    pub fn ask(&self, port: PortId, ip: IpAddr) -> io::Result<()> {
        // Asked to look for a permanent neighbour, the kernel forgets that it was one.
        if self.fixed.contains(&(port, ip)) {
            return Ok(());
        }
        let Some(index) = self.index_of(port) else { return Ok(()) };
        let mut message = NeighbourMessage::default();
        message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Use;
        message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
        self.have_done(RouteNetlinkMessage::NewNeighbour(message), flags)
    }

    /// Have the kernel do something, and hear whether it did.
    fn have_done(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags)?;
        let mut buffer = Vec::with_capacity(8192);
        self.questions.recv(&mut buffer, 0)?;
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer).map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.questions.send(&bytes, 0).map(drop)
    }

    /// All that there is of a kind. The kernel says when its list changed while it was told: parts of it may be missing then.
    fn dump(&self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 1..DUMPS {
            let (answers, whole) = self.dump_once(question.clone())?;
            if whole {
                return Ok(answers);
            }
        }
        // Whatever changes all the time is told of, and read again.
        self.dump_once(question).map(|(answers, _)| answers)
    }

    fn dump_once(&self, question: RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let mut buffer = Vec::with_capacity(256 << 10);
            self.questions.recv(&mut buffer, 0)?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok((answers, whole)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                if length == 0 || length >= rest.len() {
                    break;
                }
                rest = &rest[length..];
            }
        }
    }
}

/// The tag of a VLAN; 0 of any other link.
fn tag(infos: &[LinkInfo]) -> u16 {
    let found = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(all)) => all.iter().find_map(|one| match one {
            InfoVlan::Id(tag) => Some(*tag),
            _ => None,
        }),
        _ => None,
    });
    found.unwrap_or(0)
}

/// The port of a VLAN: what its device says and has, or, where the kernel has none, what the one below has.
fn vlan_of(below: &Port, vlan: u16, device: Option<(&Link, Option<&Vec<Prefix>>)>) -> Port {
    let Some((link, addresses)) = device else { return Port { vlan, ..below.clone() } };
    let mut addresses = addresses.cloned().unwrap_or_default();
    addresses.sort();
    let (mtu, up) = (link.mtu.min(below.mtu), link.up && below.up);
    Port { vlan, mac: link.mac, mtu, up, addresses, ..below.clone() }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_has_the_addresses_of_the_kernels_device_for_it() {
        let own = |text: &str| vec![Prefix { addr: text.parse().unwrap(), len: 24 }];
        let below =
            Port { mac: [2; 6], mtu: 1500, vlan: 0, device: 1, up: true, addresses: own("192.0.2.1") };
        let link = Link { mac: [4; 6], mtu: 1400, up: true, ..Link::default() };
        let there = vlan_of(&below, 100, Some((&link, Some(&own("198.51.100.1")))));
        assert_eq!((there.mac, there.mtu, there.vlan, there.device), ([4; 6], 1400, 100, 1));
        assert_eq!(there.addresses, own("198.51.100.1"));
        let down = Link { up: false, ..link };
        assert!(!vlan_of(&below, 100, Some((&down, None))).up);
        assert_eq!(vlan_of(&below, 7, None), Port { vlan: 7, ..below });
    }
}
