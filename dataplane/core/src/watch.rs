//! Looking over the path's shoulder: one packet through `forward`, and all that can be said of it. Costs nothing to those
//! who do not look; a worker that somebody watches goes this way instead of the ordinary one, and decides the same.

use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::event::{EventKind, EventSink, FlowEvent};
use crate::flow_key::FlowKey;
use crate::packet::{Packet, PortId};
use crate::parse::{Headers, parse};
use crate::path::{Fates, forward};
use crate::state::State;
use crate::state::flow::REPLIED;
use crate::tables::Tables;
use crate::tables::record::Prefix;
use crate::time::Now;
use crate::verdict::{DropReason, Fate, WorkerId};

/// How a packet ended, in one word for filters and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Forwarded,
    Dropped,
    Audit,
    /// Left to the kernel.
    Passed,
    /// Answered by us without being dropped (an echo to a service's address).
    Answered,
    /// Waits for a neighbour.
    Held,
    HandedOver,
}

impl Verdict {
    pub const ALL: [Self; 7] = [
        Self::Forwarded,
        Self::Dropped,
        Self::Audit,
        Self::Passed,
        Self::Answered,
        Self::Held,
        Self::HandedOver,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "FORWARDED",
            Self::Dropped => "DROPPED",
            Self::Audit => "AUDIT",
            Self::Passed => "PASSED",
            Self::Answered => "ANSWERED",
            Self::Held => "HELD",
            Self::HandedOver => "HANDED_OVER",
        }
    }
}

/// What was read of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub key: FlowKey,
    pub vlan: u16,
    pub ttl: u8,
    pub tcp_flags: u8,
    pub icmp: (u8, u8),
    pub dont_fragment: bool,
    /// Offset of a fragment, and whether more follow.
    pub fragment: Option<(u16, bool)>,
}

/// A flow as it was before the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub is_reply: bool,
    pub tcp: u8,
    pub replied: bool,
    /// The generation that admitted it; another than the present one: it is judged again.
    pub generation: u32,
}

/// One packet, stage by stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub at: Now,
    pub worker: WorkerId,
    /// Where it came in, and how many workers handed it on.
    pub port: PortId,
    pub handed: u8,
    /// Bytes as it came and as it went.
    pub lengths: [u16; 2],
    /// MACs (destination, source) as it came and as it went.
    pub macs: [[u8; 12]; 2],
    pub read: Result<Read, DropReason>,
    pub known: Option<Known>,
    /// What the path told of it; nothing for what was passed, held or handed over.
    pub event: Option<FlowEvent>,
    /// A flow was made for it.
    pub admitted: bool,
    pub generation: u32,
    pub fate: Fate,
}

impl Sighting {
    pub fn verdict(&self) -> Verdict {
        match (self.fate, self.event) {
            (Fate::Drop(_), _) => Verdict::Dropped,
            (Fate::Answer(_), Some(event)) if matches!(event.kind, EventKind::Drop(_)) => Verdict::Dropped,
            (Fate::Answer(_), _) => Verdict::Answered,
            (Fate::Forward(_), Some(event)) if event.audit => Verdict::Audit,
            (Fate::Forward(_), _) => Verdict::Forwarded,
            (Fate::Pass, _) => Verdict::Passed,
            (Fate::Hold { .. } | Fate::AwaitRow(_) | Fate::Learn(_) | Fate::Cut(_), _) => Verdict::Held,
            (Fate::HandOver(_), _) => Verdict::HandedOver,
        }
    }

    pub fn reason(&self) -> Option<DropReason> {
        match (self.fate, self.event.map(|event| event.kind)) {
            (Fate::Drop(reason), _) | (Fate::Answer(_), Some(EventKind::Drop(reason))) => Some(reason),
            _ => None,
        }
    }
}

/// Which packets somebody wants to see. Everything that is given must hold; a list holds if one of it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Either side.
    pub ips: Vec<Prefix>,
    pub from: Vec<Prefix>,
    pub to: Vec<Prefix>,
    pub ports: Vec<u16>,
    pub protocols: Vec<u8>,
    /// Either side.
    pub identities: Vec<u32>,
    pub verdicts: Vec<Verdict>,
    /// Numbers of drop reasons.
    pub reasons: Vec<u8>,
}

