//! The tables that packets of a scenario meet: ports, routes, next hops, identities, policies, services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_core::packet::PortId;
use sluice_core::tables::Tables;
use sluice_core::tables::record::*;
use sluice_core::verdict::{Action, NextHopId};

use crate::args::{PathArgs, Scenario};
use crate::random::Random;

/// Clients come in by this port, servers are behind that one.
pub(crate) const CLIENTS: PortId = PortId(0);
pub(crate) const SERVERS: PortId = PortId(1);
pub(crate) const CLIENT_VLAN: u16 = 100;
const SERVER_VLAN: u16 = 200;
pub(crate) const BACKENDS: u32 = 16;
pub(crate) const SERVICE_PORT: u16 = 80;
const SERVER_PORT: u16 = 8080;
/// Identities of clients, a /14 each.
const CLIENT_IDENTITIES: u32 = 64;
const HOPS: u16 = 8;
const EVERYBODY: PeerSetId = PeerSetId(600);

/// An address of the family: 10.0.0.0/8 holds clients, 10.n for n over 100 servers.
fn address(ipv6: bool, v4: [u8; 4]) -> IpAddr {
    if ipv6 {
        let [a, b, c, d] = v4.map(u16::from);
        Ipv6Addr::new(0x2001, 0xdb8, a, b, 0, 0, c << 8 | d, 1).into()
    } else {
        Ipv4Addr::from(v4).into()
    }
}

/// Flow n's client.
pub(crate) fn client(ipv6: bool, n: u32) -> IpAddr {
    let [_, b, c, d] = n.to_be_bytes();
    address(ipv6, [10, b, c, d])
}

pub(crate) fn vip(ipv6: bool, n: u32) -> IpAddr {
    let [.., c, d] = n.to_be_bytes();
    address(ipv6, [198, 18, c, d])
}

/// Server n of all servers.
pub(crate) fn server(ipv6: bool, n: u32) -> IpAddr {
    let [_, b, c, d] = n.to_be_bytes();
    address(ipv6, [172, 16 + b, c, d])
}

/// The prefix of this IPv4 length, or the one that holds the same octets in IPv6.
fn prefix(ipv6: bool, v4: [u8; 4], len: u8) -> Prefix {
    let len = match len {
        len if !ipv6 => len,
        // 2001:db8, then a word for each of the first two octets, then two words of nothing.
        0..=8 => 32 + 8 + len,
        9..=16 => 48 + len,
        _ => 80 + len,
    };
    Prefix { addr: cut(address(ipv6, v4), len), len }
}

