//! Instants as Fn shows them.

/// Milliseconds since the Unix epoch, UTC: the resolution of Fn's `created_at` and `updated_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// How long after `earlier` this is, in milliseconds; 0 if it is not after it.
    #[must_use]
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}
