//! What was said on a flow, as questions tell it, and what rules say to it.

use serde_json::Value;

use super::{Above, Hands, HttpRule, KafkaRule, Kind};
use crate::fqdn;

/// The data above ports that a question tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Talk {
    pub http: Option<HttpRequest>,
    pub kafka: Option<KafkaRequest>,
    pub dns: Option<String>,
    pub sni: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    pub method: String,
    pub path: String,
    pub host: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaRequest {
    pub key: i64,
    pub version: i64,
    pub topics: Vec<String>,
    pub client: String,
}

/// API keys of Kafka by their number.
pub(super) const API_KEYS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];

/// Requests that name topics.
const WITH_TOPIC: [i64; 19] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37];

pub(super) fn api_key(name: &str) -> Option<i64> {
    let lower = name.to_ascii_lowercase();
    let found = API_KEYS.iter().position(|known| *known == lower);
    found.and_then(|n| i64::try_from(n).ok()).or_else(|| name.parse().ok())
}

impl Talk {
    /// The parts `http`, `kafka`, `dns` and `sni` of a question.
    pub fn read(question: &Value) -> Result<Self, String> {
        let part = |name: &str| question.get(name).filter(|value| !value.is_null());
        let dns = match part("dns") {
            None => None,
            Some(value) => {
                all_known(value, "dns", &["query"])?;
                Some(text(value, "dns", "query")?.ok_or("dns.query is missing")?)
            }
        };
        let sni = match part("sni") {
            None => None,
            Some(value) => Some(value.as_str().ok_or("sni must be a text")?.to_owned()),
        };
        Ok(Self {
            http: part("http").map(HttpRequest::read).transpose()?,
            kafka: part("kafka").map(KafkaRequest::read).transpose()?,
            dns: dns.map(|name| fqdn::normal(&name)),
            sni: sni.map(|name| fqdn::normal(&name)),
        })
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same for each topic by itself.
    fn about_one(&self) -> Vec<Self> {
        let Some(kafka) = self.kafka.as_ref().filter(|kafka| kafka.topics.len() > 1) else {
            return vec![self.clone()];
        };
        let one = |topic: &String| KafkaRequest { topics: vec![topic.clone()], ..kafka.clone() };
        kafka.topics.iter().map(|topic| Self { kafka: Some(one(topic)), ..self.clone() }).collect()
    }
}

/// What is misspelt must not be judged as if it had not been said: all of an object's fields are among these.
pub fn all_known(value: &Value, part: &str, known: &[&str]) -> Result<(), String> {
    let mut names = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    match names.find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(odd) => {
            let dot = if part.is_empty() { "" } else { "." };
            Err(format!("unknown field {part}{dot}{odd} (there are {})", known.join(", ")))
        }
    }
}

fn text(value: &Value, part: &str, name: &str) -> Result<Option<String>, String> {
    if !value.is_object() {
        return Err(format!("{part} must be an object"));
    }
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("{part}.{name} must be a text")),
    }
}

