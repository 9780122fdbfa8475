//! The end of every change: look again at what was touched, and tell what is different.

use std::collections::BTreeSet;

use sluice_core::tables::record::{
    Change, ClassId, Identity, IdentitySlot, PeerSetId, PolicyClass, PolicyEntry, PortRange, RuleId,
};
use sluice_core::verdict::Action;

use super::atoms::What;
use super::classes::{self, Allowing, Class, Draft, Effect, Item, Rank};
use super::hearings::Heard;
use super::sets::{Definition, Peers};
use super::slots::{Role, Slot};
use super::specs::{self, Spec};
use super::{DIRECTIONS, Engine};
use crate::config::Enforcement;
use crate::labels::{Label, Operator, Selector};
use crate::policy::{Direction, Tier};

/// What the making of a class took: to be given back when it is made again.
#[derive(Default)]
struct Taken {
    sets: Vec<u32>,
    hearings: Vec<u32>,
}

impl Engine {
    pub(super) fn settle(&mut self) -> Vec<Change> {
        self.relabel();
        for slot in std::mem::take(&mut self.touched.subjects) {
            self.classify(slot);
        }
        let renamed = std::mem::take(&mut self.slots.named_anew);
        if !renamed.is_empty() {
            let asks = |class: &Class| class.peer_names.iter().any(|name| renamed.contains(name));
            self.touched
                .classes
                .extend(self.classes.iter().filter(|(_, class)| asks(class)).map(|(id, _)| id));
        }
        let mut changes = Vec::new();
        for class in std::mem::take(&mut self.touched.classes) {
            self.build(class, &mut changes);
        }
        // Rules that went may have left prefixes that nobody speaks of any more.
        self.relabel();
        self.place_names();
        for slot in std::mem::take(&mut self.touched.subjects) {
            self.classify(slot);
        }
        for slot in std::mem::take(&mut self.touched.slots) {
            self.tell_slot(slot, &mut changes);
        }
        self.tell_addresses(&mut changes);
        self.tell_names(&mut changes);
        if self.settings.names_elsewhere {
            self.tell_sets(&mut changes);
        }
        let mut all = std::mem::take(&mut self.touched.gone);
        all.append(&mut changes);
        all
    }

    /// Everything, as if nothing had been told yet.
    pub fn snapshot(&self) -> Vec<Change> {
        let identities = self.slots.all.iter();
        let identities = identities.map(|(id, slot)| Change::Identity(IdentitySlot(id), slot.told.clone()));
        let classes = self.classes.iter().map(|(id, class)| Change::Class(ClassId(id), class.told.clone()));
        identities.chain(classes).chain(self.all_addresses()).chain(self.patterns.snapshot()).collect()
    }

    fn tell_slot(&mut self, id: u32, changes: &mut Vec<Change>) {
        let Some(slot) = self.slots.all.get_mut(id) else { return };
        let [ingress, egress] = slot.classes.map(|class| class.map(ClassId));
        let peer_sets = slot.sets.iter().map(|set| PeerSetId(*set)).collect();
        let identity = Identity { number: slot.number, egress, ingress, peer_sets, world: slot.is_world() };
        if slot.told.as_ref() != Some(&identity) {
            slot.told = Some(identity.clone());
            changes.push(Change::Identity(IdentitySlot(id), Some(identity)));
        }
    }

    /// Find the classes that judge a slot.
    fn classify(&mut self, id: u32) {
        for (side, direction) in DIRECTIONS.into_iter().enumerate() {
            let Some(slot) = self.slots.all.get(id) else { return };
            let before = slot.classes[side];
            let class = self.class_key(slot, direction).map(|key| self.class(key));
            if let Some(slot) = self.slots.all.get_mut(id) {
                slot.classes[side] = class;
            }
            self.touched.slots.insert(id);
            // The new one was taken first, so that one and the same stays.
            before.into_iter().for_each(|class| self.leave_class(class));
        }
    }

