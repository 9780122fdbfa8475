//! What is done with a hostile script: a small gateway lives through it, once the short way and once the long way, and after
//! every burst the laws of the path hold.

#[path = "frames.rs"]
mod frames;
#[path = "script.rs"]
mod script;
#[path = "world.rs"]
mod world;

use sluice_core::cut;
use sluice_core::event::{EventKind, EventSink, FlowEvent};
use sluice_core::packet::{BURST, Packet, PortId};
use sluice_core::path::{Fates, forward, tick};
use sluice_core::state::counters::Counters;
use sluice_core::state::{Config, State};
use sluice_core::tables::Tables;
use sluice_core::time::Now;
use sluice_core::verdict::{Fate, WorkerId};

use super::sound;
use frames::Before;
use script::Script;
use world::World;

const HEADROOM: usize = 32;
const TAILROOM: usize = 512;
const STEPS: usize = 200;
const MAX_FRAGMENTS: u32 = 4;

pub fn swallow(data: &[u8]) {
    let mut script = Script::new(data);
    let mut gateway = Gateway::new(&mut script);
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        gateway.step(&mut script);
    }
    gateway.grow_old();
}

#[derive(Default)]
struct Events(Vec<FlowEvent>);

impl EventSink for Events {
    fn emit(&mut self, event: &FlowEvent) {
        self.0.push(*event);
    }
}

struct Side {
    state: State,
    events: Events,
    /// Flows that a process before this one made.
    inherited: u64,
}

struct Gateway {
    world: World,
    /// The short way, and the long way.
    sides: [Side; 2],
    now: Now,
    before: Before,
}

fn state(config: Config) -> State {
    State::new(Config { max_fragments: MAX_FRAGMENTS, ..config })
}

impl Gateway {
    fn new(script: &mut Script<'_>) -> Self {
        let how = script.byte();
        let config = Config {
            worker: WorkerId(how & 1),
            pickup: how & 2 != 0,
            ..Config::new(8 + u32::from(how >> 2), [1, 2, 3, 4])
        };
        let side = |short| Side {
            state: state(Config { short, ..config }),
            events: Events::default(),
            inherited: 0,
        };
        Self {
            world: World::take(),
            sides: [side(true), side(false)],
            now: Now::from_secs(100),
            before: Before::default(),
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(12) {
            0 => {
                let changes: Vec<_> = (0..=script.below(3)).map(|_| world::change(script)).collect();
                self.world.apply(&changes);
            }
            1 => self.now.0 += u64::from(script.word()) * (Now::SECOND / 100),
            2 => self.now.0 += u64::from(script.word()) * Now::SECOND,
            3 if script.one_in(4) => self.restart(),
            // Twice as a whole burst.
            4 | 5 => {
                let most = 1 + script.below(8);
                let burst: Vec<_> = (0..most).map(|_| frames::frame(script, &self.before)).collect();
                let handed = script.below(3);
                self.burst(&burst, handed);
            }
            _ => {
                let one = frames::frame(script, &self.before);
                self.burst(&[one], 0);
            }
        }
        for side in &mut self.sides {
            tick(&self.world.tables, &mut side.state, self.now, &mut side.events);
        }
    }

    fn burst(&mut self, burst: &[(PortId, Vec<u8>)], handed: u8) {
        assert!(burst.len() <= BURST);
        let [short, long] = &mut self.sides;
        let by_short = short.burst(&self.world.tables, self.now, burst, handed);
        let by_long = long.burst(&self.world.tables, self.now, burst, handed);
        assert_eq!(by_short, by_long, "the short way does what the long way does");
        assert_eq!(short.state.counters, long.state.counters);
        for ((_, came), (fate, went)) in burst.iter().zip(&by_short) {
            check(came, *fate, went);
            if matches!(fate, Fate::Forward(_) | Fate::Answer(_)) {
                self.before = Before { came: came.clone(), went: went.clone() };
            }
        }
    }

    /// Another process takes the flows over.
    fn restart(&mut self) {
        for side in &mut self.sides {
            let mut next = state(side.state.config);
            let flows = &side.state.flows;
            let kept = flows
                .iter_from(0)
                .filter(|(_, flow)| next.import(&side.state.export(*flow, self.now), self.now).is_ok());
            side.inherited = kept.count() as u64;
            side.state = next;
        }
    }

    /// In the end every flow ends.
    fn grow_old(mut self) {
        for side in &mut self.sides {
            let mut now = Now(self.now.0 + 30 * 86_400 * Now::SECOND);
            for _ in 0..1000 {
                tick(&self.world.tables, &mut side.state, now, &mut side.events);
                now.0 += Now::SECOND;
            }
            assert_eq!(side.state.flows.occupancy().0, 0, "every flow ends");
            side.balance();
        }
        self.world.give_back();
    }
}

impl Side {
    fn burst(
        &mut self,
        tables: &Tables,
        now: Now,
        burst: &[(PortId, Vec<u8>)],
        handed: u8,
    ) -> Vec<(Fate, Vec<u8>)> {
        let mut rooms: Vec<Vec<u8>> = burst
            .iter()
            .map(|(_, bytes)| [&[0xa5; HEADROOM][..], bytes, &[0xa5; TAILROOM]].concat())
            .collect();
        let mut packets: Vec<Packet<'_>> = rooms
            .iter_mut()
            .zip(burst)
            .map(|(room, (port, bytes))| {
                let mut packet = Packet::new(room, HEADROOM, bytes.len(), *port).expect("lies in the room");
                packet.handed = handed;
                packet
            })
            .collect();
        let before = self.state.counters.clone();
        let events = self.events.0.len();
        let mut fates = Fates::new();
        forward(tables, &mut self.state, now, &mut packets, &mut fates, &mut self.events);
        assert_eq!(fates.len(), burst.len(), "every packet has one fate");
        let after = self.state.counters.clone();
        every_fate_is_counted(&before, &after, &fates);
        let told =
            self.events.0[events..].iter().filter(|event| matches!(event.kind, EventKind::Drop(_))).count();
        assert_eq!(told as u64, after.dropped() - before.dropped(), "every drop is told");
        self.balance();
        fates.into_iter().zip(&packets).map(|(fate, packet)| (fate, packet.bytes().to_vec())).collect()
    }

