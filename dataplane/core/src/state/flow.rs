//! One flow, both directions: a hot cache line that every packet touches and a cold part that few do.
//!
//! Four address-and-port pairs describe a flow: packets of the original direction go from A to B and leave as C to D,
//! replies come from D to C and leave as B to A. A is the client, B what it asked for (a frontend, or the server itself),
//! C the client as the server sees it, D the server. Where nothing is translated, C is A and D is B. That is also the
//! rewrite: packets of one direction leave as those of the other arrive, with source and destination changed over.
//!
//! An IPv4 flow has room for all four addresses and for its counts in one line. Of an IPv6 flow the line holds A and D.
//! B and C, where they differ, are among few addresses (frontends, NAT addresses): the entry holds their number in
//! [`super::conntrack::FlowTable`]'s list. Its counts are in the cold part.

use core::net::Ipv6Addr;

use super::tcp::TcpState;
use crate::checksum::Delta;
use crate::flow_key::FlowKey;
use crate::parse::{FIN, RST};
use crate::tables::record::{BackendId, Dispatch, RuleId, ServiceId};
use crate::verdict::NextHopId;

/// The entry describes an IPv4 flow.
pub const V4: u16 = 1;
/// Addresses or ports are translated.
pub const TRANSLATED: u16 = 2;
/// A reply has been seen.
pub const REPLIED: u16 = 4;
/// Policy would have denied it; audit mode lets it pass.
pub const AUDIT: u16 = 8;
/// The entry is in use.
pub const LIVE: u16 = 16;
/// The server is a backend of a service: if it goes, so does the flow.
pub const SERVICE: u16 = 32;
/// Its source is translated to a port of ours.
pub const SOURCE: u16 = 64;
/// The backend is told of the service and answers the client directly. The entry holds what the client sees, in both
/// directions; which backend it is follows from the service. By an option of the IP header, unless one of the next two
/// is set as well.
pub const WRAPPED: u16 = 128;
/// … in Geneve.
pub const IN_GENEVE: u16 = 256;
/// … in plain IP.
pub const IN_IP: u16 = 512;
/// Its client's packets came in a tunnel (in Geneve or in IP, as above); replies go out without.
pub const TOLD: u16 = 1024;
/// A DNS rule hears what is asked on it: every packet goes the long way, because it never remembers a next hop.
pub const DNS: u16 = 2048;

/// Something about its addresses is such that every packet is to be looked at closely.
pub const ODD: u16 = 4096;

/// What every packet of the flow reads and writes: one cache line. Pairs are in the order of the directions, so that a
/// direction is an index and not a choice. Addresses, ports and sums are as they stand in packets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Hot {
    /// IPv4, by direction: source and destination of what arrives ([`pair`]), and its count (see [`Hot::count`]). IPv6: A
    /// and D.
    pub sides: [[u64; 2]; 2],
    /// By direction: source and destination port of what arrives.
    pub ports: [u32; 2],
    /// IPv4, by direction: what addresses that change, and one hop less, add to the header's sum. IPv6: the numbers of B
    /// and C; 0 means "the same as D" and "the same as A".
    pub other: [u16; 2],
    /// By direction: what the change adds to the transport's sum.
    pub l4_deltas: [u16; 2],
    pub proto: u8,
    /// Established for all that is not TCP.
    pub tcp: u8,
    pub flags: u16,
    pub generation: u32,
    /// Second of the last packet.
    pub seen: u32,
    /// Next hops of the original and of the reply direction.
    pub hops: [u16; 2],
}

/// The rest.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Cold {
    pub created: u32,
    pub egress_rule: u32,
    pub ingress_rule: u32,
    pub service: u32,
    pub backend: u32,
    /// Packets, original and reply; for IPv4: what was carried here, in units of [`CARRIED_PACKETS`].
    pub(crate) packets: [u32; 2],
    /// Bytes; for IPv4: what was carried here.
    pub(crate) bytes: [[u32; 2]; 2],
}

/// An IPv4 flow counts bytes in the low bits of a word and packets in the rest. The topmost bit of either is a guard: where
/// one is set, what it stands for is carried to the cold part.
const PACKET: u32 = 40;
const CARRIED_BYTES: u64 = 1 << (PACKET - 1);
const CARRIED_PACKETS: u64 = 1 << (63 - PACKET);
const GUARDS: u64 = CARRIED_BYTES | CARRIED_PACKETS << PACKET;

