//! Probes in flight: TCP connections by smoltcp, echo requests by hand. Packets go in and out as bytes; who carries them, and
//! when time passes, is the caller's.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sluice_core::flow_key::FlowKey;
use sluice_core::time::Now;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpEndpoint, IpListenEndpoint};

/// Connections at a time: what more is due waits its turn.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// How long a connection that has done its work may take to say goodbye.
const GOODBYE: u64 = Now::SECOND;
/// How much of an answer is looked at: the status line is at its start.
const ANSWER: usize = 512;

/// The number of a probe.
pub(super) type Id = u64;
/// How it went: nothing, or what was wrong.
pub(super) type Outcome = Result<(), String>;

/// Packets between smoltcp and whoever carries them.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub arrived: VecDeque<Vec<u8>>,
    pub leaving: Vec<Vec<u8>>,
}

pub(super) struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1280;
        capabilities
    }
}

/// One connection.
#[derive(Debug)]
struct Connection {
    id: Id,
    socket: SocketHandle,
    /// What is asked once it is there; nothing: that it is there is enough.
    request: Option<Vec<u8>>,
    answer: Vec<u8>,
    deadline: Now,
    /// Told already, and on its way out.
    told: bool,
}

pub(super) struct Prober {
    interface: Interface,
    sockets: SocketSet<'static>,
    pub wire: Wire,
    connections: Vec<Connection>,
    /// Echo requests that wait for their answer, by whom they ask. Several probes may ask one machine.
    echoes: HashMap<IpAddr, Vec<(Id, Now)>>,
    ports: (u16, u16),
    next_port: u16,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("connections", &self.connections.len()).finish_non_exhaustive()
    }
}

impl Prober {
    /// `ports` are those that connections leave by; `seed` makes their sequence numbers hard to guess.
    pub fn new(ports: (u16, u16), seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        // Each connection says which of the gateway's addresses it has; where packets go is decided outside.
        interface.set_any_ip(true);
        let routes = interface.routes_mut();
        let _ = routes.add_default_ipv4_route(Ipv4Addr::new(192, 0, 0, 8));
        let _ = routes.add_default_ipv6_route(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            connections: Vec::new(),
            echoes: HashMap::new(),
            ports,
            next_port: ports.0,
        }
    }

    /// Is there room for one more connection?
    pub fn has_room(&self) -> bool {
        self.connections.len() < MOST_CONNECTIONS
    }

    /// Connect; with a path, ask for it.
    pub fn connect(&mut self, id: Id, from: IpAddr, to: SocketAddr, path: Option<&str>, deadline: Now) {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 1024]), SocketBuffer::new(vec![0; 1024]));
        let port = self.next_port;
        self.next_port = if port >= self.ports.1 { self.ports.0 } else { port + 1 };
        let local = IpListenEndpoint { addr: Some(from.into()), port };
        // It can only fail for addresses that no target has; then it times out as any other.
        let _ = socket.connect(self.interface.context(), IpEndpoint::from(to), local);
        let request = path.map(|path| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: sluice-health\r\nConnection: close\r\n\r\n"
            )
            .into_bytes()
        });
        let socket = self.sockets.add(socket);
        self.connections.push(Connection { id, socket, request, answer: Vec::new(), deadline, told: false });
    }

    /// An echo request was sent to this address.
    pub fn asked(&mut self, id: Id, to: IpAddr, deadline: Now) {
        self.echoes.entry(to).or_default().push((id, deadline));
    }

    /// An echo reply came from this address.
    pub fn echoed(&mut self, from: IpAddr, done: &mut Vec<(Id, Outcome)>) {
        done.extend(self.echoes.remove(&from).into_iter().flatten().map(|(id, _)| (id, Ok(()))));
    }

    /// Let time pass and packets move; which probes are done.
    pub fn poll(&mut self, now: Now, done: &mut Vec<(Id, Outcome)>) {
        if self.connections.is_empty() && self.wire.arrived.is_empty() && self.echoes.is_empty() {
            return;
        }
        let time = Instant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX));
        let _ = self.interface.poll(time, &mut self.wire, &mut self.sockets);
        let sockets = &mut self.sockets;
        let mut more = false;
        self.connections.retain_mut(|connection| {
            let socket = sockets.get_mut::<Socket<'static>>(connection.socket);
            let goes_on = connection.step(socket, now, done);
            more |= socket.state() == State::CloseWait || connection.told;
            if !goes_on {
                sockets.remove(connection.socket);
            }
            goes_on
        });
        self.echoes.retain(|_, waiting| {
            let over = waiting.extract_if(.., |(_, deadline)| now >= *deadline);
            done.extend(over.map(|(id, _)| (id, Err("no echo reply".to_owned()))));
            !waiting.is_empty()
        });
        // What was just asked or closed leaves with this turn.
        let _ = self.interface.poll(time, &mut self.wire, &mut self.sockets);
    }
}

