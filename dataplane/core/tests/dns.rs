//! DNS messages against another reader of them, and flows under DNS rules through the path.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "test data of our own, all small and valid"
)]

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::{Lab, prefix};
use proptest::prelude::*;
use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{
    CLASS, Name as TheirName, Packet as Message, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord,
    TYPE,
};
use sluice_core::dns::{self, Malformed, Name};
use sluice_core::emit::Frame;
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::path::dns::lesson;
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{Action, DropReason, Fate};

fn asked(name: &str, id: u16) -> Message<'_> {
    let mut message = Message::new_query(id);
    message.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = TheirName::new_unchecked(name);
    message.questions.push(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
    message
}

fn record<'a>(owner: &'a str, ttl: u32, data: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(TheirName::new_unchecked(owner), CLASS::IN, ttl, data)
}

fn address(ip: IpAddr) -> RData<'static> {
    match ip {
        IpAddr::V4(ip) => RData::A(A { address: ip.to_bits() }),
        IpAddr::V6(ip) => RData::AAAA(AAAA { address: ip.to_bits() }),
    }
}

fn alias(to: &str) -> RData<'_> {
    RData::CNAME(CNAME(TheirName::new_unchecked(to)))
}

/// The slow and obvious reading: follow the aliases, whatever their order, then collect.
fn slow(bytes: &[u8]) -> BTreeSet<(IpAddr, u32)> {
    let message = Message::parse(bytes).unwrap();
    let mut owner = message.questions[0].qname.to_string().to_lowercase();
    let mut holds = u32::MAX;
    let mut followed = BTreeSet::new();
    loop {
        let next = message.answers.iter().enumerate().find_map(|(n, record)| match &record.rdata {
            RData::CNAME(to) if record.name.to_string().to_lowercase() == owner && followed.insert(n) => {
                Some((to.to_string().to_lowercase(), record.ttl))
            }
            _ => None,
        });
        let Some((to, ttl)) = next else { break };
        (owner, holds) = (to, holds.min(ttl));
    }
    let own = message.answers.iter().filter(|record| record.name.to_string().to_lowercase() == owner);
    own.filter_map(|record| match &record.rdata {
        RData::A(a) => Some((IpAddr::from(Ipv4Addr::from_bits(a.address)), record.ttl.min(holds))),
        RData::AAAA(a) => Some((IpAddr::from(Ipv6Addr::from_bits(a.address)), record.ttl.min(holds))),
        _ => None,
    })
    .collect()
}

fn ours(bytes: &[u8]) -> Result<(Name, BTreeSet<(IpAddr, u32)>), Malformed> {
    let mut found = BTreeSet::new();
    let question = dns::answer(bytes, |ip, ttl| found.extend([(ip, ttl)]))?;
    Ok((question.name, found))
}

fn address_strategy() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1_u32..1000).prop_map(|n| IpAddr::from(Ipv4Addr::from_bits(0xc633_6400 + n))),
        (1_u128..1000).prop_map(|n| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n))),
    ]
}

const NAMES: [&str; 6] =
    ["www.Example.com", "cdn.example.net", "e7.a.cdn.net", "x.y", "other.example.com", "y"];

/// An answer for the first of the names: a chain of aliases over some of them in any order, addresses for all of them.
fn message() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let addresses = prop::collection::vec((0..NAMES.len(), address_strategy(), 0_u32..5000), 0..30);
    (0_usize..5, addresses, any::<u64>(), any::<bool>()).prop_map(|(chain, addresses, order, compressed)| {
        let mut message = asked(NAMES[0], 7).into_reply();
        message.set_flags(PacketFlag::RESPONSE);
        let aliases = (0..chain).zip(100..).map(|(n, ttl)| record(NAMES[n], ttl, alias(NAMES[n + 1])));
        message.answers.extend(aliases);
        message.answers.extend(addresses.iter().map(|(n, ip, ttl)| record(NAMES[*n], *ttl, address(*ip))));
        // Any order will do.
        message.answers.sort_by_key(|r| {
            let text = format!("{:?}", r.rdata);
            text.bytes().fold(order, |sum, byte| sum.rotate_left(7) ^ u64::from(byte))
        });
        let bytes = if compressed { message.build_bytes_vec_compressed() } else { message.build_bytes_vec() };
        (bytes.unwrap(), compressed)
    })
}

