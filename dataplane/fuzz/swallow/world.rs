//! A small gateway for scripts to play with: two devices and a VLAN, clients, guarded backends, services; and changes to all
//! of it, valid or not.

use std::cell::Cell;
use std::net::IpAddr;

use sluice_core::packet::PortId;
use sluice_core::tables::Tables;
use sluice_core::tables::record::*;
use sluice_core::verdict::{Action, NextHopId};

use super::script::Script;

/// Who may talk here: clients, backends, somebody behind a router, services, ourselves, nobody.
pub const V4: [&str; 14] = [
    "192.0.2.11",
    "203.0.113.80",
    "10.244.0.11",
    "10.244.0.12",
    "192.0.2.12",
    "198.18.0.5",
    "198.51.100.7",
    "203.0.113.81",
    "10.244.0.99",
    "192.0.2.1",
    "192.0.2.2",
    "198.19.0.1",
    "127.0.0.1",
    "224.0.0.5",
];
pub const V6: [&str; 14] = [
    "2001:db8:1::11",
    "2001:db8:cafe::80",
    "2001:db8:2::11",
    "2001:db8:2::12",
    "2001:db8:1::12",
    "2001:db8:3::5",
    "2001:db8:77::7",
    "2001:db8:cafe::81",
    "2001:db8:2::99",
    "2001:db8:1::1",
    "2001:db8:1::2",
    "2001:db8:88::1",
    "::1",
    "ff02::5",
];
/// How many of them may be backends, neighbours and translated sources.
const HONEST: usize = 9;
pub const PORTS: [u16; 8] = [40000, 80, 8080, 53, 40001, 443, 32768, 0];
pub const PROTOCOLS: [u8; 8] = [6, 17, 6, 1, 58, 132, 47, 4];
const FORWARDING: [Forwarding; 5] = [
    Forwarding::Dnat,
    Forwarding::Snat,
    Forwarding::Dsr(Dispatch::Option),
    Forwarding::Dsr(Dispatch::Geneve),
    Forwarding::Dsr(Dispatch::Ipip),
];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn host(text: &str) -> Prefix {
    let addr = ip(text);
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').expect("a prefix");
    Prefix { addr: ip(addr), len: len.parse().expect("a length") }
}

/// Tables, and the records that they were made of.
#[derive(Debug)]
pub struct World {
    pub tables: Tables,
    records: Records,
    first: Records,
}

thread_local! {
    /// Tables are dear to make; each life gives them back as it found them.
    static KEPT: Cell<Option<World>> = const { Cell::new(None) };
}

impl World {
    pub fn take() -> Self {
        KEPT.take().unwrap_or_else(|| {
            let changes = [network(), objects()].concat();
            let mut tables = Tables::default();
            tables.apply(&changes, None).expect("valid");
            let mut first = Records::new();
            merge(&mut first, &changes);
            Self { tables, records: first.clone(), first }
        })
    }

    /// All of it or nothing.
    pub fn apply(&mut self, changes: &[Change]) {
        let before = self.tables.generation;
        match self.tables.apply(changes, None) {
            Ok(()) => merge(&mut self.records, changes),
            Err(_) => assert_eq!(self.tables.generation, before, "a refused list changes nothing"),
        }
    }

    pub fn give_back(mut self) {
        let back = diff(&self.records, &self.first);
        self.tables.apply(&back, None).expect("every change can be taken back");
        self.records = self.first.clone();
        KEPT.set(Some(self));
    }
}

fn port(n: u8, vlan: u16, mtu: u16, addresses: [&str; 2]) -> Change {
    let port = Port {
        mac: [2, 0, 0, 0, 0, n],
        mtu,
        vlan,
        device: u16::from(n % 2),
        up: true,
        addresses: addresses.map(prefix).to_vec(),
    };
    Change::Port(PortId(u16::from(n)), Some(port))
}

