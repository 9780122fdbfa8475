//! Which addresses names have, and until when: learned with a time to live, kept while flows live on them, and bounded.
//!
//! A pair of name and address is *live* until its time is over. Then it *lingers*: it still counts, until nobody has seen
//! a flow to the address for a while ([`Book::idle`], [`Book::forget`]). Knows no identities, no clock and no files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use sluice_core::dns::Name;
use sluice_core::tables::record::{DnsSettings, PatternId};
use sluice_core::time::Now;

/// Pairs in all. Beyond this those that nobody asks for go first, then those that linger, then those that would end first.
pub const MOST_PAIRS: usize = 1 << 18;
/// A pair lingers at least this long: an answer that holds for no time at all is still to be used once.
const LINGER: u64 = 5 * Now::SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    until: u64,
    lingers: bool,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    /// Patterns that ask for its addresses and fit. Sorted.
    patterns: Box<[PatternId]>,
    addresses: BTreeMap<IpAddr, Pair>,
    /// Its live pairs, those that end first at the front.
    ending: BTreeSet<(u64, IpAddr)>,
}

impl Entry {
    const fn is_wanted(&self) -> bool {
        !self.patterns.is_empty()
    }
}

#[derive(Debug, Default)]
pub struct Book {
    pub limits: DnsSettings,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_name: HashMap<Box<[u8]>, u32>,
    names_of: BTreeMap<IpAddr, Vec<u32>>,
    /// Live pairs, those that end first at the front: of names that nobody asks for, and of those that rules want.
    ending: [BTreeSet<(u64, u32, IpAddr)>; 2],
    /// Addresses with pairs that linger, and since when, or when a flow was last seen; and the same by time.
    lingering: BTreeMap<IpAddr, u64>,
    oldest: BTreeSet<(u64, IpAddr)>,
    pairs: usize,
    pub evicted: u64,
    /// Something is different from when this was last taken.
    pub changed: bool,
}

/// A pair as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub ip: IpAddr,
    pub until: u64,
    pub lingers: bool,
}

impl Book {
    /// A name has an address for so many seconds from now on. Addresses whose patterns may be others now are put into
    /// `touched`.
    pub fn learn(
        &mut self,
        name: &Name,
        patterns: impl FnOnce(&Name) -> Box<[PatternId]>,
        (ip, holds): (IpAddr, u32),
        now: Now,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        let holds = u64::from(holds.max(self.limits.min_ttl));
        let until = now.0 + holds * Now::SECOND;
        let id = self.entry(name, patterns);
        let Some(entry) = self.entries[id as usize].as_mut() else { return };
        match entry.addresses.get_mut(&ip) {
            Some(pair) if !pair.lingers && pair.until >= until => return,
            Some(pair) => {
                let before = std::mem::replace(pair, Pair { until, lingers: false });
                entry.ending.remove(&(before.until, ip));
                entry.ending.insert((until, ip));
                let ending = &mut self.ending[usize::from(entry.is_wanted())];
                ending.remove(&(before.until, id, ip));
                ending.insert((until, id, ip));
                if before.lingers {
                    self.lingers_no_more(ip);
                }
            }
            None => {
                entry.addresses.insert(ip, Pair { until, lingers: false });
                entry.ending.insert((until, ip));
                self.ending[usize::from(entry.is_wanted())].insert((until, id, ip));
                self.names_of.entry(ip).or_default().push(id);
                self.pairs += 1;
                touched.insert(ip);
                self.keep_bounds(id, now, touched);
            }
        }
        self.changed = true;
    }

