//! Packets of a burst that seem to open flows: what admitting them will read is fetched for all of them, step by step,
//! before the first is admitted; and those that open a flow as nearly all flows are opened are admitted here.
//!
//! What follows from tables alone is kept (they do not change meanwhile). Whether there is a flow already is asked again when
//! the packet's turn comes: one before it may have made it. [`Turn::welcome`] changes nothing before it is sure; what is not
//! as usual is for [`Turn::admit`], which decides the same, and a law in the tests holds the two together.

use arrayvec::ArrayVec;

use super::Turn;
use super::established::NO_HOP;
use super::short::Glance;
use crate::emit::mapped;
use crate::event::{EventKind, EventSink, FlowEvent};
use crate::flow_key::FlowKey;
use crate::intrinsics::prefetch;
use crate::packet::{BURST, Packet};
use crate::parse::{ACK, SYN, TCP};
use crate::state::conntrack::{FlowRef, FlowTable, NewFlow, Place};
use crate::state::flow::{Cold, Hot, Keys, SERVICE, TRANSLATED};
use crate::state::tcp::TcpState;
use crate::tables::Tables;
use crate::tables::egress::Source;
use crate::tables::ipcache::Row;
use crate::tables::nexthop::Hop;
use crate::tables::policy::Decision;
use crate::tables::record::{Backend, Forwarding, RuleId, ServiceId};
use crate::tables::service::{Balanced, Match};
use crate::verdict::{Action, Fate, NextHopId};

/// What is known of a packet without a flow before its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger<'t> {
    /// Which packet of the burst: nothing else is asked of it.
    glance: *const Glance,
    key: FlowKey,
    /// What it leaves as.
    to: FlowKey,
    service: Option<(ServiceId, &'t Balanced)>,
    /// Of the flow, for choices among next hops.
    spread: u32,
    /// Of its service, where the backend stands.
    slot: usize,
    backend: Option<&'t Backend>,
    /// Of the replies.
    reply: Place,
    /// Identities of both ends.
    source: &'t Row,
    destination: &'t Row,
    rules: [RuleId; 2],
    hop: NextHopId,
    /// It may come by some ports only.
    guarded: bool,
    /// Nothing about it is known to be unusual.
    usual: bool,
}

pub(crate) type Strangers<'t> = ArrayVec<Stranger<'t>, BURST>;

/// Find out who the packets without a flow are, each step for all of them: what the next one reads is on its way by then.
#[inline(never)]
pub(crate) fn foresee<'t>(
    tables: &'t Tables,
    flows: &FlowTable,
    burst: &[Packet<'_>],
    works: &[Glance],
    late: &[u8],
    strangers: &mut Strangers<'t>,
) {
    let nobody = tables.ipcache.row(0);
    for at in late {
        let (work, packet) = (&works[usize::from(*at)], &burst[usize::from(*at)]);
        if work.candidate != FlowRef::NONE {
            continue;
        }
        let Some(key) = work.key(packet) else { continue };
        tables.services.prefetch(&key);
        tables.services.prefetch_address(key.src);
        tables.ipcache.prefetch(key.src, key.v4);
        strangers.push(Stranger {
            glance: work,
            key,
            to: key,
            service: None,
            spread: work.place.hash(),
            slot: 0,
            backend: None,
            reply: Place::NOWHERE,
            source: nobody,
            destination: nobody,
            rules: [RuleId(0); 2],
            hop: NextHopId(NO_HOP),
            guarded: false,
            usual: key.proto != TCP || work.tcp_flags & (SYN | ACK) == SYN,
        });
    }
    strangers.iter_mut().for_each(|stranger| stranger.asks_for(tables));
    strangers.iter_mut().for_each(|stranger| stranger.finds_its_slot(tables));
    strangers.iter_mut().for_each(Stranger::meets_its_backend);
    strangers.iter_mut().for_each(|stranger| stranger.is_told_where_to_go(tables));
    // (Not in the same go: what was just written in pieces and is read as a whole stalls.)
    for (before, stranger) in strangers.iter_mut().enumerate() {
        stranger.reply = flows.expect(&stranger.to.reverse(), before);
        if !stranger.key.v4 {
            flows.expect_number(stranger.key.dst);
        }
        stranger.destination = tables.ipcache.lookup(stranger.to.dst, stranger.key.v4);
        prefetch(stranger.destination);
    }
    strangers.iter_mut().for_each(|stranger| stranger.is_judged(tables));
}

impl<'t> Stranger<'t> {
    /// Is it the packet that was looked at here?
    pub(crate) fn is(&self, glance: &Glance) -> bool {
        core::ptr::eq(self.glance, glance)
    }

    /// Where does it come from, and what for?
    #[inline(always)]
    fn asks_for(&mut self, tables: &'t Tables) {
        let key = &self.key;
        self.source = tables.ipcache.lookup(key.src, key.v4);
        prefetch(self.source);
        self.guarded = tables.guarded.contains(key.src, key.v4);
        self.usual &=
            !tables.routing.is_local(key.src, key.v4) && !tables.services.is_frontend_address(key.src);
        match tables.services.lookup(key, self.source) {
            Match::None => {}
            Match::Service(id, service) => {
                service.prefetch();
                self.service = Some((id, service));
            }
            Match::Refused(_) => self.usual = false,
        }
    }

