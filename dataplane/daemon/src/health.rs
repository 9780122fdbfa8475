//! Active health: asks backends whether they are alive, over the dataplane's own sockets, and keeps those that are not from
//! new flows.
//!
//! A backend that fails `fall` times in a row is quarantined, and comes back after `rise` good answers. Never all of a
//! service's backends: when nobody answers it is more likely that asking is broken, and everybody gets flows as before
//! (which is said). Probes leave by a worker and their answers come in by one, by the same route, neighbour and device as
//! traffic; only policy does not judge them. Their number is bounded: when more are due than may be sent, intervals grow.

mod prober;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use sluice_core::emit::{Frame, mapped};
use sluice_core::tables::Tables;
use sluice_core::tables::nexthop::Hop;
use sluice_core::tables::record::{
    BackendState, Change, Probe, ProbeKind, RecordKey, Records, Service, ServiceId,
};
use sluice_core::time::Now;
use sluice_run::hold::Wanted;
use sluice_run::ring::{Handed, Outside};
use sluice_steer::rules::PROBE_IDENTIFIER;

use prober::{Id, Outcome, Prober};

/// Own ports that probes leave by; the first is the identifier of echo requests. The kernel uses none of them by itself.
pub const PORTS: (u16, u16) = (PROBE_IDENTIFIER, PROBE_IDENTIFIER + 511);
/// Probes that may begin in one turn of two milliseconds.
const STARTS_A_TURN: usize = 2;

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    ip: IpAddr,
    port: u16,
    probe: Probe,
}

/// What is known of a target.
#[derive(Clone, Debug)]
struct Watch {
    /// Services that ask for it.
    users: BTreeSet<ServiceId>,
    healthy: bool,
    /// Answers in a row that say the other thing.
    against: u8,
    why: Option<String>,
    due: Now,
    running: Option<Id>,
}

#[derive(Debug)]
pub struct Health {
    targets: BTreeMap<Target, Watch>,
    by_service: HashMap<ServiceId, Vec<Target>>,
    running: HashMap<Id, Target>,
    /// Services where nobody is healthy, so that everybody is used.
    fallen_back: BTreeSet<ServiceId>,
    prober: Prober,
    next: Id,
    good: u64,
    bad: u64,
}

/// What carries probes.
pub struct Ways<'a> {
    pub tables: &'a Tables,
    pub outsides: Vec<&'a mut Outside>,
}

impl Health {
    pub fn new(seed: u64) -> Self {
        Self {
            targets: BTreeMap::new(),
            by_service: HashMap::new(),
            running: HashMap::new(),
            fallen_back: BTreeSet::new(),
            prober: Prober::new((PORTS.0 + 1, PORTS.1), seed),
            next: 0,
            good: 0,
            bad: 0,
        }
    }

    /// Is anybody asked at all?
    pub fn is_idle(&self) -> bool {
        self.targets.is_empty()
    }

