//! Files → objects: everything that a cluster would hold, read from YAML and JSON.

mod folders;
mod share;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::decode::{Fields, Place, Problems, masked};
use crate::egress::EgressPolicy;
use crate::policy::Policy;
use crate::policy::groups::CidrGroup;
use crate::service::pools::Pool;
use crate::service::{Service, Slice};
use crate::tree::{self, Limits, Node};

use folders::files_of;
pub use folders::is_hidden;
pub use share::{Share, Shared, joined, shares};

/// A pod, or a machine that is no pod: somebody with addresses and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub addresses: Vec<IpAddr>,
    pub node: String,
    pub service_account: String,
    /// What policy would deny it is forwarded and reported.
    pub audit: bool,
    /// Shares its node's addresses and identity.
    pub host_network: bool,
    /// Named ports: name, protocol, number.
    pub ports: Vec<(String, u8, u16)>,
    /// Ports of the node that lead to it: address (or any), protocol, node's port, own port.
    pub host_ports: Vec<(Option<IpAddr>, u8, u16, u16)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    pub labels: Vec<(String, String)>,
    /// As [`Endpoint::audit`], for all its endpoints.
    pub audit: bool,
}

/// Annotation of namespaces, pods and endpoints: `enabled` forwards what policy denies them, and reports AUDIT.
const AUDIT: &str = "policy.sluice.dev/audit-mode";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObject {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub addresses: Vec<IpAddr>,
}

/// All objects of a set, by kind.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub namespaces: BTreeMap<String, Namespace>,
    pub nodes: BTreeMap<String, NodeObject>,
    pub endpoints: BTreeMap<(String, String), Endpoint>,
    pub services: BTreeMap<(String, String), Service>,
    pub slices: BTreeMap<(String, String), Slice>,
    pub pools: BTreeMap<String, Pool>,
    pub policies: Vec<Policy>,
    pub groups: Vec<CidrGroup>,
    /// In the order of their names: the first that speaks of a destination counts.
    pub egress: Vec<EgressPolicy>,
    /// Kinds that mean nothing to a gateway, and how many of each were passed over.
    pub ignored: BTreeMap<String, usize>,
}

/// What an object calls itself.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub namespace: String,
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub annotations: Vec<(String, String)>,
    /// `creationTimestamp`: sorts as time does.
    pub created: String,
}

impl Metadata {
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Labels that say of an endpoint what only its place can say are told of.
    fn tell_claims(&self, node: &Node, place: &Place, problems: &mut Problems) {
        for (key, _) in self.labels.iter().filter(|(key, _)| crate::labels::is_given(key)) {
            let what = format!(
                "{key} follows from where and as whom something runs; as its own label it counts for nothing"
            );
            problems.warnings.push(place.key("metadata.labels").problem(node, what));
        }
    }

    fn audit(&self, node: &Node, place: &Place, problems: &mut Problems) -> bool {
        match self.annotation(AUDIT) {
            None | Some("disabled") => false,
            Some("enabled") => true,
            Some(other) => {
                let what = format!("the annotation {AUDIT} must be enabled or disabled, not {other}");
                problems.errors.push(place.key("metadata.annotations").problem(node, what));
                false
            }
        }
    }
}

/// Read files and folders (recursively: *.yaml, *.yml, *.json; not what begins with a dot).
pub fn load(paths: &[PathBuf], limits: &Limits) -> (Objects, Problems) {
    let (objects, problems, _) = load_seen(paths, limits);
    (objects, problems)
}

/// One file by itself: what it holds, what is wrong with it, and which objects it tells of (kind, namespace, name).
#[derive(Debug, Default)]
pub struct Read {
    pub objects: Objects,
    pub problems: Problems,
    pub names: BTreeSet<(String, String, String)>,
}

pub fn read_file(path: &Path, limits: &Limits) -> Read {
    let mut reader = Reader::new(limits);
    reader.file(path);
    let seen = std::mem::take(&mut reader.seen);
    let (objects, problems) = reader.finish();
    Read::new(objects, problems, seen)
}

impl Read {
    pub fn new(objects: Objects, problems: Problems, seen: Seen) -> Self {
        Self { objects, problems, names: seen.into_keys().collect() }
    }
}

