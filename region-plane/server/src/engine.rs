//! The owner of the dispatcher: carries out what it decides, with the runtime.
//!
//! One task holds the dispatcher and every instance. Calls come in by a bounded channel and get one
//! answer each. What takes time (starting an instance, a call, a kill) is a task of its own that
//! reports back by ending.
//!
//! A caller who leaves while the call waits takes it out of the queue. One who leaves while it runs
//! does not stop it: the function finishes and its answer is dropped. To stop it would mean killing
//! the instance, and the next caller would pay with a cold start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api_types::{CallId, FnId, Load};
use api_wire::planes::FunctionCount;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use region_plane_dispatch::{
    Action, AfterCall, Call, Dispatcher, InstanceId, InstanceState, Key, Limits, Rejection, Spec,
    StartFailure,
};
use region_plane_runtime::{
    CallError, CallRequest, CallResponse, Instance, InstanceSpec, Runtime, StartError, with_sources,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::gateway::headers::DEADLINE;
use daemon::clock;

/// A call as the engine needs it.
#[derive(Debug)]
pub struct Work {
    pub spec: Spec,
    pub launch: InstanceSpec,
    pub call: CallId,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The function's, from the moment it starts (Fn contract 9.5).
    pub timeout: Duration,
}

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No function has seen it.
    #[error("the call was not started: {0:?}")]
    Rejected(Rejection),
    #[error(transparent)]
    Call(CallError),
    /// The region is gone from under the call.
    #[error("the region is stopping")]
    Stopped,
}

/// The callers' end. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    events: mpsc::Sender<Event>,
    counts: Arc<RwLock<Snapshot>>,
    wait_max: Duration,
}

/// What is going on, for reports and operators; at most [`COUNT_EVERY`] old.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub load: Load,
    pub queued: u32,
    pub memory_held_mb: u64,
    pub instances: Vec<InstanceRow>,
    /// Since the start, by function; the reporter takes differences.
    pub functions: BTreeMap<FnId, FunctionTotals>,
    pub drained: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct FunctionTotals {
    pub calls: u64,
    pub errors: u64,
    pub running: u32,
    pub instances: u32,
}

/// An item of `GET /v1/instances`.
#[derive(Debug, Clone, Serialize)]
pub struct InstanceRow {
    pub instance: u64,
    pub fn_id: String,
    pub memory_mb: u64,
    /// `starting`, `idle`, `running` or `stopping`.
    pub state: &'static str,
}

/// Long enough to cost nothing, well below the second between reports.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// Instances that may turn a call away, nothing of it having reached the function, before its caller
/// is told: more than a few are not an accident.
const RESTARTS_MAX: u32 = 3;

/// Totals of functions that are gone are dropped once there are this many; regions hold fewer.
const TOTALS_MAX: usize = 20_000;

enum Event {
    Arrived {
        work: Arc<Work>,
        wait_until: Instant,
        answer: oneshot::Sender<Result<CallResponse, Failure>>,
        number: oneshot::Sender<Call>,
    },
    Left(Call),
    Changed {
        function: FnId,
        settings: Option<u64>,
    },
    Drain,
}

/// What a task did.
enum Ended<I> {
    Started(InstanceId, Result<I, StartError>),
    Called {
        call: Call,
        function: FnId,
        result: Result<CallResponse, CallError>,
    },
    Exited(InstanceId),
}

