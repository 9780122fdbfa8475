//! Manual pages and completion scripts, made from the same definitions as `--help`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};

use crate::args::Cli;
use crate::output;

/// Write sluice.1 and one sluice-COMMAND.1 for each command.
pub fn pages(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut root = Cli::command();
    root.build();
    page(&root, "sluice", folder)?;
    for command in root.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        page(command, &format!("sluice-{}", command.get_name()), folder)?;
    }
    Ok(())
}

/// The daemons' pages, from the daemons themselves.
pub fn daemons(folder: &Path) -> Result<()> {
    for name in ["sluiced", "sluice-control"] {
        let output = crate::run::sibling(name).and_then(|program| {
            std::process::Command::new(&program)
                .arg("--man")
                .output()
                .with_context(|| format!("cannot run {name}"))
        })?;
        let file = folder.join(format!("{name}.8"));
        fs::write(&file, output.stdout).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, folder: &Path) -> Result<()> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut text)?;
    let file = folder.join(format!("{name}.1"));
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    output::line(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page_and_a_sentence() {
        let folder = std::env::temp_dir().join(format!("sluice-man-{}", std::process::id()));
        pages(&folder).unwrap();
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let page = fs::read_to_string(folder.join(format!("sluice-{}.1", command.get_name()))).unwrap();
            let about = command.get_about().unwrap().to_string();
            assert!(
                page.contains(&about.replace('-', "\\-").replace('\'', "\\*(Aq")),
                "{} lacks its sentence",
                command.get_name()
            );
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
