//! Flows and losses for whoever asks, by the Unix socket or as Hubble does: those of the past that are wanted and, for
//! those who follow, those to come.
//!
//! A teller looks at a few entries of the history at a time and goes on when the reader has taken them. It holds no lock
//! while it waits, and keeps nothing but its place.

use std::sync::Arc;

use serde_json::Value;
use sluice_core::event::FlowEvent;
use sluice_policy::compile::Compiled;
use sluice_policy::hubble::filter::Filters;
use sluice_policy::hubble::{self, LostAt, Teller};
use tokio::sync::mpsc;

use crate::history::{Seen, What};
use crate::reconcile::Control;
use crate::views::time;

/// Entries that are looked at in one go.
const PIECE: usize = 64;
/// What may wait for a slow reader.
const WAITING: usize = 16;

/// What somebody wants to hear: a span of time, and of that the first or the last so many flows that fit the filters.
/// Losses are told whatever is wanted, and count for nothing.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub first: Option<usize>,
    pub last: Option<usize>,
    /// Milliseconds since 1970.
    pub since: Option<u64>,
    pub until: Option<u64>,
    pub follow: bool,
    pub filters: Filters,
}

/// One thing to tell.
pub enum Told<'a> {
    /// In Hubble's shape, with what it was made of.
    Flow {
        flow: Value,
        event: &'a FlowEvent,
        time: &'a str,
        names: &'a Compiled,
    },
    Lost {
        count: u64,
        at: LostAt,
        time: &'a str,
    },
}

/// Who we are for those who listen.
pub fn teller(control: &Control) -> Teller {
    let options = &control.gateway.options;
    Teller { cluster: options.cluster.clone(), node: options.node.clone() }
}

/// Tell all that is wanted in this form, until there is no more or nobody listens.
pub fn tell<T: Send + 'static>(
    control: Arc<Control>,
    wanted: Wanted,
    form: impl Fn(Told<'_>) -> T + Send + Sync + 'static,
) -> mpsc::Receiver<T> {
    let (to, told) = mpsc::channel(WAITING);
    let (oldest, end) = control.history.ends();
    let teller = teller(&control);
    let telling = Telling { control, wanted, teller, form, oldest, end };
    tokio::spawn(async move {
        // Whoever does not listen any more needs no reason.
        let _ = telling.run(&to).await;
    });
    told
}

struct Telling<F> {
    control: Arc<Control>,
    wanted: Wanted,
    teller: Teller,
    form: F,
    /// Where the past began and ended when this was asked for.
    oldest: u64,
    end: u64,
}

/// The reader went away.
struct Gone;

impl<F> Telling<F> {
    async fn run<T>(&self, to: &mpsc::Sender<T>) -> Result<(), Gone>
    where
        F: Fn(Told<'_>) -> T,
    {
        let mut news = self.control.history.news();
        let mut left = self.wanted.first.unwrap_or(usize::MAX);
        let mut place = self.start().await;
        while !to.is_closed() {
            let piece = self.control.history.read(place, PIECE);
            if piece.missed > 0 {
                self.send(to, self.lost(piece.missed, LostAt::Ring, crate::history::now())).await?;
            }
            for seen in &piece.entries {
                let over = match self.wanted.until {
                    Some(until) => matches!(seen.what, What::Flow(_)) && seen.milliseconds > until,
                    None => false,
                };
                if left == 0 || over || (!self.wanted.follow && seen.place >= self.end) {
                    return Ok(());
                }
                let Some(told) = self.told(seen) else { continue };
                left -= usize::from(matches!(seen.what, What::Flow(_)));
                self.send(to, told).await?;
            }
            place = piece.next;
            if !piece.entries.is_empty() {
                tokio::task::yield_now().await;
            } else if self.wanted.follow {
                tokio::select! {
                    () = to.closed() => return Err(Gone),
                    more = news.changed() => more.map_err(|_| Gone)?,
                }
            } else {
                return Ok(());
            }
        }
        Err(Gone)
    }

    async fn send<T>(&self, to: &mpsc::Sender<T>, told: T) -> Result<(), Gone> {
        to.send(told).await.map_err(|_| Gone)
    }

    /// Where to begin: so far back that the last so many are told.
    async fn start(&self) -> u64 {
        let Some(mut left) = self.wanted.last else { return self.oldest };
        let mut place = self.end;
        while left > 0 {
            let piece = self.control.history.before(place, PIECE);
            let Some(first) = piece.first() else { break };
            for seen in piece.iter().rev() {
                left -= usize::from(self.is_wanted(seen));
                if left == 0 {
                    return seen.place;
                }
            }
            place = first.place;
            tokio::task::yield_now().await;
        }
        place
    }

    fn is_within(&self, seen: &Seen) -> bool {
        (self.wanted.since.unwrap_or(0)..=self.wanted.until.unwrap_or(u64::MAX)).contains(&seen.milliseconds)
    }

    fn is_wanted(&self, seen: &Seen) -> bool {
        let What::Flow(event) = &seen.what else { return false };
        let filters = &self.wanted.filters;
        self.is_within(seen) && (filters.is_empty() || filters.fits(&self.flow(event, seen.milliseconds)))
    }

    /// The names are those of now.
    fn flow(&self, event: &FlowEvent, milliseconds: u64) -> Value {
        hubble::flow(event, &time(milliseconds), &self.teller, &self.control.world().compiled)
    }

    fn told<T>(&self, seen: &Seen) -> Option<T>
    where
        F: Fn(Told<'_>) -> T,
    {
        let event = match &seen.what {
            What::Lost(count) => return Some(self.lost(*count, LostAt::Queue, seen.milliseconds)),
            What::Flow(event) => event,
        };
        if !self.is_within(seen) {
            return None;
        }
        let flow = self.flow(event, seen.milliseconds);
        if !self.wanted.filters.fits(&flow) {
            return None;
        }
        let names = &self.control.world().compiled;
        Some((self.form)(Told::Flow { flow, event, time: &time(seen.milliseconds), names }))
    }

    fn lost<T>(&self, count: u64, at: LostAt, milliseconds: u64) -> T
    where
        F: Fn(Told<'_>) -> T,
    {
        (self.form)(Told::Lost { count, at, time: &time(milliseconds) })
    }
}