impl Engine {
    /// Gives the region a call and waits for its answer.
    ///
    /// Dropped while the call waits, it leaves the queue; while it runs, its answer is dropped.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&self, work: Work) -> Result<CallResponse, Failure> {
        let (work, wait_until) = (Arc::new(work), Instant::now() + self.wait_max);
        let mut restarts = 0;
        loop {
            match self.offer(Arc::clone(&work), wait_until).await {
                Err(Failure::Call(CallError::NotStarted { source }))
                    if restarts < RESTARTS_MAX && Instant::now() < wait_until =>
                {
                    restarts += 1;
                    metrics::counter!("tradewind_region_calls_restarted_total").increment(1);
                    debug!(call = %work.call, error = %source, "not started, offered again");
                }
                answer => return answer,
            }
        }
    }

    /// Offers a call to the dispatcher once.
    async fn offer(&self, work: Arc<Work>, wait_until: Instant) -> Result<CallResponse, Failure> {
        // Reserved first, so that leaving always has room to be told.
        let leave = self
            .events
            .clone()
            .reserve_owned()
            .await
            .map_err(|_| Failure::Stopped)?;
        let (answer, answered) = oneshot::channel();
        let (number, numbered) = oneshot::channel();
        let arrived = Event::Arrived {
            work,
            wait_until,
            answer,
            number,
        };
        self.events
            .send(arrived)
            .await
            .map_err(|_| Failure::Stopped)?;
        let mut leaving = Leaving {
            numbered,
            leave: Some(leave),
        };
        let result = answered.await.unwrap_or(Err(Failure::Stopped));
        leaving.leave = None;
        result
    }

    /// The function's settings are now these; `None` if it is no longer here.
    pub async fn changed(&self, function: FnId, settings: Option<u64>) {
        // The engine ends last; nobody is left to care.
        let _ended = self
            .events
            .send(Event::Changed { function, settings })
            .await;
    }

    /// Admit no more calls, let those admitted finish.
    pub async fn drain(&self) {
        let _ended = self.events.send(Event::Drain).await;
    }

    #[must_use]
    pub fn counts(&self) -> Snapshot {
        self.counts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How long a call may wait for an instance.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        self.wait_max
    }
}

/// Tells the engine when its caller is dropped.
struct Leaving {
    numbered: oneshot::Receiver<Call>,
    leave: Option<mpsc::OwnedPermit<Event>>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Without a number the arrival is still in the channel; the engine sees that its answer has
        // nobody to go to.
        if let (Some(leave), Ok(call)) = (self.leave.take(), self.numbered.try_recv()) {
            leave.send(Event::Left(call));
        }
    }
}