    #[inline(always)]
    fn finds_its_slot(&mut self, tables: &Tables) {
        self.source.prefetch_far();
        if let Some((_, service)) = self.service {
            let sticky = service.record.affinity_seconds > 0;
            self.slot = service.slot(tables.services.hash(&self.key, sticky));
            self.usual &= !sticky && service.record.forwarding == Forwarding::Dnat;
        }
    }

    #[inline(always)]
    fn meets_its_backend(&mut self) {
        if let Some((_, service)) = self.service {
            self.backend = service.at(self.slot);
            match self.backend {
                Some(backend) => {
                    prefetch(&backend.id);
                    prefetch(&backend.ip);
                }
                None => self.usual = false,
            }
        }
    }

    #[inline(always)]
    fn is_told_where_to_go(&mut self, tables: &Tables) {
        let key = &self.key;
        match self.backend {
            Some(backend) => {
                (self.to.dst, self.to.dport) = (mapped(backend.ip), backend.port);
                // (Who is sent to himself needs another source.)
                self.usual &= backend.ip.is_ipv4() == key.v4 && self.to.dst != key.src;
            }
            // The gateway's own addresses are the kernel's, and some sources leave with another address.
            None => {
                self.usual &= !tables.routing.is_local(key.dst, key.v4)
                    && !tables.is_nat_address(key.dst)
                    && tables.departures.find(key.src, key.dst).is_none();
            }
        }
        tables.ipcache.prefetch(self.to.dst, key.v4);
        tables.routing.prefetch(self.to.dst, key.v4);
    }

    /// May it, and by which way?
    #[inline(always)]
    fn is_judged(&mut self, tables: &Tables) {
        let (to, v4) = (&self.to, self.key.v4);
        let out = tables.policies.decide(self.source.egress, self.destination, to.proto, to.dport);
        let into = tables.policies.decide(self.destination.ingress, self.source, to.proto, to.dport);
        let allows = |decision: &Decision| decision.action == Some(Action::Allow);
        self.rules = [out.rule, into.rule];
        self.usual &= allows(&out)
            && allows(&into)
            && tables.egress.masquerade(self.key.src, to.dst, v4) == Source::Keep;
        match tables.routing.route(to.dst, v4, self.spread) {
            Hop::Via(hop) => self.hop = hop,
            Hop::OnLink(_) | Hop::Local | Hop::Unreachable | Hop::Blackhole => self.usual = false,
        }
    }
}

impl<'t, S: EventSink> Turn<'t, S> {
    /// Admit a packet that opens a flow as nearly all are opened, and send it on. `None`: something is not as usual, and
    /// nothing was changed.
    pub(crate) fn welcome(
        &mut self,
        packet: &mut Packet<'_>,
        glance: &Glance,
        stranger: &Stranger<'t>,
    ) -> Option<Fate> {
        let (tables, key, to) = (self.tables, &stranger.key, &stranger.to);
        let alone = tables.settings.workers <= 1 && !tables.tunnels.are_open();
        if !stranger.usual || !alone || tables.generation == 0 {
            return None;
        }
        if glance.vlan != 0 && !self.enter_vlan(packet, glance.vlan) {
            return None;
        }
        if stranger.guarded && !tables.routing.comes_by(key.src, key.v4, packet.port) {
            return None;
        }
        if self.state.flows.find_at(key, &glance.place).is_some() {
            return None;
        }
        let (tcp, flags) =
            if key.proto == TCP { (TcpState::SynSent, glance.tcp_flags) } else { (TcpState::Established, 0) };
        let service = if stranger.service.is_some() { SERVICE } else { 0 };
        let translated = if stranger.service.is_some() && key != to { TRANSLATED } else { 0 };
        let [egress_rule, ingress_rule] = stranger.rules;
        let new = NewFlow {
            keys: Keys { original: *key, translated: *to },
            hot: Hot {
                tcp: tcp.after(flags, false) as u8,
                flags: service | translated,
                generation: tables.generation,
                hops: [stranger.hop.0, NO_HOP],
                ..Hot::default()
            },
            cold: Cold {
                egress_rule: egress_rule.0,
                ingress_rule: ingress_rule.0,
                service: stranger.service.map_or(0, |(id, _)| id.0),
                backend: stranger.backend.map_or(0, |backend| backend.id.0),
                ..Cold::default()
            },
        };
        let flow = self.state.flows.insert_at(&new, &[glance.place, stranger.reply], self.now).ok()?;
        self.state.counters.flows_created += 1;
        let event = FlowEvent {
            tcp_flags: flags,
            source: stranger.source.number,
            destination: stranger.destination.number,
            egress_rule,
            ingress_rule,
            ..self.event(EventKind::New, key, to)
        };
        self.events.emit(&event);
        match self.first_of(packet, glance, flow) {
            Some(port) => Some(Fate::Forward(port)),
            // (It has a flow now, by which the long way would send it, too.)
            None => glance.headers(packet).map(|headers| self.depart(packet, &headers, flow)),
        }
    }
}
