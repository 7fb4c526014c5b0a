//! Instances that are pods of a Kubernetes cluster.
//!
//! The second driver of [`Runtime`]: to start an instance is to claim a pod at its runner, in
//! memory; pods are made and deleted by the operator, which is told what is wanted. This crate
//! refuses to write to the API server and to wait for it: with the server or the operator away,
//! pods that are known go on being claimed and called.

mod claims;
mod demand;
mod failures;
mod hold;
mod identity;
mod launch;
mod pods;
mod runner;
mod seats;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_types::chain;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use region_plane_resources::demand::Sizing;
use region_plane_runner::protocol::{
    Claim, Conflict, ConflictReason, Holder, LISTEN_PORT, State, Tenant,
};
use region_plane_runtime::{
    Breach, CallError, CallRequest, CallResponse, InitFailure, Instance, InstanceSpec, NotRunnable,
    Runtime, StartError,
};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

pub use identity::{Identity, IdentityError};

use claims::{Loss, Pair, PodRefusal};
use hold::Hold;
use launch::{Launching, Packed};
use runner::{ClaimAnswer, ReadyAnswer, Runner, RunnerError};
use seats::{Seat, Seats, Told};

/// A server that is there lists a region's pods within this. Without a list there is no pod to take, and
/// a peer may have some.
const LIST_MAX: Duration = Duration::from_secs(2);

/// Starts that may talk to their pods at once; the others wait. Each may be sending a bundle.
const BRINGING_UP_MAX: usize = 256;

#[derive(Debug, Clone)]
pub struct KubernetesSettings {
    /// Where the pods are.
    pub namespace: String,
    /// Base URLs of the operator's processes, `http://10.0.0.7:8082`. One of them leads.
    pub operators: Vec<String>,
    /// Who this process is. No two at once may be the same.
    pub gateway: Identity,
    /// How long an instance may take from having its code to being ready (Fn contract 9.2).
    pub hot_start_timeout: Duration,
    /// How long a start may wait for a pod, and look for another when one fails it.
    pub pod_start_timeout: Duration,
    pub response_body_bytes_max: usize,
    /// Where runners listen.
    pub runner_port: u16,
}

impl Default for KubernetesSettings {
    fn default() -> Self {
        Self {
            namespace: "tradewind".to_owned(),
            operators: Vec::new(),
            gateway: Identity {
                name: "gateway".to_owned(),
                boot: 1,
            },
            hot_start_timeout: Duration::from_secs(5),
            // A node may have to be added first; calls that wait give up by themselves.
            pod_start_timeout: Duration::from_secs(300),
            response_body_bytes_max: 6 << 20,
            runner_port: LISTEN_PORT,
        }
    }
}

/// Runs instances in pods.
#[derive(Debug)]
pub struct KubernetesRuntime {
    settings: KubernetesSettings,
    /// What the names of all claims begin with: the gateway's name and its boot.
    claims: String,
    seats: Arc<Seats>,
    sizing: watch::Receiver<Sizing>,
    bringing_up: Semaphore,
    told_superseded: AtomicBool,
    /// Connections and what keeps claims alive.
    tasks: TaskTracker,
    closing: CancellationToken,
    shutdown: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// What others in the gateway's process may ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KubernetesHandle {
    seats: Arc<Seats>,
    sizing: watch::Receiver<Sizing>,
}

/// A claimed pod that is ready for calls.
#[derive(Debug)]
pub struct KubernetesInstance {
    seat: Seat,
    runner: Arc<Runner>,
    hold: Hold,
    response_body_bytes_max: usize,
}

/// Why a pod did not become an instance.
enum Setback {
    /// Another pod may.
    Elsewhere(PodRefusal),
    /// No other would, by what the function did, and what it printed last as errors.
    Final(StartError, Option<String>),
    /// No other would, and this one is as it was: nothing has been started in it.
    Unsuited(StartError),
}