fn cut(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V6(ip) => (ip.to_bits() & (u128::MAX << (128 - u32::from(len)))).to_be_bytes().into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Somebody else's prefix, of the lengths that such prefixes have.
fn elsewhere(ipv6: bool, random: &mut Random) -> Prefix {
    let [a, b, c, d, ..] = random.next().to_be_bytes();
    if !ipv6 {
        return prefix(false, [20 + a % 80, b, c, 0], 24);
    }
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let ip = Ipv6Addr::new(word(0x24 + a % 6, a), word(b, c), word(c, d), 0, 0, 0, 0, 0);
    let len = [48, 48, 48, 32, 44, 40, 36, 64][usize::from(d % 8)];
    Prefix { addr: cut(ip.into(), len), len }
}

fn host(addr: IpAddr) -> Prefix {
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

/// Everything for the scenario.
pub(crate) fn tables(args: &PathArgs) -> anyhow::Result<Tables> {
    let mut changes = network(args);
    if args.scenario != Scenario::Forward && args.scenario != Scenario::Lb {
        changes.extend(policies(args));
    }
    if matches!(args.scenario, Scenario::Lb | Scenario::Gateway | Scenario::New) {
        changes.extend(services(args));
    }
    let mut tables = Tables::default();
    tables.apply(&changes, None)?;
    Ok(tables)
}

fn network(args: &PathArgs) -> Vec<Change> {
    let port = |n: u8, vlan: u16| Port {
        mac: [2, 0, 0, 0, 0, n],
        mtu: 1500,
        vlan: if args.vlan { vlan } else { 0 },
        device: u16::from(n),
        up: true,
        addresses: Vec::new(),
    };
    let mut changes = vec![
        Change::Port(CLIENTS, Some(port(0, CLIENT_VLAN))),
        Change::Port(SERVERS, Some(port(1, SERVER_VLAN))),
    ];
    for n in 0..2 * HOPS {
        let hop = NextHop {
            port: if n < HOPS { CLIENTS } else { SERVERS },
            ip: address(args.ipv6, [192, 0, 2, n.to_le_bytes()[0]]),
            mac: Some([2, 1, 0, 0, 0, n.to_le_bytes()[0]]),
            mtu: 1500,
        };
        changes.push(Change::NextHop(NextHopId(n), Some(hop)));
    }
    let ways = |from: u16| Some(Route::Via((from..from + HOPS).map(|n| (NextHopId(n), 1)).collect()));
    changes.push(Change::Route(prefix(args.ipv6, [10, 0, 0, 0], 8), ways(0)));
    changes.push(Change::Route(prefix(args.ipv6, [172, 16, 0, 0], 12), ways(HOPS)));
    let mut random = Random::new(1);
    for n in 0..args.prefixes {
        let hop = NextHopId(u16::from(n.to_le_bytes()[0]) % HOPS);
        changes.push(Change::Route(elsewhere(args.ipv6, &mut random), Some(Route::Via(vec![(hop, 1)]))));
    }
    changes.push(Change::Settings(Settings {
        guarded: vec![prefix(args.ipv6, [172, 16, 0, 0], 12)],
        ..Settings::default()
    }));
    changes
}

/// Clients by prefix, servers by address; servers are judged when asked, clients when asking (`policy` only).
fn policies(args: &PathArgs) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut random = Random::new(2);
    for id in 0..args.policies {
        changes.push(Change::Class(ClassId(id), Some(class(&mut random))));
    }
    let sets = |n: u32| (0..12).map(|set| PeerSetId(set * 37 + n % 5)).chain([EVERYBODY]).collect();
    for n in 0..CLIENT_IDENTITIES {
        let slot = IdentitySlot(n + 1);
        let egress = (args.scenario == Scenario::Policy).then_some(ClassId(n % args.policies));
        let identity = Identity { number: 1000 + n, egress, peer_sets: sets(n), ..Identity::default() };
        changes.push(Change::Identity(slot, Some(identity)));
        let octet = n.to_le_bytes()[0] * 4;
        changes.push(Change::Address(prefix(args.ipv6, [10, octet, 0, 0], 14), Some(slot)));
    }
    for n in 0..args.policies {
        let identity = Identity {
            number: 2000 + n,
            ingress: Some(ClassId(n)),
            peer_sets: sets(n),
            ..Identity::default()
        };
        changes.push(Change::Identity(IdentitySlot(CLIENT_IDENTITIES + 1 + n), Some(identity)));
    }
    for n in 0..args.services * BACKENDS {
        let slot = IdentitySlot(CLIENT_IDENTITIES + 1 + n % args.policies);
        changes.push(Change::Address(host(server(args.ipv6, n)), Some(slot)));
    }
    for n in 0..args.prefixes {
        let slot = IdentitySlot(n % CLIENT_IDENTITIES + 1);
        changes.push(Change::Address(elsewhere(args.ipv6, &mut random), Some(slot)));
    }
    changes
}

/// Ten ranges a protocol of six entries; the fifth lets everybody in.
fn class(random: &mut Random) -> PolicyClass {
    let entry = |set: PeerSetId| PolicyEntry { peers: set, action: Action::Allow, rule: RuleId(set.0 + 1) };
    let mut ranges = Vec::new();
    for proto in [6, 17] {
        for port in [80, 443, 5432, 6379, SERVER_PORT, 8443, 9090, 9092, 9100, 10250] {
            let mut entries: Vec<PolicyEntry> =
                (0..6).map(|_| entry(PeerSetId(EVERYBODY.0 + 1 + random.below(100)))).collect();
            entries[4] = entry(EVERYBODY);
            ranges.push(PortRange { proto, first: port, last: port, entries });
        }
    }
    PolicyClass { default_deny: true, audit: false, ranges }
}

fn services(args: &PathArgs) -> Vec<Change> {
    let proto = if args.udp { 17 } else { 6 };
    (0..args.services)
        .flat_map(|n| {
            let service = Service {
                proto,
                algorithm: Algorithm::Maglev(16381),
                backends: (0..BACKENDS).map(|b| backend(args.ipv6, n * BACKENDS + b)).collect(),
                ..Service::default()
            };
            let key = FrontendKey { ip: vip(args.ipv6, n), port: SERVICE_PORT, proto };
            let frontend = Frontend {
                service: Some(ServiceId(n)),
                inside: None,
                cluster_only: false,
                source_ranges: Vec::new(),
                source_ranges_deny: false,
            };
            [Change::Service(ServiceId(n), Some(service)), Change::Frontend(key, Some(frontend))]
        })
        .collect()
}

fn backend(ipv6: bool, n: u32) -> Backend {
    let (ip, state) = (server(ipv6, n), BackendState::Active);
    Backend {
        id: BackendId(n % BACKENDS + 1),
        ip,
        port: SERVER_PORT,
        weight: 100,
        state,
        reach: Reach::Itself,
    }
}

/// Whom flow n talks to: a service, or the server itself.
pub(crate) fn target(args: &PathArgs, n: u32) -> (IpAddr, u16) {
    match args.scenario {
        Scenario::Forward | Scenario::Policy => {
            (server(args.ipv6, n % (args.services * BACKENDS)), SERVER_PORT)
        }
        Scenario::Lb | Scenario::Gateway | Scenario::New => (vip(args.ipv6, n % args.services), SERVICE_PORT),
    }
}
