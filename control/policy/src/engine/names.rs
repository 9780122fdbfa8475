//! DNS names in policy, as whoever hears and learns them must know: patterns, rules for queries, and the identities that
//! addresses of names get.
//!
//! An address has an identity by the set of patterns that its names fit, in the place of the prefix that it lies in. Where
//! names are learned elsewhere, such identities are made beforehand: for each pattern alone and for each name that rules
//! spell out, in the place of the world; others when they are asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_core::dns::Name;
use sluice_core::tables::names::Names as Tree;
use sluice_core::tables::record::{
    Asks, Change, DnsRule, DnsRulesId, IdentitySlot, Named, Pattern, PatternId, Prefix,
};

use super::Engine;
use super::addresses::Owner;
use super::hearings::Hearing;
use super::numbered::Numbered;
use super::slots::{Key, Role};
use crate::labels::Label;
use crate::policy::above::Kind;

/// Sets that were asked for. When there are more the oldest go; whoever still needs one asks again.
const MOST_ASKED: usize = 4096;

/// Patterns, in the place of a prefix.
pub type PatternSet = (Prefix, BTreeSet<String>);

#[derive(Clone, Debug)]
struct Counted {
    text: String,
    /// Rules that ask for addresses, and rules that judge queries.
    selects: u32,
    asks: u32,
    told: Option<Pattern>,
}

#[derive(Clone, Debug)]
pub(crate) struct Names {
    all: Numbered<Counted>,
    known: HashMap<String, u32>,
    touched: BTreeSet<u32>,
    /// Patterns that select, to be matched with the names that rules spell out.
    tree: Tree,
    told_rules: BTreeMap<u32, Vec<DnsRule>>,
    /// Sets that somebody learning names has met, by when.
    asked: BTreeMap<PatternSet, u64>,
    questions: u64,
    /// Sets that have an identity, by its slot; and what was told of them.
    sets: BTreeMap<PatternSet, u32>,
    told_sets: BTreeMap<u32, Named>,
    /// Sets must be looked at again.
    pub stale: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            all: Numbered::starting_at(0),
            known: HashMap::new(),
            touched: BTreeSet::new(),
            tree: Tree::default(),
            told_rules: BTreeMap::new(),
            asked: BTreeMap::new(),
            questions: 0,
            sets: BTreeMap::new(),
            told_sets: BTreeMap::new(),
            stale: false,
        }
    }
}

impl Names {
    /// The pattern of this text, from now on if need be.
    fn counted(&mut self, text: &str, change: impl FnOnce(&mut Counted)) -> u32 {
        let id = *self.known.entry(text.to_owned()).or_insert_with(|| {
            self.all.add(Counted { text: text.to_owned(), selects: 0, asks: 0, told: None })
        });
        self.touched.insert(id);
        if let Some(counted) = self.all.get_mut(id) {
            change(counted);
        }
        id
    }

    fn id(&self, text: &str) -> Option<PatternId> {
        self.known.get(text).copied().map(PatternId)
    }

    /// One rule more, or one less, that asks for the addresses of names like this.
    pub(crate) fn select(&mut self, text: &str, more: bool) {
        let mut selects = 0;
        let id = self.counted(text, |counted| {
            counted.selects = if more { counted.selects + 1 } else { counted.selects.saturating_sub(1) };
            selects = counted.selects;
        });
        let pattern = (selects > 0).then(|| Pattern { text: text.to_owned(), selects: true });
        self.tree.set_pattern(PatternId(id), pattern.as_ref());
        self.stale = true;
    }

    fn ask(&mut self, text: &str, more: bool) -> PatternId {
        PatternId(self.counted(text, |counted| {
            counted.asks = if more { counted.asks + 1 } else { counted.asks.saturating_sub(1) };
        }))
    }

    fn tell_patterns(&mut self, changes: &mut Vec<Change>) {
        for id in std::mem::take(&mut self.touched) {
            let Some(counted) = self.all.get_mut(id) else { continue };
            let used = counted.selects > 0 || counted.asks > 0;
            let now = used.then(|| Pattern { text: counted.text.clone(), selects: counted.selects > 0 });
            if counted.told != now {
                counted.told.clone_from(&now);
                changes.push(Change::Pattern(PatternId(id), now));
            }
            if !used && let Some(counted) = self.all.remove(id) {
                self.known.remove(&counted.text);
            }
        }
    }

