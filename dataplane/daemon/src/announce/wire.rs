//! ARP and neighbour discovery as bytes: what a frame asks or claims, and the frames that ask, answer and tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::checksum;

pub(super) type Mac = [u8; 6];

pub(super) const EVERYBODY: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of advertisements: an answer, and newer than what is known.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// What somebody on the link said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub mac: Mac,
    /// "I have this address."
    pub claims: Option<IpAddr>,
    /// "Who has this address?", asked by an address, or by one who has none yet and would take this one.
    pub asks: Option<(IpAddr, Option<IpAddr>)>,
}

/// What a frame says; `None`: nothing that we understand, or nothing honest.
pub(super) fn read(frame: &[u8]) -> Option<Heard> {
    let body = frame.get(14..)?;
    match [*frame.get(12)?, *frame.get(13)?] {
        [0x08, 0x06] => read_arp(body),
        [0x86, 0xdd] => read_discovery(frame.get(6..12)?.try_into().ok()?, body),
        _ => None,
    }
}

fn read_arp(arp: &[u8]) -> Option<Heard> {
    let arp: &[u8; 28] = arp.first_chunk()?;
    let [0, 1, 0x08, 0, 6, 4, 0, operation @ 1..=2] = arp[..8] else { return None };
    let mac: Mac = arp[8..14].try_into().ok()?;
    let v4 = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
    let sender = Some(v4(14)).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4);
    let target = IpAddr::V4(v4(24));
    let asks = (operation == 1 && sender != Some(target)).then_some((target, sender));
    // A group is nobody's address.
    (mac[0] & 1 == 0).then_some(Heard { mac, claims: sender, asks })
}

fn read_discovery(from: Mac, ip: &[u8]) -> Option<Heard> {
    let header: &[u8; 40] = ip.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let icmp = ip.get(40..40 + length).filter(|icmp| icmp.len() >= 24)?;
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from);
    let (source, target) = (v6(&header[8..24])?, v6(&icmp[8..24])?);
    let sum = checksum::add(
        checksum::sum(icmp),
        checksum::pseudo(&header[8..24], &header[24..40], ICMPV6, icmp.len()),
    );
    // Only a neighbour can send with the full hop limit.
    let honest = header[6] == ICMPV6 && header[7] == 255 && icmp[1] == 0 && sum == 0xffff;
    if !honest || target.is_multicast() {
        return None;
    }
    let asker = Some(source).filter(|ip| !ip.is_unspecified()).map(IpAddr::V6);
    match icmp[0] {
        SOLICITATION => {
            let mac = option(icmp, 1).unwrap_or(from);
            Some(Heard { mac, claims: None, asks: Some((target.into(), asker)) })
        }
        ADVERTISEMENT => {
            let mac = option(icmp, 2).unwrap_or(from);
            Some(Heard { mac, claims: Some(target.into()), asks: None })
        }
        _ => None,
    }
}

/// A link-layer address among the options.
fn option(icmp: &[u8], wanted: u8) -> Option<Mac> {
    let mut rest = icmp.get(24..)?;
    while let [kind, units, ..] = *rest {
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        if kind == wanted {
            return rest.get(2..8)?.try_into().ok();
        }
        rest = rest.get(length..)?;
    }
    None
}

/// "Who has this address?", from one who has none (`from`: or has), to everybody or to the one who had it last.
pub(super) fn question(mac: Mac, ip: IpAddr, from: Option<Ipv6Addr>, to: Option<Mac>) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(1, to.unwrap_or(EVERYBODY), mac, Ipv4Addr::UNSPECIFIED, [0; 6], ip),
        IpAddr::V6(ip) => {
            let group = solicited(ip);
            let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            icmp.extend(ip.octets());
            if from.is_some() {
                icmp.extend([1, 1]);
                icmp.extend(mac);
            }
            let from = from.unwrap_or(Ipv6Addr::UNSPECIFIED);
            discovery(to.unwrap_or_else(|| group_mac(group)), mac, from, group, icmp)
        }
    }
}

