//! Reading the clock, and making something of several readings.

use std::time::Instant;

/// How long this took, in nanoseconds.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
pub(crate) fn time<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64() * 1e9, result)
}

/// How often this thread has lost its core while it had something to do.
fn switches() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Tells long stretches from those in which somebody else had the core.
#[derive(Debug)]
pub(crate) struct Undisturbed {
    switches: u64,
    /// How many stretches were not ours alone.
    pub disturbed: u64,
}

impl Undisturbed {
    /// Shorter than a turn of the scheduler by far: not looked at any closer.
    const SHORT: f64 = 20_000.0;

    pub(crate) fn new() -> Self {
        Self { switches: switches(), disturbed: 0 }
    }

    /// Was all of this time, in nanoseconds, ours? Asked right after it.
    pub(crate) fn was_ours(&mut self, time: f64) -> bool {
        if time < Self::SHORT {
            return true;
        }
        let before = std::mem::replace(&mut self.switches, switches());
        let ours = before == self.switches;
        self.disturbed += u64::from(!ours);
        ours
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) const fn to_float(n: u64) -> f64 {
    n as f64
}

pub(crate) fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(min(&[3.0, 1.0, 2.0]), 1.0);
        assert!(median(&[]).is_nan());
    }
}
