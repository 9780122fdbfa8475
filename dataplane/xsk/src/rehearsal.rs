//! Sockets without a kernel: rings in memory, and somebody of ours at their other end. What goes through them is the code that goes
//! through a device's rings; for tests of that code, and to measure what it costs.

use std::io;

use crate::ring::Ring;
use crate::socket::{Copy, Sizes, Socket};
use crate::sys::{self, Descriptor, RingOffset};

/// Where a driver leaves a received frame in its buffer.
const START: u64 = 256;
/// The counters each on a line of their own, as the kernel has them; then the entries.
const LAYOUT: RingOffset = RingOffset { producer: 0, consumer: 64, flags: 128, descriptors: 192 };

/// One socket's four rings, by themselves.
#[derive(Debug)]
pub struct Rings {
    rx: Ring<Descriptor>,
    tx: Ring<Descriptor>,
    fill: Ring<u64>,
    completion: Ring<u64>,
}

/// The kernel's end of a socket's rings.
#[derive(Debug)]
pub struct Player(Rings);

impl Rings {
    /// Both ends of four rings: a socket's, with as many buffers in its fill ring as that holds, and the kernel's.
    pub fn new(size: u32) -> io::Result<(Self, Player)> {
        let (mut ours, player) = pairs(Sizes { rx: size, tx: size, fill: size, completion: size })?;
        for buffer in 0..u64::from(ours.fill.room()) {
            ours.fill.push(buffer * 4096);
        }
        ours.fill.submit();
        Ok((ours, player))
    }

    /// What came goes out again, and what went out is given to receive into; at most so many of each. How many came.
    #[inline]
    pub fn turn(&mut self, most: u32) -> u32 {
        let came = self.rx.ready().min(most).min(self.tx.room());
        for _ in 0..came {
            let descriptor = self.rx.take();
            self.tx.push(descriptor);
        }
        if came > 0 {
            self.rx.release();
            self.tx.submit();
        }
        let sent = self.completion.ready().min(most).min(self.fill.room());
        for _ in 0..sent {
            let place = self.completion.take();
            self.fill.push(place & !4095);
        }
        if sent > 0 {
            self.completion.release();
            self.fill.submit();
        }
        came
    }
}

impl Player {
    /// Frames of so many bytes come, at most so many: as many as there are buffers and room for. How many came.
    pub fn bring(&mut self, most: u32, len: u32) -> u32 {
        let Rings { rx, fill, .. } = &mut self.0;
        let count = fill.ready().min(rx.fresh_room()).min(most);
        for _ in 0..count {
            let address = fill.take() + START;
            rx.push(Descriptor { address, len, options: 0 });
        }
        fill.release();
        rx.submit();
        count
    }

    /// What is to be sent is sent. How many frames that were.
    pub fn send(&mut self) -> u32 {
        let Rings { tx, completion, .. } = &mut self.0;
        let count = tx.ready().min(completion.fresh_room());
        for _ in 0..count {
            completion.push(tx.take().address);
        }
        tx.release();
        completion.submit();
        count
    }
}

/// A socket on nothing, and who plays the kernel to it.
pub(crate) fn socket(sizes: Sizes) -> io::Result<(Socket, Player)> {
    let (Rings { rx, tx, fill, completion }, player) = pairs(sizes)?;
    let fd = sys::memory_file(0)?;
    let socket = Socket {
        fd,
        rx,
        tx,
        fill,
        completion,
        copy: Copy::Zero,
        copy_reason: None,
        pieces: false,
        to_send: false,
    };
    Ok((socket, player))
}

fn pairs(sizes: Sizes) -> io::Result<(Rings, Player)> {
    let (rx, their_rx) = pair(sizes.rx)?;
    let (tx, their_tx) = pair(sizes.tx)?;
    let (fill, their_fill) = pair(sizes.fill)?;
    let (completion, their_completion) = pair(sizes.completion)?;
    let theirs = Rings { rx: their_rx, tx: their_tx, fill: their_fill, completion: their_completion };
    Ok((Rings { rx, tx, fill, completion }, Player(theirs)))
}

/// Both ends of one ring.
fn pair<T: std::marker::Copy>(size: u32) -> io::Result<(Ring<T>, Ring<T>)> {
    let entries = usize::try_from(LAYOUT.descriptors).unwrap_or(0);
    let file = sys::memory_file(entries + size as usize * size_of::<T>())?;
    Ok((Ring::new(&file, LAYOUT, size, 0)?, Ring::new(&file, LAYOUT, size, 0)?))
}

#[cfg(test)]
mod tests {
    use sluice_run::io::{Burst, PacketIo};

    use super::*;
    use crate::io::XskIo;

    /// Around each ring some times, so that counters go past their ends' indexes.
    #[test]
    fn what_comes_in_goes_out_and_its_buffers_come_back() {
        let (mut io, mut players) = XskIo::rehearse(2, 64).unwrap();
        let (mut came, mut went) = (0, 0);
        for round in 0..1000_u32 {
            let from = (round % 2) as usize;
            came += players[from].bring(1 + round % 64, 60);
            let mut burst = Burst::new();
            io.receive(&mut burst);
            for frame in burst.drain(..) {
                assert_eq!((frame.start(), frame.len()), (256, 60));
                let to = 1 - frame.device();
                io.send(frame, to, 256, 60);
            }
            io.flush();
            went += players[1 - from].send();
        }
        assert!(came > 20_000, "{came}");
        assert_eq!(came, went);
        let reports = io.reports();
        assert_eq!(reports.iter().map(|report| report.sent).sum::<u64>(), u64::from(came));
        assert_eq!(reports.iter().map(|report| report.send_failed).sum::<u64>(), 0);
    }

    #[test]
    fn a_full_transmit_ring_costs_the_frame_and_no_buffer() {
        let (mut io, mut players) = XskIo::rehearse(2, 64).unwrap();
        let mut failed = 0;
        for _ in 0..100 {
            // Nobody sends.
            assert_eq!(players[0].bring(64, 60), 64, "a buffer is lost");
            let mut burst = Burst::new();
            io.receive(&mut burst);
            burst.drain(..).for_each(|frame| io.send(frame, 1, 256, 60));
            io.flush();
            failed = io.reports()[1].send_failed;
        }
        assert_eq!(failed, 6400 - 64);
    }

    #[test]
    fn what_finds_no_room_in_a_receive_ring_waits_for_its_turn() {
        let (mut rings, mut player) = Rings::new(64).unwrap();
        assert_eq!(player.bring(100, 60), 64);
        assert_eq!(player.bring(100, 60), 0, "a full ring takes no more");
        assert_eq!(rings.turn(40), 40);
        assert_eq!(player.send(), 40);
        assert_eq!(rings.turn(40), 24);
        // 40 buffers were sent and are there to receive into again.
        assert_eq!(player.bring(100, 60), 40);
    }
}
