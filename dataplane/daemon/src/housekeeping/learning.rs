//! Names, as the one thread beside the workers sees to them: lessons in, addresses out, answers let go.

use std::thread::JoinHandle;

use sluice_core::tables::record::Change;
use sluice_core::time::Now;
use sluice_feed::message::{ToControl, WantedSet};

use super::Housekeeping;
use crate::names::Learning;
use crate::names::store::{self, Writing};
use crate::names::sweep::Sweep;

/// Between two looks at which addresses have flows, and between two writings of what is known.
const SWEEP_EVERY: u64 = Now::SECOND;
const WRITE_EVERY: u64 = 2 * Now::SECOND;
/// Addresses looked for at a time.
const MOST_SWEPT: usize = 1000;
/// Lessons of one worker before the others' turn.
const LESSONS_A_TURN: usize = 256;

/// What goes on about names beside learning.
#[derive(Debug, Default)]
pub(super) struct Chores {
    sweep: Option<Sweep>,
    swept_at: Now,
    writing: Option<Writing>,
    written: Option<JoinHandle<()>>,
    wrote_at: Now,
}

impl Housekeeping {
    /// Names from before: of the last process, and those that are known to everybody.
    pub(super) fn remember_names(&mut self) {
        let now = self.clock.now();
        let flows = self.settings.snapshot.as_deref();
        let last = flows.map(|flows| store::read(&store::path(flows)).map_err(|error| error.to_string()));
        let known = self.settings.known_names.as_deref().map(store::read_known);
        for (found, what) in [(last, "of the last process"), (known, "known beforehand")] {
            match found {
                Some(Ok(names)) => names.iter().for_each(|pair| self.learning.remember(pair, now)),
                Some(Err(why)) => tracing::warn!("names {what} are lost: {why}"),
                None => {}
            }
        }
    }

    /// One turn of learning. First of all: an answer waits for it.
    pub(super) fn learn(&mut self, now: Now) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            for _ in 0..LESSONS_A_TURN {
                let Ok(lesson) = worker.classroom.lessons.pop() else { break };
                self.learning.hear(index, &lesson, now);
            }
        }
        self.learning.turn(now);
        self.sweep_names(now);
        let changes = self.learning.changes();
        let live = match self.publish(changes.clone()) {
            Ok(live) => live,
            Err(why) => {
                tracing::error!("what was learned does not fit: {why}");
                self.learning.unpublished(&changes);
                false
            }
        };
        self.release_answers(now, live);
        if let Some(control) = &mut self.control {
            let sets: Vec<WantedSet> = self.learning.questions();
            if !sets.is_empty() {
                control.send(&ToControl::Wanted { sets, whole: false });
            }
        }
        self.write_names(now);
    }

    pub(super) fn release_answers(&mut self, now: Now, live: bool) {
        for (worker, release) in self.learning.releases(now, live) {
            // A worker that does not take it gives up waiting by itself.
            let _ = self.workers[worker].classroom.releases.push(release);
        }
    }

    /// What control says (and what is to be there before), with what follows for addresses of names: all is live at once, or
    /// nothing.
    pub(super) fn publish_with_names(
        &mut self,
        first: Vec<Change>,
        changes: &[Change],
    ) -> Result<(), String> {
        self.learning.take(changes);
        let learned = self.learning.changes();
        let mut all = first;
        all.extend(changes.iter().chain(&learned).cloned());
        match self.publish(all) {
            Ok(live) => {
                self.release_answers(self.clock.now(), live);
                Ok(())
            }
            Err(why) => {
                let told: Vec<Change> = self.told.values().cloned().collect();
                self.learning.start_over(&told);
                Err(why)
            }
        }
    }

    /// Which addresses whose time is over do flows still live on?
    fn sweep_names(&mut self, now: Now) {
        if let Some((alive, idle)) = self.chores.sweep.as_mut().and_then(Sweep::result) {
            self.chores.sweep = None;
            alive.iter().for_each(|ip| self.learning.book.sighted(*ip, now));
            idle.iter().for_each(|ip| self.learning.forget(*ip));
        }
        if self.chores.sweep.is_none() && now.0.saturating_sub(self.chores.swept_at.0) > SWEEP_EVERY {
            self.chores.swept_at = now;
            let among = self.learning.book.idle(now, MOST_SWEPT);
            if !among.is_empty() {
                self.chores.sweep = Some(Sweep::start(self.workers.iter().map(|w| &w.handle), among));
            }
        }
    }

    /// Write down what is known, a step a turn, and the file on a thread of its own.
    fn write_names(&mut self, now: Now) {
        let Some(path) = self.settings.snapshot.as_deref().map(store::path) else { return };
        let chores = &mut self.chores;
        if chores.written.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let due = self.learning.book.changed && now.0.saturating_sub(chores.wrote_at.0) > WRITE_EVERY;
        if chores.writing.is_none() && due {
            self.learning.book.changed = false;
            chores.wrote_at = now;
            chores.writing = Some(Writing::default());
        }
        if !chores.writing.as_mut().is_some_and(|writing| writing.step(&self.learning.book, now)) {
            return;
        }
        let Some(writing) = chores.writing.take() else { return };
        chores.written = Some(std::thread::spawn(move || {
            if let Err(error) = writing.write(&path) {
                tracing::warn!("cannot write names to {}: {error}", path.display());
            }
        }));
    }

    /// All of it at once, at the end.
    pub(super) fn write_names_now(&mut self) {
        let Some(path) = self.settings.snapshot.as_deref().map(store::path) else { return };
        if let Some(thread) = self.chores.written.take() {
            drop(thread.join());
        }
        let (mut writing, now) = (Writing::default(), self.clock.now());
        while !writing.step(&self.learning.book, now) {}
        if let Err(error) = writing.write(&path) {
            tracing::warn!("cannot write names to {}: {error}", path.display());
        }
    }

    /// A control process that has just come must know which identities are in use before it says anything.
    pub(super) fn greet_control(&mut self) {
        let sets = self.learning.all_wanted();
        if let Some(control) = &mut self.control {
            control.send(&ToControl::Wanted { sets, whole: true });
        }
    }
}

/// An empty book.
pub(super) fn start() -> (Learning, Chores) {
    (Learning::default(), Chores::default())
}
