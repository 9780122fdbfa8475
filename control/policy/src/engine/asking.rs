//! Questions about what is compiled: who has an address, which rules there are, who enforces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_core::tables::record::{IdentitySlot, RuleId};

use super::addresses::Owner;
use super::hearings::Hearing;
use super::slots::Slot;
use super::specs::{self, RuleName, Spec};
use super::{Engine, atoms::What};
use crate::decode::Problem;
use crate::identity::Numbers;
use crate::labels::LabelSet;
use crate::policy::above::Above;
use crate::policy::{Direction, Peer, Peers, Policy, PortName, Ports, Rule, Source, Spot};

/// Who is meant by an address or a name.
#[derive(Clone, Debug)]
pub struct Party<'a> {
    pub slot: IdentitySlot,
    pub number: u32,
    pub labels: &'a LabelSet,
}

/// Protocol and port (for ICMP: the type) that somebody asks about.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub proto: u8,
    pub port: u16,
}

/// A rule entry, as explanations need it.
#[derive(Clone, Debug)]
pub struct SpecRuleView<'a> {
    pub source: &'a Source,
    pub list: &'static str,
    pub index: usize,
    pub peers: &'a Peers,
    pub ports: &'a Ports,
    pub direction: Direction,
    pub above: Option<&'a Above>,
    pub names_peer: bool,
}

/// A name is called by the subject in ingress, by the peer in egress.
fn fits(ports: &Ports, direction: Direction, judged: &Slot, peer: &Slot, asked: Asked) -> bool {
    let Ports::Some(specs) = ports else { return true };
    let names = if direction == Direction::Ingress { &judged.key.ports } else { &peer.key.ports };
    specs.iter().filter(|spec| spec.proto == asked.proto).any(|spec| match &spec.port {
        PortName::Range(first, last) => (*first..=*last).contains(&asked.port),
        PortName::Named(name) => {
            names.iter().any(|(own, proto, port)| own == name && *proto == asked.proto && *port == asked.port)
        }
    })
}

