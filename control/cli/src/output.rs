//! The two ways in which a command answers: a table for people, JSON for programs.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    #[default]
    Table,
    Json,
}

/// One column: its heading, and where its value lies in each row (a JSON pointer).
pub type Column = (&'static str, &'static str);

/// Print rows. JSON is the list as it came.
pub fn rows(form: Form, columns: &[Column], list: &Value) -> Result<()> {
    match form {
        Form::Json => json(list),
        Form::Table => line(&table(columns, list)),
    }
}

pub fn json(value: &Value) -> Result<()> {
    line(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Write to standard output; a reader that went away (`| head`) is no error of ours.
pub fn line(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
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
fn cell(value: Option<&Value>) -> String {
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
    fn columns_line_up_and_missing_values_are_dashes() {
        let list = serde_json::json!([{"name": "a", "ips": ["10.0.0.1", "10.0.0.2"]}, {"name": "longer"}]);
        let text = table(&[("NAME", "/name"), ("ADDRESSES", "/ips")], &list);
        assert_eq!(text, "NAME    ADDRESSES\na       10.0.0.1,10.0.0.2\nlonger  -\n");
    }
}
