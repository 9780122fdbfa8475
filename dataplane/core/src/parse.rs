//! Bytes → [`Headers`], or the reason why not. After `parse` succeeded no accessor of the path can run off the frame.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::verdict::DropReason;

pub const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// TCP flag bits.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Extension headers walked at most; a packet with more is nobody's honest packet.
const MAX_EXTENSIONS: usize = 8;

/// What one frame is, as far as the path needs to know. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    pub key: FlowKey,
    /// VLAN id of the outer tag; 0 = untagged. (A second tag is refused: we have no ports for it.)
    pub vlan: u16,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where the transport header starts (behind options and extension headers).
    pub l4: u16,
    /// Where the IP packet ends; Ethernet padding behind it does not count.
    pub end: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32); 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP type and code; 0 for other protocols.
    pub icmp: (u8, u8),
    pub kind: Kind,
    /// DF is set (always true for IPv6: routers never fragment it).
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
}

/// What the transport part turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, UDP, SCTP: both ports are in the key.
    Ports,
    /// ICMP echo and other queries: the identifier is the source port in requests and the destination port in replies,
    /// so that a reply's key is the reverse of its request's.
    IcmpQuery { reply: bool },
    /// ICMP error: the key is that of the error itself; the quoted packet is read by [`quoted`].
    IcmpError,
    /// Any other protocol: tracked by addresses and protocol alone, ports 0.
    Other,
    /// A later fragment: no transport header; ports in the key are 0 until the fragment table fills them in.
    LaterFragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
}

/// The packet that an ICMP error quotes, as it was when it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    pub key: FlowKey,
    /// Offsets of its IP and transport headers in the frame.
    pub l3: u16,
    pub l4: u16,
}

/// Read and check one frame. Strict where a lie could confuse a table (lengths, header checksum, source and destination
/// that no one may use, truncated transport headers), indifferent to what only ends care about.
#[inline]
pub fn parse(packet: &Packet<'_>) -> Result<Headers, DropReason> {
    let bytes = packet.bytes();
    let head: &[u8; ETHERNET] = bytes.first_chunk().ok_or(DropReason::InvalidPacket)?;
    let ethertype = u16::from_be_bytes([head[12], head[13]]);
    match ethertype {
        IPV4 => ipv4(bytes, ETHERNET, 0),
        IPV6 => ipv6(bytes, ETHERNET, 0),
        _ => tagged(bytes, ethertype),
    }
}

/// The packet of this family that starts at `l3`, inside another.
pub(crate) fn inside(bytes: &[u8], l3: usize, v4: bool) -> Result<Headers, DropReason> {
    if v4 { ipv4(bytes, l3, 0) } else { ipv6(bytes, l3, 0) }
}

fn tagged(bytes: &[u8], ethertype: u16) -> Result<Headers, DropReason> {
    if !TAGS.contains(&ethertype) {
        // Below 0x600 it is a length: LLC, not Ethernet II.
        return Err(if ethertype < 0x600 {
            DropReason::UnsupportedL2Protocol
        } else {
            DropReason::UnsupportedL3Protocol
        });
    }
    let tag = u16_at(bytes, ETHERNET).ok_or(DropReason::InvalidPacket)?;
    let inner = u16_at(bytes, ETHERNET + 2).ok_or(DropReason::InvalidPacket)?;
    let (l3, vlan) = (ETHERNET + VLAN_TAG, tag & 0x0fff);
    match inner {
        IPV4 => ipv4(bytes, l3, vlan),
        IPV6 => ipv6(bytes, l3, vlan),
        _ if TAGS.contains(&inner) => Err(DropReason::VlanFiltered),
        _ => Err(DropReason::UnsupportedL3Protocol),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "`end` is checked, and all else lies before it")]
