//! Hubble's FlowFilter over flows in Hubble's shape: in one filter all fields that are set must match, and a field matches if
//! one of its values does; a flow passes if any allowed filter (or none is given) and no denied one matches.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::prefix;
use crate::identity::holds_ip;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventType {
    /// 0: any.
    #[serde(rename = "type", default)]
    pub kind: u8,
    #[serde(default)]
    pub match_sub_type: bool,
    #[serde(default)]
    pub sub_type: u16,
}

/// The fields that our events can answer, under Hubble's names; others are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ip_xlated: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ip: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_pod: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_pod: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_label: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_label: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_service: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_service: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_identity: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_identity: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_port: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_port: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_reason_desc: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event_type: Vec<EventType>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic_direction: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_version: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reply: Vec<bool>,
    /// Flags that must all be set, `{"SYN": true}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tcp_flags: Vec<serde_json::Map<String, Value>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_name: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_cluster_name: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_cluster_name: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub encrypted: Vec<bool>,
}

/// What is wanted and what is not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filters {
    pub allow: Vec<FlowFilter>,
    pub deny: Vec<FlowFilter>,
}

impl Filters {
    /// Nothing is asked for, so everything fits.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// `flow` is a flow in Hubble's shape.
    pub fn fits(&self, flow: &Value) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(|filter| filter.fits(flow)))
            && !self.deny.iter().any(|filter| filter.fits(flow))
    }

    /// Mistakes that would silently match nothing.
    pub fn check(&self) -> Result<(), String> {
        self.allow.iter().chain(&self.deny).try_for_each(FlowFilter::check)
    }
}

impl FlowFilter {
    /// A filter in Hubble's JSON. What is wrong in it, or cannot be asked of our flows, is named by its field.
    pub fn read(filter: &Value) -> Result<Self, String> {
        for (field, value) in filter.as_object().into_iter().flatten() {
            let alone = |value: &Value| serde_json::from_value::<Self>(serde_json::json!({field: value}));
            // Every field that there is may be empty.
            alone(&Value::Array(Vec::new()))
                .map_err(|_| format!("{field}: this gateway's flows cannot be chosen by it"))?;
            alone(value).map_err(|error| format!("{field}: {error}"))?;
        }
        let read: Self = serde_json::from_value(filter.clone()).map_err(|error| error.to_string())?;
        read.check().map(|()| read)
    }

