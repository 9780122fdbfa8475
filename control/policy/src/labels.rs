//! Labels as Cilium has them: a source, a key, a value; and selectors over them.

use std::collections::BTreeSet;
use std::fmt;

use regex::Regex;
use sluice_core::tables::record::Prefix;

use crate::decode::{Fields, masked, prefix};

pub const NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";
pub const CLUSTER: &str = "io.cilium.k8s.policy.cluster";
pub const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";

/// Is this a label that is given to endpoints by what they are, whatever their own labels say?
pub fn is_given(key: &str) -> bool {
    matches!(key, NAMESPACE | CLUSTER | SERVICE_ACCOUNT) || key.starts_with(NAMESPACE_LABELS)
}

/// `k8s:app=web`, `reserved:host`, `cidr:10.0.0.0/8`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    pub source: String,
    pub key: String,
    pub value: String,
}

impl Label {
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        Self { source: source.to_owned(), key: key.to_owned(), value: value.to_owned() }
    }

    pub fn k8s(key: &str, value: &str) -> Self {
        Self::new("k8s", key, value)
    }

    pub fn reserved(name: &str) -> Self {
        Self::new("reserved", name, "")
    }

    /// A prefix as a label. IPv6 has dashes for colons, and a zero where the key would begin or end with one.
    pub fn cidr(prefix: Prefix) -> Self {
        let mut text = prefix.addr.to_string().replace(':', "-");
        if text.starts_with('-') {
            text.insert(0, '0');
        }
        if text.ends_with('-') {
            text.push('0');
        }
        Self::new("cidr", &format!("{text}/{}", prefix.len), "")
    }

    /// What [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Self {
        let (source, rest) = text.split_once(':').unwrap_or(("unspec", text));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        Self::new(source, key, value)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if self.value.is_empty() { Ok(()) } else { write!(f, "={}", self.value) }
    }
}

pub type LabelSet = BTreeSet<Label>;

/// Patterns of keys that do not make identities, by Cilium's default filter; the longest include beats the shortest
/// exclude.
const INCLUDED: [&str; 6] = [
    "io.kubernetes.pod.namespace",
    "io.cilium.k8s.namespace.labels",
    "app.kubernetes.io",
    "io.cilium.k8s.policy.cluster",
    "io.cilium.k8s.policy.serviceaccount",
    "reserved",
];
const EXCLUDED: [&str; 16] = [
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "beta.kubernetes.io",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "annotation",
    "etcd_node",
    "topology.kubernetes.io",
    "*beta.kubernetes.io",
];

/// Does a label with this key tell identities apart, if nobody says anything else?
pub fn is_relevant(key: &str) -> bool {
    let (included, excluded) = by_default(key);
    excluded == 0 || included > excluded
}

/// How much of the key the longest include and the shortest exclude fit; 0 is not at all.
fn by_default(key: &str) -> (usize, usize) {
    let fits = |pattern: &str| match pattern.strip_prefix('*') {
        Some(rest) => key.contains(rest),
        None => key.starts_with(pattern),
    };
    let excluded = EXCLUDED.iter().filter(|pattern| fits(pattern)).map(|pattern| pattern.len()).min();
    let included = INCLUDED.iter().filter(|pattern| fits(pattern)).map(|pattern| pattern.len()).max();
    (included.unwrap_or(0), excluded.unwrap_or(0))
}

/// Which labels tell identities apart: Cilium's list, and what the option `labels` adds to it.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    text: String,
    /// Excludes (true) and includes: source (empty is any), and what fits the beginning of a key.
    added: Vec<(bool, String, Regex)>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl Filter {
    /// Read `k8s:app !k8s:pod-.* team`: regular expressions that must fit the beginning of a key; `!` excludes. With one
    /// include in it, what nothing includes is excluded.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut added = Vec::new();
        for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
            let (exclude, rest) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
            let (source, key) = split_source(rest);
            let regex =
                Regex::new(&format!("^(?:{key})")).map_err(|_| format!("{word} is no regular expression"))?;
            added.push((exclude, source, regex));
        }
        Ok(Self { text: text.to_owned(), added })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_relevant(&self, key: &str) -> bool {
        let (mut included, mut excluded) = by_default(key);
        let mut chosen = false;
        for (exclude, source, regex) in &self.added {
            chosen |= !exclude;
            let fits = source.is_empty() || source == "k8s";
            let Some(length) = regex.find(key).map(|found| found.end()).filter(|_| fits) else { continue };
            if *exclude {
                excluded = if excluded == 0 { length } else { excluded.min(length) };
            } else {
                included = included.max(length);
            }
        }
        (!chosen && excluded == 0) || included > excluded
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// One demand on labels; an empty source is any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    pub source: String,
    pub key: String,
    pub operator: Operator,
}

