//! `sluiced`: the dataplane daemon. What was typed becomes settings, settings become workers, and errors exit codes.

mod announce;
mod clock;
mod control;
mod devices;
mod health;
mod housekeeping;
mod lent;
mod mirror;
mod names;
mod snapshot;
mod status;
mod steering;
mod watching;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, ValueEnum};
use sluice_feed::settings::DataplaneSettings;
use sluice_feed::steady::Steady;

/// Tables of flows and prefixes are searched in huge pages.
#[global_allocator]
static ALLOCATOR: sluice_xsk::Huge = sluice_xsk::Huge;

#[derive(Debug, Parser)]
#[command(
    name = "sluiced",
    version,
    about = "Dataplane of the Sluice gateway: AF_XDP workers, steering, and a mirror of the kernel's routes",
    after_help = "Signals: TERM and INT detach in order and stop, HUP reads the kernel's tables again.\n\
                  Exit codes: 0 stopped, 2 could not start."
)]
struct Args {
    /// Settings as JSON; `sluice config dataplane FILE` makes them of a gateway's configuration.
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t)]
    log: LogForm,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogForm {
    #[default]
    Text,
    Json,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--man") {
        return manual();
    }
    let args = Args::parse();
    start_log(args.log);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    check_cpu()?;
    let text = std::fs::read_to_string(&args.settings)
        .with_context(|| format!("cannot read the settings {}", args.settings.display()))?;
    let settings: DataplaneSettings = serde_json::from_str(&text)
        .with_context(|| format!("the settings {} are wrong", args.settings.display()))?;
    if !settings.huge_pages {
        sluice_xsk::no_huge_pages();
    }
    housekeeping::Housekeeping::start(settings)?.run()
}

/// The manual page, for `sluice man`; made from what `--help` is made from.
fn manual() -> ExitCode {
    let page = clap_mangen::Man::new(Args::command()).section("8");
    match page.render(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

fn start_log(form: LogForm) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Mutex::new(Steady::new(std::io::stderr())))
        .with_target(false);
    match form {
        LogForm::Text => log.with_ansi(false).init(),
        LogForm::Json => log.json().init(),
    }
}

/// This program may be built for instructions that an old machine lacks: say so, instead of dying of one.
fn check_cpu() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx2", !cfg!(target_feature = "avx2") || std::is_x86_feature_detected!("avx2")),
            ("aes", !cfg!(target_feature = "aes") || std::is_x86_feature_detected!("aes")),
            ("bmi2", !cfg!(target_feature = "bmi2") || std::is_x86_feature_detected!("bmi2")),
        ];
        for (name, there) in has {
            anyhow::ensure!(
                there,
                "this CPU lacks {name}, which this build needs; build with a plain target-cpu"
            );
        }
    }
    Ok(())
}
