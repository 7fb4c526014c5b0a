//! The task that decides. It owns the operator's state, and takes events from watches, gateways, the
//! replica and finished writes.
//!
//! It runs after an event and when a deadline passes. It asks [`crate::plan`] which writes are needed and
//! sends them. It never waits for a write.

mod doubt;
mod objects;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use rand::Rng as _;
use region_plane_replica::{Position, Replica};
use region_plane_resources::demand::{Demand, DemandReply, Problem};
use region_plane_resources::{GROUP, VERSION};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::api_failure::ApiFailure;
use crate::bucket::Bucket;
use crate::cluster::{Broken, Change, Kind};
use crate::lease::Leadership;
use crate::notes::Notes;
use crate::plan::{
    Action, Budget, ConditionReason, Fill, Moment, Observed, Owner, Phase, Resizing, Stated,
    Trouble, plan,
};
use crate::settings::Settings;
use crate::state::{State, asked_for};
use crate::template::{Made, image_pod, pool_pod};
use crate::write::{Done, Sort, Write, WriteReply, Writer};
use crate::writer::{Wanted, Written};
use doubt::Doubt;

/// Requests that may be under way at once: more than the rates need while the server is well, and
/// few enough not to be a burst when it is not.
const IN_FLIGHT_MAX: usize = 64;

/// Of those, how many may belong to an earlier plan. The rest is for the next plan, which may be more
/// urgent.
const PLANNED_IN_FLIGHT_MAX: usize = IN_FLIGHT_MAX / 2;

/// Shortest pause between plans, so that a burst of changes becomes one plan.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// The pause is also at least so many times the last plan's duration, so that planning takes at most a
/// third of a core.
const PAUSE_FACTOR: u32 = 2;

/// Most changes that are taken before the next decision.
const BATCH_MAX: usize = 4_096;

/// How often conditions and gauges are checked that change only with time.
const LOOKED_EVERY: Duration = Duration::from_secs(5);

/// A refused write is tried again after this time, or at once when it changed.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long a person's confirmation of a mass deletion is valid.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);

/// Where `Function` objects come from.
#[derive(Clone)]
pub enum Source {
    /// They are written from this copy of the metadata.
    Replica(Replica),
    /// Another program writes them.
    Objects,
}

