//! The pod's instance: bringing it up, calling it, noticing that it is gone.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use api_types::chain;
use region_plane_runtime::call::Connection;
use region_plane_runtime::command::{bundle_environment, command_line};
use region_plane_runtime::output::Output;
use region_plane_runtime::readiness::{self, READY_LINK, Readiness};
use region_plane_runtime::{CallError, CallRequest, CallResponse, InitFailure, StartError};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::launch::{self, Program};
use crate::log::Log;
use crate::pod::{CallEnd, ClaimRefused, EndReason, NotClaimed, Pod, ToLaunch};
use crate::protocol::{CallFailure, Claimed, Holder, Kind, Phase};
use crate::settings::Settings;

/// Where a function may write, in every pod: its container's root is read-only.
const TEMPORARY: &str = "/tmp";

/// Claims at once: a region has few gateways. As many as its connections could begin, 4 MiB each, are
/// more than the container may hold, and killed for that it would leave its port to the function, which
/// can reach it like a gateway.
const CLAIMS_MAX: usize = 4;

/// The pod and everything that moves it on. One for each runner, and it owns all tasks but those of
/// connections.
#[derive(Debug)]
pub struct Instance {
    settings: Settings,
    began: Instant,
    pod: Mutex<Pod>,
    /// What event streams and waiting gateways look at.
    seen: watch::Sender<Seen>,
    /// The time at which the claim expires may have changed.
    lease: Notify,
    /// What went on in the pod has ended.
    unoccupied: Notify,
    /// Of claims that have begun and are not answered.
    claims_left: Semaphore,
    connection: OnceLock<Connection>,
    log: Arc<Log>,
    output: Output,
    /// Whether a pool pod's container has exited, or can print no more.
    exited: CancellationToken,
    /// What must end before the runner does.
    tasks: TaskTracker,
    /// Of the connection to the function: it has nothing to finish.
    connections: TaskTracker,
    shutdown: CancellationToken,
}

/// What is told of the pod as it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub phase: Phase,
    pub reason: Option<EndReason>,
    /// The claim it is held by.
    pub claim: Option<String>,
}

/// An open request that names a claim, and so keeps it.
#[derive(Debug)]
pub struct Attendance {
    instance: Arc<Instance>,
    claim: String,
}

