//! The compiled tables against a slow evaluation of the same objects, on random worlds that change, and laws that hold
//! for every set of policies.
//!
//! `SLUICE_ORACLE_FLOWS=1000000 cargo test -p sluice-policy --test oracle` for more than the usual hundred
//! thousand; SLUICE_ORACLE_SEED judges one world again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod laws;
mod random;
mod slow;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_policy::compile::Compiled;
use sluice_policy::config::{CidrMatches, Enforcement, Options};
use sluice_policy::objects::{self, Objects};
use sluice_policy::policy::Direction;
use sluice_policy::policy::above::Talk;
use sluice_policy::verdict::{Answer, Judge};

use random::Random;
use slow::{Asked, Outcome, Slow, Who};
use world::World;

/// Flows judged of each state of a world, and states of each world.
const FLOWS: usize = 50;
const STATES: usize = 20;

pub fn read(text: &str) -> Objects {
    let (objects, problems) = objects::parse("world.yaml", text, &Options::default().limits);
    assert!(problems.is_ok(), "{problems}\n{text}");
    objects
}

pub fn options(random: &mut Random) -> Options {
    let enforcement = match random.below(20) {
        0..3 => Enforcement::Always,
        3 => Enforcement::Never,
        _ => Enforcement::Default,
    };
    let cidr_matches = CidrMatches { nodes: random.one_in(4), pods: random.one_in(4) };
    let (audit, allow_localhost) = (random.one_in(10), !random.one_in(4));
    Options { node: "us".to_owned(), enforcement, audit, allow_localhost, cidr_matches, ..Options::default() }
}

pub fn judge(objects: Objects, options: &Options) -> Judge {
    Judge::new(Compiled::new(objects, options.clone(), Default::default())).unwrap()
}

/// Somebody to talk: an address, or a reserved identity.
fn somebody(random: &mut Random, objects: &Objects) -> String {
    let pods: Vec<IpAddr> =
        objects.endpoints.values().flat_map(|pod| pod.addresses.iter().copied()).collect();
    match random.below(10) {
        0 => random.pick_text(&["192.0.2.1", "192.0.2.2", "fd00::1", "fd00::2"]),
        1..=3 => random.pick_text(&world::OUTSIDE),
        4 if random.one_in(3) => {
            random.pick_text(&["reserved:init", "reserved:health", "reserved:unmanaged"])
        }
        _ if pods.is_empty() => "10.0.0.77".to_owned(),
        _ => random.pick(&pods).to_string(),
    }
}

pub fn question(random: &mut Random, objects: &Objects) -> Value {
    let (from, to) = (somebody(random, objects), somebody(random, objects));
    let (proto, kinds): (&str, &[u16]) = match random.below(14) {
        0 => ("ICMP", &[0, 3, 8]),
        1 => ("ICMPv6", &[3, 8, 128]),
        2 => ("SCTP", &[80, 443]),
        3 => ("47", &[0]),
        4 | 5 => ("UDP", &[53, 60, 80, 8080]),
        6..9 => ("TCP", &[53, 443, 8500, 22]),
        _ => ("TCP", &[80, 8080]),
    };
    let port = *random.pick(kinds);
    let mut question = json!({"id": 1, "from": from, "to": to, "proto": proto});
    question[if proto.starts_with("ICMP") { "icmp_type" } else { "port" }] = json!(port);
    match random.below(8) {
        0 => {
            question["http"] = json!({"method": random.pick_text(&["GET", "PUT", "POST"]),
            "path": random.pick_text(&["/", "/a/b", "/b"])})
        }
        1 => question["dns"] = json!({"query": random.pick_text(&world::NAMES)}),
        2 => {
            question["kafka"] = json!({"api_key": "produce", "topic": random.pick_text(&["t1", "t2", "t3"])})
        }
        3 => question["sni"] = json!(random.pick_text(&world::NAMES)),
        _ => {}
    }
    question
}

fn asked(question: &Value) -> Asked {
    let proto = match question["proto"].as_str().unwrap() {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "ICMP" => 1,
        "ICMPv6" => 58,
        other => other.parse().unwrap(),
    };
    let port = question["port"].as_u64().or_else(|| question["icmp_type"].as_u64()).unwrap_or(0);
    Asked { proto, port: u16::try_from(port).unwrap(), talk: Talk::read(question).unwrap() }
}

