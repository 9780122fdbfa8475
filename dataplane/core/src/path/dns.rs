//! Flows under a DNS rule, packet by packet: queries are judged, and answers are kept until their addresses are known.
//!
//! Such a flow never goes the short way. What a query may ask is looked up anew each time, so that a change of policy
//! needs nobody to remember it. An answer counts only if it was asked for on this very flow.

use super::Turn;
use super::admit::Judgement;
use super::depart::back;
use crate::dns::{self, Malformed, Question};
use crate::emit::dns_refusal;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{Headers, UDP};
use crate::state::conntrack::FlowRef;
use crate::state::flow::{AUDIT, REPLIED};
use crate::tables::names::Heard;
use crate::tables::policy::Decision;
use crate::tables::record::RuleId;
use crate::verdict::{Action, DropReason, Fate};

/// The DNS rules that are to be asked about a flow, and what happens to those that they refuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hearing {
    rules: u32,
    audit: bool,
}

impl Hearing {
    /// DNS over UDP is heard packet by packet; over TCP it would have to be put together first.
    pub(crate) fn of(egress: &Decision, proto: u8) -> Option<Self> {
        match egress.action {
            Some(Action::Dns(rules)) if proto == UDP => Some(Self { rules, audit: egress.audit }),
            Some(
                Action::Dns(_) | Action::Inspect(_) | Action::Allow | Action::Deny | Action::Authenticate,
            )
            | None => None,
        }
    }
}

/// The message in a UDP packet.
fn message<'a>(packet: &'a Packet<'_>, headers: &Headers) -> &'a [u8] {
    let bytes = packet.bytes();
    let part = bytes.get(usize::from(headers.l4)..usize::from(headers.end)).unwrap_or_default();
    let claimed = part.get(4..6).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    part.get(8..claimed).unwrap_or_default()
}

impl<S: EventSink> Turn<'_, S> {
    /// May this query be asked? `Err`: what became of it. Without DNS rules there is nothing to hear.
    pub(crate) fn hear(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &FlowKey,
        judgement: &mut Judgement,
    ) -> Result<(), Fate> {
        let Some(hearing) = judgement.hearing else { return Ok(()) };
        if headers.fragment.is_some() {
            return Err(self.unreadable(headers, DropReason::FragmentRefused));
        }
        let read = dns::query(message(packet, headers));
        let Ok(question) = read else { return Err(self.unreadable(headers, DropReason::InvalidPacket)) };
        self.state.counters.dns.queries += 1;
        let resolver = self.tables.ipcache.lookup(to.dst, to.v4);
        match self.tables.names.hear(hearing.rules, resolver, &question.name) {
            Heard::Allowed(rule) => judgement.egress_rule = rule,
            Heard::Refused if hearing.audit => {
                judgement.audit = true;
                self.state.counters.audited += 1;
            }
            Heard::Refused => return Err(self.refuse_query(packet, headers, to, judgement, &question)),
        }
        let forgot = self.state.asked.put(&headers.key, &question, self.now);
        self.state.counters.dns.forgotten += u64::from(forgot);
        Ok(())
    }

    #[cold]
    fn refuse_query(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        to: &FlowKey,
        judgement: &Judgement,
        question: &Question,
    ) -> Fate {
        self.state.counters.dns.refused += 1;
        let judgement = Judgement { denied_egress: true, egress_rule: RuleId(0), ..*judgement };
        let fate = self.deny(headers, to, &judgement, DropReason::PolicyDenied);
        let code = if self.tables.settings.dns.name_error { dns::NXDOMAIN } else { dns::REFUSED };
        if self.state.may_answer(self.now) && dns_refusal(packet, headers, question.end, code) {
            self.state.counters.answered += 1;
            return Fate::Answer(back(packet));
        }
        fate
    }

    fn unreadable(&mut self, headers: &Headers, reason: DropReason) -> Fate {
        self.state.counters.dns.malformed += 1;
        self.refuse(&headers.key, Some(headers), reason)
    }

    /// A packet of a known flow under DNS rules.
    #[cold]
    pub(crate) fn talk(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef) -> Fate {
        if flow.is_reply() {
            return self.answered(packet, headers, flow);
        }
        let keys = self.state.flows.keys(flow);
        let mut judgement = self.judge(&keys.original, &keys.translated, keys.translated.dport);
        if let Err(fate) = self.hear(packet, headers, &keys.translated, &mut judgement) {
            return fate;
        }
        let now = self.now.seconds();
        let (hot, cold) = self.state.flows.parts(flow);
        hot.seen = now;
        hot.flags = if judgement.audit { hot.flags | AUDIT } else { hot.flags & !AUDIT };
        cold.egress_rule = judgement.egress_rule.0;
        self.depart(packet, headers, flow)
    }

    fn answered(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef) -> Fate {
        if headers.fragment.is_some() {
            return self.unreadable(headers, DropReason::FragmentRefused);
        }
        let mut teaches = false;
        let read = dns::answer(message(packet, headers), |_, _| teaches = true);
        let Ok(question) = read else { return self.unreadable(headers, DropReason::InvalidPacket) };
        let asked = self.state.flows.keys(flow).original;
        if !self.state.asked.take(&asked, &question, self.now) {
            self.state.counters.dns.unasked += 1;
            return self.refuse(&headers.key, Some(headers), DropReason::UnknownConnection);
        }
        self.state.counters.dns.answers += 1;
        let now = self.now.seconds();
        let (hot, _) = self.state.flows.parts(flow);
        hot.seen = now;
        hot.flags |= REPLIED;
        match self.depart(packet, headers, flow) {
            Fate::Forward(port) if teaches => Fate::Learn(port),
            fate @ (Fate::Forward(_)
            | Fate::Learn(_)
            | Fate::Drop(_)
            | Fate::Pass
            | Fate::Answer(_)
            | Fate::Hold { .. }
            | Fate::AwaitRow(_)
            | Fate::Cut(_)
            | Fate::HandOver(_)) => fate,
        }
    }
}

/// What a packet that ended as [`Fate::Learn`] teaches: as [`dns::answer`].
pub fn lesson(packet: &Packet<'_>, each: impl FnMut(core::net::IpAddr, u32)) -> Result<Question, Malformed> {
    let headers = crate::parse::parse(packet).map_err(|_| Malformed)?;
    dns::answer(message(packet, &headers), each)
}