    fn entry(&mut self, name: &Name, patterns: impl FnOnce(&Name) -> Box<[PatternId]>) -> u32 {
        if let Some(id) = self.by_name.get(name.as_bytes()) {
            return *id;
        }
        let entry = Entry {
            name: *name,
            patterns: patterns(name),
            addresses: BTreeMap::new(),
            ending: BTreeSet::new(),
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.entries.push(None);
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.entries[id as usize] = Some(entry);
        self.by_name.insert(name.as_bytes().into(), id);
        id
    }

    /// Of a name with too many addresses, those that would end first linger from now on.
    fn keep_bounds(&mut self, id: u32, now: Now, touched: &mut BTreeSet<IpAddr>) {
        let most = usize::try_from(self.limits.most_per_name).unwrap_or(usize::MAX);
        let entry = self.entries.get(id as usize).and_then(Option::as_ref);
        if let Some(entry) = entry.filter(|entry| entry.ending.len() > most)
            && let Some((until, ip)) = entry.ending.first().copied()
        {
            self.end((until, id, ip), now, touched);
            self.evicted += 1;
        }
        while self.pairs > MOST_PAIRS {
            self.evicted += 1;
            let [unwanted, wanted] = &self.ending;
            match (unwanted.first().copied(), self.oldest.first().copied(), wanted.first().copied()) {
                (None, Some((_, ip)), _) => self.forget(ip, touched),
                (Some(first), ..) | (None, None, Some(first)) => self.end(first, now, touched),
                (None, None, None) => return,
            }
        }
        let most = usize::try_from(self.limits.most_lingering).unwrap_or(usize::MAX);
        while self.lingering.len() > most
            && let Some((_, ip)) = self.oldest.first().copied()
        {
            self.evicted += 1;
            self.forget(ip, touched);
        }
    }

    /// A live pair's time is over.
    fn end(&mut self, (until, id, ip): (u64, u32, IpAddr), now: Now, touched: &mut BTreeSet<IpAddr>) {
        self.changed = true;
        for ending in &mut self.ending {
            ending.remove(&(until, id, ip));
        }
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) else { return };
        entry.ending.remove(&(until, ip));
        // What nobody asks for needs not linger.
        if !entry.is_wanted() {
            return self.drop_pair(id, ip, touched);
        }
        if let Some(pair) = entry.addresses.get_mut(&ip) {
            pair.lingers = true;
            self.lingers_since(ip, now.0);
        }
    }

    fn lingers_since(&mut self, ip: IpAddr, since: u64) {
        if let Some(before) = self.lingering.insert(ip, since) {
            self.oldest.remove(&(before, ip));
        }
        self.oldest.insert((since, ip));
    }

    /// One of its pairs is live again; perhaps others are not.
    fn lingers_no_more(&mut self, ip: IpAddr) {
        let lingers = |id: &u32| {
            let entry = self.entries.get(*id as usize).and_then(Option::as_ref);
            entry.and_then(|entry| entry.addresses.get(&ip)).is_some_and(|pair| pair.lingers)
        };
        if !self.names_of.get(&ip).into_iter().flatten().any(lingers)
            && let Some(since) = self.lingering.remove(&ip)
        {
            self.oldest.remove(&(since, ip));
        }
    }

