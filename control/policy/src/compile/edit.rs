//! One object at a time: what a watch tells, without comparing whole sets.

use std::collections::BTreeSet;

use sluice_core::tables::record::{Change, merge};

use super::Compiled;
use crate::egress::EgressPolicy;
use crate::engine::ObjectChange;
use crate::objects::{Endpoint, Namespace, NodeObject};
use crate::policy::groups::CidrGroup;
use crate::policy::{Policy, Source};
use crate::service::frontends::Owner;
use crate::service::pools::Pool;
use crate::service::{Service, Slice, zone_of};

/// An object that came, changed or went.
#[derive(Clone, Debug)]
pub enum Edit {
    Namespace(String, Option<Namespace>),
    Node(String, Option<NodeObject>),
    Endpoint((String, String), Option<Endpoint>),
    Service((String, String), Option<Service>),
    Slice((String, String), Option<Slice>),
    /// All specs of one object; none: it went.
    Policy(Source, Vec<Policy>),
    Group(String, Option<CidrGroup>),
    Egress(String, Option<EgressPolicy>),
    Pool(String, Option<Pool>),
}

/// Whose frontends must be made anew.
enum Touched {
    All,
    Owners(BTreeSet<Owner>),
}

impl Touched {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Owners(mut own), Self::Owners(more)) => {
                own.extend(more);
                Self::Owners(own)
            }
            _ => Self::All,
        }
    }
}

fn owner(service: &(String, String)) -> Owner {
    Owner::Service(service.0.clone(), service.1.clone())
}

fn put<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Compiled {
    /// Take in single objects; what the dataplane must change. The cost is that of what they touch.
    pub fn edit(&mut self, edits: Vec<Edit>) -> Vec<Change> {
        let (mut told, mut touched) = (Vec::new(), Touched::Owners(BTreeSet::new()));
        let claiming =
            edits.iter().any(|edit| matches!(edit, Edit::Service(..) | Edit::Pool(..) | Edit::Node(..)));
        for edit in edits {
            let (changes, services) = self.one(edit);
            told.extend(changes);
            touched = touched.and(services);
        }
        if claiming {
            // Once for all of them: each giving looks at every service.
            touched = touched.and(Touched::Owners(self.frontends.give_addresses(&self.objects)));
        }
        let mut changes = self.engine.apply(told);
        changes.extend(match touched {
            Touched::All => self.frontends_anew(),
            Touched::Owners(owners) => self.frontends.update(owners, &self.objects, &self.options),
        });
        changes.extend(self.newer_settings());
        changes.extend(self.newer_departures());
        merge(&mut self.records, &changes);
        changes
    }

    /// What the engine must hear of it, and whose frontends are touched.
    fn one(&mut self, edit: Edit) -> (Vec<ObjectChange>, Touched) {
        let nobody = Touched::Owners(BTreeSet::new());
        let objects = &mut self.objects;
        match edit {
            Edit::Namespace(name, labels) => {
                put(&mut objects.namespaces, name.clone(), labels.clone());
                (vec![ObjectChange::Namespace(name, labels)], nobody)
            }
            Edit::Node(name, node) => {
                let (before, now) = (objects.nodes.get(&name), node.as_ref());
                let addresses = |node: Option<&NodeObject>| node.map(|node| node.addresses.clone());
                let zone = |node: Option<&NodeObject>| node.and_then(zone_of).map(str::to_owned);
                // Tunnels to the backends of a node end at its address, and some are near by its zone.
                let moved = addresses(before) != addresses(now) || zone(before) != zone(now);
                put(&mut objects.nodes, name.clone(), node.clone());
                let all = name == self.options.node || moved;
                (vec![ObjectChange::Node(name, node)], if all { Touched::All } else { nobody })
            }
            Edit::Endpoint(key, endpoint) => {
                let had = objects.endpoints.get(&key).cloned();
                put(&mut objects.endpoints, key.clone(), endpoint.clone());
                let versions = [had.as_ref(), endpoint.as_ref()];
                let touched = self.frontends.touched_by(&key, versions, &self.objects);
                (vec![ObjectChange::Endpoint(key, endpoint)], Touched::Owners(touched))
            }
            Edit::Service(key, service) => {
                put(&mut objects.services, key.clone(), service);
                (vec![self.backed(&key)], Touched::Owners([owner(&key)].into()))
            }
            Edit::Slice(key, slice) => {
                let service = |slice: &Slice| (slice.namespace.clone(), slice.service.clone());
                let mut meant: Vec<_> = objects.slices.get(&key).map(service).into_iter().collect();
                meant.extend(slice.as_ref().map(service));
                put(&mut objects.slices, key.clone(), slice);
                meant.iter().for_each(|service| self.frontends.retell_slices(service, &self.objects, &key));
                let mut told: Vec<ObjectChange> = meant.iter().map(|service| self.backed(service)).collect();
                if meant.iter().any(|(namespace, name)| namespace == "default" && name == "kubernetes") {
                    told.push(ObjectChange::ApiServer(
                        super::api_servers(&self.objects).into_iter().collect(),
                    ));
                }
                (told, Touched::Owners(meant.iter().map(owner).collect()))
            }
            Edit::Policy(source, policies) => {
                // Specs of one object stand together.
                let own = |policy: &Policy| policy.source == source;
                let from = objects.policies.iter().position(own).unwrap_or(objects.policies.len());
                let to = from + objects.policies[from..].iter().take_while(|policy| own(policy)).count();
                objects.policies.splice(from..to, policies.iter().cloned());
                (vec![ObjectChange::Policy(source, policies)], nobody)
            }
            Edit::Egress(name, policy) => {
                objects.egress.retain(|own| own.name != name);
                objects.egress.extend(policy);
                objects.egress.sort_by(|a, b| a.name.cmp(&b.name));
                (Vec::new(), nobody)
            }
            Edit::Pool(name, pool) => {
                put(&mut objects.pools, name, pool);
                (Vec::new(), nobody)
            }
            Edit::Group(name, group) => {
                objects.groups.retain(|own| own.name != name);
                objects.groups.extend(group.clone());
                (vec![ObjectChange::Group(name, group)], nobody)
            }
        }
    }

    /// A service as it stands, with the addresses behind it.
    fn backed(&self, key: &(String, String)) -> ObjectChange {
        let service = self.objects.services.get(key).map(|service| {
            let own = self.frontends.slices_of(key, &self.objects);
            let endpoints = own.filter(|_| service.selector.is_empty()).flat_map(|slice| &slice.endpoints);
            (service.clone(), endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect())
        });
        ObjectChange::Service(key.clone(), service)
    }
}
