//! Services → frontends and backends, as records and as people are shown them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::tables::maglev::DEFAULT_WEIGHT;
use sluice_core::tables::record::{
    Algorithm, Backend, BackendId, BackendState, Change, Forwarding, Frontend, FrontendKey,
    Service as Record, ServiceId,
};

use super::{Kind, Service, ServicePort, Slice};
use crate::config::Options;
use crate::objects::Objects;

/// One frontend with all that is known of it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub key: FrontendKey,
    pub kind: &'static str,
    pub service: String,
    pub external: bool,
    pub id: ServiceId,
    pub frontend: Frontend,
    pub record: Record,
    pub places: Vec<(String, String)>,
}

/// All frontends of a set of objects.
pub fn all(objects: &Objects, options: &Options) -> Vec<Shown> {
    let mut slices: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
    for slice in objects.slices.values() {
        slices.entry((&slice.namespace, &slice.service)).or_default().push(slice);
    }
    let node_ips: Vec<IpAddr> =
        objects.nodes.get(&options.node).map(|n| n.addresses.clone()).unwrap_or_default();
    let mut shown = Vec::new();
    for service in objects.services.values() {
        if service.kind == Kind::ExternalName || service.headless || service.proxy_name.is_some() {
            continue;
        }
        let own =
            slices.get(&(service.namespace.as_str(), service.name.as_str())).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            Ports { objects, options, service, port, slices: own, node_ips: &node_ips }.frontends(&mut shown);
        }
    }
    host_ports(objects, options, &node_ips, &mut shown);
    shown
}

/// The records of all frontends. Where two services claim an address and port, the first by name has it.
pub fn changes(shown: &[Shown]) -> Vec<Change> {
    let mut changes: BTreeMap<_, Change> = BTreeMap::new();
    for one in shown {
        let service = Change::Service(one.id, Some(one.record.clone()));
        changes.entry(service.key()).or_insert(service);
        let frontend = Change::Frontend(one.key, Some(one.frontend.clone()));
        changes.entry(frontend.key()).or_insert(frontend);
        if one.kind == "LoadBalancer" || one.kind == "ExternalIPs" || one.kind == "ClusterIP" {
            // Unknown ports of a service's address end here.
            let key = FrontendKey { port: 0, proto: 0, ..one.key };
            let nothing = Frontend { service: None, ..one.frontend.clone() };
            changes.entry(Change::Frontend(key, None).key()).or_insert(Change::Frontend(key, Some(nothing)));
        }
    }
    changes.into_values().collect()
}

/// One port of one service.
struct Ports<'a> {
    objects: &'a Objects,
    options: &'a Options,
    service: &'a Service,
    port: &'a ServicePort,
    slices: &'a [&'a Slice],
    node_ips: &'a [IpAddr],
}

