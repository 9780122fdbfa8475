//! The gateway's configuration file and the options of policy and services, by Cilium's names.

mod options;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use sluice_core::packet::PortId;
use sluice_core::tables::record::{Change, Ends, Masquerade, NextHop, Port, Prefix, Route};
use sluice_core::verdict::NextHopId;
use sluice_feed::settings::{AttachMode, DataplaneSettings, Interface, Polling, default_ring};

use crate::decode::{Fields, Place, Problems, prefix};
use crate::tree::{self, Limits, Node, Value};

pub use options::{CidrMatches, Enforcement, Kinds, OPTIONS, Options};

/// The whole file, read.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub name: String,
    pub objects: Vec<PathBuf>,
    pub options: Options,
    pub dataplane: DataplaneSettings,
    pub api_socket: PathBuf,
    pub metrics: String,
    /// Where Hubble's clients are answered, if anywhere.
    pub hubble: Option<Listen>,
    /// Interfaces, routes and neighbours for `replay`, as changes; and the names of the interfaces.
    pub replay: (Vec<Change>, Vec<String>),
}

/// Where clients come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Listen {
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Some(Self::Unix(PathBuf::from(path)));
        }
        let (host, port) = text.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| Self::Tcp(text.to_owned()))
    }
}

/// Read a configuration file.
pub fn load(path: &Path) -> (Option<Gateway>, Problems) {
    let mut problems = Problems::default();
    let file: Arc<str> = Arc::from(path.display().to_string());
    let at = |line, column, what: String| crate::decode::Problem {
        file: Arc::clone(&file),
        line,
        column,
        field: String::new(),
        what,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.errors.push(at(1, 1, format!("cannot be read: {error}")));
            return (None, problems);
        }
    };
    match tree::parse(&text, &Limits::default()) {
        Ok(documents) if documents.len() == 1 => {
            let base = path.parent().unwrap_or_else(|| Path::new("."));
            let gateway = read(&documents[0], Place::new(&file), base, &mut problems);
            (Some(gateway).filter(|_| problems.is_ok()), problems)
        }
        Ok(_) => {
            problems.errors.push(at(1, 1, "must hold one object of kind Gateway".to_owned()));
            (None, problems)
        }
        Err(error) => {
            problems.errors.push(at(error.line, error.column, error.what));
            (None, problems)
        }
    }
}

/// A section that may be missing.
fn section<'a, 'p>(fields: &'p mut Fields<'a, '_>, key: &'static str, nothing: &'a Node) -> Fields<'a, 'p> {
    let (node, place) = fields.object(key).unwrap_or_else(|| (nothing, fields.place.key(key)));
    Fields::new(node, place, fields.problems)
}

/// The gateway's name. What is misspelt beside it would leave a gateway with defaults alone.
fn name_of<'a>(root: &mut Fields<'a, '_>, nothing: &'a Node) -> String {
    let mut metadata = section(root, "metadata", nothing);
    let name = metadata.loose_text("name").unwrap_or_else(|| "gateway".to_owned());
    for known in ["labels", "annotations"] {
        metadata.raw(known);
    }
    metadata.deny_unknown();
    root.raw("spec");
    root.deny_unknown();
    name
}

