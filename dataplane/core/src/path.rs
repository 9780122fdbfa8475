//! `forward`: a burst of packets from arrival to departure, in three phases.
//!
//! 1. *Classify* every packet: if it is an ordinary one, read what matters, hash its key, start fetching the bucket that
//!    may hold its flow.
//! 2. *Look up* every packet: compare tags, start fetching the flow. For those that seem to have none, fetch what admitting
//!    them will need (`strangers`).
//! 3. *Apply*, packet by packet: what is ordinary in every way goes the short way (`short`). For the rest, fragments learn
//!    their ports; errors find the flow that they quote; known flows go on (`established`), unknown ones are judged
//!    (`admit`); and what is allowed leaves (`depart`).
//!
//! While one packet is worked on, the memory for those behind it is on its way: that is the whole reason for phases.

pub mod admit;
pub mod depart;
pub mod dns;
pub mod established;
pub mod icmp;
pub mod reply;
pub(crate) mod short;
pub mod stages;
pub(crate) mod strangers;
pub(crate) mod tunnelled;
pub(crate) mod wrapped;

use arrayvec::ArrayVec;
use short::{Glance, glance};
use strangers::{Stranger, Strangers};

use crate::event::{EventKind, EventSink, FlowEvent};
use crate::flow_key::FlowKey;
use crate::packet::{BURST, Packet, PortId};
use crate::parse::{FIN, Headers, Kind, RST, TCP, parse};
use crate::state::State;
use crate::state::conntrack::{FlowRef, FlowTable};
use crate::state::flow::{AUDIT, Hot};
use crate::state::tcp::TcpState;
use crate::tables::Tables;
use crate::time::Now;
use crate::unwrap;
use crate::verdict::{DropReason, Fate};

/// Every packet's fate, in the order of the burst.
pub type Fates = ArrayVec<Fate, BURST>;

/// What one turn has at hand.
#[derive(Debug)]
pub(crate) struct Turn<'a, S> {
    pub tables: &'a Tables,
    pub state: &'a mut State,
    pub now: Now,
    /// The same in whole seconds, as flows keep it.
    pub seconds: u32,
    pub events: &'a mut S,
    /// Of the packet at hand, if it came in a tunnel.
    pub told: Option<tunnelled::Told>,
    /// A tag that there is a port for, and where it came in.
    tag: (PortId, u16),
}

