//! The end of a tunnel: a gateway in front of clients has chosen one of our backends, and its answer goes past that
//! gateway. The packet is made again what the client sent; from then on it is a packet to a service like any other, but
//! for who chooses the backend, so its replies find back to the service's address.
//!
//! Only tunnels from configured peers to configured addresses are opened, and only for what we guard.

use arrayvec::ArrayVec;

use super::Turn;
use crate::event::EventSink;
use crate::flow_key::FlowKey;
use crate::packet::Packet;
use crate::parse::{Headers, Kind};
use crate::rewrite;
use crate::state::flow::WRAPPED;
use crate::tables::ipcache::Row;
use crate::tables::record::{Backend, Forwarding};
use crate::tables::service::{Balanced, Match};
use crate::unwrap::{self, Inside};
use crate::verdict::{DropReason, Fate};

use super::admit::Choice;
use core::net::Ipv6Addr;

/// Headers that opening a tunnel may write over: all of both packets' (with no more than a few extensions), up to where
/// the checksum of a transport header ends.
const HEADERS: usize = 512;
const TRANSPORT: usize = 18;

/// What the tunnel said of the packet that is being worked on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// The backend, by address and port.
    backend: Option<(Ipv6Addr, u16)>,
    /// Where the tunnel ended: the backend itself, or an address of ours.
    end: Ipv6Addr,
    pub geneve: bool,
}