    /// Changes as they are to be published: services with those in quarantine that are.
    pub fn overlay<'a>(&self, changes: &'a [Change], told: &Records) -> Cow<'a, [Change]> {
        if self.is_idle() {
            return Cow::Borrowed(changes);
        }
        let mut probes: HashMap<ServiceId, Option<Probe>> = HashMap::new();
        for change in changes {
            if let Change::Probe(id, probe) = change {
                probes.insert(*id, probe.clone());
            }
        }
        let lay = |change: Change| {
            let Change::Service(id, Some(service)) = change else { return change };
            let probe = probes.get(&id).cloned().unwrap_or_else(|| probe_of(told, id));
            Change::Service(id, Some(self.quarantined(service, probe.as_ref()).0))
        };
        changes.iter().cloned().map(lay).collect()
    }

    /// The service with what fails set apart, and whether that had to be left because nobody would remain.
    fn quarantined(&self, mut service: Service, probe: Option<&Probe>) -> (Service, bool) {
        let Some(probe) = probe else { return (service, false) };
        let fails = |ip: IpAddr, port: u16| {
            self.targets.get(&target(ip, port, probe)).is_some_and(|watch| !watch.healthy)
        };
        let active = |state| state == BackendState::Active;
        let used = service.backends.iter().filter(|b| active(b.state) && b.weight > 0);
        let (some, all) = used.fold((false, true), |(some, all), b| {
            let fails = fails(b.ip, b.port);
            (some || fails, all && fails)
        });
        if !some || all {
            return (service, some);
        }
        for backend in service.backends.iter_mut().filter(|b| active(b.state)) {
            if fails(backend.ip, backend.port) {
                backend.state = BackendState::Quarantined;
            }
        }
        (service, false)
    }

    /// These changes are live: ask whom they mean.
    pub fn refresh(&mut self, told: &Records, changes: &[Change], now: Now) {
        for change in changes {
            if let Change::Service(id, _) | Change::Probe(id, _) = change {
                self.watch(*id, told, now);
            }
        }
    }

    fn watch(&mut self, id: ServiceId, told: &Records, now: Now) {
        let probe = probe_of(told, id);
        let old = self.by_service.remove(&id).unwrap_or_default();
        if probe.is_none() && old.is_empty() {
            return;
        }
        let service = service_of(told, id);
        let asked = |service: &Service, probe: &Probe| -> Vec<Target> {
            let live = service.backends.iter().filter(|b| b.state == BackendState::Active);
            live.map(|backend| target(backend.ip, backend.port, probe)).collect()
        };
        let new = service.as_ref().zip(probe.as_ref()).map(|(s, p)| asked(s, p)).unwrap_or_default();
        for target in &new {
            let spread = spread(target);
            let watch = self.targets.entry(target.clone()).or_insert_with(|| Watch {
                users: BTreeSet::new(),
                healthy: true,
                against: 0,
                why: None,
                due: Now(now.0 + spread),
                running: None,
            });
            watch.users.insert(id);
        }
        for target in old.iter().filter(|target| !new.contains(target)) {
            if let Some(watch) = self.targets.get_mut(target) {
                watch.users.remove(&id);
                if watch.users.is_empty() {
                    self.targets.remove(target);
                }
            }
        }
        if !new.is_empty() {
            self.by_service.insert(id, new);
        }
        if let Some(service) = service {
            self.fall_back(id, self.quarantined(service, probe.as_ref()).1);
        } else {
            self.fallen_back.remove(&id);
        }
    }

    fn fall_back(&mut self, id: ServiceId, fallen: bool) {
        let turned = if fallen { self.fallen_back.insert(id) } else { self.fallen_back.remove(&id) };
        if turned && fallen {
            tracing::warn!("no backend of service {} answers its probes: all are used as before", id.0);
        }
    }

    /// Send what is due, hear what came; the services that are to be published anew. Neighbours that nobody knows are put
    /// into `wanted`.
    pub fn turn(
        &mut self,
        ways: &mut Ways<'_>,
        told: &Records,
        now: Now,
        wanted: &mut Vec<Wanted>,
    ) -> Vec<Change> {
        let mut done = Vec::new();
        self.hear(ways, &mut done);
        self.begin(ways, now, wanted);
        self.prober.poll(now, &mut done);
        for packet in std::mem::take(&mut self.prober.wire.leaving) {
            send_packet(ways, &packet, wanted);
        }
        let mut turned = BTreeSet::new();
        for (id, outcome) in done {
            self.note(id, outcome, &mut turned);
        }
        let again = |id: ServiceId| {
            let (service, fallen) = self.quarantined(service_of(told, id)?, probe_of(told, id).as_ref());
            Some((Change::Service(id, Some(service)), fallen))
        };
        let anew: Vec<(Change, bool)> = turned.iter().filter_map(|id| again(*id)).collect();
        for (id, (_, fallen)) in turned.iter().zip(&anew) {
            self.fall_back(*id, *fallen);
        }
        anew.into_iter().map(|(change, _)| change).collect()
    }

    /// Packets that workers had for the gateway itself.
    fn hear(&mut self, ways: &mut Ways<'_>, done: &mut Vec<(Id, Outcome)>) {
        for outside in &mut ways.outsides {
            while let Some(handed) = outside.take() {
                match read(handed.bytes) {
                    Some(Answer::Segment(packet)) => self.prober.wire.arrived.push_back(packet),
                    Some(Answer::Echo(from)) => self.prober.echoed(from, done),
                    None => {}
                }
            }
        }
    }

    fn begin(&mut self, ways: &mut Ways<'_>, now: Now, wanted: &mut Vec<Wanted>) {
        let due = self.targets.iter().filter(|(_, watch)| watch.running.is_none() && watch.due <= now);
        let mut due: Vec<(Now, Target)> = due.map(|(target, watch)| (watch.due, target.clone())).collect();
        due.sort();
        for (_, target) in due.into_iter().take(STARTS_A_TURN) {
            let deadline = Now(now.0 + u64::from(target.probe.timeout) * (Now::SECOND / 1000));
            let id = self.next;
            let Some(from) = source(ways.tables, target.ip) else {
                self.note_start(id, &target, now);
                self.prober.asked(id, target.ip, now);
                continue;
            };
            match &target.probe.kind {
                ProbeKind::Icmp => {
                    let key = prober::echo(from, target.ip, PORTS.0);
                    let mut frame = Frame::new(key);
                    frame.payload = b"sluice-health...".to_vec();
                    send_packet(ways, &frame.build()[14..], wanted);
                    self.prober.asked(id, target.ip, deadline);
                }
                ProbeKind::Tcp | ProbeKind::Http(_) if !self.prober.has_room() => return,
                ProbeKind::Tcp => {
                    self.prober.connect(id, from, SocketAddr::new(target.ip, target.port), None, deadline);
                }
                ProbeKind::Http(path) => {
                    let to = SocketAddr::new(target.ip, target.port);
                    self.prober.connect(id, from, to, Some(path), deadline);
                }
            }
            self.note_start(id, &target, now);
        }
    }

    fn note_start(&mut self, id: Id, target: &Target, now: Now) {
        self.next += 1;
        if let Some(watch) = self.targets.get_mut(target) {
            watch.running = Some(id);
            watch.due = Now(now.0 + u64::from(target.probe.interval) * (Now::SECOND / 1000));
        }
        self.running.insert(id, target.clone());
    }

    /// A probe is done: is its target another than before?
    fn note(&mut self, id: Id, outcome: Outcome, turned: &mut BTreeSet<ServiceId>) {
        let Some(target) = self.running.remove(&id) else { return };
        *if outcome.is_ok() { &mut self.good } else { &mut self.bad } += 1;
        let Some(watch) = self.targets.get_mut(&target).filter(|watch| watch.running == Some(id)) else {
            return;
        };
        watch.running = None;
        if watch.healthy == outcome.is_ok() {
            watch.against = 0;
            return;
        }
        watch.against = watch.against.saturating_add(1);
        let needed = if watch.healthy { target.probe.fall } else { target.probe.rise };
        if watch.against < needed {
            return;
        }
        (watch.healthy, watch.against) = (!watch.healthy, 0);
        match &outcome {
            Ok(()) => tracing::info!("backend {}:{} is healthy again", target.ip, target.port),
            Err(why) => tracing::warn!("backend {}:{} fails: {why}", target.ip, target.port),
        }
        watch.why = outcome.err();
        turned.extend(&watch.users);
    }

    /// For the status: every target, and what was counted.
    pub fn show(&self) -> Value {
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|(target, watch)| {
                let kind = match &target.probe.kind {
                    ProbeKind::Tcp => "tcp",
                    ProbeKind::Http(_) => "http",
                    ProbeKind::Icmp => "icmp",
                };
                let services: Vec<u32> = watch.users.iter().map(|id| id.0).collect();
                json!({"ip": target.ip, "port": target.port, "kind": kind, "healthy": watch.healthy,
                    "why": watch.why, "services": services})
            })
            .collect();
        let fallen: Vec<u32> = self.fallen_back.iter().map(|id| id.0).collect();
        json!({"targets": targets, "fallen_back": fallen, "probes": {"good": self.good, "bad": self.bad}})
    }
}