fn read(node: &Node, place: Place, base: &Path, problems: &mut Problems) -> Gateway {
    let nothing = Node { value: Value::Null, line: node.line, column: node.column };
    let mut root = Fields::new(node, place, problems);
    let (kind, version) = (root.text("kind"), root.text("apiVersion"));
    if kind.as_deref() != Some("Gateway") || version.as_deref() != Some("sluice.dev/v1") {
        root.error(node, "must be apiVersion: sluice.dev/v1, kind: Gateway");
    }
    let name = name_of(&mut root, &nothing);
    let mut spec = section(&mut root, "spec", &nothing);
    let mut options = Options {
        node: spec.loose_text("node").unwrap_or_else(|| name.clone()),
        cluster: spec.loose_text("cluster").unwrap_or_else(|| "default".to_owned()),
        ..Options::default()
    };
    let mut objects_section = section(&mut spec, "objects", &nothing);
    let objects = objects_section.texts("files").into_iter().map(|(path, _, _)| base.join(path)).collect();
    objects_section.deny_unknown();
    let mut dataplane = DataplaneSettings {
        interfaces: interfaces(&mut spec),
        workers: 1,
        cores: Vec::new(),
        polling: Polling::Adaptive,
        huge_pages: true,
        busy_poll: 0,
        ring: default_ring(),
        on_failure_pass: false,
        max_flows: 1_000_000,
        snapshot: None,
        known_names: None,
        socket: PathBuf::from("/run/sluice/dataplane.sock"),
        pins: PathBuf::from("/sys/fs/bpf/sluice").join(&name),
        guarded: Vec::new(),
        addresses_on: None,
    };
    workers(&mut section(&mut spec, "workers", &nothing), &mut dataplane);
    guard(&mut section(&mut spec, "guard", &nothing), &mut dataplane, &mut options);
    policy(&mut section(&mut spec, "policy", &nothing), &mut options);
    let mut services_section = section(&mut spec, "services", &nothing);
    dataplane.addresses_on = services_section.loose_text("addressesOn");
    services(&mut services_section, &mut options);
    if !options.ipv4 && !options.ipv6 {
        spec.error(spec.node, "enable-ipv4 and enable-ipv6 are both false: no packet would be anybody's");
    }
    masquerade(&mut section(&mut spec, "masquerade", &nothing), &mut options);
    tunnels(&mut section(&mut spec, "tunnels", &nothing), &mut options);
    let mut flows = section(&mut spec, "flows", &nothing);
    if let Some(most) = flows.int("max", 16, 1 << 30) {
        dataplane.max_flows = u32::try_from(most).unwrap_or(u32::MAX);
    }
    dataplane.snapshot = flows.loose_text("snapshot").map(PathBuf::from);
    flows.deny_unknown();
    limits(&mut section(&mut spec, "limits", &nothing), &mut options);
    let mut api = section(&mut spec, "api", &nothing);
    let api_socket =
        PathBuf::from(api.loose_text("socket").unwrap_or_else(|| "/run/sluice/control.sock".to_owned()));
    let metrics = api.loose_text("metrics").unwrap_or_else(|| "127.0.0.1:9965".to_owned());
    let hubble = hubble(&mut api);
    api.deny_unknown();
    dataplane.socket = api_socket.with_file_name("dataplane.sock");
    let replay = replay(&mut section(&mut spec, "replay", &nothing), &nothing);
    spec.deny_unknown();
    dataplane.known_names = options.tofqdns_pre_cache.as_ref().map(|path| base.join(path));
    options.settings.workers = dataplane.workers;
    options.ports = ports(&dataplane.interfaces);
    Gateway { name, objects, options, dataplane, api_socket, metrics, hubble, replay }
}

fn hubble(api: &mut Fields<'_, '_>) -> Option<Listen> {
    let text = api.loose_text("hubble").unwrap_or_else(|| "127.0.0.1:4245".to_owned());
    if text == "off" {
        return None;
    }
    let listen = Listen::parse(&text);
    if listen.is_none() {
        let node = api.node;
        api.error(
            node,
            format!("hubble must be an address with a port, the path of a socket, or off, not {text}"),
        );
    }
    listen
}

/// One a device, then one a VLAN, by the usual name of the kernel's device for it.
fn ports(interfaces: &[Interface]) -> Vec<String> {
    let devices = interfaces.iter().map(|device| device.name.clone());
    let tagged = interfaces.iter().flat_map(|device| device.vlans.iter().map(move |tag| (device, tag)));
    devices.chain(tagged.map(|(device, tag)| format!("{}.{tag}", device.name))).collect()
}

