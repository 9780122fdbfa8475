//! Who is behind one port of a service: all slices' endpoints of a family, each once, with the state that it is in.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use sluice_core::tables::maglev::DEFAULT_WEIGHT;
use sluice_core::tables::record::{Backend, BackendId, BackendState, Dispatch, Forwarding, Reach};

use super::frontends::hash;
use super::{Service, ServicePort, Slice, SliceEndpoint, Target};
use crate::config::Options;
use crate::objects::{Endpoint, NodeObject, Objects};

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// One port of one service, and where its endpoints are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub objects: &'a Objects,
    pub options: &'a Options,
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub slices: &'a [&'a Slice],
}

/// Backends, and the node and zone of each.
pub(super) type Listed = (Vec<Backend>, Vec<(String, String)>);

/// An endpoint as one of the slices tells of it.
struct Candidate<'a> {
    state: BackendState,
    weight: u16,
    node: &'a str,
    zone: &'a str,
    for_zones: &'a [String],
    for_nodes: &'a [String],
}

/// Is this candidate in a circle around us?
type Near<'a> = dyn Fn(&Candidate<'_>) -> bool + 'a;

type Candidates<'a> = BTreeMap<(IpAddr, u16), Candidate<'a>>;

impl Asked<'_> {
    /// The backends of a family; with `local` those on our own node.
    pub(super) fn backends(&self, v4: bool, local: bool, forwarding: Forwarding) -> Listed {
        let mut found = self.sliced(v4);
        // A slice is what endpoints were made of when nobody made slices: a selector over our own endpoints.
        if self.slices.is_empty() && !self.service.selector.is_empty() {
            found = self.selected(v4);
        }
        if local {
            found.retain(|_, candidate| candidate.node == self.options.node);
        } else if self.options.topology {
            self.spare_the_far(&mut found);
        }
        let mut numbers = HashSet::new();
        let entry = |((ip, port), candidate): ((IpAddr, u16), Candidate<'_>)| {
            let Candidate { state, weight, node, zone, .. } = candidate;
            let mut id = hash(&[&ip.to_string(), &port.to_string()]);
            // Two numbers in a list that are the same by chance.
            while !numbers.insert(id) {
                id = id.wrapping_add(1);
            }
            let reach = self.reach(node, v4, forwarding);
            (
                Backend { id: BackendId(id), ip, port, weight, state, reach },
                (node.to_owned(), zone.to_owned()),
            )
        };
        found.into_iter().map(entry).unzip()
    }

    /// Who is told if the backend is to answer directly: Geneve ends at its node, all else at the backend. Also where new
    /// flows go another way, there may be some by Geneve from before.
    fn reach(&self, node: &str, v4: bool, forwarding: Forwarding) -> Reach {
        let direct = matches!(forwarding, Forwarding::Dsr(_));
        if direct && !node.is_empty() && node == self.options.node {
            return Reach::Here;
        }
        let end = self.objects.nodes.get(node).filter(|_| forwarding != Forwarding::Dsr(Dispatch::Ipip));
        let of_family = |node: &NodeObject| node.addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
        end.and_then(of_family).map_or(Reach::Itself, Reach::By)
    }

    fn sliced(&self, v4: bool) -> Candidates<'_> {
        let mut found = Candidates::new();
        for slice in self.slices {
            // A port without a name is the only one.
            let fits =
                |(name, proto, _): &&(String, u8, u16)| *name == self.port.name && *proto == self.port.proto;
            let Some((_, _, number)) = slice.ports.iter().find(fits) else { continue };
            for endpoint in &slice.endpoints {
                let candidate = candidate(slice, endpoint);
                for ip in endpoint.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
                    // Told twice, the better state counts: slices are updated one after another.
                    let better = found
                        .get(&(*ip, *number))
                        .is_none_or(|there: &Candidate<'_>| rank(candidate.state) < rank(there.state));
                    if better {
                        found.insert((*ip, *number), Candidate { ..candidate });
                    }
                }
            }
        }
        found
    }

    fn selected(&self, v4: bool) -> Candidates<'_> {
        let mut found = Candidates::new();
        let chosen = self.objects.endpoints.values().filter(|endpoint| selects(self.service, endpoint));
        for endpoint in chosen {
            let number = match &self.port.target {
                Target::Number(number) => Some(*number),
                Target::Named(name) => endpoint
                    .ports
                    .iter()
                    .find(|(known, proto, _)| known == name && *proto == self.port.proto)
                    .map(|(_, _, number)| *number),
            };
            let Some(port) = number else { continue };
            for ip in endpoint.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
                let candidate = Candidate {
                    state: BackendState::Active,
                    weight: DEFAULT_WEIGHT,
                    node: &endpoint.node,
                    zone: self.zone(&endpoint.node),
                    for_zones: &[],
                    for_nodes: &[],
                };
                found.insert((*ip, port), candidate);
            }
        }
        found
    }

    fn zone(&self, node: &str) -> &str {
        self.objects.nodes.get(node).and_then(zone_of).unwrap_or_default()
    }

    /// New flows stay near where hints or the service ask for it; if nobody near is usable, all are.
    fn spare_the_far(&self, found: &mut Candidates<'_>) {
        let (node, zone) = (self.options.node.as_str(), self.zone(&self.options.node));
        let usable =
            |candidate: &Candidate<'_>| candidate.state == BackendState::Active && candidate.weight > 0;
        let has = |names: &[String], own: &str| names.iter().any(|name| name == own);
        let hinted = |hints: fn(&Candidate<'_>) -> bool| found.values().filter(|c| usable(c)).all(hints);
        let by_node = hinted(|candidate| !candidate.for_nodes.is_empty());
        let by_zone = hinted(|candidate| !candidate.for_zones.is_empty());
        let wish = self.service.distribution.as_deref();
        let same_node = |c: &Candidate<'_>| c.node == node;
        let same_zone = |c: &Candidate<'_>| !zone.is_empty() && c.zone == zone;
        // The nearest circle first.
        let circles: [(bool, &Near<'_>); 4] = [
            (by_node, &|c| has(c.for_nodes, node)),
            (by_zone, &|c| has(c.for_zones, zone)),
            (wish == Some("PreferSameNode"), &same_node),
            (matches!(wish, Some("PreferSameNode" | "PreferSameZone" | "PreferClose")), &same_zone),
        ];
        let near = circles
            .into_iter()
            .filter(|(asked, _)| *asked)
            .find(|(_, near)| found.values().any(|c| usable(c) && near(c)));
        let Some((_, near)) = near else { return };
        let far: Vec<(IpAddr, u16)> = found.iter().filter(|(_, c)| !near(c)).map(|(key, _)| *key).collect();
        for key in far {
            if let Some(candidate) = found.get_mut(&key) {
                candidate.state = BackendState::Kept;
            }
        }
    }
}

/// The zone that a node is in.
pub fn zone_of(node: &NodeObject) -> Option<&str> {
    node.labels.iter().find(|(key, _)| key == ZONE).map(|(_, zone)| zone.as_str())
}

/// Does the selector of the service mean this endpoint?
pub(super) fn selects(service: &Service, endpoint: &Endpoint) -> bool {
    endpoint.namespace == service.namespace
        && !service.selector.is_empty()
        && service.selector.iter().all(|wanted| endpoint.labels.contains(wanted))
}

fn candidate<'a>(slice: &Slice, endpoint: &'a SliceEndpoint) -> Candidate<'a> {
    let weight = slice.weight.unwrap_or(DEFAULT_WEIGHT);
    let state = match (endpoint.ready && !endpoint.terminating, endpoint.serving && endpoint.terminating) {
        _ if weight == 0 => BackendState::Maintenance,
        (true, _) => BackendState::Active,
        (false, true) => BackendState::Terminating,
        (false, false) => BackendState::Kept,
    };
    Candidate {
        state,
        weight,
        node: &endpoint.node,
        zone: &endpoint.zone,
        for_zones: &endpoint.for_zones,
        for_nodes: &endpoint.for_nodes,
    }
}

const fn rank(state: BackendState) -> u8 {
    match state {
        BackendState::Active => 0,
        BackendState::Terminating => 1,
        BackendState::Quarantined | BackendState::Maintenance => 2,
        BackendState::Kept => 3,
    }
}
