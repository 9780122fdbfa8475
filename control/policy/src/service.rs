//! Services and their backends as Kubernetes says them.

mod backends;
mod exposure;
pub mod frontends;
mod health;
pub mod pools;

use std::net::IpAddr;

use sluice_core::tables::record::{Prefix, Probe};

pub use backends::zone_of;
use pools::Claim;

use crate::decode::{Fields, Place, Problems, prefix};
use crate::objects::{Metadata, address, protocol};
use crate::policy::ports;
use crate::tree::{Node, Value};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub port: u16,
    pub proto: u8,
    pub node_port: Option<u16>,
    /// A number, or a name resolved per endpoint; slices have it resolved already.
    pub target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Number(u16),
    Named(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub kind: Kind,
    pub headless: bool,
    pub selector: Vec<(String, String)>,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// As the status tells.
    pub ingress_ips: Vec<IpAddr>,
    /// How its backends are asked whether they are alive.
    pub probe: Option<Probe>,
    /// `spec.healthCheckNodePort`: where others ask how many backends are on our node.
    pub health_port: Option<u16>,
    /// What a LoadBalancer service wants of address pools.
    pub claim: Option<Box<Claim>>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub affinity_seconds: u32,
    pub external_local: bool,
    pub internal_local: bool,
    pub source_ranges: Vec<Prefix>,
    pub source_ranges_deny: bool,
    /// Whose it is to handle (`service.kubernetes.io/service-proxy-name`).
    pub proxy_name: Option<String>,
    pub annotations: Box<Annotations>,
    /// `spec.trafficDistribution`.
    pub distribution: Option<String>,
}

/// What annotations say of a service (all begin with `service.cilium.io/`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `lb-algorithm`.
    pub algorithm: Option<String>,
    /// `forwarding-mode`.
    pub forwarding: Option<String>,
    /// Only these types of frontends (`type`).
    pub types: Option<Vec<String>>,
    /// Only nodes with this value of the label of the same name expose it (`node`).
    pub node: Option<String>,
    /// Only nodes with these labels expose it (`node-selector`).
    pub node_selector: Option<String>,
}

/// Annotations that have some values alone; others are told of, and count for nothing.
const ANNOTATIONS: [(&str, &[&str]); 4] = [
    ("service.cilium.io/lb-algorithm", &["maglev", "random"]),
    ("service.cilium.io/forwarding-mode", &["dnat", "snat", "dsr", "hybrid"]),
    ("service.cilium.io/src-ranges-policy", &["allow", "deny"]),
    ("service.cilium.io/type", &["ClusterIP", "NodePort", "LoadBalancer"]),
];

impl Annotations {
    fn read(node: &Node, place: &Place, metadata: &Metadata, problems: &mut Problems) -> Self {
        let text = |name: &str| metadata.annotation(name).map(str::to_owned);
        for (name, known) in ANNOTATIONS {
            let values = metadata.annotation(name).into_iter().flat_map(|text| text.split(','));
            for odd in values.map(str::trim).filter(|value| !known.contains(value)) {
                let what = format!("the annotation {name} has {odd:?}, but knows {} alone", known.join(", "));
                problems.warnings.push(place.key("metadata.annotations").problem(node, what));
            }
        }
        Self {
            algorithm: text("service.cilium.io/lb-algorithm"),
            forwarding: text("service.cilium.io/forwarding-mode"),
            types: metadata
                .annotation("service.cilium.io/type")
                .map(|types| types.split(',').map(|name| name.trim().to_owned()).collect()),
            node: text("service.cilium.io/node"),
            node_selector: text("service.cilium.io/node-selector"),
        }
    }
}

/// ClientIP affinity without a word about time lasts three hours.
const AFFINITY_SECONDS: u32 = 10_800;

impl Service {
    pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Self {
        let probe = health::read(node, &place, &metadata, problems);
        let claim = Claim::read(node, &place, &metadata, problems);
        let mut service = Self {
            namespace: if metadata.namespace.is_empty() {
                "default".to_owned()
            } else {
                metadata.namespace.clone()
            },
            probe,
            source_ranges_deny: metadata.annotation("service.cilium.io/src-ranges-policy") == Some("deny"),
            annotations: Box::new(Annotations::read(node, &place, &metadata, problems)),
            proxy_name: metadata
                .labels
                .iter()
                .find(|(key, _)| key == "service.kubernetes.io/service-proxy-name")
                .map(|(_, value)| value.clone()),
            name: metadata.name,
            labels: metadata.labels,
            ..Self::default()
        };
        let mut whole = Fields::new(node, place.clone(), problems);
        let spec = whole.object("spec");
        for known in ["apiVersion", "kind", "metadata", "status"] {
            whole.raw(known);
        }
        whole.warn_unknown();
        if let Some((spec, place)) = spec {
            service.spec(Fields::new(spec, place, problems));
        }
        service.claim = (service.kind == Kind::LoadBalancer).then(|| Box::new(claim));
        let ingress = node.get("status").and_then(|s| s.get("loadBalancer")).and_then(|l| l.get("ingress"));
        for item in ingress.map(Node::list).unwrap_or_default() {
            // Where a load balancer of its own stands in front, its address is not ours to take.
            let proxied = item.get("ipMode").and_then(Node::text) == Some("Proxy");
            if let Some(ip) = item.get("ip").filter(|_| !proxied) {
                let place = place.key("status.loadBalancer.ingress");
                service.ingress_ips.extend(address(ip.text().unwrap_or_default(), ip, &place, problems));
            }
        }
        service
    }

