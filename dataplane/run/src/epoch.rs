//! Generations change hands here: the publisher changes a copy that no worker sees, swaps it in, and later makes the same
//! changes to the other copy. A worker looks for a new one at the burst boundary, for the price of one atomic load.
//!
//! Maglev rows are dear. Where a change asks for many, it goes live without them, and they follow in the same way: those that
//! flows wait for first and at once, all others in idle time, many together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_core::intrinsics::Seed;
use sluice_core::tables::record::{Change, ServiceId};
use sluice_core::tables::service::{Bare, Row};
use sluice_core::tables::{ApplyError, Tables};

/// A worker that sleeps holds no generation and need not be waited for.
const PARKED: u64 = u64::MAX;
/// Rows that nobody waits for, before anything else is looked at.
const ROWS_A_TURN: usize = 4;
/// Such rows that are published together: each time costs every worker a look, and the other copy a catching up.
const ROWS_TOGETHER: usize = 512;
/// How long the publisher waits for workers to let go of the older copy before it makes a new one.
const PATIENCE: Duration = Duration::from_millis(500);
/// Changes that take microseconds.
const LITTLE: usize = 128;

#[derive(Debug)]
struct Shared {
    version: AtomicU64,
    current: Mutex<Arc<Tables>>,
}

/// A worker's view.
#[derive(Debug)]
pub struct Subscriber {
    shared: Arc<Shared>,
    seen: Arc<AtomicU64>,
    version: u64,
    /// The version that [`Self::refresh`] gave last.
    told: u64,
    tables: Option<Arc<Tables>>,
}

impl Subscriber {
    /// The current generation, and whether it is another than last time (waking up alone changes nothing).
    #[inline]
    pub fn refresh(&mut self) -> (&Tables, bool) {
        if self.tables.is_none() || self.shared.version.load(Ordering::Acquire) != self.version {
            self.take();
        }
        let changed = self.version != self.told;
        self.told = self.version;
        // `take` has just filled it if it was empty.
        (self.tables.get_or_insert_with(Arc::default), changed)
    }

    /// The same generation as [`Self::refresh`] gave last: what is done in one turn is done by one, and that there is another is
    /// heard at the next turn.
    #[inline]
    pub fn view(&mut self) -> &Tables {
        if self.tables.is_none() {
            self.take();
        }
        self.tables.get_or_insert_with(Arc::default)
    }

    #[cold]
    fn take(&mut self) {
        let current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.tables = Some(Arc::clone(&current));
        self.version = self.shared.version.load(Ordering::Acquire);
        // Told while the lock is held, so that the publisher never takes an old value for agreement.
        self.seen.store(self.version, Ordering::Release);
    }

    /// Let go of the generation before sleeping.
    pub fn park(&mut self) {
        self.tables = None;
        self.seen.store(PARKED, Ordering::Release);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.park();
    }
}

/// What each worker sees: for those that wait for it without holding up the publisher.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<Arc<AtomicU64>>);

impl Seen {
    /// Do all workers see this version, or a later one?
    pub fn by_all(&self, version: u64) -> bool {
        self.0.iter().all(|seen| seen.load(Ordering::Acquire) >= version)
    }

    /// Wait until all workers see this version. False: not within the time.
    #[expect(clippy::disallowed_methods, reason = "waits for other threads in real time")]
    pub fn wait(&self, version: u64, most: Duration) -> bool {
        let asked = Instant::now();
        while !self.by_all(version) {
            if asked.elapsed() > most {
                return false;
            }
            pause(asked.elapsed());
        }
        true
    }
}

/// Makes generations.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    seen: Seen,
    standby: Arc<Tables>,
    /// What the standby copy lacks: changes, and then rows.
    backlog: (Vec<Change>, Vec<Row>),
    /// Rows that are built and not published yet.
    built: Vec<Row>,
    /// Of the services without a row those from here on have none among `built`.
    next: ServiceId,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::keyed(Seed::default())
    }
}

impl Publisher {
    pub fn keyed(seed: Seed) -> Self {
        let [current, standby] = [(); 2].map(|()| Arc::new(Tables::keyed(seed)));
        Self {
            shared: Arc::new(Shared { version: AtomicU64::new(0), current: Mutex::new(current) }),
            seen: Seen::default(),
            standby,
            backlog: (Vec::new(), Vec::new()),
            built: Vec::new(),
            next: ServiceId(0),
        }
    }

    pub fn subscribe(&mut self) -> Subscriber {
        let seen = Arc::new(AtomicU64::new(PARKED));
        self.seen.0.push(Arc::clone(&seen));
        Subscriber { shared: Arc::clone(&self.shared), seen, version: 0, told: 0, tables: None }
    }

