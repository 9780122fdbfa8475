//! A packet of a known flow: is the flow still allowed, and how far is it?

use super::Turn;
use super::wrapped::served;
use crate::event::{EventKind, EventSink};
use crate::packet::Packet;
use crate::parse::{ACK, Headers, Kind, SYN, TCP};
use crate::state::conntrack::FlowRef;
use crate::state::flow::{AUDIT, DNS, REPLIED, SERVICE, TOLD, WRAPPED};
use crate::state::tcp::TcpState;
use crate::verdict::{DropReason, Fate};

/// "No next hop yet"; the next packet looks for one.
pub(crate) const NO_HOP: u16 = u16::MAX;

impl<S: EventSink> Turn<'_, S> {
    #[inline]
    pub(crate) fn established(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef) -> Fate {
        // With an identifier of zero a request and a reply have the same key; only the flow knows which way is which.
        if let Kind::IcmpQuery { reply } = headers.kind
            && reply != flow.is_reply()
        {
            return self.refuse(&headers.key, Some(headers), DropReason::UnknownConnection);
        }
        if self.state.flows.hot(flow).generation != self.tables.generation {
            if self.finds_another_backend(headers, flow) {
                self.state.counters.flows_cut += 1;
                return self.start_anew(packet, headers, flow);
            }
            if let Some(reason) = self.rejudge(headers, flow) {
                return Fate::Drop(reason);
            }
        }
        if self.state.flows.hot(flow).is(DNS) {
            return self.talk(packet, headers, flow);
        }
        if headers.key.proto == TCP && !headers_allow(headers) {
            return self.depart(packet, headers, flow);
        }
        if headers.key.proto == TCP && self.starts_over(headers, flow) {
            return self.start_anew(packet, headers, flow);
        }
        let is_reply = flow.is_reply();
        let alone = self.state.flows.hot(flow).is(WRAPPED);
        if alone && is_reply && !self.comes_from_backend(packet, flow) {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidSourceIp);
        }
        let now = self.now.seconds();
        let (hot, _) = self.state.flows.parts(flow);
        hot.seen = now;
        if is_reply {
            hot.flags |= REPLIED;
        }
        if headers.key.proto == TCP {
            let (tcp, flags) = (hot.tcp(), headers.tcp_flags);
            let next = if alone && !is_reply { tcp.after_alone(flags) } else { tcp.after(flags, is_reply) };
            hot.tcp = next as u8;
        }
        self.depart(packet, headers, flow)
    }

    /// A new connection with the addresses and ports of one that is over.
    #[inline]
    fn starts_over(&self, headers: &Headers, flow: FlowRef) -> bool {
        let hot = self.state.flows.hot(flow);
        // Where replies take another way, nobody tells when the other side is done.
        let over = hot.tcp().over() || (hot.is(WRAPPED) && hot.tcp() == TcpState::ClosingOriginal);
        headers.tcp_flags & (SYN | ACK) == SYN && over
    }

    /// The generation that admitted this flow is gone: ask policy again, and whether its backend is still there. What
    /// is no longer allowed is cut, with the reason.
    #[cold]
    fn rejudge(&mut self, headers: &Headers, flow: FlowRef) -> Option<DropReason> {
        self.state.counters.flows_rejudged += 1;
        let from = self.state.flows.keys(flow).original;
        let to = served(self.tables, &self.state.flows, flow);
        let verdict = self.judge(&from, &to, policy_port(headers, &to));
        let backend_gone = self.backend_is_gone(flow);
        let generation = self.tables.generation;
        let (hot, cold) = self.state.flows.parts(flow);
        // Where answers do not come back by us, nobody can learn from them.
        let unheard = verdict.hearing.is_some() && hot.flags & (WRAPPED | TOLD) != 0;
        match verdict.refused.or_else(|| unheard.then_some(DropReason::InspectionUnavailable)) {
            Some(reason) => {
                (cold.egress_rule, cold.ingress_rule) = (verdict.egress_rule.0, verdict.ingress_rule.0);
                Some(self.cut(flow, reason, verdict.denied_egress))
            }
            None if backend_gone => Some(self.cut(flow, DropReason::NoBackend, false)),
            None => {
                (cold.egress_rule, cold.ingress_rule) = (verdict.egress_rule.0, verdict.ingress_rule.0);
                hot.flags = if verdict.audit { hot.flags | AUDIT } else { hot.flags & !AUDIT };
                hot.flags = if verdict.hearing.is_some() { hot.flags | DNS } else { hot.flags & !DNS };
                hot.generation = generation;
                hot.hops = [NO_HOP; 2];
                None
            }
        }
    }

    /// A client whose backend is gone and who asks with a packet that may open a flow needs not lose it.
    fn finds_another_backend(&self, headers: &Headers, flow: FlowRef) -> bool {
        let opens = headers.key.proto != TCP || headers.tcp_flags & (SYN | ACK) == SYN;
        opens && !flow.is_reply() && headers.fragment.is_none() && self.backend_is_gone(flow)
    }

    #[cold]
    pub(crate) fn start_anew(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef) -> Fate {
        self.tell(EventKind::End, flow);
        self.state.flows.remove(flow);
        self.state.counters.flows_ended += 1;
        let place = self.state.flows.place(&headers.key);
        self.admit(packet, headers, &place, None)
    }

    fn backend_is_gone(&self, flow: FlowRef) -> bool {
        if !self.state.flows.hot(flow).is(SERVICE) {
            return false;
        }
        let (service, backend) = self.state.flows.cold(flow).service();
        self.tables.services.service(service).and_then(|service| service.backend(backend)).is_none()
    }

    fn cut(&mut self, flow: FlowRef, reason: DropReason, denied_egress: bool) -> DropReason {
        let mut event =
            super::flow_event(self.tables, &self.state.flows, self.now, EventKind::Drop(reason), flow);
        event.denied_egress = denied_egress;
        self.events.emit(&event);
        self.state.flows.remove(flow);
        self.state.counters.flows_cut += 1;
        self.state.counters.flows_ended += 1;
        self.state.counters.deny(reason, denied_egress);
        reason
    }
}

/// Later fragments carry no flags: they change nothing about the connection.
fn headers_allow(headers: &Headers) -> bool {
    headers.tcp_flags != 0
}

/// What policy calls the port: the destination's port, or the type of an ICMP message.
pub(crate) fn policy_port(headers: &Headers, to: &crate::flow_key::FlowKey) -> u16 {
    match to.proto {
        crate::parse::ICMP | crate::parse::ICMPV6 => request_type(headers.icmp.0, to.v4),
        _ => to.dport,
    }
}

/// A flow is judged by the message that opens it, also when a reply is what makes us ask again.
fn request_type(kind: u8, v4: bool) -> u16 {
    u16::from(match (v4, kind) {
        (true, 0) => 8,
        (true, 14 | 16 | 18 | 43) => kind - 1,
        (false, 129 | 161) => kind - 1,
        _ => kind,
    })
}
