//! Fuzzing without a fuzzer, for ordinary tests of every fuzz target: its corpus and its crashes as they are, and then with
//! bytes changed, the same changes in every run.
//!
//! `SLUICE_FUZZ_SECONDS=600 cargo nextest run hostile` goes on changing bytes for ten minutes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so, and reads a clock"
)]

use std::path::Path;
use std::time::{Duration, Instant};

/// No input may take longer: nothing hangs. (On a busy machine ordinary ones take seconds.)
const PATIENCE: Duration = Duration::from_secs(60);
/// Inputs do not grow beyond this by changes that pile up.
const MOST_BYTES: usize = 20_000;

/// Every file below the folder, by its name so that runs are alike.
pub fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(data) = std::fs::read(&path) {
                found.push(data);
            }
        }
    }
    found.sort();
    found
}

/// What runs of a target begin with: `corpus/<target>` and `crashes/<target>` of a fuzz folder.
pub fn seeds(fuzz: &Path, target: &str) -> Vec<Vec<u8>> {
    let mut seeds = corpus(&fuzz.join("corpus").join(target));
    assert!(seeds.len() >= 10, "the corpus of {target} is not where it was");
    let crashes = fuzz.join("crashes");
    let reasons = std::fs::read_to_string(crashes.join("README.md")).unwrap_or_default();
    for crash in std::fs::read_dir(crashes.join(target)).into_iter().flatten().flatten() {
        let name = format!("{target}/{}", crash.file_name().display());
        assert!(reasons.contains(&name), "README.md of the crashes says nothing about {name}");
    }
    seeds.extend(corpus(&crashes.join(target)));
    seeds
}

/// Swallow every seed as it is, and then what becomes of them. `words` are pieces that mean something to the reader.
pub fn storm(mut seeds: Vec<Vec<u8>>, words: &[&[u8]], rounds: usize, swallow: impl Fn(&[u8])) {
    seeds.iter().for_each(|seed| one(seed, &swallow));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seconds: Option<u64> = std::env::var("SLUICE_FUZZ_SECONDS").ok().and_then(|n| n.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut round = 0;
    while end.map_or(round < rounds, |end| Instant::now() < end) {
        let (first, other) = (random.below(seeds.len()), random.below(seeds.len()));
        let data = change(&seeds[first], &seeds[other], words, &mut random);
        one(&data, &swallow);
        // Changes pile up, on some of the seeds.
        if random.below(50) == 0 && data.len() < MOST_BYTES {
            let place = random.below(seeds.len());
            seeds[place] = data;
        }
        round += 1;
    }
}

fn one(data: &[u8], swallow: &impl Fn(&[u8])) {
    let shown = Shown(data);
    let start = Instant::now();
    swallow(data);
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    drop(shown);
}

/// Shows the input that a test failed on.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    #[allow(clippy::print_stderr, reason = "says what failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("failed on {hex}\nwhich as text is {}", String::from_utf8_lossy(self.0));
        }
    }
}

fn change(seed: &[u8], other: &[u8], words: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(data.len() + 1);
        let end = (at + random.below(20)).min(data.len());
        match random.below(6) {
            0 => {
                data.drain(at..end);
            }
            1 if !words.is_empty() => {
                data.splice(at..end, words[random.below(words.len())].iter().copied());
            }
            2 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            3 if at < data.len() => data[at] = random.next().to_le_bytes()[0],
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

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}
