//! Packets that we answer ourselves: built in place over the packet that asked for it, sent back the way it came.

use super::Turn;
use super::admit::Judgement;
use super::depart::back;
use crate::emit::{Error, echo_reply, icmp_error, tcp_reset};
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{Headers, TCP};
use crate::verdict::{DropReason, Fate};

impl<S: EventSink> Turn<'_, S> {
    /// Drop the packet and tell its sender why, if it may be told and our limit allows.
    #[cold]
    pub(crate) fn answer(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        error: Error,
        reason: DropReason,
    ) -> Fate {
        let fate = self.refuse(&headers.key, Some(headers), reason);
        self.say(packet, headers, error).unwrap_or(fate)
    }

    /// Drop what policy refuses. Whoever may not send it is told so where that is wanted; whoever may not be reached keeps
    /// silent.
    #[cold]
    pub(crate) fn denied(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &FlowKey,
        judgement: &Judgement,
        reason: DropReason,
    ) -> Fate {
        let fate = self.deny(headers, to, judgement, reason);
        let tells = self.tables.settings.deny_response && judgement.denied_egress;
        tells.then(|| self.say(packet, headers, Error::Prohibited)).flatten().unwrap_or(fate)
    }

    /// `None`: its sender may not be told.
    fn say(&mut self, packet: &mut Packet<'_>, headers: &Headers, error: Error) -> Option<Fate> {
        let own = self.tables.routing.own_address(packet.port, headers.key.v4);
        let source = own.filter(|_| self.state.may_answer(self.now))?;
        icmp_error(packet, headers, error, source).then(|| {
            self.state.counters.answered += 1;
            Fate::Answer(back(packet))
        })
    }

    pub(crate) fn unroutable(&mut self, packet: &mut Packet<'_>, headers: &Headers) -> Fate {
        self.answer(packet, headers, Error::NoRoute, DropReason::NoRoute)
    }

    /// A service without backends refuses like a host without listeners.
    #[cold]
    pub(crate) fn no_backend(&mut self, packet: &mut Packet<'_>, headers: &Headers, reject: bool) -> Fate {
        if !reject {
            return self.refuse(&headers.key, Some(headers), DropReason::NoBackend);
        }
        if headers.key.proto == TCP {
            let fate = self.refuse(&headers.key, Some(headers), DropReason::NoBackend);
            if self.state.may_answer(self.now) && tcp_reset(packet, headers) {
                self.state.counters.answered += 1;
                return Fate::Answer(back(packet));
            }
            return fate;
        }
        self.answer(packet, headers, Error::PortUnreachable, DropReason::NoBackend)
    }

    /// A service's address answers pings: it exists as long as the gateway does.
    #[cold]
    pub(crate) fn echo(&mut self, packet: &mut Packet<'_>, headers: &Headers) -> Fate {
        if self.state.may_answer(self.now) && echo_reply(packet, headers) {
            self.state.counters.echoed += 1;
            return Fate::Answer(back(packet));
        }
        self.refuse(&headers.key, Some(headers), DropReason::NoBackend)
    }
}
