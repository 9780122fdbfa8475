//! Questions about flows, answered offline by the compiled tables: `verdict`, `explain` and `diff`.

mod answer;
mod compare;
mod explain;
mod names;
mod question;
mod service;

use serde_json::{Value, json};
use sluice_core::emit::mapped;
use sluice_core::tables::Tables;
use sluice_core::tables::ipcache::Row;
use sluice_core::tables::policy::Decision;
use sluice_core::tables::record::{IdentitySlot, RuleId};
use sluice_core::verdict::{Action, DropReason};

use crate::compile::Compiled;
use crate::decode::Problems;
use crate::engine::Asked as Port;
use crate::objects::Objects;
use crate::policy::Direction;
use crate::policy::above::together;

pub use answer::Answer;
use answer::{Part, Texts};
pub use compare::{Differences, differences, recorded, told_names, with_stand_ins};
use names::Names;
use question::{Question, Side};
use service::Target;

/// Judges questions by one set of objects.
#[derive(Debug)]
pub struct Judge {
    pub compiled: Compiled,
    tables: Tables,
    names: Names,
    texts: Texts,
}

impl Judge {
    pub fn new(compiled: Compiled) -> Result<Self, String> {
        let mut tables = Tables::default();
        tables.apply(&compiled.changes(), None).map_err(|error| error.to_string())?;
        Ok(Self { compiled, tables, names: Names::default(), texts: Texts::default() })
    }

