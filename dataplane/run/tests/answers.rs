//! DNS answers in a worker: kept until their addresses are known, sent then, and dropped when nobody says so.
#![allow(clippy::unwrap_used, reason = "test data of our own, all small and valid")]

use std::sync::{Arc, Mutex};

use rtrb::RingBuffer;
use sluice_core::emit::{Frame, mapped};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::PortId;
use sluice_core::state::{Config, State};
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{Action, DropReason, NextHopId, WorkerId};
use sluice_run::answers::{Classroom, Learner, Release, answers};
use sluice_run::epoch::Publisher;
use sluice_run::io::mem::MemIo;
use sluice_run::ring::{events, exchanges};
use sluice_run::worker::{Ends, Idle, Worker};

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix { addr: addr.parse().unwrap(), len: len.parse().unwrap() }
}

/// A client on port 1, a resolver on port 0, and a rule that lets the one ask the other for everything.
fn tables() -> Vec<Change> {
    let class = ClassId(1);
    let dns = PortRange {
        proto: 17,
        first: 53,
        last: 53,
        entries: vec![PolicyEntry { peers: PeerSetId::ANY, action: Action::Dns(0), rule: RuleId(1) }],
    };
    let policy = PolicyClass { default_deny: true, audit: false, ranges: vec![dns] };
    let mut changes = vec![
        Change::Settings(Settings::default()),
        Change::Class(class, Some(policy)),
        Change::Identity(
            IdentitySlot(1),
            Some(Identity { number: 500, egress: Some(class), ..Identity::default() }),
        ),
        Change::Address(prefix("10.0.0.1/32"), Some(IdentitySlot(1))),
        Change::Pattern(PatternId(0), Some(Pattern { text: "*.".to_owned(), selects: false })),
        Change::Pattern(PatternId(1), Some(Pattern { text: "wanted.io.".to_owned(), selects: true })),
        Change::DnsRules(
            DnsRulesId(0),
            Some(vec![DnsRule {
                peers: PeerSetId::ANY,
                rule: RuleId(1),
                asks: Asks::Names(vec![PatternId(0)]),
            }]),
        ),
    ];
    for (n, host) in [(0, "192.0.2.53/32"), (1, "10.0.0.1/32")] {
        let port = Port { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, device: n, up: true, ..Port::default() };
        let ip = prefix(host).addr;
        let hop = NextHop { port: PortId(n), ip, mac: Some([2, 0, 0, 0, 1, 1]), mtu: 1500 };
        changes.extend([
            Change::Port(PortId(n), Some(port)),
            Change::NextHop(NextHopId(n), Some(hop)),
            Change::Route(prefix(host), Some(Route::Via(vec![(NextHopId(n), 1)]))),
        ]);
    }
    changes
}

struct Lab {
    worker: Worker<MemIo>,
    classroom: Classroom,
    now: Now,
    _publisher: Publisher,
}

/// Learns all at once.
#[derive(Default)]
struct Quick(Mutex<Option<Classroom>>);

impl Learner for Quick {
    fn attend(&self, _: WorkerId, _: Now) {
        let mut classroom = self.0.lock().unwrap();
        let Some(classroom) = classroom.as_mut() else { return };
        while let Ok(lesson) = classroom.lessons.pop() {
            let Some(ticket) = lesson.ticket else { continue };
            classroom.releases.push(Release { ticket, known: true }).unwrap();
        }
    }

    fn ring(&self) {}
}

impl Lab {
    fn new() -> Self {
        Self::with(Arc::new(()))
    }

    fn with(learner: Arc<dyn Learner>) -> Self {
        let mut publisher = Publisher::default();
        publisher.publish(tables()).unwrap();
        let (answers, classroom) = answers(WorkerId(0), learner);
        let (wanted, _) = RingBuffer::new(8);
        let exchange = exchanges(1, 8).unwrap().remove(0);
        let ends = Ends { tables: publisher.subscribe(), events: events(64).0, exchange, wanted, answers };
        let state = State::new(Config::new(1000, [1, 2, 3, 4]));
        let worker = Worker::new(MemIo::new(2, 2000), state, ends, Idle::Poll);
        Self { worker, classroom, now: Now(Now::SECOND), _publisher: publisher }
    }

    fn turn(&mut self) {
        self.now = Now(self.now.0 + 10_000);
        self.worker.turn(self.now);
    }

    fn sent(&self) -> usize {
        self.worker.io.sent[1].len()
    }

