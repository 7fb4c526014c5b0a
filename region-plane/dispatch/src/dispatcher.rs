//! The state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api_types::{FnId, Load};

use crate::function::{Function, Waiting};
use crate::memory::Memory;
use crate::{
    Action, AfterCall, Call, Counts, InstanceId, InstanceRow, InstanceState, Key, Limits,
    Rejection, Spec, StartFailure, StopReason,
};

/// Assigns calls to instances.
///
/// Every event takes the time since the region started and returns what to do, in order. The owner
/// keeps three promises: each `Start` is answered by `instance_started` or `instance_failed`, each
/// instance that was started by `instance_exited` once it is gone, and each `Run` by
/// `call_finished`. In return each call gets exactly one `Run` or `Reject`, unless it is cancelled.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    functions: BTreeMap<Key, Function>,
    instances: BTreeMap<InstanceId, Instance>,
    calls: BTreeMap<Call, Place>,
    /// Idle instances by the rank they became idle with: least recently used first.
    idle: BTreeMap<u64, InstanceId>,
    memory: Memory,
    /// Counts arrivals and instances becoming idle, to order what one instant holds.
    rank: u64,
    last_instance: u64,
    draining: bool,
}

#[derive(Debug)]
struct Instance {
    key: Key,
    memory_mb: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Starting,
    Idle { rank: u64, until: Duration },
    Running(Call),
    Stopping,
}

#[derive(Debug)]
enum Place {
    Waiting(Key),
    Running(InstanceId),
}

/// What to do for waiting calls that have no instance coming.
#[derive(Debug, Default)]
struct Plan {
    evict: Vec<InstanceId>,
    start: Vec<Key>,
    /// Functions that get an instance as soon as memory told to go is gone.
    promised: BTreeSet<Key>,
}

