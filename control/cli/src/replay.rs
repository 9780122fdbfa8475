//! `sluice replay`: a capture through the whole packet path, with virtual time. Deterministic: the same capture, objects
//! and changes always give the same bytes and verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use sluice_core::cut;
use sluice_core::event::{EventKind, EventSink, FlowEvent};
use sluice_core::packet::{Packet, PortId};
use sluice_core::path::dns::lesson;
use sluice_core::path::{Fates, forward, tick};
use sluice_core::state::counters::Counters;
use sluice_core::state::{Config, State};
use sluice_core::tables::Tables;
use sluice_core::tables::record::{Change, Records};
use sluice_core::time::Now;
use sluice_core::verdict::Fate;
use sluice_policy::compile::Compiled;
use sluice_policy::config::Options;
use sluice_policy::observed::describe;
use sluice_run::io::pcap::{Captured, read, write};
use sluice_steer_abi::decide::{self, is_ours};
use sluice_steer_abi::layout::{FROM, OWN, TO, TUNNEL};

use crate::args::Replay;
use crate::offline;

/// Room before each frame for headers that grow.
const HEADROOM: usize = 256;
const ROOM: usize = 65_536 + 2 * HEADROOM;
/// Flows that a replay can hold.
const FLOWS: u32 = 1 << 18;

