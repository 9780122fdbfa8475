//! What is valid and still not what anybody means: said by `sluice check`, never by refusing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_core::tables::record::Prefix;

use crate::compile::Compiled;
use crate::decode::{Problem, host};
use crate::identity::holds_ip;
use crate::labels::Selector;
use crate::policy::above::{Above, Kind};
use crate::policy::{Direction, Effect, Peer, Peers, Policy, PortName, Ports, Rule, Subject, Tier, is_meant};

/// All that is odd in a set of objects, in the order of the files.
pub fn lint(compiled: &Compiled) -> Vec<Problem> {
    let mut found = Vec::new();
    let inside = cluster_addresses(compiled);
    let endpoints = compiled.objects.endpoints.values();
    let ports: BTreeSet<&str> =
        endpoints.flat_map(|one| one.ports.iter().map(|(name, ..)| name.as_str())).collect();
    for (policy, selects) in compiled.engine.policies() {
        if selects == 0 {
            found.push(policy.at.problem("its selector matches nobody, so it has no effect".to_owned()));
        }
        for rule in &policy.rules {
            if let Some(name) = unknown_port(rule, &ports) {
                found.push(rule.at.problem(format!("no endpoint has a port called {name}")));
            }
            rule_alone(compiled, policy, rule, &inside, &mut found);
        }
    }
    names_without_questions(compiled, &mut found);
    without_effect(compiled, &mut found);
    contradictions(compiled, &mut found);
    labels_that_explode(compiled, &mut found);
    found.sort();
    found.dedup();
    found
}

fn cluster_addresses(compiled: &Compiled) -> BTreeMap<IpAddr, String> {
    let objects = &compiled.objects;
    let nodes = objects
        .nodes
        .values()
        .flat_map(|node| node.addresses.iter().map(|ip| (*ip, format!("node {}", node.name))));
    let pods = objects
        .endpoints
        .values()
        .filter(|pod| !pod.host_network)
        .flat_map(|pod| pod.addresses.iter().map(|ip| (*ip, format!("{}/{}", pod.namespace, pod.name))));
    // Nodes come last, so that they have the address that both claim.
    pods.chain(nodes).collect()
}

/// What one rule shows by itself.
fn rule_alone(
    compiled: &Compiled,
    policy: &Policy,
    rule: &Rule,
    inside: &BTreeMap<IpAddr, String>,
    found: &mut Vec<Problem>,
) {
    if rule.above.is_some() && rule.peers == Peers::Anyone && rule.effect == Effect::Allow {
        let what = "asks above ports without naming a peer: everybody who reaches the port is asked";
        found.push(rule.at.problem(what.to_owned()));
    }
    let Peers::Any(peers) = &rule.peers else { return };
    if peers.is_empty() && policy.denies_by_default(rule.direction) && rule.effect == Effect::Allow {
        found.push(rule.at.problem("its list of peers is empty, so it allows nothing".to_owned()));
    }
    for peer in peers {
        if let Some((service, ip)) = behind_a_service(compiled, peer, inside) {
            let who = &inside[&ip];
            let what = format!(
                "{service} stands for its addresses, and some are the cluster's own ({who} has {ip}), which prefixes do \
                 not select; name them by labels or entities (kube-apiserver), or set policy-cidr-match-mode"
            );
            found.push(rule.at.problem(what));
        }
        if compiled.engine.selects(peer) == Some(0) {
            found.push(rule.at.problem(format!("a selector of its peers matches nobody: {peer}")));
        }
        if let Peer::Cidr { prefix, except } = peer
            && let Some((ip, who)) = covered(inside, prefix, except, compiled)
        {
            let what = format!(
                "{}/{} covers addresses of the cluster ({who} has {ip}), which prefixes do not select; name them by \
                 labels or entities, or set policy-cidr-match-mode",
                prefix.addr, prefix.len
            );
            found.push(rule.at.problem(what));
        }
    }
}

/// The name of a port that nobody has. (Those of the cluster's DNS stand in rules that nobody wrote.)
fn unknown_port<'a>(rule: &'a Rule, known: &BTreeSet<&str>) -> Option<&'a str> {
    let Ports::Some(specs) = &rule.ports else { return None };
    let written = rule.tier == Tier::Normal || rule.above.is_none();
    let mut names = specs.iter().filter_map(|spec| match &spec.port {
        PortName::Named(name) => Some(name.as_str()),
        PortName::Range(..) => None,
    });
    names.find(|name| written && !known.contains(name))
}

/// A service without selector that a peer means, with an address that is not selected for it.
fn behind_a_service(
    compiled: &Compiled,
    peer: &Peer,
    inside: &BTreeMap<IpAddr, String>,
) -> Option<(String, IpAddr)> {
    let Peer::Service { .. } = peer else { return None };
    let meant = compiled.objects.services.values().filter(|service| is_meant(peer, service));
    meant.filter(|service| service.selector.is_empty()).find_map(|service| {
        let own = compiled.objects.slices.values();
        let own = own.filter(|slice| slice.namespace == service.namespace && slice.service == service.name);
        let mut addresses = own.flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses);
        let found = addresses.find(|ip| covered(inside, &host(**ip), &[], compiled).is_some())?;
        Some((format!("the service {}/{}", service.namespace, service.name), *found))
    })
}

