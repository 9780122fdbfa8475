//! Services → frontends and backends, as records and as people are shown them.
//!
//! Who makes frontends is an owner: a service, or a pod with host ports. Each owner's frontends are made on their own, so
//! that a change costs what its owners cost. Where two claim an address and port, the first by order has it, services
//! before pods, and the other gets it when the first lets go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_core::parse::TCP;
use sluice_core::tables::maglev::DEFAULT_WEIGHT;
use sluice_core::tables::record::{
    Algorithm, Backend, BackendId, BackendState, Change, Dispatch, Forwarding, Frontend, FrontendKey, Probe,
    ProbeKind, Reach, Service as Record, ServiceId, Settings,
};

use super::backends::{Asked, selects};
use super::exposure::{self, Entrance};
use super::pools::Pools;
use super::{Service, Slice};
use crate::config::Options;
use crate::objects::{Endpoint, Objects};

/// One list of backends.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    pub id: ServiceId,
    pub record: Record,
    pub probe: Option<Probe>,
    /// Node and zone of each backend.
    pub places: Vec<(String, String)>,
}

/// One frontend with all that is known of it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub key: FrontendKey,
    pub kind: &'static str,
    pub service: String,
    pub external: bool,
    pub frontend: Frontend,
    /// What the clients that it is meant for get.
    pub list: Arc<List>,
    /// What clients inside the cluster get, if that is something else.
    pub inside: Option<Arc<List>>,
}

/// Who makes frontends, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Service(String, String),
    Pod(String, String),
}

/// Who lays claim to one address and port, in order. Most often that is one owner.
#[derive(Clone, Debug, Default)]
struct Claims(Vec<(Owner, Frontend)>);

impl Claims {
    /// The first word of an owner counts.
    fn put(&mut self, owner: &Owner, frontend: Frontend) {
        if let Err(at) = self.0.binary_search_by(|(known, _)| known.cmp(owner)) {
            self.0.reserve_exact(1);
            self.0.insert(at, (owner.clone(), frontend));
        }
    }

    fn remove(&mut self, owner: &Owner) {
        self.0.retain(|(known, _)| known != owner);
    }
}

/// All frontends of a set of objects.
#[derive(Clone, Debug, Default)]
pub struct Frontends {
    owners: BTreeMap<Owner, Vec<Shown>>,
    claims: HashMap<FrontendKey, Claims>,
    /// Numbers that are taken, and by what.
    numbers: HashMap<ServiceId, String>,
    /// Names of the slices of each service.
    slices: HashMap<(String, String), BTreeSet<(String, String)>>,
    /// Lists whose clients' addresses are replaced.
    snat: BTreeSet<ServiceId>,
    /// Addresses that clients outside may ask their link for, and how many owners expose each.
    exposed: HashMap<IpAddr, u32>,
    pub pools: Pools,
}

impl Frontends {
    /// All frontends anew; what the dataplane must change.
    pub fn renew(&mut self, objects: &Objects, options: &Options) -> Vec<Change> {
        self.pools.assign(objects);
        self.slices.clear();
        for (name, slice) in &objects.slices {
            let service = (slice.namespace.clone(), slice.service.clone());
            self.slices.entry(service).or_default().insert(name.clone());
        }
        let mut owners: BTreeSet<Owner> = self.owners.keys().cloned().collect();
        owners.extend(objects.services.keys().map(|(namespace, name)| service_owner(namespace, name)));
        let pods = objects.endpoints.iter().filter(|(_, endpoint)| !endpoint.host_ports.is_empty());
        owners.extend(pods.map(|((namespace, name), _)| Owner::Pod(namespace.clone(), name.clone())));
        self.update(owners, objects, options)
    }

    /// Give out addresses by these objects; whose frontends that touches.
    pub fn give_addresses(&mut self, objects: &Objects) -> BTreeSet<Owner> {
        self.pools.assign(objects).iter().map(|(namespace, name)| service_owner(namespace, name)).collect()
    }