    /// All patterns that select and fit the name that a pattern spells out, if it does.
    fn spelled_out(&self, text: &str) -> Option<BTreeSet<String>> {
        let name = Name::parse(text).filter(|_| !text.contains('*'))?;
        let mut texts = BTreeSet::new();
        self.tree
            .fitting(&name, |id| texts.extend(self.tree.pattern(id).map(|pattern| pattern.text.clone())));
        Some(texts)
    }

    /// Sets that should have an identity in the place of these prefixes (the world's).
    fn wanted(&self, worlds: &[Prefix]) -> BTreeSet<PatternSet> {
        let mut sets: BTreeSet<PatternSet> = self.asked.keys().cloned().collect();
        for (_, counted) in self.all.iter().filter(|(_, counted)| counted.selects > 0) {
            let alone = BTreeSet::from([counted.text.clone()]);
            for world in worlds {
                sets.extend(self.spelled_out(&counted.text).map(|texts| (*world, texts)));
                sets.insert((*world, alone.clone()));
            }
        }
        sets
    }

    /// Sets that somebody has met; the oldest make room.
    fn ask_for(&mut self, sets: Vec<PatternSet>) {
        self.stale = true;
        for set in sets {
            self.questions += 1;
            self.asked.insert(set, self.questions);
        }
        let mut ages: Vec<u64> = self.asked.values().copied().collect();
        if let Some(over) = ages.len().checked_sub(MOST_ASKED + 1) {
            let (_, last, _) = ages.select_nth_unstable(over);
            let last = *last;
            self.asked.retain(|_, at| *at > last);
        }
    }

    /// What was asked for, without patterns that are gone.
    fn tidy(&mut self) {
        let selects = |text: &String| {
            let counted = self.known.get(text).and_then(|id| self.all.get(*id));
            counted.is_some_and(|counted| counted.selects > 0)
        };
        let mut kept = BTreeMap::new();
        for ((prefix, texts), at) in &self.asked {
            let texts: BTreeSet<String> = texts.iter().filter(|text| selects(text)).cloned().collect();
            if !texts.is_empty() {
                kept.insert((*prefix, texts), *at);
            }
        }
        self.asked = kept;
    }

    /// Everything, as if nothing had been told yet.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Change> + '_ {
        let patterns =
            self.all.iter().map(|(id, counted)| Change::Pattern(PatternId(id), counted.told.clone()));
        let rules =
            self.told_rules.iter().map(|(id, rules)| Change::DnsRules(DnsRulesId(*id), Some(rules.clone())));
        let sets = self
            .told_sets
            .iter()
            .map(|(slot, named)| Change::Named(IdentitySlot(*slot), Some(named.clone())));
        patterns.chain(rules).chain(sets)
    }
}

impl Engine {
    /// Somebody who learns names has met these sets of patterns. `whole`: these are all that it has.
    pub fn want_names(&mut self, sets: Vec<PatternSet>, whole: bool) -> Vec<Change> {
        if whole {
            self.patterns.asked.clear();
        }
        self.patterns.ask_for(sets);
        self.settle()
    }

    /// What DNS rules say, where it is not what was told.
    pub(super) fn tell_names(&mut self, changes: &mut Vec<Change>) {
        for id in self.hearings.take_touched() {
            let hearing = self.hearings.get(id).filter(|hearing| speaks_of_names(hearing)).cloned();
            let now = hearing.map(|hearing| self.dns_rules(&hearing));
            let before = match now.clone() {
                Some(rules) => self.patterns.told_rules.insert(id, rules),
                None => self.patterns.told_rules.remove(&id),
            };
            if before != now {
                changes.push(Change::DnsRules(DnsRulesId(id), now));
            }
            // What was said before lets go of its patterns; what is said now has taken them.
            for rule in before.into_iter().flatten() {
                self.let_go(&rule);
            }
        }
        self.patterns.tell_patterns(changes);
    }