#[inline]
fn ipv4(bytes: &[u8], l3: usize, vlan: u16) -> Result<Headers, DropReason> {
    let ip: &[u8; 20] =
        bytes.get(l3..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::InvalidPacket)?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let end = l3 + total;
    if ip[0] >> 4 != 4 || header < 20 || total < header || end > bytes.len() || end > usize::from(u16::MAX) {
        return Err(DropReason::InvalidPacket);
    }
    let whole = bytes.get(l3..l3 + header).ok_or(DropReason::InvalidPacket)?;
    if header_sum(ip, whole) != 0xffff {
        return Err(DropReason::InvalidPacket);
    }
    let (src, dst) = (&[ip[12], ip[13], ip[14], ip[15]], &[ip[16], ip[17], ip[18], ip[19]]);
    check_v4(*src, *dst)?;
    let word = u16::from_be_bytes([ip[6], ip[7]]);
    let fragment = (word & 0x3fff != 0).then(|| Fragment {
        id: u32::from(u16::from_be_bytes([ip[4], ip[5]])),
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
    });
    let key = FlowKey { src: mapped(*src), dst: mapped(*dst), sport: 0, dport: 0, proto: ip[9], v4: true };
    let headers = Headers {
        key,
        vlan,
        l3: l3 as u16,
        l4: (l3 + header) as u16,
        end: end as u16,
        ttl: ip[8],
        tcp_flags: 0,
        icmp: (0, 0),
        kind: Kind::Other,
        dont_fragment: word & 0x4000 != 0,
        fragment,
    };
    transport(bytes, headers)
}

/// The common header without options in five additions.
#[inline]
fn header_sum(ip: &[u8; 20], whole: &[u8]) -> u16 {
    if whole.len() != 20 {
        return checksum::sum(whole);
    }
    let word = |at: usize| u64::from(u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]));
    // Any byte order gives the same answer to "is it all ones".
    checksum::fold64(word(0) + word(4) + word(8) + word(12) + word(16))
}

/// Addresses that may not be on a wire.
#[inline]
fn check_v4(src: [u8; 4], dst: [u8; 4]) -> Result<(), DropReason> {
    if src[0] == 0 || src[0] == 127 || src[0] >= 224 {
        return Err(DropReason::InvalidSourceIp);
    }
    if dst[0] == 0 || dst[0] == 127 || dst[0] >= 224 {
        return Err(DropReason::NoRoute);
    }
    Ok(())
}

#[inline]
fn mapped(v4: [u8; 4]) -> Ipv6Addr {
    Ipv4Addr::from(v4).to_ipv6_mapped()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "frames are shorter than 64 KiB: checked against `total`"
)]
fn ipv6(bytes: &[u8], l3: usize, vlan: u16) -> Result<Headers, DropReason> {
    let ip: &[u8; 40] =
        bytes.get(l3..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::InvalidPacket)?;
    let end = l3 + 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    if ip[0] >> 4 != 6 || end > bytes.len() || end > usize::from(u16::MAX) {
        return Err(DropReason::InvalidPacket);
    }
    let mut address = [0; 16];
    address.copy_from_slice(&ip[8..24]);
    let src = Ipv6Addr::from(address);
    address.copy_from_slice(&ip[24..40]);
    let dst = Ipv6Addr::from(address);
    check_v6(src, dst)?;
    let (proto, l4, fragment) = extensions(&bytes[..end], l3 + 40, ip[6])?;
    let headers = Headers {
        key: FlowKey { src, dst, sport: 0, dport: 0, proto, v4: false },
        vlan,
        l3: l3 as u16,
        l4: l4 as u16,
        end: end as u16,
        ttl: ip[7],
        tcp_flags: 0,
        icmp: (0, 0),
        kind: Kind::Other,
        dont_fragment: true,
        fragment,
    };
    transport(bytes, headers)
}

fn check_v6(src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), DropReason> {
    let bad = |ip: Ipv6Addr| ip.is_unspecified() || ip.is_loopback() || ip.to_ipv4_mapped().is_some();
    // Nobody takes a packet of a link-local source to another link (RFC 4291, 2.5.6).
    if bad(src) || src.is_multicast() || src.is_unicast_link_local() {
        return Err(DropReason::InvalidSourceIp);
    }
    // Link-local and multicast destinations are the kernel's; what is steered here by mistake has no route.
    if bad(dst) || dst.is_multicast() || dst.is_unicast_link_local() {
        return Err(DropReason::NoRoute);
    }
    Ok(())
}

/// Are these addresses such that nobody needs to look at them twice? Of the others, some may be on a wire all the same.
#[expect(clippy::cast_possible_truncation, reason = "takes the first byte on purpose")]
#[inline(always)]
pub(crate) fn everyday(key: &FlowKey) -> bool {
    let plain = |ip: Ipv6Addr| {
        let first = (ip.to_bits() >> if key.v4 { 24 } else { 120 }) as u8;
        match key.v4 {
            true => (1..224).contains(&first) & (first != 127),
            // Global and unique local unicast.
            false => (first & 0xe0 == 0x20) | (first & 0xfe == 0xfc),
        }
    };
    plain(key.src) & plain(key.dst)
}

