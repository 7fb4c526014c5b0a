//! What a node does while it leads: hears regions and judges them.
//!
//! Reports are soft state. A new leader starts with none and a new monitor, which judges nobody
//! until every region has had time to report to it. Only verdicts enter the log, when they change
//! and at most once a second for each region.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_types::{Knowledge, RegionName, Revision, Timestamp, Verdict};
use api_wire::planes::{FollowingBody, LoadBody, Report, SizingBody};
use global_plane_state::Command;
use global_plane_state::verdicts::Facts;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::machine::Replica;
use crate::tenure::Tenure;
use crate::terms::Terms;
use crate::writer::Writer;

/// How often verdicts are thought about: well below the second that a decision may take.
const EVALUATE_EVERY: Duration = Duration::from_millis(200);

/// What the leader last heard from a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub load: LoadBody,
    pub sizing: Option<SizingBody>,
    pub revision: u64,
    pub hash: String,
    pub bundles_missing: Vec<String>,
    #[serde(default)]
    pub following: Option<FollowingBody>,
    #[serde(default)]
    pub knows: Vec<String>,
    pub reported_ms_ago: u64,
}

pub struct Leader {
    begun: Instant,
    report_lease_ms: u64,
    tenure: Mutex<Option<Tenure>>,
}

impl Leader {
    #[must_use]
    pub fn new(report_lease_ms: u64) -> Self {
        Self {
            begun: Instant::now(),
            report_lease_ms,
            tenure: Mutex::new(None),
        }
    }

    /// Takes a report of a registered region; whether this node leads and could.
    pub fn heard(&self, region: &RegionName, report: Report) -> bool {
        let now_ms = self.now_ms();
        let mut tenure = self.tenure();
        let Some(tenure) = &mut *tenure else {
            return false;
        };
        let facts = Facts {
            started_at: Timestamp(report.started_at_ms),
            sequence: report.sequence,
            draining: report.draining,
            load: report.load.into(),
            queued: report.queued,
            sizing: report.sizing.map(Into::into),
            revision: Revision(report.revision),
            hash: report.hash,
            bundles_missing: report.bundles_missing,
            following: report.following.map(Into::into),
            knows: Knowledge::said(report.knows),
        };
        if !tenure.report(region, now_ms, facts) {
            tracing::debug!(%region, "report overtaken by a newer one");
        }
        true
    }

    /// What was heard, by region; `None` if this node does not lead.
    pub fn rows(&self) -> Option<BTreeMap<String, Row>> {
        let now_ms = self.now_ms();
        let tenure = self.tenure();
        let rows = tenure.as_ref()?.heard().map(|(region, heard)| {
            let row = Row {
                load: heard.facts.load.into(),
                sizing: heard.facts.sizing.map(Into::into),
                revision: heard.facts.revision.0,
                hash: heard.facts.hash.clone(),
                bundles_missing: heard.facts.bundles_missing.clone(),
                following: heard.facts.following.as_ref().map(Into::into),
                knows: heard.facts.knows.to_say().map(str::to_owned).collect(),
                reported_ms_ago: now_ms.saturating_sub(heard.at_ms),
            };
            (region.to_string(), row)
        });
        Some(rows.collect())
    }

    /// Begins or ends a tenure, then thinks about verdicts; returns those to propose. `leads` is the
    /// term in which this node leads and has applied everything of earlier terms, if it does.
    fn evaluate(&self, leads: Option<u64>, replica: &Replica) -> Vec<(RegionName, Verdict)> {
        let now_ms = self.now_ms();
        let mut held = self.tenure();
        let Some(term) = leads else {
            *held = None;
            return Vec::new();
        };
        if held.as_ref().is_some_and(|tenure| !tenure.is_of(term)) {
            *held = None;
        }
        let tenure = held.get_or_insert_with(|| {
            info!(term, "this node leads");
            Tenure::begin(term, now_ms, self.report_lease_ms)
        });
        replica.read(|state| tenure.judge(now_ms, state.catalog().regions()))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tenure(&self) -> MutexGuard<'_, Option<Tenure>> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows elections and, while this node leads, keeps the regions' verdicts true.
pub async fn run(leader: Arc<Leader>, writer: Arc<Writer>, shutdown: CancellationToken) {
    let mut ticks = interval(EVALUATE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let leads = {
            let status = writer.consensus.status();
            let status = status.borrow();
            status.leads_with_whole_state.then_some(status.term)
        };
        let verdicts = leader.evaluate(leads, &writer.replica);
        if verdicts.is_empty() {
            continue;
        }
        for (region, verdict) in &verdicts {
            info!(%region, %verdict, "verdict proposed");
        }
        let command = Command::SetVerdicts { verdicts };
        match writer.write(command, Terms::minted()).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => warn!(%refusal, "verdicts refused"),
            Err(none) => warn!(error = %none, "verdicts not written"),
        }
    }
}
