//! `networking.k8s.io/v1` NetworkPolicy, in Cilium's reading of it.

use super::{
    Direction, Effect, Peer, Peers, Policy, PortName, PortSpec, Ports, Rule, Source, Spot, Subject, Tier,
    peers, ports,
};
use crate::decode::{Fields, Place, Problems};
use crate::labels::{NAMESPACE, NAMESPACE_LABELS, Operator, Selector};
use crate::objects::{Metadata, protocol};
use crate::tree::{Node, Value};

pub fn read(node: &Node, place: Place, metadata: Metadata, problems: &mut Problems) -> Option<Policy> {
    let namespace = if metadata.namespace.is_empty() { "default".to_owned() } else { metadata.namespace };
    let mut whole = Fields::new(node, place, problems);
    let spec = whole.object("spec");
    for known in ["apiVersion", "kind", "metadata", "status"] {
        whole.raw(known);
    }
    whole.deny_unknown();
    let Some((spec, place)) = spec else {
        whole.error(node, "a NetworkPolicy needs a spec");
        return None;
    };
    let at = Spot::new(spec, &place);
    let mut fields = Fields::new(spec, place, whole.problems);
    let mut subject = selector(&mut fields, "podSelector").unwrap_or_default();
    subject.force(&["", "k8s"], NAMESPACE, &namespace);
    let (ingress, egress) = (fields.list("ingress"), fields.list("egress"));
    let types: Vec<String> = fields.texts("policyTypes").into_iter().map(|(text, _, _)| text).collect();
    fields.deny_unknown();
    let is_type = |text: &String| text == "Ingress" || text == "Egress";
    if let Some(odd) = types.iter().find(|text| !is_type(text)) {
        fields.error(spec, format!("policyTypes must be Ingress or Egress, not {odd}"));
    }
    // Without types a policy is about ingress, and about egress if it has egress rules.
    let applies = |name: &str, implied: bool| {
        if types.is_empty() { implied } else { types.iter().any(|text| text == name) }
    };
    let egresses = egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let default_deny = [applies("Ingress", true), applies("Egress", egresses)];
    if egress.is_some() && !egresses && types.is_empty() {
        // As the API server completes it.
        fields.warn(spec, "an empty egress without policyTypes closes nothing; say policyTypes: [Egress]");
    }
    let mut rules = Vec::new();
    for (direction, list, items) in
        [(Direction::Ingress, "ingress", ingress), (Direction::Egress, "egress", egress)]
    {
        let applies = default_deny[usize::from(direction == Direction::Egress)];
        if !applies && items.as_ref().is_some_and(|items| !items.is_empty()) && types.iter().all(is_type) {
            fields.warn(spec, format!("{list} means nothing here: policyTypes leaves it out"));
        }
        for (index, (item, place)) in items.unwrap_or_default().into_iter().enumerate() {
            let rule = rule(item, place, direction, list, index, &namespace, fields.problems);
            rules.extend(applies.then_some(rule));
        }
    }
    let source = Source { kind: "NetworkPolicy", namespace, name: metadata.name };
    Some(Policy { source, subject: Subject::Endpoints(subject), rules, default_deny, log: None, at })
}

fn selector(fields: &mut Fields<'_, '_>, key: &'static str) -> Option<Selector> {
    let (node, place) = fields.object(key)?;
    let mut fields = Fields::new(node, place, fields.problems);
    Some(Selector::read(&mut fields))
}

