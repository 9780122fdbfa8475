//! What is compiled, as JSON: for `dump` and the listings of the live gateway.

use serde_json::{Value, json};
use sluice_core::tables::record::{Change, ClassId, PeerSetId, PolicyClass, PolicyEntry, PortRange};

use super::Compiled;
use crate::observed::Naming;
use crate::policy::{Direction, Policy};
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
            let enforced = |direction| {
                owner
                    .as_ref()
                    .is_some_and(|(party, _)| !self.engine.enforcing(party.slot, direction).is_empty())
            };
            json!({
                "kind": endpoint.kind,
                "namespace": endpoint.namespace,
                "name": endpoint.name,
                "addresses": endpoint.addresses,
                "identity": owner.as_ref().map_or(0, |(party, _)| party.number),
                "ingress_enforced": enforced(Direction::Ingress),
                "egress_enforced": enforced(Direction::Egress),
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
                "selects": format!("{selects} identities"),
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
        let (mut classes, mut ipcache) = (Vec::new(), Vec::new());
        for change in self.records.values() {
            if let Change::Class(id, Some(class)) = change {
                classes.push(self.show_class(*id, class));
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

    fn show_class(&self, id: ClassId, class: &PolicyClass) -> Value {
        let (mut direction, mut identities) = ("ingress", Vec::new());
        for change in self.records.values() {
            let Change::Identity(_, Some(identity)) = change else { continue };
            if identity.egress == Some(id) {
                direction = "egress";
            }
            if identity.egress == Some(id) || identity.ingress == Some(id) {
                identities.push(identity.number);
            }
        }
        identities.dedup();
        let entries =
            class.ranges.iter().flat_map(|range| range.entries.iter().map(move |entry| (range, entry)));
        let entries: Vec<Value> = entries.map(|(range, entry)| self.show_entry(range, entry)).collect();
        json!({
            "class": id.0, "direction": direction, "identities": identities, "default_deny": class.default_deny,
            "audit": class.audit, "entries": entries,
        })
    }

    fn show_entry(&self, range: &PortRange, entry: &PolicyEntry) -> Value {
        let peers = match entry.peers {
            PeerSetId::ANY => json!("any"),
            set => json!(self.engine.members(set)),
        };
        let proto = match u8::try_from(range.proto) {
            Ok(proto) => crate::observed::protocol(proto),
            Err(_) => "ANY".to_owned(),
        };
        let rules: Vec<Value> = Naming::rule(self, entry.rule).into_iter().collect();
        json!({
            "peers": peers,
            "proto": proto,
            "ports": [range.first, range.last],
            "verdict": format!("{:?}", entry.action).split('(').next().unwrap_or_default().to_uppercase(),
            "rules": rules,
        })
    }
}
