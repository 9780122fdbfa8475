//! Taking apart what [`crate::wrap`] put together: a client's packet in a tunnel that ends here.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::packet::Packet;
use crate::parse::{ETHERNET, Headers, UDP, inside};
use crate::verdict::DropReason;
use crate::wrap::{GENEVE_PORT, IP6IP, IPIP};

/// Is this a packet of a protocol that we open?
#[inline]
pub const fn opens(headers: &Headers) -> bool {
    match headers.key.proto {
        IPIP | IP6IP => true,
        UDP => headers.key.dport == GENEVE_PORT,
        _ => false,
    }
}

/// Is this a packet of a protocol that carries others?
#[inline]
pub fn is_tunnel(headers: &Headers) -> bool {
    const VXLAN_PORTS: [u16; 2] = [4789, 8472];
    opens(headers) || (headers.key.proto == UDP && VXLAN_PORTS.contains(&headers.key.dport))
}

/// What a tunnel carries; offsets are those of the whole frame.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    pub headers: Headers,
    /// In Geneve, as opposed to plain IP.
    pub geneve: bool,
    /// Which service the packet was for, where the tunnel says so.
    pub service: Option<(Ipv6Addr, u16)>,
}

/// Read the inside of a tunnel. It is judged like any packet from a wire.
pub fn open(packet: &Packet<'_>, outer: &Headers) -> Result<Inside, DropReason> {
    let bytes = packet.bytes().get(..usize::from(outer.end)).ok_or(DropReason::InvalidPacket)?;
    let at = usize::from(outer.l4);
    match outer.key.proto {
        IPIP => Ok(Inside { headers: inside(bytes, at, true)?, geneve: false, service: None }),
        IP6IP => Ok(Inside { headers: inside(bytes, at, false)?, geneve: false, service: None }),
        UDP if outer.key.dport == GENEVE_PORT => geneve(bytes, at + 8),
        _ => Err(DropReason::InvalidPacket),
    }
}

fn geneve(bytes: &[u8], at: usize) -> Result<Inside, DropReason> {
    const CONTROL: u8 = 0x80;
    let invalid = DropReason::InvalidPacket;
    let head: &[u8; 8] = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(invalid)?;
    let (version, words) = (head[0] >> 6, usize::from(head[0] & 0x3f));
    // Version 0, data, and an Ethernet frame inside.
    if version != 0 || head[1] & CONTROL != 0 || head[2..4] != [0x65, 0x58] {
        return Err(invalid);
    }
    let end = at + 8 + words * 4;
    let service = options(bytes.get(at + 8..end).ok_or(invalid)?)?;
    let kind = bytes.get(end + 12..end + 14).ok_or(invalid)?;
    let v4 = match kind {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return Err(DropReason::UnsupportedL3Protocol),
    };
    Ok(Inside { headers: inside(bytes, end + ETHERNET, v4)?, geneve: true, service })
}

/// The service among the options. One that we do not know and must not pass over ends it.
fn options(mut bytes: &[u8]) -> Result<Option<(Ipv6Addr, u16)>, DropReason> {
    const CRITICAL: u8 = 0x80;
    let mut service = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
        let len = usize::from(head[3] & 0x1f) * 4;
        let data = rest.get(..len).ok_or(DropReason::InvalidPacket)?;
        bytes = &rest[len..];
        match (head[0..2] == [0x01, 0x4b] && head[2] == 0x81, data) {
            (true, [a, b, c, d, high, low, 0, 0]) => {
                let ip = Ipv4Addr::new(*a, *b, *c, *d).to_ipv6_mapped();
                service = Some((ip, u16::from_be_bytes([*high, *low])));
            }
            (true, [ip @ .., high, low, 0, 0]) if ip.len() == 16 => {
                let ip: [u8; 16] = ip.try_into().map_err(|_| DropReason::InvalidPacket)?;
                service = Some((ip.into(), u16::from_be_bytes([*high, *low])));
            }
            (true, _) => return Err(DropReason::InvalidPacket),
            (false, _) if head[2] & CRITICAL != 0 => return Err(DropReason::InvalidPacket),
            (false, _) => {}
        }
    }
    if bytes.is_empty() { Ok(service) } else { Err(DropReason::InvalidPacket) }
}

/// Throw the tunnel away: the frame is the inner packet behind the outer one's link addresses. Its headers, moved.
#[must_use]
pub fn peel(packet: &mut Packet<'_>, inner: &Headers) -> Option<Headers> {
    let macs: [u8; 12] = *packet.bytes().first_chunk()?;
    let cut = inner.l3 - u16::try_from(ETHERNET).ok()?;
    if !packet.set_len(usize::from(inner.end)) || !packet.shrink_front(usize::from(cut)) {
        return None;
    }
    let link: &mut [u8; ETHERNET] = packet.bytes_mut().first_chunk_mut()?;
    link[..12].copy_from_slice(&macs);
    link[12..].copy_from_slice(if inner.key.v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    Some(Headers { vlan: 0, l3: inner.l3 - cut, l4: inner.l4 - cut, end: inner.end - cut, ..*inner })
}
