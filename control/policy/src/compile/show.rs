//! What is compiled, as JSON: for `dump` and the listings of the live gateway.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sluice_core::tables::record::{Change, ClassId, PeerSetId, PolicyClass, PolicyEntry, PortRange};
use sluice_core::verdict::Action;

use super::{Compiled, source_json};
use crate::config::Enforcement;
use crate::engine::Heard;
use crate::observed::Naming;
use crate::policy::{Direction, Policy, Subject, Tier};
use crate::service::frontends;

impl Compiled {
    pub fn show_identities(&self) -> Value {
        let show = |party: crate::engine::Party<'_>| {
            let labels: Vec<String> = party.labels.iter().map(ToString::to_string).collect();
            json!({"identity": party.number, "labels": labels})
        };
        self.engine.identities().into_iter().map(show).collect()
    }

    pub fn show_endpoints(&self) -> Value {
        let show = |endpoint: &crate::objects::Endpoint| {
            let owner = endpoint.addresses.first().and_then(|ip| self.engine.owner(*ip));
            let slot = owner.as_ref().map(|(party, _)| party.slot);
            let enforced = |direction| slot.is_some_and(|slot| self.engine.is_enforced(slot, direction));
            let by = |direction| -> Value {
                let sources = slot.map(|slot| self.engine.enforcing(slot, direction)).unwrap_or_default();
                sources.into_iter().map(source_json).collect()
            };
            let ports = endpoint.ports.iter().map(|(name, proto, port)| {
                json!({"name": name, "proto": crate::observed::protocol(*proto), "port": port})
            });
            let labels: Vec<String> = owner
                .as_ref()
                .map_or_else(Vec::new, |(party, _)| party.labels.iter().map(ToString::to_string).collect());
            json!({
                "kind": endpoint.kind,
                "namespace": endpoint.namespace,
                "name": endpoint.name,
                "node": endpoint.node,
                "addresses": endpoint.addresses,
                "ports": ports.collect::<Vec<_>>(),
                "identity": owner.as_ref().map_or(0, |(party, _)| party.number),
                "labels": labels,
                "audit": slot.is_some_and(|slot| self.engine.is_audited(slot)),
                "ingress_enforced": enforced(Direction::Ingress),
                "egress_enforced": enforced(Direction::Egress),
                "ingress_enforced_by": by(Direction::Ingress),
                "egress_enforced_by": by(Direction::Egress),
            })
        };
        self.objects.endpoints.values().map(show).collect()
    }

    pub fn show_policies(&self) -> Value {
        let show = |(policy, selects): (&Policy, usize)| {
            let count = |direction| policy.rules.iter().filter(|rule| rule.direction == direction).count();
            json!({
                "kind": policy.source.kind,
                "namespace": policy.source.namespace,
                "name": policy.source.name,
                "at": format!("{}:{}", policy.at.place.file, policy.at.line),
                "selects": selects,
                "selector": match &policy.subject {
                    Subject::Endpoints(selector) => format!("{selector}"),
                    Subject::Nodes(selector) => format!("nodes with {selector}"),
                },
                "enforced": enforced(policy, selects, self.options.enforcement),
                "tier": policy.rules.first().map_or("Normal", |rule| match rule.tier {
                    Tier::Admin => "Admin",
                    Tier::Normal => "Normal",
                    Tier::Baseline => "Baseline",
                }),
                "log": policy.log,
                "ingress": count(Direction::Ingress),
                "egress": count(Direction::Egress),
                "default_deny": {
                    "ingress": policy.denies_by_default(Direction::Ingress),
                    "egress": policy.denies_by_default(Direction::Egress),
                },
            })
        };
        self.engine.policies().into_iter().map(show).collect()
    }

    pub fn show_services(&self) -> Value {
        self.frontends.iter().flat_map(frontends::show).collect()
    }

    /// Everything compiled, for `dump`.
    pub fn dump(&self) -> Value {
        let index = Index::new(self);
        let (mut classes, mut ipcache) = (Vec::new(), Vec::new());
        for change in self.records.values() {
            if let Change::Class(id, Some(class)) = change {
                classes.push(self.show_class(*id, class, &index));
            }
            if let Change::Address(prefix, Some(slot)) = change {
                let number = self.engine.party(*slot).map(|party| party.number);
                let prefix = format!("{}/{}", prefix.addr, prefix.len);
                ipcache.push(json!({"prefix": prefix, "identity": number}));
            }
        }
        json!({
            "frontends": self.show_services(),
            "policies": classes,
            "identities": self.show_identities(),
            "ipcache": ipcache,
        })
    }

    fn show_class(&self, id: ClassId, class: &PolicyClass, index: &Index) -> Value {
        let (direction, identities) = match (index.egress.get(&id), index.ingress.get(&id)) {
            (Some(identities), _) => ("egress", identities),
            (None, Some(identities)) => ("ingress", identities),
            (None, None) => ("ingress", &index.nobody),
        };
        let entries =
            class.ranges.iter().flat_map(|range| range.entries.iter().map(move |entry| (range, entry)));
        let entries: Vec<Value> =
            entries.map(|(range, entry)| self.show_entry(range, entry, index)).collect();
        json!({
            "class": id.0, "direction": direction, "identities": identities, "default_deny": class.default_deny,
            "audit": class.audit, "entries": entries,
        })
    }

    fn show_entry(&self, range: &PortRange, entry: &PolicyEntry, index: &Index) -> Value {
        let peers = match entry.peers {
            PeerSetId::ANY => json!("any"),
            set => json!(index.members.get(&set).unwrap_or(&index.nobody)),
        };
        let proto = match u8::try_from(range.proto) {
            Ok(proto) => crate::observed::protocol(proto),
            Err(_) => "ANY".to_owned(),
        };
        let rules: Vec<Value> = Naming::rule(self, entry.rule).into_iter().collect();
        let mut shown = json!({
            "peers": peers,
            "proto": proto,
            "ports": [range.first, range.last],
            "verdict": format!("{:?}", entry.action).split('(').next().unwrap_or_default().to_uppercase(),
            "rules": rules,
        });
        if let Action::Dns(hearing) | Action::Inspect(hearing) = entry.action {
            let heard = self.engine.hearing(hearing).map(Vec::as_slice).unwrap_or_default();
            shown["heard"] = heard.iter().map(|heard| self.show_heard(heard, index)).collect();
        }
        shown
    }

    /// One rule that is asked about what is said.
    fn show_heard(&self, heard: &Heard, index: &Index) -> Value {
        let peers = match heard.peers {
            PeerSetId::ANY => json!("any"),
            set => json!(index.members.get(&set).unwrap_or(&index.nobody)),
        };
        let asks = heard.above.as_deref().map_or("nothing", |above| above.name().unwrap_or("server names"));
        json!({"peers": peers, "asks_for": asks, "rule": Naming::rule(self, heard.rule)})
    }
}

