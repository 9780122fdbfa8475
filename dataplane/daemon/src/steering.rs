//! What is ours, out of records: the rules that the XDP programs go by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_core::emit::mapped;
use sluice_core::tables::prefix_set::PrefixSet;
use sluice_core::tables::record::{Change, Leave, Prefix, RecordKey, Records, ServiceId, Settings};
use sluice_steer::Rule;
use sluice_steer::rules::{FROM, OWN, TO, TUNNEL};

use crate::health;

/// Rules, and the port ranges that are ours on the node's own addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub prefixes: BTreeMap<Rule, u32>,
    pub ports: Vec<(u16, u16)>,
}

/// `always` are prefixes from the settings file: ours before control has spoken.
pub fn rules(control: &Records, mirror: &Records, always: &[Prefix]) -> Rules {
    let settings = control.values().find_map(|change| {
        if let Change::Settings(settings) = change { Some(settings.clone()) } else { None }
    });
    let settings = settings.unwrap_or_default();
    let own = own_addresses(mirror);
    let mut rules = Rules::default();
    let mut add = |prefix: &Prefix, flags: u32| {
        *rules.prefixes.entry(Rule::new(prefix.addr, prefix.len)).or_insert(0) |= flags;
    };
    for prefix in always.iter().chain(&settings.guarded) {
        add(prefix, TO | FROM);
    }
    for prefix in &settings.masquerade.sources {
        add(prefix, FROM);
    }
    let mut service_ports = Vec::new();
    // Answers to probes of ours.
    let probes = control.range(RecordKey::Probe(ServiceId(0))..).next();
    if matches!(probes, Some((RecordKey::Probe(_), _))) {
        service_ports.push(health::PORTS);
    }
    for change in control.values() {
        let Change::Frontend(key, Some(_)) = change else { continue };
        if own.contains(&key.ip) {
            service_ports.push((key.port, key.port));
        } else {
            add(&host(key.ip), TO);
        }
    }
    let (mut given, mut through) = (Vec::new(), false);
    for change in control.values() {
        let Change::Egress(source, Some(ways)) = change else { continue };
        add(&host(*source), FROM);
        for (_, leave) in ways {
            match leave {
                Leave::With(ip) => given.push(*ip),
                Leave::Through(_) => through = true,
                Leave::Usual | Leave::Elsewhere | Leave::NoAddress | Leave::NoGateway => {}
            }
        }
    }
    let nat = settings.snat_addresses.iter().chain(&settings.masquerade.addresses).chain(&given);
    let mut nat_on_own = through;
    for ip in nat {
        if own.contains(ip) {
            nat_on_own = true;
        } else {
            add(&host(*ip), TO);
        }
    }
    let ends = PrefixSet::new(&settings.tunnels.addresses);
    for prefix in &settings.tunnels.addresses {
        add(prefix, TO);
    }
    // The longest prefix of all: what else comes to the node itself is the kernel's.
    for ip in &own {
        let tunnel = if ends.contains(mapped(*ip), ip.is_ipv4()) { TUNNEL } else { 0 };
        rules.prefixes.insert(Rule::new(*ip, if ip.is_ipv4() { 32 } else { 128 }), OWN | tunnel);
    }
    rules.ports = ranges(&settings, service_ports, nat_on_own);
    rules
}

/// May this change what the rules are made of, or which addresses are announced?
pub fn matters(change: &Change) -> bool {
    let rules =
        matches!(change, Change::Settings(_) | Change::Frontend(..) | Change::Probe(..) | Change::Port(..));
    rules || matches!(change, Change::Exposed(..) | Change::Egress(..))
}