pub(crate) struct Ask {
    pub demand: Demand,
    /// `None` if another leads.
    pub reply: oneshot::Sender<Option<DemandReply>>,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    pub identity: String,
    pub leading: bool,
    pub fence: Option<u64>,
    /// Why no decisions are made, if so.
    pub waiting_for: Option<String>,
    /// Kinds that have not been listed since the start, and why if that is known.
    pub not_listed: Vec<String>,
    pub functions: usize,
    pub pools: usize,
    pub pods: PodCounts,
    /// Of each pool, if this operator leads. It is not in an object's status: that would be a write for
    /// each pod that is claimed and each that is created.
    pub pool_pods: BTreeMap<String, PoolPods>,
    pub gateways: usize,
    pub problems: Vec<Problem>,
    pub writes_in_flight: usize,
    pub creates_per_sec: f64,
    pub deletes_per_sec: f64,
    pub writes_per_sec: f64,
    /// A mass deletion that waits for a person.
    pub deletions_held: Option<String>,
    /// Why the last snapshot of the metadata that was offered was refused, while that stands.
    pub snapshot_refused: Option<String>,
    /// The newest revision of the metadata that objects reflect.
    pub revision: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PodCounts {
    pub pending: usize,
    pub running: usize,
    pub ended: usize,
    pub deleting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PoolPods {
    pub waiting: u32,
    pub wanted: u32,
}

impl Status {
    /// Whether this operator could take over from another one: it has listed all kinds that it needs, so
    /// it has the rights and reaches the API server. A rolling upgrade that removes its rights or its
    /// connection stops here, while the other operators still work. An operator that waits for the lease is
    /// ready. An API server that fails later does not change this, since the known state stays valid.
    ///
    /// # Errors
    /// Names the kinds that are not listed yet.
    pub fn readiness(&self) -> Result<(), String> {
        match self.not_listed.as_slice() {
            [] => Ok(()),
            kinds => Err(format!("not listed yet: {}", kinds.join(", "))),
        }
    }
}

pub(crate) struct Reconciler {
    pub settings: Settings,
    pub start: Instant,
    pub source: Source,
    pub writer: Writer,
    pub leadership: watch::Receiver<Option<Leadership>>,
    pub accepted: watch::Receiver<u64>,
    pub changes: mpsc::Receiver<Change>,
    pub asks: mpsc::Receiver<Ask>,
    pub notes: Notes,
    pub status: watch::Sender<Status>,
}

impl Reconciler {
    pub async fn run(self, shutdown: CancellationToken) {
        Running::new(self).run(shutdown).await;
    }
}

/// An object that the API server refused.
struct Rest {
    until: Moment,
    /// The refused object; a different one may be tried at once.
    of: Option<Arc<Wanted>>,
    /// Why it was refused.
    trouble: Option<Trouble>,
}

/// A refused write. Until it may be tried again it counts as done or as under way.
enum Again {
    State(Owner),
    Delete(String),
    Patch(String),
}

struct Running {
    settings: Settings,
    start: Instant,
    source: Source,
    writer: Writer,
    leadership: watch::Receiver<Option<Leadership>>,
    accepted: watch::Receiver<u64>,
    accepted_until: Moment,
    changes: mpsc::Receiver<Change>,
    asks: mpsc::Receiver<Ask>,
    notes: Notes,
    status: watch::Sender<Status>,
    state: State,
    written: Written,
    writes: JoinSet<Done>,
    creates: Bucket,
    deletes: Bucket,
    others: Bucket,
    /// Names of objects for which a write is under way.
    writing: HashSet<String>,
    /// Objects that are not written before a time.
    resting: HashMap<String, Rest>,
    /// Refused writes, and when to plan them again.
    again: Vec<(Moment, Again)>,
    /// Functions that are to be deleted and Secrets that no function names, each with the time since when.
    doomed: HashMap<String, Moment>,
    idle_secrets: HashMap<String, Moment>,
    /// Pods and conditions of the last plan that had no request slot, most urgent first. They are written
    /// when slots become free, until the next plan replaces them.
    planned: VecDeque<Action>,
    problems: Vec<Problem>,
    fills: BTreeMap<String, Fill>,
    objects_held: Doubt,
    plan_due: bool,
    objects_due: bool,
    /// When objects are checked again although no event came.
    objects_at: Option<Moment>,
    not_before: Moment,
    wake: Option<Moment>,
    looked: Moment,
}

impl Running {
    fn new(parts: Reconciler) -> Self {
        let now = parts.start.elapsed();
        let bucket = |per_sec| Bucket::new(per_sec, now);
        Self {
            state: State::new(parts.settings.pods.clone()),
            written: Written::default(),
            writes: JoinSet::new(),
            creates: bucket(parts.settings.creates_per_sec),
            deletes: bucket(parts.settings.deletes_per_sec),
            others: bucket(parts.settings.writes_per_sec),
            writing: HashSet::new(),
            resting: HashMap::new(),
            again: Vec::new(),
            doomed: HashMap::new(),
            idle_secrets: HashMap::new(),
            planned: VecDeque::new(),
            problems: Vec::new(),
            fills: BTreeMap::new(),
            objects_held: Doubt::default(),
            plan_due: true,
            objects_due: true,
            objects_at: None,
            not_before: now,
            wake: None,
            looked: now,
            accepted_until: Moment::ZERO,
            settings: parts.settings,
            start: parts.start,
            source: parts.source,
            writer: parts.writer,
            leadership: parts.leadership,
            accepted: parts.accepted,
            changes: parts.changes,
            asks: parts.asks,
            notes: parts.notes,
            status: parts.status,
        }
    }

    fn now(&self) -> Moment {
        self.start.elapsed()
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut position = match &self.source {
            Source::Replica(replica) => Some(replica.subscribe()),
            Source::Objects => None,
        };
        let mut read = self.read_replica(position.as_ref());
        loop {
            let due = match self.due() {
                true => self.not_before,
                false => self.wake.unwrap_or(Moment::MAX).max(self.not_before),
            };
            let due = due.min(self.looked + LOOKED_EVERY);
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(change) = self.changes.recv() => {
                    self.take(change);
                    for _ in 0..BATCH_MAX {
                        let Ok(change) = self.changes.try_recv() else { break };
                        self.take(change);
                    }
                }
                Some(ask) = self.asks.recv() => self.answer(ask),
                Some(done) = self.writes.join_next(), if !self.writes.is_empty() => {
                    self.done(done.expect("a write does not panic"));
                    self.act_on_planned();
                }
                Ok(()) = self.leadership.changed() => {
                    self.planned.clear();
                    self.plan_due = true;
                }
                Ok(()) = self.accepted.changed() => {
                    self.accepted.borrow_and_update();
                    self.accepted_until = self.now() + ACCEPTED_FOR;
                    self.objects_due = true;
                }
                Ok(()) = moved(&mut position, read) => read = self.read_replica(position.as_ref()),
                () = sleep_until(self.start + due) => {}
            }
            self.step_if_due();
        }
        // What was sent has been sent: see it through, so that no answer is lost.
        while self.writes.join_next().await.is_some() {}
    }

    fn take(&mut self, change: Change) {
        let now = self.now();
        if let Change::Watch {
            kind,
            broken: Some(broken),
        } = &change
        {
            self.note_broken(*kind, broken);
        }
        if matches!(change, Change::Definitions(_)) {
            // What was refused for want of a field may be accepted now.
            self.resting.clear();
            self.objects_due = true;
        }
        let touched = self.state.take(change, now);
        for ended in std::mem::take(&mut self.state.ended) {
            let (owner, reason) = (ended.owner, ended.trouble.reason);
            debug!(owner = owner.name(), %reason, "pod ended");
            // No condition may ever say so.
            let untold = [
                ConditionReason::OutOfMemory,
                ConditionReason::RunnerFailed,
                ConditionReason::PodLost,
            ];
            if untold.contains(&reason) && self.led(now).is_some() {
                self.warn_about(&owner, &reason.to_string(), ended.trouble.message.clone());
            }
            if !ended.outdated {
                let setbacks = &mut self.state.setbacks;
                setbacks.ended(owner, ended.trouble, ended.ran, now);
            }
        }
        self.plan_due |= touched.plan;
        self.objects_due |= touched.objects;
    }

    fn note_broken(&mut self, kind: Kind, broken: &Broken) {
        let resource = kind.resource();
        let Trouble { reason, message } = match broken {
            Broken::Unknown => unknown(kind),
            Broken::Forbidden => Trouble {
                reason: ConditionReason::Forbidden,
                message: format!(
                    "the operator may not list and watch {resource}; add it to its Role"
                ),
            },
            Broken::Failing => return,
        };
        error!(%reason, message, "cannot watch");
        self.warn_about_us(&reason.to_string(), message);
    }

    /// On the Lease, where there is no better object.
    fn warn_about_us(&mut self, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(self.settings.lease_name.clone()),
            namespace: Some(self.settings.namespace.clone()),
            ..ObjectReference::default()
        };
        let now = self.now();
        self.notes.warn(about, reason, message, now);
    }