proptest! {
    #[test]
    fn answers_say_what_another_reader_finds((bytes, _) in message()) {
        let (name, found) = ours(&bytes).unwrap();
        prop_assert_eq!(name.to_string(), "www.example.com.");
        prop_assert_eq!(found, slow(&bytes));
    }

    #[test]
    fn damaged_messages_do_no_harm((mut bytes, _) in message(), hits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..20), cut in any::<usize>()) {
        for (at, byte) in hits {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        bytes.truncate(cut % (bytes.len() + 1));
        let _ = dns::query(&bytes);
        if let Ok((name, _)) = ours(&bytes) {
            prop_assert!(name.as_bytes().len() <= 255);
            prop_assert_eq!(Name::from_bytes(name.as_bytes()), Some(name));
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = (dns::query(&bytes), ours(&bytes));
    }
}

/// An answer with one question and these bytes as its records.
fn raw(records: u16, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0, 7, 0x80, 0, 0, 1];
    message.extend(records.to_be_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend(b"\x01a\x02io\x00\x00\x01\x00\x01");
    message.extend(bytes);
    message
}

#[test]
fn compression_that_leads_in_circles_or_forward_is_malformed() {
    let tail = b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc6\x33\x64\x07";
    let with = |owner: &[u8]| ours(&raw(1, &[owner, tail].concat()));
    assert_eq!(with(&[0xc0, 12]).unwrap().1.len(), 1);
    assert_eq!(with(&[0xc0, 21]), Err(Malformed), "to itself");
    assert_eq!(with(&[0xc0, 40]), Err(Malformed), "forward");
    assert_eq!(with(&[0x80, 12]), Err(Malformed), "a kind of label that nobody uses");
    // Each pointer leads to the one before: an end, but a long way to it.
    let mut chain = vec![0xc0, 12];
    for n in 0..60_u16 {
        chain.extend((0xc000 | (21 + n * 2)).to_be_bytes());
    }
    let skipped = [&[0_u8, 0, 99, 0, 1, 0, 0, 0, 0, 0, 122][..], &chain].concat();
    assert!(ours(&raw(2, &[&skipped[..], &[0xc0, 152], tail].concat())).is_err());
}

#[test]
fn loops_of_aliases_and_counts_without_records_end() {
    let alias_to_itself = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c";
    assert_eq!(ours(&raw(1, alias_to_itself)), Err(Malformed));
    assert_eq!(ours(&raw(u16::MAX, alias_to_itself)), Err(Malformed));
}

#[test]
fn addresses_that_are_nobodys_teach_nothing() {
    for nobody in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "::", "::ffff:192.0.2.1", "fe80::1", "ff02::1"]
    {
        let mut message = asked("a.io", 1).into_reply();
        message.set_flags(PacketFlag::RESPONSE);
        message.answers.push(record("a.io", 60, address(lab::ip(nobody))));
        let (_, found) = ours(&message.build_bytes_vec().unwrap()).unwrap();
        assert!(found.is_empty(), "{nobody}");
    }
}

const RESOLVER: &str = "198.51.100.53";
const GUARDED: ClassId = ClassId(9);

/// 10.244.0.11 may ask the resolver for names under `good.example`, over UDP and (so it is written) TCP.
fn dns_lab() -> Lab {
    let mut lab = Lab::new();
    let dns = |proto| PortRange {
        proto,
        first: 53,
        last: 53,
        entries: vec![PolicyEntry { peers: PeerSetId::ANY, action: Action::Dns(0), rule: RuleId(5) }],
    };
    let class = PolicyClass { default_deny: true, audit: false, ranges: vec![dns(6), dns(17)] };
    let client = Identity { number: 600, egress: Some(GUARDED), ..Identity::default() };
    let pattern = |text: &str, selects| Some(Pattern { text: text.to_owned(), selects });
    let rules = DnsRule { peers: PeerSetId::ANY, rule: RuleId(6), asks: Asks::Names(vec![PatternId(1)]) };
    lab.change(&[
        Change::Class(GUARDED, Some(class)),
        Change::Identity(IdentitySlot(9), Some(client)),
        Change::Address(prefix("10.244.0.11/32"), Some(IdentitySlot(9))),
        Change::Pattern(PatternId(1), pattern("*.good.example.", false)),
        Change::DnsRules(DnsRulesId(0), Some(vec![rules])),
    ]);
    lab
}

