//! Golden cases: a folder each under `cases/`, with the packets that come (`case.yaml` in words, `in.pcap` in bytes), what
//! leaves (`out.pcap`) and in `expected.txt` every packet's verdict, what left in words, and the exact counters.
//!
//! They live here, beside `sluice replay`, because a case is objects as people write them and captures: only the command
//! knows both, and what it says is a face that others rely on. `UPDATE=1 cargo nextest run golden` writes cases anew; the
//! difference is to be read.

#![allow(clippy::unwrap_used, reason = "a case that cannot be read fails")]

mod line;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sluice_core::verdict::DropReason;
use sluice_policy::tree::{Limits, Node, parse};
use sluice_run::io::pcap::{Captured, read, write};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(folder().join("cases")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `case.yaml`.
struct Case {
    folder: PathBuf,
    why: String,
    /// Files of objects; without them those of `world/`.
    objects: Vec<PathBuf>,
    /// `SECONDS=FILE`: other objects from then on.
    changes: Vec<String>,
    flags: Vec<String>,
    packets: Vec<String>,
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = folder().join("cases").join(name);
        let text = fs::read_to_string(folder.join("case.yaml")).unwrap();
        let limits = Limits { file_bytes: 1 << 20, objects: 1, depth: 8, expansion: 1000 };
        let tree = parse(&text, &limits).unwrap_or_else(|error| panic!("{name}: {error:?}")).remove(0);
        let texts = |key: &str| -> Vec<String> {
            let list = tree.get(key).map(Node::list).unwrap_or_default();
            list.iter().map(|node| node.text().unwrap().to_owned()).collect()
        };
        let within = |file: &String| folder.join(file);
        let mut objects: Vec<PathBuf> = texts("objects").iter().map(within).collect();
        if objects.is_empty() {
            objects.push(folder.join("../../world/objects.yaml"));
        }
        let changes = texts("changes");
        let change = |text: &String| {
            let (at, file) = text.split_once('=').unwrap();
            format!("{at}={}", folder.join(file).display())
        };
        Self {
            why: tree.get("why").and_then(Node::text).unwrap_or_default().to_owned(),
            objects,
            changes: changes.iter().map(change).collect(),
            flags: texts("flags"),
            packets: texts("packets"),
            folder,
        }
    }

    fn frames(&self) -> Vec<Captured> {
        let frames: Vec<Captured> = self
            .packets
            .iter()
            .map(|text| {
                line::read(text).unwrap_or_else(|wrong| panic!("{}: {text}: {wrong}", self.folder.display()))
            })
            .collect();
        assert!(frames.windows(2).all(|pair| pair[0].at < pair[1].at), "each packet has a time of its own");
        frames
    }

    /// What the gateway says of every packet, and what leaves.
    fn run(&self, input: &Path) -> (Vec<Value>, Vec<Captured>, Vec<u8>) {
        let output = std::env::temp_dir().join(format!(
            "sluice-golden-{}-{}.pcap",
            std::process::id(),
            self.folder.file_name().unwrap().display()
        ));
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.arg("replay").arg("--counters").arg("--config").arg(folder().join("world/gateway.yaml"));
        for path in &self.objects {
            command.arg("--objects").arg(path);
        }
        for change in &self.changes {
            command.arg("--change").arg(change);
        }
        let done =
            command.args(&self.flags).arg("--in").arg(input).arg("--out").arg(&output).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{}: {}",
            self.folder.display(),
            String::from_utf8_lossy(&done.stderr)
        );
        let bytes = fs::read(&output).unwrap();
        fs::remove_file(&output).unwrap();
        let frames = read(bytes.as_slice()).unwrap().1;
        (said.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), frames, bytes)
    }
}

/// The whole story in words: what came, what was said of it, what left, and the books.
fn story(case: &Case, lines: &[Value], came: &[Captured], left: &[Captured]) -> String {
    let mut text = format!("{}\n", case.why);
    for ((words, frame), line) in case.packets.iter().zip(came).zip(lines) {
        writeln!(text, "\n{words}\n  {line}").unwrap();
        for out in left.iter().filter(|out| out.at == frame.at) {
            writeln!(text, "  out {}", line::show(&out.bytes)).unwrap();
        }
    }
    writeln!(text, "\n{}", lines.last().unwrap()).unwrap();
    text
}

