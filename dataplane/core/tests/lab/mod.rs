//! A gateway in memory: clients outside on port 0, guarded backends inside on port 1, a service in front of them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test data of our own, all small and valid"
)]

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use sluice_core::checksum;
use sluice_core::cut::Pieces;
use sluice_core::emit::{Error, Frame, icmp_error, mapped};
use sluice_core::event::{EventSink, FlowEvent};
use sluice_core::flow_key::FlowKey;
use sluice_core::packet::{Packet, PortId};
use sluice_core::parse::{ACK, FIN, SYN, parse, quoted};
use sluice_core::path::{Fates, forward, tick};
use sluice_core::state::{Config, State};
use sluice_core::tables::Tables;
use sluice_core::tables::record::*;
use sluice_core::time::Now;
use sluice_core::verdict::{Action, Fate, NextHopId};
use sluice_core::watch::{Sighting, forward_seen};

pub const POLICY_DENIED_PEER: u32 = 300;
const ALLOWED: PeerSetId = PeerSetId(3);
const BACKENDS: ClassId = ClassId(1);
const HEADROOM: usize = 128;

#[derive(Default)]
pub struct Events(pub Vec<FlowEvent>);

impl EventSink for Events {
    fn emit(&mut self, event: &FlowEvent) {
        self.0.push(*event);
    }
}

