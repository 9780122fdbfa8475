//! From tree to values: every mistake is noted with its place, none stops the reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_core::tables::record::Prefix;

use crate::tree::{Node, Value};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    pub field: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.what)
    }
}

/// All mistakes, and what is only odd.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// If somebody wants to know: the fields that were understood at each place (`spec.ingress[].toPorts[]`).
    pub understood: Option<BTreeMap<String, BTreeSet<&'static str>>>,
}

impl Problems {
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.errors {
            writeln!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Where in which file we are.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: Arc<str>,
    pub field: String,
}

impl Place {
    pub fn new(file: &Arc<str>) -> Self {
        Self { file: Arc::clone(file), field: String::new() }
    }

    pub fn key(&self, key: &str) -> Self {
        let field = if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) };
        Self { file: Arc::clone(&self.file), field }
    }

    pub fn index(&self, index: usize) -> Self {
        Self { file: Arc::clone(&self.file), field: format!("{}[{index}]", self.field) }
    }

    pub fn problem(&self, node: &Node, what: impl Into<String>) -> Problem {
        Problem {
            file: Arc::clone(&self.file),
            line: node.line,
            column: node.column,
            field: self.field.clone(),
            what: what.into(),
        }
    }
}

/// One object being read: each field is asked for by name, and what nobody asked for is a mistake.
#[derive(Debug)]
pub struct Fields<'a, 'p> {
    pub node: &'a Node,
    pub place: Place,
    pub problems: &'p mut Problems,
    asked: Vec<&'static str>,
}

