//! I/O without an outside: queues in memory. The default for tests, and the twin of AF_XDP: one arena of equal buffers.

use std::collections::VecDeque;
use std::time::Duration;

use sluice_core::packet::{Packet, PortId};

use super::{Burst, Frame, PacketIo, Packets};
use crate::bell::Bell;

/// Room before each frame, as AF_XDP leaves it.
pub const HEADROOM: usize = 256;
pub const BUFFER: usize = 4096;

/// Buffers, and per device what waits to be received and what was sent.
#[derive(Debug)]
pub struct MemIo {
    buffers: Vec<Vec<u8>>,
    free: Vec<u64>,
    waiting: VecDeque<Frame>,
    /// Frames that left, per device.
    pub sent: Vec<Vec<Vec<u8>>>,
    /// Frames that found no buffer.
    pub lost: u64,
}

impl MemIo {
    pub fn new(devices: usize, buffers: usize) -> Self {
        Self {
            buffers: vec![vec![0; BUFFER]; buffers],
            free: (0..buffers as u64).collect(),
            waiting: VecDeque::new(),
            sent: vec![Vec::new(); devices],
            lost: 0,
        }
    }

    /// A frame comes in on a device.
    pub fn arrive(&mut self, device: u16, bytes: &[u8]) {
        match self.inject(bytes, device, 0) {
            Some(frame) => self.waiting.push_back(frame),
            None => self.lost += 1,
        }
    }

    /// Buffers that nobody holds.
    pub fn free_buffers(&self) -> usize {
        self.free.len()
    }

    fn buffer(&mut self, place: u64) -> &mut Vec<u8> {
        let index = usize::try_from(place).unwrap_or(usize::MAX);
        &mut self.buffers[index]
    }
}

impl PacketIo for MemIo {
    fn receive(&mut self, burst: &mut Burst) {
        while !burst.is_full()
            && let Some(frame) = self.waiting.pop_front()
        {
            burst.push(frame);
        }
    }

    fn packets<'a>(
        &'a mut self,
        frames: &'a [Frame],
        port: impl Fn(u16) -> PortId,
        packets: &mut Packets<'a>,
    ) {
        // Each frame owns another buffer, so each borrow is of another element; the map from place to borrow says so to
        // the compiler.
        let mut borrows: Vec<Option<&mut Vec<u8>>> = self.buffers.iter_mut().map(Some).collect();
        packets.extend(frames.iter().filter_map(|frame| {
            let room = borrows.get_mut(usize::try_from(frame.place).ok()?)?.take()?;
            let mut packet = Packet::new(room, frame.start.into(), frame.len.into(), port(frame.device))?;
            (packet.handed, packet.again) = (frame.handed, frame.again);
            Some(packet)
        }));
    }

    fn send(&mut self, frame: Frame, device: u16, start: usize, len: usize) {
        let bytes = self.buffer(frame.place)[start..start + len].to_vec();
        if let Some(sent) = self.sent.get_mut(usize::from(device)) {
            sent.push(bytes);
        }
        self.release(frame);
    }

    fn release(&mut self, frame: Frame) {
        self.free.push(frame.into_place());
    }

    fn inject(&mut self, bytes: &[u8], device: u16, handed: u8) -> Option<Frame> {
        if bytes.len() > BUFFER - HEADROOM {
            return None;
        }
        let place = self.free.pop()?;
        self.buffer(place)[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let (start, len) = (u16::try_from(HEADROOM).ok()?, u16::try_from(bytes.len()).ok()?);
        Some(Frame::new(place, start, len, device).handed_on(handed))
    }

    fn flush(&mut self) {}

    fn wait(&mut self, _most: Duration, _bell: &Bell) {}

    fn drained(&self) -> bool {
        self.waiting.is_empty()
    }
}