    /// The specs that have something to say about this slot in this direction.
    pub(super) fn selecting(&self, slot: &Slot, direction: Direction) -> Vec<u32> {
        let is_node = slot.key.role == Role::Node && self.settings.host_firewall;
        let counts = |what: &What| match what {
            What::Nodes(_) => is_node,
            What::Labels(_) => slot.is_subject(),
            What::Cidr { .. } | What::Group { .. } | What::Name(_) => false,
        };
        let atoms = slot.atoms.iter().filter_map(|atom| self.atoms.all.get(*atom));
        let found: BTreeSet<u32> =
            atoms.filter(|atom| counts(&atom.what)).flat_map(|atom| atom.subjects.iter().copied()).collect();
        let speaks = |id: &u32| self.specs.get(*id).is_some_and(|spec| Spec::speaks(&spec.policy, direction));
        found.into_iter().filter(speaks).collect()
    }

    /// `None`: nobody judges.
    fn class_key(&self, slot: &Slot, direction: Direction) -> Option<classes::Key> {
        let specs = self.selecting(slot, direction);
        let policies = || specs.iter().filter_map(|id| self.specs.get(*id)).map(|spec| &spec.policy);
        let always = match self.settings.enforcement {
            Enforcement::Never => return None,
            Enforcement::Always => slot.is_subject(),
            // Who is not known yet is let through by rules alone.
            Enforcement::Default => slot.key.labels.contains(&Label::reserved("init")),
        };
        let default_deny = always || policies().any(|policy| policy.denies_by_default(direction));
        if specs.is_empty() && !default_deny {
            return None;
        }
        let mut ports = Vec::new();
        if direction == Direction::Ingress {
            let names: BTreeSet<(&str, u8)> =
                policies().flat_map(|policy| Spec::port_names(policy, direction)).collect();
            let asked =
                slot.key.ports.iter().filter(|(name, proto, _)| names.contains(&(name.as_str(), *proto)));
            ports = asked.cloned().collect();
        }
        let local = slot.key.role == Role::Endpoint { local: true };
        Some(classes::Key {
            direction,
            specs,
            ports,
            default_deny,
            audit: self.settings.audit || slot.key.audit,
            host_allowed: self.settings.allow_localhost && local && direction == Direction::Ingress,
        })
    }

    fn class(&mut self, key: classes::Key) -> u32 {
        if let Some(id) = self.class_ids.get(&key) {
            let id = *id;
            if let Some(class) = self.classes.get_mut(id) {
                class.users += 1;
            }
            // A policy that came in the place of one that went has its number, and has not met the class yet.
            self.meet_specs(id, &key.specs);
            return id;
        }
        let class = Class {
            key: key.clone(),
            users: 1,
            sets: Vec::new(),
            hearings: Vec::new(),
            peer_names: BTreeSet::new(),
            told: None,
        };
        let specs = key.specs.clone();
        let id = self.classes.add(class);
        self.class_ids.insert(key, id);
        self.meet_specs(id, &specs);
        self.touched.classes.insert(id);
        id
    }

    fn meet_specs(&mut self, class: u32, specs: &[u32]) {
        for spec in specs {
            if let Some(spec) = self.specs.get_mut(*spec) {
                spec.classes.insert(class);
            }
        }
    }

    pub(super) fn leave_class(&mut self, id: u32) {
        let Some(class) = self.classes.get_mut(id) else { return };
        class.users -= 1;
        if class.users > 0 {
            return;
        }
        let Some(class) = self.classes.remove(id) else { return };
        self.class_ids.remove(&class.key);
        for spec in &class.key.specs {
            if let Some(spec) = self.specs.get_mut(*spec) {
                spec.classes.remove(&id);
            }
        }
        class.hearings.into_iter().for_each(|hearing| self.hearings.give_back(hearing));
        self.leave_sets(class.sets);
        if class.told.is_some() {
            self.touched.gone.push(Change::Class(ClassId(id), None));
        }
    }

