//! A packet without a flow: whose is it, what does it ask for, may it, and by which way? If all is well, remember.

use super::Turn;
use super::dns::Hearing;
use super::established::{NO_HOP, policy_port};
use super::short::Glance;
use super::wrapped::end_of;
use crate::emit::{Error, mapped};
use crate::event::{EventKind, EventSink, FlowEvent};
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{ACK, Headers, Kind, SYN, TCP, UDP};
use crate::state::conntrack::{FlowRef, InsertError, NewFlow, Place};
use crate::state::flow::{
    AUDIT, Cold, DNS, Hot, IN_GENEVE, IN_IP, Keys, SERVICE, SOURCE, TOLD, TRANSLATED, WRAPPED,
};
use crate::state::{nat, tcp::TcpState};
use crate::tables::egress::{Addresses, Source};
use crate::tables::nexthop::Hop;
use crate::tables::ownership::{self, Owner};
use crate::tables::policy::Decision;
use crate::tables::record::{Backend, BackendId, Dispatch, Forwarding, Leave, Reach, RuleId, ServiceId};
use crate::tables::service::{Balanced, Match};
use crate::verdict::{Action, DropReason, Fate};
use core::net::Ipv6Addr;

/// What both directions' policies came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    pub refused: Option<DropReason>,
    pub denied_egress: bool,
    pub audit: bool,
    /// Identity numbers of both ends.
    pub source: u32,
    pub destination: u32,
    pub egress_rule: RuleId,
    pub ingress_rule: RuleId,
    /// DNS rules that are to be asked.
    pub hearing: Option<Hearing>,
}

/// The backend that was chosen, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub service: ServiceId,
    pub backend: BackendId,
    pub how: Forwarding,
    /// Who is sent its packets.
    pub end: Ipv6Addr,
}

impl Choice {
    #[inline]
    const fn dispatch(&self) -> Option<Dispatch> {
        match self.how {
            Forwarding::Dsr(dispatch) => Some(dispatch),
            Forwarding::Dnat | Forwarding::Snat => None,
        }
    }
}

impl<'t, S: EventSink> Turn<'t, S> {
    /// The walk of a new flow, one step a line.
    #[cold]
    pub(crate) fn admit(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        place: &Place,
        glance: Option<&Glance>,
    ) -> Fate {
        let flow = match self.try_admit(packet, headers, place) {
            Ok(flow) => flow,
            Err(fate) => return fate,
        };
        // Now that it has a flow, an ordinary packet leaves as others of that flow will.
        match glance.and_then(|glance| self.first_of(packet, glance, flow)) {
            Some(port) => Fate::Forward(port),
            None => self.depart(packet, headers, flow),
        }
    }

    /// Tell of a flow that this packet opened.
    fn tell_opened(&mut self, headers: &Headers, translated: &FlowKey, judgement: &Judgement) {
        let event = FlowEvent {
            audit: judgement.audit,
            tcp_flags: headers.tcp_flags,
            icmp_type: headers.icmp.0,
            source: judgement.source,
            destination: judgement.destination,
            egress_rule: judgement.egress_rule,
            ingress_rule: judgement.ingress_rule,
            ..self.event(EventKind::New, &headers.key, translated)
        };
        self.events.emit(&event);
    }

