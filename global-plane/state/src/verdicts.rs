//! What the leader thinks of each region, from the reports it hears.
//!
//! Soft state of one leader: it begins with nothing and with a grace in which it judges nobody.
//! Absence of reports is believed about one region only while others are heard: when all fall
//! silent together, the leader is likelier to be cut off than every region to have died, and
//! verdicts stay as they are.
//!
//! Verdicts made here are `Healthy`, `Suspect`, `Down` and `Draining`; `Suspect` is a region that says
//! that it is behind. Time is milliseconds of any clock that
//! does not go back.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    Following, Knowledge, Load, Region, RegionName, Revision, Sizing, Timestamp, Verdict,
};

/// Three missed reports: one may be lost to a leader change, two to a bad second.
pub const LEASE_MS_DEFAULT: u64 = 3000;

/// After the lease has run, the time in which a region that tries node after node gets through.
const GRACE_MS: u64 = 1000;

/// Reports in a row that a region that was down must send before it is healthy again: one may be
/// the last word of a region that dies as it starts.
const REPORTS_TO_RECOVER: u32 = 2;

/// What a region said last.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// With `sequence`, orders reports that came different ways.
    pub started_at: Timestamp,
    /// Counts up within one start.
    pub sequence: u64,
    /// The region itself asks for no more clients.
    pub draining: bool,
    pub load: Load,
    /// Calls waiting for an instance.
    pub queued: u32,
    pub sizing: Option<Sizing>,
    /// Metadata applied, and its rolling hash.
    pub revision: Revision,
    pub hash: String,
    /// Digests of bundles placed there that are not on its disk yet.
    pub bundles_missing: Vec<String>,
    /// `None` from regions that are too old to say.
    pub following: Option<Following>,
    /// Formats that the region knows.
    pub knows: Knowledge,
}

/// What was heard from a region, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    pub facts: Facts,
    pub at_ms: u64,
}

/// Bounded by the regions that are registered: the caller takes reports from no others, and what is
/// no longer registered is dropped on evaluation.
#[derive(Debug, Clone)]
pub struct Monitor {
    lease_ms: u64,
    created_ms: u64,
    frozen_until_ms: u64,
    last_report_ms: u64,
    tracks: BTreeMap<RegionName, Track>,
    /// Regions that were down when this leader began, and those it has seen fall silent: they have
    /// to prove themselves. `None` until the first evaluation.
    fallen: Option<BTreeSet<RegionName>>,
}

#[derive(Debug, Clone)]
struct Track {
    heard: Heard,
    /// Reports with less than a lease between each.
    in_a_row: u32,
}

