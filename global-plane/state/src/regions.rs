//! Regions: what they register, what operators ask of them, what is thought of them.

use api_types::{Refusal, Region, RegionName, Verdict};

use crate::command::{Registration, Reply};
use crate::state::{Decided, Effect, Now, State};

/// Steering looks at every region for every answer; today's largest clouds have half as many.
const REGIONS_MAX: usize = 128;

impl State {
    /// Idempotent: a region registers at every start. What was decided about it stays. A new one is
    /// down until the leader has heard from it.
    pub(crate) fn register_region(&self, registration: &Registration, now: Now) -> Decided {
        let Registration {
            name,
            ipv4,
            ipv6,
            gateway,
            admin,
            location,
            labels,
        } = registration;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(Refusal::invalid(
                "a region needs an ipv4 or an ipv6 address for DNS to answer with",
            ));
        }
        let (latitude, longitude) = (location.latitude, location.longitude);
        if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
            return Err(Refusal::invalid(
                "a region's latitude is -90 to 90 and its longitude -180 to 180 degrees",
            ));
        }
        let held = self.regions.get(name);
        if held.is_none() && self.regions.len() >= REGIONS_MAX {
            return Err(Refusal::full(format!(
                "there are already {REGIONS_MAX} regions"
            )));
        }
        let row = Region {
            name: name.clone(),
            ipv4: *ipv4,
            ipv6: *ipv6,
            gateway: gateway.clone(),
            admin: admin.clone(),
            location: *location,
            labels: labels.clone(),
            drained: held.is_some_and(|held| held.drained),
            verdict: held.map_or(Verdict::Down, |held| held.verdict),
            price_ms: held.map_or(0, |held| held.price_ms),
            registered_at: held.map_or(now.time, |held| held.registered_at),
            revision: held.map_or(now.revision, |held| held.revision),
        };
        Ok(match held {
            Some(held) if row == *held => Effect::Nothing(Reply::Region(row)),
            Some(_) | None => Effect::Regions(
                vec![Region {
                    revision: now.revision,
                    ..row
                }],
                Some(name.clone()),
            ),
        })
    }

    /// Undraining gives the verdict back to the leader's monitor; until it speaks the region is
    /// healthy, because it was not down when it was drained.
    pub(crate) fn set_drained(&self, name: &RegionName, drained: bool, now: Now) -> Decided {
        let held = self.regions.get(name).ok_or_else(|| not_found(name))?;
        if held.drained == drained {
            return Ok(Effect::Nothing(Reply::Region(held.clone())));
        }
        let verdict = match (drained, held.verdict) {
            (true, _) => Verdict::Draining,
            (false, Verdict::Draining) => Verdict::Healthy,
            (false, other) => other,
        };
        let row = Region {
            drained,
            verdict,
            revision: now.revision,
            ..held.clone()
        };
        Ok(Effect::Regions(vec![row], Some(name.clone())))
    }

    /// A drained region stays draining whatever was proposed before the operator's word arrived.
    pub(crate) fn set_verdicts(&self, verdicts: &[(RegionName, Verdict)], now: Now) -> Effect {
        let rows: Vec<Region> = verdicts
            .iter()
            .filter_map(|(name, verdict)| {
                let held = self.regions.get(name)?;
                let verdict = if held.drained {
                    Verdict::Draining
                } else {
                    *verdict
                };
                (held.verdict != verdict).then(|| Region {
                    verdict,
                    revision: now.revision,
                    ..held.clone()
                })
            })
            .collect();
        if rows.is_empty() {
            Effect::Nothing(Reply::Done(self.revision()))
        } else {
            Effect::Regions(rows, None)
        }
    }
}

fn not_found(name: &RegionName) -> Refusal {
    Refusal::not_found(format!("Region {name} not found"))
}