/// As [`load`], and beside it where each object was found.
pub fn load_seen(paths: &[PathBuf], limits: &Limits) -> (Objects, Problems, Seen) {
    let mut reader = Reader::new(limits);
    for file in files_of(paths, &mut reader.problems) {
        reader.file(&file);
    }
    let seen = std::mem::take(&mut reader.seen);
    let (objects, problems) = reader.finish();
    (objects, problems, seen)
}

/// Read one text, as if it were a file of this name.
pub fn parse(name: &str, text: &str, limits: &Limits) -> (Objects, Problems) {
    let mut reader = Reader::new(limits);
    reader.text(&Arc::from(name), text);
    reader.finish()
}

/// The fields that reading this text understands, by place.
pub fn understood(text: &str, limits: &Limits) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut reader = Reader::new(limits);
    reader.problems.understood = Some(BTreeMap::new());
    reader.text(&Arc::from("understood"), text);
    reader.problems.understood.unwrap_or_default()
}

fn note(problems: &mut Problems, path: &Path, what: String) {
    let file = Arc::from(path.display().to_string());
    problems.errors.push(crate::decode::Problem { file, line: 1, column: 1, field: String::new(), what });
}

struct Reader<'a> {
    limits: &'a Limits,
    objects: Objects,
    problems: Problems,
    seen: Seen,
    /// Objects so far, those included that mean nothing here.
    count: usize,
}

/// Where objects were found, by kind, namespace and name: file and line.
pub type Seen = HashMap<(String, String, String), (Arc<str>, u32)>;

/// Kinds that a cluster's dump holds and a gateway needs not.
const HARMLESS: [&str; 32] = [
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "ConfigMap",
    "Secret",
    "Job",
    "CronJob",
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ClusterRole",
    "ClusterRoleBinding",
    "Ingress",
    "IngressClass",
    "Lease",
    "Event",
    "CustomResourceDefinition",
    "PersistentVolumeClaim",
    "Endpoints",
    "CiliumEndpoint",
    "CiliumIdentity",
    "CiliumEndpointSlice",
    "CiliumNode",
    "CiliumNodeConfig",
    "CiliumPodIPPool",
    "PersistentVolume",
    "ResourceQuota",
    "LimitRange",
    "ReplicationController",
    "PodTemplate",
    "ComponentStatus",
];

/// Kinds that ask for something which others do beside this gateway: told, and passed over.
const BESIDE: [&str; 7] = [
    "CiliumL2AnnouncementPolicy",
    "CiliumBGPClusterConfig",
    "CiliumBGPPeerConfig",
    "CiliumBGPAdvertisement",
    "CiliumBGPNodeConfig",
    "CiliumBGPNodeConfigOverride",
    "CiliumGatewayClassConfig",
];

/// Groups of kinds that may matter here. What is of another group is not about traffic that we judge.
const GROUPS: [&str; 5] =
    ["cilium.io", "networking.k8s.io", "policy.networking.k8s.io", "discovery.k8s.io", "sluice.dev"];

