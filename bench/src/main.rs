//! `sluice-bench`: what a packet costs, and what the tables behind it cost, measured so that the figures can be believed.

mod alloc;
mod args;
mod attack;
mod clock;
mod count;
mod machine;
mod page;
mod pages;
mod path;
mod random;
mod stop;
mod tables;
mod traffic;
mod wire;
mod world;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static COUNTING: alloc::Counting = alloc::Counting;

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let outcome = match args::Args::parse().command {
        args::Command::Path(args) => path::run(&args),
        args::Command::Count(args) => count::run(&args),
        args::Command::Tables(args) => tables::run(&args),
        args::Command::Veth(args) => wire::veth::run(&args),
        args::Command::Memory(args) => wire::memory::run(&args),
        args::Command::Rfc2544(args) => wire::rfc2544::run(&args),
        args::Command::Blast(args) => wire::blast::run(&args),
        args::Command::Sink(args) => wire::sink::run(&args),
        args::Command::L2fwd(args) => wire::l2fwd::run(&args),
        args::Command::Generate => wire::generator::serve(),
        args::Command::Trials { sink } => wire::trial::serve(&sink),
        args::Command::Pass { interface } => wire::sink::pass(&interface),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
