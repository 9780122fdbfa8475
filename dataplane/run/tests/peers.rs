//! TCP connections between two smoltcp stacks through a whole worker in memory: everything arrives, byte by byte, however
//! many frames are lost, doubled, late, cut or damaged on the way, and the books of the worker balance.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on says so")]

mod gateway;

use std::collections::VecDeque;

use gateway::{CLIENTS, Gateway, SERVERS, publisher};
use sluice_core::time::Now;
use sluice_run::io::fault::Rates;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

/// A wire without link headers: the tests put them on and take them off.
struct Wire {
    coming: VecDeque<Vec<u8>>,
    going: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Coming(Vec<u8>);
struct Going<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Coming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Going<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Coming;
    type TxToken<'a> = Going<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Coming, Going<'_>)> {
        Some((Coming(self.coming.pop_front()?), Going(&mut self.going)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Going<'_>> {
        Some(Going(&mut self.going))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// One end of the connection: sends all it has, takes all that comes, then says goodbye.
struct Peer {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    speech: Vec<u8>,
    said: usize,
    heard: Vec<u8>,
}

impl Peer {
    fn new(addresses: &[&str], gateway: [&str; 2], mtu: usize, speech: Vec<u8>) -> Self {
        let mut wire = Wire { coming: VecDeque::new(), going: VecDeque::new(), mtu };
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut wire, Instant::from_millis(0));
        interface.update_ip_addrs(|list| {
            for address in addresses {
                let ip: IpAddress = address.parse().unwrap();
                list.push(IpCidr::new(ip, if address.contains(':') { 64 } else { 24 })).unwrap();
            }
        });
        interface.routes_mut().add_default_ipv4_route(gateway[0].parse().unwrap()).unwrap();
        interface.routes_mut().add_default_ipv6_route(gateway[1].parse().unwrap()).unwrap();
        let buffer = || SocketBuffer::new(vec![0; 65_535]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(Socket::new(buffer(), buffer()));
        Self { wire, interface, sockets, socket, speech, said: 0, heard: Vec::new() }
    }

    fn turn(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        if socket.may_send() {
            self.said += socket.send_slice(&self.speech[self.said..]).unwrap();
            if self.said == self.speech.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    self.heard.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
    }

    fn is_over(&mut self) -> bool {
        let state = self.sockets.get_mut::<Socket<'_>>(self.socket).state();
        self.said == self.speech.len() && matches!(state, State::Closed | State::TimeWait)
    }
}

/// A conversation: who asks whom, and through what.
struct Talk {
    client: &'static str,
    asks: (&'static str, u16),
    servers: [&'static str; 2],
    rates: Rates,
    seed: u64,
}

fn speech(len: usize, of: u8) -> Vec<u8> {
    (0..len).map(|n| (n * 31 / 7) as u8 ^ of).collect()
}

fn framed(device: u16, packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, device as u8], &[4, 0, 0, 0, 0, 1][..], &ethertype, packet].concat()
}

impl Talk {
    /// Let them talk until both have said all, and look whether all was heard.
    fn hold(&self) -> Gateway {
        let mut publisher = publisher(1);
        let mut gateway = Gateway::new(&mut publisher, self.rates, self.seed);
        let (question, answer) = (speech(120_000, 1), speech(200_000, 2));
        let outside = ["192.0.2.1", "2001:db8:1::1"];
        let mut client = Peer::new(&[self.client], outside, 1500, question.clone());
        let mut server = Peer::new(&self.servers, ["10.244.0.1", "2001:db8:2::1"], 1400, answer.clone());
        server.sockets.get_mut::<Socket<'_>>(server.socket).listen(8080).unwrap();
        let to = (self.asks.0.parse::<IpAddress>().unwrap(), self.asks.1);
        client
            .sockets
            .get_mut::<Socket<'_>>(client.socket)
            .connect(client.interface.context(), to, 40_000)
            .unwrap();
        let mut sent = 0;
        let mut millis = 0;
        while server.heard.len() < question.len() || client.heard.len() < answer.len() {
            millis += 1;
            assert!(
                millis < 900_000,
                "after a quarter of an hour: {} and {} bytes",
                server.heard.len(),
                client.heard.len()
            );
            sent += round(&mut gateway, &mut client, &mut server, millis);
        }
        assert!(server.heard == question, "the server heard something else");
        assert!(client.heard == answer, "the client heard something else");
        // What is still on its way comes to an end, too.
        for _ in 0..5000 {
            millis += 1;
            sent += round(&mut gateway, &mut client, &mut server, millis);
        }
        // (Damage may turn a flag into a reset: then who says goodbye is not understood any more.)
        assert!(self.rates.flip > 0 || client.is_over() && server.is_over(), "both said goodbye");
        gateway.assert_balanced(sent);
        gateway
    }
}

/// One millisecond.
fn round(gateway: &mut Gateway, client: &mut Peer, server: &mut Peer, millis: u64) -> u64 {
    let now = Instant::from_millis(millis.cast_signed());
    let mut sent = 0;
    for (device, peer) in [(CLIENTS, &mut *client), (SERVERS, &mut *server)] {
        peer.turn(now);
        for packet in peer.wire.going.drain(..) {
            gateway.arrive(device, &framed(device, &packet));
        }
    }
    while gateway.worker.turn(Now(millis * (Now::SECOND / 1000))) > 0 {}
    for (device, peer) in [(CLIENTS, client), (SERVERS, server)] {
        for frame in gateway.left(device) {
            sent += 1;
            peer.wire.coming.push_back(frame[14..].to_vec());
        }
    }
    sent
}

const V4: Talk = Talk {
    client: "192.0.2.11",
    asks: ("203.0.113.80", 80),
    servers: ["10.244.0.11", "10.244.0.12"],
    rates: GOOD,
    seed: 1,
};
const V6: Talk = Talk {
    client: "2001:db8:1::11",
    asks: ("2001:db8:cafe::80", 80),
    servers: ["2001:db8:2::11", "2001:db8:2::12"],
    ..V4
};
const GOOD: Rates = Rates { drop: 0, duplicate: 0, reorder: 0, truncate: 0, flip: 0, full: 0 };
const LOSSY: Rates = Rates { drop: 30, duplicate: 30, reorder: 60, truncate: 0, flip: 0, full: 10 };
const BROKEN: Rates = Rates { drop: 10, duplicate: 10, reorder: 20, truncate: 15, flip: 30, full: 5 };

#[test]
fn on_a_good_day_nothing_is_dropped() {
    for talk in [V4, V6] {
        let gateway = talk.hold();
        let counters = &gateway.worker.state.counters;
        assert_eq!((counters.dropped(), counters.passed, counters.held), (0, 0, 0), "{counters:?}");
        assert_eq!(counters.flows_created, 1);
    }
}

#[test]
fn without_a_service_between() {
    for talk in [
        Talk { asks: ("10.244.0.12", 8080), ..V4 },
        Talk { asks: ("2001:db8:2::12", 8080), rates: LOSSY, ..V6 },
    ] {
        talk.hold();
    }
}

#[test]
fn with_loss_doubles_and_disorder() {
    for (talk, seed) in [(V4, 7), (V4, 8), (V6, 9), (V6, 10)] {
        let gateway = Talk { rates: LOSSY, seed, ..talk }.hold();
        let happened = gateway.worker.io.happened;
        assert!(happened.dropped > 3 && happened.duplicated > 3 && happened.reordered > 3, "{happened:?}");
    }
}

/// A damaged segment must arrive with a wrong checksum or not at all: translation never makes damage look right.
#[test]
fn with_damage() {
    for (talk, seed) in [(V4, 11), (V6, 12), (V4, 13)] {
        let gateway = Talk { rates: BROKEN, seed, ..talk }.hold();
        let happened = gateway.worker.io.happened;
        assert!(happened.flipped > 3 && happened.truncated > 1, "{happened:?}");
    }
}
