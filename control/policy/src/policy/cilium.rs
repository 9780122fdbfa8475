//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy. Every field is read; what cannot be enforced is refused or
//! dropped, never ignored.

use super::peers::{self, is_empty_list};
use super::{Direction, Inspect, Peer, Peers, Policy, PortName, PortSpec, Ports, Rule, Source, Subject};
use crate::decode::{Fields, Place, Problems};
use crate::labels::{NAMESPACE, Operator, Selector};
use crate::objects::{Metadata, protocol};
use crate::tree::{Node, Value};

const LISTS: [(&str, Direction, bool); 4] = [
    ("ingress", Direction::Ingress, false),
    ("egress", Direction::Egress, false),
    ("ingressDeny", Direction::Ingress, true),
    ("egressDeny", Direction::Egress, true),
];

/// All specs of one object.
pub fn read(
    node: &Node,
    place: Place,
    metadata: Metadata,
    kind: &str,
    problems: &mut Problems,
) -> Vec<Policy> {
    let clusterwide = kind == "CiliumClusterwideNetworkPolicy";
    let namespace = match (clusterwide, metadata.namespace.is_empty()) {
        (true, _) => None,
        (false, true) => Some("default".to_owned()),
        (false, false) => Some(metadata.namespace.clone()),
    };
    let source = Source {
        kind: if clusterwide { "CiliumClusterwideNetworkPolicy" } else { "CiliumNetworkPolicy" },
        namespace: namespace.clone().unwrap_or_default(),
        name: metadata.name,
    };
    let mut fields = Fields::new(node, place, problems);
    let mut specs: Vec<(&Node, Place)> = fields.object("spec").into_iter().collect();
    specs.extend(fields.list("specs").unwrap_or_default());
    for known in ["apiVersion", "kind", "metadata", "status"] {
        fields.raw(known);
    }
    fields.deny_unknown();
    if specs.is_empty() {
        fields.error(node, "spec or specs is needed");
    }
    let reading = |(spec, place): (&Node, Place)| {
        Spec { source: &source, namespace: namespace.as_deref() }.read(spec, place, fields.problems)
    };
    specs.into_iter().filter_map(reading).collect()
}

struct Spec<'a> {
    source: &'a Source,
    /// `None`: clusterwide.
    namespace: Option<&'a str>,
}

