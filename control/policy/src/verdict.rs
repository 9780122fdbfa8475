//! Questions about flows, answered offline by the compiled tables: `verdict`, `explain` and `diff`.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::Tables;
use sluice_core::tables::ipcache::Row;
use sluice_core::tables::policy::Decision;
use sluice_core::tables::record::{FrontendKey, IdentitySlot};
use sluice_core::verdict::{Action, DropReason};

use crate::compile::Compiled;
use crate::observed::Naming;
use crate::policy::{Direction, PortName, Ports};

/// Judges questions by one set of objects.
#[derive(Debug)]
pub struct Judge {
    pub compiled: Compiled,
    tables: Tables,
}

/// One side of a flow.
#[derive(Clone, Copy, Debug)]
enum Side {
    Address(IpAddr),
    /// A reserved identity without an address.
    Reserved(u32),
}

/// Protocol and port as policy sees them.
#[derive(Clone, Copy, Debug)]
struct Asked {
    proto: u8,
    port: u16,
    /// For ICMP: the type, else the port.
    policy_port: u16,
    sport: u16,
}

impl Judge {
    pub fn new(compiled: Compiled) -> Result<Self, String> {
        let mut tables = Tables::default();
        tables.apply(&compiled.changes(), None).map_err(|error| error.to_string())?;
        Ok(Self { compiled, tables })
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// One line in, one line out; nothing for lines that only teach. `Err` holds the answer that says what is wrong.
    pub fn line(&mut self, line: &str) -> Result<Option<Value>, Value> {
        let question: Value =
            serde_json::from_str(line).map_err(|error| json!({"id": null, "error": error.to_string()}))?;
        if question.get("learn").is_some() {
            return Ok(None);
        }
        let id = question.get("id").cloned().unwrap_or(Value::Null);
        self.judge(&question).map(Some).map_err(|error| json!({"id": id, "error": error}))
    }

    fn judge(&self, question: &Value) -> Result<Value, String> {
        let text = |name: &str| question.get(name).and_then(Value::as_str);
        let from = self.side(text("from").ok_or("from is missing")?, None)?;
        let to_text = text("to").ok_or("to is missing")?;
        let asked = asked(question)?;
        let v4 = match from {
            Side::Address(ip) => Some(ip.is_ipv4()),
            Side::Reserved(_) => None,
        };
        let (frontend, to, chosen) = match to_text.strip_prefix("service:") {
            Some(name) => self.service(name, asked, from, v4)?,
            None => self.by_address(self.side(to_text, v4)?, asked, from),
        };
        let asked = Asked {
            port: chosen.as_ref().map_or(asked.port, |(_, port)| *port),
            policy_port: chosen.as_ref().map_or(asked.policy_port, |(_, port)| *port),
            ..asked
        };
        let mut answer = match to {
            Ok(to) => self.policies(from, to, asked),
            Err(reason) => self.refused(from, reason),
        };
        answer["id"] = question.get("id").cloned().unwrap_or(Value::Null);
        if let Some(frontend) = frontend {
            answer["frontend"] = json!(frontend);
        }
        if let Some((ip, port)) = chosen {
            answer["backend"] = json!({"ip": ip, "port": port, "endpoint": self.compiled.endpoint(ip)});
        }
        Ok(answer)
    }

    /// An address, `namespace/name`, or `reserved:NAME`. Of several addresses the one of the wanted family.
    fn side(&self, text: &str, v4: Option<bool>) -> Result<Side, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Side::Address(ip));
        }
        if let Some(name) = text.strip_prefix("reserved:") {
            return reserved(name, v4)
                .map(Side::Reserved)
                .ok_or_else(|| format!("there is no reserved:{name}"));
        }
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| format!("{text} is no address and no namespace/name"))?;
        let key = (namespace.to_owned(), name.to_owned());
        let endpoint = self
            .compiled
            .objects
            .endpoints
            .get(&key)
            .ok_or_else(|| format!("there is no endpoint {text}"))?;
        if endpoint.host_network {
            let own = endpoint.node == self.compiled.options.node;
            return Ok(Side::Reserved(if own {
                crate::identity::HOST
            } else {
                crate::identity::REMOTE_NODE
            }));
        }
        let wanted = endpoint.addresses.iter().find(|ip| v4.is_none_or(|v4| ip.is_ipv4() == v4));
        let ip =
            wanted.or_else(|| endpoint.addresses.first()).ok_or_else(|| format!("{text} has no address"))?;
        Ok(Side::Address(*ip))
    }

    #[expect(clippy::type_complexity, reason = "frontend, where it leads or why not, and the backend")]
    fn service(
        &self,
        name: &str,
        asked: Asked,
        from: Side,
        v4: Option<bool>,
    ) -> Result<(Option<String>, Result<Side, DropReason>, Option<(IpAddr, u16)>), String> {
        let fits = |one: &&crate::service::frontends::Shown| {
            one.service == name
                && one.key.port == asked.port
                && one.key.proto == asked.proto
                && v4.is_none_or(|v4| one.key.ip.is_ipv4() == v4)
        };
        let known = self.compiled.frontends.iter().any(|one| one.service == name);
        let Some(one) = self.compiled.frontends.iter().find(fits) else {
            return match known {
                true => Ok((None, Err(DropReason::NoBackend), None)),
                false => Err(format!("there is no service {name} with a frontend")),
            };
        };
        // A service asked for by its name is asked for from inside.
        Ok(self.frontend(one.key, asked, from, true))
    }

    #[expect(clippy::type_complexity, reason = "as `service`")]
    fn by_address(
        &self,
        to: Side,
        asked: Asked,
        from: Side,
    ) -> (Option<String>, Result<Side, DropReason>, Option<(IpAddr, u16)>) {
        let Side::Address(ip) = to else { return (None, Ok(to), None) };
        let key = FrontendKey { ip, port: asked.port, proto: asked.proto };
        if self.tables.services.frontend(key).is_some() {
            return self.frontend(key, asked, from, false);
        }
        let whole = FrontendKey { ip, port: 0, proto: 0 };
        if self.tables.services.frontend(whole).is_some() && matches!(asked.proto, 6 | 17 | 132) {
            return (None, Err(DropReason::NoBackend), None);
        }
        (None, Ok(to), None)
    }

    #[expect(clippy::type_complexity, reason = "as `service`")]
    fn frontend(
        &self,
        key: FrontendKey,
        asked: Asked,
        from: Side,
        inside: bool,
    ) -> (Option<String>, Result<Side, DropReason>, Option<(IpAddr, u16)>) {
        use sluice_core::tables::service::Match;
        let src = match from {
            Side::Address(ip) => ip,
            Side::Reserved(_) if key.ip.is_ipv4() => IpAddr::from([0, 0, 0, 0]),
            Side::Reserved(_) => IpAddr::from([0; 16]),
        };
        let flow = FlowKey {
            src: mapped(src),
            dst: mapped(key.ip),
            sport: asked.sport,
            dport: key.port,
            proto: key.proto,
            v4: key.ip.is_ipv4(),
        };
        let name = format!(
            "{}/{}",
            std::net::SocketAddr::new(key.ip, key.port),
            crate::observed::protocol(key.proto)
        );
        let row = self.row(from);
        let insider = Row::default();
        let as_who = if inside { &insider } else { row };
        match self.tables.services.lookup(&flow, as_who) {
            Match::Service(_, service) => {
                let hash = self.tables.services.hash(&flow, service.record.affinity_seconds > 0);
                match service.pick(hash) {
                    Some(backend) => {
                        (Some(name), Ok(Side::Address(backend.ip)), Some((backend.ip, backend.port)))
                    }
                    None => (Some(name), Err(DropReason::NoBackend), None),
                }
            }
            Match::Refused(reason) => (Some(name), Err(reason), None),
            Match::None => (Some(name), Err(DropReason::NoBackend), None),
        }
    }

    /// The identity behind a side.
    fn row(&self, side: Side) -> &Row {
        match side {
            Side::Address(ip) => self.tables.ipcache.lookup(mapped(ip), ip.is_ipv4()),
            Side::Reserved(number) => {
                let slot = self.compiled.engine.reserved_slot(number);
                self.tables.ipcache.row(slot.map_or(0, |slot| slot.0))
            }
        }
    }

    fn slot(&self, side: Side) -> IdentitySlot {
        let found = match side {
            Side::Address(ip) => self.compiled.engine.slot_of(ip),
            Side::Reserved(number) => self.compiled.engine.reserved_slot(number),
        };
        found.unwrap_or_default()
    }

    fn policies(&self, from: Side, to: Side, asked: Asked) -> Value {
        let (source, destination) = (self.row(from), self.row(to));
        let decide = |class, peer| self.tables.policies.decide(class, peer, asked.proto, asked.policy_port);
        let egress = decide(source.egress, destination);
        let ingress = decide(destination.ingress, source);
        let (out, into) = (outcome(&egress), outcome(&ingress));
        let verdict = match (out.0, into.0) {
            ("DROPPED", _) | (_, "DROPPED") => "DROPPED",
            ("AUDIT", _) | (_, "AUDIT") => "AUDIT",
            ("REDIRECTED", _) | (_, "REDIRECTED") => "REDIRECTED",
            _ => "FORWARDED",
        };
        let reason = if verdict == "DROPPED" { out.1.or(into.1) } else { None };
        let mut answer = json!({
            "id": null,
            "verdict": verdict,
            "egress": self.direction(source, &egress, out.0, Direction::Egress),
            "ingress": self.direction(destination, &ingress, into.0, Direction::Ingress),
            "source": self.shown(source),
            "destination": self.shown(destination),
        });
        if let Some(reason) = reason {
            answer["drop_reason"] = json!(reason.number());
            answer["drop_reason_desc"] = json!(reason.name());
        }
        answer
    }

    fn direction(&self, judged: &Row, decision: &Decision, verdict: &str, direction: Direction) -> Value {
        let class = if direction == Direction::Egress { judged.egress } else { judged.ingress };
        let enforced_by = self.compiled.enforcing(judged.number, direction);
        let rules: Vec<Value> = Naming::rule(&self.compiled, decision.rule).into_iter().collect();
        json!({
            "enforced": class.is_some() && (!enforced_by.is_empty()
                || self.compiled.options.enforcement == crate::config::Enforcement::Always),
            "verdict": verdict,
            "rules": rules,
            "enforced_by": enforced_by,
        })
    }

    fn shown(&self, row: &Row) -> Value {
        json!({"identity": row.number, "labels": self.compiled.labels(row.number)})
    }

    fn refused(&self, from: Side, reason: DropReason) -> Value {
        let source = self.row(from);
        let nobody = json!({"enforced": false, "verdict": "DROPPED", "rules": [], "enforced_by": []});
        json!({
            "id": null,
            "verdict": "DROPPED",
            "drop_reason": reason.number(),
            "drop_reason_desc": reason.name(),
            "egress": nobody,
            "ingress": nobody,
            "source": self.shown(source),
            "destination": {"identity": 0, "labels": []},
        })
    }

    /// The same for a person: who, what, by which rules, and what would have allowed it.
    pub fn explain(&self, question: &Value) -> Result<(String, Value), String> {
        let answer = self.judge(question)?;
        let labels = |side: &str| {
            let list = answer[side]["labels"].as_array().cloned().unwrap_or_default();
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "from {}  (identity {}: {})\nto   {}  (identity {}: {})\n",
            question["from"].as_str().unwrap_or_default(),
            answer["source"]["identity"],
            labels("source"),
            question["to"].as_str().unwrap_or_default(),
            answer["destination"]["identity"],
            labels("destination"),
        );
        if let Some(backend) = answer.get("backend") {
            text.push_str(&format!(
                "backend {}:{}\n",
                backend["ip"].as_str().unwrap_or_default(),
                backend["port"]
            ));
        }
        for direction in ["egress", "ingress"] {
            let part = &answer[direction];
            let verdict = part["verdict"].as_str().unwrap_or_default();
            text.push_str(&format!("{direction}: {verdict}"));
            if part["enforced"] == json!(false) {
                text.push_str(", no policy enforces this direction");
            }
            text.push('\n');
            for (title, key) in [("  rule", "rules"), ("  enforced by", "enforced_by")] {
                for rule in part[key].as_array().into_iter().flatten() {
                    text.push_str(&format!("{title} {}\n", rule_text(rule)));
                }
            }
        }
        if answer["drop_reason"] == json!(133) {
            for miss in self.nearest(question)? {
                text.push_str(&format!("  nearly: {miss}\n"));
            }
        }
        text.push_str(&format!(
            "{}{}\n",
            answer["verdict"].as_str().unwrap_or_default(),
            answer["drop_reason_desc"]
                .as_str()
                .map_or(String::new(), |name| format!(" ({name} {})", answer["drop_reason"])),
        ));
        Ok((text, answer))
    }

    /// Rules that name the peer but another port: what one would change.
    fn nearest(&self, question: &Value) -> Result<Vec<String>, String> {
        let asked = asked(question)?;
        let text = |name: &str| question.get(name).and_then(Value::as_str).unwrap_or_default();
        let (Ok(from), Ok(to)) = (self.side(text("from"), None), self.side(text("to"), None)) else {
            return Ok(Vec::new());
        };
        let (source, destination) = (self.slot(from), self.slot(to));
        let mut misses = Vec::new();
        for (judged, peer, direction) in
            [(source, destination, Direction::Egress), (destination, source, Direction::Ingress)]
        {
            for (policy, rule) in self.compiled.engine.naming(judged, peer, direction) {
                let Ports::Some(specs) = &rule.ports else { continue };
                let (Some(name), true) = (self.compiled.rule(rule.id), rule.allows()) else { continue };
                let ports: Vec<String> = specs
                    .iter()
                    .filter(|spec| spec.proto == asked.proto)
                    .map(|spec| match &spec.port {
                        PortName::Range(first, last) if first == last => first.to_string(),
                        PortName::Range(first, last) => format!("{first}-{last}"),
                        PortName::Named(name) => name.clone(),
                    })
                    .collect();
                if !ports.is_empty() {
                    misses.push(format!(
                        "{}[{}] of {}/{} would allow this on port {}, asked {}",
                        name.list,
                        name.index,
                        policy.source.namespace,
                        policy.source.name,
                        ports.join(", "),
                        asked.port
                    ));
                }
            }
        }
        Ok(misses)
    }
}

