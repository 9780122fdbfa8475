//! What rules ask of the data above ports: TLS names, HTTP and Kafka requests, DNS queries; and whether some data fits.
//!
//! A rule asks for one kind of data. Of several rules that a flow fits, one that is content is enough; rules that ask for
//! different kinds contradict each other, and then nothing passes.

mod reading;
mod talk;

use std::fmt;
use std::hash::{Hash, Hasher};

use regex::{Regex, RegexBuilder};

pub use reading::read;
pub use talk::{HttpRequest, KafkaRequest, Talk, all_known, together};

/// What one port rule asks for beyond ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Above {
    /// TLS server names; none is any.
    pub server_names: Vec<String>,
    /// Somebody must open the TLS, or an Envoy listener is to look at the flow.
    pub hands: Hands,
    pub kind: Kind,
}

/// Who must have the flow in hands to judge it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hands {
    #[default]
    Reader,
    /// `terminatingTLS` or `originatingTLS`.
    TlsProxy,
    /// `listener`: what it says cannot be known here.
    Listener,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing but what [`Above::server_names`] says.
    Any,
    /// One of them must fit; none at all is any request.
    Http(Vec<HttpRule>),
    Kafka(Vec<KafkaRule>),
    /// Patterns of names ([`crate::fqdn::fits`]).
    Dns(Vec<String>),
    /// A protocol known by its name alone (`l7proto`).
    Other(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpRule {
    pub path: Option<Pattern>,
    pub method: Option<Pattern>,
    pub host: Option<Pattern>,
    /// Name and, if it matters, value.
    pub headers: Vec<(String, Option<String>)>,
    pub header_matches: Vec<HeaderMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    pub name: String,
    pub value: Option<String>,
    /// The value lies in a Secret, which is not read here.
    pub secret: bool,
    /// A mismatch changes the request (or is logged) and lets it pass.
    pub tolerant: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KafkaRule {
    /// API keys; none is any.
    pub keys: Vec<i64>,
    pub version: Option<i64>,
    pub client: Option<String>,
    pub topic: Option<String>,
}

/// A regular expression that must fit the whole text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// What a compiled expression may cost in memory.
const REGEX_BYTES: usize = 1 << 20;

impl Pattern {
    /// RE2's dialect: no look-around, no back-references, linear time.
    pub fn new(text: &str) -> Result<Self, String> {
        let whole = format!("^(?:{text})$");
        // What closes our bracket and opens another would escape the anchors.
        let alone = RegexBuilder::new(text).size_limit(REGEX_BYTES).build();
        let built = alone.and_then(|_| {
            RegexBuilder::new(&whole).size_limit(REGEX_BYTES).dot_matches_new_line(true).build()
        });
        match built {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(error) => {
                let why = error.to_string();
                let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Err(format!("{text:?} is no RE2 regular expression: {last}"))
            }
        }
    }

    pub fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Above {
    /// Can the worker judge it packet by packet?
    pub fn is_dns(&self) -> bool {
        matches!(self.kind, Kind::Dns(_)) && self.server_names.is_empty() && self.hands == Hands::Reader
    }

    /// The kind of data as people call it; nothing where TLS names alone matter.
    pub fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Any => None,
            Kind::Http(_) => Some("http"),
            Kind::Kafka(_) => Some("kafka"),
            Kind::Dns(_) => Some("dns"),
            Kind::Other(name) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_texts_only() {
        let fits = |pattern: &str, text: &str| Pattern::new(pattern).unwrap().fits(text);
        assert!(fits("GET", "GET") && !fits("GET", "GETS") && !fits("GET", "FORGET"));
        assert!(fits("GET|PUT", "PUT") && !fits("GET|PUT", "PUTS"));
        assert!(fits("/a/.*", "/a/b") && !fits("/a/.*", "/x/a/b"));
        assert!(fits("^/a$", "/a"), "anchors that are already there do no harm");
    }

    #[test]
    fn what_is_not_re2_is_refused() {
        for wrong in ["(?=x)", "(a)\\1", "[", "a)|(b", "(?:a{1000}){1000}"] {
            let error = Pattern::new(wrong).unwrap_err();
            assert!(error.contains("RE2"), "{error}");
        }
    }
}