    fn spec(&mut self, mut fields: Fields<'_, '_>) {
        let node = fields.node;
        self.kind = match fields.text("type").as_deref() {
            None | Some("ClusterIP") => Kind::ClusterIp,
            Some("NodePort") => Kind::NodePort,
            Some("LoadBalancer") => Kind::LoadBalancer,
            Some("ExternalName") => Kind::ExternalName,
            Some(other) => {
                fields.error(
                    node,
                    format!("type must be ClusterIP, NodePort, LoadBalancer or ExternalName, not {other}"),
                );
                Kind::ClusterIp
            }
        };
        self.selector = fields.labels("selector");
        let mut ips = fields.texts("clusterIPs");
        if ips.is_empty()
            && let Some(ip) = fields.text("clusterIP")
        {
            ips.push((ip, node, fields.place.key("clusterIP")));
        }
        self.headless = ips.iter().any(|(ip, _, _)| ip == "None");
        for (text, node, place) in ips.into_iter().filter(|(ip, _, _)| ip != "None" && !ip.is_empty()) {
            self.cluster_ips.extend(address(&text, node, &place, fields.problems));
        }
        for (text, node, place) in fields.texts("externalIPs") {
            self.external_ips.extend(address(&text, node, &place, fields.problems));
        }
        if let Some(text) = fields.text("loadBalancerIP").filter(|text| !text.is_empty()) {
            let place = fields.place.key("loadBalancerIP");
            self.load_balancer_ip = address(&text, node, &place, fields.problems);
        }
        for (text, node, place) in fields.texts("loadBalancerSourceRanges") {
            match prefix(text.trim()) {
                Ok(prefix) => self.source_ranges.push(prefix),
                Err(what) => fields.problems.errors.push(place.problem(node, what)),
            }
        }
        if one_of(&mut fields, "sessionAffinity", ["None", "ClientIP"]) {
            self.affinity_seconds = AFFINITY_SECONDS;
        }
        if let Some((node, place)) = fields.object("sessionAffinityConfig") {
            self.affinity_time(Fields::new(node, place, fields.problems));
        }
        self.external_local = one_of(&mut fields, "externalTrafficPolicy", ["Cluster", "Local"]);
        let health = fields.int("healthCheckNodePort", 0, 65535).and_then(|n| u16::try_from(n).ok());
        self.health_port = health.filter(|port| *port != 0 && self.external_local);
        self.distribution = fields.text("trafficDistribution");
        if let Some(other) = self.distribution.as_ref().filter(|wish| !DISTRIBUTIONS.contains(&wish.as_str()))
        {
            let known = DISTRIBUTIONS.join(", ");
            fields.warn(node, format!("trafficDistribution is {other}, but we know {known} alone"));
        }
        self.internal_local = one_of(&mut fields, "internalTrafficPolicy", ["Cluster", "Local"]);
        for (node, place) in fields.list("ports").unwrap_or_default() {
            self.ports.extend(read_port(node, place, fields.problems));
        }
        for known in BESIDE {
            fields.raw(known);
        }
        fields.warn_unknown();
    }

    fn affinity_time(&mut self, mut fields: Fields<'_, '_>) {
        let Some((node, place)) = fields.object("clientIP") else { return };
        let seconds = Fields::new(node, place, fields.problems).int("timeoutSeconds", 1, 86_400);
        if let Some(seconds) = seconds.and_then(|seconds| u32::try_from(seconds).ok())
            && self.affinity_seconds > 0
        {
            self.affinity_seconds = seconds;
        }
    }
}

/// `spec.trafficDistribution` as Kubernetes has it.
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];

/// Fields of `spec` that others look at, or that are read elsewhere.
const BESIDE: [&str; 7] = [
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "externalName",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "publishNotReadyAddresses",
];

/// Is it the second of two values? Without a word it is the first, as with the API server.
fn one_of(fields: &mut Fields<'_, '_>, key: &'static str, [first, second]: [&str; 2]) -> bool {
    let node = fields.node;
    let said = fields.text(key).unwrap_or_default();
    if !said.is_empty() && said != first && said != second {
        let what = format!("must be {first} or {second}, not {said}");
        let place = fields.place.key(key);
        fields.problems.errors.push(place.problem(node.get(key).unwrap_or(node), what));
    }
    said == second
}