    /// The slices of a service as they are now.
    pub fn retell_slices(&mut self, service: &(String, String), objects: &Objects, slice: &(String, String)) {
        let is_its =
            objects.slices.get(slice).is_some_and(|s| (&s.namespace, &s.service) == (&service.0, &service.1));
        let names = self.slices.entry(service.clone()).or_default();
        if is_its {
            names.insert(slice.clone())
        } else {
            names.remove(slice)
        };
    }

    /// The slices of a service.
    pub fn slices_of<'a>(
        &'a self,
        service: &(String, String),
        objects: &'a Objects,
    ) -> impl Iterator<Item = &'a Slice> {
        self.slices.get(service).into_iter().flatten().filter_map(|name| objects.slices.get(name))
    }

    /// Whose frontends hang on an endpoint that was one thing and is now another.
    pub fn touched_by(
        &self,
        key: &(String, String),
        versions: [Option<&Endpoint>; 2],
        objects: &Objects,
    ) -> BTreeSet<Owner> {
        let versions = || versions.into_iter().flatten();
        let mut touched = BTreeSet::new();
        if versions().any(|endpoint| !endpoint.host_ports.is_empty()) {
            touched.insert(Owner::Pod(key.0.clone(), key.1.clone()));
        }
        // Where nobody makes slices, services look for their pods themselves.
        let own =
            objects.services.range((key.0.clone(), String::new())..).take_while(|((ns, _), _)| *ns == key.0);
        for (name, service) in own {
            let sliced = self.slices.get(name).is_some_and(|slices| !slices.is_empty());
            if !sliced && versions().any(|endpoint| selects(service, endpoint)) {
                touched.insert(service_owner(&name.0, &name.1));
            }
        }
        touched
    }

    /// Make the frontends of these owners anew; what the dataplane must change.
    pub fn update(
        &mut self,
        owners: impl IntoIterator<Item = Owner>,
        objects: &Objects,
        options: &Options,
    ) -> Vec<Change> {
        let mut lists: BTreeMap<ServiceId, [Option<Arc<List>>; 2]> = BTreeMap::new();
        let mut keys: BTreeMap<FrontendKey, Option<Frontend>> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for owner in owners {
            let made = self.made_by(&owner, objects, options);
            let old = self.owners.remove(&owner).unwrap_or_default();
            for list in old.iter().flat_map(Shown::lists) {
                lists.entry(list.id).or_default()[0] = Some(Arc::clone(list));
            }
            for list in made.iter().flat_map(Shown::lists) {
                lists.entry(list.id).or_default()[1] = Some(Arc::clone(list));
            }
            for key in old.iter().flat_map(claimed).map(|(key, _)| key) {
                keys.entry(key).or_insert_with(|| self.live(key));
                if let Some(claims) = self.claims.get_mut(&key) {
                    claims.remove(&owner);
                }
            }
            for (key, frontend) in made.iter().flat_map(claimed) {
                keys.entry(key).or_insert_with(|| self.live(key));
                self.claims.entry(key).or_default().put(&owner, frontend);
            }
            self.expose(&old, &made, &mut addresses);
            if !made.is_empty() {
                self.owners.insert(owner, made);
            }
        }
        let mut changes = self.differences(lists, keys);
        let now = |ip: &IpAddr| self.exposed.contains_key(ip);
        let turned = addresses.into_iter().filter(|(ip, before)| now(ip) != *before);
        changes.extend(turned.map(|(ip, before)| Change::Exposed(ip, !before)));
        changes
    }

    /// An owner exposed some addresses and now others; `before` keeps whether each was exposed at all.
    fn expose(&mut self, old: &[Shown], new: &[Shown], before: &mut BTreeMap<IpAddr, bool>) {
        let (old, new) = (exposed_by(old), exposed_by(new));
        for ip in old.symmetric_difference(&new) {
            before.entry(*ip).or_insert_with(|| self.exposed.contains_key(ip));
            let count = self.exposed.entry(*ip).or_insert(0);
            *count = if new.contains(ip) { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.exposed.remove(ip);
            }
        }
    }

    /// What was, and what is now.
    fn differences(
        &mut self,
        lists: BTreeMap<ServiceId, [Option<Arc<List>>; 2]>,
        keys: BTreeMap<FrontendKey, Option<Frontend>>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, [old, new]) in lists {
            if new.is_none() {
                self.numbers.remove(&id);
            }
            if new.as_ref().is_some_and(|list| list.record.forwarding == Forwarding::Snat) {
                self.snat.insert(id);
            } else {
                self.snat.remove(&id);
            }
            if old.as_ref().map(|list| &list.record) != new.as_ref().map(|list| &list.record) {
                changes.push(Change::Service(id, new.as_ref().map(|list| list.record.clone())));
            }
            let probe = |list: &Option<Arc<List>>| list.as_ref().and_then(|list| list.probe.clone());
            if probe(&old) != probe(&new) {
                changes.push(Change::Probe(id, probe(&new)));
            }
        }
        for (key, before) in keys {
            let now = self.live(key);
            if self.claims.get(&key).is_some_and(|claims| claims.0.is_empty()) {
                self.claims.remove(&key);
            }
            if before != now {
                changes.push(Change::Frontend(key, now));
            }
        }
        changes
    }

    /// What an address and port is: the first claim.
    fn live(&self, key: FrontendKey) -> Option<Frontend> {
        Some(self.claims.get(&key)?.0.first()?.1.clone())
    }

    fn made_by(&mut self, owner: &Owner, objects: &Objects, options: &Options) -> Vec<Shown> {
        match owner {
            Owner::Service(namespace, name) => {
                let key = (namespace.clone(), name.clone());
                let Some(service) = objects.services.get(&key).filter(|s| exposure::is_ours(s, options))
                else {
                    return Vec::new();
                };
                let names = self.slices.get(&key).into_iter().flatten();
                let slices: Vec<&Slice> = names.filter_map(|name| objects.slices.get(name)).collect();
                let ingress = self.pools.addresses(&key, service);
                let mut making = Making { numbers: &mut self.numbers, service, shown: Vec::new() };
                for port in &service.ports {
                    let asked = Asked { objects, options, service, port, slices: &slices };
                    let entrances = exposure::entrances(service, port, &ingress, objects, options);
                    making.port(&asked, &entrances);
                }
                making.shown
            }
            Owner::Pod(namespace, name) => {
                let pod = objects.endpoints.get(&(namespace.clone(), name.clone()));
                pod.map(|pod| host_ports(pod, objects, options, &mut self.numbers)).unwrap_or_default()
            }
        }
    }

    /// The gateway's settings as these services need them: sources are replaced by the node's own addresses if no others
    /// are told.
    pub fn settings(&self, objects: &Objects, options: &Options) -> Settings {
        let mut settings = options.settings.clone();
        if settings.snat_addresses.is_empty()
            && !self.snat.is_empty()
            && let Some(node) = objects.nodes.get(&options.node)
        {
            settings.snat_addresses.clone_from(&node.addresses);
        }
        settings
    }

    /// Namespace and name of the service (or pod with a port of the node) behind a frontend.
    pub fn service_at(&self, key: FrontendKey) -> Option<(String, String)> {
        let (Owner::Service(namespace, name) | Owner::Pod(namespace, name)) =
            &self.claims.get(&key)?.0.first()?.0;
        Some((namespace.clone(), name.clone()))
    }

    /// Services that tell others how many backends they have on our node, by the port where they are asked.
    pub fn health_ports(&self, objects: &Objects) -> BTreeMap<u16, (String, String, usize)> {
        let mut ports = BTreeMap::new();
        for ((namespace, name), service) in &objects.services {
            let Some(port) = service.health_port else { continue };
            let shown = self.owners.get(&service_owner(namespace, name)).into_iter().flatten();
            let usable = |b: &&Backend| b.state == BackendState::Active && b.weight > 0;
            let backends = shown.filter(|one| one.external).flat_map(|one| &one.list.record.backends);
            let local: BTreeSet<IpAddr> = backends.filter(usable).map(|b| b.ip).collect();
            ports.entry(port).or_insert_with(|| (namespace.clone(), name.clone(), local.len()));
        }
        ports
    }

    pub fn iter(&self) -> impl Iterator<Item = &Shown> {
        self.owners.values().flatten()
    }
}

