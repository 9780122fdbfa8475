//! Which sources leave with another address, and with which.

use core::net::IpAddr;

use super::record::{Prefix, Settings};
use super::service::{contains, reduce};

/// The address that replaces this source on its way to this destination, if it is to be masqueraded. The same source
/// always gets the same address. `Some(None)`: it should be, but there is no address of its family.
pub fn masquerade(settings: &Settings, src: IpAddr, dst: IpAddr) -> Option<Option<IpAddr>> {
    let rules = &settings.masquerade;
    let within = |list: &[Prefix], ip: IpAddr| list.iter().any(|prefix| contains(prefix, ip));
    if !within(&rules.sources, src) || within(&rules.exclude, dst) || within(&rules.sources, dst) {
        return None;
    }
    Some(one_of(&rules.addresses, src))
}

/// The address that replaces the client's on its way to a backend of an SNAT service.
pub fn service_source(settings: &Settings, src: IpAddr) -> Option<IpAddr> {
    one_of(&settings.snat_addresses, src)
}

fn one_of(addresses: &[IpAddr], src: IpAddr) -> Option<IpAddr> {
    let fits = |ip: &&IpAddr| ip.is_ipv4() == src.is_ipv4();
    let count = addresses.iter().filter(fits).count();
    if count == 0 {
        return None;
    }
    let hash = match src {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(ip) => {
            let o = ip.octets();
            o.chunks_exact(4)
                .fold(0, |sum: u32, w| sum.rotate_left(7) ^ u32::from_be_bytes([w[0], w[1], w[2], w[3]]))
        }
    };
    addresses.iter().filter(fits).nth(reduce(hash, count)).copied()
}

/// Is this one of the addresses that we translate sources to?
pub fn is_nat_address(settings: &Settings, ip: IpAddr) -> bool {
    settings.snat_addresses.contains(&ip) || settings.masquerade.addresses.contains(&ip)
}
