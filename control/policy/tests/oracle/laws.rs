//! What holds for every set of policies: how they are written down does not matter, and a deny never lets anybody in.

use serde_json::{Value, json};
use sluice_policy::config::Options;
use sluice_policy::objects::Objects;
use sluice_policy::verdict::{Judge, differences, recorded, told_names};

use crate::random::Random;
use crate::world::World;
use crate::{judge, question, read};

const WORLDS: u64 = 25;
const FLOWS: usize = 150;

fn options() -> Options {
    Options { node: "us".to_owned(), ..Options::default() }
}

/// The verdict and its reason, of each direction.
fn verdicts(judge: &mut Judge, question: &Value) -> [(&'static str, u8); 2] {
    let answer = judge.answer(question).unwrap();
    answer.parts.each_ref().map(|part| (part.verdict, part.reason.map_or(0, |reason| reason.number())))
}

/// Judge the same flows by both worlds.
fn for_flows(
    random: &mut Random,
    (old, new): (&str, &str),
    mut look: impl FnMut(&Value, [(&'static str, u8); 2], [(&'static str, u8); 2]),
) {
    let objects: Objects = read(old);
    let mut before = judge(objects.clone(), &options());
    let mut after = judge(read(new), &options());
    for _ in 0..FLOWS {
        let question = question(random, &objects);
        let (one, other) = (verdicts(&mut before, &question), verdicts(&mut after, &question));
        look(&question, one, other);
    }
}

fn must_agree(name: &str, mut change: impl FnMut(&mut World, &mut Random)) {
    for seed in 1..=WORLDS {
        let mut random = Random::new(seed * 7919);
        let world = World::new(&mut random);
        let mut other = world.clone();
        change(&mut other, &mut random);
        let (old, new) = (world.text(), other.text());
        for_flows(&mut random, (&old, &new), |question, one, two| {
            assert_eq!(one, two, "{name}, seed {seed}: {question}\n{old}\n{new}");
        });
    }
}

fn policies(world: &mut World) -> impl Iterator<Item = &mut Value> {
    world.objects.iter_mut().filter(|((kind, _), _)| kind == "Policy").map(|(_, policy)| policy)
}

/// The specs of Cilium's kinds.
fn specs(policy: &mut Value) -> Vec<&mut Value> {
    if !policy["kind"].as_str().unwrap().starts_with("Cilium") {
        return Vec::new();
    }
    match policy.get("specs") {
        Some(_) => policy["specs"].as_array_mut().unwrap().iter_mut().collect(),
        None => vec![&mut policy["spec"]],
    }
}

const LISTS: [&str; 4] = ["ingress", "egress", "ingressDeny", "egressDeny"];

fn shuffle(list: &mut [Value], random: &mut Random) {
    for n in (1..list.len()).rev() {
        list.swap(n, random.below(n + 1));
    }
}

/// Every list whose order means nothing.
fn shuffle_all(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(list) => {
            list.iter_mut().for_each(|item| shuffle_all(item, random));
            shuffle(list, random);
        }
        Value::Object(fields) => fields.values_mut().for_each(|item| shuffle_all(item, random)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn order_does_not_matter() {
    must_agree("order", |world, random| {
        for policy in policies(world) {
            if policy["kind"] != "ClusterNetworkPolicy" {
                shuffle_all(policy, random);
            }
        }
        // Another name is another place among the policies.
        let keys: Vec<_> = world.objects.keys().filter(|(kind, _)| kind == "Policy").cloned().collect();
        for (n, key) in keys.into_iter().enumerate() {
            let mut policy = world.objects.remove(&key).unwrap();
            policy["metadata"]["name"] = json!(format!("{}-{n}", 9 - n % 10));
            world.objects.insert((key.0, format!("{}-{n}", 9 - n % 10)), policy);
        }
    });
}

#[test]
fn a_range_is_the_union_of_its_ports() {
    must_agree("ranges", |world, _| {
        for spec in policies(world).flat_map(specs) {
            for rule in LISTS
                .iter()
                .filter_map(|list| spec.get(list)?.as_array().cloned().map(|l| (list, l)))
                .collect::<Vec<_>>()
            {
                let (list, rules) = rule;
                spec[*list] = rules.into_iter().map(cut).collect();
            }
        }
    });
}

/// The rule with two halves and single ports in the place of each range.
fn cut(mut rule: Value) -> Value {
    let Some(port_rules) = rule.get_mut("toPorts").and_then(Value::as_array_mut) else { return rule };
    for port_rule in port_rules {
        let mut ports = Vec::new();
        for port in port_rule["ports"].as_array().unwrap() {
            let (Some(last), proto) = (port.get("endPort").and_then(Value::as_u64), &port["protocol"]) else {
                ports.push(port.clone());
                continue;
            };
            let first: u64 = port["port"].as_str().unwrap().parse().unwrap();
            let singles = last.min(first + 5);
            ports.extend((first..=singles).map(|port| json!({"port": port.to_string(), "protocol": proto})));
            let middle = (singles + last) / 2;
            for (first, last) in [(singles + 1, middle), (middle + 1, last)] {
                if first <= last {
                    ports.push(json!({"port": first.to_string(), "endPort": last, "protocol": proto}));
                }
            }
        }
        port_rule["ports"] = json!(ports);
    }
    rule
}

#[test]
fn entries_may_stand_in_one_policy_or_in_many() {
    must_agree("splitting", |world, _| {
        for policy in policies(world) {
            let whole = policy.clone();
            let mut split = Vec::new();
            for spec in specs(policy) {
                for list in LISTS {
                    for rule in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
                        let mut alone = json!({list: [rule]});
                        for key in ["endpointSelector", "nodeSelector", "enableDefaultDeny"] {
                            if let Some(value) = spec.get(key) {
                                alone[key] = value.clone();
                            }
                        }
                        split.push(alone);
                    }
                }
            }
            if whole["kind"].as_str().unwrap().starts_with("Cilium") {
                policy.as_object_mut().unwrap().remove("spec");
                policy["specs"] = json!(split);
            }
        }
    });
}

#[test]
fn a_deny_only_removes() {
    let mut removed = 0;
    for seed in 1..=WORLDS {
        let mut random = Random::new(seed * 104_729);
        let world = World::new(&mut random);
        let mut other = world.clone();
        let peers = match seed % 3 {
            0 => json!({"fromEntities": ["cluster"]}),
            1 => json!({"fromCIDR": ["198.51.100.0/24"], "toPorts": [{"ports": [{"port": "80"}]}]}),
            _ => json!({"fromEndpoints": [{"matchLabels": {"app": "a"}}, {}]}),
        };
        let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": "added"},
            "spec": {"endpointSelector": {}, "ingressDeny": [peers], "enableDefaultDeny": {"ingress": false}}});
        other.objects.insert(("Policy".to_owned(), "added".to_owned()), policy);
        let (old, new) = (world.text(), other.text());
        for_flows(&mut random, (&old, &new), |question, [out, into], [new_out, new_into]| {
            assert_eq!(out, new_out, "egress is not its business");
            assert!(
                into == new_into || new_into == ("DROPPED", 181),
                "{question}: {into:?} {new_into:?}\n{new}"
            );
            removed += usize::from(into != new_into);
        });
    }
    assert!(removed > 100, "the added deny had nothing to do");
}

