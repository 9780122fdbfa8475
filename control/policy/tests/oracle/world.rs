//! Random worlds: objects as people write them, small enough that rules and flows meet often.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::random::Random;

const NAMESPACES: [&str; 3] = ["shop", "bank", "lab"];
const CIDRS: [&str; 10] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "198.51.100.0/24",
    "198.51.100.0/30",
    "198.51.100.2/32",
    "203.0.113.0/24",
    "2001:db8::/32",
    "2001:db8::1/128",
    "192.0.2.0/24",
];
const PORT_NAMES: [&str; 3] = ["http", "dns", "admin"];
const PATTERNS: [&str; 5] = ["api.example.com", "*.example.com", "**.example.com", "*", "www*.example.org"];
pub const NAMES: [&str; 5] =
    ["api.example.com", "www.example.com", "a.b.example.com", "www1.example.org", "example.net"];
pub const OUTSIDE: [&str; 9] = [
    "198.51.100.1",
    "198.51.100.2",
    "198.51.100.9",
    "203.0.113.1",
    "203.0.113.10",
    "10.9.9.9",
    "2001:db8::1",
    "2001:db8::2",
    "fd99::1",
];

/// Objects by kind and name, so that some can be changed later.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub objects: BTreeMap<(String, String), Value>,
    /// How many policies were ever made: the next one's name.
    made: usize,
}

impl World {
    pub fn new(random: &mut Random) -> Self {
        let mut world = Self::default();
        for name in NAMESPACES {
            world.namespace(random, name);
        }
        for (name, addresses) in [("us", ["192.0.2.1", "fd00::1"]), ("them", ["192.0.2.2", "fd00::2"])] {
            world.node(random, name, &addresses);
        }
        for n in 0..6 + random.below(8) {
            world.pod(random, n);
        }
        for n in 0..2 {
            world.group(random, n);
        }
        for n in 0..3 {
            world.service(random, n);
        }
        world.api_server(random);
        for _ in 0..4 + random.below(10) {
            world.policy(random);
        }
        world
    }

    pub fn text(&self) -> String {
        json!({"apiVersion": "v1", "kind": "List", "items": self.objects.values().collect::<Vec<_>>()})
            .to_string()
    }