fn rule_text(rule: &Value) -> String {
    let part = |name: &str| rule[name].as_str().unwrap_or_default();
    let at = rule["index"].as_u64().map_or(String::new(), |index| format!(" {}[{index}]", part("list")));
    format!("{} {}/{}{at}", part("kind"), part("namespace"), part("name"))
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
    if decision.audit { ("AUDIT", None) } else { ("DROPPED", Some(reason)) }
}

fn asked(question: &Value) -> Result<Asked, String> {
    let number = |name: &str| -> Result<Option<u16>, String> {
        match question.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let n = value.as_u64().and_then(|n| u16::try_from(n).ok());
                n.map(Some).ok_or_else(|| format!("{name} must be a number from 0 to 65535"))
            }
        }
    };
    let proto = match question.get("proto") {
        None => 6,
        Some(Value::Number(n)) => {
            n.as_u64().and_then(|n| u8::try_from(n).ok()).ok_or("proto is beyond 255")?
        }
        Some(Value::String(name)) => match name.to_ascii_uppercase().as_str() {
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            "ICMP" => 1,
            "ICMPV6" => 58,
            other => other.parse().map_err(|_| format!("there is no protocol {name}"))?,
        },
        Some(_) => return Err("proto must be a name or a number".to_owned()),
    };
    let port = number("port")?.unwrap_or(0);
    let echo = if proto == 1 { 8 } else { 128 };
    let policy_port = if proto == 1 || proto == 58 { number("icmp_type")?.unwrap_or(echo) } else { port };
    Ok(Asked { proto, port, policy_port, sport: number("sport")?.unwrap_or(0) })
}

fn reserved(name: &str, v4: Option<bool>) -> Option<u32> {
    use crate::identity as i;
    Some(match name {
        "host" => i::HOST,
        "unmanaged" => i::UNMANAGED,
        "health" => i::HEALTH,
        "init" => i::INIT,
        "remote-node" => i::REMOTE_NODE,
        "kube-apiserver" => i::KUBE_APISERVER,
        "ingress" => i::INGRESS,
        "world" if v4 == Some(false) => i::WORLD_IPV6,
        "world" | "world-ipv4" => i::WORLD_IPV4,
        "world-ipv6" => i::WORLD_IPV6,
        _ => return None,
    })
}
