//! Objects → records: the only way that tables come to be.
//!
//! A [`Compiled`] is a set of objects, understood. It takes in a newer set by what differs, and says what the dataplane
//! must change for it.

mod edit;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::tables::record::{Change, FrontendKey, Records, RuleId, diff, merge};

use crate::config::{Kinds, Options};
use crate::decode::{Problem, Problems};
use crate::engine::{Engine, ObjectChange, PatternSet, RuleName, Settings};
use crate::identity::Numbers;
use crate::objects::Objects;
use crate::observed::Naming;
use crate::policy::{Direction, Policy, Source};
use crate::service::Service;
use crate::service::frontends::Frontends;

pub use edit::Edit;

/// A set of objects, understood.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub objects: Objects,
    pub options: Options,
    pub engine: Engine,
    pub frontends: Frontends,
    pub records: Records,
    pub warnings: Vec<Problem>,
}

impl Compiled {
    pub fn new(objects: Objects, options: Options, problems: Problems) -> Self {
        Self::with_numbers(objects, options, problems, Numbers::default())
    }

    /// The same, with the identity numbers of an earlier run ([`Numbers::with_saved`]).
    pub fn with_numbers(objects: Objects, options: Options, problems: Problems, numbers: Numbers) -> Self {
        let settings = Settings {
            node: options.node.clone(),
            cluster: options.cluster.clone(),
            enforcement: options.enforcement,
            audit: options.audit,
            allow_localhost: options.allow_localhost,
            filter: options.filter.clone(),
            ipv4: options.ipv4,
            ipv6: options.ipv6,
            cidr_matches: options.cidr_matches,
            host_firewall: options.kinds.host_firewall,
            cluster_network_policy: options.kinds.cluster_network_policy,
            names_elsewhere: options.names_elsewhere,
        };
        let mut compiled = Self {
            objects: Objects::default(),
            engine: Engine::new(settings, numbers),
            frontends: Frontends::default(),
            records: Records::new(),
            warnings: Vec::new(),
            options,
        };
        compiled.update(objects, problems);
        compiled
    }

    /// Take in a newer set of objects; what the dataplane must change. The cost is in proportion to what differs, but for
    /// comparing the sets.
    pub fn update(&mut self, objects: Objects, problems: Problems) -> Vec<Change> {
        let differing = differences(&self.objects, &objects);
        self.objects = objects;
        let mut changes = self.engine.apply(differing);
        changes.extend(self.frontends_anew());
        merge(&mut self.records, &changes);
        self.warn(problems.warnings);
        changes
    }

    /// What is odd: what was while objects were read, and what is now that all are known.
    pub fn warn(&mut self, read: Vec<Problem>) {
        self.warnings = read;
        self.warnings.extend(self.engine.dangling());
        self.warnings.extend(self.frontends.pools.warnings.iter().cloned());
        self.warnings.extend(crate::egress::warnings(&self.objects, &self.options));
        let kinds = self.options.kinds;
        if kinds != Kinds::default() {
            let policies = self.objects.policies.iter();
            self.warnings.extend(policies.filter_map(|policy| policy.switched_off(kinds)));
        }
    }

    /// The addresses of a name, by all that is known now; what the dataplane must change.
    pub fn learn(&mut self, name: &str, addresses: Vec<IpAddr>) -> Vec<Change> {
        let changes = self.engine.apply([ObjectChange::Name(crate::fqdn::normal(name), addresses)]);
        merge(&mut self.records, &changes);
        changes
    }

    /// Whoever learns names has met these sets of patterns; what the dataplane must change.
    pub fn want_names(&mut self, sets: Vec<PatternSet>, whole: bool) -> Vec<Change> {
        let changes = self.engine.want_names(sets, whole);
        merge(&mut self.records, &changes);
        changes
    }

    fn frontends_anew(&mut self) -> Vec<Change> {
        let mut changes = self.frontends.renew(&self.objects, &self.options);
        changes.extend(self.newer_settings());
        changes.extend(self.newer_departures());
        changes
    }

    /// How sources leave the cluster, where that is not what was told last.
    fn newer_departures(&self) -> Vec<Change> {
        crate::egress::changes(&self.objects, &self.options, &self.records)
    }

    /// The settings, if they are not what was told last.
    fn newer_settings(&self) -> Option<Change> {
        let settings = Change::Settings(self.frontends.settings(&self.objects, &self.options));
        (self.records.get(&settings.key()) != Some(&settings)).then_some(settings)
    }

    /// What leads from an older state of the world to this one.
    pub fn changes_since(&self, old: Option<&Self>) -> Vec<Change> {
        match old {
            Some(old) => diff(&old.records, &self.records),
            None => self.changes(),
        }
    }

