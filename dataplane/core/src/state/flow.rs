//! One flow, both directions: a hot cache line that every packet touches and a cold part that few do.
//!
//! Four address-and-port pairs describe a flow: packets of the original direction go from A to B and leave as C to D,
//! replies come from D to C and leave as B to A. A is the client, B what it asked for (a frontend, or the server itself),
//! C the client as the server sees it, D the server. Where nothing is translated, C is A and D is B. That is also the
//! rewrite: what leaves is the other pair, and the checksum deltas of one direction are the complement of the other's.
//!
//! B and C, where they differ, are among few addresses (frontends, NAT addresses): the entry holds their number in
//! [`super::conntrack::FlowTable`]'s list. So an IPv6 flow fits one line. An IPv4 flow needs only the first word of its
//! addresses; its counters live in the rest, and its packets touch one line.

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

/// What every packet of the flow reads and writes: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Hot {
    /// A and D. For IPv4 only the first word is an address; see [`Hot::count`] for the others. All pairs are in the order
    /// of the sides, so that a direction is an index and not a choice.
    pub outer: [[u32; 4]; 2],
    /// Numbers of B and C; 0 means "the same as D" and "the same as A".
    pub middle: [u16; 2],
    /// Ports of A and D, and of B and C.
    pub outer_ports: [u16; 2],
    pub middle_ports: [u16; 2],
    pub proto: u8,
    pub tcp: u8,
    pub flags: u16,
    pub generation: u32,
    /// Second of the last packet.
    pub seen: u32,
    /// Next hops of the original and of the reply direction.
    pub hops: [u16; 2],
    pub ip_delta: u16,
    pub l4_delta: u16,
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
    /// Packets of an IPv6 flow, original and reply. For IPv4: how often the hot count wrapped.
    pub(crate) packets: [u32; 2],
    pub(crate) bytes: [[u32; 2]; 2],
}

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

    /// Count a packet of the direction. IPv4 counts are exact without bound: what overflows the line is carried to the
    /// cold part. IPv6 packets are counted in 32 bits, their bytes in 64.
    #[inline(always)]
    pub fn count(&mut self, cold: &mut Cold, is_reply: bool, len: usize) {
        let side = usize::from(is_reply);
        if self.is(V4) {
            let words = &mut self.outer[side];
            let (packets, wrapped) = words[1].overflowing_add(1);
            words[1] = packets;
            if wrapped {
                cold.packets[side] = cold.packets[side].wrapping_add(1);
            }
            let bytes = join([words[2], words[3]]) + len as u64;
            [words[2], words[3]] = split(bytes);
        } else {
            cold.packets[side] = cold.packets[side].wrapping_add(1);
            cold.bytes[side] = split(join(cold.bytes[side]) + len as u64);
        }
    }

    /// Packets and bytes so far, original and reply.
    pub fn counts(&self, cold: &Cold) -> ([u64; 2], [u64; 2]) {
        if self.is(V4) {
            let side = |words: &[u32; 4], carried: u32| {
                (u64::from(carried) << 32 | u64::from(words[1]), join([words[2], words[3]]))
            };
            let [a, d] = &self.outer;
            let (original, reply) = (side(a, cold.packets[0]), side(d, cold.packets[1]));
            ([original.0, reply.0], [original.1, reply.1])
        } else {
            (cold.packets.map(u64::from), cold.bytes.map(join))
        }
    }

    /// Start from these totals (a flow that outlived its process).
    #[expect(clippy::cast_possible_truncation, reason = "split into halves on purpose")]
    pub fn set_counts(&mut self, cold: &mut Cold, packets: [u64; 2], bytes: [u64; 2]) {
        if self.is(V4) {
            for (side, words) in self.outer.iter_mut().enumerate() {
                words[1] = packets[side] as u32;
                cold.packets[side] = (packets[side] >> 32) as u32;
                [words[2], words[3]] = split(bytes[side]);
            }
        } else {
            cold.packets = packets.map(|n| n as u32);
            cold.bytes = bytes.map(split);
        }
    }

    #[inline]
    pub fn deltas(&self, is_reply: bool) -> (Delta, Delta) {
        let (ip, l4) = (Delta(self.ip_delta), Delta(self.l4_delta));
        if is_reply { (ip.reverse(), l4.reverse()) } else { (ip, l4) }
    }

    #[inline]
    pub fn hop(&self, is_reply: bool) -> NextHopId {
        NextHopId(self.hops[usize::from(is_reply)])
    }
}

impl Cold {
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

/// An address as four words in packet order; IPv4 is the first of them.
#[inline]
pub fn words(ip: Ipv6Addr, v4: bool) -> [u32; 4] {
    let o = ip.octets();
    let word = |at: usize| u32::from_ne_bytes([o[at], o[at + 1], o[at + 2], o[at + 3]]);
    if v4 { [word(12), 0, 0, 0] } else { [word(0), word(4), word(8), word(12)] }
}

/// The way back from [`words`].
#[inline]
pub fn address(words: [u32; 4], v4: bool) -> Ipv6Addr {
    let mut o = [0; 16];
    if v4 {
        o[10] = 0xff;
        o[11] = 0xff;
        o[12..].copy_from_slice(&words[0].to_ne_bytes());
    } else {
        for (bytes, word) in o.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }
    o.into()
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
