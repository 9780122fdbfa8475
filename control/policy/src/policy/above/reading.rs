//! Reading what rules ask for above ports.

use super::talk::api_key;
use super::{Above, Hands, HeaderMatch, HttpRule, KafkaRule, Kind, Pattern};
use crate::decode::{Fields, Place, Problems};
use crate::fqdn;
use crate::policy::{Direction, PortName, PortSpec, peers};
use crate::tree::Node;

/// `serverNames`, `terminatingTLS`, `originatingTLS`, `listener` and `rules` of a port rule. `None`: nothing is asked.
pub fn read(fields: &mut Fields<'_, '_>, direction: Direction, ports: &[PortSpec]) -> Option<Above> {
    let node = fields.node;
    let server_names = server_names(fields);
    let mut tls = false;
    let mut terminates = false;
    for key in ["terminatingTLS", "originatingTLS"] {
        if let Some((node, place)) = fields.object(key) {
            tls = true;
            terminates |= key == "terminatingTLS";
            tls_context(node, place, fields.problems);
        }
    }
    let listens = fields.object("listener");
    if let Some((node, place)) = &listens {
        listener(node, place.clone(), direction, fields.problems);
    }
    let rules = fields.object("rules").map(|(node, place)| {
        let mut rules = Fields::new(node, place, fields.problems);
        let kind = kind(&mut rules, direction, ports);
        rules.deny_unknown();
        kind
    });
    let kind = rules.flatten();
    if kind.is_some() && listens.is_some() {
        fields.error(node, "listener and rules exclude each other");
    }
    if kind.is_some() && !server_names.is_empty() && !terminates {
        fields.error(node, "serverNames with rules need terminatingTLS");
    }
    let hands = match (listens.is_some(), tls) {
        (true, _) => Hands::Listener,
        (false, true) => Hands::TlsProxy,
        (false, false) => Hands::Reader,
    };
    if kind.is_none() && server_names.is_empty() && hands == Hands::Reader {
        return None;
    }
    let above = Above { server_names, hands, kind: kind.unwrap_or(Kind::Any) };
    if !above.is_dns() {
        let what = "what is asked for above ports is judged by `verdict`; on live traffic, flows that need it are \
                    dropped until inspection is there";
        fields.warn(node, what);
    }
    Some(above)
}

fn server_names(fields: &mut Fields<'_, '_>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, node, place) in fields.texts("serverNames") {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
            fields.problems.errors.push(place.problem(node, format!("{name:?} is no server name")));
            continue;
        }
        names.push(fqdn::normal(&name));
    }
    names
}

fn tls_context(node: &Node, place: Place, problems: &mut Problems) {
    let mut fields = Fields::new(node, place, problems);
    match fields.object("secret") {
        Some((node, place)) => secret(node, place, fields.problems),
        None => fields.error(node, "secret is missing"),
    }
    for key in ["trustedCA", "certificate", "privateKey"] {
        fields.text(key);
    }
    fields.deny_unknown();
}

fn secret(node: &Node, place: Place, problems: &mut Problems) {
    let mut fields = Fields::new(node, place, problems);
    fields.text("namespace");
    if fields.text("name").is_none_or(|name| name.is_empty()) {
        fields.error(node, "a secret needs a name");
    }
    fields.deny_unknown();
}

fn listener(node: &Node, place: Place, direction: Direction, problems: &mut Problems) {
    let mut fields = Fields::new(node, place, problems);
    if direction == Direction::Ingress {
        fields.error(node, "listener is for egress only");
    }
    match fields.object("envoyConfig") {
        Some((node, place)) => {
            let mut config = Fields::new(node, place, fields.problems);
            let kind = config.text("kind");
            let known = ["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"];
            if kind.is_some_and(|kind| !known.contains(&kind.as_str())) {
                config.error(node, "kind must be CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig");
            }
            if config.text("name").is_none() {
                config.error(node, "name is missing");
            }
            config.deny_unknown();
        }
        None => fields.error(node, "envoyConfig is missing"),
    }
    if fields.text("name").is_none() {
        fields.error(node, "name is missing");
    }
    fields.int("priority", 1, 100);
    fields.deny_unknown();
}