/// Ports, routes and neighbours.
pub fn network() -> Vec<Change> {
    let mut changes = vec![
        port(0, 0, 1500, ["192.0.2.1/24", "2001:db8:1::1/64"]),
        port(1, 0, 1400, ["10.244.0.1/24", "2001:db8:2::1/64"]),
        port(2, 100, 1500, ["198.18.0.1/24", "2001:db8:3::1/64"]),
    ];
    let networks = [
        (0, "192.0.2.0/24"),
        (0, "2001:db8:1::/64"),
        (1, "10.244.0.0/24"),
        (1, "2001:db8:2::/64"),
        (2, "198.18.0.0/24"),
        (2, "2001:db8:3::/64"),
    ];
    for (port, network) in networks {
        changes.push(Change::Route(prefix(network), Some(Route::OnLink(PortId(port)))));
    }
    for own in ["192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:1::2", "10.244.0.1", "198.18.0.1"] {
        changes.push(Change::Route(host(own), Some(Route::Local)));
    }
    changes.push(Change::Route(prefix("198.19.0.0/16"), Some(Route::Blackhole)));
    let ports = [0, 0, 1, 1, 0, 2, 0];
    for (n, port) in ports.into_iter().enumerate() {
        for (family, list) in [V4, V6].iter().enumerate() {
            // The last of them is behind the first.
            let id = NextHopId((n * 2 + family) as u16);
            let mac = Some([2, 1, 0, 0, 0, n as u8]);
            let hop = NextHop { port: PortId(port), ip: ip(list[n % 6]), mac, mtu: [1500, 1400][n % 2] };
            changes.push(Change::NextHop(id, Some(hop)));
            if !list[n].contains("cafe") && list[n] != V4[1] {
                changes.push(Change::Route(host(list[n]), Some(Route::Via(vec![(id, 1)]))));
            }
        }
    }
    changes
}

/// Identities, policies and services.
pub fn objects() -> Vec<Change> {
    let client = Identity { number: 400, peer_sets: vec![PeerSetId(3)], ..Identity::default() };
    let backend =
        Identity { number: 500, ingress: Some(ClassId(1)), egress: Some(ClassId(2)), ..Identity::default() };
    let world = Identity { number: 2, world: true, ..Identity::default() };
    let allow = |proto, port, peers| PortRange {
        proto,
        first: port,
        last: port,
        entries: vec![PolicyEntry { peers, action: Action::Allow, rule: RuleId(7) }],
    };
    let ranges = vec![allow(6, 8080, PeerSetId(3)), allow(17, 8080, PeerSetId::ANY)];
    let guarded = ["10.244.0.0/24", "2001:db8:2::/64"].map(prefix).to_vec();
    let nat = ["192.0.2.2", "2001:db8:1::2"].map(ip).to_vec();
    let mut changes = vec![
        Change::Settings(Settings {
            guarded: guarded.clone(),
            snat_addresses: nat.clone(),
            masquerade: Masquerade {
                sources: guarded,
                exclude: vec![prefix("192.0.2.0/24")],
                addresses: nat,
            },
            ..Settings::default()
        }),
        Change::Class(ClassId(1), Some(PolicyClass { default_deny: true, audit: false, ranges })),
        Change::Class(ClassId(2), Some(PolicyClass::default())),
        Change::Identity(IdentitySlot(1), Some(client)),
        Change::Identity(IdentitySlot(2), Some(backend)),
        Change::Identity(IdentitySlot(3), Some(world)),
        Change::Address(prefix("0.0.0.0/0"), Some(IdentitySlot(3))),
        Change::Address(prefix("::/0"), Some(IdentitySlot(3))),
    ];
    for list in [V4, V6] {
        for (n, slot) in [(0, 1), (2, 2), (3, 2)] {
            changes.push(Change::Address(host(list[n]), Some(IdentitySlot(slot))));
        }
    }
    for (id, v4, proto) in [(1, true, 6), (2, false, 6), (3, true, 17), (4, false, 17)] {
        let list = if v4 { V4 } else { V6 };
        let backends = (0..2).map(|n| backend_record(n, list[2 + usize::from(n)], 8080)).collect();
        let service = Service { proto, reject: true, backends, ..Service::default() };
        changes.push(Change::Service(ServiceId(id), Some(service)));
        let key = FrontendKey { ip: ip(list[1]), port: 80, proto };
        changes.push(Change::Frontend(key, Some(frontend(Some(ServiceId(id))))));
    }
    changes
}

