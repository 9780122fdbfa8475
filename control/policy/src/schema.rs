//! JSON schemas of the kinds that are read strictly, for editors. A test holds them to the fields that the reader knows.

use serde_json::{Map, Value, json};

/// The kinds that have a schema.
pub const KINDS: [&str; 8] = [
    "CiliumCIDRGroup",
    "CiliumClusterwideNetworkPolicy",
    "CiliumEgressGatewayPolicy",
    "CiliumLoadBalancerIPPool",
    "CiliumNetworkPolicy",
    "ClusterNetworkPolicy",
    "Endpoint",
    "NetworkPolicy",
];

/// The schema of a kind.
pub fn of(kind: &str) -> Option<Value> {
    let (version, rest) = match kind {
        "CiliumCIDRGroup" => (
            json!({"enum": ["cilium.io/v2", "cilium.io/v2alpha1"]}),
            vec![("spec", object(&[("externalCIDRs", list(cidr()))], &["externalCIDRs"]))],
        ),
        "CiliumLoadBalancerIPPool" => {
            (json!({"enum": ["cilium.io/v2", "cilium.io/v2alpha1"]}), vec![("spec", pool())])
        }
        "CiliumNetworkPolicy" => (constant("cilium.io/v2"), cilium()),
        "CiliumClusterwideNetworkPolicy" => (constant("cilium.io/v2"), cilium()),
        "CiliumEgressGatewayPolicy" => (constant("cilium.io/v2"), vec![("spec", egress_gateway())]),
        "ClusterNetworkPolicy" => {
            (constant("policy.networking.k8s.io/v1alpha2"), vec![("spec", cluster_policy())])
        }
        "Endpoint" => (constant("sluice.dev/v1"), vec![("spec", endpoint())]),
        "NetworkPolicy" => (constant("networking.k8s.io/v1"), vec![("spec", kubernetes())]),
        _ => return None,
    };
    let mut fields = vec![("apiVersion", version), ("kind", constant(kind)), ("metadata", metadata())];
    fields.extend(rest);
    if kind != "Endpoint" {
        fields.push(("status", json!({"description": "Said by controllers, passed over here"})));
    }
    let mut schema = object(&fields, &["apiVersion", "kind", "metadata"]);
    if matches!(kind, "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy") {
        schema["$defs"] = json!({"spec": cilium_spec(kind == "CiliumClusterwideNetworkPolicy")});
    }
    if !matches!(kind, "CiliumCIDRGroup" | "Endpoint") {
        schema["$defs"]["selector"] = selector_itself();
    }
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(kind);
    Some(schema)
}

/// `source:key=value`, or the three by themselves.
fn rule_label() -> Value {
    let mut label = object(&[("key", text()), ("value", text()), ("source", text())], &["key"]);
    label["type"] = json!(["string", "object"]);
    label
}

/// What people write there; of the rest only that it is known.
fn metadata() -> Value {
    let texts =
        json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}});
    let mut fields = vec![
        ("name", json!({"type": "string"})),
        ("namespace", json!({"type": "string"})),
        ("labels", texts.clone()),
        ("annotations", texts),
        ("creationTimestamp", json!({})),
    ];
    fields.extend(crate::objects::METADATA.map(|name| (name, json!({}))));
    object(&fields, &["name"])
}