    /// Everything.
    pub fn changes(&self) -> Vec<Change> {
        self.records.values().cloned().collect()
    }

    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.engine.rule(id)
    }

    /// The policies that switched default deny on for this identity.
    pub fn enforcing(&self, number: u32, direction: Direction) -> Vec<Value> {
        let slot = self.engine.slot_of_number(number);
        let sources = slot.map(|slot| self.engine.enforcing(slot, direction)).unwrap_or_default();
        sources.into_iter().map(source_json).collect()
    }
}

pub(crate) fn source_json(source: &Source) -> Value {
    json!({"kind": source.kind, "namespace": source.namespace, "name": source.name})
}

impl Naming for Compiled {
    fn endpoint(&self, ip: IpAddr) -> Option<String> {
        self.engine.owner(ip).map(|(_, name)| name)
    }

    fn labels(&self, number: u32) -> Vec<String> {
        let labels = self.engine.labels(number);
        labels.map(|labels| labels.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    fn rule(&self, id: RuleId) -> Option<Value> {
        let rule = Self::rule(self, id)?;
        let mut shown = source_json(&rule.source);
        shown["list"] = json!(rule.list);
        shown["index"] = json!(rule.index);
        if rule.spec > 0 {
            shown["spec"] = json!(rule.spec);
        }
        if let Some(log) = self.engine.policy_of(rule).and_then(|policy| policy.log.as_ref()) {
            shown["log"] = json!(log);
        }
        Some(shown)
    }

    fn match_type(&self, id: RuleId, proto: u8, port: u16) -> u8 {
        let name = Self::rule(self, id);
        let mut rules = name.into_iter().flat_map(|name| self.engine.rules_of(name));
        rules.find_map(|rule| rule.match_type(proto, port)).unwrap_or(0)
    }

    fn enforced_by(&self, number: u32, egress: bool) -> Vec<Value> {
        self.enforcing(number, if egress { Direction::Egress } else { Direction::Ingress })
    }

    fn service(&self, ip: IpAddr, port: u16, proto: u8) -> Option<(String, String)> {
        self.frontends.service_at(FrontendKey { ip, port, proto })
    }
}

/// What differs between two sets of objects, as far as policy looks at it.
fn differences(old: &Objects, new: &Objects) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    compare(&old.namespaces, &new.namespaces, |name, labels| {
        changes.push(ObjectChange::Namespace(name.clone(), labels.cloned()));
    });
    compare(&old.nodes, &new.nodes, |name, node| {
        changes.push(ObjectChange::Node(name.clone(), node.cloned()))
    });
    compare(&old.endpoints, &new.endpoints, |key, endpoint| {
        changes.push(ObjectChange::Endpoint(key.clone(), endpoint.cloned()));
    });
    compare(&backends(old), &backends(new), |key, service| {
        changes
            .push(ObjectChange::Service((*key).clone(), service.map(|(s, ips)| ((*s).clone(), ips.clone()))));
    });
    let groups = |objects: &Objects| -> BTreeMap<String, _> {
        objects.groups.iter().map(|group| (group.name.clone(), group.clone())).collect()
    };
    compare(&groups(old), &groups(new), |name, group| {
        changes.push(ObjectChange::Group(name.clone(), group.cloned()));
    });
    let (servers, before) = (api_servers(new), api_servers(old));
    if servers != before {
        changes.push(ObjectChange::ApiServer(servers.into_iter().collect()));
    }
    compare(&policies(old), &policies(new), |source, specs| {
        let specs = specs.into_iter().flatten().map(|policy| (*policy).clone()).collect();
        changes.push(ObjectChange::Policy((*source).clone(), specs));
    });
    changes
}

/// Keys whose values differ, with the new value.
fn compare<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    mut tell: impl FnMut(&K, Option<&V>),
) {
    old.keys().filter(|key| !new.contains_key(key)).for_each(|key| tell(key, None));
    new.iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .for_each(|(key, value)| tell(key, Some(value)));
}

fn policies(objects: &Objects) -> BTreeMap<&Source, Vec<&Policy>> {
    let mut by_source: BTreeMap<&Source, Vec<&Policy>> = BTreeMap::new();
    for policy in &objects.policies {
        by_source.entry(&policy.source).or_default().push(policy);
    }
    by_source
}

/// Services with the addresses behind those that have no selector.
fn backends(objects: &Objects) -> BTreeMap<&(String, String), (&Service, Vec<IpAddr>)> {
    let mut found: BTreeMap<&(String, String), (&Service, Vec<IpAddr>)> =
        objects.services.iter().map(|(key, service)| (key, (service, Vec::new()))).collect();
    for slice in objects.slices.values() {
        let key = (slice.namespace.clone(), slice.service.clone());
        if let Some((service, addresses)) = found.get_mut(&key)
            && service.selector.is_empty()
        {
            addresses.extend(slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()));
        }
    }
    found
}

/// Where `default/kubernetes` leads.
fn api_servers(objects: &Objects) -> BTreeSet<IpAddr> {
    let slices = objects.slices.values();
    let own = slices.filter(|slice| slice.namespace == "default" && slice.service == "kubernetes");
    own.flat_map(|slice| &slice.endpoints).flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}
