//! Labels → identity numbers, in Cilium's ranges, the same after a restart when the saved numbers are given back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use std::net::IpAddr;

use sluice_core::tables::record::Prefix;

use crate::decode::{host, masked};
use crate::labels::{Label, LabelSet};
use crate::service::frontends::hash;

/// Numbers that never change, with the label that names them.
pub const RESERVED: [(u32, &str); 10] = [
    (1, "host"),
    (2, "world"),
    (3, "unmanaged"),
    (4, "health"),
    (5, "init"),
    (6, "remote-node"),
    (7, "kube-apiserver"),
    (8, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

pub const HOST: u32 = 1;
pub const WORLD: u32 = 2;
pub const UNMANAGED: u32 = 3;
pub const HEALTH: u32 = 4;
pub const INIT: u32 = 5;
pub const REMOTE_NODE: u32 = 6;
pub const KUBE_APISERVER: u32 = 7;
pub const INGRESS: u32 = 8;
pub const WORLD_IPV4: u32 = 9;
pub const WORLD_IPV6: u32 = 10;

const CLUSTER: std::ops::RangeInclusive<u32> = 256..=65535;
const CLUSTER_COUNT: u32 = 65_280;
const LOCAL_COUNT: u32 = 0xFF_FFFF;
const LOCAL: std::ops::RangeInclusive<u32> = (1 << 24) + 1..=(1 << 24) + 0xFF_FFFF;

/// Where a number may be taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same in the whole cluster: pods and endpoints.
    Cluster,
    /// This gateway's own: prefixes and names.
    Local,
}

/// Who has which number.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    given: HashMap<LabelSet, (u32, u32)>,
    labels: BTreeMap<u32, LabelSet>,
    /// From before the restart, until somebody claims it.
    saved: HashMap<LabelSet, u32>,
    promised: BTreeSet<u32>,
    promised_in_cluster: usize,
    /// Where the search for a free local number begins.
    next_local: u32,
    in_cluster: usize,
    /// What is to be saved is something else than when somebody last looked.
    changed: bool,
}

impl Numbers {
    /// Begin with the numbers of an earlier run (labels as [`Label`] displays them). Nonsense is passed over.
    pub fn with_saved(saved: &BTreeMap<u32, Vec<String>>) -> Self {
        let mut numbers = Self::default();
        for (number, labels) in saved {
            if CLUSTER.contains(number) || LOCAL.contains(number) {
                numbers.promised.insert(*number);
                numbers.promised_in_cluster += usize::from(CLUSTER.contains(number));
                numbers.saved.insert(labels.iter().map(|text| Label::parse(text)).collect(), *number);
            }
        }
        numbers
    }

    /// The number of these labels, given now if need be. Each taking is to be returned once. A full cluster range goes
    /// on in the local one: the number is then this gateway's own, which is all that the gateway needs.
    pub fn take(&mut self, labels: &LabelSet, scope: Scope) -> u32 {
        if let Some((number, users)) = self.given.get_mut(labels) {
            *users += 1;
            return *number;
        }
        let number = match self.saved.remove(labels) {
            Some(number) => {
                self.promised.remove(&number);
                self.promised_in_cluster -= usize::from(CLUSTER.contains(&number));
                number
            }
            None => self.fresh(labels, scope),
        };
        self.in_cluster += usize::from(CLUSTER.contains(&number));
        self.changed = true;
        self.given.insert(labels.clone(), (number, 1));
        self.labels.insert(number, labels.clone());
        number
    }

    pub fn give_back(&mut self, labels: &LabelSet) {
        let Some((number, users)) = self.given.get_mut(labels) else { return };
        *users -= 1;
        if *users == 0 {
            let number = *number;
            self.changed = true;
            self.in_cluster -= usize::from(CLUSTER.contains(&number));
            self.given.remove(labels);
            self.labels.remove(&number);
        }
    }

    fn is_free(&self, number: u32) -> bool {
        !self.labels.contains_key(&number) && !self.promised.contains(&number)
    }

    /// Cluster numbers follow from the labels, so that they are mostly the same even without saved ones; where two sets
    /// want the same number, the later one gets the next that is free.
    fn fresh(&mut self, labels: &LabelSet, scope: Scope) -> u32 {
        if scope == Scope::Cluster && self.in_cluster + self.promised_in_cluster < CLUSTER_COUNT as usize {
            let text: Vec<String> = labels.iter().map(ToString::to_string).collect();
            let parts: Vec<&str> = text.iter().map(String::as_str).collect();
            let start = hash(&parts) % CLUSTER_COUNT;
            let found = (0..CLUSTER_COUNT)
                .map(|step| CLUSTER.start() + (start + step) % CLUSTER_COUNT)
                .find(|number| self.is_free(*number));
            if let Some(number) = found {
                return number;
            }
        }
        loop {
            let number = LOCAL.start() + self.next_local % LOCAL_COUNT;
            self.next_local += 1;
            if self.is_free(number) {
                return number;
            }
        }
    }

