//! The way out to a backend that answers the client directly: told in a tunnel or an option which service was asked for.
//!
//! Such a flow's entry says what the client sees, so a reply that comes by us after all is simply let through, and two
//! services with one backend never meet in it. Which backend, and how it is told, is looked up packet by packet: these
//! packets are built anew anyway.

use super::Turn;
use crate::emit::{Error, mapped};
use crate::event::{EventKind, EventSink};
use crate::flow_key::FlowKey;
use crate::packet::{Packet, PortId};
use crate::parse::{ETHERNET, Headers, Quoted, SCTP};
use crate::rewrite;
use crate::state::conntrack::{FlowRef, FlowTable};
use crate::state::flow::WRAPPED;
use crate::tables::Tables;
use crate::tables::nexthop::Hop;
use crate::tables::record::{Backend, Dispatch, Forwarding, NextHop, Reach};
use crate::verdict::{DropReason, Fate};
use crate::wrap::{self, Ends};

/// To whom a wrapped packet goes, and for whom it is.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// As the backend calls it.
    to: FlowKey,
    ends: Ends,
    hop: NextHop,
    mac: [u8; 6],
    port: PortId,
}

impl<S: EventSink> Turn<'_, S> {
    #[inline(never)]
    pub(crate) fn depart_wrapped(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        flow: FlowRef,
        dispatch: Dispatch,
    ) -> Fate {
        let way = match self.wrapped_way(packet, headers, flow, dispatch) {
            Ok(way) => way,
            Err(fate) => return fate,
        };
        if headers.ttl <= 1 {
            return self.answer(packet, headers, Error::TimeExceeded, DropReason::TtlExceeded);
        }
        let room = way.hop.mtu.saturating_sub(wrap::overhead(dispatch, headers));
        if headers.end - headers.l3 > room {
            return self.too_long(packet, headers, flow, room);
        }
        self.clamp_mss(packet, headers, flow, way.hop.mtu);
        let len = packet.len();
        let (hot, cold) = self.state.flows.parts(flow);
        hot.count(cold, false, len);
        if dispatch != Dispatch::Ipip {
            if headers.key.proto == SCTP && headers.fragment.is_some() && headers.key.dport != way.to.dport {
                return self.refuse(&headers.key, Some(headers), DropReason::NatUnsupported);
            }
            let (ip, l4) = rewrite::deltas(&headers.key, &way.to);
            rewrite::translate(packet.bytes_mut(), headers, &way.to, ip, l4);
        }
        rewrite::hop(packet.bytes_mut(), headers);
        let service = (headers.key.dst, headers.key.dport);
        let fits = match dispatch {
            Dispatch::Ipip => wrap::ipip(packet, headers, &way.ends),
            Dispatch::Geneve => wrap::geneve(packet, headers, &way.ends, service),
            Dispatch::Option if wrap::overhead(dispatch, headers) == 0 => true,
            Dispatch::Option => wrap::option(packet, headers, service),
        };
        let fate = self.send_wrapped(packet, headers, &way, dispatch, fits);
        if S::EVERY_PACKET && fate == Fate::Forward(way.port) {
            self.tell(EventKind::Packet, flow);
        }
        fate
    }

    /// An ICMP error about what a backend sent: it knows its packets by the service's address only if it sees the
    /// client's packets so, too.
    #[cold]
    pub(crate) fn wrapped_error(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        quote: &Quoted,
        flow: FlowRef,
        dispatch: Dispatch,
    ) -> Fate {
        let way = match self.wrapped_way(packet, headers, flow, dispatch) {
            Ok(way) => way,
            Err(fate) => return fate,
        };
        let more = if dispatch == Dispatch::Option { 0 } else { wrap::overhead(dispatch, headers) };
        if headers.ttl <= 1 || headers.end - headers.l3 > way.hop.mtu.saturating_sub(more) {
            return self.refuse(&headers.key, Some(headers), DropReason::TtlExceeded);
        }
        let (outer, inner) = if dispatch == Dispatch::Option {
            (FlowKey { dst: way.to.dst, ..headers.key }, way.to.reverse())
        } else {
            (headers.key, quote.key)
        };
        if !rewrite::translate_error(packet.bytes_mut(), headers, quote, &outer, &inner) {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidPacket);
        }
        rewrite::hop(packet.bytes_mut(), headers);
        let service = (quote.key.src, quote.key.sport);
        let fits = match dispatch {
            Dispatch::Ipip => wrap::ipip(packet, headers, &way.ends),
            Dispatch::Geneve => wrap::geneve(packet, headers, &way.ends, service),
            Dispatch::Option => true,
        };
        self.send_wrapped(packet, headers, &way, dispatch, fits)
    }

    fn send_wrapped(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        way: &Way,
        dispatch: Dispatch,
        fits: bool,
    ) -> Fate {
        if !fits {
            return self.refuse(&headers.key, Some(headers), DropReason::CannotWrap);
        }
        let l3 = if dispatch == Dispatch::Option { headers.l3 } else { TUNNELLED };
        let linked = self
            .tables
            .routing
            .port(way.port)
            .is_some_and(|port| rewrite::link(packet, l3, way.mac, port.mac, port.vlan));
        if linked { Fate::Forward(way.port) } else { self.refuse(&headers.key, None, DropReason::CannotWrap) }
    }

    fn wrapped_way(
        &mut self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        flow: FlowRef,
        dispatch: Dispatch,
    ) -> Result<Way, Fate> {
        let Some((backend, forwarding)) = backend_of(self.tables, &self.state.flows, flow) else {
            return Err(self.refuse(&headers.key, Some(headers), DropReason::NoBackend));
        };
        let (to, end) = (served(self.tables, &self.state.flows, flow), end_of(backend, dispatch, forwarding));
        let hash = self.state.flows.place(&self.state.flows.leaves_as(flow)).hash();
        let (tables, v4) = (self.tables, to.v4);
        let hop = match tables.routing.route(end, v4, hash) {
            Hop::Via(id) => tables.routing.hop(id).copied(),
            Hop::OnLink(port) => return Err(Fate::Hold { port, ip: end.to_canonical() }),
            Hop::Local | Hop::Blackhole => {
                return Err(self.refuse(&headers.key, Some(headers), DropReason::NoRoute));
            }
            Hop::Unreachable => None,
        };
        let Some(hop) = hop else { return Err(self.unroutable(packet, headers)) };
        let Some(mac) = hop.mac else { return Err(Fate::Hold { port: hop.port, ip: hop.ip }) };
        let own = || tables.routing.own_address(hop.port, v4).filter(|ip| ip.is_ipv4() == v4).map(mapped);
        let Some(from) = tables.tunnels.source(v4, hash).or_else(own) else {
            return Err(self.refuse(&headers.key, Some(headers), DropReason::NoTunnelEnd));
        };
        Ok(Way { to, ends: Ends { from, to: end, hash }, hop, mac, port: hop.port })
    }

    /// A reply that comes by us after all is the backend's, or at least from where it lives.
    #[cold]
    pub(crate) fn comes_from_backend(&self, packet: &Packet<'_>, flow: FlowRef) -> bool {
        let to = served(self.tables, &self.state.flows, flow);
        self.tables.routing.comes_by(to.dst, to.v4, packet.port)
    }
}

