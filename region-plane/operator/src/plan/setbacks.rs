//! Who must wait before another pod is made for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ConditionReason, Moment, Owner, Trouble};

/// One failure is an accident and its pod replaced at once; from the second on each waits twice as
/// long, so that a crash loop does not eat what others need.
const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Pods that fail together, with their node for one, are one failure.
const TOGETHER: Duration = Duration::from_secs(1);

/// A function that has failed no more for this long starts afresh.
const FORGOTTEN: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub struct Setbacks {
    /// Pods that came up and ended.
    ended: BTreeMap<Owner, Setback>,
    /// Pods that the API server did not let us make.
    refused: BTreeMap<Owner, Setback>,
}

#[derive(Debug)]
struct Setback {
    count: u32,
    at: Moment,
    trouble: Trouble,
}

impl Setback {
    /// `free` of them are without consequence.
    fn until(&self, free: u32) -> Moment {
        match self.count.saturating_sub(free) {
            0 => self.at,
            waits => {
                let factor = 1u32 << (waits - 1).min(16);
                self.at + DELAY_MIN.saturating_mul(factor).min(DELAY_MAX)
            }
        }
    }
}

impl Setbacks {
    /// A pod of it ended by itself, after it had run for so long. One that its node gave up is not held
    /// against its owner: on another node the next may stay. Nor is one that did well for long: of many
    /// instances some end every minute, and none of them in a loop.
    pub fn ended(&mut self, owner: Owner, trouble: Trouble, ran: Duration, now: Moment) {
        if trouble.reason == ConditionReason::PodLost || ran > DELAY_MAX {
            return;
        }
        add(&mut self.ended, owner, trouble, now);
    }

    /// A pod of it was refused.
    pub fn refused(&mut self, owner: Owner, trouble: Trouble, now: Moment) {
        add(&mut self.refused, owner, trouble, now);
    }

    /// A pod of it was made. Says nothing of whether it will stay up.
    pub fn made(&mut self, owner: &Owner) {
        self.refused.remove(owner);
    }

    /// What was changed may have been what was wrong.
    pub fn forgive(&mut self, owner: &Owner) {
        self.ended.remove(owner);
        self.refused.remove(owner);
    }

    pub fn forget(&mut self, now: Moment) {
        self.ended.retain(|_, setback| now < setback.at + FORGOTTEN);
        self.refused
            .retain(|_, setback| now < setback.at + FORGOTTEN);
    }

    /// Before this no pod is made for it.
    #[must_use]
    pub fn until(&self, owner: &Owner) -> Option<Moment> {
        let ended = self.ended.get(owner).map(|setback| setback.until(1));
        let refused = self.refused.get(owner).map(|setback| setback.until(0));
        ended.max(refused)
    }

    /// What stands in its way. One pod that ended is no trouble yet.
    #[must_use]
    pub fn trouble(&self, owner: &Owner) -> Option<&Trouble> {
        let ended = self.ended.get(owner).filter(|setback| setback.count > 1);
        self.refused
            .get(owner)
            .or(ended)
            .map(|setback| &setback.trouble)
    }
}

fn add(setbacks: &mut BTreeMap<Owner, Setback>, owner: Owner, trouble: Trouble, now: Moment) {
    match setbacks.get_mut(&owner) {
        Some(setback) => {
            if now >= setback.at + TOGETHER {
                setback.count = setback.count.saturating_add(1);
                setback.at = now;
            }
            setback.trouble = trouble;
        }
        None => {
            let setback = Setback {
                count: 1,
                at: now,
                trouble,
            };
            setbacks.insert(owner, setback);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn secs(secs: u64) -> Moment {
        Duration::from_secs(secs)
    }

    fn trouble() -> Trouble {
        Trouble {
            reason: ConditionReason::FunctionExited,
            message: "it exited".to_owned(),
        }
    }

    #[test]
    fn a_crash_loop_waits_longer_each_time_up_to_a_minute() {
        let owner = Owner::Function("fn-a".to_owned());
        let mut setbacks = Setbacks::default();
        let mut now = secs(100);
        let mut waits = Vec::new();
        for _ in 0..10 {
            setbacks.ended(owner.clone(), trouble(), secs(1), now);
            let until = setbacks.until(&owner).unwrap();
            waits.push((until - now).as_secs());
            now = until + secs(1);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        setbacks.made(&owner);
        assert!(
            setbacks.until(&owner).unwrap() > now - secs(2),
            "made is not up"
        );
        setbacks.forget(now + secs(300));
        assert_eq!(setbacks.until(&owner), None);
    }

    #[test]
    fn pods_that_fail_together_are_one_failure() {
        let owner = Owner::Function("fn-a".to_owned());
        let mut setbacks = Setbacks::default();
        for pod in 0..50 {
            setbacks.ended(
                owner.clone(),
                trouble(),
                secs(1),
                secs(100) + Duration::from_millis(pod),
            );
        }
        assert_eq!(setbacks.until(&owner), Some(secs(100)));
        assert_eq!(setbacks.trouble(&owner), None);
    }

    #[test]
    fn pods_that_nodes_give_up_are_replaced_at_once_however_many() {
        let owner = Owner::Pool("python".to_owned());
        let mut setbacks = Setbacks::default();
        for second in 0..10 {
            let lost = Trouble {
                reason: ConditionReason::PodLost,
                ..trouble()
            };
            setbacks.ended(owner.clone(), lost, secs(1), secs(100 + 2 * second));
            assert_eq!(setbacks.until(&owner), None);
        }
        assert_eq!(setbacks.trouble(&owner), None);
    }

    #[test]
    fn instances_that_end_now_and_then_after_they_ran_for_long_are_no_crash_loop() {
        let owner = Owner::Function("fn-a".to_owned());
        for (ran, loops) in [(60, true), (61, false)] {
            let mut setbacks = Setbacks::default();
            for minute in 1..60 {
                let now = secs(180 * minute);
                setbacks.ended(owner.clone(), trouble(), secs(ran), now);
                setbacks.forget(now);
            }
            assert_eq!(setbacks.trouble(&owner).is_some(), loops, "{ran} s");
        }
    }

    #[test]
    fn a_refusal_waits_at_once_and_ends_with_the_first_pod_made() {
        let owner = Owner::Pool("python".to_owned());
        let mut setbacks = Setbacks::default();
        setbacks.refused(owner.clone(), trouble(), secs(5));
        assert_eq!(setbacks.until(&owner), Some(secs(6)));
        assert!(setbacks.trouble(&owner).is_some());
        setbacks.made(&owner);
        assert_eq!(setbacks.until(&owner), None);
    }
}
