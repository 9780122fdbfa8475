//! Time as the path sees it: handed in once a burst, never read.

/// Nanoseconds since an arbitrary start that the caller keeps (boot, the start of a capture, zero in a test).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Now(pub u64);

impl Now {
    pub const SECOND: u64 = 1_000_000_000;

    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * Self::SECOND)
    }

    /// Whole seconds as flows store them: 136 years before it wraps.
    #[expect(clippy::cast_possible_truncation, reason = "wraps after 136 years of uptime")]
    #[inline]
    pub const fn seconds(self) -> u32 {
        (self.0 / Self::SECOND) as u32
    }
}
