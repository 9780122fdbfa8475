//! The few things that the CPU does better than plain Rust: a keyed hash by AES rounds, comparing eight tags at once, and
//! prefetching. Each has a safe scalar twin that other targets and the tests use; the twins of the comparison agree bit
//! for bit, the hashes are each keyed and well mixed, but differ.
#![allow(unsafe_code, reason = "prefetching takes a pointer; everything else here is safe")]

use ahash::RandomState;

use crate::flow_key::FlowKey;
use crate::state::flow::{halves, pair, ports};

/// Key of the hashes of what others choose, drawn at start: who does not know it cannot aim at a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Seed(pub [u64; 4]);

/// For who hashes nothing that others choose.
impl Default for Seed {
    fn default() -> Self {
        Self([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89])
    }
}

impl Seed {
    /// For maps.
    pub fn hashing(self) -> RandomState {
        let [a, b, c, d] = self.0;
        RandomState::with_seeds(a, b, c, d)
    }
}

/// Two independent 64-bit hashes of a key.
#[inline]
pub fn hash(key: &FlowKey, seed: &Seed) -> [u64; 2] {
    let rest = rest(ports(key.sport, key.dport), key.proto);
    if key.v4 {
        hash_v4(pair(key.src, key.dst), rest, seed)
    } else {
        hash_v6(halves(key.src), halves(key.dst), rest, seed)
    }
}

/// What is not an address of a key, as the next two take it.
#[inline(always)]
pub(crate) const fn rest(ports: u32, proto: u8) -> u64 {
    ports as u64 | (proto as u64) << 32
}

/// The same for words as they stand in a packet.
#[inline(always)]
pub(crate) fn hash_v4(addresses: u64, rest: u64, seed: &Seed) -> [u64; 2] {
    mix::two(addresses, rest, seed)
}

#[inline(always)]
pub(crate) fn hash_v6(src: [u64; 2], dst: [u64; 2], rest: u64, seed: &Seed) -> [u64; 2] {
    mix::three(src, dst, rest, seed)
}

#[cfg(all(target_arch = "x86_64", target_feature = "aes"))]
mod mix {
    use super::Seed;
    use core::arch::x86_64::{__m128i, _mm_aesenc_si128, _mm_set_epi64x, _mm_xor_si128};

    #[inline(always)]
    pub(super) fn two(a: u64, b: u64, seed: &Seed) -> [u64; 2] {
        // SAFETY: this module is compiled only where the whole program is built for CPUs with AES.
        unsafe { aes_two(a, b, seed) }
    }

    #[inline(always)]
    pub(super) fn three(a: [u64; 2], b: [u64; 2], c: u64, seed: &Seed) -> [u64; 2] {
        // SAFETY: as in `two`.
        unsafe { aes_three(a, b, c, seed) }
    }

    #[expect(clippy::cast_possible_wrap, reason = "the same 64 bits")]
    #[target_feature(enable = "sse2,aes")]
    #[inline]
    fn wide([low, high]: [u64; 2]) -> __m128i {
        _mm_set_epi64x(high as i64, low as i64)
    }

    #[target_feature(enable = "sse2,aes")]
    #[inline]
    fn keys(seed: &Seed) -> [__m128i; 2] {
        let [a, b, c, d] = seed.0;
        [wide([a, b]), wide([c, d])]
    }

    #[target_feature(enable = "sse2,aes")]
    #[inline]
    fn finish(v: __m128i, [k0, k1]: [__m128i; 2]) -> [u64; 2] {
        let v = _mm_aesenc_si128(_mm_aesenc_si128(v, k1), k0);
        // SAFETY: both are sixteen bytes in which every pattern is valid. (Taking the halves out one by one costs more.)
        unsafe { core::mem::transmute::<__m128i, [u64; 2]>(v) }
    }

    #[target_feature(enable = "sse2,aes")]
    #[inline]
    fn aes_two(a: u64, b: u64, seed: &Seed) -> [u64; 2] {
        let [k0, k1] = keys(seed);
        finish(_mm_aesenc_si128(_mm_xor_si128(wide([a, b]), k0), k1), [k0, k1])
    }

    #[target_feature(enable = "sse2,aes")]
    #[inline]
    fn aes_three(a: [u64; 2], b: [u64; 2], c: u64, seed: &Seed) -> [u64; 2] {
        let [k0, k1] = keys(seed);
        let v = _mm_aesenc_si128(_mm_xor_si128(wide(a), k0), k1);
        let v = _mm_aesenc_si128(_mm_xor_si128(wide(b), v), k0);
        finish(_mm_aesenc_si128(_mm_xor_si128(wide([c, !c]), v), k1), [k0, k1])
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "aes")))]
mod mix {
    pub(super) use super::scalar::{three, two};
}