/// Walk extension headers: the transport protocol, where it starts, and the fragment header if there is one.
fn extensions(
    bytes: &[u8],
    mut at: usize,
    mut next: u8,
) -> Result<(u8, usize, Option<Fragment>), DropReason> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            return Ok((next, at, fragment));
        }
        let header: &[u8; 8] =
            bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::InvalidExtensionHeader)?;
        // Routing type 0 lets a stranger choose the path (RFC 5095 forbids it); a second fragment header has no meaning.
        if (next == ROUTING && header[2] == 0) || (next == FRAGMENT && fragment.is_some()) {
            return Err(DropReason::InvalidExtensionHeader);
        }
        at += if next == FRAGMENT { 8 } else { 8 + usize::from(header[1]) * 8 };
        if at > bytes.len() {
            return Err(DropReason::InvalidExtensionHeader);
        }
        if next == FRAGMENT {
            let word = u16::from_be_bytes([header[2], header[3]]);
            let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            // Atomic fragments (whole packets with a fragment header) are not fragments.
            if word & 0xfff9 != 0 {
                fragment = Some(Fragment { id, offset: word & 0xfff8, more: word & 1 != 0 });
            }
            if word & 0xfff8 != 0 {
                return Ok((header[0], at, fragment));
            }
        }
        next = header[0];
    }
    Err(DropReason::InvalidExtensionHeader)
}

/// Ports, identifiers and flags, with the checks that keep later code from reading past the packet.
#[inline]
fn transport(bytes: &[u8], mut headers: Headers) -> Result<Headers, DropReason> {
    if let Some(fragment) = headers.fragment {
        let payload = headers.end - headers.l4;
        // Every fragment but the last carries whole 8-byte units, and none reaches past the largest datagram.
        if (fragment.more && (payload == 0 || !payload.is_multiple_of(8)))
            || u32::from(fragment.offset) + u32::from(payload) > 65_535
        {
            return Err(DropReason::InvalidPacket);
        }
        if fragment.offset != 0 {
            headers.kind = Kind::LaterFragment;
            return Ok(headers);
        }
    }
    let l4 =
        bytes.get(usize::from(headers.l4)..usize::from(headers.end)).ok_or(DropReason::TruncatedHeader)?;
    let minimum = match headers.key.proto {
        TCP => 20,
        UDP | ICMP | ICMPV6 => 8,
        SCTP => 12,
        _ => return Ok(headers),
    };
    let first: &[u8; 8] = l4.first_chunk().ok_or(DropReason::TruncatedHeader)?;
    if l4.len() < minimum {
        return Err(DropReason::TruncatedHeader);
    }
    match headers.key.proto {
        TCP => tcp(l4, &mut headers)?,
        UDP => udp(l4.len(), first, &headers)?,
        ICMP if headers.key.v4 => icmp(first, &mut headers),
        ICMPV6 if !headers.key.v4 => icmp(first, &mut headers),
        // The other family's ICMP makes no sense here.
        ICMP | ICMPV6 => return Err(DropReason::UnknownL4Protocol),
        _ => {}
    }
    if !matches!(headers.key.proto, ICMP | ICMPV6) {
        headers.kind = Kind::Ports;
        headers.key.sport = u16::from_be_bytes([first[0], first[1]]);
        headers.key.dport = u16::from_be_bytes([first[2], first[3]]);
    }
    Ok(headers)
}

#[inline]
fn tcp(l4: &[u8], headers: &mut Headers) -> Result<(), DropReason> {
    let (offset, flags) = (usize::from(l4[12] >> 4) * 4, l4[13]);
    let fragmented = headers.fragment.is_some();
    if offset < 20 || (offset > l4.len() && !fragmented) {
        return Err(DropReason::TruncatedHeader);
    }
    // No honest stack sends these; scanners do.
    let nonsense = flags & (SYN | FIN) == SYN | FIN || flags & (SYN | RST) == SYN | RST || flags & 0x3f == 0;
    if nonsense {
        return Err(DropReason::InvalidPacket);
    }
    headers.tcp_flags = flags;
    Ok(())
}

