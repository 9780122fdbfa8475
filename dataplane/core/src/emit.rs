//! Packets that we originate: whole frames for tests and tools, and answers built over the packet that caused them.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use crate::checksum;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{ACK, Headers, ICMP, ICMPV6, Kind, RST, SYN, TCP, UDP};
use crate::rewrite;

/// An ICMP error of ours, in the terms of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    TimeExceeded,
    /// The largest packet that would fit.
    TooBig(u16),
    NoRoute,
    Prohibited,
    PortUnreachable,
}

impl Error {
    const fn v4(self) -> (u8, u8) {
        match self {
            Self::TimeExceeded => (11, 0),
            Self::TooBig(_) => (3, 4),
            Self::NoRoute => (3, 0),
            Self::Prohibited => (3, 13),
            Self::PortUnreachable => (3, 3),
        }
    }

    const fn v6(self) -> (u8, u8) {
        match self {
            Self::TimeExceeded => (3, 0),
            Self::TooBig(_) => (2, 0),
            Self::NoRoute => (1, 0),
            Self::Prohibited => (1, 1),
            Self::PortUnreachable => (1, 4),
        }
    }
}

/// Turn the packet into an ICMP error about itself, from `source` (of the packet's family) back to its sender. False
/// if there must be none (RFC 1122, RFC 4443: no errors about errors, later fragments, or to nobody), or no room.
#[must_use]
pub fn icmp_error(packet: &mut Packet<'_>, headers: &Headers, error: Error, source: IpAddr) -> bool {
    if headers.kind == Kind::IcmpError
        || headers.kind == Kind::LaterFragment
        || source.is_ipv4() != headers.key.v4
    {
        return false;
    }
    let (l3, end) = (usize::from(headers.l3), usize::from(headers.end));
    // As much of the packet as the error may carry: 576 bytes in all for IPv4, 1280 for IPv6.
    let (header, most) = if headers.key.v4 { (20, 576) } else { (40, 1280) };
    let quote = (end - l3).min(most - header - 8);
    let total = header + 8 + quote;
    if !packet.set_len(l3 + total) {
        return false;
    }
    let bytes = packet.bytes_mut();
    bytes.copy_within(l3..l3 + quote, l3 + header + 8);
    let to = FlowKey {
        src: mapped(source),
        dst: headers.key.src,
        sport: 0,
        dport: 0,
        proto: if headers.key.v4 { ICMP } else { ICMPV6 },
        v4: headers.key.v4,
    };
    ip_header(&mut bytes[l3..], &to, 8 + quote, 64);
    let l4 = l3 + header;
    let (kind, code) = if to.v4 { error.v4() } else { error.v6() };
    bytes[l4..l4 + 8].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    if let Error::TooBig(mtu) = error {
        bytes[l4 + 6..l4 + 8].copy_from_slice(&mtu.to_be_bytes());
    }
    rewrite::fill_icmp(bytes, l4, l3 + total, &to);
    swap_macs(bytes);
    true
}

/// Turn a TCP segment into the reset that answers it (RFC 9293 3.10.7.1). False if it is no segment to answer.
#[must_use]
pub fn tcp_reset(packet: &mut Packet<'_>, headers: &Headers) -> bool {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    if headers.key.proto != TCP || headers.kind != Kind::Ports || headers.tcp_flags & RST != 0 {
        return false;
    }
    let old = packet.bytes();
    let Some(segment) = old.get(l4..usize::from(headers.end)).filter(|segment| segment.len() >= 20) else {
        return false;
    };
    let word =
        |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    // The header of a first fragment may be longer than the fragment.
    let Some(data) = segment.len().checked_sub(usize::from(segment[12] >> 4) * 4) else { return false };
    let occupied = u32::try_from(data).unwrap_or(0)
        + u32::from(headers.tcp_flags & SYN != 0)
        + u32::from(headers.tcp_flags & 1 != 0);
    let (sequence, acknowledge, flags) = if headers.tcp_flags & ACK != 0 {
        (word(8), 0, RST)
    } else {
        (0, word(4).wrapping_add(occupied), RST | ACK)
    };
    let to = headers.key.reverse();
    let header = if to.v4 { 20 } else { 40 };
    let total = header + 20;
    if !packet.set_len(l3 + total) {
        return false;
    }
    let bytes = packet.bytes_mut();
    ip_header(&mut bytes[l3..], &to, 20, 64);
    let tcp = &mut bytes[l3 + header..l3 + total];
    tcp.fill(0);
    tcp[0..2].copy_from_slice(&to.sport.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.dport.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledge.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    fill_transport(tcp, &to);
    swap_macs(bytes);
    true
}

/// Turn a DNS query into its refusal: the question, up to `end` of the message, with a response code. False if it is none
/// to answer, or there is no room.
#[must_use]
pub fn dns_refusal(packet: &mut Packet<'_>, headers: &Headers, end: usize, code: u8) -> bool {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let to = headers.key.reverse();
    let header = if to.v4 { 20 } else { 40 };
    let total = header + 8 + end;
    let whole = l4 + 8 + end <= usize::from(headers.end);
    if to.proto != UDP || headers.fragment.is_some() || end < 12 || !whole || !packet.set_len(l3 + total) {
        return false;
    }
    let bytes = packet.bytes_mut();
    // Options and extension headers are left out.
    bytes.copy_within(l4 + 8..l4 + 8 + end, l3 + header + 8);
    ip_header(&mut bytes[l3..], &to, 8 + end, 64);
    let part = &mut bytes[l3 + header..l3 + total];
    part[0..2].copy_from_slice(&to.sport.to_be_bytes());
    part[2..4].copy_from_slice(&to.dport.to_be_bytes());
    part[4..6].copy_from_slice(&u16::try_from(8 + end).unwrap_or(u16::MAX).to_be_bytes());
    let message = &mut part[8..];
    // A response; recursion as it was desired.
    message[2] = 0x80 | message[2] & 0x01;
    message[3] = code & 0x0f;
    message[6..12].fill(0);
    fill_transport(part, &to);
    swap_macs(bytes);
    true
}

