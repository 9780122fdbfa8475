//! One packet stage by stage, told with names (`sluice trace`, `sluice capture`), and what somebody asks to see as the
//! filter that workers apply.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use sluice_core::event::{EventKind, FlowEvent};
use sluice_core::state::tcp::TcpState;
use sluice_core::tables::record::Prefix;
use sluice_core::verdict::{DropReason, Fate};
use sluice_core::watch::{Filter, Known, Read, Sighting, Verdict};

use crate::compile::Compiled;
use crate::decode::{host, prefix};
use crate::identity::RESERVED;
use crate::observed::{Naming, describe, party, protocol};

/// What was typed. A packet must satisfy every list that has something in it.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    pub ip: Vec<String>,
    pub from: Vec<String>,
    pub to: Vec<String>,
    pub port: Vec<u16>,
    pub protocol: Vec<String>,
    pub identity: Vec<String>,
    pub verdict: Vec<String>,
    pub drop_reason: Vec<String>,
}

impl Wanted {
    /// With names resolved as they are now. What cannot be understood, or would match nothing, is said.
    pub fn resolve(&self, compiled: &Compiled) -> Result<Filter, String> {
        let prefixes = |list: &[String]| -> Result<Vec<Prefix>, String> {
            list.iter()
                .map(|text| addresses(compiled, text))
                .collect::<Result<Vec<_>, _>>()
                .map(|l| l.concat())
        };
        Ok(Filter {
            ips: prefixes(&self.ip)?,
            from: prefixes(&self.from)?,
            to: prefixes(&self.to)?,
            ports: self.port.clone(),
            protocols: self
                .protocol
                .iter()
                .map(|text| protocols(text))
                .collect::<Result<Vec<_>, _>>()?
                .concat(),
            identities: self.identity.iter().map(|text| identity(text)).collect::<Result<_, _>>()?,
            verdicts: self.verdict.iter().map(|text| verdict(text)).collect::<Result<_, _>>()?,
            reasons: self.drop_reason.iter().map(|text| reason(text)).collect::<Result<_, _>>()?,
        })
    }
}

/// An address, a prefix, `namespace/name` of a pod or endpoint, a node's name, or `service:namespace/name`.
fn addresses(compiled: &Compiled, text: &str) -> Result<Vec<Prefix>, String> {
    if let Ok(prefix) = prefix(text) {
        return Ok(vec![prefix]);
    }
    let objects = &compiled.objects;
    let name = |text: &str| text.split_once('/').map(|(n, name)| (n.to_owned(), name.to_owned()));
    let found: Vec<IpAddr> = if let Some(service) = text.strip_prefix("service:") {
        let all = compiled.frontends.iter().filter(|one| one.service == service);
        all.map(|one| one.key.ip).collect()
    } else if let Some(key) = name(text) {
        objects.endpoints.get(&key).map(|endpoint| endpoint.addresses.clone()).unwrap_or_default()
    } else {
        objects.nodes.get(text).map(|node| node.addresses.clone()).unwrap_or_default()
    };
    if found.is_empty() {
        return Err(format!(
            "{text} is no address, prefix, namespace/name of an endpoint, node, or service:namespace/name that is known here"
        ));
    }
    Ok(found.into_iter().map(host).collect())
}

fn protocols(text: &str) -> Result<Vec<u8>, String> {
    match text.to_ascii_uppercase().as_str() {
        "ICMP" | "ICMPV4" => Ok(vec![1]),
        "TCP" => Ok(vec![6]),
        "UDP" => Ok(vec![17]),
        "ICMPV6" => Ok(vec![58]),
        "SCTP" => Ok(vec![132]),
        other => other
            .parse()
            .map(|number| vec![number])
            .map_err(|_| format!("{text} is no protocol: TCP, UDP, SCTP, ICMP, ICMPv6 or a number")),
    }
}

