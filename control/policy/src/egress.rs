//! CiliumEgressGatewayPolicy: whose packets leave the cluster with which address, and by which node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::tables::record::{Change, Leave, Prefix, RecordKey, Records};

use crate::config::Options;
use crate::decode::{Fields, Place, Problem, Problems, prefix};
use crate::labels::{Label, LabelSet, Selector};
use crate::objects::{Endpoint, Metadata, NodeObject, Objects, address};
use crate::policy::Spot;
use crate::service::frontends::hash;
use crate::tree::Node;

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    pub name: String,
    selectors: Vec<Subject>,
    destinations: Vec<Prefix>,
    excluded: Vec<Prefix>,
    gateways: Vec<Gateway>,
}

/// Whom a policy means: all selectors that are there must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Subject {
    namespaces: Option<Selector>,
    pods: Option<Selector>,
    nodes: Option<Selector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gateway {
    nodes: Selector,
    address: Option<IpAddr>,
    /// The device whose first address it is, and where it is named.
    interface: Option<(String, Spot)>,
}

impl EgressPolicy {
    pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Self {
        let mut policy = Self { name: metadata.name, ..Self::default() };
        let mut whole = Fields::new(node, place, problems);
        let spec = whole.object("spec");
        for known in ["apiVersion", "kind", "metadata", "status"] {
            whole.raw(known);
        }
        whole.deny_unknown();
        match spec {
            Some((spec, place)) => policy.spec(Fields::new(spec, place, whole.problems)),
            None => whole.error(node, "a CiliumEgressGatewayPolicy needs a spec"),
        }
        policy
    }

    fn spec(&mut self, mut fields: Fields<'_, '_>) {
        let node = fields.node;
        for (item, place) in fields.list("selectors").unwrap_or_default() {
            self.selectors.push(Subject::read(item, place, fields.problems));
        }
        self.destinations = prefixes(&mut fields, "destinationCIDRs");
        self.excluded = prefixes(&mut fields, "excludedCIDRs");
        if let Some((item, place)) = fields.object("egressGateway") {
            self.gateways.push(Gateway::read(item, place, fields.problems));
        }
        let several = fields.list("egressGateways").unwrap_or_default();
        if several.len() > 64 {
            fields.error(node, "egressGateways holds 64 at most");
        }
        // Where there are several, the single one is their elder form and does not count.
        if !several.is_empty() {
            self.gateways.clear();
        }
        for (item, place) in several {
            self.gateways.push(Gateway::read(item, place, fields.problems));
        }
        if self.selectors.is_empty() {
            fields.error(node, "selectors must say who is meant");
        }
        if self.destinations.is_empty() {
            fields.error(node, "destinationCIDRs must say where to");
        }
        if self.gateways.is_empty() {
            fields.error(node, "egressGateway (or egressGateways) must say which node is the gateway");
        }
        fields.deny_unknown();
    }

    /// What becomes of this endpoint's packets to each prefix.
    fn ways(&self, endpoint: &Endpoint, objects: &Objects, options: &Options) -> Vec<(Prefix, Leave)> {
        let turn = hash(&[&endpoint.namespace, &endpoint.name]) as usize;
        let Some(gateway) = self.gateways.get(turn.checked_rem(self.gateways.len()).unwrap_or(0)) else {
            return Vec::new();
        };
        // The first by name, as everywhere.
        let node = objects.nodes.values().find(|node| gateway.nodes.matches(&labels(&node.labels)));
        let leave = |to: &Prefix| match node {
            None => Leave::NoGateway,
            Some(node) if node.name != options.node => Leave::Elsewhere,
            Some(node) => gateway.leave(node, to.addr.is_ipv4(), options),
        };
        let to = self.destinations.iter().map(|to| (*to, leave(to)));
        self.excluded.iter().map(|to| (*to, Leave::Usual)).chain(to).collect()
    }
}

impl Subject {
    fn read(node: &Node, place: Place, problems: &mut Problems) -> Self {
        let mut fields = Fields::new(node, place, problems);
        let mut selector = |key: &'static str| {
            let (node, place) = fields.object(key)?;
            Some(Selector::read(&mut Fields::new(node, place, fields.problems)))
        };
        let (namespaces, pods) = (selector("namespaceSelector"), selector("podSelector"));
        let nodes = selector("nodeSelector");
        if namespaces.is_none() && pods.is_none() {
            fields.error(node, "a selector needs podSelector or namespaceSelector");
        }
        fields.deny_unknown();
        Self { namespaces, pods, nodes }
    }

    fn means(&self, endpoint: &Endpoint, objects: &Objects) -> bool {
        let own = || {
            let mut own = endpoint.labels.clone();
            own.push((NAMESPACE.to_owned(), endpoint.namespace.clone()));
            labels(&own)
        };
        let space = || {
            let mut space =
                objects.namespaces.get(&endpoint.namespace).map(|n| n.labels.clone()).unwrap_or_default();
            space.retain(|(key, _)| key != NAMESPACE_NAME);
            space.push((NAMESPACE_NAME.to_owned(), endpoint.namespace.clone()));
            labels(&space)
        };
        let node = || objects.nodes.get(&endpoint.node).map(|node| labels(&node.labels));
        self.pods.as_ref().is_none_or(|pods| pods.matches(&own()))
            && self.namespaces.as_ref().is_none_or(|spaces| spaces.matches(&space()))
            && self.nodes.as_ref().is_none_or(|nodes| node().is_some_and(|labels| nodes.matches(&labels)))
    }
}

