//! A service as the path reads it: which backend a hash picks, and which backends are still there.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::intrinsics::prefetch;
use crate::tables::maglev;
use crate::tables::record::{Algorithm, Backend, BackendId, BackendState, Service};

/// (In an order that keeps what a new flow reads together.)
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Balanced {
    choice: Choice,
    pub record: Service,
    /// Where each backend is in the record, sorted by id.
    by_id: Box<[(BackendId, u16)]>,
}

/// Indices into the record's backends.
#[derive(Clone, Debug)]
enum Choice {
    /// Any of these that may get new flows.
    Any(Box<[u16]>),
    /// Maglev's slots; most services have few backends, so most rows are bytes.
    Narrow(Box<[u8]>, Modulus),
    Wide(Box<[u16]>, Modulus),
    /// Maglev's slots, when they are built.
    Later,
}

impl Balanced {
    pub(super) fn new(record: &Service, seed: u32) -> Self {
        Self::with(record, Choice::new(record, seed))
    }

    /// The same without a row; it is built beside the path.
    pub(super) fn later(record: &Service) -> Self {
        let has_row = matches!(record.algorithm, Algorithm::Maglev(_)) && record.has_usable();
        Self::with(record, if has_row { Choice::Later } else { Choice::Any(usable(&record.backends).into()) })
    }

    fn with(record: &Service, choice: Choice) -> Self {
        let mut by_id: Vec<(BackendId, u16)> = record.backends.iter().map(|b| b.id).zip(0_u16..).collect();
        by_id.sort_unstable();
        Self { choice, record: record.clone(), by_id: by_id.into() }
    }

    /// Can it pick already? Flows that it has do not need to know.
    #[inline]
    pub fn is_ready(&self) -> bool {
        !matches!(self.choice, Choice::Later)
    }

    /// The backend for a new flow with this hash. Nobody while it is not ready.
    #[inline]
    pub fn pick(&self, hash: u32) -> Option<&Backend> {
        self.at(self.slot(hash))
    }

    /// Start fetching what [`Self::slot`] will read.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.choice);
        prefetch(&self.record.reject);
    }

    /// The slot for this hash; what [`Self::at`] will read is being fetched.
    #[inline]
    pub fn slot(&self, hash: u32) -> usize {
        match &self.choice {
            Choice::Any(usable) => fetched(usable, reduce(hash, usable.len())),
            Choice::Narrow(row, size) => fetched(row, size.of(hash)),
            Choice::Wide(row, size) => fetched(row, size.of(hash)),
            Choice::Later => 0,
        }
    }

    /// The backend in this slot. Nobody while it is not ready.
    #[inline]
    pub fn at(&self, slot: usize) -> Option<&Backend> {
        let index = match &self.choice {
            Choice::Any(row) | Choice::Wide(row, _) => *row.get(slot)?,
            Choice::Narrow(row, _) => u16::from(*row.get(slot)?),
            Choice::Later => return None,
        };
        self.record.backends.get(usize::from(index))
    }

    /// The backend with this id, if it is still there for flows that it already has.
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        let at = self.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.record.backends.get(usize::from(self.by_id[at].1))
    }

    /// Maglev's row as backends, a slot each; empty for other algorithms.
    pub fn row(&self) -> impl Iterator<Item = &Backend> {
        let (narrow, wide): (&[u8], &[u16]) = match &self.choice {
            Choice::Any(_) | Choice::Later => (&[], &[]),
            Choice::Narrow(row, _) => (row, &[]),
            Choice::Wide(row, _) => (&[], row),
        };
        let indices = narrow.iter().map(|index| u16::from(*index)).chain(wide.iter().copied());
        indices.filter_map(|index| self.record.backends.get(usize::from(index)))
    }
}

impl Choice {
    fn new(record: &Service, seed: u32) -> Self {
        let usable = usable(&record.backends);
        let Algorithm::Maglev(size) = record.algorithm else { return Self::Any(usable.into()) };
        if usable.is_empty() {
            return Self::Any(Box::default());
        }
        let row = maglev_row(record, &usable, size, seed);
        let modulus = Modulus::new(size);
        if record.backends.len() <= 256 {
            Self::Narrow(row.map(|index| index.to_le_bytes()[0]).collect(), modulus)
        } else {
            Self::Wide(row.collect(), modulus)
        }
    }
}

#[inline(always)]
fn fetched<T>(slots: &[T], slot: usize) -> usize {
    if let Some(slot) = slots.get(slot) {
        prefetch(slot);
    }
    slot
}

/// Active backends with a weight; when there are none, those that still serve while terminating.
fn usable(backends: &[Backend]) -> Vec<u16> {
    let those = |state: BackendState| -> Vec<u16> {
        let fits = |b: &Backend| b.state == state && b.weight > 0;
        backends.iter().zip(0_u16..).filter(|(b, _)| fits(b)).map(|(_, index)| index).collect()
    };
    let active = those(BackendState::Active);
    if active.is_empty() { those(BackendState::Terminating) } else { active }
}

