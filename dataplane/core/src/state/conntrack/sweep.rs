//! Expiry: a bounded number of entries a turn, in memory order. Those whose time is over are taken out some together, so
//! that the buckets of all of them are on their way while the first is worked on.

use arrayvec::ArrayVec;

use super::{FlowRef, FlowTable, Place};
use crate::intrinsics::prefetch;
use crate::state::flow::{LIVE, Timeouts};
use crate::time::Now;

/// In how many seconds the sweep passes every entry.
pub const SWEEP_SECONDS: u64 = 4;
/// Entries looked at in one turn, at most: some microseconds.
const SWEEP_MOST: usize = 512;
/// And removed, which costs more: when a million flows run out at once, no burst waits for longer than these take.
const REMOVE_MOST: u32 = 64;
/// Flows whose buckets are fetched together before they are removed.
const REMOVE_TOGETHER: usize = 16;

impl FlowTable {
    /// Look at as many entries as time asks for; the expired ones are shown to `ended`, some together, and removed.
    pub fn sweep(&mut self, now: Now, timeouts: &Timeouts, mut ended: impl FnMut(&Self, &[FlowRef])) -> u32 {
        let elapsed = now.0.saturating_sub(self.swept.0).min(SWEEP_SECONDS * Now::SECOND);
        let due = elapsed * u64::from(self.high) / (SWEEP_SECONDS * Now::SECOND);
        if due == 0 {
            self.behind = false;
            return 0;
        }
        let most = usize::try_from(due).map_or(SWEEP_MOST, |due| due.min(SWEEP_MOST));
        let mut left = most;
        let mut removed = 0;
        while left > 0 && removed < REMOVE_MOST {
            let over = self.some_over(now, timeouts, &mut left);
            // What is to be written is fetched for all before the first is touched.
            let places = over.iter().map(|flow| self.places_of(*flow));
            let places: ArrayVec<[Place; 2], REMOVE_TOGETHER> = places.collect();
            for place in places.as_flattened() {
                self.prefetch_bucket(place);
                self.prefetch_second(place);
            }
            ended(self, &over);
            for (flow, places) in over.iter().zip(&places) {
                self.forget(*flow, places);
            }
            removed += u32::try_from(over.len()).unwrap_or(0);
        }
        // After a pause, what one turn may not look at is for the next ones.
        let behind = due - (most - left) as u64;
        self.behind = behind > 0;
        self.swept = now;
        if self.behind {
            let time = (behind * (SWEEP_SECONDS * Now::SECOND)).div_ceil(u64::from(self.high));
            self.swept = Now(now.0 - time);
        }
        removed
    }

    /// Did the last turn of expiry leave something to the next one?
    pub const fn is_behind(&self) -> bool {
        self.behind
    }

    /// The next flows whose time is over.
    fn some_over(
        &mut self,
        now: Now,
        timeouts: &Timeouts,
        left: &mut usize,
    ) -> ArrayVec<FlowRef, REMOVE_TOGETHER> {
        let mut over = ArrayVec::new();
        while *left > 0 && !over.is_full() {
            *left -= 1;
            let index = self.cursor;
            self.cursor = if index + 1 >= self.high { 1 } else { index + 1 };
            let hot = &self.hot[index as usize];
            if hot.is(LIVE) && now.seconds().saturating_sub(hot.seen) > timeouts.of(hot) {
                prefetch(&self.cold[index as usize]);
                over.push(FlowRef::new(index, false));
            }
            if self.cursor == 1 {
                // Nothing is shown twice.
                break;
            }
        }
        over
    }
}