fn target(ip: IpAddr, port: u16, probe: &Probe) -> Target {
    // An echo request asks a machine, not a port.
    let port = if probe.kind == ProbeKind::Icmp { 0 } else { port };
    Target { ip, port, probe: probe.clone() }
}

/// Within its interval every target has a time of its own.
fn spread(target: &Target) -> u64 {
    let bits = mapped(target.ip).to_bits();
    let low = u64::try_from(bits & 0xffff_ffff).unwrap_or(0) ^ u64::from(target.port) << 7;
    let share = low.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    u64::from(target.probe.interval) * (Now::SECOND / 1000) / 1024 * share
}

fn probe_of(told: &Records, id: ServiceId) -> Option<Probe> {
    if let Some(Change::Probe(_, probe)) = told.get(&RecordKey::Probe(id)) { probe.clone() } else { None }
}

fn service_of(told: &Records, id: ServiceId) -> Option<Service> {
    if let Some(Change::Service(_, service)) = told.get(&RecordKey::Service(id)) {
        service.clone()
    } else {
        None
    }
}

/// The gateway's own address towards somebody.
fn source(tables: &Tables, to: IpAddr) -> Option<IpAddr> {
    let routing = &tables.routing;
    let port = match routing.route(mapped(to), to.is_ipv4(), 0) {
        Hop::Via(id) => routing.hop(id)?.port,
        Hop::OnLink(port) => port,
        Hop::Local | Hop::Unreachable | Hop::Blackhole => return None,
    };
    let own = &routing.port(port)?.addresses;
    own.iter().map(|prefix| prefix.addr).find(|ip| ip.is_ipv4() == to.is_ipv4())
}

