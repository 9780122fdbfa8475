//! The short way: a packet like nearly all packets, of a flow that is known and still allowed, is recognised, rewritten
//! and sent on here, with nothing built that it does not need.
//!
//! [`glance`] accepts only what needs no thought (TCP and UDP, no options, no fragments, no extension headers), and
//! [`Turn::short_way`] takes such a packet only if nothing about its flow is out of the ordinary. Neither changes
//! anything before it is sure. All else goes the long way, which decides the same for these packets; a law in the tests
//! holds the two together.

use super::Turn;
use crate::checksum::fold64;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::{Packet, PortId};
use crate::parse::{ETHERNET, FIN, Headers, Kind, RST, SYN, TCP, UDP};
use crate::state::conntrack::{FlowRef, Place};
use crate::state::flow::{self, REPLIED, TRANSLATED};
use crate::tables::nexthop::Adjacency;

const TAG: usize = 4;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const VLAN: [u8; 2] = [0x81, 0x00];

/// What the path needs to know of an ordinary packet, addresses as flows hold them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Glance {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub place: Place,
    pub candidate: FlowRef,
    pub sport: u16,
    pub dport: u16,
    vlan: u16,
    /// Where the IP packet ends.
    end: u16,
    pub proto: u8,
    ttl: u8,
    tcp_flags: u8,
    l3: u8,
    pub v4: bool,
    dont_fragment: bool,
    /// It is an ordinary packet; if not, the rest says nothing.
    pub ordinary: bool,
}

impl Glance {
    /// Not looked yet.
    pub(crate) const BLANK: Self = Self {
        src: [0; 4],
        dst: [0; 4],
        place: Place::NOWHERE,
        candidate: FlowRef::NONE,
        sport: 0,
        dport: 0,
        vlan: 0,
        end: 0,
        proto: 0,
        ttl: 0,
        tcp_flags: 0,
        l3: 0,
        v4: false,
        dont_fragment: false,
        ordinary: false,
    };

    /// The same for those who need it in full.
    pub(crate) fn headers(&self) -> Headers {
        let l3 = u16::from(self.l3);
        Headers {
            key: self.key(),
            vlan: self.vlan,
            l3,
            l4: l3 + if self.v4 { 20 } else { 40 },
            end: self.end,
            ttl: self.ttl,
            tcp_flags: self.tcp_flags,
            icmp: (0, 0),
            kind: Kind::Ports,
            dont_fragment: self.dont_fragment,
            fragment: None,
        }
    }

    fn key(&self) -> FlowKey {
        FlowKey {
            src: flow::address(self.src, self.v4),
            dst: flow::address(self.dst, self.v4),
            sport: self.sport,
            dport: self.dport,
            proto: self.proto,
            v4: self.v4,
        }
    }
}

/// Read an ordinary packet into its place between the phases, field by field: a value passed around would be written in
/// small pieces and read back in large ones, which stalls. `None`: it is not ordinary.
#[inline(always)]
pub(crate) fn glance(bytes: &[u8], into: &mut Glance) -> Option<()> {
    let head: &[u8; ETHERNET + TAG] = bytes.first_chunk()?;
    let (l3, vlan, ethertype) = match [head[12], head[13]] {
        VLAN => (ETHERNET + TAG, u16::from_be_bytes([head[14] & 0x0f, head[15]]), [head[16], head[17]]),
        ethertype => (ETHERNET, 0, ethertype),
    };
    // A tag without a VLAN id is not ordinary.
    if l3 != ETHERNET && vlan == 0 {
        return None;
    }
    let ip = bytes.get(l3..)?;
    let len = match ethertype {
        IPV4 => ipv4(ip, into)?,
        IPV6 => ipv6(ip, into)?,
        _ => return None,
    };
    into.l3 = l3.to_le_bytes()[0];
    into.vlan = vlan;
    into.end = u16::try_from(l3 + len).ok()?;
    into.ordinary = true;
    Some(())
}

#[inline(always)]
fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_ne_bytes(*bytes)
}