    /// A query for the name of this many bytes and its answer, of so many addresses.
    fn ask(&mut self, id: u16, name: &[u8], addresses: u16) {
        let ip = |text: &str| mapped(text.parse().unwrap());
        let key = FlowKey {
            src: ip("10.0.0.1"),
            dst: ip("192.0.2.53"),
            sport: 4000,
            dport: 53,
            proto: 17,
            v4: true,
        };
        let mut query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        query.extend(name);
        query.extend([0, 1, 0, 1]);
        self.worker.io.arrive(1, &Frame { payload: query.clone(), ..Frame::new(key) }.build());
        self.turn();
        let mut answer = query;
        answer[2] = 0x81;
        answer[6..8].copy_from_slice(&addresses.to_be_bytes());
        for n in 0..addresses {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51]);
            answer.extend(n.to_be_bytes());
        }
        self.worker.io.arrive(0, &Frame { payload: answer, ..Frame::new(key.reverse()) }.build());
        self.turn();
    }

    fn balanced(&self) -> bool {
        self.worker.state.counters.ends() == self.worker.state.counters.received
    }
}

const WANTED: &[u8] = b"\x06wanted\x02io\x00";

#[test]
fn an_answer_leaves_when_its_addresses_are_known() {
    let mut lab = Lab::new();
    lab.ask(7, WANTED, 2);
    assert_eq!(lab.sent(), 0);
    let lesson = lab.classroom.lessons.pop().unwrap();
    assert_eq!((lesson.name.to_string().as_str(), lesson.addresses.len()), ("wanted.io.", 2));
    lab.turn();
    assert_eq!(lab.sent(), 0);
    let release = Release { ticket: lesson.ticket.unwrap(), known: true };
    lab.classroom.releases.push(release).unwrap();
    lab.turn();
    assert_eq!(lab.sent(), 1);
    assert!(lab.balanced());
    assert_eq!(lab.worker.state.counters.dns_held, 0);
}

#[test]
fn what_the_worker_learns_itself_leaves_in_its_next_turn() {
    let quick = Arc::new(Quick::default());
    let mut lab = Lab::with(Arc::clone(&quick) as Arc<dyn Learner>);
    let (_, nobody) = answers(WorkerId(0), Arc::new(()));
    *quick.0.lock().unwrap() = Some(std::mem::replace(&mut lab.classroom, nobody));
    lab.ask(7, WANTED, 40);
    assert_eq!(lab.sent(), 0);
    lab.turn();
    assert_eq!(lab.sent(), 1);
    assert!(lab.balanced());
}

#[test]
fn an_answer_that_nobody_learns_is_lost_in_time() {
    let mut lab = Lab::new();
    lab.ask(7, WANTED, 1);
    let first = lab.classroom.lessons.pop().unwrap();
    lab.classroom.releases.push(Release { ticket: first.ticket.unwrap(), known: false }).unwrap();
    lab.turn();
    lab.ask(8, WANTED, 1);
    lab.now = Now(lab.now.0 + 101_000_000);
    lab.turn();
    assert_eq!(lab.sent(), 0);
    assert_eq!(lab.worker.state.counters.dropped_for(DropReason::NotReady), 2);
    // A release that comes too late finds nothing.
    let second = lab.classroom.lessons.pop().unwrap();
    lab.classroom.releases.push(Release { ticket: second.ticket.unwrap(), known: true }).unwrap();
    lab.ask(9, WANTED, 1);
    assert_eq!(lab.sent(), 0);
    assert_eq!(lab.worker.state.counters.dns_held, 1);
    assert!(lab.balanced());
}

#[test]
fn names_that_no_rule_asks_for_are_told_but_do_not_wait() {
    let mut lab = Lab::new();
    lab.ask(7, b"\x05other\x02io\x00", 1);
    assert_eq!(lab.sent(), 1);
    assert_eq!(lab.classroom.lessons.pop().unwrap().ticket, None);
    assert!(lab.balanced());
}

#[test]
fn many_addresses_are_several_lessons_and_no_room_is_no_answer() {
    let mut lab = Lab::new();
    lab.ask(0, WANTED, 80);
    let tickets: Vec<_> = std::iter::from_fn(|| lab.classroom.lessons.pop().ok()).map(|l| l.ticket).collect();
    assert_eq!(tickets, [None, None, Some(1)]);
    for id in 1..600 {
        lab.ask(id, WANTED, 1);
    }
    assert_eq!(lab.sent(), 0);
    assert!(lab.worker.state.counters.dropped_for(DropReason::NotReady) >= 88);
    assert!(lab.balanced());
}
