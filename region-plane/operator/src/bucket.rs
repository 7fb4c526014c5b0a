//! How fast to write: a token bucket whose rate follows what the API server can take.
//!
//! Additive increase, multiplicative decrease, as TCP: halved when the server says 429 or 503 or
//! takes long, raised by a twentieth of the configured rate for each second in which all went well.

use std::time::Duration;

use crate::plan::Moment;

/// Of the configured rate: what is left however the server suffers, so that recovery is noticed.
const RATE_FLOOR: f64 = 1.0 / 64.0;

const RAISED_BY: f64 = 1.0 / 20.0;

/// A write that takes this long has queued at the server: it answers in a few milliseconds else.
const SLOW: Duration = Duration::from_secs(1);

/// Refusals that come together are one: they were sent at one rate.
const ADJUSTED_EVERY: Duration = Duration::from_secs(1);

/// Longest pause that a `Retry-After` may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a write ended, as far as it changes the rate of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The server answered, with success or with an error.
    Answered { took: Duration },
    /// The server asked for fewer requests.
    Throttled { retry_after: Option<Duration> },
    /// No answer.
    Lost,
}

#[derive(Debug)]
pub struct Bucket {
    rate_max: f64,
    rate: f64,
    tokens: f64,
    filled: Moment,
    adjusted: Moment,
    paused_until: Moment,
}

impl Bucket {
    #[must_use]
    pub fn new(per_sec: u32, now: Moment) -> Self {
        let rate = f64::from(per_sec.max(1));
        Self {
            rate_max: rate,
            rate,
            tokens: rate,
            filled: now,
            adjusted: now,
            paused_until: Moment::ZERO,
        }
    }

    /// Number of writes that may be sent now; at most those of one second.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between zero and the rate, which came from a u32"
    )]
    pub fn available(&mut self, now: Moment) -> u32 {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now.max(self.filled);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate.max(1.0));
        if now < self.paused_until {
            return 0;
        }
        self.tokens.max(0.0) as u32
    }

    /// Takes the tokens of writes that are sent.
    pub fn spend(&mut self, writes: u32) {
        self.tokens -= f64::from(writes);
    }

    /// Returns a token: its write was never sent.
    pub fn unspend(&mut self) {
        self.tokens += 1.0;
    }

    /// When there will be so many tokens, of which no more than a second's worth gathers.
    #[must_use]
    pub fn next_tokens(&self, count: u32, now: Moment) -> Moment {
        let missing = (f64::from(count) - self.tokens).max(0.0) / self.rate;
        (now + Duration::from_secs_f64(missing)).max(self.paused_until)
    }

    pub fn learn(&mut self, outcome: WriteOutcome, now: Moment) {
        let due = now >= self.adjusted + ADJUSTED_EVERY;
        match outcome {
            WriteOutcome::Answered { took } if took < SLOW => {
                if due && self.rate < self.rate_max {
                    self.rate = (self.rate + self.rate_max * RAISED_BY).min(self.rate_max);
                    self.adjusted = now;
                }
            }
            WriteOutcome::Answered { .. } | WriteOutcome::Lost | WriteOutcome::Throttled { .. } => {
                if let WriteOutcome::Throttled {
                    retry_after: Some(pause),
                } = outcome
                {
                    self.paused_until = self.paused_until.max(now + pause.min(PAUSE_MAX));
                }
                if due {
                    self.rate = (self.rate / 2.0).max(self.rate_max * RATE_FLOOR);
                    self.tokens = self.tokens.min(self.rate);
                    self.adjusted = now;
                }
            }
        }
    }

    /// Writes a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    const QUICK: WriteOutcome = WriteOutcome::Answered {
        took: Duration::from_millis(5),
    };

    #[test]
    fn no_more_than_the_rate_is_let_through() {
        let mut bucket = Bucket::new(20, ms(0));
        let mut sent = 0;
        for now in 0..10_000 {
            let writes = bucket.available(ms(now));
            bucket.spend(writes);
            sent += writes;
        }
        assert!(
            (218..=220).contains(&sent),
            "a second's burst and ten seconds: {sent}"
        );
    }

    #[test]
    fn when_there_will_be_so_many_is_told_to_the_moment() {
        let mut bucket = Bucket::new(20, ms(0));
        bucket.spend(19);
        assert_eq!(bucket.next_tokens(1, ms(0)), ms(0));
        assert_eq!(bucket.next_tokens(2, ms(0)), ms(50));
        assert_eq!(bucket.available(ms(50)), 2);
    }

    #[test]
    fn throttling_halves_once_a_second_and_recovers_in_some() {
        let mut bucket = Bucket::new(20, ms(0));
        let throttled = WriteOutcome::Throttled { retry_after: None };
        for _ in 0..50 {
            bucket.learn(throttled, ms(1_000));
        }
        assert!((bucket.rate() - 10.0).abs() < 1e-9, "one cause, one step");
        bucket.learn(throttled, ms(2_000));
        assert!((bucket.rate() - 5.0).abs() < 1e-9);
        for second in 3..30 {
            bucket.learn(QUICK, ms(second * 1_000));
        }
        assert!((bucket.rate() - 20.0).abs() < 1e-9);
    }

    #[test]
    fn slow_answers_and_lost_ones_slow_it_too_but_never_to_nothing() {
        for outcome in [WriteOutcome::Answered { took: SLOW }, WriteOutcome::Lost] {
            let mut bucket = Bucket::new(64, ms(0));
            for second in 1..100 {
                bucket.learn(outcome, ms(second * 1_000));
            }
            assert!((bucket.rate() - 1.0).abs() < 1e-9, "{outcome:?}");
        }
    }

    #[test]
    fn a_server_that_names_a_time_is_left_alone_until_then() {
        let mut bucket = Bucket::new(20, ms(0));
        let retry_after = Some(Duration::from_secs(2));
        bucket.learn(WriteOutcome::Throttled { retry_after }, ms(100));
        assert_eq!(bucket.available(ms(2_099)), 0);
        assert_eq!(bucket.next_tokens(1, ms(500)), ms(2_100));
        assert!(bucket.available(ms(2_100)) > 0);
    }
}
