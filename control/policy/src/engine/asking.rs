//! Questions about what is compiled: who has an address, which rules there are, who enforces.

use std::net::IpAddr;

use sluice_core::tables::record::{IdentitySlot, PeerSetId, RuleId};

use super::addresses::Owner;
use super::slots::Slot;
use super::specs::{RuleName, SpecRule};
use super::{Engine, atoms::What};
use crate::labels::LabelSet;
use crate::policy::{Direction, Peer, Peers, Policy, Source};

/// Who is meant by an address or a name.
#[derive(Clone, Debug)]
pub struct Party<'a> {
    pub slot: IdentitySlot,
    pub number: u32,
    pub labels: &'a LabelSet,
}

impl Engine {
    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.rules.get(id)
    }

    pub fn party(&self, slot: IdentitySlot) -> Option<Party<'_>> {
        let found = self.slots.all.get(slot.0)?;
        Some(Party { slot, number: found.number, labels: &found.key.labels })
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

    /// The policies that have something to say about this slot in this direction.
    pub fn policies_of(&self, slot: IdentitySlot, direction: Direction) -> Vec<&Policy> {
        let Some(slot) = self.slots.all.get(slot.0) else { return Vec::new() };
        let ids = self.selecting(slot, direction);
        ids.iter().filter_map(|id| self.specs.get(*id)).map(|spec| &spec.policy).collect()
    }

    /// The policies that switched default deny on.
    pub fn enforcing(&self, slot: IdentitySlot, direction: Direction) -> Vec<&Source> {
        let policies = self.policies_of(slot, direction);
        let mut named: Vec<&Source> = policies
            .into_iter()
            .filter(|policy| policy.denies_by_default(direction))
            .map(|policy| &policy.source)
            .collect();
        named.sort();
        named.dedup();
        named
    }

    /// The rules for this slot in this direction that name the peer, whatever their ports.
    pub(crate) fn naming(
        &self,
        slot: IdentitySlot,
        peer: IdentitySlot,
        direction: Direction,
    ) -> Vec<(&Policy, &SpecRule)> {
        let (Some(slot), Some(peer)) = (self.slots.all.get(slot.0), self.slots.all.get(peer.0)) else {
            return Vec::new();
        };
        let ids = self.selecting(slot, direction);
        let names = |rule: &&SpecRule| {
            rule.direction == direction && rule.peers.as_ref().is_some_and(|peers| peers.has(peer))
        };
        ids.iter()
            .filter_map(|id| self.specs.get(*id))
            .flat_map(|spec| spec.rules.iter().filter(names).map(|rule| (&spec.policy, rule)))
            .collect()
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

    /// Numbers of the identities in a peer set.
    pub fn members(&self, set: PeerSetId) -> Vec<u32> {
        let mut numbers: Vec<u32> = self
            .slots
            .all
            .iter()
            .filter(|(_, slot)| slot.sets.contains(&set.0))
            .map(|(_, slot)| slot.number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// References that lead nowhere: they select nothing.
    pub fn dangling(&self) -> Vec<(&Source, String)> {
        let mut found = Vec::new();
        for spec in self.spec_ids.values().filter_map(|id| self.specs.get(*id)) {
            for rule in &spec.policy.rules {
                let Peers::Any(peers) = &rule.peers else { continue };
                for peer in peers {
                    if let Some(what) = self.leads_nowhere(peer) {
                        found.push((&spec.policy.source, format!("{}[{}]: {what}", rule.list, rule.index)));
                    }
                }
            }
        }
        found
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
