//! Classes: the rules of some specs in one direction, cut into ranges of ports.
//!
//! Within a range the entries stand in order of precedence: tier by tier, in a tier by priority, at one priority what
//! denies before what must be authenticated, inspected, and what is allowed. So the first entry whose peer set has the
//! peer decides. A `Pass` takes its peers out of the rest of its tier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_core::tables::record::{PolicyClass, PortRange, RuleId};

use super::sets::{Definition, Peers};
use super::slots::NamedPort;
use crate::policy::above::Above;
use crate::policy::{Direction, Tier};

/// What makes a class: whoever has the same key is judged alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub direction: Direction,
    /// Sorted.
    pub specs: Vec<u32>,
    /// The subject's own ports, as far as the rules call ports by name.
    pub ports: Vec<NamedPort>,
    pub default_deny: bool,
    pub audit: bool,
    /// Our own node may always come in (health checks).
    pub host_allowed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub key: Key,
    pub users: u32,
    /// Peer sets that the record names.
    pub sets: Vec<u32>,
    /// Hearings that its record names.
    pub hearings: Vec<u32>,
    /// Port names of peers that the record was made with.
    pub peer_names: BTreeSet<(String, u8)>,
    pub told: Option<PolicyClass>,
}

/// What a rule does to those that it fits. The order is that of precedence at one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Effect {
    Deny,
    Authenticate,
    Inspect,
    Dns,
    Allow,
    Pass,
}

/// Where a rule stands among others: tier, priority, effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub tier: Tier,
    pub priority: i64,
    pub effect: Effect,
}

/// A rule on some ports of one protocol, or on everything.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// [`PortRange::ANY_PROTO`]: whatever the protocol; then the ports are all.
    pub proto: u16,
    pub first: u16,
    pub last: u16,
    pub rank: Rank,
    pub peers: Peers,
    pub rule: RuleId,
    pub above: Option<Arc<Above>>,
}

/// One range before its peer sets have numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub proto: u16,
    pub first: u16,
    pub last: u16,
    pub entries: Vec<DraftEntry>,
}

/// Who is let through by which rule, if what they say above ports fits.
pub(crate) type Allowing = (Peers, RuleId, Option<Arc<Above>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DraftEntry {
    pub peers: Definition,
    pub effect: Effect,
    pub rule: RuleId,
    /// Who is to be heard about what is said above ports: every rule that allows at this priority.
    pub hearing: Arc<[Allowing]>,
}

/// Cut all items at each other's borders.
pub(crate) fn drafts(mut items: Vec<Item>) -> Vec<Draft> {
    // Among equals those that somebody wrote come before those that nobody did (rule 0).
    let order = |item: &Item| (item.rank, item.rule.0.wrapping_sub(1));
    items.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.peers.cmp(&b.peers)));
    let anywhere: Vec<usize> = positions(&items, |item| item.proto == PortRange::ANY_PROTO);
    let protos: BTreeSet<u16> = items.iter().map(|item| item.proto).collect();
    let mut drafts = Vec::new();
    for proto in protos {
        if proto == PortRange::ANY_PROTO {
            let entries = entries(&items, anywhere.iter().copied());
            drafts.push(Draft { proto, first: 0, last: u16::MAX, entries });
            continue;
        }
        let mut borders: BTreeMap<u32, Vec<(usize, bool)>> = BTreeMap::from([(0, Vec::new())]);
        for index in positions(&items, |item| item.proto == proto) {
            borders.entry(u32::from(items[index].first)).or_default().push((index, true));
            borders.entry(u32::from(items[index].last) + 1).or_default().push((index, false));
        }
        let mut active: BTreeSet<usize> = anywhere.iter().copied().collect();
        let starts: Vec<u32> =
            borders.keys().copied().filter(|start| *start <= u32::from(u16::MAX)).collect();
        for (n, start) in starts.iter().enumerate() {
            for (index, begins) in borders.get(start).into_iter().flatten() {
                if *begins {
                    active.insert(*index)
                } else {
                    active.remove(index)
                };
            }
            let end = starts.get(n + 1).map_or_else(|| u32::from(u16::MAX), |next| next - 1);
            let (Ok(first), Ok(last)) = (u16::try_from(*start), u16::try_from(end)) else { continue };
            push(&mut drafts, Draft { proto, first, last, entries: entries(&items, active.iter().copied()) });
        }
    }
    drafts
}

/// Neighbours that say the same are one range.
fn push(drafts: &mut Vec<Draft>, draft: Draft) {
    match drafts.last_mut() {
        Some(before) if before.proto == draft.proto && before.entries == draft.entries => {
            before.last = draft.last
        }
        _ => drafts.push(draft),
    }
}

fn positions(items: &[Item], is_meant: impl Fn(&Item) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| is_meant(item)).map(|(index, _)| index).collect()
}

/// The items of one range, in order, as entries; what an earlier one hides is left out.
fn entries(items: &[Item], indexes: impl Iterator<Item = usize>) -> Vec<DraftEntry> {
    let items: Vec<&Item> = indexes.map(|index| &items[index]).collect();
    let mut entries = Vec::new();
    let mut seen: BTreeSet<&Peers> = BTreeSet::new();
    let mut passed: Vec<Peers> = Vec::new();
    let mut hearing: Option<(i64, Arc<[_]>)> = None;
    let mut tier = Tier::Admin;
    for (at, item) in items.iter().enumerate() {
        if item.rank.tier != tier {
            tier = item.rank.tier;
            passed.clear();
            hearing = None;
        }
        if passed.iter().any(|peers| peers.is_everybody() || *peers == item.peers)
            || seen.contains(&item.peers)
        {
            continue;
        }
        let effect = item.rank.effect;
        if effect == Effect::Pass {
            passed.push(item.peers.clone());
            continue;
        }
        let heard = if matches!(effect, Effect::Inspect | Effect::Dns) {
            let known = hearing.take().filter(|(priority, _)| *priority == item.rank.priority);
            let (_, heard) =
                hearing.insert(known.unwrap_or_else(|| (item.rank.priority, heard(&items[at..]))));
            Arc::clone(heard)
        } else {
            Arc::default()
        };
        let peers = Definition { plus: item.peers.clone(), minus: passed.clone() };
        entries.push(DraftEntry { peers, effect, rule: item.rule, hearing: heard });
        // Those without a part of them may still be meant by a later entry.
        if passed.is_empty() {
            if item.peers.is_everybody() {
                break;
            }
            seen.insert(&item.peers);
        }
    }
    entries
}

/// All that allow at the priority of the first: one that is content with what is said is enough.
fn heard(items: &[&Item]) -> Arc<[Allowing]> {
    let first = items.first().map(|item| (item.rank.tier, item.rank.priority));
    let alike = items.iter().take_while(|item| Some((item.rank.tier, item.rank.priority)) == first);
    let allow =
        alike.filter(|item| matches!(item.rank.effect, Effect::Inspect | Effect::Dns | Effect::Allow));
    allow.map(|item| (item.peers.clone(), item.rule, item.above.clone())).collect()
}
