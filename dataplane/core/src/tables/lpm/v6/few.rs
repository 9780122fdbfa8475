//! Prefixes behind an anchor where there are few: all are compared at once.

use core::hint::select_unpredictable;

use crate::intrinsics::matching;

/// So many.
pub(super) const LANES: usize = 8;
/// A mark has no room for so many bits.
const MOST: u8 = 16;

/// Prefixes of less than sixteen bits, the longest first. Behind the last are marks that, should they hold an address, do so
/// after all others, and without a value. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Few {
    /// The bits of each, from the top, and a one behind them.
    marks: [u16; LANES],
    values: [u32; LANES],
}

const BLANK: u16 = u16::MAX;

impl Default for Few {
    fn default() -> Self {
        Self { marks: [BLANK; LANES], values: [0; LANES] }
    }
}

/// The mark of the first `len` bits of these.
const fn mark(rest: u16, len: u8) -> u16 {
    let end = 0x8000 >> len;
    rest & !(end | (end - 1)) | end
}

/// What of an address a mark is about.
#[inline(always)]
const fn mask(mark: u16) -> u16 {
    // The mark's last one, and the zeros behind it.
    !(mark ^ mark.wrapping_sub(1))
}

impl Few {
    /// What the longest of those that hold an address that goes on like this has; 0: there is none.
    #[inline(always)]
    pub(super) fn lookup(&self, rest: u16) -> u32 {
        let strange = self.marks.map(|mark| (rest ^ mark) & mask(mark));
        let holding = matching(&strange, 0);
        let value = self.values[holding.trailing_zeros() as usize % LANES];
        select_unpredictable(holding == 0, 0, value)
    }

    fn count(&self) -> usize {
        self.values.iter().filter(|value| **value != 0).count()
    }

    fn place(&self, mark: u16) -> Option<usize> {
        self.marks[..self.count()].iter().position(|other| *other == mark)
    }

    /// What this very prefix has; 0: nothing.
    pub(super) fn get(&self, rest: u16, len: u8) -> u32 {
        let place = if len < MOST { self.place(mark(rest, len)) } else { None };
        place.map_or(0, |at| self.values[at])
    }

    /// What was there (0: nothing). `None`: it has no place here.
    pub(super) fn insert(&mut self, rest: u16, len: u8, value: u32) -> Option<u32> {
        if len >= MOST {
            return None;
        }
        let mark = mark(rest, len);
        if let Some(at) = self.place(mark) {
            return Some(core::mem::replace(&mut self.values[at], value));
        }
        let count = self.count();
        if count == LANES {
            return None;
        }
        // The longer a prefix, the lower its mark's last one.
        let behind = |other: &u16| other.trailing_zeros() <= mark.trailing_zeros();
        let at = self.marks[..count].partition_point(behind);
        self.marks.copy_within(at..count, at + 1);
        self.values.copy_within(at..count, at + 1);
        (self.marks[at], self.values[at]) = (mark, value);
        Some(0)
    }

    /// What was there; 0: nothing.
    pub(super) fn remove(&mut self, rest: u16, len: u8) -> u32 {
        let place = if len < MOST { self.place(mark(rest, len)) } else { None };
        let Some(at) = place else { return 0 };
        let old = self.values[at];
        self.marks.copy_within(at + 1.., at);
        self.values.copy_within(at + 1.., at);
        (self.marks[LANES - 1], self.values[LANES - 1]) = (BLANK, 0);
        old
    }

    /// If all are the one of no bits, or none, what that has.
    pub(super) fn own(&self) -> Option<u32> {
        // (It is the shortest, and so the last.)
        (self.values[1] == 0 && (self.values[0] == 0 || self.marks[0] == mark(0, 0)))
            .then_some(self.values[0])
    }

    /// Bits, length and value of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u8, u32)> + '_ {
        let known = self.marks.iter().zip(self.values).take(self.count());
        known.map(|(mark, value)| {
            let len = u8::try_from(15 - mark.trailing_zeros()).unwrap_or(0);
            (mark & mask(*mark), len, value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_few_that_hold_an_address_says() {
        let mut few = Few::default();
        assert_eq!(few.lookup(0), 0);
        let prefixes =
            [(0x8000, 1), (0x8000, 15), (0, 0), (0xfffe, 15), (0x8000, 4), (0x4000, 2), (0, 15), (0, 8)];
        for ((bits, len), value) in prefixes.into_iter().zip(1..) {
            assert_eq!(few.insert(bits, len, 7), Some(0));
            assert_eq!(few.insert(bits, len, value), Some(7));
        }
        assert_eq!(few.insert(0x2000, 3, 9), None, "it is full");
        let holds = |rest: u16, (bits, len): (u16, u8)| len == 0 || (rest ^ bits) >> (16 - len) == 0;
        let mut left = prefixes.into_iter().zip(1..).collect::<alloc::vec::Vec<_>>();
        while let Some((gone, _)) = left.pop() {
            assert_eq!(few.get(gone.0, gone.1), few.remove(gone.0, gone.1));
            for rest in (0..=u16::MAX).step_by(7).chain([1, 0x8001, 0xfffe, 0xffff]) {
                let held = left.iter().filter(|(prefix, _)| holds(rest, *prefix));
                let best = held.max_by_key(|((_, len), _)| *len).map_or(0, |(_, value)| *value);
                assert_eq!(few.lookup(rest), best, "{rest:x} of {left:?}");
            }
        }
    }
}
