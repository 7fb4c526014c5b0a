//! What functions did since a report was last heard.

use std::collections::BTreeMap;

use api_types::FnId;
use api_wire::planes::{FunctionCount, REPORT_ITEMS_MAX};

use crate::engine::Activity;

/// Functions whose calls are counted while no report is heard: more than a region has in one second,
/// so that an outage of the global plane costs no more memory than this.
const UNHEARD_MAX: usize = 20_000;

/// Invariant: no entry of either map is all zero.
#[derive(Debug, Default)]
pub struct Activities {
    /// Functions with instances.
    present: BTreeMap<FnId, Present>,
    /// Functions that were called since a report was last heard.
    unheard: BTreeMap<FnId, Unheard>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Present {
    running: u32,
    instances: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Unheard {
    calls: u64,
    errors: u64,
}

impl Activities {
    /// Adds what the engine says has changed.
    pub fn add(&mut self, changed: BTreeMap<FnId, Activity>) {
        for (function, activity) in changed {
            let Activity {
                calls,
                errors,
                running,
                instances,
            } = activity;
            if instances == 0 {
                self.present.remove(&function);
            } else {
                let present = Present { running, instances };
                self.present.insert(function.clone(), present);
            }
            let has_place =
                self.unheard.len() < UNHEARD_MAX || self.unheard.contains_key(&function);
            if calls > 0 && has_place {
                let unheard = self.unheard.entry(function).or_default();
                unheard.calls += calls;
                unheard.errors += errors;
            }
        }
    }

    /// The last report was heard, with what [`Self::busiest`] gave.
    pub fn heard(&mut self) {
        self.unheard.clear();
    }

    /// For a report, busiest first: functions that were called, and then those that have instances, by
    /// id. At most [`REPORT_ITEMS_MAX`].
    pub fn busiest(&self) -> Vec<FunctionCount> {
        let mut called: Vec<_> = self.unheard.iter().collect();
        called.sort_by_key(|(function, unheard)| (std::cmp::Reverse(unheard.calls), *function));
        let idle = self
            .present
            .keys()
            .filter(|function| !self.unheard.contains_key(*function))
            .map(|function| (function, Unheard::default()));
        let called = called
            .into_iter()
            .map(|(function, unheard)| (function, *unheard));
        called
            .chain(idle)
            .take(REPORT_ITEMS_MAX)
            .map(|(function, unheard)| {
                let present = self.present.get(function).copied().unwrap_or_default();
                FunctionCount {
                    fn_id: function.to_string(),
                    calls: unheard.calls,
                    errors: unheard.errors,
                    running: present.running,
                    instances: present.instances,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(calls: u64, errors: u64, running: u32, instances: u32) -> Activity {
        Activity {
            calls,
            errors,
            running,
            instances,
        }
    }

    fn told(activities: &Activities) -> Vec<(String, u64, u64, u32, u32)> {
        let told = activities.busiest().into_iter();
        told.map(|of| (of.fn_id, of.calls, of.errors, of.running, of.instances))
            .collect()
    }

    fn row(
        of: &str,
        calls: u64,
        errors: u64,
        running: u32,
        instances: u32,
    ) -> (String, u64, u64, u32, u32) {
        (of.to_owned(), calls, errors, running, instances)
    }

    #[test]
    fn calls_are_told_until_a_report_is_heard_and_instances_while_they_are_there() {
        let mut activities = Activities::default();
        let of = |function: &str, activity| (FnId::new(function), activity);
        activities.add(BTreeMap::from([
            of("a", activity(0, 0, 0, 1)),
            of("b", activity(2, 1, 1, 2)),
            of("c", activity(3, 0, 0, 0)),
        ]));
        let want = [
            row("c", 3, 0, 0, 0),
            row("b", 2, 1, 1, 2),
            row("a", 0, 0, 0, 1),
        ];
        assert_eq!(told(&activities), want);

        // That report was lost.
        activities.add(BTreeMap::from([of("b", activity(2, 0, 0, 1))]));
        let want = [
            row("b", 4, 1, 0, 1),
            row("c", 3, 0, 0, 0),
            row("a", 0, 0, 0, 1),
        ];
        assert_eq!(told(&activities), want);

        activities.heard();
        assert_eq!(
            told(&activities),
            [row("a", 0, 0, 0, 1), row("b", 0, 0, 0, 1)]
        );
        activities.add(BTreeMap::from([of("a", activity(0, 0, 0, 0))]));
        assert_eq!(told(&activities), [row("b", 0, 0, 0, 1)]);
    }

    #[test]
    fn a_report_never_holds_more_than_its_bound_and_an_outage_never_counts_more_than_its_own() {
        let mut activities = Activities::default();
        let many =
            (0..UNHEARD_MAX + 5).map(|n| (FnId::new(format!("{n:06}")), activity(1, 0, 0, 1)));
        activities.add(many.collect());
        assert_eq!(activities.unheard.len(), UNHEARD_MAX);
        assert_eq!(activities.busiest().len(), REPORT_ITEMS_MAX);
    }
}
