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

/// More instances start than calls wait for so long before the youngest starts are given up:
/// callers who come back as soon as they are answered must not make starts come and go.
const UNNEEDED_AFTER: Duration = Duration::from_secs(1);

/// Between attempts to start one more instance of a function that has some, when there was no place
/// for it. Its calls wait for those there are; to find none again at once would be no news.
const NO_PLACE_PAUSE: Duration = Duration::from_secs(1);

/// Assigns calls to instances.
///
/// Every event takes the time since the region started and returns what to do, in order. The owner
/// keeps three promises: each `Start` is answered by `instance_started` or `instance_failed`, each
/// instance that was started or told to stop by `instance_exited` once it is gone, and each `Run` by
/// `call_finished`. In return each call gets exactly one `Run` or `Reject`, unless it is cancelled.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    /// Of the event under way.
    now: Duration,
    functions: BTreeMap<Key, Function>,
    instances: BTreeMap<InstanceId, Instance>,
    calls: BTreeMap<Call, Place>,
    /// Idle instances by the rank they became idle with: least recently used first.
    idle: BTreeMap<u64, InstanceId>,
    /// Functions that have calls to start an instance for, by the megabytes that one needs: those that
    /// no memory can be made for are not looked at.
    unserved: BTreeMap<u64, BTreeSet<Key>>,
    /// Functions whose counts may have changed since [`Self::take_touched`].
    touched: BTreeSet<Key>,
    /// When waiting calls must have an answer.
    deadlines: BTreeSet<(Duration, Call)>,
    /// What else comes by itself.
    timers: BTreeSet<(Duration, Timer)>,
    /// What functions were last said to have, as far as they were.
    settings: BTreeMap<FnId, u64>,
    memory: Memory,
    /// Counts arrivals and instances becoming idle, to order what one instant holds.
    rank: u64,
    last_instance: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// It has been idle for too long.
    Idle(InstanceId),
    /// One of the function's own times is over.
    Function(Key),
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
    Waiting { key: Key, until: Duration },
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
            now: Duration::ZERO,
            functions: BTreeMap::new(),
            instances: BTreeMap::new(),
            calls: BTreeMap::new(),
            idle: BTreeMap::new(),
            unserved: BTreeMap::new(),
            touched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            timers: BTreeSet::new(),
            settings: BTreeMap::new(),
            rank: 0,
            last_instance: 0,
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
        let mut actions = self.begin(now);
        let refused = if !self.memory.ever_fits(spec.memory_mb) {
            Some(Rejection::MemoryNeverFits)
        } else if self.is_outdated(&spec.key) {
            Some(Rejection::Outdated)
        } else if self.admitted() >= self.limits.calls_max {
            Some(Rejection::Full)
        } else if wait_until <= now {
            Some(Rejection::TimedOutWaiting)
        } else {
            None
        };
        if let Some(rejection) = refused {
            actions.push(Action::Reject { call, rejection });
            return actions;
        }

        self.rank += 1;
        let arrival = self.rank;
        let function = self
            .functions
            .entry(spec.key.clone())
            .or_insert_with(|| Function::new(spec.clone()));
        if let Some((_, &instance)) = function.idle.last_key_value() {
            self.run(call, instance, &mut actions);
            return actions;
        }
        if function.waiting.len() >= usize::try_from(self.limits.queue_max).unwrap_or(usize::MAX) {
            let rejection = Rejection::QueueFull;
            actions.push(Action::Reject { call, rejection });
            self.refresh(&spec.key);
            return actions;
        }
        function.waiting.push_back(Waiting { call, arrival });
        let place = Place::Waiting {
            key: spec.key.clone(),
            until: wait_until,
        };
        self.calls.insert(call, place);
        self.deadlines.insert((wait_until, call));
        self.refresh(&spec.key);
        let promised = self.schedule(&mut actions);

        // A call behind others of its function will get one of their instances. One that has nothing
        // to wait for is better off elsewhere, now.
        let function = &self.functions[&spec.key];
        if function.instances() == 0 && !promised.contains(&spec.key) {
            self.reject(call, Rejection::Full, &mut actions);
        }
        actions
    }

    /// The client left. A waiting call is forgotten; one that runs is not interrupted, and its
    /// `call_finished` still has to come.
    pub fn call_cancelled(&mut self, now: Duration, call: Call) -> Vec<Action> {
        let mut actions = self.begin(now);
        if let Some(Place::Waiting { .. }) = self.calls.get(&call) {
            self.unqueue(call);
            self.schedule(&mut actions);
        }
        actions
    }

    /// A call that ran is over.
    pub fn call_finished(&mut self, now: Duration, call: Call, after: AfterCall) -> Vec<Action> {
        let mut actions = self.begin(now);
        let Some(&Place::Running(instance)) = self.calls.get(&call) else {
            return actions;
        };
        self.calls.remove(&call);
        // Unless it is gone already, as told by `instance_exited`.
        if let Some(Instance { key, .. }) = self.instances.get(&instance) {
            let key = key.clone();
            let function = self.functions.get_mut(&key).expect("it has an instance");
            function.running -= 1;
            match after {
                AfterCall::Kept => self.free(instance, &mut actions),
                AfterCall::Lost => {
                    self.stop(instance, StopReason::Lost, &mut actions);
                    self.reject_outdated(&key, &mut actions);
                }
            }
            self.schedule(&mut actions);
        }
        actions
    }

    /// An instance is ready for its first call.
    pub fn instance_started(&mut self, now: Duration, instance: InstanceId) -> Vec<Action> {
        let mut actions = self.begin(now);
        if let Some(key) = self.no_longer_starting(instance) {
            let function = self.functions.get_mut(&key).expect("it has an instance");
            function.starting.remove(&instance);
            self.free(instance, &mut actions);
            self.schedule(&mut actions);
        }
        actions
    }

    /// An instance did not come up and is gone.
    ///
    /// The call that has waited longest for its function is told; the others may still be served by
    /// the next attempt, so each failed attempt answers one call and none is made for nobody. Where
    /// only the place for one more instance is missing, no call is told: the instances there are
    /// serve them.
    pub fn instance_failed(
        &mut self,
        now: Duration,
        instance: InstanceId,
        failure: StartFailure,
    ) -> Vec<Action> {
        let mut actions = self.begin(now);
        if let Some(key) = self.no_longer_starting(instance) {
            self.remove(instance);
            let is_short = matches!(failure, StartFailure::NoPlace(_));
            match self.functions.get_mut(&key) {
                Some(function) if is_short && function.up() > 0 => {
                    function.held_off_until = Some(now + NO_PLACE_PAUSE);
                    self.refresh(&key);
                }
                Some(function) => {
                    // Its function may have been mended since.
                    let rejection = match function.outdated {
                        true => Rejection::Outdated,
                        false => Rejection::StartFailed(failure),
                    };
                    if let Some(oldest) = function.waiting.front() {
                        let call = oldest.call;
                        self.reject(call, rejection, &mut actions);
                    }
                    self.reject_outdated(&key, &mut actions);
                }
                None => {}
            }
            self.schedule(&mut actions);
        }
        actions
    }

    /// An instance is gone, told to or not. If a call ran on it, its `call_finished` is still due.
    pub fn instance_exited(&mut self, now: Duration, instance: InstanceId) -> Vec<Action> {
        let mut actions = self.begin(now);
        if let Some(Instance { key, .. }) = self.instances.get(&instance) {
            let key = key.clone();
            self.remove(instance);
            self.reject_outdated(&key, &mut actions);
            self.schedule(&mut actions);
        }
        actions
    }

    /// The function now has the settings `current`, or none if it was removed.
    ///
    /// Nothing is started with earlier ones any more. Their idle instances stop now, busy ones once no
    /// call waits for them; calls that would have to wait for a start are refused as outdated, so that
    /// they run with the newest settings, unless little is left of their wait
    /// ([`Limits::settle_within`]). Later ones stay: whoever brought them heard of them before they were
    /// told here.
    pub fn function_changed(
        &mut self,
        now: Duration,
        function: &FnId,
        current: Option<u64>,
    ) -> Vec<Action> {
        let mut actions = self.begin(now);
        match current {
            Some(settings) => self.settings.insert(function.clone(), settings),
            None => self.settings.remove(function),
        };
        let mut keys = Vec::new();
        for (key, held) in self.functions.range_mut(keys_from(function)..) {
            if key.function != *function {
                break;
            }
            held.outdated = current.is_none_or(|current| key.settings < current);
            keys.push(key.clone());
        }
        for key in keys {
            if self.functions[&key].outdated {
                self.end_starts(&key, &mut actions);
            } else {
                // It may be back, and start for those who wait.
                self.refresh(&key);
            }
        }
        self.schedule(&mut actions);
        actions
    }

    /// Time has passed: answers calls that waited too long, and stops instances that were idle for
    /// too long or start for nobody.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = self.begin(now);
        while let Some((at, timer)) = self.timers.first()
            && *at <= now
        {
            match timer.clone() {
                Timer::Idle(instance) => self.stop(instance, StopReason::Idle, &mut actions),
                Timer::Function(key) => self.look_at(&key, &mut actions),
            }
        }
        self.schedule(&mut actions);
        actions
    }

    /// When `tick` has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let timer = self.timers.first().map(|(at, _)| *at);
        deadline.into_iter().chain(timer).min()
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

    /// Calls that wait for an instance.
    #[must_use]
    pub fn queued(&self) -> u32 {
        u32::try_from(self.deadlines.len()).expect("admission keeps it below calls_max")
    }

    /// What a function has, with whichever settings.
    #[must_use]
    pub fn counts(&self, function: &FnId) -> Counts {
        let mut sum = Counts::default();
        for (_, held) in self
            .functions
            .range(keys_from(function)..)
            .take_while(|(key, _)| key.function == *function)
        {
            sum += held.counts();
        }
        sum
    }

    /// Functions, with the settings concerned, whose calls or instances came or went since this was
    /// last asked. There are no more than took part in what happened since: ask every now and then.
    pub fn take_touched(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.touched)
    }

    /// Whether any call or instance, not told to stop, has this key.
    #[must_use]
    pub fn uses(&self, key: &Key) -> bool {
        self.functions.contains_key(key)
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

    fn admitted(&self) -> u32 {
        u32::try_from(self.calls.len()).expect("admission keeps it below calls_max")
    }

    /// Answers those who waited too long, before anything else can happen to them.
    fn begin(&mut self, now: Duration) -> Vec<Action> {
        self.now = now;
        let mut actions = Vec::new();
        while let Some(&(at, call)) = self.deadlines.first()
            && at <= now
        {
            self.reject(call, Rejection::TimedOutWaiting, &mut actions);
        }
        actions
    }

    fn is_outdated(&self, key: &Key) -> bool {
        // Whoever brings later settings than were told has heard of them first.
        let told = self.settings.get(&key.function);
        told.is_some_and(|current| key.settings < *current)
            || self.functions.get(key).is_some_and(|held| held.outdated)
    }

    /// Ends what would still be started with settings that are outdated.
    fn end_starts(&mut self, key: &Key, actions: &mut Vec<Action>) {
        let function = &self.functions[key];
        // Each start that ends is made anew for one who is offered anew.
        let stay = match function.running {
            0 => 0,
            _ => function
                .waiting
                .len()
                .saturating_sub(function.starting.len()),
        };
        // Nobody settles for what was removed.
        let is_there = self.settings.contains_key(&key.function);
        let mut settled = 0;
        let mut leave = Vec::new();
        for waiting in function.waiting.iter().skip(stay) {
            if is_there && self.is_settled(waiting.call) {
                settled += 1;
            } else {
                leave.push(waiting.call);
            }
        }
        // The oldest starts are the likeliest to be up in time.
        let starting = function.starting.iter().skip(settled);
        let stop: Vec<_> = function.idle.values().chain(starting).copied().collect();
        for call in leave {
            self.reject(call, Rejection::Outdated, actions);
        }
        for instance in stop {
            self.stop(instance, StopReason::Outdated, actions);
        }
        self.refresh(key);
        // One that settled on a start there is not.
        self.reject_outdated(key, actions);
    }

    /// Whether so little is left of a waiting call's time that it takes the start it has.
    fn is_settled(&self, call: Call) -> bool {
        match &self.calls[&call] {
            Place::Waiting { until, .. } => *until <= self.now + self.limits.settle_within,
            Place::Running(_) => false,
        }
    }

    /// When the last instance with settings that are outdated is gone, nobody may wait for another.
    fn reject_outdated(&mut self, key: &Key, actions: &mut Vec<Action>) {
        while let Some(function) = self.functions.get(key)
            && function.outdated
            && function.instances() == 0
            && let Some(waiting) = function.waiting.front()
        {
            self.reject(waiting.call, Rejection::Outdated, actions);
        }
    }

    /// One of the function's times is over.
    fn look_at(&mut self, key: &Key, actions: &mut Vec<Action>) {
        let function = self.functions.get_mut(key).expect("its timer goes with it");
        if function.held_off_until.is_some_and(|at| at <= self.now) {
            function.held_off_until = None;
        }
        let mut unneeded = Vec::new();
        if let Some(since) = function.surplus_since
            && since + UNNEEDED_AFTER <= self.now
        {
            // The oldest are the likeliest to be up soon.
            let youngest = function.starting.iter().rev();
            unneeded.extend(youngest.take(function.surplus()).copied());
        }
        for instance in unneeded {
            self.stop(instance, StopReason::Unneeded, actions);
        }
        self.refresh(key);
    }

    /// Brings what is known of a function in step with its queue and its instances, after each
    /// change of them, and forgets it with the last.
    fn refresh(&mut self, key: &Key) {
        let Some(function) = self.functions.get_mut(key) else {
            return;
        };
        if function.surplus() == 0 {
            function.surplus_since = None;
        } else {
            function.surplus_since.get_or_insert(self.now);
        }
        let is_unused = function.is_unused();
        let surplus_ends = function.surplus_since.map(|since| since + UNNEEDED_AFTER);
        let ends = [surplus_ends, function.held_off_until];
        let timer = ends.into_iter().flatten().min().filter(|_| !is_unused);
        if function.timer != timer {
            let of_function = || Timer::Function(key.clone());
            if let Some(at) = function.timer {
                self.timers.remove(&(at, of_function()));
            }
            if let Some(at) = timer {
                self.timers.insert((at, of_function()));
            }
            function.timer = timer;
        }
        let need_mb = function.spec.memory_mb;
        let is_served = function.unserved().next().is_none();
        match self.unserved.get_mut(&need_mb) {
            Some(keys) if is_served => {
                keys.remove(key);
                if keys.is_empty() {
                    self.unserved.remove(&need_mb);
                }
            }
            Some(keys) if keys.contains(key) => {}
            None if is_served => {}
            Some(_) | None => {
                let keys = self.unserved.entry(need_mb).or_default();
                keys.insert(key.clone());
            }
        }
        if !self.touched.contains(key) {
            self.touched.insert(key.clone());
        }
        if is_unused {
            self.functions.remove(key);
        }
    }

    /// Starts what waiting calls need, oldest first, and makes room by evicting. Returns the functions
    /// whose instance starts once the memory that is being freed is there.
    fn schedule(&mut self, actions: &mut Vec<Action>) -> BTreeSet<Key> {
        let plan = self.plan();
        for instance in plan.evict {
            self.stop(instance, StopReason::Evicted, actions);
        }
        for key in plan.start {
            self.start(key, actions);
        }
        plan.promised
    }

    /// Looks at the waiting calls that memory might be made for, and at the idle instances it evicts
    /// for them. It runs after each call, so it must not look at all idle instances.
    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let mut coming_mb = self.memory.coming_mb();
        let mut idle_mb = self.memory.idle_mb();
        let attainable_mb = coming_mb + idle_mb;
        let mut unserved: Vec<_> = self
            .unserved
            .iter()
            .take_while(|(need_mb, _)| **need_mb <= attainable_mb)
            .flat_map(|(need_mb, keys)| keys.iter().map(move |key| (*need_mb, key)))
            .flat_map(|(need_mb, key)| {
                let waiting = self.functions[key].unserved();
                waiting.map(move |waiting| (waiting.arrival, key, need_mb))
            })
            .collect();
        unserved.sort_unstable();

        let mut free_mb = self.memory.free_mb();
        let mut promised_mb = 0;
        let mut least_recent = self.idle.values();
        for (_, key, need_mb) in unserved {
            let wanted_mb = promised_mb + need_mb;
            // What not even an empty region's worth of evictions can serve now must not keep a
            // smaller need from memory that is free.
            if coming_mb + idle_mb < wanted_mb {
                continue;
            }
            while coming_mb < wanted_mb {
                let instance = least_recent.next().expect("`idle_mb` is what they hold");
                let evicted_mb = self.instances[instance].memory_mb;
                coming_mb += evicted_mb;
                idle_mb -= evicted_mb;
                plan.evict.push(*instance);
            }
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
        function.starting.insert(instance);
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
        self.refresh(&key);
        actions.push(Action::Start { instance, key });
    }

    /// Gives an instance that can take a call to the next one, or makes it idle.
    fn free(&mut self, instance: InstanceId, actions: &mut Vec<Action>) {
        let key = self.instances[&instance].key.clone();
        let function = self.functions.get_mut(&key).expect("it has an instance");
        if let Some(next) = function.waiting.pop_front() {
            self.run(next.call, instance, actions);
            return;
        }
        let outdated = function.outdated;
        let until = self.now + function.spec.idle_timeout;
        self.rank += 1;
        let rank = self.rank;
        function.idle.insert(rank, instance);
        self.idle.insert(rank, instance);
        self.memory.set_idle(self.instances[&instance].memory_mb);
        self.timers.insert((until, Timer::Idle(instance)));
        self.phase(instance, Phase::Idle { rank, until });
        if outdated {
            self.stop(instance, StopReason::Outdated, actions);
        } else {
            self.refresh(&key);
        }
    }

    /// The caller took the call from the queue.
    fn run(&mut self, call: Call, instance: InstanceId, actions: &mut Vec<Action>) {
        self.forget_idle(instance);
        self.phase(instance, Phase::Running(call));
        let key = self.instances[&instance].key.clone();
        let function = self.functions.get_mut(&key).expect("it has an instance");
        function.running += 1;
        let waited = self.calls.insert(call, Place::Running(instance));
        if let Some(Place::Waiting { until, .. }) = waited {
            self.deadlines.remove(&(until, call));
        }
        self.refresh(&key);
        actions.push(Action::Run { call, instance });
    }

    /// It starts or is idle, or the caller took it from its function's running ones.
    fn stop(&mut self, instance: InstanceId, reason: StopReason, actions: &mut Vec<Action>) {
        self.forget_idle(instance);
        let held = self
            .instances
            .get_mut(&instance)
            .expect("the caller saw it");
        let (key, memory_mb) = (held.key.clone(), held.memory_mb);
        held.phase = Phase::Stopping;
        self.memory.stop(memory_mb);
        let function = self.functions.get_mut(&key).expect("it has an instance");
        function.starting.remove(&instance);
        self.refresh(&key);
        actions.push(Action::Stop { instance, reason });
    }

    fn forget_idle(&mut self, instance: InstanceId) {
        let held = &self.instances[&instance];
        if let Phase::Idle { rank, until } = held.phase {
            self.idle.remove(&rank);
            self.timers.remove(&(until, Timer::Idle(instance)));
            let function = self
                .functions
                .get_mut(&held.key)
                .expect("it has an instance");
            function.idle.remove(&rank);
            self.memory.end_idle(held.memory_mb);
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
            function.starting.remove(&instance);
            if matches!(held.phase, Phase::Running(_)) {
                function.running -= 1;
            }
        }
        self.refresh(&held.key);
    }

    fn reject(&mut self, call: Call, rejection: Rejection, actions: &mut Vec<Action>) {
        self.unqueue(call);
        actions.push(Action::Reject { call, rejection });
    }

    /// Takes a waiting call from its queue and from those admitted.
    fn unqueue(&mut self, call: Call) {
        let Some(Place::Waiting { key, until }) = self.calls.remove(&call) else {
            unreachable!("the caller saw it wait");
        };
        self.deadlines.remove(&(until, call));
        let function = self.functions.get_mut(&key).expect("a call of it waits");
        let at = function.waiting.iter().position(|held| held.call == call);
        function.waiting.remove(at.expect("its place says so"));
        self.refresh(&key);
    }

    fn phase(&mut self, instance: InstanceId, phase: Phase) {
        let held = self
            .instances
            .get_mut(&instance)
            .expect("the caller saw it");
        held.phase = phase;
    }
}

/// Not after any key of the function.
fn keys_from(function: &FnId) -> Key {
    Key {
        function: function.clone(),
        settings: 0,
    }
}