    fn drop_pair(&mut self, id: u32, ip: IpAddr, touched: &mut BTreeSet<IpAddr>) {
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) else { return };
        if entry.addresses.remove(&ip).is_none() {
            return;
        }
        self.pairs -= 1;
        touched.insert(ip);
        if entry.addresses.is_empty() {
            self.by_name.remove(entry.name.as_bytes());
            self.entries[id as usize] = None;
            self.free.push(id);
        }
        if let Some(names) = self.names_of.get_mut(&ip) {
            names.retain(|own| *own != id);
            if names.is_empty() {
                self.names_of.remove(&ip);
            }
        }
    }

    /// Let time pass for so many pairs at most.
    pub fn expire(&mut self, now: Now, most: usize, touched: &mut BTreeSet<IpAddr>) {
        for _ in 0..most {
            let firsts = self.ending.iter().filter_map(BTreeSet::first);
            let Some(first) = firsts.min().copied().filter(|(until, ..)| *until <= now.0) else { return };
            self.end(first, now, touched);
            if self.lingering.len() > usize::try_from(self.limits.most_lingering).unwrap_or(usize::MAX) {
                self.keep_bounds(u32::MAX, now, touched);
            }
        }
    }

    /// Addresses that linger long enough to be forgotten if no flow lives on them.
    pub fn idle(&self, now: Now, most: usize) -> Vec<IpAddr> {
        let wait = LINGER + u64::from(self.limits.idle_grace) * Now::SECOND;
        let due = self.oldest.iter().take_while(|(since, _)| since + wait <= now.0);
        due.take(most).map(|(_, ip)| *ip).collect()
    }

    /// A flow to this address was seen.
    pub fn sighted(&mut self, ip: IpAddr, now: Now) {
        if self.lingering.contains_key(&ip) {
            self.lingers_since(ip, now.0);
        }
    }

    /// Nobody needs what lingers of this address.
    pub fn forget(&mut self, ip: IpAddr, touched: &mut BTreeSet<IpAddr>) {
        let Some(since) = self.lingering.remove(&ip) else { return };
        self.oldest.remove(&(since, ip));
        self.changed = true;
        for id in self.names_of.get(&ip).cloned().unwrap_or_default() {
            let entry = self.entries.get(id as usize).and_then(Option::as_ref);
            if entry.and_then(|entry| entry.addresses.get(&ip)).is_some_and(|pair| pair.lingers) {
                self.drop_pair(id, ip, touched);
            }
        }
    }

    /// The patterns that fit names of this address. Sorted.
    pub fn patterns_of(&self, ip: IpAddr) -> Vec<PatternId> {
        let names = self.names_of.get(&ip).into_iter().flatten();
        let entries = names.filter_map(|id| self.entries.get(*id as usize)?.as_ref());
        let mut all: Vec<PatternId> = entries.flat_map(|entry| entry.patterns.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The patterns are others now: ask every name.
    pub fn match_again(
        &mut self,
        patterns: impl Fn(&Name) -> Box<[PatternId]>,
        touched: &mut BTreeSet<IpAddr>,
    ) {
        for (id, entry) in (0..).zip(&mut self.entries) {
            let Some(entry) = entry else { continue };
            let now = patterns(&entry.name);
            if now == entry.patterns {
                continue;
            }
            let before = usize::from(entry.is_wanted());
            entry.patterns = now;
            touched.extend(entry.addresses.keys());
            let after = usize::from(entry.is_wanted());
            for (until, ip) in entry.ending.iter().filter(|_| before != after) {
                self.ending[before].remove(&(*until, id, *ip));
                self.ending[after].insert((*until, id, *ip));
            }
        }
    }

    /// Addresses that are known, from this one on.
    pub fn addresses_from(&self, first: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        self.names_of.range(first..).map(|(ip, _)| *ip)
    }

    /// Names in the order of their places, from this place on: the place behind each, its patterns and its addresses.
    pub fn names_from(
        &self,
        place: usize,
    ) -> impl Iterator<Item = (usize, &Name, &[PatternId], impl Iterator<Item = Shown> + '_)> + '_ {
        let places = self.entries.iter().enumerate().skip(place);
        places.filter_map(|(at, entry)| {
            let entry = entry.as_ref()?;
            let shown =
                |(ip, pair): (&IpAddr, &Pair)| Shown { ip: *ip, until: pair.until, lingers: pair.lingers };
            Some((at + 1, &entry.name, &*entry.patterns, entry.addresses.iter().map(shown)))
        })
    }

    /// Pairs of a name and an address.
    pub const fn pairs(&self) -> usize {
        self.pairs
    }

    /// Names, addresses, and addresses that linger.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.by_name.len(), self.names_of.len(), self.lingering.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now(seconds * Now::SECOND)
    }

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    struct Lab(Book, BTreeSet<IpAddr>);

    impl Lab {
        fn new(limits: DnsSettings) -> Self {
            Self(Book { limits, ..Book::default() }, BTreeSet::new())
        }

        /// Names that begin with x are wanted by pattern 1, those with y by pattern 2.
        fn learn(&mut self, name: &str, n: u8, holds: u32, now: u64) {
            let patterns = |name: &Name| match name.to_string().as_bytes()[0] {
                b'x' => Box::from([PatternId(1)]),
                b'y' => Box::from([PatternId(2)]),
                _ => Box::default(),
            };
            let name = Name::parse(name).unwrap();
            self.0.learn(&name, patterns, (ip(n), holds), at(now), &mut self.1);
        }

        fn wanted(&self, n: u8) -> Vec<u32> {
            self.0.patterns_of(ip(n)).iter().map(|id| id.0).collect()
        }

        /// As if no flow lived on anything but these.
        fn sweep(&mut self, now: u64, alive: &[u8]) {
            self.0.expire(at(now), 1000, &mut self.1);
            for idle in self.0.idle(at(now), 1000) {
                if alive.iter().any(|n| ip(*n) == idle) {
                    self.0.sighted(idle, at(now));
                } else {
                    self.0.forget(idle, &mut self.1);
                }
            }
        }
    }

    #[test]
    fn a_name_lives_as_long_as_its_time_and_then_as_its_flows() {
        let mut lab = Lab::new(DnsSettings::default());
        lab.learn("x.io", 1, 10, 100);
        lab.learn("x.io", 1, 5, 101);
        lab.sweep(109, &[]);
        assert_eq!(lab.wanted(1), [1], "an earlier end never replaces a later one");
        lab.sweep(111, &[]);
        assert_eq!(lab.wanted(1), [1], "it lingers");
        lab.sweep(117, &[1]);
        assert_eq!(lab.wanted(1), [1], "a flow lives on it");
        lab.sweep(119, &[]);
        assert_eq!(lab.wanted(1), [1], "until some time after that");
        lab.sweep(123, &[]);
        assert_eq!(lab.wanted(1), [0; 0]);
        assert_eq!(lab.0.counts(), (0, 0, 0));
        assert!(lab.0.ending.iter().all(BTreeSet::is_empty) && lab.0.oldest.is_empty());
    }

    #[test]
    fn an_answer_of_no_time_is_good_for_a_moment_and_can_come_again() {
        let limits = DnsSettings { idle_grace: 10, ..DnsSettings::default() };
        let mut lab = Lab::new(limits);
        lab.learn("x.io", 1, 0, 100);
        lab.sweep(101, &[]);
        lab.learn("x.io", 1, 1, 102);
        assert_eq!(lab.0.counts(), (1, 1, 0));
        lab.sweep(112, &[]);
        lab.sweep(119, &[]);
        assert_eq!(lab.0.counts(), (1, 1, 1), "grace");
        lab.sweep(128, &[]);
        assert_eq!(lab.0.counts(), (0, 0, 0));
    }

    #[test]
    fn shared_addresses_have_the_patterns_of_all_their_names() {
        let mut lab = Lab::new(DnsSettings::default());
        lab.learn("x.io", 1, 10, 100);
        lab.learn("y.io", 1, 50, 100);
        lab.learn("z.io", 1, 500, 100);
        assert_eq!(lab.wanted(1), [1, 2]);
        lab.sweep(111, &[]);
        lab.sweep(117, &[]);
        assert_eq!(lab.wanted(1), [2], "the first name is over");
        lab.sweep(151, &[]);
        lab.sweep(157, &[]);
        assert_eq!(lab.wanted(1), [0; 0]);
        assert_eq!(lab.0.counts(), (1, 1, 0), "what nobody asks for is known until its end, too");
        lab.sweep(601, &[]);
        assert_eq!(lab.0.counts(), (0, 0, 0));
    }

    #[test]
    fn the_addresses_of_a_name_that_end_first_make_room() {
        let limits = DnsSettings { most_per_name: 3, ..DnsSettings::default() };
        let mut lab = Lab::new(limits);
        for n in 1..=5 {
            lab.learn("x.io", n, 100 - u32::from(n), 100);
        }
        assert_eq!(lab.0.counts(), (1, 5, 2));
        assert_eq!(lab.0.evicted, 2);
        lab.sweep(106, &[5]);
        assert_eq!((lab.wanted(4), lab.wanted(5), lab.wanted(1)), (vec![], vec![1], vec![1]));
        assert_eq!(lab.0.counts(), (1, 4, 1));
    }

    #[test]
    fn a_flood_of_names_that_nobody_asks_for_drives_out_none_that_rules_want() {
        let mut lab = Lab::new(DnsSettings { most_per_name: 1 << 20, ..DnsSettings::default() });
        lab.learn("x.io", 1, 1, 100);
        let nobodys = Name::parse("flood.io").unwrap();
        for n in 0..=u32::try_from(MOST_PAIRS).unwrap() {
            let ip = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            lab.0.learn(&nobodys, |_| Box::default(), (ip, 3600), at(100), &mut lab.1);
        }
        assert_eq!((lab.0.pairs(), lab.0.evicted, lab.wanted(1)), (MOST_PAIRS, 2, vec![1]));
        // What rules begin to want is held on to, too.
        lab.0.match_again(|_| Box::from([PatternId(3)]), &mut lab.1);
        lab.learn("z.io", 2, 1, 100);
        assert_eq!((lab.0.pairs(), lab.wanted(2)), (MOST_PAIRS, vec![]));
    }

    #[test]
    fn those_that_linger_longest_make_room_for_others() {
        let limits = DnsSettings { most_lingering: 2, ..DnsSettings::default() };
        let mut lab = Lab::new(limits);
        for n in 1..=4 {
            lab.learn("x.io", n, u32::from(n), 100);
        }
        lab.sweep(110, &[]);
        assert_eq!(lab.0.counts(), (1, 2, 2));
        assert_eq!((lab.wanted(1), lab.wanted(4)), (vec![], vec![1]));
    }

    #[test]
    fn a_minimum_raises_what_is_shorter() {
        let mut lab = Lab::new(DnsSettings { min_ttl: 60, ..DnsSettings::default() });
        lab.learn("x.io", 1, 1, 100);
        lab.sweep(159, &[]);
        assert_eq!(lab.0.counts(), (1, 1, 0));
        lab.sweep(161, &[]);
        assert_eq!(lab.0.counts(), (1, 1, 1));
    }
}