fn service_owner(namespace: &str, name: &str) -> Owner {
    Owner::Service(namespace.to_owned(), name.to_owned())
}

impl Shown {
    fn lists(&self) -> impl Iterator<Item = &Arc<List>> {
        [Some(&self.list), self.inside.as_ref()].into_iter().flatten()
    }
}

/// Addresses for clients outside with somebody behind them; the node's own are the kernel's to tell of.
fn exposed_by(shown: &[Shown]) -> BTreeSet<IpAddr> {
    let outside = shown.iter().filter(|one| matches!(one.kind, "LoadBalancer" | "ExternalIPs"));
    outside.filter(|one| one.list.record.has_usable()).map(|one| one.key.ip).collect()
}

/// What a frontend claims: its address and port, and the unknown ports of an address that is a service's alone.
fn claimed(one: &Shown) -> Vec<(FrontendKey, Frontend)> {
    let mut claims = vec![(one.key, one.frontend.clone())];
    if matches!(one.kind, "LoadBalancer" | "ExternalIPs" | "ClusterIP") {
        let key = FrontendKey { port: 0, proto: 0, ..one.key };
        claims.push((key, Frontend { service: None, inside: None, ..one.frontend.clone() }));
    }
    claims
}

/// The frontends of one service while they are made.
struct Making<'a> {
    numbers: &'a mut HashMap<ServiceId, String>,
    service: &'a Service,
    shown: Vec<Shown>,
}