impl Ports<'_> {
    fn frontends(&self, shown: &mut Vec<Shown>) {
        let service = self.service;
        let exposed = service.kind != Kind::ClusterIp;
        let load_balancer = service.kind == Kind::LoadBalancer;
        for ip in &service.cluster_ips {
            shown.push(self.frontend(*ip, self.port.port, "ClusterIP", false));
        }
        for ip in &service.external_ips {
            shown.push(self.frontend(*ip, self.port.port, "ExternalIPs", true));
        }
        for ip in service.ingress_ips.iter().filter(|_| load_balancer) {
            shown.push(self.frontend(*ip, self.port.port, "LoadBalancer", true));
        }
        if let Some(port) = self.port.node_port.filter(|_| exposed) {
            for ip in self.node_ips {
                shown.push(self.frontend(*ip, port, "NodePort", true));
            }
        }
    }

    fn frontend(&self, ip: IpAddr, port: u16, kind: &'static str, external: bool) -> Shown {
        let service = self.service;
        let local = if external { service.external_local } else { service.internal_local };
        let (backends, places) = self.backends(ip.is_ipv4(), local);
        let ranged = kind == "LoadBalancer" || (kind == "ExternalIPs") || self.options.source_range_all_types;
        let algorithm = match service.algorithm.as_deref().unwrap_or(&self.options.algorithm) {
            "random" => Algorithm::Random,
            _ => Algorithm::Maglev(self.options.maglev_size),
        };
        let forwarding = match service.forwarding.as_deref().unwrap_or(&self.options.mode) {
            "snat" if !local => Forwarding::Snat,
            _ => Forwarding::Dnat,
        };
        let scope = if local { "local" } else { "cluster" };
        let id = self.id(ip.is_ipv4(), scope, external);
        let record = Record {
            proto: self.port.proto,
            algorithm,
            forwarding,
            affinity_seconds: service.affinity_seconds,
            reject: self.options.no_backend_reject && !local,
            backends,
        };
        let frontend = Frontend {
            service: Some(id),
            cluster_only: kind == "ClusterIP" && !self.options.external_clusterip,
            source_ranges: if ranged { service.source_ranges.clone() } else { Vec::new() },
            source_ranges_deny: service.source_ranges_deny,
        };
        let key = FrontendKey { ip, port, proto: self.port.proto };
        let name = format!("{}/{}", service.namespace, service.name);
        Shown { key, kind, service: name, external, id, frontend, record, places }
    }

    /// A number that is the same in every process: flows remember it.
    fn id(&self, v4: bool, scope: &str, external: bool) -> ServiceId {
        let s = self.service;
        let family = if v4 { "4" } else { "6" };
        let side = if external { "external" } else { "internal" };
        ServiceId(hash(&[
            &s.namespace,
            &s.name,
            &self.port.name,
            &self.port.port.to_string(),
            &self.port.proto.to_string(),
            family,
            scope,
            side,
        ]))
    }

    /// All slices' endpoints of a family, each once; with their nodes and zones.
    fn backends(&self, v4: bool, local: bool) -> (Vec<Backend>, Vec<(String, String)>) {
        let mut found: BTreeMap<(IpAddr, u16), (Backend, (String, String))> = BTreeMap::new();
        for slice in self.slices {
            // A port without a name is the only one.
            let fits =
                |(name, proto, _): &&(String, u8, u16)| *name == self.port.name && *proto == self.port.proto;
            let Some((_, _, number)) = slice.ports.iter().find(fits) else { continue };
            for endpoint in &slice.endpoints {
                if local && endpoint.node != self.options.node {
                    continue;
                }
                let Some(state) = state(endpoint.ready, endpoint.serving, endpoint.terminating) else {
                    continue;
                };
                for ip in endpoint.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
                    let weight = slice.weight.unwrap_or(DEFAULT_WEIGHT);
                    let state = if weight == 0 { BackendState::Maintenance } else { state };
                    let id = BackendId(hash(&[&ip.to_string(), &number.to_string()]));
                    let backend = Backend { id, ip: *ip, port: *number, weight, state };
                    let place = (endpoint.node.clone(), endpoint.zone.clone());
                    let there = found.entry((*ip, *number)).or_insert_with(|| (backend.clone(), place));
                    // Told twice, the better state counts: slices are updated one after another.
                    if there.0.state != BackendState::Active && state == BackendState::Active {
                        there.0 = backend;
                    }
                }
            }
        }
        // A slice is what endpoints were made of when nobody made slices: a selector over our own endpoints.
        if self.slices.is_empty() && !self.service.selector.is_empty() {
            self.selected(v4, &mut found);
        }
        found.into_values().unzip()
    }

    fn selected(&self, v4: bool, found: &mut BTreeMap<(IpAddr, u16), (Backend, (String, String))>) {
        let chosen = |endpoint: &&crate::objects::Endpoint| {
            endpoint.namespace == self.service.namespace
                && self.service.selector.iter().all(|wanted| endpoint.labels.contains(wanted))
        };
        for endpoint in self.objects.endpoints.values().filter(chosen) {
            let number = match &self.port.target {
                super::Target::Number(number) => Some(*number),
                super::Target::Named(name) => endpoint
                    .ports
                    .iter()
                    .find(|(known, proto, _)| known == name && *proto == self.port.proto)
                    .map(|(_, _, number)| *number),
            };
            let Some(port) = number else { continue };
            for ip in endpoint.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
                let id = BackendId(hash(&[&ip.to_string(), &port.to_string()]));
                let backend =
                    Backend { id, ip: *ip, port, weight: DEFAULT_WEIGHT, state: BackendState::Active };
                found.insert((*ip, port), (backend, (endpoint.node.clone(), String::new())));
            }
        }
    }
}

