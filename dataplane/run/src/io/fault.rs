//! Any I/O with faults: frames are lost, doubled, late, cut and damaged on the way in, and find the ring full on the way out.
//! The same seed gives the same faults.

use std::collections::VecDeque;
use std::time::Duration;

use sluice_core::packet::PortId;

use super::{Burst, Frame, PacketIo, Packets};
use crate::bell::Bell;

/// How many of a thousand frames meet each fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    pub drop: u16,
    pub duplicate: u16,
    /// Comes with a later burst.
    pub reorder: u16,
    pub truncate: u16,
    /// One byte becomes another.
    pub flip: u16,
    /// Finds the ring full.
    pub full: u16,
}

/// What happened. `received` = what the inner I/O gave − `dropped` + `duplicated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    pub dropped: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub truncated: u64,
    pub flipped: u64,
    pub refused: u64,
}

#[derive(Debug)]
pub struct FaultIo<Io> {
    pub inner: Io,
    pub rates: Rates,
    pub happened: Happened,
    random: u64,
    late: VecDeque<Frame>,
}

impl<Io: PacketIo> FaultIo<Io> {
    pub fn new(inner: Io, rates: Rates, seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { inner, rates, happened: Happened::default(), random, late: VecDeque::new() }
    }

    /// Frames that are still on their way.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// xorshift64*
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn meets(&mut self, rate: u16) -> bool {
        self.next() % 1000 < u64::from(rate)
    }

    fn bytes(&mut self, frame: &Frame) -> Vec<u8> {
        self.inner.packet(frame).map(|packet| packet.bytes().to_vec()).unwrap_or_default()
    }

    /// One frame in; it comes into the burst, or not, or twice.
    fn suffer(&mut self, frame: Frame, burst: &mut Burst) {
        if self.meets(self.rates.drop) {
            self.happened.dropped += 1;
            self.inner.release(frame);
            return;
        }
        if self.meets(self.rates.duplicate) {
            let (bytes, device) = (self.bytes(&frame), frame.device());
            if let Some(twin) = self.inner.inject(&bytes, device, frame.handed()) {
                self.happened.duplicated += 1;
                self.late.push_back(twin);
            }
        }
        let mut frame = frame;
        if self.meets(self.rates.truncate) && frame.len() > 1 {
            self.happened.truncated += 1;
            frame.len = u16::try_from(self.next() % u64::from(frame.len)).unwrap_or(0);
        }
        if self.meets(self.rates.flip) {
            self.flip(&frame);
        }
        if self.meets(self.rates.reorder) {
            self.happened.reordered += 1;
            self.late.push_back(frame);
        } else {
            burst.push(frame);
        }
    }

    fn flip(&mut self, frame: &Frame) {
        let (at, value) = (self.next(), self.next().to_le_bytes()[0]);
        let Some(mut packet) = self.inner.packet(frame) else { return };
        let bytes = packet.bytes_mut();
        let at = usize::try_from(at).unwrap_or(0) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
            self.happened.flipped += 1;
        }
    }
}

impl<Io: PacketIo> PacketIo for FaultIo<Io> {
    fn receive(&mut self, burst: &mut Burst) {
        // What was late comes behind what is on time; half of the burst is room for it.
        let mut on_time = Burst::new();
        self.inner.receive(&mut on_time);
        let waiting = self.late.len();
        for frame in on_time {
            if burst.is_full() {
                self.late.push_back(frame);
            } else {
                self.suffer(frame, burst);
            }
        }
        for _ in 0..waiting {
            if burst.is_full() {
                return;
            }
            if let Some(frame) = self.late.pop_front() {
                burst.push(frame);
            }
        }
    }

    fn packets<'a>(
        &'a mut self,
        frames: &'a [Frame],
        port: impl Fn(u16) -> PortId,
        packets: &mut Packets<'a>,
    ) {
        self.inner.packets(frames, port, packets);
    }

    fn send(&mut self, frame: Frame, device: u16, start: usize, len: usize) {
        if self.meets(self.rates.full) {
            self.happened.refused += 1;
            self.inner.release(frame);
        } else {
            self.inner.send(frame, device, start, len);
        }
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn inject(&mut self, bytes: &[u8], device: u16, handed: u8) -> Option<Frame> {
        self.inner.inject(bytes, device, handed)
    }

    fn flush(&mut self) {
        self.inner.flush();
    }

    fn wait(&mut self, most: Duration, bell: &Bell) {
        self.inner.wait(most, bell);
    }

    fn drained(&self) -> bool {
        self.inner.drained() && self.late.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::mem::MemIo;

    fn received(io: &mut FaultIo<MemIo>) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !io.drained() {
            let mut burst = Burst::new();
            io.receive(&mut burst);
            for frame in burst {
                all.push(io.bytes(&frame));
                io.release(frame);
            }
        }
        all
    }

    #[test]
    fn every_fault_happens_and_no_buffer_is_lost() {
        let rates = Rates { drop: 100, duplicate: 100, reorder: 100, truncate: 100, flip: 100, full: 500 };
        let mut io = FaultIo::new(MemIo::new(1, 2000), rates, 7);
        for n in 0..1000_u16 {
            io.inner.arrive(0, &[&n.to_be_bytes()[..], &[0; 60]].concat());
        }
        let all = received(&mut io);
        let happened = io.happened;
        assert_eq!(all.len() as u64, 1000 - happened.dropped + happened.duplicated);
        for count in [happened.dropped, happened.duplicated, happened.reordered, happened.truncated] {
            assert!((50..200).contains(&count), "{happened:?}");
        }
        let frame = io.inject(&[1; 60], 0, 0).unwrap();
        io.send(frame, 0, 256, 60);
        assert_eq!(io.happened.refused + io.inner.sent[0].len() as u64, 1);
        assert_eq!(io.inner.free_buffers(), 2000);
    }

    #[test]
    fn without_rates_nothing_happens() {
        let mut io = FaultIo::new(MemIo::new(1, 100), Rates::default(), 7);
        let frames: Vec<_> = (0..100_u8).map(|n| vec![n; 60]).collect();
        frames.iter().for_each(|frame| io.inner.arrive(0, frame));
        assert_eq!(received(&mut io), frames);
        assert_eq!(io.happened, Happened::default());
    }
}
