//! One class: the rules of some policies in one direction, cut into ranges of ports.
//!
//! Within a range the order is that of precedence: denials first, then what must be inspected, then what is allowed. So
//! the first entry whose peer set has the peer decides.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_core::tables::record::{ClassId, PeerSetId, PolicyClass, PolicyEntry, PortRange, RuleId};
use sluice_core::verdict::Action;

use super::{Compiled, Compiler};
use crate::policy::{Direction, Inspect, PortName, Ports, Rule};

/// A rule on some ports of a protocol, or on everything.
struct Applied {
    proto: Option<u8>,
    first: u16,
    last: u16,
    rank: u8,
    entry: PolicyEntry,
}

impl Compiler<'_> {
    pub(super) fn class(
        &mut self,
        policies: &[usize],
        direction: Direction,
        own_ports: &[(String, u8, u16)],
        always: bool,
    ) -> PolicyClass {
        let mut applied = Vec::new();
        for (id, rule) in self.rules_of(policies, direction) {
            self.apply(id, rule, own_ports, &mut applied);
        }
        let default_deny =
            always || policies.iter().any(|index| self.objects.policies[*index].denies_by_default(direction));
        applied.sort_by_key(|one| (one.rank, one.entry.rule));
        PolicyClass { default_deny, audit: self.options.audit, ranges: ranges(&applied) }
    }

    fn apply(
        &mut self,
        id: RuleId,
        rule: &Rule,
        own_ports: &[(String, u8, u16)],
        applied: &mut Vec<Applied>,
    ) {
        let (rank, action) = match (rule.deny, rule.authenticate, rule.inspect) {
            (true, _, _) => (0, Action::Deny),
            (false, true, _) => (1, Action::Authenticate),
            (false, false, Inspect::Other) => (2, Action::Inspect(id.0)),
            (false, false, Inspect::Dns) => (3, Action::Dns(id.0)),
            (false, false, Inspect::No) => (4, Action::Allow),
        };
        let peers = self.peer_set(&rule.peers, None);
        let mut add = |proto, first, last, peers| {
            applied.push(Applied {
                proto,
                first,
                last,
                rank,
                entry: PolicyEntry { peers, action, rule: id },
            });
        };
        let Ports::Some(specs) = &rule.ports else { return add(None, 0, u16::MAX, peers) };
        let mut by_name: Vec<(u8, u16, PeerSetId)> = Vec::new();
        for spec in specs {
            match &spec.port {
                PortName::Range(first, last) => add(Some(spec.proto), *first, *last, peers),
                PortName::Named(name) if rule.direction == Direction::Ingress => {
                    for (_, proto, port) in own_ports.iter().filter(|(n, p, _)| n == name && *p == spec.proto)
                    {
                        by_name.push((*proto, *port, peers));
                    }
                }
                // Each number of the name is for those peers alone that call it so.
                PortName::Named(name) => {
                    let numbers: BTreeSet<u16> = self
                        .named_ports
                        .values()
                        .flatten()
                        .filter(|(n, p, _)| n == name && *p == spec.proto)
                        .map(|(_, _, port)| *port)
                        .collect();
                    for port in numbers {
                        let set = self.peer_set(&rule.peers, Some((name.clone(), spec.proto, port)));
                        by_name.push((spec.proto, port, set));
                    }
                }
            }
        }
        for (proto, port, set) in by_name {
            applied.push(Applied {
                proto: Some(proto),
                first: port,
                last: port,
                rank,
                entry: PolicyEntry { peers: set, action, rule: id },
            });
        }
    }
}

/// Cut all rules at each other's borders.
fn ranges(applied: &[Applied]) -> Vec<PortRange> {
    let mut ranges = Vec::new();
    let protos: BTreeSet<u8> = applied.iter().filter_map(|one| one.proto).collect();
    for proto in protos {
        let mine = || applied.iter().filter(|one| one.proto.is_none_or(|p| p == proto));
        let mut starts: BTreeSet<u32> = BTreeSet::from([0]);
        for one in mine() {
            starts.insert(u32::from(one.first));
            starts.insert(u32::from(one.last) + 1);
        }
        let starts: Vec<u32> = starts.into_iter().filter(|start| *start <= 65_535).collect();
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).map_or(65_535, |next| next - 1);
            let (Ok(first), Ok(last)) = (u16::try_from(*start), u16::try_from(end)) else { continue };
            let entries =
                mine().filter(|one| one.first <= first && last <= one.last).map(|one| one.entry).collect();
            ranges.push(PortRange { proto: u16::from(proto), first, last, entries });
        }
    }
    let anywhere: Vec<PolicyEntry> =
        applied.iter().filter(|one| one.proto.is_none()).map(|one| one.entry).collect();
    if !anywhere.is_empty() {
        ranges.push(PortRange { proto: PortRange::ANY_PROTO, first: 0, last: u16::MAX, entries: anywhere });
    }
    ranges
}

/// A class as `dump` shows it.
pub(super) fn show(id: ClassId, class: &PolicyClass, compiled: &Compiled) -> Value {
    use crate::observed::Naming;
    use sluice_core::tables::record::Change;
    let (mut direction, mut identities, mut members) =
        ("ingress", Vec::new(), std::collections::BTreeMap::new());
    for change in compiled.records.values() {
        let Change::Identity(_, Some(identity)) = change else { continue };
        if identity.egress == Some(id) {
            direction = "egress";
        }
        if identity.egress == Some(id) || identity.ingress == Some(id) {
            identities.push(identity.number);
        }
        for set in &identity.peer_sets {
            members.entry(*set).or_insert_with(Vec::new).push(identity.number);
        }
    }
    let entries: Vec<Value> = class
        .ranges
        .iter()
        .flat_map(|range| range.entries.iter().map(move |entry| (range, entry)))
        .map(|(range, entry)| {
            let peers = match entry.peers {
                PeerSetId::ANY => json!("any"),
                set => json!(members.get(&set).cloned().unwrap_or_default()),
            };
            json!({
                "peers": peers,
                "proto": if range.proto == PortRange::ANY_PROTO { "ANY".to_owned() } else {
                    crate::observed::protocol(u8::try_from(range.proto).unwrap_or(0))
                },
                "ports": [range.first, range.last],
                "verdict": format!("{:?}", entry.action).split('(').next().unwrap_or_default().to_uppercase(),
                "rules": [Naming::rule(compiled, entry.rule)],
            })
        })
        .collect();
    json!({
        "class": id.0, "direction": direction, "identities": identities, "default_deny": class.default_deny,
        "audit": class.audit, "entries": entries,
    })
}