fn read_port(node: &Node, place: Place, problems: &mut Problems) -> Option<ServicePort> {
    let mut fields = Fields::new(node, place, problems);
    let name = fields.loose_text("name").unwrap_or_default();
    let text = fields.text("protocol").unwrap_or_else(|| "TCP".to_owned());
    let Some(proto) = protocol(&text) else {
        fields.error(node, format!("protocol must be TCP, UDP or SCTP, not {text}"));
        return None;
    };
    let Some(port) = fields.int("port", 1, 65535).and_then(|n| u16::try_from(n).ok()) else {
        fields.error(node, "a port from 1 to 65535 is needed");
        return None;
    };
    let node_port = fields.int("nodePort", 0, 65535).and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    let target = match fields.some("targetPort").map(|node| &node.value) {
        Some(Value::Int(0)) | None => Some(Target::Number(port)),
        Some(Value::Int(n)) => u16::try_from(*n).ok().map(Target::Number),
        Some(Value::Text(name)) => ports::named(name).map(|_| Target::Named(name.clone())),
        Some(Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_)) => None,
    };
    fields.raw("appProtocol");
    fields.warn_unknown();
    let Some(target) = target else {
        fields.error(node, "targetPort must be a number from 1 to 65535 or the name of a port");
        return None;
    };
    Some(ServicePort { name, port, proto, node_port, target })
}

/// One EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub namespace: String,
    pub service: String,
    /// Name, protocol, number.
    pub ports: Vec<(String, u8, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
    pub weight: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: String,
    pub zone: String,
    /// Who should use it, by the hints of whoever wrote the slice.
    pub for_zones: Vec<String>,
    pub for_nodes: Vec<String>,
}

impl Slice {
    pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Self {
        let label = metadata.labels.iter().find(|(key, _)| key == "kubernetes.io/service-name");
        let mut slice = Self {
            namespace: if metadata.namespace.is_empty() {
                "default".to_owned()
            } else {
                metadata.namespace.clone()
            },
            service: label.map(|(_, value)| value.clone()).unwrap_or_default(),
            weight: weight(node, &place, &metadata, problems),
            ..Self::default()
        };
        let mut fields = Fields::new(node, place, problems);
        if slice.service.is_empty() {
            fields.warn(node, "without the label kubernetes.io/service-name the slice belongs to no service");
        }
        let is_name = fields.text("addressType").as_deref() == Some("FQDN");
        for (port, place) in fields.list("ports").unwrap_or_default() {
            let mut fields = Fields::new(port, place, fields.problems);
            let name = fields.loose_text("name").unwrap_or_default();
            let proto = fields.protocol("protocol");
            if let Some(number) = fields.int("port", 1, 65535).and_then(|n| u16::try_from(n).ok()) {
                slice.ports.push((name, proto, number));
            }
        }
        for (endpoint, place) in fields.list("endpoints").unwrap_or_default().into_iter().filter(|_| !is_name)
        {
            slice.endpoints.push(read_slice_endpoint(endpoint, place, fields.problems));
        }
        for known in ["apiVersion", "kind", "metadata"] {
            fields.raw(known);
        }
        fields.warn_unknown();
        slice
    }
}

/// `service.cilium.io/weight`
fn weight(node: &Node, place: &Place, metadata: &Metadata, problems: &mut Problems) -> Option<u16> {
    let text = metadata.annotation("service.cilium.io/weight")?;
    let weight = text.parse().ok();
    if weight.is_none() {
        let what =
            format!("the annotation service.cilium.io/weight must be a number up to 65535, not {text}");
        problems.warnings.push(place.key("metadata.annotations").problem(node, what));
    }
    weight
}

fn read_slice_endpoint(node: &Node, place: Place, problems: &mut Problems) -> SliceEndpoint {
    let mut fields = Fields::new(node, place, problems);
    let mut endpoint = SliceEndpoint {
        node: fields.loose_text("nodeName").unwrap_or_default(),
        zone: fields.loose_text("zone").unwrap_or_default(),
        ..SliceEndpoint::default()
    };
    for (text, node, place) in fields.texts("addresses") {
        endpoint.addresses.extend(address(&text, node, &place, fields.problems));
    }
    let mut said = [None; 3];
    if let Some((node, place)) = fields.object("conditions") {
        let mut conditions = Fields::new(node, place, fields.problems);
        said = ["ready", "serving", "terminating"].map(|name| conditions.flag(name));
        conditions.warn_unknown();
    }
    let [ready, serving, terminating] = said;
    // What is not said is ready; what is ready serves.
    endpoint.ready = ready.unwrap_or(true);
    endpoint.serving = serving.unwrap_or(endpoint.ready);
    endpoint.terminating = terminating.unwrap_or(false);
    for known in ["hints", "hostname", "targetRef", "topology", "deprecatedTopology"] {
        fields.raw(known);
    }
    fields.warn_unknown();
    let hints = |key: &str| -> Vec<String> {
        let list = node.get("hints").and_then(|hints| hints.get(key)).map(Node::list).unwrap_or_default();
        list.iter().filter_map(|item| Some(item.get("name")?.text()?.to_owned())).collect()
    };
    (endpoint.for_zones, endpoint.for_nodes) = (hints("forZones"), hints("forNodes"));
    endpoint
}