fn state(ready: bool, serving: bool, terminating: bool) -> Option<BackendState> {
    match (ready && !terminating, serving && terminating) {
        (true, _) => Some(BackendState::Active),
        (false, true) => Some(BackendState::Terminating),
        (false, false) => None,
    }
}

/// Ports of the node that lead straight to one pod on it.
fn host_ports(objects: &Objects, options: &Options, node_ips: &[IpAddr], shown: &mut Vec<Shown>) {
    for endpoint in objects.endpoints.values().filter(|e| e.node == options.node && !e.node.is_empty()) {
        for (ip, proto, host, own) in &endpoint.host_ports {
            let listening: Vec<IpAddr> = ip.map_or_else(|| node_ips.to_vec(), |ip| vec![ip]);
            for ip in listening {
                let Some(target) = endpoint.addresses.iter().find(|a| a.is_ipv4() == ip.is_ipv4()) else {
                    continue;
                };
                let id = BackendId(hash(&[&target.to_string(), &own.to_string()]));
                let backend = Backend {
                    id,
                    ip: *target,
                    port: *own,
                    weight: DEFAULT_WEIGHT,
                    state: BackendState::Active,
                };
                let record = Record { proto: *proto, backends: vec![backend], ..Record::default() };
                let name = format!("{}/{}", endpoint.namespace, endpoint.name);
                let id = ServiceId(hash(&[
                    "hostport",
                    &name,
                    &ip.to_string(),
                    &host.to_string(),
                    &proto.to_string(),
                ]));
                let frontend = Frontend {
                    service: Some(id),
                    cluster_only: false,
                    source_ranges: Vec::new(),
                    source_ranges_deny: false,
                };
                let key = FrontendKey { ip, port: *host, proto: *proto };
                let places = vec![(endpoint.node.clone(), String::new())];
                shown.push(Shown {
                    key,
                    kind: "HostPort",
                    service: name,
                    external: true,
                    id,
                    frontend,
                    record,
                    places,
                });
            }
        }
    }
}

/// FNV-1a over the parts, each ended: the same everywhere and always.
pub fn hash(parts: &[&str]) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    u32::try_from((hash ^ hash >> 32) & 0xffff_ffff).unwrap_or(0)
}

/// A frontend as `dump` and `services` show it.
pub fn show(one: &Shown) -> Value {
    let mut flags = Vec::new();
    if one.record.affinity_seconds > 0 {
        flags.push("session-affinity");
    }
    if !one.frontend.source_ranges.is_empty() {
        flags.push(if one.frontend.source_ranges_deny { "source-range-deny" } else { "source-range" });
    }
    if one.frontend.cluster_only {
        flags.push("cluster-only");
    }
    let backends: Vec<Value> = one
        .record
        .backends
        .iter()
        .zip(&one.places)
        .map(|(backend, (node, zone))| {
            json!({
                "ip": backend.ip, "port": backend.port, "state": state_name(backend.state), "weight": backend.weight,
                "node": node, "zone": zone,
            })
        })
        .collect();
    let active = one.record.backends.iter().filter(|b| b.state == BackendState::Active).count();
    json!({
        "ip": one.key.ip,
        "port": one.key.port,
        "proto": crate::observed::protocol(one.key.proto),
        "type": one.kind,
        "service": one.service,
        "scope": if one.external { "external" } else { "internal" },
        "flags": flags,
        "affinity_seconds": one.record.affinity_seconds,
        "source_ranges": one.frontend.source_ranges.iter().map(|p| format!("{}/{}", p.addr, p.len)).collect::<Vec<_>>(),
        "mode": if one.record.forwarding == Forwarding::Snat { "snat" } else { "dnat" },
        "algorithm": if one.record.algorithm == Algorithm::Random { "random" } else { "maglev" },
        "backend_summary": format!("{active}/{}", one.record.backends.len()),
        "backends": backends,
    })
}

fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "active",
        BackendState::Terminating => "terminating",
        BackendState::Quarantined => "quarantined",
        BackendState::Maintenance => "maintenance",
    }
}
