//! DNS names in policy: which patterns fit a name, and what DNS rules say of a query.
//!
//! All patterns of a generation are one tree, from the last label to the first: a name walks down once, however many
//! patterns there are. A star never crosses a dot, so patterns and names are compared label by label.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::ipcache::Row;
use super::lpm::{Hashing, hashing};
use super::record::{Asks, DnsRule, DnsRulesId, Pattern, PatternId, RuleId};
use crate::dns::Name;

/// Labels that a pattern may have: as many as a name.
const DEEPEST: usize = 128;

#[derive(Clone, Debug, Default)]
pub struct Names {
    patterns: Vec<Option<Pattern>>,
    /// Patterns that are stars alone: they fit every name made of proper labels, and the root.
    anything: Vec<PatternId>,
    root: Branch,
    rules: Vec<Option<Box<[DnsRule]>>>,
}

/// Where patterns part.
#[derive(Clone, Debug)]
struct Branch {
    /// By the next label, where it is plain.
    plain: HashMap<Box<[u8]>, Self, Hashing>,
    /// By labels with stars.
    starred: Vec<(Box<[u8]>, Self)>,
    /// Patterns that end here.
    ends: Vec<PatternId>,
    /// Patterns that go on with one or more labels, whatever they are.
    deeper: Vec<PatternId>,
}

impl Default for Branch {
    fn default() -> Self {
        Self {
            plain: HashMap::with_hasher(hashing()),
            starred: Vec::new(),
            ends: Vec::new(),
            deeper: Vec::new(),
        }
    }
}

/// A pattern, taken apart.
struct Parts<'a> {
    /// The last one first.
    labels: Vec<&'a [u8]>,
    deeper: bool,
}

/// `None`: stars alone.
fn parts(text: &str) -> Option<Parts<'_>> {
    let bare = text.trim_end_matches('.');
    if !bare.is_empty() && bare.bytes().all(|byte| byte == b'*') {
        return None;
    }
    let stars = text.bytes().take_while(|byte| *byte == b'*').count();
    let rest = text.get(stars..).and_then(|rest| rest.strip_prefix('.')).filter(|_| stars >= 2);
    let labels = rest.unwrap_or(text);
    let labels = labels.strip_suffix('.').unwrap_or(labels);
    let labels = labels.split('.').filter(|_| !labels.is_empty());
    Some(Parts { labels: labels.rev().map(str::as_bytes).collect(), deeper: rest.is_some() })
}

/// What a DNS rule came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Allowed(RuleId),
    Refused,
}

impl Names {
    pub fn set_pattern(&mut self, id: PatternId, pattern: Option<&Pattern>) {
        let index = id.0 as usize;
        if index >= self.patterns.len() {
            self.patterns.resize_with(index + 1, || None);
        }
        if let Some(old) = self.patterns[index].take() {
            self.file(id, &old.text, false);
        }
        if let Some(new) = pattern {
            self.file(id, &new.text, true);
            self.patterns[index] = Some(new.clone());
        }
    }

    pub(super) fn set_rules(&mut self, id: DnsRulesId, rules: Option<&[DnsRule]>) {
        let index = id.0 as usize;
        if index >= self.rules.len() {
            self.rules.resize_with(index + 1, || None);
        }
        self.rules[index] = rules.map(Into::into);
    }

    fn file(&mut self, id: PatternId, text: &str, put: bool) {
        match parts(text) {
            None => list(&mut self.anything, id, put),
            Some(parts) => drop(self.root.file(&parts.labels, parts.deeper, id, put)),
        }
    }

    /// Every pattern that fits. Bounded by the patterns that share the name's last labels.
    pub fn fitting(&self, name: &Name, mut each: impl FnMut(PatternId)) {
        let mut labels = arrayvec::ArrayVec::<&[u8], DEEPEST>::new();
        labels.extend(name.labels());
        // How many labels from the first on are proper; stars stand for no others.
        let proper =
            labels.iter().rev().take_while(|label| label.iter().all(|byte| is_name_byte(*byte))).count();
        if proper == labels.len() {
            self.anything.iter().for_each(|id| each(*id));
        }
        self.root.walk(&labels, proper, &mut each);
    }

    /// Do rules ask for the addresses of this name?
    pub fn are_wanted(&self, name: &Name) -> bool {
        let mut wanted = false;
        self.fitting(name, |id| wanted |= self.pattern(id).is_some_and(|pattern| pattern.selects));
        wanted
    }

    pub fn pattern(&self, id: PatternId) -> Option<&Pattern> {
        self.patterns.get(id.0 as usize)?.as_ref()
    }

    /// May this name be asked of this resolver? Of the rules that mean it, one that is content is enough, but rules that
    /// ask for something else than names are never content. Rules that are not there are a mistake, and refuse.
    pub fn hear(&self, id: u32, resolver: &Row, name: &Name) -> Heard {
        let Some(Some(rules)) = self.rules.get(id as usize) else { return Heard::Refused };
        let meant = || rules.iter().filter(|rule| resolver.in_set(rule.peers));
        if let Some(free) = meant().find(|rule| rule.asks == Asks::Nothing) {
            return Heard::Allowed(free.rule);
        }
        if meant().any(|rule| rule.asks == Asks::Other) {
            return Heard::Refused;
        }
        let mut content = None;
        self.fitting(name, |fits| {
            let by = meant()
                .find(|rule| matches!(&rule.asks, Asks::Names(ids) if ids.binary_search(&fits).is_ok()));
            content = content.or_else(|| by.map(|rule| rule.rule));
        });
        content.map_or(Heard::Refused, Heard::Allowed)
    }

    pub fn patterns(&self) -> usize {
        self.patterns.iter().flatten().count()
    }
}

