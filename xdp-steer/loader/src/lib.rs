//! Puts the XDP program on an interface, and its maps into hands that need no BPF.
//!
//! Link and maps are pinned: when the process dies the program stays, finds no sockets any more, and what is guarded is
//! dropped. The next process finds the pins, replaces the program on the live link in one step, and goes on with the same
//! rules, so there is no moment without them.

pub mod attach;
pub mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::programs::xdp::XdpLinkId;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use sluice_steer_abi::layout;

pub use attach::Mode;
use rules::Blocks;
pub use rules::Rule;

static OBJECT: &[u8] = include_bytes_aligned!("steer.o");

type Addresses<M> = HashMap<M, [u32; 4], layout::Block>;
type Prefixes<M> = LpmTrie<M, [u32; 4], u32>;
const OPEN: &str = "open the maps of rules";

/// What to do with packets that are ours when no worker takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    #[default]
    Drop,
    Pass,
}

/// Why steering could not be set up.
#[derive(Debug)]
pub enum Error {
    /// Somebody else's XDP program is on the interface.
    Occupied { interface: String, program: String },
    /// The interface is not there.
    NoInterface(String),
    /// Maps and links have no place to be kept in.
    Pins { folder: PathBuf, source: io::Error },
    /// The kernel said no, in this step.
    Kernel { step: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Occupied { interface, program } => write!(
                f,
                "another XDP program ({program}) is on {interface}; remove it (`ip link set dev {interface} xdp off`, or stop \
                 what put it there) and start again"
            ),
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::Pins { folder, source } => write!(
                f,
                "cannot make {} for maps and links: {source}; mount a BPF file system (`mount -t bpf bpf /sys/fs/bpf`; in `ip netns \
                 exec` there is none, in `nsenter --net=/run/netns/NAME` there is)",
                folder.display()
            ),
            Self::Kernel { step, source } => write!(f, "cannot {step}: {}", chain(source.as_ref())),
        }
    }
}

impl std::error::Error for Error {}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(crate) fn kernel<E>(step: &'static str) -> impl Fn(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Error::Kernel { step, source: Box::new(source) }
}

/// Packets by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub steered: u64,
    pub passed: u64,
    pub failed_closed: u64,
    pub failed_open: u64,
}

/// The program on one interface.
#[derive(Debug)]
pub struct Steer {
    ebpf: Ebpf,
    /// The one of the object's programs that this kernel takes.
    name: &'static str,
    interface: String,
    folder: PathBuf,
    mode: Mode,
    /// Why not native, if it is not.
    reason: Option<String>,
    link: Option<XdpLinkId>,
    /// An earlier process's program was on the interface, and ours took its place.
    took_over: bool,
    rules: BTreeMap<Rule, u32>,
    /// Bits of the ports that are ours, as the map has them; empty: not known yet.
    ports: Vec<u32>,
}

