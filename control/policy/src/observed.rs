//! What the dataplane tells in numbers, told again with names: one JSON object an event.
//!
//! The same words serve `sluice observe`, `trace`, `replay` and the pages of the control daemon.

use core::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::record::RuleId;
use sluice_core::verdict::DropReason;

/// Who knows the names behind the numbers of one generation.
pub trait Naming {
    /// `namespace/name` of the pod, node or endpoint with this address.
    fn endpoint(&self, ip: IpAddr) -> Option<String>;
    /// Labels of an identity.
    fn labels(&self, identity: u32) -> Vec<String>;
    /// `{kind, namespace, name, …}` of a rule entry.
    fn rule(&self, rule: RuleId) -> Option<Value>;
    /// The policies that enforce a direction for an identity: who is to blame for a default deny.
    fn enforced_by(&self, identity: u32, egress: bool) -> Vec<Value>;
    /// By what a rule fits traffic of this protocol and port (of ICMP: type): Cilium's number of it, 0 for no rule.
    fn match_type(&self, _rule: RuleId, _proto: u8, _port: u16) -> u8 {
        0
    }
    /// `(namespace, name)` of the service with this frontend.
    fn service(&self, _ip: IpAddr, _port: u16, _proto: u8) -> Option<(String, String)> {
        None
    }
}

/// One event with its names. `at` is the event's time as text; only the caller knows what time zero was.
pub fn describe(event: &FlowEvent, at: &str, names: &impl Naming) -> Value {
    let rules: Vec<Value> =
        [event.egress_rule, event.ingress_rule].iter().filter_map(|rule| names.rule(*rule)).collect();
    let blamed = blame(event, names);
    let mut told = json!({
        "time": at,
        "event": kind(event.kind),
        "verdict": verdict(event),
        "from": party(event.key.source(), event.key.sport, names),
        "to": party(event.key.destination(), event.key.dport, names),
        "proto": protocol(event.key.proto),
        // Of what was dropped nobody knows whether it was a reply.
        "is_reply": if matches!(event.kind, EventKind::Drop(_)) { Value::Null } else { json!(event.is_reply) },
        "source": {"identity": event.source, "labels": names.labels(event.source)},
        "destination": {"identity": event.destination, "labels": names.labels(event.destination)},
        "rule_text": sentence(&rules, &blamed),
        "rules": rules,
        "enforced_by": blamed,
        "generation": event.generation,
        "packets": event.packets,
        "bytes": event.bytes,
    });
    if let EventKind::Drop(reason) = event.kind {
        told["drop_reason"] = json!(reason.number());
        told["drop_reason_desc"] = json!(reason.name());
    }
    if event.translated != event.key {
        if let Some((namespace, name)) = service_of(event, names) {
            told["service"] = json!(format!("{namespace}/{name}"));
        }
        told["backend"] = json!(party(event.translated.destination(), event.translated.dport, names));
        told["translated"] = json!({
            "source": address(&event.translated, true),
            "destination": address(&event.translated, false),
        });
    }
    told
}

/// The service that a translated flow asked for: what the client sees, whichever way the packet goes.
pub fn service_of(event: &FlowEvent, names: &impl Naming) -> Option<(String, String)> {
    let (ip, port) = match event.is_reply {
        true => (event.translated.source(), event.translated.sport),
        false => (event.key.destination(), event.key.dport),
    };
    names.service(ip, port, event.key.proto)
}

/// FORWARDED, DROPPED or AUDIT, as Hubble says it.
pub fn verdict(event: &FlowEvent) -> &'static str {
    match event.kind {
        EventKind::Drop(_) => "DROPPED",
        EventKind::New | EventKind::Update | EventKind::End | EventKind::Packet if event.audit => "AUDIT",
        EventKind::New | EventKind::Update | EventKind::End | EventKind::Packet => "FORWARDED",
    }
}

/// The name of an IP protocol as questions and answers spell it.
pub fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::New => "new",
        EventKind::Update => "update",
        EventKind::End => "end",
        EventKind::Drop(_) => "drop",
        EventKind::Packet => "packet",
    }
}