    /// Take in a newer set of objects.
    pub fn update(&mut self, objects: Objects, problems: Problems) -> Result<(), String> {
        let changes = self.compiled.update(objects, problems);
        self.texts = Texts::default();
        self.tables.apply(&changes, None).map_err(|error| error.to_string()).map(drop)
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// One line in, one line out; nothing for lines that only teach. `Err` holds the answer that says what is wrong.
    pub fn line(&mut self, line: &str) -> Result<Option<Value>, Value> {
        let mut text = String::new();
        let understood = self.line_to(line, &mut text);
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if understood { Ok((!text.is_empty()).then_some(value)) } else { Err(value) }
    }

    /// The same, the answer appended as text. False: the line could not be understood, and the answer says so.
    pub fn line_to(&mut self, line: &str, out: &mut String) -> bool {
        let question: Value = match serde_json::from_str(line) {
            Ok(question) => question,
            Err(error) => {
                out.push_str(&json!({"id": null, "error": error.to_string()}).to_string());
                return false;
            }
        };
        let answered = if question.get("learn").is_some() {
            self.learn(&question)
        } else {
            self.answer(&question).map(|answer| self.write(&answer, out))
        };
        if let Err(error) = &answered {
            let id = question.get("id").cloned().unwrap_or(Value::Null);
            out.push_str(&json!({"id": id, "error": error}).to_string());
        }
        answered.is_ok()
    }

    /// What the tables say to a question.
    pub fn answer(&mut self, question: &Value) -> Result<Answer, String> {
        let asked = Question::read(question)?;
        if let Some(at) = question.get("at").filter(|at| !at.is_null()) {
            self.advance(at)?;
        }
        let family = self.family(question);
        let from = self.side(question, "from", family)?;
        let v4 = match (family, from) {
            (None, Side::Address(ip)) => Some(ip.is_ipv4()),
            (known, _) => known,
        };
        let Target { frontend, to, backend } = match question.get("to").and_then(Value::as_str) {
            Some(text) if text.starts_with("service:") => {
                self.service(&text["service:".len()..], &asked, from, v4)?
            }
            _ => self.by_address(self.side(question, "to", v4)?, &asked, from),
        };
        let mut answer = match to {
            Ok(to) => {
                let asked = match backend {
                    Some((_, port)) => Question { port, policy_port: port, ..asked },
                    None => asked,
                };
                self.policies(from, to, &asked)
            }
            Err(reason) => Answer::refused(self.slot(from), reason),
        };
        answer.id = question.get("id").cloned().unwrap_or(Value::Null);
        answer.frontend = frontend;
        answer.backend = backend;
        Ok(answer)
    }

    /// The identity behind a side.
    fn slot(&self, side: Side) -> IdentitySlot {
        match side {
            Side::Address(ip) => self.tables.ipcache.slot(mapped(ip), ip.is_ipv4()),
            Side::Reserved(number) => self.compiled.engine.reserved_slot(number).unwrap_or_default(),
        }
    }

    fn row(&self, slot: IdentitySlot) -> &Row {
        self.tables.ipcache.row(slot.0)
    }

    fn policies(&self, from: Side, to: Side, asked: &Question) -> Answer {
        let (source, destination) = (self.slot(from), self.slot(to));
        let sides = [(source, destination, Direction::Egress), (destination, source, Direction::Ingress)];
        let parts = sides.map(|(judged, peer, direction)| self.direction(judged, peer, direction, asked));
        let verdicts = parts.each_ref().map(|part| part.verdict);
        let strongest = ["DROPPED", "AUDIT", "REDIRECTED"].into_iter().find(|one| verdicts.contains(one));
        let verdict = strongest.unwrap_or("FORWARDED");
        let reason = parts.iter().find(|part| part.verdict == "DROPPED").and_then(|part| part.reason);
        Answer { id: Value::Null, verdict, reason, parts, source, destination, frontend: None, backend: None }
    }

    fn direction(
        &self,
        slot: IdentitySlot,
        peer: IdentitySlot,
        direction: Direction,
        asked: &Question,
    ) -> Part {
        let row = self.row(slot);
        let class = if direction == Direction::Egress { row.egress } else { row.ingress };
        let enforced = class.is_some() && self.compiled.engine.is_enforced(slot, direction);
        let mut part = Part {
            enforced,
            verdict: "FORWARDED",
            reason: None,
            spared: None,
            rules: Vec::new(),
            judged: slot,
        };
        // Without word of a smaller path, connections would hang; it is part of what they are.
        let tells_mtu = matches!((asked.proto, asked.policy_port, asked.icmp_code), (1, 3, 4) | (58, 2, _));
        if tells_mtu && self.compiled.options.kinds.frag_needed {
            return part;
        }
        let decision = self.tables.policies.decide(class, self.row(peer), asked.proto, asked.policy_port);
        let port = Port { proto: asked.proto, port: asked.policy_port };
        let (verdict, why) = outcome(&decision);
        part.verdict = verdict;
        *(if verdict == "AUDIT" { &mut part.spared } else { &mut part.reason }) = why;
        part.rules = self.compiled.engine.deciding(slot, peer, direction, port, decision.rule);
        if let Some(Action::Dns(hearing) | Action::Inspect(hearing)) = decision.action
            && !asked.talk.is_empty()
        {
            self.hear(hearing, peer, asked, &mut part);
        }
        part
    }

    /// Above ports the question itself says what was said.
    fn hear(&self, hearing: u32, peer: IdentitySlot, asked: &Question, part: &mut Part) {
        let peer = self.row(peer);
        let hearing = self.compiled.engine.hearing(hearing).map(Vec::as_slice).unwrap_or_default();
        let rules = hearing.iter().filter(|heard| peer.in_set(heard.peers));
        match together(rules.clone().map(|heard| heard.above.as_deref()), &asked.talk) {
            Some(true) => {
                let content = rules.filter(|heard| {
                    heard.above.as_ref().is_none_or(|above| above.answer(&asked.talk) == Some(true))
                });
                part.rules = content.map(|heard| heard.rule).filter(|rule| *rule != RuleId(0)).collect();
                part.rules.dedup();
                part.verdict = "FORWARDED";
            }
            Some(false) => (part.verdict, part.reason) = ("DROPPED", Some(DropReason::PolicyDenied)),
            None => {}
        }
    }
}

/// What a decision comes to, and why.
fn outcome(decision: &Decision) -> (&'static str, Option<DropReason>) {
    let reason = match decision.action {
        Some(Action::Allow) => return ("FORWARDED", None),
        Some(Action::Dns(_) | Action::Inspect(_)) => return ("REDIRECTED", None),
        Some(Action::Deny) => DropReason::PolicyDeny,
        Some(Action::Authenticate) => DropReason::AuthRequired,
        None => DropReason::PolicyDenied,
    };
    (if decision.audit { "AUDIT" } else { "DROPPED" }, Some(reason))
}