    fn try_admit(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        place: &Place,
    ) -> Result<FlowRef, Fate> {
        self.is_ours(packet, headers)?;
        self.source_is_honest(packet, headers)?;
        // Keys are changed where they lie: to hand them about costs more than to make them.
        let mut to = headers.key;
        let choice = self.choose_backend(packet, headers, &mut to)?;
        self.state.flows.expect(&to.reverse(), 0);
        self.is_for_others(headers, choice)?;
        // Replies of such a flow say nothing to us, so its beginning does not, either: another gateway may have seen it.
        let direct = choice.as_ref().is_some_and(|choice| choice.dispatch().is_some());
        let one_sided = direct || self.told.is_some();
        let pickup = self.state.config.pickup || one_sided;
        opens_a_flow(headers, pickup).map_err(|r| self.refuse(&headers.key, Some(headers), r))?;
        let mut judgement = self.judge(&headers.key, &to, policy_port(headers, &to));
        if let Some(reason) = judgement.refused {
            return Err(self.denied(packet, headers, &to, &judgement, reason));
        }
        if one_sided && judgement.hearing.is_some() {
            return Err(self.deny(headers, &to, &judgement, DropReason::InspectionUnavailable));
        }
        if direct {
            let end = choice.map_or(to.dst, |choice| choice.end);
            self.way(packet, headers, &FlowKey { dst: end, ..to }, place)?;
            let flow = self.remember(headers, &mut { headers.key }, choice, &judgement, NO_HOP)?;
            self.tell_opened(headers, &to, &judgement);
            return Ok(flow);
        }
        if !one_sided {
            self.either_may_open(headers, &to)?;
        }
        self.hear(packet, headers, &to, &mut judgement)?;
        let hop = self.way(packet, headers, &to, place)?;
        // (The client of a tunnel is to be seen.)
        if self.told.is_none() {
            self.translate_source(packet, headers, &mut to, choice, place)?;
        }
        let flow = self.remember(headers, &mut to, choice, &judgement, hop)?;
        self.tell_opened(headers, &to, &judgement);
        Ok(flow)
    }

    /// With several workers a flow has one owner; its packets are handed to it.
    fn is_ours(&mut self, packet: &Packet<'_>, headers: &Headers) -> Result<(), Fate> {
        if self.tables.generation == 0 {
            return Err(self.refuse(&headers.key, None, DropReason::NotReady));
        }
        if self.tables.settings.workers <= 1 || self.told.is_some() {
            return Ok(());
        }
        self.owned_here(packet, &headers.key)
    }

    /// Hand a packet of this key to its owner, if that is somebody else.
    pub(crate) fn owned_here(&self, packet: &Packet<'_>, key: &FlowKey) -> Result<(), Fate> {
        self.owned_by(packet, self.tables.owner(key))
    }

    pub(crate) fn owned_by(&self, packet: &Packet<'_>, owner: Owner) -> Result<(), Fate> {
        let me = self.state.config.worker;
        let last = owner.second.unwrap_or(owner.first);
        if packet.handed == 0 && owner.first != me {
            return Err(Fate::HandOver(owner.first));
        }
        if packet.handed < 2 && last != me {
            return Err(Fate::HandOver(last));
        }
        Ok(())
    }

    /// Nobody sends with our own addresses but us, and what is guarded comes from where it is routed to.
    fn source_is_honest(&mut self, packet: &Packet<'_>, headers: &Headers) -> Result<(), Fate> {
        let (key, routing) = (&headers.key, &self.tables.routing);
        let own = routing.route(key.src, key.v4, 0) == Hop::Local
            || self.tables.services.is_frontend_address(key.src);
        let guarded = self.tables.guarded.contains(key.src, key.v4);
        if own || (guarded && !routing.comes_by(key.src, key.v4, packet.port)) {
            return Err(self.refuse(&headers.key, Some(headers), DropReason::InvalidSourceIp));
        }
        Ok(())
    }