    fn warn_about(&mut self, owner: &Owner, reason: &str, message: String) {
        let (kind, uid) = match owner {
            Owner::Function(name) => (
                "Function",
                self.state
                    .functions
                    .get(name)
                    .map(|record| record.meta.uid.clone()),
            ),
            Owner::Pool(name) => (
                "WarmPool",
                self.state
                    .pools
                    .get(name)
                    .map(|record| record.meta.uid.clone()),
            ),
        };
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/{VERSION}")),
            kind: Some(kind.to_owned()),
            name: Some(owner.name().to_owned()),
            namespace: Some(self.settings.namespace.clone()),
            uid,
            ..ObjectReference::default()
        };
        let now = self.now();
        self.notes.warn(about, reason, message, now);
    }

    fn answer(&mut self, ask: Ask) {
        let now = self.now();
        let led = self.led(now);
        let reply = led.map(|led| {
            metrics::counter!("tradewind_operator_demands_total").increment(1);
            let problems = concerning(&self.problems, &ask.demand);
            self.plan_due |= self.state.demands.take(ask.demand, now);
            DemandReply {
                fence: led.fence,
                problems,
                sizing: self.state.sizing(),
            }
        });
        // A gateway that has gone away asks again.
        let _ = ask.reply.send(reply);
    }

    fn led(&self, now: Moment) -> Option<Leadership> {
        self.leadership.borrow().filter(|led| led.holds(now))
    }

    /// From when on what no gateway has told us of is had by none: some time after the first spoke to
    /// the leader that we are. `None` while none is heard. They serve all the same then, and only we
    /// do not know from which pods.
    fn heard_all(&self, led: Leadership, now: Moment) -> Option<Moment> {
        let heard = self.state.demands.heard_since(now)?;
        Some(heard.max(led.since) + self.settings.settle_for)
    }

    /// Returns the count of changes that what was read has at least.
    fn read_replica(&mut self, position: Option<&watch::Receiver<Position>>) -> u64 {
        let read = position.map_or(0, |position| position.borrow().functions);
        let Source::Replica(replica) = &self.source else {
            return read;
        };
        replica.read(|held| self.written.catch_up(held));
        self.objects_due = true;
        for (function, problem) in &self.written.skipped {
            warn!(%function, problem, "function skipped");
        }
        read
    }

    /// Objects wait for as long as nothing is decided: what ends that is a change of its own.
    fn due(&self) -> bool {
        self.plan_due || self.objects_due && self.status.borrow().waiting_for.is_none()
    }

    fn step_if_due(&mut self) {
        let now = self.now();
        let timed = self.wake.is_some_and(|wake| wake <= now);
        let looked = now >= self.looked + LOOKED_EVERY;
        if now < self.not_before || !(self.due() || timed || looked) {
            return;
        }
        let began = Instant::now();
        self.plan_due = false;
        self.wake = None;
        self.looked = now;
        self.step(now);
        self.not_before = self.now() + PAUSE_MIN.max(began.elapsed() * PAUSE_FACTOR);
    }

    fn step(&mut self, now: Moment) {
        self.state.forget(now);
        if self.objects_at.is_some_and(|at| at <= now) {
            self.objects_at = None;
            self.objects_due = true;
        }
        let led = self.led(now);
        let waiting_for = match led {
            None => Some("the lease".to_owned()),
            Some(_) if !self.state.complete() => {
                Some("lists of pods, functions and pools".to_owned())
            }
            Some(_) => None,
        };
        if let (Some(led), None) = (led, &waiting_for) {
            self.write_objects(now, led);
            // With no slot left, a finished write is what is waited for.
            if self.slots() > 0 {
                self.write_plan(now, led);
            }
        } else {
            // Another decides, and says what is wrong.
            self.planned.clear();
            self.fills.clear();
            self.problems.clear();
            self.objects_held = Doubt::default();
        }
        self.publish(now, led, waiting_for);
    }

    /// At most this many more requests may be sent now.
    fn slots(&self) -> u32 {
        u32::try_from(IN_FLIGHT_MAX.saturating_sub(self.writes.len())).unwrap_or(0)
    }

    fn write_plan(&mut self, now: Moment, led: Leadership) {
        let ready: Vec<Again> = self
            .again
            .extract_if(.., |(at, _)| *at <= now)
            .map(|(_, again)| again)
            .collect();
        for again in ready {
            match again {
                Again::State(owner) => self.state.unsaid(&owner),
                Again::Delete(pod) => self.state.not_deleted(&pod),
                Again::Patch(pod) => self.state.patched(&pod, |_| {}),
            }
        }
        let surplus_from = self.heard_all(led, now);
        let slots = self.slots();
        let budget = Budget {
            creates: self.creates.available(now),
            deletes: self.deletes.available(now).min(slots),
            patches: self.others.available(now),
        };
        let began = Instant::now();
        let planned = plan(
            &self.state.desired,
            &Observed {
                now,
                rules: self.settings.rules,
                pods: &self.state.pods,
                demands: &self.state.demands,
                setbacks: &self.state.setbacks,
                fills: &self.fills,
                surplus_from,
            },
            budget,
        );
        metrics::histogram!("tradewind_operator_plan_seconds")
            .record(began.elapsed().as_secs_f64());
        self.problems = planned.problems;
        self.fills = planned.fills;
        let unwritten = self.unwritten();
        self.problems.extend(unwritten);
        self.planned.clear();
        for action in planned.actions {
            if self.slots() > 0 {
                self.act(action, now, led.fence);
            } else if matches!(action, Action::Create { .. } | Action::State { .. }) {
                self.planned.push_back(action);
            }
        }
        let mut wakes = vec![
            planned.next_wakeup,
            self.state.demands.next_change(now),
            self.state.next_forgotten(),
            self.again.iter().map(|(at, _)| *at).min(),
            self.objects_at,
            surplus_from.filter(|from| *from > now),
            self.wake,
        ];
        // With no slot left, a finished write is what is waited for.
        if planned.short && self.slots() > 0 {
            let buckets = [&self.creates, &self.deletes, &self.others];
            let tokens = buckets.map(|bucket| bucket.next_tokens(1, now));
            wakes.extend(tokens.into_iter().filter(|at| *at > now).map(Some));
        }
        self.wake = wakes.into_iter().flatten().min();
    }

    /// Goes on with the last plan. To make a pod or state a condition is safe so much later: the next
    /// plan puts right what was one too many. What was to be deleted or changed may have been taken
    /// since.
    fn act_on_planned(&mut self) {
        let now = self.now();
        let Some(led) = self.led(now) else { return };
        while self.writes.len() < PLANNED_IN_FLIGHT_MAX
            && let Some(action) = self.planned.pop_front()
        {
            let (bucket, until) = match &action {
                Action::Create { owner, .. } => {
                    (&mut self.creates, self.state.setbacks.until(owner))
                }
                _ => (&mut self.others, None),
            };
            if bucket.available(now) == 0 {
                self.planned.push_front(action);
                break;
            }
            if until.is_none_or(|until| until <= now) {
                self.act(action, now, led.fence);
            }
        }
    }

    fn act(&mut self, action: Action, now: Moment, fence: u64) {
        match &action {
            Action::Create { .. } => {}
            Action::Delete { pod, .. } => self.state.deleting(pod),
            Action::Resize { pod, .. } | Action::Label { pod, .. } => self.state.patching(pod),
            Action::State { owner, condition } => {
                let stated = Stated {
                    generation: condition.generation,
                    ready: condition.trouble.is_none(),
                    reason: condition.reason(),
                };
                self.state.stating(owner, stated);
                if let Some(trouble) = &condition.trouble {
                    let reason = trouble.reason.to_string();
                    self.warn_about(owner, &reason, trouble.message.clone());
                }
            }
        }
        let write = match action {
            Action::Create {
                owner,
                memory_mb,
                dedicated,
            } => self.make(owner, memory_mb, dedicated.as_deref(), now, fence),
            other => Write::of(other),
        };
        let Some(mut write) = write else { return };
        if let Write::State {
            owner,
            condition,
            since,
        } = &mut write
        {
            *since = self.state.ready_since(owner, condition.trouble.is_none());
        }
        self.send(write, fence);
    }

    fn send(&mut self, write: Write, fence: u64) {
        match write.sort() {
            Sort::Create => self.creates.spend(1),
            Sort::Delete => self.deletes.spend(1),
            Sort::Other => self.others.spend(1),
        }
        self.writes.spawn(self.writer.clone().perform(write, fence));
    }

    /// `None` if the owner is gone again.
    fn make(
        &mut self,
        owner: Owner,
        memory_mb: u64,
        dedicated: Option<&str>,
        now: Moment,
        fence: u64,
    ) -> Option<Write> {
        let name = pod_name(owner.name());
        let made = Made {
            name: name.clone(),
            memory_mb,
            dedicated,
            fence,
        };
        let settings = &self.settings.pods;
        let (pod, expected) = match &owner {
            Owner::Function(function) => {
                let object = self.state.functions.get(function)?.object.as_ref().ok()?;
                let desired = self.state.desired.functions.get(function)?;
                let stands_for = Some(desired.settings.clone());
                let pod = image_pod(object, settings, &made)?;
                let (uid, template) = (&desired.uid, &desired.template);
                (
                    pod,
                    asked_for(&owner, uid, stands_for, memory_mb, None, template, now),
                )
            }
            Owner::Pool(pool) => {
                let object = self.state.pools.get(pool)?.object.as_ref().ok()?;
                let desired = self.state.desired.pools.get(pool)?;
                let pod = pool_pod(object, settings, &made);
                let (uid, template) = (&desired.uid, &desired.template);
                let dedicated = dedicated.map(str::to_owned);
                (
                    pod,
                    asked_for(&owner, uid, None, memory_mb, dedicated, template, now),
                )
            }
        };
        self.state.creating(name, expected);
        let pod = Box::new(pod);
        Some(Write::Create { owner, pod })
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        let bucket = match done.write.sort() {
            Sort::Create => &mut self.creates,
            Sort::Delete => &mut self.deletes,
            Sort::Other => &mut self.others,
        };
        match done.outcome {
            Some(outcome) => bucket.learn(outcome, now),
            None => bucket.unspend(),
        }
        if let Err(ApiFailure::Lost(problem)) = &done.result {
            let (verb, resource) = done.write.verb_and_resource();
            debug!(verb, resource, error = problem, "a write got no answer");
        }
        match done.write {
            Write::Create { owner, pod } => self.create_done(owner, &pod, done.result, now),
            Write::Delete { pod, why, .. } => match done.result {
                Ok(_) | Err(ApiFailure::Gone) => {
                    metrics::counter!("tradewind_operator_pods_deleted_total",
                        "why" => why.label())
                    .increment(1);
                }
                Err(ApiFailure::Refused(trouble)) => {
                    self.note_refused(&pod, trouble);
                    self.again
                        .push((now + TRIED_AGAIN_AFTER, Again::Delete(pod)));
                }
                Err(_) => self.state.not_deleted(&pod),
            },
            Write::Resize {
                pod,
                memory_mb,
                settings,
                how,
                ..
            } => match done.result {
                Ok(_) => self.state.patched(&pod, |pod| {
                    // Unless the watch was faster, and may have shown more.
                    if how == Resizing::Grow && pod.asked_mb != memory_mb {
                        pod.growing_since = Some(now);
                    }
                    pod.asked_mb = memory_mb;
                    if how == Resizing::Grow {
                        return;
                    }
                    pod.memory_mb = memory_mb;
                    if settings.is_some() {
                        pod.settings = settings;
                    }
                }),
                Err(ApiFailure::Refused(trouble)) if how != Resizing::Tell => {
                    info!(
                        pod,
                        problem = trouble.message,
                        "pod cannot be resized, replacing it"
                    );
                    self.state.not_resizable(&pod);
                }
                Err(ApiFailure::Gone) if how != Resizing::Tell => self.state.not_resizable(&pod),
                Err(refusal) => self.patch_failed(pod, refusal, now),
            },
            Write::Label {
                pod,
                function,
                settings,
                ..
            } => match done.result {
                Ok(_) => self.state.patched(&pod, |pod| {
                    pod.function = Some(function);
                    pod.settings = Some(settings);
                }),
                Err(refusal) => self.patch_failed(pod, refusal, now),
            },
            Write::State { owner, .. } => match done.result {
                Ok(WriteReply::Object(object)) => {
                    let version = crate::cluster::version(&object.metadata);
                    self.state.said(&owner, version);
                }
                Ok(_) => {}
                Err(refusal) => {
                    if let ApiFailure::Refused(trouble) = &refusal {
                        self.warn_about_us(&trouble.reason.to_string(), trouble.message.clone());
                    }
                    self.again
                        .push((now + TRIED_AGAIN_AFTER, Again::State(owner)));
                }
            },
            Write::ApplyFunction { name, wanted, .. } => {
                self.writing.remove(&name);
                self.function_applied(name, wanted, done.result, now);
            }
            Write::ApplySecret { function, object } => {
                let secret = object.metadata.name.clone().unwrap_or_default();
                self.writing.remove(&secret);
                match done.result {
                    Ok(answer) => {
                        if let WriteReply::Uid(uid) = answer
                            && let Some(secrets) = &mut self.state.secrets
                        {
                            secrets.insert(secret, uid);
                        }
                    }
                    Err(refusal) => {
                        self.rest(secret, now);
                        if let ApiFailure::Refused(trouble) = refusal {
                            self.note_refused(&function, trouble);
                        }
                    }
                }
                self.objects_due = true;
            }
            Write::DeleteFunction { name, .. } | Write::DeleteSecret { name, .. } => {
                self.writing.remove(&name);
                // Until the watch shows that it is gone.
                self.rest(name.clone(), now);
                if let Err(ApiFailure::Refused(trouble)) = done.result {
                    self.note_refused(&name, trouble);
                }
                self.objects_due = true;
            }
        }
        self.plan_due = true;
    }

    fn create_done(
        &mut self,
        owner: Owner,
        pod: &k8s_openapi::api::core::v1::Pod,
        result: Result<WriteReply, ApiFailure>,
        now: Moment,
    ) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match result {
            Ok(answer) => {
                let kind = match &owner {
                    Owner::Function(_) => "image",
                    Owner::Pool(_) => "pool",
                };
                metrics::counter!("tradewind_operator_pods_created_total", "kind" => kind)
                    .increment(1);
                if let WriteReply::Uid(uid) = answer {
                    self.state.created(name, uid);
                }
                self.state.setbacks.made(&owner);
            }
            Err(ApiFailure::Lost(_)) => self.state.not_created(name, true, now),
            Err(refusal) => {
                self.state.not_created(name, false, now);
                let trouble = match refusal {
                    ApiFailure::Refused(trouble) => trouble,
                    ApiFailure::Gone => Trouble {
                        reason: ConditionReason::ApiRefused,
                        message: format!(
                            "the namespace {} or what a pod of it needs is not there",
                            self.settings.namespace
                        ),
                    },
                    ApiFailure::Conflict | ApiFailure::Throttled { .. } | ApiFailure::Lost(_) => {
                        return;
                    }
                };
                self.state.setbacks.refused(owner, trouble, now);
            }
        }
    }

    fn rest(&mut self, object: String, now: Moment) {
        let rest = Rest {
            until: now + TRIED_AGAIN_AFTER,
            of: None,
            trouble: None,
        };
        self.resting.insert(object, rest);
    }

    /// Functions whose pods have not got their newest settings, because the API server does not take
    /// their objects. Only functions with an image are listed: a pool's pod loads its bundle without an
    /// object. Costs as much as there are refused objects; where the cluster lacks the definition, all.
    fn unwritten(&self) -> Vec<Problem> {
        let undefined = self.state.undefined(Kind::Functions);
        let undefined = undefined.then(|| unknown(Kind::Functions));
        let mut names: Vec<&String> = match undefined {
            Some(_) => self.written.functions.keys().collect(),
            None => self.resting.keys().collect(),
        };
        names.sort_unstable();
        let problem = |name: &String| {
            let wanted = self.written.functions.get(name)?;
            let stored = self.state.functions.get(name).is_some_and(|record| {
                let object = record.object.as_ref();
                object.is_ok_and(|object| object.spec.settings == wanted.spec.settings)
            });
            if stored || wanted.spec.image.is_none() {
                return None;
            }
            let refused = self.resting.get(name);
            let refused =
                refused.and_then(|rest| Some((rest.of.as_deref()?, rest.trouble.as_ref()?)));
            let (of, trouble) = refused.or(undefined.as_ref().map(|trouble| (wanted, trouble)))?;
            Some(Problem {
                function: name.clone(),
                settings: Some(of.spec.settings.clone()),
                reason: trouble.reason.to_string(),
                message: trouble.message.clone(),
            })
        };
        names.into_iter().filter_map(problem).collect()
    }

    fn patch_failed(&mut self, pod: String, refusal: ApiFailure, now: Moment) {
        if let ApiFailure::Refused(trouble) = refusal {
            self.note_refused(&pod, trouble);
            self.again
                .push((now + TRIED_AGAIN_AFTER, Again::Patch(pod)));
        } else {
            self.state.patched(&pod, |_| {});
        }
    }

    /// A refusal of something that has no condition of its own.
    fn note_refused(&mut self, object: &str, trouble: Trouble) {
        warn!(object, reason = %trouble.reason, problem = trouble.message, "write refused");
        self.warn_about_us(&trouble.reason.to_string(), trouble.message);
    }

    fn tell_held(&mut self, held: Option<String>) {
        if let Some(message) = held {
            self.warn_about_us("MassDeletionHeld", message);
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges of counts that are far below 2^53"
    )]
    fn publish(&mut self, now: Moment, led: Option<Leadership>, waiting_for: Option<String>) {
        let mut pods = PodCounts::default();
        for pod in self.state.pods.values() {
            let count = match pod.phase {
                _ if pod.deleting => &mut pods.deleting,
                Phase::Pending => &mut pods.pending,
                Phase::Running | Phase::Unheard => &mut pods.running,
                Phase::Broken | Phase::Ended => &mut pods.ended,
            };
            *count += 1;
        }
        for (phase, count) in [
            ("pending", pods.pending),
            ("running", pods.running),
            ("ended", pods.ended),
            ("deleting", pods.deleting),
        ] {
            metrics::gauge!("tradewind_operator_pods", "phase" => phase).set(count as f64);
        }
        let held = self.objects_held.held();
        let held_count = held.map_or(0, |held| held.count);
        let gauges = [
            (
                "tradewind_operator_leading",
                f64::from(u8::from(led.is_some())),
            ),
            (
                "tradewind_operator_functions",
                self.state.functions.len() as f64,
            ),
            ("tradewind_operator_pools", self.state.pools.len() as f64),
            (
                "tradewind_operator_pools_empty",
                self.fills
                    .values()
                    .filter(|fill| fill.empty_since.is_some())
                    .count() as f64,
            ),
            (
                "tradewind_operator_gateways",
                self.state.demands.gateways(now) as f64,
            ),
            ("tradewind_operator_problems", self.problems.len() as f64),
            (
                "tradewind_operator_functions_skipped",
                self.written.skipped.len() as f64,
            ),
            ("tradewind_operator_deletions_held", held_count as f64),
            ("tradewind_operator_creates_per_sec", self.creates.rate()),
            ("tradewind_operator_deletes_per_sec", self.deletes.rate()),
            ("tradewind_operator_writes_per_sec", self.others.rate()),
        ];
        for (name, value) in gauges {
            metrics::gauge!(name).set(value);
        }
        let not_listed = self.state.unlisted().map(|kind| {
            let resource = kind.resource();
            match self.state.broken.get(&kind) {
                None => resource.to_owned(),
                Some(Broken::Unknown) => format!("{resource} (the server does not know them)"),
                Some(Broken::Forbidden) => format!("{resource} (the Role does not allow it)"),
                Some(Broken::Failing) => format!("{resource} (the API server does not answer)"),
            }
        });
        let pool_pods = self.fills.iter().map(|(name, fill)| {
            let pods = PoolPods {
                waiting: fill.waiting,
                wanted: fill.size,
            };
            (name.clone(), pods)
        });
        let snapshot_refused = match &self.source {
            Source::Replica(replica) => replica.refused(),
            Source::Objects => None,
        };
        let status = Status {
            not_listed: not_listed.collect(),
            pool_pods: pool_pods.collect(),
            identity: self.settings.identity.clone(),
            leading: led.is_some(),
            fence: led.map(|led| led.fence),
            waiting_for,
            functions: self.state.functions.len(),
            pools: self.state.pools.len(),
            pods,
            gateways: self.state.demands.gateways(now),
            problems: self.problems.clone(),
            writes_in_flight: self.writes.len(),
            creates_per_sec: self.creates.rate(),
            deletes_per_sec: self.deletes.rate(),
            writes_per_sec: self.others.rate(),
            deletions_held: held.map(|held| held.message.clone()),
            snapshot_refused,
            revision: self.written.known.then_some(self.written.revision),
        };
        self.status.send_replace(status);
    }
}