/// The length of the IP packet.
#[inline(always)]
fn ipv4(bytes: &[u8], into: &mut Glance) -> Option<usize> {
    let (ip, l4) = bytes.split_first_chunk::<20>()?;
    let (words, _) = ip.as_chunks::<4>();
    let words: &[[u8; 4]; 5] = words.first_chunk()?;
    let sum: u64 = words.iter().map(|w| u64::from(word(w))).sum();
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    // Sources and destinations that may be on a wire: neither 0, nor 127, nor 224 and above.
    let fair = |first: u8| first != 0 && first != 127 && first < 224;
    let ordinary = ip[0] == 0x45
        && (20..=bytes.len()).contains(&total)
        && fragment & 0x3fff == 0
        && fold64(sum) == 0xffff
        && fair(ip[12])
        && fair(ip[16]);
    if !ordinary {
        return None;
    }
    transport(l4.get(..total - 20)?, ip[9], into)?;
    into.src[0] = word(&words[3]);
    into.dst[0] = word(&words[4]);
    into.v4 = true;
    into.ttl = ip[8];
    into.dont_fragment = fragment & 0x4000 != 0;
    Some(total)
}

/// The length of the IP packet.
#[inline(always)]
fn ipv6(bytes: &[u8], into: &mut Glance) -> Option<usize> {
    let (ip, l4) = bytes.split_first_chunk::<40>()?;
    let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    // Global and unique local unicast.
    let fair = |first: u8| first & 0xe0 == 0x20 || first & 0xfe == 0xfc;
    if ip[0] >> 4 != 6 || !fair(ip[8]) || !fair(ip[24]) {
        return None;
    }
    transport(l4.get(..payload)?, ip[6], into)?;
    let (words, _) = ip.as_chunks::<4>();
    let words: &[[u8; 4]; 10] = words.first_chunk()?;
    into.src = [word(&words[2]), word(&words[3]), word(&words[4]), word(&words[5])];
    into.dst = [word(&words[6]), word(&words[7]), word(&words[8]), word(&words[9])];
    into.v4 = false;
    into.ttl = ip[7];
    into.dont_fragment = true;
    Some(40 + payload)
}

/// Ports, and the checks that the long way makes.
#[inline(always)]
fn transport(l4: &[u8], proto: u8, into: &mut Glance) -> Option<()> {
    let first: &[u8; 8] = l4.first_chunk()?;
    match proto {
        TCP => {
            let header: &[u8; 20] = l4.first_chunk()?;
            let (offset, flags) = (usize::from(header[12] >> 4) * 4, header[13]);
            let nonsense =
                flags & (SYN | FIN) == SYN | FIN || flags & (SYN | RST) == SYN | RST || flags & 0x3f == 0;
            if nonsense || !(20..=l4.len()).contains(&offset) {
                return None;
            }
            into.tcp_flags = flags;
        }
        UDP => {
            let claimed = usize::from(u16::from_be_bytes([first[4], first[5]]));
            if !(8..=l4.len()).contains(&claimed) {
                return None;
            }
            into.tcp_flags = 0;
        }
        _ => return None,
    }
    into.proto = proto;
    into.sport = u16::from_be_bytes([first[0], first[1]]);
    into.dport = u16::from_be_bytes([first[2], first[3]]);
    Some(())
}

impl<S: EventSink> Turn<'_, S> {
    /// Send the packet on if all is as it always was; `None`: not everything is, and nothing was changed.
    #[inline(always)]
    pub(crate) fn short_way(&mut self, packet: &mut Packet<'_>, glance: &Glance) -> Option<PortId> {
        let flow = glance.candidate;
        if S::EVERY_PACKET
            || flow == FlowRef::NONE
            || !self.state.config.short
            || !self.state.flows.is_of(flow, glance)
        {
            return None;
        }
        let is_reply = flow.is_reply();
        let hot = self.state.flows.hot(flow);
        // What opens a connection, or answers that.
        let opens = glance.tcp_flags & SYN != 0;
        let adjacency = *self.tables.routing.adjacency(hot.hop(is_reply))?;
        let ordinary = hot.generation == self.tables.generation
            && !opens
            && glance.ttl > 1
            && glance.end - u16::from(glance.l3) <= adjacency.mtu
            && (adjacency.vlan != 0) == (glance.vlan != 0);
        if !ordinary || (glance.vlan != 0 && !self.knows_vlan(packet, glance.vlan)) {
            return None;
        }
        let now = self.now.seconds();
        let (hot, cold) = self.state.flows.parts(flow);
        hot.seen = now;
        if is_reply {
            hot.flags |= REPLIED;
        }
        if glance.proto == TCP {
            hot.tcp = hot.tcp().after(glance.tcp_flags, is_reply) as u8;
        }
        hot.count(cold, is_reply, packet.len());
        let (ip_delta, l4_delta) = hot.deltas(is_reply);
        if hot.is(TRANSLATED) {
            let to = self.state.flows.leaves(flow);
            rewrite(packet.bytes_mut(), glance, &to, ip_delta.0, l4_delta.0);
        } else {
            one_hop_less(packet.bytes_mut(), glance, 0);
        }
        link(packet.bytes_mut(), &adjacency);
        Some(adjacency.port)
    }

    fn knows_vlan(&self, packet: &Packet<'_>, vlan: u16) -> bool {
        let routing = &self.tables.routing;
        routing.port(packet.port).is_some_and(|port| routing.find_port(port.device, vlan).is_some())
    }
}

