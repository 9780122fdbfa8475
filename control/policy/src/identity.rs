//! Label sets and their numbers, in Cilium's ranges.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_core::tables::record::{IdentitySlot, Prefix};

use crate::decode::masked;
use crate::labels::{Label, LabelSet};
use crate::service::frontends::hash;

pub const HOST: u32 = 1;
pub const UNMANAGED: u32 = 3;
pub const HEALTH: u32 = 4;
pub const INIT: u32 = 5;
pub const REMOTE_NODE: u32 = 6;
pub const KUBE_APISERVER: u32 = 7;
pub const INGRESS: u32 = 8;
pub const WORLD_IPV4: u32 = 9;
pub const WORLD_IPV6: u32 = 10;
/// Identities of endpoints: 256 to 65535.
const FIRST: u32 = 256;
const COUNT: u32 = 65_280;
/// Identities of prefixes.
const LOCAL: u32 = 1 << 24;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub number: u32,
    pub slot: IdentitySlot,
    pub labels: LabelSet,
    /// The prefix that it stands for, if it stands for one.
    pub prefix: Option<Prefix>,
}

impl Identity {
    pub fn is_world(&self) -> bool {
        self.prefix.is_some() || self.number == WORLD_IPV4 || self.number == WORLD_IPV6
    }
}

/// All identities of a set of objects, by label set.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    by_labels: BTreeMap<LabelSet, usize>,
    pub all: Vec<Identity>,
    taken: BTreeMap<u32, ()>,
    next_local: u32,
}

impl Identities {
    /// With the reserved ones in place.
    pub fn new() -> Self {
        let mut identities = Self::default();
        let reserved = [
            (HOST, "host"),
            (UNMANAGED, "unmanaged"),
            (HEALTH, "health"),
            (INIT, "init"),
            (REMOTE_NODE, "remote-node"),
            (INGRESS, "ingress"),
            (WORLD_IPV4, "world-ipv4"),
            (WORLD_IPV6, "world-ipv6"),
        ];
        for (number, name) in reserved {
            identities.add(number, [Label::reserved(name)].into(), None);
        }
        let labels = [Label::reserved("kube-apiserver"), Label::reserved("remote-node")].into();
        identities.add(KUBE_APISERVER, labels, None);
        identities
    }

    fn add(&mut self, number: u32, labels: LabelSet, prefix: Option<Prefix>) -> usize {
        let index = self.all.len();
        // Slot 0 stands for the unknown.
        let slot = IdentitySlot(u32::try_from(index).unwrap_or(u32::MAX) + 1);
        self.by_labels.insert(labels.clone(), index);
        self.taken.insert(number, ());
        self.all.push(Identity { number, slot, labels, prefix });
        index
    }

    /// The identity of an endpoint's labels. Numbers follow from the labels, so that they survive restarts; where two
    /// sets want the same number, the later one by name gets the next that is free.
    pub fn of_labels(&mut self, labels: LabelSet) -> usize {
        if let Some(index) = self.by_labels.get(&labels) {
            return *index;
        }
        let text: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let parts: Vec<&str> = text.iter().map(String::as_str).collect();
        let mut number = FIRST + hash(&parts) % COUNT;
        while self.taken.contains_key(&number) {
            number = FIRST + (number - FIRST + 1) % COUNT;
        }
        self.add(number, labels, None)
    }

    /// The identity of a prefix outside the cluster.
    pub fn of_prefix(&mut self, prefix: Prefix) -> usize {
        let world = if prefix.addr.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
        let mut labels: LabelSet = [Label::reserved(world)].into();
        if prefix.len > 0 {
            labels.insert(Label::new("cidr", &label_text(prefix), ""));
        }
        if let Some(index) = self.by_labels.get(&labels) {
            return *index;
        }
        self.next_local += 1;
        self.add(LOCAL | self.next_local, labels, Some(prefix))
    }

    pub fn by_number(&self, number: u32) -> Option<&Identity> {
        self.all.iter().find(|identity| identity.number == number)
    }
}

/// A prefix as a label's key: IPv6 with dashes for colons, and a zero where the key would begin or end with one.
fn label_text(prefix: Prefix) -> String {
    let mut text = prefix.addr.to_string().replace(':', "-");
    if text.starts_with('-') {
        text.insert(0, '0');
    }
    if text.ends_with('-') {
        text.push('0');
    }
    format!("{text}/{}", prefix.len)
}

/// Does `outer` hold all of `inner`?
pub fn holds(outer: &Prefix, inner: &Prefix) -> bool {
    outer.addr.is_ipv4() == inner.addr.is_ipv4()
        && outer.len <= inner.len
        && masked(inner.addr, outer.len) == outer.addr
}

/// Does the prefix hold this address?
pub fn holds_ip(outer: &Prefix, ip: IpAddr) -> bool {
    holds(outer, &crate::decode::host(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::prefix;

    #[test]
    fn numbers_are_in_ciliums_ranges_and_follow_from_labels() {
        let labels: LabelSet = [Label::k8s("app", "web")].into();
        let numbers: Vec<u32> = (0..2)
            .map(|_| {
                let mut identities = Identities::new();
                let index = identities.of_labels(labels.clone());
                identities.all[index].number
            })
            .collect();
        assert_eq!(numbers[0], numbers[1]);
        assert!((256..65536).contains(&numbers[0]));
        let mut identities = Identities::new();
        let index = identities.of_prefix(prefix("203.0.113.0/24").unwrap());
        assert_eq!(identities.all[index].number, LOCAL | 1);
    }

    #[test]
    fn ipv6_prefixes_are_spelt_as_cilium_spells_them() {
        assert_eq!(label_text(prefix("::1/128").unwrap()), "0--1/128");
        assert_eq!(label_text(prefix("2001:db8::/32").unwrap()), "2001-db8--0/32");
    }
}