/// Put an IP packet into a frame and give it to the first worker, or ask for the neighbour that it needs.
fn send_packet(ways: &mut Ways<'_>, packet: &[u8], wanted: &mut Vec<Wanted>) {
    let Some((_, to)) = addresses(packet) else { return };
    let routing = &ways.tables.routing;
    let id = match routing.route(mapped(to), to.is_ipv4(), 0) {
        Hop::Via(id) => id,
        Hop::OnLink(port) => return wanted.push(Wanted::Neighbour { port, ip: to }),
        Hop::Local | Hop::Unreachable | Hop::Blackhole => return,
    };
    let Some(way) = routing.adjacency(id) else {
        let next = routing.hop(id);
        return wanted.extend(next.map(|next| Wanted::Neighbour { port: next.port, ip: next.ip }));
    };
    let mut frame = way.macs.to_vec();
    if way.vlan != 0 {
        frame.extend([0x81, 0x00]);
        frame.extend(way.vlan.to_be_bytes());
    }
    frame.extend(if to.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    let device = routing.port(way.port).map_or(0, |port| port.device);
    if let Some(outside) = ways.outsides.first_mut() {
        // A full ring loses it, as the link may lose any.
        outside.give(Handed { bytes: &frame, device, handed: 0 });
    }
}

/// Source and destination of an IP packet.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
    let v6 = |at: usize| packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// What came for a probe.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A TCP segment in its IP packet.
    Segment(Vec<u8>),
    /// An echo reply from this address.
    Echo(IpAddr),
}