const _: () = assert!(size_of::<Hot>() == 64 && size_of::<Cold>() <= 44);

impl Hot {
    #[inline]
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// How the backend is told, if it answers directly.
    pub fn dispatch(&self) -> Option<Dispatch> {
        self.is(WRAPPED).then(|| self.told_by())
    }

    /// The form of what is told, by us or to us.
    pub fn told_by(&self) -> Dispatch {
        match (self.is(IN_IP), self.is(IN_GENEVE)) {
            (true, _) => Dispatch::Ipip,
            (false, true) => Dispatch::Geneve,
            (false, false) => Dispatch::Option,
        }
    }

    #[inline]
    pub fn tcp(&self) -> TcpState {
        TcpState::from_number(self.tcp)
    }

    /// Follow the connection; in the midst of one there is nothing to follow.
    #[inline(always)]
    pub fn track(&mut self, flags: u8, is_reply: bool) {
        if self.tcp != TcpState::Established as u8 || flags & (RST | FIN) != 0 {
            self.tcp = self.tcp().after(flags, is_reply) as u8;
        }
    }

    /// Count a packet of the direction. IPv4 counts are exact without bound; IPv6 packets are counted in 32 bits.
    #[inline(always)]
    pub fn count(&mut self, cold: &mut Cold, is_reply: bool, len: usize) {
        let side = usize::from(is_reply);
        if !self.is(V4) {
            return cold.count(side, len);
        }
        let (count, is_full) = self.counted_v4(side, len);
        self.sides[side][1] = count & !GUARDS;
        if is_full != 0 {
            cold.packets[side] = cold.packets[side].wrapping_add(u32::from(count >> 63 != 0));
            cold.bytes[side] = split(join(cold.bytes[side]) + (count & CARRIED_BYTES));
        }
    }

    /// The count of an IPv4 flow with one packet more; not zero: something of it is to be carried.
    #[inline(always)]
    pub(crate) fn counted_v4(&self, side: usize, len: usize) -> (u64, u64) {
        let count = self.sides[side][1].wrapping_add(len as u64 | 1 << PACKET);
        (count, count & GUARDS)
    }

    /// Packets and bytes so far, original and reply.
    pub fn counts(&self, cold: &Cold) -> ([u64; 2], [u64; 2]) {
        let (packets, bytes) = (cold.packets.map(u64::from), cold.bytes.map(join));
        if !self.is(V4) {
            return (packets, bytes);
        }
        let here = self.sides.map(|[_, count]| count);
        (
            [0, 1].map(|side| packets[side] * CARRIED_PACKETS + (here[side] >> PACKET)),
            [0, 1].map(|side| bytes[side] + (here[side] & (CARRIED_BYTES - 1))),
        )
    }

    /// Start from these totals (a flow that outlived its process).
    #[expect(clippy::cast_possible_truncation, reason = "split into halves on purpose")]
    pub fn set_counts(&mut self, cold: &mut Cold, packets: [u64; 2], bytes: [u64; 2]) {
        for side in [0, 1] {
            let (mut packets, mut bytes) = (packets[side], bytes[side]);
            if self.is(V4) {
                let (more, most) = (packets % CARRIED_PACKETS, bytes % CARRIED_BYTES);
                self.sides[side][1] = more << PACKET | most;
                (packets, bytes) = (packets / CARRIED_PACKETS, bytes - most);
            }
            cold.packets[side] = packets as u32;
            cold.bytes[side] = split(bytes);
        }
    }

    /// What leaving in this direction does to the sums of both headers. (For IPv4 with the hop in it.)
    #[inline]
    pub fn deltas(&self, is_reply: bool) -> (Delta, Delta) {
        let side = usize::from(is_reply);
        let ip = if self.is(V4) { self.other[side] } else { 0 };
        (Delta(u16::from_be(ip)), Delta(u16::from_be(self.l4_deltas[side])))
    }

    /// Protocol, state and flags in one word, for those who compare several of them at once.
    #[inline(always)]
    pub(crate) fn says(&self) -> u32 {
        said(self.proto, self.tcp, self.flags)
    }

    #[inline]
    pub fn hop(&self, is_reply: bool) -> NextHopId {
        NextHopId(self.hops[usize::from(is_reply)])
    }
}

/// See [`Hot::says`].
#[inline(always)]
pub(crate) const fn said(proto: u8, tcp: u8, flags: u16) -> u32 {
    proto as u32 | (tcp as u32) << 8 | (flags as u32) << 16
}