/// All demands must hold; no demand holds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    pub fn and(&mut self, source: &str, key: &str, operator: Operator) {
        self.0.push(Requirement { source: source.to_owned(), key: key.to_owned(), operator });
    }

    /// Demand a value in the place of the one that labels of these sources demand. What expressions demand stays.
    /// Returned is the value that is no longer asked for.
    pub fn force(&mut self, sources: &[&str], key: &str, value: &str) -> Option<String> {
        let mut replaced = None;
        self.0.retain(|own| match &own.operator {
            Operator::In(values) if own.key == key && sources.contains(&own.source.as_str()) => {
                let [one] = values.as_slice() else { return true };
                replaced = Some(one.clone()).filter(|one| one != value);
                false
            }
            Operator::In(_) | Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => true,
        });
        self.and("k8s", key, Operator::In(vec![value.to_owned()]));
        replaced
    }

    pub fn mentions(&self, test: impl Fn(&Requirement) -> bool) -> bool {
        self.0.iter().any(test)
    }

    /// Read a label selector. Keys may carry a source (`k8s:app`, `k8s.app` is not one); without it any source fits.
    pub fn read(fields: &mut Fields<'_, '_>) -> Self {
        let mut selector = Self::default();
        for (key, value) in fields.labels("matchLabels") {
            let (source, key) = split_source(&key);
            selector.0.push(Requirement { source, key, operator: Operator::In(vec![value]) });
        }
        for (node, place) in fields.list("matchExpressions").unwrap_or_default() {
            let mut expression = Fields::new(node, place, fields.problems);
            let (key, operator) = (expression.text("key"), expression.text("operator"));
            let values: Vec<String> =
                expression.texts("values").into_iter().map(|(text, _, _)| text).collect();
            expression.deny_unknown();
            let Some(key) = key else {
                expression.error(node, "an expression needs a key");
                continue;
            };
            let operator = match operator.as_deref() {
                Some("In") if !values.is_empty() => Operator::In(values),
                Some("NotIn") if !values.is_empty() => Operator::NotIn(values),
                Some("Exists") if values.is_empty() => Operator::Exists,
                Some("DoesNotExist") if values.is_empty() => Operator::DoesNotExist,
                Some("In" | "NotIn") => {
                    expression.error(node, "In and NotIn need values");
                    continue;
                }
                Some("Exists" | "DoesNotExist") => {
                    expression.error(node, "Exists and DoesNotExist take no values");
                    continue;
                }
                _ => {
                    expression.error(node, "operator must be In, NotIn, Exists or DoesNotExist");
                    continue;
                }
            };
            let (source, key) = split_source(&key);
            selector.0.push(Requirement { source, key, operator });
        }
        fields.deny_unknown();
        selector
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("anything");
        }
        for (n, requirement) in self.0.iter().enumerate() {
            write!(f, "{}{requirement}", if n > 0 { " and " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.source.is_empty() && self.source != "k8s" {
            write!(f, "{}:", self.source)?;
        }
        f.write_str(&self.key)?;
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "={}", values[0]),
            Operator::In(values) => write!(f, " in ({})", values.join(", ")),
            Operator::NotIn(values) => write!(f, " not in ({})", values.join(", ")),
            Operator::Exists => f.write_str(" exists"),
            Operator::DoesNotExist => f.write_str(" does not exist"),
        }
    }
}

impl Requirement {
    /// A prefix that is asked for is also had by whoever is a part of it.
    fn covers(&self, label: &Label) -> bool {
        let read = |key: &str| prefix(&key.replace('-', ":")).ok();
        let (Some(outer), Some(inner)) = (read(&self.key), read(&label.key)) else { return false };
        outer.addr.is_ipv4() == inner.addr.is_ipv4()
            && outer.len <= inner.len
            && masked(inner.addr, outer.len) == outer.addr
    }

    fn holds(&self, labels: &LabelSet) -> bool {
        let mut found = labels.iter().filter(|label| {
            (self.source.is_empty() || self.source == label.source)
                && (self.key == label.key
                    || (self.source == "cidr" && label.source == "cidr" && self.covers(label)))
        });
        match &self.operator {
            Operator::In(values) => found.any(|label| values.contains(&label.value)),
            Operator::NotIn(values) => !found.any(|label| values.contains(&label.value)),
            Operator::Exists => found.next().is_some(),
            Operator::DoesNotExist => found.next().is_none(),
        }
    }
}

const SOURCES: [&str; 12] = [
    "unspec",
    "any",
    "k8s",
    "gen",
    "cni",
    "container",
    "reserved",
    "cidr",
    "cidrgroup",
    "node",
    "fqdn",
    "directory",
];

/// `k8s:app` → (`k8s`, `app`); `any:app` and `app` → (``, `app`).
pub fn split_source(key: &str) -> (String, String) {
    match key.split_once(':') {
        Some(("any", key)) => (String::new(), key.to_owned()),
        Some((source, key)) if SOURCES.contains(&source) => (source.to_owned(), key.to_owned()),
        _ => (String::new(), key.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter_is_ciliums() {
        for key in
            ["app", "app.kubernetes.io/name", NAMESPACE, SERVICE_ACCOUNT, "io.cilium.k8s.namespace.labels.x"]
        {
            assert!(is_relevant(key), "{key}");
        }
        for key in ["pod-template-hash", "io.kubernetes.other", "topology.kubernetes.io/zone", "k8s.io/x"] {
            assert!(!is_relevant(key), "{key}");
        }
    }

    #[test]
    fn a_list_of_ones_own_adds_to_it() {
        let none = Filter::default();
        assert!(none.is_relevant("app") && !none.is_relevant("pod-template-hash"));
        let without = Filter::new("!k8s:run-.* !team").unwrap();
        assert!(without.is_relevant("app") && !without.is_relevant("run-id") && !without.is_relevant("team"));
        assert!(without.is_relevant("my-team"), "from the beginning only");
        let only = Filter::new("k8s:app, tier").unwrap();
        assert!(only.is_relevant("app") && only.is_relevant("tier") && !only.is_relevant("role"));
        assert!(only.is_relevant(NAMESPACE) && only.is_relevant(SERVICE_ACCOUNT), "these always");
        assert!(Filter::new("a(").is_err());
    }

    #[test]
    fn not_in_holds_for_labels_that_are_not_there() {
        let labels: LabelSet = [Label::k8s("app", "web")].into();
        let not_in = |key: &str, value: &str| {
            let mut selector = Selector::default();
            selector.and("", key, Operator::NotIn(vec![value.to_owned()]));
            selector.matches(&labels)
        };
        assert!(not_in("role", "x") && not_in("app", "x") && !not_in("app", "web"));
        assert!(Selector::default().matches(&labels));
    }
}
