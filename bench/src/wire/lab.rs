//! A lane: a gateway's namespace between two cables, whose other ends lie in a namespace of ours. Made by name, gone
//! when the value is dropped.

use std::fs;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

use super::trial::inside;

/// One gateway under test, with its own two cables.
#[derive(Debug)]
pub(crate) struct Lane {
    pub name: String,
    /// Namespaces: the gateway's, and the one that traffic comes from and ends in.
    pub gateway: String,
    pub outside: String,
    /// Devices: in front of and behind the gateway, and their far ends.
    pub front: String,
    pub back: String,
    pub from: String,
    pub to: String,
}

/// The gateway's address in front, and the next hop behind it.
pub(crate) const FRONT: &str = "10.0.0.1/8";
pub(crate) const BACK: &str = "172.31.255.1/16";
pub(crate) const HOP: &str = "172.31.255.2";
pub(crate) const FRONT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BACK_MAC: &str = "02:00:00:00:00:02";
const HOP_MAC: &str = "02:00:00:00:00:03";
/// Where servers are.
pub(crate) const SERVERS: &str = "10.244.0.0/16";

impl Lane {
    pub(crate) fn build(number: usize, name: &str) -> anyhow::Result<Self> {
        let process = std::process::id();
        let device = |end: &str| format!("sb{number}{end}{process}");
        let lane = Self {
            name: name.to_owned(),
            gateway: format!("sl-rig-{process}-{number}-gateway"),
            outside: format!("sl-rig-{process}-{number}-outside"),
            front: device("f"),
            back: device("b"),
            from: device("g"),
            to: device("s"),
        };
        lane.lay()
            .with_context(|| format!("cannot lay the cables of {name} (root, ip, ethtool, nsenter)"))?;
        Ok(lane)
    }

    fn lay(&self) -> anyhow::Result<()> {
        for namespace in [&self.gateway, &self.outside] {
            ip(&["netns", "add", namespace])?;
            self.shell(namespace, "ip link set lo up && sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1")?;
        }
        for (near, far) in [(&self.front, &self.from), (&self.back, &self.to)] {
            let gateway = ["-n", &self.gateway, "link", "add", near, "type", "veth"];
            ip(&[&gateway[..], &["peer", "name", far, "netns", &self.outside]].concat())?;
            let features = "tx off tso off gso off gro off";
            self.shell(&self.gateway, &format!("ethtool -K {near} {features}"))?;
            self.shell(&self.outside, &format!("ethtool -K {far} {features}"))?;
        }
        let front_mac = FRONT_MAC.map(|byte| format!("{byte:02x}")).join(":");
        self.shell(
            &self.gateway,
            &format!(
                "ip link set {f} address {front_mac} up && ip link set {b} address {BACK_MAC} up \
                 && ip address add {FRONT} dev {f} && ip address add {BACK} dev {b} \
                 && ip neighbour add {HOP} lladdr {HOP_MAC} dev {b} nud permanent \
                 && ip route add {SERVERS} via {HOP} && ip route add 10.96.0.0/12 via {HOP}",
                f = self.front,
                b = self.back
            ),
        )?;
        self.shell(
            &self.outside,
            &format!("ip link set {} up && ip link set {} address {HOP_MAC} up", self.from, self.to),
        )
    }

    /// Have a device's packets handled by a kernel thread of its own on this core, not on the core that sent them. Beside the
    /// generator it has to be as urgent as a NIC's interrupt: behind the scheduler's slices of milliseconds its ring of 256
    /// overflows at any rate. Beside a gateway that would leave the gateway no time.
    pub(crate) fn threaded(
        &self,
        namespace: &str,
        device: &str,
        core: usize,
        urgent: bool,
    ) -> anyhow::Result<()> {
        // A sysfs of the namespace's own, as `ip netns exec` mounts it.
        // A device has such a thread only once there is an XDP program on it: wait for that.
        let once = format!("echo 1 2>&- > /sys/class/net/{device}/threaded");
        let set = format!("for n in $(seq 100); do {once} && exit 0; sleep 0.1; done; exit 1");
        run(Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", &set]))?;
        for process in fs::read_dir("/proc")?.flatten() {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            // The kernel cuts names at 15 bytes.
            let wanted = format!("napi/{device}-");
            if name.trim().starts_with(wanted.get(..15).unwrap_or(&wanted)) {
                let id = process.file_name().to_string_lossy().into_owned();
                run(Command::new("taskset").args(["-p", "-c", &core.to_string(), &id]))?;
                if urgent {
                    run(Command::new("chrt").args(["--fifo", "-p", "50", &id]))?;
                }
            }
        }
        Ok(())
    }

    /// A cable that is full tells AF_XDP to wait, as a NIC does: a virtual device with a queueing discipline does that (since Linux
    /// 6.16), one without throws the packet away. AF_XDP goes past the discipline itself. The kernel's own ways would pay for it,
    /// so it is not for them.
    pub(crate) fn full_means_wait(&self) -> anyhow::Result<()> {
        self.shell(&self.gateway, &format!("tc qdisc replace dev {} root pfifo limit 1000", self.back))
    }

    pub(crate) fn shell(&self, namespace: &str, script: &str) -> anyhow::Result<()> {
        run(inside(namespace, "sh".as_ref()).args(["-ec", script])).map(drop)
    }

    /// Feed a program of the gateway's namespace.
    pub(crate) fn feed(&self, program: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
        let file = std::env::temp_dir().join(format!("{}-{program}", self.gateway));
        fs::write(&file, input)?;
        let fed = run(inside(&self.gateway, program.as_ref()).args(args).stdin(fs::File::open(&file)?));
        fs::remove_file(&file)?;
        fed.map(drop)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.outside] {
            drop(Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status());
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}
