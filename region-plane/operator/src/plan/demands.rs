//! What gateways said last.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use region_plane_resources::demand::{
    ClaimedPod, Demand, FORGOTTEN_AFTER, FunctionDemand, StartFailure,
};

use super::Moment;

/// A silent gateway's pods are left alone for this long, whatever other gateways say, and for as long
/// as no other is heard: it is likelier cut off from us than from its callers. By then a runner whose
/// gateway died has dropped the claim (5 s, with its machine up to 15, or as soon as the gateway was
/// started again), and whoever took the pod over has told us.
const CLAIMS_OUTLAST: Duration = Duration::from_secs(30);

/// A function of which some starts fail is told of as one that fails, and not in turns as one that does
/// not.
const FAILS_FOR: Duration = Duration::from_secs(60);

/// More gateways than this at once are a mistake, and each is memory.
const GATEWAYS_MAX: usize = 64;

/// Soft state: what is not repeated is forgotten.
#[derive(Debug, Default)]
pub struct Demands {
    /// By name and boot.
    gateways: BTreeMap<(String, u64), Told>,
    /// Pod to when a gateway last had it.
    claimed: HashMap<String, Moment>,
    /// When a gateway was first heard after none was.
    heard_since: Moment,
    /// Function to how it failed to start last, and when that was told.
    failed: HashMap<String, (StartFailure, Moment)>,
}

#[derive(Debug)]
struct Told {
    at: Moment,
    demand: Demand,
    /// A later boot has spoken. This one wants nothing more; what it had waits to be taken over.
    followed: bool,
}

impl Demands {
    /// Whether it changes anything but the time.
    pub fn take(&mut self, demand: Demand, now: Moment) -> bool {
        if self.gateways(now) == 0 {
            self.heard_since = now;
        }
        let key = (demand.gateway.clone(), demand.boot);
        let boots = (key.0.clone(), 0)..=(key.0.clone(), u64::MAX);
        for ((_, boot), told) in self.gateways.range_mut(boots) {
            if *boot > demand.boot {
                return false;
            }
            told.followed |= *boot < demand.boot;
        }
        if !self.gateways.contains_key(&key) && self.gateways.len() >= GATEWAYS_MAX {
            let oldest = self.gateways.iter().min_by_key(|(_, told)| told.at);
            let oldest = oldest.map(|(key, _)| key.clone());
            self.gateways.remove(&oldest.expect("there are many"));
        }
        let known = self.gateways.get(&key);
        if known.is_some_and(|told| told.demand.sequence > demand.sequence) {
            return false;
        }
        let changed = known.is_none_or(|told| {
            told.at + FORGOTTEN_AFTER <= now
                || told.demand.functions != demand.functions
                || told.demand.claims != demand.claims
                || told.demand.finished != demand.finished
                || told.demand.failures != demand.failures
        });
        if changed && let Some(told) = known {
            for claim in &told.demand.claims {
                self.claimed.insert(claim.pod.clone(), now);
            }
        }
        for claim in &demand.claims {
            self.claimed.insert(claim.pod.clone(), now);
        }
        for failure in &demand.failures {
            self.failed
                .insert(failure.function.clone(), (failure.clone(), now));
        }
        let told = Told {
            at: now,
            demand,
            followed: false,
        };
        self.gateways.insert(key, told);
        changed
    }

    /// Drops what has no meaning any more; `exists` tells of a pod.
    pub fn forget(&mut self, now: Moment, exists: impl Fn(&str) -> bool) {
        self.gateways
            .retain(|_, told| now < told.at + CLAIMS_OUTLAST);
        self.claimed.retain(|pod, _| exists(pod));
        self.failed.retain(|_, (_, at)| now < *at + FAILS_FOR);
    }

    /// When the next gateway counts as silent, or its pods as nobody's.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        self.gateways
            .values()
            .flat_map(|told| [told.at + FORGOTTEN_AFTER, told.at + CLAIMS_OUTLAST])
            .filter(|at| *at > now)
            .min()
    }

    /// Gateways heard lately.
    #[must_use]
    pub fn gateways(&self, now: Moment) -> usize {
        self.live(now).count()
    }

    /// Since when there has always been a gateway that was heard; `None` while there is none.
    #[must_use]
    pub fn heard_since(&self, now: Moment) -> Option<Moment> {
        (self.gateways(now) > 0).then_some(self.heard_since)
    }

    fn live(&self, now: Moment) -> impl Iterator<Item = &Demand> {
        self.gateways
            .values()
            .filter(move |told| !told.followed && now < told.at + FORGOTTEN_AFTER)
            .map(|told| &told.demand)
    }

    pub(super) fn functions(&self, now: Moment) -> impl Iterator<Item = &FunctionDemand> {
        self.live(now).flat_map(|demand| &demand.functions)
    }

    pub(super) fn claims(&self, now: Moment) -> impl Iterator<Item = &ClaimedPod> {
        self.live(now).flat_map(|demand| &demand.claims)
    }

    pub(super) fn finished(&self, now: Moment) -> impl Iterator<Item = &str> {
        self.live(now)
            .flat_map(|demand| &demand.finished)
            .map(String::as_str)
    }

    /// How the function failed to start lately, and until when that counts.
    pub(super) fn failure(&self, function: &str, now: Moment) -> Option<(&StartFailure, Moment)> {
        let (failure, at) = self.failed.get(function)?;
        let until = *at + FAILS_FOR;
        (now < until).then_some((failure, until))
    }

    /// What a gateway has taken `pod` for, or had until it fell silent.
    #[must_use]
    pub fn taken_for(&self, pod: &str, now: Moment) -> Option<&ClaimedPod> {
        self.claims(now)
            .chain(self.lapsed_claims(now))
            .find(|claim| claim.pod == pod)
    }

    /// Whether a gateway has pods of `function`, or may have them still.
    #[must_use]
    pub fn holds(&self, function: &str, now: Moment) -> bool {
        self.claims(now)
            .chain(self.lapsed_claims(now))
            .any(|claim| claim.function == function)
    }

    pub(super) fn lapsed_claims(&self, now: Moment) -> impl Iterator<Item = &ClaimedPod> {
        self.gateways
            .values()
            .filter(move |told| {
                let silent = told.followed || told.at + FORGOTTEN_AFTER <= now;
                silent && now < told.at + CLAIMS_OUTLAST
            })
            .flat_map(|told| &told.demand.claims)
    }

    /// Zero for a pod that no gateway had.
    pub(super) fn last_claimed(&self, pod: &str) -> Moment {
        self.claimed.get(pod).copied().unwrap_or_default()
    }
}