impl Engine {
    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.rules.get(id)
    }

    pub fn party(&self, slot: IdentitySlot) -> Option<Party<'_>> {
        let found = self.slots.all.get(slot.0)?;
        Some(Party { slot, number: found.number, labels: &found.key.labels })
    }

    /// Who is to be asked about what is said on a flow that [`Action::Dns`] or [`Action::Inspect`] let through so far.
    ///
    /// [`Action::Dns`]: sluice_core::verdict::Action::Dns
    /// [`Action::Inspect`]: sluice_core::verdict::Action::Inspect
    pub fn hearing(&self, id: u32) -> Option<&Hearing> {
        self.hearings.get(id)
    }

    /// All hearings, by number.
    pub fn hearings(&self) -> impl Iterator<Item = (u32, &Hearing)> {
        self.hearings.iter()
    }

    /// Whose address this is, by the longest prefix.
    pub fn slot_of(&self, ip: IpAddr) -> Option<IdentitySlot> {
        self.addresses.lookup(ip).map(IdentitySlot)
    }

    /// The node or endpoint with this very address.
    pub fn owner(&self, ip: IpAddr) -> Option<(Party<'_>, String)> {
        let (owner, slot) = self.addresses.owner(crate::decode::host(ip))?;
        let name = match owner {
            Owner::Node(name) => name.clone(),
            Owner::Endpoint(namespace, name) => format!("{namespace}/{name}"),
            Owner::Prefix => return None,
        };
        Some((self.party(IdentitySlot(slot))?, name))
    }

    /// One of the slots with this number; those that share it differ in named ports alone, or are nodes.
    pub fn slot_of_number(&self, number: u32) -> Option<IdentitySlot> {
        self.slots.by_number.get(&number)?.first().copied().map(IdentitySlot)
    }

    pub fn labels(&self, number: u32) -> Option<&LabelSet> {
        Some(self.party(self.slot_of_number(number)?)?.labels)
    }

    /// All identities, by number.
    pub fn identities(&self) -> Vec<Party<'_>> {
        let mut numbers: Vec<u32> = self.slots.by_number.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().filter_map(|number| self.party(self.slot_of_number(number)?)).collect()
    }

    /// The specs that have something to say about this slot in this direction.
    fn specs_of(&self, slot: IdentitySlot, direction: Direction) -> impl Iterator<Item = &Spec> {
        let side = usize::from(direction == Direction::Egress);
        let class = self.slots.all.get(slot.0).and_then(|slot| self.classes.get(slot.classes[side]?));
        let specs = class.map(|class| class.key.specs.as_slice()).unwrap_or_default();
        specs.iter().filter_map(|id| self.specs.get(*id))
    }

    /// The policies that switched default deny on.
    pub fn enforcing(&self, slot: IdentitySlot, direction: Direction) -> Vec<&Source> {
        let policies = self.specs_of(slot, direction).map(|spec| &spec.policy);
        let mut named: Vec<&Source> = policies
            .filter(|policy| policy.denies_by_default(direction))
            .map(|policy| &policy.source)
            .collect();
        named.sort();
        named.dedup();
        named
    }

    /// Is what no rule allows denied?
    pub fn is_enforced(&self, slot: IdentitySlot, direction: Direction) -> bool {
        let side = usize::from(direction == Direction::Egress);
        let class = self.slots.all.get(slot.0).and_then(|slot| self.classes.get(slot.classes[side]?));
        class.is_some_and(|class| class.key.default_deny)
    }

    /// Is what would be denied to it, either way, forwarded and told?
    pub fn is_audited(&self, slot: IdentitySlot) -> bool {
        self.settings.audit || self.slots.all.get(slot.0).is_some_and(|slot| slot.key.audit)
    }

    /// All rules that decided as this one did: of the same rank, for the same peer and port.
    pub fn deciding(
        &self,
        judged: IdentitySlot,
        peer: IdentitySlot,
        direction: Direction,
        asked: Asked,
        decided: RuleId,
    ) -> Vec<RuleId> {
        if decided == RuleId(0) {
            return Vec::new();
        }
        let (Some(own), Some(other)) = (self.slots.all.get(judged.0), self.slots.all.get(peer.0)) else {
            return vec![decided];
        };
        let mut found = Vec::new();
        for rule in self.specs_of(judged, direction).flat_map(|spec| &spec.rules) {
            if rule.direction != direction || !rule.peers.as_ref().is_some_and(|peers| peers.has(other)) {
                continue;
            }
            if !fits(&rule.ports, direction, own, other, asked) {
                continue;
            }
            found.push((rule.id, rule.rank));
        }
        let rank = found.iter().filter(|(id, _)| *id == decided).map(|(_, rank)| *rank).min();
        let mut alike: Vec<RuleId> =
            found.into_iter().filter(|(_, own)| Some(*own) == rank).map(|(id, _)| id).collect();
        alike.sort_unstable();
        alike.dedup();
        if alike.is_empty() { vec![decided] } else { alike }
    }

    /// The rules that could allow something to this slot in this direction, and whether they name the peer.
    pub fn allowing(
        &self,
        judged: IdentitySlot,
        peer: IdentitySlot,
        direction: Direction,
    ) -> Vec<SpecRuleView<'_>> {
        let other = self.slots.all.get(peer.0);
        let mut views = Vec::new();
        for spec in self.specs_of(judged, direction) {
            for rule in spec.rules.iter().filter(|rule| rule.direction == direction && rule.allows()) {
                let Some(name) = self.rules.get(rule.id) else { continue };
                let mut written = spec.policy.rules.iter();
                let Some(written) = written.find(|own| own.list == name.list && own.index == name.index)
                else {
                    continue;
                };
                views.push(SpecRuleView {
                    source: &spec.policy.source,
                    list: name.list,
                    index: name.index,
                    peers: &written.peers,
                    ports: &rule.ports,
                    direction,
                    above: rule.above.as_deref(),
                    names_peer: other.is_some_and(|other| rule.peers.as_ref().is_some_and(|p| p.has(other))),
                });
            }
        }
        views
    }

    /// Does the rule speak of this protocol and port between these two?
    pub fn port_fits(
        &self,
        view: &SpecRuleView<'_>,
        judged: IdentitySlot,
        peer: IdentitySlot,
        proto: u8,
        port: u16,
    ) -> bool {
        let (Some(own), Some(other)) = (self.slots.all.get(judged.0), self.slots.all.get(peer.0)) else {
            return false;
        };
        fits(view.ports, view.direction, own, other, Asked { proto, port })
    }

    /// What to save, for numbers to be the same after a restart.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The same, to note that it was saved.
    pub fn numbers_mut(&mut self) -> &mut Numbers {
        &mut self.numbers
    }

    /// The policy that a rule is of.
    pub fn policy_of(&self, name: &RuleName) -> Option<&Policy> {
        let id = self.spec_ids.get(&(name.source.clone(), name.spec))?;
        Some(&self.specs.get(*id)?.policy)
    }

    /// All specs of one object, in their order.
    pub fn policies_of(&self, source: &Source) -> impl Iterator<Item = &Policy> {
        let ids = self.spec_ids.range((source.clone(), 0)..=(source.clone(), usize::MAX));
        ids.filter_map(|(_, id)| self.specs.get(*id)).map(|spec| &spec.policy)
    }

    /// Where a rule is written.
    pub fn rule_spot(&self, name: &RuleName) -> Option<&Spot> {
        self.rules_of(name).next().map(|rule| &rule.at)
    }

    /// What one entry of a list came to.
    pub fn rules_of(&self, name: &RuleName) -> impl Iterator<Item = &Rule> {
        let rules = self.policy_of(name).into_iter().flat_map(|policy| &policy.rules);
        rules.filter(move |rule| rule.list == name.list && rule.index == name.index)
    }

    /// How many identities each spec selects, in the order of the objects' names.
    pub fn policies(&self) -> Vec<(&Policy, usize)> {
        let specs = self.spec_ids.values().filter_map(|id| self.specs.get(*id));
        let selected = |subject: u32| {
            let atom = self.atoms.all.get(subject);
            atom.map_or(0, |atom| {
                let is_meant = |slot: &&Slot| matches!(atom.what, What::Nodes(_)) || slot.is_subject();
                atom.slots.iter().filter_map(|slot| self.slots.all.get(*slot)).filter(is_meant).count()
            })
        };
        specs.map(|spec| (&spec.policy, selected(spec.subject))).collect()
    }

    /// References that lead nowhere: they select nothing.
    pub fn dangling(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        for spec in self.on_others() {
            for rule in &spec.policy.rules {
                let Peers::Any(peers) = &rule.peers else { continue };
                found.extend(
                    peers
                        .iter()
                        .filter_map(|peer| self.leads_nowhere(peer))
                        .map(|what| rule.at.problem(what)),
                );
            }
        }
        found
    }

    /// Specs that refer to services, or to groups by name.
    fn on_others(&self) -> impl Iterator<Item = &Spec> {
        let ids: BTreeSet<u32> = self.on_services.union(&self.names_groups).copied().collect();
        ids.into_iter().filter_map(|id| self.specs.get(id))
    }

    /// How many identities a peer selects by labels; nothing for what is no selector.
    pub fn selects(&self, peer: &Peer) -> Option<usize> {
        let what = match peer {
            Peer::Endpoints(_) | Peer::Nodes(_) => {
                specs::demands(peer, &self.settings.cluster)?.into_iter().next()?
            }
            Peer::Cidr { .. }
            | Peer::Group { .. }
            | Peer::Entity(_)
            | Peer::Service { .. }
            | Peer::Name(_) => {
                return None;
            }
        };
        let atom = self.atoms.find(&what).and_then(|id| self.atoms.all.get(id));
        Some(atom.map_or(0, |atom| atom.slots.len()))
    }

    /// Every slot that can be a policy's subject, with the policies that have something to say to it.
    pub fn subjects(&self, direction: Direction) -> impl Iterator<Item = (IdentitySlot, Vec<&Policy>)> {
        let slots = self.slots.all.iter().map(|(id, _)| IdentitySlot(id));
        slots.map(move |slot| (slot, self.specs_of(slot, direction).map(|spec| &spec.policy).collect()))
    }

    fn leads_nowhere(&self, peer: &Peer) -> Option<String> {
        match peer {
            Peer::Service { namespace, name, .. } if self.service_demands(peer).is_empty() => {
                let name = name.as_deref().unwrap_or("the selector");
                let namespace = namespace.as_deref().unwrap_or("any namespace");
                Some(format!("no service for {name} in {namespace}; it selects nothing"))
            }
            Peer::Group { name: Some(name), .. } if !self.groups.contains_key(name) => {
                Some(format!("there is no CiliumCIDRGroup {name}; it selects nothing"))
            }
            Peer::Endpoints(_)
            | Peer::Nodes(_)
            | Peer::Cidr { .. }
            | Peer::Group { .. }
            | Peer::Entity(_)
            | Peer::Service { .. }
            | Peer::Name(_) => None,
        }
    }
}
