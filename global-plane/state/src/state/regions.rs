//! Regions: what they register, what operators ask of them, what is thought of them.

use api_types::{Kind, Refusal, Region, RegionName, Verdict};

use super::State;
use crate::command::{Preconditions, RegionDraft};
use crate::draft_checks;
use crate::outcome::{Change, Outcome, Reply};

impl State {
    pub(super) fn register_region(
        &mut self,
        draft: &RegionDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        draft_checks::region(draft)?;
        let stored = self.catalog.region(&draft.name);
        match stored {
            Some(stored) => conditions.hold_for(stored.revision)?,
            None => {
                conditions.hold_for_new(false)?;
                self.room_for(Kind::Region)?;
            }
        }
        let mut region = Region {
            name: draft.name.clone(),
            ipv4: draft.ipv4,
            ipv6: draft.ipv6,
            gateway: draft.gateway.clone(),
            admin: draft.admin.clone(),
            location: draft.location,
            labels: draft.labels.clone(),
            drained: stored.is_some_and(|stored| stored.drained),
            // Nobody is sent to a region before it has been heard from.
            verdict: stored.map_or(Verdict::Down, |stored| stored.verdict),
            price_ms: stored.map_or(0, |stored| stored.price_ms),
            registered_at: stored.map_or(self.log_time, |stored| stored.registered_at),
            revision: stored.map_or(self.revision, |stored| stored.revision),
        };
        if stored == Some(&region) {
            return Ok(Reply::Put(region.into()));
        }
        region.revision = self.revision.next();
        Ok(self.put(region, changes))
    }

    pub(super) fn set_drained(
        &mut self,
        name: &RegionName,
        drained: bool,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let stored = self.stored_region(name)?;
        conditions.hold_for(stored.revision)?;
        if stored.drained == drained {
            return Ok(Reply::Put(stored.clone().into()));
        }
        let verdict = match stored.verdict {
            _ if drained => Verdict::Draining,
            Verdict::Draining => Verdict::Healthy,
            other => other,
        };
        let region = Region {
            drained,
            verdict,
            revision: self.revision.next(),
            ..stored.clone()
        };
        Ok(self.put(region, changes))
    }

    pub(super) fn set_verdicts(
        &mut self,
        verdicts: &[(RegionName, Verdict)],
        changes: &mut Vec<Change>,
    ) -> Outcome {
        for (name, _) in verdicts {
            self.stored_region(name)?;
        }
        let next = self.revision.next();
        for (name, verdict) in verdicts {
            let stored = self.stored_region(name)?;
            if stored.drained || stored.verdict == *verdict {
                continue;
            }
            let region = Region {
                verdict: *verdict,
                revision: next,
                ..stored.clone()
            };
            self.put(region, changes);
        }
        let changed = !changes.is_empty();
        Ok(Reply::Done(if changed { next } else { self.revision }))
    }

    fn stored_region(&self, name: &RegionName) -> Result<&Region, Refusal> {
        self.catalog
            .region(name)
            .ok_or_else(|| Refusal::not_found(format!("region {:?} not found", name.as_str())))
    }
}
