//! What policies mean, one idea a test: objects as people write them, questions as `sluice verdict` takes them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use serde_json::{Value, json};
use sluice_policy::compile::Compiled;
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::verdict::Judge;

const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: elsewhere, labels: {app: client}}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Node
metadata: {name: us}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: them}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
"#;

fn judge(policies: &str) -> Judge {
    let options = Options { node: "us".to_owned(), ..Options::default() };
    judge_with(policies, options)
}

fn judge_with(policies: &str, options: Options) -> Judge {
    let (objects, problems) = objects::parse("test.yaml", &format!("{WORLD}{policies}"), &options.limits);
    assert!(problems.is_ok(), "{problems}");
    Judge::new(Compiled::new(objects, options, problems)).unwrap()
}

fn ask(judge: &mut Judge, from: &str, to: &str, proto: &str, port: u16) -> Value {
    let question = json!({"id": "1", "from": from, "to": to, "proto": proto, "port": port});
    judge.line(&question.to_string()).unwrap().unwrap()
}

fn reason(judge: &mut Judge, from: &str, to: &str, proto: &str, port: u16) -> u64 {
    let answer = ask(judge, from, to, proto, port);
    match answer["verdict"].as_str().unwrap() {
        "FORWARDED" => 0,
        "REDIRECTED" => 1,
        "AUDIT" => 2,
        _ => answer["drop_reason"].as_u64().unwrap(),
    }
}

fn cnp(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n{spec}"
    )
}

#[test]
fn without_policy_everything_passes() {
    assert_eq!(reason(&mut judge(""), "shop/client", "shop/web", "TCP", 80), 0);
}

#[test]
fn trap_01_nil_empty_and_one_empty_peer() {
    let nobody = &mut judge(&cnp("  ingress: [{fromEndpoints: []}]"));
    assert_eq!(reason(nobody, "shop/client", "shop/web", "TCP", 80), 133);
    let bare = &mut judge(&cnp("  ingress: [{}]"));
    assert_eq!(reason(bare, "shop/client", "shop/web", "TCP", 80), 133);
    let anyone = &mut judge(&cnp("  ingress: [{toPorts: [{ports: [{port: '80'}]}]}]"));
    assert_eq!(reason(anyone, "198.51.100.1", "shop/web", "TCP", 80), 0);
    let namespace = &mut judge(&cnp("  ingress: [{fromEndpoints: [{}]}]"));
    assert_eq!(reason(namespace, "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(namespace, "elsewhere/other", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(namespace, "198.51.100.1", "shop/web", "TCP", 80), 133);
}

#[test]
fn trap_02_peers_inherit_the_namespace() {
    let judge = &mut judge(&cnp("  ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]"));
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(judge, "elsewhere/other", "shop/web", "TCP", 80), 133);
}

#[test]
fn trap_03_entities() {
    for (entity, from, expected) in [
        ("world", "198.51.100.1", 0),
        ("world", "shop/client", 133),
        ("cluster", "shop/client", 0),
        ("cluster", "192.0.2.1", 0),
        ("cluster", "192.0.2.2", 0),
        ("cluster", "198.51.100.1", 133),
        ("host", "192.0.2.1", 0),
        ("host", "192.0.2.2", 133),
        ("remote-node", "192.0.2.2", 0),
        ("all", "198.51.100.1", 0),
        ("none", "shop/client", 133),
    ] {
        let judge = &mut judge(&cnp(&format!("  ingress: [{{fromEntities: [{entity}]}}]")));
        assert_eq!(reason(judge, from, "shop/web", "TCP", 80), expected, "{entity} from {from}");
    }
}

#[test]
fn trap_04_cidrs_never_match_pods_and_exceptions_are_holes() {
    let judge = &mut judge(&cnp("  ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.9.0.0/16]}]}]"));
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 133, "pods keep their identity");
    assert_eq!(reason(judge, "10.8.0.1", "shop/web", "TCP", 80), 0);
    assert_eq!(reason(judge, "10.9.0.1", "shop/web", "TCP", 80), 133);
}

#[test]
fn trap_05_deny_beats_allow_at_every_granularity() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]\n  \
         ingressDeny: [{fromEndpoints: [{matchLabels: {app: client}}]}]",
    ));
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 181);
}

#[test]
fn trap_07_ranges_and_port_zero() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '8000', endPort: 8080, protocol: TCP}, {port: '0', protocol: UDP}]}]}]",
    ));
    for (proto, port, expected) in [
        ("TCP", 7999, 133),
        ("TCP", 8000, 0),
        ("TCP", 8080, 0),
        ("TCP", 8081, 133),
        ("UDP", 1, 0),
        ("UDP", 65535, 0),
    ] {
        assert_eq!(reason(judge, "shop/client", "shop/web", proto, port), expected, "{proto} {port}");
    }
}

#[test]
fn trap_08_any_is_not_icmp_but_l3_is() {
    let any = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: '80', protocol: ANY}]}]}]",
    ));
    for (proto, expected) in [("TCP", 0), ("UDP", 0), ("SCTP", 0)] {
        assert_eq!(reason(any, "shop/client", "shop/web", proto, 80), expected);
    }
    assert_eq!(reason(any, "shop/client", "shop/web", "ICMP", 0), 133);
    let l3 = &mut judge(&cnp("  ingress: [{fromEntities: [all]}]"));
    assert_eq!(reason(l3, "shop/client", "shop/web", "ICMP", 0), 0);
}

#[test]
fn trap_09_named_ports_are_per_endpoint() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEntities: [all], toPorts: [{ports: [{port: http, protocol: TCP}]}]}]",
    ));
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 8080), 0);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 133);
}

#[test]
fn trap_13_reasons_have_ciliums_numbers() {
    let judge = &mut judge(&cnp(
        "  ingress: [{fromEndpoints: [{matchLabels: {app: client}}], authentication: {mode: required}}]\n  \
         ingressDeny: [{fromEntities: [world]}]",
    ));
    assert_eq!(reason(judge, "192.0.2.2", "shop/web", "TCP", 80), 133);
    assert_eq!(reason(judge, "198.51.100.1", "shop/web", "TCP", 80), 181);
    assert_eq!(reason(judge, "shop/client", "shop/web", "TCP", 80), 189);
}

#[test]
fn trap_19_default_deny_is_per_direction_and_by_any_policy() {
    let off = cnp("  enableDefaultDeny: {ingress: false}\n  ingress: [{fromEntities: [host]}]");
    assert_eq!(reason(&mut judge(&off), "shop/client", "shop/web", "TCP", 80), 0);
    let on = cnp("  ingress: [{fromEntities: [host]}]").replace("name: p,", "name: q,");
    assert_eq!(reason(&mut judge(&format!("{off}\n---\n{on}")), "shop/client", "shop/web", "TCP", 80), 133);
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