/// Why nothing of a kind is read or written.
fn unknown(kind: Kind) -> Trouble {
    let resource = kind.resource();
    Trouble {
        reason: ConditionReason::ResourceDefinitionOutdated,
        message: format!(
            "the server does not know {resource}; install the resource definitions of this version"
        ),
    }
}

/// Those of what `demand` asks for: what was wrong with other settings is nothing to it.
fn concerning(problems: &[Problem], demand: &Demand) -> Vec<Problem> {
    let asked: HashSet<(&str, &str)> = demand
        .functions
        .iter()
        .map(|demand| (demand.function.as_str(), demand.settings.as_str()))
        .collect();
    let functions: HashSet<&str> = asked.iter().map(|(function, _)| *function).collect();
    let concerns = |problem: &&Problem| match &problem.settings {
        Some(settings) => asked.contains(&(problem.function.as_str(), settings.as_str())),
        None => functions.contains(problem.function.as_str()),
    };
    problems.iter().filter(concerns).cloned().collect()
}

/// When the replica's functions have changed since they were `read`. Never without a replica.
async fn moved(
    position: &mut Option<watch::Receiver<Position>>,
    read: u64,
) -> Result<(), watch::error::RecvError> {
    let Some(position) = position else {
        return std::future::pending().await;
    };
    position
        .wait_for(|now| now.functions != read)
        .await
        .map(|_| ())
}

