//! Telling a backend which service a packet was for, without being on the way of its reply: in a tunnel to it (IPIP,
//! Geneve) or in an option of its IP header. The formats are Cilium's; the other end takes them apart again (`unwrap`).
//!
//! What is wrapped has its final addresses, ports and TTL; the caller has seen that there is room for it on the wire.

use core::net::Ipv6Addr;

use crate::checksum;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{ETHERNET, Headers, SYN, TCP, UDP};
use crate::tables::record::Dispatch;

/// IP in IP, by the inner family.
pub const IPIP: u8 = 4;
pub const IP6IP: u8 = 41;
pub const GENEVE_PORT: u16 = 6081;

/// Geneve's option of a service: whose, which (the high bit: who does not know it must not go on), words behind it.
const CLASS: [u8; 2] = [0x01, 0x4b];
const TYPE: u8 = 0x81;
const GENEVE: usize = 8;
/// An Ethernet frame is inside.
const ETHERNET_INSIDE: [u8; 2] = [0x65, 0x58];
/// The inside's identity travels in the network number: the world, so that the other end judges it as what it is.
const WORLD: u8 = 2;

const V4_OPTION: u8 = 0x9a;
const V4_OPTION_LEN: usize = 8;
const V6_OPTION: u8 = 0x1b;
const V6_OPTION_LEN: usize = 24;
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

/// Bytes that a packet of this family grows by. A TCP connection is told of once, in its SYN, where its IP header tells.
pub const fn overhead(dispatch: Dispatch, headers: &Headers) -> u16 {
    let told_already = headers.key.proto == TCP && headers.tcp_flags & SYN == 0;
    if matches!(dispatch, Dispatch::Option) && told_already {
        0
    } else {
        most_overhead(dispatch, headers.key.v4)
    }
}

/// The same for the packets that grow most.
pub const fn most_overhead(dispatch: Dispatch, v4: bool) -> u16 {
    match (dispatch, v4) {
        (Dispatch::Ipip, true) => 20,
        (Dispatch::Ipip, false) => 40,
        // Outer IP, UDP, Geneve, the option, and the inner Ethernet header.
        (Dispatch::Geneve, true) => 20 + 8 + 8 + 12 + 14,
        (Dispatch::Geneve, false) => 40 + 8 + 8 + 24 + 14,
        (Dispatch::Option, true) => 8,
        (Dispatch::Option, false) => 24,
    }
}

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    /// Of the flow: spreads tunnels over the receiver's queues.
    pub hash: u32,
}

/// Put the packet behind an IP header of its own family. Its frame starts anew, untagged. False if there is no room.
#[must_use]
pub fn ipip(packet: &mut Packet<'_>, headers: &Headers, ends: &Ends) -> bool {
    let v4 = headers.key.v4;
    let Some((traffic_class, len)) = bare(packet, headers) else { return false };
    let outer = if v4 { 20 } else { 40 };
    if !packet.grow_front(ETHERNET + outer) {
        return false;
    }
    let proto = if v4 { IPIP } else { IP6IP };
    outer_headers(packet.bytes_mut(), v4, ends, (proto, traffic_class), len)
}

/// Put the packet's frame into Geneve, with the service that it was for.
#[must_use]
pub fn geneve(packet: &mut Packet<'_>, headers: &Headers, ends: &Ends, service: (Ipv6Addr, u16)) -> bool {
    let v4 = headers.key.v4;
    let macs: [u8; 12] = packet.bytes().first_chunk().copied().unwrap_or_default();
    let Some((traffic_class, len)) = bare(packet, headers) else { return false };
    let words = if v4 { 2 } else { 5 };
    let option = 4 + 4 * words;
    let (outer, inside) = (if v4 { 20 } else { 40 }, 8 + GENEVE + option + ETHERNET);
    if !packet.grow_front(ETHERNET + outer + inside) {
        return false;
    }
    let bytes = packet.bytes_mut();
    let Some(udp) = bytes.get_mut(ETHERNET + outer..ETHERNET + outer + inside) else { return false };
    udp.fill(0);
    udp[0..2].copy_from_slice(&source_port(ends.hash).to_be_bytes());
    udp[2..4].copy_from_slice(&GENEVE_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&length(inside + len));
    let geneve = &mut udp[8..];
    // Version 0 and the options' words; "there is a critical option".
    geneve[0] = option.to_le_bytes()[0] / 4;
    geneve[1] = 0x40;
    geneve[2..4].copy_from_slice(&ETHERNET_INSIDE);
    geneve[6] = WORLD;
    let data = &mut geneve[GENEVE..];
    data[0..2].copy_from_slice(&CLASS);
    data[2] = TYPE;
    data[3] = words.to_le_bytes()[0];
    let (ip, port) = service;
    let at = if v4 { 8 } else { 20 };
    data[4..at].copy_from_slice(&ip.octets()[if v4 { 12 } else { 0 }..]);
    data[at..at + 2].copy_from_slice(&port.to_be_bytes());
    let frame = &mut data[option..];
    frame[..12].copy_from_slice(&macs);
    frame[12..14].copy_from_slice(&ethertype(v4));
    if !outer_headers(bytes, v4, ends, (UDP, traffic_class), inside + len) {
        return false;
    }
    if !v4 {
        fill_udp_sum(&mut bytes[ETHERNET + outer..], ends);
    }
    true
}

