//! The records as plain maps: what a list of changes leaves, whether it may be made at all, and what tables that hold
//! it answer to a fixed set of questions.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::tables::Tables;
use sluice_core::tables::record::*;
use sluice_core::tables::service::Match;
use sluice_core::verdict::{Action, NextHopId};

pub fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, n])
}

pub fn vip() -> IpAddr {
    IpAddr::from([203, 0, 113, 1])
}

pub fn nat_address() -> IpAddr {
    IpAddr::from([192, 0, 2, 2])
}

fn backend(n: u8) -> Backend {
    let id = BackendId(u32::from(n));
    Backend { id, ip: address(n), port: 8080, weight: 100, state: BackendState::Active, reach: Reach::Itself }
}

fn service(backends: impl IntoIterator<Item = u8>) -> Service {
    Service {
        proto: 6,
        algorithm: Algorithm::Maglev(251),
        backends: backends.into_iter().map(backend).collect(),
        ..Service::default()
    }
}

/// One service with half of the addresses behind it.
pub fn balanced(workers: u8) -> Tables {
    let mut tables = Tables::default();
    let settings = Settings { snat_addresses: vec![nat_address()], workers, ..Settings::default() };
    let frontend = Frontend {
        service: Some(ServiceId(1)),
        inside: None,
        cluster_only: false,
        source_ranges: Vec::new(),
        source_ranges_deny: false,
    };
    let changes = [
        Change::Settings(settings),
        Change::Service(ServiceId(1), Some(service(0..20))),
        Change::Frontend(FrontendKey { ip: vip(), port: 80, proto: 6 }, Some(frontend)),
    ];
    tables.apply(&changes, None).unwrap();
    tables
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    identities: BTreeMap<IdentitySlot, Identity>,
    addresses: BTreeMap<Prefix, IdentitySlot>,
    classes: BTreeMap<ClassId, PolicyClass>,
    services: BTreeMap<ServiceId, Service>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    settings: Settings,
    ports: BTreeMap<PortId, Port>,
    hops: BTreeMap<NextHopId, NextHop>,
    routes: BTreeMap<Prefix, Route>,
}

fn put<K: Ord + Copy, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => map.insert(*key, value.clone()),
        None => map.remove(key),
    };
}

impl Model {
    /// What is left after this list; `None` if it must be refused.
    pub fn after(&self, list: &[Change]) -> Option<Self> {
        let mut next = self.clone();
        for change in list {
            match change {
                Change::Identity(slot, identity) => put(&mut next.identities, slot, identity.as_ref()),
                Change::Address(prefix, slot) | Change::Learned(prefix, slot) => {
                    put(&mut next.addresses, prefix, slot.as_ref())
                }
                Change::Class(id, class) => put(&mut next.classes, id, class.as_ref()),
                Change::Service(id, service) => put(&mut next.services, id, service.as_ref()),
                Change::Frontend(key, frontend) => put(&mut next.frontends, key, frontend.as_ref()),
                Change::Exposed(..) | Change::Probe(..) | Change::Egress(..) => {}
                Change::Settings(settings) => next.settings = settings.clone(),
                Change::Port(id, port) => put(&mut next.ports, id, port.as_ref()),
                Change::NextHop(id, hop) => put(&mut next.hops, id, hop.as_ref()),
                Change::Route(prefix, route) => put(&mut next.routes, prefix, route.as_ref()),
                Change::Pattern(..) | Change::DnsRules(..) | Change::Named(..) => {}
            }
        }
        (list.iter().all(|change| next.bears(change)) && next.is_whole()).then_some(next)
    }

