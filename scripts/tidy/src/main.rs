//! Holds the tree to its design: crate arrows, a caption on every file, sizes, and the few things we do not write.
//!
//! Run as `cargo run -p sluice-tidy` from anywhere inside the repository; prints `file:line: what is wrong` and exits 1.

use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom (normal dependencies; tests may reach further). DESIGN: "No other arrows".
const ARROWS: &[(&str, &[&str])] = &[
    ("dataplane/core", &[]),
    ("dataplane/feed", &["sluice-core"]),
    ("dataplane/run", &["sluice-core"]),
    ("dataplane/xsk", &["sluice-core", "sluice-run"]),
    (
        "dataplane/daemon",
        &["sluice-core", "sluice-feed", "sluice-run", "sluice-xsk", "sluice-steer", "sluice-steer-abi"],
    ),
    ("xdp-steer/abi", &[]),
    ("xdp-steer/loader", &["sluice-steer-abi"]),
    ("control/policy", &["sluice-core", "sluice-feed"]),
    ("control/daemon", &["sluice-core", "sluice-policy", "sluice-feed"]),
    // The command runs the path offline (`replay`), so it also knows the steering decision.
    ("control/cli", &["sluice-core", "sluice-policy", "sluice-feed", "sluice-run", "sluice-steer-abi"]),
    ("bench", &["sluice-core", "sluice-run", "sluice-xsk", "sluice-steer", "sluice-steer-abi"]),
    ("scripts/tidy", &[]),
];

/// The only places where `unsafe` may be switched on.
const UNSAFE_HOMES: &[&str] = &[
    "dataplane/xsk/",
    "dataplane/core/src/intrinsics.rs",
    "xdp-steer/prog/",
    "bench/src/alloc.rs",
    "bench/prog/",
    "dataplane/fuzz/",
    "control/fuzz/",
];

const BANNED_NAMES: &[&str] = &["utils", "common", "helpers", "types", "misc", "util"];

/// Lines of a file without its tests; above it the module doc must say `Longer than` with the reason.
const MAX_LINES: usize = 600;

fn main() {
    let Some(root) = repository_root() else {
        complain("not inside the repository (no Cargo.toml with [workspace] above here)");
        std::process::exit(2);
    };
    let mut problems = Vec::new();
    check_arrows(&root, &mut problems);
    check_promises(&root, &mut problems);
    check_services(&root, &mut problems);
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    for file in &files {
        check_file(&root, file, &mut problems);
    }
    problems.sort();
    for problem in &problems {
        complain(problem);
    }
    if !problems.is_empty() {
        std::process::exit(1);
    }
}

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn complain(text: &str) {
    eprintln!("{text}");
}

fn repository_root() -> Option<PathBuf> {
    let mut dir = std::env::current_dir().ok()?;
    loop {
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        if manifest.contains("[workspace]\nresolver") {
            return Some(dir);
        }
        if !dir.pop() {
            return None;
        }
    }
}

fn check_arrows(root: &Path, problems: &mut Vec<String>) {
    for (member, allowed) in ARROWS {
        let name = format!("{member}/Cargo.toml");
        let Ok(manifest) = fs::read_to_string(root.join(&name)) else {
            problems.push(format!("{name}:1: member of the design is missing"));
            continue;
        };
        for (line, dependency) in own_dependencies(&manifest) {
            if !allowed.contains(&dependency.as_str()) {
                problems.push(format!("{name}:{line}: the design has no arrow to {dependency}"));
            }
        }
    }
}

/// `sluice-*` entries of the `[dependencies]` table, with their line numbers.
fn own_dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            table = line.trim().to_owned();
        } else if table == "[dependencies]" && line.starts_with("sluice") {
            let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            found.push((index + 1, name));
        }
    }
    found
}

/// What the README names as proof of a promise is there.
fn check_promises(root: &Path, problems: &mut Vec<String>) {
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    let rows = readme.lines().enumerate().skip_while(|(_, line)| *line != "## How each promise is kept");
    let rows = rows.skip(1).take_while(|(_, line)| !line.starts_with("## "));
    for (index, line) in rows.filter(|(_, line)| line.starts_with('|')) {
        let named = line.split('`').skip(1).step_by(2).filter_map(|text| text.split(' ').next());
        for path in named.filter(|text| text.contains('/') && !root.join(text).exists()) {
            problems.push(format!("README.md:{}: there is no {path}", index + 1));
        }
    }
}