impl KubernetesRuntime {
    /// Must be called inside a tokio runtime, which then runs its tasks.
    #[must_use]
    pub fn new(settings: KubernetesSettings, client: Client) -> Self {
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let seats = Arc::new(Seats::new(&settings.gateway.name));
        let (sizing, sized) = watch::channel(Sizing::default());
        let pods: Api<Pod> = Api::namespaced(client, &settings.namespace);

        let watched = Arc::clone(&seats);
        let following = pods::follow(pods, move |change| watched.pods_changed(change));
        let telling = demand::tell(
            Arc::clone(&seats),
            settings.operators.clone(),
            settings.gateway.clone(),
            sizing,
        );
        let resting = Arc::clone(&seats).keep_time();
        tasks.spawn(unless(shutdown.clone(), following));
        tasks.spawn(unless(shutdown.clone(), telling));
        tasks.spawn(unless(shutdown.clone(), resting));
        Self {
            claims: format!("{}.{}", settings.gateway.name, settings.gateway.boot),
            settings,
            seats,
            sizing: sized,
            bringing_up: Semaphore::new(BRINGING_UP_MAX),
            told_superseded: AtomicBool::new(false),
            tasks,
            closing: CancellationToken::new(),
            _stop_on_drop: shutdown.clone().drop_guard(),
            shutdown,
        }
    }

    #[must_use]
    pub fn handle(&self) -> KubernetesHandle {
        KubernetesHandle {
            seats: Arc::clone(&self.seats),
            sizing: self.sizing.clone(),
        }
    }

    /// Claims the pod the seat was offered and waits for its instance.
    async fn bring_up(
        &self,
        seat: &mut Seat,
        uid: String,
        address: IpAddr,
        launching: &Launching,
    ) -> Result<(Arc<Runner>, Hold), Setback> {
        let runner = Arc::new(Runner::new(
            (address, self.settings.runner_port).into(),
            self.tasks.clone(),
            self.closing.clone(),
        ));
        runner.connect().await.map_err(elsewhere)?;
        let tenant = Tenant {
            function: launching.wanted.pair.function.clone(),
            settings: launching.wanted.pair.settings.clone(),
        };
        let claim = Claim {
            pod: Some(uid),
            holder: Holder {
                claim: format!("{}.{}", self.claims, seat.next_claim()),
                gateway: self.settings.gateway.name.clone(),
                boot: self.settings.gateway.boot,
                tenant,
            },
            launch: launching.launch.clone(),
        };
        seat.asks(Arc::clone(&runner), claim.holder.claim.clone());
        let asked = Instant::now();
        let claimed = match runner.claim(&claim).await.map_err(elsewhere)? {
            ClaimAnswer::Ours(claimed) => claimed,
            ClaimAnswer::Refused(Conflict {
                message,
                claim,
                reason,
            }) => {
                metrics::counter!("tradewind_region_claims_refused_total").increment(1);
                let holder = claim.map(|holder| holder.claim);
                debug!(message, holder, "a pod is not to be had");
                seat.was_refused();
                match reason {
                    // That the pod is gone the watch will say. What this one is or holds is not its.
                    Some(ConflictReason::OtherPod) => {
                        return Err(Setback::Elsewhere(PodRefusal::Unavailable));
                    }
                    Some(ConflictReason::Superseded) => self.superseded(),
                    Some(ConflictReason::Unknown) | None => {}
                }
                // Whoever has claimed it may not have loaded it yet, and never do.
                let refusal = match runner.state().await {
                    Ok(state) if state.phase.is_over() => PodRefusal::Over,
                    Ok(State {
                        tenant: Some(tenant),
                        ..
                    }) => PodRefusal::Holds(Pair {
                        function: tenant.function,
                        settings: tenant.settings,
                    }),
                    Ok(_) | Err(_) => PodRefusal::Unavailable,
                };
                return Err(Setback::Elsewhere(refusal));
            }
        };
        metrics::histogram!("tradewind_region_claim_seconds").record(asked.elapsed());
        let hold = Hold::start(
            Arc::clone(&runner),
            claim.holder.claim.clone(),
            launching.names.clone(),
            &self.tasks,
            &self.closing,
        );
        seat.claimed(hold.ended());
        let mut losses = seat.losses();
        let preparing = async {
            if let (true, Some(bundle)) = (claimed.needs_bundle, &launching.bundle) {
                seat.spends();
                self.put_bundle(&runner, &claim.holder.claim, bundle)
                    .await?;
            }
            seat.loaded();
            let ready = runner.ready(&claim.holder.claim, self.settings.hot_start_timeout);
            match ready.await.map_err(elsewhere)? {
                ReadyAnswer::Ready => Ok(()),
                ReadyAnswer::TimedOut => Err(Setback::Final(StartError::TimedOut, None)),
                ReadyAnswer::Failed(message) => Err(failed(message)),
            }
        };
        let prepared = tokio::select! {
            // What the runner says of its function is better than what the cluster says of the pod.
            biased;
            prepared = preparing => prepared,
            () = hold.lost() => Err(Setback::Elsewhere(PodRefusal::Unavailable)),
            loss = seats::lost(&mut losses) => Err(match loss {
                Loss::FunctionExited(message) => failed(message),
                Loss::PodLeaves => Setback::Elsewhere(PodRefusal::Unavailable),
            }),
        };
        match prepared {
            Ok(()) => Ok((runner, hold)),
            Err(Setback::Final(error, _)) => Err(Setback::Final(error, hold.last_errors().await)),
            Err(setback) => Err(setback),
        }
    }

