//! The ways in which a command answers: a table for people, JSON and YAML for programs.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    #[default]
    Table,
    Json,
    Yaml,
}

/// One column: its heading, and where its value lies in each row (a JSON pointer).
pub type Column = (&'static str, &'static str);

/// Print rows. JSON is the list as it came.
pub fn rows(form: Form, columns: &[Column], list: &Value) -> Result<()> {
    match form {
        Form::Json | Form::Yaml => data(form, list),
        Form::Table => line(&table(columns, list)),
    }
}

/// The value as a program wants it.
pub fn data(form: Form, value: &Value) -> Result<()> {
    if form == Form::Yaml { yaml(value) } else { json(value) }
}

pub fn json(value: &Value) -> Result<()> {
    line(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// One document of YAML. JSON's scalars are YAML's; strings stay quoted, so that none turns into something else.
pub fn yaml(value: &Value) -> Result<()> {
    line(&format!("---\n{}", block(value, 0)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "JSON has no kinds but these")]
fn block(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let nests = |value: &Value| {
        value.as_object().is_some_and(|fields| !fields.is_empty())
            || value.as_array().is_some_and(|items| !items.is_empty())
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => fields
            .iter()
            .map(|(key, value)| match nests(value) {
                true => format!("{indent}{}:\n{}", Value::from(key.as_str()), block(value, depth + 1)),
                false => format!("{indent}{}: {value}\n", Value::from(key.as_str())),
            })
            .collect(),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match nests(item) {
                true => format!("{indent}- {}", block(item, depth + 1).trim_start()),
                false => format!("{indent}- {item}\n"),
            })
            .collect(),
        scalar => format!("{indent}{scalar}\n"),
    }
}

/// Write to standard output; a reader that went away (`| head`) is no error of ours.
pub fn line(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}

/// What is no part of an answer.
#[expect(clippy::print_stderr, reason = "the one place where errors meet people")]
pub fn complain(what: &str) {
    eprintln!("sluice: {what}");
}

fn table(columns: &[Column], list: &Value) -> String {
    let empty = Vec::new();
    let mut cells: Vec<Vec<String>> =
        vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    for row in list.as_array().unwrap_or(&empty) {
        cells.push(columns.iter().map(|(_, at)| cell(row.pointer(at))).collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|c| cells.iter().map(|row| row[c].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in cells {
        let mut out = String::new();
        for (value, width) in row.iter().zip(&widths) {
            out.push_str(&format!("{value:<width$}  "));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

/// A value as a person reads it in a cell: lists by commas, nothing as a dash.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_means_what_the_json_means() {
        let value = serde_json::json!({"a": [{"b": "no", "c": [1, [2, "x: y"]]}, {}, []], "d": null, "e f": {"g": true}});
        let text = block(&value, 0);
        let tree = sluice_policy::tree::parse(&text, &sluice_policy::tree::Limits::default());
        assert!(tree.is_ok(), "{text}");
        assert!(text.starts_with("\"a\":\n  - \"b\": \"no\"\n"), "{text}");
    }

    #[test]
    fn columns_line_up_and_missing_values_are_dashes() {
        let list = serde_json::json!([{"name": "a", "ips": ["10.0.0.1", "10.0.0.2"]}, {"name": "longer"}]);
        let text = table(&[("NAME", "/name"), ("ADDRESSES", "/ips")], &list);
        assert_eq!(text, "NAME    ADDRESSES\na       10.0.0.1,10.0.0.2\nlonger  -\n");
    }
}
