//! One object at a time: what a watch tells, without comparing whole sets.

use sluice_core::tables::record::{Change, merge};

use super::Compiled;
use crate::engine::ObjectChange;
use crate::objects::{Endpoint, Namespace, NodeObject};
use crate::policy::groups::CidrGroup;
use crate::policy::{Policy, Source};
use crate::service::{Service, Slice};

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
        let (mut told, mut services) = (Vec::new(), false);
        for edit in edits {
            let (changes, of_services) = self.one(edit);
            told.extend(changes);
            services |= of_services;
        }
        let mut changes = self.engine.apply(told);
        if services {
            changes.extend(self.frontends_anew());
        }
        merge(&mut self.records, &changes);
        changes
    }

    /// What the engine must hear of it, and whether services are touched.
    fn one(&mut self, edit: Edit) -> (Vec<ObjectChange>, bool) {
        let objects = &mut self.objects;
        match edit {
            Edit::Namespace(name, labels) => {
                put(&mut objects.namespaces, name.clone(), labels.clone());
                (vec![ObjectChange::Namespace(name, labels)], false)
            }
            Edit::Node(name, node) => {
                put(&mut objects.nodes, name.clone(), node.clone());
                let own = name == self.options.node;
                (vec![ObjectChange::Node(name, node)], own)
            }
            Edit::Endpoint(key, endpoint) => {
                let is_port = |endpoint: &Option<Endpoint>| endpoint.iter().any(|e| !e.host_ports.is_empty());
                let had = objects.endpoints.get(&key).cloned();
                put(&mut objects.endpoints, key.clone(), endpoint.clone());
                // Where nobody makes slices, services look for their pods themselves.
                let touched = is_port(&had)
                    || is_port(&endpoint)
                    || (objects.slices.is_empty() && !objects.services.is_empty());
                (vec![ObjectChange::Endpoint(key, endpoint)], touched)
            }
            Edit::Service(key, service) => {
                put(&mut objects.services, key.clone(), service);
                (vec![self.backed(&key)], true)
            }
            Edit::Slice(key, slice) => {
                let service = |slice: &Slice| (slice.namespace.clone(), slice.service.clone());
                let mut meant: Vec<_> = objects.slices.get(&key).map(service).into_iter().collect();
                meant.extend(slice.as_ref().map(service));
                put(&mut objects.slices, key, slice);
                let mut told: Vec<ObjectChange> = meant.iter().map(|service| self.backed(service)).collect();
                if meant.iter().any(|(namespace, name)| namespace == "default" && name == "kubernetes") {
                    told.push(ObjectChange::ApiServer(
                        super::api_servers(&self.objects).into_iter().collect(),
                    ));
                }
                (told, true)
            }
            Edit::Policy(source, policies) => {
                objects.policies.retain(|policy| policy.source != source);
                objects.policies.extend(policies.iter().cloned());
                (vec![ObjectChange::Policy(source, policies)], false)
            }
            Edit::Group(name, group) => {
                objects.groups.retain(|own| own.name != name);
                objects.groups.extend(group.clone());
                (vec![ObjectChange::Group(name, group)], false)
            }
        }
    }

    /// A service as it stands, with the addresses behind it.
    fn backed(&self, key: &(String, String)) -> ObjectChange {
        let service = self.objects.services.get(key).map(|service| {
            let own = self.objects.slices.values().filter(|s| s.namespace == key.0 && s.service == key.1);
            let endpoints = own.filter(|_| service.selector.is_empty()).flat_map(|slice| &slice.endpoints);
            (service.clone(), endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect())
        });
        ObjectChange::Service(key.clone(), service)
    }
}
