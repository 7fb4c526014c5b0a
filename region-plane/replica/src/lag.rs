//! How far the copy is behind what it could have had.
//!
//! Global nodes say with each answer to a report which revision they have applied. A revision that was
//! heard of and is not applied here is lacking since then. That says nothing while nobody answers: the
//! copy is then as new as it can be.

use std::collections::VecDeque;
use std::time::Duration;

use api_types::Revision;
use tokio::time::Instant;

/// A copy that lacks something for longer is behind. A change is applied within a second; a watch that
/// broke off is back in five.
pub(crate) const BEHIND_MIN: Duration = Duration::from_secs(10);

/// Reports are answered every second. With none heard for longer the global plane is away.
const AWAY_MIN: Duration = Duration::from_secs(5);

/// More are thinned out, to a lag's sixteenth at least.
const LACKED_MAX: usize = 32;

/// Between those that are kept after they were thinned out for the first time: twice the time between
/// two reports.
const GAP_MIN: Duration = Duration::from_secs(2);

/// Invariant: `lacked` ascends in both.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// Revisions that were not applied when they were heard of, and when that was.
    lacked: VecDeque<(Revision, Instant)>,
    /// What is heard of sooner after the last of them is left out: it is lacking for about as long.
    gap: Duration,
    heard_at: Option<Instant>,
}

impl Lag {
    /// A global node has applied `newest`, while `applied` is applied here.
    pub fn heard(&mut self, newest: Revision, applied: Revision, now: Instant) {
        self.heard_at = Some(now);
        while self
            .lacked
            .front()
            .is_some_and(|(lacked, _)| *lacked <= applied)
        {
            self.lacked.pop_front();
        }
        match self.lacked.back() {
            Some((lacked, at)) => {
                if newest <= *lacked || now.saturating_duration_since(*at) < self.gap {
                    return;
                }
            }
            None if newest <= applied => return,
            None => self.gap = Duration::ZERO,
        }
        self.lacked.push_back((newest, now));
        if self.lacked.len() > LACKED_MAX {
            // The first stays: it says how long.
            let mut index = 0;
            self.lacked.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.gap = (self.gap * 2).max(GAP_MIN);
        }
    }

    /// How long the copy has lacked something that it could have had; `None` while that is not long, or
    /// nobody can say.
    pub fn behind(&self, applied: Revision, now: Instant) -> Option<Duration> {
        let heard = self.heard_at?;
        if now.saturating_duration_since(heard) >= AWAY_MIN {
            return None;
        }
        let (_, since) = self.lacked.iter().find(|(lacked, _)| *lacked > applied)?;
        let late = now.saturating_duration_since(*since);
        (late >= BEHIND_MIN).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heard once a second for `secs`, with what is applied and what a node has by the second.
    fn run(secs: u64, applied: impl Fn(u64) -> u64, newest: impl Fn(u64) -> u64) -> (Lag, Instant) {
        let begun = Instant::now();
        let mut lag = Lag::default();
        for sec in 0..=secs {
            let now = begun + Duration::from_secs(sec);
            lag.heard(Revision(newest(sec)), Revision(applied(sec)), now);
        }
        (lag, begun + Duration::from_secs(secs))
    }

    fn secs(late: Option<Duration>) -> Option<u64> {
        late.map(|late| late.as_secs())
    }

    #[test]
    fn a_copy_is_behind_by_the_age_of_the_oldest_revision_that_it_lacks() {
        let (lag, now) = run(60, |sec| sec, |sec| sec);
        assert_eq!(lag.behind(Revision(60), now), None, "nothing is lacking");

        let (lag, now) = run(9, |_| 5, |_| 7);
        assert_eq!(lag.behind(Revision(5), now), None, "it may yet come");
        let (lag, now) = run(12, |_| 5, |_| 7);
        assert_eq!(secs(lag.behind(Revision(5), now)), Some(12));
        assert_eq!(lag.behind(Revision(7), now), None, "it has come");

        // It follows all the time, and never comes nearer.
        for by in [12, 100, 340, 3600] {
            let (lag, now) = run(3 * by, |sec| sec.saturating_sub(by), |sec| sec);
            let late = secs(lag.behind(Revision(2 * by), now)).unwrap_or_default();
            assert!((by - by / 8 - 2..=by).contains(&late), "{late} of {by}");
            assert!(lag.lacked.len() <= LACKED_MAX);
        }
    }

    #[test]
    fn nobody_is_behind_a_global_plane_that_is_away() {
        let (lag, now) = run(60, |_| 5, |_| 7);
        let after = |secs| lag.behind(Revision(5), now + Duration::from_secs(secs));
        assert!(after(4).is_some());
        assert_eq!(after(5), None);
        assert_eq!(Lag::default().behind(Revision(0), now), None);
    }

    #[test]
    fn a_node_that_is_itself_behind_changes_nothing() {
        let (mut lag, now) = run(20, |_| 5, |_| 7);
        lag.heard(Revision(4), Revision(5), now);
        assert_eq!(secs(lag.behind(Revision(5), now)), Some(20));
    }
}
