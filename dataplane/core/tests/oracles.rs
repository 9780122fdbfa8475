//! Every table beside its slow, obvious twin, on random contents: what the path looks up is what the records say.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod model;

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;

use model::{Model, address, change_list, observe};
use proptest::prelude::*;
use proptest::sample::Index;
use sluice_core::emit::mapped;
use sluice_core::flow_key::FlowKey;
use sluice_core::tables::Tables;
use sluice_core::tables::lpm::Lpm;
use sluice_core::tables::maglev::{self, DEFAULT_SEEDS};
use sluice_core::tables::record::*;
use sluice_core::tables::service::Match;
use sluice_core::verdict::{Action, WorkerId};

/// Peer sets around the borders of what a row holds in its words.
const SETS: [u32; 12] = [0, 1, 62, 63, 64, 126, 127, 128, 129, 190, 191, 4000];

/// A prefix from a small world, so that they nest and collide: few values in each byte, all lengths.
fn prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (prop::array::uniform4(prop::sample::select(vec![0, 1, 10, 128, 255])), 0..=32_u8)
        .prop_map(|(o, len)| (IpAddr::from(o), len));
    let v6 = (prop::array::uniform16(prop::sample::select(vec![0, 1, 0x20, 0xff])), 0..=128_u8)
        .prop_map(|(o, len)| (IpAddr::from(o), len));
    prop_oneof![v4, v6].prop_map(|(addr, len)| cut(addr, len))
}

/// A prefix of one provider, two sites of it, and a link of one: so many lie behind the same sixteen or 64 bits that they
/// are kept in another way than few are, and few enough again when some have gone.
fn crowded() -> impl Strategy<Value = Prefix> {
    (prop::array::uniform3(any::<u16>()), any::<bool>(), any::<bool>(), 30..=100_u8).prop_map(
        |([a, b, c], other_site, own_link, len)| {
            let site = if len < 48 { a } else { u16::from(other_site) };
            let link = if len <= 64 || own_link { b } else { 7 };
            cut(Ipv6Addr::new(0x2001, 0xdb8, site, link, c, a, b, c).into(), len)
        },
    )
}