    pub fn labels(&self, number: u32) -> Option<&LabelSet> {
        self.labels.get(&number)
    }

    /// All numbers in use, for listings and to give back after a restart.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &LabelSet)> {
        self.labels.iter().map(|(number, labels)| (*number, labels))
    }

    /// Is there anything to be saved that was not saved yet?
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whoever has not come back by now does not: numbers of an earlier run are free again.
    pub fn forget_unclaimed(&mut self) {
        self.changed |= !self.saved.is_empty();
        self.saved.clear();
        self.promised.clear();
        self.promised_in_cluster = 0;
    }

    /// What [`Self::with_saved`] takes.
    pub fn save(&self) -> BTreeMap<u32, Vec<String>> {
        let text = |labels: &LabelSet| labels.iter().map(ToString::to_string).collect();
        let unclaimed = self.saved.iter().map(|(labels, number)| (*number, text(labels)));
        self.labels.iter().map(|(number, labels)| (*number, text(labels))).chain(unclaimed).collect()
    }
}

/// Does `outer` hold all of `inner`?
pub fn holds(outer: &Prefix, inner: &Prefix) -> bool {
    outer.addr.is_ipv4() == inner.addr.is_ipv4()
        && outer.len <= inner.len
        && masked(inner.addr, outer.len) == outer.addr
}

/// Does the prefix hold this address?
pub fn holds_ip(outer: &Prefix, ip: IpAddr) -> bool {
    holds(outer, &host(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> LabelSet {
        [Label::k8s("app", app)].into()
    }

    #[test]
    fn numbers_lie_in_ciliums_ranges() {
        let mut numbers = Numbers::default();
        let a = numbers.take(&labels("a"), Scope::Cluster);
        assert!(CLUSTER.contains(&a));
        assert_eq!(numbers.take(&labels("a"), Scope::Cluster), a);
        assert_ne!(numbers.take(&labels("b"), Scope::Cluster), a);
        assert_eq!(numbers.take(&[Label::new("cidr", "10.0.0.0/8", "")].into(), Scope::Local), 16_777_217);
    }

    #[test]
    fn numbers_survive_a_restart_in_any_order() {
        let mut before = Numbers::default();
        let given: Vec<u32> =
            (0..2000).map(|n| before.take(&labels(&n.to_string()), Scope::Cluster)).collect();
        let mut after = Numbers::with_saved(&before.save());
        let late = after.take(&labels("late"), Scope::Cluster);
        assert!(!given.contains(&late));
        for n in (0..2000).rev() {
            assert_eq!(after.take(&labels(&n.to_string()), Scope::Cluster), given[n]);
        }
    }

    #[test]
    fn numbers_that_nobody_claims_are_free_in_the_end() {
        let mut before = Numbers::default();
        let (gone, kept) =
            (before.take(&labels("gone"), Scope::Cluster), before.take(&labels("kept"), Scope::Cluster));
        let mut after = Numbers::with_saved(&before.save());
        assert!(!after.take_changed(), "all that there is is saved");
        assert_eq!(after.take(&labels("kept"), Scope::Cluster), kept);
        assert!(after.take_changed() && after.save().contains_key(&gone));
        after.forget_unclaimed();
        assert!(
            after.take_changed() && !after.save().contains_key(&gone) && after.save().contains_key(&kept)
        );
    }

    #[test]
    fn promises_of_prefixes_take_no_room_of_the_clusters() {
        let saved = (0..CLUSTER_COUNT).map(|n| (LOCAL.start() + n, vec![format!("cidr:{n}")])).collect();
        let mut numbers = Numbers::with_saved(&saved);
        assert!(CLUSTER.contains(&numbers.take(&labels("a"), Scope::Cluster)));
    }

    #[test]
    fn a_full_range_goes_on_in_the_local_one() {
        let mut numbers = Numbers::default();
        for n in CLUSTER {
            assert!(CLUSTER.contains(&numbers.take(&labels(&n.to_string()), Scope::Cluster)));
        }
        assert_eq!(numbers.take(&labels("more"), Scope::Cluster), 16_777_217);
        let freed = numbers.given[&labels("300")].0;
        numbers.give_back(&labels("300"));
        assert_eq!(numbers.take(&labels("new"), Scope::Cluster), freed);
    }
}