    /// Change a few things.
    pub fn mutate(&mut self, random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            match random.below(9) {
                0 => self.namespace(random, NAMESPACES[random.clone().below(3)]),
                1 | 2 => {
                    let n = random.below(14);
                    self.pod(random, n);
                }
                3 => self.remove(random, "Pod"),
                4 => {
                    let n = random.below(2);
                    self.group(random, n);
                }
                5 => {
                    let n = random.below(3);
                    self.service(random, n);
                }
                6 => self.api_server(random),
                7 => self.remove(random, "Policy"),
                _ => self.policy(random),
            }
        }
    }

    fn remove(&mut self, random: &mut Random, kind: &str) {
        let keys: Vec<_> = self.objects.keys().filter(|(own, _)| own == kind).cloned().collect();
        if !keys.is_empty() {
            self.objects.remove(random.pick(&keys));
        }
    }

    fn put(&mut self, kind: &str, name: &str, object: Value) {
        self.objects.insert((kind.to_owned(), name.to_owned()), object);
    }

    fn namespace(&mut self, random: &mut Random, name: &str) {
        let labels =
            json!({"team": random.pick_text(&["red", "blue"]), "env": random.pick_text(&["prod", "test"])});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.put("Namespace", name, object);
    }

    fn node(&mut self, random: &mut Random, name: &str, addresses: &[&str]) {
        let listed: Vec<Value> =
            addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let labels = json!({"zone": random.pick_text(&["a", "b"])});
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "status": {"addresses": listed}});
        self.put("Node", name, object);
    }

    fn pod(&mut self, random: &mut Random, n: usize) {
        let mut labels = json!({"app": random.pick_text(&["a", "b", "c"])});
        if random.one_in(2) {
            labels["role"] = json!(random.pick_text(&["x", "y"]));
        }
        if random.one_in(6) {
            labels["k8s-app"] = json!("kube-dns");
        }
        let mut ports = Vec::new();
        for name in PORT_NAMES {
            if random.one_in(2) {
                let proto = if name == "dns" { "UDP" } else { "TCP" };
                ports.push((name, proto, *random.pick(&[53, 80, 8080])));
            }
        }
        let namespace = random.pick_text(&NAMESPACES);
        let metadata = json!({"name": format!("p{n}"), "namespace": namespace, "labels": labels});
        // Some addresses are used twice, and one is a node's: the first claim in Cilium's order counts.
        let mut ips = vec![format!("10.0.0.{}", if random.one_in(8) { 1 } else { n + 1 })];
        if random.one_in(3) {
            ips.push(format!("fd00:0:0:1::{}", n + 1));
        }
        if random.one_in(15) {
            ips = vec!["192.0.2.2".to_owned()];
        }
        if random.one_in(4) {
            let ports: Vec<Value> = ports
                .iter()
                .map(|(name, proto, port)| json!({"name": name, "protocol": proto, "port": port}))
                .collect();
            let spec = json!({"addresses": ips, "ports": ports});
            let object = json!({"apiVersion": "sluice.dev/v1", "kind": "Endpoint", "metadata": metadata, "spec": spec});
            return self.put("Pod", &format!("p{n}"), object);
        }
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, proto, port)| json!({"name": name, "protocol": proto, "containerPort": port}))
            .collect();
        let node = random.pick_text(&["us", "them", ""]);
        let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": node, "serviceAccountName": random.pick_text(&["default", "robot"]),
                "hostNetwork": random.one_in(12), "containers": [{"name": "c", "ports": ports}]},
            "status": {"podIPs": listed}});
        self.put("Pod", &format!("p{n}"), object);
    }

    fn group(&mut self, random: &mut Random, n: usize) {
        let cidrs: Vec<String> = (0..1 + random.below(3)).map(|_| random.pick_text(&CIDRS)).collect();
        let object = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": format!("g{n}"), "labels": {"kind": random.pick_text(&["good", "bad"])}},
            "spec": {"externalCIDRs": cidrs}});
        self.put("Group", &format!("g{n}"), object);
    }

    fn service(&mut self, random: &mut Random, n: usize) {
        let name = format!("s{n}");
        let namespace = random.pick_text(&NAMESPACES);
        let selects = random.one_in(2);
        let mut spec = json!({"clusterIP": "None", "ports": [{"port": 80, "protocol": "TCP"}]});
        if selects {
            spec["selector"] = json!({"app": random.pick_text(&["a", "b", "c"])});
        }
        let labels = json!({"tier": random.pick_text(&["front", "back"])});
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec});
        self.put("Service", &name, object);
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": [random.pick_text(&OUTSIDE[..5])]}]});
        self.put("Slice", &name, slice);
    }

    fn api_server(&mut self, random: &mut Random) {
        let ip = random.pick_text(&["192.0.2.1", "192.0.2.2", "203.0.113.10"]);
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "ports": [{"port": 6443, "protocol": "TCP"}], "endpoints": [{"addresses": [ip]}]});
        self.put("Slice", "kubernetes", slice);
    }

    /// A new policy, or another one in the place of an old one.
    fn policy(&mut self, random: &mut Random) {
        let mut n = self.made;
        if n > 0 && random.one_in(3) {
            n = random.below(n);
        } else {
            self.made += 1;
        }
        let name = format!("policy{n}");
        let object = match n % 5 {
            0 | 1 => cilium(random, &name, Some(NAMESPACES[n % 3])),
            2 => cilium(random, &name, None),
            3 => kubernetes(random, &name, NAMESPACES[n % 3]),
            _ => cluster(random, &name),
        };
        self.put("Policy", &name, object);
    }
}

fn some<T>(random: &mut Random, most: usize, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..1 + random.below(most)).map(|_| make(random)).collect()
}