impl<'a> Reader<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            objects: Objects::default(),
            problems: Problems::default(),
            seen: HashMap::new(),
            count: 0,
        }
    }

    fn finish(mut self) -> (Objects, Problems) {
        self.problems.errors.sort();
        self.problems.warnings.sort();
        (self.objects, self.problems)
    }

    fn file(&mut self, path: &Path) {
        let size = std::fs::metadata(path).map(|data| data.len()).unwrap_or(0);
        if size > self.limits.file_bytes {
            let what = format!(
                "{size} bytes are more than the limit of {} (limits.fileBytes)",
                self.limits.file_bytes
            );
            return note(&mut self.problems, path, what);
        }
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(&Arc::from(path.display().to_string()), &text),
            Err(error) => note(&mut self.problems, path, format!("cannot be read: {error}")),
        }
    }

    fn text(&mut self, file: &Arc<str>, text: &str) {
        self.part(file, text, 0);
    }

    /// A text that begins behind so many lines of its file.
    fn part(&mut self, file: &Arc<str>, text: &str, above: u32) {
        let read = tree::each(text, above, self.limits, |node| self.object(file, &node));
        if let Err(error) = read {
            self.problems.errors.push(crate::decode::Problem {
                file: Arc::clone(file),
                line: error.line,
                column: error.column,
                field: String::new(),
                what: error.what,
            });
        }
    }

    fn object(&mut self, file: &Arc<str>, node: &Node) {
        if matches!(node.value, tree::Value::Null) {
            return;
        }
        let mut fields = Fields::new(node, Place::new(file), &mut self.problems);
        let (kind, version) = (fields.text("kind"), fields.text("apiVersion"));
        let Some(kind) = kind else {
            fields.error(node, "an object needs a kind");
            return;
        };
        if kind == "List" || kind.ends_with("List") && node.get("items").is_some() {
            let items = fields.list("items").unwrap_or_default();
            return items.iter().for_each(|(item, _)| self.object(file, item));
        }
        self.count += 1;
        if self.count > self.limits.objects {
            if self.count == self.limits.objects + 1 {
                let what = format!("more than {} objects (limits.objects)", self.limits.objects);
                fields.error(node, what);
            }
            return;
        }
        let versions = versions_of(&kind);
        let metadata = metadata(&mut fields, versions.is_some());
        if metadata.name.is_empty() {
            fields.error(node, "metadata.name is missing");
            return;
        }
        let version = version.unwrap_or_default();
        if let Some(expected) = versions.filter(|known| !known.contains(&version.as_str())) {
            let what = format!("{kind} is of {}, not of {version:?}", expected.join(" or "));
            fields.error(node, what);
            return;
        }
        let foreign = version.split_once('/').is_some_and(|(group, _)| !GROUPS.contains(&group));
        if foreign && versions.is_none() {
            *self.objects.ignored.entry(kind).or_insert(0) += 1;
            return;
        }
        if !HARMLESS.contains(&kind.as_str()) && !self.is_first(file, node, &kind, &metadata) {
            return;
        }
        self.dispatch(file, node, &kind, metadata);
    }

    fn is_first(&mut self, file: &Arc<str>, node: &Node, kind: &str, metadata: &Metadata) -> bool {
        let key = (kind.to_owned(), metadata.namespace.clone(), metadata.name.clone());
        if let Some((other, line)) = self.seen.get(&key) {
            let what = format!(
                "{kind} {}/{} is already defined at {other}:{line}",
                metadata.namespace, metadata.name
            );
            self.problems.errors.push(Place::new(file).problem(node, what));
            return false;
        }
        self.seen.insert(key, (Arc::clone(file), node.line));
        true
    }

    fn dispatch(&mut self, file: &Arc<str>, node: &Node, kind: &str, metadata: Metadata) {
        let (objects, problems) = (&mut self.objects, &mut self.problems);
        let key = (metadata.namespace.clone(), metadata.name.clone());
        let place = Place::new(file);
        match kind {
            "Namespace" => {
                let audit = metadata.audit(node, &place, problems);
                objects.namespaces.insert(metadata.name, Namespace { labels: metadata.labels, audit });
            }
            "Node" => {
                let node = read_node(node, place, metadata, problems);
                objects.nodes.insert(node.name.clone(), node);
            }
            "Pod" => drop(objects.endpoints.insert(key, read_pod(node, place, metadata, problems))),
            "Endpoint" => drop(objects.endpoints.insert(key, read_endpoint(node, place, metadata, problems))),
            "Service" => drop(objects.services.insert(key, Service::read(node, place, metadata, problems))),
            "EndpointSlice" => drop(objects.slices.insert(key, Slice::read(node, place, metadata, problems))),
            "NetworkPolicy" => objects.policies.extend(crate::policy::kubernetes::read(node, place, metadata, problems)),
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => {
                objects.policies.extend(crate::policy::cilium::read(node, place, metadata, kind, problems));
            }
            "ClusterNetworkPolicy" => objects.policies.extend(crate::policy::cluster::read(node, place, metadata, problems)),
            "CiliumLoadBalancerIPPool" => {
                objects.pools.insert(metadata.name.clone(), Pool::read(node, place, metadata, problems));
            }
            "CiliumCIDRGroup" => objects.groups.push(CidrGroup::read(node, place, metadata, problems)),
            "CiliumEgressGatewayPolicy" => {
                objects.egress.push(EgressPolicy::read(node, place, metadata, problems));
                objects.egress.sort_by(|a, b| a.name.cmp(&b.name));
            }
            other if HARMLESS.contains(&other) => *objects.ignored.entry(other.to_owned()).or_insert(0) += 1,
            other if BESIDE.contains(&other) => {
                problems.warnings.push(place.problem(node, format!("{other} is not done by this gateway")));
                *objects.ignored.entry(other.to_owned()).or_insert(0) += 1;
            }
            other => problems.errors.push(place.problem(
                node,
                format!(
                    "the kind {other} is not supported; supported are Namespace, Node, Pod, Endpoint, Service, \
                     EndpointSlice, NetworkPolicy, ClusterNetworkPolicy, CiliumNetworkPolicy, \
                     CiliumClusterwideNetworkPolicy, CiliumCIDRGroup, CiliumEgressGatewayPolicy, CiliumLoadBalancerIPPool"
                ),
            )),
        }
    }
}