/// Turn an echo request into its reply. False if it is none.
#[must_use]
pub fn echo_reply(packet: &mut Packet<'_>, headers: &Headers) -> bool {
    let reply = match (headers.key.v4, headers.icmp.0) {
        (true, 8) => 0,
        (false, 128) => 129,
        _ => return false,
    };
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.end));
    if headers.fragment.is_some() || l4 - l3 != if headers.key.v4 { 20 } else { 40 } {
        return false;
    }
    let to = headers.key.reverse();
    let bytes = packet.bytes_mut();
    bytes[l4] = reply;
    ip_header(&mut bytes[l3..], &to, end - l4, 64);
    rewrite::fill_icmp(bytes, l4, end, &to);
    swap_macs(bytes);
    true
}

/// An IP header for `payload` bytes behind it.
pub(crate) fn ip_header(ip: &mut [u8], key: &FlowKey, payload: usize, ttl: u8) {
    let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    if key.v4 {
        ip[..20].fill(0);
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length(20 + payload));
        ip[6] = 0x40;
        ip[8] = ttl;
        ip[9] = key.proto;
        ip[12..16].copy_from_slice(&key.src.octets()[12..]);
        ip[16..20].copy_from_slice(&key.dst.octets()[12..]);
        let sum = checksum::of(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, key.proto, ttl]);
        ip[4..6].copy_from_slice(&length(payload));
        ip[8..24].copy_from_slice(&key.src.octets());
        ip[24..40].copy_from_slice(&key.dst.octets());
    }
}

/// The checksum of a TCP or UDP part, from scratch.
fn fill_transport(part: &mut [u8], key: &FlowKey) {
    let at = if key.proto == TCP { 16 } else { 6 };
    part[at..at + 2].fill(0);
    let (src, dst) = (key.src.octets(), key.dst.octets());
    let skip = if key.v4 { 12 } else { 0 };
    let pseudo = checksum::pseudo(&src[skip..], &dst[skip..], key.proto, part.len());
    let sum = !checksum::add(checksum::sum(part), pseudo);
    let sum = if key.proto == UDP && sum == 0 { 0xffff } else { sum };
    part[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn swap_macs(bytes: &mut [u8]) {
    if let Some((to, from)) = bytes.get_mut(..12).and_then(|macs| macs.split_at_mut_checked(6)) {
        to.swap_with_slice(from);
    }
}

/// An address as keys hold it.
pub const fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// A whole frame to be sent by tests, probes and benches.
#[derive(Clone, Debug)]
pub struct Frame {
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub vlan: Option<u16>,
    pub key: FlowKey,
    pub ttl: u8,
    /// For TCP.
    pub flags: u8,
    pub sequence: u32,
    pub acknowledge: u32,
    /// For ICMP: type and code. Queries take their identifier from the key.
    pub icmp: (u8, u8),
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of `key` with sensible rest: TTL 64, an ACK for TCP, an echo request for ICMP.
    pub fn new(key: FlowKey) -> Self {
        Self {
            to: [2, 0, 0, 0, 0, 1],
            from: [2, 0, 0, 0, 0, 2],
            vlan: None,
            key,
            ttl: 64,
            flags: ACK,
            sequence: 1,
            acknowledge: 1,
            icmp: if key.v4 { (8, 0) } else { (128, 0) },
            payload: Vec::new(),
        }
    }

    /// The bytes, checksums filled in.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to);
        frame.extend(self.from);
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.key.v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        let l3 = frame.len();
        let part = self.transport();
        frame.resize(l3 + if self.key.v4 { 20 } else { 40 }, 0);
        ip_header(&mut frame[l3..], &self.key, part.len(), self.ttl);
        frame.extend(part);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let key = &self.key;
        let mut part = Vec::new();
        match key.proto {
            TCP => {
                part.extend(key.sport.to_be_bytes());
                part.extend(key.dport.to_be_bytes());
                part.extend(self.sequence.to_be_bytes());
                part.extend(self.acknowledge.to_be_bytes());
                part.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                part.extend(&self.payload);
                fill_transport(&mut part, key);
            }
            UDP => {
                part.extend(key.sport.to_be_bytes());
                part.extend(key.dport.to_be_bytes());
                part.extend(u16::try_from(8 + self.payload.len()).unwrap_or(u16::MAX).to_be_bytes());
                part.extend([0, 0]);
                part.extend(&self.payload);
                fill_transport(&mut part, key);
            }
            ICMP | ICMPV6 => {
                let id = if key.sport != 0 { key.sport } else { key.dport };
                part.extend([self.icmp.0, self.icmp.1, 0, 0]);
                part.extend(id.to_be_bytes());
                part.extend([0, 1]);
                part.extend(&self.payload);
                let end = part.len();
                rewrite::fill_icmp(&mut part, 0, end, key);
            }
            crate::parse::SCTP => {
                part.extend(key.sport.to_be_bytes());
                part.extend(key.dport.to_be_bytes());
                part.extend([0, 0, 0, 1, 0, 0, 0, 0]);
                part.extend(&self.payload);
                let sum = checksum::crc32c(&part);
                part[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            _ => part.extend(&self.payload),
        }
        part
    }
}
