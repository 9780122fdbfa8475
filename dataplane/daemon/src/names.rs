//! What is learned of names: lessons come from the workers, addresses get their identities, and answers may go.
//!
//! Control says beforehand which identities stand for the addresses of names (for each set of patterns, in the place of
//! each prefix), so that an answer needs nobody else: what it teaches is published at once, also while control is away. A
//! set of patterns that nobody has met yet is asked of control; until it answers the address has an identity of fewer
//! patterns, and the answers that need more wait, not for ever. Who does all this, and when, is said in [`desk`].

pub mod book;
pub mod desk;
mod index;
pub mod store;
pub mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_core::dns::Name;
use sluice_core::tables::record::{Change, IdentitySlot, Named, PatternId, Prefix};
use sluice_core::time::Now;
use sluice_core::verdict::WorkerId;
use sluice_feed::message::WantedSet;
use sluice_run::answers::{Lesson, Release};

use book::{Book, MOST_PAIRS, Shown};
use index::{Index, host};

/// Answers that wait for control, at most.
const MOST_WAITING: usize = 4096;
/// Sets of patterns that control was asked for and has not told yet.
const MOST_WANTED: usize = 4096;
/// Pairs that end, a turn.
const EXPIRE_A_TURN: usize = 512;
/// Names told at a time.
const PIECE: usize = 256;

#[derive(Debug)]
struct Waiting {
    worker: WorkerId,
    ticket: u64,
    patterns: Box<[PatternId]>,
    addresses: Vec<IpAddr>,
    since: Now,
}

/// Its addresses are known to whoever sees this version.
#[derive(Debug)]
struct Known {
    version: u64,
    worker: WorkerId,
    ticket: u64,
}

#[derive(Debug, Default)]
pub struct Learning {
    pub book: Book,
    index: Index,
    /// What was published of addresses.
    learned: HashMap<IpAddr, IdentitySlot>,
    touched: BTreeSet<IpAddr>,
    /// Addresses that are to be told again even if they seem to be what they were.
    forced: BTreeSet<IpAddr>,
    failed: BTreeSet<IpAddr>,
    /// Control has spoken.
    told: bool,
    wanted: BTreeMap<Named, BTreeSet<IpAddr>>,
    /// Not asked of control yet.
    to_ask: Vec<WantedSet>,
    /// What these teach may not be published yet.
    heard: Vec<Waiting>,
    /// What these wait for is for control to say.
    waiting: VecDeque<Waiting>,
    /// The earliest version first.
    known: VecDeque<Known>,
    /// Addresses of an answer whose last piece has not come, by worker.
    pieces: HashMap<WorkerId, Vec<IpAddr>>,
    pub lost: u64,
}

impl Learning {
    /// What a worker learned. Whoever waits for it may go when that is live: see [`Self::published`].
    pub fn hear(&mut self, worker: WorkerId, lesson: &Lesson, now: Now) {
        let index = &self.index;
        for pair in &lesson.addresses {
            self.book.learn(&lesson.name, |name| index.asking(name), *pair, now, &mut self.touched);
        }
        let addresses = lesson.addresses.iter().map(|(ip, _)| *ip);
        self.pieces.entry(worker).or_default().extend(addresses);
        if lesson.more {
            return;
        }
        let addresses = self.pieces.remove(&worker).unwrap_or_default();
        if let Some(ticket) = lesson.ticket {
            let patterns = index.asking(&lesson.name);
            self.heard.push(Waiting { worker, ticket, patterns, addresses, since: now });
        }
    }

    /// A name from before.
    pub fn remember(&mut self, (name, ip, holds): &(Name, IpAddr, u32), now: Now) {
        let index = &self.index;
        self.book.learn(name, |name| index.asking(name), (*ip, *holds), now, &mut self.touched);
    }

    /// These could not be published: they are to be tried again with what control says next.
    pub fn unpublished(&mut self, changes: &[Change]) {
        let addresses = changes.iter().filter_map(|change| {
            if let Change::Learned(prefix, _) = change { Some(prefix.addr) } else { None }
        });
        self.failed.extend(addresses);
    }

    /// What control said last was refused: this is what holds.
    pub fn start_over(&mut self, told: &[Change]) {
        self.index = Index::default();
        self.failed.extend(self.learned.keys());
        self.take(told);
    }

