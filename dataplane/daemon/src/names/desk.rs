//! Where names are learned and generations are made: by one at a time.
//!
//! The worker that hears an answer sits down itself, if nobody else does and little is to be done: to wake another thread
//! would take longer than to learn. All else, and what a worker leaves undone, is for the one thread beside the workers,
//! which waits for its turn; workers never wait.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use mio::{Registry, Token, Waker};
use sluice_core::intrinsics::Seed;
use sluice_core::tables::Tables;
use sluice_core::tables::record::{Change, ServiceId};
use sluice_core::tables::service::Bare;
use sluice_core::time::Now;
use sluice_core::verdict::WorkerId;
use sluice_run::answers::{Classroom, Learner, Release};
use sluice_run::epoch::Publisher;

use super::Learning;

/// Lessons that a worker learns before its next burst.
const LESSONS_A_BURST: usize = 4;
/// Rows that flows wait for are published when so many of them are built.
const ROWS_AT_ONCE: usize = 16;

pub struct Desk {
    work: Mutex<Work>,
    bell: Waker,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.work).finish()
    }
}

/// What lies on it.
#[derive(Debug, Default)]
pub struct Work {
    pub publisher: Publisher,
    pub learning: Learning,
    /// By worker.
    pub classrooms: Vec<Classroom>,
}

impl Desk {
    /// Whoever polls hears by this token that workers have left something undone.
    pub fn new(registry: &Registry, token: Token, seed: Seed) -> io::Result<Self> {
        let work = Work { publisher: Publisher::keyed(seed), ..Work::default() };
        Ok(Self { work: Mutex::new(work), bell: Waker::new(registry, token)? })
    }

    /// Wait until nobody else sits here: workers soon go.
    pub fn sit(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn tables(&self) -> Arc<Tables> {
        self.sit().publisher.current()
    }

    /// Build the rows that flows wait for, or some of those that nobody waits for. Nobody sits here while they are built.
    pub fn build_rows(&self, asked: BTreeSet<ServiceId>) {
        let mut asked = asked.into_iter().peekable();
        loop {
            let (bare, wanted) = self.sit().publisher.rows_to_build(asked.by_ref().take(ROWS_AT_ONCE));
            let rows = bare.iter().map(Bare::build).collect();
            let mut work = self.sit();
            work.publisher.take_rows(rows, wanted);
            work.publisher.settle();
            if asked.peek().is_none() {
                return;
            }
        }
    }
}

impl Learner for Desk {
    fn attend(&self, worker: WorkerId, now: Now) {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        work.hear(worker, LESSONS_A_BURST, now);
        if work.publisher.is_at_hand() {
            work.publish_learned();
        }
        work.let_go();
    }

    fn ring(&self) {
        // A bell that cannot ring costs a turn of waiting.
        drop(self.bell.wake());
    }
}

impl Work {
    /// Take some lessons of this worker.
    pub fn hear(&mut self, worker: WorkerId, most: usize, now: Now) {
        let Some(classroom) = self.classrooms.get_mut(usize::from(worker.0)) else { return };
        for _ in 0..most {
            let Ok(lesson) = classroom.lessons.pop() else { return };
            self.learning.hear(worker, &lesson, now);
        }
    }

    /// Publish what was learned since.
    pub fn publish_learned(&mut self) {
        if !self.learning.has_news() {
            return;
        }
        let changes = self.learning.changes();
        if !changes.is_empty()
            && let Err(error) = self.publisher.publish(changes.clone())
        {
            tracing::error!("what was learned does not fit: {error}");
            self.learning.unpublished(&changes);
        }
        self.learning.published(self.publisher.version());
    }