impl std::ops::Deref for Events {
    type Target = Vec<FlowEvent>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

pub struct Lab {
    pub tables: Tables,
    pub state: State,
    pub events: Events,
    pub now: Now,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix { addr: ip(addr), len: len.parse().unwrap() }
}

fn backend(n: u8, v4: bool) -> Backend {
    let addr = if v4 { format!("10.244.0.1{n}") } else { format!("2001:db8:2::1{n}") };
    Backend {
        id: BackendId(u32::from(n)),
        ip: ip(&addr),
        port: 8080,
        weight: 100,
        state: BackendState::Active,
        reach: Reach::Itself,
    }
}

fn service(v4: bool) -> Service {
    Service {
        proto: 6,
        algorithm: Algorithm::Maglev(251),
        reject: true,
        backends: (1..=4).map(|n| backend(n, v4)).collect(),
        ..Service::default()
    }
}

fn frontend(id: u32) -> Option<Frontend> {
    Some(Frontend {
        service: Some(ServiceId(id)),
        inside: None,
        cluster_only: false,
        source_ranges: Vec::new(),
        source_ranges_deny: false,
    })
}

fn vip(v4: bool) -> IpAddr {
    ip(if v4 { "203.0.113.80" } else { "2001:db8:cafe::80" })
}

/// Ports, routes and neighbours as the kernel would have them.
pub fn network() -> Vec<Change> {
    let port = |n: u8, addresses: [&str; 2]| Port {
        mac: [2, 0, 0, 0, 0, n],
        mtu: 1500,
        vlan: 0,
        device: u16::from(n),
        up: true,
        addresses: addresses.map(prefix).to_vec(),
    };
    let mut changes = vec![
        Change::Port(PortId(0), Some(port(0, ["192.0.2.1/24", "2001:db8:1::1/64"]))),
        Change::Port(PortId(1), Some(port(1, ["10.244.0.1/24", "2001:db8:2::1/64"]))),
        Change::Route(prefix("192.0.2.0/24"), Some(Route::OnLink(PortId(0)))),
        Change::Route(prefix("2001:db8:1::/64"), Some(Route::OnLink(PortId(0)))),
        Change::Route(prefix("10.244.0.0/24"), Some(Route::OnLink(PortId(1)))),
        Change::Route(prefix("2001:db8:2::/64"), Some(Route::OnLink(PortId(1)))),
    ];
    for own in ["192.0.2.1/32", "2001:db8:1::1/128", "10.244.0.1/32", "2001:db8:2::1/128"] {
        changes.push(Change::Route(prefix(own), Some(Route::Local)));
    }
    let neighbours = [
        (0, "192.0.2.11"),
        (0, "2001:db8:1::11"),
        (0, "192.0.2.12"),
        (0, "2001:db8:1::12"),
        (1, "10.244.0.11"),
        (1, "10.244.0.12"),
        (1, "10.244.0.13"),
        (1, "10.244.0.14"),
        (1, "2001:db8:2::11"),
        (1, "2001:db8:2::12"),
        (1, "2001:db8:2::13"),
        (1, "2001:db8:2::14"),
        (0, "192.0.2.254"),
        (1, "10.244.0.15"),
        (1, "2001:db8:2::15"),
    ];
    for (n, (port, addr)) in neighbours.iter().enumerate() {
        let id = NextHopId(n as u16);
        let hop =
            NextHop { port: PortId(*port), ip: ip(addr), mac: Some([2, 1, 0, 0, 0, n as u8]), mtu: 1500 };
        let len = if hop.ip.is_ipv4() { 32 } else { 128 };
        changes.push(Change::NextHop(id, Some(hop)));
        changes.push(Change::Route(Prefix { addr: hop.ip, len }, Some(Route::Via(vec![(id, 1)]))));
    }
    changes.push(Change::Route(prefix("198.51.100.0/24"), Some(Route::Via(vec![(NextHopId(12), 1)]))));
    changes
}

/// Who is who, who may talk to whom, and the service.
pub fn objects() -> Vec<Change> {
    let world = Identity { number: 9, world: true, ..Identity::default() };
    let client = Identity { number: 400, peer_sets: vec![ALLOWED], ..Identity::default() };
    let stranger = Identity { number: POLICY_DENIED_PEER, ..Identity::default() };
    let backends = Identity { number: 500, ingress: Some(BACKENDS), ..Identity::default() };
    let allow = |proto, port| PortRange {
        proto,
        first: port,
        last: port,
        entries: vec![PolicyEntry { peers: ALLOWED, action: Action::Allow, rule: RuleId(7) }],
    };
    let class =
        PolicyClass { default_deny: true, audit: false, ranges: vec![allow(6, 8080), allow(17, 8080)] };
    let mut changes = vec![
        Change::Settings(Settings {
            guarded: vec![prefix("10.244.0.0/24"), prefix("2001:db8:2::/64")],
            ..Settings::default()
        }),
        Change::Identity(IdentitySlot(1), Some(world)),
        Change::Identity(IdentitySlot(2), Some(client)),
        Change::Identity(IdentitySlot(3), Some(stranger)),
        Change::Identity(IdentitySlot(4), Some(backends)),
        Change::Address(prefix("0.0.0.0/0"), Some(IdentitySlot(1))),
        Change::Address(prefix("::/0"), Some(IdentitySlot(1))),
        Change::Class(BACKENDS, Some(class)),
    ];
    for (addr, slot) in
        [("192.0.2.11/32", 2), ("2001:db8:1::11/128", 2), ("192.0.2.12/32", 3), ("2001:db8:1::12/128", 3)]
    {
        changes.push(Change::Address(prefix(addr), Some(IdentitySlot(slot))));
    }
    for n in 1..=4 {
        for v4 in [true, false] {
            let Backend { ip: addr, .. } = backend(n, v4);
            let len = if v4 { 32 } else { 128 };
            changes.push(Change::Address(Prefix { addr, len }, Some(IdentitySlot(4))));
        }
    }
    // 10.244.0.15 is plain: nobody judges it.
    for addr in ["10.244.0.15/32", "2001:db8:2::15/128"] {
        changes.push(Change::Address(prefix(addr), Some(IdentitySlot(3))));
    }
    for (id, v4, proto) in [(1, true, 6), (2, false, 6), (3, true, 17)] {
        changes.push(Change::Service(ServiceId(id), Some(Service { proto, ..service(v4) })));
        changes.push(Change::Frontend(FrontendKey { ip: vip(v4), port: 80, proto }, frontend(id)));
    }
    for v4 in [true, false] {
        let nothing = Frontend { service: None, ..frontend(0).unwrap() };
        changes.push(Change::Frontend(FrontendKey { ip: vip(v4), port: 0, proto: 0 }, Some(nothing)));
    }
    changes
}

impl Lab {
    pub fn new() -> Self {
        Self::with_flows(1000)
    }

