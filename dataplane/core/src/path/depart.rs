//! A packet that may go: which way, is it small enough and young enough, and then its new headers.

use super::Turn;
use super::established::NO_HOP;
use crate::cut;
use crate::emit::Error;
use crate::event::{EventKind, EventSink};
use crate::packet::{Packet, PortId};
use crate::parse::{Headers, SCTP, SYN};
use crate::rewrite;
use crate::state::conntrack::{FlowRef, FlowTable};
use crate::state::flow::{DNS, TOLD, TRANSLATED, WRAPPED};
use crate::tables::nexthop::Hop;
use crate::tables::record::NextHop;
use crate::verdict::{DropReason, Fate};
use crate::wrap;

/// Nobody is told to send less: it would cost more headers than data.
const LEAST_MSS: u16 = 88;

impl<S: EventSink> Turn<'_, S> {
    #[inline]
    pub(crate) fn depart(&mut self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef) -> Fate {
        if !flow.is_reply()
            && let Some(dispatch) = self.state.flows.hot(flow).dispatch()
        {
            return self.depart_wrapped(packet, headers, flow, dispatch);
        }
        let hop = match self.next_hop(flow) {
            Ok(hop) => hop,
            Err(Some(fate)) => return fate,
            Err(None) => return self.unroutable(packet, headers),
        };
        let Some(mac) = hop.mac else { return Fate::Hold { port: hop.port, ip: hop.ip } };
        if headers.ttl <= 1 {
            return self.answer(packet, headers, Error::TimeExceeded, DropReason::TtlExceeded);
        }
        if headers.end - headers.l3 > hop.mtu {
            return self.too_long(packet, headers, flow, hop.mtu);
        }
        let Some(port) = self.tables.routing.port(hop.port) else { return self.unroutable(packet, headers) };
        if cannot_be_translated(headers, &self.state.flows, flow) {
            return self.refuse(&headers.key, Some(headers), DropReason::NatUnsupported);
        }
        self.clamp_mss(packet, headers, flow, hop.mtu);
        let (len, is_reply) = (packet.len(), flow.is_reply());
        let (hot, cold) = self.state.flows.parts(flow);
        hot.count(cold, is_reply, len);
        if hot.is(TRANSLATED) {
            let (ip, l4) = hot.deltas(is_reply);
            let to = self.state.flows.leaves_as(flow);
            rewrite::translate(packet.bytes_mut(), headers, &to, ip, l4);
            rewrite::age(packet.bytes_mut(), headers);
        } else {
            rewrite::hop(packet.bytes_mut(), headers);
        }
        if !rewrite::link(packet, headers.l3, mac, port.mac, port.vlan) {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidPacket);
        }
        if S::EVERY_PACKET {
            self.tell(EventKind::Packet, flow);
        }
        Fate::Forward(hop.port)
    }

    /// It is cut if its sender lets us; else its sender hears what would fit. Judging DNS takes whole messages, and of what came
    /// in a tunnel the pieces would have to be tunnels again.
    #[cold]
    pub(crate) fn too_long(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        flow: FlowRef,
        room: u16,
    ) -> Fate {
        let whole = self.told.is_some() || self.state.flows.hot(flow).is(DNS);
        if !whole && cut::each(headers, room).is_some() {
            return Fate::Cut(room);
        }
        self.answer(packet, headers, Error::TooBig(room), DropReason::FragmentationNeeded)
    }

    /// Where one direction of a connection goes by a tunnel, neither side shall send what does not fit there.
    pub(crate) fn clamp_mss(&self, packet: &mut Packet<'_>, headers: &Headers, flow: FlowRef, mtu: u16) {
        let hot = self.state.flows.hot(flow);
        if headers.tcp_flags & SYN == 0 || !self.tables.settings.clamp_mss || !hot.is(WRAPPED | TOLD) {
            return;
        }
        let v4 = headers.key.v4;
        let fixed = if v4 { 20 + 20 } else { 40 + 20 };
        let most = mtu.saturating_sub(wrap::most_overhead(hot.told_by(), v4)).saturating_sub(fixed);
        rewrite::clamp_mss(packet.bytes_mut(), headers, most.max(LEAST_MSS));
    }

    /// The flow's next hop in this direction, found anew if it has none. `Err(None)`: there is no way.
    #[inline]
    pub(crate) fn next_hop(&mut self, flow: FlowRef) -> Result<NextHop, Option<Fate>> {
        let id = self.state.flows.hot(flow).hop(flow.is_reply());
        match self.tables.routing.hop(id) {
            Some(hop) => Ok(*hop),
            None => self.find_hop(flow),
        }
    }

    #[cold]
    fn find_hop(&mut self, flow: FlowRef) -> Result<NextHop, Option<Fate>> {
        let to = self.state.flows.leaves_as(flow);
        let hash = self.state.flows.place(&to).hash();
        let found = match self.tables.routing.route(to.dst, to.v4, hash) {
            Hop::Via(id) => id,
            Hop::OnLink(port) => return Err(Some(Fate::Hold { port, ip: to.destination() })),
            Hop::Local => return Err(Some(Fate::Pass)),
            Hop::Blackhole => {
                self.state.counters.drop(DropReason::NoRoute);
                self.tell(EventKind::Drop(DropReason::NoRoute), flow);
                return Err(Some(Fate::Drop(DropReason::NoRoute)));
            }
            Hop::Unreachable => return Err(None),
        };
        let (hot, _) = self.state.flows.parts(flow);
        if !hot.is(DNS) {
            hot.hops[usize::from(flow.is_reply())] = found.0;
        }
        self.tables.routing.hop(found).copied().ok_or_else(|| {
            self.state.flows.parts(flow).0.hops[usize::from(flow.is_reply())] = NO_HOP;
            None
        })
    }
}

/// The checksum of SCTP is over the whole message: of one in pieces it cannot be told what other ports do to it.
fn cannot_be_translated(headers: &Headers, flows: &FlowTable, flow: FlowRef) -> bool {
    if headers.key.proto != SCTP || headers.fragment.is_none() {
        return false;
    }
    let to = flows.leaves_as(flow);
    (to.sport, to.dport) != (headers.key.sport, headers.key.dport)
}

/// The port by which answers leave: where the packet came from.
pub(crate) const fn back(packet: &Packet<'_>) -> PortId {
    packet.port
}
