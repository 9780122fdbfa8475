//! Services and their backends as Kubernetes says them.

mod backends;
mod exposure;
pub mod frontends;
mod health;
pub mod pools;

use std::net::IpAddr;

use sluice_core::tables::record::{Prefix, Probe};

use pools::Claim;

use crate::decode::{Fields, Place, Problems, prefix};
use crate::objects::{Metadata, address, protocol};
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

impl Annotations {
    fn read(metadata: &Metadata) -> Self {
        let text = |name: &str| metadata.annotation(name).map(str::to_owned);
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
const AFFINITY_SECONDS: i64 = 10_800;

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
            annotations: Box::new(Annotations::read(&metadata)),
            proxy_name: metadata
                .labels
                .iter()
                .find(|(key, _)| key == "service.kubernetes.io/service-proxy-name")
                .map(|(_, value)| value.clone()),
            name: metadata.name,
            labels: metadata.labels,
            ..Self::default()
        };
        if let Some(spec) = node.get("spec") {
            service.spec(Fields::new(spec, place.key("spec"), problems));
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
        if fields.text("sessionAffinity").as_deref() == Some("ClientIP") {
            let config = node.get("sessionAffinityConfig").and_then(|c| c.get("clientIP"));
            let seconds = config.and_then(|c| c.get("timeoutSeconds")).map(|node| &node.value);
            let seconds = if let Some(Value::Int(n)) = seconds { *n } else { AFFINITY_SECONDS };
            self.affinity_seconds = u32::try_from(seconds).unwrap_or(0);
        }
        self.external_local = fields.text("externalTrafficPolicy").as_deref() == Some("Local");
        let health = fields.int("healthCheckNodePort", 0, 65535).and_then(|n| u16::try_from(n).ok());
        self.health_port = health.filter(|port| *port != 0 && self.external_local);
        self.distribution = fields.text("trafficDistribution");
        self.internal_local = fields.text("internalTrafficPolicy").as_deref() == Some("Local");
        for (node, place) in fields.list("ports").unwrap_or_default() {
            self.ports.extend(read_port(node, place, fields.problems));
        }
    }
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
        Some(Value::Int(n)) => Target::Number(u16::try_from(*n).unwrap_or(port)),
        Some(Value::Text(name)) => Target::Named(name.clone()),
        _ => Target::Number(port),
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
            weight: metadata.annotation("service.cilium.io/weight").and_then(|weight| weight.parse().ok()),
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
            let proto = fields.text("protocol").and_then(|name| protocol(&name)).unwrap_or(6);
            if let Some(number) = fields.int("port", 1, 65535).and_then(|n| u16::try_from(n).ok()) {
                slice.ports.push((name, proto, number));
            }
        }
        for (endpoint, place) in fields.list("endpoints").unwrap_or_default().into_iter().filter(|_| !is_name)
        {
            slice.endpoints.push(read_slice_endpoint(endpoint, place, fields.problems));
        }
        slice
    }
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
    let conditions =
        |name: &str| match node.get("conditions").and_then(|c| c.get(name)).map(|node| &node.value) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        };
    // What is not said is ready; what is ready serves.
    endpoint.ready = conditions("ready").unwrap_or(true);
    endpoint.serving = conditions("serving").unwrap_or(endpoint.ready);
    endpoint.terminating = conditions("terminating").unwrap_or(false);
    let hints = |key: &str| -> Vec<String> {
        let list = node.get("hints").and_then(|hints| hints.get(key)).map(Node::list).unwrap_or_default();
        list.iter().filter_map(|item| Some(item.get("name")?.text()?.to_owned())).collect()
    };
    (endpoint.for_zones, endpoint.for_nodes) = (hints("forZones"), hints("forNodes"));
    endpoint
}
