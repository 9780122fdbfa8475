//! Changing headers in place: addresses and ports with their checksums, TTL, the link header, and what ICMP errors quote.

use crate::checksum::{self, Delta};
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{ETHERNET, Headers, ICMP, ICMPV6, Kind, Quoted, SCTP, TCP, UDP};
use crate::state::flow::low;

/// What translating a packet of `from` into `to` does to its checksums: of the IPv4 header, and of the transport.
/// Computed once a flow; the complement undoes it, so it serves the replies too.
#[inline(always)]
pub fn deltas(from: &FlowKey, to: &FlowKey) -> (Delta, Delta) {
    // Added up in full width, and folded at the end.
    let addresses = if from.v4 {
        checksum::change(low(from.src), low(to.src)) + checksum::change(low(from.dst), low(to.dst))
    } else {
        checksum::change_wide(
            [(from.src, to.src), (from.dst, to.dst)].map(|(old, new)| (old.to_bits(), new.to_bits())),
        )
    };
    let both = |key: &FlowKey| u32::from(key.sport) << 16 | u32::from(key.dport);
    let ports = checksum::change(both(from), both(to));
    let transport = match from.proto {
        TCP | UDP | ICMPV6 => Delta::of(addresses + ports),
        // No pseudo header.
        ICMP => Delta::of(ports),
        _ => Delta::default(),
    };
    (if from.v4 { Delta::of(addresses) } else { Delta::default() }, transport)
}

/// Give the packet the addresses and ports of `to`. The deltas are those of [`deltas`] for this direction.
#[inline]
pub fn translate(bytes: &mut [u8], headers: &Headers, to: &FlowKey, ip: Delta, l4: Delta) {
    addresses(bytes, usize::from(headers.l3), to, ip);
    if headers.kind == Kind::LaterFragment {
        return;
    }
    let at = usize::from(headers.l4);
    if to.proto == SCTP {
        sctp(bytes, at, usize::from(headers.end), [to.sport, to.dport]);
        return;
    }
    match headers.kind {
        Kind::Ports => {
            put(bytes, at, to.sport);
            put(bytes, at + 2, to.dport);
        }
        Kind::IcmpQuery { reply } => put(bytes, at + 4, if reply { to.dport } else { to.sport }),
        Kind::IcmpError | Kind::Other | Kind::LaterFragment => {}
    }
    transport_checksum(bytes, at, to.proto, l4);
}

