//! The published schemas (`configs/schemas`) say what the reader understands: no field more, none less.
//!
//! `UPDATE=1 cargo test -p sluice-policy --test schemas` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use sluice_policy::objects;
use sluice_policy::schema;
use sluice_policy::tree::Limits;

/// One object of each kind with every nested object in it, so that the reader shows what it knows of each.
const SELECTOR: &str = "{matchLabels: {a: b}, matchExpressions: [{key: a, operator: Exists}]}";

const POOL: &str = "apiVersion: cilium.io/v2\nkind: KIND\nmetadata: {name: x}\nspec: {blocks: [{cidr: 10.0.0.0/8}], \
                    serviceSelector: SELECTOR}\n";

fn full(kind: &str) -> String {
    let text = match kind {
        "CiliumCIDRGroup" => {
            "apiVersion: cilium.io/v2\nkind: KIND\nmetadata: {name: x}\nspec: {externalCIDRs: [10.0.0.0/8]}\n"
        }
        "CiliumEgressGatewayPolicy" => {
            "apiVersion: cilium.io/v2\nkind: KIND\nmetadata: {name: x}\nspec:\n  selectors: [{podSelector: SELECTOR, namespaceSelector: \
             SELECTOR, nodeSelector: SELECTOR}]\n  destinationCIDRs: [0.0.0.0/0]\n  egressGateway: {nodeSelector: SELECTOR, egressIP: \
             192.0.2.1}\n  egressGateways: [{nodeSelector: SELECTOR}]\n"
        }
        "CiliumLoadBalancerIPPool" => POOL,
        "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => {
            "apiVersion: cilium.io/v2\nkind: KIND\nmetadata: {name: x}\nspecs: [{nodeSelector: SELECTOR, ingress: [{}]}]\nspec:\n  \
             endpointSelector: SELECTOR\n  enableDefaultDeny: {}\n  log: {}\n  labels: [{key: a}]\n  ingress: [ALLOW, ICMP]\n  ingressDeny: [DENY, ICMP]\n  \
             egress: [TALLOW, ICMP]\n  egressDeny: [TDENY, ICMP]\n"
        }
        "ClusterNetworkPolicy" => {
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: KIND\nmetadata: {name: x}\nspec:\n  tier: Admin\n  \
             priority: 1\n  subject: SUBJECT\n  \
             ingress: [{action: Accept, from: [PEER], protocols: [PROTO]}]\n  \
             egress: [{action: Accept, to: [{nodes: SELECTOR}, PEER], protocols: [PROTO]}]\n"
        }
        "Endpoint" => {
            "apiVersion: sluice.dev/v1\nkind: KIND\nmetadata: {name: x}\nspec: {ports: [{name: a, port: 1}]}\n"
        }
        _ => {
            "apiVersion: networking.k8s.io/v1\nkind: KIND\nmetadata: {name: x}\nspec:\n  podSelector: SELECTOR\n  \
             policyTypes: [Ingress, Egress]\n  ingress: [{from: [KPEER], ports: [{port: 1}]}]\n  \
             egress: [{to: [KPEER], ports: [{port: 1}]}]\n"
        }
    };
    let tls = "{secret: {name: x}}";
    let http = "{http: [{headerMatches: [{name: a, secret: {name: b}}]}]}";
    let asked = format!(
        "terminatingTLS: {tls}, originatingTLS: {tls}, listener: {{envoyConfig: {{}}}}, rules: {http}"
    );
    let more_rules = ", {ports: [{}], rules: {kafka: [{}]}}, {ports: [{}], rules: {dns: [{}]}}, {ports: [{}], rules: {l7proto: x, l7: [{}]}}";
    let rule = |side: &str, deny: bool| {
        let more = match (side, deny) {
            ("from", false) => "authentication: {mode: disabled}, ",
            ("to", false) => {
                "authentication: {mode: disabled}, toServices: [{k8sService: {}}, {k8sServiceSelector: {selector: SELECTOR}}], toFQDNs: [{}], "
            }
            ("to", true) => "toServices: [{k8sService: {}}, {k8sServiceSelector: {selector: SELECTOR}}], ",
            _ => "",
        };
        let (asked, more_rules) = if deny { ("", "") } else { (asked.as_str(), more_rules) };
        format!(
            "{{{more}{side}Endpoints: [SELECTOR], {side}Nodes: [SELECTOR], {side}CIDRSet: [{{cidrGroupSelector: SELECTOR}}], \
             {side}Groups: [{{aws: {{}}}}], toPorts: [{{ports: [{{}}], {asked}}}{more_rules}]}}"
        )
    };
    // Of what excludes each other, one in each document.
    let subjects = ["{namespaces: SELECTOR}", "{pods: {namespaceSelector: SELECTOR, podSelector: SELECTOR}}"];
    let mut number = 0;
    let documents = subjects.map(|subject| {
        number += 1;
        text.replace("SUBJECT", subject)
            .replace("metadata: {name: x}", &format!("metadata: {{name: x{number}}}"))
    });
    documents
        .join("---\n")
        .replace("KIND", kind)
        .replace("TALLOW", &rule("to", false))
        .replace("TDENY", &rule("to", true))
        .replace("ALLOW", &rule("from", false))
        .replace("DENY", &rule("from", true))
        .replace("ICMP", "{icmps: [{fields: [{type: 8}]}]}")
        .replace("KPEER", "{podSelector: SELECTOR, namespaceSelector: SELECTOR}, {ipBlock: {cidr: 10.0.0.0/8}}")
        .replace("PEER", "{namespaces: SELECTOR, pods: {namespaceSelector: SELECTOR, podSelector: SELECTOR}}")
        .replace("PROTO", "{tcp: {destinationPort: {range: {start: 1, end: 2}}}, udp: {destinationPort: {range: {}}}, sctp: {destinationPort: {range: {}}}}")
        .replace("SELECTOR", SELECTOR)
}