/// A number, or the name of a reserved one (`host`, `reserved:world` …).
fn identity(text: &str) -> Result<u32, String> {
    let name = text.strip_prefix("reserved:").unwrap_or(text);
    let reserved = RESERVED.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
    reserved.or_else(|| text.parse().ok()).ok_or_else(|| {
        format!("{text} is no identity: a number (`sluice identities` lists them) or reserved:NAME")
    })
}

fn verdict(text: &str) -> Result<Verdict, String> {
    Verdict::ALL.into_iter().find(|verdict| verdict.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
        let all = Verdict::ALL.map(Verdict::name).join(", ");
        format!("{text} is no verdict: {all}")
    })
}

fn reason(text: &str) -> Result<u8, String> {
    let by_number = || text.parse().ok().and_then(DropReason::from_number);
    let by_name = DropReason::ALL.iter().copied().find(|reason| reason.name().eq_ignore_ascii_case(text));
    by_name.or_else(by_number).map(DropReason::number).ok_or_else(|| {
        let all = DropReason::ALL.iter().map(|reason| reason.name()).collect::<Vec<_>>().join(", ");
        format!("{text} is no drop reason: {all}")
    })
}

/// One packet, stage by stage. `devices` names where it came in and where it leaves.
pub fn stages(seen: &Sighting, at: &str, devices: (&str, Option<&str>), names: &impl Naming) -> Value {
    let macs = |index: usize| {
        let mac = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        (mac(&seen.macs[index][6..]), mac(&seen.macs[index][..6]))
    };
    let (source_mac, destination_mac) = macs(0);
    let mut told = json!({
        "time": at,
        "worker": seen.worker.0,
        "generation": seen.generation,
        "received": {
            "interface": devices.0, "length": seen.lengths[0], "source_mac": source_mac,
            "destination_mac": destination_mac, "handed_over_before": seen.handed,
        },
        "parsed": match &seen.read {
            Ok(read) => parsed(read),
            Err(reason) => json!({"error": reason.name()}),
        },
        "verdict": seen.verdict().name(),
    });
    if seen.read.is_ok() {
        told["flow"] = flow(seen);
    }
    if let Some(event) = &seen.event {
        policy(&mut told, event, at, names);
    }
    if let Some(reason) = seen.reason() {
        told["drop_reason"] = json!(reason.number());
        told["drop_reason_desc"] = json!(reason.name());
    }
    match (seen.fate, devices.1) {
        (Fate::Hold { ip, .. }, Some(device)) => {
            told["next_hop"] = json!({"interface": device, "waits_for_neighbour": ip});
        }
        (_, Some(device)) => {
            let (source, destination) = macs(1);
            told["next_hop"] = json!({
                "interface": device, "source_mac": source, "destination_mac": destination,
                "length": seen.lengths[1],
            });
        }
        (Fate::AwaitRow(_), None) => told["waits_for_row"] = json!(true),
        (Fate::Cut(room), None) => told["cut_into_pieces_of"] = json!(room),
        (_, None) => {}
    }
    if let Fate::HandOver(worker) = seen.fate {
        told["handed_over_to_worker"] = json!(worker.0);
    }
    told
}

fn parsed(read: &Read) -> Value {
    let (key, address) = (&read.key, |ip: IpAddr, port| std::net::SocketAddr::new(ip, port).to_string());
    let mut told = json!({
        "ip_version": if key.v4 { 4 } else { 6 },
        "protocol": protocol(key.proto),
        "source": address(key.source(), key.sport),
        "destination": address(key.destination(), key.dport),
        "ttl": read.ttl,
    });
    if read.vlan != 0 {
        told["vlan"] = json!(read.vlan);
    }
    if key.proto == 6 {
        told["tcp_flags"] = json!(tcp_flags(read.tcp_flags));
    }
    if key.proto == 1 || key.proto == 58 {
        told["icmp"] = json!({"type": read.icmp.0, "code": read.icmp.1});
    }
    if let Some((offset, more)) = read.fragment {
        told["fragment"] = json!({"offset": offset, "more": more});
    }
    told
}