impl Spec<'_> {
    fn read(&self, node: &Node, place: Place, problems: &mut Problems) -> Option<Policy> {
        let mut fields = Fields::new(node, place, problems);
        let subject = self.subject(&mut fields);
        let defaults = fields.object("enableDefaultDeny").map(|(node, place)| {
            let mut fields = Fields::new(node, place, fields.problems);
            let flags = [fields.flag("ingress"), fields.flag("egress")];
            fields.deny_unknown();
            flags
        });
        let [for_ingress, for_egress] = defaults.unwrap_or_default();
        let (mut rules, mut any, mut seen) = (Vec::new(), false, [false, false]);
        for (list, direction, deny) in LISTS {
            for (index, (item, place)) in fields.list(list).unwrap_or_default().into_iter().enumerate() {
                any = true;
                seen[usize::from(direction == Direction::Egress)] = true;
                rules.extend(self.rule(item, place, direction, list, index, deny, fields.problems));
            }
        }
        fields.text("description");
        fields.raw("labels");
        if let Some((node, place)) = fields.object("log") {
            let mut fields = Fields::new(node, place, fields.problems);
            if fields.text("value").is_some_and(|value| value.len() > 32) {
                fields.error(node, "value may have 32 characters at most");
            }
            fields.deny_unknown();
        }
        fields.deny_unknown();
        if !any {
            fields.error(node, "at least one of ingress, egress, ingressDeny and egressDeny is needed");
            return None;
        }
        let default_deny = [for_ingress.unwrap_or(seen[0]), for_egress.unwrap_or(seen[1])];
        Some(Policy { source: self.source.clone(), subject: subject?, rules, default_deny })
    }

    fn subject(&self, fields: &mut Fields<'_, '_>) -> Option<Subject> {
        let (endpoints, nodes) = (fields.object("endpointSelector"), fields.object("nodeSelector"));
        let node = fields.node;
        match (endpoints, nodes) {
            (Some((node, place)), None) => {
                let mut fields = Fields::new(node, place, fields.problems);
                let mut selector = Selector::read(&mut fields);
                match self.namespace {
                    Some(namespace) => selector.force(NAMESPACE, namespace),
                    None if !selector.mentions(|r| r.key == NAMESPACE || r.source == "reserved") => {
                        selector.and("k8s", NAMESPACE, Operator::Exists);
                    }
                    None => {}
                }
                Some(Subject::Endpoints(selector))
            }
            (None, Some((node, _))) if self.namespace.is_some() => {
                fields.error(node, "nodeSelector is for CiliumClusterwideNetworkPolicy only");
                None
            }
            (None, Some((node, place))) => {
                let mut inner = Fields::new(node, place, fields.problems);
                let selector = Selector::read(&mut inner);
                fields.warn(node, "host policies are judged offline; the live host is not enforced yet");
                Some(Subject::Nodes(selector))
            }
            _ => {
                fields.error(node, "exactly one of endpointSelector and nodeSelector is needed");
                None
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "where a rule stands is part of what it is")]
    fn rule(
        &self,
        node: &Node,
        place: Place,
        direction: Direction,
        list: &'static str,
        index: usize,
        deny: bool,
        problems: &mut Problems,
    ) -> Option<Rule> {
        let mut fields = Fields::new(node, place, problems);
        let (peers, restricted) = self.peers(&mut fields, direction, deny);
        let ports = fields.list("toPorts");
        let icmps = fields.list("icmps");
        let authenticate = !deny && authentication(&mut fields);
        fields.deny_unknown();
        if ports.is_some() && icmps.is_some() {
            fields.error(node, "toPorts and icmps cannot be in one rule");
            return None;
        }
        let bare = ports.is_none() && icmps.is_none();
        let (ports, inspect) = match (ports, icmps) {
            (Some(items), _) => port_rules(&items, direction, deny, fields.problems),
            (None, Some(items)) => (icmp_rules(&items, fields.problems), Inspect::No),
            (None, None) => (Ports::All, Inspect::No),
        };
        // `[{}]`: nothing is named, nothing is allowed; the rule only switches default deny on.
        if !restricted && bare {
            return None;
        }
        Some(Rule { direction, list, index, deny, peers, ports, authenticate, inspect })
    }

    /// The peers of a rule, and whether it says anything about them.
    fn peers(&self, fields: &mut Fields<'_, '_>, direction: Direction, deny: bool) -> (Peers, bool) {
        let keys: &[&'static str] = match (direction, deny) {
            (Direction::Ingress, _) => &[
                "fromEndpoints",
                "fromCIDR",
                "fromCIDRSet",
                "fromEntities",
                "fromNodes",
                "fromGroups",
                "fromRequires",
            ],
            (Direction::Egress, false) => &[
                "toEndpoints",
                "toCIDR",
                "toCIDRSet",
                "toEntities",
                "toNodes",
                "toServices",
                "toFQDNs",
                "toGroups",
                "toRequires",
            ],
            (Direction::Egress, true) => &[
                "toEndpoints",
                "toCIDR",
                "toCIDRSet",
                "toEntities",
                "toNodes",
                "toServices",
                "toGroups",
                "toRequires",
            ],
        };
        let (mut found, mut kinds, mut restricted) = (Vec::new(), Vec::new(), false);
        for key in keys {
            let Some(node) = fields.some(key) else { continue };
            restricted = true;
            if is_empty_list(node) {
                continue;
            }
            kinds.push(*key);
            self.kind_of_peer(fields, key, node, &mut found);
        }
        if kinds.len() > 1 {
            let node = fields.node;
            fields.error(
                node,
                format!("only one kind of peer may be in a rule, here are {}", kinds.join(" and ")),
            );
        }
        (if restricted { Peers::Any(found) } else { Peers::Anyone }, restricted)
    }

    fn kind_of_peer(
        &self,
        fields: &mut Fields<'_, '_>,
        key: &'static str,
        node: &Node,
        found: &mut Vec<Peer>,
    ) {
        if key.ends_with("CIDR") || key.ends_with("Entities") {
            for (text, node, place) in fields.texts(key) {
                let peer = if key.ends_with("CIDR") { peers::cidr } else { peers::entity };
                found.extend(peer(&text, node, &place, fields.problems));
            }
            return;
        }
        if key.ends_with("Groups") {
            fields.error(node, format!("{key} needs a cloud provider's API; use a CiliumCIDRGroup"));
            return;
        }
        if key.ends_with("Requires") {
            let instead = if key.starts_with("from") { "fromEndpoints" } else { "toEndpoints" };
            fields.error(node, format!("{key} was removed from Cilium; put the demands into {instead}"));
            return;
        }
        for (item, place) in fields.list(key).unwrap_or_default() {
            match key {
                "fromEndpoints" | "toEndpoints" => {
                    found.push(peers::endpoints(item, place, self.namespace, fields.problems));
                }
                "fromCIDRSet" | "toCIDRSet" => found.extend(peers::cidr_set(item, place, fields.problems)),
                "fromNodes" | "toNodes" => found.push(peers::nodes(item, place, fields.problems)),
                "toServices" => found.extend(peers::service(item, place, fields.problems)),
                _ => found.extend(peers::name(item, place, fields.problems)),
            }
        }
    }
}

