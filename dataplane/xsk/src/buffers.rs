//! Which buffer of a worker's memory is where: free, lent to a socket's rings, or in a [`sluice_run::io::Frame`].
//!
//! Most frames fit into one buffer. A frame that does not (MTU 9000) comes in pieces and is put together in a large
//! buffer: neighbouring ones, so that it lies in one piece for the path and in several for the kernel, which takes
//! no descriptor across the border of two.

/// One buffer: a page, which frames up to 3.8 KiB fit into and which the kernel takes without huge pages.
pub const BUFFER: usize = 4096;
/// A large one.
pub(crate) const LARGE: usize = 4 * BUFFER;
/// Free ones that are not lent for receiving.
const KEPT: usize = 64;

#[derive(Debug)]
pub(crate) struct Buffers {
    /// Where the large ones begin.
    large_start: u64,
    free: Vec<u64>,
    /// Of each buffer: 1 + the slot of the socket whose rings it is in, or 0.
    lent: Vec<u8>,
    free_large: Vec<u64>,
    /// Of each large one: the slot that sends it, and how many pieces are still in its rings.
    sending: Vec<(u8, u8)>,
}

impl Buffers {
    pub(crate) fn new(buffers: usize, large: usize) -> Self {
        let large_start = (buffers * BUFFER) as u64;
        Self {
            large_start,
            free: (0..buffers as u64).rev().map(|index| index * BUFFER as u64).collect(),
            lent: vec![0; buffers],
            free_large: (0..large as u64).rev().map(|index| large_start + index * LARGE as u64).collect(),
            sending: vec![(0, 0); large],
        }
    }

    /// Bytes of memory that all of them are.
    pub(crate) fn bytes(&self) -> usize {
        self.lent.len() * BUFFER + self.sending.len() * LARGE
    }

    /// How long the buffer is that starts at this place.
    #[inline]
    pub(crate) fn size(&self, place: u64) -> usize {
        if place < self.large_start { BUFFER } else { LARGE }
    }

    #[cfg(test)]
    fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    pub(crate) fn take_large(&mut self) -> Option<u64> {
        self.free_large.pop()
    }

    /// Done with.
    #[inline]
    pub(crate) fn put(&mut self, place: u64) {
        let list = if place < self.large_start { &mut self.free } else { &mut self.free_large };
        list.push(place);
    }

    /// Into the rings of a slot's socket, in so many pieces.
    #[inline]
    pub(crate) fn lend(&mut self, place: u64, slot: u8, pieces: u8) {
        let index = index(place, BUFFER);
        if let Some(lent) = self.lent.get_mut(index) {
            *lent = slot + 1;
        } else if let Some(sending) = self.large(place) {
            *sending = (slot, pieces);
        }
    }

    /// Out of the free ones into a socket's rings, at most so many. Some stay for sending what other devices received.
    pub(crate) fn lend_free(&mut self, most: u32, slot: u8, mut take: impl FnMut(u64)) {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.free.len().saturating_sub(KEPT));
        for place in self.free.drain(self.free.len() - most..) {
            if let Some(lent) = self.lent.get_mut(index(place, BUFFER)) {
                *lent = slot + 1;
            }
            take(place);
        }
    }

    /// Out of a receive ring, into which only the ordinary ones go: the buffer's place.
    #[inline]
    pub(crate) fn received(&mut self, address: u64) -> u64 {
        if let Some(lent) = self.lent.get_mut(index(address, BUFFER)) {
            *lent = 0;
        }
        address & !(BUFFER as u64 - 1)
    }

    /// Out of a completion ring: free again, or, of a large one, one piece less to wait for.
    #[inline]
    pub(crate) fn sent(&mut self, address: u64) {
        if let Some(lent) = self.lent.get_mut(index(address, BUFFER)) {
            *lent = 0;
            return self.free.push(address & !(BUFFER as u64 - 1));
        }
        let place = self.large_start + (address - self.large_start) / LARGE as u64 * LARGE as u64;
        if let Some((_, pieces)) = self.large(place) {
            *pieces = pieces.saturating_sub(1);
            if *pieces == 0 {
                self.free_large.push(place);
            }
        }
    }

    /// The slot's socket is closed: what was in its rings is free.
    pub(crate) fn recover(&mut self, slot: u8) {
        for (index, lent) in self.lent.iter_mut().enumerate().filter(|(_, lent)| **lent == slot + 1) {
            *lent = 0;
            self.free.push((index * BUFFER) as u64);
        }
        let large_start = self.lent.len() * BUFFER;
        for (index, (_, pieces)) in
            self.sending.iter_mut().enumerate().filter(|(_, (by, pieces))| *by == slot && *pieces > 0)
        {
            *pieces = 0;
            self.free_large.push((large_start + index * LARGE) as u64);
        }
    }

    fn large(&mut self, place: u64) -> Option<&mut (u8, u8)> {
        self.sending.get_mut(index(place.checked_sub(self.large_start)?, LARGE))
    }
}

#[inline]
fn index(offset: u64, size: usize) -> usize {
    usize::try_from(offset / size as u64).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_socket_gives_back_exactly_what_was_in_its_rings() {
        let mut buffers = Buffers::new(8, 2);
        let places: Vec<u64> = (0..6).map(|_| buffers.take().unwrap()).collect();
        let large = buffers.take_large().unwrap();
        // Two go to each of two sockets, one stays in our hands, one comes back as received.
        for (place, slot) in places.iter().zip([0, 0, 1, 1]) {
            buffers.lend(*place, slot, 1);
        }
        buffers.lend(large, 0, 3);
        buffers.lend(places[5], 0, 1);
        assert_eq!(buffers.received(places[5] + 256), places[5]);
        buffers.recover(0);
        assert_eq!(buffers.free(), 4, "two were never taken, two came back");
        assert_eq!((buffers.take_large(), buffers.take_large().is_some()), (Some(large), true));
        buffers.recover(0);
        assert_eq!(buffers.free(), 4, "nothing is given back twice");
        buffers.recover(1);
        assert_eq!(buffers.free(), 6);
    }

    #[test]
    fn a_large_buffer_is_free_when_its_last_piece_is_sent() {
        let mut buffers = Buffers::new(1, 1);
        assert_eq!(buffers.bytes(), BUFFER + LARGE);
        let place = buffers.take_large().unwrap();
        assert_eq!(buffers.size(place), LARGE);
        buffers.lend(place, 0, 3);
        buffers.sent(place + 256);
        buffers.sent(place + BUFFER as u64);
        assert_eq!(buffers.take_large(), None);
        buffers.sent(place + 2 * BUFFER as u64);
        assert_eq!(buffers.take_large(), Some(place));
        buffers.put(place);
        assert_eq!(buffers.take_large(), Some(place));
    }
}