impl Steer {
    /// Load the program for an interface, on top of what an earlier process left pinned. It is not attached yet.
    pub fn open(interface: &str, pins: &Path, on_failure: OnFailure) -> Result<Self, Error> {
        let folder = pins.join(interface);
        fs::create_dir_all(&folder).map_err(|source| Error::Pins { folder: folder.clone(), source })?;
        let (ebpf, name) = match load(&folder) {
            Ok(loaded) => loaded,
            // Maps of another version do not fit: begin anew. The old program stays until ours takes the link over.
            Err(_) => {
                remove_maps(&folder);
                load(&folder).map_err(kernel("load the XDP program"))?
            }
        };
        let mut steer = Self {
            ebpf,
            name,
            interface: interface.to_owned(),
            folder,
            mode: Mode::Detached,
            reason: None,
            link: None,
            took_over: false,
            rules: BTreeMap::new(),
            ports: Vec::new(),
        };
        steer.rules = steer.read_rules()?;
        let word = match on_failure {
            OnFailure::Drop => layout::ON_FAILURE_DROP,
            OnFailure::Pass => layout::ON_FAILURE_PASS,
        };
        steer.set_word(layout::ON_FAILURE, 0, word)?;
        Ok(steer)
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How it is attached, and why not better.
    pub fn mode(&self) -> (Mode, Option<&str>) {
        (self.mode, self.reason.as_deref())
    }

    /// Packets from this receive queue go to this AF_XDP socket.
    pub fn register(&mut self, queue: u32, socket: RawFd) -> Result<(), Error> {
        let map = self.ebpf.map_mut(layout::SOCKETS).ok_or_else(missing)?;
        let mut sockets = XskMap::try_from(map).map_err(kernel("open the map of sockets"))?;
        sockets.set(queue, socket, 0).map_err(kernel("put a socket into the XDP program's map"))
    }

    pub fn unregister(&mut self, queue: u32) -> Result<(), Error> {
        let map = self.ebpf.map_mut(layout::SOCKETS).ok_or_else(missing)?;
        let mut sockets = XskMap::try_from(map).map_err(kernel("open the map of sockets"))?;
        // It may be gone already: the kernel takes closed sockets out by itself.
        drop(sockets.unset(queue));
        Ok(())
    }

    /// These are the port ranges (first, last) that are ours on the node's own addresses.
    pub fn set_ports(&mut self, ranges: &[(u16, u16)]) -> Result<(), Error> {
        let mut wanted = vec![0; layout::PORT_WORDS as usize];
        for port in ranges.iter().flat_map(|(first, last)| *first..=*last) {
            wanted[usize::from(port >> 5)] |= 1 << (port & 31);
        }
        for (index, word) in (0..).zip(&wanted) {
            if self.ports.get(index as usize) != Some(word) {
                self.set_word(layout::PORTS, index, *word)?;
            }
        }
        self.ports = wanted;
        Ok(())
    }

    /// These rules and no others. New ones are put in before old ones are taken out, so that what is ours in both the
    /// old and the new set is ours at every moment.
    pub fn set_rules(&mut self, wanted: &BTreeMap<Rule, u32>) -> Result<(), Error> {
        let gone: Vec<Rule> = self.rules.keys().filter(|rule| !wanted.contains_key(rule)).copied().collect();
        let (now, then) = (rules::blocks(&self.rules), rules::blocks(wanted));
        // Whoever goes stays beside whoever comes.
        let mut both = self.rules.clone();
        both.extend(wanted);
        let both = rules::blocks(&both);

        self.write_blocks(&now, &both)?;
        let new = wanted.iter().filter(|(rule, flags)| self.rules.get(rule) != Some(flags));
        let map = self.ebpf.map_mut(layout::PREFIXES).ok_or_else(missing)?;
        let mut prefixes: Prefixes<&mut MapData> = LpmTrie::try_from(map).map_err(kernel(OPEN))?;
        for (rule, flags) in new.filter(|(rule, _)| !rule.is_address()) {
            prefixes.insert(&rule.key(), flags, 0).map_err(kernel("add a steering rule"))?;
        }
        for rule in gone.iter().filter(|rule| !rule.is_address()) {
            prefixes.remove(&rule.key()).map_err(kernel("remove a steering rule"))?;
        }
        self.write_blocks(&both, &then)?;
        self.rules.clone_from(wanted);
        Ok(())
    }

    /// Make the map of addresses, which holds the blocks `now`, hold `then`.
    fn write_blocks(&mut self, now: &Blocks, then: &Blocks) -> Result<(), Error> {
        let map = self.ebpf.map_mut(layout::ADDRESSES).ok_or_else(missing)?;
        let mut addresses: Addresses<&mut MapData> = HashMap::try_from(map).map_err(kernel(OPEN))?;
        for (key, block) in then.iter().filter(|(key, block)| now.get(*key) != Some(block)) {
            addresses.insert(key, block, 0).map_err(kernel("add a steering rule"))?;
        }
        for key in now.keys().filter(|key| !then.contains_key(*key)) {
            addresses.remove(key).map_err(kernel("remove a steering rule"))?;
        }
        Ok(())
    }

    fn read_rules(&self) -> Result<BTreeMap<Rule, u32>, Error> {
        let map = self.ebpf.map(layout::ADDRESSES).ok_or_else(missing)?;
        let addresses: Addresses<&MapData> = HashMap::try_from(map).map_err(kernel(OPEN))?;
        let map = self.ebpf.map(layout::PREFIXES).ok_or_else(missing)?;
        let prefixes: Prefixes<&MapData> = LpmTrie::try_from(map).map_err(kernel(OPEN))?;
        let mut rules = BTreeMap::new();
        for entry in addresses.iter() {
            let (key, block) = entry.map_err(kernel("read the maps of rules"))?;
            rules.extend(rules::of_block(key, &block));
        }
        for entry in prefixes.iter() {
            let (key, flags) = entry.map_err(kernel("read the maps of rules"))?;
            rules.insert(Rule { prefix_len: key.prefix_len(), address: key.data() }, flags);
        }
        Ok(rules)
    }

    pub fn outcomes(&self) -> Result<Outcomes, Error> {
        let map = self.ebpf.map(layout::OUTCOMES).ok_or_else(missing)?;
        let counters: PerCpuArray<&MapData, u64> =
            PerCpuArray::try_from(map).map_err(kernel("open the map of outcomes"))?;
        let read = |outcome: layout::Outcome| {
            let values = counters.get(&(outcome as u32), 0).map_err(kernel("read the map of outcomes"))?;
            Ok(values.iter().sum())
        };
        Ok(Outcomes {
            steered: read(layout::Outcome::Steered)?,
            passed: read(layout::Outcome::Passed)?,
            failed_closed: read(layout::Outcome::FailedClosed)?,
            failed_open: read(layout::Outcome::FailedOpen)?,
        })
    }

    fn set_word(&mut self, name: &str, index: u32, value: u32) -> Result<(), Error> {
        let map = self.ebpf.map_mut(name).ok_or_else(missing)?;
        let mut words: Array<&mut MapData, u32> =
            Array::try_from(map).map_err(kernel("open a map of settings"))?;
        words.set(index, value, 0).map_err(kernel("write a setting of the XDP program"))
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(self.name).ok_or_else(missing)?;
        program.try_into().map_err(kernel("use the program as XDP"))
    }

    /// A start that fails leaves things as they were: what an earlier process guards stays guarded, what is new goes.
    pub fn abandon(self) -> Result<(), Error> {
        if self.took_over { Ok(()) } else { self.detach() }
    }

    /// Take the program off the interface and leave nothing behind.
    pub fn detach(mut self) -> Result<(), Error> {
        self.release_link()?;
        remove_maps(&self.folder);
        // The folder above may be shared with other interfaces; it goes with the last.
        drop(fs::remove_dir(&self.folder));
        if let Some(parent) = self.folder.parent() {
            drop(fs::remove_dir(parent));
        }
        Ok(())
    }
}

/// An object without one of its parts was not built from our source.
fn missing() -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, "the object lacks a map or program of its layout");
    Error::Kernel { step: "use the built-in XDP object", source: Box::new(source) }
}

