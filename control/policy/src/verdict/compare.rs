//! Two sets of objects side by side: which flows does a change mean something to?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sluice_core::tables::record::{Change, ClassId, IdentitySlot, PeerSetId, PolicyClass, PortRange};

use super::{Judge, outcome};
use crate::labels::{self, Label};

/// Flows that two sets judge differently, each standing for all like it.
#[derive(Debug)]
pub struct Differences {
    /// In the form of `sluice verdict`.
    pub questions: Vec<Value>,
    /// Nothing was left out.
    pub complete: bool,
}

/// What decides about somebody in one set: classes and peer sets.
type Nature = ([Option<ClassId>; 2], Vec<PeerSetId>);

/// Somebody who stands for all that are judged alike in both sets.
struct Example {
    name: String,
    slots: [IdentitySlot; 2],
    classes: [[Option<ClassId>; 2]; 2],
    /// Its classes or peer sets are others in the other set.
    touched: bool,
}

/// Compare two judges by everybody whom their objects tell apart, on every port that their rules tell apart; at most so
/// many differences.
pub fn differences(old: &Judge, new: &Judge, most: usize) -> Differences {
    let judges = [old, new];
    let examples = examples(judges);
    let mut found = Differences { questions: Vec::new(), complete: true };
    let mut ports = BTreeMap::new();
    for from in &examples {
        // What is the same in both sets decides the same of one another.
        for to in examples.iter().filter(|to| from.touched || to.touched) {
            let classes = [from.classes[0][0], from.classes[1][0], to.classes[0][1], to.classes[1][1]];
            let asked = ports.entry(classes).or_insert_with(|| borders(judges, classes));
            for (proto, port) in asked.iter() {
                if !differs(judges, from, to, *proto, *port) {
                    continue;
                }
                if found.questions.len() >= most {
                    found.complete = false;
                    return found;
                }
                found.questions.push(question(&from.name, &to.name, *proto, *port));
            }
        }
    }
    found
}

fn question(from: &str, to: &str, proto: u8, port: u16) -> Value {
    let key = if matches!(proto, 1 | 58) { "icmp_type" } else { "port" };
    json!({"from": from, "to": to, "proto": crate::observed::protocol(proto), key: port})
}

fn differs(judges: [&Judge; 2], from: &Example, to: &Example, proto: u8, port: u16) -> bool {
    let said = |n: usize| {
        let judge = judges[n];
        let row = |one: &Example| judge.row(one.slots[n]);
        let policies = &judge.tables.policies;
        let egress = policies.decide(from.classes[n][0], row(to), proto, port);
        let ingress = policies.decide(to.classes[n][1], row(from), proto, port);
        [outcome(&egress), outcome(&ingress)]
    };
    said(0) != said(1)
}

fn class_of(judge: &Judge, class: Option<ClassId>) -> Option<&PolicyClass> {
    let Some(Change::Class(_, record)) = judge.compiled.records.get(&Change::Class(class?, None).key())
    else {
        return None;
    };
    record.as_ref()
}

/// One port of every range that these classes know, and one beside them.
fn borders(judges: [&Judge; 2], classes: [Option<ClassId>; 4]) -> BTreeSet<(u8, u16)> {
    let mut found = BTreeSet::from([(6, 9), (47, 0)]);
    for (n, class) in classes.into_iter().enumerate() {
        let Some(class) = class_of(judges[n % 2], class) else { continue };
        let known = class.ranges.iter().filter(|range| range.proto != PortRange::ANY_PROTO);
        found.extend(known.filter_map(|range| Some((u8::try_from(range.proto).ok()?, range.first))));
    }
    found
}

/// One of each kind; who is in one of the sets only has no flows to compare.
fn examples(judges: [&Judge; 2]) -> Vec<Example> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for name in names(judges) {
        let value = json!({"who": name});
        let sides = judges.map(|judge| judge.side(&value, "who", None));
        let [Ok(one), Ok(other)] = sides else { continue };
        let slots = [judges[0].slot(one), judges[1].slot(other)];
        let natures: [Nature; 2] = std::array::from_fn(|n| nature(judges[n], slots[n]));
        let classes = natures.each_ref().map(|nature| nature.0);
        let rules = |n: usize| classes[n].map(|class| class_of(judges[n], class));
        let touched = natures[0] != natures[1] || rules(0) != rules(1);
        if seen.insert(natures) {
            found.push(Example { name, slots, classes, touched });
        }
    }
    found
}

fn nature(judge: &Judge, slot: IdentitySlot) -> Nature {
    let row = judge.row(slot);
    let key = Change::Identity(slot, None).key();
    let record = judge.compiled.records.get(&key);
    let Some(Change::Identity(_, Some(identity))) = record else {
        return ([row.egress, row.ingress], Vec::new());
    };
    ([row.egress, row.ingress], identity.peer_sets.clone())
}