fn object(fields: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let mut schema =
        json!({"type": ["object", "null"], "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn list(items: Value) -> Value {
    json!({"type": ["array", "null"], "items": items})
}

fn at_most(most: usize, items: Value) -> Value {
    json!({"type": ["array", "null"], "maxItems": most, "items": items})
}

fn constant(value: &str) -> Value {
    json!({"const": value})
}

fn one_of(values: &[&str]) -> Value {
    json!({"enum": values})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn whole(least: i64, most: i64) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn cidr() -> Value {
    json!({"type": "string", "description": "A prefix, or one address", "examples": ["10.0.0.0/8", "2001:db8::/32"]})
}

fn selector() -> Value {
    json!({"$ref": "#/$defs/selector"})
}

fn selector_itself() -> Value {
    let expression = object(
        &[
            ("key", text()),
            ("operator", one_of(&["In", "NotIn", "Exists", "DoesNotExist"])),
            ("values", list(text())),
        ],
        &["key", "operator"],
    );
    object(
        &[
            (
                "matchLabels",
                json!({"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}}),
            ),
            ("matchExpressions", list(expression)),
        ],
        &[],
    )
}

fn cilium() -> Vec<(&'static str, Value)> {
    let rule = json!({"$ref": "#/$defs/spec"});
    vec![("spec", rule.clone()), ("specs", list(rule))]
}

fn cilium_spec(clusterwide: bool) -> Value {
    let default_deny = object(&[("ingress", flag()), ("egress", flag())], &[]);
    let nodes = json!({"not": {}, "description": "For clusterwide policies alone"});
    let log = object(&[("value", json!({"type": "string", "maxLength": 32}))], &[]);
    let mut spec = object(
        &[
            ("endpointSelector", selector()),
            ("nodeSelector", if clusterwide { selector() } else { nodes }),
            ("ingress", list(cilium_rule(false, false))),
            ("ingressDeny", list(cilium_rule(false, true))),
            ("egress", list(cilium_rule(true, false))),
            ("egressDeny", list(cilium_rule(true, true))),
            ("enableDefaultDeny", default_deny),
            ("labels", list(rule_label())),
            ("description", text()),
            ("log", log),
        ],
        &[],
    );
    spec["oneOf"] = match clusterwide {
        true => json!([{"required": ["endpointSelector"]}, {"required": ["nodeSelector"]}]),
        false => json!([{"required": ["endpointSelector"]}]),
    };
    spec
}

const ENTITIES: [&str; 14] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "cluster-mesh",
    "host",
    "remote-node",
    "kube-apiserver",
    "init",
    "health",
    "unmanaged",
    "ingress",
    "none",
];

fn cilium_rule(egress: bool, deny: bool) -> Value {
    let key = |name: &str| format!("{}{name}", if egress { "to" } else { "from" });
    let aws = object(
        &[
            ("labels", json!({"type": "object"})),
            ("securityGroupsIds", list(text())),
            ("securityGroupsNames", list(text())),
            ("region", text()),
        ],
        &[],
    );
    let removed = json!({"type": ["array", "null"], "maxItems": 0, "description": "Removed from Cilium"});
    let mut fields = vec![
        (key("Endpoints"), list(selector())),
        (key("CIDR"), list(cidr())),
        (key("CIDRSet"), list(cidr_set())),
        (key("Entities"), list(one_of(&ENTITIES))),
        (key("Nodes"), list(selector())),
        (key("Groups"), list(object(&[("aws", aws)], &[]))),
        (key("Requires"), removed),
        ("toPorts".to_owned(), list(port_rule(deny))),
        ("icmps".to_owned(), list(icmp())),
    ];
    if egress {
        fields.push((key("Services"), list(service())));
    }
    if egress && !deny {
        fields.push((key("FQDNs"), list(name())));
    }
    if !deny {
        let mode = one_of(&["disabled", "required", "test-always-fail"]);
        fields.push(("authentication".to_owned(), object(&[("mode", mode)], &["mode"])));
    }
    let fields: Vec<(&str, Value)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    object(&fields, &[])
}

fn cidr_set() -> Value {
    let mut schema = object(
        &[
            ("cidr", cidr()),
            ("cidrGroupRef", text()),
            ("cidrGroupSelector", selector()),
            ("except", list(cidr())),
        ],
        &[],
    );
    schema["oneOf"] =
        json!([{"required": ["cidr"]}, {"required": ["cidrGroupRef"]}, {"required": ["cidrGroupSelector"]}]);
    schema
}

fn service() -> Value {
    let named = object(&[("serviceName", text()), ("namespace", text())], &[]);
    let selected = object(&[("selector", selector()), ("namespace", text())], &[]);
    object(&[("k8sService", named), ("k8sServiceSelector", selected)], &[])
}

fn name() -> Value {
    let most = json!({"type": "string", "maxLength": 255});
    let mut schema = object(&[("matchName", most.clone()), ("matchPattern", most)], &[]);
    schema["oneOf"] = json!([{"required": ["matchName"]}, {"required": ["matchPattern"]}]);
    schema
}

fn icmp() -> Value {
    let kind = json!({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "string"}]});
    let field = object(&[("family", one_of(&["IPv4", "IPv6"])), ("type", kind)], &["type"]);
    object(&[("fields", at_most(40, field))], &[])
}

fn port_rule(deny: bool) -> Value {
    let protocols = ["TCP", "UDP", "SCTP", "ANY", "VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"];
    let port = object(
        &[
            ("port", json!({"type": ["string", "integer"]})),
            ("endPort", whole(0, 65535)),
            ("protocol", one_of(&protocols)),
        ],
        &[],
    );
    let mut fields = vec![("ports", at_most(40, port))];
    if !deny {
        fields.extend([
            ("serverNames", list(json!({"type": "string", "minLength": 1, "maxLength": 255}))),
            ("terminatingTLS", tls()),
            ("originatingTLS", tls()),
            ("listener", listener()),
            ("rules", rules_above()),
        ]);
    }
    object(&fields, &[])
}

fn secret() -> Value {
    object(&[("namespace", text()), ("name", text())], &["name"])
}

fn tls() -> Value {
    object(
        &[("secret", secret()), ("trustedCA", text()), ("certificate", text()), ("privateKey", text())],
        &["secret"],
    )
}

fn listener() -> Value {
    let kinds = one_of(&["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]);
    let config = object(&[("kind", kinds), ("name", text())], &["name"]);
    object(
        &[("envoyConfig", config), ("name", text()), ("priority", whole(1, 100))],
        &["envoyConfig", "name"],
    )
}

fn rules_above() -> Value {
    let regex =
        json!({"type": "string", "description": "A regular expression (RE2) that must fit the whole"});
    let header = object(
        &[
            ("name", text()),
            ("value", text()),
            ("mismatch", one_of(&["", "LOG", "ADD", "DELETE", "REPLACE"])),
            ("secret", secret()),
        ],
        &["name"],
    );
    let http = object(
        &[
            ("method", regex.clone()),
            ("path", regex.clone()),
            ("host", regex),
            ("headers", list(text())),
            ("headerMatches", list(header)),
        ],
        &[],
    );
    let kafka = object(
        &[
            ("role", one_of(&["produce", "consume"])),
            ("apiKey", text()),
            ("apiVersion", json!({"type": ["string", "integer"]})),
            ("clientID", json!({"type": "string", "maxLength": 255})),
            ("topic", json!({"type": "string", "maxLength": 255})),
        ],
        &[],
    );
    object(
        &[
            ("http", list(http)),
            ("kafka", list(kafka)),
            ("dns", list(name())),
            ("l7proto", text()),
            ("l7", list(json!({"type": "object"}))),
        ],
        &[],
    )
}

fn kubernetes() -> Value {
    let block = object(&[("cidr", cidr()), ("except", list(cidr()))], &["cidr"]);
    let peer =
        object(&[("podSelector", selector()), ("namespaceSelector", selector()), ("ipBlock", block)], &[]);
    let port = object(
        &[
            ("port", json!({"type": ["string", "integer"]})),
            ("endPort", whole(1, 65535)),
            ("protocol", one_of(&["TCP", "UDP", "SCTP"])),
        ],
        &[],
    );
    let rule = |key: &str| list(object(&[(key, list(peer.clone())), ("ports", list(port.clone()))], &[]));
    object(
        &[
            ("podSelector", selector()),
            ("policyTypes", list(one_of(&["Ingress", "Egress"]))),
            ("ingress", rule("from")),
            ("egress", rule("to")),
        ],
        &[],
    )
}

fn egress_gateway() -> Value {
    let gateway = || {
        object(
            &[("nodeSelector", selector()), ("interface", text()), ("egressIP", text())],
            &["nodeSelector"],
        )
    };
    let subject = object(
        &[("namespaceSelector", selector()), ("podSelector", selector()), ("nodeSelector", selector())],
        &[],
    );
    object(
        &[
            ("selectors", list(subject)),
            ("destinationCIDRs", list(cidr())),
            ("excludedCIDRs", list(cidr())),
            ("egressGateway", gateway()),
            ("egressGateways", at_most(64, gateway())),
        ],
        &["selectors", "destinationCIDRs"],
    )
}

fn cluster_policy() -> Value {
    let pods = || object(&[("namespaceSelector", selector()), ("podSelector", selector())], &[]);
    let range = object(&[("start", whole(1, 65535)), ("end", whole(1, 65535))], &["start", "end"]);
    let port = object(&[("number", whole(1, 65535)), ("range", range)], &[]);
    let transport = || object(&[("destinationPort", port.clone())], &[]);
    let protocol = object(
        &[
            ("tcp", transport()),
            ("udp", transport()),
            ("sctp", transport()),
            ("destinationNamedPort", text()),
        ],
        &[],
    );
    let rule = |key: &str, more: &[(&str, Value)]| {
        let mut peer = vec![("namespaces", selector()), ("pods", pods())];
        peer.extend(more.iter().cloned());
        let fields = [
            ("name", json!({"type": "string", "maxLength": 100})),
            ("action", one_of(&["Accept", "Deny", "Pass"])),
            (key, at_most(25, object(&peer, &[]))),
            ("protocols", at_most(25, protocol.clone())),
        ];
        at_most(25, object(&fields, &["action"]))
    };
    let far =
        [("nodes", selector()), ("networks", at_most(25, cidr())), ("domainNames", at_most(25, text()))];
    object(
        &[
            ("tier", one_of(&["Admin", "Baseline"])),
            ("priority", whole(0, 1000)),
            ("subject", object(&[("namespaces", selector()), ("pods", pods())], &[])),
            ("ingress", rule("from", &[])),
            ("egress", rule("to", &far)),
        ],
        &["tier", "priority", "subject"],
    )
}

fn pool() -> Value {
    let mut block = object(&[("cidr", cidr()), ("start", text()), ("stop", text())], &[]);
    block["oneOf"] = json!([{"required": ["cidr"]}, {"required": ["start"]}]);
    object(
        &[
            ("blocks", list(block)),
            ("serviceSelector", selector()),
            ("disabled", flag()),
            ("allowFirstLastIPs", one_of(&["Yes", "No"])),
        ],
        &["blocks"],
    )
}

fn endpoint() -> Value {
    let port = object(
        &[("name", text()), ("port", whole(1, 65535)), ("protocol", one_of(&["TCP", "UDP", "SCTP"]))],
        &["name", "port"],
    );
    object(
        &[
            ("addresses", list(text())),
            ("labels", json!({"type": "object", "additionalProperties": {"type": "string"}})),
            ("ports", list(port)),
        ],
        &["addresses"],
    )
}
