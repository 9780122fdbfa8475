//! Events in the shape that Hubble gives to flows: what `hubble observe --input-file` reads and dashboards are built on.
//!
//! Left out is what we do not know (MAC addresses, DNS names, workloads), never guessed. Whether a dropped packet was a reply
//! nobody knows, so that `is_reply` is not there.

pub mod filter;

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::verdict::DropReason;

use crate::observed::{Naming, blame, service_of, verdict};
use crate::sighted::tcp_flags;

/// Monitor's numbers of event types.
const DROP: u8 = 1;
const TRACE: u8 = 4;
const POLICY_VERDICT: u8 = 5;
const TO_NETWORK: u8 = 11;

/// Who tells.
#[derive(Clone, Debug)]
pub struct Teller {
    pub cluster: String,
    pub node: String,
}

impl Teller {
    pub fn name(&self) -> String {
        format!("{}/{}", self.cluster, self.node)
    }
}

/// What kind of event it is for Hubble, and its sub-type.
pub fn event_type(event: &FlowEvent, names: &impl Naming) -> (u8, u8) {
    match event.kind {
        EventKind::Drop(reason) => (DROP, reason.number()),
        EventKind::New if event.egress_rule.0 != 0 || event.ingress_rule.0 != 0 || event.audit => {
            (POLICY_VERDICT, 0)
        }
        // To an endpoint is 0 on the wire, and 101 in the list of names.
        EventKind::New | EventKind::Update | EventKind::End | EventKind::Packet => {
            let local = names.endpoint(event.translated.destination()).is_some();
            (TRACE, if local { 0 } else { TO_NETWORK })
        }
    }
}

/// A flow as an exporter writes it: `{"flow", "node_name", "time"}`.
pub fn line(flow: Value, time: &str, teller: &Teller) -> Value {
    json!({"flow": flow, "node_name": teller.name(), "time": time})
}

/// Where events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostAt {
    /// Before they reached us.
    Queue,
    /// Here: overwritten before a slow reader came to them.
    Ring,
}

/// Events that nobody could be told of.
pub fn lost(count: u64, at: LostAt, time: &str, teller: &Teller) -> Value {
    let source = match at {
        LostAt::Queue => "OBSERVER_EVENTS_QUEUE",
        LostAt::Ring => "HUBBLE_RING_BUFFER",
    };
    json!({
        "lost_events": {"source": source, "num_events_lost": count.to_string()},
        "node_name": teller.name(),
        "time": time,
    })
}

pub fn flow(event: &FlowEvent, time: &str, teller: &Teller, names: &impl Naming) -> Value {
    let (kind, sub) = event_type(event, names);
    let mut flow = json!({
        "time": time,
        "verdict": verdict(event),
        "IP": ip(event),
        "l4": layer4(event),
        "source": endpoint(event.source, event.key.source(), teller, names),
        "destination": endpoint(event.destination, event.translated.destination(), teller, names),
        "Type": "L3_L4",
        "node_name": teller.name(),
        "event_type": if sub == 0 { json!({"type": kind}) } else { json!({"type": kind, "sub_type": sub}) },
        "Summary": summary(event),
    });
    if let Some(direction) = direction(event, names) {
        flow["traffic_direction"] = json!(direction);
    }
    if let EventKind::Drop(reason) = event.kind {
        flow["drop_reason"] = json!(reason.number());
        flow["drop_reason_desc"] = json!(reason.name());
    } else {
        flow["is_reply"] = json!(event.is_reply);
    }
    if kind == TRACE {
        flow["trace_observation_point"] = json!(if sub == 0 { "TO_ENDPOINT" } else { "TO_NETWORK" });
        flow["trace_reason"] = json!(if event.kind == EventKind::New { "NEW" } else { "ESTABLISHED" });
    }
    if kind == POLICY_VERDICT {
        flow["policy_match_type"] = json!(match_type(event, names));
    }
    if let Some((namespace, name)) = service_of(event, names) {
        let side = if event.is_reply { "source_service" } else { "destination_service" };
        flow[side] = json!({"name": name, "namespace": namespace});
    }
    correlate(&mut flow, event, names);
    flow
}