/// The versions in which a kind is read. Another one may mean something else by the same words.
fn versions_of(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "Namespace" | "Node" | "Pod" | "Service" => &["v1"],
        "EndpointSlice" => &["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"],
        "NetworkPolicy" => &["networking.k8s.io/v1"],
        "ClusterNetworkPolicy" => &["policy.networking.k8s.io/v1alpha2"],
        "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" | "CiliumEgressGatewayPolicy" => {
            &["cilium.io/v2"]
        }
        "CiliumCIDRGroup" | "CiliumLoadBalancerIPPool" => &["cilium.io/v2", "cilium.io/v2alpha1"],
        "Endpoint" => &["sluice.dev/v1"],
        _ => return None,
    })
}

/// What else Kubernetes writes into `metadata`.
pub(crate) const METADATA: [&str; 10] = [
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// A word that is misspelt there (`namspace`) would send an object elsewhere, so in what is ours it is a mistake.
fn metadata(fields: &mut Fields<'_, '_>, is_ours: bool) -> Metadata {
    let Some((node, place)) = fields.object("metadata") else { return Metadata::default() };
    let mut fields = Fields::new(node, place, fields.problems);
    let metadata = Metadata {
        namespace: fields.loose_text("namespace").unwrap_or_default(),
        name: fields.loose_text("name").unwrap_or_default(),
        labels: fields.labels("labels"),
        annotations: fields.labels("annotations"),
        created: fields.loose_text("creationTimestamp").unwrap_or_default(),
    };
    if is_ours {
        for known in METADATA {
            fields.raw(known);
        }
        fields.deny_unknown();
    }
    metadata
}

/// An address field; what is none is noted.
pub fn address(text: &str, node: &Node, place: &Place, problems: &mut Problems) -> Option<IpAddr> {
    let parsed = text.parse();
    if parsed.is_err() {
        problems.errors.push(place.problem(node, format!("{text} is no address")));
    }
    parsed.ok().map(|ip| masked(ip, 128))
}

fn read_node(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> NodeObject {
    let mut addresses = Vec::new();
    let listed = node.get("status").and_then(|status| status.get("addresses"));
    for item in listed.map(Node::list).unwrap_or_default() {
        let kind = item.get("type").and_then(Node::text).unwrap_or_default();
        if (kind == "InternalIP" || kind == "ExternalIP")
            && let Some(node) = item.get("address")
        {
            let place = place.key("status.addresses");
            addresses.extend(address(node.text().unwrap_or_default(), node, &place, problems));
        }
    }
    NodeObject { name: metadata.name, labels: metadata.labels, addresses }
}

fn read_pod(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Endpoint {
    metadata.tell_claims(node, &place, problems);
    let audit = metadata.audit(node, &place, problems);
    let mut endpoint = Endpoint {
        kind: "Pod",
        audit,
        namespace: if metadata.namespace.is_empty() { "default".to_owned() } else { metadata.namespace },
        name: metadata.name,
        labels: metadata.labels,
        addresses: Vec::new(),
        node: String::new(),
        service_account: "default".to_owned(),
        host_network: false,
        ports: Vec::new(),
        host_ports: Vec::new(),
    };
    if let Some(spec) = node.get("spec") {
        let mut fields = Fields::new(spec, place.key("spec"), problems);
        endpoint.node = fields.loose_text("nodeName").unwrap_or_default();
        let account = fields.loose_text("serviceAccountName").or_else(|| fields.loose_text("serviceAccount"));
        endpoint.service_account = account.unwrap_or_else(|| "default".to_owned());
        endpoint.host_network = fields.flag("hostNetwork").unwrap_or(false);
        for (container, place) in fields.list("containers").unwrap_or_default() {
            container_ports(container, place, &mut endpoint, fields.problems);
        }
    }
    let Some(status) = node.get("status") else { return endpoint };
    let phase = status.get("phase").and_then(Node::text).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return endpoint;
    }
    let place = place.key("status.podIPs");
    for item in status.get("podIPs").map(Node::list).unwrap_or_default() {
        if let Some(node) = item.get("ip") {
            endpoint.addresses.extend(address(node.text().unwrap_or_default(), node, &place, problems));
        }
    }
    if endpoint.addresses.is_empty()
        && let Some(node) = status.get("podIP")
        && let Some(text) = node.text()
    {
        endpoint.addresses.extend(address(text, node, &place, problems));
    }
    endpoint
}

fn container_ports(container: &Node, place: Place, endpoint: &mut Endpoint, problems: &mut Problems) {
    let mut fields = Fields::new(container, place, problems);
    for (port, place) in fields.list("ports").unwrap_or_default() {
        let mut fields = Fields::new(port, place, fields.problems);
        let proto = fields.protocol("protocol");
        let Some(number) = fields.int("containerPort", 1, 65535).and_then(|n| u16::try_from(n).ok()) else {
            continue;
        };
        if let Some(name) = fields.text("name") {
            endpoint.ports.push((name.to_lowercase(), proto, number));
        }
        if let Some(host) = fields.int("hostPort", 1, 65535).and_then(|n| u16::try_from(n).ok()) {
            let ip = fields.text("hostIP").filter(|ip| !ip.is_empty());
            let ip = ip.and_then(|ip| address(&ip, port, &fields.place, fields.problems));
            endpoint.host_ports.push((ip, proto, host, number));
        }
    }
}

fn read_endpoint(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Endpoint {
    metadata.tell_claims(node, &place, problems);
    let audit = metadata.audit(node, &place, problems);
    let mut endpoint = Endpoint {
        kind: "Endpoint",
        audit,
        namespace: if metadata.namespace.is_empty() { "default".to_owned() } else { metadata.namespace },
        name: metadata.name,
        labels: metadata.labels,
        addresses: Vec::new(),
        node: String::new(),
        service_account: String::new(),
        host_network: false,
        ports: Vec::new(),
        host_ports: Vec::new(),
    };
    let mut whole = Fields::new(node, place, problems);
    let spec = whole.object("spec");
    for known in ["apiVersion", "kind", "metadata"] {
        whole.raw(known);
    }
    whole.deny_unknown();
    let Some((spec, place)) = spec else {
        whole.error(node, "an Endpoint needs a spec with addresses");
        return endpoint;
    };
    let mut fields = Fields::new(spec, place, whole.problems);
    for (text, node, place) in fields.texts("addresses") {
        endpoint.addresses.extend(address(&text, node, &place, fields.problems));
    }
    // Labels may stand here, too, where people look for what an object is about.
    endpoint.labels.extend(fields.labels("labels"));
    for (port, place) in fields.list("ports").unwrap_or_default() {
        let mut fields = Fields::new(port, place, fields.problems);
        let (name, proto) = (fields.text("name"), fields.protocol("protocol"));
        let number = fields.int("port", 1, 65535).and_then(|n| u16::try_from(n).ok());
        match (&name, number, fields.some("port")) {
            (Some(name), Some(number), _) => endpoint.ports.push((name.to_lowercase(), proto, number)),
            (None, ..) | (_, None, None) => fields.error(port, "a port needs a name and a port"),
            // What is wrong with the number was told.
            (Some(_), None, Some(_)) => {}
        }
        fields.deny_unknown();
    }
    fields.deny_unknown();
    endpoint
}

/// TCP, UDP, SCTP by name.
pub fn protocol(name: &str) -> Option<u8> {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}
