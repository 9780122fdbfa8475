//! The same answers for a person: who, what, by which rules, and what would have been enough.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sluice_core::verdict::DropReason;

use super::{Answer, Judge, Question};
use crate::engine::SpecRuleView;
use crate::policy::{Direction, Peers, PortName, PortSpec, Ports};

impl Judge {
    /// A text, and the answer that it tells.
    pub fn explain(&mut self, question: &Value) -> Result<(String, Value), String> {
        let answer = self.answer(question)?;
        let mut line = String::new();
        self.write(&answer, &mut line);
        let mut told: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = head(question, &told, &mut text);
        for (direction, name) in [(Direction::Egress, "egress"), (Direction::Ingress, "ingress")] {
            let part = &answer.parts[usize::from(direction == Direction::Ingress)];
            let _ = one_direction(name, &told[name], part.spared, &mut text);
            if part.reason.or(part.spared) == Some(DropReason::PolicyDenied) {
                let nearest = self.nearest(question, &answer, direction)?;
                for miss in &nearest {
                    let _ = writeln!(text, "  nearly: {miss}");
                }
                told[name]["nearest"] = json!(nearest);
            }
        }
        let reason = told["drop_reason_desc"].as_str();
        let reason = reason.map_or_else(String::new, |name| format!(" ({name} {})", told["drop_reason"]));
        let _ = writeln!(text, "{}{reason}", answer.verdict);
        Ok((text, told))
    }

    /// Rules that would allow this but for one thing: the port, the peer, or what was said.
    fn nearest(
        &self,
        question: &Value,
        answer: &Answer,
        direction: Direction,
    ) -> Result<Vec<String>, String> {
        let mut asked = Question::read(question)?;
        if let Some((_, port)) = answer.backend {
            (asked.port, asked.policy_port) = (port, port);
        }
        let (judged, peer) = match direction {
            Direction::Egress => (answer.source, answer.destination),
            Direction::Ingress => (answer.destination, answer.source),
        };
        // The nearest first: what was said, the port, the peer.
        let mut misses: [Vec<String>; 3] = Default::default();
        for view in self.compiled.engine.allowing(judged, peer, direction) {
            let fits = self.compiled.engine.port_fits(&view, judged, peer, asked.proto, asked.policy_port);
            let name = name(&view);
            match (view.names_peer, fits) {
                (true, true) if view.above.is_some() => {
                    misses[0].push(format!("{name} would allow this if what is said were what it asks for"));
                }
                (true, false) => {
                    let (on, asked) = ports_text(&view, &asked);
                    misses[1].push(format!("{name} would allow this on {on}, asked {asked}"));
                }
                (false, true) => misses[2].push(format!("{name} allows this to {}", peers_text(view.peers))),
                (true, true) | (false, false) => {}
            }
        }
        let mut nearest = misses.into_iter().find(|list| !list.is_empty()).unwrap_or_default();
        nearest.sort();
        nearest.dedup();
        nearest.truncate(10);
        Ok(nearest)
    }
}

fn peers_text(peers: &Peers) -> String {
    match peers {
        Peers::Anyone => "everybody".to_owned(),
        Peers::Any(list) if list.is_empty() => "nobody".to_owned(),
        Peers::Any(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", or "),
    }
}

fn head(question: &Value, told: &Value, text: &mut String) -> std::fmt::Result {
    let labels = |side: &str| {
        let list = told[side]["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    for (title, field, side) in [("from", "from", "source"), ("to  ", "to", "destination")] {
        let who = question[field].as_str().unwrap_or_default();
        writeln!(text, "{title} {who}  (identity {}: {})", told[side]["identity"], labels(side))?;
    }
    if let Some(frontend) = told["frontend"].as_str() {
        writeln!(text, "frontend {frontend}")?;
    }
    if let Some(backend) = told.get("backend") {
        writeln!(text, "backend {}:{}", backend["ip"].as_str().unwrap_or_default(), backend["port"])?;
    }
    Ok(())
}

fn one_direction(
    name: &str,
    part: &Value,
    spared: Option<DropReason>,
    text: &mut String,
) -> std::fmt::Result {
    let free = if part["enforced"] == json!(false) { ", no policy enforces this direction" } else { "" };
    let spared = spared.map_or_else(String::new, |why| {
        format!(", without audit it would be dropped ({} {})", why.name(), why.number())
    });
    writeln!(text, "{name}: {}{free}{spared}", part["verdict"].as_str().unwrap_or_default())?;
    for (title, key) in [("  rule", "rules"), ("  enforced by", "enforced_by")] {
        for rule in part[key].as_array().into_iter().flatten() {
            writeln!(text, "{title} {}", rule_text(rule))?;
        }
    }
    Ok(())
}

fn rule_text(rule: &Value) -> String {
    let part = |name: &str| rule[name].as_str().unwrap_or_default();
    let at = rule["index"].as_u64().map_or_else(String::new, |index| format!(" {}[{index}]", part("list")));
    match part("namespace") {
        "" => format!("{} {}{at}", part("kind"), part("name")),
        namespace => format!("{} {namespace}/{}{at}", part("kind"), part("name")),
    }
}

fn name(view: &SpecRuleView<'_>) -> String {
    let source = view.source;
    let whose = match source.namespace.as_str() {
        "" => source.name.clone(),
        namespace => format!("{namespace}/{}", source.name),
    };
    format!("{}[{}] of {whose}", view.list, view.index)
}

/// The ports of a rule, and what was asked: of the protocol that was asked for, or both with their protocols.
fn ports_text(view: &SpecRuleView<'_>, asked: &Question) -> (String, String) {
    let Ports::Some(specs) = view.ports else { return ("all ports".to_owned(), port_asked(asked, false)) };
    let alike = specs.iter().any(|spec| spec.proto == asked.proto);
    let fitting = specs.iter().filter(|spec| !alike || spec.proto == asked.proto);
    let mut texts: Vec<String> = fitting.map(|spec| spec_text(spec, !alike)).collect();
    texts.dedup();
    let texts = if texts.is_empty() { "no port".to_owned() } else { texts.join(", ") };
    (texts, port_asked(asked, !alike))
}

fn spec_text(spec: &PortSpec, with_proto: bool) -> String {
    let proto = crate::observed::protocol(spec.proto);
    let port = match (&spec.port, spec.proto) {
        (PortName::Range(first, _), 1 | 58) => return format!("{proto} type {first}"),
        (PortName::Range(0, u16::MAX), 6 | 17 | 132) => "any port".to_owned(),
        (PortName::Range(0, u16::MAX), _) => return format!("protocol {proto}"),
        (PortName::Range(first, last), _) if first == last => format!("port {first}"),
        (PortName::Range(first, last), _) => format!("ports {first}-{last}"),
        (PortName::Named(name), _) => format!("the port called {name}"),
    };
    if with_proto { format!("{proto} {port}") } else { port }
}

fn port_asked(asked: &Question, with_proto: bool) -> String {
    let proto = crate::observed::protocol(asked.proto);
    match asked.proto {
        6 | 17 | 132 if with_proto => format!("{proto} {}", asked.port),
        6 | 17 | 132 => asked.port.to_string(),
        1 | 58 => format!("{proto} type {}", asked.policy_port),
        _ => format!("protocol {proto}"),
    }
}