/// Is this frame an answer to a probe of ours? Options and extension headers are nobody's honest answer.
fn read(frame: &[u8]) -> Option<Answer> {
    let l3 = if frame.get(12..14)? == [0x81, 0x00] { 18 } else { 14 };
    let packet = frame.get(l3..)?;
    let (from, _) = addresses(packet)?;
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (proto, l4, end) = match packet.first()? {
        0x45 => (packet[9], 20, usize::from(word(2)?)),
        first if first >> 4 == 6 => (*packet.get(6)?, 40, 40 + usize::from(word(4)?)),
        _ => return None,
    };
    let ours = (PORTS.0..=PORTS.1).contains(&word(l4 + 2)?);
    match proto {
        6 if ours => Some(Answer::Segment(packet.get(..end)?.to_vec())),
        1 if packet.get(l4) == Some(&0) && word(l4 + 4)? == PORTS.0 => Some(Answer::Echo(from)),
        58 if packet.get(l4) == Some(&129) && word(l4 + 4)? == PORTS.0 => Some(Answer::Echo(from)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::tables::record::{Algorithm, Backend, BackendId, Forwarding, Reach};

    const ID: ServiceId = ServiceId(7);

    fn probe(rise: u8, fall: u8) -> Probe {
        Probe { kind: ProbeKind::Tcp, interval: 1000, timeout: 100, rise, fall }
    }

    fn told(count: u8) -> Records {
        let backend = |n: u8| Backend {
            id: BackendId(n.into()),
            ip: IpAddr::from([10, 0, 0, n]),
            port: 80,
            weight: 100,
            state: BackendState::Active,
            reach: Reach::default(),
        };
        let service = Service {
            proto: 6,
            algorithm: Algorithm::Random,
            forwarding: Forwarding::Dnat,
            backends: (1..=count).map(backend).collect(),
            ..Service::default()
        };
        let changes = [Change::Service(ID, Some(service)), Change::Probe(ID, Some(probe(2, 3)))];
        changes.into_iter().map(|change| (change.key(), change)).collect()
    }

    fn watching(told: &Records) -> Health {
        let mut health = Health::new(1);
        let changes: Vec<Change> = told.values().cloned().collect();
        health.refresh(told, &changes, Now(Now::SECOND));
        health
    }

    /// One probe of a backend that went this way; is anything to be published?
    fn went(health: &mut Health, backend: u8, good: bool) -> bool {
        let target = target(IpAddr::from([10, 0, 0, backend]), 80, &probe(2, 3));
        let id = health.next;
        health.note_start(id, &target, Now(Now::SECOND));
        let mut turned = BTreeSet::new();
        health.note(id, if good { Ok(()) } else { Err("refused".to_owned()) }, &mut turned);
        !turned.is_empty()
    }

    fn quarantined(health: &Health, told: &Records) -> Vec<u8> {
        let changes: Vec<Change> = told.values().cloned().collect();
        let changes = health.overlay(&changes, &Records::new());
        let states = changes.iter().flat_map(|change| {
            if let Change::Service(_, Some(service)) = change { service.backends.clone() } else { Vec::new() }
        });
        let apart = states.filter(|b| b.state == BackendState::Quarantined);
        apart.map(|b| u8::try_from(b.id.0).unwrap()).collect()
    }

    #[test]
    fn a_backend_is_set_apart_after_some_failures_and_comes_back_after_some_answers() {
        let told = told(3);
        let mut health = watching(&told);
        assert!(!went(&mut health, 1, false) && !went(&mut health, 1, false));
        assert!(!went(&mut health, 1, true), "one good answer and the count begins anew");
        assert!(!went(&mut health, 1, false) && !went(&mut health, 1, false));
        assert_eq!(quarantined(&health, &told), [0; 0]);
        assert!(went(&mut health, 1, false));
        assert_eq!(quarantined(&health, &told), [1]);
        assert!(!went(&mut health, 1, true) && !went(&mut health, 1, false) && !went(&mut health, 1, true));
        assert!(went(&mut health, 1, true));
        assert_eq!(quarantined(&health, &told), [0; 0]);
    }

    #[test]
    fn never_all_of_them_are_set_apart() {
        let told = told(2);
        let mut health = watching(&told);
        for _ in 0..3 {
            went(&mut health, 1, false);
        }
        assert_eq!(quarantined(&health, &told), [1]);
        for _ in 0..3 {
            went(&mut health, 2, false);
        }
        assert_eq!(quarantined(&health, &told), [0; 0]);
        for _ in 0..2 {
            went(&mut health, 1, true);
        }
        assert_eq!(quarantined(&health, &told), [2]);
    }

    #[test]
    fn who_is_not_asked_any_more_is_forgotten() {
        let mut told = told(2);
        let mut health = watching(&told);
        told.insert(RecordKey::Probe(ID), Change::Probe(ID, None));
        health.refresh(&told, &[Change::Probe(ID, None)], Now(Now::SECOND));
        assert!(health.is_idle());
        assert!(!went(&mut health, 1, false), "an answer that comes late means nothing");
    }

    #[test]
    fn bytes_that_are_cut_are_no_answer() {
        let key = prober::echo("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap(), PORTS.0);
        let mut frame = Frame::new(key);
        frame.icmp = (0, 0);
        let bytes = frame.build();
        assert_eq!(read(&bytes), Some(Answer::Echo("10.0.0.1".parse().unwrap())));
        for length in 0..40 {
            assert_eq!(read(&bytes[..length]), None, "{length}");
        }
        frame.icmp = (8, 0);
        assert_eq!(read(&frame.build()), None, "a request of somebody else");
    }
}