fn ip(event: &FlowEvent) -> Value {
    let key = &event.key;
    let mut ip = json!({
        "source": key.source(), "destination": event.translated.destination(),
        "ipVersion": if key.v4 { "IPv4" } else { "IPv6" },
    });
    if event.translated.src != key.src {
        ip["source_xlated"] = json!(event.translated.source());
    }
    ip
}

fn layer4(event: &FlowEvent) -> Value {
    let ports = |name: &str| json!({name: {"source_port": event.key.sport, "destination_port": event.translated.dport}});
    match event.key.proto {
        6 => {
            let mut tcp = ports("TCP");
            let flags: Map<String, Value> = tcp_flags(event.tcp_flags)
                .split(", ")
                .filter(|f| !f.is_empty())
                .map(|f| (f.to_owned(), json!(true)))
                .collect();
            tcp["TCP"]["flags"] = Value::Object(flags);
            tcp
        }
        17 => ports("UDP"),
        132 => ports("SCTP"),
        1 => json!({"ICMPv4": {"type": event.icmp_type}}),
        58 => json!({"ICMPv6": {"type": event.icmp_type}}),
        _ => json!({}),
    }
}

fn endpoint(identity: u32, ip: IpAddr, teller: &Teller, names: &impl Naming) -> Value {
    let mut told = json!({"identity": identity, "labels": names.labels(identity)});
    if let Some(name) = names.endpoint(ip) {
        told["cluster_name"] = json!(teller.cluster);
        if let Some((namespace, pod)) = name.split_once('/') {
            told["namespace"] = json!(namespace);
            told["pod_name"] = json!(pod);
        }
    }
    told
}

/// As an agent beside the endpoint would say it: into it, or out of it. Of traffic through us between others nothing is said.
fn direction(event: &FlowEvent, names: &impl Naming) -> Option<&'static str> {
    let known = |ip: IpAddr| names.endpoint(ip).is_some();
    let (source, destination) = (known(event.key.source()), known(event.translated.destination()));
    match event.kind {
        EventKind::Drop(DropReason::PolicyDenied | DropReason::PolicyDeny | DropReason::AuthRequired) => {
            Some(if event.denied_egress { "EGRESS" } else { "INGRESS" })
        }
        EventKind::Drop(_) => Some(if source && !destination { "EGRESS" } else { "INGRESS" }),
        EventKind::New | EventKind::Update | EventKind::End | EventKind::Packet => {
            match (source, destination, event.is_reply) {
                (_, true, false) | (true, false, true) => Some("INGRESS"),
                (true, false, false) | (false, true, true) => Some("EGRESS"),
                (true, true, true) => Some("EGRESS"),
                (false, false, _) => None,
            }
        }
    }
}

fn summary(event: &FlowEvent) -> String {
    match event.key.proto {
        6 => format!("TCP Flags: {}", tcp_flags(event.tcp_flags)),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        1 => format!("ICMPv4 type {}", event.icmp_type),
        58 => format!("ICMPv6 type {}", event.icmp_type),
        other => format!("protocol {other}"),
    }
}

/// By what the rule fitted that let it in, or out where none had to.
fn match_type(event: &FlowEvent, names: &impl Naming) -> u8 {
    let rule = if event.ingress_rule.0 == 0 { event.egress_rule } else { event.ingress_rule };
    let (proto, key) = (event.key.proto, &event.translated);
    names.match_type(
        rule,
        proto,
        if matches!(proto, 1 | 58) { u16::from(event.icmp_type) } else { key.dport },
    )
}

/// Which policies allowed or denied, in each direction; for a default deny those that enforce it.
fn correlate(flow: &mut Value, event: &FlowEvent, names: &impl Naming) {
    let policy =
        |rule: &Value| json!({"name": rule["name"], "namespace": rule["namespace"], "kind": rule["kind"]});
    let denied = matches!(event.kind, EventKind::Drop(_));
    let mut logs = Vec::new();
    for (rule, egress) in [(event.egress_rule, true), (event.ingress_rule, false)] {
        let side = if egress { "egress" } else { "ingress" };
        if let Some(rule) = names.rule(rule) {
            let how = if denied && event.denied_egress == egress { "denied" } else { "allowed" };
            flow[format!("{side}_{how}_by")] = json!([policy(&rule)]);
            logs.extend(rule.get("log").cloned());
        }
    }
    // What its author wants to read beside what it decided (`log.value`).
    if !logs.is_empty() {
        flow["policy_log"] = Value::Array(logs);
    }
    let blamed: Vec<Value> = blame(event, names).iter().map(policy).collect();
    if !blamed.is_empty() {
        let side = if event.denied_egress { "egress" } else { "ingress" };
        flow[format!("{side}_denied_by")] = Value::Array(blamed);
    }
}

