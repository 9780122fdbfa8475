//! The one clock of the daemon: seconds since it started, from zero.

use std::time::Instant;

use sluice_core::time::Now;

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
        // One second ahead, so that no flow's first second is zero.
        Now(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX) + Now::SECOND)
    }
}