/// How often each outcome was seen: a test of flows that are all alike would be none.
type Seen = BTreeMap<(&'static str, u8, bool), usize>;

fn compare(
    judge: &mut Judge,
    slow: &Slow<'_>,
    question: &Value,
    seen: &mut Seen,
    context: impl Fn() -> String,
) {
    let answer = judge.answer(question).unwrap();
    let who = |side: &str| -> Who {
        let text = question[side].as_str().unwrap();
        match text.strip_prefix("reserved:") {
            Some(name) => Slow::reserved(name),
            None => slow.who(text.parse().unwrap()),
        }
    };
    let (from, to, asked) = (who("from"), who("to"), asked(question));
    let slowly = [
        slow.judge(&from, &to, Direction::Egress, &asked),
        slow.judge(&to, &from, Direction::Ingress, &asked),
    ];
    for (n, expected) in slowly.iter().enumerate() {
        let got = outcome(judge, &answer, n);
        let side = ["egress", "ingress"][n];
        let party = |slot| judge.compiled.engine.party(slot).map(|party| party.labels.clone());
        let known = [party(answer.source), party(answer.destination)];
        assert_eq!(
            &got,
            expected,
            "{side} of {question}\nfrom {from:?}\nto {to:?}\nknown as {known:?}\n{}",
            context()
        );
        *seen.entry((got.0, got.1, got.2.is_empty())).or_default() += 1;
    }
}

fn outcome(judge: &Judge, answer: &Answer, n: usize) -> Outcome {
    let part = &answer.parts[n];
    let name = |rule| {
        let rule = judge.compiled.rule(rule).unwrap();
        (rule.source.name.clone(), rule.list.to_owned(), rule.index)
    };
    let rules: BTreeSet<_> = part.rules.iter().map(|rule| name(*rule)).collect();
    (part.verdict, part.reason.map_or(0, |reason| reason.number()), rules)
}

#[test]
fn compiled_tables_say_what_the_model_means() {
    let wanted = std::env::var("SLUICE_ORACLE_FLOWS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let (mut judged, mut seed, mut seen) = (0, 1, Seen::new());
    if let Some(seed) = std::env::var("SLUICE_ORACLE_SEED").ok().and_then(|n| n.parse().ok()) {
        one_world(seed, &mut seen);
        return;
    }
    while judged < wanted {
        judged += one_world(seed, &mut seen);
        seed += 1;
    }
    for (outcome, least) in [
        (("FORWARDED", 0, true), 50),
        (("FORWARDED", 0, false), 50),
        (("REDIRECTED", 0, false), 1000),
        (("AUDIT", 0, true), 1000),
        (("DROPPED", 133, true), 50),
        (("DROPPED", 133, false), 1000),
        (("DROPPED", 181, false), 50),
        (("DROPPED", 189, false), 1000),
    ] {
        let count = seen.get(&outcome).copied().unwrap_or(0);
        assert!(count * least > judged, "{outcome:?} was seen {count} times only: {seen:?}");
    }
}

/// One world through its states; how many flows were judged.
fn one_world(seed: u64, seen: &mut Seen) -> usize {
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random);
    let options = options(&mut random);
    let mut judge = judge(read(&world.text()), &options);
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut judged = 0;
    for state in 0..STATES {
        for _ in 0..random.below(4) {
            let (name, ip) = (random.pick_text(&world::NAMES), random.pick_text(&world::OUTSIDE));
            let line = json!({"learn": {"name": name, "ips": [ip]}}).to_string();
            assert_eq!(judge.line(&line), Ok(None));
            names.entry(name).or_default().push(ip.parse().unwrap());
        }
        let objects = judge.compiled.objects.clone();
        let slow = Slow { objects: &objects, options: &options, names: &names };
        for _ in 0..FLOWS {
            let question = question(&mut random, &objects);
            let context = || format!("seed {seed}, state {state}\n{}", world.text());
            compare(&mut judge, &slow, &question, seen, context);
            judged += 1;
        }
        world.mutate(&mut random);
        judge.update(read(&world.text()), Default::default()).unwrap();
    }
    judged
}
