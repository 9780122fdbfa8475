//! What can be typed at `sluice-control`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(
    name = "sluice-control",
    version,
    about = "Control process of the Sluice gateway: watches objects, keeps the dataplane told, answers `sluice`, Hubble's clients and Prometheus",
    after_help = "Signals: HUP reads everything again, TERM and INT stop. Exit codes: 0 stopped, 2 could not start."
)]
pub struct Args {
    /// The gateway's configuration.
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t)]
    pub log: LogForm,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogForm {
    #[default]
    Text,
    Json,
}