    /// Is this change right in itself, and is what it refers to there?
    fn bears(&self, change: &Change) -> bool {
        let class = |id: Option<ClassId>| id.is_none_or(|id| self.classes.contains_key(&id));
        match change {
            Change::Identity(slot, identity) => {
                slot.0 != 0 && identity.as_ref().is_none_or(|i| class(i.egress) && class(i.ingress))
            }
            Change::Address(prefix, slot) | Change::Learned(prefix, slot) => {
                proper(prefix) && slot.is_none_or(|slot| slot.0 == 0 || self.identities.contains_key(&slot))
            }
            Change::Route(prefix, route) => {
                proper(prefix)
                    && match route {
                        Some(Route::Via(ways)) => ways.iter().all(|(id, _)| self.hops.contains_key(id)),
                        Some(Route::OnLink(port)) => self.ports.contains_key(port),
                        _ => true,
                    }
            }
            Change::Frontend(_, frontend) => {
                let id = frontend.as_ref().and_then(|frontend| frontend.service);
                id.is_none_or(|id| self.services.contains_key(&id))
            }
            Change::NextHop(_, hop) => hop.is_none_or(|hop| self.ports.contains_key(&hop.port)),
            Change::Service(_, service) => {
                service.as_ref().is_none_or(|s| s.algorithm != Algorithm::Maglev(250))
            }
            Change::Settings(settings) => settings.workers > 0,
            Change::Class(..)
            | Change::Port(..)
            | Change::Exposed(..)
            | Change::Egress(..)
            | Change::Probe(..)
            | Change::Pattern(..)
            | Change::DnsRules(..)
            | Change::Named(..) => true,
        }
    }

    /// Does everything that is bound have what it needs?
    fn is_whole(&self) -> bool {
        let class = |id: Option<ClassId>| id.is_none_or(|id| self.classes.contains_key(&id));
        self.addresses.values().all(|slot| slot.0 == 0 || self.identities.contains_key(slot))
            && self.identities.values().all(|i| class(i.egress) && class(i.ingress))
            && self
                .frontends
                .values()
                .flat_map(|f| [f.service, f.inside])
                .flatten()
                .all(|id| self.services.contains_key(&id))
    }

    /// Tables that hold this, built in one go. Ways that lead nowhere need something to lead to while they are made.
    pub fn build(&self) -> Tables {
        let hops: BTreeSet<NextHopId> = self.routes.values().flat_map(ways).map(|(id, _)| id).collect();
        let ports = self.hops.values().map(|hop| hop.port).chain(self.routes.values().filter_map(on_link));
        let ports: BTreeSet<PortId> = ports.chain([PortId(0)]).collect();
        let missing_ports: Vec<PortId> =
            ports.into_iter().filter(|id| !self.ports.contains_key(id)).collect();
        let missing_hops: Vec<NextHopId> =
            hops.into_iter().filter(|id| !self.hops.contains_key(id)).collect();
        let hop = NextHop { port: PortId(0), ip: address(0), mac: None, mtu: 0 };
        let mut changes = self.changes();
        changes.extend(missing_ports.iter().map(|id| Change::Port(*id, Some(Port::default()))));
        changes.extend(missing_hops.iter().map(|id| Change::NextHop(*id, Some(hop))));
        let mut tables = Tables::default();
        tables.apply(&changes, None).unwrap();
        let ports = missing_ports.iter().map(|id| Change::Port(*id, None));
        let hops = missing_hops.iter().map(|id| Change::NextHop(*id, None));
        tables.apply(&ports.chain(hops).collect::<Vec<_>>(), None).unwrap();
        tables
    }

    fn changes(&self) -> Vec<Change> {
        let mut list = vec![Change::Settings(self.settings.clone())];
        list.extend(self.addresses.iter().map(|(k, v)| Change::Address(*k, Some(*v))));
        list.extend(self.identities.iter().map(|(k, v)| Change::Identity(*k, Some(v.clone()))));
        list.extend(self.classes.iter().map(|(k, v)| Change::Class(*k, Some(v.clone()))));
        list.extend(self.frontends.iter().map(|(k, v)| Change::Frontend(*k, Some(v.clone()))));
        list.extend(self.services.iter().map(|(k, v)| Change::Service(*k, Some(v.clone()))));
        list.extend(self.ports.iter().map(|(k, v)| Change::Port(*k, Some(v.clone()))));
        list.extend(self.hops.iter().map(|(k, v)| Change::NextHop(*k, Some(*v))));
        list.extend(self.routes.iter().map(|(k, v)| Change::Route(*k, Some(v.clone()))));
        list
    }
}