/// UDP over IPv6 has a checksum: hosts need not accept it without.
fn fill_udp_sum(udp: &mut [u8], ends: &Ends) {
    let pseudo = checksum::pseudo(&ends.from.octets(), &ends.to.octets(), UDP, udp.len());
    let sum = !checksum::add(checksum::sum(udp), pseudo);
    udp[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
}

/// Write the service into an option of the packet's own IP header. False if there is no room for one.
#[must_use]
pub fn option(packet: &mut Packet<'_>, headers: &Headers, service: (Ipv6Addr, u16)) -> bool {
    if headers.key.v4 { v4_option(packet, headers, service) } else { v6_option(packet, headers, service) }
}

/// Behind the fixed header: type, length, port, address. Both numbers are little-endian on the wire: Cilium swaps what is
/// in network order already, on both sides, and what reads it does the same.
fn v4_option(packet: &mut Packet<'_>, headers: &Headers, (ip, port): (Ipv6Addr, u16)) -> bool {
    let l3 = usize::from(headers.l3);
    let header = usize::from(headers.l4) - l3;
    if header + V4_OPTION_LEN > 60 || !insert(packet, l3 + 20, V4_OPTION_LEN) {
        return false;
    }
    let header = header + V4_OPTION_LEN;
    let Some(bytes) = packet.bytes_mut().get_mut(l3..l3 + header) else { return false };
    let mut address: [u8; 4] = [0; 4];
    address.copy_from_slice(&ip.octets()[12..]);
    address.reverse();
    bytes[20..22].copy_from_slice(&[V4_OPTION, 8]);
    bytes[22..24].copy_from_slice(&port.to_le_bytes());
    bytes[24..28].copy_from_slice(&address);
    bytes[0] = 0x40 | (header / 4).to_le_bytes()[0];
    let total = u16::from_be_bytes([bytes[2], bytes[3]]).wrapping_add(8);
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[10..12].fill(0);
    let sum = checksum::of(bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// A header of destination options behind the fixed header, or behind the hop-by-hop header, which comes first.
fn v6_option(packet: &mut Packet<'_>, headers: &Headers, (ip, port): (Ipv6Addr, u16)) -> bool {
    let l3 = usize::from(headers.l3);
    let (mut names, mut at) = (l3 + 6, l3 + 40);
    if packet.bytes().get(names) == Some(&HOP_BY_HOP) {
        let Some(words) = packet.bytes().get(at + 1) else { return false };
        names = at;
        at += 8 + usize::from(*words) * 8;
    }
    if at > usize::from(headers.l4) || !insert(packet, at, V6_OPTION_LEN) {
        return false;
    }
    let bytes = packet.bytes_mut();
    let next = core::mem::replace(&mut bytes[names], DESTINATION);
    let payload = u16::from_be_bytes([bytes[l3 + 4], bytes[l3 + 5]]).wrapping_add(24);
    bytes[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
    let header = &mut bytes[at..at + V6_OPTION_LEN];
    header.fill(0);
    // The header's length in words of eight beyond the first, then one option with all that is left.
    header[..4].copy_from_slice(&[next, 2, V6_OPTION, 20]);
    header[4..20].copy_from_slice(&ip.octets());
    header[20..22].copy_from_slice(&port.to_be_bytes());
    true
}

/// Make room for `n` bytes at `at`, by moving what is before them.
fn insert(packet: &mut Packet<'_>, at: usize, n: usize) -> bool {
    if !packet.grow_front(n) {
        return false;
    }
    packet.bytes_mut().copy_within(n..n + at, 0);
    true
}

/// Strip the link header and padding: the packet becomes its IP packet. Its traffic class and length.
fn bare(packet: &mut Packet<'_>, headers: &Headers) -> Option<(u8, usize)> {
    let fits = packet.set_len(usize::from(headers.end)) && packet.shrink_front(usize::from(headers.l3));
    let head: &[u8; 2] = packet.bytes().first_chunk().filter(|_| fits)?;
    let class = if headers.key.v4 { head[1] } else { head[0] << 4 | head[1] >> 4 };
    Some((class, packet.len()))
}

/// The outer IP header behind a link header that says only which family; `len` bytes follow it.
fn outer_headers(bytes: &mut [u8], v4: bool, ends: &Ends, (proto, class): (u8, u8), len: usize) -> bool {
    if len + 20 > usize::from(u16::MAX) {
        return false;
    }
    let key = FlowKey { src: ends.from, dst: ends.to, sport: 0, dport: 0, proto, v4 };
    let Some(link) = bytes.first_chunk_mut::<ETHERNET>() else { return false };
    link[12..14].copy_from_slice(&ethertype(v4));
    let ip = &mut bytes[ETHERNET..];
    crate::emit::ip_header(ip, &key, len, 64);
    // Congestion marks and priorities are the packet's own.
    if v4 {
        ip[1] = class;
        ip[10..12].fill(0);
        let sum = checksum::of(&ip[..20]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        ip[0] |= class >> 4;
        ip[1] = class << 4;
    }
    true
}

const fn ethertype(v4: bool) -> [u8; 2] {
    if v4 { [0x08, 0x00] } else { [0x86, 0xdd] }
}

fn length(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes()
}

/// One of the dynamic ports, the same for all packets of a flow.
const fn source_port(hash: u32) -> u16 {
    let [a, b, ..] = hash.to_le_bytes();
    0xc000 | u16::from_le_bytes([a, b])
}