/// The prefix of this length that holds the address.
fn cut(addr: IpAddr, len: u8) -> Prefix {
    let addr = match addr {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::from((ip.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::from((ip.to_bits() & mask).to_be_bytes())
        }
    };
    Prefix { addr, len }
}

fn holds(prefix: &Prefix, ip: IpAddr) -> bool {
    prefix.addr.is_ipv4() == ip.is_ipv4() && cut(ip, prefix.len) == *prefix
}

/// Addresses worth asking about: both ends of a prefix and just outside of it.
fn edges(prefix: &Prefix) -> Vec<IpAddr> {
    match prefix.addr {
        IpAddr::V4(ip) => {
            let (first, host) = (ip.to_bits(), u32::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0));
            [first, first | host, first.wrapping_sub(1), (first | host).wrapping_add(1)]
                .map(|bits| IpAddr::from(bits.to_be_bytes()))
                .to_vec()
        }
        IpAddr::V6(ip) => {
            let (first, host) = (ip.to_bits(), u128::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0));
            [first, first | host, first.wrapping_sub(1), (first | host).wrapping_add(1)]
                .map(|bits| IpAddr::from(bits.to_be_bytes()))
                .to_vec()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Insertions and removals in any order: the longest prefix that holds an address wins, found by looking at all.
    #[test]
    fn lpm_agrees_with_looking_at_every_prefix(
        steps in prop::collection::vec(
            (prop_oneof![prefix(), crowded()], any::<Index>(), prop::option::weighted(0.7, 0..1000_u32)),
            1..200,
        ),
    ) {
        let mut lpm = Lpm::new();
        let mut list: BTreeMap<Prefix, u32> = BTreeMap::new();
        let mut asked: Vec<IpAddr> = Vec::new();
        for (prefix, known, value) in steps {
            asked.extend(edges(&prefix));
            match value {
                Some(value) => prop_assert_eq!(lpm.insert(prefix, value), list.insert(prefix, value)),
                None => {
                    // Mostly something that is there, else removing would hardly ever hit.
                    let known: Vec<Prefix> = list.keys().copied().chain([prefix]).collect::<Vec<_>>()
                        .get(known.index(list.len() + 1)).copied().into_iter().collect();
                    prop_assert_eq!(lpm.remove(known[0]), list.remove(&known[0]));
                }
            }
            prop_assert_eq!(lpm.len(), list.len());
        }
        for ip in asked {
            let best = list.iter().filter(|(p, _)| holds(p, ip)).max_by_key(|(p, _)| p.len).map(|(_, v)| *v);
            prop_assert_eq!(lpm.lookup(mapped(ip), ip.is_ipv4()), best, "{}", ip);
            let exact = cut(ip, if ip.is_ipv4() { 32 } else { 128 });
            prop_assert_eq!(lpm.get(exact), list.get(&exact).copied());
        }
        for prefix in list.keys().copied().collect::<Vec<_>>() {
            prop_assert!(lpm.remove(prefix).is_some());
        }
        prop_assert!(lpm.is_empty());
        prop_assert_eq!(lpm.lookup(Ipv6Addr::LOCALHOST, false), None);
    }

    /// The first entry whose set has the peer decides, in the range of the port, else in that of any protocol.
    #[test]
    fn policy_agrees_with_reading_the_rules(
        // Up to more than are looked at one by one, in ranges and in entries of one.
        cuts in prop::collection::btree_set((prop::sample::select(vec![6_u16, 17, 256]), 0..60_u16), 0..90),
        entries in prop::collection::vec((prop::sample::select(SETS.to_vec()), any::<bool>()), 0..200),
        everybody in prop::option::of(any::<Index>()),
        sets in prop::collection::btree_set(prop::sample::select(SETS.to_vec()), 0..10),
        default_deny in any::<bool>(),
    ) {
        let mut entries = entries;
        if let Some(at) = everybody.filter(|_| !entries.is_empty()) {
            let at = at.index(entries.len());
            entries[at].0 = u32::MAX;
        }
        let ranges = ranges(&cuts, &entries);
        let class = PolicyClass { default_deny, audit: false, ranges: ranges.clone() };
        let peer_sets: Vec<PeerSetId> = sets.iter().map(|set| PeerSetId(*set)).collect();
        let peer = Identity { number: 7, peer_sets: peer_sets.clone(), ..Identity::default() };
        let mut tables = Tables::default();
        let changes = [
            Change::Class(ClassId(3), Some(class)),
            Change::Identity(IdentitySlot(1), Some(peer)),
            Change::Address(Prefix { addr: address(0), len: 32 }, Some(IdentitySlot(1))),
        ];
        tables.apply(&changes, None).unwrap();
        for proto in [1_u8, 6, 17] {
            for port in (0..70).chain([65535]) {
                let of = |wanted: u16| {
                    ranges.iter().find(|r| r.proto == wanted && (r.first..=r.last).contains(&port))
                };
                let range = of(u16::from(proto)).or_else(|| of(PortRange::ANY_PROTO));
                let matching = |e: &&PolicyEntry| e.peers == PeerSetId::ANY || peer_sets.contains(&e.peers);
                let entry = range.and_then(|range| range.entries.iter().find(matching));
                let row = tables.ipcache.lookup(mapped(address(0)), true);
                let decision = tables.policies.decide(Some(ClassId(3)), row, proto, port);
                let open = (!default_deny).then_some(Action::Allow);
                prop_assert_eq!(decision.action, entry.map(|e| e.action).or(open), "{} {}", proto, port);
                prop_assert_eq!(decision.rule, entry.map_or(RuleId(0), |e| e.rule));
            }
        }
    }

    /// Changes in place lead to the same tables as building them from what is left, also in the twin; a list that refers
    /// to what is not there, or takes away what is needed, changes nothing.
    #[test]
    fn changing_is_the_same_as_building(lists in prop::collection::vec(change_list(), 1..12)) {
        let (mut tables, mut twin, mut model) = (Tables::default(), Tables::default(), Model::default());
        for list in lists {
            let before = observe(&tables);
            let expected = model.after(&list);
            let result = tables.apply(&list, None);
            prop_assert_eq!(result.is_ok(), expected.is_some(), "{:?}: {:?}", result, list);
            match expected {
                None => {
                    prop_assert_eq!(before, observe(&tables));
                    prop_assert!(twin.apply(&list, Some(&tables)).is_err());
                }
                Some(next) => {
                    model = next;
                    twin.apply(&list, Some(&tables)).unwrap();
                    let expected = observe(&model.build());
                    prop_assert_eq!(&observe(&tables), &expected, "after {:?}", list);
                    prop_assert_eq!(&observe(&twin), &expected);
                    prop_assert_eq!(tables.generation, twin.generation);
                }
            }
        }
    }

    /// Whatever becomes of a packet, its flow's replies belong to the same worker.
    #[test]
    fn both_directions_have_one_owner(
        workers in 2..9_u8,
        client in 0..40_u8, client_port in 1024..65535_u16,
        server in 0..40_u8, server_port in prop::sample::select(vec![53_u16, 80, 8080]),
        proto in prop::sample::select(vec![6_u8, 17]),
        from_port_of_backend in any::<bool>(),
        nat_port in any::<u16>(),
    ) {
        let tables = model::balanced(workers);
        let client_port = if from_port_of_backend { 8080 } else { client_port };
        let key = FlowKey {
            src: mapped(address(client)), dst: mapped(address(server)),
            sport: client_port, dport: server_port, proto, v4: true,
        };
        // Plain: in every case the last one asked is the same for both directions, and asked first or second.
        let last = |key: &FlowKey| { let owner = tables.owner(key); owner.second.unwrap_or(owner.first) };
        prop_assert_eq!(last(&key), last(&key.reverse()));
        // Through a service: the reply comes from the backend, and the owner of the request is asked first.
        let request = FlowKey { dst: mapped(model::vip()), dport: 80, proto: 6, ..key };
        let row = tables.ipcache.lookup(request.src, true);
        let Match::Service(_, service) = tables.services.lookup(&request, row) else { panic!("no service") };
        let backend = service.pick(tables.services.hash(&request, false)).unwrap();
        let reply = FlowKey { dst: mapped(backend.ip), dport: backend.port, ..request }.reverse();
        prop_assert_eq!(tables.owner(&request).second, None);
        prop_assert_eq!(tables.owner(&reply).first, tables.owner(&request).first);
        // With a translated source: the port names the worker that took it from its slice.
        let owner = tables.owner(&request).first;
        let (first, count) = sluice_core::tables::ownership::slice(owner, tables.settings.snat_ports, workers);
        let translated = FlowKey {
            src: mapped(model::nat_address()), sport: first + nat_port % count, dst: mapped(backend.ip), ..request
        };
        prop_assert_eq!(tables.owner(&translated.reverse()).first, owner);
        prop_assert_eq!(tables.owner(&translated.reverse()).second, None);
        prop_assert!(owner.0 < workers);
    }
}

/// Ranges that begin where the cuts say and end before the next one, with a gap after every third.
fn ranges(cuts: &std::collections::BTreeSet<(u16, u16)>, entries: &[(u32, bool)]) -> Vec<PortRange> {
    let cuts: Vec<(u16, u16)> = cuts.iter().copied().collect();
    let mut ranges = Vec::new();
    for (n, (proto, first)) in cuts.iter().enumerate() {
        let next = cuts.get(n + 1).filter(|(p, _)| p == proto).map_or(65535, |(_, next)| next - 1);
        let last = if n % 3 == 2 { *first } else { next };
        let (from, count) = (n * 5 % (entries.len() + 1), [2, 1, 3, 4, 7, 0, 5, 33, 100][n % 9]);
        let entries = entries[from..].iter().take(count).zip(1..).map(|((set, allow), m)| PolicyEntry {
            peers: PeerSetId(*set),
            action: if *allow { Action::Allow } else { Action::Deny },
            rule: RuleId(n as u32 * 1000 + m),
        });
        ranges.push(PortRange { proto: *proto, first: *first, last, entries: entries.collect() });
    }
    ranges
}

#[test]
fn owners_are_spread_evenly() {
    let tables = model::balanced(4);
    let mut counts = [0_u32; 4];
    for n in 0..8000_u32 {
        let [.., a, b] = n.to_be_bytes();
        let key = FlowKey {
            src: mapped(IpAddr::from([172, 16, a, b])),
            dst: mapped(IpAddr::from([172, 17, 0, 1])),
            sport: 40000,
            dport: 443,
            proto: 6,
            v4: true,
        };
        counts[usize::from(tables.owner(&key).first.0)] += 1;
    }
    assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    assert_eq!(model::balanced(1).owner(&FlowKey { v4: true, ..some_key() }).first, WorkerId(0));
}

fn some_key() -> FlowKey {
    let ip = Ipv6Addr::LOCALHOST;
    FlowKey { src: ip, dst: ip, sport: 1, dport: 2, proto: 17, v4: false }
}

/// A row as Cilium prints it in its own test: the number of each run's backend and its length.
fn runs(row: &[u16]) -> String {
    let mut runs: Vec<(u16, u32)> = Vec::new();
    for slot in row {
        match runs.last_mut() {
            Some((backend, length)) if backend == slot => *length += 1,
            _ => runs.push((*slot, 1)),
        }
    }
    runs.iter().map(|(backend, length)| format!("{backend}({length})")).collect::<Vec<_>>().join(",")
}

fn named(backends: &[(&str, u16, u16)]) -> Vec<(String, u16)> {
    let name = |(ip, port, weight): &(&str, u16, u16)| {
        (maglev::backend_name(ip.parse().unwrap(), *port, 6), *weight)
    };
    backends.iter().map(name).collect()
}

/// The row that Cilium's own tests expect, slot by slot: weights 2, 13, 111 and 10 in 251 slots.
#[test]
fn maglev_row_is_ciliums() {
    let backends = named(&[("0.0.0.1", 1, 2), ("0.0.0.3", 3, 13), ("0.0.0.4", 4, 111), ("0.0.0.5", 5, 10)]);
    let row = maglev::build(&backends, 251, DEFAULT_SEEDS[0]);
    let expected = "2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1),\
        1(2),2(12),3(1),2(3),1(1),2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3),\
        1(1),2(4),3(1),2(1),0(1),1(1),2(8),1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1),\
        3(1),1(1),2(8),1(1),2(4),0(1),2(1),1(1),2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),\
        2(4),3(1),2(2),1(1),2(7)";
    assert_eq!(runs(&row), expected);
}

/// Cilium's second test: how often each weight gets a slot of 1021, and how little changes when the first one goes.
#[test]
fn maglev_weights_and_removal_are_ciliums() {
    let backends = named(&[("0.0.0.1", 1, 2), ("0.0.0.2", 2, 13), ("0.0.0.3", 3, 111), ("0.0.0.4", 4, 10)]);
    let before = maglev::build(&backends, 1021, DEFAULT_SEEDS[0]);
    let counts: Vec<usize> = (0..4_u16).map(|b| before.iter().filter(|slot| **slot == b).count()).collect();
    assert_eq!(counts, [16, 98, 832, 75]);
    let after = maglev::build(&backends[1..], 1021, DEFAULT_SEEDS[0]);
    let moved = before.iter().zip(&after).filter(|(b, a)| **b != 0 && **b != **a + 1).count();
    assert!(moved * 100 < 1021, "{moved} slots moved");
}

#[test]
fn maglev_is_balanced_and_removal_disturbs_little() {
    let addresses: Vec<String> = (0..100).map(|n| format!("10.0.1.{n}")).collect();
    let mut backends = named(&addresses.iter().map(|ip| (ip.as_str(), 80, 100)).collect::<Vec<_>>());
    backends.sort();
    // Of the slots of the others: more slots, less disturbance. At Cilium's default size it is a little above one in a
    // hundred with a hundred backends.
    for (size, most) in [(16381_u32, 250), (65521, 400)] {
        let before = maglev::build(&backends, size, DEFAULT_SEEDS[0]);
        let count = |b: u16| before.iter().filter(|slot| **slot == b).count();
        let share = size as usize / 100;
        assert!((0..100).all(|b| (share..=share + 1).contains(&count(b))), "every backend has its share");
        for gone in [0, 37, 99] {
            let mut left = backends.clone();
            left.remove(gone);
            let after = maglev::build(&left, size, DEFAULT_SEEDS[0]);
            let name = |row: &[(String, u16)], slot: u16| row[usize::from(slot)].0.clone();
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(b, _)| usize::from(**b) != gone)
                .filter(|(b, a)| name(&backends, **b) != name(&left, **a))
                .count();
            assert!(moved <= most, "{moved} of {size} moved");
        }
    }
}
