//! A set of addresses, written as prefixes and read as sorted ranges: one binary search says whether an address is in it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use super::record::Prefix;

#[derive(Clone, Debug, Default)]
pub struct PrefixSet {
    /// First and last address of disjoint ranges, sorted. IPv4 as keys hold it, IPv4-mapped.
    v4: Box<[(u128, u128)]>,
    v6: Box<[(u128, u128)]>,
}

impl PrefixSet {
    pub fn new(prefixes: &[Prefix]) -> Self {
        let (v4, v6): (Vec<&Prefix>, Vec<&Prefix>) = prefixes.iter().partition(|p| p.addr.is_ipv4());
        Self { v4: merge(v4), v6: merge(v6) }
    }

    #[inline]
    pub fn contains(&self, ip: Ipv6Addr, v4: bool) -> bool {
        let (ranges, ip) = (if v4 { &self.v4 } else { &self.v6 }, ip.to_bits());
        let behind = ranges.partition_point(|(first, _)| *first <= ip);
        behind > 0 && ip <= ranges[behind - 1].1
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn merge(prefixes: Vec<&Prefix>) -> Box<[(u128, u128)]> {
    let mut ranges: Vec<(u128, u128)> = prefixes.into_iter().map(range).collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn range(prefix: &Prefix) -> (u128, u128) {
    let (bits, fixed) = match prefix.addr {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().to_bits(), 96 + u32::from(prefix.len.min(32))),
        IpAddr::V6(ip) => (ip.to_bits(), u32::from(prefix.len.min(128))),
    };
    let host = u128::MAX.checked_shr(fixed).unwrap_or(0);
    (bits & !host, bits | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[(&str, u8)]) -> PrefixSet {
        let prefixes: Vec<Prefix> =
            prefixes.iter().map(|(addr, len)| Prefix { addr: addr.parse().unwrap(), len: *len }).collect();
        PrefixSet::new(&prefixes)
    }

    fn holds(set: &PrefixSet, ip: &str) -> bool {
        match ip.parse().unwrap() {
            IpAddr::V4(ip) => set.contains(ip.to_ipv6_mapped(), true),
            IpAddr::V6(ip) => set.contains(ip, false),
        }
    }

    #[test]
    fn holds_what_its_prefixes_hold() {
        let set =
            set(&[("10.1.0.0", 16), ("10.0.0.0", 8), ("192.0.2.7", 32), ("2001:db8::", 32), ("::1", 128)]);
        for inside in ["10.0.0.0", "10.1.2.3", "10.255.255.255", "192.0.2.7", "2001:db8::1", "::1"] {
            assert!(holds(&set, inside), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.6", "192.0.2.8", "2001:db9::", "::2", "::"] {
            assert!(!holds(&set, outside), "{outside}");
        }
    }

    #[test]
    fn all_of_one_family_is_none_of_the_other() {
        assert!(!holds(&set(&[("::", 0)]), "10.0.0.1") && holds(&set(&[("::", 0)]), "2001:db8::1"));
        assert!(!holds(&set(&[("0.0.0.0", 0)]), "2001:db8::1") && holds(&set(&[("0.0.0.0", 0)]), "10.0.0.1"));
        assert!(!holds(&set(&[]), "10.0.0.1") && set(&[]).is_empty());
    }
}
