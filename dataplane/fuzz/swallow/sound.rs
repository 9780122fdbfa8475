//! Is a frame sound? Checksums by plain addition, word by word, so that nothing of the code under test judges itself.

use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{Headers, Kind, parse};

/// Read a frame without touching it.
pub fn headers(bytes: &[u8]) -> Option<Headers> {
    let mut copy = bytes.to_vec();
    let len = copy.len();
    parse(&Packet::new(&mut copy, 0, len, PortId(0))?).ok()
}

/// Did the frame come by a tunnel, with a packet inside whose sender the answer goes to? (Protocols 4 and 41 have the packet right
/// behind their header; Geneve, here on port 6081, behind UDP, its own and an Ethernet header.)
pub fn came_by_tunnel_from(bytes: &[u8], headers: &Headers, answer: &FlowKey) -> bool {
    let l4 = usize::from(headers.l4);
    let Some(inside) = bytes.get(l4..) else { return false };
    let inner = match (headers.key.proto, headers.key.dport) {
        (4 | 41, _) => 0,
        (17, 6081) => 8 + 8 + usize::from(inside.get(8).map_or(0, |byte| byte & 0x3f)) * 4 + 14,
        _ => return false,
    };
    let source = if answer.v4 { 12..16 } else { 8..24 };
    let sender = inside.get(inner..).and_then(|packet| packet.get(source));
    let to = answer.dst.octets();
    sender == Some(if answer.v4 { &to[12..] } else { &to[..] })
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte))).sum()
}

fn is_full(mut sum: u32) -> bool {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// The header checksum of IPv4; IPv6 has none.
pub fn header_is_sound(bytes: &[u8], headers: &Headers) -> bool {
    !headers.key.v4 || is_full(sum(&bytes[usize::from(headers.l3)..usize::from(headers.l4)]))
}

/// The checksum of the transport part; `None` where there is none to be judged (fragments, other protocols, UDP without).
pub fn transport_is_sound(bytes: &[u8], headers: &Headers) -> Option<bool> {
    if headers.fragment.is_some() || headers.kind == Kind::Other && !matches!(headers.key.proto, 1 | 58) {
        return None;
    }
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), usize::from(headers.end));
    let mut part = &bytes[l4..end];
    if headers.key.proto == 17 {
        part = &part[..usize::from(u16::from_be_bytes([part[4], part[5]]))];
        if part[6..8] == [0, 0] {
            return None;
        }
    }
    let addresses = if headers.key.v4 { &bytes[l3 + 12..l3 + 20] } else { &bytes[l3 + 8..l3 + 40] };
    let pseudo = sum(addresses) + u32::from(headers.key.proto) + part.len() as u32;
    match headers.key.proto {
        1 => Some(is_full(sum(part))),
        6 | 17 | 58 => Some(is_full(sum(part) + pseudo)),
        _ => None,
    }
}