    fn balance(&self) {
        let counters = &self.state.counters;
        assert_eq!(counters.received, counters.ends(), "{counters:?}");
        let live = u64::from(self.state.flows.occupancy().0);
        assert_eq!(self.inherited + counters.flows_created - counters.flows_ended, live, "{counters:?}");
        assert!(self.state.fragments.len() <= MAX_FRAGMENTS as usize);
    }
}

/// Each fate has its counter, and no other moved.
fn every_fate_is_counted(before: &Counters, after: &Counters, fates: &Fates) {
    let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count() as u64;
    assert_eq!(after.received - before.received, fates.len() as u64);
    assert_eq!(after.forwarded - before.forwarded, count(|f| matches!(f, Fate::Forward(_))));
    assert_eq!(after.passed - before.passed, count(|f| matches!(f, Fate::Pass)));
    assert_eq!(after.held - before.held, count(|f| matches!(f, Fate::Hold { .. } | Fate::AwaitRow(_))));
    assert_eq!(after.cut - before.cut, count(|f| matches!(f, Fate::Cut(_))));
    assert_eq!(after.handed_over - before.handed_over, count(|f| matches!(f, Fate::HandOver(_))));
    assert_eq!(after.dns_held - before.dns_held, count(|f| matches!(f, Fate::Learn(_))));
    let answers = (after.answered - before.answered) + (after.echoed - before.echoed);
    assert_eq!(answers, count(|f| matches!(f, Fate::Answer(_))));
    let drops = count(|f| matches!(f, Fate::Drop(_))) + after.answered - before.answered;
    assert_eq!(after.dropped() - before.dropped(), drops);
    for (reason, count) in after.drops() {
        let fates = fates.iter().filter(|fate| **fate == Fate::Drop(reason)).count() as u64;
        assert!(count - before.dropped_for(reason) >= fates, "{reason:?} is counted as itself");
    }
}

/// What leaves is sound and no longer than it may be; what stays for later is as it came.
fn check(came: &[u8], fate: Fate, went: &[u8]) {
    match fate {
        Fate::Forward(_) | Fate::Learn(_) => {
            let (old, new) = (sound::headers(came), sound::headers(went));
            let (old, new) = (old.expect("was readable"), new.expect("is still readable"));
            assert!(sound::header_is_sound(went, &new));
            assert!(new.end - new.l3 <= 1500, "no larger than any MTU here");
            if new.end - new.l3 != old.end - old.l3 {
                // Into a tunnel, out of one, or with an option more.
                return assert_ne!(sound::transport_is_sound(went, &new), Some(false));
            }
            assert_eq!(new.ttl, old.ttl - 1);
            if sound::transport_is_sound(came, &old) == Some(true) {
                assert_eq!(
                    sound::transport_is_sound(went, &new),
                    Some(true),
                    "what was sound is sound: {came:02x?} {went:02x?}"
                );
            }
        }
        Fate::Answer(_) => {
            let (old, new) = (sound::headers(came), sound::headers(went));
            let (old, new) = (old.expect("was readable"), new.expect("is readable"));
            assert!(sound::header_is_sound(went, &new));
            assert_eq!(sound::transport_is_sound(went, &new), Some(true), "our own are sound");
            let asked = old.key.src == new.key.dst || sound::came_by_tunnel_from(came, &old, &new.key);
            assert!(asked, "goes back to who asked: {came:02x?} {went:02x?}");
        }
        Fate::Hold { .. } | Fate::AwaitRow(_) | Fate::HandOver(_) | Fate::Pass => {
            assert_eq!(went, came, "is as it came")
        }
        Fate::Cut(room) => {
            assert_eq!(went, came, "is as it came");
            check_pieces(came, room);
        }
        Fate::Drop(_) => {}
    }
}

/// What is said to be cut can be: into pieces that are sound, fit, and make the packet again.
fn check_pieces(came: &[u8], room: u16) {
    let whole = sound::headers(came).expect("was readable");
    let (mut bytes, len) = (came.to_vec(), came.len());
    let mut packet = Packet::new(&mut bytes, 0, len, PortId(0)).expect("lies in the room");
    let mut pieces = cut::Pieces::of(&mut packet, room).expect("may be cut");
    let (count, mut payload, mut seen) = (pieces.count(), Vec::new(), 0);
    assert!((2..=cut::MOST).contains(&count), "{count} pieces");
    while let Some(piece) = pieces.next() {
        seen += 1;
        let headers = sound::headers(piece).expect("is readable");
        assert!(sound::header_is_sound(piece, &headers));
        assert!(headers.end - headers.l3 <= room && headers.ttl == whole.ttl);
        let begin = whole.fragment.map_or(0, |fragment| fragment.offset);
        let fragment = headers.fragment.expect("is a fragment");
        assert_eq!(usize::from(fragment.offset - begin), payload.len());
        assert_eq!(fragment.more, seen < count || whole.fragment.is_some_and(|fragment| fragment.more));
        payload.extend_from_slice(&piece[usize::from(headers.l4)..usize::from(headers.end)]);
    }
    assert_eq!(seen, count);
    assert_eq!(payload, came[usize::from(whole.l4)..usize::from(whole.end)]);
}
