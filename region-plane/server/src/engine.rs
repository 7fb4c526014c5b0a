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
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api_types::{CallId, FnId, Load, chain};
use bytes::Bytes;
use http::HeaderValue;
use region_plane_dispatch::{
    Action, AfterCall, Call, Dispatcher, InstanceId, InstanceState, Key, Limits, Rejection, Spec,
    StartFailure,
};
use region_plane_runtime::{
    CallError, CallHeaders, CallRequest, CallResponse, Code, Instance, InstanceSpec, Runtime,
    StartError,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use daemon::clock;

/// A call as the engine needs it.
#[derive(Debug)]
pub struct Work {
    pub spec: Arc<Spec>,
    pub launch: Launch,
    pub call: CallId,
    /// What the function gets to see of the headers.
    pub headers: CallHeaders,
    pub body: Bytes,
    /// The function's, from the moment it starts (Fn contract 9.5).
    pub timeout: Duration,
}

/// What an instance is started with, should one be needed.
#[derive(Debug, Clone)]
pub struct Launch {
    pub spec: Arc<InstanceSpec>,
    /// Where its bundle is, if its code is one.
    pub folder: Option<PathBuf>,
}

impl Launch {
    fn spec(&self) -> InstanceSpec {
        let mut spec = InstanceSpec::clone(&self.spec);
        if let (Code::Bundle { folder, .. }, Some(here)) = (&mut spec.code, &self.folder) {
            folder.clone_from(here);
        }
        spec
    }
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
    left: mpsc::UnboundedSender<Call>,
    last_call: Arc<AtomicU64>,
    questions: mpsc::Sender<Question>,
    wait_max: Duration,
}

/// What is going on, for reports and operators.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    pub load: Load,
    pub queued: u32,
    pub memory_held_mb: u64,
}

/// What one function did since this was last asked for, and what it has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    pub calls: u64,
    pub errors: u64,
    pub running: u32,
    /// Starting, idle or running.
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

/// The reporter asks once a second and people now and then; more of them wait their turn.
const QUESTIONS_MAX: usize = 16;

/// Between looks at the functions whose calls or instances changed: what was held for those that have
/// neither any more is dropped.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// Before a call that an instance turned away, nothing of it having reached the function, is offered
/// again: a first accident costs nothing, and where it is none not every instance is tried at once.
const RESTART_PAUSE: Duration = Duration::from_millis(20);

/// The pause grows to this.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(1);

enum Event {
    Arrived {
        call: Call,
        work: Arc<Work>,
        wait_until: Instant,
        answer: oneshot::Sender<Result<CallResponse, Failure>>,
    },
    Changed {
        function: FnId,
        settings: Option<u64>,
    },
}

enum Question {
    Counts(oneshot::Sender<Snapshot>),
    Activity(oneshot::Sender<BTreeMap<FnId, Activity>>),
    Instances(oneshot::Sender<Vec<InstanceRow>>),
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
    /// Gives the region a call, which may wait for an instance until `wait_until`, and waits for its
    /// answer.
    ///
    /// Dropped while the call waits, it leaves the queue; while it runs, its answer is dropped.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&self, work: Work, wait_until: Instant) -> Result<CallResponse, Failure> {
        let work = Arc::new(work);
        let mut pause = Duration::ZERO;
        loop {
            match self.offer(Arc::clone(&work), wait_until).await {
                Err(Failure::Call(CallError::NotStarted { source }))
                    if Instant::now() + pause < wait_until =>
                {
                    metrics::counter!("tradewind_region_calls_restarted_total").increment(1);
                    debug!(call = %work.call, error = %source, "not started, offered again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).clamp(RESTART_PAUSE, RESTART_PAUSE_MAX);
                }
                answer => return answer,
            }
        }
    }

    /// Offers a call to the dispatcher once.
    async fn offer(&self, work: Arc<Work>, wait_until: Instant) -> Result<CallResponse, Failure> {
        let call = Call(self.last_call.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let arrived = Event::Arrived {
            call,
            work,
            wait_until,
            answer,
        };
        self.events
            .send(arrived)
            .await
            .map_err(|_| Failure::Stopped)?;
        let mut caller = Caller {
            call,
            answered,
            is_answered: false,
            left: &self.left,
        };
        let result = (&mut caller.answered).await;
        caller.is_answered = true;
        result.unwrap_or(Err(Failure::Stopped))
    }

    /// The function's settings are now these; `None` if it is no longer here.
    pub async fn changed(&self, function: FnId, settings: Option<u64>) {
        // The engine ends last; nobody is left to care.
        let _ended = self
            .events
            .send(Event::Changed { function, settings })
            .await;
    }

    /// Nothing once the engine has ended.
    pub async fn counts(&self) -> Snapshot {
        self.ask(Question::Counts).await
    }

    /// The functions whose calls or instances changed since this was last asked, whoever asked: there
    /// is one who reports it. None once the engine has ended.
    pub async fn activity(&self) -> BTreeMap<FnId, Activity> {
        self.ask(Question::Activity).await
    }

    /// All instances, oldest first; none once the engine has ended.
    pub async fn instances(&self) -> Vec<InstanceRow> {
        self.ask(Question::Instances).await
    }

    async fn ask<A: Default>(&self, question: impl FnOnce(oneshot::Sender<A>) -> Question) -> A {
        let (answer, answered) = oneshot::channel();
        match self.questions.send(question(answer)).await {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_) => A::default(),
        }
    }

