//! Packets that are too long for their way, cut: their pieces take the place of what would come in, a burst or two later.

use std::collections::VecDeque;

use sluice_core::cut;
use sluice_core::packet::Packet;

use crate::io::{Frame, PacketIo};

/// Pieces that wait for the next turns.
pub const MOST: usize = 256;

#[derive(Debug)]
pub struct Pieces {
    waiting: VecDeque<Frame>,
    /// The packet that is being cut.
    copy: Vec<u8>,
}

impl Default for Pieces {
    fn default() -> Self {
        Self { waiting: VecDeque::with_capacity(MOST), copy: vec![0; usize::from(u16::MAX)] }
    }
}

impl Pieces {
    /// Cut a packet into pieces of `room` bytes at most; how many. Gives it back, whole, if there is no room or no buffer for all of them.
    #[cold]
    pub fn cut<Io: PacketIo>(&mut self, io: &mut Io, frame: Frame, room: u16) -> Result<u64, Frame> {
        let len = usize::from(frame.len());
        let Some(bytes) = self.copy.get_mut(..len) else { return Err(frame) };
        let Some(came) = io.packet(&frame) else { return Err(frame) };
        bytes.copy_from_slice(came.bytes());
        let Some(mut packet) = Packet::new(bytes, 0, len, came.port) else { return Err(frame) };
        let Some(mut pieces) = cut::Pieces::of(&mut packet, room) else { return Err(frame) };
        let before = self.waiting.len();
        if before + pieces.count() > MOST {
            return Err(frame);
        }
        // The place of a piece in its datagram is known already; those of a whole packet are new.
        let again = pieces.are_of_a_piece();
        while let Some(piece) = pieces.next() {
            let Some(made) = io.inject(piece, frame.device(), frame.handed()) else {
                self.waiting.drain(before..).for_each(|piece| io.release(piece));
                return Err(frame);
            };
            self.waiting.push_back(Frame { again, ..made });
        }
        io.release(frame);
        Ok((self.waiting.len() - before) as u64)
    }

    pub fn take(&mut self) -> Option<Frame> {
        self.waiting.pop_front()
    }
}
