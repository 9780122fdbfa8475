//! What a worker knows of the outside: frames come, are looked at as packets, and go.

pub mod fault;
pub mod mem;
pub mod pcap;
pub mod pcapng;

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_core::packet::{BURST, Packet, PortId};

use crate::bell::Bell;

/// One buffer of the I/O's memory, owned by whoever holds this. It is moved, never copied: a buffer cannot be sent
/// twice, or sent and kept.
#[derive(Debug)]
pub struct Frame {
    /// Where the buffer is, in whatever terms the I/O uses.
    pub(crate) place: u64,
    /// The frame inside its buffer.
    pub(crate) start: u16,
    pub(crate) len: u16,
    /// The device that it came in on.
    pub(crate) device: u16,
    /// How many workers handed it on.
    pub(crate) handed: u8,
    /// It waited for a neighbour and is forwarded once more.
    pub(crate) again: bool,
}

impl Frame {
    /// For implementations of [`PacketIo`]: a buffer that just came in or was taken from the free ones.
    pub fn new(place: u64, start: u16, len: u16, device: u16) -> Self {
        Self { place, start, len, device, handed: 0, again: false }
    }

    /// For implementations: where the buffer is. Consumes the frame; the buffer now belongs to the caller.
    pub fn into_place(self) -> u64 {
        self.place
    }

    pub fn place(&self) -> u64 {
        self.place
    }

    pub fn start(&self) -> u16 {
        self.start
    }

    pub fn device(&self) -> u16 {
        self.device
    }

    pub fn len(&self) -> u16 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn handed(&self) -> u8 {
        self.handed
    }

    pub fn again(&self) -> bool {
        self.again
    }

    /// The same frame, after so many workers handed it on.
    #[must_use]
    pub fn handed_on(self, handed: u8) -> Self {
        Self { handed, ..self }
    }
}

/// A burst of frames.
pub type Burst = ArrayVec<Frame, BURST>;

/// A burst, looked at.
pub type Packets<'a> = ArrayVec<Packet<'a>, BURST>;

/// Receives, lends, sends and releases frames of several devices that share one memory.
pub trait PacketIo {
    /// Add frames that have come in, as many as fit.
    fn receive(&mut self, burst: &mut Burst);

    /// Look at the frames as packets, each with the port that `port` says for its device. They are written to where the
    /// caller has room for them: a burst of packets is two and a half kilobytes, too much to be handed back by copy.
    fn packets<'a>(
        &'a mut self,
        frames: &'a [Frame],
        port: impl Fn(u16) -> PortId,
        packets: &mut Packets<'a>,
    );

    /// Look at one frame, its port by the number of its device.
    fn packet<'a>(&'a mut self, frame: &'a Frame) -> Option<Packet<'a>> {
        let mut packets = Packets::new();
        self.packets(std::slice::from_ref(frame), PortId, &mut packets);
        packets.pop()
    }

    /// Send the frame by a device, after its bytes moved to `start..start + len`. What cannot be sent is released and
    /// counted.
    fn send(&mut self, frame: Frame, device: u16, start: usize, len: usize);

    /// The frame is done with.
    fn release(&mut self, frame: Frame);

    /// An empty buffer with `bytes` put into it, as if it had come in on `device`.
    fn inject(&mut self, bytes: &[u8], device: u16, handed: u8) -> Option<Frame>;

    /// Let what was sent go out, and make room for what comes.
    fn flush(&mut self);

    /// May something have come in? What does not know says yes.
    fn has_come(&mut self) -> bool {
        true
    }

    /// Sleep until something comes, the bell rings, or the time is over.
    fn wait(&mut self, most: Duration, bell: &Bell);

    /// Will nothing come ever again? (A capture that is read.)
    fn drained(&self) -> bool {
        false
    }
}
