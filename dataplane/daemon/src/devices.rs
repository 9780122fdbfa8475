//! Devices as they come and go: each that is there has the XDP program on it and a socket of every worker.

use std::path::Path;

use anyhow::{Context, Result};
use sluice_feed::settings::{AttachMode, DataplaneSettings};
use sluice_steer::{OnFailure, Steer};

use crate::steering::Rules;
use crate::workers::Running;

/// One device by its name in the settings.
#[derive(Debug)]
struct Device {
    name: String,
    native_only: bool,
    steer: Option<Steer>,
    /// The interface that the workers' sockets are on. A device that is made anew has another number.
    sockets_on: Option<u32>,
    /// What was said of it last, so that it is not said twice a second.
    said: String,
}

#[derive(Debug)]
pub struct Devices {
    all: Vec<Device>,
    pins: std::path::PathBuf,
    on_failure: OnFailure,
}

impl Devices {
    /// `there` are the interfaces that the workers have just opened their sockets on.
    pub fn new(settings: &DataplaneSettings, there: &[Option<u32>]) -> Self {
        let device = |(interface, there): (&sluice_feed::settings::Interface, &Option<u32>)| Device {
            name: interface.name.clone(),
            native_only: interface.mode == AttachMode::Native,
            steer: None,
            sockets_on: *there,
            said: String::new(),
        };
        Self {
            all: settings.interfaces.iter().zip(there).map(device).collect(),
            pins: settings.pins.clone(),
            on_failure: if settings.on_failure_pass { OnFailure::Pass } else { OnFailure::Drop },
        }
    }

    /// Put the program on every device that is there; what stands against it is an error.
    pub fn attach_all(&mut self, there: &[Option<u32>], workers: &[Running], rules: &Rules) -> Result<()> {
        for index in 0..self.all.len() {
            if there.get(index).is_some_and(Option::is_some) {
                if let Err(error) = self.attach(index, workers, rules) {
                    for steer in self.all.iter_mut().filter_map(|device| device.steer.take()) {
                        steer.abandon()?;
                    }
                    return Err(error);
                }
            } else {
                self.say(index, "is not there; waiting for it");
            }
        }
        Ok(())
    }

    /// Follow what came and went since the last look.
    pub fn follow(&mut self, there: &[Option<u32>], workers: &mut [Running], rules: &Rules) {
        for (index, there) in there.iter().enumerate().take(self.all.len()) {
            let device = &self.all[index];
            if device.sockets_on.is_some() && device.sockets_on != *there {
                self.leave(index, workers);
            }
            if let Some(interface) = *there
                && self.all[index].steer.is_none()
                && let Err(error) = self.enter(index, interface, workers, rules)
            {
                self.say(index, &format!("{error:#}"));
            }
        }
    }

    fn leave(&mut self, index: usize, workers: &mut [Running]) {
        self.say(index, "is gone");
        let device = &mut self.all[index];
        device.sockets_on = None;
        if let Some(steer) = device.steer.take()
            && let Err(error) = steer.detach()
        {
            tracing::warn!("{}: {error}", device.name);
        }
        for worker in workers {
            worker.close(index);
        }
    }

    fn enter(&mut self, index: usize, interface: u32, workers: &mut [Running], rules: &Rules) -> Result<()> {
        if self.all[index].sockets_on.is_none() {
            for worker in workers.iter_mut() {
                worker.reopen(index)?;
            }
            self.all[index].sockets_on = Some(interface);
        }
        self.attach(index, workers, rules)
    }

    fn attach(&mut self, index: usize, workers: &[Running], rules: &Rules) -> Result<()> {
        ensure_bpf_fs(&self.pins)?;
        let device = &mut self.all[index];
        let mut steer = Steer::open(&device.name, &self.pins, self.on_failure)?;
        for (name, queue, socket) in workers.iter().flat_map(Running::sockets) {
            if name == device.name {
                steer.register(queue, socket)?;
            }
        }
        // What an earlier process left stays ours until control says otherwise.
        if !rules.prefixes.is_empty() {
            steer.set_rules(&rules.prefixes)?;
            steer.set_ports(&rules.ports)?;
        }
        if let Err(error) = steer.attach(device.native_only) {
            steer.abandon()?;
            return Err(error.into());
        }
        let (mode, reason) = steer.mode();
        match reason {
            None => tracing::info!("{}: {} XDP", device.name, mode.name()),
            Some(reason) => tracing::warn!("{}: {} XDP, because {reason}", device.name, mode.name()),
        }
        device.said.clear();
        device.steer = Some(steer);
        Ok(())
    }

    fn say(&mut self, index: usize, what: &str) {
        let device = &mut self.all[index];
        if device.said != what {
            what.clone_into(&mut device.said);
            tracing::warn!("{}: {what}", device.name);
        }
    }

    /// These are the rules from now on.
    pub fn set_rules(&mut self, rules: &Rules) {
        for steer in self.all.iter_mut().filter_map(|device| device.steer.as_mut()) {
            let set = steer.set_rules(&rules.prefixes).and_then(|()| steer.set_ports(&rules.ports));
            if let Err(error) = set {
                tracing::error!("{}: {error}", steer.interface());
            }
        }
    }

    /// Names, and the programs that are on them.
    pub fn programs(&self) -> impl Iterator<Item = (&str, Option<&Steer>)> {
        self.all.iter().map(|device| (device.name.as_str(), device.steer.as_ref()))
    }

    /// Take the programs off in order.
    pub fn detach_all(&mut self) {
        for steer in self.all.iter_mut().filter_map(|device| device.steer.take()) {
            if let Err(error) = steer.detach() {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Bare machines have /sys/fs/bpf, but nothing mounted there.
fn ensure_bpf_fs(pins: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let root = Path::new("/sys/fs/bpf");
    if !pins.starts_with(root) || mounts.lines().any(|line| line.split(' ').nth(1) == root.to_str()) {
        return Ok(());
    }
    let status = std::process::Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status();
    let mounted = status.context("cannot run mount")?.success();
    anyhow::ensure!(
        mounted,
        "no BPF file system at {}; mount it: mount -t bpf bpf /sys/fs/bpf",
        root.display()
    );
    Ok(())
}
