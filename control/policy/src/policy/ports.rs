//! Reading `toPorts` and `icmps`: which protocols, ports and types, and what is asked of the data above them.

use std::sync::Arc;

use super::above::{self, Above};
use super::{Direction, PortName, PortSpec, Ports};
use crate::decode::{Fields, Place, Problems};
use crate::objects::protocol;
use crate::tree::{Node, Value};

/// As many ports or ICMP types as one list may have.
const MOST: usize = 40;

/// What a list of port rules comes to: ports, and what is asked above them.
pub type PortRules = Vec<(Ports, Option<Arc<Above>>)>;

/// `toPorts`: one result for each of its items, because each may ask for something else above its ports.
pub fn port_rules(
    items: &[(&Node, Place)],
    direction: Direction,
    deny: bool,
    problems: &mut Problems,
) -> PortRules {
    items.iter().map(|(node, place)| port_rule(node, place.clone(), direction, deny, problems)).collect()
}

fn port_rule(
    node: &Node,
    place: Place,
    direction: Direction,
    deny: bool,
    problems: &mut Problems,
) -> (Ports, Option<Arc<Above>>) {
    let mut fields = Fields::new(node, place, problems);
    let listed = fields.list("ports").unwrap_or_default();
    if listed.len() > MOST {
        fields.error(node, format!("ports may have {MOST} items at most"));
    }
    let mut specs = Vec::new();
    for (port, place) in &listed {
        specs.extend(port_spec(port, place.clone(), fields.problems));
    }
    match (listed.is_empty(), deny) {
        (true, false) => fields.warn(node, "names no port, so it allows nothing; port 0 is all of them"),
        (true, true) => {
            fields.warn(node, "names no port, so it denies all of them");
            specs.extend([6, 17, 132].map(|proto| PortSpec { proto, port: PortName::Range(0, u16::MAX) }));
        }
        (false, _) => {}
    }
    let above = if deny { None } else { above::read(&mut fields, direction, &specs) };
    fields.deny_unknown();
    (Ports::Some(specs), above.map(Arc::new))
}

fn port_spec(node: &Node, place: Place, problems: &mut Problems) -> Vec<PortSpec> {
    let mut fields = Fields::new(node, place, problems);
    let port = fields.loose_text("port").unwrap_or_else(|| "0".to_owned());
    let end = fields.int("endPort", 0, 65535).and_then(|n| u16::try_from(n).ok());
    let name = fields.text("protocol").unwrap_or_else(|| "ANY".to_owned());
    fields.deny_unknown();
    let protos: Vec<u8> = match name.to_ascii_uppercase().as_str() {
        "ANY" => vec![6, 17, 132],
        "VRRP" | "IGMP" | "GRE" | "IPIP" | "IPV6" | "ESP" | "AH" => {
            return extended(&mut fields, &name, &port);
        }
        _ => match protocol(&name) {
            Some(proto) => vec![proto],
            None => {
                let hint = if name.to_ascii_uppercase().starts_with("ICMP") { "; use icmps" } else { "" };
                fields.error(node, format!("protocol must be TCP, UDP, SCTP or ANY, not {name}{hint}"));
                return Vec::new();
            }
        },
    };
    let port = match number(&port) {
        Some(0) if end.is_some_and(|end| end != 0) => {
            fields.error(node, "port 0 is every port already; endPort has no place beside it");
            return Vec::new();
        }
        Some(0) => PortName::Range(0, u16::MAX),
        Some(first) => {
            let last = end.filter(|end| *end != 0).unwrap_or(first);
            if last < first {
                fields.error(node, format!("endPort {last} is below port {first}"));
                return Vec::new();
            }
            PortName::Range(first, last)
        }
        None => match named(&port) {
            Some(named) if end.is_none() => named,
            Some(_) => {
                fields.error(node, "endPort needs a numeric port");
                return Vec::new();
            }
            None => {
                fields.error(node, no_port(&port));
                return Vec::new();
            }
        },
    };
    protos.into_iter().map(|proto| PortSpec { proto, port: port.clone() }).collect()
}

/// A port as people write it: without a sign, and without zeros before it, which are octal to some.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|number: &u16| number.to_string() == text)
}

/// A port by its name: of 15 letters, digits and single hyphens at most, with a letter among them, as services are
/// registered (RFC 6335 5.1).
pub fn named(text: &str) -> Option<PortName> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let well_formed = (1..=15).contains(&text.len())
        && text.bytes().all(known)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !(text.starts_with('-') || text.ends_with('-') || text.contains("--"));
    well_formed.then(|| PortName::Named(text.to_ascii_lowercase()))
}

