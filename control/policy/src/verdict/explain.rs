//! The same answers for a person: who, what, by which rules, and what would have been enough.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sluice_core::verdict::DropReason;

use super::{Judge, Question};
use crate::engine::SpecRuleView;
use crate::policy::{Direction, Peers, PortName, Ports};

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
            let _ = one_direction(name, &told[name], &mut text);
            let side = usize::from(direction == Direction::Ingress);
            if answer.parts[side].reason == Some(DropReason::PolicyDenied) {
                let nearest = self.nearest(question, direction)?;
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
    fn nearest(&self, question: &Value, direction: Direction) -> Result<Vec<String>, String> {
        let asked = Question::read(question)?;
        let family = self.family(question);
        let (Ok(from), Ok(to)) = (self.side(question, "from", family), self.side(question, "to", family))
        else {
            return Ok(Vec::new());
        };
        let (judged, peer) = match direction {
            Direction::Egress => (self.slot(from), self.slot(to)),
            Direction::Ingress => (self.slot(to), self.slot(from)),
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
                (true, false) => misses[1].push(format!(
                    "{name} would allow this on {}, asked {}",
                    port_text(&view, asked.proto),
                    port_asked(&asked),
                )),
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

fn one_direction(name: &str, part: &Value, text: &mut String) -> std::fmt::Result {
    let free = if part["enforced"] == json!(false) { ", no policy enforces this direction" } else { "" };
    writeln!(text, "{name}: {}{free}", part["verdict"].as_str().unwrap_or_default())?;
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

fn port_text(view: &SpecRuleView<'_>, proto: u8) -> String {
    let Ports::Some(specs) = view.ports else { return "all ports".to_owned() };
    let of_proto = |wanted: Option<u8>| -> Vec<String> {
        let fitting = specs.iter().filter(|spec| wanted.is_none_or(|wanted| spec.proto == wanted));
        let mut texts: Vec<String> = fitting
            .map(|spec| {
                let port = match &spec.port {
                    PortName::Range(0, u16::MAX) => "any port".to_owned(),
                    PortName::Range(first, last) if first == last => format!("port {first}"),
                    PortName::Range(first, last) => format!("ports {first}-{last}"),
                    PortName::Named(name) => format!("the port called {name}"),
                };
                if wanted.is_some() {
                    port
                } else {
                    format!("{} {port}", crate::observed::protocol(spec.proto))
                }
            })
            .collect();
        texts.dedup();
        texts
    };
    let same = of_proto(Some(proto));
    if same.is_empty() { of_proto(None).join(", ") } else { same.join(", ") }
}

fn port_asked(asked: &Question) -> String {
    match asked.proto {
        6 | 17 | 132 => asked.port.to_string(),
        1 | 58 => format!("{} type {}", crate::observed::protocol(asked.proto), asked.policy_port),
        other => format!("protocol {other}"),
    }
}