impl<'a, 'p> Fields<'a, 'p> {
    /// The fields of a map. Anything else is noted and has no fields.
    pub fn new(node: &'a Node, place: Place, problems: &'p mut Problems) -> Self {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            problems
                .errors
                .push(place.problem(node, format!("must be an object, not {}", node.value.kind())));
        }
        Self { node, place, problems, asked: Vec::with_capacity(12) }
    }

    pub fn error(&mut self, at: &Node, what: impl Into<String>) {
        self.problems.errors.push(self.place.problem(at, what));
    }

    pub fn warn(&mut self, at: &Node, what: impl Into<String>) {
        self.problems.warnings.push(self.place.problem(at, what));
    }

    fn error_in(&mut self, key: &str, at: &Node, what: impl Into<String>) {
        let place = self.place.key(key);
        self.problems.errors.push(place.problem(at, what));
    }

    /// The raw value, null being there but nothing.
    pub fn raw(&mut self, key: &'static str) -> Option<&'a Node> {
        self.asked.push(key);
        self.node.get(key)
    }

    /// The value unless it is missing or null.
    pub fn some(&mut self, key: &'static str) -> Option<&'a Node> {
        self.raw(key).filter(|node| !matches!(node.value, Value::Null))
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.some(key)?;
        let Value::Text(text) = &node.value else {
            self.error_in(key, node, format!("must be a text, not {} (quote it)", node.value.kind()));
            return None;
        };
        Some(text.clone())
    }

    /// A text, where people also write numbers and truths without quotes.
    pub fn loose_text(&mut self, key: &'static str) -> Option<String> {
        let node = self.some(key)?;
        loose(node).or_else(|| {
            self.error_in(key, node, format!("must be a text, not {}", node.value.kind()));
            None
        })
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.some(key)?;
        let Value::Bool(flag) = node.value else {
            self.error_in(key, node, format!("must be true or false, not {}", node.value.kind()));
            return None;
        };
        Some(flag)
    }

    pub fn int(&mut self, key: &'static str, least: i64, most: i64) -> Option<i64> {
        let node = self.some(key)?;
        let Value::Int(n) = node.value else {
            self.error_in(key, node, format!("must be a whole number, not {}", node.value.kind()));
            return None;
        };
        if !(least..=most).contains(&n) {
            self.error_in(key, node, format!("{n} is not between {least} and {most}"));
            return None;
        }
        Some(n)
    }

    /// A protocol by its name; TCP where nothing is said.
    pub fn protocol(&mut self, key: &'static str) -> u8 {
        let Some(name) = self.text(key) else { return 6 };
        crate::objects::protocol(&name).unwrap_or_else(|| {
            let node = self.node;
            self.error_in(
                key,
                node.get(key).unwrap_or(node),
                format!("must be TCP, UDP or SCTP, not {name}"),
            );
            6
        })
    }

    /// The items of a list, with their places. `None`: missing or null.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<(&'a Node, Place)>> {
        let node = self.some(key)?;
        let place = self.place.key(key);
        let Value::List(items) = &node.value else {
            self.error_in(key, node, format!("must be a list, not {}", node.value.kind()));
            return None;
        };
        Some(items.iter().enumerate().map(|(n, item)| (item, place.index(n))).collect())
    }

    pub fn texts(&mut self, key: &'static str) -> Vec<(String, &'a Node, Place)> {
        let mut texts = Vec::new();
        for (node, place) in self.list(key).unwrap_or_default() {
            match loose(node) {
                Some(text) => texts.push((text, node, place)),
                None => {
                    let what = format!("must be a text, not {} (quote it)", node.value.kind());
                    self.problems.errors.push(place.problem(node, what));
                }
            }
        }
        texts
    }

    /// A map of texts, as labels are.
    pub fn labels(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some(node) = self.some(key) else { return Vec::new() };
        let Value::Map(entries) = &node.value else {
            self.error_in(key, node, format!("must be an object, not {}", node.value.kind()));
            return Vec::new();
        };
        let mut labels = Vec::new();
        for (name, value) in entries.iter() {
            match (name.text(), loose(value)) {
                (Some(name), Some(value)) => labels.push((name.to_owned(), value)),
                (Some(_), None) if matches!(value.value, Value::Null) => {
                    labels.push((name.text().unwrap_or_default().to_owned(), String::new()));
                }
                _ => {
                    let what = format!("must be a text, not {} (quote it)", value.value.kind());
                    self.error_in(key, value, what);
                }
            }
        }
        labels
    }

    /// A nested object, if it is there.
    pub fn object(&mut self, key: &'static str) -> Option<(&'a Node, Place)> {
        let node = self.some(key)?;
        Some((node, self.place.key(key)))
    }

    /// Whatever was not asked for is unknown.
    pub fn deny_unknown(&mut self) {
        if let Some(understood) = &mut self.problems.understood {
            let outside = |(n, part): (usize, &str)| match (n, part.split_once(']')) {
                (0, _) | (_, None) => part.to_owned(),
                (_, Some((_, rest))) => format!("[]{rest}"),
            };
            let place: String = self.place.field.split('[').enumerate().map(outside).collect();
            understood.entry(place).or_default().extend(&self.asked);
        }
        let unknown = self.unknown();
        self.problems.errors.extend(unknown);
    }

    /// The same of objects that others make, too, and give fields that we cannot know.
    pub fn warn_unknown(&mut self) {
        let unknown = self.unknown();
        self.problems.warnings.extend(unknown);
    }

    fn unknown(&self) -> Vec<Problem> {
        let Value::Map(entries) = &self.node.value else { return Vec::new() };
        let keys = entries.iter().map(|(key, _)| (key, key.text().unwrap_or_default()));
        let told = |(key, name): (&Node, &str)| {
            let near = self.asked.iter().find(|asked| is_near(asked, name));
            let hint = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            self.place.key(name).problem(key, format!("unknown field{hint}"))
        };
        keys.filter(|(_, name)| !self.asked.contains(name)).map(told).collect()
    }
}

fn loose(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(n) => Some(n.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        // 1.10 would be 1.1.
        Value::Float(_) | Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// The same letters but for case, or one letter off.
fn is_near(a: &str, b: &str) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let front = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    a.len().abs_diff(b.len()) <= 1 && front + back + 1 >= a.len().max(b.len()) && a.len() > 2
}

/// `10.0.0.0/8`, or an address alone as its host prefix. Host bits are cleared.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
    let addr: IpAddr = addr.parse().map_err(|_| format!("{text} is no address or prefix"))?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Ok(most), |len| len.parse().map_err(|_| format!("{text} is no prefix")))?;
    if len > most {
        return Err(format!("{text} is longer than the address"));
    }
    Ok(Prefix { addr: masked(addr, len), len })
}

/// The address with the bits behind the prefix cleared.
pub fn masked(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(ip) => {
            let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len.min(32))) };
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len.min(128))) };
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// The host prefix of an address.
pub fn host(addr: IpAddr) -> Prefix {
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}