fn backend_record(n: u8, addr: &str, port: u16) -> Backend {
    let (id, ip) = (BackendId(u32::from(n)), ip(addr));
    Backend { id, ip, port, weight: 100, state: BackendState::Active, reach: Reach::Itself }
}

fn frontend(service: Option<ServiceId>) -> Frontend {
    Frontend {
        service,
        inside: None,
        cluster_only: false,
        source_ranges: Vec::new(),
        source_ranges_deny: false,
    }
}

fn someone(script: &mut Script<'_>, most: usize) -> &'static str {
    let list = script.pick(&[V4, V6]);
    script.pick(&list[..most])
}

/// Something changes: any record comes, goes or becomes another.
pub fn change(script: &mut Script<'_>) -> Change {
    let small = |script: &mut Script<'_>| u32::from(script.below(5));
    let there = !script.one_in(4);
    match script.below(9) {
        0 => Change::Identity(IdentitySlot(small(script)), there.then(|| identity(script))),
        1 => {
            let who = host(someone(script, V4.len()));
            Change::Address(who, there.then(|| IdentitySlot(small(script))))
        }
        2 => Change::Class(ClassId(small(script)), there.then(|| class(script))),
        3 => Change::Service(ServiceId(small(script)), there.then(|| service(script))),
        4 => {
            let (ip, port) = (ip(someone(script, V4.len())), script.pick(&PORTS));
            let key = FrontendKey { ip, port, proto: script.pick(&[6, 17, 132, 0]) };
            Change::Frontend(key, there.then(|| any_frontend(script)))
        }
        5 => Change::Settings(settings(script)),
        6 => {
            let id = PortId(u16::from(script.below(4)));
            let vlan = script.pick(&[0, 100, 101]);
            let Change::Port(_, port) = port(
                script.below(4),
                vlan,
                script.pick(&[1500, 1400, 1280]),
                ["192.0.2.1/24", "2001:db8:1::1/64"],
            ) else {
                return Change::Port(id, None);
            };
            Change::Port(id, port.filter(|_| there))
        }
        7 => {
            let id = NextHopId(u16::from(script.below(16)));
            let hop = NextHop {
                port: PortId(u16::from(script.below(4))),
                ip: ip(someone(script, HONEST)),
                mac: (!script.one_in(3)).then_some([2, 1, 0, 0, 0, 9]),
                mtu: script.pick(&[1500, 1400, 1280]),
            };
            Change::NextHop(id, there.then_some(hop))
        }
        _ => Change::Route(host(someone(script, V4.len())), there.then(|| route(script))),
    }
}

fn identity(script: &mut Script<'_>) -> Identity {
    let class =
        |script: &mut Script<'_>| script.pick(&[None, Some(ClassId(1)), Some(ClassId(2)), Some(ClassId(3))]);
    Identity {
        number: u32::from(script.byte()),
        egress: class(script),
        ingress: class(script),
        peer_sets: (0..u32::from(script.below(5))).map(PeerSetId).collect(),
        world: script.one_in(2),
    }
}

fn class(script: &mut Script<'_>) -> PolicyClass {
    let actions = [Action::Allow, Action::Deny, Action::Authenticate, Action::Dns(0), Action::Inspect(0)];
    let range = |script: &mut Script<'_>| {
        let first = script.pick(&PORTS);
        let entry = PolicyEntry {
            peers: script.pick(&[PeerSetId::ANY, PeerSetId(3), PeerSetId(1)]),
            action: script.pick(&actions),
            rule: RuleId(u32::from(script.byte())),
        };
        let last = first.saturating_add(u16::from(script.byte()));
        PortRange { proto: script.pick(&[6, 17, 1, 58, 256]), first, last, entries: vec![entry] }
    };
    let mut ranges: Vec<_> = (0..script.below(4)).map(|_| range(script)).collect();
    ranges.sort_by_key(|range| (range.proto, range.first));
    PolicyClass { default_deny: script.one_in(2), audit: script.one_in(3), ranges }
}

