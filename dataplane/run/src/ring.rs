//! One-way streets out of a worker: events to whoever listens, packets to the worker that owns their flow. A full ring
//! counts what it loses, exactly, and nobody waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::{Consumer, Producer, RingBuffer};
use sluice_core::event::{EventSink, FlowEvent};

use crate::bell::Bell;

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

    /// How many wait to be taken.
    pub fn waiting(&self) -> usize {
        self.ring.slots()
    }

    /// How many were lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Largest frame that can be handed over.
pub const HANDED_BYTES: usize = 16_128;
/// What the rings have room for, in packets of this size; small ones take less.
const ORDINARY: usize = 2048;
/// Before each packet's bytes: their number, the device, how often it was handed on.
const HEADER: usize = 5;

/// A packet from another worker: a copy, since each worker has memory of its own.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    pub bytes: &'a [u8],
    pub device: u16,
    pub handed: u8,
}

/// The end that hands over. Packets lie in the ring one behind the other, each as long as it is.
#[derive(Debug)]
pub struct HandSender(Producer<u8>);

impl HandSender {
    /// False: there is no room, or the frame is too large.
    pub fn push(&mut self, packet: Handed<'_>) -> bool {
        let Some(len) =
            u16::try_from(packet.bytes.len()).ok().filter(|len| usize::from(*len) <= HANDED_BYTES)
        else {
            return false;
        };
        let Ok(mut chunk) = self.0.write_chunk(HEADER + usize::from(len)) else { return false };
        let (len, device) = (len.to_le_bytes(), packet.device.to_le_bytes());
        let header = [len[0], len[1], device[0], device[1], packet.handed];
        let (first, second) = chunk.as_mut_slices();
        let mut room = [first, second];
        fill(&mut room, &header);
        fill(&mut room, packet.bytes);
        chunk.commit_all();
        true
    }
}

/// Copy into the first room that is left in the two pieces of a ring, and leave what is behind.
fn fill(room: &mut [&mut [u8]; 2], bytes: &[u8]) {
    let mut bytes = bytes;
    for piece in room {
        let most = piece.len().min(bytes.len());
        let (now, later) = std::mem::take(piece).split_at_mut(most);
        now.copy_from_slice(&bytes[..most]);
        (*piece, bytes) = (later, &bytes[most..]);
    }
}

/// The end that gets packets.
#[derive(Debug)]
pub struct HandReceiver {
    ring: Consumer<u8>,
    packet: Vec<u8>,
}

impl HandReceiver {
    /// Is there a packet?
    pub fn has_come(&self) -> bool {
        !self.ring.is_empty()
    }

    /// The oldest packet.
    pub fn pop(&mut self) -> Option<Handed<'_>> {
        let chunk = self.ring.read_chunk(HEADER).ok()?;
        let (first, second) = chunk.as_slices();
        let mut header = [0; HEADER];
        header.iter_mut().zip(first.iter().chain(second)).for_each(|(to, from)| *to = *from);
        chunk.commit_all();
        let len = usize::from(u16::from_le_bytes([header[0], header[1]]));
        // The sender commits header and bytes at once.
        let chunk = self.ring.read_chunk(len).ok()?;
        let (first, second) = chunk.as_slices();
        self.packet.clear();
        self.packet.extend_from_slice(first);
        self.packet.extend_from_slice(second);
        chunk.commit_all();
        let device = u16::from_le_bytes([header[2], header[3]]);
        Some(Handed { bytes: &self.packet, device, handed: header[4] })
    }
}

/// What a worker has to do with packets for the gateway itself: those that came in go up, those of ours come down.
#[derive(Debug)]
pub struct Local {
    pub(crate) up: HandSender,
    pub(crate) down: HandReceiver,
}

impl Local {
    /// Is there a packet to be sent?
    pub(crate) fn has_come(&self) -> bool {
        self.down.has_come()
    }
}

/// The other end of it.
#[derive(Debug)]
pub struct Outside {
    up: HandReceiver,
    down: HandSender,
    bell: Bell,
}

/// A connection of this worker with room for this many ordinary packets each way.
pub(crate) fn local(capacity: usize, bell: Bell) -> (Local, Outside) {
    let ((up, taken), (given, down)) = (hand(capacity), hand(capacity));
    (Local { up, down }, Outside { up: taken, down: given, bell })
}

