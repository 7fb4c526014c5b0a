//! What the leader thinks of regions from their reports.
//!
//! A monitor lives as long as its node leads and starts knowing nothing. Time is passed in.

use std::collections::BTreeMap;

use api_types::{Region, RegionName, Timestamp, Verdict};

/// Bounds of the monitor's patience, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Three missed reports: one may be lost to a leader change, two to a bad second.
    pub lease_ms: u64,
    /// After an election, on top of a lease: regions try one node after the other until they find
    /// the way to the new leader.
    pub grace_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            lease_ms: 3_000,
            grace_ms: 1_000,
        }
    }
}

/// A region that was down must be heard this often in a row: one report may be a leftover of a
/// region that is dying.
const REPORTS_TO_RETURN: u32 = 2;

#[derive(Debug, Clone)]
pub struct Monitor {
    patience: Patience,
    elected_at: Timestamp,
    heard: BTreeMap<RegionName, Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Timestamp,
    draining: bool,
    /// Reports without a lapse between them.
    in_a_row: u32,
}

impl Monitor {
    #[must_use]
    pub fn new(now: Timestamp, patience: Patience) -> Self {
        Self {
            patience,
            elected_at: now,
            heard: BTreeMap::new(),
        }
    }

    /// Takes a report. `draining` is the region's own word.
    pub fn report(&mut self, now: Timestamp, region: &RegionName, draining: bool) {
        let lease_ms = self.patience.lease_ms;
        let heard = self.heard.entry(region.clone()).or_insert(Heard {
            at: now,
            draining,
            in_a_row: 0,
        });
        let lapsed = now.millis_since(heard.at) > lease_ms;
        *heard = Heard {
            at: now,
            draining,
            in_a_row: if lapsed {
                1
            } else {
                heard.in_a_row.saturating_add(1)
            },
        };
    }

    /// The verdicts that should change. Nothing while every region is silent, or before every
    /// region has had time to report to this leader: losing all reports at once is likelier a fault
    /// between us and them than the end of all of them, and an answer would be withdrawn for it.
    #[must_use]
    pub fn evaluate<'a>(
        &self,
        now: Timestamp,
        regions: impl IntoIterator<Item = &'a Region>,
    ) -> Vec<(RegionName, Verdict)> {
        if now.millis_since(self.elected_at) < self.patience.lease_ms + self.patience.grace_ms {
            return Vec::new();
        }
        let regions: Vec<&Region> = regions.into_iter().collect();
        if regions
            .iter()
            .all(|region| self.fresh(&region.name, now).is_none())
        {
            return Vec::new();
        }
        let changed = |region: &&Region| {
            let verdict = self.verdict(region, now);
            (verdict != region.verdict).then(|| (region.name.clone(), verdict))
        };
        regions.iter().filter_map(changed).collect()
    }

    fn verdict(&self, region: &Region, now: Timestamp) -> Verdict {
        if region.drained {
            return Verdict::Draining;
        }
        match self.fresh(&region.name, now) {
            None => Verdict::Down,
            Some(heard) if heard.draining => Verdict::Draining,
            Some(heard)
                if region.verdict == Verdict::Down && heard.in_a_row < REPORTS_TO_RETURN =>
            {
                Verdict::Down
            }
            Some(_) => Verdict::Healthy,
        }
    }

    fn fresh(&self, region: &RegionName, now: Timestamp) -> Option<Heard> {
        self.heard
            .get(region)
            .copied()
            .filter(|heard| now.millis_since(heard.at) <= self.patience.lease_ms)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use api_types::{Location, Revision};

    use super::*;

    fn region(name: &str, verdict: Verdict) -> Region {
        Region {
            name: name.parse().unwrap(),
            ipv4: Some([127, 0, 0, 1].into()),
            ipv6: None,
            gateway: String::new(),
            admin: String::new(),
            location: Location {
                latitude: 0.0,
                longitude: 0.0,
            },
            labels: BTreeMap::new(),
            drained: false,
            verdict,
            price_ms: 0,
            registered_at: Timestamp(0),
            revision: Revision(1),
        }
    }

    /// Reports at the given milliseconds, then the verdicts proposed at `now`.
    fn proposed(reports: &[(i64, &str)], regions: &[Region], now: i64) -> Vec<(String, Verdict)> {
        let mut monitor = Monitor::new(Timestamp(0), Patience::default());
        for (at, name) in reports {
            monitor.report(Timestamp(*at), &name.parse().unwrap(), false);
        }
        let proposed = monitor.evaluate(Timestamp(now), regions);
        proposed
            .into_iter()
            .map(|(name, verdict)| (name.to_string(), verdict))
            .collect()
    }

    #[test]
    fn verdicts_follow_reports() {
        use Verdict::{Down, Healthy};
        for (case, reports, verdicts, now, want) in [
            (
                "both report",
                vec![(9_500, "fra"), (9_500, "iad")],
                [Healthy, Healthy],
                10_000,
                vec![],
            ),
            (
                "one lapses",
                vec![(6_000, "fra"), (9_500, "iad")],
                [Healthy, Healthy],
                10_000,
                vec![("fra", Down)],
            ),
            (
                "within its lease",
                vec![(7_000, "fra"), (9_500, "iad")],
                [Healthy, Healthy],
                10_000,
                vec![],
            ),
            (
                "all lapse at once: freeze",
                vec![(6_000, "fra"), (6_000, "iad")],
                [Healthy, Healthy],
                10_000,
                vec![],
            ),
            (
                "a new leader waits",
                vec![(3_500, "iad")],
                [Healthy, Healthy],
                3_900,
                vec![],
            ),
            (
                "then judges",
                vec![(3_500, "iad")],
                [Healthy, Healthy],
                4_000,
                vec![("fra", Down)],
            ),
            (
                "one report is not a return",
                vec![(9_500, "fra"), (9_500, "iad")],
                [Down, Healthy],
                10_000,
                vec![],
            ),
            (
                "two are",
                vec![(8_500, "fra"), (9_500, "fra"), (9_500, "iad")],
                [Down, Healthy],
                10_000,
                vec![("fra", Healthy)],
            ),
            (
                "not with a lapse between",
                vec![(2_000, "fra"), (9_500, "fra"), (9_500, "iad")],
                [Down, Healthy],
                10_000,
                vec![],
            ),
        ] {
            let regions = [region("fra", verdicts[0]), region("iad", verdicts[1])];
            let want: Vec<(String, Verdict)> = want
                .into_iter()
                .map(|(name, verdict): (&str, Verdict)| (name.to_owned(), verdict))
                .collect();
            assert_eq!(proposed(&reports, &regions, now), want, "{case}");
        }
    }

    #[test]
    fn a_region_drains_by_its_own_word_or_an_operators() {
        let mut monitor = Monitor::new(Timestamp(0), Patience::default());
        monitor.report(Timestamp(9_000), &"fra".parse().unwrap(), true);
        monitor.report(Timestamp(9_000), &"iad".parse().unwrap(), false);
        let drained = Region {
            drained: true,
            ..region("iad", Verdict::Healthy)
        };
        let proposed = monitor.evaluate(
            Timestamp(10_000),
            &[region("fra", Verdict::Healthy), drained],
        );
        assert_eq!(
            proposed,
            [
                ("fra".parse().unwrap(), Verdict::Draining),
                ("iad".parse().unwrap(), Verdict::Draining)
            ]
        );
    }
}
