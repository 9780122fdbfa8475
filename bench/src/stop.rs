//! Ctrl-C: what was measured until then is still shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether somebody asked to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

/// From now on SIGINT and SIGTERM only ask.
pub(crate) fn on_signals() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time they do what they always did.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop.0))?;
        signal_hook::flag::register(signal, Arc::clone(&stop.0))?;
    }
    Ok(stop)
}

impl Stop {
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Sleep, but not on when asked to stop.
    pub(crate) fn wait(&self, time: Duration) {
        const STEP: Duration = Duration::from_millis(20);
        let mut left = time;
        while !left.is_zero() && !self.asked() {
            std::thread::sleep(left.min(STEP));
            left = left.saturating_sub(STEP);
        }
    }
}
