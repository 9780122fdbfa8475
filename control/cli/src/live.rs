//! Commands that ask the running gateway.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::Answer;
use crate::args::Flows;
use crate::client::Client;
use crate::output::{self, Column, Form};

const SERVICES: &[Column] = &[
    ("NAMESPACE/NAME", "/service"),
    ("FRONTEND", "/ip"),
    ("PORT", "/port"),
    ("PROTO", "/proto"),
    ("TYPE", "/type"),
    ("MODE", "/mode"),
    ("ALGORITHM", "/algorithm"),
    ("BACKENDS", "/backend_summary"),
];
const POLICIES: &[Column] = &[
    ("KIND", "/kind"),
    ("NAMESPACE", "/namespace"),
    ("NAME", "/name"),
    ("SELECTOR", "/selector"),
    ("IDENTITIES", "/selects"),
    ("INGRESS RULES", "/ingress"),
    ("EGRESS RULES", "/egress"),
    ("DEFAULT DENY", "/closes"),
    ("ENFORCED", "/enforced"),
];
const IDENTITIES: &[Column] = &[("IDENTITY", "/identity"), ("LABELS", "/labels")];
const ENDPOINTS: &[Column] = &[
    ("NAMESPACE", "/namespace"),
    ("NAME", "/name"),
    ("ADDRESSES", "/addresses"),
    ("IDENTITY", "/identity"),
    ("INGRESS", "/ingress"),
    ("EGRESS", "/egress"),
];
const NAMES: &[Column] = &[
    ("NAME", "/name"),
    ("ADDRESSES", "/addresses"),
    ("SECONDS LEFT", "/expires_in_seconds"),
    ("SELECTORS", "/selectors"),
];
const NAT: &[Column] = &[("ADDRESS", "/address"), ("FIRST", "/first_port"), ("LAST", "/last_port")];
const FLOWS: &[Column] = &[
    ("PROTO", "/proto"),
    ("SOURCE", "/source"),
    ("DESTINATION", "/destination"),
    ("BACKEND", "/translated_destination"),
    ("STATE", "/state"),
    ("PACKETS", "/packets"),
    ("BYTES", "/bytes"),
    ("IDLE", "/idle_seconds"),
];

/// The listings, by the name of their command; of one alone, if it is named.
pub fn list(client: &Client, name: &str, which: Option<&str>, form: Form) -> Result<Answer> {
    let columns = match name {
        "services" => SERVICES,
        "policies" => POLICIES,
        "identities" => IDENTITIES,
        "endpoints" => ENDPOINTS,
        "names" => NAMES,
        _ => NAT,
    };
    let mut list = client.get(&format!("/v1/{name}"))?;
    let rows = list.as_array_mut().context("the gateway answered no list")?;
    if let Some(which) = which {
        rows.retain(|row| is_called(row, which));
    }
    let found = !rows.is_empty() || which.is_none();
    if form == Form::Table {
        rows.iter_mut().for_each(in_words);
    }
    if found || form != Form::Table {
        output::rows(form, columns, &list)?;
    }
    if let (false, Some(which)) = (found, which) {
        output::complain(&format!("nothing in `sluice {name}` is called {which}"));
    }
    Ok(if found { Answer::Yes } else { Answer::No })
}

/// Is the row about this name, namespace/name, number, address or label?
fn is_called(row: &Value, which: &str) -> bool {
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    let whole = format!("{}/{}", text("namespace"), text("name"));
    let dotted = format!("{which}.");
    let names = [text("name"), text("service"), text("ip"), whole.as_str()];
    let lists = ["labels", "addresses"].iter().filter_map(|field| row[*field].as_array()).flatten();
    names.contains(&which)
        || text("name") == dotted
        || row["identity"].as_u64().is_some_and(|number| number.to_string() == which)
        || lists
            .filter_map(Value::as_str)
            .any(|own| own == which || own.split_once(':').is_some_and(|(_, own)| own == which))
}

/// What a person reads in a cell, in the place of what a program reads in a field.
fn in_words(row: &mut Value) {
    if let Some(closes) = row.get("default_deny") {
        let on = ["ingress", "egress"].into_iter().filter(|side| closes[side] == true);
        row["closes"] = on.collect::<Vec<_>>().into();
    }
    for side in ["ingress", "egress"] {
        let word = match (row[format!("{side}_enforced")].as_bool(), row["audit"] == true) {
            (Some(true), true) => "audit",
            (Some(true), false) => "enforced",
            (Some(false), _) => "open",
            (None, _) => continue,
        };
        row[side] = word.into();
    }
}

pub fn flows(client: &Client, args: &Flows) -> Result<()> {
    let path = format!("/v1/flows?limit={}{}", args.limit, args.filter.query());
    output::rows(args.output, FLOWS, &client.get(&path)?)
}

pub fn status(client: &Client, form: Form) -> Result<()> {
    let status = client.get("/v1/status")?;
    match form {
        Form::Json | Form::Yaml => output::data(form, &status),
        Form::Table => {
            let mut status = status;
            let attention = status.as_object_mut().and_then(|fields| fields.remove("attention"));
            for line in attention.iter().filter_map(Value::as_array).flatten() {
                output::line(&format!("!! {}\n", plain(line)))?;
            }
            output::line(&outline(&status, 0))?;
            output::line("(counters that are zero and lists that are empty are left out; -o json has all)\n")
        }
    }
}

pub fn metrics(client: &Client) -> Result<()> {
    output::line(&client.text("/metrics")?)
}

/// A nested object as indented `key: value` lines; below the first level without what says nothing.
#[expect(clippy::wildcard_enum_match_arm, reason = "JSON has no kinds but these")]
fn outline(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let says = |value: &&Value| depth == 0 || !is_nothing(value);
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| says(value))
            .map(|(key, value)| match value {
                Value::Object(_) => format!("{indent}{key}:\n{}", outline(value, depth + 1)),
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    let rows = items.iter().map(|item| outline(item, depth + 1)).collect::<Vec<_>>();
                    format!("{indent}{key}:\n{}", rows.join(&format!("{indent}  --\n")))
                }
                other => format!("{indent}{key}: {}\n", plain(other)),
            })
            .collect(),
        other => format!("{indent}{}\n", plain(other)),
    }
}

/// Zero, nothing, or only such.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_nothing),
        Value::Object(fields) => fields.values().all(is_nothing),
        Value::Bool(_) => false,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "JSON has no kinds but these")]
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