    fn leave_sets(&mut self, sets: Vec<u32>) {
        for set in sets {
            let atoms = self.sets.give_back(set, &mut self.atoms, &mut self.slots, &mut self.touched.slots);
            atoms.into_iter().for_each(|atom| self.give_atom(atom));
        }
    }

    /// Make a class from its specs.
    fn build(&mut self, id: u32, changes: &mut Vec<Change>) {
        let Some(key) = self.classes.get(id).map(|class| class.key.clone()) else { return };
        let (mut items, mut peer_names) = (Vec::new(), BTreeSet::new());
        if key.host_allowed {
            items.extend(self.host_may_come_in());
        }
        for spec in key.specs.iter().filter_map(|spec| self.specs.get(*spec)) {
            for rule in spec.rules.iter().filter(|rule| rule.direction == key.direction) {
                specs::items(rule, &key.ports, &self.slots.named, &mut peer_names, &mut items);
            }
        }
        let mut taken = Taken::default();
        let ranges = classes::drafts(items).into_iter().map(|draft| self.range(draft, &mut taken)).collect();
        let record = PolicyClass { default_deny: key.default_deny, audit: key.audit, ranges };
        let Some(class) = self.classes.get_mut(id) else { return };
        class.peer_names = peer_names;
        let before = std::mem::replace(&mut class.sets, taken.sets);
        let heard = std::mem::replace(&mut class.hearings, taken.hearings);
        if class.told.as_ref() != Some(&record) {
            class.told = Some(record.clone());
            changes.push(Change::Class(ClassId(id), Some(record)));
        }
        heard.into_iter().for_each(|hearing| self.hearings.give_back(hearing));
        self.leave_sets(before);
    }

    fn range(&mut self, draft: Draft, taken: &mut Taken) -> PortRange {
        let mut entries = Vec::with_capacity(draft.entries.len());
        for entry in draft.entries {
            let action = match entry.effect {
                Effect::Deny | Effect::Pass => Action::Deny,
                Effect::Authenticate => Action::Authenticate,
                Effect::Inspect => Action::Inspect(self.take_hearing(&entry.hearing, taken)),
                Effect::Dns => Action::Dns(self.take_hearing(&entry.hearing, taken)),
                Effect::Allow => Action::Allow,
            };
            let peers = self.set(entry.peers, taken);
            entries.push(PolicyEntry { peers, action, rule: entry.rule });
        }
        PortRange { proto: draft.proto, first: draft.first, last: draft.last, entries }
    }

    fn set(&mut self, definition: Definition, taken: &mut Taken) -> PeerSetId {
        if definition.plus.is_everybody() && definition.minus.is_empty() {
            return PeerSetId::ANY;
        }
        let set = self.sets.take(definition, &mut self.atoms, &mut self.slots, &mut self.touched.slots);
        taken.sets.push(set);
        PeerSetId(set)
    }

    fn take_hearing(&mut self, rules: &[Allowing], taken: &mut Taken) -> u32 {
        let mut hearing = Vec::with_capacity(rules.len());
        for (peers, rule, above) in rules {
            let definition = Definition { plus: peers.clone(), minus: Vec::new() };
            let peers = self.set(definition, taken);
            hearing.push(Heard { peers, rule: *rule, above: above.clone() });
        }
        let id = self.hearings.take(hearing);
        taken.hearings.push(id);
        id
    }

    fn host_may_come_in(&self) -> Option<Item> {
        let mut selector = Selector::default();
        selector.and("reserved", "host", Operator::Exists);
        let atom = self.atoms.find(&What::Labels(selector))?;
        Some(Item {
            proto: PortRange::ANY_PROTO,
            first: 0,
            last: u16::MAX,
            rank: Rank { tier: Tier::Normal, priority: 0, effect: Effect::Allow },
            peers: Peers { atoms: Some(vec![atom]), port: None },
            rule: RuleId(0),
            above: None,
        })
    }
}