/// What is wrong with a port that is neither a number nor a name.
pub fn no_port(text: &str) -> String {
    format!(
        "{text} is no port: a number up to 65535, or a name of letters, digits and single hyphens, 15 at most"
    )
}

/// Protocols without ports.
fn extended(fields: &mut Fields<'_, '_>, name: &str, port: &str) -> Vec<PortSpec> {
    let proto = match name.to_ascii_uppercase().as_str() {
        "VRRP" => 112,
        "IGMP" => 2,
        "GRE" => 47,
        "IPIP" => 4,
        "IPV6" => 41,
        "ESP" => 50,
        _ => 51,
    };
    if port != "0" && !port.is_empty() {
        let node = fields.node;
        fields.error(node, format!("{name} has no ports"));
    }
    vec![PortSpec { proto, port: PortName::Range(0, u16::MAX) }]
}

pub fn icmp_rules(items: &[(&Node, Place)], problems: &mut Problems) -> Ports {
    let mut specs = Vec::new();
    for (node, place) in items {
        let mut fields = Fields::new(node, place.clone(), problems);
        let listed = fields.list("fields").unwrap_or_default();
        if listed.len() > MOST {
            fields.error(node, format!("fields may have {MOST} items at most"));
        }
        for (node, place) in listed {
            let mut fields = Fields::new(node, place, fields.problems);
            let family = fields.text("family").unwrap_or_else(|| "IPv4".to_owned());
            let kind = fields.some("type");
            fields.deny_unknown();
            let proto = match family.as_str() {
                "IPv4" => 1,
                "IPv6" => 58,
                other => {
                    fields.error(node, format!("family must be IPv4 or IPv6, not {other}"));
                    continue;
                }
            };
            let number = match kind.map(|node| &node.value) {
                Some(Value::Int(n)) => u8::try_from(*n).ok(),
                Some(Value::Text(name)) => name.parse().ok().or_else(|| icmp_type(name, proto == 1)),
                _ => None,
            };
            match number.map(u16::from) {
                Some(n) => specs.push(PortSpec { proto, port: PortName::Range(n, n) }),
                None => fields.error(node, "type must be a number below 256 or the name of a type"),
            }
        }
        fields.deny_unknown();
    }
    Ports::Some(specs)
}

fn icmp_type(name: &str, v4: bool) -> Option<u8> {
    let v4_names = [
        ("EchoReply", 0),
        ("DestinationUnreachable", 3),
        ("Redirect", 5),
        ("Echo", 8),
        ("EchoRequest", 8),
        ("RouterAdvertisement", 9),
        ("RouterSelection", 10),
        ("TimeExceeded", 11),
        ("ParameterProblem", 12),
        ("Timestamp", 13),
        ("TimestampReply", 14),
        ("Photuris", 40),
        ("ExtendedEchoRequest", 42),
        ("ExtendedEchoReply", 43),
    ];
    let v6_names = [
        ("DestinationUnreachable", 1),
        ("PacketTooBig", 2),
        ("TimeExceeded", 3),
        ("ParameterProblem", 4),
        ("EchoRequest", 128),
        ("EchoReply", 129),
        ("MulticastListenerQuery", 130),
        ("MulticastListenerReport", 131),
        ("MulticastListenerDone", 132),
        ("RouterSolicitation", 133),
        ("RouterAdvertisement", 134),
        ("NeighborSolicitation", 135),
        ("NeighborAdvertisement", 136),
        ("RedirectMessage", 137),
        ("RouterRenumbering", 138),
        ("ICMPNodeInformationQuery", 139),
        ("ICMPNodeInformationResponse", 140),
        ("InverseNeighborDiscoverySolicitation", 141),
        ("InverseNeighborDiscoveryAdvertisement", 142),
        ("HomeAgentAddressDiscoveryRequest", 144),
        ("HomeAgentAddressDiscoveryReply", 145),
        ("MobilePrefixSolicitation", 146),
        ("MobilePrefixAdvertisement", 147),
        ("DuplicateAddressRequestCodeSuffix", 157),
        ("DuplicateAddressConfirmationCodeSuffix", 158),
        ("ExtendedEchoRequest", 160),
        ("ExtendedEchoReply", 161),
    ];
    let names: &[(&str, u8)] = if v4 { &v4_names } else { &v6_names };
    names.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