    /// If the destination is a service, it becomes one of its backends.
    fn choose_backend(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &mut FlowKey,
    ) -> Result<Option<Choice>, Fate> {
        let key = &headers.key;
        let services = &self.tables.services;
        let source = self.tables.ipcache.lookup(key.src, key.v4);
        if let Some(told) = self.told {
            let (backend, choice) = self.chosen_elsewhere(headers, source, told)?;
            *to = backend;
            return Ok(choice);
        }
        let (id, service) = match services.lookup(key, source) {
            Match::None => return Ok(None),
            Match::Service(id, service) => (id, service),
            Match::Refused(_) if headers.kind == (Kind::IcmpQuery { reply: false }) => {
                return Err(self.echo(packet, headers));
            }
            Match::Refused(reason) => return Err(self.refuse(key, Some(headers), reason)),
        };
        if !service.is_ready() {
            return Err(Fate::AwaitRow(id));
        }
        let Some(backend) = self.pick(key, id, service) else {
            let reject = service.record.reject;
            return Err(self.no_backend(packet, headers, reject));
        };
        (to.dst, to.dport) = (mapped(backend.ip), backend.port);
        if to.dst.to_ipv4_mapped().is_some() != key.v4 {
            return Err(self.refuse(key, Some(headers), DropReason::NoBackend));
        }
        let how = self.way_back(key, backend, service.record.forwarding);
        let end = match how {
            Forwarding::Dsr(dispatch) => end_of(backend, dispatch, how),
            Forwarding::Dnat | Forwarding::Snat => to.dst,
        };
        Ok(Some(Choice { service: id, backend: backend.id, how, end }))
    }

    /// Nobody needs to answer past us whose answers come by us: backends on our node, and whoever answers our own. Nor can
    /// a backend that asks its own service: it would answer itself.
    fn way_back(&self, key: &FlowKey, backend: &Backend, wished: Forwarding) -> Forwarding {
        match wished {
            Forwarding::Dsr(_) if backend.reach == Reach::Here => Forwarding::Dnat,
            Forwarding::Dsr(_) if self.tables.guarded.contains(key.src, key.v4) => Forwarding::Dnat,
            Forwarding::Dsr(_) if mapped(backend.ip) == key.src => Forwarding::Dnat,
            Forwarding::Dnat | Forwarding::Snat | Forwarding::Dsr(_) => wished,
        }
    }

