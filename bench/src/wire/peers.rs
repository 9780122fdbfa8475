//! Whom we measure: each peer makes a gateway out of a lane, and holds it as long as it lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::lab::{Lane, SERVERS};
use super::rules::{self, Services};
use super::trial::inside;
use crate::args::Peer;

/// How much a gateway has place for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// `workers.ring` and `flows.max`.
    pub ring: u32,
    pub flows: u32,
}

impl Room {
    /// What a gateway has if its file does not say.
    pub(crate) const DEFAULT: Self = Self { ring: 2048, flows: 1_000_000 };
}

/// A peer at work in its lane.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub peer: Peer,
    /// From the start of the set-up until everything was in force, Maglev rows excepted.
    pub ready_seconds: f64,
    children: Vec<Child>,
    folder: Option<PathBuf>,
    room: Room,
    // Last: what runs in it goes first.
    pub lane: Lane,
}

impl Gateway {
    pub(crate) fn start(
        peer: Peer,
        number: usize,
        services: Services,
        core: usize,
        room: Room,
    ) -> anyhow::Result<Self> {
        let lane = Lane::build(number, peer.name())?;
        let mut gateway = Self { peer, ready_seconds: 0.0, children: Vec::new(), folder: None, room, lane };
        let (seconds, made) = crate::clock::time(|| gateway.make(services, core));
        made.with_context(|| format!("cannot set up {}", peer.name()))?;
        gateway.ready_seconds = seconds / 1e9;
        gateway.settle()?;
        Ok(gateway)
    }

    fn make(&mut self, services: Services, core: usize) -> anyhow::Result<()> {
        match self.peer {
            Peer::Sluice => self.sluice(services, core),
            Peer::L2fwd => self.l2fwd(core),
            Peer::XskRs => self.xsk_rs(core),
            Peer::Kernel => self.kernel(),
            Peer::Nftables => {
                self.kernel()?;
                self.lane.feed("nft", &["-f", "-"], &rules::nftables(services))
            }
            Peer::Iptables => {
                self.kernel()?;
                self.lane.feed("iptables-legacy-restore", &[], &rules::iptables(services))
            }
        }
    }

    /// The kernel forwards. A program in front that passes everything lets its device take the generator's packets.
    fn kernel(&mut self) -> anyhow::Result<()> {
        self.lane.shell(
            &self.lane.gateway,
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
             && for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
        )?;
        let front = self.lane.front.clone();
        self.own(&["pass", &front])
    }

    fn l2fwd(&mut self, core: usize) -> anyhow::Result<()> {
        let (front, back, core) = (self.lane.front.clone(), self.lane.back.clone(), core.to_string());
        let ring = self.room.ring.to_string();
        self.own(&["l2fwd", &front, &back, "--core", &core, "--ring", &ring, "--end-with-input"])
    }

    fn xsk_rs(&mut self, core: usize) -> anyhow::Result<()> {
        let (front, back, core) = (self.lane.front.clone(), self.lane.back.clone(), core.to_string());
        let twin = std::env::current_exe()?.with_file_name("sluice-xsk-twin");
        self.helper(&twin, &[&front, &back, "--core", &core])
    }

    /// Another command of this program.
    fn own(&mut self, args: &[&str]) -> anyhow::Result<()> {
        self.helper(&std::env::current_exe()?, args)
    }

    /// A program in the gateway's namespace; it ends when its input does.
    fn helper(&mut self, program: &Path, args: &[&str]) -> anyhow::Result<()> {
        let child = inside(&self.lane.gateway, program)
            .args(args)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        self.children.push(child);
        std::thread::sleep(Duration::from_millis(500));
        if let Some(Ok(Some(status))) = self.children.last_mut().map(Child::try_wait) {
            bail!("`{} {}` ended: {status}", program.display(), args.join(" "));
        }
        Ok(())
    }