/// "It is here", to whoever asked.
pub(super) fn answer(mac: Mac, ip: IpAddr, asker: Option<IpAddr>, to: Mac) -> Vec<u8> {
    match (ip, asker) {
        (IpAddr::V4(ip), asker) => {
            let asker = if let Some(IpAddr::V4(asker)) = asker { asker } else { Ipv4Addr::UNSPECIFIED };
            arp(2, to, mac, ip, to, asker)
        }
        (IpAddr::V6(ip), Some(IpAddr::V6(asker))) => {
            let icmp = advertisement(mac, ip, SOLICITED | OVERRIDE);
            discovery(to, mac, ip, asker, icmp)
        }
        // Who has no address yet is told with everybody else.
        (IpAddr::V6(_), _) => announcement(mac, ip),
    }
}

/// "It is here", to everybody.
pub(super) fn announcement(mac: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(1, EVERYBODY, mac, ip, [0; 6], ip),
        IpAddr::V6(ip) => {
            let icmp = advertisement(mac, ip, OVERRIDE);
            discovery(group_mac(ALL_NODES), mac, ip, ALL_NODES, icmp)
        }
    }
}

fn advertisement(mac: Mac, ip: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    icmp.extend(ip.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac);
    icmp
}

fn arp(operation: u8, to: Mac, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(to, mac, [0x08, 0x06]);
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

fn discovery(to: Mac, mac: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let (src, dst) = (source.octets(), destination.octets());
    let pseudo = checksum::pseudo(&src, &dst, ICMPV6, icmp.len());
    let sum = !checksum::add(checksum::sum(&icmp), pseudo);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet(to, mac, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(icmp.len()).unwrap_or(0).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(src);
    frame.extend(dst);
    frame.extend(icmp);
    frame
}

fn ethernet(to: Mac, from: Mac, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind);
    frame
}

/// The group in which questions about an address are asked.
pub(super) const fn solicited(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, (b as u16) << 8 | c as u16)
}

const fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Mac = [2, 0, 0, 0, 0, 1];
    const THEM: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn what_is_written_is_read() {
        for ip in ["192.0.2.80", "2001:db8::80"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let asked = read(&question(US, ip, None, None)).unwrap();
            assert_eq!(asked, Heard { mac: US, claims: None, asks: Some((ip, None)) });
            let told = read(&announcement(US, ip)).unwrap();
            assert_eq!(told, Heard { mac: US, claims: Some(ip), asks: None });
            let answered = read(&answer(US, ip, None, THEM)).unwrap();
            assert_eq!((answered.mac, answered.claims), (US, Some(ip)));
        }
        let (ip, from) = ("2001:db8::80".parse().unwrap(), "fe80::1".parse().unwrap());
        let asked = read(&question(US, ip, Some(from), Some(THEM))).unwrap();
        assert_eq!(asked.asks, Some((ip, Some(from.into()))));
        let answered = answer(THEM, ip, Some(from.into()), US);
        assert_eq!(answered[..6], US);
        assert_eq!(read(&answered).unwrap().claims, Some(ip));
    }

    #[test]
    fn bytes_that_are_cut_or_changed_say_nothing_and_harm_nobody() {
        let ip = "2001:db8::80".parse().unwrap();
        let frames = [
            question(US, ip, Some("fe80::1".parse().unwrap()), None),
            announcement(US, "192.0.2.80".parse().unwrap()),
        ];
        for frame in frames {
            for length in 0..frame.len() {
                assert_eq!(read(&frame[..length]), None);
            }
        }
        let good = announcement(US, ip);
        for at in 14..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            // Traffic class and flow label are in no checksum and mean nothing here.
            assert!(read(&bad).is_none() || at < 18, "byte {at}");
        }
    }
}
