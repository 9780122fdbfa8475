//! A lab of network namespaces: made by name, found by name, and gone when the value is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One host of the lab: its name and its addresses with prefix lengths.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub name: &'static str,
    pub addresses: [&'static str; 2],
}

/// Hosts that hang on one switch, with the gateway's own leg into it.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub name: &'static str,
    /// Name of the gateway's device in this segment.
    pub device: &'static str,
    pub gateway: [&'static str; 2],
    pub hosts: &'static [Host],
}

/// Everything that was made and must go away again.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    namespaces: Vec<String>,
    children: Vec<Child>,
    /// Files of this lab: configuration, sockets, logs.
    pub dir: PathBuf,
}

impl Lab {
    /// Build namespaces for the gateway, and per segment a switch (a bridge) with its hosts.
    pub fn build(segments: &[Segment]) -> Result<Self> {
        let prefix = format!("sluice-demo-{}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut lab = Self { prefix, namespaces: Vec::new(), children: Vec::new(), dir };
        lab.namespace("gateway")?;
        for segment in segments {
            lab.segment(segment)?;
        }
        // The kernel forwards nothing here: what crosses the gateway crossed Sluice.
        lab.sysctl("gateway", "net.ipv4.ip_forward=0")?;
        Ok(lab)
    }

    fn segment(&mut self, segment: &Segment) -> Result<()> {
        self.namespace(segment.name)?;
        let switch = self.full(segment.name);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        self.cable(segment.name, "gateway", segment.device, "gw", segment.gateway)?;
        for host in segment.hosts {
            self.namespace(host.name)?;
            self.cable(segment.name, host.name, "eth0", host.name, host.addresses)?;
            let namespace = self.full(host.name);
            for (family, gateway) in [("-4", segment.gateway[0]), ("-6", segment.gateway[1])] {
                let via = gateway.split('/').next().unwrap_or_default();
                ip(&[family, "-n", &namespace, "route", "add", "default", "via", via])?;
            }
        }
        Ok(())
    }

    /// A veth pair between `host`'s `device` and a port of the switch. Checksums are filled in by the sender and
    /// frames stay within the MTU, as on a wire: a packet that skips the kernel's stack finds nobody to do it later.
    fn cable(&self, switch: &str, host: &str, device: &str, port: &str, addresses: [&str; 2]) -> Result<()> {
        let (switch, host) = (self.full(switch), self.full(host));
        ip(&["-n", &switch, "link", "add", port, "type", "veth", "peer", "name", device, "netns", &host])?;
        ip(&["-n", &switch, "link", "set", port, "master", "br0", "up"])?;
        for address in addresses {
            let mut add = vec!["-n", host.as_str(), "address", "add", address, "dev", device];
            if address.contains(':') {
                add.push("nodad");
            }
            ip(&add)?;
        }
        ip(&["-n", &host, "link", "set", device, "up"])?;
        for (namespace, name) in [(&switch, port), (&host, device)] {
            let features = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
            run(command_in(namespace, "ethtool").args(["-K", name]).args(features))?;
        }
        Ok(())
    }

    fn namespace(&mut self, name: &str) -> Result<()> {
        let full = self.full(name);
        ip(&["netns", "add", &full])?;
        self.namespaces.push(full.clone());
        self.sysctl(name, "net.ipv6.conf.all.accept_dad=0")?;
        self.sysctl(name, "net.ipv6.conf.default.accept_dad=0")?;
        ip(&["-n", &full, "link", "set", "lo", "up"])
    }

    fn sysctl(&self, host: &str, setting: &str) -> Result<()> {
        run(self.command(host, "sysctl").args(["-qw", setting])).map(drop)
    }

    fn full(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A command that will run on `host`.
    pub fn command(&self, host: &str, program: impl AsRef<Path>) -> Command {
        command_in(&self.full(host), program)
    }

    /// Run something on `host` and wait for it.
    pub fn run(&self, host: &str, program: &str, args: &[&str]) -> Result<Output> {
        self.command(host, program).args(args).output().with_context(|| format!("cannot run {program}"))
    }

    /// Start something on `host` that lives until the lab ends; what it says goes to a file of its name.
    pub fn start(&mut self, host: &str, log: &str, program: impl AsRef<Path>, args: &[&str]) -> Result<u32> {
        let file = fs::File::create(self.log(log))?;
        let mut command = self.command(host, program.as_ref());
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child =
            command.spawn().with_context(|| format!("cannot start {}", program.as_ref().display()))?;
        let id = child.id();
        self.children.push(child);
        Ok(id)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Ask the latest started process to end, and wait: the gateway detaches in order.
    pub fn stop_latest(&mut self) -> Result<()> {
        let Some(mut child) = self.children.pop() else { return Ok(()) };
        end(&mut child);
        Ok(())
    }
}

/// SIGTERM, a grace period, SIGKILL.
fn end(child: &mut Child) {
    let id = child.id().to_string();
    drop(Command::new("kill").args(["-TERM", &id]).output());
    for _ in 0..30 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(child.kill());
    drop(child.wait());
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            end(child);
        }
        for namespace in self.namespaces.iter().rev() {
            drop(Command::new("ip").args(["netns", "delete", namespace]).output());
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Enter only the network namespace: the file system stays the host's, so that what the gateway pins under
/// /sys/fs/bpf outlives the process that pinned it.
fn command_in(namespace: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program.as_ref());
    command
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
