//! DNS queries that were let through and wait for their answer: only what was asked for may teach us addresses.
//!
//! A fixed number of places. When all that a query may have are taken, the oldest goes: its answer will not be believed,
//! and whoever asked will ask again.

use alloc::boxed::Box;

use ahash::RandomState;

use crate::dns::Question;
use crate::flow_key::FlowKey;
use crate::intrinsics::Seed;
use crate::time::Now;

const BUCKETS: usize = 2048;
const WAYS: usize = 4;
/// As long as Cilium's proxy waits for a resolver.
const PATIENCE: u64 = 10 * Now::SECOND;

/// Hash of all that a query and its answer have in common, and when it was asked. Time 0: free.
type Entry = (u64, u64);

#[derive(Debug)]
pub struct Asked {
    hashing: RandomState,
    buckets: Box<[[Entry; WAYS]]>,
}

impl Asked {
    pub fn new(seed: Seed) -> Self {
        let [a, b, c, d] = seed.0;
        Self {
            hashing: RandomState::with_seeds(a, b, c, d),
            buckets: alloc::vec![[(0, 0); WAYS]; BUCKETS].into(),
        }
    }

    /// `key` is that of the query, also when its answer is looked for.
    fn place(&mut self, key: &FlowKey, question: &Question) -> (u64, &mut [Entry; WAYS]) {
        let said = (question.id, question.kind, question.class, question.name.as_bytes());
        let hash = self.hashing.hash_one((key, said));
        // There are as many buckets as the remainder can say.
        let index = usize::try_from(hash % BUCKETS as u64).unwrap_or(0);
        (hash, &mut self.buckets[index])
    }

    /// True: another one that still waited had to make room.
    pub fn put(&mut self, key: &FlowKey, question: &Question, now: Now) -> bool {
        let (hash, bucket) = self.place(key, question);
        let Some(oldest) = bucket.iter_mut().min_by_key(|(_, at)| *at) else { return false };
        let (_, at) = core::mem::replace(oldest, (hash, now.0.max(1)));
        at > 0 && now.0.saturating_sub(at) <= PATIENCE
    }

    /// Was this asked, and not answered yet?
    pub fn take(&mut self, key: &FlowKey, question: &Question, now: Now) -> bool {
        let (hash, bucket) = self.place(key, question);
        let waits = |(own, at): &&mut Entry| *own == hash && *at > 0 && now.0.saturating_sub(*at) <= PATIENCE;
        match bucket.iter_mut().find(waits) {
            Some(entry) => {
                *entry = (0, 0);
                true
            }
            None => false,
        }
    }
}