/// `authentication.mode`: disabled is nothing, everything else must be met or dropped.
fn authentication(fields: &mut Fields<'_, '_>) -> bool {
    let Some((node, place)) = fields.object("authentication") else { return false };
    let mut fields = Fields::new(node, place, fields.problems);
    let mode = fields.text("mode").unwrap_or_default();
    fields.deny_unknown();
    match mode.as_str() {
        "disabled" => false,
        "required" | "test-always-fail" => {
            fields.warn(node, "mutual authentication is not done here: flows that need it are dropped (189)");
            true
        }
        other => {
            fields.error(node, format!("mode must be disabled, required or test-always-fail, not {other:?}"));
            true
        }
    }
}

fn port_rules(
    items: &[(&Node, Place)],
    direction: Direction,
    deny: bool,
    problems: &mut Problems,
) -> (Ports, Inspect) {
    let (mut specs, mut inspect) = (Vec::new(), Inspect::No);
    for (node, place) in items {
        let mut fields = Fields::new(node, place.clone(), problems);
        let listed = fields.list("ports");
        for (port, place) in listed.clone().unwrap_or_default() {
            specs.extend(port_spec(port, place, fields.problems));
        }
        if listed.as_ref().is_none_or(Vec::is_empty) {
            specs.extend([6, 17, 132].map(|proto| PortSpec { proto, port: PortName::Range(0, u16::MAX) }));
        }
        if !deny {
            inspect = strictest(inspect, above_ports(&mut fields, direction));
        }
        fields.deny_unknown();
    }
    (if items.is_empty() { Ports::All } else { Ports::Some(specs) }, inspect)
}

fn strictest(a: Inspect, b: Inspect) -> Inspect {
    match (a, b) {
        (Inspect::Other, _) | (_, Inspect::Other) => Inspect::Other,
        (Inspect::Dns, _) | (_, Inspect::Dns) => Inspect::Dns,
        (Inspect::No, Inspect::No) => Inspect::No,
    }
}

/// Rules about what is said on the ports.
fn above_ports(fields: &mut Fields<'_, '_>, direction: Direction) -> Inspect {
    let mut inspect = Inspect::No;
    for key in ["terminatingTLS", "originatingTLS", "listener", "serverNames"] {
        if let Some(node) = fields.some(key) {
            fields
                .warn(node, format!("{key} needs inspection, which is not done yet: such flows are dropped"));
            inspect = Inspect::Other;
        }
    }
    let Some((node, place)) = fields.object("rules") else { return inspect };
    let mut rules = Fields::new(node, place, fields.problems);
    for key in ["http", "kafka", "l7", "l7proto"] {
        if let Some(node) = rules.some(key) {
            rules.warn(
                node,
                format!("{key} rules need inspection, which is not done yet: such flows are dropped"),
            );
            inspect = Inspect::Other;
        }
    }
    if let Some(node) = rules.some("dns") {
        if direction == Direction::Ingress {
            rules.error(node, "dns rules are for egress only");
        }
        rules.warn(node, "dns rules need inspection, which is not done yet: such flows are dropped");
        inspect = strictest(inspect, Inspect::Dns);
    }
    rules.deny_unknown();
    inspect
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
    let port = match port.parse::<u16>() {
        Ok(0) => PortName::Range(0, u16::MAX),
        Ok(first) => {
            let last = end.filter(|end| *end != 0).unwrap_or(first);
            if last < first {
                fields.error(node, format!("endPort {last} is below port {first}"));
                return Vec::new();
            }
            PortName::Range(first, last)
        }
        Err(_) if port.chars().next().is_some_and(|c| c.is_ascii_digit()) => {
            fields.error(node, format!("{port} is no port"));
            return Vec::new();
        }
        Err(_) if end.is_some() => {
            fields.error(node, "endPort needs a numeric port");
            return Vec::new();
        }
        Err(_) => PortName::Named(port.to_lowercase()),
    };
    protos.into_iter().map(|proto| PortSpec { proto, port: port.clone() }).collect()
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

fn icmp_rules(items: &[(&Node, Place)], problems: &mut Problems) -> Ports {
    let mut specs = Vec::new();
    for (node, place) in items {
        let mut fields = Fields::new(node, place.clone(), problems);
        for (node, place) in fields.list("fields").unwrap_or_default() {
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
