//! The short way: a packet like nearly all packets, of a flow that is known and still allowed, is recognised, rewritten
//! and sent on here, with nothing built that it does not need.
//!
//! [`glance`] accepts only what needs no thought (TCP and UDP, no options, no fragments, no extension headers) and keeps
//! the words of the packet as they are. [`Turn::short_way`] compares them with the words of the flow, all at once, and
//! takes the packet only if nothing differs. Neither changes anything before it is sure. All else goes the long way, which
//! decides the same for these packets; a law in the tests holds the two together.

use super::Turn;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::intrinsics::rest;
use crate::packet::{Packet, PortId};
use crate::parse::{ETHERNET, FIN, Headers, Kind, RST, SYN, TCP, UDP, everyday};
use crate::state::conntrack::{Entry, FlowRef, FlowTable, Place, differ};
use crate::state::flow::{self, DNS, Hot, LIVE, ODD, REPLIED, V4, WRAPPED, said};
use crate::state::tcp::TcpState;
use crate::tables::Tables;
use crate::tables::nexthop::Adjacency;

const TAG: usize = 4;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();

/// IPv6 and TCP without options: as far as anything is read or written, in every packet. What lies behind the end of a
/// shorter one is other bytes of its buffer; lengths are checked before they mean anything.
const HEADERS: usize = 60;
type Ip = [u8; HEADERS];
/// The same from the start of the frame, tag included.
const FRAME: usize = ETHERNET + TAG + HEADERS;

/// What the path needs to know of a packet between its phases: one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Glance {
    pub place: Place,
    /// Source and destination, if it is IPv4. (Those of IPv6 are read where they lie.)
    addresses: u64,
    ports: u32,
    /// What its flow says of itself ([`Hot::says`]) if this is an everyday packet of it; with [`LONG`]: it is none.
    expected: u32,
    pub candidate: FlowRef,
    pub vlan: u16,
    /// Of the IP packet.
    len: u16,
    pub tcp_flags: u8,
    pub v4: bool,
    /// It was read and has a place; if not, the rest says nothing.
    pub ordinary: bool,
}

/// What no flow says, for any protocol: that it is not in use, and odd.
const LONG: u16 = ODD;

/// What of a flow's words an everyday packet expects: what it is, that it is in use, and that nothing about it is odd.
const ASKED: u32 = said(0xff, 0xff, LIVE | V4 | DNS | WRAPPED | ODD);
/// Of this, how far the connection is.
const STATE: u32 = said(0, 0xff, 0);
/// A connection in its midst; no state, because this packet moves it on.
const MIDST: u8 = TcpState::Established as u8;
const MOVES: u8 = 0xff;

impl Glance {
    /// Not looked yet.
    pub(crate) const BLANK: Self = Self {
        place: Place::NOWHERE,
        addresses: 0,
        ports: 0,
        expected: said(0, 0, LONG),
        candidate: FlowRef::NONE,
        vlan: 0,
        len: 0,
        tcp_flags: 0,
        v4: false,
        ordinary: false,
    };

    /// Of an IPv4 packet of a connection in its midst, with these words.
    #[inline(always)]
    pub(super) fn in_midst(addresses: u64, ports: u32, proto: u8, flows: &FlowTable) -> Self {
        let place = flows.place_v4(addresses, rest(ports, proto));
        let expected = said(proto, MIDST, V4 | LIVE);
        Self { place, addresses, ports, expected, v4: true, ordinary: true, ..Self::BLANK }
    }

    /// Not zero: this is not what the flow's packets look like, its addresses left aside.
    #[inline(always)]
    pub(super) fn strange(&self, hot: &Hot, side: usize) -> u64 {
        u64::from(hot.ports[side] ^ self.ports) | u64::from((hot.says() ^ self.expected) & ASKED)
    }

    /// The same of the addresses of IPv4.
    #[inline(always)]
    pub(super) const fn strange_v4(&self, hot: &Hot, side: usize) -> u64 {
        hot.sides[side][0] ^ self.addresses
    }

