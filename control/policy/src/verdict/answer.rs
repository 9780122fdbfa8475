//! Answers, and how they are written: a line of JSON each, from pieces that are made once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;

use serde_json::{Value, json};
use sluice_core::tables::record::{IdentitySlot, RuleId};
use sluice_core::verdict::DropReason;

use super::{Judge, Side};
use crate::compile::source_json;
use crate::observed::Naming;
use crate::policy::Direction;

/// What the tables say to one question.
#[derive(Clone, Debug)]
pub struct Answer {
    pub id: Value,
    /// FORWARDED, DROPPED, REDIRECTED or AUDIT.
    pub verdict: &'static str,
    pub reason: Option<DropReason>,
    /// Egress, ingress.
    pub parts: [Part; 2],
    pub source: IdentitySlot,
    pub destination: IdentitySlot,
    pub frontend: Option<String>,
    pub backend: Option<(IpAddr, u16)>,
}

/// What one direction's policies say.
#[derive(Clone, Debug)]
pub struct Part {
    pub enforced: bool,
    pub verdict: &'static str,
    pub reason: Option<DropReason>,
    /// Why it would have been dropped, where nobody is kept out (AUDIT).
    pub spared: Option<DropReason>,
    /// Those that decided.
    pub rules: Vec<RuleId>,
    /// Whose policies they are.
    pub judged: IdentitySlot,
}

impl Answer {
    /// Nobody is there to be judged.
    pub(super) fn refused(source: IdentitySlot, reason: DropReason) -> Self {
        let nobody = || Part {
            enforced: false,
            verdict: "DROPPED",
            reason: None,
            spared: None,
            rules: Vec::new(),
            judged: IdentitySlot::default(),
        };
        Self {
            id: Value::Null,
            verdict: "DROPPED",
            reason: Some(reason),
            parts: [nobody(), nobody()],
            source,
            destination: IdentitySlot::default(),
            frontend: None,
            backend: None,
        }
    }
}

/// Pieces of answers that are the same for many.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// What the sides of questions mean, by address family (any, IPv4, IPv6).
    pub sides: RefCell<HashMap<String, [Option<Side>; 3]>>,
    identities: RefCell<HashMap<IdentitySlot, Rc<str>>>,
    rules: RefCell<HashMap<RuleId, Rc<str>>>,
    enforcing: RefCell<HashMap<(IdentitySlot, Direction), Rc<str>>>,
}

fn known<K: std::hash::Hash + Eq>(
    map: &RefCell<HashMap<K, Rc<str>>>,
    key: K,
    make: impl FnOnce() -> Value,
) -> Rc<str> {
    let mut map = map.borrow_mut();
    Rc::clone(map.entry(key).or_insert_with(|| make().to_string().into()))
}

impl Judge {
    /// The answer as a line of JSON.
    pub(super) fn write(&self, answer: &Answer, out: &mut String) {
        let mut line = || -> std::fmt::Result {
            write!(out, "{{\"id\":{},\"verdict\":\"{}\"", answer.id, answer.verdict)?;
            if let Some(reason) = answer.reason {
                write!(
                    out,
                    ",\"drop_reason\":{},\"drop_reason_desc\":\"{}\"",
                    reason.number(),
                    reason.name()
                )?;
            }
            for (name, part, direction) in [
                ("egress", &answer.parts[0], Direction::Egress),
                ("ingress", &answer.parts[1], Direction::Ingress),
            ] {
                write!(out, ",\"{name}\":")?;
                self.write_part(part, direction, out)?;
            }
            let (source, destination) = (self.identity(answer.source), self.identity(answer.destination));
            write!(out, ",\"source\":{source},\"destination\":{destination}")?;
            if let Some(frontend) = &answer.frontend {
                write!(out, ",\"frontend\":{}", json!(frontend))?;
            }
            if let Some((ip, port)) = answer.backend {
                let backend =
                    json!({"ip": ip, "port": port, "endpoint": Naming::endpoint(&self.compiled, ip)});
                write!(out, ",\"backend\":{backend}")?;
            }
            out.push('}');
            Ok(())
        };
        // Writing to a text cannot fail.
        let _ = line();
    }

    fn write_part(&self, part: &Part, direction: Direction, out: &mut String) -> std::fmt::Result {
        write!(out, "{{\"enforced\":{},\"verdict\":\"{}\",\"rules\":[", part.enforced, part.verdict)?;
        for (n, rule) in part.rules.iter().enumerate() {
            let text =
                known(&self.texts.rules, *rule, || Naming::rule(&self.compiled, *rule).unwrap_or_default());
            write!(out, "{}{text}", if n > 0 { "," } else { "" })?;
        }
        let sources = || -> Value {
            let sources = self.compiled.engine.enforcing(part.judged, direction);
            sources.into_iter().map(source_json).collect()
        };
        let enforcing = known(&self.texts.enforcing, (part.judged, direction), sources);
        write!(out, "],\"enforced_by\":{enforcing}}}")
    }

    fn identity(&self, slot: IdentitySlot) -> Rc<str> {
        known(&self.texts.identities, slot, || match self.compiled.engine.party(slot) {
            Some(party) => {
                let labels: Vec<String> = party.labels.iter().map(ToString::to_string).collect();
                json!({"identity": party.number, "labels": labels})
            }
            None => json!({"identity": 0, "labels": []}),
        })
    }
}
