//! Names, as the one thread beside the workers sees to them: lessons in, addresses out, answers let go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use sluice_core::tables::record::Change;
use sluice_core::time::Now;
use sluice_core::verdict::WorkerId;
use sluice_feed::message::ToControl;

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
/// What the slowest worker needs for a burst, with room to spare.
const A_MOMENT: Duration = Duration::from_millis(1);

/// What goes on about names beside learning.
#[derive(Debug)]
pub(super) struct Chores {
    sweep: Option<Sweep>,
    swept_at: Now,
    writing: Option<Writing>,
    written: Option<JoinHandle<()>>,
    wrote_at: Now,
}

impl Chores {
    pub(super) const fn new(now: Now) -> Self {
        Self { sweep: None, swept_at: now, writing: None, written: None, wrote_at: now }
    }
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
                Some(Ok(names)) => {
                    let mut work = self.desk.sit();
                    names.iter().for_each(|pair| work.learning.remember(pair, now));
                }
                Some(Err(why)) => tracing::warn!("names {what} are lost: {why}"),
                None => {}
            }
        }
    }

    /// One turn of learning: what workers left undone, and what time brings.
    pub(super) fn learn(&mut self, now: Now) {
        let desk = Arc::clone(&self.desk);
        let mut work = desk.sit();
        for worker in (0..).map(WorkerId).take(self.workers.len()) {
            work.hear(worker, LESSONS_A_TURN, now);
        }
        work.learning.turn(now);
        self.sweep_names(&mut work.learning, now);
        work.publish_learned();
        work.publisher.settle();
        work.give_up(now);
        let sets = work.learning.questions();
        self.write_names(&mut work.learning, now);
        let awaited = work.let_go();
        drop(work);
        if let Some(version) = awaited
            && self.seen.wait(version, A_MOMENT)
        {
            desk.sit().let_go();
        }
        if let Some(control) = &mut self.control
            && !sets.is_empty()
        {
            control.send(&ToControl::Wanted { sets, whole: false });
        }
    }

    /// What control says, live on every worker with what follows for names.
    pub(super) fn publish_with_names(
        &mut self,
        first: Vec<Change>,
        changes: &[Change],
    ) -> Result<(), String> {
        let told = || self.told.values().cloned().collect();
        let version = self.desk.sit().publish_with_names(first, changes, told)?;
        self.wait_seen(version);
        self.desk.sit().let_go();
        Ok(())
    }

    /// Which addresses whose time is over do flows still live on?
    fn sweep_names(&mut self, learning: &mut Learning, now: Now) {
        if let Some((alive, idle)) = self.chores.sweep.as_mut().and_then(Sweep::result) {
            self.chores.sweep = None;
            alive.iter().for_each(|ip| learning.book.sighted(*ip, now));
            idle.iter().for_each(|ip| learning.forget(*ip));
        }
        if self.chores.sweep.is_none() && now.0.saturating_sub(self.chores.swept_at.0) > SWEEP_EVERY {
            self.chores.swept_at = now;
            let among = learning.book.idle(now, MOST_SWEPT);
            if !among.is_empty() {
                self.chores.sweep = Some(Sweep::start(self.workers.iter().map(|w| &w.handle), among));
            }
        }
    }

    /// Write down what is known, a step a turn, and the file on a thread of its own.
    fn write_names(&mut self, learning: &mut Learning, now: Now) {
        let Some(path) = self.settings.snapshot.as_deref().map(store::path) else { return };
        let chores = &mut self.chores;
        if chores.written.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let due = learning.book.changed && now.0.saturating_sub(chores.wrote_at.0) > WRITE_EVERY;
        if chores.writing.is_none() && due {
            learning.book.changed = false;
            chores.wrote_at = now;
            chores.writing = Some(Writing::default());
        }
        if !chores.writing.as_mut().is_some_and(|writing| writing.step(&learning.book, now)) {
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
        while !writing.step(&self.desk.sit().learning.book, now) {}
        if let Err(error) = writing.write(&path) {
            tracing::warn!("cannot write names to {}: {error}", path.display());
        }
    }

    /// A control process that has just come must know which identities are in use before it says anything.
    pub(super) fn greet_control(&mut self) {
        let (mut sets, mut place) = (BTreeSet::new(), Some(0));
        // What was to be asked is among them.
        self.desk.sit().learning.questions();
        while let Some(from) = place {
            place = self.desk.sit().learning.all_wanted(from, &mut sets);
        }
        if let Some(control) = &mut self.control {
            control.send(&ToControl::Wanted { sets: sets.into_iter().collect(), whole: true });
        }
    }

    /// At most so many names, for `sluice names`.
    pub(super) fn show_names(&self, most: usize) -> String {
        let (mut names, mut place) = (Vec::new(), Some(0));
        while let Some(from) = place.filter(|_| names.len() < most) {
            place = self.desk.sit().learning.show(self.clock.now(), from, &mut names);
        }
        names.truncate(most);
        Value::from(names).to_string()
    }
}