fn selector(random: &mut Random) -> Value {
    let mut selector = json!({});
    let prefix = random.pick_text(&["", "", "k8s:", "any:"]);
    match random.below(9) {
        0 => {}
        1 => {
            let key = random.pick_text(&["role", "app"]);
            let operator = random.pick_text(&["Exists", "DoesNotExist"]);
            selector["matchExpressions"] = json!([{"key": format!("{prefix}{key}"), "operator": operator}]);
        }
        2 => {
            let operator = random.pick_text(&["In", "NotIn"]);
            let values = some(random, 2, |r| r.pick_text(&["a", "b", "c"]));
            selector["matchExpressions"] =
                json!([{"key": format!("{prefix}app"), "operator": operator, "values": values}]);
        }
        3 => {
            selector["matchLabels"] = json!({
                format!("{prefix}app"): random.pick_text(&["a", "b", "c"]), "role": random.pick_text(&["x", "y"])});
        }
        _ => selector["matchLabels"] = json!({format!("{prefix}app"): random.pick_text(&["a", "b", "c"])}),
    }
    selector
}

/// A peer selector may look beyond the namespace.
fn far_selector(random: &mut Random) -> Value {
    let mut chosen = selector(random);
    match random.below(8) {
        0 => {
            chosen["matchLabels"] = json!({"k8s:io.kubernetes.pod.namespace": random.pick_text(&NAMESPACES)})
        }
        1 => {
            chosen["matchLabels"] =
                json!({"io.cilium.k8s.namespace.labels.team": random.pick_text(&["red", "blue"])});
        }
        2 => {
            chosen = json!({"matchLabels": {random.pick_text(&["reserved:host", "reserved:world-ipv4"]): ""}})
        }
        3 => {
            chosen["matchLabels"] =
                json!({"io.cilium.k8s.policy.serviceaccount": random.pick_text(&["default", "robot"])});
        }
        _ => {}
    }
    chosen
}

const ENTITIES: [&str; 10] = [
    "all",
    "none",
    "world",
    "world-ipv4",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "init",
    "health",
];

fn cidr_set(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({"cidrGroupRef": random.pick_text(&["g0", "g1", "gone"])}),
        1 => json!({"cidrGroupSelector": {"matchLabels": {"kind": random.pick_text(&["good", "bad"])}},
            "except": ["198.51.100.2/32"]}),
        2 => {
            json!({"cidr": "198.51.100.0/24", "except": [random.pick_text(&["198.51.100.0/30", "198.51.100.9/32"])]})
        }
        _ => json!({"cidr": random.pick_text(&CIDRS)}),
    }
}

fn port(random: &mut Random) -> Value {
    let proto = random.pick_text(&["TCP", "TCP", "UDP", "ANY", "SCTP"]);
    match random.below(6) {
        0 => json!({"port": random.pick_text(&PORT_NAMES), "protocol": proto}),
        1 => json!({"port": "0", "protocol": proto}),
        2 => {
            let first = 50 + random.below(40);
            json!({"port": first.to_string(), "endPort": first + random.below(9000), "protocol": proto})
        }
        _ => json!({"port": random.pick_text(&["53", "80", "443", "8080"]), "protocol": proto}),
    }
}

fn rules_above(random: &mut Random) -> Value {
    match random.below(3) {
        0 => json!({"http": some(random, 2, |r| json!({"method": r.pick_text(&["GET", "GET|PUT", ".*"]),
            "path": r.pick_text(&["/", "/a.*", "/b"])}))}),
        1 => json!({"kafka": [{"topic": random.pick_text(&["t1", "t2"])}]}),
        _ => json!({"http": []}),
    }
}