fn interfaces(spec: &mut Fields<'_, '_>) -> Vec<Interface> {
    let mut interfaces = Vec::new();
    for (node, place) in spec.list("interfaces").unwrap_or_default() {
        let mut fields = Fields::new(node, place, spec.problems);
        let name = fields.loose_text("name").unwrap_or_default();
        if name.is_empty() {
            fields.error(node, "an interface needs a name");
        }
        let mode = match fields.text("mode").as_deref() {
            None | Some("auto") => AttachMode::Auto,
            Some("native") => AttachMode::Native,
            Some("generic") => AttachMode::Generic,
            Some(other) => {
                fields.error(node, format!("mode must be auto, native or generic, not {other}"));
                AttachMode::Auto
            }
        };
        let zero_copy = match fields.loose_text("zeroCopy").as_deref() {
            None | Some("auto" | "true") => true,
            Some("false") => false,
            Some(other) => {
                fields.error(node, format!("zeroCopy must be auto, true or false, not {other}"));
                true
            }
        };
        if let Some(queues) = fields.loose_text("queues").filter(|queues| queues != "all") {
            let what = format!("queues must be all, not {queues}: as many are served as there are workers");
            wrong(&mut fields, "queues", what);
        }
        let announce = fields.flag("announce").unwrap_or(false);
        let mut vlans = Vec::new();
        for (text, node, place) in fields.texts("vlans") {
            match text.parse::<u16>() {
                Ok(vlan) if (1..4095).contains(&vlan) => vlans.push(vlan),
                _ => fields.problems.errors.push(place.problem(node, "a VLAN is a number from 1 to 4094")),
            }
        }
        fields.deny_unknown();
        if interfaces.iter().any(|known: &Interface| known.name == name) {
            fields.error(node, format!("the interface {name} is there twice"));
        }
        interfaces.push(Interface { name, mode, zero_copy, announce, vlans });
    }
    interfaces
}

fn workers(fields: &mut Fields<'_, '_>, dataplane: &mut DataplaneSettings) {
    match fields.some("cores").map(|node| &node.value) {
        None => {}
        Some(Value::Text(text)) if text == "auto" => {}
        Some(Value::Int(n)) if (1..=64).contains(n) => dataplane.workers = u8::try_from(*n).unwrap_or(1),
        Some(Value::List(items)) if (1..=64).contains(&items.len()) => {
            for item in items.iter() {
                let core = if let Value::Int(core) = item.value { usize::try_from(core).ok() } else { None };
                match core.filter(|core| !dataplane.cores.contains(core)) {
                    Some(core) => dataplane.cores.push(core),
                    None => fields.error(item, "cores must be numbers of cores, each once"),
                }
            }
            dataplane.workers = u8::try_from(items.len()).unwrap_or(u8::MAX);
        }
        Some(_) => {
            let what = "cores must be auto, a number from 1 to 64, or a list of 1 to 64 cores";
            wrong(fields, "cores", what.to_owned());
        }
    }
    dataplane.polling = match fields.text("poll").as_deref() {
        None | Some("adaptive") => Polling::Adaptive,
        Some("busy") => Polling::Busy,
        Some("sleep") => Polling::Sleep,
        Some(other) => {
            let what = format!("poll must be busy, adaptive or sleep, not {other}");
            wrong(fields, "poll", what);
            Polling::Adaptive
        }
    };
    match fields.loose_text("hugePages").as_deref() {
        None | Some("auto" | "true") => {}
        Some("false") => dataplane.huge_pages = false,
        Some(other) => {
            let what = format!("hugePages must be auto, true or false, not {other}");
            wrong(fields, "hugePages", what);
        }
    }
    if let Some(microseconds) = fields.int("busyPoll", 0, 1_000_000) {
        dataplane.busy_poll = u32::try_from(microseconds).unwrap_or(0);
    }
    match fields.int("ring", 64, 65_536).map(u32::try_from) {
        None | Some(Err(_)) => {}
        Some(Ok(ring)) if ring.is_power_of_two() => dataplane.ring = ring,
        Some(Ok(ring)) => wrong(fields, "ring", format!("ring must be a power of two, not {ring}")),
    }
    fields.deny_unknown();
}

fn guard(fields: &mut Fields<'_, '_>, dataplane: &mut DataplaneSettings, options: &mut Options) {
    options.settings.guarded = prefixes(fields, "prefixes");
    dataplane.guarded = options.settings.guarded.iter().map(|p| format!("{}/{}", p.addr, p.len)).collect();
    let node = fields.node;
    match fields.text("onFailure").as_deref() {
        None | Some("drop") => {}
        Some("pass") => dataplane.on_failure_pass = true,
        Some(other) => fields.error(node, format!("onFailure must be drop or pass, not {other}")),
    }
    fields.deny_unknown();
}

