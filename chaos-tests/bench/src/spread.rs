//! Percentiles of what was measured.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// # Panics
    /// If nothing was measured: a figure must not be made up.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Self(samples)
    }

    /// The sample that `percent` of the samples do not exceed.
    pub fn percentile(&self, percent: usize) -> Millis {
        let rank = (self.0.len() * percent)
            .div_ceil(100)
            .clamp(1, self.0.len());
        Millis(self.0[rank - 1])
    }
}

/// Prints as milliseconds with three digits.
#[derive(Debug, Clone, Copy)]
pub struct Millis(pub Duration);

impl Millis {
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub fn ratio(self, other: Self) -> f64 {
        self.0.as_secs_f64() / other.0.as_secs_f64()
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0.as_secs_f64() * 1e3)
    }
}
