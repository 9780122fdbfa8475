//! One frame, borrowed: its bytes with room before and behind, and where it came from. Owns nothing.

/// A network port of the gateway: an interface, or a VLAN on one. Index into [`crate::tables::nexthop::Port`]s.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PortId(pub u16);

/// Packets handled in one turn, at most.
pub const BURST: usize = 64;

/// A mutable view of one frame. `room` is the whole buffer; the frame is `room[start..start + len]`, so that headers
/// can grow and shrink at the front (VLAN tags, encapsulation) and answers can grow at the back without a copy.
#[derive(Debug)]
pub struct Packet<'a> {
    room: &'a mut [u8],
    start: usize,
    len: usize,
    /// The port that the frame came in on.
    pub port: PortId,
    /// How many workers have handed it on already.
    pub handed: u8,
    /// It has been here before, and waited for a neighbour since.
    pub again: bool,
}

impl<'a> Packet<'a> {
    /// The frame `room[start..start + len]`; `None` if that does not lie inside the buffer.
    pub fn new(room: &'a mut [u8], start: usize, len: usize, port: PortId) -> Option<Self> {
        (start.checked_add(len)? <= room.len()).then_some(Self {
            room,
            start,
            len,
            port,
            handed: 0,
            again: false,
        })
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.room.get(self.start..self.start + self.len).unwrap_or_default()
    }

    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.room.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }

    /// The first N bytes from where the frame begins, be they its own or what lies in the buffer behind it. `None`: the
    /// buffer ends before.
    #[inline(always)]
    pub(crate) fn head<const N: usize>(&self) -> Option<&[u8; N]> {
        self.room.get(self.start..self.start.wrapping_add(N))?.first_chunk()
    }

    #[inline(always)]
    pub(crate) fn head_mut<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.room.get_mut(self.start..self.start.wrapping_add(N))?.first_chunk_mut()
    }

    /// Offset of the frame in its buffer; I/O needs it to send what is left after headers moved.
    #[inline]
    pub fn start(&self) -> usize {
        self.start
    }

    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty frame is a malformed one, not a container state"
    )]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Make the frame `n` bytes longer at the front; the new bytes are whatever was there. False if there is no room.
    #[must_use]
    pub fn grow_front(&mut self, n: usize) -> bool {
        let Some(start) = self.start.checked_sub(n) else { return false };
        self.start = start;
        self.len += n;
        true
    }

    /// Drop `n` bytes at the front. False if the frame is shorter.
    #[must_use]
    pub fn shrink_front(&mut self, n: usize) -> bool {
        let Some(len) = self.len.checked_sub(n) else { return false };
        self.start += n;
        self.len = len;
        true
    }

    /// Cut or extend the frame at its end. False if the buffer is too small.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        if self.start + len > self.room.len() {
            return false;
        }
        self.len = len;
        true
    }
}