fn policy(fields: &mut Fields<'_, '_>, options: &mut Options) {
    for (key, option) in [("enforcement", "enable-policy"), ("audit", "policy-audit-mode")] {
        set(fields, key, option, options);
    }
    by_names(fields, options);
}

/// An option by the key that it stands under.
fn set(fields: &mut Fields<'_, '_>, key: &'static str, option: &str, options: &mut Options) {
    if let Some(value) = fields.loose_text(key)
        && let Err(what) = options.set(option, &value)
    {
        wrong(fields, key, what);
    }
}

/// A mistake in the value of this key, with its place.
fn wrong(fields: &mut Fields<'_, '_>, key: &str, what: String) {
    let at = fields.node.get(key).unwrap_or(fields.node);
    fields.problems.errors.push(fields.place.key(key).problem(at, what));
}

fn services(fields: &mut Fields<'_, '_>, options: &mut Options) {
    for (key, option) in [
        ("mode", "bpf-lb-mode"),
        ("algorithm", "bpf-lb-algorithm"),
        ("maglevTableSize", "bpf-lb-maglev-table-size"),
    ] {
        set(fields, key, option, options);
    }
    options.settings.clamp_mss = fields.flag("clampMss").unwrap_or(false);
    options.settings.snat_addresses = addresses(fields, "snatAddresses");
    for (key, range) in
        [("nodePortRange", &mut options.settings.node_ports), ("snatPorts", &mut options.settings.snat_ports)]
    {
        let Some(text) = fields.text(key) else { continue };
        let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some((first, last)) if first <= last && first > 0 => *range = (first, last),
            _ => wrong(fields, key, format!("{key} must be like {}-{}", range.0, range.1)),
        }
    }
    let (services, sources) = (options.settings.node_ports, options.settings.snat_ports);
    if services.0 <= sources.1 && sources.0 <= services.1 {
        let what = "nodePortRange and snatPorts have ports in common: what comes back to one could be meant for the other";
        let node = fields.node;
        fields.error(node, what);
    }
    by_names(fields, options);
}

/// Options by Cilium's own names may stand beside ours.
fn by_names(fields: &mut Fields<'_, '_>, options: &mut Options) {
    for (name, _) in OPTIONS {
        set(fields, name, name, options);
    }
    fields.deny_unknown();
}

fn masquerade(fields: &mut Fields<'_, '_>, options: &mut Options) {
    options.settings.masquerade = Masquerade {
        sources: prefixes(fields, "sources"),
        exclude: prefixes(fields, "exclude"),
        addresses: addresses(fields, "addresses"),
    };
    fields.deny_unknown();
}

fn tunnels(fields: &mut Fields<'_, '_>, options: &mut Options) {
    let node = fields.node;
    let ends = Ends { addresses: prefixes(fields, "addresses"), peers: prefixes(fields, "peers") };
    if ends.addresses.is_empty() != ends.peers.is_empty() {
        fields.error(node, "tunnels need both addresses (where they end) and peers (who may send them)");
    }
    options.settings.tunnels = ends;
    fields.deny_unknown();
}

fn limits(fields: &mut Fields<'_, '_>, options: &mut Options) {
    if let Some(objects) = fields.int("objects", 1, i64::MAX) {
        options.limits.objects = usize::try_from(objects).unwrap_or(usize::MAX);
    }
    if let Some(bytes) = fields.int("fileBytes", 1, i64::MAX) {
        options.limits.file_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    }
    fields.deny_unknown();
}

fn prefixes(fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    for (text, node, place) in fields.texts(key) {
        match prefix(&text) {
            Ok(prefix) => prefixes.push(prefix),
            Err(what) => fields.problems.errors.push(place.problem(node, what)),
        }
    }
    prefixes
}

