//! A hash table whose lines are cache lines: each holds a few keys and a word for each. All keys of a line are compared,
//! without a branch: at which place a key is, and whether it is there, is another from address to address.
//!
//! Keys that find their line full lie in the next one that is not, and each line counts the keys that went past it: a
//! search ends at the first line that none went past. Which line that is follows from a secret, too: addresses come from DNS
//! answers, and whoever writes those is not to fill lines one behind the other.

use alloc::vec;
use alloc::vec::Vec;
use core::hint::select_unpredictable;

use crate::intrinsics::{self, Seed};

pub(crate) trait Key: Copy + Eq + Default {
    /// Its high bits say which line a search begins with.
    fn mixed(self, secret: [u64; 2]) -> u64;
}

/// `N` keys, and what is held for each (0: the place is free).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line<K, const N: usize> {
    keys: [K; N],
    held: [u32; N],
    /// Keys that would lie here, or went on from here, if there had been room.
    passed: u32,
}

const _: () = assert!(size_of::<Line<u64, 5>>() == 64 && size_of::<Line<[u64; 2], 3>>() == 64);

impl<K: Key, const N: usize> Line<K, N> {
    fn blank() -> Self {
        Self { keys: [K::default(); N], held: [0; N], passed: 0 }
    }

    #[inline(always)]
    fn find(&self, key: K) -> u32 {
        let mut found = 0;
        for (other, held) in self.keys.iter().zip(self.held) {
            found |= select_unpredictable(*other == key, held, 0);
        }
        found
    }

