//! `sluice-bench`: what a packet costs, and what the tables behind it cost, measured so that the figures can be believed.

mod alloc;
mod args;
mod clock;
mod pages;
mod path;
mod random;
mod tables;
mod traffic;
mod world;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static COUNTING: alloc::Counting = alloc::Counting;

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    pages::ask_for_huge_ones();
    let outcome = match args::Args::parse().command {
        args::Command::Path(args) => path::run(&args),
        args::Command::Tables(args) => tables::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