    pub fn with_flows(flows: u32) -> Self {
        let mut tables = Tables::default();
        tables.apply(&network(), None).unwrap();
        tables.apply(&objects(), None).unwrap();
        let state = State::new(Config::new(flows, [1, 2, 3, 4]));
        Self { tables, state, events: Events::default(), now: Now(0) }
    }

    pub fn change(&mut self, changes: &[Change]) {
        self.tables.apply(changes, None).unwrap();
    }

    /// One frame in; its fate, and the frame as it is afterwards.
    pub fn send(&mut self, port: u16, frame: &[u8]) -> (Fate, Vec<u8>) {
        let mut room = vec![0; HEADROOM + frame.len() + 2048];
        room[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut burst = [Packet::new(&mut room, HEADROOM, frame.len(), PortId(port)).unwrap()];
        let mut fates = Fates::new();
        forward(&self.tables, &mut self.state, self.now, &mut burst, &mut fates, &mut self.events);
        (fates[0], burst[0].bytes().to_vec())
    }

    /// The same for one that was here before.
    pub fn send_again(&mut self, port: u16, frame: &[u8]) -> (Fate, Vec<u8>) {
        let mut room = [&[0; HEADROOM][..], frame, &[0; 2048]].concat();
        let mut burst = [Packet::new(&mut room, HEADROOM, frame.len(), PortId(port)).unwrap()];
        burst[0].again = true;
        let mut fates = Fates::new();
        forward(&self.tables, &mut self.state, self.now, &mut burst, &mut fates, &mut self.events);
        (fates[0], burst[0].bytes().to_vec())
    }

    /// The same for up to a burst of frames at once, each with its port.
    pub fn send_burst(&mut self, frames: &[(u16, Vec<u8>)]) -> Vec<(Fate, Vec<u8>)> {
        let mut rooms: Vec<Vec<u8>> =
            frames.iter().map(|(_, frame)| [&[0; HEADROOM][..], frame, &[0; 2048]].concat()).collect();
        let shown = rooms.iter_mut().zip(frames);
        let mut burst: Vec<Packet<'_>> = shown
            .map(|(room, (port, frame))| Packet::new(room, HEADROOM, frame.len(), PortId(*port)).unwrap())
            .collect();
        let mut fates = Fates::new();
        forward(&self.tables, &mut self.state, self.now, &mut burst, &mut fates, &mut self.events);
        fates.into_iter().zip(&burst).map(|(fate, packet)| (fate, packet.bytes().to_vec())).collect()
    }

    /// The same while somebody watches.
    pub fn send_seen(&mut self, port: u16, frame: &[u8]) -> (Sighting, Vec<u8>) {
        let mut room = vec![0; HEADROOM + frame.len() + 2048];
        room[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut packet = Packet::new(&mut room, HEADROOM, frame.len(), PortId(port)).unwrap();
        let (mut fates, events) = (Fates::new(), &mut self.events);
        let seen = forward_seen(&self.tables, &mut self.state, self.now, &mut packet, &mut fates, events);
        (seen, packet.bytes().to_vec())
    }

    pub fn tick(&mut self, now: Now) {
        self.now = now;
        tick(&self.tables, &mut self.state, now, &mut self.events);
    }

    fn key(src: &str, dst: IpAddr, sport: u16, dport: u16, proto: u8) -> FlowKey {
        let v4 = dst.is_ipv4();
        FlowKey { src: mapped(ip(src)), dst: mapped(dst), sport, dport, proto, v4 }
    }

    pub fn client_to_service(&self, v4: bool, sport: u16) -> FlowKey {
        Self::key(if v4 { "192.0.2.11" } else { "2001:db8:1::11" }, vip(v4), sport, 80, 6)
    }

    pub fn client_to_service_udp(&self, sport: u16) -> FlowKey {
        Self::key("192.0.2.11", vip(true), sport, 80, 17)
    }

    pub fn stranger_to_backend(&self, v4: bool, dport: u16) -> FlowKey {
        let (from, to) =
            if v4 { ("192.0.2.12", "10.244.0.11") } else { ("2001:db8:1::12", "2001:db8:2::11") };
        Self::key(from, ip(to), 40000, dport, 6)
    }

    /// A flow that policy has no word about (its destination has no identity of ours).
    pub fn plain(&self, v4: bool, sport: u16) -> FlowKey {
        let (from, to) =
            if v4 { ("192.0.2.11", "10.244.0.15") } else { ("2001:db8:1::11", "2001:db8:2::15") };
        Self::key(from, ip(to), sport, 9000, 6)
    }

    pub fn inside_to_world(&self, _v4: bool, sport: u16) -> FlowKey {
        Self::key("10.244.0.11", ip("198.51.100.7"), sport, 53, 17)
    }

    pub fn tcp(&self, key: FlowKey, flags: u8) -> Vec<u8> {
        Frame { flags, ..Frame::new(FlowKey { proto: 6, ..key }) }.build()
    }

    pub fn udp_frame(&self, key: FlowKey) -> Frame {
        Frame { payload: vec![1, 2, 3], ..Frame::new(FlowKey { proto: 17, ..key }) }
    }

    pub fn udp(&self, key: FlowKey) -> Vec<u8> {
        self.udp_frame(key).build()
    }

    pub fn ping(&self, key: FlowKey) -> Frame {
        let proto = if key.v4 { 1 } else { 58 };
        Frame { payload: vec![5; 33], ..Frame::new(FlowKey { proto, sport: 77, dport: 0, ..key }) }
    }

    /// One UDP datagram in two IPv4 fragments.
    pub fn fragments(&self, key: FlowKey) -> (Vec<u8>, Vec<u8>) {
        let whole = Frame { payload: vec![9; 1000], ..Frame::new(key) }.build();
        let piece = |from: usize, to: usize, more: bool| {
            let mut frame = whole[..34].to_vec();
            frame.extend(&whole[34 + from..34 + to]);
            let total = (20 + to - from) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[18..20].copy_from_slice(&[0xab, 0xcd]);
            let word = (from / 8) as u16 | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        (piece(0, 504, true), piece(504, 1008, false))
    }

    pub fn key_of(&self, frame: &[u8]) -> FlowKey {
        let mut room = frame.to_vec();
        let len = room.len();
        parse(&Packet::new(&mut room, 0, len, PortId(0)).unwrap()).unwrap().key
    }

    pub fn quoted_key(&self, frame: &[u8]) -> FlowKey {
        let mut room = frame.to_vec();
        let len = room.len();
        let packet = Packet::new(&mut room, 0, len, PortId(0)).unwrap();
        quoted(&packet, &parse(&packet).unwrap()).unwrap().key
    }

    /// All checksums are right, by somebody else's reckoning.
    pub fn assert_sound(&self, frame: &[u8]) {
        assert_sound(frame);
    }

    pub fn is_backend(&self, key: &FlowKey) -> bool {
        (1..=4).any(|n| backend(n, key.v4).ip == key.destination()) && key.dport == 8080
    }

    pub fn backend_class(&self) -> ClassId {
        BACKENDS
    }

    pub fn gateway(&self, v4: bool) -> Ipv6Addr {
        mapped(ip(if v4 { "192.0.2.1" } else { "2001:db8:1::1" }))
    }

    pub fn router_behind(&self, v4: bool) -> IpAddr {
        ip(if v4 { "10.244.0.12" } else { "2001:db8:2::12" })
    }

    pub fn remove_backend(&mut self, key: &FlowKey) {
        let mut record = service(key.v4);
        record.backends.retain(|backend| backend.ip != key.destination());
        self.change(&[Change::Service(ServiceId(1), Some(record))]);
    }

    pub fn remove_all_backends(&mut self) {
        self.change(&[Change::Service(
            ServiceId(1),
            Some(Service { backends: Vec::new(), ..service(true) }),
        )]);
    }

    pub fn second_service(&mut self) {
        let only = |record: Service| Service { backends: vec![backend(1, true)], ..record };
        self.change(&[
            Change::Service(ServiceId(1), Some(only(service(true)))),
            Change::Service(ServiceId(9), Some(only(service(true)))),
            Change::Frontend(FrontendKey { ip: vip(true), port: 81, proto: 6 }, frontend(9)),
        ]);
    }

    pub fn masquerade(&mut self) {
        let settings = Settings {
            masquerade: Masquerade {
                sources: vec![prefix("10.244.0.0/24")],
                exclude: vec![prefix("192.0.2.0/24")],
                addresses: vec![ip("192.0.2.2")],
            },
            ..self.tables.settings.clone()
        };
        self.change(&[Change::Settings(settings), Change::Route(prefix("192.0.2.2/32"), Some(Route::Local))]);
    }

    /// Clients live in this VLAN of device 0 from now on.
    pub fn add_vlan(&mut self, vlan: u16) {
        let port = Port { vlan, ..self.tables.routing.port(PortId(0)).unwrap().clone() };
        self.change(&[Change::Port(PortId(2), Some(port))]);
    }

    /// Backends of all services answer the client themselves from now on, and we guard nothing.
    pub fn answer_directly(&mut self, which: u8) {
        let dispatch = [Dispatch::Option, Dispatch::Geneve, Dispatch::Ipip][usize::from(which % 3)];
        for (id, v4, proto) in [(1, true, 6), (2, false, 6), (3, true, 17)] {
            let record = Service { proto, forwarding: Forwarding::Dsr(dispatch), ..service(v4) };
            self.change(&[Change::Service(ServiceId(id), Some(record))]);
        }
        let settings = Settings { guarded: Vec::new(), ..self.tables.settings.clone() };
        self.change(&[Change::Settings(settings)]);
    }

    /// One of several changes in the middle of everything.
    pub fn disturb(&mut self, which: u8) {
        match which {
            0 => self.remove_all_backends(),
            1 => self.change(&[Change::Class(
                BACKENDS,
                Some(PolicyClass { default_deny: true, ..Default::default() }),
            )]),
            2 => self
                .change(&[Change::Route(prefix("10.244.0.0/24"), None), Change::NextHop(NextHopId(4), None)]),
            3 => self.masquerade(),
            _ => self.answer_directly(which),
        }
    }
}

/// Check IP and transport checksums with etherparse.
pub fn assert_sound(frame: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match packet.transport.as_ref() {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert_eq!(tcp.calc_checksum_ipv4(src, dst).unwrap(), tcp.checksum());
                }
                // Over IPv4 a datagram may go without.
                Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
                    let sum = udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload()).unwrap();
                    assert_eq!(sum, udp.checksum());
                }
                Some(TransportSlice::Icmpv4(icmp)) => assert_eq!(checksum::sum(icmp.slice()), 0xffff),
                _ => {}
            }
        }
        NetSlice::Ipv6(ip) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match packet.transport.as_ref() {
                Some(TransportSlice::Tcp(tcp)) => {
                    assert_eq!(tcp.calc_checksum_ipv6(src, dst).unwrap(), tcp.checksum());
                }
                Some(TransportSlice::Udp(udp)) => {
                    let sum = udp.to_header().calc_checksum_ipv6_raw(src, dst, udp.payload()).unwrap();
                    assert_eq!(sum, udp.checksum());
                }
                Some(TransportSlice::Icmpv6(icmp)) => assert!(icmp.is_checksum_valid(src, dst)),
                _ => {}
            }
        }
        NetSlice::Arp(_) => panic!("an ARP frame"),
    }
}