/// `SYN, ACK`.
pub fn tcp_flags(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = names.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn flow(seen: &Sighting) -> Value {
    match seen.known {
        Some(Known { is_reply, tcp, replied, generation }) => {
            let is_tcp = seen.read.is_ok_and(|read| read.key.proto == 6);
            let state = match (is_tcp, replied) {
                (true, _) => format!("{:?}", TcpState::from_number(tcp)),
                (false, true) => "Replied".to_owned(),
                (false, false) => "New".to_owned(),
            };
            json!({
                "known": true,
                "state": state,
                "direction": if is_reply { "reply" } else { "original" },
                "admitted_by_generation": generation,
                "judged_again": generation != seen.generation,
            })
        }
        None => json!({"known": false, "admitted": seen.admitted}),
    }
}

/// Who talks to whom, by which service, and which rules decided.
fn policy(told: &mut Value, event: &FlowEvent, at: &str, names: &impl Naming) {
    let names_of = describe(event, at, names);
    for field in [
        "from",
        "to",
        "source",
        "destination",
        "rules",
        "rule_text",
        "enforced_by",
        "service",
        "backend",
        "translated",
        "is_reply",
    ] {
        if let Some(value) = names_of.get(field).filter(|value| !value.is_null()) {
            told[field] = value.clone();
        }
    }
    if let EventKind::Drop(DropReason::PolicyDenied | DropReason::PolicyDeny) = event.kind {
        told["denied_direction"] = json!(if event.denied_egress { "egress" } else { "ingress" });
    }
    if event.translated != event.key && event.is_reply {
        told["backend"] = json!(party(event.key.source(), event.key.sport, names));
    }
}

/// What happened to a packet and who decided, in one line: the comment of a capture.
pub fn comment(stages: &Value) -> String {
    let text = |field: &str| stages[field].as_str().unwrap_or_default();
    let mut line = text("verdict").to_owned();
    for (label, value) in [
        (" ", text("drop_reason_desc")),
        (" ", text("from")),
        (" -> ", text("to")),
        (" service ", text("service")),
        (" backend ", text("backend")),
        (" by ", text("rule_text")),
    ] {
        if !value.is_empty() {
            line.push_str(label);
            line.push_str(value);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wrongly_is_said_with_what_would_be_right() {
        let compiled = Compiled::new(
            crate::objects::Objects::default(),
            crate::config::Options::default(),
            crate::decode::Problems::default(),
        );
        let wrong = [
            Wanted { from: vec!["shop/nobody".into()], ..Wanted::default() },
            Wanted { verdict: vec!["MAYBE".into()], ..Wanted::default() },
            Wanted { drop_reason: vec!["BAD_LUCK".into()], ..Wanted::default() },
            Wanted { protocol: vec!["TPC".into()], ..Wanted::default() },
            Wanted { identity: vec!["reserved:nobody".into()], ..Wanted::default() },
        ];
        for (wanted, cure) in
            wrong.iter().zip(["namespace/name", "FORWARDED", "POLICY_DENIED", "ICMPv6", "reserved:NAME"])
        {
            let error = wanted.resolve(&compiled).unwrap_err();
            assert!(error.contains(cure), "{error}");
        }
        let right = Wanted {
            ip: vec!["10.0.0.0/8".into()],
            identity: vec!["world".into(), "4711".into()],
            drop_reason: vec!["policy_denied".into(), "181".into()],
            ..Wanted::default()
        };
        let filter = right.resolve(&compiled).unwrap();
        assert_eq!((filter.identities, filter.reasons), (vec![2, 4711], vec![133, 181]));
        assert_eq!(filter.ips[0].len, 8);
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(tcp_flags(0x12), "SYN, ACK");
        assert_eq!(tcp_flags(0), "");
    }
}