fn key(proto: u8) -> FlowKey {
    let map = |text: &str| sluice_core::emit::mapped(lab::ip(text));
    FlowKey { src: map("10.244.0.11"), dst: map(RESOLVER), sport: 4000, dport: 53, proto, v4: true }
}

fn frame(key: FlowKey, message: &Message<'_>) -> Vec<u8> {
    Frame { payload: message.build_bytes_vec_compressed().unwrap(), ..Frame::new(key) }.build()
}

fn payload(frame: &[u8]) -> &[u8] {
    &frame[14 + 20 + 8..]
}

fn answer_to<'a>(query: Message<'a>, name: &'a str, ips: &[&str]) -> Message<'a> {
    let mut reply = query.into_reply();
    reply.set_flags(PacketFlag::RESPONSE);
    reply.answers.extend(ips.iter().map(|ip| record(name, 60, address(lab::ip(ip)))));
    reply
}

#[test]
fn a_query_outside_the_rules_is_refused_by_us() {
    for (name_error, code) in [(false, RCODE::Refused), (true, RCODE::NameError)] {
        let mut lab = dns_lab();
        let mut settings = lab.tables.settings.clone();
        settings.dns.name_error = name_error;
        lab.change(&[Change::Settings(settings)]);
        let (fate, sent) = lab.send(1, &frame(key(17), &asked("evil.example", 9)));
        assert_eq!(fate, Fate::Answer(PortId(1)));
        lab.assert_sound(&sent);
        assert_eq!(lab.key_of(&sent), key(17).reverse());
        let refusal = Message::parse(payload(&sent)).unwrap();
        assert_eq!((refusal.id(), refusal.rcode()), (9, code));
        assert_eq!(refusal.questions[0].qname.to_string(), "evil.example");
        assert_eq!(lab.state.flows.occupancy().0, 0, "no flow for what is refused");
        let told = lab.events.last().unwrap();
        assert!(
            told.denied_egress && told.kind == sluice_core::event::EventKind::Drop(DropReason::PolicyDenied)
        );
        // The same on a flow that is there.
        lab.send(1, &frame(key(17), &asked("a.good.example", 10)));
        let (fate, _) = lab.send(1, &frame(key(17), &asked("evil.example", 11)));
        assert_eq!(fate, Fate::Answer(PortId(1)));
        assert_eq!((lab.state.counters.dns.queries, lab.state.counters.dns.refused), (3, 2));
        assert_eq!(lab.state.counters.ends(), lab.state.counters.received);
    }
}

#[test]
fn an_answer_is_kept_until_it_is_learned_and_only_once() {
    let mut lab = dns_lab();
    let query = asked("a.Good.example", 9);
    let (fate, _) = lab.send(1, &frame(key(17), &query));
    assert_eq!(fate, Fate::Forward(PortId(0)));
    let reply =
        frame(key(17).reverse(), &answer_to(query, "A.good.Example", &["203.0.113.7", "203.0.113.8"]));
    let (fate, mut kept) = lab.send(0, &reply);
    assert_eq!(fate, Fate::Learn(PortId(1)));
    lab.assert_sound(&kept);
    let len = kept.len();
    let packet = sluice_core::packet::Packet::new(&mut kept, 0, len, PortId(0)).unwrap();
    let mut found = Vec::new();
    let question = lesson(&packet, |ip, ttl| found.push((ip, ttl))).unwrap();
    assert_eq!(question.name.to_string(), "a.good.example.");
    assert_eq!(found, [(lab::ip("203.0.113.7"), 60), (lab::ip("203.0.113.8"), 60)]);
    let (again, _) = lab.send(0, &reply);
    assert_eq!(again, Fate::Drop(DropReason::UnknownConnection), "nobody asked twice");
    assert_eq!((lab.state.counters.dns.answers, lab.state.counters.dns.unasked), (1, 1));
    assert_eq!(lab.state.counters.ends(), lab.state.counters.received);
}

