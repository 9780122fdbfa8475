//! DNS answers on their way: what they teach goes to whoever learns names, and they themselves wait until it is known on
//! every worker. What finds no room, or hears nothing in time, is dropped: whoever asked will ask again.
//!
//! Waking another thread takes longer than to learn an answer, so a worker does that itself, between two bursts, if nobody
//! else is at it ([`Learner`]).

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use rtrb::{Consumer, Producer, RingBuffer};
use sluice_core::dns::Name;
use sluice_core::packet::Packet;
use sluice_core::path::dns::lesson;
use sluice_core::time::Now;
use sluice_core::verdict::WorkerId;

use crate::io::Frame;

/// Answers that wait at a time, and lessons on their way.
pub const MOST: usize = 512;
/// Addresses in one lesson; an answer with more is several.
const ADDRESSES: usize = 32;

/// What one answer teaches.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// Who waits for it, if anybody does; the last piece says so.
    pub ticket: Option<u64>,
    /// More addresses of the same answer follow.
    pub more: bool,
    pub name: Name,
    /// With the seconds that they hold.
    pub addresses: ArrayVec<(IpAddr, u32), ADDRESSES>,
}

/// Whoever waits with this ticket may go (or never will).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    pub ticket: u64,
    pub known: bool,
}

/// Whoever learns names, as a worker meets it.
pub trait Learner: Send + Sync {
    /// Learn some of what this worker has told, and let those of its answers go that may. Does nothing when somebody else
    /// is at it, and never waits.
    fn attend(&self, worker: WorkerId, now: Now);

    /// The worker is about to sleep: somebody else is to go on.
    fn ring(&self);
}

/// Nobody learns.
impl Learner for () {
    fn attend(&self, _: WorkerId, _: Now) {}

    fn ring(&self) {}
}

/// The other end: lessons come here, and releases go back.
#[derive(Debug)]
pub struct Classroom {
    pub lessons: Consumer<Lesson>,
    pub releases: Producer<Release>,
}

/// Upper bounds of the histogram of waiting times, in microseconds; the last place is for all that took longer.
pub const BOUNDS: [u64; 16] =
    [5, 10, 20, 50, 100, 150, 200, 250, 300, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000];

/// How long answers waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    pub counts: [u64; BOUNDS.len() + 1],
    pub nanoseconds: u64,
    /// Dropped: no room, or not known in time.
    pub lost: u64,
}

impl Waited {
    fn note(&mut self, nanoseconds: u64) {
        let at = BOUNDS.partition_point(|bound| bound * 1000 < nanoseconds);
        self.counts[at] += 1;
        self.nanoseconds += nanoseconds;
    }
}

/// A frame that is ready to leave.
#[derive(Debug)]
pub struct Ready {
    pub frame: Frame,
    pub device: u16,
    pub start: usize,
    pub len: usize,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    ready: Ready,
    since: Now,
}

/// A worker's answers.
pub struct Answers {
    worker: WorkerId,
    lessons: Producer<Lesson>,
    releases: Consumer<Release>,
    learner: Arc<dyn Learner>,
    rang: bool,
    waiting: VecDeque<Waiting>,
    next: u64,
    pub waited: Waited,
}

/// How an answer is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taught {
    /// Nobody asks for its addresses: at once.
    Free,
    Wait(u64),
    NoRoom,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("worker", &self.worker)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

pub fn answers(worker: WorkerId, learner: Arc<dyn Learner>) -> (Answers, Classroom) {
    let (lessons, heard) = RingBuffer::new(MOST);
    let (releases, released) = RingBuffer::new(MOST * 2);
    let answers = Answers {
        worker,
        lessons,
        releases: released,
        learner,
        rang: true,
        waiting: VecDeque::with_capacity(MOST),
        next: 0,
        waited: Waited::default(),
    };
    (answers, Classroom { lessons: heard, releases })
}

impl Answers {
    /// Pass on what an answer teaches. `wanted`: do rules ask for the addresses of this name?
    pub fn teach(&mut self, packet: &Packet<'_>, wanted: impl FnOnce(&Name) -> bool) -> Taught {
        let mut all: ArrayVec<(IpAddr, u32), { ADDRESSES * 8 }> = ArrayVec::new();
        let mut too_many = false;
        let read = lesson(packet, |ip, holds| too_many |= all.try_push((ip, holds)).is_err());
        let Ok(question) = read else { return Taught::NoRoom };
        let waits = wanted(&question.name);
        let pieces = all.chunks(ADDRESSES);
        let room = self.lessons.slots() >= pieces.len() && !too_many;
        if waits && (!room || self.waiting.len() >= MOST) {
            return Taught::NoRoom;
        }
        if !room {
            return Taught::Free;
        }
        self.next += 1;
        let last = pieces.len().saturating_sub(1);
        for (n, piece) in pieces.enumerate() {
            let ticket = (waits && n == last).then_some(self.next);
            let addresses = piece.iter().copied().collect();
            // There is room: it was looked for.
            let _ = self.lessons.push(Lesson { ticket, more: n < last, name: question.name, addresses });
        }
        if waits { Taught::Wait(self.next) } else { Taught::Free }
    }

    /// Keep a frame whose lesson is on its way.
    pub fn keep(&mut self, ticket: u64, ready: Ready, now: Now) {
        self.waiting.push_back(Waiting { ticket, ready, since: now });
        self.rang = false;
    }

    /// Something else waits for whoever learns.
    pub fn call(&self) {
        self.learner.ring();
    }

    /// If any wait: have learned what they teach, and see who may go. What does not wait is learned in its own time.
    pub fn attend(&self, now: Now) {
        if !self.waiting.is_empty() {
            self.learner.attend(self.worker, now);
        }
    }

    /// Before sleeping: have somebody else go on, once for those that wait.
    pub fn ring(&mut self) {
        if !self.rang {
            self.rang = true;
            self.learner.ring();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How long the oldest has been waiting.
    pub fn oldest(&self, now: Now) -> u64 {
        self.waiting.front().map_or(0, |waiting| now.0.saturating_sub(waiting.since.0))
    }

    /// The next frame that is done waiting: `Ok`, it may go; `Err`, it must not. `most` is in nanoseconds.
    pub fn next(&mut self, now: Now, most: u64) -> Option<Result<Ready, Frame>> {
        while let Ok(release) = self.releases.pop() {
            // One that waited too long is gone already.
            let Some(at) = self.waiting.iter().position(|waiting| waiting.ticket == release.ticket) else {
                continue;
            };
            let Some(waiting) = self.waiting.remove(at) else { continue };
            if release.known {
                self.waited.note(now.0.saturating_sub(waiting.since.0));
                return Some(Ok(waiting.ready));
            }
            self.waited.lost += 1;
            return Some(Err(waiting.ready.frame));
        }
        if self.oldest(now) <= most {
            return None;
        }
        self.waited.lost += 1;
        self.waiting.pop_front().map(|waiting| Err(waiting.ready.frame))
    }
}