fn port_rule(random: &mut Random, egress: bool, deny: bool) -> Value {
    if deny || random.one_in(2) {
        return json!({"ports": some(random, 2, port)});
    }
    if egress && random.one_in(2) {
        let patterns = some(random, 2, |r| json!({"matchPattern": r.pick_text(&PATTERNS)}));
        return json!({"ports": [{"port": "53", "protocol": random.pick_text(&["UDP", "ANY"])}], "rules": {"dns": patterns}});
    }
    let ports = json!([{"port": random.pick_text(&["80", "8080"]), "protocol": "TCP"}]);
    if random.one_in(4) {
        return json!({"ports": ports, "serverNames": [random.pick_text(&PATTERNS)]});
    }
    json!({"ports": ports, "rules": rules_above(random)})
}

fn cilium_rule(random: &mut Random, egress: bool, deny: bool) -> Value {
    let side = if egress { "to" } else { "from" };
    let mut rule = json!({});
    match random.below(if deny { 9 } else { 11 }) {
        9 | 10 => rule[format!("{side}Entities")] = json!([random.pick_text(&["all", "cluster", "world"])]),
        0 | 1 => rule[format!("{side}Endpoints")] = json!(some(random, 2, far_selector)),
        2 => rule[format!("{side}CIDR")] = json!(some(random, 2, |r| r.pick_text(&CIDRS))),
        3 => rule[format!("{side}CIDRSet")] = json!(some(random, 2, cidr_set)),
        4 => rule[format!("{side}Entities")] = json!(some(random, 2, |r| r.pick_text(&ENTITIES))),
        5 => rule[format!("{side}Nodes")] = json!([{"matchLabels": {"zone": random.pick_text(&["a", "b"])}}]),
        6 if egress && !deny => {
            rule["toFQDNs"] = json!(some(random, 2, |r| json!({"matchPattern": r.pick_text(&PATTERNS)})));
        }
        7 if egress => {
            let service = if random.one_in(2) {
                json!({"k8sService": {"serviceName": random.pick_text(&["s0", "s1", "s2", "s9"]),
                    "namespace": random.pick_text(&NAMESPACES)}})
            } else {
                json!({"k8sServiceSelector": {"selector": {"matchLabels": {"tier": random.pick_text(&["front", "back"])}}}})
            };
            rule["toServices"] = json!([service]);
        }
        8 if random.one_in(3) => rule[format!("{side}Endpoints")] = json!([]),
        _ => {}
    }
    if random.one_in(5) {
        let kinds = some(
            random,
            2,
            |r| json!({"family": r.pick_text(&["IPv4", "IPv6"]), "type": *r.pick(&[0, 3, 8, 128])}),
        );
        rule["icmps"] = json!([{"fields": kinds}]);
    } else if !random.one_in(3) {
        rule["toPorts"] = json!(some(random, 2, |r| port_rule(r, egress, deny)));
    }
    if !deny && random.one_in(12) {
        rule["authentication"] = json!({"mode": random.pick_text(&["required", "disabled"])});
    }
    rule
}

/// Host policies ask for nothing above ports.
fn ports_alone(rules: &mut Value) {
    for port_rule in rules.as_array_mut().into_iter().flatten().filter_map(|rule| rule.get_mut("toPorts")) {
        for port_rule in port_rule.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            port_rule.remove("rules");
            port_rule.remove("serverNames");
        }
    }
}

fn cilium(random: &mut Random, name: &str, namespace: Option<&str>) -> Value {
    let on_nodes = namespace.is_none() && random.one_in(4);
    let mut spec = if on_nodes {
        json!({"nodeSelector": {"matchLabels": {"zone": random.pick_text(&["a", "b"])}}})
    } else {
        json!({"endpointSelector": if random.one_in(2) { json!({}) } else { selector(random) }})
    };
    for _ in 0..1 + random.below(3) {
        let (egress, deny) = (random.one_in(2), random.one_in(4));
        let list = match (egress, deny) {
            (false, false) => "ingress",
            (false, true) => "ingressDeny",
            (true, false) => "egress",
            (true, true) => "egressDeny",
        };
        spec[list] = json!(some(random, 3, |r| cilium_rule(r, egress, deny)));
        if on_nodes {
            ports_alone(&mut spec[list]);
        }
    }
    if random.one_in(4) {
        spec["enableDefaultDeny"] = json!({"ingress": random.one_in(2), "egress": random.one_in(2)});
    }
    match namespace {
        Some(namespace) => json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": namespace}, "specs": [spec]}),
        None => json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": name}, "spec": spec}),
    }
}