/// The owner's name and six letters: that two of an owner's 1,000 pods have the same is once in
/// some thousand creations, and then refused by the server and tried again.
fn pod_name(owner: &str) -> String {
    // As Kubernetes does for its own: no vowels, so no words.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let suffix: String = (0..6)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect();
    // A pod's name is its host name as well, which has 63 characters.
    let owner = &owner[..owner.len().min(56)];
    format!("{}-{suffix}", owner.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use region_plane_resources::demand::{Code, FunctionDemand};

    use super::*;

    #[test]
    fn who_asks_hears_what_is_wrong_with_the_settings_asked_for() {
        let problem = |function: &str, settings: Option<&str>| Problem {
            function: function.to_owned(),
            settings: settings.map(str::to_owned),
            reason: "ImagePullFailed".to_owned(),
            message: "push it".to_owned(),
        };
        let problems = [
            problem("fn-a", Some("1")),
            problem("fn-a", None),
            problem("fn-b", Some("1")),
            problem("fn-b", None),
        ];
        for (settings, want) in [("1", &problems[..2]), ("2", &problems[1..2])] {
            let demand = Demand {
                gateway: "g".to_owned(),
                boot: 1,
                sequence: 1,
                functions: vec![FunctionDemand {
                    function: "fn-a".to_owned(),
                    settings: settings.to_owned(),
                    wanted: 1,
                    code: Code::Image,
                }],
                claims: Vec::new(),
                finished: Vec::new(),
                failures: Vec::new(),
            };
            assert_eq!(concerning(&problems, &demand), want, "{settings}");
        }
    }
}