impl<S: EventSink> Turn<'_, S> {
    #[cold]
    pub(crate) fn tunnelled(&mut self, packet: &mut Packet<'_>, outer: &Headers) -> Fate {
        let refuse = |turn: &mut Self, reason| turn.refuse(&outer.key, Some(outer), reason);
        let inside = match unwrap::open(packet, outer) {
            Ok(inside) => inside,
            Err(reason) => return refuse(self, reason),
        };
        let (start, len) = (packet.start(), packet.len());
        let headers = packet
            .bytes()
            .get(..usize::from(inside.headers.l4) + TRANSPORT)
            .unwrap_or_else(|| packet.bytes());
        let came: ArrayVec<u8, HEADERS> = headers.iter().copied().take(HEADERS).collect();
        let fate = self.opened(packet, outer, &inside);
        if matches!(fate, Fate::Hold { .. } | Fate::AwaitRow(_) | Fate::HandOver(_) | Fate::Pass) {
            // It comes again, or goes elsewhere, as it came.
            if packet.grow_front(packet.start() - start) && packet.set_len(len) {
                packet.bytes_mut()[..came.len()].copy_from_slice(&came);
            }
        }
        fate
    }

    fn opened(&mut self, packet: &mut Packet<'_>, outer: &Headers, inside: &Inside) -> Fate {
        let refuse = |turn: &mut Self, reason| turn.refuse(&outer.key, Some(outer), reason);
        let inner = &inside.headers;
        if inner.kind == Kind::IcmpError {
            return match unwrap::peel(packet, inner) {
                Some(headers) => self.icmp_error(packet, &headers),
                None => refuse(self, DropReason::InvalidPacket),
            };
        }
        let key = match inner.fragment {
            None => inner.key,
            Some(fragment) => {
                let (len, again) = (inner.end - inner.l4, packet.again);
                match self.state.fragments.follow(&inner.key, fragment, len, again, self.now) {
                    Ok(key) => key,
                    Err(reason) => return refuse(self, reason),
                }
            }
        };
        let Some(asked) = self.asked(inside, &key) else {
            return refuse(self, DropReason::UnknownConnection);
        };
        if self.tables.settings.workers > 1
            && let Err(fate) = self.owned_by(packet, self.tables.owner_of_client(&asked))
        {
            return fate;
        }
        let Some(headers) = unwrap::peel(packet, inner) else {
            return refuse(self, DropReason::InvalidPacket);
        };
        if asked != key {
            let (ip, l4) = rewrite::deltas(&key, &asked);
            rewrite::translate(packet.bytes_mut(), &headers, &asked, ip, l4);
        }
        let headers = Headers { key: asked, ..headers };
        let backend = inside.geneve.then_some((key.dst, key.dport));
        self.told = Some(Told { backend, end: outer.key.dst, geneve: inside.geneve });
        let place = self.state.flows.place(&asked);
        let fate = match self.state.flows.find(&asked) {
            // Another gateway chose for this client; what we chose ourselves is over.
            Some(flow) if self.state.flows.hot(flow).is(WRAPPED) => self.start_anew(packet, &headers, flow),
            Some(flow) => self.established(packet, &headers, flow),
            None => self.admit(packet, &headers, &place, None),
        };
        self.told = None;
        fate
    }

    /// What the client asked for. Plain IP carries its packet as it was; Geneve says, or said when the connection began.
    fn asked(&self, inside: &Inside, key: &FlowKey) -> Option<FlowKey> {
        match inside.service {
            Some((dst, dport)) => {
                let same_family = dst.to_ipv4_mapped().is_some() == key.v4;
                let speaks = !dst.is_multicast() && !dst.is_unspecified();
                (same_family && speaks).then_some(FlowKey { dst, dport, ..*key })
            }
            None if inside.geneve => {
                let flow = self.state.flows.find(&key.reverse()).filter(|flow| flow.is_reply())?;
                Some(self.state.flows.keys(flow).original)
            }
            None => Some(*key),
        }
    }

    /// The backend that the tunnel names, if it is one of ours.
    pub(crate) fn chosen_elsewhere(
        &mut self,
        headers: &Headers,
        source: &Row,
        told: Told,
    ) -> Result<(FlowKey, Option<Choice>), Fate> {
        let (key, tables) = (headers.key, self.tables);
        let (to, choice) = match tables.services.lookup(&key, source) {
            Match::Service(id, service) if told.backend.is_none() && !service.is_ready() => {
                return Err(Fate::AwaitRow(id));
            }
            Match::Service(id, service) => match self.known(&key, service, told) {
                Some(backend) => {
                    let to = FlowKey { dst: crate::emit::mapped(backend.ip), dport: backend.port, ..key };
                    let how = Forwarding::Dnat;
                    (to, Some(Choice { service: id, backend: backend.id, how, end: to.dst }))
                }
                None => (unknown(&key, told), None),
            },
            // The other gateway may know of a service before we do.
            Match::None => (unknown(&key, told), None),
            Match::Refused(DropReason::NoBackend) => (unknown(&key, told), None),
            Match::Refused(reason) => return Err(self.refuse(&key, Some(headers), reason)),
        };
        if to.dst.to_ipv4_mapped().is_some() != key.v4 || !tables.guarded.contains(to.dst, to.v4) {
            return Err(self.refuse(&key, Some(headers), DropReason::NoBackend));
        }
        Ok((to, choice))
    }

    /// The backend as we know it. A tunnel of plain IP that ends at an address of ours leaves the choice to us, among
    /// those that we guard.
    fn known<'b>(&self, key: &FlowKey, service: &'b Balanced, told: Told) -> Option<&'b Backend> {
        let backends = &service.record.backends;
        let is = |backend: &&Backend, ip| crate::emit::mapped(backend.ip) == ip;
        if let Some((ip, port)) = told.backend {
            return backends.iter().find(|backend| is(backend, ip) && backend.port == port);
        }
        let ours = |backend: &&Backend| {
            self.tables.guarded.contains(crate::emit::mapped(backend.ip), backend.ip.is_ipv4())
        };
        let picked = service.pick(self.tables.services.hash(key, service.record.affinity_seconds > 0));
        let end = backends.iter().find(|backend| is(backend, told.end));
        end.or_else(|| picked.filter(ours)).or_else(|| backends.iter().find(ours))
    }
}

/// Without a word of ours about the service: whoever the tunnel names.
fn unknown(key: &FlowKey, told: Told) -> FlowKey {
    match told.backend {
        Some((dst, dport)) => FlowKey { dst, dport, ..*key },
        None => FlowKey { dst: told.end, ..*key },
    }
}
