//! Instances that are child processes of the region.
//!
//! A bundle is run as it lies on disk, in a process group and with an environment of its own, and
//! dies with the region, with all that it has started. That keeps honest functions apart. It does not
//! confine a hostile one: it runs as the region's user, without its capabilities, and sees the machine's
//! files and network.

mod command;
mod exec;
mod scratch;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_types::CallId;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest};
use tokio::process::Child;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::call::Connection;
use crate::output::{Output, Printed, Stream};
use crate::readiness;
use crate::{
    CallError, CallRequest, CallResponse, Instance, InstanceSpec, NotRunnable, Runtime, StartError,
};
use command::Prepared;
use scratch::{Scratch, ScratchRoot};

pub use exec::{exec_instance_if_asked, limit};
pub use scratch::SettingsError;

/// Instances that may be starting at once. Each holds an inotify instance, of which a user has 128
/// by default and regions on one machine share them; and what starts slower for sharing the cores
/// with more would time out.
const STARTING_MAX: usize = 32;

/// How long a keeper may take to end an instance once it is asked to: the kernel kills thousands of
/// processes in that time.
const STOP_MAX: Duration = Duration::from_secs(5);

/// What a killed process has written is in its pipes; longer than this only a process that left
/// its group can hold them open.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct ProcessSettings {
    /// Where sockets and scratch directories are made; the machine's temporary directory if absent.
    /// It must be short, since the path of a Unix socket has at most 107 bytes.
    pub socket_dir: Option<PathBuf>,
    /// A program that calls [`exec_instance_if_asked`] first: the region itself.
    pub launcher: PathBuf,
    /// How long an instance may take to become ready (Fn contract 9.2).
    pub hot_start_timeout: Duration,
    pub response_body_bytes_max: usize,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            socket_dir: None,
            // Not the program's path, which may have been replaced since by another version.
            launcher: PathBuf::from("/proc/self/exe"),
            hot_start_timeout: Duration::from_secs(5),
            response_body_bytes_max: 6 << 20,
        }
    }
}

/// Runs instances as child processes. Dropped, it takes all its instances with it.
#[derive(Debug)]
pub struct ProcessRuntime {
    settings: ProcessSettings,
    scratch: Arc<ScratchRoot>,
    starting: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// A child process that is ready for calls.
#[derive(Debug)]
pub struct ProcessInstance {
    process: Process,
    connection: Connection,
    response_body_bytes_max: usize,
    output: Output,
}

/// A child process that is being watched until it is gone.
#[derive(Debug)]
struct Process {
    keeper: Pid,
    stop: CancellationToken,
    gone: CancellationToken,
    known: Arc<Known>,
    _stop_on_drop: DropGuard,
}

/// What is known of an instance's processes, beside the keeper's number.
#[derive(Debug, Default)]
struct Known {
    /// The function's own process, once it is ready.
    function: OnceLock<Pid>,
    /// How its keeper has exited, before it is told that it is gone.
    exit: OnceLock<ExitStatus>,
}

impl ProcessRuntime {
    /// Must be called inside a tokio runtime, which then runs its tasks.
    ///
    /// # Errors
    /// If its directory cannot be made or is too deep for the paths of sockets.
    pub fn new(settings: ProcessSettings) -> Result<Self, SettingsError> {
        let scratch = ScratchRoot::new(settings.socket_dir.as_deref())?;
        let shutdown = CancellationToken::new();
        Ok(Self {
            settings,
            scratch: Arc::new(scratch),
            starting: Semaphore::new(STARTING_MAX),
            tasks: TaskTracker::new(),
            _stop_on_drop: shutdown.clone().drop_guard(),
            shutdown,
        })
    }

    /// A process that runs, with its scratch directory.
    async fn spawn(
        &self,
        prepared: &Prepared,
        scratch: Scratch,
        output: &Output,
    ) -> Result<Process, NotRunnable> {
        let system = |what| move |source| NotRunnable::System { what, source };
        let command = prepared.command(&self.settings.launcher, &scratch);
        // Off the threads that serve: to start a process blocks. If nobody waits for it any more, its
        // input is closed, and it ends.
        let spawned = tokio::task::spawn_blocking(move || {
            let mut command = command;
            command.spawn()
        });
        let mut child = spawned
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(system("spawning the process"))?;
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let streams: [(Stream, Box<dyn AsyncRead + Send + Unpin>); 2] = [
            (Stream::Stdout, Box::new(stdout)),
            (Stream::Stderr, Box::new(stderr)),
        ];
        for reader in output.readers(streams) {
            self.tasks.spawn(reader);
        }
        let watched = Watched::new(child).map_err(system("watching the process"))?;
        let keeper = watched.pid;
        let stop = self.shutdown.child_token();
        let gone = CancellationToken::new();
        let known = Arc::new(Known::default());
        let until_gone = watched.until_gone(
            stop.clone(),
            gone.clone(),
            Arc::clone(&known),
            scratch,
            output.clone(),
        );
        self.tasks.spawn(until_gone);
        Ok(Process {
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            gone,
            known,
            keeper,
        })
    }
}

/// Into the region's own log.
fn traced_output(spec: &InstanceSpec) -> Output {
    let (app, function) = (spec.app_name.clone(), spec.fn_name.clone());
    Output::new(move |printed: Printed<'_>| {
        let call = printed.call.map_or("", CallId::as_str);
        let line = printed.line;
        debug!(target: "function", app, function, call, line, "printed");
        if printed.last {
            debug!(target: "function", app, function, call, "printed more than is kept of a call");
        }
    })
}

