//! Is a frame ours? Longest prefix of the destination, then of the source; ports where the address is the node's own.
//!
//! ARP, neighbour discovery, and whatever is not IP or not ours is the kernel's; so is what a guarded host sends to the
//! link (multicast, broadcast, link-local IPv6), since nobody forwards that. Later fragments to the node's own addresses
//! are, too: they carry no ports to tell them by.

/// A frame, read with its bounds checked; words as they lie in it.
pub trait Frame {
    fn byte(&self, at: usize) -> Option<u8>;
    /// Two bytes in network order, as a number.
    fn word(&self, at: usize) -> Option<u16>;
    /// Four bytes in memory order.
    fn four(&self, at: usize) -> Option<u32>;
    /// Sixteen bytes in memory order.
    fn sixteen(&self, at: usize) -> Option<[u32; 4]>;
}

/// The maps.
pub trait Rules {
    /// Flags of the longest prefix; 0 where there is none.
    fn find(&self, address: [u32; 4]) -> u32;
    /// A bit for each of 32 ports.
    fn ports(&self, index: u32) -> u32;
}

const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Next header ICMPv6, and the hop limit that only neighbours can send with.
const DISCOVERY: u16 = 58 << 8 | 255;

/// Does this frame go to a worker?
#[inline(always)]
pub fn is_ours(frame: &impl Frame, rules: &impl Rules) -> Option<bool> {
    let (mut l3, mut ethertype) = (14, frame.word(12)?);
    if ethertype == TAG || ethertype == SERVICE_TAG {
        ethertype = frame.word(16)?;
        l3 = 18;
        if ethertype == TAG || ethertype == SERVICE_TAG {
            ethertype = frame.word(20)?;
            l3 = 22;
        }
    }
    match ethertype {
        IPV4 => {
            let source = mapped(frame.four(l3 + 12)?);
            let destination = frame.four(l3 + 16)?;
            let flags = rules.find(mapped(destination));
            if flags & super::layout::OWN != 0 {
                // A later fragment has no ports.
                if frame.word(l3 + 6)? & 0x1fff != 0 {
                    return Some(false);
                }
                let l4 = l3 + (frame.byte(l3)? as usize & 0x0f) * 4;
                return own(frame, rules, flags, frame.byte(l3 + 9)?, l4);
            }
            // 224.0.0.0 and above: multicast, reserved, broadcast.
            let link = u32::from_be(destination) >= 0xe000_0000;
            Some(by_address(rules, flags, link, source))
        }
        IPV6 => {
            let source = frame.sixteen(l3 + 8)?;
            let destination = frame.sixteen(l3 + 24)?;
            let flags = rules.find(destination);
            if flags & super::layout::OWN != 0 {
                // Behind extension headers nobody looks: such packets to the node itself are the kernel's.
                return own(frame, rules, flags, frame.byte(l3 + 6)?, l3 + 40);
            }
            // Questions of the link about its neighbours are the kernel's even for addresses of services: forwarded they
            // are void, and whoever announces such an address hears them there.
            if frame.word(l3 + 6)? == DISCOVERY && frame.byte(l3 + 40).is_some_and(is_discovery) {
                return Some(false);
            }
            // ff00::/8 and fe80::/10: multicast, the link.
            let first = u32::from_be(destination[0]);
            let link = first >= 0xff00_0000 || first >> 22 == 0x3fa;
            Some(by_address(rules, flags, link, source))
        }
        _ => Some(false),
    }
}

/// Router and neighbour solicitations and advertisements, redirects.
#[inline(always)]
fn is_discovery(icmp: u8) -> bool {
    icmp.wrapping_sub(133) < 5
}

#[inline(always)]
fn by_address(rules: &impl Rules, flags: u32, link: bool, source: [u32; 4]) -> bool {
    if flags & super::layout::TO != 0 {
        return true;
    }
    !link && rules.find(source) & super::layout::FROM != 0
}

/// IP in IP, and where Geneve is at home.
const IPIP: u8 = 4;
const IP6IP: u8 = 41;
const GENEVE_PORT: u16 = 6081;

/// To the node's own address: a tunnel that ends here, or one of our ports?
#[inline(always)]
fn own(frame: &impl Frame, rules: &impl Rules, flags: u32, proto: u8, l4: usize) -> Option<bool> {
    if flags & super::layout::TUNNEL != 0 {
        if proto == IPIP || proto == IP6IP {
            return Some(true);
        }
        if proto == 17 && frame.word(l4 + 2)? == GENEVE_PORT {
            return Some(true);
        }
    }
    own_port(frame, rules, proto, l4)
}

/// TCP, UDP or SCTP to one of the ports that are ours, or an answer to a probe of ours?
#[inline(always)]
fn own_port(frame: &impl Frame, rules: &impl Rules, proto: u8, l4: usize) -> Option<bool> {
    let port = if proto == 6 || proto == 17 || proto == 132 {
        frame.word(l4 + 2)?
    } else if proto == 1 || proto == 58 {
        // Type and code as one: the verifier follows no single byte that may be the last.
        let reply = if proto == 1 { 0 } else { 129 << 8 };
        if frame.word(l4)? != reply || frame.word(l4 + 4)? != super::layout::PROBE_IDENTIFIER {
            return Some(false);
        }
        super::layout::PROBE_IDENTIFIER
    } else {
        return Some(false);
    };
    Some(rules.ports(u32::from(port) >> 5) >> (port & 31) & 1 != 0)
}

#[inline(always)]
fn mapped(v4: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), v4]
}
