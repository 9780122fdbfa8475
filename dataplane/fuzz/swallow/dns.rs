//! What is done with hostile DNS: a message is read as a query and as an answer, or a script of them goes over port 53 of a
//! small gateway with a DNS rule, and the laws of the path hold after each packet.

use std::collections::BTreeSet;

use sluice_core::dns::{self, Name, Question};
use sluice_core::emit::{Frame, mapped};
use sluice_core::event::{EventSink, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::path::dns::lesson;
use sluice_core::path::{Fates, forward, tick};
use sluice_core::state::{Config, State};
use sluice_core::tables::Tables;
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{Action, Fate, NextHopId};

use super::sound;

const HEADROOM: usize = 64;
const STEPS: usize = 64;
const CLIENT: u16 = 1;
const RESOLVER: u16 = 0;

pub fn swallow(data: &[u8]) {
    match data.split_first() {
        Some((kind, message)) if kind % 2 == 0 => read(message),
        Some((_, script)) => live(script),
        None => {}
    }
}

/// A message by itself: whatever is read of it lies in it.
fn read(message: &[u8]) {
    let check = |question: Question| {
        assert!(question.end <= message.len(), "a question beyond its message");
        assert!(question.name.as_bytes().len() <= 255);
        assert_eq!(Name::from_bytes(question.name.as_bytes()), Some(question.name));
        assert!(question.name.labels().all(|label| (1..64).contains(&label.len())));
        let _ = question.name.to_string();
    };
    if let Ok(question) = dns::query(message) {
        check(question);
    }
    let mut addresses = 0;
    if let Ok(question) = dns::answer(message, |ip, _| {
        assert!(!ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified());
        addresses += 1;
    }) {
        check(question);
        // Owner, type, class, time, length and four bytes of address.
        assert!(addresses * 15 <= message.len(), "more addresses than there is room for");
    }
}

fn prefix(text: &str) -> Prefix {
    let addr: std::net::IpAddr = text.parse().expect("an address of ours");
    Prefix { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
}

/// A client that may ask a resolver for names under `io`, over both families, and hears nothing else.
fn tables() -> Tables {
    let (class, closed) = (ClassId(1), ClassId(2));
    let entries = vec![PolicyEntry { peers: PeerSetId::ANY, action: Action::Dns(0), rule: RuleId(1) }];
    let ranges = vec![PortRange { proto: 17, first: 53, last: 53, entries }];
    let rules = DnsRule { peers: PeerSetId::ANY, rule: RuleId(1), asks: Asks::Names(vec![PatternId(0)]) };
    let client = Identity { number: 500, egress: Some(class), ingress: Some(closed), ..Identity::default() };
    let mut changes = vec![
        Change::Settings(Settings::default()),
        Change::Class(class, Some(PolicyClass { default_deny: true, audit: false, ranges })),
        Change::Class(closed, Some(PolicyClass { default_deny: true, audit: false, ranges: Vec::new() })),
        Change::Identity(IdentitySlot(1), Some(client)),
        Change::Pattern(PatternId(0), Some(Pattern { text: "**.io.".to_owned(), selects: true })),
        Change::DnsRules(DnsRulesId(0), Some(vec![rules])),
    ];
    for (device, hosts) in
        [(RESOLVER, ["192.0.2.53", "2001:db8::53"]), (CLIENT, ["10.0.0.1", "2001:db8:1::1"])]
    {
        let port = Port { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, device, up: true, ..Port::default() };
        changes.push(Change::Port(PortId(device), Some(port)));
        for (n, host) in (0..).zip(hosts) {
            let (host, hop) = (prefix(host), NextHopId(device * 2 + n));
            let next =
                NextHop { port: PortId(device), ip: host.addr, mac: Some([2, 0, 0, 0, 1, 1]), mtu: 1500 };
            changes.push(Change::NextHop(hop, Some(next)));
            changes.push(Change::Route(host, Some(Route::Via(vec![(hop, 1)]))));
            if device == CLIENT {
                changes.push(Change::Address(host, Some(IdentitySlot(1))));
            }
        }
    }
    let mut tables = Tables::default();
    tables.apply(&changes, None).expect("tables of ours");
    tables
}

struct Deaf;

impl EventSink for Deaf {
    fn emit(&mut self, _: &FlowEvent) {}
}

struct Gateway {
    tables: Tables,
    state: State,
    now: Now,
    /// Queries that got through, as text, and the last one.
    asked: BTreeSet<String>,
    last: Vec<u8>,
}

/// What a query and its answer have in common.
fn said(v4: bool, question: &Question) -> String {
    format!("{v4} {} {} {} {}", question.id, question.kind, question.class, question.name)
}

fn live(mut script: &[u8]) {
    let mut gateway = Gateway {
        tables: tables(),
        state: State::new(Config::new(64, [1, 2, 3, 4])),
        now: Now(Now::SECOND),
        asked: BTreeSet::new(),
        last: Vec::new(),
    };
    for _ in 0..STEPS {
        let Some(([op, len], rest)) = script.split_first_chunk() else { break };
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len) * 4));
        gateway.step(*op, bytes);
        script = rest;
    }
}

