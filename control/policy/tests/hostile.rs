//! Hostile files: the fuzzer's corpus and the examples, as they are and with bytes changed; and what only a limit stops.
//!
//! `SLUICE_FUZZ_SECONDS=600 cargo test -p sluice-policy --test hostile` goes on changing bytes for ten minutes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so, and reads a clock"
)]

#[path = "oracle/random.rs"]
mod random;
#[path = "../../fuzz/fuzz_targets/swallow.rs"]
mod swallow;

use std::path::Path;
use std::time::{Duration, Instant};

use sluice_policy::objects;
use sluice_policy::tree::Limits;

use random::Random;
use swallow::{corpus, swallow};

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seeds = corpus(&root.join("control/fuzz/corpus/objects"));
    assert!(seeds.len() >= 10, "the corpus is not where it was");
    seeds.extend(corpus(&root.join("configs/policies")));
    seeds
}

#[test]
fn the_corpus_is_swallowed() {
    seeds().iter().for_each(|seed| swallow(seed));
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

fn change(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(20)).min(data.len());
        match random.below(6) {
            0 => {
                data.drain(at..end);
            }
            1 => {
                data.splice(at..end, random.pick_text(&WORDS).bytes());
            }
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            3 if at < data.len() => data[at] = u8::try_from(random.below(256)).unwrap(),
            4 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + random.below(200)).min(other.len());
                data.splice(at..end, other[from..to].iter().copied());
            }
            _ => data.truncate(at.max(data.len() / 2)),
        }
    }
    data
}

#[test]
fn changed_bytes_are_swallowed() {
    let seconds = std::env::var("SLUICE_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seeds = seeds();
    let mut random = Random::new(seconds);
    let mut rounds = 0_usize;
    while Instant::now() < end {
        let (one, other) = (random.below(seeds.len()), random.below(seeds.len()));
        let data = change(&seeds[one], &seeds[other], &mut random);
        let start = Instant::now();
        swallow(&data);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} for\n{}", String::from_utf8_lossy(&data));
        // Changes pile up, on some of the seeds.
        if random.one_in(50) && data.len() < 20_000 {
            let place = random.below(seeds.len());
            seeds[place] = data;
        }
        rounds += 1;
    }
    assert!(rounds > 100, "only {rounds} rounds");
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