#[test]
fn a_named_port_is_its_number() {
    for seed in 1..=WORLDS {
        let mut random = Random::new(seed * 31_337);
        let mut world = World::new(&mut random);
        // Where every endpoint calls the same port by the name, the name is the number.
        world.objects.retain(|(kind, _), _| kind != "Policy");
        for (_, pod) in world.objects.iter_mut().filter(|((kind, _), _)| kind == "Pod") {
            let key = if pod["kind"] == "Pod" { "containerPort" } else { "port" };
            let ports = json!([{"name": "http", "protocol": "TCP", key: 80}, {"name": "dns", "protocol": "UDP", key: 53}]);
            match key {
                "port" => pod["spec"]["ports"] = ports,
                _ => pod["spec"]["containers"] = json!([{"name": "c", "ports": ports}]),
            }
        }
        let mut other = world.clone();
        for (world, http, dns) in [(&mut world, "http", "dns"), (&mut other, "80", "53")] {
            let ports =
                json!([{"ports": [{"port": http, "protocol": "TCP"}, {"port": dns, "protocol": "UDP"}]}]);
            let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
                "metadata": {"name": "p"}, "spec": {"endpointSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                    "ingress": [{"fromEntities": ["all"], "toPorts": ports}],
                    "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "b"}}], "toPorts": ports}],
                    "egress": [{"toEndpoints": [{"matchLabels": {"app": "a"}}], "toPorts": ports}]}});
            world.objects.insert(("Policy".to_owned(), "p".to_owned()), policy);
        }
        for_flows(&mut random, (&world.text(), &other.text()), |question, one, two| {
            assert_eq!(one, two, "seed {seed}: {question}");
        });
    }
}