impl Dispatcher {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            memory: Memory::new(limits.memory_budget_mb),
            limits,
            functions: BTreeMap::new(),
            instances: BTreeMap::new(),
            calls: BTreeMap::new(),
            idle: BTreeMap::new(),
            rank: 0,
            last_instance: 0,
            draining: false,
        }
    }

    /// A call that may wait until `wait_until` and then must have an answer.
    pub fn call_arrived(
        &mut self,
        now: Duration,
        call: Call,
        spec: &Spec,
        wait_until: Duration,
    ) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        let reject = |rejection| Action::Reject { call, rejection };
        if !self.memory.ever_fits(spec.memory_mb) {
            actions.push(reject(Rejection::MemoryNeverFits));
            return actions;
        }
        if self.draining || self.admitted() >= self.limits.calls_max {
            actions.push(reject(Rejection::Full));
            return actions;
        }

        let arrival = self.next_rank();
        let function = self
            .functions
            .entry(spec.key.clone())
            .or_insert_with(|| Function::new(spec.clone()));
        if let Some(instance) = function.idle.pop() {
            self.run(call, instance, &mut actions);
            return actions;
        }
        if function.waiting.len() >= usize::try_from(self.limits.queue_max).unwrap_or(usize::MAX) {
            actions.push(reject(Rejection::QueueFull));
            self.forget_if_unused(&spec.key);
            return actions;
        }
        function.waiting.push_back(Waiting {
            call,
            arrival,
            wait_until,
        });
        self.calls.insert(call, Place::Waiting(spec.key.clone()));
        let promised = self.schedule(now, &mut actions);

        // A call behind others of its function will get one of their instances. One that has nothing
        // to wait for is better off elsewhere, now.
        let function = &self.functions[&spec.key];
        if function.instances() == 0 && !promised.contains(&spec.key) {
            self.unqueue(call, &spec.key);
            actions.push(reject(Rejection::Full));
        }
        actions
    }

    /// The client left. A waiting call is forgotten; one that runs is not interrupted, and its
    /// `call_finished` still has to come.
    pub fn call_cancelled(&mut self, now: Duration, call: Call) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        if let Some(Place::Waiting(key)) = self.calls.get(&call) {
            let key = key.clone();
            self.unqueue(call, &key);
            self.schedule(now, &mut actions);
        }
        actions
    }

    /// A call that ran is over.
    pub fn call_finished(&mut self, now: Duration, call: Call, after: AfterCall) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        let Some(&Place::Running(instance)) = self.calls.get(&call) else {
            return actions;
        };
        self.calls.remove(&call);
        // Unless it is gone already, as told by `instance_exited`.
        if let Some(Instance { key, .. }) = self.instances.get(&instance) {
            let function = self.functions.get_mut(key).expect("it has an instance");
            function.running -= 1;
            match after {
                AfterCall::Kept => self.free(now, instance, &mut actions),
                AfterCall::Lost => self.stop(instance, StopReason::Lost, &mut actions),
            }
            self.schedule(now, &mut actions);
        }
        actions
    }

    /// An instance is ready for its first call.
    pub fn instance_started(&mut self, now: Duration, instance: InstanceId) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        if let Some(key) = self.no_longer_starting(instance) {
            let function = self.functions.get_mut(&key).expect("it has an instance");
            function.starting -= 1;
            self.free(now, instance, &mut actions);
            self.schedule(now, &mut actions);
        }
        actions
    }

    /// An instance did not come up and is gone. The call that has waited longest for its function
    /// is told; the others may still be served by the next attempt, so each failed attempt answers
    /// one call and none is made for nobody.
    pub fn instance_failed(
        &mut self,
        now: Duration,
        instance: InstanceId,
        failure: StartFailure,
    ) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        if let Some(key) = self.no_longer_starting(instance) {
            self.remove(instance);
            if let Some(function) = self.functions.get(&key)
                && let Some(oldest) = function.waiting.front()
            {
                let call = oldest.call;
                self.unqueue(call, &key);
                actions.push(Action::Reject {
                    call,
                    rejection: Rejection::StartFailed(failure),
                });
            }
            self.schedule(now, &mut actions);
        }
        actions
    }

    /// An instance is gone, told to or not. If a call ran on it, its `call_finished` is still due.
    pub fn instance_exited(&mut self, now: Duration, instance: InstanceId) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        if self.instances.contains_key(&instance) {
            self.remove(instance);
            self.schedule(now, &mut actions);
        }
        actions
    }

    /// The function now has the settings `current`, or none if it was removed. Instances started
    /// with others stop once no call needs them: idle ones now. Calls that came before may still
    /// start one, since they were accepted by the settings they carry.
    pub fn function_changed(
        &mut self,
        now: Duration,
        function: &FnId,
        current: Option<u64>,
    ) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        let mut outdated = Vec::new();
        let first = Key {
            function: function.clone(),
            settings: 0,
        };
        for (key, held) in self.functions.range_mut(first..) {
            if key.function != *function {
                break;
            }
            held.outdated = Some(key.settings) != current;
            if held.outdated {
                outdated.extend(held.idle.iter().copied());
            }
        }
        for instance in outdated {
            self.stop(instance, StopReason::Outdated, &mut actions);
        }
        self.schedule(now, &mut actions);
        actions
    }

    /// Admits no more calls, lets those admitted finish, and stops every instance that no call
    /// needs. [`Self::is_drained`] tells when the last is gone.
    pub fn drain(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        self.draining = true;
        let idle: Vec<_> = self.idle.values().copied().collect();
        for instance in idle {
            self.stop(instance, StopReason::Draining, &mut actions);
        }
        self.schedule(now, &mut actions);
        actions
    }

    /// Time has passed: answers calls that waited too long and stops instances idle for too long.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = self.expire_waiting(now);
        let over: Vec<_> = self
            .idle
            .values()
            .copied()
            .filter(
                |id| matches!(self.instances[id].phase, Phase::Idle { until, .. } if until <= now),
            )
            .collect();
        for instance in over {
            self.stop(instance, StopReason::Idle, &mut actions);
        }
        self.schedule(now, &mut actions);
        actions
    }

    /// When `tick` has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let waiting = self
            .functions
            .values()
            .flat_map(|function| function.waiting.iter().map(|waiting| waiting.wait_until));
        let idle = self
            .idle
            .values()
            .filter_map(|id| match self.instances[id].phase {
                Phase::Idle { until, .. } => Some(until),
                Phase::Starting | Phase::Running(_) | Phase::Stopping => None,
            });
        waiting.chain(idle).min()
    }

    /// Calls that run or wait, against the admission limit.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            current: self.admitted(),
            target: self.limits.calls_target,
            capacity: self.limits.calls_max,
        }
    }

    /// Megabytes held by instances, those being stopped included.
    #[must_use]
    pub fn memory_held_mb(&self) -> u64 {
        self.memory.held_mb()
    }

    /// Functions that have calls or instances, by key.
    pub fn functions(&self) -> impl Iterator<Item = (&Key, Counts)> {
        self.functions
            .iter()
            .map(|(key, function)| (key, function.counts()))
    }

    /// All instances, oldest first.
    pub fn instances(&self) -> impl Iterator<Item = InstanceRow<'_>> {
        self.instances.iter().map(|(&instance, held)| InstanceRow {
            instance,
            key: &held.key,
            memory_mb: held.memory_mb,
            state: match held.phase {
                Phase::Starting => InstanceState::Starting,
                Phase::Idle { .. } => InstanceState::Idle,
                Phase::Running(call) => InstanceState::Running(call),
                Phase::Stopping => InstanceState::Stopping,
            },
        })
    }

    /// No call is admitted and no instance is left.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.calls.is_empty() && self.instances.is_empty()
    }

    fn admitted(&self) -> u32 {
        u32::try_from(self.calls.len()).expect("admission keeps it below calls_max")
    }

    fn next_rank(&mut self) -> u64 {
        self.rank += 1;
        self.rank
    }

    fn expire_waiting(&mut self, now: Duration) -> Vec<Action> {
        let late: Vec<_> = self
            .functions
            .iter()
            .flat_map(|(key, function)| {
                let late = function
                    .waiting
                    .iter()
                    .filter(|waiting| waiting.wait_until <= now);
                late.map(|waiting| (waiting.call, key.clone()))
            })
            .collect();
        late.into_iter()
            .map(|(call, key)| {
                self.unqueue(call, &key);
                Action::Reject {
                    call,
                    rejection: Rejection::TimedOutWaiting,
                }
            })
            .collect()
    }

    /// Starts what waiting calls need, oldest first, and makes room by evicting. Returns the functions
    /// whose instance starts once the memory that is being freed is there.
    fn schedule(&mut self, now: Duration, actions: &mut Vec<Action>) -> BTreeSet<Key> {
        let plan = self.plan();
        for instance in plan.evict {
            self.stop(instance, StopReason::Evicted, actions);
        }
        for key in plan.start {
            self.start(key, actions);
        }
        debug_assert!(
            self.functions
                .values()
                .flat_map(|function| &function.waiting)
                .all(|waiting| waiting.wait_until > now),
            "whoever waited too long was answered first"
        );
        plan.promised
    }

    fn plan(&self) -> Plan {
        let mut unserved: Vec<_> = self
            .functions
            .iter()
            .flat_map(|(key, function)| {
                let need_mb = function.spec.memory_mb;
                function
                    .unserved()
                    .map(move |waiting| (waiting.arrival, key, need_mb))
            })
            .collect();
        unserved.sort_unstable();

        let mut plan = Plan::default();
        let mut free_mb = self.memory.free_mb();
        let mut coming_mb = self.memory.coming_mb();
        let mut promised_mb = 0;
        let mut least_recent: Vec<_> = self.idle.values().rev().copied().collect();
        for (_, key, need_mb) in unserved {
            let wanted_mb = promised_mb + need_mb;
            let mut evicted_mb = 0;
            let mut evicted = 0;
            for instance in least_recent.iter().rev() {
                if coming_mb + evicted_mb >= wanted_mb {
                    break;
                }
                evicted_mb += self.instances[instance].memory_mb;
                evicted += 1;
            }
            // What not even an empty region's worth of evictions can serve now must not keep a
            // smaller need from memory that is free.
            if coming_mb + evicted_mb < wanted_mb {
                continue;
            }
            coming_mb += evicted_mb;
            let kept = least_recent.len() - evicted;
            plan.evict.extend(least_recent.drain(kept..).rev());
            if wanted_mb <= free_mb {
                free_mb -= need_mb;
                coming_mb -= need_mb;
                plan.start.push(key.clone());
            } else {
                promised_mb = wanted_mb;
                plan.promised.insert(key.clone());
            }
        }
        plan
    }

    fn start(&mut self, key: Key, actions: &mut Vec<Action>) {
        self.last_instance += 1;
        let instance = InstanceId(self.last_instance);
        let function = self.functions.get_mut(&key).expect("a call of it waits");
        function.starting += 1;
        let memory_mb = function.spec.memory_mb;
        self.memory.take(memory_mb);
        self.instances.insert(
            instance,
            Instance {
                key: key.clone(),
                memory_mb,
                phase: Phase::Starting,
            },
        );
        actions.push(Action::Start { instance, key });
    }

    /// Gives an instance that can take a call to the next one, or makes it idle.
    fn free(&mut self, now: Duration, instance: InstanceId, actions: &mut Vec<Action>) {
        let key = self.instances[&instance].key.clone();
        let function = self.functions.get_mut(&key).expect("it has an instance");
        if let Some(next) = function.waiting.pop_front() {
            self.run(next.call, instance, actions);
            return;
        }
        let (outdated, idle_timeout) = (function.outdated, function.spec.idle_timeout);
        function.idle.push(instance);
        let rank = self.next_rank();
        self.idle.insert(rank, instance);
        self.phase(
            instance,
            Phase::Idle {
                rank,
                until: now + idle_timeout,
            },
        );
        if self.draining {
            self.stop(instance, StopReason::Draining, actions);
        } else if outdated {
            self.stop(instance, StopReason::Outdated, actions);
        }
    }

    /// The caller took the call from the queue and the instance from the function's idle ones.
    fn run(&mut self, call: Call, instance: InstanceId, actions: &mut Vec<Action>) {
        let held = self
            .instances
            .get_mut(&instance)
            .expect("it is there to run");
        if let Phase::Idle { rank, .. } = held.phase {
            self.idle.remove(&rank);
        }
        held.phase = Phase::Running(call);
        let function = self
            .functions
            .get_mut(&held.key)
            .expect("it has an instance");
        function.running += 1;
        self.calls.insert(call, Place::Running(instance));
        actions.push(Action::Run { call, instance });
    }

    /// The caller took it from its function's starting or running ones, or it is idle.
    fn stop(&mut self, instance: InstanceId, reason: StopReason, actions: &mut Vec<Action>) {
        self.forget_idle(instance);
        self.phase(instance, Phase::Stopping);
        let held = &self.instances[&instance];
        self.memory.stop(held.memory_mb);
        let key = held.key.clone();
        self.forget_if_unused(&key);
        actions.push(Action::Stop { instance, reason });
    }

    fn forget_idle(&mut self, instance: InstanceId) {
        let held = &self.instances[&instance];
        if let Phase::Idle { rank, .. } = held.phase {
            self.idle.remove(&rank);
            let function = self
                .functions
                .get_mut(&held.key)
                .expect("it has an instance");
            function.idle.retain(|idle| *idle != instance);
        }
    }

    /// The key of an instance that starts, for one of the two events that end it.
    fn no_longer_starting(&self, instance: InstanceId) -> Option<Key> {
        let held = self.instances.get(&instance)?;
        matches!(held.phase, Phase::Starting).then(|| held.key.clone())
    }

    /// Forgets an instance that is gone, whatever it did.
    fn remove(&mut self, instance: InstanceId) {
        self.forget_idle(instance);
        let held = self.instances.remove(&instance).expect("the caller saw it");
        let stopping = matches!(held.phase, Phase::Stopping);
        self.memory.release(held.memory_mb, stopping);
        if let Some(function) = self.functions.get_mut(&held.key) {
            match held.phase {
                Phase::Starting => function.starting -= 1,
                Phase::Running(_) => function.running -= 1,
                Phase::Idle { .. } | Phase::Stopping => {}
            }
        }
        self.forget_if_unused(&held.key);
    }

    /// Takes a call from its queue and from those admitted.
    fn unqueue(&mut self, call: Call, key: &Key) {
        self.calls.remove(&call);
        let function = self.functions.get_mut(key).expect("a call of it waits");
        function.waiting.retain(|waiting| waiting.call != call);
        self.forget_if_unused(key);
    }

    fn forget_if_unused(&mut self, key: &Key) {
        if self.functions.get(key).is_some_and(Function::is_unused) {
            self.functions.remove(key);
        }
    }

    fn phase(&mut self, instance: InstanceId, phase: Phase) {
        let held = self
            .instances
            .get_mut(&instance)
            .expect("the caller saw it");
        held.phase = phase;
    }
}