impl Runtime for ProcessRuntime {
    type Instance = ProcessInstance;

    async fn start(&self, spec: InstanceSpec) -> Result<ProcessInstance, StartError> {
        let _permit = self.starting.acquire().await.expect("it is never closed");
        if self.shutdown.is_cancelled() {
            return Err(StartError::NotRunnable(NotRunnable::Stopping));
        }
        let prepared = command::prepare(&spec)
            .await
            .map_err(StartError::NotRunnable)?;
        let system =
            |what| move |source| StartError::NotRunnable(NotRunnable::System { what, source });
        let scratch = Scratch::new(&self.scratch)
            .await
            .map_err(system("making the socket directory"))?;
        // Watched before there is anyone to make the link, so it cannot be missed.
        let readiness =
            readiness::watch(scratch.sockets()).map_err(system("watching the socket directory"))?;
        let output = traced_output(&spec);
        let process = self
            .spawn(&prepared, scratch, &output)
            .await
            .map_err(StartError::NotRunnable)?;

        let ready = timeout(
            self.settings.hot_start_timeout,
            readiness.until_ready(&process.gone),
        );
        match ready.await.unwrap_or(Err(StartError::TimedOut)) {
            Ok(socket) => Ok(ProcessInstance {
                process: process.that_is_ready(),
                connection: Connection::new(socket, self.tasks.clone()),
                response_body_bytes_max: self.settings.response_body_bytes_max,
                output,
            }),
            Err(error) => {
                process.stop().await;
                let kept = process.known.exit.get().copied();
                match kept.and_then(exec::kept_by_the_system) {
                    Some(source) => Err(StartError::NotRunnable(NotRunnable::System {
                        what: "starting an instance's process",
                        source,
                    })),
                    None => Err(error),
                }
            }
        }
    }

    async fn shutdown(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Instance for ProcessInstance {
    async fn call(
        &self,
        request: CallRequest,
        deadline: Instant,
    ) -> Result<CallResponse, CallError> {
        self.output.begin_call(&request.call);
        self.connection
            .call(request, deadline, self.response_body_bytes_max)
            .await
    }

    async fn stop(&self) {
        self.process.stop().await;
    }

    async fn exited(&self) {
        self.process.gone.cancelled().await;
    }
}

impl Process {
    /// Notes the function's own number, which nobody but its keeper knows once that is gone.
    fn that_is_ready(self) -> Self {
        let keeper = self.keeper.as_raw_nonzero();
        let children = format!("/proc/{keeper}/task/{keeper}/children");
        let function = std::fs::read_to_string(children)
            .ok()
            .and_then(|list| Pid::from_raw(list.split_whitespace().next()?.parse().ok()?));
        if let Some(function) = function {
            let _first = self.known.function.set(function);
        }
        self
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.gone.cancelled().await;
    }
}

/// An instance's keeper, and a way to learn of its exit without reaping it, so that its children still
/// have it for a parent.
struct Watched {
    keeper: Child,
    pid: Pid,
    exit: AsyncFd<std::os::fd::OwnedFd>,
}

impl Watched {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for descriptors that change, which an OwnedFd never does"
    )]
    fn new(keeper: Child) -> io::Result<Self> {
        let pid = keeper
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| io::Error::other("the process was reaped by somebody else"))?;
        let exit = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        let exit = AsyncFd::with_interest(exit, Interest::READABLE)?;
        Ok(Self { keeper, pid, exit })
    }

    async fn until_gone(
        mut self,
        stop: CancellationToken,
        gone: CancellationToken,
        known: Arc<Known>,
        scratch: Scratch,
        output: Output,
    ) {
        tokio::select! {
            _ = self.exit.readable() => {}
            () = stop.cancelled() => {}
        }
        // It ends everything once its input does.
        drop(self.keeper.stdin.take());
        if timeout(STOP_MAX, self.exit.readable()).await.is_err() {
            warn!(
                pid = self.pid.as_raw_nonzero(),
                "instance does not stop, killing it"
            );
            let _empty = kill_process_group(self.pid, Signal::KILL);
        }
        match self.keeper.wait().await {
            Ok(status) => {
                debug!(pid = self.pid.as_raw_nonzero(), %status, "instance is gone");
                // A keeper that was killed has killed nobody.
                if status.signal().is_some()
                    && let Some(function) = known.function.get()
                {
                    let _empty = kill_process_group(*function, Signal::KILL);
                }
                let _first = known.exit.set(status);
            }
            Err(error) => tracing::error!(%error, "instance's exit status cannot be read"),
        }
        gone.cancel();
        if timeout(LAST_WORDS_MAX, output.read_to_end()).await.is_err() {
            output.give_up();
        }
        scratch.remove().await;
    }
}