impl Filter {
    /// A packet is looked at as it came and as it would leave.
    pub fn fits(&self, seen: &Sighting) -> bool {
        let read = seen.read.ok().map(|read| read.key);
        let keys = [read, seen.event.map(|event| event.key), seen.event.map(|event| event.translated)];
        let any_key = |fits: &dyn Fn(&FlowKey) -> bool| keys.iter().flatten().any(fits);
        let from = |list: &[Prefix], key: &FlowKey| within(list, key.source());
        let to = |list: &[Prefix], key: &FlowKey| within(list, key.destination());
        let sides = seen.event.map_or([0; 2], |event| [event.source, event.destination]);
        one_of(&self.ips, || any_key(&|key| from(&self.ips, key) || to(&self.ips, key)))
            && one_of(&self.from, || any_key(&|key| from(&self.from, key)))
            && one_of(&self.to, || any_key(&|key| to(&self.to, key)))
            && one_of(&self.ports, || {
                any_key(&|key| self.ports.contains(&key.sport) || self.ports.contains(&key.dport))
            })
            && one_of(&self.protocols, || any_key(&|key| self.protocols.contains(&key.proto)))
            && one_of(&self.identities, || sides.iter().any(|side| self.identities.contains(side)))
            && one_of(&self.verdicts, || self.verdicts.contains(&seen.verdict()))
            && one_of(&self.reasons, || {
                seen.reason().is_some_and(|reason| self.reasons.contains(&reason.number()))
            })
    }
}

/// Nothing asked for is always there.
fn one_of<T>(list: &[T], holds: impl FnOnce() -> bool) -> bool {
    list.is_empty() || holds()
}

fn within(list: &[Prefix], ip: IpAddr) -> bool {
    list.iter().any(|prefix| contains(prefix, ip))
}

fn contains(prefix: &Prefix, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let ((wanted, width), (is, other)) = (bits(prefix.addr), bits(ip));
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len)).unwrap_or(0);
    width == other && prefix.len <= width && (wanted ^ is) & mask == 0
}

/// Passes events on as the ordinary path would tell them, and keeps what was said of the one packet.
struct Noting<'a, S> {
    to: &'a mut S,
    said: Option<FlowEvent>,
    admitted: bool,
}

impl<S: EventSink> EventSink for Noting<'_, S> {
    const EVERY_PACKET: bool = true;

    fn emit(&mut self, event: &FlowEvent) {
        match event.kind {
            EventKind::Packet => self.said = Some(*event),
            EventKind::Drop(_) => {
                self.said = Some(*event);
                self.to.emit(event);
            }
            EventKind::New => {
                self.admitted = true;
                self.said = Some(*event);
                self.to.emit(event);
            }
            EventKind::Update | EventKind::End => self.to.emit(event),
        }
    }
}

/// One packet through the path. The events that would have been told are told; the rest is in the answer.
pub fn forward_seen<S: EventSink>(
    tables: &Tables,
    state: &mut State,
    now: Now,
    packet: &mut Packet<'_>,
    fates: &mut Fates,
    events: &mut S,
) -> Sighting {
    let read = parse(packet);
    let known = read.as_ref().ok().and_then(|headers| known(state, headers));
    let (port, handed) = (packet.port, packet.handed);
    let (length, macs) = (length(packet), macs(packet));
    let mut noting = Noting { to: events, said: None, admitted: false };
    let one = core::slice::from_mut(packet);
    forward(tables, state, now, one, fates, &mut noting);
    let Noting { said, admitted, .. } = noting;
    Sighting {
        at: now,
        worker: state.config.worker,
        port,
        handed,
        lengths: [length, self::length(packet)],
        macs: [macs, self::macs(packet)],
        read: read.map(|headers| summary(&headers)),
        known,
        event: said,
        admitted,
        generation: tables.generation,
        fate: fates.first().copied().unwrap_or(Fate::Pass),
    }
}

fn known(state: &State, headers: &Headers) -> Option<Known> {
    let flow = state.flows.find(&headers.key)?;
    let hot = state.flows.hot(flow);
    Some(Known {
        is_reply: flow.is_reply(),
        tcp: hot.tcp,
        replied: hot.is(REPLIED),
        generation: hot.generation,
    })
}

fn summary(headers: &Headers) -> Read {
    Read {
        key: headers.key,
        vlan: headers.vlan,
        ttl: headers.ttl,
        tcp_flags: headers.tcp_flags,
        icmp: headers.icmp,
        dont_fragment: headers.dont_fragment,
        fragment: headers.fragment.map(|fragment| (fragment.offset, fragment.more)),
    }
}

fn length(packet: &Packet<'_>) -> u16 {
    u16::try_from(packet.len()).unwrap_or(u16::MAX)
}

fn macs(packet: &Packet<'_>) -> [u8; 12] {
    packet.bytes().first_chunk().copied().unwrap_or_default()
}