fn service(script: &mut Script<'_>) -> Service {
    use BackendState::{Active, Kept, Maintenance, Quarantined, Terminating};
    let backend = |n: u8, script: &mut Script<'_>| Backend {
        state: script.pick(&[Active, Active, Terminating, Quarantined, Maintenance, Kept]),
        weight: script.pick(&[100, 0, 1]),
        reach: match script.below(4) {
            0 => Reach::Here,
            1 => Reach::By(ip(someone(script, HONEST))),
            _ => Reach::Itself,
        },
        ..backend_record(n, someone(script, HONEST), script.pick(&PORTS))
    };
    Service {
        proto: script.pick(&[6, 17, 132]),
        algorithm: script.pick(&[Algorithm::Random, Algorithm::Random, Algorithm::Maglev(251)]),
        forwarding: script.pick(&FORWARDING),
        affinity_seconds: script.pick(&[0, 0, 10]),
        reject: script.one_in(2),
        backends: (0..script.below(4)).map(|n| backend(n, script)).collect(),
    }
}

fn any_frontend(script: &mut Script<'_>) -> Frontend {
    let service = |script: &mut Script<'_>| {
        script.pick(&[Some(ServiceId(1)), Some(ServiceId(2)), Some(ServiceId(3)), None])
    };
    Frontend {
        inside: service(script),
        cluster_only: script.one_in(4),
        source_ranges: if script.one_in(3) { vec![host(someone(script, HONEST))] } else { Vec::new() },
        source_ranges_deny: script.one_in(2),
        ..frontend(service(script))
    }
}

fn settings(script: &mut Script<'_>) -> Settings {
    let some = |script: &mut Script<'_>, text: [&str; 2]| {
        text[..usize::from(script.below(3))].iter().map(|t| ip(t)).collect()
    };
    let nat = ["192.0.2.2", "2001:db8:1::2"];
    let settings = Settings {
        snat_addresses: some(script, nat),
        // Few ports, so that they run out.
        snat_ports: script.pick(&[(32768, 65535), (32768, 32771), (32768, 32768)]),
        masquerade: Masquerade {
            sources: vec![prefix("10.244.0.0/24"), prefix("2001:db8:2::/64")],
            exclude: Vec::new(),
            addresses: some(script, nat),
        },
        workers: 1 + script.below(3),
        tunnel_sources: if script.one_in(3) { vec![prefix("198.18.9.0/24")] } else { Vec::new() },
        tunnels: if script.one_in(2) { tunnels() } else { Ends::default() },
        clamp_mss: script.one_in(2),
        guarded: if script.one_in(2) {
            vec![prefix("10.244.0.0/24")]
        } else {
            vec![prefix("2001:db8:2::/64")]
        },
        ..Settings::default()
    };
    // No throw of its own: scripts that are kept mean what they meant.
    Settings { deny_response: settings.clamp_mss, ..settings }
}

/// Another gateway's tunnels end at a backend or at us.
fn tunnels() -> Ends {
    Ends {
        addresses: ["10.244.0.0/24", "192.0.2.1/32", "2001:db8:2::/64"].map(prefix).to_vec(),
        peers: ["192.0.2.12/32", "198.18.0.5/32", "2001:db8:1::12/128"].map(prefix).to_vec(),
    }
}

fn route(script: &mut Script<'_>) -> Route {
    let hop = |script: &mut Script<'_>| (NextHopId(u16::from(script.below(16))), u16::from(script.byte()));
    match script.below(6) {
        0 => Route::OnLink(PortId(u16::from(script.below(4)))),
        1 => Route::Local,
        2 => Route::Unreachable,
        3 => Route::Blackhole,
        4 => Route::Via(vec![hop(script), hop(script)]),
        _ => Route::Via(vec![hop(script)]),
    }
}