type Fields = BTreeMap<String, BTreeSet<String>>;

/// All objects of a schema with their fields, by place.
fn fields(root: &Value, schema: &Value, place: &str, found: &mut Fields) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        return fields(root, root.pointer(&name[1..]).unwrap(), place, found);
    }
    if let Some(items) = schema.get("items") {
        return fields(root, items, &format!("{place}[]"), found);
    }
    // What takes any field is no object with fields of its own.
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        return;
    }
    found.insert(place.to_owned(), properties.keys().cloned().collect());
    for (name, inner) in properties {
        let inside = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        fields(root, inner, &inside, found);
    }
}

#[test]
fn schemas_know_the_fields_that_the_reader_knows() {
    for kind in schema::KINDS {
        let mut said = Fields::new();
        let schema = schema::of(kind).unwrap();
        fields(&schema, &schema, "", &mut said);
        // The other place for the same.
        said.retain(|place, _| !place.starts_with("specs"));
        let understood: Fields = objects::understood(&full(kind), &Limits::default())
            .into_iter()
            .filter(|(place, _)| place != "specs[]")
            .map(|(place, names)| {
                (place.replace("specs[]", "spec"), names.into_iter().map(str::to_owned).collect())
            })
            .collect();
        for (place, names) in &said {
            assert_eq!(understood.get(place), Some(names), "{kind} at {place:?}: the reader, and the schema");
        }
        for place in understood.keys() {
            assert!(said.contains_key(place), "{kind}: the schema knows nothing of {place:?}");
        }
    }
}

#[test]
fn published_schemas_are_the_schemas() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/schemas");
    for kind in schema::KINDS {
        let text = format!("{:#}\n", schema::of(kind).unwrap());
        let path = folder.join(format!("{kind}.json"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(published == text, "{} is not what the code says; UPDATE=1 writes it anew", path.display());
    }
}