fn ways(route: &Route) -> Vec<(NextHopId, u16)> {
    if let Route::Via(ways) = route { ways.clone() } else { Vec::new() }
}

fn on_link(route: &Route) -> Option<PortId> {
    if let Route::OnLink(port) = route { Some(*port) } else { None }
}

fn proper(prefix: &Prefix) -> bool {
    let IpAddr::V4(ip) = prefix.addr else { return prefix.len <= 128 };
    prefix.len <= 32 && (prefix.len == 32 || ip.to_bits() & (u32::MAX >> prefix.len) == 0)
}

/// Nested prefixes, hosts, a family each; the last two are none (host bits, length).
fn prefixes() -> impl Strategy<Value = Prefix> {
    let good = [
        ("0.0.0.0", 0),
        ("10.0.0.0", 8),
        ("10.9.0.0", 16),
        ("10.9.0.0", 28),
        ("10.9.0.1", 32),
        ("10.9.0.2", 32),
        ("::", 0),
        ("2001:db8::", 32),
        ("2001:db8::1", 128),
    ];
    let bad = [("10.9.0.1", 24), ("10.0.0.0", 33)];
    let parse = |(addr, len): &(&str, u8)| Prefix { addr: addr.parse().unwrap(), len: *len };
    let good: Vec<Prefix> = good.iter().map(parse).collect();
    let bad: Vec<Prefix> = bad.iter().map(parse).collect();
    prop_oneof![60 => select(good), 1 => select(bad)]
}

fn some<T: core::fmt::Debug + Clone>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.75, of)
}

fn identity() -> impl Strategy<Value = Identity> {
    let class = || prop::option::of((0..3_u32).prop_map(ClassId));
    let sets = prop::collection::btree_set(select(vec![0_u32, 127, 128, 300, 4000]), 0..4);
    (400..500_u32, class(), class(), sets, any::<bool>()).prop_map(
        |(number, egress, ingress, sets, world)| Identity {
            number,
            egress,
            ingress,
            peer_sets: sets.into_iter().map(PeerSetId).collect(),
            world,
        },
    )
}

fn class() -> impl Strategy<Value = PolicyClass> {
    let entry =
        (select(vec![0_u32, 128, u32::MAX]), any::<bool>(), 1..50_u32).prop_map(|(set, allow, rule)| {
            let action = if allow { Action::Allow } else { Action::Deny };
            PolicyEntry { peers: PeerSetId(set), action, rule: RuleId(rule) }
        });
    let entries = prop::collection::vec(entry, 0..3);
    (any::<bool>(), any::<bool>(), entries).prop_map(|(default_deny, audit, entries)| PolicyClass {
        default_deny,
        audit,
        ranges: vec![PortRange { proto: 6, first: 80, last: 90, entries }],
    })
}

