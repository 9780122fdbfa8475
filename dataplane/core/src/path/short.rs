//! The short way: a packet like nearly all packets, of a flow that is known and still allowed, is recognised, rewritten
//! and sent on here, with nothing built that it does not need.
//!
//! [`glance`] accepts only what needs no thought (TCP and UDP, no options, no fragments, no extension headers), and
//! [`Turn::short_way`] takes such a packet only if nothing about its flow is out of the ordinary. Neither changes
//! anything before it is sure. All else goes the long way, which decides the same for these packets; a law in the tests
//! holds the two together.

use super::Turn;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::{Packet, PortId};
use crate::parse::{ETHERNET, FIN, Headers, Kind, RST, SYN, TCP, UDP};
use crate::state::conntrack::{FlowRef, Place};
use crate::state::flow::{self, REPLIED, TRANSLATED};
use crate::tables::Tables;
use crate::tables::nexthop::Adjacency;

const TAG: usize = 4;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

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
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (l3, vlan, ethertype) = match half(12) {
        VLAN => (ETHERNET + TAG, half(14) & 0x0fff, half(16)),
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
    let fair = |first: u8| first.wrapping_sub(1) < 223 && first != 127;
    // The sum of all words is all ones, in the arithmetic where that is zero.
    if ip[0] != 0x45
        || fragment & 0x3fff != 0
        || !sum.is_multiple_of(0xffff)
        || !fair(ip[12])
        || !fair(ip[16])
    {
        return None;
    }
    transport(l4.get(..total.checked_sub(20)?)?, ip[9], into)?;
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

/// Bit n: a segment with flags n says nothing that has a meaning.
const NONSENSE: u64 = {
    let (mut bits, mut flags) = (0, 0_u8);
    while flags < 64 {
        if flags == 0 || flags & (SYN | FIN) == SYN | FIN || flags & (SYN | RST) == SYN | RST {
            bits |= 1 << flags;
        }
        flags += 1;
    }
    bits
};

/// Ports, and the checks that the long way makes.
#[inline(always)]
fn transport(l4: &[u8], proto: u8, into: &mut Glance) -> Option<()> {
    let first: &[u8; 8] = l4.first_chunk()?;
    match proto {
        TCP => {
            let header: &[u8; 20] = l4.first_chunk()?;
            let (offset, flags) = (usize::from(header[12] >> 4) * 4, header[13]);
            if NONSENSE >> (flags & 0x3f) & 1 != 0 || offset < 20 || offset > l4.len() {
                return None;
            }
            into.tcp_flags = flags;
        }
        UDP => {
            let claimed = usize::from(u16::from_be_bytes([first[4], first[5]]));
            if claimed < 8 || claimed > l4.len() {
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
        // What is not ordinary has none.
        if S::EVERY_PACKET || flow == FlowRef::NONE {
            return None;
        }
        let is_reply = flow.is_reply();
        // What opens a connection, or answers that.
        let opens = glance.tcp_flags & SYN != 0;
        let mut entry = self.state.flows.entry_of(flow, glance)?;
        let adjacency = self.tables.routing.adjacency(entry.hot.hop(is_reply))?;
        if entry.hot.generation != self.tables.generation
            || opens
            || glance.ttl <= 1
            || glance.end - u16::from(glance.l3) > adjacency.mtu
        {
            return None;
        }
        // A tag that comes or goes moves the frame in its buffer; that is not ordinary.
        if glance.vlan | adjacency.vlan != 0
            && (glance.vlan == 0 || adjacency.vlan == 0 || !knows_vlan(self.tables, packet, glance.vlan))
        {
            return None;
        }
        entry.hot.seen = self.seconds;
        if is_reply {
            entry.hot.flags |= REPLIED;
        }
        if glance.proto == TCP {
            entry.hot.track(glance.tcp_flags, is_reply);
        }
        entry.count(is_reply, packet.len());
        let (ip_delta, l4_delta) = entry.hot.deltas(is_reply);
        let frame = packet.bytes_mut();
        if entry.hot.is(TRANSLATED) {
            rewrite(frame, glance, &entry.leaves(is_reply), ip_delta.0, l4_delta.0);
        } else {
            one_hop_less(frame, glance);
        }
        link(frame, adjacency);
        Some(adjacency.port)
    }
}

fn knows_vlan(tables: &Tables, packet: &Packet<'_>, vlan: u16) -> bool {
    let routing = &tables.routing;
    routing.port(packet.port).is_some_and(|port| routing.find_port(port.device, vlan).is_some())
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
fn rewrite(frame: &mut [u8], glance: &Glance, to: &Leaves<'_>, ip_delta: u16, l4_delta: u16) {
    let Some(ip) = frame.get_mut(usize::from(glance.l3)..) else { return };
    // As many bytes as any ordinary packet has behind its link header, so that one comparison is enough for all of them.
    if glance.v4 {
        let Some((header, l4)) = ip.split_first_chunk_mut::<28>() else { return };
        header[8] = glance.ttl - 1;
        let sum = update(u16::from_be_bytes([header[10], header[11]]), ip_delta, HOP);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header[12..16].copy_from_slice(&to.src[0].to_ne_bytes());
        header[16..20].copy_from_slice(&to.dst[0].to_ne_bytes());
        let Some(ports) = header.last_chunk_mut::<8>() else { return };
        transport_leaves(ports, l4, glance, to, l4_delta);
    } else {
        let Some((header, l4)) = ip.split_first_chunk_mut::<48>() else { return };
        header[7] = glance.ttl - 1;
        for (bytes, word) in header[8..40].chunks_exact_mut(4).zip(to.src.iter().chain(to.dst)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let Some(ports) = header.last_chunk_mut::<8>() else { return };
        transport_leaves(ports, l4, glance, to, l4_delta);
    }
}

/// Ports and checksum; `rest` is what follows the first eight bytes of the transport header.
#[inline(always)]
fn transport_leaves(first: &mut [u8; 8], rest: &mut [u8], glance: &Glance, to: &Leaves<'_>, delta: u16) {
    first[0..2].copy_from_slice(&to.sport.to_be_bytes());
    first[2..4].copy_from_slice(&to.dport.to_be_bytes());
    if glance.proto == UDP {
        let sum = u16::from_be_bytes([first[6], first[7]]);
        // Without a checksum it stays without; a sum of zero is sent as its other form.
        if sum != 0 {
            let new = update(sum, delta, 0);
            first[6..8].copy_from_slice(&(if new == 0 { 0xffff } else { new }).to_be_bytes());
        }
    } else if let Some(header) = rest.first_chunk_mut::<10>() {
        let sum = u16::from_be_bytes([header[8], header[9]]);
        header[8..10].copy_from_slice(&update(sum, delta, 0).to_be_bytes());
    }
}

/// What one hop less does to the sum over the word of TTL and protocol.
const HOP: u16 = 0xfeff;

#[inline(always)]
fn one_hop_less(frame: &mut [u8], glance: &Glance) {
    let Some(ip) = frame.get_mut(usize::from(glance.l3)..).and_then(|ip| ip.first_chunk_mut::<12>()) else {
        return;
    };
    if glance.v4 {
        ip[8] = glance.ttl - 1;
        let sum = update(u16::from_be_bytes([ip[10], ip[11]]), 0, HOP);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        ip[7] = glance.ttl - 1;
    }
}

/// One's complement addition: what is carried out comes in again.
#[inline(always)]
const fn plus(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// A checksum after two changes.
#[inline(always)]
const fn update(checksum: u16, one: u16, two: u16) -> u16 {
    !plus(plus(!checksum, one), two)
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
        tag[12..14].copy_from_slice(&VLAN.to_be_bytes());
        tag[14..16].copy_from_slice(&adjacency.vlan.to_be_bytes());
    }
}
