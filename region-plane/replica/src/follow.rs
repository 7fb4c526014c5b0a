//! Following the global plane: a snapshot when nothing is held or too much was missed, else the
//! watch from the revision held.
//!
//! A watch that fails twice at one revision would fail there for ever: a snapshot then leads past it.

use std::time::Duration;

use api_client::{Client, Error};
use api_types::Revision;
use api_wire::WatchLine;
use rand::Rng as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{Refused, RegionCopy, Replica};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A snapshot that was refused is likely to be refused again, and each is megabytes.
const BACKOFF_REFUSED: Duration = Duration::from_secs(10);

/// Failures of the watch at one revision before a snapshot is taken: the first may be a node that
/// stopped in the middle of a line.
const FAILURES_MAX: u32 = 2;

/// The status of a watch from a revision of another cluster or epoch.
const STRANGER: u16 = 409;

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("ask the global plane")]
    Asked(#[source] Error),
    /// After it was answered.
    #[error("watch the global plane")]
    Watch {
        #[source]
        error: Error,
        /// The watch had brought something new.
        has_moved: bool,
    },
    #[error("data from the global plane was refused")]
    Refused(#[source] Refused),
    #[error("the watch does not continue at this copy's revision")]
    Diverged(#[source] Refused),
}

/// Follows until `shutdown`. Errors are survived, those of the disk too: the region serves what it holds.
pub async fn follow(replica: Replica, client: Client, shutdown: CancellationToken) {
    let written = replica.clone();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = written.keep_written() => {}
        () = follow_for_ever(replica, client) => {}
    }
}

async fn follow_for_ever(replica: Replica, client: Client) {
    let mut follower = Follower {
        wants_snapshot: replica.read(|held| held.meta().is_none()),
        replica,
        client,
        failed: None,
        is_forced: false,
        backoff: BACKOFF_MIN,
        last_problem: String::new(),
    };
    loop {
        let broken = follower.once().await;
        let pause = follower.after(broken);
        tokio::time::sleep(pause).await;
    }
}

struct Follower {
    replica: Replica,
    client: Client,
    wants_snapshot: bool,
    /// The revision that was held when watches failed last, and how many did.
    failed: Option<(Revision, u32)>,
    /// The snapshot is taken because of them.
    is_forced: bool,
    backoff: Duration,
    last_problem: String,
}

impl Follower {
    /// Until something breaks.
    async fn once(&mut self) -> Broken {
        let broken = match self.snapshot_then_watch().await {
            Ok(never) => match never {},
            Err(broken) => broken,
        };
        self.replica.set_following(false);
        broken
    }

    async fn snapshot_then_watch(&mut self) -> Result<std::convert::Infallible, Broken> {
        if self.wants_snapshot {
            self.snapshot().await?;
            self.wants_snapshot = false;
            self.is_forced = false;
            self.failed = None;
        }
        let held = (self.replica)
            .read(|held| held.meta().cloned())
            .expect("a snapshot was taken");
        let from = held.settled;
        let watch = self.client.watch(&held.cluster_id, held.epoch, from);
        let mut watch = watch.await.map_err(Broken::Asked)?;
        debug!(revision = %from, "watching");
        let mut has_moved = false;
        loop {
            let line = watch
                .next()
                .await
                .map_err(|error| Broken::Watch { error, has_moved })?;
            let is_progress = matches!(line, WatchLine::Progress { .. });
            let step = self
                .replica
                .read(|held| held.line(line))
                .map_err(Broken::Diverged)?;
            let before = self.replica.read(RegionCopy::revision);
            if let Some(step) = step {
                self.replica.take(step).await;
                self.count();
            }
            // A line that is only sent again, because those after it never came, is none.
            if is_progress || self.replica.read(RegionCopy::revision) > before {
                has_moved = true;
                self.backoff = BACKOFF_MIN;
                self.last_problem.clear();
                self.replica.note_moved();
            }
            if is_progress {
                self.replica.mark();
            }
        }
    }

    async fn snapshot(&self) -> Result<(), Broken> {
        let envelope = self.client.snapshot().await.map_err(Broken::Asked)?;
        let replica = self.replica.clone();
        let step =
            tokio::task::spawn_blocking(move || replica.read(|held| held.snapshot(&envelope)))
                .await
                .expect("checking a snapshot does not panic")
                .map_err(Broken::Refused)?;
        self.replica.note_refused(None);
        self.replica.note_moved();
        if self.is_forced {
            self.replica.note_forced_snapshot();
            metrics::counter!("tradewind_region_forced_snapshots_total").increment(1);
        }
        if let Some(step) = step {
            let (revision, objects) = (step.meta.revision, step.puts.len());
            self.replica.take(step).await;
            self.count();
            info!(%revision, objects, "took a snapshot");
        }
        Ok(())
    }

    /// How long to wait after something broke.
    fn after(&mut self, broken: Broken) -> Duration {
        let pause = match broken {
            Broken::Asked(Error::Compacted { .. }) => {
                info!("too far behind for a watch, taking a snapshot");
                self.wants_snapshot = true;
                Duration::ZERO
            }
            Broken::Asked(error) if error.status() == Some(STRANGER) => {
                self.replica.note_problem(error.to_string());
                warn!(%error, "metadata differs from the global plane's, taking a snapshot");
                self.wants_snapshot = true;
                self.next_backoff()
            }
            Broken::Watch { error, has_moved } => {
                let at = self.replica.read(RegionCopy::revision);
                let is_of_the_line =
                    matches!(error, Error::TooLarge { .. } | Error::Garbled { .. });
                let before = self.failed.filter(|(failed_at, _)| *failed_at == at);
                // A stream that breaks off is no failure at the revision at which it had been going on.
                let failures = match before.map_or(0, |(_, failures)| failures) {
                    _ if has_moved && !is_of_the_line => 0,
                    failures => failures + 1,
                };
                self.failed = Some((at, failures));
                let problem = error.to_string();
                self.replica.note_problem(problem.clone());
                if failures >= FAILURES_MAX {
                    warn!(revision = %at, failures, %error, "watch failed twice at one revision, taking a snapshot");
                    self.wants_snapshot = true;
                    self.is_forced = true;
                } else {
                    self.warn_once(problem);
                }
                self.next_backoff()
            }
            Broken::Asked(error) => {
                let problem = error.to_string();
                self.replica.note_problem(problem.clone());
                self.warn_once(problem);
                self.next_backoff()
            }
            Broken::Diverged(refused) => {
                self.replica.note_problem(refused.to_string());
                warn!(error = %refused, "watch does not continue at our revision, taking a snapshot");
                self.wants_snapshot = true;
                self.next_backoff()
            }
            Broken::Refused(refused) => {
                metrics::counter!("tradewind_region_snapshots_refused_total", "reason" => refused.label())
                    .increment(1);
                error!(error = %refused, "snapshot refused, keeping the current metadata");
                self.replica.note_problem(refused.to_string());
                self.replica.note_refused(Some(refused.to_string()));
                BACKOFF_REFUSED
            }
        };
        // Full jitter: regions that lost one node must not come back to the next as one.
        rand::rng().random_range(Duration::ZERO..=pause)
    }

    /// A plane that is away for an hour is one line, not a thousand.
    fn warn_once(&mut self, problem: String) {
        if self.last_problem != problem {
            warn!(error = problem, "not following the global plane");
            self.last_problem = problem;
        }
    }

    fn next_backoff(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        pause
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge of a revision is read to the unit below 2^53"
    )]
    fn count(&self) {
        let revision = self.replica.read(|held| held.revision().0);
        metrics::gauge!("tradewind_region_revision").set(revision as f64);
    }
}