impl Outside {
    /// The oldest packet for the gateway itself.
    pub fn take(&mut self) -> Option<Handed<'_>> {
        self.up.pop()
    }

    /// Have a whole frame sent by the device that it names. False: there is no room.
    pub fn give(&mut self, frame: Handed<'_>) -> bool {
        let given = self.down.push(frame);
        self.bell.ring();
        given
    }
}

/// A ring with room for this many ordinary packets.
fn hand(capacity: usize) -> (HandSender, HandReceiver) {
    let (sender, ring) = RingBuffer::new(capacity * ORDINARY + HANDED_BYTES);
    (HandSender(sender), HandReceiver { ring, packet: Vec::with_capacity(HANDED_BYTES) })
}

/// One worker's connections to all others: `to[w]` and `from[w]`; nothing to itself.
#[derive(Debug)]
pub struct Exchange {
    pub to: Vec<Option<Neighbour>>,
    pub from: Vec<HandReceiver>,
    /// Wakes this worker.
    pub bell: Bell,
}

/// Another worker.
#[derive(Debug)]
pub struct Neighbour {
    ring: HandSender,
    bell: Bell,
    /// Something was handed over that it has not been told of.
    untold: bool,
}

impl Neighbour {
    /// False: there is no room, or the frame is too large.
    pub fn push(&mut self, packet: Handed<'_>) -> bool {
        self.untold = true;
        self.ring.push(packet)
    }
}

impl Exchange {
    /// Wake those that packets were handed over to, if they sleep.
    pub fn tell(&mut self) {
        for neighbour in self.to.iter_mut().flatten() {
            if std::mem::take(&mut neighbour.untold) {
                neighbour.bell.ring();
            }
        }
    }

    /// Is there a packet from another worker?
    pub(crate) fn has_come(&self) -> bool {
        self.from.iter().any(HandReceiver::has_come)
    }
}

/// Connections between all of `workers`, each with room for `capacity` ordinary packets.
pub fn exchanges(workers: usize, capacity: usize) -> io::Result<Vec<Exchange>> {
    let alone = |_| Ok(Exchange { to: Vec::new(), from: Vec::new(), bell: Bell::new()? });
    let mut all = (0..workers).map(alone).collect::<io::Result<Vec<_>>>()?;
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                all[from].to.push(None);
            } else {
                let (sender, receiver) = hand(capacity);
                let bell = all[to].bell.clone();
                all[from].to.push(Some(Neighbour { ring: sender, bell, untold: false }));
                all[to].from.push(receiver);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_all_sizes_arrive_whole_and_in_order_across_the_rings_end() {
        let mut exchanges = exchanges(2, 1).unwrap();
        let (mut one, mut other) = (exchanges.remove(0), exchanges.remove(0));
        let to = one.to[1].as_mut().unwrap();
        let from = &mut other.from[0];
        for round in 0..200_usize {
            let bytes: Vec<u8> = (0..round * 97 % HANDED_BYTES).map(|n| (n % 251).to_le_bytes()[0]).collect();
            let device = u16::try_from(round).unwrap();
            assert!(to.push(Handed { bytes: &bytes, device, handed: 1 }));
            let got = from.pop().unwrap();
            assert_eq!((got.bytes, got.device, got.handed), (bytes.as_slice(), device, 1));
            assert!(from.pop().is_none());
        }
    }

    #[test]
    fn a_full_ring_takes_nothing_and_a_frame_that_is_too_large_neither() {
        let mut exchanges = exchanges(2, 1).unwrap();
        let (mut one, mut other) = (exchanges.remove(0), exchanges.remove(0));
        let to = one.to[1].as_mut().unwrap();
        let packet = |len: usize| vec![7; len];
        assert!(!to.push(Handed { bytes: &packet(HANDED_BYTES + 1), device: 0, handed: 0 }));
        assert!(to.push(Handed { bytes: &packet(HANDED_BYTES), device: 0, handed: 0 }));
        assert!(!to.push(Handed { bytes: &packet(4000), device: 0, handed: 0 }));
        assert_eq!(other.from[0].pop().unwrap().bytes.len(), HANDED_BYTES);
        assert!(to.push(Handed { bytes: &packet(4000), device: 0, handed: 0 }));
    }
}