impl Making<'_> {
    fn port(&mut self, asked: &Asked<'_>, entrances: &[Entrance]) {
        // By family and scope: frontends share what they lead to.
        let mut lists: HashMap<(bool, bool), Arc<List>> = HashMap::new();
        let service = self.service;
        for (ip, number, kind, external) in entrances.iter().copied() {
            let mut list = |local: bool| {
                let lists = lists.entry((ip.is_ipv4(), local));
                Arc::clone(lists.or_insert_with(|| Arc::new(self.list(asked, ip.is_ipv4(), local))))
            };
            let (main, inner) = if external {
                (list(service.external_local), Some(list(service.internal_local)))
            } else {
                (list(service.internal_local), None)
            };
            let inside = inner.filter(|inner| inner.id != main.id);
            let options = asked.options;
            let ranged = matches!(kind, "LoadBalancer" | "ExternalIPs") || options.source_range_all_types;
            let frontend = Frontend {
                service: Some(main.id),
                inside: inside.as_ref().map(|inside| inside.id),
                cluster_only: kind == "ClusterIP" && !options.external_clusterip,
                source_ranges: if ranged { service.source_ranges.clone() } else { Vec::new() },
                source_ranges_deny: service.source_ranges_deny,
            };
            let key = FrontendKey { ip, port: number, proto: asked.port.proto };
            let name = format!("{}/{}", service.namespace, service.name);
            self.shown.push(Shown { key, kind, service: name, external, frontend, list: main, inside });
        }
    }

    fn list(&mut self, asked: &Asked<'_>, v4: bool, local: bool) -> List {
        let (service, options) = (self.service, asked.options);
        let forwarding = way_back(service, options, asked.port.proto, local);
        let (backends, places) = asked.backends(v4, local, forwarding);
        let algorithm = match service.annotations.algorithm.as_deref().unwrap_or(&options.algorithm) {
            "random" => Algorithm::Random,
            _ => Algorithm::Maglev(options.maglev_size),
        };
        let record = Record {
            proto: asked.port.proto,
            algorithm,
            forwarding,
            affinity_seconds: service.affinity_seconds,
            reject: options.no_backend_reject && !local,
            backends,
        };
        let (family, scope) = (if v4 { "4" } else { "6" }, if local { "local" } else { "cluster" });
        let (port, proto) = (asked.port.port.to_string(), asked.port.proto.to_string());
        let parts = [&service.namespace, &service.name, &asked.port.name, &port, &proto, family, scope];
        // A port that is not TCP has nobody to connect to.
        let fits = |probe: &&Probe| asked.port.proto == 6 || probe.kind == ProbeKind::Icmp;
        let probe = service.probe.as_ref().filter(fits).cloned();
        List { id: number(self.numbers, &parts), record, probe, places }
    }
}