    /// What control says (and what is to be there before), with what follows for addresses of names: all is in this version,
    /// or nothing. `told`: what holds if it is refused.
    pub fn publish_with_names(
        &mut self,
        first: Vec<Change>,
        changes: &[Change],
        told: impl FnOnce() -> Vec<Change>,
    ) -> Result<u64, String> {
        self.learning.take(changes);
        let learned = self.learning.changes();
        let mut all = first;
        all.extend(changes.iter().chain(&learned).cloned());
        let published =
            if all.is_empty() { Ok(self.publisher.version()) } else { self.publisher.publish(all) };
        match published {
            Ok(version) => {
                self.learning.told_more(version);
                Ok(version)
            }
            Err(error) => {
                self.learning.start_over(&told());
                self.publish_learned();
                Err(error.to_string())
            }
        }
    }

    /// Let all answers go that may. The version that the next one waits for.
    pub fn let_go(&mut self) -> Option<u64> {
        self.learning.awaited()?;
        let seen = self.publisher.seen();
        while let Some((worker, release)) = self.learning.release(|version| seen.by_all(version)) {
            self.tell(worker, release);
        }
        self.learning.awaited()
    }

    /// Those that have waited too long are not waited for.
    pub fn give_up(&mut self, now: Now) {
        while let Some((worker, release)) = self.learning.give_up(now) {
            self.tell(worker, release);
        }
    }

    fn tell(&mut self, worker: WorkerId, release: Release) {
        if let Some(classroom) = self.classrooms.get_mut(usize::from(worker.0)) {
            // A worker that does not take it gives up waiting by itself.
            let _ = classroom.releases.push(release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Poll;
    use rtrb::RingBuffer;
    use sluice_core::dns::Name;
    use sluice_core::tables::record::{Identity, IdentitySlot, Named, Pattern, PatternId, Prefix};
    use sluice_run::answers::Lesson;

    const WORLD: IdentitySlot = IdentitySlot(1);
    const NAMED: IdentitySlot = IdentitySlot(2);

    fn told() -> Vec<Change> {
        let identity = |number| Some(Identity { number, world: true, ..Identity::default() });
        let everything = Prefix { addr: [0, 0, 0, 0].into(), len: 0 };
        vec![
            Change::Identity(WORLD, identity(9)),
            Change::Identity(NAMED, identity(1 << 24)),
            Change::Address(everything, Some(WORLD)),
            Change::Pattern(PatternId(0), Some(Pattern { text: "a.io.".to_owned(), selects: true })),
            Change::Named(NAMED, Some(Named { base: WORLD, patterns: vec![PatternId(0)] })),
        ]
    }

    #[test]
    fn a_worker_learns_itself_and_waits_for_nobody_but_the_others() {
        let poll = Poll::new().unwrap();
        let desk = Desk::new(poll.registry(), Token(0), Seed::default()).unwrap();
        let ((mut tell, lessons), (releases, mut released)) = (RingBuffer::new(8), RingBuffer::new(8));
        desk.sit().classrooms.push(Classroom { lessons, releases });
        let mut views = [0, 1].map(|_| desk.sit().publisher.subscribe());
        desk.sit().publish_with_names(Vec::new(), &told(), Vec::new).unwrap();
        for view in &mut views {
            let _ = view.refresh();
        }
        desk.sit().publisher.settle();

        let ip: std::net::Ipv4Addr = [198, 51, 100, 1].into();
        let addresses = [(ip.into(), 60)].into_iter().collect();
        let name = Name::parse("a.io").unwrap();
        tell.push(Lesson { ticket: Some(7), more: false, name, addresses }).unwrap();
        let sitting = desk.sit();
        desk.attend(WorkerId(0), Now(1));
        drop(sitting);
        let slot = |desk: &Desk| desk.tables().ipcache.slot(ip.to_ipv6_mapped(), true);
        assert_eq!(slot(&desk), WORLD, "somebody else was at it");
        desk.attend(WorkerId(0), Now(1));
        assert_eq!(slot(&desk), NAMED);
        views[0].refresh();
        desk.attend(WorkerId(0), Now(2));
        assert!(released.pop().is_err(), "the other worker has not seen it");
        views[1].park();
        desk.attend(WorkerId(0), Now(3));
        assert_eq!(released.pop(), Ok(Release { ticket: 7, known: true }));
    }
}