    /// Rewrite an IPv4 packet for its next hop, the link header excepted.
    #[inline(always)]
    pub(super) fn leave_v4(&self, packet: &mut Packet<'_>, hot: &Hot, side: usize) -> Option<()> {
        if !(self.ordinary && self.v4) {
            return None;
        }
        let frame: &mut [u8; FRAME] = packet.head_mut()?;
        leave_v4(frame[start_of(self.vlan)..].first_chunk_mut()?, hot, side, self);
        Some(())
    }

    /// The same packet, taken for an everyday one of a flow that is in this state.
    fn of(&self, flow: FlowRef, state: TcpState) -> Self {
        let expected = said(proto_of(self), state as u8, family(self.v4) | LIVE);
        Self { candidate: flow, expected, ..*self }
    }

    /// The same for those who need it in full. `None`: not ordinary, or with addresses that want a closer look.
    pub(crate) fn headers(&self, packet: &Packet<'_>) -> Option<Headers> {
        let key = self.key(packet)?;
        let ip = self.ip(packet)?;
        let (l3, header) = (if self.vlan == 0 { 14 } else { 18 }, if self.v4 { 20 } else { 40 });
        Some(Headers {
            key,
            vlan: self.vlan,
            l3,
            l4: l3 + header,
            end: l3.checked_add(self.len)?,
            ttl: if self.v4 { ip[8] } else { ip[7] },
            tcp_flags: self.tcp_flags,
            icmp: (0, 0),
            kind: Kind::Ports,
            dont_fragment: !self.v4 || ip[6] & 0x40 != 0,
            fragment: None,
        })
    }

    #[inline(always)]
    fn ip<'p>(&self, packet: &'p Packet<'_>) -> Option<&'p Ip> {
        let frame: &[u8; FRAME] = packet.head().filter(|_| self.ordinary)?;
        frame[start_of(self.vlan)..].first_chunk()
    }

    /// Its key. `None`: as for [`Self::headers`].
    #[inline(always)]
    pub(crate) fn key(&self, packet: &Packet<'_>) -> Option<FlowKey> {
        let ip = self.ip(packet)?;
        let (src, dst) = if self.v4 {
            flow::addresses(self.addresses)
        } else {
            let [src, dst] = addresses_v6(ip);
            (flow::address(src), flow::address(dst))
        };
        let (sport, dport) = flow::two_ports(self.ports);
        let key = FlowKey { src, dst, sport, dport, proto: proto_of(self), v4: self.v4 };
        everyday(&key).then_some(key)
    }

    /// It may go the short way.
    #[inline(always)]
    pub(crate) const fn is_everyday(&self) -> bool {
        self.expected & said(0, 0, LIVE) != 0
    }
}

#[inline(always)]
fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes(chunk(bytes, at))
}

#[inline(always)]
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes(chunk(bytes, at))
}

#[inline(always)]
fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_ne_bytes(chunk(bytes, at))
}

/// All places are known when this is compiled, so that nothing is left of the check.
#[inline(always)]
fn chunk<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    let mut chunk = [0; M];
    chunk.copy_from_slice(&bytes[at..at + M]);
    chunk
}

/// Where the IP header of a frame starts.
#[inline(always)]
const fn start_of(vlan: u16) -> usize {
    if vlan == 0 { ETHERNET } else { ETHERNET + TAG }
}

