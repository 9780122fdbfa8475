//! Addresses that we lend the kernel for some time, and what it says about them.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Mirror;

impl Mirror {
    /// The interface index of a device of this name.
    pub fn index_named(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Has somebody given a device this address for good?
    pub fn is_fixed_address(&self, ip: IpAddr) -> bool {
        self.fixed_addresses.contains(&ip)
    }

    /// Put an address on a device, for so many seconds from now.
    pub fn lend(&self, index: u32, ip: IpAddr, seconds: u32) -> io::Result<()> {
        let mut message = address(index, ip);
        let mut time = CacheInfo::default();
        (time.ifa_preferred, time.ifa_valid) = (seconds, seconds);
        message.attributes.push(AddressAttribute::CacheInfo(time));
        if ip.is_ipv6() {
            // It is nobody's but the device's: there is nothing to detect, and no network to route to.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK;
        self.have_done(RouteNetlinkMessage::NewAddress(message), flags)
    }

    /// Take an address off a device.
    pub fn take_back(&self, index: u32, ip: IpAddr) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address(index, ip));
        self.have_done(message, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Do these notifications tell of nothing but addresses that we lent or renewed? Our records do not change by them.
    pub(super) fn is_of_lending(&self, mut news: &[u8]) -> bool {
        while !self.lent.is_empty() && !news.is_empty() {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(news) else { return false };
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(told)) = &message.payload else {
                return false;
            };
            if !address_of(&told.attributes).is_some_and(|ip| self.lent.contains(&ip)) {
                return false;
            }
            let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
            news = news.get(length..).unwrap_or_default();
        }
        news.is_empty()
    }
}

fn address(index: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) =
        if ip.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

/// The device's own end.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's enums grow; what is new means nothing to us"
)]
pub(super) fn address_of(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let own = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    own.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkHeader;

    fn told(message: RouteNetlinkMessage) -> Vec<u8> {
        let payload = NetlinkPayload::from(message);
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), payload);
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn only_what_tells_of_nothing_but_lent_addresses_needs_no_reading() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let came = |text: &str| told(RouteNetlinkMessage::NewAddress(address(1, ip(text))));
        let mut mirror = Mirror::new(&[]).unwrap();
        assert!(!mirror.is_of_lending(&came("203.0.113.80")), "nothing is lent yet");
        mirror.lent = [ip("203.0.113.80"), ip("2001:db8::80")].into();
        let ours = [came("203.0.113.80"), came("2001:db8::80")].concat();
        assert!(mirror.is_of_lending(&ours));
        let went = told(RouteNetlinkMessage::DelAddress(address(1, ip("203.0.113.80"))));
        for others in [came("203.0.113.81"), went, vec![0; 15]] {
            assert!(!mirror.is_of_lending(&[ours.clone(), others].concat()));
        }
    }
}