    fn let_go(&mut self, rule: &DnsRule) {
        let Asks::Names(ids) = &rule.asks else { return };
        for id in ids {
            let text = self.patterns.all.get(id.0).map(|counted| counted.text.clone());
            if let Some(text) = text {
                self.patterns.ask(&text, false);
            }
        }
    }

    fn dns_rules(&mut self, hearing: &Hearing) -> Vec<DnsRule> {
        let mut rules = Vec::with_capacity(hearing.len());
        for heard in hearing {
            let asks = match heard.above.as_deref() {
                None => Asks::Nothing,
                Some(above) => match &above.kind {
                    // No pattern at all is any.
                    Kind::Dns(patterns) if above.is_dns() && patterns.is_empty() => Asks::Nothing,
                    Kind::Dns(patterns) if above.is_dns() => {
                        let distinct: BTreeSet<&String> = patterns.iter().collect();
                        let mut ids: Vec<PatternId> =
                            distinct.into_iter().map(|text| self.patterns.ask(text, true)).collect();
                        ids.sort_unstable();
                        Asks::Names(ids)
                    }
                    Kind::Dns(_) | Kind::Any | Kind::Http(_) | Kind::Kafka(_) | Kind::Other(_) => Asks::Other,
                },
            };
            rules.push(DnsRule { peers: heard.peers, rule: heard.rule, asks });
        }
        rules
    }

    /// Give identities to the sets that should have one, and take them from others.
    pub(super) fn place_names(&mut self) {
        if !self.settings.names_elsewhere || !std::mem::take(&mut self.patterns.stale) {
            return;
        }
        self.patterns.tidy();
        let families = [(self.settings.ipv4, true), (self.settings.ipv6, false)];
        let worlds: Vec<Prefix> =
            families.iter().filter(|(on, _)| *on).map(|(_, v4)| super::addresses::everything(*v4)).collect();
        let wanted = self.patterns.wanted(&worlds);
        let mut before = std::mem::take(&mut self.patterns.sets);
        for set in wanted {
            let Some(key) = self.set_key(&set) else { continue };
            let slot = self.slot(key);
            if let Some(slot) = self.slots.all.get_mut(slot) {
                slot.users += 1;
            }
            // The new one was taken first, so that one and the same stays.
            before.remove(&set).into_iter().for_each(|slot| self.release(slot));
            self.patterns.sets.insert(set, slot);
        }
        before.into_values().for_each(|slot| self.release(slot));
    }

    fn set_key(&self, (prefix, patterns): &PatternSet) -> Option<Key> {
        let mut labels = self.base_labels(*prefix)?;
        labels.extend(patterns.iter().map(|pattern| Label::new("fqdn", pattern, "")));
        Some(Key {
            labels,
            node_labels: None,
            prefixes: vec![*prefix],
            ports: Vec::new(),
            role: Role::Prefix,
            audit: false,
        })
    }

    /// Which identities stand for which sets, where it is not what was told.
    pub(super) fn tell_sets(&mut self, changes: &mut Vec<Change>) {
        let mut now = BTreeMap::new();
        for ((prefix, texts), slot) in &self.patterns.sets {
            let Some((Owner::Prefix, base)) = self.addresses.owner(*prefix) else { continue };
            let mut patterns: Vec<PatternId> =
                texts.iter().filter_map(|text| self.patterns.id(text)).collect();
            patterns.sort_unstable();
            now.insert(*slot, Named { base: IdentitySlot(base), patterns });
        }
        let before = std::mem::replace(&mut self.patterns.told_sets, now);
        let now = &self.patterns.told_sets;
        let gone = before.keys().filter(|slot| !now.contains_key(slot));
        changes.extend(gone.map(|slot| Change::Named(IdentitySlot(*slot), None)));
        let differs = now.iter().filter(|(slot, named)| before.get(slot) != Some(named));
        changes.extend(differs.map(|(slot, named)| Change::Named(IdentitySlot(*slot), Some(named.clone()))));
    }
}

fn speaks_of_names(hearing: &Hearing) -> bool {
    hearing.iter().any(|heard| heard.above.as_deref().is_some_and(crate::policy::above::Above::is_dns))
}