impl HttpRequest {
    fn read(value: &Value) -> Result<Self, String> {
        all_known(value, "http", &["method", "path", "host", "headers"])?;
        let part = |name: &str| text(value, "http", name);
        let mut request = Self {
            method: part("method")?.unwrap_or_else(|| "GET".to_owned()),
            path: part("path")?.unwrap_or_else(|| "/".to_owned()),
            host: part("host")?.unwrap_or_default(),
            headers: Vec::new(),
        };
        let headers = value.get("headers").filter(|value| !value.is_null());
        let Some(headers) = headers else { return Ok(request) };
        for (name, value) in headers.as_object().ok_or("http.headers must be an object")? {
            let several = value.as_array().map(Vec::as_slice).unwrap_or_else(|| std::slice::from_ref(value));
            for value in several {
                let value = value.as_str().ok_or_else(|| format!("http.headers.{name} must be a text"))?;
                request.headers.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
        // Where no host is told apart from the headers, theirs is meant.
        if request.host.is_empty() {
            let host = request.header("host").next().map(str::to_owned);
            request.host = host.unwrap_or_default();
        }
        Ok(request)
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = name.to_ascii_lowercase();
        self.headers.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

impl KafkaRequest {
    fn read(value: &Value) -> Result<Self, String> {
        all_known(value, "kafka", &["api_key", "api_version", "topic", "client_id"])?;
        let part = |name: &str| text(value, "kafka", name);
        let number = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(api_key(text)),
            Some(other) => other.as_i64().map(Some).ok_or_else(|| format!("kafka.{name} must be a number")),
        };
        Ok(Self {
            key: number("api_key")?.ok_or("kafka.api_key must be a number or the name of a request")?,
            version: number("api_version")?.unwrap_or(0),
            topics: match value.get("topic") {
                Some(Value::Array(several)) => {
                    let texts = several.iter().map(|topic| topic.as_str().map(str::to_owned));
                    texts.collect::<Option<_>>().ok_or("kafka.topic must be a text or a list of texts")?
                }
                _ => part("topic")?.into_iter().collect(),
            },
            client: part("client_id")?.unwrap_or_default(),
        })
    }
}

impl Above {
    /// Is the rule content with what was said? `None`: not enough was said to know.
    pub fn answer(&self, talk: &Talk) -> Option<bool> {
        if self.hands == Hands::Listener {
            return None;
        }
        let asked = match &self.kind {
            Kind::Any => Some(true),
            Kind::Http(rules) => talk.http.as_ref().map(|request| fits_one(rules, |rule| rule.fits(request))),
            Kind::Kafka(rules) => {
                talk.kafka.as_ref().map(|request| fits_one(rules, |rule| rule.fits(request)))
            }
            Kind::Dns(patterns) => {
                talk.dns.as_ref().map(|name| fits_one(patterns, |pattern| fqdn::fits(pattern, name)))
            }
            Kind::Other(_) => None,
        };
        let spoken = talk.http.is_some() || talk.kafka.is_some() || talk.dns.is_some();
        let by_kind = match (asked, &self.kind) {
            // Something else was said than what the rule understands.
            (None, Kind::Http(_) | Kind::Kafka(_) | Kind::Dns(_)) if spoken => Some(false),
            (asked, _) => asked,
        };
        let by_name = match (&talk.sni, self.server_names.is_empty()) {
            (_, true) => Some(true),
            (Some(sni), false) => Some(self.server_names.iter().any(|name| fqdn::fits(name, sni))),
            (None, false) => spoken.then_some(false),
        };
        match (by_kind, by_name) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            (None, _) | (_, None) => None,
        }
    }
}

/// No rule at all asks for nothing.
fn fits_one<T>(rules: &[T], fits: impl Fn(&T) -> bool) -> bool {
    rules.is_empty() || rules.iter().any(fits)
}

impl HttpRule {
    fn fits(&self, request: &HttpRequest) -> bool {
        let part =
            |pattern: &Option<super::Pattern>, text: &str| pattern.as_ref().is_none_or(|p| p.fits(text));
        let has = |name: &str, value: &Option<String>| match value {
            None => request.header(name).next().is_some(),
            Some(value) => request.header(name).any(|own| own == value),
        };
        part(&self.method, &request.method)
            && part(&self.path, &request.path)
            && part(&self.host, &request.host)
            && self.headers.iter().all(|(name, value)| has(name, value))
            && self.header_matches.iter().all(|header| match (header.secret, &header.value) {
                // A secret that is not there never fits.
                (true, None) => false,
                (_, value) => header.tolerant || has(&header.name, value),
            })
    }
}

impl KafkaRule {
    fn fits(&self, request: &KafkaRequest) -> bool {
        let topic = match (&self.topic, WITH_TOPIC.contains(&request.key)) {
            (None, _) | (_, false) => true,
            (Some(topic), true) => request.topics.contains(topic),
        };
        (self.keys.is_empty() || self.keys.contains(&request.key))
            && self.version.is_none_or(|version| version == request.version)
            && self.client.as_ref().is_none_or(|client| *client == request.client)
            && topic
    }
}

/// What several rules that a flow fits say together; `None` among them asks for nothing. A request about several topics
/// needs leave for each.
pub fn together<'a>(rules: impl Iterator<Item = Option<&'a Above>> + Clone, talk: &Talk) -> Option<bool> {
    let parts = talk.about_one();
    let answers: Vec<Option<bool>> = parts.iter().map(|part| about_one(rules.clone(), part)).collect();
    match answers.contains(&Some(false)) {
        true => Some(false),
        false => answers.iter().all(Option::is_some).then_some(true),
    }
}

fn about_one<'a>(rules: impl Iterator<Item = Option<&'a Above>> + Clone, talk: &Talk) -> Option<bool> {
    if rules.clone().any(|rule| rule.is_none()) {
        return Some(true);
    }
    let mut kinds: Vec<&str> = rules.clone().flatten().filter_map(Above::name).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() > 1 {
        return Some(false);
    }
    let answers = rules.flatten().map(|rule| rule.answer(talk));
    let (mut content, mut open) = (false, false);
    for answer in answers {
        content |= answer == Some(true);
        open |= answer.is_none();
    }
    if content || !open { Some(content) } else { None }
}