/// A recorded flow of Hubble's as a question for `verdict`. `None`: it asks for nothing.
pub fn question(flow: &Value) -> Option<Value> {
    if flow["is_reply"] == true || flow["Type"] == "L7" || flow["Type"] == "SOCK" {
        return None;
    }
    let side = |end: &str| match (flow[end]["namespace"].as_str(), flow[end]["pod_name"].as_str()) {
        (Some(namespace), Some(pod)) if !namespace.is_empty() => json!(format!("{namespace}/{pod}")),
        _ => flow["IP"][end].clone(),
    };
    let (from, to) = (side("source"), side("destination"));
    let (name, l4) = flow["l4"].as_object()?.iter().next()?;
    if from.is_null() || to.is_null() {
        return None;
    }
    let proto = if name == "ICMPv4" { "ICMP" } else { name.as_str() };
    let mut question = json!({"from": from, "to": to, "proto": proto});
    for (ours, theirs) in [("sport", "source_port"), ("port", "destination_port"), ("icmp_type", "type")] {
        if l4[theirs].is_number() {
            question[ours] = l4[theirs].clone();
        }
    }
    Some(question)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::tests::{Lab, event};
    use sluice_core::tables::record::RuleId;

    fn teller() -> Teller {
        Teller { cluster: "default".into(), node: "edge-1".into() }
    }

    #[test]
    fn a_drop_is_told_as_hubble_tells_it() {
        let event = event(EventKind::Drop(DropReason::PolicyDenied));
        let time = "2026-11-24T12:30:01.250Z";
        let told = line(flow(&event, time, &teller(), &Lab), time, &teller());
        let flow = &told["flow"];
        assert_eq!(
            (told["node_name"].as_str(), flow["verdict"].as_str()),
            (Some("default/edge-1"), Some("DROPPED"))
        );
        assert_eq!(flow["event_type"], json!({"type": 1, "sub_type": 133}));
        assert_eq!(
            flow["l4"]["TCP"],
            json!({"source_port": 40000, "destination_port": 8080, "flags": {"SYN": true}})
        );
        assert_eq!(
            (flow["destination"]["namespace"].as_str(), flow["destination"]["pod_name"].as_str()),
            (Some("shop"), Some("b1"))
        );
        assert_eq!(flow["traffic_direction"], "INGRESS");
        assert_eq!(flow["ingress_denied_by"][0]["name"], "allow");
        assert!(flow.get("is_reply").is_none(), "nobody knows whether a dropped packet was a reply");
    }

    #[test]
    fn a_new_flow_is_a_verdict_where_policy_spoke_and_a_trace_where_not() {
        let mut new = event(EventKind::New);
        let trace = flow(&new, "t", &teller(), &Lab);
        assert_eq!(trace["event_type"], json!({"type": 4}), "to an endpoint is 0 on the wire");
        assert_eq!(
            (trace["trace_observation_point"].as_str(), trace["is_reply"].as_bool()),
            (Some("TO_ENDPOINT"), Some(false))
        );
        new.ingress_rule = RuleId(5);
        let verdict = flow(&new, "t", &teller(), &Lab);
        assert_eq!(verdict["event_type"], json!({"type": 5}));
        assert_eq!(
            verdict["ingress_allowed_by"],
            json!([{"name": "allow", "namespace": "shop", "kind": "CiliumNetworkPolicy"}])
        );
        assert_eq!(
            question(&verdict),
            Some(
                json!({"from": "198.51.100.7", "to": "shop/b1", "proto": "TCP", "sport": 40000, "port": 8080})
            )
        );
    }
}