/// Where the IP header of a packet starts that was put into a tunnel.
#[expect(clippy::cast_possible_truncation, reason = "14")]
const TUNNELLED: u16 = ETHERNET as u16;

/// Who is sent the packets for this backend. A flow keeps its way when new ones of the service go another: what is in the
/// backend's place for tunnels of plain IP is so only while these are the service's.
pub(crate) fn end_of(backend: &Backend, dispatch: Dispatch, forwarding: Forwarding) -> core::net::Ipv6Addr {
    match (backend.reach, dispatch) {
        (Reach::By(end), Dispatch::Geneve) => mapped(end),
        (Reach::By(end), Dispatch::Ipip) if forwarding == Forwarding::Dsr(dispatch) => mapped(end),
        (Reach::By(_) | Reach::Itself | Reach::Here, _) => mapped(backend.ip),
    }
}

fn backend_of<'t>(tables: &'t Tables, flows: &FlowTable, flow: FlowRef) -> Option<(&'t Backend, Forwarding)> {
    let (service, backend) = flows.cold(flow).service();
    let service = tables.services.service(service)?;
    Some((service.backend(backend)?, service.record.forwarding))
}

/// What the packets of a flow are once they are at its server, whether we or others turn them into it.
pub(crate) fn served(tables: &Tables, flows: &FlowTable, flow: FlowRef) -> FlowKey {
    let translated = flows.keys(flow).translated;
    let told = flows.hot(flow).is(WRAPPED).then(|| backend_of(tables, flows, flow)).flatten();
    told.map_or(translated, |(backend, _)| FlowKey {
        dst: mapped(backend.ip),
        dport: backend.port,
        ..translated
    })
}