#[inline]
fn udp(len: usize, first: &[u8; 8], headers: &Headers) -> Result<(), DropReason> {
    let claimed = usize::from(u16::from_be_bytes([first[4], first[5]]));
    let fits = if headers.fragment.is_some() { claimed >= 8 } else { (8..=len).contains(&claimed) };
    if fits { Ok(()) } else { Err(DropReason::InvalidPacket) }
}

fn icmp(first: &[u8; 8], headers: &mut Headers) {
    headers.icmp = (first[0], first[1]);
    let id = u16::from_be_bytes([first[4], first[5]]);
    headers.kind = icmp_kind(headers.key.v4, first[0]);
    match headers.kind {
        Kind::IcmpQuery { reply: false } => headers.key.sport = id,
        Kind::IcmpQuery { reply: true } => headers.key.dport = id,
        Kind::Ports | Kind::IcmpError | Kind::Other | Kind::LaterFragment => {}
    }
}

fn icmp_kind(v4: bool, kind: u8) -> Kind {
    match (v4, kind) {
        // Echo, timestamp, information and mask requests, and their replies.
        (true, 8 | 13 | 15 | 17 | 42) | (false, 128 | 160) => Kind::IcmpQuery { reply: false },
        (true, 0 | 14 | 16 | 18 | 43) | (false, 129 | 161) => Kind::IcmpQuery { reply: true },
        (true, 3 | 4 | 5 | 11 | 12) | (false, 1..=4) => Kind::IcmpError,
        _ => Kind::Other,
    }
}

/// The packet that an ICMP error quotes. At least the ports must be there; the rest may be cut.
pub fn quoted(packet: &Packet<'_>, headers: &Headers) -> Option<Quoted> {
    let bytes = packet.bytes().get(..usize::from(headers.end))?;
    let l3 = usize::from(headers.l4) + 8;
    let inner = bytes.get(l3..)?;
    let (mut key, l4, fragment) = if headers.key.v4 { quoted_v4(inner)? } else { quoted_v6(inner)? };
    if fragment {
        return None;
    }
    let ports: &[u8; 4] = inner.get(l4..)?.first_chunk()?;
    match key.proto {
        TCP | UDP | SCTP => {
            key.sport = u16::from_be_bytes([ports[0], ports[1]]);
            key.dport = u16::from_be_bytes([ports[2], ports[3]]);
        }
        ICMP | ICMPV6 => {
            let id: &[u8; 2] = inner.get(l4 + 4..)?.first_chunk()?;
            match icmp_kind(key.v4, ports[0]) {
                Kind::IcmpQuery { reply: false } => key.sport = u16::from_be_bytes(*id),
                Kind::IcmpQuery { reply: true } => key.dport = u16::from_be_bytes(*id),
                // Errors about errors are nobody's.
                Kind::IcmpError | Kind::Ports | Kind::Other | Kind::LaterFragment => return None,
            }
        }
        _ => {}
    }
    Some(Quoted { key, l3: u16::try_from(l3).ok()?, l4: u16::try_from(l3 + l4).ok()? })
}

fn quoted_v4(inner: &[u8]) -> Option<(FlowKey, usize, bool)> {
    let ip: &[u8; 20] = inner.first_chunk()?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header < 20 {
        return None;
    }
    let src = mapped([ip[12], ip[13], ip[14], ip[15]]);
    let dst = mapped([ip[16], ip[17], ip[18], ip[19]]);
    let later = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
    Some((FlowKey { src, dst, sport: 0, dport: 0, proto: ip[9], v4: true }, header, later))
}

fn quoted_v6(inner: &[u8]) -> Option<(FlowKey, usize, bool)> {
    let ip: &[u8; 40] = inner.first_chunk()?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let src: [u8; 16] = ip[8..24].try_into().ok()?;
    let dst: [u8; 16] = ip[24..40].try_into().ok()?;
    let (proto, l4, fragment) = extensions(inner, 40, ip[6]).ok()?;
    let key = FlowKey { src: src.into(), dst: dst.into(), sport: 0, dport: 0, proto, v4: false };
    Some((key, l4, fragment.is_some_and(|f| f.offset != 0)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u16::from_be_bytes(*word))
}