fn plain_selector(random: &mut Random) -> Value {
    if random.one_in(4) {
        json!({})
    } else {
        json!({"matchLabels": {"app": random.pick_text(&["a", "b", "c"])}})
    }
}

fn namespaces(random: &mut Random) -> Value {
    if random.one_in(4) {
        json!({})
    } else {
        json!({"matchLabels": {"team": random.pick_text(&["red", "blue"])}})
    }
}

fn kubernetes(random: &mut Random, name: &str, namespace: &str) -> Value {
    let peer = |random: &mut Random| match random.below(4) {
        0 => json!({"podSelector": plain_selector(random)}),
        1 => json!({"namespaceSelector": namespaces(random)}),
        2 => json!({"podSelector": plain_selector(random), "namespaceSelector": namespaces(random)}),
        _ => json!({"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.2/32"]}}),
    };
    let port = |random: &mut Random| match random.below(4) {
        0 => json!({"protocol": "UDP"}),
        1 => json!({"port": random.pick_text(&PORT_NAMES)}),
        2 => json!({"port": 60, "endPort": 8080}),
        _ => json!({"port": *random.pick(&[53, 80, 443]), "protocol": random.pick_text(&["TCP", "UDP"])}),
    };
    let mut rule = |key: &str| {
        let mut rule = json!({});
        if !random.one_in(3) {
            rule[key] = json!(some(random, 2, peer));
        }
        if random.one_in(2) {
            rule["ports"] = json!(some(random, 2, port));
        }
        rule
    };
    let mut spec = json!({"ingress": [rule("from"), rule("from")], "egress": [rule("to")]});
    spec["podSelector"] = plain_selector(random);
    if random.one_in(2) {
        spec["policyTypes"] = json!([random.pick_text(&["Ingress", "Egress"])]);
    }
    if random.one_in(3) {
        spec["ingress"] = json!([]);
    }
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn cluster(random: &mut Random, name: &str) -> Value {
    let pods = |random: &mut Random| match random.below(2) {
        0 => json!({"namespaces": namespaces(random)}),
        _ => {
            json!({"pods": {"namespaceSelector": namespaces(random), "podSelector": plain_selector(random)}})
        }
    };
    let mut rule = |egress: bool| {
        let action = random.pick_text(&["Accept", "Deny", "Pass"]);
        let peers = some(random, 2, |random| match random.below(if egress { 5 } else { 2 }) {
            0 | 1 => pods(random),
            2 => json!({"nodes": {"matchLabels": {"zone": random.pick_text(&["a", "b"])}}}),
            3 if action == "Accept" => {
                json!({"domainNames": [random.pick_text(&["api.example.com", "*.example.com"])]})
            }
            _ => json!({"networks": some(random, 2, |r| r.pick_text(&CIDRS))}),
        });
        let mut rule = json!({"action": action, if egress { "to" } else { "from" }: peers});
        if random.one_in(2) {
            rule["protocols"] = json!(some(random, 2, |random| match random.below(3) {
                0 => json!({"tcp": {"destinationPort": {"number": *random.pick(&[53, 80, 443])}}}),
                1 => json!({"udp": {"destinationPort": {"range": {"start": 50, "end": 90}}}}),
                _ => json!({"sctp": {}}),
            }));
        }
        rule
    };
    let rules =
        json!({"ingress": [rule(false), rule(false)], "egress": [rule(true), rule(true), rule(true)]});
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": random.pick_text(&["Admin", "Baseline"]), "priority": random.below(3), "subject": pods(random),
            "ingress": rules["ingress"], "egress": rules["egress"]}})
}