    /// The product, both daemons, as people run it.
    fn sluice(&mut self, services: Services, core: usize) -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(&self.lane.gateway);
        fs::create_dir_all(folder.join("objects"))?;
        self.folder = Some(folder.clone());
        fs::write(folder.join("objects/services.yaml"), rules::objects(services))?;
        let config = folder.join("gateway.yaml");
        fs::write(&config, self.config(&folder.display().to_string(), core))?;
        let program = sluice()?;
        let log = fs::File::create(folder.join("log"))?;
        let child = inside(&self.lane.gateway, &program)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {} (build it beside this program)", program.display()))?;
        self.children.push(child);
        self.wait_until_ready(services.count)
    }

    fn config(&self, folder: &str, core: usize) -> String {
        let Lane { front, back, gateway, .. } = &self.lane;
        let Room { ring, flows } = self.room;
        format!(
            "apiVersion: sluice.dev/v1\nkind: Gateway\nmetadata: {{name: {gateway}}}\nspec:\n  node: bench\n  \
             objects: {{files: [{folder}/objects/]}}\n  interfaces:\n    - {{name: {front}}}\n    - {{name: {back}}}\n  \
             workers: {{cores: [{core}], ring: {ring}}}\n  guard: {{prefixes: [{SERVERS}], onFailure: drop}}\n  services: {{bpf-lb-external-clusterip: true}}\n  flows: {{max: {flows}}}\n  \
             api: {{socket: {folder}/control.sock, metrics: \"127.0.0.1:9965\"}}\n"
        )
    }

    /// Ready is when every service is in the dataplane's tables.
    fn wait_until_ready(&mut self, services: u32) -> anyhow::Result<()> {
        self.wait_for("ready", |status| in_force(status, services))
    }

    /// Rows of Maglev tables follow in idle time. They are waited for: what is measured is a gateway at work, not its start.
    fn settle(&mut self) -> anyhow::Result<()> {
        if self.peer != Peer::Sluice {
            return Ok(());
        }
        self.wait_for("done with its Maglev rows", |status| {
            status.pointer("/dataplane/tables/maglev_rows_pending").is_some_and(|rows| rows == 0)
        })
    }

    /// What the gateway says of itself.
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        let folder = self.folder.as_deref().context("a gateway without a folder")?;
        let mut ask = Command::new(sluice()?);
        let asked =
            ask.args(["status", "-o", "json", "--socket"]).arg(folder.join("control.sock")).output()?;
        serde_json::from_slice(&asked.stdout).context("no status")
    }

    /// Of each process that the gateway is made of: its name, and the most memory that it ever had, in bytes.
    pub(crate) fn peaks(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let peak = |process: PathBuf| {
            let status = fs::read_to_string(process.join("status")).ok()?;
            let peak = field(&status, "VmHWM:")?.trim_end_matches(" kB").parse::<u64>().ok()?;
            Some((field(&status, "Name:")?, peak << 10))
        };
        let mut peaks: Vec<_> = self.processes()?.into_iter().filter_map(peak).collect();
        peaks.sort_unstable();
        Ok(peaks)
    }

    /// Of each thread that the gateway is made of: its name, and for how long it could have run but had no core, in nanoseconds.
    pub(crate) fn waits(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let wait = |thread: fs::DirEntry| {
            let name = fs::read_to_string(thread.path().join("comm")).ok()?;
            let said = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((name.trim().to_owned(), said.split(' ').nth(1)?.parse().ok()?))
        };
        let threads = self.processes()?.into_iter().flat_map(|process| fs::read_dir(process.join("task")));
        Ok(threads.flatten().flatten().filter_map(wait).collect())
    }

    /// The folders in /proc of the gateway's processes.
    fn processes(&self) -> anyhow::Result<Vec<PathBuf>> {
        let above = self.children.last().context("a gateway without processes")?.id().to_string();
        let ours = |process: &PathBuf| {
            let status = fs::read_to_string(process.join("status")).unwrap_or_default();
            field(&status, "Pid:").as_ref() == Some(&above)
                || field(&status, "PPid:").as_ref() == Some(&above)
        };
        Ok(fs::read_dir("/proc")?.flatten().map(|entry| entry.path()).filter(ours).collect())
    }

    /// Ask the gateway for its status until it is as wanted.
    fn wait_for(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        let folder = self.folder.as_deref().context("a gateway without a folder")?;
        let socket = folder.join("control.sock");
        let program = sluice()?;
        let limit = deadline(60);
        while !past(limit) {
            if let Some(Ok(Some(status))) = self.children.last_mut().map(Child::try_wait) {
                bail!("`sluice run` ended: {status}\n{}", self.log());
            }
            let asked =
                Command::new(&program).args(["status", "-o", "json", "--socket"]).arg(&socket).output()?;
            if asked.status.success()
                && serde_json::from_slice(&asked.stdout).is_ok_and(|status| is_so(&status))
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the gateway was not {what} within a minute\n{}", self.log())
    }

    /// What the gateway said.
    fn log(&self) -> String {
        let folder = self.folder.clone().unwrap_or_default();
        fs::read_to_string(folder.join("log")).unwrap_or_default()
    }
}

/// A line of a file in /proc.
fn field(status: &str, key: &str) -> Option<String> {
    status.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()))
}

/// The product, built beside this program.
fn sluice() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("sluice"))
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn deadline(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn past(deadline: Instant) -> bool {
    Instant::now() > deadline
}

/// Does the dataplane hold all services, with its program on every device?
fn in_force(status: &Value, services: u32) -> bool {
    let held = status.pointer("/dataplane/tables/services").and_then(Value::as_u64);
    let devices = status.pointer("/dataplane/devices").and_then(Value::as_array);
    let attached = devices.is_some_and(|devices| {
        devices.iter().all(|device| matches!(device["mode"].as_str(), Some("native" | "generic")))
    });
    attached && held.is_some_and(|held| held >= services.into())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Ours end with their input and take down what they put up; the gateway does on a signal.
            if child.stdin.take().is_none() {
                let id = child.id().to_string();
                drop(Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status());
            }
            drop(child.wait());
        }
        if let Some(folder) = &self.folder {
            drop(fs::remove_dir_all(folder));
        }
    }
}