fn addresses(fields: &mut Fields<'_, '_>, key: &'static str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (text, node, place) in fields.texts(key) {
        match text.parse() {
            Ok(ip) => addresses.push(ip),
            Err(_) => fields.problems.errors.push(place.problem(node, format!("{text} is no address"))),
        }
    }
    addresses
}

/// What the kernel would tell, for runs without one.
fn replay(fields: &mut Fields<'_, '_>, _nothing: &Node) -> (Vec<Change>, Vec<String>) {
    let (mut changes, mut names) = (Vec::new(), Vec::new());
    for (index, (node, place)) in fields.list("interfaces").unwrap_or_default().into_iter().enumerate() {
        let mut fields = Fields::new(node, place, fields.problems);
        let device = u16::try_from(index).unwrap_or(u16::MAX);
        names.push(fields.loose_text("name").unwrap_or_default());
        let mac = fields.text("mac").as_deref().and_then(mac).unwrap_or([2, 0, 0, 0, 0, 1]);
        // A tagged network: a port of its own on the device of another.
        let on = fields.loose_text("on").and_then(|on| names.iter().position(|name| *name == on));
        let carrier = on.and_then(|on| u16::try_from(on).ok());
        let vlan = fields.int("vlan", 1, 4094).and_then(|vlan| u16::try_from(vlan).ok()).unwrap_or(0);
        if (vlan != 0) != carrier.is_some() {
            fields.error(node, "a tagged interface needs vlan and on (an interface listed before it)");
        }
        let mtu = fields.int("mtu", 68, 65_535).and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500);
        let mut own = Vec::new();
        for (text, node, place) in fields.texts("addresses") {
            let parsed =
                prefix(&text).ok().zip(text.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok()));
            let Some((net, ip)) = parsed else {
                fields
                    .problems
                    .errors
                    .push(place.problem(node, format!("{text} is no address with a prefix")));
                continue;
            };
            own.push(Prefix { addr: ip, len: net.len });
            changes.push(Change::Route(net, Some(Route::OnLink(PortId(device)))));
            changes.push(Change::Route(crate::decode::host(ip), Some(Route::Local)));
        }
        fields.deny_unknown();
        let port = Port { mac, mtu, vlan, device: carrier.unwrap_or(device), up: true, addresses: own };
        changes.push(Change::Port(PortId(device), Some(port)));
    }
    let mut hops = Vec::new();
    neighbours(fields, &names, &mut changes, &mut hops);
    for (node, place) in fields.list("routes").unwrap_or_default() {
        let mut fields = Fields::new(node, place, fields.problems);
        let (to, via) = (fields.text("to"), fields.text("via"));
        fields.deny_unknown();
        let to = to.as_deref().and_then(|text| prefix(text).ok());
        let via = via.and_then(|text| text.parse::<IpAddr>().ok());
        match (to, via.and_then(|via| hops.iter().position(|hop: &NextHop| hop.ip == via))) {
            (Some(to), Some(hop)) => {
                let hop = NextHopId(u16::try_from(hop).unwrap_or(u16::MAX));
                changes.push(Change::Route(to, Some(Route::Via(vec![(hop, 1)]))));
            }
            _ => fields
                .error(node, "a route needs to (a prefix) and via (the address of a neighbour listed here)"),
        }
    }
    fields.deny_unknown();
    (changes, names)
}