/// Folded multiplication with secret operands, for targets without AES.
#[cfg_attr(
    all(target_arch = "x86_64", target_feature = "aes"),
    allow(dead_code, reason = "the twin that tests use")
)]
mod scalar {
    use super::Seed;

    #[expect(clippy::cast_possible_truncation, reason = "folds 128 bits into 64")]
    #[inline]
    fn fold(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    }

    #[inline]
    pub(super) fn two(a: u64, b: u64, seed: &Seed) -> [u64; 2] {
        let one = fold(a ^ seed.0[0], b ^ seed.0[1]);
        let two = fold(b.rotate_left(32) ^ seed.0[2], a ^ seed.0[3]);
        [fold(one ^ seed.0[3], two | 1), fold(two ^ seed.0[1], one | 1)]
    }

    #[inline]
    pub(super) fn three(a: [u64; 2], b: [u64; 2], c: u64, seed: &Seed) -> [u64; 2] {
        let [x, y] = two(a[0], a[1], seed);
        let [u, v] = two(b[0] ^ x, b[1] ^ y, seed);
        two(u ^ c, v, seed)
    }
}

/// Which of eight tags equal this one, as bits.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn matching(tags: &[u16; 8], tag: u16) -> u8 {
    // SAFETY: every x86-64 has SSE2.
    unsafe { matching_vector(tags, tag) }
}

#[cfg(target_arch = "x86_64")]
#[expect(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the same bits"
)]
#[target_feature(enable = "sse2")]
#[inline]
fn matching_vector(tags: &[u16; 8], tag: u16) -> u8 {
    use core::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    // SAFETY: reads the sixteen bytes of the array, at any alignment.
    let lanes = unsafe { _mm_loadu_si128(core::ptr::from_ref(tags).cast()) };
    let equal = _mm_cmpeq_epi16(lanes, _mm_set1_epi16(tag as i16));
    _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u8
}

#[cfg(not(target_arch = "x86_64"))]
pub use matching_scalar as matching;

/// The twin for targets without such vectors, and for the tests.
#[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "the twin that tests use"))]
#[inline]
pub fn matching_scalar(tags: &[u16; 8], tag: u16) -> u8 {
    let mut bits = 0;
    for (lane, value) in tags.iter().enumerate() {
        bits |= u8::from(*value == tag) << lane;
    }
    bits
}

/// Ask for the cache line of this value; no effect but time.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the pointer comes from a live reference, and prefetching only hints: it cannot fault or write.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u16, v4: bool) -> FlowKey {
        let mut src = [0; 16];
        src[10..12].fill(0xff);
        src[14..].copy_from_slice(&n.to_be_bytes());
        FlowKey { src: src.into(), dst: src.into(), sport: n, dport: 80, proto: 6, v4 }
    }

    #[test]
    fn tags_are_compared_lane_by_lane() {
        assert_eq!(matching(&[1, 2, 3, 1, 5, 6, 7, 1], 1), 0b1000_1001);
        assert_eq!(matching(&[0; 8], 1), 0);
        for n in 0..2000_u16 {
            let tags = [n, 3, n ^ 5, 0x8000 | n, n, 7, n << 3, u16::MAX];
            for tag in [n, 3, 7, 0, u16::MAX, 0x8000 | n] {
                assert_eq!(matching(&tags, tag), matching_scalar(&tags, tag));
            }
        }
    }

    #[test]
    fn keys_spread_over_buckets_and_depend_on_the_seed() {
        let seed = Seed([1, 2, 3, 4]);
        for v4 in [true, false] {
            let mut counts = [0_u32; 64];
            for n in 0..6400 {
                counts[(hash(&key(n, v4), &seed)[0] % 64) as usize] += 1;
            }
            assert!(counts.iter().all(|c| (50..160).contains(c)), "{counts:?}");
            assert_ne!(hash(&key(1, v4), &seed), hash(&key(1, v4), &Seed([1, 2, 3, 5])));
        }
    }

    #[test]
    fn the_scalar_twin_spreads_too() {
        let seed = Seed([0x1234_5678_9abc_def0, 0xfedc, 0x1111_2222_3333, 77]);
        let mut counts = [0_u32; 64];
        for n in 0..6400_u64 {
            counts[(scalar::two(n << 32, n, &seed)[1] % 64) as usize] += 1;
            assert_ne!(scalar::three([n, 0], [0, 0], 1, &seed), scalar::three([n + 1, 0], [0, 0], 1, &seed));
        }
        assert!(counts.iter().all(|c| (40..170).contains(c)), "{counts:?}");
    }
}
