//! Maglev rows exactly as Cilium builds them, so that a Sluice beside a Cilium, or two Sluices, agree on every flow.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::IpAddr;

/// Table sizes that Cilium allows.
pub const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// What a backend without a weight of its own counts.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Cilium's default hash seed (`JLfvgnHc2kaSUFaI`) in its three parts.
pub const DEFAULT_SEEDS: [u32; 3] = [0x24b7_ef82, 0x71dc_da46, 0x9250_5688];

/// The name under which a backend takes part; all nodes sort by it.
pub fn backend_name(ip: IpAddr, port: u16, proto: u8) -> String {
    let proto = match proto {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => "ANY",
    };
    let mut name = String::new();
    // Writing to a string cannot fail.
    let _ = match ip {
        IpAddr::V4(ip) => write!(name, "[{ip}:{port}/{proto},State:active]"),
        IpAddr::V6(ip) => write!(name, "[[{ip}]:{port}/{proto},State:active]"),
    };
    name
}

/// One backend's walk through the slots.
struct Walk {
    at: u32,
    skip: u32,
    weight: u64,
    /// The backend's turn is skipped until its weight times the round has caught up with this.
    due: f64,
}

/// Fill `size` slots with indices into `backends` (name, weight), which are sorted by name.
pub fn build(backends: &[(String, u16)], size: u32, seed: u32) -> Vec<u16> {
    if backends.is_empty() || size < 2 {
        return Vec::new();
    }
    let count = backends.len();
    let sum: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut walks: Vec<Walk> =
        backends.iter().map(|(name, weight)| walk(name, *weight, count, size, seed)).collect();
    // Cilium looks at weights only when the average is more than one; of equal ones none ever waits for its turn.
    let weighted = sum / (count as u64) > 1 && backends.iter().any(|(_, weight)| *weight != backends[0].1);
    let mut row = vec![u16::MAX; size as usize];
    let mut turn = 0;
    for n in 0..u64::from(size) {
        let mut i = turn;
        turn = if turn + 1 == count { 0 } else { turn + 1 };
        if weighted {
            while (n + 1) * walks[i].weight < whole(walks[i].due) {
                i = if i + 1 == count { 0 } else { i + 1 };
            }
            walks[i].due += to_float(sum);
        }
        let slot = walks[i].next(&row, size);
        row[slot] = u16::try_from(i).unwrap_or(u16::MAX);
    }
    row
}

#[expect(clippy::cast_possible_truncation, reason = "both are below `size`")]
fn walk(name: &str, weight: u16, count: usize, size: u32, seed: u32) -> Walk {
    let (h1, h2) = murmur3(name.as_bytes(), seed);
    Walk {
        at: (h1 % u64::from(size)) as u32,
        skip: (h2 % u64::from(size - 1)) as u32 + 1,
        weight: u64::from(weight),
        due: f64::from(weight) / to_float(count as u64),
    }
}

#[expect(clippy::cast_precision_loss, reason = "weights and counts stay far below 2^52")]
fn to_float(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, far below 2^63")]
fn whole(x: f64) -> u64 {
    x as u64
}

impl Walk {
    /// The next free slot of this backend's permutation; the walk goes on behind it.
    #[inline]
    fn next(&mut self, row: &[u16], size: u32) -> usize {
        loop {
            let slot = self.at as usize;
            self.at += self.skip;
            if self.at >= size {
                self.at -= size;
            }
            if row[slot] == u16::MAX {
                return slot;
            }
        }
    }
}

/// MurmurHash3, 128 bits, x64 variant.
fn murmur3(data: &[u8], seed: u32) -> (u64, u64) {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let k1_of = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let k2_of = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        h1 ^= k1_of(word(&block[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= k2_of(word(&block[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = blocks.remainder();
    if tail.len() > 8 {
        h2 ^= k2_of(word(&tail[8..]));
    }
    if !tail.is_empty() {
        h1 ^= k1_of(word(&tail[..tail.len().min(8)]));
    }
    h1 ^= data.len() as u64;
    h2 ^= data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

const fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn murmur3_known_answers() {
        assert_eq!(murmur3(b"", 0), (0, 0));
        assert_eq!(murmur3(b"hello", 0), (0xcbd8_a7b3_41bd_9b02, 0x5b1e_906a_48ae_1d19));
        assert_eq!(
            murmur3(b"The quick brown fox jumps over the lazy dog", 0),
            (0xe34b_bc7b_bc07_1b6c, 0x7a43_3ca9_c49a_9347)
        );
    }

    #[test]
    fn weights_give_ciliums_counts() {
        let backends: Vec<(String, u16)> = [2, 13, 111, 10]
            .iter()
            .enumerate()
            .map(|(n, weight)| (format!("backend-{n}"), *weight))
            .collect();
        let row = build(&backends, 1021, DEFAULT_SEEDS[0]);
        let counts: Vec<usize> = (0..4).map(|b: u16| row.iter().filter(|slot| **slot == b).count()).collect();
        assert_eq!(counts, [16, 98, 832, 75]);
    }

    #[test]
    fn names_are_ciliums() {
        assert_eq!(backend_name("10.0.0.1".parse().unwrap(), 80, 6), "[10.0.0.1:80/TCP,State:active]");
        assert_eq!(backend_name("fd00::1".parse().unwrap(), 53, 17), "[[fd00::1]:53/UDP,State:active]");
    }

    #[test]
    fn removing_one_of_a_hundred_moves_few_others() {
        let mut backends: Vec<(String, u16)> = (0..100)
            .map(|n| (backend_name(format!("10.0.1.{n}").parse().unwrap(), 80, 6), DEFAULT_WEIGHT))
            .collect();
        backends.sort();
        let before = build(&backends, 16381, DEFAULT_SEEDS[0]);
        let gone = backends.remove(37).0;
        let after = build(&backends, 16381, DEFAULT_SEEDS[0]);
        let name = |row: &[u16], slot: usize, removed: bool| {
            let index = usize::from(row[slot]);
            if removed || index < 37 {
                index
            } else if index == 37 {
                usize::MAX
            } else {
                index - 1
            }
        };
        let moved = (0..16381)
            .filter(|slot| name(&before, *slot, false) != usize::MAX)
            .filter(|slot| name(&before, *slot, false) != name(&after, *slot, true))
            .count();
        // Cilium's rule of thumb promises one per cent on average; a single removal may cost somewhat more.
        assert!(moved * 50 <= 16381, "{moved} of 16381 slots moved when {gone} went");
    }
}
