//! The one clock of the daemon: time since it started, and a year.

use std::time::{Duration, Instant};

use sluice_core::time::Now;

/// What the last process left began before this one's clock: its moments must not fall before zero.
const BEFORE: Duration = Duration::from_secs(365 * 86_400);

/// Cheap to copy into every worker; all copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that everything else gets its time from"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Now {
        Now(u64::try_from((BEFORE + self.age()).as_nanos()).unwrap_or(u64::MAX))
    }

    /// Since the start.
    pub fn age(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_long_before_the_process_has_a_time() {
        let clock = Clock::start();
        assert!(clock.now() > Now::from_secs(300 * 86_400) && clock.age() < Duration::from_secs(60));
    }
}
