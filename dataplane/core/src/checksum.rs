//! The Internet checksum: sums for building, and updates for changing a few words (RFC 1624).

use core::ops::Add;

/// What a change of words does to the one's complement sum over them. Adding it to a checksum keeps it valid; its
/// complement undoes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// One 16-bit word (at an even offset) turns from `old` into `new`.
    #[inline]
    pub const fn word(old: u16, new: u16) -> Self {
        Self(fold(!old as u32 + new as u32))
    }

    /// Several bytes, starting at an even offset, turn from `old` into `new`. Both are of the same length, a multiple of
    /// four.
    #[inline]
    pub fn bytes(old: &[u8], new: &[u8]) -> Self {
        let (old, new) = (old.as_chunks::<4>().0, new.as_chunks::<4>().0);
        let change = |(old, new): (&[u8; 4], &[u8; 4])| {
            u64::from(!u32::from_be_bytes(*old)) + u64::from(u32::from_be_bytes(*new))
        };
        Self(fold64(old.iter().zip(new).map(change).sum()))
    }

    /// Of several [`change`]s together.
    #[inline]
    pub(crate) const fn of(sum: u64) -> Self {
        Self(fold64(sum))
    }

    /// The way back.
    #[inline]
    #[must_use]
    pub const fn reverse(self) -> Self {
        Self(!self.0)
    }

    /// A checksum after the change.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }
}

/// What two words of a header (at an even offset) that turn into others add to its sum.
#[inline]
pub(crate) const fn change(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// The same of words of sixteen bytes.
#[expect(clippy::cast_possible_truncation, reason = "takes words apart on purpose")]
#[inline(always)]
pub(crate) fn change_wide(words: [(u128, u128); 2]) -> u64 {
    let mut sum = 0_u128;
    for (old, new) in words {
        for half in [!old >> 64, !old & u128::from(u64::MAX), new >> 64, new & u128::from(u64::MAX)] {
            sum += half;
        }
    }
    let low = sum as u64;
    (low >> 32) + (low & 0xffff_ffff) + (sum >> 64) as u64
}

impl Add for Delta {
    type Output = Self;
    #[inline]
    fn add(self, other: Self) -> Self {
        Self(fold(u32::from(self.0) + u32::from(other.0)))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "folded below 2^16")]
#[inline]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The one's complement sum of bytes, not complemented, folded; an odd last byte counts as if a zero followed.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        total += u64::from(u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let mut last = [0; 4];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold64(total + u64::from(u32::from_be_bytes(last)))
}

/// The checksum to put into a field that was zero while summing.
pub fn of(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The sum of a pseudo header, to be added to the sum of the transport part.
pub fn pseudo(src: &[u8], dst: &[u8], proto: u8, len: usize) -> u16 {
    let len = len as u64;
    fold64(u64::from(sum(src)) + u64::from(sum(dst)) + u64::from(proto) + (len >> 16) + (len & 0xffff))
}

/// Add two folded sums.
pub fn add(a: u16, b: u16) -> u16 {
    fold(u32::from(a) + u32::from(b))
}

#[expect(clippy::cast_possible_truncation, reason = "each step halves the width")]
#[inline]
pub const fn fold64(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(((sum & 0xffff) + (sum >> 16)) as u32)
}

/// CRC32c as SCTP carries it; bit by bit, because only rewritten SCTP packets pay for it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| crc_byte(crc, *byte))
}

/// What a change of the first bytes of `len` does to their CRC32c, to be added (without carry) to it. What was wrong
/// before stays wrong. `changed` is old and new, added without carry.
pub fn crc32c_delta(changed: [u8; 4], len: usize) -> u32 {
    let head = changed.iter().fold(0, |crc, byte| crc_byte(crc, *byte));
    (4..len).fold(head, |crc, _| crc_byte(crc, 0))
}

fn crc_byte(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn there_and_back() {
        let delta = Delta::bytes(&[10, 0, 0, 1], &[192, 168, 7, 9]) + Delta::word(80, 8080);
        for checksum in [0, 1, 0x1234, 0xfffe] {
            assert_eq!(delta.reverse().apply(delta.apply(checksum)), checksum);
        }
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_changed_head_changes_the_crc_by_its_delta() {
        let delta = crc32c_delta([b'1' ^ b'x', 0, b'3' ^ 7, 0], 9);
        assert_eq!(crc32c(b"x2\x07456789"), crc32c(b"123456789") ^ delta);
    }
}