impl Branch {
    /// Put a pattern in or take it out; is the branch bare afterwards?
    fn file(&mut self, labels: &[&[u8]], deeper: bool, id: PatternId, put: bool) -> bool {
        match labels.split_first() {
            None if deeper => list(&mut self.deeper, id, put),
            None => list(&mut self.ends, id, put),
            Some((label, rest)) if label.contains(&b'*') => {
                let at = self.starred.iter().position(|(own, _)| **own == **label);
                let at = at.unwrap_or_else(|| {
                    self.starred.push(((*label).into(), Self::default()));
                    self.starred.len() - 1
                });
                if self.starred[at].1.file(rest, deeper, id, put) {
                    self.starred.swap_remove(at);
                }
            }
            Some((label, rest)) => {
                if self.plain.entry((*label).into()).or_default().file(rest, deeper, id, put) {
                    self.plain.remove(*label);
                }
            }
        }
        self.plain.is_empty() && self.starred.is_empty() && self.ends.is_empty() && self.deeper.is_empty()
    }

    /// `labels`: those that are left, the last one of the name first. No deeper than the deepest pattern.
    fn walk(&self, labels: &[&[u8]], proper: usize, each: &mut impl FnMut(PatternId)) {
        let Some((label, rest)) = labels.split_first() else {
            return self.ends.iter().for_each(|id| each(*id));
        };
        if proper >= labels.len() {
            self.deeper.iter().for_each(|id| each(*id));
        }
        if let Some(branch) = self.plain.get(*label) {
            branch.walk(rest, proper, each);
        }
        for (pattern, branch) in &self.starred {
            if glob(pattern, label) {
                branch.walk(rest, proper, each);
            }
        }
    }
}

fn list(ids: &mut Vec<PatternId>, id: PatternId, put: bool) {
    ids.retain(|own| *own != id);
    if put {
        ids.push(id);
    }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// A star is any number of characters of a name.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star did not fit.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(byte) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = retry.filter(|(_, from)| is_name_byte(text[*from])) {
            retry = Some((star, from + 1));
            (p, t) = (star + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::record::PeerSetId;
    use std::string::ToString;
    use std::vec;

    fn names(patterns: &[&str]) -> Names {
        let mut names = Names::default();
        for (n, text) in (0..).zip(patterns) {
            let pattern = Pattern { text: (*text).to_string(), selects: true };
            names.set_pattern(PatternId(n), Some(&pattern));
        }
        names
    }

    fn fitting(names: &Names, name: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        names.fitting(&Name::parse(name).unwrap(), |id| ids.push(id.0));
        ids.sort_unstable();
        ids
    }

    #[test]
    fn patterns_fit_as_cilium_says() {
        let names = names(&[
            "*.cilium.io.",
            "*cilium.io.",
            "sub*.cilium.io.",
            "**.cilium.io.",
            "*.",
            "www.cilium.io.",
            "a*b*c.io.",
            "**.b*.io.",
        ]);
        assert_eq!(fitting(&names, "www.cilium.io"), [0, 3, 4, 5]);
        assert_eq!(fitting(&names, "cilium.io"), [1, 4]);
        assert_eq!(fitting(&names, "sub-cilium.io"), [1, 4]);
        assert_eq!(fitting(&names, "subdomain.cilium.io"), [0, 2, 3, 4]);
        assert_eq!(fitting(&names, "a.b.cilium.io"), [3, 4]);
        assert_eq!(fitting(&names, "aXbYc.io"), [4, 6]);
        assert_eq!(fitting(&names, "x.y.bb.io"), [4, 7]);
        assert_eq!(fitting(&names, "."), [4]);
        assert_eq!(fitting(&names, "WWW.Cilium.IO."), [0, 3, 4, 5]);
    }

    #[test]
    fn odd_labels_fit_no_star() {
        let names = names(&["*.", "*.io.", "**.io.", "a.io."]);
        let dotted = Name::from_bytes(b"\x03a.b\x02io\x00").unwrap();
        let mut any = false;
        names.fitting(&dotted, |_| any = true);
        assert!(!any, "{dotted}");
    }

    #[test]
    fn patterns_that_go_leave_nothing_behind() {
        let mut names = names(&["*.a.io.", "x.a.io.", "**.a.io.", "*."]);
        for n in 0..4 {
            names.set_pattern(PatternId(n), None);
        }
        assert!(names.root.plain.is_empty() && names.anything.is_empty());
        assert_eq!(fitting(&names, "x.a.io"), [0; 0]);
    }

    #[test]
    fn one_rule_that_is_content_is_enough() {
        let mut names = names(&["*.a.io.", "b.io."]);
        let rule = |n, asks| DnsRule { peers: PeerSetId::ANY, rule: RuleId(n), asks };
        let asks = |n| Asks::Names(vec![PatternId(n)]);
        names.set_rules(DnsRulesId(0), Some(&[rule(7, asks(0)), rule(8, asks(1))]));
        names.set_rules(DnsRulesId(1), Some(&[rule(7, asks(0)), rule(9, Asks::Nothing)]));
        names.set_rules(DnsRulesId(2), Some(&[rule(7, asks(0)), rule(9, Asks::Other)]));
        let hear = |id, name| names.hear(id, &Row::default(), &Name::parse(name).unwrap());
        assert_eq!(hear(0, "x.a.io"), Heard::Allowed(RuleId(7)));
        assert_eq!(hear(0, "b.io"), Heard::Allowed(RuleId(8)));
        assert_eq!(hear(0, "c.io"), Heard::Refused);
        assert_eq!(hear(1, "c.io"), Heard::Allowed(RuleId(9)));
        assert_eq!(hear(2, "x.a.io"), Heard::Refused);
        assert_eq!(hear(3, "x.a.io"), Heard::Refused, "rules that are not there");
    }
}
