//! What `sluice check` says of objects that are valid and still not what anybody means.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod shop;

use sluice_policy::config::Options;
use sluice_policy::lint::lint;

use shop::{ccnp, cnp, judge, judge_with};

fn told(policies: &str) -> Vec<String> {
    let judge = judge(policies);
    let dangling = judge.compiled.warnings.iter();
    lint(&judge.compiled).iter().chain(dangling).map(ToString::to_string).collect()
}

/// Says this and nothing else.
fn says(policies: &str, what: &str) {
    let told = told(policies);
    assert!(told.len() == 1 && told[0].contains(what), "{what}: {told:#?}");
    assert!(told[0].starts_with("test.yaml:"), "it says where: {told:?}");
}

#[test]
fn what_is_well_meant_is_not_blamed() {
    assert_eq!(
        told(&cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")),
        Vec::<String>::new()
    );
    let names = "  egress:\n    - toFQDNs: [{matchName: a.b}]\n    - {toEntities: [world], toPorts: [{ports: [{port: '53'}], rules: {dns: [{matchName: a.b}]}}]}";
    assert_eq!(told(&cnp(names)), Vec::<String>::new());
}

#[test]
fn a_prefix_over_cluster_addresses() {
    says(
        &cnp("  ingress: [{fromCIDR: [10.0.0.0/8]}]"),
        "10.0.0.0/8 covers addresses of the cluster (shop/web has 10.0.0.1)",
    );
    says(&cnp("  ingress: [{fromCIDR: [192.0.2.2/32]}]"), "node them has 192.0.2.2");
    assert_eq!(
        told(&cnp("  ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/24]}]}]")),
        Vec::<String>::new()
    );
    let mut options = Options { node: "us".to_owned(), ..Options::default() };
    options.set("policy-cidr-match-mode", "nodes,pods").unwrap();
    let wide = judge_with(&cnp("  ingress: [{fromCIDR: [10.0.0.0/8]}]"), options);
    assert!(lint(&wide.compiled).is_empty());
}

#[test]
fn selectors_that_match_nobody() {
    says(&cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: clint}}]}]"), "app=clint");
    says(
        &cnp("  ingress: [{fromEntities: [all]}]").replace("{app: web}", "{app: wbe}"),
        "its selector matches nobody",
    );
    says(&cnp("  ingress: [{fromNodes: [{matchLabels: {zone: west}}]}]"), "zone=west");
}

#[test]
fn ports_whose_name_nobody_has() {
    let rule = |port: &str| {
        cnp(&format!("  ingress: [{{fromEntities: [all], toPorts: [{{ports: [{{port: {port}}}]}}]}}]"))
    };
    says(&rule("htpp"), "no endpoint has a port called htpp");
    assert_eq!(told(&rule("http")), Vec::<String>::new());
}

#[test]
fn asking_above_ports_without_a_peer() {
    let rule = "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /}]}}]}";
    let told = told(&cnp(&format!("  ingress: [{rule}]")));
    assert!(told.iter().any(|line| line.contains("without naming a peer")), "{told:?}");
}

#[test]
fn names_that_nobody_can_learn() {
    says(&cnp("  egress: [{toFQDNs: [{matchName: a.example.com}]}]"), "no answer is ever seen");
}

#[test]
fn policies_without_effect() {
    let lenient = ccnp(
        "  endpointSelector: {matchLabels: {app: web}}\n  enableDefaultDeny: {ingress: false}\n  ingress: [{fromEntities: [world]}]",
    );
    says(&lenient, "has no effect");
    let strict = cnp("  ingress: [{}]").replace("name: p", "name: q");
    assert_eq!(told(&(lenient + &strict)), Vec::<String>::new(), "now it opens what the other closed");
}

#[test]
fn references_that_lead_nowhere() {
    says(&cnp("  ingress: [{fromCIDRSet: [{cidrGroupRef: gone}]}]"), "there is no CiliumCIDRGroup gone");
    says(
        &cnp("  egress: [{toServices: [{k8sService: {serviceName: gone, namespace: shop}}]}]"),
        "no service for gone",
    );
}

#[test]
fn services_before_the_clusters_own_addresses() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes, namespace: default}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}\n---\n\
                   apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: k, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}\n\
                   addressType: IPv4\nports: [{port: 443}]\nendpoints: [{addresses: [ADDRESS]}]\n---\n";
    let policy =
        cnp("  egress: [{toServices: [{k8sService: {serviceName: kubernetes, namespace: default}}]}]");
    says(
        &(service.replace("ADDRESS", "192.0.2.2") + &policy),
        "the service default/kubernetes stands for its addresses, and some are the cluster's own (node them has 192.0.2.2)",
    );
    assert_eq!(told(&(service.replace("ADDRESS", "203.0.113.2") + &policy)), Vec::<String>::new());
}

#[test]
fn rules_that_policy_types_leave_out() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\nspec: \
                  {podSelector: {}, policyTypes: [Egress], ingress: [{}], egress: [{}]}\n";
    says(policy, "ingress means nothing here");
}

#[test]
fn kinds_that_contradict_each_other() {
    let rule = |kind: &str| {
        format!(
            "{{fromEntities: [all], toPorts: [{{ports: [{{port: '80', protocol: TCP}}], rules: {{{kind}: [{{}}]}}}}]}}"
        )
    };
    let told = told(&cnp(&format!("  ingress: [{}, {}]", rule("http"), rule("kafka"))));
    assert!(told.iter().any(|line| line.contains("nothing can satisfy both")), "{told:?}");
}

#[test]
fn labels_that_explode() {
    let pods: String = (0..60)
        .map(|n| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x{n}, namespace: shop, labels: {{run-id: r{n}}}}}\nstatus: {{podIP: 10.1.0.{n}}}\n---\n"))
        .collect();
    let told = told(&pods);
    assert!(told.len() == 1 && told[0].contains("run-id has 60 values"), "{told:?}");
    let looked_at = cnp("  ingress: [{fromEndpoints: [{matchLabels: {run-id: r1}}]}]");
    assert_eq!(self::told(&(pods + &looked_at)), Vec::<String>::new());
}