impl Cold {
    #[inline(always)]
    pub(crate) fn count(&mut self, side: usize, len: usize) {
        self.packets[side] = self.packets[side].wrapping_add(1);
        self.bytes[side] = split(join(self.bytes[side]) + len as u64);
    }

    pub fn rules(&self) -> (RuleId, RuleId) {
        (RuleId(self.egress_rule), RuleId(self.ingress_rule))
    }

    pub fn service(&self) -> (ServiceId, BackendId) {
        (ServiceId(self.service), BackendId(self.backend))
    }
}

#[inline]
fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[expect(clippy::cast_possible_truncation, reason = "split into halves on purpose")]
#[inline]
fn split(n: u64) -> [u32; 2] {
    [n as u32, (n >> 32) as u32]
}

/// The IPv4 addresses of a key as they stand side by side in a packet. (This and what follows by shifts of whole words: put
/// together from bytes, each byte is moved for itself.)
#[inline]
pub fn pair(src: Ipv6Addr, dst: Ipv6Addr) -> u64 {
    (u64::from(low(src)) << 32 | u64::from(low(dst))).to_be()
}

/// The IPv4 address in a key.
#[expect(clippy::cast_possible_truncation, reason = "it is the low end")]
#[inline(always)]
pub(crate) const fn low(ip: Ipv6Addr) -> u32 {
    ip.to_bits() as u32
}

/// What IPv4 addresses have before them in a key.
const MAPPED: u128 = 0xffff_0000_0000;

/// The way back from [`pair`].
#[inline]
pub fn addresses(pair: u64) -> (Ipv6Addr, Ipv6Addr) {
    let pair = u64::from_be(pair);
    let ip = |address: u64| Ipv6Addr::from_bits(MAPPED | u128::from(address & 0xffff_ffff));
    (ip(pair >> 32), ip(pair))
}

/// An IPv6 address as it stands in a packet.
#[expect(clippy::cast_possible_truncation, reason = "splits 128 bits into halves")]
#[inline]
pub fn halves(ip: Ipv6Addr) -> [u64; 2] {
    let bits = ip.to_bits();
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

/// The way back from [`halves`].
#[inline]
pub fn address(halves: [u64; 2]) -> Ipv6Addr {
    let [high, low] = halves.map(|half| u128::from(u64::from_be(half)));
    Ipv6Addr::from_bits(high << 64 | low)
}

/// Two ports as they stand in a packet.
#[inline]
pub const fn ports(sport: u16, dport: u16) -> u32 {
    ((sport as u32) << 16 | dport as u32).to_be()
}

/// The way back from [`ports`].
#[expect(clippy::cast_possible_truncation, reason = "splits 32 bits into halves")]
#[inline]
pub const fn two_ports(ports: u32) -> (u16, u16) {
    let ports = u32::from_be(ports);
    ((ports >> 16) as u16, ports as u16)
}

/// A flow as others than the path see it: the keys of its two forms.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// A to B.
    pub original: FlowKey,
    /// C to D.
    pub translated: FlowKey,
}

/// How long a flow lives without packets, in seconds. Established TCP is what Cilium uses (8000 s); the rest is near
/// what Linux's conntrack uses, shorter where an attacker could profit.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub tcp_half_open: u32,
    pub tcp_established: u32,
    pub tcp_closing: u32,
    pub tcp_over: u32,
    pub udp: u32,
    pub udp_replied: u32,
    pub icmp: u32,
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: 30,
            tcp_established: 8000,
            tcp_closing: 60,
            tcp_over: 10,
            udp: 30,
            udp_replied: 120,
            icmp: 30,
            other: 60,
        }
    }
}

impl Timeouts {
    pub fn of(&self, hot: &Hot) -> u32 {
        match hot.proto {
            crate::parse::TCP => match hot.tcp() {
                TcpState::SynSent | TcpState::SynReceived => self.tcp_half_open,
                TcpState::Established => self.tcp_established,
                TcpState::ClosingOriginal | TcpState::ClosingReply => self.tcp_closing,
                TcpState::Closed | TcpState::Reset => self.tcp_over,
            },
            // Replies that take another way are not waited for.
            crate::parse::UDP if hot.is(REPLIED | WRAPPED) => self.udp_replied,
            crate::parse::UDP => self.udp,
            crate::parse::ICMP | crate::parse::ICMPV6 => self.icmp,
            _ => self.other,
        }
    }
}
