//! Hostile files: the fuzzer's corpus and the examples, as they are and with bytes changed; and what only a limit stops.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so, and reads a clock"
)]

#[path = "../../../dataplane/fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/fuzz_targets/swallow.rs"]
mod swallow;

use std::path::Path;
use std::time::{Duration, Instant};

use sluice_policy::objects;
use sluice_policy::tree::Limits;

use replay::{corpus, storm};
use swallow::swallow;

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seeds = replay::seeds(&root.join("control/fuzz"), "objects");
    seeds.extend(corpus(&root.join("configs/policies")));
    seeds
}

/// Pieces that mean something to the reader.
const WORDS: [&str; 24] = [
    "\n",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "---\n",
    "null",
    "0",
    "65536",
    "-1",
    "1e999",
    "10.0.0.0/33",
    "::/0",
    "'",
    "\"",
    "!!binary ",
    "specs",
    "*",
    "**.",
    "|\n  ",
];

#[test]
fn files_are_swallowed() {
    let words: Vec<&[u8]> = WORDS.iter().map(|word| word.as_bytes()).collect();
    storm(seeds(), &words, 3_000, swallow);
}

fn refused(text: &str) -> String {
    let (_, problems) = objects::parse("hostile.yaml", text, &Limits::default());
    problems.to_string()
}

#[test]
fn bombs_pits_and_floods_are_refused() {
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    (1..60).for_each(|n| bomb.push_str(&format!("a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1)));
    assert!(refused(&bomb).contains("aliases stand for more than"));
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", "")] {
        let pit = format!("a: {}1{}", open.repeat(10_000), close.repeat(10_000));
        assert!(!refused(&pit).is_empty(), "{open}");
    }
    let indented: String = (0..10_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    assert!(refused(&indented).contains("nested deeper"));
}

#[test]
fn files_beyond_the_limit_are_refused_unread() {
    let path = std::env::temp_dir().join(format!("sluice-large-{}.yaml", std::process::id()));
    // A hole in the file is as long as bytes would be.
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let start = Instant::now();
    let (_, problems) = objects::load(std::slice::from_ref(&path), &Limits::default());
    std::fs::remove_file(&path).unwrap();
    assert!(
        problems.to_string().contains("more than the limit of 67108864 (limits.fileBytes)"),
        "{problems}"
    );
    assert!(start.elapsed() < Duration::from_secs(1));
}