    /// Told once: a start that waits for such a pod meets it every second.
    fn superseded(&self) {
        if !self.told_superseded.swap(true, Ordering::Relaxed) {
            error!(
                gateway = self.settings.gateway.name,
                boot = self.settings.gateway.boot,
                "a pod knows a later start of this gateway, whose data folder is an older copy or in \
                 use twice: delete gateway.json in it and restart the gateway"
            );
        }
    }

    async fn put_bundle(
        &self,
        runner: &Runner,
        claim: &str,
        bundle: &Packed,
    ) -> Result<(), Setback> {
        let started = Instant::now();
        match runner.put_bundle(claim, bundle).await {
            Ok(()) => {
                metrics::histogram!("tradewind_region_bundle_send_seconds")
                    .record(started.elapsed());
                Ok(())
            }
            Err(RunnerError::Refused { status, message }) => Err(match status {
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
                    Setback::Unsuited(cluster("BundleInvalid", message))
                }
                // What this region has is not the bundle; another region may have it.
                StatusCode::BAD_REQUEST => Setback::Unsuited(cluster("BundleRefused", message)),
                _ => elsewhere(RunnerError::Refused { status, message }),
            }),
            Err(RunnerError::ReadBundle { source }) => {
                let message = format!("this region's copy of the bundle cannot be read: {source}");
                Err(Setback::Unsuited(cluster("BundleUnreadable", message)))
            }
            Err(error) => Err(elsewhere(error)),
        }
    }
}

impl Runtime for KubernetesRuntime {
    type Instance = KubernetesInstance;

    async fn start(&self, spec: InstanceSpec) -> Result<KubernetesInstance, StartError> {
        let launching = launch::prepare(&spec, self.settings.hot_start_timeout)
            .await
            .map_err(StartError::NotRunnable)?;
        if timeout(LIST_MAX, self.seats.pods_known()).await.is_err() {
            let message = "the API server has not told yet which pods there are".to_owned();
            return Err(cluster("PodsUnknown", message));
        }
        let give_up = Instant::now() + self.settings.pod_start_timeout;
        let mut seat = Seat::take(&self.seats, launching.wanted.clone());
        loop {
            let told = tokio::select! {
                told = timeout_at(give_up, seat.told()) => told,
                () = self.shutdown.cancelled() => {
                    return Err(StartError::NotRunnable(NotRunnable::Stopping));
                }
            };
            let (uid, address) = match told {
                Err(_) => {
                    let waited = self.settings.pod_start_timeout.as_secs();
                    return Err(cluster("NoPod", format!("no pod came within {waited} s")));
                }
                Ok(Told::Offered { uid, address }) => (uid, address),
                Ok(Told::Hopeless { reason, message }) => return Err(hopeless(&reason, message)),
                // It left before it was asked.
                Ok(Told::Lost(_) | Told::Waiting) => {
                    seat.refused(PodRefusal::Unavailable);
                    continue;
                }
            };
            let _permit = self
                .bringing_up
                .acquire()
                .await
                .expect("it is never closed");
            let brought_up = tokio::select! {
                brought_up = self.bring_up(&mut seat, uid, address, &launching) => brought_up,
                () = self.shutdown.cancelled() => {
                    return Err(StartError::NotRunnable(NotRunnable::Stopping));
                }
            };
            match brought_up {
                Ok((runner, hold)) => {
                    self.seats.start_succeeded(&launching.wanted.pair);
                    seat.spends();
                    return Ok(KubernetesInstance {
                        seat,
                        runner,
                        hold,
                        response_body_bytes_max: self.settings.response_body_bytes_max,
                    });
                }
                Err(Setback::Elsewhere(refusal)) => seat.refused(refusal),
                Err(Setback::Final(error, printed)) => {
                    let mut message = explained(&error);
                    if let Some(printed) = printed {
                        message = format!("{message}; it printed: {printed}");
                    }
                    self.seats.start_failed(&launching.wanted.pair, message);
                    // What has failed once is not tried again.
                    seat.end();
                    return Err(error);
                }
                Err(Setback::Unsuited(error)) => {
                    // A region's own bad copy is nothing that whoever owns the function could correct.
                    if !error.is_of_the_region() {
                        self.seats
                            .start_failed(&launching.wanted.pair, explained(&error));
                    }
                    seat.give_back();
                    return Err(error);
                }
            }
        }
    }

