//! `sluice`: the command that people type. Turns what was typed into one call, and errors into exit codes.

mod args;
mod client;
mod demo;
mod live;
mod manual;
mod observe;
mod offline;
mod output;
mod replay;
mod run;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use args::{Cli, Command, ConfigCommand};
use client::Client;

/// What a command found, in the habit of grep and diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or yes.
    Yes,
    /// Invalid, denied, differs.
    No,
    /// Some of it could not be done; what and why was said.
    Partly,
}

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Partly) => ExitCode::from(2),
        Err(error) => {
            output::complain(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<Answer> {
    let client = Client::new(&cli.socket);
    let done = |result: Result<()>| result.map(|()| Answer::Yes);
    match &cli.command {
        Command::Demo(args) => done(demo::demo(args)),
        Command::DemoBackend { name, port } => done(demo::backend::serve(name, *port)),
        Command::Run(args) => done(run::run(args)),
        Command::Check(args) => offline::check(args),
        Command::Verdict(args) => offline::verdict(args),
        Command::Explain(args) => offline::explain(args),
        Command::Diff(args) => offline::diff(args),
        Command::Dump(args) => done(offline::dump(args)),
        Command::Replay(args) => done(replay::replay(args)),
        Command::Status(args) => done(live::status(&client, args.output)),
        Command::Services(args) => live::list(&client, "services", args.which.as_deref(), args.output),
        Command::Policies(args) => live::list(&client, "policies", args.which.as_deref(), args.output),
        Command::Identities(args) => live::list(&client, "identities", args.which.as_deref(), args.output),
        Command::Endpoints(args) => live::list(&client, "endpoints", args.which.as_deref(), args.output),
        Command::Names(args) => live::list(&client, "names", args.which.as_deref(), args.output),
        Command::Nat(args) => live::list(&client, "nat", None, args.output),
        Command::Flows(args) => done(live::flows(&client, args)),
        Command::Observe(args) => done(observe::observe(&client, args)),
        Command::Trace(args) => done(watch::trace(&client, args)),
        Command::Capture(args) => done(watch::capture(&client, args)),
        Command::Metrics => done(live::metrics(&client)),
        Command::Completions { shell } => done(manual::completions(*shell)),
        Command::Man { folder } => done(manual::pages(folder).and_then(|()| manual::daemons(folder))),
        Command::Config(args) => match &args.what {
            ConfigCommand::Schema { kind } => done(offline::config_schema(kind.as_deref())),
            ConfigCommand::Show { file } => done(offline::config_show(file)),
            ConfigCommand::Options => done(offline::config_options()),
            ConfigCommand::Dataplane { file } => done(offline::config_dataplane(file)),
        },
    }
}
