//! Do help, manual pages, completions and README tell of the same commands?
#![expect(clippy::unwrap_used, reason = "what does not hold here fails the test")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

/// The commands that `sluice --help` lists.
fn listed() -> BTreeSet<String> {
    let help = String::from_utf8(sluice(&["--help"]).stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_readme_tells_of_every_command_and_of_no_other() {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let code = |line: &str| -> Vec<String> {
        let pieces = line.split('`').skip(1).step_by(2).map(str::to_owned);
        if line.starts_with("sluice ") { vec![line.to_owned()] } else { pieces.collect() }
    };
    let told: BTreeSet<String> = readme
        .lines()
        .flat_map(code)
        .filter_map(|text| {
            text.strip_prefix("sluice ").and_then(|rest| rest.split_whitespace().next()).map(str::to_owned)
        })
        .collect();
    assert_eq!(told, listed());
}

#[test]
fn every_shell_takes_the_completions() {
    for (shell, check) in [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["-n"])] {
        let script = sluice(&["completions", shell]);
        assert!(script.status.success(), "{shell}");
        let text = String::from_utf8(script.stdout).unwrap();
        for command in listed() {
            assert!(text.contains(&command), "{shell} does not complete {command}");
        }
        let Ok(mut child) = Command::new(shell).args(check).stdin(Stdio::piped()).spawn() else {
            eprintln!("{shell} is not installed: its script is not checked");
            continue;
        };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell} does not take its script");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in listed() {
        let help = sluice(&[&command, "--help"]);
        assert!(help.status.success() && !help.stdout.is_empty(), "{command}");
    }
}