/// An ICMP error about a frame, from this router, as it arrives at us.
pub fn icmp_about(frame: &[u8], router: IpAddr) -> Vec<u8> {
    let mut room = frame.to_vec();
    room.resize(frame.len() + 2048, 0);
    let mut packet = Packet::new(&mut room, 0, frame.len(), PortId(0)).unwrap();
    let headers = parse(&packet).unwrap();
    assert!(icmp_error(&mut packet, &headers, Error::TooBig(1400), router));
    packet.bytes().to_vec()
}

/// The same datagram with a number and without the word that routers must not cut it.
pub fn may_be_cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18..22].copy_from_slice(&[0xab, 0xcd, 0, 0]);
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// What a worker makes of a frame that is to be cut.
pub fn cut(frame: &[u8], room: u16) -> Vec<Vec<u8>> {
    let (mut bytes, mut all) = (frame.to_vec(), Vec::new());
    let mut packet = Packet::new(&mut bytes, 0, frame.len(), PortId(0)).unwrap();
    let mut pieces = Pieces::of(&mut packet, room).unwrap();
    while let Some(piece) = pieces.next() {
        all.push(piece.to_vec());
    }
    all
}

/// What the receiver of this frame would say, if it has ports.
pub fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let mut room = frame.to_vec();
    let len = room.len();
    let headers = parse(&Packet::new(&mut room, 0, len, PortId(0))?).ok()?;
    let answer = Frame { flags: SYN | ACK, ..Frame::new(headers.key.reverse()) };
    (headers.key.sport != 0).then(|| answer.build())
}