fn services() -> impl Strategy<Value = Service> {
    let algorithm = prop_oneof![
        10 => Just(Algorithm::Random),
        10 => Just(Algorithm::Maglev(251)),
        1 => Just(Algorithm::Maglev(250)),
    ];
    let how = [Forwarding::Snat, Forwarding::Dnat, Forwarding::Dsr(Dispatch::Geneve)];
    let how = select(how.to_vec());
    let backends = prop::collection::btree_set(0..6_u8, 0..5);
    (algorithm, how, backends).prop_map(|(algorithm, forwarding, backends)| Service {
        algorithm,
        forwarding,
        ..service(backends)
    })
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let ranges = prop::collection::vec(prefixes().prop_filter("proper", proper), 0..2);
    let scopes = (prop::option::of(0..3_u32), prop::option::weighted(0.2, 0..3_u32));
    (scopes, any::<bool>(), ranges, any::<bool>()).prop_map(
        |((id, inside), cluster_only, source_ranges, source_ranges_deny)| Frontend {
            service: id.map(ServiceId),
            inside: inside.map(ServiceId),
            cluster_only,
            source_ranges,
            source_ranges_deny,
        },
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    let list = || prop::collection::vec(prefixes().prop_filter("proper", proper), 0..3);
    let workers = prop_oneof![20 => 1..4_u8, 1 => Just(0)];
    (list(), list(), list(), workers, 0..2_u32, any::<bool>()).prop_map(
        |(sources, exclude, guarded, workers, seed, pool)| Settings {
            snat_addresses: vec![nat_address()],
            masquerade: Masquerade {
                sources,
                exclude,
                addresses: if pool { vec![nat_address(), address(99)] } else { Vec::new() },
            },
            workers,
            guarded,
            hash_seed: [seed, 1, 2],
            ..Settings::default()
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    prop_oneof![
        4 => prop::collection::vec(((0..4_u16).prop_map(NextHopId), 0..5_u16), 0..4).prop_map(Route::Via),
        2 => (0..3_u16).prop_map(|port| Route::OnLink(PortId(port))),
        1 => select(vec![Route::Local, Route::Unreachable, Route::Blackhole]),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let slot = || prop_oneof![30 => 1..4_u32, 1 => Just(0)].prop_map(IdentitySlot);
    let key = (select(vec![vip(), address(1)]), select(vec![0_u16, 80]), select(vec![0_u8, 6]))
        .prop_map(|(ip, port, proto)| FrontendKey { ip, port, proto });
    let port = (any::<u8>(), 0..2_u16).prop_map(|(n, vlan)| Port {
        mac: [n; 6],
        mtu: 1500,
        vlan,
        device: 0,
        up: true,
        addresses: vec![Prefix { addr: address(n), len: 24 }],
    });
    let hop = (0..3_u16, 0..9_u8).prop_map(|(port, n)| NextHop {
        port: PortId(port),
        ip: address(n),
        mac: (n > 2).then_some([n; 6]),
        mtu: 1500,
    });
    prop_oneof![
        4 => (slot(), some(identity())).prop_map(|(k, v)| Change::Identity(k, v)),
        4 => (prefixes(), some(slot())).prop_map(|(k, v)| Change::Address(k, v)),
        3 => ((0..3_u32).prop_map(ClassId), some(class())).prop_map(|(k, v)| Change::Class(k, v)),
        3 => ((0..3_u32).prop_map(ServiceId), some(services())).prop_map(|(k, v)| Change::Service(k, v)),
        3 => (key, some(frontend())).prop_map(|(k, v)| Change::Frontend(k, v)),
        1 => settings().prop_map(Change::Settings),
        2 => ((0..3_u16).prop_map(PortId), some(port)).prop_map(|(k, v)| Change::Port(k, v)),
        2 => ((0..4_u16).prop_map(NextHopId), some(hop)).prop_map(|(k, v)| Change::NextHop(k, v)),
        4 => (prefixes(), some(route())).prop_map(|(k, v)| Change::Route(k, v)),
    ]
}

/// Short lists, so that many are good; some begin with one of everything, so that references find something.
pub fn change_list() -> impl Strategy<Value = Vec<Change>> {
    let everything = (identity(), class(), services()).prop_map(|(identity, class, service)| {
        let mut list = Vec::new();
        for n in 0..3 {
            list.push(Change::Class(ClassId(n), Some(class.clone())));
            list.push(Change::Identity(IdentitySlot(n + 1), Some(identity.clone())));
            list.push(Change::Port(PortId(n as u16), Some(Port::default())));
            let usual = Service { algorithm: Algorithm::Maglev(251), ..service.clone() };
            list.push(Change::Service(ServiceId(n), Some(usual)));
        }
        list.extend((0..4).map(|n| {
            let hop = NextHop { port: PortId(n % 3), ip: address(1), mac: None, mtu: 1500 };
            Change::NextHop(NextHopId(n), Some(hop))
        }));
        list
    });
    (prop::option::weighted(0.3, everything), prop::collection::vec(change(), 0..5))
        .prop_map(|(first, rest)| first.into_iter().flatten().chain(rest).collect())
}

/// Answers to a fixed set of questions that touch every table.
pub fn observe(tables: &Tables) -> Vec<String> {
    let asked = ["10.9.0.1", "10.9.0.2", "10.9.0.15", "10.9.0.16", "10.9.1.0", "10.1.1.1", "11.0.0.1"];
    let asked = asked.iter().chain(&["2001:db8::1", "2001:db8::2", "2001:db9::"]);
    let asked: Vec<IpAddr> = asked.map(|ip| ip.parse().unwrap()).chain([vip(), nat_address()]).collect();
    let mut answers = vec![format!(
        "{:?}",
        (
            (tables.ipcache.addresses(), tables.ipcache.identities(), tables.routing.routes()),
            (tables.policies.classes(), tables.policies.entries(), tables.services.len()),
            (tables.services.any_snat(), &tables.settings),
        )
    )];
    for ip in &asked {
        answers.push(of_address(tables, *ip));
        answers.push(of_route(tables, *ip));
        answers.push(of_key(tables, *ip, vip()));
        answers.push(of_key(tables, *ip, address(1)));
    }
    for id in 0..3 {
        let built = tables.services.service(ServiceId(id));
        let row = built.map(|s| s.row().map(|b| b.id.0).collect::<Vec<_>>());
        let ids = built.map(|s| (0..6).map(|n| s.backend(BackendId(n)).is_some()).collect::<Vec<_>>());
        answers.push(format!("service {id}: {:?} {row:?} {ids:?}", built.map(|s| &s.record)));
        answers.push(format!("port {id}: {:?}", tables.routing.port(PortId(id as u16))));
    }
    answers.push(format!("{:?}", [0, 1].map(|vlan| tables.routing.find_port(0, vlan))));
    answers.push(format!("{:?}", [0, 1, 2, 3].map(|n| tables.routing.hop(NextHopId(n)))));
    answers.push(format!("{:?}", [0, 1, 2, 3].map(|n| tables.routing.adjacency(NextHopId(n)))));
    answers
}

fn of_address(tables: &Tables, ip: IpAddr) -> String {
    let (key, v4) = (mapped(ip), ip.is_ipv4());
    let row = tables.ipcache.lookup(key, v4);
    let sets = [0, 127, 128, 300, 4000, u32::MAX].map(|set| row.in_set(PeerSetId(set)));
    let other = tables.ipcache.lookup(mapped(address(1)), true);
    let decide = |class, port| tables.policies.decide(class, other, 6, port);
    format!(
        "{ip}: {:?} {sets:?} {:?} {:?}",
        (row.number, row.egress, row.ingress, row.world),
        [decide(row.egress, 80), decide(row.ingress, 80), decide(row.ingress, 91)],
        (tables.guarded.contains(key, v4), tables.egress.is_nat_address(key)),
    )
}

fn of_route(tables: &Tables, ip: IpAddr) -> String {
    let (key, v4, routing) = (mapped(ip), ip.is_ipv4(), &tables.routing);
    let routes = (0..16_u32).map(|n| routing.route(key, v4, n << 28 | n)).collect::<Vec<_>>();
    let by = [0, 1, 2].map(|port| routing.comes_by(key, v4, PortId(port)));
    format!("{ip}: {routes:?} {by:?} {}", routing.is_reachable(key, v4))
}

fn of_key(tables: &Tables, src: IpAddr, dst: IpAddr) -> String {
    let mut answers = Vec::new();
    for (dport, proto) in [(80, 6), (0, 0), (81, 6), (8080, 6)] {
        let (src, dst) = (mapped(src), mapped(dst));
        let v4 = src.to_ipv4_mapped().is_some();
        let key = FlowKey { src, dst, sport: 1000, dport, proto, v4 };
        let found = match tables.services.lookup(&key, tables.ipcache.lookup(key.src, v4)) {
            Match::None => "none".into(),
            Match::Refused(reason) => format!("{reason:?}"),
            Match::Service(id, service) => {
                let hash = tables.services.hash(&key, false);
                format!("{id:?} {hash} {:?}", service.pick(hash))
            }
        };
        let services = &tables.services;
        let known = (
            services.is_frontend(&key),
            services.is_frontend_address(dst),
            services.is_backend(dst, dport, proto),
        );
        let out = (tables.egress.masquerade(src, dst, v4), tables.egress.service_source(src, v4));
        answers.push(format!("{found} {known:?} {out:?} {:?}", tables.owner(&key)));
    }
    format!("{src} to {dst}: {answers:?}")
}