/// Decide and carry out what happens to each packet of the burst. Packets are rewritten in place; `fates` says what the
/// caller does with them.
pub fn forward<S: EventSink>(
    tables: &Tables,
    state: &mut State,
    now: Now,
    burst: &mut [Packet<'_>],
    fates: &mut Fates,
    events: &mut S,
) {
    let mut works = core::mem::take(&mut state.glances);
    let mut bytes = 0;
    for (packet, work) in burst.iter().zip(&mut works) {
        bytes += packet.len() as u64;
        classify(&state.flows, packet, work);
    }
    state.counters.received += burst.len() as u64;
    state.counters.received_bytes += bytes;
    let mut strangers = Strangers::new();
    if state.config.short {
        let mut late = ArrayVec::new();
        look_up(&state.flows, &mut works[..burst.len().min(BURST)], &mut late);
        if !late.is_empty() && !S::EVERY_PACKET {
            strangers::foresee(tables, &state.flows, burst, &works, &late, &mut strangers);
        }
    }
    // In the order of the burst: the next of them is the next that finds no flow.
    let mut strangers = &strangers[..];
    set_length(fates, burst.len());
    let seconds = now.seconds();
    let mut turn = Turn { tables, state, now, seconds, events, told: None, tag: (PortId(0), 0) };
    let mut sent = (0, 0);
    for ((packet, work), fate) in burst.iter_mut().zip(&works).zip(fates) {
        let len = packet.len();
        match turn.short_way(packet, work) {
            Some(port) => {
                *fate = Fate::Forward(port);
                sent = (sent.0 + 1, sent.1 + len as u64);
            }
            None => *fate = turn.other_ways(packet, work, &mut strangers),
        }
    }
    state.counters.forwarded += sent.0;
    state.counters.forwarded_bytes += sent.1;
    state.glances = works;
}

/// As many fates as packets; what they are is said in a moment.
#[inline(always)]
fn set_length(fates: &mut Fates, count: usize) {
    fates.truncate(count);
    while fates.len() < count.min(BURST) {
        fates.push(Fate::Pass);
    }
}

#[inline(always)]
fn classify(flows: &FlowTable, packet: &Packet<'_>, work: &mut Glance) {
    work.candidate = FlowRef::NONE;
    work.ordinary = glance(packet, flows, work).is_some();
    if work.ordinary {
        flows.prefetch_bucket(&work.place);
    } else {
        *work = Glance::BLANK;
    }
}

/// Keys that are not in the first of their two buckets are few. They are looked for when all others have been, so that the
/// second one is there by then.
#[inline(always)]
fn look_up(flows: &FlowTable, works: &mut [Glance], late: &mut ArrayVec<u8, BURST>) {
    for (work, index) in works.iter_mut().zip(0..) {
        if work.is_everyday()
            && let Some(found) = flows.in_first(&work.place, work.v4)
        {
            work.candidate = found;
        } else if work.ordinary {
            flows.prefetch_second(&work.place);
            late.push(index);
        }
    }
    for index in late {
        let work = &mut works[usize::from(*index)];
        if work.is_everyday() {
            work.candidate = flows.in_second(&work.place, work.v4);
        }
    }
}

impl<'t, S: EventSink> Turn<'t, S> {
    #[cold]
    #[inline(never)]
    fn other_ways(
        &mut self,
        packet: &mut Packet<'_>,
        work: &Glance,
        strangers: &mut &[Stranger<'t>],
    ) -> Fate {
        let welcomed = match strangers.split_first() {
            Some((first, others)) if first.is(work) => {
                *strangers = others;
                self.welcome(packet, work, first)
            }
            Some(_) | None => None,
        };
        let moved = || self.moves_on(packet, work).map(Fate::Forward);
        let fate = match welcomed.or_else(moved) {
            Some(fate) => fate,
            None => self.long_way(packet, work),
        };
        self.account(fate, packet.len());
        fate
    }

    fn long_way(&mut self, packet: &mut Packet<'_>, work: &Glance) -> Fate {
        // Flows of the last process wait for tables, too: without any they would be judged by nothing.
        if self.tables.generation == 0 {
            return self.refuse(&NO_KEY, None, DropReason::NotReady);
        }
        let read = match work.headers(packet) {
            Some(headers) => Ok(headers),
            None => parse(packet),
        };
        let headers = match &read {
            Ok(headers) => headers,
            Err(reason) => return self.refuse(&NO_KEY, None, *reason),
        };
        if headers.vlan != 0 && !self.enter_vlan(packet, headers.vlan) {
            return self.refuse(&headers.key, Some(headers), DropReason::VlanFiltered);
        }
        if headers.fragment.is_some() {
            return self.fragment(packet, headers);
        }
        if headers.kind == Kind::IcmpError {
            return self.icmp_error(packet, headers);
        }
        if self.tables.tunnels.are_open() && unwrap::is_tunnel(headers) {
            if self.tables.guarded.contains(headers.key.src, headers.key.v4) {
                return self.refuse(&headers.key, Some(headers), DropReason::EncapsulationProhibited);
            }
            if unwrap::opens(headers) && self.tables.tunnels.end(&headers.key) {
                return self.tunnelled(packet, headers);
            }
        }
        let (place, candidate) = if work.ordinary {
            (work.place, work.candidate)
        } else {
            (self.state.flows.place(&headers.key), FlowRef::NONE)
        };
        match self.state.flows.verify(&headers.key, &place, candidate) {
            Some(flow) => self.established(packet, headers, flow),
            None => {
                let short = work.ordinary && self.state.config.short;
                self.admit(packet, headers, &place, short.then_some(work))
            }
        }
    }

    /// A fragment goes the way of its datagram.
    #[cold]
    fn fragment(&mut self, packet: &mut Packet<'_>, headers: &Headers) -> Fate {
        let Some(fragment) = headers.fragment else { return Fate::Pass };
        let payload = headers.end - headers.l4;
        let key = match self.state.fragments.follow(&headers.key, fragment, payload, packet.again, self.now) {
            Ok(key) => key,
            Err(reason) => return self.refuse(&headers.key, Some(headers), reason),
        };
        let headers = Headers { key, ..*headers };
        let place = self.state.flows.place(&key);
        match self.state.flows.find(&key) {
            Some(flow) => self.established(packet, &headers, flow),
            None => self.admit(packet, &headers, &place, None),
        }
    }

    /// A tagged frame belongs to the port of its VLAN on the device that it came in on.
    #[cold]
    fn enter_vlan(&self, packet: &mut Packet<'_>, vlan: u16) -> bool {
        let routing = &self.tables.routing;
        let Some(device) = routing.port(packet.port).map(|port| port.device) else { return false };
        let Some(port) = routing.find_port(device, vlan) else { return false };
        packet.port = port;
        true
    }

    /// Every packet ends in one counter. Drops were counted with their reason where they were decided.
    #[inline]
    fn account(&mut self, fate: Fate, len: usize) {
        let counters = &mut self.state.counters;
        match fate {
            Fate::Forward(_) => {
                counters.forwarded += 1;
                counters.forwarded_bytes += len as u64;
            }
            Fate::Pass => counters.passed += 1,
            Fate::Hold { .. } | Fate::AwaitRow(_) => counters.held += 1,
            Fate::Learn(_) => counters.dns_held += 1,
            Fate::HandOver(_) => counters.handed_over += 1,
            Fate::Cut(_) => counters.cut += 1,
            Fate::Drop(_) | Fate::Answer(_) => {}
        }
    }

    /// Drop a packet that belongs to no flow.
    #[cold]
    fn refuse(&mut self, key: &FlowKey, headers: Option<&Headers>, reason: DropReason) -> Fate {
        self.state.counters.drop(reason);
        let mut event = self.event(EventKind::Drop(reason), key, key);
        if let Some(headers) = headers {
            event.tcp_flags = headers.tcp_flags;
            event.icmp_type = headers.icmp.0;
            let ipcache = &self.tables.ipcache;
            event.source = ipcache.lookup(key.src, key.v4).number;
            event.destination = ipcache.lookup(key.dst, key.v4).number;
        }
        self.events.emit(&event);
        Fate::Drop(reason)
    }

    /// An event with what is known of any packet.
    fn event(&self, kind: EventKind, key: &FlowKey, translated: &FlowKey) -> FlowEvent {
        FlowEvent { generation: self.tables.generation, ..FlowEvent::of(self.now, kind, *key, *translated) }
    }

    /// Tell of a flow, as seen from the direction of `flow`.
    fn tell(&mut self, kind: EventKind, flow: FlowRef) {
        let event = flow_event(self.tables, &self.state.flows, self.now, kind, flow);
        self.events.emit(&event);
    }
}

/// All that is known of a flow at this moment, as seen from the direction of `flow`.
pub fn flow_event(tables: &Tables, flows: &FlowTable, now: Now, kind: EventKind, flow: FlowRef) -> FlowEvent {
    let (hot, cold, keys) = (flows.hot(flow), flows.cold(flow), flows.keys(flow));
    let (packets, bytes) = hot.counts(cold);
    let (egress_rule, ingress_rule) = cold.rules();
    let number = |ip| tables.ipcache.lookup(ip, keys.original.v4).number;
    let served = wrapped::served(tables, flows, flow);
    let (client, server) = (number(keys.original.src), number(served.dst));
    let (key, translated, source, destination) = if flow.is_reply() {
        (keys.translated.reverse(), keys.original.reverse(), server, client)
    } else {
        (keys.original, served, client, server)
    };
    FlowEvent {
        at: now,
        kind,
        key,
        translated,
        is_reply: flow.is_reply(),
        audit: hot.is(AUDIT),
        tcp_flags: if kind == EventKind::End { last_flag(hot) } else { 0 },
        icmp_type: 0,
        source,
        destination,
        egress_rule,
        ingress_rule,
        denied_egress: false,
        generation: tables.generation,
        packets,
        bytes,
    }
}

/// What ended a connection, if it was one of its sides.
fn last_flag(hot: &Hot) -> u8 {
    match hot.tcp() {
        _ if hot.proto != TCP => 0,
        TcpState::Reset => RST,
        TcpState::ClosingOriginal | TcpState::ClosingReply | TcpState::Closed => FIN,
        TcpState::SynSent | TcpState::SynReceived | TcpState::Established => 0,
    }
}

/// Let time pass: forget flows and fragments that have had their time. Bounded work; call it once a turn or so.
pub fn tick<S: EventSink>(tables: &Tables, state: &mut State, now: Now, events: &mut S) {
    let timeouts = state.config.timeouts;
    let removed = state.flows.sweep(now, &timeouts, |flows, over| {
        for flow in over {
            let keys = flows.keys(*flow);
            tables.ipcache.prefetch(keys.original.src, keys.original.v4);
            tables.ipcache.prefetch(keys.translated.dst, keys.original.v4);
        }
        for flow in over {
            events.emit(&flow_event(tables, flows, now, EventKind::End, *flow));
        }
    });
    state.counters.flows_ended += u64::from(removed);
}

/// A packet that waited for a neighbour or was to be handed over or cut, and got no further: it ends as a drop after all.
#[cold]
pub fn give_up<S: EventSink>(
    tables: &Tables,
    state: &mut State,
    now: Now,
    packet: &Packet<'_>,
    reason: DropReason,
    events: &mut S,
) {
    let counters = &mut state.counters;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "each of what packets wait for has a reason of its own"
    )]
    let counted = match reason {
        DropReason::RateLimited => &mut counters.handed_over,
        DropReason::FragmentationNeeded => &mut counters.cut,
        _ => &mut counters.held,
    };
    *counted = counted.saturating_sub(1);
    let seconds = now.seconds();
    let mut turn = Turn { tables, state, now, seconds, events, told: None, tag: (PortId(0), 0) };
    let read = parse(packet).ok();
    turn.refuse(&read.as_ref().map_or(NO_KEY, |headers| headers.key), read.as_ref(), reason);
}

/// The key of a packet that could not be read.
const NO_KEY: FlowKey = FlowKey {
    src: core::net::Ipv6Addr::UNSPECIFIED,
    dst: core::net::Ipv6Addr::UNSPECIFIED,
    sport: 0,
    dport: 0,
    proto: 0,
    v4: false,
};