const MAPS: [&str; 6] = [
    layout::ADDRESSES,
    layout::PREFIXES,
    layout::PORTS,
    layout::SOCKETS,
    layout::OUTCOMES,
    layout::ON_FAILURE,
];

/// The maps, and the first of the programs that the kernel takes.
fn load(folder: &Path) -> Result<(Ebpf, &'static str), aya::EbpfError> {
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_pin_path(map, folder.join(map));
    }
    let mut ebpf = loader.load(OBJECT)?;
    let [pieces, whole] = layout::PROGRAMS;
    let name = if load_program(&mut ebpf, pieces).is_ok() { pieces } else { whole };
    if name == whole {
        load_program(&mut ebpf, whole)?;
    }
    Ok((ebpf, name))
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), aya::EbpfError> {
    if let Some(program) = ebpf.program_mut(name) {
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
    }
    Ok(())
}

fn remove_maps(folder: &Path) {
    for map in MAPS {
        drop(fs::remove_file(folder.join(map)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
    #![allow(clippy::print_stderr, reason = "a test that was skipped says so loudly")]

    use std::os::unix::fs::MetadataExt;

    use super::*;
    use rules::{FROM, TO};

    /// Rules out of this many neighbours and prefixes, from bits of a number.
    fn some(bits: u64) -> BTreeMap<Rule, u32> {
        let taken = |n: u8| bits.rotate_left(u32::from(n) * 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 < 3;
        let addresses = (0..40).map(|n: u8| (Rule::new([10, 0, n % 3, n.wrapping_mul(37)].into(), 32), n));
        let prefixes = (0..20).map(|n: u8| (Rule::new([10, 0, n % 3, n * 8].into(), 24 + n % 8), n + 40));
        addresses
            .chain(prefixes)
            .filter(|(_, n)| taken(*n))
            .map(|(rule, n)| (rule, if n % 2 == 0 { TO } else { FROM }))
            .collect()
    }

    #[test]
    fn the_maps_hold_what_was_set_last_and_a_new_process_finds_it() {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            eprintln!("SKIPPED: loading an XDP program needs root");
            return;
        }
        let pins = PathBuf::from(format!("/sys/fs/bpf/sluice-test-{}", std::process::id()));
        for bits in [0, 1, u64::MAX / 3, 0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 7, 0] {
            let mut steer = Steer::open("none", &pins, OnFailure::Drop).unwrap();
            steer.set_rules(&some(bits)).unwrap();
            steer.set_rules(&some(!bits)).unwrap();
            assert_eq!(steer.read_rules().unwrap(), some(!bits));
            drop(steer);
            let steer = Steer::open("none", &pins, OnFailure::Drop).unwrap();
            assert_eq!(steer.rules, some(!bits));
        }
        Steer::open("none", &pins, OnFailure::Drop).unwrap().detach().unwrap();
    }
}