    /// Gives all pods back; what runs in them goes on. None can be claimed afterwards.
    async fn shutdown(&self) {
        self.shutdown.cancel();
        self.seats.close().await;
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl KubernetesHandle {
    /// How much room the cluster has, as the operator last told.
    #[must_use]
    pub fn sizing(&self) -> watch::Receiver<Sizing> {
        self.sizing.clone()
    }

    /// Whether the API server has told which pods there are. Until then nearly every start fails.
    #[must_use]
    pub fn knows_pods(&self) -> bool {
        self.seats.knows_pods()
    }

    /// Returns once the pods are known.
    pub async fn pods_known(&self) {
        self.seats.pods_known().await;
    }

    /// From now on the pods there are count as the next gateway's, and those that are let go are
    /// left to it, hot. For a gateway that is replaced, before its clients turn to the next.
    pub fn hand_over(&self) {
        self.seats.hand_over();
    }
}

impl Instance for KubernetesInstance {
    async fn call(
        &self,
        request: CallRequest,
        deadline: Instant,
    ) -> Result<CallResponse, CallError> {
        let source = Breach::PodLost;
        if self.hold.is_lost() {
            return Err(CallError::NotStarted { source });
        }
        let calling = self.runner.call(
            self.hold.claim(),
            request,
            deadline,
            self.response_body_bytes_max,
        );
        tokio::select! {
            biased;
            answer = calling => answer,
            () = self.hold.lost() => Err(CallError::Broken { source }),
        }
    }

    async fn stop(&self) {
        self.hold.stop();
        self.seat.end();
        self.seat.released().await;
    }

    async fn exited(&self) {
        let mut losses = self.seat.losses();
        tokio::select! {
            _ = seats::lost(&mut losses) => {}
            () = self.hold.over() => {}
        }
    }
}

fn cluster(reason: &str, message: String) -> StartError {
    StartError::NotRunnable(NotRunnable::Cluster {
        reason: reason.to_owned(),
        message,
    })
}

/// What a start fails by for which the operator says that no pod will come.
fn hopeless(reason: &str, message: String) -> StartError {
    match reason {
        // There was one, and the function did not come up in it.
        "FunctionExited" | "OutOfMemory" => StartError::Failed {
            source: InitFailure::Reported { message },
        },
        _ => match cluster(reason, message) {
            // What a runner printed may be in it, or how the cluster is made, and the error speaks to
            // callers. Whoever owns the cluster has it from the log and from the condition.
            error if error.is_of_the_region() => {
                cluster(reason, format!("no pod comes up for it ({reason})"))
            }
            error => error,
        },
    }
}

fn failed(message: String) -> Setback {
    let source = InitFailure::Reported { message };
    Setback::Final(StartError::Failed { source }, None)
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn elsewhere(error: RunnerError) -> Setback {
    debug!(error = chain(&error), "a pod did not become an instance");
    Setback::Elsewhere(PodRefusal::Unavailable)
}

/// What a start failed by, for whoever owns the function. The error itself speaks to its callers.
fn explained(error: &StartError) -> String {
    match error {
        StartError::TimedOut => "it did not listen on its socket in time".to_owned(),
        StartError::Failed { source } => source.to_string(),
        StartError::NotRunnable(problem) => problem.to_string(),
    }
}

async fn unless(shutdown: CancellationToken, running: impl Future<Output = ()>) {
    tokio::select! {
        () = running => {}
        () = shutdown.cancelled() => {}
    }
}