    /// The backend that the flow hashes to, or the one that the client had before.
    fn pick<'b>(&mut self, key: &FlowKey, id: ServiceId, service: &'b Balanced) -> Option<&'b Backend> {
        let timeout = service.record.affinity_seconds;
        let hash = self.tables.services.hash(key, timeout > 0);
        let picked = service.pick(hash)?;
        if timeout == 0 {
            return Some(picked);
        }
        let now = self.now.seconds();
        let last =
            self.state.affinity.recall(key.src, id, timeout, now).and_then(|last| service.backend(last));
        // Only one that may get new flows: the state of what was picked is the best there is.
        let backend = last.filter(|last| last.state == picked.state && last.weight > 0).unwrap_or(picked);
        let evicted = self.state.affinity.remember(key.src, id, backend.id, now);
        self.state.counters.affinity_evicted += u64::from(evicted);
        Some(backend)
    }

    /// The gateway's own addresses, where they are no service, are the kernel's. Those that are not the kernel's and that
    /// sources are replaced with are nobody's: without a flow there is no one to send to.
    fn is_for_others(&mut self, headers: &Headers, choice: Option<Choice>) -> Result<(), Fate> {
        let key = &headers.key;
        if choice.is_some() || self.told.is_some() {
            return Ok(());
        }
        if self.tables.routing.route(key.dst, key.v4, 0) == Hop::Local {
            return Err(Fate::Pass);
        }
        if self.tables.is_nat_address(key.dst) {
            return Err(self.refuse(key, Some(headers), DropReason::NoNatMapping));
        }
        Ok(())
    }

    /// Egress policy of the source, then ingress policy of the destination (the backend, not the service).
    pub(crate) fn judge(&mut self, from: &FlowKey, to: &FlowKey, port: u16) -> Judgement {
        let (ipcache, policies) = (&self.tables.ipcache, &self.tables.policies);
        let source = ipcache.lookup(from.src, from.v4);
        let destination = ipcache.lookup(to.dst, to.v4);
        let egress = policies.decide(source.egress, destination, to.proto, port);
        let ingress = policies.decide(destination.ingress, source, to.proto, port);
        let (out, into) = (refusal(&egress, to.proto == UDP), refusal(&ingress, false));
        // A direction in audit mode forwards what it would have denied, and says so.
        let binding = |reason: Option<DropReason>, by: &Decision| reason.filter(|_| !by.audit);
        let refused = binding(out, &egress).or_else(|| binding(into, &ingress));
        let audit = refused.is_none() && (out.is_some() || into.is_some());
        self.state.counters.audited += u64::from(audit);
        Judgement {
            refused,
            denied_egress: binding(out, &egress).is_some(),
            audit,
            source: source.number,
            destination: destination.number,
            egress_rule: egress.rule,
            ingress_rule: ingress.rule,
            hearing: Hearing::of(&egress, to.proto),
        }
    }

    /// A connection found in its middle may have been opened by either side. It is taken up only if policy lets both
    /// open it: what was cut must not come back by what the other side sends again.
    fn either_may_open(&mut self, headers: &Headers, to: &FlowKey) -> Result<(), Fate> {
        let opens = headers.key.proto != TCP || headers.tcp_flags & (SYN | ACK) == SYN;
        if opens || self.judge(&to.reverse(), &headers.key.reverse(), headers.key.sport).refused.is_none() {
            return Ok(());
        }
        Err(self.refuse(&headers.key, Some(headers), DropReason::UnknownConnection))
    }

    pub(crate) fn deny(
        &mut self,
        headers: &Headers,
        to: &FlowKey,
        judgement: &Judgement,
        reason: DropReason,
    ) -> Fate {
        self.state.counters.deny(reason, judgement.denied_egress);
        let mut event = self.event(EventKind::Drop(reason), &headers.key, to);
        event.tcp_flags = headers.tcp_flags;
        event.icmp_type = headers.icmp.0;
        event.source = self.tables.ipcache.lookup(headers.key.src, headers.key.v4).number;
        event.destination = self.tables.ipcache.lookup(to.dst, to.v4).number;
        event.egress_rule = judgement.egress_rule;
        event.ingress_rule = judgement.ingress_rule;
        event.denied_egress = judgement.denied_egress;
        self.events.emit(&event);
        Fate::Drop(reason)
    }

    /// Is there a way at all? A neighbour that is not known yet is asked for before a flow is made.
    fn way(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &FlowKey,
        place: &Place,
    ) -> Result<u16, Fate> {
        match self.tables.routing.route(to.dst, to.v4, place.hash()) {
            Hop::Via(id) => Ok(id.0),
            Hop::OnLink(port) => Err(Fate::Hold { port, ip: to.destination() }),
            Hop::Blackhole | Hop::Local => Err(self.refuse(&headers.key, Some(headers), DropReason::NoRoute)),
            Hop::Unreachable => Err(self.unroutable(packet, headers)),
        }
    }

    /// Sources of SNAT services and masqueraded prefixes leave with an address of ours.
    fn translate_source(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &mut FlowKey,
        choice: Option<Choice>,
        place: &Place,
    ) -> Result<(), Fate> {
        let settings = &self.tables.settings;
        let refuse = |turn: &mut Self, reason| Err(turn.refuse(&headers.key, Some(headers), reason));
        // A backend that asks its own service would answer itself: its source must change, too.
        let hairpin = choice.is_some() && to.dst == to.src;
        let egress = &self.tables.egress;
        let sources = if choice.is_some_and(|choice| choice.how == Forwarding::Snat) || hairpin {
            match egress.service_source(headers.key.src, headers.key.v4) {
                Source::Replace(sources) => sources,
                Source::Keep | Source::NoAddress => return refuse(self, DropReason::NoNatMapping),
            }
        } else if let Some((leave, own)) = self.departure(to, choice) {
            match leave {
                Leave::Elsewhere => return Ok(()),
                Leave::With(ip) if self.is_own(mapped(ip)) => own,
                Leave::Through(_) => own,
                Leave::NoGateway => return refuse(self, DropReason::NoEgressGateway),
                Leave::With(_) | Leave::NoAddress | Leave::Usual => {
                    return refuse(self, DropReason::NoEgressAddress);
                }
            }
        } else {
            match egress.masquerade(headers.key.src, to.dst, to.v4) {
                Source::Keep => return Ok(()),
                Source::Replace(sources) => sources,
                Source::NoAddress => return refuse(self, DropReason::NoEgressAddress),
            }
        };
        if !matches!(headers.kind, Kind::Ports | Kind::IcmpQuery { .. } | Kind::LaterFragment) {
            return refuse(self, DropReason::NatUnsupported);
        }
        let slice = ownership::slice(self.state.config.worker, settings.snat_ports, settings.workers);
        let towards = FlowKey { src: to.dst, sport: to.dport, ..*to };
        let destination = self.state.flows.place(&towards).hash();
        let mut free = sources.iter().filter(|_| !self.state.nat_exhausted.is_resting(destination, self.now));
        match free.find_map(|ip| nat::source(&self.state.flows, to, ip, slice, place.hash(), |_| true)) {
            Some(translated) => *to = translated,
            None => {
                self.state.nat_exhausted.note(destination, self.now);
                self.state.counters.nat_exhausted += 1;
                return Err(self.answer(packet, headers, Error::NoRoute, DropReason::NoNatMapping));
            }
        }
        Ok(())
    }

    /// What an egress gateway's policy says of what leaves the cluster.
    fn departure(&self, to: &FlowKey, choice: Option<Choice>) -> Option<(Leave, Addresses<'t>)> {
        let tables = self.tables;
        let found = tables.departures.find(to.src, to.dst).filter(|_| choice.is_none())?;
        let destination = tables.ipcache.lookup(to.dst, to.v4);
        let outside = destination.number == 0 || destination.world;
        (outside && found.0 != Leave::Usual).then_some(found)
    }

    /// Is this an address of ours: the kernel's, or one that the settings say?
    fn is_own(&self, ip: Ipv6Addr) -> bool {
        let v4 = ip.to_ipv4_mapped().is_some();
        self.tables.routing.route(ip, v4, 0) == Hop::Local || self.tables.egress.is_nat_address(ip)
    }

    /// Put the flow into the table, making room if need be.
    fn remember(
        &mut self,
        headers: &Headers,
        to: &mut FlowKey,
        choice: Option<Choice>,
        judgement: &Judgement,
        hop: u16,
    ) -> Result<FlowRef, Fate> {
        let mut new = self.new_flow(headers, to, choice, judgement, hop);
        let mut result = self.state.flows.insert(&new, self.now);
        if result == Err(InsertError::Full)
            && let Some(victim) = self.state.flows.longest_half_open()
        {
            self.tell(EventKind::End, victim);
            self.state.flows.remove(victim);
            self.state.counters.flows_evicted += 1;
            self.state.counters.flows_ended += 1;
            result = self.state.flows.insert(&new, self.now);
        }
        // (Where the backend answers the client itself, the client's port is not ours to change.)
        if result == Err(InsertError::Collision)
            && new.hot.flags & WRAPPED == 0
            && let Some(other) = self.another_port(&new.keys)
        {
            *to = other;
            new = self.new_flow(headers, to, choice, judgement, hop);
            result = self.state.flows.insert(&new, self.now);
        }
        match result {
            Ok(flow) => {
                self.state.counters.flows_created += 1;
                Ok(flow)
            }
            Err(_) => Err(self.refuse(&headers.key, Some(headers), DropReason::FlowTableFull)),
        }
    }

    /// A client with one port to the same backend through two services: its second flow gets another source port, one
    /// whose replies come to this worker.
    fn another_port(&self, keys: &Keys) -> Option<FlowKey> {
        let settings = &self.tables.settings;
        let slice = ownership::slice(self.state.config.worker, settings.snat_ports, settings.workers);
        let mine = |to: &FlowKey| {
            let owner = self.tables.owner(&to.reverse());
            owner.second.unwrap_or(owner.first) == self.state.config.worker
        };
        let source = keys.translated.src;
        nat::source(&self.state.flows, &keys.translated, source, slice, u32::from(keys.original.sport), mine)
    }

    fn new_flow(
        &self,
        headers: &Headers,
        to: &FlowKey,
        choice: Option<Choice>,
        judgement: &Judgement,
        hop: u16,
    ) -> NewFlow {
        let from = &headers.key;
        let mut flags = 0;
        flags |= if from == to { 0 } else { TRANSLATED };
        flags |= if (from.src, from.sport) == (to.src, to.sport) { 0 } else { SOURCE };
        flags |= if judgement.audit { AUDIT } else { 0 };
        flags |= if choice.is_some() { SERVICE } else { 0 };
        flags |= if judgement.hearing.is_some() { DNS } else { 0 };
        flags |= match choice.as_ref().and_then(Choice::dispatch) {
            None => 0,
            Some(Dispatch::Option) => WRAPPED,
            Some(Dispatch::Geneve) => WRAPPED | IN_GENEVE,
            Some(Dispatch::Ipip) => WRAPPED | IN_IP,
        };
        flags |= match self.told {
            None => 0,
            Some(told) if told.geneve => TOLD | IN_GENEVE,
            Some(_) => TOLD | IN_IP,
        };
        // One packet in the middle of a connection that we see only one side of proves nothing yet.
        let opens = headers.tcp_flags & SYN != 0 || flags & WRAPPED != 0;
        let opening = if opens { TcpState::SynSent } else { TcpState::Established };
        let hot = Hot {
            tcp: opening.after(headers.tcp_flags, false) as u8,
            flags,
            generation: self.tables.generation,
            hops: [if judgement.hearing.is_some() { NO_HOP } else { hop }, NO_HOP],
            ..Hot::default()
        };
        let cold = Cold {
            egress_rule: judgement.egress_rule.0,
            ingress_rule: judgement.ingress_rule.0,
            service: choice.map_or(0, |choice| choice.service.0),
            backend: choice.map_or(0, |choice| choice.backend.0),
            ..Cold::default()
        };
        NewFlow { keys: Keys { original: *from, translated: *to }, hot, cold }
    }
}