impl Connection {
    /// One step; false: it is over.
    fn step(&mut self, socket: &mut Socket<'static>, now: Now, done: &mut Vec<(Id, Outcome)>) -> bool {
        if self.told {
            let over = matches!(socket.state(), State::Closed | State::TimeWait) || now >= self.deadline;
            if over && socket.state() != State::Closed {
                socket.abort();
            }
            return !over;
        }
        let outcome = self.outcome(socket).or_else(|| {
            let asked = if socket.may_send() { "no answer in time" } else { "no connection in time" };
            (now >= self.deadline).then(|| Err(asked.to_owned()))
        });
        if let Some(outcome) = outcome {
            if outcome.is_ok() {
                socket.close();
            } else {
                socket.abort();
            }
            done.push((self.id, outcome));
            self.told = true;
            self.deadline = Now(now.0 + GOODBYE);
        }
        true
    }

    fn outcome(&mut self, socket: &mut Socket<'static>) -> Option<Outcome> {
        if socket.state() == State::Closed {
            return Some(Err("connection refused".to_owned()));
        }
        if socket.may_send()
            && let Some(request) = self.request.take_if(|request| !request.is_empty())
        {
            let _ = socket.send_slice(&request);
            self.request = Some(Vec::new());
        }
        if self.request.is_none() {
            return socket.may_send().then_some(Ok(()));
        }
        let mut buffer = [0; ANSWER];
        while socket.can_recv()
            && self.answer.len() < ANSWER
            && let Ok(n @ 1..) = socket.recv_slice(&mut buffer)
        {
            self.answer.extend(&buffer[..n]);
        }
        if let Some(status) = status(&self.answer) {
            let good = (200..400).contains(&status);
            return Some(if good { Ok(()) } else { Err(format!("HTTP status {status}")) });
        }
        let over = !socket.may_recv() && socket.state() != State::SynSent || self.answer.len() >= ANSWER;
        over.then(|| Err("no HTTP answer".to_owned()))
    }
}

/// The number in `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?;
    let digits = line.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The key of an echo request or of its reply.
