//! Keeping a claim alive, and noticing that it is no more.

use std::sync::Arc;
use std::time::Duration;

use region_plane_runner::protocol::Event;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::launch::Names;
use crate::runner::{Runner, RunnerError};

/// A runner writes a line every 5 s; two may be late. Well below the 15 s after which it drops the
/// claim of a gateway that it does not hear, so that no two gateways believe in one pod.
const SILENCE_MAX: Duration = Duration::from_secs(12);

/// Between attempts to connect anew.
const PAUSE: Duration = Duration::from_millis(200);

/// A claim that is kept alive until this is dropped or stopped.
#[derive(Debug)]
pub struct Hold {
    claim: String,
    over: CancellationToken,
    lost: CancellationToken,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Hold {
    /// Keeps the claim by a task in `tasks` that `closing` ends.
    pub fn start(
        runner: Arc<Runner>,
        claim: String,
        names: Names,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let stop = closing.child_token();
        let hold = Self {
            claim: claim.clone(),
            over: CancellationToken::new(),
            lost: CancellationToken::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop: stop.clone(),
        };
        let (over, lost) = (hold.over.clone(), hold.lost.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = keep(&runner, &claim, &names, &over) => {}
                () = stop.cancelled() => {}
            }
            over.cancel();
            lost.cancel();
        });
        hold
    }

    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Calls that run are cut off.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns once the instance can take no more calls. One that runs may still be answered.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Returns once no answer can come from it.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Returns once the runner has been silent for too long.
///
/// A call that runs fails with its connection if the runner's process or pod goes; one that is
/// stopping answers it first. Only a node that is gone breaks no connection.
async fn keep(runner: &Runner, claim: &str, names: &Names, over: &CancellationToken) {
    let mut heard = Instant::now();
    loop {
        let broken = listen(runner, claim, names, over, &mut heard).await;
        let is_over = match &broken {
            // Nobody listens any more, and no other process takes its place in the pod.
            RunnerError::Connect { source, .. } => {
                source.kind() == std::io::ErrorKind::ConnectionRefused
            }
            // The claim is another's, or nobody's.
            RunnerError::Refused { .. } => true,
            RunnerError::Exchange { .. }
            | RunnerError::TimedOut
            | RunnerError::Unreadable { .. }
            | RunnerError::TooLarge
            | RunnerError::ReadBundle { .. } => false,
        };
        if is_over {
            if !over.is_cancelled() {
                debug!(
                    error = &broken as &dyn std::error::Error,
                    claim, "a claim is lost"
                );
            }
            over.cancel();
            sleep_until(heard + SILENCE_MAX).await;
        }
        if heard.elapsed() >= SILENCE_MAX {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Reads what the runner tells until it tells no more.
async fn listen(
    runner: &Runner,
    claim: &str,
    names: &Names,
    over: &CancellationToken,
    heard: &mut Instant,
) -> RunnerError {
    let opening = async {
        runner.connect().await?;
        runner.events(claim).await
    };
    let mut events = match opening.await {
        Ok(events) => events,
        Err(error) => return error,
    };
    loop {
        match timeout_at(*heard + SILENCE_MAX, events.next()).await {
            Err(_) | Ok(Ok(None)) => return RunnerError::TimedOut,
            Ok(Err(error)) => return error,
            Ok(Ok(Some(event))) => {
                *heard = Instant::now();
                tell(event, claim, names, over);
            }
        }
    }
}

fn tell(event: Event, claim: &str, names: &Names, over: &CancellationToken) {
    let (app, function): (&str, &str) = (&names.app, &names.function);
    match event {
        Event::Phase { phase, reason } => {
            if phase.is_over() && !over.is_cancelled() {
                debug!(claim, ?phase, reason, "an instance is over");
                over.cancel();
            }
        }
        Event::Log { log } => {
            let call = log.call.as_deref().unwrap_or_default();
            debug!(target: "function", app, function, call, line = log.line, "printed");
        }
        Event::Dropped { dropped } => {
            warn!(target: "function", app, function, dropped, "printed faster than was read");
        }
    }
}
