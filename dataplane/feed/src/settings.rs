//! What the dataplane must know before control speaks to it: devices, cores, memory, and where things are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native, or generic where the driver cannot.
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Polling {
    Busy,
    #[default]
    Adaptive,
    Sleep,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub name: String,
    #[serde(default)]
    pub mode: AttachMode,
    #[serde(default = "yes")]
    pub zero_copy: bool,
    /// Answer here for service addresses that the kernel does not own.
    #[serde(default)]
    pub announce: bool,
    /// Tags that are networks of ours on this device.
    #[serde(default)]
    pub vlans: Vec<u16>,
}

/// The whole of it, as a JSON file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataplaneSettings {
    pub interfaces: Vec<Interface>,
    /// One worker each, on its own queue of every device.
    pub workers: u8,
    /// Cores to pin the workers to; empty: the first ones.
    #[serde(default)]
    pub cores: Vec<usize>,
    #[serde(default)]
    pub polling: Polling,
    #[serde(default = "yes")]
    pub huge_pages: bool,
    /// Microseconds of busy polling in the kernel; 0 is off.
    #[serde(default)]
    pub busy_poll: u32,
    /// Descriptors in the rings of each socket, a power of two.
    #[serde(default = "default_ring")]
    pub ring: u32,
    /// Guarded packets that find no worker: dropped, or passed to the kernel.
    #[serde(default)]
    pub on_failure_pass: bool,
    pub max_flows: u32,
    /// Where flows are kept for the next process.
    #[serde(default)]
    pub snapshot: Option<PathBuf>,
    /// Names that are known from the start (`tofqdns-pre-cache`).
    #[serde(default)]
    pub known_names: Option<PathBuf>,
    pub socket: PathBuf,
    /// Folder of pins, on a BPF file system.
    #[serde(default = "default_pins")]
    pub pins: PathBuf,
    /// The device of the kernel that gets the addresses of services with somebody behind them.
    #[serde(default)]
    pub addresses_on: Option<String>,
    /// Prefixes that are ours from the first moment, before control has spoken.
    #[serde(default)]
    pub guarded: Vec<String>,
}

/// What an AF_XDP socket's rings hold if nothing is said.
pub const fn default_ring() -> u32 {
    2048
}

const fn yes() -> bool {
    true
}

fn default_pins() -> PathBuf {
    PathBuf::from("/sys/fs/bpf/sluice")
}
