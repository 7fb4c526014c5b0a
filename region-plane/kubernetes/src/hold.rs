//! Keeping a claim alive, and noticing that it is no more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_types::chain;
use region_plane_runner::protocol::{Event, LogLine, LogStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::launch::Names;
use crate::runner::{Runner, RunnerError};

/// A runner writes a line every 5 s; two may be late. After that its machine is thought to be gone.
/// Should it be only out of reach, its runner may keep the claim some seconds longer: until a ping was
/// not answered, 10 s at most, and then for its lease. Nobody meets an instance there: what one was in
/// is finished, and goes to no other start.
const SILENCE_MAX: Duration = Duration::from_secs(12);

/// What an instance has printed takes milliseconds to get here; a stop waits until nothing has come
/// for this long, so that the last words of one that crashed are in the log.
const QUIET: Duration = Duration::from_millis(50);

/// One that prints for ever is not listened to for longer.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// Lines of a function's errors that say why it did not come up, and bytes of each: they end up in a
/// condition of an object, beside a sentence.
const ERRORS_MAX: usize = 3;
const ERROR_BYTES_MAX: usize = 300;

/// Between attempts to connect anew.
const PAUSE: Duration = Duration::from_millis(200);

/// A claim that is kept alive until this is dropped or stopped.
#[derive(Debug)]
pub struct Hold {
    claim: String,
    over: CancellationToken,
    lost: CancellationToken,
    ended: CancellationToken,
    stop: CancellationToken,
    errors: Arc<Errors>,
    _stop_on_drop: DropGuard,
}

/// The last lines that were printed as errors, the oldest first.
#[derive(Debug, Default)]
struct Errors(Mutex<VecDeque<String>>);

impl Hold {
    /// Keeps the claim by a task in `tasks` that `closing` ends.
    pub fn start(
        runner: Arc<Runner>,
        claim: String,
        names: Names,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Self {
        let stop = CancellationToken::new();
        let hold = Self {
            claim: claim.clone(),
            over: CancellationToken::new(),
            lost: CancellationToken::new(),
            ended: CancellationToken::new(),
            errors: Arc::default(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop: stop.clone(),
        };
        let (over, lost, ended) = (hold.over.clone(), hold.lost.clone(), hold.ended.clone());
        let (errors, closing) = (Arc::clone(&hold.errors), closing.clone());
        tasks.spawn(async move {
            let keeper = Keeper {
                runner: &runner,
                claim: &claim,
                names: &names,
                errors: &errors,
                over: &over,
                stop: &stop,
            };
            tokio::select! {
                () = keeper.keep() => {}
                () = closing.cancelled() => {}
            }
            over.cancel();
            lost.cancel();
            ended.cancel();
        });
        hold
    }

    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Calls that run are cut off.
    pub fn stop(&self) {
        self.lost.cancel();
        self.stop.cancel();
    }

    /// Ends it, and returns what was printed last as errors, if anything was.
    pub async fn last_errors(self) -> Option<String> {
        self.stop();
        self.ended.cancelled().await;
        let errors = Vec::from(std::mem::take(&mut *self.errors.lines()));
        (!errors.is_empty()).then(|| errors.join(" / "))
    }

    /// Cancelled once nothing more is read of what it prints: the claim may be released then.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Returns once the instance can take no more calls. One that runs may still be answered.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Returns once no answer can come from it.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }
}

impl Errors {
    fn push(&self, line: &str) {
        let mut lines = self.lines();
        if lines.len() == ERRORS_MAX {
            lines.pop_front();
        }
        lines.push_back(line[..line.floor_char_boundary(ERROR_BYTES_MAX)].to_owned());
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Keeper<'a> {
    runner: &'a Runner,
    claim: &'a str,
    names: &'a Names,
    errors: &'a Errors,
    over: &'a CancellationToken,
    stop: &'a CancellationToken,
}

impl Keeper<'_> {
    /// Returns once it is stopped, or the runner has been silent for too long.
    ///
    /// A call that runs fails with its connection if the runner's process or pod goes, or its node is
    /// not heard any more; a runner that is stopping answers it first, for as long as its pod may take.
    /// So what is over is lost only once its calls have ended by themselves.
    async fn keep(&self) {
        let mut heard = Instant::now();
        while !self.stop.is_cancelled() && heard.elapsed() < SILENCE_MAX {
            let broken = match self.listen(&mut heard).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let is_over = match &broken {
                // Nobody listens any more, and no other process takes its place in the pod.
                RunnerError::Connect { source, .. } => {
                    source.kind() == std::io::ErrorKind::ConnectionRefused
                }
                // The claim is another's or nobody's, or the runner is stopping.
                RunnerError::Refused { .. } | RunnerError::Ended => true,
                RunnerError::Exchange { .. }
                | RunnerError::TimedOut
                | RunnerError::Unreadable { .. }
                | RunnerError::TooLarge
                | RunnerError::ReadBundle { .. } => false,
            };
            if is_over {
                debug!(
                    error = chain(&broken),
                    claim = self.claim,
                    "a claim is lost"
                );
                self.over.cancel();
                tokio::select! {
                    () = self.runner.close_calls() => {}
                    () = self.stop.cancelled() => {}
                }
                return;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Reads what the runner tells, until it tells no more or this is stopped and has the last words.
    async fn listen(&self, heard: &mut Instant) -> Result<(), RunnerError> {
        let opening = async {
            self.runner.connect().await?;
            self.runner.events(self.claim).await
        };
        let mut events = tokio::select! {
            events = opening => events?,
            () = self.stop.cancelled() => return Ok(()),
        };
        let mut end = None;
        loop {
            let wait = match end {
                None => *heard + SILENCE_MAX,
                Some(end) => (Instant::now() + QUIET).min(end),
            };
            tokio::select! {
                event = timeout_at(wait, events.next()) => match event {
                    Ok(Ok(Some(event))) => {
                        *heard = Instant::now();
                        self.tell(event);
                    }
                    _ if end.is_some() => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(None)) => return Err(RunnerError::Ended),
                    Err(_) => return Err(RunnerError::TimedOut),
                },
                () = self.stop.cancelled(), if end.is_none() => {
                    end = Some(Instant::now() + LAST_WORDS_MAX);
                }
            }
        }
    }

    fn tell(&self, event: Event) {
        let (app, function): (&str, &str) = (&self.names.app, &self.names.function);
        match event {
            Event::Phase { phase, reason } => {
                if phase.is_over() && !self.over.is_cancelled() {
                    debug!(claim = self.claim, ?phase, reason, "an instance is over");
                    self.over.cancel();
                }
            }
            Event::Log { log } => {
                let LogLine { call, stream, line } = log;
                if stream == LogStream::Stderr {
                    self.errors.push(&line);
                }
                let call = call.unwrap_or_default();
                debug!(target: "function", app, function, call, ?stream, line, "printed");
            }
            Event::Dropped { dropped } => {
                warn!(target: "function", app, function, dropped, "function printed faster than its log was read");
            }
        }
    }
}
