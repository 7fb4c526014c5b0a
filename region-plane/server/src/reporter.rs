//! What the region tells the global plane about itself, every second to any node.

mod activity;

use std::time::Duration;

use api_client::Client;
use api_types::{Following, Knowledge, RegionName};
use api_wire::planes::{REPORT_ITEMS_MAX, RegisterRegion, Report, SizingBody};
use rand::Rng as _;
use region_plane_replica::{Progress, Replica};
use region_plane_resources::demand::Sizing;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bundles::Bundles;
use crate::engine::{Engine, Snapshot};
use activity::Activities;
use daemon::clock;

/// A third of the lease, so that one report may be lost to a leader change and one to a bad second.
const EVERY: Duration = Duration::from_secs(1);

/// The client tries every node several times before it gives up; this is the pause after that.
const REGISTER_PAUSE: Duration = Duration::from_secs(2);

pub struct Reporter {
    pub client: Client,
    pub replica: Replica,
    pub bundles: Bundles,
    pub engine: Engine,
    pub registration: RegisterRegion,
    /// How much room the cluster has; `None` where the region runs on this machine.
    pub sizing: Option<watch::Receiver<Sizing>>,
    /// How long DNS answers live, as the global plane last said.
    pub dns_ttl: watch::Sender<Duration>,
    /// The region asks for no more clients.
    pub stopping: CancellationToken,
}

impl Reporter {
    /// Registers, reports, and registers again whenever the region is not known. Failures are
    /// survived: the region works without being heard.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.report_for_ever() => {}
        }
    }

    async fn report_for_ever(self) {
        let name: RegionName = self
            .registration
            .name
            .parse()
            .expect("it was made from a region's name");
        let started_at = clock::now();
        let (mut sequence, mut activities, mut told_draining) = (0, Activities::default(), false);
        // Whether the last report was heard, so that a silence is one line and not thousands.
        let mut heard = true;
        self.register().await;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // At once: every client sent here from now on comes to a gateway about to close.
                () = self.stopping.cancelled(), if !told_draining => told_draining = true,
            }
            sequence += 1;
            activities.add(self.engine.activity().await);
            let counts = self.engine.counts().await;
            let report = self.report(sequence, started_at.0, counts, &activities);
            match self.client.report(&name, &report).await {
                Ok(told) => {
                    if let Some(newest) = told.revision {
                        self.replica.note_newest(newest);
                    }
                    if let Some(ttl) = told.dns_ttl {
                        self.dns_ttl.send_replace(ttl);
                    }
                    activities.heard();
                    if !heard {
                        info!("reports reach the global plane again");
                    }
                    heard = true;
                }
                Err(error) if error.is_not_found() => {
                    warn!("global plane does not know this region, registering again");
                    self.register().await;
                }
                Err(error) => {
                    metrics::counter!("tradewind_region_reports_lost_total").increment(1);
                    if heard {
                        warn!(%error, "report did not reach the global plane");
                    }
                    heard = false;
                }
            }
        }
    }

    fn report(
        &self,
        sequence: u64,
        started_at_ms: i64,
        counts: Snapshot,
        activities: &Activities,
    ) -> Report {
        let (revision, hash) = self.replica.read(|held| (held.revision().0, held.hash()));
        let mut progress = self.replica.progress();
        progress.problem = progress.problem.or_else(|| self.replica.unwritten());
        let following = following(progress, self.replica.behind());
        let missing = self.bundles.missing(&self.replica, REPORT_ITEMS_MAX);
        Report {
            sequence,
            started_at_ms,
            load: counts.load.into(),
            queued: counts.queued,
            sizing: self
                .sizing
                .as_ref()
                .and_then(|sizing| told(*sizing.borrow())),
            draining: self.stopping.is_cancelled(),
            revision,
            hash,
            bundles_missing: missing.iter().map(ToString::to_string).collect(),
            following: Some((&following).into()),
            functions: activities.busiest(),
            knows: Knowledge::own().to_say().map(str::to_owned).collect(),
        }
    }

    async fn register(&self) {
        loop {
            match self.client.register(&self.registration).await {
                Ok(_) => {
                    info!(region = self.registration.name, "registered");
                    return;
                }
                Err(error) => warn!(%error, "not registered, serving without registration"),
            }
            // Full jitter: regions that wait for one plane must not come to it as one.
            let pause = rand::rng().random_range(Duration::ZERO..REGISTER_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Bytes of a problem's text, which quotes what was asked and what came.
const PROBLEM_BYTES_MAX: usize = 500;

fn following(progress: Progress, behind: Option<Duration>) -> Following {
    let silent = progress.moved_at.elapsed();
    metrics::gauge!("tradewind_region_replication_silent_seconds").set(silent.as_secs_f64());
    let behind = behind.unwrap_or_default();
    metrics::gauge!("tradewind_region_behind_seconds").set(behind.as_secs_f64());
    let problem = progress.problem.map(|mut problem| {
        problem.truncate(problem.floor_char_boundary(PROBLEM_BYTES_MAX));
        problem
    });
    Following {
        silent_ms: millis(silent),
        behind_ms: millis(behind),
        forced_snapshots: progress.forced_snapshots,
        problem,
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `None` until the operator has been heard: its cluster has something at least.
fn told(sizing: Sizing) -> Option<SizingBody> {
    (sizing != Sizing::default()).then_some(SizingBody {
        nodes: sizing.nodes,
        allocatable_memory_mb: sizing.allocatable_memory_mb,
        pending_instances: sizing.pending_pods,
    })
}