/// Whom either set can tell apart.
fn names(judges: [&Judge; 2]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["world-ipv4", "world-ipv6", "host", "remote-node", "health"]
        .map(|name| format!("reserved:{name}"))
        .into();
    let [old, new] = judges.map(|judge| &judge.compiled.objects.endpoints);
    for (key, endpoint) in old {
        let Some(other) = new.get(key) else { continue };
        let addresses: BTreeSet<_> = endpoint.addresses.iter().chain(&other.addresses).collect();
        // A name with several addresses would be another one with each partner.
        match addresses.len() {
            1 => drop(names.insert(format!("{}/{}", key.0, key.1))),
            _ => names.extend(addresses.iter().map(ToString::to_string)),
        }
    }
    for judge in judges {
        for change in judge.compiled.records.values() {
            let Change::Address(prefix, _) = change else { continue };
            let is_endpoint =
                judge.compiled.engine.owner(prefix.addr).is_some_and(|(_, name)| name.contains('/'));
            if !is_endpoint && prefix.len > 0 {
                names.insert(prefix.addr.to_string());
            }
        }
    }
    names
}

/// A line that somebody recorded, as a question: questions stay as they are, what `sluice observe -o json` told is turned
/// into one, and so is what Hubble exported (`-o jsonpb`). `None`: it asks for nothing (replies and ends of flows).
pub fn recorded(line: &Value) -> Option<Value> {
    if let Some(flow) = line.get("flow").filter(|flow| flow.is_object()) {
        return crate::hubble::question(flow);
    }
    if line.get("lost_events").is_some() || line["event"] == "lost" {
        return None;
    }
    let Some(event) = line.get("event").and_then(Value::as_str) else { return Some(line.clone()) };
    if line["is_reply"] == true || matches!(event, "end" | "update" | "packet") {
        return None;
    }
    let side = |name: &str| line.get(name).and_then(Value::as_str).map(split);
    let ((from, sport), (to, port)) = (side("from")?, side("to")?);
    let mut question = json!({"from": from, "to": to, "proto": line["proto"]});
    for (name, number) in [("sport", sport), ("port", port)] {
        if let Some(number) = number {
            question[name] = json!(number);
        }
    }
    Some(question)
}

/// The question about a flow that Hubble recorded, with somebody alike in the place of each pod that is gone since: one of
/// its namespace that has the same labels in both sets.
pub fn with_stand_ins(judges: [&Judge; 2], line: &Value, mut question: Value) -> Value {
    for (side, end) in [("from", "source"), ("to", "destination")] {
        let name = question[side].as_str().and_then(|text| text.split_once('/'));
        let Some((namespace, pod)) = name.filter(|_| line["flow"].is_object()) else { continue };
        let key = (namespace.to_owned(), pod.to_owned());
        if judges.iter().any(|judge| judge.compiled.objects.endpoints.contains_key(&key)) {
            continue;
        }
        let labels = line["flow"][end]["labels"].as_array().into_iter().flatten();
        let labels = labels.filter_map(Value::as_str).map(Label::parse).filter(|label| label.source == "k8s");
        let labels = labels.filter(|label| !labels::is_given(&label.key));
        let wanted: BTreeSet<(String, String)> = labels.map(|label| (label.key, label.value)).collect();
        let alike = judges.map(|judge| alike(judge, namespace, &wanted));
        if let Some(name) = alike[0].intersection(&alike[1]).next() {
            question[side] = json!(format!("{namespace}/{name}"));
        }
    }
    question
}

/// Endpoints of the namespace whose own labels, as far as they tell identities apart, are these.
fn alike(judge: &Judge, namespace: &str, wanted: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let compiled = &judge.compiled;
    let first = (namespace.to_owned(), String::new());
    let own = compiled.objects.endpoints.range(first..).take_while(|((space, _), _)| space == namespace);
    let counts = |key: &str| !labels::is_given(key) && compiled.options.filter.is_relevant(key);
    let has = |labels: &[(String, String)]| {
        labels.iter().filter(|(key, _)| counts(key)).cloned().collect::<BTreeSet<_>>() == *wanted
    };
    own.filter(|(_, one)| has(&one.labels)).map(|((_, name), _)| name.clone()).collect()
}

/// What a flow that Hubble recorded says of names: lines that teach them, as if their answers had been seen.
pub fn told_names(line: &Value) -> Vec<Value> {
    let flow = &line["flow"];
    let sides = [("source_names", "source"), ("destination_names", "destination")];
    let learn = |(names, side): (&str, &str)| -> Vec<Value> {
        let names = flow[names].as_array().map(Vec::as_slice).unwrap_or_default();
        let teach = |name: &Value| json!({"learn": {"name": name, "ips": [flow["IP"][side]]}});
        names.iter().map(teach).collect()
    };
    sides.into_iter().flat_map(learn).collect()
}

/// `name:port`, or a name alone.
fn split(text: &str) -> (&str, Option<u16>) {
    if let Some((name, port)) = text.rsplit_once(':')
        && let Ok(port) = port.parse()
        && (name.starts_with('[') || !name.contains(':'))
    {
        return (name.trim_start_matches('[').trim_end_matches(']'), Some(port));
    }
    (text.trim_start_matches('[').trim_end_matches(']'), None)
}