fn rule(
    node: &Node,
    place: Place,
    direction: Direction,
    list: &'static str,
    index: usize,
    namespace: &str,
    problems: &mut Problems,
) -> Rule {
    let at = Spot::new(node, &place);
    let mut fields = Fields::new(node, place, problems);
    let key = if direction == Direction::Ingress { "from" } else { "to" };
    let items = fields.list(key).unwrap_or_default();
    let mut found = Vec::new();
    for (item, place) in &items {
        found.extend(peer(item, place.clone(), namespace, fields.problems));
    }
    let mut ports = Vec::new();
    let listed = fields.list("ports").unwrap_or_default();
    for (item, place) in &listed {
        ports.extend(port(item, place.clone(), fields.problems));
    }
    fields.deny_unknown();
    Rule {
        direction,
        list,
        index,
        effect: Effect::Allow,
        tier: Tier::Normal,
        priority: 0,
        // Unlike in Cilium's own policies an empty list is everybody here.
        peers: if items.is_empty() { Peers::Anyone } else { Peers::Any(found) },
        ports: if listed.is_empty() { Ports::All } else { Ports::Some(ports) },
        authenticate: false,
        above: None,
        at,
    }
}

fn peer(node: &Node, place: Place, namespace: &str, problems: &mut Problems) -> Option<Peer> {
    let mut fields = Fields::new(node, place, problems);
    let block = fields.object("ipBlock");
    let (pods, spaces) = (selector(&mut fields, "podSelector"), selector(&mut fields, "namespaceSelector"));
    fields.deny_unknown();
    if let Some((node, place)) = block {
        if pods.is_some() || spaces.is_some() {
            fields.error(node, "ipBlock cannot be combined with selectors");
            return None;
        }
        return peers::ip_block(node, place, fields.problems);
    }
    let mut selector = match (&pods, &spaces) {
        (None, None) => {
            fields.error(node, "a peer needs podSelector, namespaceSelector or ipBlock");
            return None;
        }
        (Some(pods), _) => pods.clone(),
        (None, Some(_)) => Selector::default(),
    };
    match spaces {
        None => selector.and("k8s", NAMESPACE, Operator::In(vec![namespace.to_owned()])),
        Some(spaces) if spaces.0.is_empty() => selector.and("k8s", NAMESPACE, Operator::Exists),
        Some(spaces) => {
            for requirement in spaces.0 {
                let key = format!("{NAMESPACE_LABELS}{}", requirement.key);
                selector.and("k8s", &key, requirement.operator);
            }
            selector.and("k8s", NAMESPACE, Operator::Exists);
        }
    }
    Some(Peer::Endpoints(selector))
}

fn port(node: &Node, place: Place, problems: &mut Problems) -> Vec<PortSpec> {
    let mut fields = Fields::new(node, place, problems);
    let name = fields.text("protocol").unwrap_or_else(|| "TCP".to_owned());
    let (raw, end) = (fields.some("port"), fields.int("endPort", 1, 65535));
    fields.deny_unknown();
    let Some(proto) = protocol(&name) else {
        fields.error(node, format!("protocol must be TCP, UDP or SCTP, not {name}"));
        return Vec::new();
    };
    let range = |first: u16, last: u16| vec![PortSpec { proto, port: PortName::Range(first, last) }];
    match raw.map(|node| &node.value) {
        None if end.is_some() => {
            fields.error(node, "endPort needs a port");
            Vec::new()
        }
        None => range(0, u16::MAX),
        Some(Value::Int(n)) => {
            let Some(first) = u16::try_from(*n).ok().filter(|port| *port != 0) else {
                fields.error(node, format!("{n} is no port"));
                return Vec::new();
            };
            let last = end.and_then(|end| u16::try_from(end).ok()).unwrap_or(first);
            if last < first {
                fields.error(node, format!("endPort {last} is below port {first}"));
                return Vec::new();
            }
            range(first, last)
        }
        Some(Value::Text(_)) if end.is_some() => {
            fields.error(node, "endPort needs a numeric port");
            Vec::new()
        }
        Some(Value::Text(name)) => match ports::named(name) {
            Some(port) => vec![PortSpec { proto, port }],
            None => {
                fields.error(node, ports::no_port(name));
                Vec::new()
            }
        },
        Some(other) => {
            let what = format!("a port must be a number or a name, not {}", other.kind());
            fields.error(node, what);
            Vec::new()
        }
    }
}
