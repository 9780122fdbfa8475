//! Who of several gateways on a link answers for an address, settled by the link itself and nothing else.
//!
//! A gateway that wants an address asks for it first (RFC 5227, RFC 4862). If nobody answers it takes the address and says
//! so; if somebody does it stands by, and goes on asking the one who has it. When there is no answer any more (its process,
//! machine, cable or last backend is gone) the address is free again. Where two find that they both have an address, the one
//! with the lower MAC keeps it. Everything is counted out in time that the caller gives; nothing is kept but what is here.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::{IpAddr, Ipv6Addr};

use sluice_core::time::Now;

use super::wire::{self, Heard, Mac};

/// Questions before an address is taken, and how far apart.
const QUESTIONS: u8 = 3;
const APART: u64 = Now::SECOND / 10;
/// Announcements when an address is taken, and how far apart: a client may miss one.
const ANNOUNCEMENTS: u8 = 3;
const AGAIN: u64 = Now::SECOND;
/// An address that is held is told of this often, so that two halves of a link that was cut find each other.
const REMIND: u64 = 10 * Now::SECOND;
/// The holder is asked this often by those who stand by; after so many silences in a row, close to each other, anybody is
/// asked.
const CHECK: u64 = Now::SECOND / 4;
const SILENCES: u8 = 3;
/// With many addresses everything periodic is slower: at most about this many frames a second.
const RATE: u64 = 1000;

/// Where we stand with one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Asking whether anybody has it.
    Asking { asked: u8 },
    /// Ours: we answer.
    Held { told: u8 },
    /// Another's, as long as it answers.
    StandBy { holder: Mac, silences: u8 },
}

/// All addresses of one link.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub mac: Mac,
    /// Our own address that is of this link alone.
    pub link_local: Option<Ipv6Addr>,
    /// With the time of the next step.
    addresses: BTreeMap<IpAddr, (Standing, Now)>,
}

/// Frames to be sent.
pub type Frames = Vec<Vec<u8>>;

impl Link {
    pub fn new(mac: Mac) -> Self {
        Self { mac, ..Self::default() }
    }

    /// These addresses are ours to have. What is new is asked for, what is gone is not answered for any more.
    pub fn want(&mut self, wanted: &BTreeSet<IpAddr>, now: Now) {
        self.addresses.retain(|ip, _| wanted.contains(ip));
        // Those who start together do not ask together, and nobody asks for everything at once.
        let mut start = Now(now.0 + u64::from(self.mac[5]) * (APART / 256));
        for ip in wanted {
            if let Entry::Vacant(place) = self.addresses.entry(*ip) {
                place.insert((Standing::Asking { asked: 0 }, start));
                start.0 += Now::SECOND / RATE;
            }
        }
    }

    /// The addresses and where we stand with each.
    pub fn standings(&self) -> impl Iterator<Item = (IpAddr, Standing)> {
        self.addresses.iter().map(|(ip, (standing, _))| (*ip, *standing))
    }

    /// Somebody said something.
    pub fn hear(&mut self, heard: &Heard, now: Now, out: &mut Frames) {
        if heard.mac == self.mac {
            return;
        }
        if let Some((ip, asker)) = heard.asks {
            self.asked(ip, asker, heard.mac, now, out);
        }
        if let Some(ip) = heard.claims {
            self.claimed(ip, heard.mac, now, out);
        }
    }

    fn asked(&mut self, ip: IpAddr, asker: Option<IpAddr>, mac: Mac, now: Now, out: &mut Frames) {
        let own = self.mac;
        let Some((standing, next)) = self.addresses.get_mut(&ip) else { return };
        match standing {
            Standing::Held { .. } => out.push(wire::answer(own, ip, asker, mac)),
            // Two who would take it at the same time: the lower one goes on.
            Standing::Asking { .. } if asker.is_none() && mac < own => {
                (*standing, *next) = (Standing::StandBy { holder: mac, silences: 0 }, Now(now.0 + 4 * APART));
            }
            Standing::Asking { .. } | Standing::StandBy { .. } => {}
        }
    }

    fn claimed(&mut self, ip: IpAddr, mac: Mac, now: Now, out: &mut Frames) {
        let (own, check) = (self.mac, self.pace(CHECK));
        let Some((standing, next)) = self.addresses.get_mut(&ip) else { return };
        match standing {
            Standing::Held { told } if own < mac => {
                // Once a step, however often the other says so.
                if *told > 0 {
                    (*standing, *next) = (Standing::Held { told: 1 }, Now(now.0 + AGAIN));
                    out.push(wire::announcement(own, ip));
                }
            }
            Standing::Held { .. } | Standing::Asking { .. } | Standing::StandBy { .. } => {
                (*standing, *next) = (Standing::StandBy { holder: mac, silences: 0 }, Now(now.0 + check));
            }
        }
    }

    /// Let time pass.
    pub fn tick(&mut self, now: Now, out: &mut Frames) {
        let (mac, local) = (self.mac, self.link_local);
        let (remind, again) = (self.pace(REMIND), self.pace(APART));
        for (ip, (standing, next)) in &mut self.addresses {
            if now < *next {
                continue;
            }
            let (then, pause) = match *standing {
                Standing::Asking { asked } if asked < QUESTIONS => {
                    out.push(wire::question(mac, *ip, None, None));
                    (Standing::Asking { asked: asked + 1 }, APART)
                }
                Standing::Asking { .. } => {
                    out.push(wire::announcement(mac, *ip));
                    (Standing::Held { told: 1 }, AGAIN)
                }
                Standing::Held { told } => {
                    out.push(wire::announcement(mac, *ip));
                    let told = told.saturating_add(1).min(ANNOUNCEMENTS);
                    (Standing::Held { told }, if told < ANNOUNCEMENTS { AGAIN } else { remind })
                }
                Standing::StandBy { silences, .. } if silences >= SILENCES => {
                    out.push(wire::question(mac, *ip, None, None));
                    (Standing::Asking { asked: 1 }, APART)
                }
                Standing::StandBy { holder, silences } => {
                    out.push(wire::question(mac, *ip, local, Some(holder)));
                    (Standing::StandBy { holder, silences: silences + 1 }, again)
                }
            };
            (*standing, *next) = (then, Now(now.0 + pause));
        }
    }