    fn check(&self) -> Result<(), String> {
        let all = |field: &str, list: &[String], check: &dyn Fn(&str) -> Result<(), String>| {
            list.iter().try_for_each(|text| check(text).map_err(|why| format!("{field}: {why}")))
        };
        let known = |field: &str, list: &[String], words: &[&str]| {
            all(field, list, &|text| match words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
                true => Ok(()),
                false => Err(format!("{text} is none of {}", words.join(", "))),
            })
        };
        let net = |text: &str| prefix(text).map(drop);
        all("source_ip", &self.source_ip, &net)?;
        all("source_ip_xlated", &self.source_ip_xlated, &net)?;
        all("destination_ip", &self.destination_ip, &net)?;
        let selector = |text: &str| Selector::parse(text).map(drop);
        all("source_label", &self.source_label, &selector)?;
        all("destination_label", &self.destination_label, &selector)?;
        let port = |text: &str| text.parse::<u16>().map(drop).map_err(|_| format!("{text} is no port"));
        all("source_port", &self.source_port, &port)?;
        all("destination_port", &self.destination_port, &port)?;
        for (field, list) in [
            ("source_pod", &self.source_pod),
            ("destination_pod", &self.destination_pod),
            ("source_service", &self.source_service),
            ("destination_service", &self.destination_service),
            ("source_cluster_name", &self.source_cluster_name),
            ("destination_cluster_name", &self.destination_cluster_name),
            ("node_name", &self.node_name),
        ] {
            let empty = |text: &str| if text.is_empty() { Err("an empty name".to_owned()) } else { Ok(()) };
            all(field, list, &empty)?;
        }
        let verdicts = ["FORWARDED", "DROPPED", "AUDIT", "REDIRECTED", "ERROR", "TRACED", "TRANSLATED"];
        known("verdict", &self.verdict, &verdicts)?;
        known("protocol", &self.protocol, &["tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6"])?;
        known("traffic_direction", &self.traffic_direction, &["INGRESS", "EGRESS"])?;
        known("ip_version", &self.ip_version, &["IPv4", "IPv6"])?;
        let reasons: Vec<&str> =
            sluice_core::verdict::DropReason::ALL.iter().map(|reason| reason.name()).collect();
        known("drop_reason_desc", &self.drop_reason_desc, &reasons)
    }

    pub fn fits(&self, flow: &Value) -> bool {
        let text = |at: &str| flow.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let within = |list: &Vec<String>, at: &str| {
            let ip: Option<IpAddr> = text(at).parse().ok();
            any(list, |wanted| ip.is_some_and(|ip| prefix(wanted).is_ok_and(|net| holds_ip(&net, ip))))
        };
        let same = |list: &Vec<String>, at: &str| any(list, |wanted| wanted.eq_ignore_ascii_case(text(at)));
        let number = |list: &[u32], at: &str| {
            any(list, |wanted| flow.pointer(at).and_then(Value::as_u64) == Some(u64::from(*wanted)))
        };
        within(&self.source_ip, "/IP/source")
            && within(&self.source_ip_xlated, "/IP/source_xlated")
            && within(&self.destination_ip, "/IP/destination")
            && any(&self.source_pod, |wanted| named(wanted, &flow["source"], "pod_name"))
            && any(&self.destination_pod, |wanted| named(wanted, &flow["destination"], "pod_name"))
            && any(&self.source_service, |wanted| named(wanted, &flow["source_service"], "name"))
            && any(&self.destination_service, |wanted| named(wanted, &flow["destination_service"], "name"))
            && any(&self.source_label, |wanted| labelled(wanted, &flow["source"]))
            && any(&self.destination_label, |wanted| labelled(wanted, &flow["destination"]))
            && number(&self.source_identity, "/source/identity")
            && number(&self.destination_identity, "/destination/identity")
            && any(&self.source_port, |wanted| is_port(flow, "source_port", wanted))
            && any(&self.destination_port, |wanted| is_port(flow, "destination_port", wanted))
            && same(&self.verdict, "/verdict")
            && same(&self.drop_reason_desc, "/drop_reason_desc")
            && same(&self.traffic_direction, "/traffic_direction")
            && same(&self.ip_version, "/IP/ipVersion")
            && any(&self.protocol, |wanted| speaks(flow, wanted))
            && any(&self.event_type, |wanted| is_of(flow, wanted))
            && any(&self.reply, |wanted| reply(flow) == Some(*wanted))
            && any(&self.tcp_flags, |wanted| flagged(flow, wanted))
            && any(&self.node_name, |wanted| node(wanted, text("/node_name")))
            && any(&self.source_cluster_name, |wanted| wanted == text("/source/cluster_name"))
            && any(&self.destination_cluster_name, |wanted| wanted == text("/destination/cluster_name"))
            && any(&self.encrypted, |wanted| flow["IP"]["encrypted"].as_bool().unwrap_or(false) == *wanted)
    }
}

