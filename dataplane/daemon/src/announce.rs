//! Answers for service addresses on the links where hosts look for them: ARP and neighbour discovery, and announcements
//! when an address is taken.
//!
//! It is done here and not in the workers, on a packet socket a link: the kernel hears the same questions and goes on
//! answering for its own addresses, no packet of traffic passes by a test more, and when this process dies nobody answers
//! any more, so that another gateway takes the addresses ([`standing`]).

mod standing;
mod wire;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use serde_json::{Value, json};
use sluice_core::packet::PortId;
use sluice_core::tables::record::{Change, Port, Prefix, RecordKey, Records, Route};
use sluice_core::time::Now;
use sluice_feed::settings::Interface;
use sluice_xsk::LinkSocket;

use standing::{Frames, Link, Standing};

/// Frames that one link is heard in one turn; a flood of more waits in the kernel, and is lost there.
const HEARD_A_TURN: usize = 256;

/// All links that we announce on.
#[derive(Debug)]
pub struct Announcer {
    devices: Vec<Device>,
    /// Joined for the groups in which questions about our addresses are asked, so that switches let them through.
    groups: Option<UdpSocket>,
}

/// One device of the settings.
#[derive(Debug)]
struct Device {
    name: String,
    wanted: bool,
    open: Option<Open>,
}

/// A device that is there and up.
#[derive(Debug)]
struct Open {
    index: u32,
    socket: LinkSocket,
    link: Link,
    groups: BTreeSet<Ipv6Addr>,
}

impl Announcer {
    pub fn new(interfaces: &[Interface]) -> Self {
        let device = |interface: &Interface| Device {
            name: interface.name.clone(),
            wanted: interface.announce,
            open: None,
        };
        let devices: Vec<Device> = interfaces.iter().map(device).collect();
        let any = devices.iter().any(|device| device.wanted);
        let groups = any.then(|| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).ok()).flatten();
        Self { devices, groups }
    }

    /// What control exposes, what the kernel has, and which devices are there, as of now.
    pub fn refresh(&mut self, told: &Records, kernel: &Records, devices: &[Option<u32>], now: Now) {
        if self.is_idle() {
            return;
        }
        let wanted = exposed(told).filter(|ip| !is_the_kernels(*ip, kernel)).collect();
        for (id, device) in (0..).zip(&mut self.devices).filter(|(_, device)| device.wanted) {
            let port = match kernel.get(&RecordKey::Port(PortId(id))) {
                Some(Change::Port(_, Some(port))) if port.up => port,
                _ => {
                    device.open = None;
                    continue;
                }
            };
            if let Some(index) = devices.get(usize::from(id)).copied().flatten() {
                device.follow(index, port, &wanted, self.groups.as_ref(), now);
            }
        }
    }

    /// Is there no link on which anybody may ask?
    pub fn is_idle(&self) -> bool {
        self.devices.iter().all(|device| !device.wanted)
    }

    /// Hear what was asked, and say what is due.
    pub fn turn(&mut self, now: Now) {
        let mut buffer = [0; 256];
        for open in self.devices.iter_mut().filter_map(|device| device.open.as_mut()) {
            let mut out = Frames::new();
            for _ in 0..HEARD_A_TURN {
                let Some(frame) = open.socket.receive(&mut buffer) else { break };
                if let Some(heard) = wire::read(frame) {
                    open.link.hear(&heard, now, &mut out);
                }
            }
            open.link.tick(now, &mut out);
            for frame in out {
                // What is lost is said again, or asked again.
                drop(open.socket.send(&frame));
            }
        }
    }

    /// Every address on every link with where we stand.
    pub fn show(&self) -> impl Iterator<Item = Value> {
        let open = self.devices.iter().filter_map(|device| Some((&device.name, device.open.as_ref()?)));
        open.flat_map(|(name, open)| {
            open.link.standings().map(move |(ip, standing)| {
                let (standing, holder) = match standing {
                    Standing::Asking { .. } => ("asking", None),
                    Standing::Held { .. } => ("held", Some(open.link.mac)),
                    Standing::StandBy { holder, .. } => ("standby", Some(holder)),
                };
                json!({"device": name, "address": ip, "standing": standing, "holder": holder.map(text)})
            })
        })
    }
}

impl Device {
    fn follow(
        &mut self,
        index: u32,
        port: &Port,
        wanted: &BTreeSet<IpAddr>,
        groups: Option<&UdpSocket>,
        now: Now,
    ) {
        // Another device of the same name is another link.
        if self.open.as_ref().is_some_and(|open| open.index != index || open.link.mac != port.mac) {
            self.open = None;
        }
        if self.open.is_none() {
            match LinkSocket::open(index) {
                Ok(socket) => {
                    let link = Link::new(port.mac);
                    self.open = Some(Open { index, socket, link, groups: BTreeSet::new() });
                }
                Err(error) => tracing::error!("{}: cannot announce addresses: {error}", self.name),
            }
        }
        let Some(open) = &mut self.open else { return };
        open.link.link_local = link_local(&self.name);
        open.link.want(wanted, now);
        let Some(socket) = groups else { return };
        let v6 = |ip: &IpAddr| if let IpAddr::V6(ip) = ip { Some(wire::solicited(*ip)) } else { None };
        let now_in: BTreeSet<Ipv6Addr> = wanted.iter().filter_map(v6).collect();
        for group in open.groups.difference(&now_in) {
            drop(socket.leave_multicast_v6(group, index));
        }
        for group in now_in.difference(&open.groups) {
            if let Err(error) = socket.join_multicast_v6(group, index) {
                tracing::warn!("{}: cannot join {group}: {error}", self.name);
            }
        }
        open.groups = now_in;
    }
}

/// The addresses that control exposes.
pub fn exposed(told: &Records) -> impl Iterator<Item = IpAddr> {
    let first = RecordKey::Exposed(Ipv4Addr::UNSPECIFIED.into());
    told.range(first..).map_while(|(key, _)| if let RecordKey::Exposed(ip) = key { Some(*ip) } else { None })
}

fn is_the_kernels(ip: IpAddr, kernel: &Records) -> bool {
    let host = Prefix { addr: ip, len: if ip.is_ipv4() { 32 } else { 128 } };
    matches!(kernel.get(&RecordKey::Route(host)), Some(Change::Route(_, Some(Route::Local))))
}

/// The device's own address of the link, as the kernel lists it.
fn link_local(name: &str) -> Option<Ipv6Addr> {
    let list = std::fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    let ours = |line: &&str| {
        let mut words = line.split_whitespace().skip(3);
        words.next() == Some("20") && words.nth(1) == Some(name)
    };
    let bits = list.lines().find(ours)?.split_whitespace().next()?;
    u128::from_str_radix(bits, 16).ok().map(Ipv6Addr::from_bits)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