#[test]
fn what_differs_for_a_flow_differs_in_the_comparison() {
    let (mut alike, mut different) = (0, 0);
    for seed in 1..=WORLDS * 2 {
        let mut random = Random::new(seed * 65_537);
        let world = World::new(&mut random);
        let mut other = world.clone();
        if seed % 5 > 0 {
            other.mutate(&mut random);
        }
        let (old, new) = (read(&world.text()), read(&other.text()));
        let mut judges = [judge(old.clone(), &options()), judge(new, &options())];
        let found = differences(&judges[0], &judges[1], 10_000);
        let mut flows = Vec::new();
        for _ in 0..FLOWS {
            let mut question = question(&mut random, &old);
            ["http", "kafka", "dns", "sni"]
                .iter()
                .for_each(|key| drop(question.as_object_mut().unwrap().remove(*key)));
            flows.push(question);
        }
        // Addresses of pods that are in one of the sets only are nobody's in the other.
        let gone = |question: &Value| {
            ["from", "to"].iter().any(|side| {
                let ip = question[*side].as_str().unwrap().parse::<std::net::IpAddr>();
                ip.is_ok_and(|ip| {
                    let owner = |judge: &Judge| judge.compiled.engine.owner(ip).map(|(_, name)| name);
                    owner(&judges[0]) != owner(&judges[1])
                })
            })
        };
        let flows: Vec<Value> = flows.into_iter().filter(|question| !gone(question)).collect();
        let mut differ = |question: &Value| {
            let [old, new] = &mut judges;
            verdicts(old, question) != verdicts(new, question)
        };
        for question in &flows {
            assert!(
                !differ(question) || !found.questions.is_empty(),
                "seed {seed}: {question}\n{}\n{}",
                world.text(),
                other.text()
            );
        }
        for question in &found.questions {
            assert!(differ(question), "seed {seed}: {question}\n{}\n{}", world.text(), other.text());
        }
        *(if found.questions.is_empty() { &mut alike } else { &mut different }) += 1;
    }
    assert!(alike > 5 && different > 5, "{alike} alike, {different} different");
}

#[test]
fn recorded_events_become_questions() {
    let event = json!({"event": "new", "from": "[2001:db8::1]:40000", "to": "shop/web:443", "proto": "TCP", "is_reply": false});
    let question =
        json!({"from": "2001:db8::1", "sport": 40000, "to": "shop/web", "port": 443, "proto": "TCP"});
    assert_eq!(recorded(&event), Some(question.clone()));
    assert_eq!(recorded(&question), Some(question));
    assert_eq!(
        recorded(&json!({"event": "new", "from": "10.0.0.1:1", "to": "10.0.0.2:2", "is_reply": true})),
        None
    );
    let ping = json!({"event": "drop", "from": "10.0.0.1", "to": "[::1]", "proto": "ICMP", "is_reply": null});
    assert_eq!(recorded(&ping).unwrap()["to"], "::1");
    let named = json!({"flow": {"IP": {"source": "10.0.0.1", "destination": "203.0.113.9"}, "destination_names": ["a.example.com"]}});
    assert_eq!(told_names(&named), [json!({"learn": {"name": "a.example.com", "ips": ["203.0.113.9"]}})]);
    assert!(told_names(&event).is_empty());
}
