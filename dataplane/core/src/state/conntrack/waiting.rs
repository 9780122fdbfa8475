//! Flows in the order in which they began to wait for their other side: who is to go first when the table is full.

use alloc::boxed::Box;
use alloc::vec;

/// A list as long as memory was set aside for: the oldest are forgotten, not the newest.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Written to when it is made, so that no packet waits for its pages.
    ring: Box<[u32]>,
    /// Where the next one goes.
    next: usize,
    len: usize,
}

impl Waiting {
    pub(super) fn new(most: usize) -> Self {
        Self { ring: vec![u32::MAX; most].into(), next: 0, len: 0 }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, index: u32) {
        if let Some(place) = self.ring.get_mut(self.next) {
            *place = index;
        }
        let next = self.next + 1;
        self.next = if next < self.ring.len() { next } else { 0 };
        self.len = (self.len + 1).min(self.ring.len());
    }

    /// The one that has waited longest.
    pub(super) fn take(&mut self) -> Option<u32> {
        let behind = self.next.checked_sub(self.len).unwrap_or(self.next + self.ring.len() - self.len);
        let oldest = *self.ring.get(behind)?;
        self.len = self.len.checked_sub(1)?;
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;

    #[test]
    fn the_oldest_comes_first_and_is_forgotten_first() {
        let (mut waiting, mut list) = (Waiting::new(7), VecDeque::new());
        for n in 0..2000_u32 {
            // More and less of them by turns.
            if n % 40 < 25 || n % 3 == 0 {
                waiting.add(n);
                list.push_back(n);
                if list.len() > 7 {
                    list.pop_front();
                }
            } else {
                assert_eq!(waiting.take(), list.pop_front());
            }
        }
        while let Some(oldest) = list.pop_front() {
            assert_eq!(waiting.take(), Some(oldest));
        }
        assert_eq!(waiting.take(), None);
    }
}