/// Read an ordinary packet into its place between the phases, field by field: a value passed around would be written in
/// small pieces and read back in large ones, which stalls. `None`: it is not ordinary.
#[inline(always)]
pub(crate) fn glance(packet: &Packet<'_>, flows: &FlowTable, into: &mut Glance) -> Option<()> {
    let frame: &[u8; FRAME] = packet.head()?;
    let (mut ethertype, mut vlan) = (u16_at(frame, 12), 0);
    if ethertype == VLAN {
        (ethertype, vlan) = (u16_at(frame, 16), u16::from_be(u16_at(frame, 14)) & 0x0fff);
        // A tag without a VLAN id is not ordinary.
        if vlan == 0 {
            return None;
        }
    }
    into.vlan = vlan;
    let ip = frame[start_of(vlan)..].first_chunk()?;
    let room = packet.len().checked_sub(start_of(vlan))?;
    match ethertype {
        IPV4 => ipv4(ip, room, flows, into),
        IPV6 => ipv6(ip, room, flows, into),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(ip: &Ip, room: usize, flows: &FlowTable, into: &mut Glance) -> Option<()> {
    // Version and header length; more fragments, and the offset.
    const LOOK: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    const PLAIN: u64 = u64::from_ne_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
    let (start, middle, addresses) = (u64_at(ip, 0), u32_at(ip, 8), u64_at(ip, 12));
    let total = u16::from_be(u16_at(ip, 2));
    let [ttl, proto, ..] = middle.to_ne_bytes();
    // The sum of all words is all ones, in the arithmetic where that is zero. What is carried out comes in again.
    let (sum, carry) = start.overflowing_add(addresses);
    let (sum, carry) = sum.overflowing_add(u64::from(middle) + u64::from(carry));
    let sum = sum.wrapping_add(u64::from(carry));
    if start & LOOK != PLAIN || usize::from(total) > room || !sum.is_multiple_of(0xffff) || ttl <= 1 {
        return None;
    }
    let l4 = ip[20..].first_chunk()?;
    transport(l4, proto, total.checked_sub(20)?, V4, into)?;
    into.addresses = addresses;
    into.len = total;
    into.v4 = true;
    into.place = flows.place_v4(addresses, rest(into.ports, proto));
    Some(())
}

#[inline(always)]
fn ipv6(ip: &Ip, room: usize, flows: &FlowTable, into: &mut Glance) -> Option<()> {
    let [src, dst] = addresses_v6(ip);
    let (payload, proto, limit) = (u16::from_be(u16_at(ip, 4)), ip[6], ip[7]);
    let total = payload.checked_add(40)?;
    if ip[0] >> 4 != 6 || usize::from(total) > room || limit <= 1 {
        return None;
    }
    transport(ip.last_chunk()?, proto, payload, 0, into)?;
    into.len = total;
    into.v4 = false;
    into.place = flows.place_v6(src, dst, rest(into.ports, proto));
    Some(())
}

#[inline(always)]
fn addresses_v6(ip: &Ip) -> [[u64; 2]; 2] {
    [[u64_at(ip, 8), u64_at(ip, 16)], [u64_at(ip, 24), u64_at(ip, 32)]]
}

/// Ports, and the checks that the long way makes, of a transport packet of this length.
#[inline(always)]
fn transport(l4: &[u8; 20], proto: u8, len: u16, family: u16, into: &mut Glance) -> Option<()> {
    into.ports = u32_at(l4, 0);
    match proto {
        TCP => {
            let (header, flags) = (u16::from(l4[12] >> 4) * 4, l4[13]);
            if header < 20 || header > len {
                return None;
            }
            into.tcp_flags = flags;
            into.expected = said(TCP, MIDST, family | LIVE);
            if UNUSUAL >> (flags & 0x3f) & 1 != 0 {
                into.expected = unusual(flags, family)?;
            }
        }
        UDP => {
            let claimed = u16::from_be(u16_at(l4, 4));
            if claimed < 8 || claimed > len {
                return None;
            }
            into.tcp_flags = 0;
            into.expected = said(UDP, MIDST, family | LIVE);
        }
        _ => return None,
    }
    Some(())
}

/// Bit n: flags n say more than that the connection goes on.
const UNUSUAL: u64 = {
    let (mut bits, mut flags) = (0, 0_u8);
    while flags < 64 {
        if flags == 0 || flags & (SYN | RST | FIN) != 0 {
            bits |= 1 << flags;
        }
        flags += 1;
    }
    bits
};

/// What opens a connection, or answers that, has a place but no flow that is in its midst. `None`: flags without a meaning.
#[cold]
fn unusual(flags: u8, family: u16) -> Option<u32> {
    match (flags & SYN != 0, flags & (RST | FIN) != 0) {
        (true, true) | (false, false) => None,
        (true, false) => Some(said(TCP, 0, LONG)),
        (false, true) => Some(said(TCP, MOVES, family | LIVE)),
    }
}

impl<S: EventSink> Turn<'_, S> {
    /// Send the packet on if all is as it always was; `None`: not everything is, and nothing was changed.
    #[inline(always)]
    pub(crate) fn short_way(&mut self, packet: &mut Packet<'_>, glance: &Glance) -> Option<PortId> {
        if S::EVERY_PACKET {
            return None;
        }
        // What is not ordinary has none; the flow of that name is never in use.
        let flow = glance.candidate;
        let side = usize::from(flow.is_reply());
        let mut entry = self.state.flows.entry(flow)?;
        let adjacency = self.tables.routing.way(entry.hot.hop(flow.is_reply()))?;
        if !fits(self.tables, &mut self.tag, packet.port, glance, adjacency) {
            return None;
        }
        let len = packet.len();
        let frame: &mut [u8; FRAME] = packet.head_mut()?;
        let ip: &mut Ip = frame[start_of(glance.vlan)..].first_chunk_mut()?;
        let asked =
            u64::from(entry.hot.generation ^ self.tables.generation) | glance.strange(entry.hot, side);
        if glance.v4 {
            let (count, is_full) = entry.hot.counted_v4(side, len);
            if asked | glance.strange_v4(entry.hot, side) | is_full != 0 {
                return None;
            }
            entry.hot.sides[side][1] = count;
            leave_v4(ip, entry.hot, side, glance);
        } else {
            if asked | differ(entry.arrives_v6(side), addresses_v6(ip)) != 0 {
                return None;
            }
            entry.count_v6(side, len);
            leave_v6(ip, &entry, side, glance);
        }
        entry.hot.seen = self.seconds;
        entry.hot.flags |= REPLIED * u16::from(flow.is_reply());
        link(frame, adjacency);
        Some(adjacency.port)
    }

    /// The same for a packet of a connection that is not in its midst, or does not stay there.
    pub(crate) fn moves_on(&mut self, packet: &mut Packet<'_>, glance: &Glance) -> Option<PortId> {
        let flow = glance.candidate;
        let hot = self.state.flows.hot(flow);
        if (hot.says() ^ glance.expected) & ASKED & !STATE != 0 {
            return None;
        }
        let before = hot.tcp();
        let port = self.short_way(packet, &glance.of(flow, before))?;
        let (hot, _) = self.state.flows.parts(flow);
        hot.tcp = before.after(glance.tcp_flags, flow.is_reply()) as u8;
        Some(port)
    }

    /// The same for the packet that opened the flow: what the flow's words are was taken from it.
    #[inline(always)]
    pub(crate) fn first_of(
        &mut self,
        packet: &mut Packet<'_>,
        glance: &Glance,
        flow: FlowRef,
    ) -> Option<PortId> {
        if S::EVERY_PACKET || !glance.ordinary {
            return None;
        }
        let mut entry = self.state.flows.entry(flow)?;
        let adjacency = self.tables.routing.way(entry.hot.hop(false))?;
        if entry.hot.is(DNS | WRAPPED | ODD)
            || !fits(self.tables, &mut self.tag, packet.port, glance, adjacency)
        {
            return None;
        }
        let len = packet.len();
        let frame: &mut [u8; FRAME] = packet.head_mut()?;
        let ip: &mut Ip = frame[start_of(glance.vlan)..].first_chunk_mut()?;
        if glance.v4 {
            (entry.hot.sides[0][1], _) = entry.hot.counted_v4(0, len);
            leave_v4(ip, entry.hot, 0, glance);
        } else {
            entry.count_v6(0, len);
            leave_v6(ip, &entry, 0, glance);
        }
        link(frame, adjacency);
        Some(adjacency.port)
    }
}

/// Is the packet small enough for this way, and does it keep its tag or stay without? A tag that comes or goes moves the frame
/// in its buffer; that is not ordinary.
#[inline(always)]
fn fits(
    tables: &Tables,
    known: &mut (PortId, u16),
    port: PortId,
    glance: &Glance,
    adjacency: &Adjacency,
) -> bool {
    glance.len <= adjacency.mtu
        && (glance.vlan | adjacency.vlan == 0
            || (glance.vlan != 0 && adjacency.vlan != 0 && knows_vlan(tables, known, (port, glance.vlan))))
}

/// The protocol, which is a part of what is expected.
#[inline(always)]
const fn proto_of(glance: &Glance) -> u8 {
    let [proto, ..] = glance.expected.to_le_bytes();
    proto
}

#[inline(always)]
const fn family(v4: bool) -> u16 {
    if v4 { V4 } else { 0 }
}

/// Is there a port for this tag, where the packet came in? The next packet of the burst has most likely the same.
#[inline(always)]
fn knows_vlan(tables: &Tables, known: &mut (PortId, u16), tag: (PortId, u16)) -> bool {
    *known == tag || has_port(tables, known, tag)
}

#[cold]
#[inline(never)]
fn has_port(tables: &Tables, known: &mut (PortId, u16), tag: (PortId, u16)) -> bool {
    let port = tables.routing.port(tag.0).and_then(|port| tables.routing.find_port(port.device, tag.1));
    if port.is_some() {
        *known = tag;
    }
    port.is_some()
}

/// New addresses and ports, one hop less, and the checksums of both headers in one step each. What leaves is what arrives
/// in the other direction, with source and destination changed over.
#[inline(always)]
fn leave_v4(ip: &mut Ip, hot: &Hot, side: usize, glance: &Glance) {
    let [ttl, proto, a, b] = [ip[8], ip[9], ip[10], ip[11]];
    let [a, b] = update(u16::from_ne_bytes([a, b]), hot.other[side]).to_ne_bytes();
    ip[8..12].copy_from_slice(&[ttl.wrapping_sub(1), proto, a, b]);
    ip[12..20].copy_from_slice(&hot.sides[1 - side][0].rotate_left(32).to_ne_bytes());
    if let Some(l4) = ip[20..].first_chunk_mut() {
        transport_leaves(l4, hot, side, glance);
    }
}

#[inline(always)]
fn leave_v6(ip: &mut Ip, entry: &Entry<'_>, side: usize, glance: &Glance) {
    let [src, dst] = entry.arrives_v6(1 - side);
    ip[7] = ip[7].wrapping_sub(1);
    for (bytes, half) in ip[8..40].chunks_exact_mut(8).zip([dst[0], dst[1], src[0], src[1]]) {
        bytes.copy_from_slice(&half.to_ne_bytes());
    }
    if let Some(l4) = ip.last_chunk_mut() {
        transport_leaves(l4, entry.hot, side, glance);
    }
}

#[inline(always)]
fn transport_leaves(l4: &mut [u8; 20], hot: &Hot, side: usize, glance: &Glance) {
    l4[..4].copy_from_slice(&hot.ports[1 - side].rotate_left(16).to_ne_bytes());
    if proto_of(glance) == TCP {
        let new = update(u16_at(l4, 16), hot.l4_deltas[side]);
        l4[16..18].copy_from_slice(&new.to_ne_bytes());
        return;
    }
    // UDP without a checksum stays without; a sum of zero is sent as its other form.
    let sum = u16_at(l4, 6);
    if sum != 0 {
        let new = update(sum, hot.l4_deltas[side]);
        l4[6..8].copy_from_slice(&(if new == 0 { 0xffff } else { new }).to_ne_bytes());
    }
}

/// A checksum after a change. Its byte order does not matter to it.
#[inline(always)]
const fn update(checksum: u16, delta: u16) -> u16 {
    // What is carried out comes in again.
    let (sum, carry) = (!checksum).overflowing_add(delta);
    !(sum + carry as u16)
}

/// The link header; the frame is tagged already if it is to be.
#[inline(always)]
fn link(frame: &mut [u8; FRAME], adjacency: &Adjacency) {
    frame[..12].copy_from_slice(&adjacency.macs);
    if adjacency.vlan != 0 {
        frame[12..14].copy_from_slice(&VLAN.to_ne_bytes());
        frame[14..16].copy_from_slice(&adjacency.vlan.to_be_bytes());
    }
}
