//! One term in which a node leads: what it hears, judges and proposes. Pure: time is passed in.

use std::collections::BTreeMap;

use api_types::{Region, RegionName, Verdict};
use global_plane_state::verdicts::{Facts, Heard, Monitor};

/// A flapping region must not fill the log nor wake every DNS server more often.
const PROPOSE_EVERY_MS: u64 = 1000;

/// Begins with no reports and a new monitor, which judges no region until each has had time to report.
#[derive(Debug)]
pub struct Tenure {
    term: u64,
    monitor: Monitor,
    proposed_ms: BTreeMap<RegionName, u64>,
}

impl Tenure {
    #[must_use]
    pub fn begin(term: u64, now_ms: u64, report_lease_ms: u64) -> Self {
        Self {
            term,
            monitor: Monitor::new(now_ms, report_lease_ms),
            proposed_ms: BTreeMap::new(),
        }
    }

    /// Whether it is of this term. Another term's reports say nothing about what was missed between.
    #[must_use]
    pub fn is_of(&self, term: u64) -> bool {
        self.term == term
    }

    /// Takes a report; `false` if a newer one overtook it.
    pub fn report(&mut self, region: &RegionName, now_ms: u64, facts: Facts) -> bool {
        self.monitor.report(region, now_ms, facts)
    }

    /// The last report of each region.
    pub fn heard(&self) -> impl Iterator<Item = (&RegionName, &Heard)> {
        self.monitor.heard()
    }

    /// The verdicts to propose now. Each counts as proposed, so one that could not be written is
    /// proposed again a second later.
    pub fn judge<'a>(
        &mut self,
        now_ms: u64,
        regions: impl IntoIterator<Item = &'a Region>,
    ) -> Vec<(RegionName, Verdict)> {
        let mut verdicts = self.monitor.evaluate(now_ms, regions);
        verdicts.retain(|(region, _)| {
            let last = self.proposed_ms.get(region);
            last.is_none_or(|last| now_ms.saturating_sub(*last) >= PROPOSE_EVERY_MS)
        });
        for (region, _) in &verdicts {
            self.proposed_ms.insert(region.clone(), now_ms);
        }
        verdicts
    }
}

#[cfg(test)]
mod tests;