/// The slots, as indices into the record's backends.
fn maglev_row(record: &Service, usable: &[u16], size: u32, seed: u32) -> impl Iterator<Item = u16> {
    let named = |index: &u16| {
        let backend = &record.backends[usize::from(*index)];
        (maglev::backend_name(backend.ip, backend.port, record.proto), backend.weight, *index)
    };
    let mut named: Vec<(String, u16, u16)> = usable.iter().map(named).collect();
    // All gateways agree on this order, whatever the record's.
    named.sort_unstable();
    let order: Vec<u16> = named.iter().map(|(.., index)| *index).collect();
    let backends: Vec<(String, u16)> = named.into_iter().map(|(name, weight, _)| (name, weight)).collect();
    maglev::build(&backends, size, seed).into_iter().map(move |slot| order[usize::from(slot)])
}

/// `hash % size` by two multiplications instead of a division; exact for all 32-bit numbers.
#[derive(Clone, Copy, Debug)]
struct Modulus {
    size: u32,
    /// 2^64 / size, rounded up.
    inverse: u64,
}

impl Modulus {
    fn new(size: u32) -> Self {
        let size = size.max(1);
        Self { size, inverse: (u64::MAX / u64::from(size)).wrapping_add(1) }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the result is below `size`")]
    fn of(self, hash: u32) -> usize {
        let fraction = self.inverse.wrapping_mul(u64::from(hash));
        let wide = u128::from(fraction) * u128::from(self.size);
        (wide >> 64) as usize
    }
}

/// Spread a hash over `count` choices.
#[inline]
pub fn reduce(hash: u32, count: usize) -> usize {
    // Multiplied first, so that choices do not hang on the low bits alone.
    let mixed = u64::from(hash.wrapping_mul(0x9e37_79b1));
    ((mixed * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::record::{Forwarding, Reach};
    use alloc::vec;

    #[test]
    fn the_modulus_is_a_modulus() {
        for size in maglev::SIZES {
            let modulus = Modulus::new(size);
            for hash in [0, 1, size - 1, size, size + 1, 0x8000_0000, u32::MAX - 1, u32::MAX] {
                assert_eq!(modulus.of(hash), (hash % size) as usize, "{hash} % {size}");
            }
            for n in 0..10_000_u32 {
                let hash = n.wrapping_mul(0x9e37_79b1);
                assert_eq!(modulus.of(hash), (hash % size) as usize);
            }
        }
    }

    fn service(count: u16, algorithm: Algorithm) -> Service {
        let backend = |n: u16| Backend {
            id: BackendId(u32::from(n) * 7 + 1),
            ip: core::net::IpAddr::from([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]),
            port: 80,
            weight: 100,
            state: BackendState::Active,
            reach: Reach::Itself,
        };
        Service {
            proto: 6,
            algorithm,
            forwarding: Forwarding::Dnat,
            affinity_seconds: 0,
            reject: false,
            backends: (0..count).map(backend).collect(),
        }
    }

    #[test]
    fn narrow_and_wide_rows_are_the_same_row() {
        for count in [1, 255, 256, 257, 300] {
            let record = service(count, Algorithm::Maglev(4093));
            let built = Balanced::new(&record, 1);
            let usable = usable(&record.backends);
            let row: Vec<BackendId> =
                maglev_row(&record, &usable, 4093, 1).map(|i| record.backends[usize::from(i)].id).collect();
            assert_eq!(built.row().map(|b| b.id).collect::<Vec<_>>(), row);
            for hash in (0..100_000).step_by(77) {
                assert_eq!(built.pick(hash).unwrap().id, row[hash as usize % 4093]);
            }
        }
    }

    #[test]
    fn who_has_no_row_to_build_is_ready_at_once() {
        let mut record = service(3, Algorithm::Maglev(251));
        assert!(!Balanced::later(&record).is_ready() && Balanced::new(&record, 1).is_ready());
        assert!(Balanced::later(&record).pick(7).is_none());
        record.backends.iter_mut().for_each(|backend| backend.weight = 0);
        assert!(Balanced::later(&record).is_ready(), "nobody to choose from");
        assert!(Balanced::later(&service(3, Algorithm::Random)).pick(7).is_some());
    }

    #[test]
    fn the_order_of_the_record_does_not_matter() {
        let record = service(50, Algorithm::Maglev(1021));
        let mut turned = record.clone();
        turned.backends.reverse();
        let ids = |s: &Service| Balanced::new(s, 1).row().map(|b| b.id).collect::<Vec<_>>();
        assert_eq!(ids(&record), ids(&turned));
    }

    #[test]
    fn new_flows_go_to_active_backends_else_to_terminating_ones() {
        for algorithm in [Algorithm::Random, Algorithm::Maglev(251)] {
            let mut record = service(4, algorithm);
            record.backends[0].state = BackendState::Terminating;
            record.backends[1].state = BackendState::Quarantined;
            record.backends[2].weight = 0;
            let picks = |record: &Service| {
                let built = Balanced::new(record, 1);
                let mut ids: Vec<_> =
                    (0..500_u32).filter_map(|h| Some(built.pick(h * 8_000_009)?.id.0)).collect();
                ids.sort_unstable();
                ids.dedup();
                ids
            };
            assert_eq!(picks(&record), vec![22]);
            record.backends[3].state = BackendState::Maintenance;
            assert_eq!(picks(&record), vec![1]);
            record.backends[0].weight = 0;
            assert_eq!(picks(&record), Vec::<u32>::new());
            // Flows that are there already still find theirs.
            assert_eq!(Balanced::new(&record, 1).backend(BackendId(8)).unwrap().ip, record.backends[1].ip);
            assert_eq!(Balanced::new(&record, 1).backend(BackendId(2)), None);
        }
    }
}