fn neighbours(
    fields: &mut Fields<'_, '_>,
    names: &[String],
    changes: &mut Vec<Change>,
    hops: &mut Vec<NextHop>,
) {
    for (node, place) in fields.list("neighbours").unwrap_or_default() {
        let mut fields = Fields::new(node, place, fields.problems);
        let ip = fields.text("ip").and_then(|ip| ip.parse::<IpAddr>().ok());
        let address = fields.text("mac").as_deref().and_then(mac);
        let device = fields.loose_text("dev").and_then(|dev| names.iter().position(|name| *name == dev));
        fields.deny_unknown();
        let (Some(ip), Some(mac), Some(device)) = (ip, address, device) else {
            fields.error(node, "a neighbour needs ip, mac and dev (an interface listed here)");
            continue;
        };
        let port = PortId(u16::try_from(device).unwrap_or(u16::MAX));
        let id = NextHopId(u16::try_from(hops.len()).unwrap_or(u16::MAX));
        let mtu = changes.iter().find_map(|change| {
            let Change::Port(own, Some(record)) = change else { return None };
            (*own == port).then_some(record.mtu)
        });
        let hop = NextHop { port, ip, mac: Some(mac), mtu: mtu.unwrap_or(1500) };
        hops.push(hop);
        changes.push(Change::NextHop(id, Some(hop)));
        changes.push(Change::Route(crate::decode::host(ip), Some(Route::Via(vec![(id, 1)]))));
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// The file as JSON with all defaults in.
pub fn show(gateway: &Gateway) -> Json {
    let mut shown = show_sections(gateway);
    for (name, _) in OPTIONS.iter().filter(|(name, _)| !OWN_NAMES.contains(name)) {
        let section =
            if ABOUT_SERVICES.iter().any(|part| name.contains(part)) { "services" } else { "policy" };
        shown["spec"][section][name] = match gateway.options.get(name) {
            None => Json::Null,
            // Truths and numbers as YAML has them.
            Some(text) => serde_json::from_str(&text).unwrap_or(Json::String(text)),
        };
    }
    shown
}

/// Options that have names of ours, too, and parts of the names of those about services.
const OWN_NAMES: [&str; 5] =
    ["enable-policy", "policy-audit-mode", "bpf-lb-mode", "bpf-lb-algorithm", "bpf-lb-maglev-table-size"];
const ABOUT_SERVICES: [&str; 3] = ["bpf-lb-", "nodeport-", "service-"];

fn show_sections(gateway: &Gateway) -> Json {
    let list =
        |prefixes: &[Prefix]| prefixes.iter().map(|p| format!("{}/{}", p.addr, p.len)).collect::<Vec<_>>();
    let (options, dataplane) = (&gateway.options, &gateway.dataplane);
    let cores = if dataplane.cores.is_empty() { json!(dataplane.workers) } else { json!(dataplane.cores) };
    json!({
        "apiVersion": "sluice.dev/v1",
        "kind": "Gateway",
        "metadata": {"name": gateway.name},
        "spec": {
            "node": options.node,
            "cluster": options.cluster,
            "objects": {"files": gateway.objects},
            "interfaces": dataplane.interfaces.iter().map(|i| json!({
                "name": i.name, "mode": i.mode, "zeroCopy": i.zero_copy, "announce": i.announce, "vlans": i.vlans,
            })).collect::<Vec<_>>(),
            "workers": {"cores": cores, "poll": dataplane.polling, "hugePages": dataplane.huge_pages,
                "busyPoll": dataplane.busy_poll, "ring": dataplane.ring},
            "guard": {"prefixes": list(&options.settings.guarded),
                "onFailure": if dataplane.on_failure_pass { "pass" } else { "drop" }},
            "policy": {"enforcement": format!("{:?}", options.enforcement).to_lowercase(), "audit": options.audit},
            "services": {"mode": options.mode, "snatAddresses": options.settings.snat_addresses,
                "snatPorts": format!("{}-{}", options.settings.snat_ports.0, options.settings.snat_ports.1),
                "addressesOn": dataplane.addresses_on, "algorithm": options.algorithm, "clampMss": options.settings.clamp_mss, "maglevTableSize": options.maglev_size,
                "nodePortRange": format!("{}-{}", options.settings.node_ports.0, options.settings.node_ports.1)},
            "masquerade": {"sources": list(&options.settings.masquerade.sources),
                "exclude": list(&options.settings.masquerade.exclude),
                "addresses": options.settings.masquerade.addresses},
            "tunnels": {"addresses": list(&options.settings.tunnels.addresses),
                "peers": list(&options.settings.tunnels.peers)},
            "flows": {"max": dataplane.max_flows, "snapshot": dataplane.snapshot},
            "limits": {"objects": options.limits.objects, "fileBytes": options.limits.file_bytes},
            "api": {"socket": gateway.api_socket, "metrics": gateway.metrics,
                "hubble": gateway.hubble.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string)},
        },
    })
}