impl Gateway {
    fn step(&mut self, op: u8, bytes: &[u8]) {
        let v4 = op & 4 == 0;
        match op % 4 {
            0 => self.send(true, v4, op >> 3, bytes),
            1 => self.send(false, v4, op >> 3, bytes),
            2 => {
                // The last query, answered by these records.
                let mut answer = self.last.clone();
                if let Some(head) = answer.get_mut(2..8) {
                    (head[0], head[1]) = (head[0] | 0x80, bytes.first().copied().unwrap_or(0) & 0x8f);
                    (head[4], head[5]) = (0, bytes.get(1).copied().unwrap_or(0));
                }
                answer.extend(bytes.iter().skip(2));
                self.send(false, v4, op >> 3, &answer);
            }
            _ => {
                let seconds = bytes.first().copied().unwrap_or(1);
                self.now = Now(self.now.0 + u64::from(seconds) * Now::SECOND);
                tick(&self.tables, &mut self.state, self.now, &mut Deaf);
            }
        }
    }

    fn send(&mut self, query: bool, v4: bool, sport: u8, message: &[u8]) {
        let [client, resolver] =
            if v4 { ["10.0.0.1", "192.0.2.53"] } else { ["2001:db8:1::1", "2001:db8::53"] };
        let [src, dst] = [client, resolver].map(|ip| mapped(prefix(ip).addr));
        let key = FlowKey { src, dst, sport: 4000 + u16::from(sport), dport: 53, proto: 17, v4 };
        let key = if query { key } else { key.reverse() };
        let payload = message[..message.len().min(1400)].to_vec();
        let frame = Frame { payload: payload.clone(), ..Frame::new(key) }.build();
        let mut room = vec![0; HEADROOM + frame.len() + 512];
        room[HEADROOM..HEADROOM + frame.len()].copy_from_slice(&frame);
        let port = PortId(if query { CLIENT } else { RESOLVER });
        let Some(packet) = Packet::new(&mut room, HEADROOM, frame.len(), port) else { return };
        let (mut packets, mut fates) = ([packet], Fates::new());
        forward(&self.tables, &mut self.state, self.now, &mut packets, &mut fates, &mut Deaf);
        let question = if query { dns::query(&payload) } else { dns::answer(&payload, |_, _| {}) };
        self.judge(query, v4, question.ok().as_ref(), fates[0], &packets[0]);
        if query && fates[0] == Fate::Forward(PortId(RESOLVER)) {
            self.last = payload;
        }
        let counters = &self.state.counters;
        assert_eq!(counters.received, counters.ends(), "{counters:?}");
    }

    fn judge(&mut self, query: bool, v4: bool, question: Option<&Question>, fate: Fate, packet: &Packet<'_>) {
        match fate {
            Fate::Forward(_) | Fate::Learn(_) => {
                let question = question.expect("what cannot be read does not pass");
                if query {
                    let name = question.name.to_string();
                    assert!(name.ends_with(".io.") && name != "io.", "{name} is not to be asked");
                    self.asked.insert(said(v4, question));
                } else {
                    assert!(self.asked.contains(&said(v4, question)), "nobody asked {question:?}");
                }
                if let Fate::Learn(port) = fate {
                    assert_eq!((query, port), (false, PortId(CLIENT)));
                    let mut any = false;
                    assert!(
                        lesson(packet, |_, _| any = true).is_ok() && any,
                        "a lesson that teaches nothing"
                    );
                }
                assert_sound(packet);
            }
            // The query came back, refused.
            Fate::Answer(port) => {
                assert_eq!((query, port), (true, PortId(CLIENT)));
                assert_sound(packet);
                let own = question.expect("only queries are answered");
                let bytes = packet.bytes();
                let headers = sound::headers(bytes).expect("a frame of ours");
                let message = &bytes[usize::from(headers.l4) + 8..usize::from(headers.end)];
                let said =
                    dns::answer(message, |_, _| panic!("a refusal has no addresses")).expect("an answer");
                assert_eq!((said.id, said.name, message[3] & 15), (own.id, own.name, dns::REFUSED));
            }
            Fate::Drop(_) => {}
            Fate::Pass | Fate::Hold { .. } | Fate::HandOver(_) | Fate::AwaitRow(_) | Fate::Cut(_) => {
                panic!("{fate:?}: all neighbours are known")
            }
        }
    }
}

fn assert_sound(packet: &Packet<'_>) {
    let bytes = packet.bytes();
    let headers = sound::headers(bytes).expect("what leaves can be read");
    assert!(sound::header_is_sound(bytes, &headers), "the header's checksum");
    assert_ne!(sound::transport_is_sound(bytes, &headers), Some(false), "the message's checksum");
}