    /// What control says: addresses may need other identities.
    pub fn take(&mut self, changes: &[Change]) {
        self.told = true;
        let meaning = self.index.take(changes);
        self.forced.append(&mut self.failed);
        for change in changes {
            if let Change::Settings(settings) = change {
                self.book.limits = settings.dns;
            }
        }
        for prefix in meaning.prefixes {
            if prefix == host(prefix.addr) {
                self.forced.insert(prefix.addr);
                continue;
            }
            let inside = self.book.addresses_from(prefix.addr);
            self.touched.extend(inside.take_while(|ip| index::is_within(*ip, prefix)));
        }
        if meaning.patterns {
            let index = &self.index;
            self.book.match_again(|name| index.asking(name), &mut self.touched);
        }
        for named in meaning.came {
            self.touched.extend(self.wanted.remove(&named).into_iter().flatten());
        }
        if !meaning.went.is_empty() {
            let stands = self.learned.iter().filter(|(_, slot)| meaning.went.contains(*slot));
            self.touched.extend(stands.map(|(ip, _)| *ip));
        }
        if meaning.all || meaning.patterns {
            self.wanted.clear();
            self.touched.extend(self.learned.keys());
            let first = IpAddr::from([0, 0, 0, 0]);
            self.touched.extend(self.book.addresses_from(first));
        }
    }

    /// Let time pass, a bounded step.
    pub fn turn(&mut self, now: Now) {
        // Before control has spoken nobody knows which names are asked for.
        if self.told {
            self.book.expire(now, EXPIRE_A_TURN, &mut self.touched);
        }
    }

    /// Nobody needs these any more.
    pub fn forget(&mut self, ip: IpAddr) {
        self.book.forget(ip, &mut self.touched);
    }