    /// Publish the current generation with these changes, or change nothing and say why. Returns its version.
    pub fn publish(&mut self, changes: Vec<Change>) -> Result<u64, ApplyError> {
        self.catch_up()?;
        self.standby().apply_soon(&changes)?;
        self.backlog.0 = changes;
        Ok(self.show())
    }

    /// Swap the copies.
    fn show(&mut self) -> u64 {
        let version = self.version() + 1;
        let mut shown = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *shown, &mut self.standby);
        self.shared.version.store(version, Ordering::Release);
        version
    }

    /// Bring the standby copy up to date now, if no worker holds it, so that the next publish does not have to.
    pub fn settle(&mut self) {
        let behind = !self.backlog.0.is_empty() || !self.backlog.1.is_empty();
        if behind && Arc::strong_count(&self.standby) == 1 {
            // Cannot fail: these very changes were made to the other copy.
            let _ = self.catch_up();
        }
    }

    fn catch_up(&mut self) -> Result<(), ApplyError> {
        let current = self.current();
        let (changes, rows) = std::mem::take(&mut self.backlog);
        let standby = self.standby();
        standby.apply(&changes, Some(&current))?;
        rows.iter().for_each(|row| standby.services.put_row(row));
        Ok(())
    }

    /// Rows to be built: those of the services that are asked for (true), or if there are none some that nobody waits for.
    /// They may be built with no hold on the publisher; then [`Self::take_rows`] takes them.
    pub fn rows_to_build(&mut self, asked: impl IntoIterator<Item = ServiceId>) -> (Vec<Bare>, bool) {
        let current = self.current();
        let services = &current.services;
        let wanted: Vec<Bare> = asked.into_iter().filter_map(|id| services.bare(id)).collect();
        if !wanted.is_empty() {
            return (wanted, true);
        }
        // What is built waits until the last worker has let go of the older copy, and does not pile up meanwhile.
        let most = if self.built.len() < ROWS_TOGETHER { ROWS_A_TURN } else { 0 };
        let some: Vec<ServiceId> = services.bare_from(self.next).take(most).collect();
        if let Some(last) = some.last() {
            self.next = ServiceId(last.0.saturating_add(1));
        }
        (some.into_iter().filter_map(|id| services.bare(id)).collect(), false)
    }

    /// Take rows that were built. They are published at once if somebody waits for them (`asked`); else when there are many
    /// or no more are to be built, and no worker is to be waited for.
    pub fn take_rows(&mut self, rows: Vec<Row>, asked: bool) -> Option<u64> {
        self.built.extend(rows);
        let at_end = self.current().services.bare_from(self.next).next().is_none();
        let enough = at_end || self.built.len() >= ROWS_TOGETHER;
        let due = asked || enough && Arc::strong_count(&self.standby) == 1;
        if at_end && (due || self.built.is_empty()) {
            // Some before this one may have lost theirs meanwhile.
            self.next = ServiceId(0);
        }
        if self.built.is_empty() || !due {
            return None;
        }
        self.catch_up().ok()?;
        let rows = std::mem::take(&mut self.built);
        let standby = self.standby();
        rows.iter().for_each(|row| standby.services.put_row(row));
        self.backlog.1 = rows;
        Some(self.show())
    }

    /// Is there anything to be done for rows that nobody asks for: any to be built, or to be published without a wait?
    pub fn has_rows_to_build(&self) -> bool {
        let current = self.current();
        let more = || current.services.bare_from(self.next).next().is_some();
        let free = || Arc::strong_count(&self.standby) == 1;
        current.services.rows_pending() > 0 && (free() || (self.built.len() < ROWS_TOGETHER && more()))
    }

    /// Rows that workers do not see yet.
    pub fn rows_pending(&self) -> usize {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).services.rows_pending()
    }

    pub fn current(&self) -> Arc<Tables> {
        Arc::clone(&self.shared.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The copy that no worker sees, once the last one has let go of it.
    #[expect(clippy::disallowed_methods, reason = "waits for other threads in real time")]
    fn standby(&mut self) -> &mut Tables {
        let asked = Instant::now();
        while Arc::strong_count(&self.standby) > 1 && asked.elapsed() < PATIENCE {
            pause(asked.elapsed());
        }
        // A worker that is stuck costs a copy, not a wait.
        Arc::make_mut(&mut self.standby)
    }

    /// The latest version.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Could [`Self::publish`] be done now without waiting, and with little to catch up with?
    pub fn is_at_hand(&self) -> bool {
        self.backlog.0.len() <= LITTLE && self.backlog.1.is_empty() && Arc::strong_count(&self.standby) == 1
    }
}

/// Workers answer within microseconds, or not for a while: a sleep takes as long as its timer's slack, which is more.
fn pause(waited: Duration) {
    if waited < Duration::from_micros(50) {
        std::hint::spin_loop();
    } else {
        std::thread::sleep(Duration::from_micros(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::packet::PortId;
    use sluice_core::tables::record::{Port, Prefix, Route};

    fn change(n: u16) -> Vec<Change> {
        vec![
            Change::Port(PortId(n % 8), Some(Port { mtu: n, ..Port::default() })),
            Change::Port(PortId(8), Some(Port { mtu: n, ..Port::default() })),
        ]
    }

    #[test]
    fn every_view_is_whole_and_the_copies_stay_equal() {
        let mut publisher = Publisher::default();
        let mut readers: Vec<_> = (0..2)
            .map(|_| {
                let mut view = publisher.subscribe();
                std::thread::spawn(move || {
                    let mut last = 0;
                    while last < 500 {
                        let (tables, _) = view.refresh();
                        let mtu = |port| tables.routing.port(PortId(port)).map_or(0, |port| port.mtu);
                        let latest = mtu(8);
                        assert!(latest >= last, "went back from {last} to {latest}");
                        if latest > 0 {
                            assert_eq!(mtu(latest % 8), latest, "saw half a change");
                        }
                        last = latest;
                    }
                })
            })
            .collect();
        for n in 1..=500 {
            publisher.publish(change(n)).unwrap();
        }
        readers.drain(..).for_each(|reader| reader.join().unwrap());
    }

    #[test]
    fn a_refused_list_changes_nothing() {
        let mut publisher = Publisher::default();
        let mut view = publisher.subscribe();
        publisher.publish(change(1)).unwrap();
        let bad = Prefix { addr: "10.0.0.0".parse().unwrap(), len: 99 };
        let mut list = change(2);
        list.push(Change::Route(bad, Some(Route::Blackhole)));
        assert!(publisher.publish(list).is_err());
        assert_eq!(view.refresh().0.routing.port(PortId(8)).unwrap().mtu, 1);
        let version = publisher.publish(change(3)).unwrap();
        assert!(!publisher.seen().by_all(version));
        assert_eq!(view.refresh().0.routing.port(PortId(1)).unwrap().mtu, 1, "earlier changes are kept");
        assert!(publisher.seen().wait(version, Duration::from_millis(1)));
    }

    #[test]
    fn what_is_published_in_the_middle_of_a_turn_is_news_to_the_next() {
        let mut publisher = Publisher::default();
        let mut view = publisher.subscribe();
        publisher.publish(change(1)).unwrap();
        assert!(view.refresh().1);
        publisher.publish(change(2)).unwrap();
        let mtu = |tables: &Tables| tables.routing.port(PortId(8)).unwrap().mtu;
        assert_eq!(mtu(view.view()), 1);
        let (tables, changed) = view.refresh();
        assert!(changed && mtu(tables) == 2);
        assert!(!view.refresh().1);
    }

    #[test]
    fn sleepers_are_not_waited_for() {
        let mut publisher = Publisher::default();
        let mut view = publisher.subscribe();
        view.refresh();
        view.park();
        let version = publisher.publish(change(1)).unwrap();
        assert!(publisher.seen().by_all(version));
        assert!(view.view().routing.port(PortId(8)).is_some());
        let (tables, changed) = view.refresh();
        assert!(changed && tables.routing.port(PortId(8)).unwrap().mtu == 1);
        view.park();
        assert!(!view.refresh().1, "waking up is no change");
    }

    #[test]
    fn who_has_caught_up_can_publish_at_once() {
        let mut publisher = Publisher::default();
        let mut view = publisher.subscribe();
        view.refresh();
        publisher.publish(change(1)).unwrap();
        assert!(!publisher.is_at_hand(), "a worker still looks at the older copy");
        publisher.settle();
        view.refresh();
        assert!(publisher.is_at_hand());
        let many = (0..200).map(|_| change(2)).collect::<Vec<_>>().concat();
        publisher.publish(many).unwrap();
        view.refresh();
        assert!(!publisher.is_at_hand(), "much to catch up with");
        publisher.settle();
        assert!(publisher.is_at_hand());
        publisher.publish(change(3)).unwrap();
        assert_eq!(view.refresh().0.routing.port(PortId(2)).unwrap().mtu, 2, "nothing was forgotten");
    }
}