#[test]
fn answers_to_other_questions_teach_nothing() {
    let mut lab = dns_lab();
    lab.send(1, &frame(key(17), &asked("a.good.example", 9)));
    for (name, id) in [("a.good.example", 8), ("b.good.example", 9)] {
        let reply = answer_to(asked(name, id), name, &["203.0.113.7"]);
        let (fate, _) = lab.send(0, &frame(key(17).reverse(), &reply));
        assert_eq!(fate, Fate::Drop(DropReason::UnknownConnection));
    }
    let empty = answer_to(asked("a.good.example", 9), "a.good.example", &[]);
    assert_eq!(
        lab.send(0, &frame(key(17).reverse(), &empty)).0,
        Fate::Forward(PortId(1)),
        "nothing to learn"
    );
    // Too late.
    lab.send(1, &frame(key(17), &asked("a.good.example", 10)));
    lab.now = Now(11 * Now::SECOND);
    let late = answer_to(asked("a.good.example", 10), "a.good.example", &["203.0.113.7"]);
    assert_eq!(lab.send(0, &frame(key(17).reverse(), &late)).0, Fate::Drop(DropReason::UnknownConnection));
}

#[test]
fn what_is_no_message_passes_in_neither_direction() {
    let mut lab = dns_lab();
    let garbage = Frame { payload: vec![1, 2, 3], ..Frame::new(key(17)) }.build();
    assert_eq!(lab.send(1, &garbage).0, Fate::Drop(DropReason::InvalidPacket));
    lab.send(1, &frame(key(17), &asked("a.good.example", 9)));
    let circle = raw(1, &[0xc0, 21, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    let hostile = Frame { payload: circle, ..Frame::new(key(17).reverse()) }.build();
    assert_eq!(lab.send(0, &hostile).0, Fate::Drop(DropReason::InvalidPacket));
    let (first, second) = lab.fragments(FlowKey { sport: 4001, ..key(17) });
    assert_eq!(lab.send(1, &first).0, Fate::Drop(DropReason::FragmentRefused));
    assert_ne!(lab.send(1, &second).0, Fate::Forward(PortId(0)));
    assert_eq!(lab.state.counters.ends(), lab.state.counters.received);
}

#[test]
fn dns_over_tcp_is_refused_until_it_can_be_read() {
    let mut lab = dns_lab();
    let (fate, _) = lab.send(1, &lab.tcp(key(6), sluice_core::parse::SYN));
    assert_eq!(fate, Fate::Drop(DropReason::InspectionUnavailable));
}

#[test]
fn what_is_learned_holds_for_new_flows_and_judges_none_again() {
    let mut lab = dns_lab();
    let before = lab.tables.generation;
    lab.change(&[Change::Learned(prefix("203.0.113.7/32"), Some(IdentitySlot(2)))]);
    assert_eq!(lab.tables.generation, before);
    let ip = sluice_core::emit::mapped(lab::ip("203.0.113.7"));
    assert_eq!(lab.tables.ipcache.lookup(ip, true).number, 400);
    lab.change(&[Change::Learned(prefix("203.0.113.7/32"), None)]);
    assert_eq!(lab.tables.ipcache.lookup(ip, true).number, 9);
}

#[test]
fn a_new_rule_is_heard_by_flows_that_are_there() {
    let mut lab = dns_lab();
    lab.send(1, &frame(key(17), &asked("a.good.example", 9)));
    lab.change(&[Change::Pattern(PatternId(1), None)]);
    let (fate, _) = lab.send(1, &frame(key(17), &asked("a.good.example", 10)));
    assert_eq!(fate, Fate::Answer(PortId(1)));
    let open = PolicyClass { default_deny: false, ..PolicyClass::default() };
    lab.change(&[Change::Class(GUARDED, Some(open))]);
    let (fate, _) = lab.send(1, &frame(key(17), &asked("evil.example", 11)));
    assert_eq!(fate, Fate::Forward(PortId(0)), "without a DNS rule nobody listens");
    let reply = answer_to(asked("evil.example", 11), "evil.example", &["203.0.113.7"]);
    assert_eq!(lab.send(0, &frame(key(17).reverse(), &reply)).0, Fate::Forward(PortId(1)));
}