/// Does a decision stop the flow, and why?
fn refusal(decision: &Decision, hears_dns: bool) -> Option<DropReason> {
    match decision.action {
        // DNS rules judge each query; what the worker cannot read may not pass unread.
        Some(Action::Dns(_)) if hears_dns => None,
        Some(Action::Dns(_) | Action::Inspect(_)) => Some(DropReason::InspectionUnavailable),
        Some(Action::Allow) => None,
        Some(Action::Deny) => Some(DropReason::PolicyDeny),
        Some(Action::Authenticate) => Some(DropReason::AuthRequired),
        None => Some(DropReason::PolicyDenied),
    }
}

/// Only these packets may be the first of a flow.
fn opens_a_flow(headers: &Headers, pickup: bool) -> Result<(), DropReason> {
    match headers.kind {
        Kind::Ports if headers.key.proto == TCP => {
            let opens = headers.tcp_flags & (SYN | ACK) == SYN;
            if opens || pickup { Ok(()) } else { Err(DropReason::UnknownConnection) }
        }
        // A reply to nothing.
        Kind::IcmpQuery { reply: true } => Err(DropReason::UnknownConnection),
        Kind::Ports
        | Kind::IcmpQuery { reply: false }
        | Kind::IcmpError
        | Kind::Other
        | Kind::LaterFragment => Ok(()),
    }
}