    fn place(&self, key: K) -> Option<usize> {
        (0..N).find(|n| self.keys[*n] == key && self.held[*n] != 0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Lines<K, const N: usize> {
    /// Their number is a power of two.
    lines: Vec<Line<K, N>>,
    /// What leaves so many bits of a mixed key as it takes.
    shift: u32,
    used: usize,
    secret: [u64; 2],
}

/// Lines that are in some cache whenever they are in use: 32 KiB.
const SMALL: usize = 512;

/// The first bits of an address. Of two of them no more than chance says share a line, because the last factor is secret. (A first
/// multiplication, because one alone leaves the distances between addresses that are evenly apart, as those that are given out
/// often are, so that they fall on few lines.)
impl Key for u64 {
    #[inline(always)]
    fn mixed(self, secret: [u64; 2]) -> u64 {
        let once = self.wrapping_mul(secret[0]);
        (once ^ once >> 32).wrapping_mul(secret[1])
    }
}

/// An address: both halves of a product in which each factor has a part of the secret, so that who does not know it cannot tell
/// which addresses have the same.
impl Key for [u64; 2] {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a product")]
    fn mixed(self, secret: [u64; 2]) -> u64 {
        let product = u128::from(self[0] ^ secret[0]) * u128::from(self[1] ^ secret[1]);
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(secret[1])
    }
}

impl<K: Key, const N: usize> Lines<K, N> {
    /// With room for so many keys, without a further allocation.
    pub(crate) fn with_room(most: usize, seed: Seed) -> Self {
        let lines = (most * 2).div_ceil(N).next_power_of_two().max(2);
        // An even factor would forget bits.
        let secret = [seed.0[2] | 1, seed.0[3] | 1];
        Self { lines: vec![Line::blank(); lines], shift: 64 - lines.trailing_zeros(), used: 0, secret }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer lines than bits are left")]
    fn start(&self, key: K) -> usize {
        (key.mixed(self.secret) >> self.shift) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.lines.len() - 1)
    }

    /// What is held for this key; 0: nothing.
    #[inline(always)]
    pub(crate) fn find(&self, key: K) -> u32 {
        self.find_at_once(key).unwrap_or_else(|| self.find_behind(key))
    }

    /// The same, if one line says so; of nearly all keys one does.
    #[inline(always)]
    pub(crate) fn find_at_once(&self, key: K) -> Option<u32> {
        let line = self.lines.get(self.start(key))?;
        let found = line.find(key);
        // (One question, because no CPU could foresee whether a key is there.)
        let passed = select_unpredictable(found == 0, line.passed, 0);
        if passed > 0 { None } else { Some(found) }
    }

    #[cold]
    #[inline(never)]
    fn find_behind(&self, key: K) -> u32 {
        let mut at = self.start(key);
        // Once around at most: where keys come and go, each line may come to be passed by one.
        for _ in 1..self.lines.len() {
            at = self.next(at);
            let found = self.lines[at].find(key);
            if found != 0 || self.lines[at].passed == 0 {
                return found;
            }
        }
        0
    }

    #[cfg(test)]
    pub(crate) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Start fetching what [`Self::find`] of this key will read, unless that will be there in any case.
    #[inline(always)]
    pub(crate) fn prefetch(&self, key: K) {
        if self.lines.len() > SMALL
            && let Some(line) = self.lines.get(self.start(key))
        {
            intrinsics::prefetch(line);
        }
    }

    /// Hold this word for this key; 0: forget the key.
    pub(crate) fn set(&mut self, key: K, held: u32) {
        let at = self.start(key);
        match (self.position(key), held) {
            (Some((line, place)), 0) => self.take(at, line, place),
            (Some((line, place)), held) => self.lines[line].held[place] = held,
            (None, 0) => {}
            (None, held) => {
                // No more than half full, so that one line in twenty has had keys go past it.
                if (self.used + 1) * 2 > self.lines.len() * N {
                    self.grow();
                }
                self.put(key, held);
                self.used += 1;
            }
        }
    }

    fn position(&self, key: K) -> Option<(usize, usize)> {
        let mut at = self.start(key);
        for _ in 0..self.lines.len() {
            if let Some(place) = self.lines[at].place(key) {
                return Some((at, place));
            }
            if self.lines[at].passed == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    fn put(&mut self, key: K, held: u32) {
        let mut at = self.start(key);
        loop {
            let next = self.next(at);
            let line = &mut self.lines[at];
            if let Some(place) = line.held.iter().position(|held| *held == 0) {
                (line.keys[place], line.held[place]) = (key, held);
                return;
            }
            line.passed += 1;
            at = next;
        }
    }

    fn take(&mut self, start: usize, line: usize, place: usize) {
        let mut at = start;
        while at != line {
            self.lines[at].passed -= 1;
            at = self.next(at);
        }
        (self.lines[line].keys[place], self.lines[line].held[place]) = (K::default(), 0);
        self.used -= 1;
    }

    fn grow(&mut self) {
        let larger = vec![Line::blank(); self.lines.len() * 2];
        let old = core::mem::replace(&mut self.lines, larger);
        self.shift -= 1;
        for line in old {
            for (key, held) in line.keys.into_iter().zip(line.held).filter(|(_, held)| *held != 0) {
                self.put(key, held);
            }
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    #[cfg(test)]
    pub(crate) const fn room(&self) -> usize {
        self.lines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Many keys of few lines.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    struct Crowded(u64);

    impl Key for Crowded {
        fn mixed(self, _: [u64; 2]) -> u64 {
            ((self.0 % 3) << 61) | ((self.0 % 2) << 57)
        }
    }

    fn seed(n: u64) -> Seed {
        let random = n.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Seed([0, 0, random, random.rotate_left(29)])
    }

    /// Of so many keys, how many in a hundred went past a line.
    fn late<K: Key, const N: usize>(seed: Seed, keys: impl Iterator<Item = K>) -> u64 {
        let mut lines = Lines::<K, N>::with_room(0, seed);
        keys.for_each(|key| lines.set(key, 1));
        let late: u64 = lines.lines.iter().map(|line| u64::from(line.passed)).sum();
        late * 100 / lines.len() as u64
    }

    #[test]
    fn addresses_as_they_are_given_out_spread_over_lines() {
        for seed in [seed(1), seed(2), seed(3), Seed::default()] {
            for count in [1 << 10, 10_000, 40_000, 1 << 17] {
                for step in [1, 2, 4, 16, 255, 256, 1 << 12, 1 << 16, 1 << 20, 1 << 24] {
                    let numbers = late::<u64, 5>(seed, (0..count).map(|n| 0x2001_0db8_0000 + n * step));
                    let pairs =
                        late::<u64, 5>(seed, (0..count).map(|n| 0x2a00_0000_0000 + n % 300 * step + n / 300));
                    assert!(
                        numbers < 15 && pairs < 15,
                        "{numbers} and {pairs} of {count} by {step}, {seed:?}"
                    );
                    let high = (0..count).map(|n| [0x2001_0db8_0000_0000 + n * step, 1]);
                    let low = (0..count).map(|n| [0x2001_0db8_0000_0000, n * step + 1]);
                    let both = (0..count).map(|n| [n % 300 * step, n / 300 * step + 1]);
                    let late = [late::<_, 3>(seed, high), late::<_, 3>(seed, low), late::<_, 3>(seed, both)];
                    assert!(late.iter().all(|late| *late < 15), "{late:?} of {count} by {step}, {seed:?}");
                }
            }
        }
    }

    /// Whoever writes DNS answers may know this program, but not its secret.
    #[test]
    fn addresses_that_share_a_line_under_one_secret_spread_under_another() {
        let tables = [1, 2, 3].map(|n| Lines::<[u64; 2], 3>::with_room(30_000, seed(n)));
        let aimed: Vec<[u64; 2]> = (0..4_000_000_u64)
            .map(|n| [0x2a00_0000_0000_0000 | (n % 1000), n / 1000])
            .filter(|key| tables[0].start(*key) == 7)
            .collect();
        assert!(aimed.len() > 50);
        for table in &tables[1..] {
            let lines: alloc::collections::BTreeSet<usize> =
                aimed.iter().map(|key| table.start(*key)).collect();
            assert!(lines.len() * 10 > aimed.len() * 9, "{} lines for {}", lines.len(), aimed.len());
        }
    }

    #[test]
    fn keys_that_went_past_full_lines_are_found_until_they_go() {
        let (mut lines, mut list) = (Lines::<Crowded, 5>::with_room(0, Seed::default()), BTreeMap::new());
        let mut state = 1_u64;
        for step in 1..20_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = Crowded(state >> 40 & 63);
            let held = if state >> 60 < 6 { 0 } else { step };
            lines.set(key, held);
            let _ = if held == 0 { list.remove(&key) } else { list.insert(key, held) };
            assert_eq!(lines.len(), list.len());
            for key in (0..64).map(Crowded) {
                assert_eq!(lines.find(key), list.get(&key).copied().unwrap_or(0), "{key:?} after {step}");
            }
        }
        assert!(lines.lines.iter().any(|line| line.passed > 5), "lines were full");
        (0..64).for_each(|key| lines.set(Crowded(key), 0));
        assert!(lines.is_empty() && lines.lines.iter().all(|line| line.passed == 0));
    }

    /// The first of four lines by its highest bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Aimed(u64, u64);

    impl Key for Aimed {
        fn mixed(self, _: [u64; 2]) -> u64 {
            self.0 << 62
        }
    }

    #[test]
    fn a_search_ends_where_every_line_was_passed() {
        let mut lines = Lines::<Aimed, 5>::with_room(8, Seed::default());
        assert_eq!(lines.room(), 4);
        for (start, line) in (0..4).zip(0..) {
            // Fill the line, have one key go past it, and take out the others.
            let keys: Vec<Aimed> = (1..7).map(|n| Aimed(start, n)).collect();
            let mut past = 0;
            for key in keys {
                lines.set(key, 1);
                if lines.lines[line].place(key).is_none() {
                    past = key.1;
                    break;
                }
            }
            assert!(past > 0, "none went past line {start}");
            (1..past).for_each(|n| lines.set(Aimed(start, n), 0));
        }
        assert!(lines.room() == 4 && lines.lines.iter().all(|line| line.passed > 0));
        for start in 0..4 {
            assert_eq!(lines.find(Aimed(start, 99)), 0);
            lines.set(Aimed(start, 99), 0);
        }
        lines.set(Aimed(2, 99), 7);
        assert_eq!((lines.find(Aimed(2, 99)), lines.len()), (7, 5));
    }
}