impl Monitor {
    /// Of a leader elected at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64, lease_ms: u64) -> Self {
        Self {
            lease_ms,
            created_ms: now_ms,
            frozen_until_ms: now_ms + lease_ms + GRACE_MS,
            last_report_ms: now_ms,
            tracks: BTreeMap::new(),
            fallen: None,
        }
    }

    /// Takes a report of a registered region. Whether it was news: one that a newer report has
    /// overtaken, or that is a copy, is dropped.
    ///
    /// Of two processes of a region the one that started last speaks, and the other once that one
    /// has missed a report: while a gateway is replaced both run, and which is the younger only
    /// their clocks say.
    pub fn report(&mut self, region: &RegionName, now_ms: u64, facts: Facts) -> bool {
        let track = self.tracks.get(region);
        if track.is_some_and(|track| !self.is_news(track, now_ms, &facts)) {
            return false;
        }
        // Nobody was heard for longer than regions stay silent: whatever that was, each must have
        // the time to get through again before its silence counts.
        if now_ms.saturating_sub(self.last_report_ms) > self.silence_ms() {
            let thaw = now_ms + self.lease_ms + GRACE_MS;
            self.frozen_until_ms = self.frozen_until_ms.max(thaw);
        }
        self.last_report_ms = self.last_report_ms.max(now_ms);
        let in_a_row = match track {
            Some(track) if now_ms.saturating_sub(track.heard.at_ms) < self.lease_ms => {
                track.in_a_row.saturating_add(1)
            }
            Some(_) | None => 1,
        };
        let heard = Heard {
            facts,
            at_ms: now_ms,
        };
        self.tracks
            .insert(region.clone(), Track { heard, in_a_row });
        true
    }

    fn is_news(&self, track: &Track, now_ms: u64, facts: &Facts) -> bool {
        let last = &track.heard.facts;
        match facts.started_at.cmp(&last.started_at) {
            Ordering::Greater => true,
            Ordering::Equal => facts.sequence > last.sequence,
            Ordering::Less => now_ms.saturating_sub(track.heard.at_ms) > self.lease_ms / 2,
        }
    }

    /// The verdicts that should change, of all registered regions, by name.
    pub fn evaluate<'a>(
        &mut self,
        now_ms: u64,
        regions: impl IntoIterator<Item = &'a Region>,
    ) -> Vec<(RegionName, Verdict)> {
        let regions: BTreeMap<&RegionName, &Region> = regions
            .into_iter()
            .map(|region| (&region.name, region))
            .collect();
        self.tracks.retain(|name, _| regions.contains_key(name));
        let mut fallen = self.fallen.take().unwrap_or_else(|| {
            let down = regions
                .values()
                .filter(|region| region.verdict == Verdict::Down);
            down.map(|region| region.name.clone()).collect()
        });
        fallen.retain(|name| regions.contains_key(name));
        // Also while frozen: who falls silent then has to prove itself afterwards.
        let known = self.tracks.iter();
        fallen.extend(
            known
                .filter(|(_, track)| !self.is_fresh(track, now_ms))
                .map(|(name, _)| name.clone()),
        );
        self.fallen = Some(fallen);
        if now_ms < self.frozen_until_ms {
            return Vec::new();
        }
        regions
            .values()
            .filter_map(|region| {
                let verdict = self.judge(region, &regions, now_ms)?;
                (verdict != region.verdict).then(|| (region.name.clone(), verdict))
            })
            .collect()
    }

    /// What was heard last, by region.
    pub fn heard(&self) -> impl Iterator<Item = (&RegionName, &Heard)> {
        self.tracks.iter().map(|(name, track)| (name, &track.heard))
    }

    /// `None` if there is not enough to say.
    fn judge(
        &self,
        region: &Region,
        regions: &BTreeMap<&RegionName, &Region>,
        now_ms: u64,
    ) -> Option<Verdict> {
        if region.drained {
            return Some(Verdict::Draining);
        }
        let track = self.tracks.get(&region.name);
        match track.filter(|track| self.is_fresh(track, now_ms)) {
            Some(track) if track.heard.facts.draining => Some(Verdict::Draining),
            Some(track) => {
                let fell = self
                    .fallen
                    .as_ref()
                    .is_some_and(|fallen| fallen.contains(&region.name));
                let recovering = region.verdict == Verdict::Down && fell;
                let proven = !recovering || track.in_a_row >= REPORTS_TO_RECOVER;
                let following = track.heard.facts.following.as_ref();
                proven.then_some(match following {
                    // What it knows it serves; what it does not know it hands on.
                    Some(following) if following.behind_ms > 0 => Verdict::Suspect,
                    Some(_) | None => Verdict::Healthy,
                })
            }
            None => {
                let last_ms = track.map_or(self.created_ms, |track| track.heard.at_ms);
                let others = regions.values().filter(|other| other.name != region.name);
                self.heard_any_since(others, last_ms)
                    .then_some(Verdict::Down)
            }
        }
    }

    fn is_fresh(&self, track: &Track, now_ms: u64) -> bool {
        now_ms.saturating_sub(track.heard.at_ms) < self.lease_ms
    }

    /// Whether reports of regions that serve kept coming after `since_ms`, for longer than those
    /// that were due when all stopped at once. A drained region does not count: it is no reason to
    /// give up all that are not.
    fn heard_any_since<'a>(
        &self,
        mut regions: impl Iterator<Item = &'a &'a Region>,
        since_ms: u64,
    ) -> bool {
        regions.any(|region| {
            let track = self.tracks.get(&region.name);
            !region.drained
                && track.is_some_and(|track| track.heard.at_ms > since_ms + self.silence_ms())
        })
    }

    /// Longer than a region ever takes between two reports: they are due every third of a lease,
    /// and an error delays one by half of that.
    fn silence_ms(&self) -> u64 {
        self.lease_ms / 2
    }
}

#[cfg(test)]
mod tests;