/// One kind of rules; `None`: none is there.
fn kind(fields: &mut Fields<'_, '_>, direction: Direction, ports: &[PortSpec]) -> Option<Kind> {
    let node = fields.node;
    let (http, kafka) = (fields.list("http"), fields.list("kafka"));
    let (dns, other) = (fields.list("dns"), fields.text("l7proto"));
    let pairs = fields.list("l7");
    let given: Vec<&str> = [
        ("http", http.is_some()),
        ("kafka", kafka.is_some()),
        ("dns", dns.is_some()),
        ("l7proto", other.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect();
    if given.len() > 1 {
        fields.error(node, format!("only one kind of rules may be here, not {}", given.join(" and ")));
    }
    if pairs.is_some() && other.is_none() {
        fields.error(node, "l7 needs l7proto");
    }
    for (pair, place) in pairs.unwrap_or_default() {
        // Keys and values mean something to the parser of that protocol alone.
        drop(Fields::new(pair, place, fields.problems));
    }
    let first = given.first()?;
    check_ports(fields, first, ports);
    if *first == "dns" && direction == Direction::Ingress {
        fields.error(node, "dns rules are for egress only");
    }
    let problems = &mut *fields.problems;
    Some(match *first {
        "http" => Kind::Http(http.into_iter().flatten().map(|(n, p)| http_rule(n, p, problems)).collect()),
        "kafka" => {
            Kind::Kafka(kafka.into_iter().flatten().map(|(n, p)| kafka_rule(n, p, problems)).collect())
        }
        "dns" => {
            Kind::Dns(dns.into_iter().flatten().filter_map(|(n, p)| peers::pattern(n, p, problems)).collect())
        }
        _ => Kind::Other(other.unwrap_or_default()),
    })
}

fn check_ports(fields: &mut Fields<'_, '_>, kind: &str, ports: &[PortSpec]) {
    let node = fields.node;
    if ports.is_empty() || ports.iter().any(|spec| spec.port == PortName::Range(0, u16::MAX)) {
        fields.error(node, format!("{kind} rules need a port"));
    }
    if kind != "dns" && ports.iter().any(|spec| spec.proto != 6) {
        fields.error(node, format!("{kind} rules are for protocol TCP alone"));
    }
    let is_range = |spec: &PortSpec| matches!(spec.port, PortName::Range(first, last) if first != last && (first, last) != (0, u16::MAX));
    if kind == "dns" && ports.iter().any(is_range) {
        fields.error(node, "dns rules cannot stand on a range of ports");
    }
}

fn pattern(fields: &mut Fields<'_, '_>, key: &'static str) -> Option<Pattern> {
    let text = fields.text(key).filter(|text| !text.is_empty())?;
    let node = fields.node;
    let at = node.get(key).unwrap_or(node);
    Pattern::new(&text)
        .map_err(|what| fields.problems.errors.push(fields.place.key(key).problem(at, what)))
        .ok()
}

fn http_rule(node: &Node, place: Place, problems: &mut Problems) -> HttpRule {
    let mut fields = Fields::new(node, place, problems);
    let mut rule = HttpRule {
        path: pattern(&mut fields, "path"),
        method: pattern(&mut fields, "method"),
        host: pattern(&mut fields, "host"),
        ..HttpRule::default()
    };
    for (text, node, place) in fields.texts("headers") {
        // `Name: value` or `Name value`; without a space it is a name alone.
        let (name, value) = text.split_once(' ').map_or((text.as_str(), None), |(n, v)| (n, Some(v)));
        if value.is_none() && name.contains(':') {
            let what = format!("without a space this is a header called {name}, which no request has");
            fields.problems.warnings.push(place.problem(node, what));
        }
        let name = if value.is_some() { name.trim_end_matches(':') } else { name };
        rule.headers.push((name.to_owned(), value.map(str::to_owned)));
    }
    for (node, place) in fields.list("headerMatches").unwrap_or_default() {
        rule.header_matches.extend(header_match(node, place, fields.problems));
    }
    fields.deny_unknown();
    rule
}

fn header_match(node: &Node, place: Place, problems: &mut Problems) -> Option<HeaderMatch> {
    let mut fields = Fields::new(node, place, problems);
    let (name, value, mismatch) = (fields.text("name"), fields.text("value"), fields.text("mismatch"));
    let held = fields.object("secret");
    if let Some((node, place)) = &held {
        secret(node, place.clone(), fields.problems);
    }
    fields.deny_unknown();
    let tolerant = match mismatch.as_deref() {
        None | Some("") => false,
        Some("LOG" | "ADD" | "DELETE" | "REPLACE") => true,
        Some(other) => {
            fields.error(node, format!("mismatch must be LOG, ADD, DELETE or REPLACE, not {other}"));
            false
        }
    };
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        fields.error(node, "name is missing");
        return None;
    };
    let value = value.filter(|value| !value.is_empty());
    Some(HeaderMatch { name, value, secret: held.is_some(), tolerant })
}

/// API keys that a producer needs, and a consumer.
const PRODUCE: [i64; 3] = [0, 3, 18];
const CONSUME: [i64; 11] = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];

fn kafka_rule(node: &Node, place: Place, problems: &mut Problems) -> KafkaRule {
    let mut fields = Fields::new(node, place, problems);
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (role, key) = (filled(fields.text("role")), filled(fields.text("apiKey")));
    let (version, client) = (fields.loose_text("apiVersion"), fields.text("clientID"));
    let topic = fields.text("topic");
    fields.deny_unknown();
    if role.is_some() && key.is_some() {
        fields.error(node, "role and apiKey exclude each other");
    }
    let keys = match (role.as_deref(), key.as_deref()) {
        (Some(role), _) if role.eq_ignore_ascii_case("produce") => PRODUCE.to_vec(),
        (Some(role), _) if role.eq_ignore_ascii_case("consume") => CONSUME.to_vec(),
        (Some(other), _) => {
            fields.error(node, format!("role must be produce or consume, not {other}"));
            Vec::new()
        }
        (None, None) => Vec::new(),
        (None, Some(name)) => match api_key(name) {
            Some(key) => vec![key],
            None => {
                fields.error(node, format!("there is no Kafka request {name}"));
                Vec::new()
            }
        },
    };
    let version = filled(version).and_then(|text| {
        let number = text.parse::<u16>().ok().filter(|number| *number <= 0x7FFF);
        if number.is_none() {
            fields.error(node, format!("apiVersion {text} is no number up to 32767"));
        }
        number.map(i64::from)
    });
    for (name, value) in [("topic", &topic), ("clientID", &client)] {
        if value.as_ref().is_some_and(|value| value.len() > 255) {
            fields.error(node, format!("{name} is longer than 255"));
        }
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.as_ref().is_some_and(|topic| !topic.chars().all(fits)) {
        fields.error(node, "a topic has letters, digits, '.', '_' and '-' alone");
    }
    KafkaRule { keys, version, client: filled(client), topic: filled(topic) }
}
