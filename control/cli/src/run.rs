//! `sluice run`: both daemons under one supervisor. Each is started again when it dies; traffic goes on without control,
//! and what is guarded stays dropped without the dataplane. SIGTERM and SIGINT stop both in order, SIGHUP is passed on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::Run;
use crate::offline;

/// A daemon that dies this soon after its start is restarted more slowly each time.
const SETTLED: Duration = Duration::from_secs(10);
const SLOWEST_RESTART: Duration = Duration::from_secs(5);
/// How long the daemons may take to stop in order.
const GRACE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(50);

/// One daemon: how to start it, and how it fares.
struct Daemon {
    name: &'static str,
    command: Vec<PathBuf>,
    child: Option<Child>,
    started: Instant,
    wait: Duration,
}

pub fn run(args: &Run) -> Result<()> {
    let signals = &mut Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot take signals")?;
    let settings = write_settings(&args.config)?;
    let mut daemons = [
        Daemon::new("sluiced", vec![sibling("sluiced")?, "--settings".into(), settings.clone()]),
        Daemon::new(
            "sluice-control",
            vec![sibling("sluice-control")?, "--config".into(), args.config.clone()],
        ),
    ];
    supervise(&mut daemons, signals, &args.config)
}

/// Keep them running until somebody says stop, or one cannot be started. None outlives this.
fn supervise(daemons: &mut [Daemon], signals: &mut Signals, config: &Path) -> Result<()> {
    let kept = keep(daemons, signals, config);
    // Control first: it has nothing that must be taken down, and the dataplane then stops undisturbed.
    let stopped: Vec<Result<()>> = daemons.iter_mut().rev().map(Daemon::stop).collect();
    std::iter::once(kept).chain(stopped).collect()
}

fn keep(daemons: &mut [Daemon], signals: &mut Signals, config: &Path) -> Result<()> {
    loop {
        for daemon in &mut *daemons {
            daemon.keep()?;
        }
        for signal in signals.pending() {
            if signal != SIGHUP {
                return Ok(());
            }
            write_settings(config).map_or_else(|error| say(&format!("not reloaded: {error:#}")), drop);
            daemons.iter().for_each(|daemon| daemon.signal("HUP"));
        }
        std::thread::sleep(TICK);
    }
}

/// The dataplane reads no Kubernetes-shaped files: write down what it needs, next to its socket.
fn write_settings(config: &Path) -> Result<PathBuf> {
    let (settings, file) = offline::dataplane_settings(config)?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&file, settings).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// A program of ours next to this one, or on the PATH.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the folder of this program")?;
    let near = own.with_file_name(name);
    if near.exists() {
        return Ok(near);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists())
    else {
        bail!("{name} is neither beside {} nor on the PATH; install it there", own.display());
    };
    Ok(found)
}

#[expect(clippy::print_stderr, reason = "the supervisor's log is its standard error")]
fn say(text: &str) {
    eprintln!("sluice run: {text}");
}

#[expect(clippy::disallowed_methods, reason = "a supervisor waits in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Daemon {
    fn new(name: &'static str, command: Vec<PathBuf>) -> Self {
        Self { name, command, child: None, started: now(), wait: Duration::ZERO }
    }

    /// Start it if it does not run; notice when it ended.
    fn keep(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            let Some(status) = child.try_wait().with_context(|| format!("cannot watch {}", self.name))?
            else {
                return Ok(());
            };
            // Its number may be somebody else's from now on.
            self.child = None;
            // 2 is "could not do it": a wrong file or a foreign program on the device. Another try would not help.
            if status.code() == Some(2) && self.started.elapsed() < SETTLED {
                bail!("{} could not start; its message is above", self.name);
            }
            self.wait = match self.started.elapsed() < SETTLED {
                true => (self.wait * 2).clamp(Duration::from_millis(100), SLOWEST_RESTART),
                false => Duration::ZERO,
            };
            say(&format!("{} ended ({status}); starting it again in {:?}", self.name, self.wait));
            self.started = now();
        }
        if self.started.elapsed() >= self.wait {
            let (program, arguments) = self.command.split_first().context("no program")?;
            let child = Command::new(program).args(arguments).spawn();
            self.child = Some(child.with_context(|| format!("cannot start {}", program.display()))?);
            self.started = now();
        }
        Ok(())
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            drop(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status());
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.signal("TERM");
        let asked = now();
        if let Some(mut child) = self.child.take() {
            while asked.elapsed() < GRACE {
                if child.try_wait()?.is_some() {
                    return Ok(());
                }
                std::thread::sleep(TICK);
            }
            say(&format!("{} did not stop within {GRACE:?}; ending it", self.name));
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_cannot_start_the_other_is_not_left_behind() {
        let daemon = |script: &str| Daemon::new("one", vec!["sh".into(), "-c".into(), script.into()]);
        let file = std::env::temp_dir().join(format!("sluice-supervisor-{}", std::process::id()));
        let lives = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 60", file.display());
        // It cannot start, once the other one has.
        let wrong = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 2", file.display());
        let mut daemons = [daemon(&lives), daemon(&wrong)];
        let mut signals = Signals::new([SIGHUP]).unwrap();
        let error = supervise(&mut daemons, &mut signals, Path::new("gateway.yaml")).unwrap_err();
        assert!(error.to_string().contains("could not start"), "{error}");
        let pid = fs::read_to_string(&file).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it is still there");
        fs::remove_file(file).unwrap();
    }
}