/// Single service ports, merged, and the NAT range where it shares an own address.
fn ranges(settings: &Settings, mut ranges: Vec<(u16, u16)>, nat: bool) -> Vec<(u16, u16)> {
    if nat {
        ranges.push(settings.snat_ports);
    }
    ranges.retain(|(first, _)| *first != 0);
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn host(ip: IpAddr) -> Prefix {
    Prefix { addr: ip, len: if ip.is_ipv4() { 32 } else { 128 } }
}

fn own_addresses(mirror: &Records) -> Vec<IpAddr> {
    let ports = mirror
        .values()
        .filter_map(|change| if let Change::Port(_, port) = change { port.as_ref() } else { None });
    ports.flat_map(|port| port.addresses.iter().map(|prefix| prefix.addr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::packet::PortId;
    use sluice_core::tables::record::{Ends, Frontend, FrontendKey, Port};

    fn records(changes: Vec<Change>) -> Records {
        changes.into_iter().map(|change| (change.key(), change)).collect()
    }

    #[test]
    fn own_addresses_keep_their_kernel_but_for_service_ports() {
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let service: IpAddr = "203.0.113.1".parse().unwrap();
        let frontend = Frontend {
            service: None,
            inside: None,
            cluster_only: false,
            source_ranges: Vec::new(),
            source_ranges_deny: false,
        };
        let key = |ip, port| FrontendKey { ip, port, proto: 6 };
        let control = records(vec![
            Change::Frontend(key(own, 30080), Some(frontend.clone())),
            Change::Frontend(key(service, 80), Some(frontend)),
        ]);
        let addresses = vec![Prefix { addr: own, len: 24 }];
        let mirror = records(vec![Change::Port(PortId(0), Some(Port { addresses, ..Port::default() }))]);
        let guarded = Prefix { addr: "192.0.2.0".parse().unwrap(), len: 24 };
        let rules = rules(&control, &mirror, &[guarded]);
        assert_eq!(rules.prefixes.get(&Rule::new(own, 32)), Some(&OWN));
        assert_eq!(rules.prefixes.get(&Rule::new(service, 32)), Some(&TO));
        assert_eq!(rules.prefixes.get(&Rule::new(guarded.addr, 24)), Some(&(TO | FROM)));
        assert_eq!(rules.ports, vec![(30080, 30080)]);
    }

    #[test]
    fn tunnels_that_end_here_are_ours_at_the_nodes_own_addresses_too() {
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let prefix = |text: &str, len| Prefix { addr: text.parse().unwrap(), len };
        let ends = vec![prefix("192.0.2.1", 32), prefix("10.244.0.0", 24)];
        let tunnels = Ends { addresses: ends, peers: vec![prefix("192.0.2.5", 32)] };
        let control = records(vec![Change::Settings(Settings { tunnels, ..Settings::default() })]);
        let port = Port { addresses: vec![prefix("192.0.2.1", 24)], ..Port::default() };
        let rules = rules(&control, &records(vec![Change::Port(PortId(0), Some(port))]), &[]);
        assert_eq!(rules.prefixes.get(&Rule::new(own, 32)), Some(&(OWN | TUNNEL)));
        assert_eq!(rules.prefixes.get(&Rule::new("10.244.0.0".parse().unwrap(), 24)), Some(&TO));
    }

    #[test]
    fn answers_come_back_to_who_leaves_by_an_interface() {
        let pod: IpAddr = "10.244.0.11".parse().unwrap();
        let everywhere = Prefix { addr: "0.0.0.0".parse().unwrap(), len: 0 };
        let leaves = Change::Egress(pod, Some(vec![(everywhere, Leave::Through(PortId(0)))]));
        assert!(matters(&leaves));
        let addresses = vec![Prefix { addr: "192.0.2.1".parse().unwrap(), len: 24 }];
        let port = Port { addresses, ..Port::default() };
        let settings = Settings::default();
        let range = settings.snat_ports;
        let control = records(vec![Change::Settings(settings), leaves]);
        let rules = rules(&control, &records(vec![Change::Port(PortId(0), Some(port))]), &[]);
        assert_eq!(rules.prefixes.get(&Rule::new(pod, 32)), Some(&FROM));
        assert_eq!(rules.ports, vec![range]);
    }
}