/// Starts the engine in `tasks`. It ends when `shutdown` is cancelled, all calls cut off and all
/// instances killed; drain it first.
pub fn start<R: Runtime>(
    runtime: R,
    limits: Limits,
    wait_max: Duration,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> Engine {
    // Two places for each call that may be admitted (its arrival, its leaving), and as many again
    // for those about to be refused; others wait to be heard.
    let places = usize::try_from(limits.calls_max).unwrap_or(usize::MAX / 8) * 4 + 64;
    let (events, inbox) = mpsc::channel(places);
    let counts = Arc::new(RwLock::new(Snapshot::default()));
    let owner = Owner {
        runtime: Arc::new(runtime),
        dispatcher: Dispatcher::new(limits),
        started: Instant::now(),
        last_call: 0,
        calls: HashMap::new(),
        launches: HashMap::new(),
        instances: HashMap::new(),
        tasks: JoinSet::new(),
        totals: BTreeMap::new(),
        counts: Arc::clone(&counts),
    };
    tasks.spawn(owner.run(inbox, shutdown));
    Engine {
        events,
        counts,
        wait_max,
    }
}

struct Owner<R: Runtime> {
    runtime: Arc<R>,
    dispatcher: Dispatcher,
    started: Instant,
    last_call: u64,
    calls: HashMap<Call, Admitted>,
    /// What an instance of each key is started with, while a call may need one.
    launches: HashMap<Key, InstanceSpec>,
    instances: HashMap<InstanceId, Arc<R::Instance>>,
    tasks: JoinSet<Ended<R::Instance>>,
    totals: BTreeMap<FnId, FunctionTotals>,
    counts: Arc<RwLock<Snapshot>>,
}

struct Admitted {
    /// `None` once it runs.
    work: Option<Arc<Work>>,
    answer: oneshot::Sender<Result<CallResponse, Failure>>,
}

impl<R: Runtime> Owner<R> {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut counting = tokio::time::interval(COUNT_EVERY);
        loop {
            let next_tick = self.dispatcher.next_tick();
            let tick = async {
                match next_tick {
                    Some(at) => tokio::time::sleep_until(self.started + at).await,
                    None => std::future::pending().await,
                }
            };
            let actions = tokio::select! {
                () = shutdown.cancelled() => break,
                event = inbox.recv() => match event {
                    Some(event) => self.event(event),
                    None => break,
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(ended) => self.ended(ended),
                    Err(error) => anyhow::bail!("an instance's task failed: {error}"),
                },
                () = tick => self.dispatcher.tick(self.now()),
                _ = counting.tick() => {
                    self.count();
                    Vec::new()
                }
            };
            self.perform(actions);
        }
        inbox.close();
        self.calls.clear();
        self.tasks.shutdown().await;
        self.instances.clear();
        self.runtime.shutdown().await;
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let now = self.now();
        match event {
            Event::Arrived {
                work,
                wait_until,
                answer,
                number,
            } => {
                self.last_call += 1;
                let call = Call(self.last_call);
                if number.send(call).is_err() {
                    return Vec::new();
                }
                let spec = work.spec.clone();
                self.launches
                    .entry(spec.key.clone())
                    .or_insert_with(|| work.launch.clone());
                self.calls.insert(
                    call,
                    Admitted {
                        work: Some(work),
                        answer,
                    },
                );
                let wait_until = wait_until.saturating_duration_since(self.started);
                self.dispatcher.call_arrived(now, call, &spec, wait_until)
            }
            Event::Left(call) => {
                // One that runs stays: its end is still due.
                if self
                    .calls
                    .get(&call)
                    .is_some_and(|admitted| admitted.work.is_some())
                {
                    self.calls.remove(&call);
                }
                self.dispatcher.call_cancelled(now, call)
            }
            Event::Changed { function, settings } => {
                if settings.is_none() {
                    self.totals.remove(&function);
                }
                self.dispatcher.function_changed(now, &function, settings)
            }
            Event::Drain => self.dispatcher.drain(now),
        }
    }

    fn ended(&mut self, ended: Ended<R::Instance>) -> Vec<Action> {
        let now = self.now();
        match ended {
            Ended::Started(id, Ok(instance)) => {
                let instance = Arc::new(instance);
                self.instances.insert(id, Arc::clone(&instance));
                // Its end, whoever causes it, is reported once, by this task.
                self.tasks.spawn(async move {
                    instance.exited().await;
                    Ended::Exited(id)
                });
                self.dispatcher.instance_started(now, id)
            }
            Ended::Started(id, Err(error)) => {
                metrics::counter!("tradewind_region_start_failures_total").increment(1);
                let reason = with_sources(&error);
                warn!(
                    instance = id.0,
                    error = reason,
                    "an instance did not come up"
                );
                let failure = match &error {
                    StartError::TimedOut => StartFailure::TimedOut,
                    StartError::Failed { .. } => StartFailure::Failed,
                    StartError::NotRunnable(_) if error.is_of_the_region() => {
                        StartFailure::NoPlace(reason)
                    }
                    StartError::NotRunnable(_) => StartFailure::NotRunnable(reason),
                };
                self.dispatcher.instance_failed(now, id, failure)
            }
            Ended::Called {
                call,
                function,
                result,
            } => {
                let after = match &result {
                    Err(error) if error.instance_lost() => {
                        info!(%function, error = with_sources(error), "a call cost its instance");
                        AfterCall::Lost
                    }
                    Ok(_) | Err(_) => AfterCall::Kept,
                };
                let totals = self.totals.entry(function).or_default();
                totals.calls += 1;
                totals.errors += u64::from(result.is_err());
                if let Some(admitted) = self.calls.remove(&call) {
                    // Its caller may have left.
                    let _left = admitted.answer.send(result.map_err(Failure::Call));
                }
                self.dispatcher.call_finished(now, call, after)
            }
            Ended::Exited(id) => {
                self.instances.remove(&id);
                self.dispatcher.instance_exited(now, id)
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { call, instance } => self.run_call(call, instance),
                Action::Start { instance, key } => self.start_instance(instance, &key),
                Action::Stop { instance, reason } => {
                    debug!(instance = instance.0, ?reason, "stopping an instance");
                    if let Some(held) = self.instances.get(&instance) {
                        let held = Arc::clone(held);
                        self.tasks.spawn(async move {
                            held.stop().await;
                            Ended::Exited(instance)
                        });
                    }
                }
                Action::Reject { call, rejection } => {
                    if let Some(admitted) = self.calls.remove(&call) {
                        let _left = admitted.answer.send(Err(Failure::Rejected(rejection)));
                    }
                }
            }
        }
    }

    fn start_instance(&mut self, id: InstanceId, key: &Key) {
        let launch = self
            .launches
            .get(key)
            .cloned()
            .expect("a call brought it before it was needed");
        let runtime = Arc::clone(&self.runtime);
        metrics::counter!("tradewind_region_cold_starts_total").increment(1);
        self.tasks
            .spawn(async move { Ended::Started(id, runtime.start(launch).await) });
    }

    fn run_call(&mut self, call: Call, id: InstanceId) {
        let work = self
            .calls
            .get_mut(&call)
            .and_then(|admitted| admitted.work.take())
            .expect("a call runs once, and one that left was taken out");
        let held = self
            .instances
            .get(&id)
            .cloned()
            .expect("instances go from here and from the dispatcher in one step");
        let timeout = work.timeout;
        let function = work.spec.key.function.clone();
        let mut headers = work.headers.clone();
        headers.insert(DEADLINE, deadline_text(timeout));
        let request = CallRequest {
            call: work.call.clone(),
            headers,
            body: work.body.clone(),
        };
        self.tasks.spawn(async move {
            let started = Instant::now();
            let result = held.call(request, started + timeout).await;
            metrics::histogram!("tradewind_region_call_seconds").record(started.elapsed());
            Ended::Called {
                call,
                function,
                result,
            }
        });
    }

    fn count(&mut self) {
        let (mut queued, mut by_function) = (0, BTreeMap::<FnId, FunctionTotals>::new());
        let mut in_use = std::collections::HashSet::new();
        for (key, counts) in self.dispatcher.functions() {
            queued += counts.waiting;
            in_use.insert(key.clone());
            let totals = by_function.entry(key.function.clone()).or_default();
            totals.running += u32::try_from(counts.running).unwrap_or(u32::MAX);
            let instances = counts.starting + counts.idle + counts.running;
            totals.instances += u32::try_from(instances).unwrap_or(u32::MAX);
        }
        self.launches.retain(|key, _| in_use.contains(key));
        if self.totals.len() > TOTALS_MAX {
            self.totals
                .retain(|function, _| by_function.contains_key(function));
        }
        for (function, totals) in &self.totals {
            let row = by_function.entry(function.clone()).or_default();
            row.calls = totals.calls;
            row.errors = totals.errors;
        }
        let instances = self.dispatcher.instances().map(|row| InstanceRow {
            instance: row.instance.0,
            fn_id: row.key.function.to_string(),
            memory_mb: row.memory_mb,
            state: match row.state {
                InstanceState::Starting => "starting",
                InstanceState::Idle => "idle",
                InstanceState::Running(_) => "running",
                InstanceState::Stopping => "stopping",
            },
        });
        let snapshot = Snapshot {
            load: self.dispatcher.load(),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            memory_held_mb: self.dispatcher.memory_held_mb(),
            instances: instances.collect(),
            functions: by_function,
            drained: self.dispatcher.is_drained(),
        };
        metrics::gauge!("tradewind_region_calls").set(f64::from(snapshot.load.current));
        metrics::gauge!("tradewind_region_calls_queued").set(f64::from(snapshot.queued));
        let was_drained = self.counts.read().is_ok_and(|before| before.drained);
        if snapshot.drained && !was_drained {
            info!("drained");
        }
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

impl Snapshot {
    /// Busiest first: what each function did since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<FunctionCount> {
        let mut counts: Vec<FunctionCount> = self
            .functions
            .iter()
            .map(|(function, now)| {
                let then = before.functions.get(function).copied().unwrap_or_default();
                FunctionCount {
                    fn_id: function.to_string(),
                    calls: now.calls.saturating_sub(then.calls),
                    errors: now.errors.saturating_sub(then.errors),
                    running: now.running,
                    instances: now.instances,
                }
            })
            .filter(|count| count.calls > 0 || count.running > 0 || count.instances > 0)
            .collect();
        counts.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.fn_id.cmp(&b.fn_id)));
        counts
    }
}

/// To the second, rounded down (Fn contract 6.1).
fn deadline_text(timeout: Duration) -> HeaderValue {
    let mut at = clock::now();
    at.0 =
        at.0.saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    HeaderValue::from_str(&api_wire::time::format_seconds(at)).expect("digits and punctuation")
}