/// How replies of a service come back. Backends on our own node answer by us.
fn way_back(service: &Service, options: &Options, proto: u8, local: bool) -> Forwarding {
    let own = service.annotations.forwarding.as_deref().filter(|_| options.mode_annotation);
    let known = own.filter(|mode| matches!(*mode, "dnat" | "snat" | "dsr" | "hybrid"));
    let dispatch = match options.dispatch.as_str() {
        "geneve" => Dispatch::Geneve,
        "ipip" => Dispatch::Ipip,
        _ => Dispatch::Option,
    };
    match known.unwrap_or(&options.mode) {
        _ if local => Forwarding::Dnat,
        "snat" => Forwarding::Snat,
        "dsr" => Forwarding::Dsr(dispatch),
        "hybrid" if proto == TCP => Forwarding::Dsr(dispatch),
        "hybrid" => Forwarding::Snat,
        _ => Forwarding::Dnat,
    }
}

/// A number for this that is the same in every process, because flows remember it; but where two things have the same by
/// chance, the second gets the next.
fn number(numbers: &mut HashMap<ServiceId, String>, parts: &[&str]) -> ServiceId {
    let (name, mut id) = (parts.join("\0"), hash(parts));
    while numbers.get(&ServiceId(id)).is_some_and(|taken| *taken != name) {
        id = id.wrapping_add(1);
    }
    numbers.insert(ServiceId(id), name);
    ServiceId(id)
}

/// Ports of the node that lead straight to one pod on it.
fn host_ports(
    pod: &Endpoint,
    objects: &Objects,
    options: &Options,
    numbers: &mut HashMap<ServiceId, String>,
) -> Vec<Shown> {
    let mut shown = Vec::new();
    if pod.node != options.node || pod.node.is_empty() {
        return shown;
    }
    for (ip, proto, host, own) in &pod.host_ports {
        let listening: Vec<IpAddr> = match ip.filter(|ip| !ip.is_unspecified()) {
            // The kernel's, and nobody's from outside.
            Some(ip) if ip.is_loopback() => Vec::new(),
            Some(ip) => vec![ip],
            None => exposure::node_addresses(objects, options),
        };
        for ip in listening {
            let Some(target) = pod.addresses.iter().find(|a| a.is_ipv4() == ip.is_ipv4()) else { continue };
            let backend = Backend {
                id: BackendId(hash(&[&target.to_string(), &own.to_string()])),
                ip: *target,
                port: *own,
                weight: DEFAULT_WEIGHT,
                state: BackendState::Active,
                reach: Reach::Itself,
            };
            let record = Record { proto: *proto, backends: vec![backend], ..Record::default() };
            let name = format!("{}/{}", pod.namespace, pod.name);
            let parts = ["hostport", &name, &ip.to_string(), &host.to_string(), &proto.to_string()];
            let id = number(numbers, &parts);
            let frontend = Frontend {
                service: Some(id),
                inside: None,
                cluster_only: false,
                source_ranges: Vec::new(),
                source_ranges_deny: false,
            };
            let key = FrontendKey { ip, port: *host, proto: *proto };
            let list =
                Arc::new(List { id, record, probe: None, places: vec![(pod.node.clone(), String::new())] });
            shown.push(Shown {
                key,
                kind: "HostPort",
                service: name,
                external: true,
                frontend,
                list,
                inside: None,
            });
        }
    }
    shown
}

