//! One-way streets out of a worker: events to whoever listens, packets to the worker that owns their flow. A full ring
//! counts what it loses, exactly, and nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_core::event::{EventSink, FlowEvent};

/// The worker's end.
#[derive(Debug)]
pub struct EventSender {
    ring: Producer<FlowEvent>,
    lost: Arc<AtomicU64>,
}

/// The listener's end.
#[derive(Debug)]
pub struct EventReceiver {
    ring: Consumer<FlowEvent>,
    lost: Arc<AtomicU64>,
}

pub fn events(capacity: usize) -> (EventSender, EventReceiver) {
    let (producer, consumer) = RingBuffer::new(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    (EventSender { ring: producer, lost: Arc::clone(&lost) }, EventReceiver { ring: consumer, lost })
}

impl EventSink for EventSender {
    fn emit(&mut self, event: &FlowEvent) {
        if self.ring.push(*event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventReceiver {
    /// The oldest event that nobody has heard of.
    pub fn take(&mut self) -> Option<FlowEvent> {
        self.ring.pop().ok()
    }

    /// How many were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Largest frame that can be handed over.
pub const HANDED_BYTES: usize = 4096 - 8;

/// A packet on its way to another worker: a copy, since each worker has memory of its own.
#[derive(Clone, Debug)]
pub struct Handed {
    pub device: u16,
    pub handed: u8,
    len: u16,
    bytes: [u8; HANDED_BYTES],
}

impl Handed {
    pub fn new(bytes: &[u8], device: u16, handed: u8) -> Option<Self> {
        let mut copy =
            Self { device, handed, len: u16::try_from(bytes.len()).ok()?, bytes: [0; HANDED_BYTES] };
        copy.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(copy)
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// One worker's connections to all others: `to[w]` and `from[w]`; nothing to itself.
#[derive(Debug, Default)]
pub struct Exchange {
    pub to: Vec<Option<Producer<Handed>>>,
    pub from: Vec<Consumer<Handed>>,
}

/// Connections between all of `workers`, each with room for `capacity` packets.
pub fn exchanges(workers: usize, capacity: usize) -> Vec<Exchange> {
    let mut all: Vec<Exchange> = (0..workers).map(|_| Exchange::default()).collect();
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                all[from].to.push(None);
            } else {
                let (producer, consumer) = RingBuffer::new(capacity);
                all[from].to.push(Some(producer));
                all[to].from.push(consumer);
            }
        }
    }
    all
}