/// Addresses and ports that a packet leaves with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaves<'a> {
    pub src: &'a [u32; 4],
    pub dst: &'a [u32; 4],
    pub sport: u16,
    pub dport: u16,
}

/// New addresses and ports, one hop less, and the checksums of both headers in one step each.
#[inline(always)]
fn rewrite(bytes: &mut [u8], glance: &Glance, to: &Leaves<'_>, ip_delta: u16, l4_delta: u16) {
    one_hop_less(bytes, glance, ip_delta);
    let Some(ip) = bytes.get_mut(usize::from(glance.l3)..) else { return };
    let l4 = if glance.v4 {
        let Some((header, l4)) = ip.split_first_chunk_mut::<20>() else { return };
        header[12..16].copy_from_slice(&to.src[0].to_ne_bytes());
        header[16..20].copy_from_slice(&to.dst[0].to_ne_bytes());
        l4
    } else {
        let Some((header, l4)) = ip.split_first_chunk_mut::<40>() else { return };
        for (bytes, word) in header[8..].chunks_exact_mut(4).zip(to.src.iter().chain(to.dst)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        l4
    };
    let Some(ports) = l4.first_chunk_mut::<8>() else { return };
    ports[0..2].copy_from_slice(&to.sport.to_be_bytes());
    ports[2..4].copy_from_slice(&to.dport.to_be_bytes());
    if glance.proto == UDP {
        let sum = u16::from_be_bytes([ports[6], ports[7]]);
        // Without a checksum it stays without; a sum of zero is sent as its other form.
        if sum != 0 {
            let new = update(sum, l4_delta, 0);
            ports[6..8].copy_from_slice(&(if new == 0 { 0xffff } else { new }).to_be_bytes());
        }
    } else if let Some(header) = l4.first_chunk_mut::<18>() {
        let sum = u16::from_be_bytes([header[16], header[17]]);
        header[16..18].copy_from_slice(&update(sum, l4_delta, 0).to_be_bytes());
    }
}

/// What one hop less does to the sum over the word of TTL and protocol.
const HOP: u16 = 0xfeff;

#[inline(always)]
fn one_hop_less(bytes: &mut [u8], glance: &Glance, ip_delta: u16) {
    let Some(ip) = bytes.get_mut(usize::from(glance.l3)..).and_then(|ip| ip.first_chunk_mut::<12>()) else {
        return;
    };
    if glance.v4 {
        ip[8] = glance.ttl - 1;
        let sum = update(u16::from_be_bytes([ip[10], ip[11]]), ip_delta, HOP);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        ip[7] = glance.ttl - 1;
    }
}

/// A checksum after two changes.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "folded below 2^16")]
const fn update(checksum: u16, one: u16, two: u16) -> u16 {
    let sum = !checksum as u32 + one as u32 + two as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The link header; the frame is tagged already if it is to be.
#[inline(always)]
fn link(bytes: &mut [u8], adjacency: &Adjacency) {
    if let Some(macs) = bytes.first_chunk_mut::<12>() {
        *macs = adjacency.macs;
    }
    if adjacency.vlan != 0
        && let Some(tag) = bytes.first_chunk_mut::<16>()
    {
        tag[12..14].copy_from_slice(&VLAN);
        tag[14..16].copy_from_slice(&adjacency.vlan.to_be_bytes());
    }
}