    /// Until when a call that comes now may wait for an instance.
    #[must_use]
    pub fn wait_until(&self) -> Instant {
        Instant::now() + self.wait_max
    }
}

/// Someone who waits for an answer, and tells the engine when he leaves without it.
struct Caller<'a> {
    call: Call,
    answered: oneshot::Receiver<Result<CallResponse, Failure>>,
    is_answered: bool,
    left: &'a mpsc::UnboundedSender<Call>,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            // First, for an engine that hears of the leaving before it has seen the arrival.
            self.answered.close();
            // With the engine gone nobody is left to care.
            let _ended = self.left.send(self.call);
        }
    }
}

/// Starts the engine in `tasks`. It ends when `shutdown` is cancelled, all calls cut off and all
/// instances killed.
pub fn start<R: Runtime>(
    runtime: R,
    limits: Limits,
    wait_max: Duration,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> Engine {
    // A place for each call that may be admitted, and some more; others wait to be heard.
    let places = usize::try_from(limits.calls_max).unwrap_or(usize::MAX / 8) + 64;
    let (events, inbox) = mpsc::channel(places);
    // Not bounded by itself, so that to leave needs no place for which others wait. It holds one
    // message a call, of those in the inbox, admitted or just answered.
    let (left, leavers) = mpsc::unbounded_channel();
    let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
    let owner = Owner::new(runtime, limits);
    tasks.spawn(owner.run(inbox, leavers, asked, shutdown));
    Engine {
        events,
        left,
        last_call: Arc::default(),
        questions,
        wait_max,
    }
}

struct Owner<R: Runtime> {
    runtime: Arc<R>,
    dispatcher: Dispatcher,
    started: Instant,
    calls: HashMap<Call, Admitted>,
    /// What an instance of each key is started with, while a call may need one.
    launches: HashMap<Key, Launch>,
    /// Ends the start of an instance.
    starting: HashMap<InstanceId, CancellationToken>,
    instances: HashMap<InstanceId, Arc<R::Instance>>,
    tasks: JoinSet<Ended<R::Instance>>,
    /// What was not asked for yet. One entry a function at most, however long nobody asks.
    activity: BTreeMap<FnId, Activity>,
}

struct Admitted {
    /// `None` once it runs.
    work: Option<Arc<Work>>,
    answer: oneshot::Sender<Result<CallResponse, Failure>>,
}

impl<R: Runtime> Owner<R> {
    fn new(runtime: R, limits: Limits) -> Self {
        Self {
            runtime: Arc::new(runtime),
            dispatcher: Dispatcher::new(limits),
            started: Instant::now(),
            calls: HashMap::new(),
            launches: HashMap::new(),
            starting: HashMap::new(),
            instances: HashMap::new(),
            tasks: JoinSet::new(),
            activity: BTreeMap::new(),
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        mut leavers: mpsc::UnboundedReceiver<Call>,
        mut asked: mpsc::Receiver<Question>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut settling = tokio::time::interval(SETTLE_EVERY);
        settling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next_tick = self.dispatcher.next_tick();
            let tick = async {
                match next_tick {
                    Some(at) => tokio::time::sleep_until(self.started + at).await,
                    None => std::future::pending().await,
                }
            };
            let actions = tokio::select! {
                // What makes room goes before what takes it, so that no flood of calls keeps an
                // instance or a place from them.
                biased;
                () = shutdown.cancelled() => break,
                _ = settling.tick() => {
                    self.settle();
                    Vec::new()
                }
                Some(question) = asked.recv() => {
                    self.answer(question);
                    Vec::new()
                }
                () = tick => self.dispatcher.tick(self.now()),
                Some(call) = leavers.recv() => self.left(call),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(ended) => self.ended(ended),
                    Err(error) => anyhow::bail!("an instance's task failed: {error}"),
                },
                event = inbox.recv() => match event {
                    Some(event) => self.event(event),
                    None => break,
                },
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
                call,
                work,
                wait_until,
                answer,
            } => {
                // The caller disconnected before its call was queued.
                if answer.is_closed() {
                    return Vec::new();
                }
                let spec = Arc::clone(&work.spec);
                if !self.launches.contains_key(&spec.key) {
                    self.launches.insert(spec.key.clone(), work.launch.clone());
                }
                self.calls.insert(
                    call,
                    Admitted {
                        work: Some(work),
                        answer,
                    },
                );
                let wait_until = wait_until.saturating_duration_since(self.started);
                let actions = self.dispatcher.call_arrived(now, call, &spec, wait_until);
                // Refused at once, it left no trace there that would end this one later.
                if !self.dispatcher.uses(&spec.key) {
                    self.launches.remove(&spec.key);
                }
                actions
            }
            Event::Changed { function, settings } => {
                self.dispatcher.function_changed(now, &function, settings)
            }
        }
    }

    fn left(&mut self, call: Call) -> Vec<Action> {
        match self.calls.get(&call) {
            Some(Admitted { work: Some(_), .. }) => {
                self.calls.remove(&call);
                self.dispatcher.call_cancelled(self.now(), call)
            }
            // One that runs stays: its end is still due.
            Some(_) | None => Vec::new(),
        }
    }

    fn ended(&mut self, ended: Ended<R::Instance>) -> Vec<Action> {
        let now = self.now();
        match ended {
            Ended::Started(id, result) => self.started(id, result),
            Ended::Called {
                call,
                function,
                result,
            } => {
                let after = match &result {
                    Err(error) if error.instance_lost() => {
                        info!(
                            %function,
                            error = chain(error),
                            "instance stopped after a failed call"
                        );
                        AfterCall::Lost
                    }
                    Ok(_) | Err(_) => AfterCall::Kept,
                };
                let activity = self.activity.entry(function).or_default();
                activity.calls += 1;
                activity.errors += u64::from(result.is_err());
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

    fn started(&mut self, id: InstanceId, result: Result<R::Instance, StartError>) -> Vec<Action> {
        let now = self.now();
        let is_wanted = self.starting.remove(&id).is_some();
        match result {
            Ok(instance) if is_wanted => {
                metrics::counter!("tradewind_region_cold_starts_total").increment(1);
                let instance = Arc::new(instance);
                self.instances.insert(id, Arc::clone(&instance));
                // Its end, whoever causes it, is reported once, by this task.
                self.tasks.spawn(async move {
                    instance.exited().await;
                    Ended::Exited(id)
                });
                self.dispatcher.instance_started(now, id)
            }
            // It was up when it was told to stop.
            Ok(instance) => {
                self.tasks.spawn(async move {
                    instance.stop().await;
                    Ended::Exited(id)
                });
                Vec::new()
            }
            // It ended itself while it was told to: nobody waited for it any more.
            Err(error) if !is_wanted => {
                debug!(
                    instance = id.0,
                    error = chain(&error),
                    "a start that was to end has failed"
                );
                self.dispatcher.instance_exited(now, id)
            }
            Err(error) => {
                metrics::counter!("tradewind_region_start_failures_total").increment(1);
                let reason = chain(&error);
                warn!(instance = id.0, error = reason, "instance did not start");
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
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Run { call, instance } => self.run_call(call, instance),
                Action::Start { instance, key } => self.start_instance(instance, &key),
                Action::Stop { instance, reason } => {
                    debug!(instance = instance.0, ?reason, "stopping an instance");
                    if let Some(start) = self.starting.remove(&instance) {
                        start.cancel();
                    } else if let Some(held) = self.instances.get(&instance) {
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
            .map(Launch::spec)
            .expect("a call brought it before it was needed");
        let runtime = Arc::clone(&self.runtime);
        let end = CancellationToken::new();
        self.starting.insert(id, end.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                result = runtime.start(launch) => Ended::Started(id, result),
                // The driver kills what it had begun, but a start that was dropped tells nobody
                // when that is reaped: until then its memory may be held twice.
                () = end.cancelled() => Ended::Exited(id),
            }
        });
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
        let request = CallRequest {
            call: work.call.clone(),
            headers: work.headers.clone(),
            deadline: Some(deadline_text(timeout)),
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

    /// Takes note of what changed since this ran last, at the cost of that alone.
    fn settle(&mut self) {
        for key in self.dispatcher.take_touched() {
            if !self.dispatcher.uses(&key) {
                self.launches.remove(&key);
            }
            let counts = self.dispatcher.counts(&key.function);
            let instances = counts.starting + counts.idle + counts.running;
            let activity = self.activity.entry(key.function).or_default();
            activity.running = u32::try_from(counts.running).unwrap_or(u32::MAX);
            activity.instances = u32::try_from(instances).unwrap_or(u32::MAX);
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Counts(answer) => {
                let _left = answer.send(self.count());
            }
            Question::Activity(answer) => {
                self.settle();
                let _left = answer.send(std::mem::take(&mut self.activity));
            }
            Question::Instances(answer) => {
                let _left = answer.send(self.rows());
            }
        }
    }

    fn count(&self) -> Snapshot {
        let snapshot = Snapshot {
            load: self.dispatcher.load(),
            queued: self.dispatcher.queued(),
            memory_held_mb: self.dispatcher.memory_held_mb(),
        };
        metrics::gauge!("tradewind_region_calls").set(f64::from(snapshot.load.current));
        metrics::gauge!("tradewind_region_calls_queued").set(f64::from(snapshot.queued));
        snapshot
    }

    fn rows(&self) -> Vec<InstanceRow> {
        let rows = self.dispatcher.instances().map(|row| InstanceRow {
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
        rows.collect()
    }
}

/// To the second, rounded down (Fn contract 6.1).
fn deadline_text(timeout: Duration) -> HeaderValue {
    let mut at = clock::now();
    at.0 =
        at.0.saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    HeaderValue::from_str(&api_wire::time::format_seconds(at)).expect("digits and punctuation")
}

#[cfg(test)]
mod tests;
