//! What policies mean, one idea a test: objects as people write them, questions as `sluice verdict` takes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod shop;

use serde_json::json;
use sluice_policy::config::Options;
use sluice_policy::objects;

use shop::{ask, cnp, judge, judge_with, reason};

#[test]
fn without_policy_everything_passes() {
    assert_eq!(reason(&mut judge(""), "shop/client", "shop/web", "TCP", 80), 0);
}

#[test]
fn a_default_deny_names_who_enforces_it_and_the_nearest_miss() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '8443', protocol: TCP}]}]}]",
    ));
    let answer = ask(judge, "shop/client", "shop/web", "TCP", 443);
    assert_eq!(answer["ingress"]["enforced_by"][0]["name"], "p");
    assert_eq!(answer["egress"]["enforced"], false);
    let question = json!({"from": "shop/client", "to": "shop/web", "port": 443});
    let (text, _) = judge.explain(&question).unwrap();
    assert!(text.contains("ingress[0] of shop/p would allow this on port 8443, asked 443"), "{text}");
}

#[test]
fn network_policies_mean_what_they_mean() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: shop}\nspec:\n  \
                  podSelector: {matchLabels: {app: web}}\n  ingress:\n    - from: [{namespaceSelector: {matchLabels: {team: a}}}]\n      \
                  ports: [{port: 8080}]\n";
    let judge = &mut judge(policy);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 8080), 0);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(judge, "elsewhere/other", "shop/web", "TCP", 8080), 133);
    assert_eq!(reason(judge, "shop/web", "198.51.100.1", "TCP", 80), 0, "egress is not its business");
}

#[test]
fn l7_rules_wait_for_inspection_and_audit_forwards() {
    let l7 = cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]",
    );
    assert_eq!(reason(&mut judge(&l7), "shop/client", "shop/web", "TCP", 80), 1);
    let audit = Options { audit: true, node: "us".to_owned(), ..Options::default() };
    let judge = &mut judge_with(&cnp("  ingress: [{}]"), audit);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 2);
}

#[test]
fn unresolved_services_select_nothing() {
    let policy = cnp(
        "  egress: [{toServices: [{k8sService: {serviceName: gone, namespace: shop}}], toPorts: [{ports: [{port: '443'}]}]}]",
    );
    assert_eq!(reason(&mut judge(&policy), "shop/web", "198.51.100.1", "TCP", 443), 133);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
                endpointSelector: {}\n  ingres: []\n  ingress:\n    - fromEndpoint: [{}]\n    - toPorts: [{ports: [{port: '90000'}]}]\n    \
                - {fromCIDR: [10.0.0.0/40], fromEntities: [moon]}\n";
    let (_, problems) = objects::parse("bad.yaml", text, &Options::default().limits);
    let told: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
    for part in [
        "bad.yaml:6:3: spec.ingres: unknown field; did you mean ingress?",
        "bad.yaml:8:7: spec.ingress[0].fromEndpoint: unknown field; did you mean fromEndpoints?",
        "90000 is no port",
        "10.0.0.0/40 is longer",
        "there is no entity moon",
        "only one kind of peer",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part} is not in {told:#?}");
    }
}

#[test]
fn order_of_policies_never_matters() {
    let first = cnp("  ingress: [{fromEntities: [world]}]");
    let second = cnp("  ingressDeny: [{fromCIDR: [198.51.100.0/24]}]").replace("name: p,", "name: q,");
    for text in [format!("{first}\n---\n{second}"), format!("{second}\n---\n{first}")] {
        let judge = &mut judge(&text);
        assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), 181);
        assert_eq!(reason(judge, "203.0.113.1", "shop/web", "TCP", 80), 0);
    }
}
