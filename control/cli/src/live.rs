//! Commands that ask the running gateway.

use anyhow::Result;
use serde_json::Value;

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
    ("SELECTS", "/selects"),
    ("INGRESS", "/ingress"),
    ("EGRESS", "/egress"),
    ("ENFORCED", "/enforced"),
];
const IDENTITIES: &[Column] = &[("IDENTITY", "/identity"), ("LABELS", "/labels")];
const ENDPOINTS: &[Column] = &[
    ("NAMESPACE", "/namespace"),
    ("NAME", "/name"),
    ("ADDRESSES", "/addresses"),
    ("IDENTITY", "/identity"),
    ("INGRESS", "/ingress_enforced"),
    ("EGRESS", "/egress_enforced"),
];
const NAMES: &[Column] =
    &[("NAME", "/name"), ("ADDRESSES", "/addresses"), ("EXPIRES", "/expires_in_seconds")];
const NAT: &[Column] =
    &[("ADDRESS", "/address"), ("FIRST", "/first_port"), ("LAST", "/last_port"), ("IN USE", "/in_use")];
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

/// The listings, by the name of their command.
pub fn list(client: &Client, name: &str, form: Form) -> Result<()> {
    let columns = match name {
        "services" => SERVICES,
        "policies" => POLICIES,
        "identities" => IDENTITIES,
        "endpoints" => ENDPOINTS,
        "names" => NAMES,
        _ => NAT,
    };
    output::rows(form, columns, &client.get(&format!("/v1/{name}"))?)
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
            for line in status["attention"].as_array().into_iter().flatten() {
                output::line(&format!("!! {}\n", plain(line)))?;
            }
            output::line(&outline(&status, 0))
        }
    }
}

pub fn metrics(client: &Client) -> Result<()> {
    output::line(&client.text("/metrics")?)
}

/// A nested object as indented `key: value` lines.
#[expect(clippy::wildcard_enum_match_arm, reason = "JSON has no kinds but these")]
fn outline(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => fields
            .iter()
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

#[expect(clippy::wildcard_enum_match_arm, reason = "JSON has no kinds but these")]
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