/// FNV-1a over the parts, each ended: the same everywhere and always.
pub fn hash(parts: &[&str]) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    u32::try_from((hash ^ hash >> 32) & 0xffff_ffff).unwrap_or(0)
}

/// A frontend as `dump` and `services` show it: a line for each scope.
pub fn show(one: &Shown) -> Vec<Value> {
    let main = show_scope(one, &one.list, one.external);
    let inside = one.inside.as_ref().map(|list| show_scope(one, list, false));
    [Some(main), inside].into_iter().flatten().collect()
}

fn show_scope(one: &Shown, list: &List, external: bool) -> Value {
    let record = &list.record;
    let (mode, dispatch) = mode_names(record.forwarding);
    let mut flags = Vec::new();
    if record.affinity_seconds > 0 {
        flags.push("session-affinity");
    }
    if !one.frontend.source_ranges.is_empty() {
        flags.push(if one.frontend.source_ranges_deny { "source-range-deny" } else { "source-range" });
    }
    if one.frontend.cluster_only {
        flags.push("cluster-only");
    }
    if one.frontend.inside.is_some() {
        flags.push("two-scopes");
    }
    let listed =
        record.backends.iter().zip(&list.places).filter(|(backend, _)| backend.state != BackendState::Kept);
    let backends: Vec<Value> = listed
        .map(|(backend, (node, zone))| {
            json!({
                "ip": backend.ip, "port": backend.port, "state": state_name(backend.state), "weight": backend.weight,
                "node": node, "zone": zone,
            })
        })
        .collect();
    let active = record.backends.iter().filter(|b| b.state == BackendState::Active).count();
    let mut shown = json!({
        "ip": one.key.ip,
        "port": one.key.port,
        "proto": crate::observed::protocol(one.key.proto),
        "type": one.kind,
        "service": one.service,
        "scope": if external { "external" } else { "internal" },
        "flags": flags,
        "affinity_seconds": record.affinity_seconds,
        "source_ranges": one.frontend.source_ranges.iter().map(|p| format!("{}/{}", p.addr, p.len)).collect::<Vec<_>>(),
        "mode": mode,
        "dispatch": dispatch,
        "algorithm": if record.algorithm == Algorithm::Random { "random" } else { "maglev" },
        "backend_summary": format!("{active}/{}", backends.len()),
        "backends": backends,
    });
    if let Some(probe) = &list.probe {
        let kind = match &probe.kind {
            ProbeKind::Tcp => "tcp",
            ProbeKind::Http(_) => "http",
            ProbeKind::Icmp => "icmp",
        };
        shown["health"] = json!({"probe": kind, "list": list.id.0});
    }
    shown
}

/// The mode, and how backends are told where they answer directly.
const fn mode_names(forwarding: Forwarding) -> (&'static str, Option<&'static str>) {
    match forwarding {
        Forwarding::Dnat => ("dnat", None),
        Forwarding::Snat => ("snat", None),
        Forwarding::Dsr(Dispatch::Option) => ("dsr", Some("opt")),
        Forwarding::Dsr(Dispatch::Geneve) => ("dsr", Some("geneve")),
        Forwarding::Dsr(Dispatch::Ipip) => ("dsr", Some("ipip")),
    }
}

fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Active => "active",
        BackendState::Terminating => "terminating",
        BackendState::Quarantined => "quarantined",
        BackendState::Maintenance => "maintenance",
        BackendState::Kept => "kept",
    }
}