impl Gateway {
    fn read(node: &Node, place: Place, problems: &mut Problems) -> Self {
        let mut fields = Fields::new(node, place, problems);
        let nodes = fields.object("nodeSelector");
        let nodes = match nodes {
            Some((node, place)) => Selector::read(&mut Fields::new(node, place, fields.problems)),
            None => {
                fields.error(node, "a gateway needs a nodeSelector");
                Selector::default()
            }
        };
        let (interface, ip) = (fields.text("interface"), fields.text("egressIP"));
        if interface.is_some() && ip.is_some() {
            fields.error(node, "a gateway has an interface or an egressIP, not both");
        }
        let at = Spot::new(node, &fields.place.key("interface"));
        let place = fields.place.key("egressIP");
        let address = ip.and_then(|text| address(&text, node, &place, fields.problems));
        fields.deny_unknown();
        Self { nodes, address, interface: interface.map(|name| (name, at)) }
    }

    /// Our own node is the gateway: the address of the interface, the one that is said, or the node's own.
    fn leave(&self, node: &NodeObject, v4: bool, options: &Options) -> Leave {
        if let Some((name, _)) = &self.interface {
            return port(name, options).map_or(Leave::NoAddress, Leave::Through);
        }
        let found = match self.address {
            Some(ip) => Some(ip).filter(|ip| ip.is_ipv4() == v4),
            None => node.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4),
        };
        found.map_or(Leave::NoAddress, Leave::With)
    }
}

/// The port of an interface.
fn port(name: &str, options: &Options) -> Option<PortId> {
    let number = options.ports.iter().position(|own| own == name)?;
    u16::try_from(number).ok().map(PortId)
}

/// Interfaces of our node that are none of the dataplane's.
pub fn warnings(objects: &Objects, options: &Options) -> Vec<Problem> {
    let Some(own) = objects.nodes.get(&options.node).map(|node| labels(&node.labels)) else {
        return Vec::new();
    };
    let gateways = objects.egress.iter().flat_map(|policy| &policy.gateways);
    let ours = gateways.filter(|gateway| gateway.nodes.matches(&own));
    let named = ours.filter_map(|gateway| gateway.interface.as_ref());
    let unknown = named.filter(|(name, _)| port(name, options).is_none());
    unknown
        .map(|(name, at)| {
            at.problem(format!(
                "{name} is none of the gateway's interfaces: what would leave by it is dropped (204)"
            ))
        })
        .collect()
}

fn prefixes(fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<Prefix> {
    let mut found = Vec::new();
    for (text, node, place) in fields.texts(key) {
        match prefix(&text) {
            Ok(prefix) => found.push(prefix),
            Err(what) => fields.problems.errors.push(place.problem(node, what)),
        }
    }
    found
}

fn labels(pairs: &[(String, String)]) -> LabelSet {
    pairs.iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

/// What must change so that everybody leaves as policies say now.
pub fn changes(objects: &Objects, options: &Options, records: &Records) -> Vec<Change> {
    let mut wanted: BTreeMap<IpAddr, Vec<(Prefix, Leave)>> = BTreeMap::new();
    for policy in &objects.egress {
        let meant = |endpoint: &&Endpoint| {
            !endpoint.host_network && policy.selectors.iter().any(|subject| subject.means(endpoint, objects))
        };
        for endpoint in objects.endpoints.values().filter(meant) {
            let ways = policy.ways(endpoint, objects, options);
            for ip in &endpoint.addresses {
                let fits = ways.iter().filter(|(to, _)| to.addr.is_ipv4() == ip.is_ipv4());
                wanted.entry(*ip).or_default().extend(fits);
            }
        }
    }
    let is_ours = |key: &RecordKey| if let RecordKey::Egress(ip) = key { Some(*ip) } else { None };
    let known = records.range(RecordKey::Egress(FIRST)..).map_while(|(key, _)| is_ours(key));
    let gone: Vec<Change> =
        known.filter(|ip| !wanted.contains_key(ip)).map(|ip| Change::Egress(ip, None)).collect();
    let told = wanted.into_iter().map(|(ip, ways)| Change::Egress(ip, Some(ways)));
    gone.into_iter().chain(told.filter(|change| records.get(&change.key()) != Some(change))).collect()
}

/// The least of all addresses.
const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
