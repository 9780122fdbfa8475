//! ICMP errors belong to the flow that they quote: they follow it, translated outside and inside.

use super::Turn;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{Headers, quoted};
use crate::rewrite;
use crate::tables::nexthop::Hop;
use crate::verdict::{DropReason, Fate};

impl<S: EventSink> Turn<'_, S> {
    #[cold]
    pub(crate) fn icmp_error(&mut self, packet: &mut Packet<'_>, headers: &Headers) -> Fate {
        let Some(quote) = quoted(packet, headers) else {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidPacket);
        };
        // The quoted packet left us towards the error's sender; its replies would come with the reverse key, and the
        // error goes where they go.
        let reply = quote.key.reverse();
        let Some(flow) = self.state.flows.find(&reply) else {
            return self.unrelated_error(packet, headers, &reply);
        };
        if !flow.is_reply()
            && let Some(dispatch) = self.state.flows.hot(flow).dispatch()
        {
            return self.wrapped_error(packet, headers, &quote, flow, dispatch);
        }
        let outwards = self.state.flows.leaves_as(flow);
        // The server's own error comes from the server as the client knows it; a router's keeps its address.
        let src = if headers.key.src == reply.src { outwards.src } else { headers.key.src };
        let outer = FlowKey { src, dst: outwards.dst, ..headers.key };
        let hop = match self.next_hop(flow) {
            Ok(hop) => hop,
            Err(Some(fate)) => return fate,
            Err(None) => return self.refuse(&headers.key, Some(headers), DropReason::NoRoute),
        };
        let Some(mac) = hop.mac else { return Fate::Hold { port: hop.port, ip: hop.ip } };
        let Some(port) = self.tables.routing.port(hop.port).filter(|_| headers.ttl > 1) else {
            return self.refuse(&headers.key, Some(headers), DropReason::TtlExceeded);
        };
        if !rewrite::translate_error(packet.bytes_mut(), headers, &quote, &outer, &outwards.reverse()) {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidPacket);
        }
        rewrite::hop(packet.bytes_mut(), headers);
        if !rewrite::link(packet, headers.l3, mac, port.mac, port.vlan) {
            return self.refuse(&headers.key, Some(headers), DropReason::InvalidPacket);
        }
        if S::EVERY_PACKET {
            let event = self.event(crate::event::EventKind::Packet, &headers.key, &outer);
            self.events.emit(&event);
        }
        Fate::Forward(hop.port)
    }

    /// An error about nothing that we know: another worker's, the kernel's own, or nobody's.
    fn unrelated_error(&mut self, packet: &Packet<'_>, headers: &Headers, reply: &FlowKey) -> Fate {
        if self.tables.settings.workers > 1
            && let Err(fate) = self.owned_here(packet, reply)
        {
            return fate;
        }
        if self.tables.routing.route(headers.key.dst, headers.key.v4, 0) == Hop::Local {
            return Fate::Pass;
        }
        self.refuse(&headers.key, Some(headers), DropReason::UnknownConnection)
    }
}