    /// A pause that keeps all addresses together within the rate.
    fn pace(&self, pause: u64) -> u64 {
        pause.max(self.addresses.len() as u64 * (Now::SECOND / RATE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gateways on one link, in steps of ten milliseconds; each hears what the others send, those that are cut off nothing.
    struct Lan {
        links: Vec<(Link, bool)>,
        now: u64,
        frames: usize,
    }

    impl Lan {
        fn new(count: u8, addresses: &[&str]) -> Self {
            let wanted: BTreeSet<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            let make = |n: u8| {
                let mut link = Link { mac: [2, 0, 0, 0, 0, n * 7], ..Link::default() };
                link.want(&wanted, Now(Now::SECOND));
                (link, true)
            };
            Self { links: (1..=count).map(make).collect(), now: Now::SECOND, frames: 0 }
        }

        fn run(&mut self, milliseconds: u64) {
            for _ in 0..milliseconds / 10 {
                self.now += Now::SECOND / 100;
                for index in 0..self.links.len() {
                    let mut out = Frames::new();
                    self.links[index].0.tick(Now(self.now), &mut out);
                    self.carry(index, out);
                }
            }
        }

        fn carry(&mut self, from: usize, frames: Frames) {
            if !self.links[from].1 {
                return;
            }
            for frame in frames {
                self.frames += 1;
                assert!(self.frames < 100_000, "a storm");
                let heard = wire::read(&frame).unwrap();
                for to in 0..self.links.len() {
                    let (link, there) = &mut self.links[to];
                    let meant = frame[0] & 1 == 1 || frame[..6] == link.mac;
                    if to != from && *there && meant {
                        let mut out = Frames::new();
                        link.hear(&heard, Now(self.now), &mut out);
                        self.carry(to, out);
                    }
                }
            }
        }

        fn holders(&self, ip: &str) -> Vec<usize> {
            let ip: IpAddr = ip.parse().unwrap();
            let holds = |(_, (link, _)): &(usize, &(Link, bool))| {
                link.standings().any(|(own, s)| own == ip && matches!(s, Standing::Held { .. }))
            };
            self.links.iter().enumerate().filter(holds).map(|(index, _)| index).collect()
        }
    }

    const BOTH: [&str; 2] = ["192.0.2.80", "2001:db8::80"];

    #[test]
    fn one_of_several_takes_an_address_and_keeps_it() {
        for count in 1..=5 {
            let mut lan = Lan::new(count, &BOTH);
            lan.run(1000);
            let first = lan.holders(BOTH[0]);
            assert_eq!(first.len(), 1, "of {count}");
            assert_eq!(lan.holders(BOTH[1]).len(), 1);
            for _ in 0..20 {
                lan.run(1000);
                assert_eq!(lan.holders(BOTH[0]), first);
            }
        }
    }

    #[test]
    fn an_address_whose_holder_is_gone_is_taken_within_a_second() {
        let mut lan = Lan::new(3, &BOTH);
        lan.run(2000);
        let first = lan.holders(BOTH[0])[0];
        lan.links[first].1 = false;
        lan.links[first].0.want(&BTreeSet::new(), Now(lan.now));
        lan.run(1000);
        for ip in BOTH {
            assert_eq!(lan.holders(ip).len(), 1, "{ip}");
        }
    }

    #[test]
    fn two_halves_of_a_link_that_was_cut_agree_again() {
        let mut lan = Lan::new(2, &BOTH);
        lan.run(2000);
        lan.links[1].1 = false;
        lan.run(5000);
        assert_eq!(lan.holders(BOTH[0]).len(), 2, "each believes that it is alone");
        lan.links[1].1 = true;
        lan.run(11_000);
        assert_eq!(lan.holders(BOTH[0]), [0], "the lower MAC");
        assert_eq!(lan.holders(BOTH[1]), [0]);
        let frames = lan.frames;
        lan.run(10_000);
        assert!(lan.frames - frames < 400, "{} frames in ten quiet seconds", lan.frames - frames);
    }

    #[test]
    fn who_asks_is_answered_by_the_holder_alone_and_only_for_what_it_has() {
        let mut lan = Lan::new(2, &BOTH);
        lan.run(2000);
        let holder = lan.holders(BOTH[0])[0];
        let client = [2, 9, 9, 9, 9, 9];
        for (ip, answers) in [("192.0.2.80", 1), ("192.0.2.81", 0)] {
            let asks = Some((ip.parse().unwrap(), Some("192.0.2.5".parse().unwrap())));
            for (index, (link, _)) in lan.links.iter_mut().enumerate() {
                let mut out = Frames::new();
                link.hear(&Heard { mac: client, claims: None, asks }, Now(lan.now), &mut out);
                assert_eq!(out.len(), if index == holder { answers } else { 0 });
            }
        }
    }

    #[test]
    fn many_addresses_stay_within_the_rate() {
        let many: Vec<String> = (0..2000).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
        let mut lan = Lan::new(2, &many.iter().map(String::as_str).collect::<Vec<_>>());
        lan.run(5000);
        let before = lan.frames;
        lan.run(10_000);
        // Held ones are told of, and asked for by the other, which is answered.
        assert!(lan.frames - before < 40_000, "{} frames in ten seconds", lan.frames - before);
    }
}
