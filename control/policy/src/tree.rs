//! YAML and JSON as a tree that knows where each value stands. JSON is read as the YAML that it is.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// What a file may cost. Beyond it there is an error, not a wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub file_bytes: u64,
    pub objects: usize,
    pub depth: usize,
    /// Values that aliases may stand for, in all.
    pub expansion: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 64 << 20, objects: 1_000_000, depth: 64, expansion: 100_000 }
    }
}

/// One value and its place (both counted from 1).
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Rc<Vec<Node>>),
    /// Keys are texts, in the order of the file.
    Map(Rc<Vec<(Node, Node)>>),
}

impl Value {
    /// As people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}

impl Node {
    /// The value of a key; nothing for what is no map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries
            .iter()
            .find(|(name, _)| matches!(&name.value, Value::Text(text) if text == key))
            .map(|(_, node)| node)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => None,
        }
    }

    pub fn list(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Map(_) => &[],
        }
    }
}

/// Why a text is no tree, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeError {
    pub line: u32,
    pub column: u32,
    pub what: String,
}

/// All documents of a text.
pub fn parse(text: &str, limits: &Limits) -> Result<Vec<Node>, TreeError> {
    let mut documents = Vec::new();
    each(text, 0, limits, |document| documents.push(document))?;
    Ok(documents)
}

/// The documents of a text, one after the other: a large text costs no more memory than its largest document. `above`: lines of
/// the file before this text.
pub fn each(text: &str, above: u32, limits: &Limits, mut take: impl FnMut(Node)) -> Result<(), TreeError> {
    let mut builder = Builder {
        limits,
        above,
        open: Vec::new(),
        anchors: HashMap::new(),
        expanded: 0,
        document: None,
        documents: 0,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| TreeError {
            line: above + number(error.marker().line()),
            column: number(error.marker().col() + 1),
            what: error.info(),
        })?;
        builder.take(event, span)?;
        builder.document.take().into_iter().for_each(&mut take);
    }
    Ok(())
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A collection that is not closed yet.
struct Open {
    node: Node,
    anchor: usize,
    items: Vec<Node>,
    is_map: bool,
}

struct Builder<'a> {
    limits: &'a Limits,
    above: u32,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    expanded: usize,
    /// The latest that is whole, and how many there were.
    document: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what is no value adds nothing, and the parser may add kinds"
    )]
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), TreeError> {
        let place = |value: Value| Node {
            value,
            line: self.above + number(span.start.line()),
            column: number(span.start.col() + 1),
        };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = if plain { scalar(&text) } else { Value::Text(text.into_owned()) };
                self.put(place(value), anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(place(Value::Null), anchor, false),
            Event::MappingStart(_, anchor, _) => self.begin(place(Value::Null), anchor, true),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) = known.unwrap_or_else(|| (place(Value::Null), 1));
                self.expanded += size;
                if self.expanded > self.limits.expansion {
                    let what = format!("aliases stand for more than {} values", self.limits.expansion);
                    return Err(self.error(&place(Value::Null), what));
                }
                self.put(Node { value: node.value, ..place(Value::Null) }, 0)
            }
            _ => Ok(()),
        }
    }

    fn error(&self, at: &Node, what: String) -> TreeError {
        TreeError { line: at.line, column: at.column, what }
    }

    fn begin(&mut self, node: Node, anchor: usize, is_map: bool) -> Result<(), TreeError> {
        if self.open.len() >= self.limits.depth {
            return Err(self.error(&node, format!("nested deeper than {} levels", self.limits.depth)));
        }
        self.open.push(Open { node, anchor, items: Vec::new(), is_map });
        Ok(())
    }

    fn end(&mut self) -> Result<(), TreeError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = if open.is_map { self.map(open.items)? } else { Value::List(Rc::new(open.items)) };
        self.put(Node { value, ..open.node }, open.anchor)
    }

    fn map(&self, items: Vec<Node>) -> Result<Value, TreeError> {
        let mut entries: Vec<(Node, Node)> = Vec::with_capacity(items.len() / 2);
        let mut items = items.into_iter();
        while let (Some(mut key), Some(value)) = (items.next(), items.next()) {
            match &key.value {
                Value::Text(_) => {}
                Value::Bool(b) => key.value = Value::Text(b.to_string()),
                Value::Int(n) => key.value = Value::Text(n.to_string()),
                Value::Null | Value::Float(_) | Value::List(_) | Value::Map(_) => {
                    return Err(self.error(&key, "a key must be a text".to_owned()));
                }
            }
            entries.push((key, value));
        }
        match twice(&entries) {
            Some(key) => {
                Err(self.error(key, format!("the key {} is there twice", key.text().unwrap_or_default())))
            }
            None => Ok(Value::Map(Rc::new(entries))),
        }
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), TreeError> {
        if anchor != 0 {
            let size = size(&node);
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            Some(open) => open.items.push(node),
            None if self.documents >= self.limits.objects => {
                return Err(self.error(&node, format!("more than {} documents", self.limits.objects)));
            }
            None => {
                self.documents += 1;
                self.document = Some(node);
            }
        }
        Ok(())
    }
}

/// The first key that an earlier entry has, too.
fn twice(entries: &[(Node, Node)]) -> Option<&Node> {
    let same = |a: &Node, b: &Node| a.text() == b.text();
    if entries.len() <= FEW {
        let mut numbered = entries.iter().enumerate();
        return numbered
            .find(|(n, (key, _))| entries[..*n].iter().any(|(earlier, _)| same(earlier, key)))
            .map(|(_, (key, _))| key);
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries.iter().map(|(key, _)| key).find(|key| !seen.insert(key.text()))
}

/// Keys that are compared one by one.
const FEW: usize = 16;

/// How many values a tree is, aliases counted as what they stand for.
fn size(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, value)| size(value)).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => 1,
    }
}

/// A plain scalar by the rules of YAML 1.2's core schema, but that numbers written in other ways than usual are texts.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
            // What is written otherwise (007, +5, 0x1f) is not what a number would be told as: let it be asked for again.
            if let Some(n) = text.parse().ok().filter(|n: &i64| n.to_string() == text) {
                Value::Int(n)
            } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
                Value::Text(text.to_owned())
            } else if let Some(Ok(x)) = numeric.then(|| text.parse()) {
                Value::Float(x)
            } else {
                Value::Text(text.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_place() {
        let documents = parse("a: 1\nb:\n  - x\n  - {c: true}\n---\nq: '1'\n", &Limits::default()).unwrap();
        assert_eq!(documents.len(), 2);
        let item = &documents[0].get("b").unwrap().list()[1];
        assert_eq!((item.line, item.column), (4, 5));
        assert_eq!(documents[1].get("q").unwrap().text(), Some("1"));
    }

    #[test]
    fn bombs_and_pits_are_refused() {
        let mut bomb = "a0: &a0 [x]\n".to_owned();
        for n in 1..40 {
            bomb.push_str(&format!("a{n}: &a{n} [*a{p}, *a{p}]\n", p = n - 1));
        }
        assert!(parse(&bomb, &Limits::default()).unwrap_err().what.contains("aliases"));
        let pit = "[".repeat(10_000);
        assert!(parse(&pit, &Limits::default()).is_err());
        assert!(parse("{a: 1, a: 2}", &Limits::default()).unwrap_err().what.contains("twice"));
        assert!(parse("{a: [", &Limits::default()).is_err());
    }
}