/// Is this policy in force on live traffic? If not, why not.
fn enforced(policy: &Policy, selects: usize, mode: Enforcement) -> &'static str {
    match (&policy.subject, selects, mode) {
        (_, _, Enforcement::Never) => "no: enforcement is off",
        (Subject::Nodes(_), ..) => "no: host policies are judged offline only",
        (Subject::Endpoints(_), 0, _) => "no: selects nobody",
        (Subject::Endpoints(_), ..) => "yes",
    }
}

/// Who is in which class and peer set, turned around once.
#[derive(Default)]
struct Index {
    egress: BTreeMap<ClassId, Vec<u32>>,
    ingress: BTreeMap<ClassId, Vec<u32>>,
    members: BTreeMap<PeerSetId, Vec<u32>>,
    nobody: Vec<u32>,
}

impl Index {
    fn new(compiled: &Compiled) -> Self {
        let mut index = Self::default();
        for change in compiled.records.values() {
            let Change::Identity(_, Some(identity)) = change else { continue };
            for (map, class) in [(&mut index.egress, identity.egress), (&mut index.ingress, identity.ingress)]
            {
                if let Some(class) = class {
                    map.entry(class).or_default().push(identity.number);
                }
            }
            for set in &identity.peer_sets {
                index.members.entry(*set).or_default().push(identity.number);
            }
        }
        let lists =
            index.egress.values_mut().chain(index.ingress.values_mut()).chain(index.members.values_mut());
        for list in lists {
            list.sort_unstable();
            list.dedup();
        }
        index
    }
}