pub fn replay(args: &Replay) -> Result<()> {
    let mut changes = args.change.iter().map(|text| change(text)).collect::<Result<Vec<_>>>()?;
    changes.sort_by_key(|(at, _)| *at);
    let file = File::open(&args.input).with_context(|| format!("cannot read {}", args.input.display()))?;
    let (names, frames) = read(file).with_context(|| args.input.display().to_string())?;
    let mut run = Run::new(args, &names)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let start = frames.first().map_or(Duration::ZERO, |frame| frame.at);
    let mut changes = changes.into_iter().peekable();
    for (n, frame) in frames.iter().enumerate() {
        let at = frame.at.saturating_sub(start);
        while let Some((_, path)) = changes.next_if(|(due, _)| *due <= at) {
            run.replace(&[path])?;
        }
        let line = run.packet(n + 1, frame, at);
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{}", run.books())?;
    out.flush()?;
    let target =
        File::create(&args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    write(BufWriter::new(target), &run.sent)?;
    Ok(())
}

/// `SECONDS=PATH`.
fn change(text: &str) -> Result<(Duration, PathBuf)> {
    let wrong = || format!("{text} is not SECONDS=PATH");
    let (seconds, path) = text.split_once('=').with_context(wrong)?;
    let seconds: f64 = seconds.parse().with_context(wrong)?;
    Ok((Duration::try_from_secs_f64(seconds).with_context(wrong)?, path.into()))
}

/// Keeps the last event of the packet that is being worked on.
#[derive(Debug, Default)]
struct Last(Option<FlowEvent>);

impl EventSink for Last {
    const EVERY_PACKET: bool = true;

    fn emit(&mut self, event: &FlowEvent) {
        if matches!(event.kind, EventKind::Packet | EventKind::Drop(_)) {
            self.0 = Some(*event);
        }
    }
}

/// A frame as it came, or what a piece of it was.
#[derive(Clone, Copy)]
struct Come<'a> {
    frame: &'a Captured,
    port: PortId,
    now: Now,
    again: bool,
}

struct Run<'a> {
    args: &'a Replay,
    compiled: Compiled,
    records: Records,
    tables: Tables,
    state: State,
    /// Capture interface → device.
    devices: Vec<u16>,
    sent: Vec<Captured>,
    not_ours: u64,
    generated: u64,
    /// Pieces that left.
    pieces: u64,
    consumed: u64,
    /// Addresses that DNS answers in the capture told.
    names: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl<'a> Run<'a> {
    fn new(args: &'a Replay, names: &[String]) -> Result<Self> {
        let model = &args.objects.model;
        let gateway = model.config.as_deref().map(offline::gateway).transpose()?;
        let (network, own_names) = gateway.map(|gateway| gateway.replay).unwrap_or_default();
        if own_names.is_empty() {
            bail!(
                "a replay needs to know its interfaces, routes and neighbours: give a configuration with a section \
                 spec.replay (--config; configs/gateway.yaml shows one)"
            );
        }
        let options = Options { ports: own_names.clone(), ..offline::options(model)? };
        let compiled = offline::compiled(&args.objects.paths, options)?;
        let mut tables = Tables::default();
        tables.apply(&network, None)?;
        tables.apply(&compiled.changes(), None)?;
        // A plain pcap has one interface: frames come in where their destination's MAC or else the first says.
        let devices = names
            .iter()
            .map(|name| own_names.iter().position(|own| own == name))
            .map(|index| index.and_then(|index| u16::try_from(index).ok()).unwrap_or(0));
        let mut config = Config::new(FLOWS, [1, 2, 3, 4]);
        config.pickup = false;
        Ok(Self {
            args,
            devices: devices.collect(),
            records: network.into_iter().map(|change| (change.key(), change)).collect(),
            compiled,
            tables,
            state: State::new(config),
            sent: Vec::new(),
            not_ours: 0,
            generated: 0,
            pieces: 0,
            consumed: 0,
            names: BTreeMap::new(),
        })
    }

    fn replace(&mut self, paths: &[PathBuf]) -> Result<()> {
        let options = offline::options(&self.args.objects.model)?;
        let new = offline::compiled(paths, options)?;
        self.tables.apply(&new.changes_since(Some(&self.compiled)), None)?;
        self.compiled = new;
        for (name, known) in &self.names {
            let changes = self.compiled.learn(name, known.iter().copied().collect());
            self.tables.apply(&changes, None)?;
        }
        Ok(())
    }

    /// The device that a frame came in by: the capture's interface, or for captures without names the port with the
    /// frame's destination MAC.
    fn device(&self, frame: &Captured) -> u16 {
        if let Some(device) = self.devices.get(frame.interface as usize) {
            return *device;
        }
        let ports = self
            .records
            .values()
            .filter_map(|change| if let Change::Port(_, port) = change { port.as_ref() } else { None });
        ports.into_iter().find(|port| frame.bytes.starts_with(&port.mac)).map_or(0, |port| port.device)
    }

    fn packet(&mut self, n: usize, frame: &Captured, at: Duration) -> Value {
        let now = Now(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX) + Now::SECOND);
        let mut last = Last::default();
        tick(&self.tables, &mut self.state, now, &mut last);
        last.0 = None;
        if is_ours(&Bytes(&frame.bytes), &Steering { run: self }) != Some(true) {
            self.not_ours += 1;
            return json!({"n": n, "verdict": "PASSED"});
        }
        let came = Come { frame, port: PortId(self.device(frame)), now, again: false };
        let Some(mut fate) = self.forward(&came, &frame.bytes, &mut last) else {
            self.consumed += 1;
            return json!({"n": n, "verdict": "DROPPED", "drop_reason": 134, "drop_reason_desc": "INVALID_PACKET_DROPPED"});
        };
        let Fate::Cut(room) = fate else { return self.line(n, fate, last.0) };
        let ((pieces, again), before) = (pieces(&frame.bytes, room), self.state.counters.forwarded);
        for piece in &pieces {
            fate = self.forward(&Come { again, ..came }, piece, &mut last).unwrap_or(fate);
        }
        self.pieces += self.state.counters.forwarded - before;
        let mut line = self.line(n, fate, last.0);
        line["pieces"] = json!(pieces.len());
        line
    }

    /// One frame through the path. `None`: it is larger than any buffer.
    fn forward(&mut self, came: &Come<'_>, bytes: &[u8], last: &mut Last) -> Option<Fate> {
        let mut room = vec![0; ROOM];
        room.get_mut(HEADROOM..HEADROOM + bytes.len())?.copy_from_slice(bytes);
        let mut burst = [Packet::new(&mut room, HEADROOM, bytes.len(), came.port)?];
        burst[0].again = came.again;
        let mut fates = Fates::new();
        forward(&self.tables, &mut self.state, came.now, &mut burst, &mut fates, last);
        let fate = fates.first().copied().unwrap_or(Fate::Pass);
        if matches!(fate, Fate::Learn(_)) {
            self.learn(&burst[0]);
        }
        if let Fate::Forward(port) | Fate::Answer(port) | Fate::Learn(port) = fate {
            let interface = self.tables.routing.port(port).map_or(0, |port| u32::from(port.device));
            self.sent.push(Captured { at: came.frame.at, interface, bytes: burst[0].bytes().to_vec() });
        }
        self.generated += u64::from(matches!(fate, Fate::Answer(_)));
        Some(fate)
    }

    /// What a DNS answer teaches is known before the next packet, and to the end of the capture.
    fn learn(&mut self, packet: &Packet<'_>) {
        let mut found = Vec::new();
        let Ok(question) = lesson(packet, |ip, _| found.push(ip)) else { return };
        let name = question.name.to_string();
        let known = self.names.entry(name.clone()).or_default();
        known.extend(found);
        let changes = self.compiled.learn(&name, known.iter().copied().collect());
        // Cannot fail: what the engine tells fits what it told before.
        drop(self.tables.apply(&changes, None));
    }

    fn line(&self, n: usize, fate: Fate, event: Option<FlowEvent>) -> Value {
        let verdict = match fate {
            Fate::Forward(_) | Fate::Learn(_) => "FORWARDED",
            Fate::Pass => "PASSED",
            Fate::Hold { .. } | Fate::AwaitRow(_) | Fate::Cut(_) => "HELD",
            Fate::HandOver(_) => "HANDED_OVER",
            Fate::Answer(_) | Fate::Drop(_) => "DROPPED",
        };
        let mut line = json!({"n": n, "verdict": verdict});
        if let Some(event) = event {
            let told = describe(&event, "", &self.compiled);
            for field in [
                "drop_reason",
                "drop_reason_desc",
                "from",
                "to",
                "proto",
                "rules",
                "enforced_by",
                "backend",
                "is_reply",
            ] {
                if let Some(value) = told.get(field) {
                    line[field] = value.clone();
                }
            }
            if event.audit {
                line["verdict"] = json!("AUDIT");
            }
            line["flow"] = json!({"source": told["source"], "destination": told["destination"], "translated": told["translated"]});
        }
        if matches!(fate, Fate::Answer(_)) && line.get("drop_reason").is_none() {
            line["verdict"] = json!("ANSWERED");
        }
        line
    }

    /// In = forwarded + dropped + passed + consumed; out = forwarded + generated. What is cut is consumed, its pieces that
    /// leave are generated.
    fn books(&self) -> Value {
        let (counters, pieces) = (&self.state.counters, self.pieces);
        let consumed = counters.held + counters.handed_over + counters.echoed + counters.cut + self.consumed;
        let mut books = json!({
            "in": counters.received - pieces + self.not_ours + self.consumed,
            "forwarded": counters.forwarded - pieces + counters.dns_held,
            "dropped": counters.dropped(),
            "passed": counters.passed + self.not_ours,
            "consumed": consumed,
            "generated": self.generated + pieces,
            "out": self.sent.len(),
        });
        if self.args.counters {
            books["counters"] = moved(counters);
        }
        books
    }
}

