//! `sluice-control`: turns what was typed into a running control process, and errors into exit codes.

mod addresses;
mod api;
mod args;
mod events;
mod families;
mod health;
mod history;
mod hubble;
mod kept;
mod link;
mod metrics;
mod reading;
mod reconcile;
mod source;
mod tally;
mod telling;
mod views;
mod watches;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser};
use sluice_feed::steady::Steady;
use sluice_policy::config::{self, Listen};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use args::{Args, LogForm};
use reconcile::Control;
use source::files::{News, Watch};

/// How often what the next process is to know is written down, if it changed.
const KEEP_EVERY: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--man") {
        return manual();
    }
    let args = Args::parse();
    start_log(args.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("cannot start").and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let (gateway, problems) = config::load(&args.config);
    let Some(gateway) = gateway else { bail!("{}", problems.to_string().trim_end()) };
    let (api_socket, metrics) = (gateway.api_socket.clone(), gateway.metrics.clone());
    let mut watch = Watch::start(&gateway.objects)?;
    let control = Arc::new(Control::new(gateway));
    // An invalid set at start is no reason to be silent: the gateway guards with what it has, and says why.
    control.take(News::Everything);
    link::start(Arc::clone(&control));
    let serving = api::serve(Arc::clone(&control), &api_socket, &metrics).await?;
    let hubble = match &control.gateway.hubble {
        Some(listen) => Some(hubble::serve(Arc::clone(&control), listen).await?),
        None => None,
    };
    let probing = tokio::spawn(health::serve(Arc::clone(&control)));
    let (mut terminate, mut interrupt, mut hangup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    let mut keep = tokio::time::interval(KEEP_EVERY);
    loop {
        tokio::select! {
            _ = keep.tick() => control.keep_numbers(),
            news = watch.changed() => control.take(news),
            _ = hangup.recv() => control.take(News::Everything),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    control.keep_numbers();
    serving.abort();
    probing.abort();
    hubble.inspect(JoinHandle::abort);
    for socket in
        [Some(&api_socket), control.gateway.hubble.as_ref().and_then(Listen::path)].into_iter().flatten()
    {
        drop(std::fs::remove_file(socket));
    }
    Ok(())
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
