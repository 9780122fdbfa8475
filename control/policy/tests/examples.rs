//! Every example in `configs/policies` means what its header says.
//!
//! A header line is `FROM -> TO PROTO PORT [JSON]: VERDICT [REASON]` (for ICMP the type in the place of the port),
//! `learn NAME ADDRESS`, or `option NAME=VALUE`. The table in the folder's README has all of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_policy::compile::Compiled;
use sluice_policy::config::Options;
use sluice_policy::objects;
use sluice_policy::verdict::Judge;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/policies")
}

fn world() -> PathBuf {
    folder().join("world.yaml")
}

fn examples() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") && path != world() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn options() -> Options {
    Options { node: "edge".to_owned(), ..Options::default() }
}

/// One expectation as a question and its answer.
fn expectation(line: &str) -> Option<(Value, &str)> {
    let (from, rest) = line.split_once(" -> ")?;
    let (asked, expected) = rest.rsplit_once(": ")?;
    let (plain, more) =
        asked.split_once(" {").map_or((asked, None), |(plain, more)| (plain, Some(format!("{{{more}"))));
    let mut words = plain.split(' ');
    let (to, proto, port) = (words.next()?, words.next()?, words.next().unwrap_or("0"));
    let mut question = more.map_or_else(|| json!({}), |more| serde_json::from_str(&more).unwrap());
    question["from"] = json!(from);
    question["to"] = json!(to);
    question["proto"] = json!(proto);
    let key = if proto.starts_with("ICMP") { "icmp_type" } else { "port" };
    question[key] = json!(port.parse::<u16>().unwrap());
    Some((question, expected))
}

fn judge_by_header(path: &Path, wrong: &mut Vec<String>) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    let header: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let mut options = options();
    for (name, value) in header.iter().filter_map(|line| line.strip_prefix("option ")?.split_once('=')) {
        options.set(name, value).unwrap();
    }
    let (objects, problems) = objects::load(&[world(), path.to_owned()], &options.limits);
    assert!(problems.is_ok(), "{problems}");
    let mut judge = Judge::new(Compiled::new(objects, options, problems)).unwrap();
    let mut judged = 0;
    for line in header {
        if let Some(learned) = line.strip_prefix("learn ") {
            let (name, ip) = learned.split_once(' ').unwrap();
            assert_eq!(
                judge.line(&json!({"learn": {"name": name, "ips": [ip], "ttl": 60}}).to_string()),
                Ok(None)
            );
            continue;
        }
        let Some((question, expected)) = expectation(line) else { continue };
        let answer = judge.line(&question.to_string()).unwrap().unwrap();
        let reason = answer["drop_reason"].as_u64().map_or_else(String::new, |reason| format!(" {reason}"));
        let got = format!("{}{reason}", answer["verdict"].as_str().unwrap());
        if got != expected {
            wrong.push(format!("{}: {line}\n{got}: {answer:#}", path.display()));
        }
        judged += 1;
    }
    judged
}

#[test]
fn every_example_means_what_it_says() {
    let examples = examples();
    assert!(examples.len() >= 50, "only {} examples", examples.len());
    let mut wrong = Vec::new();
    for path in &examples {
        assert!(judge_by_header(path, &mut wrong) > 0, "{} expects nothing", path.display());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rows name an example, or a test of this tree where nothing can be shown by a manifest and a verdict.
#[test]
fn the_table_of_examples_is_whole() {
    let table = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what Cilium documents"));
    let mut named = BTreeSet::new();
    for row in rows {
        let found: Vec<&str> = row.split('`').skip(1).step_by(2).filter(|text| text.contains('/')).collect();
        assert!(!found.is_empty(), "a row shows nothing: {row}");
        for text in found {
            let (path, test) = text.split_once("::").unwrap_or((text, ""));
            if test.is_empty() {
                named.insert(folder().join(path));
                continue;
            }
            let source = std::fs::read_to_string(folder().join("../..").join(path)).unwrap_or_default();
            assert!(source.contains(&format!("fn {test}(")), "there is no test {text}");
        }
    }
    let there: BTreeSet<PathBuf> = examples().into_iter().collect();
    let gone: Vec<_> = named.difference(&there).collect();
    let unnamed: Vec<_> = there.difference(&named).collect();
    assert!(
        gone.is_empty() && unnamed.is_empty(),
        "rows without a file: {gone:?}, files without a row: {unnamed:?}"
    );
}

#[test]
fn all_examples_can_stand_side_by_side() {
    let (objects, problems) = objects::load(&[folder()], &options().limits);
    assert!(problems.is_ok(), "{problems}");
    let count = objects.policies.len();
    let judge = Judge::new(Compiled::new(objects, options(), problems)).unwrap();
    assert!(judge.compiled.engine.policies().len() == count && count >= 50);
}

#[test]
fn examples_of_services_lead_to_somebody() {
    let (objects, problems) = objects::load(&[folder().join("../services")], &options().limits);
    assert!(problems.is_ok(), "{problems}");
    let compiled = Compiled::new(objects, options(), problems);
    assert!(compiled.warnings.is_empty(), "{:?}", compiled.warnings);
    let mut shown = 0;
    for one in compiled.frontends.iter() {
        assert!(one.list.record.has_usable() && one.list.probe.is_some(), "{one:?}");
        shown += 1;
    }
    assert!(shown >= 2, "{shown}");
}