/// What a frame is cut into, and whether it is a piece itself.
fn pieces(frame: &[u8], room: u16) -> (Vec<Vec<u8>>, bool) {
    let (mut bytes, mut all, mut again) = (frame.to_vec(), Vec::new(), false);
    if let Some(mut packet) = Packet::new(&mut bytes, 0, frame.len(), PortId(0))
        && let Some(mut pieces) = cut::Pieces::of(&mut packet, room)
    {
        again = pieces.are_of_a_piece();
        while let Some(piece) = pieces.next() {
            all.push(piece.to_vec());
        }
    }
    (all, again)
}

/// Every counter that is not zero.
fn moved(counters: &Counters) -> Value {
    let drops: Map<String, Value> = counters
        .drops()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
        .collect();
    let plain = [
        ("received_bytes", counters.received_bytes),
        ("forwarded_bytes", counters.forwarded_bytes),
        ("held", counters.held),
        ("cut", counters.cut),
        ("answered", counters.answered),
        ("echoed", counters.echoed),
        ("audited", counters.audited),
        ("flows_created", counters.flows_created),
        ("flows_ended", counters.flows_ended),
        ("flows_evicted", counters.flows_evicted),
        ("flows_cut", counters.flows_cut),
        ("flows_rejudged", counters.flows_rejudged),
        ("nat_exhausted", counters.nat_exhausted),
        ("affinity_evicted", counters.affinity_evicted),
    ];
    let mut all: Map<String, Value> = plain
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect();
    if !drops.is_empty() {
        all.insert("drops".to_owned(), Value::Object(drops));
    }
    Value::Object(all)
}

/// A frame for the steering decision.
struct Bytes<'a>(&'a [u8]);

impl decide::Frame for Bytes<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }
    fn word(&self, at: usize) -> Option<u16> {
        self.0.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
    }
    fn four(&self, at: usize) -> Option<u32> {
        self.0.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
    }
    fn sixteen(&self, at: usize) -> Option<[u32; 4]> {
        let bytes: &[u8; 16] = self.0.get(at..)?.first_chunk()?;
        let mut words = [0; 4];
        for (word, four) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
        }
        Some(words)
    }
}

/// What the XDP program's maps would say.
struct Steering<'a, 'b> {
    run: &'a Run<'b>,
}

impl decide::Rules for Steering<'_, '_> {
    fn find(&self, address: [u32; 4]) -> u32 {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(address) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let ip = std::net::Ipv6Addr::from(octets);
        let canonical = ip.to_canonical();
        let tables = &self.run.tables;
        let settings = &tables.settings;
        let own = self.run.records.values().any(|change| {
            matches!(change, Change::Port(_, Some(port)) if port.addresses.iter().any(|own| own.addr == canonical))
        });
        let within = |list: &[sluice_core::tables::record::Prefix]| {
            list.iter().any(|prefix| sluice_policy::identity::holds_ip(prefix, canonical))
        };
        let ends = within(&settings.tunnels.addresses);
        if own {
            return if ends { OWN | TUNNEL } else { OWN };
        }
        let mut flags = 0;
        if ends {
            flags |= TO;
        }
        if within(&settings.guarded) {
            flags |= TO | FROM;
        }
        if within(&settings.masquerade.sources) {
            flags |= FROM;
        }
        let nat = settings.snat_addresses.contains(&canonical)
            || settings.masquerade.addresses.contains(&canonical)
            || tables.departures.is_nat_address(ip);
        if nat || tables.services.is_frontend_address(ip) {
            flags |= TO;
        }
        flags
    }

    fn ports(&self, index: u32) -> u32 {
        let settings = &self.run.tables.settings;
        let ranges = [settings.node_ports, settings.snat_ports];
        let ours = |port: u32| {
            ranges.iter().any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&port))
        };
        (0..32).filter(|bit| ours(index << 5 | bit)).fold(0, |word, bit| word | 1 << bit)
    }
}