/// The runner cannot work in its pod.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("make the pipes of the function's output in {folder}")]
    Pipes {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("watch the socket folder {folder}")]
    Watch {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A bundle that is here could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    #[error(transparent)]
    NotClaimed(#[from] NotClaimed),
    #[error("watch the socket folder")]
    Watch {
        #[source]
        source: io::Error,
    },
    #[error("tell the function's container what to run")]
    Tell {
        #[source]
        source: io::Error,
    },
}

impl Instance {
    /// Must be called inside a tokio runtime, which then runs its tasks.
    ///
    /// # Errors
    /// If the folders it shares with the function are not there or not its to use.
    pub fn new(settings: Settings, shutdown: CancellationToken) -> Result<Arc<Self>, PodError> {
        let log = Arc::new(Log::default());
        let pod = Pod::new(settings.kind, settings.pod_uid.clone(), settings.lease);
        let (seen, _) = watch::channel(seen(&pod));
        let instance = Arc::new(Self {
            began: Instant::now(),
            pod: Mutex::new(pod),
            seen,
            lease: Notify::new(),
            unoccupied: Notify::new(),
            claims_left: Semaphore::new(CLAIMS_MAX),
            connection: OnceLock::new(),
            output: Output::new({
                let log = Arc::clone(&log);
                move |printed| log.push(printed)
            }),
            log,
            exited: CancellationToken::new(),
            tasks: TaskTracker::new(),
            connections: TaskTracker::new(),
            shutdown,
            settings,
        });
        match instance.settings.kind {
            Kind::Image => {
                let readiness = instance.watch().map_err(|source| PodError::Watch {
                    folder: instance.settings.socket_dir.clone(),
                    source,
                })?;
                let bring_up = Arc::clone(&instance).bring_up(readiness, None);
                instance.tasks.spawn(bring_up);
            }
            Kind::Pool => {
                let folder = &instance.settings.code_dir;
                let pipes = launch::make_pipes(folder).map_err(|source| PodError::Pipes {
                    folder: folder.clone(),
                    source,
                })?;
                for reader in instance.output.readers(pipes) {
                    instance.tasks.spawn(reader);
                }
                instance.tasks.spawn(Arc::clone(&instance).until_exit());
            }
        }
        instance.tasks.spawn(Arc::clone(&instance).keep_lease());
        Ok(instance)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// What is told of the pod, from now on.
    pub fn watch_pod(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Looks at the pod or changes it, at the time given.
    pub fn pod<R>(&self, act: impl FnOnce(&mut Pod, Duration) -> R) -> R {
        let mut pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner);
        let was_occupied = pod.is_occupied();
        let result = act(&mut pod, self.began.elapsed());
        if was_occupied && !pod.is_occupied() {
            self.unoccupied.notify_waiters();
        }
        let now = seen(&pod);
        self.seen.send_if_modified(|before| {
            let changed = *before != now;
            if changed && before.phase != now.phase {
                let reason = now.reason.as_ref().map(tracing::field::display);
                info!(phase = ?now.phase, reason, "phase changed");
            }
            *before = now;
            changed
        });
        drop(pod);
        self.lease.notify_one();
        result
    }

    /// Kept by a claim from before its body is read until it is answered. `None` if there are too many.
    pub fn place_of_claim(&self) -> Option<SemaphorePermit<'_>> {
        self.claims_left.try_acquire().ok()
    }

    /// Makes a claim as [`Pod::claim`] does, and waits until `deadline` for what goes on there.
    ///
    /// # Errors
    /// If it cannot have the pod.
    pub async fn claim(
        &self,
        for_pod: Option<&str>,
        holder: &Holder,
        to_launch: Option<&ToLaunch>,
        deadline: Instant,
    ) -> Result<Claimed, ClaimRefused> {
        loop {
            let mut unoccupied = std::pin::pin!(self.unoccupied.notified());
            unoccupied.as_mut().enable();
            let (dropped, claimed) = self.pod(|pod, now| {
                let before = pod.holder().cloned();
                let claimed = pod.claim(for_pod, holder, to_launch.cloned(), now);
                let dropped = before.filter(|before| pod.holder() != Some(before));
                (dropped, claimed)
            });
            if let Some(before) = dropped
                && before.gateway == holder.gateway
                && before.boot < holder.boot
            {
                let (claim, gateway) = (before.claim, before.gateway);
                info!(claim, gateway, "claim dropped, its gateway was restarted");
            }
            if claimed != Err(ClaimRefused::Busy) || timeout_at(deadline, unoccupied).await.is_err()
            {
                return claimed;
            }
        }
    }

    /// Keeps the claim until what is returned is dropped.
    ///
    /// # Errors
    /// If the claim is not the pod's.
    pub fn attend(self: &Arc<Self>, claim: &str) -> Result<Attendance, NotClaimed> {
        self.pod(|pod, _| pod.attend(claim))?;
        Ok(Attendance {
            instance: Arc::clone(self),
            claim: claim.to_owned(),
        })
    }

    /// Runs a task that the runner waits for before it ends, also if nobody waits for its result.
    pub async fn run_to_end<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.tasks
            .spawn(task)
            .await
            .expect("tasks neither panic nor are aborted before the runtime")
    }

    /// Waits for the call that is inside the function.
    pub async fn drain(&self) {
        self.output.give_up();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts the bundle that lies unpacked in the code folder.
    ///
    /// # Errors
    /// If it could not be started, or may not be since the claim was lost.
    pub async fn launch(
        self: &Arc<Self>,
        claim: &str,
        manifest: &api_bundle::Manifest,
    ) -> Result<(), LaunchFailure> {
        // Before there is anyone to make the link.
        let readiness = self.watch().map_err(|source| {
            self.pod(|pod, _| pod.bundle_failed());
            LaunchFailure::Watch { source }
        })?;
        let launch = self.pod(|pod, _| pod.launch(claim))?;

        let folder = self.settings.code_dir.join(launch::BUNDLE);
        let line = command_line(manifest, &folder);
        let text = |text: std::ffi::OsString| {
            text.into_string()
                .expect("settings and manifests are UTF-8")
        };
        let mut env: std::collections::BTreeMap<_, _> = bundle_environment(&folder)
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        for name in ["HOME", "TMPDIR"] {
            env.insert(name.to_owned(), TEMPORARY.to_owned());
        }
        env.extend(launch.environment);
        let link = self.settings.socket_dir.join(READY_LINK);
        env.insert("FN_LISTENER".to_owned(), format!("unix:{}", link.display()));
        let program = Program {
            argv: std::iter::once(line.program)
                .chain(line.args)
                .map(text)
                .collect(),
            env,
            cwd: line.working_directory,
        };
        let code_dir = self.settings.code_dir.clone();
        let told = tokio::task::spawn_blocking(move || launch::launch(&code_dir, &program))
            .await
            .map_err(io::Error::other)
            .flatten();
        if let Err(source) = told {
            let failure = LaunchFailure::Tell { source };
            let reason = EndReason::Reported(chain(&failure));
            self.pod(|pod, _| pod.fail(reason));
            return Err(failure);
        }
        let limit = Some(launch.start_timeout);
        self.tasks
            .spawn(Arc::clone(self).bring_up(readiness, limit));
        Ok(())
    }

    /// Gives the function a call that the pod has [admitted](Pod::enter_call), and ends it there.
    ///
    /// To be [run to its end](Self::run_to_end): the call goes on whoever waits for it.
    ///
    /// # Errors
    /// As the function failed; [`CallFailure::Gone`] if nobody listened.
    pub async fn call(
        &self,
        request: CallRequest,
        deadline: Instant,
        response_bytes_max: usize,
    ) -> Result<CallResponse, (CallFailure, CallError)> {
        let connection = self.connection.get().expect("it is ready");
        self.output.begin_call(&request.call);
        let answer = connection
            .call(request, deadline, response_bytes_max)
            .await
            .map_err(|error| (failure(&error), error));
        let end = match &answer {
            Ok(_) => CallEnd::Whole,
            Err((_, error)) if !error.instance_lost() => CallEnd::Whole,
            Err((CallFailure::Gone, error)) => CallEnd::Gone {
                reason: chain(error),
            },
            Err((_, error)) => CallEnd::Broken {
                reason: chain(error),
            },
        };
        self.pod(|pod, now| pod.end_call(end, now));
        answer
    }

    fn watch(&self) -> io::Result<Readiness> {
        readiness::watch(self.settings.socket_dir.clone())
    }

    /// Moves the pod on once the function listens, or fails to within `limit`. A container's image may
    /// have to be pulled, so there is none of it here: who claims the pod sets one.
    async fn bring_up(self: Arc<Self>, readiness: Readiness, limit: Option<Duration>) {
        let until_ready = readiness.until_ready(&self.exited);
        let ready = async {
            match limit {
                Some(limit) => timeout(limit, until_ready)
                    .await
                    .unwrap_or(Err(StartError::TimedOut)),
                None => until_ready.await,
            }
        };
        let ready = tokio::select! {
            ready = ready => ready,
            () = self.shutdown.cancelled() => return,
        };
        match ready {
            Ok(socket) => {
                let connection = Connection::new(socket, self.connections.clone());
                let first = self.connection.set(connection).is_ok();
                debug_assert!(first, "a pod's instance is brought up once");
                self.pod(Pod::ready);
            }
            Err(StartError::TimedOut) => self.pod(|pod, _| pod.fail(EndReason::StartTimedOut)),
            Err(StartError::Failed {
                source: exited @ InitFailure::Exited,
            }) => self.pod(|pod, _| pod.gone(exited.to_string())),
            Err(error) => self.pod(|pod, _| pod.fail(EndReason::Reported(chain(&error)))),
        }
    }

    /// Of pool pods: notices the exit of what was launched by the end of its output.
    async fn until_exit(self: Arc<Self>) {
        tokio::select! {
            () = self.output.read_to_end() => {}
            () = self.shutdown.cancelled() => return,
        }
        self.exited.cancel();
        // A function may close its output and live on.
        let phase = self.seen.borrow().phase;
        if phase != Phase::Starting && !self.listens().await {
            self.pod(|pod, _| pod.gone("the function exited".to_owned()));
        }
    }

    /// Whether anyone would take a connection.
    async fn listens(&self) -> bool {
        let link = self.settings.socket_dir.join(READY_LINK);
        UnixStream::connect(link).await.is_ok()
    }

    /// Drops claims whose gateways have died.
    async fn keep_lease(self: Arc<Self>) {
        loop {
            let expires = self
                .pod
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .expires();
            let expiry = async {
                match expires {
                    Some(at) => sleep_until(self.began + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.lease.notified() => {}
                () = expiry => {
                    if let Some(holder) = self.pod(Pod::expire) {
                        let gateway = holder.gateway;
                        warn!(claim = holder.claim, gateway, "claim dropped, its gateway is silent");
                    }
                }
            }
        }
    }
}

impl Attendance {
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Returns once the claim is not the pod's any more.
    pub async fn lost(&self) {
        let mut pod = self.instance.watch_pod();
        let is_lost = |seen: &Seen| seen.claim.as_ref() != Some(&self.claim);
        pod.wait_for(is_lost)
            .await
            .expect("the instance holds the sender");
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let Self { instance, claim } = self;
        instance.pod(|pod, now| pod.leave(claim, now));
    }
}

fn seen(pod: &Pod) -> Seen {
    let (phase, reason) = pod.phase();
    Seen {
        phase,
        reason: reason.cloned(),
        claim: pod.holder().map(|holder| holder.claim.clone()),
    }
}

fn failure(error: &CallError) -> CallFailure {
    match error {
        CallError::TimedOut => CallFailure::TimedOut,
        CallError::FunctionTimedOut => CallFailure::FunctionTimedOut,
        CallError::FunctionFailed => CallFailure::FunctionFailed,
        CallError::InvalidStatus { .. } => CallFailure::InvalidStatus,
        CallError::NotStarted { .. } => CallFailure::Gone,
        CallError::Broken { .. } => CallFailure::Broken,
        CallError::BodyTooLarge => CallFailure::BodyTooLarge,
        CallError::HeadersTooLarge => CallFailure::HeadersTooLarge,
    }
}