/// Frames of the lab's own hosts in every state of order, and noise.
pub fn any_packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let hosts = prop_oneof![
        Just("192.0.2.11"),
        Just("192.0.2.12"),
        Just("10.244.0.11"),
        Just("10.244.0.14"),
        Just("203.0.113.80"),
        Just("192.0.2.1"),
        Just("192.0.2.2"),
        Just("198.51.100.7"),
        Just("10.244.0.99"),
        Just("127.0.0.1"),
    ];
    let hosts6 = prop_oneof![
        Just("2001:db8:1::11"),
        Just("2001:db8:2::11"),
        Just("2001:db8:cafe::80"),
        Just("2001:db8:1::1"),
        Just("::1"),
    ];
    let key = (any::<bool>(), hosts.clone(), hosts, hosts6.clone(), hosts6, 0_u16..4, any::<bool>(), 0_u8..6);
    let frame = key.prop_map(|(v4, a, b, c, d, port, reply, proto)| {
        let (src, dst) = if v4 { (a, b) } else { (c, d) };
        let icmp = if v4 { 1 } else { 58 };
        let (sport, dport) = if reply { (80, 40000 + port) } else { (40000 + port, 80) };
        let proto = [6, 6, 17, icmp, 132, 47][usize::from(proto)];
        FlowKey { src: mapped(ip(src)), dst: mapped(ip(dst)), sport, dport, proto, v4 }
    });
    let flags = prop_oneof![Just(SYN), Just(SYN | ACK), Just(ACK), Just(FIN | ACK), any::<u8>()];
    let damage = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let sane = (0_u16..2, frame, flags, 0_u8..3, damage, 0_usize..1700).prop_map(
        |(port, key, flags, ttl, damage, len)| {
            let payload = vec![0; if len < 1600 { len % 64 } else { len }];
            let mut bytes = Frame { flags, ttl: ttl * 40, payload, ..Frame::new(key) }.build();
            if let Some((index, value)) = damage {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            (port, bytes)
        },
    );
    let noise = (0_u16..2, prop::collection::vec(any::<u8>(), 0..200));
    prop_oneof![8 => sane, 1 => noise]
}