    /// What must be published for what was learned, heard and forgotten since.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let forced = std::mem::take(&mut self.forced);
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(&forced);
        for ip in touched {
            let before = self.learned.get(&ip).copied();
            let own = self.own(ip, before);
            match own {
                Some(slot) => self.learned.insert(ip, slot),
                None => self.learned.remove(&ip),
            };
            let unknown = before.is_none() && own.is_none();
            if !unknown && (before != own || forced.contains(&ip)) {
                changes.push(Change::Learned(host(ip), own.or_else(|| self.index.told(ip))));
            }
        }
        changes
    }

    /// The identity of an address by its names; nothing where it has none, or keeps its own.
    fn own(&mut self, ip: IpAddr, before: Option<IdentitySlot>) -> Option<IdentitySlot> {
        let patterns = self.book.patterns_of(ip);
        let (prefix, base) = self.index.base(ip).filter(|(_, base)| self.index.is_world(*base))?;
        if patterns.is_empty() {
            return None;
        }
        let named = Named { base, patterns };
        if let Some(slot) = self.index.slot(&named) {
            return Some(slot);
        }
        self.want(ip, prefix, &named);
        // Fewer patterns allow less. Those that it had before are the best there are.
        let fits = |slot: &IdentitySlot| {
            let own = self.index.named(*slot);
            own.is_some_and(|own| {
                own.base == base && own.patterns.iter().all(|id| named.patterns.contains(id))
            })
        };
        let single = |id: &PatternId| self.index.slot(&Named { base, patterns: vec![*id] });
        before.filter(fits).or_else(|| named.patterns.iter().find_map(single))
    }

    fn want(&mut self, ip: IpAddr, prefix: Prefix, named: &Named) {
        if let Some(addresses) = self.wanted.get_mut(named) {
            addresses.insert(ip);
        } else if self.wanted.len() < MOST_WANTED {
            self.wanted.insert(named.clone(), BTreeSet::from([ip]));
            self.to_ask.push((prefix, self.texts(&named.patterns)));
        }
    }

    fn texts(&self, patterns: &[PatternId]) -> Vec<String> {
        patterns.iter().map(|id| self.index.text(*id)).collect()
    }

    /// Sets that control is to be asked for now.
    pub fn questions(&mut self) -> Vec<WantedSet> {
        std::mem::take(&mut self.to_ask)
    }

    /// All sets of several patterns, or in the place of something, that the names from this place on need: for a control
    /// process that has just come. Where to go on, if there are more.
    pub fn all_wanted(&self, place: usize, sets: &mut BTreeSet<WantedSet>) -> Option<usize> {
        let mut next = None;
        for (place, _, _, addresses) in self.book.names_from(place).take(PIECE) {
            next = Some(place);
            for Shown { ip, .. } in addresses {
                let patterns = self.book.patterns_of(ip);
                if let Some((prefix, base)) = self.index.base(ip).filter(|_| !patterns.is_empty())
                    && self.index.is_world(base)
                    && (patterns.len() > 1 || prefix.len > 0)
                    && sets.len() < MOST_WANTED
                {
                    sets.insert((prefix, self.texts(&patterns)));
                }
            }
        }
        next
    }

    /// Is there anything to publish, or to be said of answers that were just heard?
    pub fn has_news(&self) -> bool {
        !(self.touched.is_empty() && self.forced.is_empty() && self.heard.is_empty())
    }

    /// All that was learned is published, in this version: some of those that wait need no more.
    pub fn published(&mut self, version: u64) {
        for heard in std::mem::take(&mut self.heard) {
            self.look_at(heard, version);
        }
    }

    /// As [`Self::published`], of what control said: those that wait for its word may have it.
    pub fn told_more(&mut self, version: u64) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.look_at(waiting, version);
        }
        self.published(version);
    }

    fn look_at(&mut self, waiting: Waiting, version: u64) {
        if waiting.addresses.iter().all(|ip| self.is_known(*ip, &waiting.patterns)) {
            let Waiting { worker, ticket, .. } = waiting;
            self.known.push_back(Known { version, worker, ticket });
        } else {
            self.waiting.push_back(waiting);
        }
    }

    /// The version that the next answer waits for.
    pub fn awaited(&self) -> Option<u64> {
        self.known.front().map(|known| known.version)
    }

    /// The next answer that may go. `seen`: do all workers see this version?
    pub fn release(&mut self, seen: impl Fn(u64) -> bool) -> Option<(WorkerId, Release)> {
        let Known { worker, ticket, .. } = self.known.pop_front_if(|known| seen(known.version))?;
        Some((worker, Release { ticket, known: true }))
    }

    /// The next answer that has waited for control for too long, or for which there is no room.
    pub fn give_up(&mut self, now: Now) -> Option<(WorkerId, Release)> {
        let most = u64::from(self.book.limits.max_delay) * (Now::SECOND / 1000);
        let crowded = self.waiting.len() > MOST_WAITING;
        let late = |waiting: &mut Waiting| crowded || now.0.saturating_sub(waiting.since.0) > most;
        let Waiting { worker, ticket, .. } = self.waiting.pop_front_if(late)?;
        self.lost += 1;
        Some((worker, Release { ticket, known: false }))
    }

    /// Does the address have an identity of all these patterns, or one that names do not touch?
    fn is_known(&self, ip: IpAddr, patterns: &[PatternId]) -> bool {
        if self.failed.contains(&ip) {
            return false;
        }
        match self.learned.get(&ip).and_then(|slot| self.index.named(*slot)) {
            Some(named) => patterns.iter().all(|id| named.patterns.contains(id)),
            None => {
                patterns.is_empty() || self.index.base(ip).is_none_or(|(_, base)| !self.index.is_world(base))
            }
        }
    }

    /// For `sluice names`: the names from this place on, and where to go on if there are more.
    pub fn show(&self, now: Now, place: usize, names: &mut Vec<Value>) -> Option<usize> {
        let mut next = None;
        for (place, name, patterns, addresses) in self.book.names_from(place).take(PIECE) {
            next = Some(place);
            let left = |until: u64| until.saturating_sub(now.0) / Now::SECOND;
            let pairs: Vec<Shown> = addresses.collect();
            let entries = pairs.iter().map(|pair| {
                json!({"ip": pair.ip, "expires_in_seconds": left(pair.until), "lingers": pair.lingers})
            });
            names.push(json!({
                "name": name.to_string(),
                "selectors": self.texts(patterns),
                "addresses": pairs.iter().map(|pair| pair.ip).collect::<Vec<_>>(),
                "expires_in_seconds": pairs.iter().map(|pair| left(pair.until)).max(),
                "entries": entries.collect::<Vec<_>>(),
            }));
        }
        next
    }

    pub fn status(&self) -> Value {
        let (names, addresses, lingering) = self.book.counts();
        json!({
            "names": names,
            "addresses": addresses,
            "pairs": self.book.pairs(),
            "pairs_max": MOST_PAIRS,
            "lingering": lingering,
            "allowed": self.learned.len(),
            "evicted": self.book.evicted,
            "waiting_for_control": self.waiting.len(),
            "lost": self.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrayvec::ArrayVec;
    use sluice_core::tables::record::{Identity, Pattern, Settings};

    const WORLD: IdentitySlot = IdentitySlot(1);
    const POD: IdentitySlot = IdentitySlot(2);

    struct Lab(Learning, Now);

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    fn named(slot: u32, base: IdentitySlot, patterns: &[u32]) -> [Change; 2] {
        let patterns = patterns.iter().map(|id| PatternId(*id)).collect();
        let identity = Identity { number: slot, world: true, ..Identity::default() };
        [
            Change::Identity(IdentitySlot(slot), Some(identity)),
            Change::Named(IdentitySlot(slot), Some(Named { base, patterns })),
        ]
    }

    impl Lab {
        /// Patterns 1 (`*.a.io`) and 2 (`x.*.io`), each with an identity in the place of the world, and a pod.
        fn new() -> Self {
            let pattern = |text: &str| Some(Pattern { text: text.to_owned(), selects: true });
            let world = Identity { number: 9, world: true, ..Identity::default() };
            let everything = Prefix { addr: IpAddr::from([0, 0, 0, 0]), len: 0 };
            let mut changes = vec![
                Change::Settings(Settings::default()),
                Change::Identity(WORLD, Some(world)),
                Change::Identity(POD, Some(Identity { number: 500, ..Identity::default() })),
                Change::Address(everything, Some(WORLD)),
                Change::Address(host(ip(200)), Some(POD)),
                Change::Pattern(PatternId(1), pattern("*.a.io.")),
                Change::Pattern(PatternId(2), pattern("x.*.io.")),
            ];
            changes.extend(named(11, WORLD, &[1]));
            changes.extend(named(12, WORLD, &[2]));
            let mut lab = Self(Learning::default(), Now(Now::SECOND));
            lab.0.take(&changes);
            assert!(lab.0.changes().is_empty());
            lab
        }

        /// An answer; what is to be published for it.
        fn answer(&mut self, ticket: u64, name: &str, n: u8) -> Vec<Change> {
            let mut addresses = ArrayVec::new();
            addresses.push((ip(n), 60));
            let name = Name::parse(name).unwrap();
            self.0.hear(WorkerId(0), &Lesson { ticket: Some(ticket), more: false, name, addresses }, self.1);
            self.0.changes()
        }

        fn released(&mut self) -> Vec<(u64, bool)> {
            self.0.told_more(1);
            let mut released = Vec::new();
            released.extend(std::iter::from_fn(|| self.0.release(|version| version == 1)));
            released.extend(std::iter::from_fn(|| self.0.give_up(self.1)));
            released.iter().map(|(_, release)| (release.ticket, release.known)).collect()
        }

        fn later(&mut self, milliseconds: u64) {
            self.1 = Now(self.1.0 + milliseconds * 1_000_000);
        }
    }

    fn learned(n: u8, slot: u32) -> Change {
        Change::Learned(host(ip(n)), Some(IdentitySlot(slot)))
    }

    #[test]
    fn an_answer_needs_nobody_where_its_patterns_have_an_identity() {
        let mut lab = Lab::new();
        assert_eq!(lab.answer(1, "www.a.io", 1), [learned(1, 11)]);
        assert_eq!(lab.released(), [(1, true)]);
        assert_eq!(lab.answer(2, "www.a.io", 1), [], "the same again changes nothing");
        assert_eq!(lab.released(), [(2, true)]);
        assert!(lab.0.questions().is_empty());
    }

    #[test]
    fn a_set_that_nobody_met_is_asked_of_control_and_waited_for() {
        let mut lab = Lab::new();
        assert_eq!(lab.answer(1, "x.a.io", 1), [learned(1, 11)], "fewer patterns until then");
        assert_eq!(lab.released(), []);
        let everything = Prefix { addr: IpAddr::from([0, 0, 0, 0]), len: 0 };
        let set = (everything, vec!["*.a.io.".to_owned(), "x.*.io.".to_owned()]);
        assert_eq!(lab.0.questions(), std::slice::from_ref(&set));
        assert_eq!(lab.answer(2, "x.a.io", 1), []);
        assert!(lab.0.questions().is_empty(), "asked once");
        assert_eq!(lab.0.wanted.len(), 1);
        lab.0.take(&named(13, WORLD, &[1, 2]));
        assert_eq!(lab.0.changes(), [learned(1, 13)]);
        assert_eq!(lab.released(), [(1, true), (2, true)]);
        let mut sets = BTreeSet::new();
        assert_eq!(lab.0.all_wanted(0, &mut sets).and_then(|place| lab.0.all_wanted(place, &mut sets)), None);
        assert!(sets.iter().eq([&set]) && lab.0.wanted.is_empty());
        // Control had no room for it: it is asked for again.
        lab.0.take(&[Change::Named(IdentitySlot(13), None), Change::Identity(IdentitySlot(13), None)]);
        assert_eq!(lab.0.changes(), [learned(1, 11)]);
        assert_eq!(lab.0.questions(), [set]);
    }

    #[test]
    fn answers_go_in_turn_when_everybody_sees_what_they_need() {
        let mut lab = Lab::new();
        lab.answer(1, "www.a.io", 1);
        lab.0.published(5);
        lab.answer(2, "www.a.io", 2);
        assert!(lab.0.has_news());
        lab.0.published(6);
        assert!(!lab.0.has_news());
        assert_eq!((lab.0.awaited(), lab.0.release(|seen| seen <= 4)), (Some(5), None));
        assert_eq!(lab.0.release(|seen| seen <= 5).map(|(_, release)| release.ticket), Some(1));
        assert_eq!((lab.0.awaited(), lab.0.release(|seen| seen <= 5)), (Some(6), None));
        // What could not be published is not known, whatever was meant.
        let refused = lab.answer(3, "www.a.io", 3);
        lab.0.unpublished(&refused);
        lab.0.published(6);
        assert_eq!(lab.0.release(|_| true).map(|(_, release)| release.ticket), Some(2));
        assert_eq!(lab.0.release(|_| true), None);
    }

    #[test]
    fn what_control_never_says_is_not_waited_for_for_ever() {
        let mut lab = Lab::new();
        lab.answer(1, "x.a.io", 1);
        lab.later(99);
        assert_eq!(lab.released(), []);
        lab.later(2);
        assert_eq!(lab.released(), [(1, false)]);
        assert_eq!(lab.0.lost, 1);
        // Other names of the address go on.
        lab.answer(2, "www.a.io", 1);
        assert_eq!(lab.released(), [(2, true)]);
    }

    #[test]
    fn pods_keep_their_own_identity_and_give_it_back() {
        let mut lab = Lab::new();
        assert_eq!(lab.answer(1, "www.a.io", 200), []);
        assert_eq!(lab.released(), [(1, true)]);
        // The pod goes: its address is the name's. It comes back: it is the pod's again.
        lab.0.take(&[Change::Address(host(ip(200)), None)]);
        assert_eq!(lab.0.changes(), [learned(200, 11)]);
        lab.0.take(&[Change::Address(host(ip(200)), Some(POD))]);
        assert_eq!(lab.0.changes(), [learned(200, POD.0)]);
    }

    #[test]
    fn a_prefix_that_rules_name_is_another_place() {
        let mut lab = Lab::new();
        lab.answer(1, "www.a.io", 1);
        let net = Prefix { addr: IpAddr::from([198, 51, 100, 0]), len: 24 };
        let cidr = Identity { number: 20, world: true, ..Identity::default() };
        lab.0.take(&[
            Change::Identity(IdentitySlot(20), Some(cidr)),
            Change::Address(net, Some(IdentitySlot(20))),
        ]);
        assert_eq!(lab.0.changes(), [Change::Learned(host(ip(1)), None)]);
        assert_eq!(lab.0.questions(), [(net, vec!["*.a.io.".to_owned()])]);
        lab.0.take(&named(21, IdentitySlot(20), &[1]));
        assert_eq!(lab.0.changes(), [learned(1, 21)]);
    }

    #[test]
    fn a_pattern_that_goes_takes_its_names_along() {
        let mut lab = Lab::new();
        lab.answer(1, "www.a.io", 1);
        lab.answer(2, "x.b.io", 2);
        let gone = [
            Change::Pattern(PatternId(1), None),
            Change::Named(IdentitySlot(11), None),
            Change::Identity(IdentitySlot(11), None),
        ];
        lab.0.take(&gone);
        assert_eq!(lab.0.changes(), [Change::Learned(host(ip(1)), None)]);
        // The last process's names are known before control speaks, and count when it does.
        let mut next = Learning::default();
        next.remember(&(Name::parse("x.b.io").unwrap(), ip(2), 0), Now(Now::SECOND));
        next.turn(Now(9 * Now::SECOND));
        assert_eq!(next.book.counts(), (1, 1, 0));
    }
}