/// Each row of the page of services names a test or scenario that is there, or says plainly why there is none.
fn check_services(root: &Path, problems: &mut Vec<String>) {
    let page = fs::read_to_string(root.join("configs/services.md")).unwrap_or_default();
    for (index, line) in page.lines().enumerate() {
        let Some((_, proof)) = line.trim_matches('|').split_once(" | ") else { continue };
        let mut complain = |what: String| problems.push(format!("configs/services.md:{}: {what}", index + 1));
        let named = proof.split('`').skip(1).step_by(2).filter(|text| text.contains('/')).collect::<Vec<_>>();
        for (path, test) in named.iter().map(|text| text.split_once("::").unwrap_or((text, ""))) {
            if path.starts_with('/') {
                continue;
            }
            match fs::read_to_string(root.join(path)) {
                Err(_) => complain(format!("there is no {path}")),
                Ok(text) if !test.is_empty() && !text.contains(&format!("fn {test}(")) => {
                    complain(format!("{path} has no test {test}"));
                }
                Ok(_) => {}
            }
        }
        let said = ["shown by", "not yet: ", "does not apply: ", "the same: "];
        if named.is_empty() && !said.iter().any(|word| proof.trim_start().starts_with(word)) {
            complain("a row names what shows it, or says why nothing does".to_owned());
        }
    }
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" && name != "corpus" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn check_file(root: &Path, path: &Path, problems: &mut Vec<String>) {
    let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
    let Ok(text) = fs::read_to_string(path) else {
        problems.push(format!("{name}:1: not readable as UTF-8"));
        return;
    };
    if !text.starts_with("//!") {
        problems.push(format!("{name}:1: open the file with `//!` and what it answers"));
    }
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    if BANNED_NAMES.contains(&stem) {
        problems.push(format!("{name}:1: a file named `{stem}` says nothing; name it for what it holds"));
    }
    check_size(&name, &text, problems);
    if name.starts_with("scripts/tidy/") {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        let code = line.split("//").next().unwrap_or_default();
        if (code.contains("allow(unsafe_code") || code.contains("expect(unsafe_code"))
            && !UNSAFE_HOMES.iter().any(|home| name.starts_with(home))
        {
            problems.push(format!("{name}:{at}: unsafe lives in {}", UNSAFE_HOMES.join(", ")));
        }
        for macro_name in ["todo!(", "unimplemented!("] {
            if code.contains(macro_name) {
                problems.push(format!("{name}:{at}: unfinished code ({macro_name})"));
            }
        }
        if code.contains("#[ignore") {
            problems.push(format!("{name}:{at}: a test that does not run"));
        }
    }
}

fn check_size(name: &str, text: &str, problems: &mut Vec<String>) {
    let product =
        text.lines().position(|l| l.trim() == "#[cfg(test)]").unwrap_or_else(|| text.lines().count());
    let excused = text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains("Longer than"));
    if product > MAX_LINES && !excused && !name.contains("/tests") {
        problems.push(format!(
            "{name}:{MAX_LINES}: {product} lines; split it or say `Longer than … because` in its doc"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dependencies_table_counts() {
        let manifest = "[dependencies]\nsluice-core.workspace = true\nserde = \"1\"\n[dev-dependencies]\nsluice-run.workspace = true\n";
        assert_eq!(own_dependencies(manifest), vec![(2, "sluice-core".to_owned())]);
    }

    #[test]
    fn long_files_need_a_reason() {
        let mut problems = Vec::new();
        check_size("a.rs", &"x\n".repeat(601), &mut problems);
        assert_eq!(problems.len(), 1);
        check_size(
            "a.rs",
            &format!("//! Longer than 600 lines: a table.\n{}", "x\n".repeat(601)),
            &mut problems,
        );
        check_size(
            "a.rs",
            &format!("{}#[cfg(test)]\n{}", "x\n".repeat(10), "y\n".repeat(900)),
            &mut problems,
        );
        assert_eq!(problems.len(), 1);
    }
}