/// An address of the cluster that one might think is selected.
fn covered<'a>(
    inside: &'a BTreeMap<IpAddr, String>,
    prefix: &Prefix,
    except: &[Prefix],
    compiled: &Compiled,
) -> Option<(&'a IpAddr, &'a String)> {
    let modes = compiled.options.cidr_matches;
    let selected = |who: &str| if who.starts_with("node ") { modes.nodes } else { modes.pods };
    inside
        .range(prefix.addr..)
        .take_while(|(ip, _)| holds_ip(prefix, **ip))
        .find(|(ip, who)| !selected(who) && !except.iter().any(|hole| holds_ip(hole, **ip)))
}

/// Names are learned from answers that the gateway sees because a DNS rule sends them through it.
fn names_without_questions(compiled: &Compiled, found: &mut Vec<Problem>) {
    let asks = |policy: &&Policy| {
        let is_dns = |above: &Above| matches!(above.kind, Kind::Dns(_));
        policy.rules.iter().any(|rule| rule.above.as_deref().is_some_and(is_dns))
    };
    let mut named: Vec<&Rule> = Vec::new();
    for (_, policies) in compiled.engine.subjects(Direction::Egress) {
        if policies.iter().any(asks) {
            continue;
        }
        let by_name = |rule: &&Rule| match &rule.peers {
            Peers::Any(peers) => peers.iter().any(|peer| matches!(peer, Peer::Name(_))),
            Peers::Anyone => false,
        };
        named.extend(policies.iter().flat_map(|policy| policy.rules.iter().filter(by_name)));
    }
    let what = "toFQDNs, and somebody whom it selects has no rule with dns rules: no answer is ever seen, so the names \
                stay without addresses";
    found.extend(named.into_iter().map(|rule| rule.at.problem(what.to_owned())));
}

/// Policies that only allow, for those to whom nothing is denied.
fn without_effect(compiled: &Compiled, found: &mut Vec<Problem>) {
    // For each policy: selects somebody, and matters to somebody.
    let mut matters: BTreeMap<(&str, u32, u32), (&Policy, bool)> = BTreeMap::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for (slot, policies) in compiled.engine.subjects(direction) {
            let enforced = compiled.engine.is_enforced(slot, direction);
            let keeps_out = |policy: &Policy| {
                policy.rules.iter().any(|rule| rule.direction == direction && rule.effect != Effect::Allow)
            };
            let contested = enforced || policies.iter().any(|policy| keeps_out(policy));
            for policy in policies {
                let key = (&*policy.at.place.file, policy.at.line, policy.at.column);
                matters.entry(key).or_insert((policy, false)).1 |= contested;
            }
        }
    }
    for (policy, matters) in matters.into_values() {
        if !matters && !policy.rules.is_empty() {
            let what = "has no effect: it only allows, and nobody whom it selects is denied anything";
            found.push(policy.at.problem(what.to_owned()));
        }
    }
}

/// Rules for the same ports and peers that ask for different kinds of data let nothing through.
fn contradictions(compiled: &Compiled, found: &mut Vec<Problem>) {
    for (_, hearing) in compiled.engine.hearings() {
        for one in hearing {
            let kind = |above: &Option<std::sync::Arc<Above>>| {
                above.as_deref().and_then(Above::name).map(str::to_owned)
            };
            let Some(own) = kind(&one.above) else { continue };
            let other = hearing
                .iter()
                .find(|other| other.peers == one.peers && kind(&other.above).is_some_and(|kind| kind != own));
            let (Some(other), Some(name)) = (other, compiled.rule(one.rule)) else { continue };
            let Some(rule) = compiled.engine.rule_spot(name) else { continue };
            let theirs = compiled.rule(other.rule).map_or_else(String::new, |name| {
                format!("{}[{}] of {}", name.list, name.index, name.source.name)
            });
            let what =
                format!("asks for {own} where {theirs} asks for something else: nothing can satisfy both");
            found.push(rule.problem(what));
        }
    }
}

/// As many values of one label as to be worth a word.
const MANY: usize = 50;

/// Labels that are different with nearly everybody make an identity of each, and no policy looks at them.
fn labels_that_explode(compiled: &Compiled, found: &mut Vec<Problem>) {
    let mut values: BTreeMap<&str, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for endpoint in compiled.objects.endpoints.values() {
        for (key, value) in endpoint.labels.iter().filter(|(key, _)| compiled.options.filter.is_relevant(key))
        {
            let (count, distinct) = values.entry(key).or_default();
            *count += 1;
            distinct.insert(value);
        }
    }
    let mut looked_at = BTreeSet::new();
    for (policy, _) in compiled.engine.policies() {
        let (Subject::Endpoints(subject) | Subject::Nodes(subject)) = &policy.subject;
        keys(subject, &mut looked_at);
        for rule in &policy.rules {
            let Peers::Any(peers) = &rule.peers else { continue };
            for peer in peers {
                if let Peer::Endpoints(selector) = peer {
                    keys(selector, &mut looked_at);
                }
            }
        }
    }
    for (key, (count, distinct)) in values {
        if distinct.len() >= MANY && distinct.len() * 10 >= count * 9 && !looked_at.contains(key) {
            let what = format!(
                "the label {key} has {} values at {count} endpoints and no policy looks at it: it makes nearly as many \
                 identities",
                distinct.len()
            );
            found.push(Problem { file: "endpoints".into(), line: 0, column: 0, field: String::new(), what });
        }
    }
}

fn keys<'a>(selector: &'a Selector, found: &mut BTreeSet<&'a str>) {
    found.extend(selector.0.iter().map(|requirement| requirement.key.as_str()));
}