pub(super) fn echo(from: IpAddr, to: IpAddr, id: u16) -> FlowKey {
    let mapped = sluice_core::emit::mapped;
    let v4 = to.is_ipv4();
    FlowKey { src: mapped(from), dst: mapped(to), sport: id, dport: 0, proto: if v4 { 1 } else { 58 }, v4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "192.0.2.1";
    const SERVER: &str = "10.0.0.1:80";

    /// A server of one connection: smoltcp on the other end.
    struct Server {
        interface: Interface,
        sockets: SocketSet<'static>,
        wire: Wire,
        handle: SocketHandle,
        says: &'static [u8],
    }

    impl Server {
        fn new(says: &'static [u8], listens: bool) -> Self {
            let mut prober = Prober::new((1, 1), 7);
            let mut socket = Socket::new(SocketBuffer::new(vec![0; 1024]), SocketBuffer::new(vec![0; 1024]));
            if listens {
                socket.listen(80).unwrap();
            }
            let handle = prober.sockets.add(socket);
            let Prober { interface, sockets, wire, .. } = prober;
            Self { interface, sockets, wire, handle, says }
        }

        fn turn(&mut self, now: Instant) {
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
            let mut buffer = [0; 1024];
            if socket.can_recv() && socket.recv_slice(&mut buffer).is_ok_and(|n| n > 0) {
                assert!(buffer.starts_with(b"GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:80\r\n"));
                let _ = socket.send_slice(self.says);
            }
            // The client is done; before its connection is up there is nothing to end.
            if socket.may_send() && !socket.may_recv() {
                socket.close();
            }
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
        }
    }

    #[test]
    fn every_probe_of_one_machine_ends_however_many_there_are() {
        let mut prober = Prober::new((29_001, 29_511), 1);
        let machine: IpAddr = "10.0.0.1".parse().unwrap();
        let mut done = Vec::new();
        for (id, deadline) in [(1, 5), (2, 9), (3, 20)] {
            prober.asked(id, machine, Now(deadline));
        }
        prober.poll(Now(10), &mut done);
        done.sort();
        assert_eq!(
            done.iter().map(|(id, outcome)| (*id, outcome.is_ok())).collect::<Vec<_>>(),
            [(1, false), (2, false)]
        );
        prober.asked(4, machine, Now(30));
        done.clear();
        prober.echoed(machine, &mut done);
        assert_eq!(done, [(3, Ok(())), (4, Ok(()))]);
        done.clear();
        prober.poll(Now(99), &mut done);
        assert!(done.is_empty(), "each ends once");
    }

    fn probe(path: Option<&str>, server: Option<Server>) -> Outcome {
        let mut prober = Prober::new((29_001, 29_511), 1);
        let deadline = Now(2 * Now::SECOND);
        prober.connect(5, CLIENT.parse().unwrap(), SERVER.parse().unwrap(), path, deadline);
        let (mut server, mut done) = (server, Vec::new());
        for step in 0..4000_u64 {
            let now = Now(Now::SECOND + step * Now::SECOND / 1000);
            prober.poll(now, &mut done);
            let packets = std::mem::take(&mut prober.wire.leaving);
            if let Some(server) = &mut server {
                server.wire.arrived.extend(packets);
                server.turn(Instant::from_micros(i64::try_from(now.0 / 1000).unwrap()));
                prober.wire.arrived.extend(std::mem::take(&mut server.wire.leaving));
            }
        }
        assert!(prober.connections.is_empty(), "every connection ends");
        assert_eq!(done.len(), 1, "and is told of once");
        assert_eq!(done[0].0, 5);
        done.remove(0).1
    }

    #[test]
    fn connections_are_made_refused_or_never_answered() {
        assert_eq!(probe(None, Some(Server::new(b"", true))), Ok(()));
        assert_eq!(probe(None, Some(Server::new(b"", false))), Err("connection refused".to_owned()));
        assert_eq!(probe(None, None), Err("no connection in time".to_owned()));
    }

    #[test]
    fn answers_are_good_bad_nonsense_or_missing() {
        let ask = |says: &'static [u8]| probe(Some("/healthz"), Some(Server::new(says, true)));
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(()));
        assert_eq!(ask(b"HTTP/1.0 301 Moved\r\n\r\n"), Ok(()));
        assert_eq!(ask(b"HTTP/1.1 503 Busy\r\n\r\n"), Err("HTTP status 503".to_owned()));
        assert!(ask(b"220 mail.example ESMTP\r\n").is_err());
        assert_eq!(ask(b""), Err("no answer in time".to_owned()));
    }

    #[test]
    fn packets_of_anybody_harm_nobody() {
        let mut prober = Prober::new((29_001, 29_511), 1);
        let to = SERVER.parse().unwrap();
        prober.connect(1, CLIENT.parse().unwrap(), to, None, Now(9 * Now::SECOND));
        let mut done = Vec::new();
        for n in 0..2000_u32 {
            let packet: Vec<u8> =
                (0..n % 90).map(|at| (n.wrapping_mul(2_654_435_761) >> (at % 24)).to_le_bytes()[0]).collect();
            prober.wire.arrived.push_back(packet);
            prober.poll(Now(Now::SECOND), &mut done);
        }
        assert!(done.is_empty());
    }
}