#[inline]
fn addresses(bytes: &mut [u8], l3: usize, to: &FlowKey, delta: Delta) {
    if to.v4 {
        if let Some(ip) = bytes.get_mut(l3..l3 + 20) {
            ip[12..16].copy_from_slice(&to.src.octets()[12..]);
            ip[16..20].copy_from_slice(&to.dst.octets()[12..]);
            let sum = delta.apply(u16::from_be_bytes([ip[10], ip[11]]));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    } else if let Some(ip) = bytes.get_mut(l3..l3 + 40) {
        ip[8..24].copy_from_slice(&to.src.octets());
        ip[24..40].copy_from_slice(&to.dst.octets());
    }
}

/// Where the checksum lies in a transport header.
const fn checksum_offset(proto: u8) -> Option<usize> {
    match proto {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

#[inline]
fn transport_checksum(bytes: &mut [u8], l4: usize, proto: u8, delta: Delta) {
    let Some(offset) = checksum_offset(proto) else { return };
    let Some(field) = bytes.get_mut(l4 + offset..l4 + offset + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    // UDP without a checksum stays without. One that comes out as zero is sent as its other form: for UDP zero says
    // "without", and over an ICMP message of nothing but zeros only the other form is right.
    if proto == UDP && old == 0 {
        return;
    }
    let new = delta.apply(old);
    let new = if proto != TCP && new == 0 { 0xffff } else { new };
    field.copy_from_slice(&new.to_be_bytes());
}

/// Let the other side of a TCP connection send segments of `most` bytes at most. Only what opens a connection says so.
pub fn clamp_mss(bytes: &mut [u8], headers: &Headers, most: u16) {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let l4 = usize::from(headers.l4);
    let Some(segment) = bytes.get_mut(l4..usize::from(headers.end)) else { return };
    let Some(header) = segment.get(12).map(|offset| usize::from(offset >> 4) * 4) else { return };
    let mut at = 20;
    while at + 4 <= header.min(segment.len()) {
        match (segment[at], segment[at + 1]) {
            (END, _) => return,
            (NOTHING, _) => at += 1,
            (MSS, 4) => {
                let old = u16::from_be_bytes([segment[at + 2], segment[at + 3]]);
                if old > most {
                    segment[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
                    // At an odd offset the sum has its bytes the other way round.
                    let swap = |word: u16| if at.is_multiple_of(2) { word } else { word.swap_bytes() };
                    transport_checksum(bytes, l4, TCP, Delta::word(swap(old), swap(most)));
                }
                return;
            }
            (_, len @ 2..) => at += usize::from(len),
            (_, 0 | 1) => return,
        }
    }
}

/// SCTP's checksum knows nothing of addresses; if the ports stay, it does.
fn sctp(bytes: &mut [u8], l4: usize, end: usize, [sport, dport]: [u16; 2]) {
    let Some(packet) = bytes.get_mut(l4..end).filter(|packet| packet.len() >= 12) else { return };
    let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
    let new = [a, b, c, d];
    let changed = [packet[0] ^ a, packet[1] ^ b, packet[2] ^ c, packet[3] ^ d];
    if changed == [0; 4] {
        return;
    }
    packet[..4].copy_from_slice(&new);
    let old = u32::from_le_bytes([packet[8], packet[9], packet[10], packet[11]]);
    let sum = old ^ checksum::crc32c_delta(changed, packet.len());
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
}

#[inline]
fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// What one hop less does to the sum of an IPv4 header.
pub const HOP: Delta = Delta(0xfeff);

/// One hop less. The caller has seen that there is one left.
#[inline]
pub fn hop(bytes: &mut [u8], headers: &Headers) {
    age(bytes, headers);
    if headers.key.v4 {
        let l3 = usize::from(headers.l3);
        if let Some(sum) = bytes.get_mut(l3 + 10..l3 + 12) {
            sum.copy_from_slice(&HOP.apply(u16::from_be_bytes([sum[0], sum[1]])).to_be_bytes());
        }
    }
}

/// The same where the header's sum knows of it already.
#[inline]
pub fn age(bytes: &mut [u8], headers: &Headers) {
    let at = usize::from(headers.l3) + if headers.key.v4 { 8 } else { 7 };
    if let Some(left) = bytes.get_mut(at) {
        *left = left.wrapping_sub(1);
    }
}

/// Give the frame this link header: addresses, and the tag of the port it leaves by (0: none). False if the buffer has
/// no room for a tag.
#[inline]
#[must_use]
pub fn link(packet: &mut Packet<'_>, l3: u16, to: [u8; 6], from: [u8; 6], vlan: u16) -> bool {
    let tagged = usize::from(l3) != ETHERNET;
    let ethertype: [u8; 2] = {
        let at = usize::from(l3) - 2;
        packet.bytes().get(at..at + 2).and_then(|word| word.try_into().ok()).unwrap_or_default()
    };
    let fits = match (tagged, vlan != 0) {
        (true, false) => packet.shrink_front(4),
        (false, true) => packet.grow_front(4),
        (true, true) | (false, false) => true,
    };
    if !fits {
        return false;
    }
    let bytes = packet.bytes_mut();
    bytes[0..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    if vlan == 0 {
        bytes[12..14].copy_from_slice(&ethertype);
    } else {
        bytes[12..14].copy_from_slice(&[0x81, 0x00]);
        bytes[14..16].copy_from_slice(&vlan.to_be_bytes());
        bytes[16..18].copy_from_slice(&ethertype);
    }
    true
}

/// Translate an ICMP error and the packet that it quotes. `outer` is the error's new key (addresses only); the quoted
/// packet becomes one of `inner`. False if its own checksum was wrong: such an error is not passed on.
#[must_use]
pub fn translate_error(
    bytes: &mut [u8],
    headers: &Headers,
    quoted: &Quoted,
    outer: &FlowKey,
    inner: &FlowKey,
) -> bool {
    if !error_is_intact(bytes, headers) {
        return false;
    }
    let (ip, l4) = deltas(&quoted.key, inner);
    addresses(bytes, usize::from(quoted.l3), inner, ip);
    let at = usize::from(quoted.l4);
    match inner.proto {
        TCP | UDP | SCTP => {
            put(bytes, at, inner.sport);
            put(bytes, at + 2, inner.dport);
        }
        ICMP | ICMPV6 => {
            let id = if quoted.key.sport != 0 { inner.sport } else { inner.dport };
            put(bytes, at + 4, id);
        }
        _ => {}
    }
    // The quote may be cut before its checksum; what is there is kept right.
    if checksum_offset(inner.proto).is_some_and(|offset| at + offset + 2 <= usize::from(headers.end)) {
        transport_checksum(bytes, at, inner.proto, l4);
    }
    let (ip, _) = deltas(&headers.key, outer);
    addresses(bytes, usize::from(headers.l3), outer, ip);
    fill_icmp(bytes, usize::from(headers.l4), usize::from(headers.end), outer);
    true
}

fn error_is_intact(bytes: &[u8], headers: &Headers) -> bool {
    let Some(message) = bytes.get(usize::from(headers.l4)..usize::from(headers.end)) else { return false };
    checksum::add(checksum::sum(message), icmp_pseudo(&headers.key, message.len())) == 0xffff
}

/// ICMPv6 sums a pseudo header, ICMP does not.
fn icmp_pseudo(key: &FlowKey, len: usize) -> u16 {
    if key.v4 { 0 } else { checksum::pseudo(&key.src.octets(), &key.dst.octets(), ICMPV6, len) }
}

/// Compute the checksum of an ICMP message from scratch.
pub fn fill_icmp(bytes: &mut [u8], l4: usize, end: usize, key: &FlowKey) {
    let Some(message) = bytes.get_mut(l4..end).filter(|message| message.len() >= 8) else { return };
    message[2..4].fill(0);
    let sum = !checksum::add(checksum::sum(message), icmp_pseudo(key, message.len()));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
