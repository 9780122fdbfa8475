//! A small world that tests speak of: two namespaces, three pods, two nodes; and how to ask about flows in it.

#![allow(dead_code, reason = "each test takes what it needs")]

use serde_json::{Value, json};
use sluice_policy::compile::Compiled;
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::verdict::Judge;

pub const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: us, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
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
metadata: {name: them, labels: {zone: east}}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
"#;

/// A judge of this world with these policies.
pub fn judge(policies: &str) -> Judge {
    judge_with(policies, Options { node: "us".to_owned(), ..Options::default() })
}

pub fn judge_with(policies: &str, options: Options) -> Judge {
    let (objects, problems) = objects::parse("test.yaml", &format!("{WORLD}{policies}"), &options.limits);
    assert!(problems.is_ok(), "{problems}");
    Judge::new(Compiled::new(objects, options, problems)).unwrap()
}

/// All mistakes in these policies, as they are told.
pub fn mistakes(policies: &str) -> Vec<String> {
    let (_, problems) = objects::parse("test.yaml", policies, &Options::default().limits);
    problems.errors.iter().map(ToString::to_string).collect()
}

/// A policy for the pods called web, with this spec below its selector.
pub fn cnp(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n{spec}\n---\n"
    )
}

/// A clusterwide one with this spec.
pub fn ccnp(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: p}}\nspec:\n{spec}\n---\n"
    )
}

/// A ClusterNetworkPolicy about everybody.
pub fn admin(rest: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: a}}\nspec:\n  \
         subject: {{namespaces: {{}}}}\n{rest}\n---\n"
    )
}

pub fn ask(judge: &mut Judge, from: &str, to: &str, proto: &str, port: u16) -> Value {
    say(judge, json!({"from": from, "to": to, "proto": proto, "port": port}))
}

/// The answer to a question.
pub fn say(judge: &mut Judge, question: Value) -> Value {
    judge.line(&question.to_string()).unwrap().unwrap()
}

/// 0 is forwarded, 1 redirected, 2 audit; else the reason of the drop.
pub fn reason(judge: &mut Judge, from: &str, to: &str, proto: &str, port: u16) -> u64 {
    number(&ask(judge, from, to, proto, port))
}

pub fn number(answer: &Value) -> u64 {
    match answer["verdict"].as_str().unwrap() {
        "FORWARDED" => 0,
        "REDIRECTED" => 1,
        "AUDIT" => 2,
        _ => answer["drop_reason"].as_u64().unwrap(),
    }
}

pub fn learn(judge: &mut Judge, name: &str, ip: &str, ttl: u32) {
    let line = json!({"learn": {"name": name, "ips": [ip], "ttl": ttl}});
    assert_eq!(judge.line(&line.to_string()), Ok(None));
}