/// `namespace/name:port`, or `address:port` for whom we do not know.
pub fn party(ip: IpAddr, port: u16, names: &impl Naming) -> String {
    let name = names.endpoint(ip).unwrap_or_else(|| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    });
    if port == 0 { name } else { format!("{name}:{port}") }
}

fn address(key: &FlowKey, source: bool) -> String {
    let (ip, port) = if source { (key.source(), key.sport) } else { (key.destination(), key.dport) };
    std::net::SocketAddr::new(ip, port).to_string()
}

/// For a default deny: the policies that enforce the direction which denied.
pub(crate) fn blame(event: &FlowEvent, names: &impl Naming) -> Vec<Value> {
    // Policy judges the flow, also where a reply met the verdict.
    let (from, to) = match event.is_reply {
        true => (event.destination, event.source),
        false => (event.source, event.destination),
    };
    match event.kind {
        EventKind::Drop(DropReason::PolicyDenied) if event.denied_egress => names.enforced_by(from, true),
        EventKind::Drop(DropReason::PolicyDenied) => names.enforced_by(to, false),
        EventKind::New | EventKind::Update | EventKind::End | EventKind::Packet | EventKind::Drop(_) => {
            Vec::new()
        }
    }
}

/// `shop/web-for-customers`, or whose default deny it was.
fn sentence(rules: &[Value], blamed: &[Value]) -> String {
    let name = |rule: &Value| match (rule["namespace"].as_str(), rule["name"].as_str()) {
        (Some(namespace), Some(name)) if !namespace.is_empty() => format!("{namespace}/{name}"),
        (_, name) => name.unwrap_or_default().to_owned(),
    };
    let join = |list: &[Value]| list.iter().map(name).collect::<Vec<_>>().join(", ");
    match (rules.is_empty(), blamed.is_empty()) {
        (false, _) => join(rules),
        (true, false) => format!("default deny of {}", join(blamed)),
        (true, true) => String::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use sluice_core::time::Now;

    pub(crate) struct Lab;
    impl Naming for Lab {
        fn endpoint(&self, ip: IpAddr) -> Option<String> {
            (ip.to_string() == "10.244.0.11").then(|| "shop/b1".to_owned())
        }
        fn labels(&self, identity: u32) -> Vec<String> {
            if identity == 9 {
                vec!["reserved:world-ipv4".to_owned()]
            } else {
                vec!["k8s:app=web".to_owned()]
            }
        }
        fn rule(&self, rule: RuleId) -> Option<Value> {
            (rule.0 == 5)
                .then(|| json!({"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "allow"}))
        }
        fn enforced_by(&self, _identity: u32, egress: bool) -> Vec<Value> {
            if egress { Vec::new() } else { vec![json!({"namespace": "shop", "name": "allow"})] }
        }
    }

    pub(crate) fn event(kind: EventKind) -> FlowEvent {
        let key = FlowKey {
            src: "::ffff:198.51.100.7".parse().unwrap(),
            dst: "::ffff:10.244.0.11".parse().unwrap(),
            sport: 40000,
            dport: 8080,
            proto: 6,
            v4: true,
        };
        FlowEvent { tcp_flags: 2, source: 9, destination: 300, ..FlowEvent::of(Now(0), kind, key, key) }
    }

    #[test]
    fn a_default_deny_names_who_enforces() {
        let told = describe(&event(EventKind::Drop(DropReason::PolicyDenied)), "0.000", &Lab);
        assert_eq!(told["verdict"], "DROPPED");
        assert_eq!(told["drop_reason"], 133);
        assert_eq!(told["from"], "198.51.100.7:40000");
        assert_eq!(told["to"], "shop/b1:8080");
        assert_eq!(told["rule_text"], "default deny of shop/allow");
    }

    #[test]
    fn an_allowed_flow_names_its_rule() {
        let mut new = event(EventKind::New);
        new.ingress_rule = RuleId(5);
        let told = describe(&new, "0.000", &Lab);
        assert_eq!(
            (told["verdict"].as_str(), told["rule_text"].as_str()),
            (Some("FORWARDED"), Some("shop/allow"))
        );
        assert!(told.get("drop_reason").is_none());
    }
}