/// In = forwarded + dropped + passed + consumed; out = forwarded + generated.
fn assert_balanced(name: &str, books: &Value, came: usize, left: usize) {
    let count = |key: &str| books[key].as_u64().unwrap_or_else(|| panic!("{name}: no {key} in {books}"));
    assert_eq!(count("in"), came as u64, "{name}");
    assert_eq!(count("out"), left as u64, "{name}");
    let ends = count("forwarded") + count("dropped") + count("passed") + count("consumed");
    assert_eq!(count("in"), ends, "{name}: {books}");
    assert_eq!(count("out"), count("forwarded") + count("generated"), "{name}: {books}");
}

fn pcap(frames: &[Captured]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes, frames).unwrap();
    bytes
}

#[test]
fn cases_go_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for name in names() {
        let case = Case::read(&name);
        assert!(!case.why.is_empty(), "{name} does not say why");
        let came = case.frames();
        let input = case.folder.join("in.pcap");
        if update {
            fs::write(&input, pcap(&came)).unwrap();
        }
        assert_eq!(fs::read(&input).unwrap(), pcap(&came), "{name}: in.pcap is not what case.yaml says");
        let (lines, left, output) = case.run(&input);
        assert_balanced(&name, lines.last().unwrap(), came.len(), left.len());
        left.iter().for_each(|frame| line::assert_sound(&name, &frame.bytes, &came, frame.at));
        let told = story(&case, &lines, &came, &left);
        if update {
            fs::write(case.folder.join("out.pcap"), &output).unwrap();
            fs::write(case.folder.join("expected.txt"), &told).unwrap();
        }
        let expected = fs::read_to_string(case.folder.join("expected.txt")).unwrap();
        if let Some((old, new)) = expected.lines().zip(told.lines()).find(|(old, new)| old != new) {
            wrong.push(format!("{name}:\n  expected {old}\n  got      {new}"));
        } else if expected != told || fs::read(case.folder.join("out.pcap")).unwrap() != output {
            wrong.push(format!("{name}: more, less or other bytes left than expected:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes them anew; read the difference", wrong.join("\n"));
}

/// Reasons that no capture can show, each with the test that does.
const ELSEWHERE: [(DropReason, &str); 10] = [
    (DropReason::UnsupportedL2Protocol, "the XDP program passes such frames; core/tests/laws.rs"),
    (DropReason::UnsupportedL3Protocol, "the XDP program passes such frames; core/tests/laws.rs"),
    (DropReason::StaleOrUnroutable, "counted by the worker's hold queue; run/tests/faults.rs"),
    (
        DropReason::FlowTableFull,
        "a replay has room for more flows than a case has packets; core/tests/path.rs",
    ),
    (DropReason::RateLimited, "the full hand-over ring of several workers; run/tests/workers.rs"),
    (DropReason::NoTunnelEnd, "a port without an address, as hostile lives have them; core/tests/hostile.rs"),
    (DropReason::EncapsulationProhibited, "tunnels are not configured here; core/tests/tunnels.rs"),
    (
        DropReason::NoEgressGateway,
        "policies of egress addresses name the gateway's node; core/tests/egress.rs",
    ),
    (DropReason::CannotWrap, "tunnels are not configured here; core/tests/direct.rs"),
    (DropReason::NotReady, "a replay has objects from the start; core/tests/path.rs"),
];

#[test]
fn every_reason_has_a_case() {
    let mut seen = BTreeSet::new();
    for name in names() {
        let text = fs::read_to_string(folder().join("cases").join(&name).join("expected.txt")).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
        seen.extend(lines.filter_map(|line| line["drop_reason"].as_u64()));
    }
    for reason in DropReason::ALL {
        let told = ELSEWHERE.iter().find(|(other, _)| other == reason);
        let has_case = seen.contains(&u64::from(reason.number()));
        assert_ne!(
            has_case,
            told.is_some(),
            "{reason:?}: {}",
            told.map_or("no case ends with it", |(_, why)| why)
        );
    }
}