/// Nothing asked for is always there.
fn any<T>(list: &[T], holds: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

/// `[namespace/]prefix of the name`; `namespace/` is any name in it, `/` any in all.
fn named(wanted: &str, side: &Value, field: &str) -> bool {
    // Without a namespace it is the default one's, as in kubectl.
    let (namespace, start) = wanted.split_once('/').unwrap_or(("default", wanted));
    let own = |field: &str| side[field].as_str().unwrap_or_default();
    !own(field).is_empty()
        && own(field).starts_with(start)
        && (namespace.is_empty() || own("namespace") == namespace)
}

fn labelled(wanted: &str, side: &Value) -> bool {
    let labels: Vec<&str> =
        side["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Selector::parse(wanted).is_ok_and(|selector| selector.fits(&labels))
}

fn is_port(flow: &Value, field: &str, wanted: &str) -> bool {
    let l4 = flow["l4"].as_object().and_then(|l4| l4.values().next());
    let port = l4.and_then(|l4| l4[field].as_u64());
    port.is_some() && port == wanted.parse().ok()
}

fn speaks(flow: &Value, wanted: &str) -> bool {
    let Some(spoken) = flow["l4"].as_object().and_then(|l4| l4.keys().next()) else { return false };
    spoken.eq_ignore_ascii_case(wanted) || (wanted.eq_ignore_ascii_case("icmp") && spoken.starts_with("ICMP"))
}

fn is_of(flow: &Value, wanted: &EventType) -> bool {
    let field = |name: &str| flow["event_type"][name].as_u64().unwrap_or(0);
    // 101 is what is 0 on the wire.
    let sub = if wanted.sub_type == 101 { 0 } else { u64::from(wanted.sub_type) };
    (wanted.kind == 0 || field("type") == u64::from(wanted.kind))
        && (!wanted.match_sub_type || field("sub_type") == sub)
}

/// Drops count as no replies.
fn reply(flow: &Value) -> Option<bool> {
    flow["is_reply"].as_bool().or_else(|| (flow["verdict"] == "DROPPED").then_some(false))
}

fn flagged(flow: &Value, wanted: &serde_json::Map<String, Value>) -> bool {
    let Some(set) = flow.pointer("/l4/TCP/flags") else { return false };
    wanted.iter().all(|(name, value)| *value != true || set[name.to_ascii_uppercase()] == true)
}

/// `[cluster/]node`, with `*` for anything.
fn node(wanted: &str, own: &str) -> bool {
    let whole = if wanted.contains('/') { wanted.to_owned() } else { format!("default/{wanted}") };
    let mut parts = whole.split('*');
    let Some(mut rest) = parts.next().and_then(|first| own.strip_prefix(first)) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        (last, rest) = (part, &rest[at + part.len()..]);
    }
    rest.is_empty() || (whole.contains('*') && (last.is_empty() || rest.ends_with(last)))
}

/// A label selector as Kubernetes writes it; keys may carry a source (`k8s:app`).
#[derive(Debug)]
struct Selector(Vec<Requirement>);

#[derive(Debug)]
struct Requirement {
    key: String,
    values: Option<Vec<String>>,
    wanted: bool,
}

impl Selector {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text} is no label selector: KEY, !KEY, KEY=VALUE, KEY!=VALUE, KEY in (A, B), KEY notin (A, B)"
            )
        };
        let mut parts = Vec::new();
        let (mut depth, mut start) = (0_u32, 0);
        for (at, c) in text.char_indices() {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.checked_sub(1).ok_or_else(wrong)?,
                ',' if depth == 0 => {
                    parts.push(&text[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&text[start..]);
        let read = parts.into_iter().map(|part| Requirement::parse(part.trim()).ok_or_else(wrong));
        read.collect::<Result<_, _>>().map(Self)
    }

    fn fits(&self, labels: &[&str]) -> bool {
        self.0.iter().all(|requirement| requirement.fits(labels))
    }
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let made = |key: &str, values: Option<Vec<String>>, wanted| {
            let key = key.trim();
            let fair = !key.is_empty() && !key.contains([' ', '(', ')', '=', '!']);
            fair.then(|| Self { key: key.to_owned(), values, wanted })
        };
        for (word, wanted) in [(" notin ", false), (" in ", true)] {
            if let Some((key, list)) = text.split_once(word) {
                let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
                let values = list.split(',').map(|value| value.trim().to_owned()).collect();
                return made(key, Some(values), wanted);
            }
        }
        for (sign, wanted) in [("!=", false), ("==", true), ("=", true)] {
            if let Some((key, value)) = text.split_once(sign) {
                return made(key, Some(vec![value.trim().to_owned()]), wanted);
            }
        }
        match text.strip_prefix('!') {
            Some(key) => made(key, None, false),
            None => made(text, None, true),
        }
    }

    fn fits(&self, labels: &[&str]) -> bool {
        let has = labels.iter().any(|label| {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            let bare = key.split_once(':').map_or(key, |(_, bare)| bare);
            (key == self.key || bare == self.key)
                && self.values.as_ref().is_none_or(|values| values.iter().any(|wanted| wanted == value))
        });
        has == self.wanted
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flow() -> Value {
        json!({
            "verdict": "DROPPED", "drop_reason_desc": "POLICY_DENIED", "traffic_direction": "INGRESS",
            "IP": {"source": "198.51.100.7", "destination": "10.244.0.11", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": 40000, "destination_port": 8080, "flags": {"SYN": true, "ECE": true}}},
            "source": {"identity": 9, "labels": ["reserved:world-ipv4"]},
            "destination": {"identity": 300, "labels": ["k8s:app=web", "k8s:tier=front"], "namespace": "shop", "pod_name": "b1",
                "cluster_name": "default"},
            "destination_service": {"name": "web", "namespace": "shop"},
            "node_name": "default/edge-1", "event_type": {"type": 1, "sub_type": 133},
        })
    }

    fn fits(filter: Value) -> bool {
        let filter: FlowFilter = serde_json::from_value(filter).unwrap();
        filter.fits(&flow())
    }

    #[test]
    fn every_field_matches_as_hubble_documents_it() {
        for yes in [
            json!({"source_ip": ["198.51.100.0/24"], "destination_ip": ["10.244.0.11"]}),
            json!({"destination_pod": ["shop/b"]}),
            json!({"destination_pod": ["shop/"]}),
            json!({"destination_service": ["shop/web"]}),
            json!({"destination_label": ["app in (api, web),tier=front"]}),
            json!({"destination_label": ["k8s:app=web"], "source_label": ["reserved:world-ipv4"]}),
            json!({"destination_label": ["!nothing,app!=api"]}),
            json!({"source_identity": [1, 9], "destination_port": ["80", "8080"]}),
            json!({"verdict": ["FORWARDED", "DROPPED"], "drop_reason_desc": ["POLICY_DENIED"]}),
            json!({"protocol": ["tcp"], "tcp_flags": [{"SYN": true}], "ip_version": ["IPv4"]}),
            json!({"event_type": [{"type": 1}], "reply": [false], "traffic_direction": ["INGRESS"]}),
            json!({"event_type": [{"type": 1, "match_sub_type": true, "sub_type": 133}]}),
            json!({"event_type": [{"match_sub_type": true, "sub_type": 133}]}),
            json!({"node_name": ["edge-*"]}),
            json!({"node_name": ["*/edge-1"]}),
            json!({"destination_pod": ["/"], "destination_service": ["/w"]}),
            json!({"destination_cluster_name": ["default"], "encrypted": [false]}),
            json!({"destination_port": ["08080"]}),
        ] {
            assert!(fits(yes.clone()), "{yes}");
        }
        for no in [
            json!({"source_ip": ["10.0.0.0/8"]}),
            json!({"destination_pod": ["b1"]}),
            json!({"destination_pod": ["shop/c"]}),
            json!({"destination_label": ["app=web,tier=back"]}),
            json!({"destination_label": ["any:app=web"]}),
            json!({"verdict": ["FORWARDED"]}),
            json!({"reply": [true]}),
            json!({"tcp_flags": [{"SYN": true, "ACK": true}]}),
            json!({"protocol": ["icmp"]}),
            json!({"event_type": [{"type": 4}]}),
            json!({"node_name": ["edge-2"]}),
            json!({"node_name": ["other/*"]}),
            json!({"source_pod": ["/"]}),
            json!({"source_cluster_name": ["default"]}),
            json!({"encrypted": [true]}),
        ] {
            assert!(!fits(no.clone()), "{no}");
        }
    }

    #[test]
    fn mistakes_are_said_instead_of_matching_nothing() {
        for wrong in [
            json!({"source_ip": ["10.0.0.0/33"]}),
            json!({"verdict": ["MAYBE"]}),
            json!({"drop_reason_desc": ["BAD_LUCK"]}),
            json!({"source_label": ["app in web"]}),
            json!({"protocol": ["http"]}),
            json!({"source_port": ["web"]}),
            json!({"destination_pod": [""]}),
            json!({"http_path": ["/"]}),
            json!({"event_type": [{"type": 4711}]}),
        ] {
            let why = FlowFilter::read(&wrong).unwrap_err();
            let (field, _) = wrong.as_object().unwrap().iter().next().unwrap();
            assert!(why.starts_with(&format!("{field}: ")), "{wrong}: {why}");
        }
    }

    #[test]
    fn denied_filters_win() {
        let read = |filter: Value| serde_json::from_value(filter).unwrap();
        let both = Filters {
            allow: vec![read(json!({"verdict": ["DROPPED"]}))],
            deny: vec![read(json!({"destination_port": ["8080"]}))],
        };
        assert!(!both.fits(&flow()));
        assert!(Filters { deny: Vec::new(), ..both }.fits(&flow()));
        assert!(Filters::default().fits(&flow()));
    }
}
