//! Random events against a model that knows only what the actions said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api_types::FnId;
use proptest::collection::vec;
use proptest::prelude::*;
use region_plane_dispatch::{
    Action, AfterCall, Call, Counts, Dispatcher, InstanceId, Key, Limits, Rejection, Spec,
    StartFailure, StopReason,
};

const LIMITS: Limits = Limits {
    memory_budget_mb: 10,
    calls_max: 12,
    calls_target: 9,
    queue_max: 4,
    settle_within: Duration::from_secs(2),
};

/// Of the functions by number; the last never fits.
const MEMORY_MB: [u64; 5] = [1, 2, 3, 7, 11];

const INSTANCES_MAX: [u32; 5] = [3, 2, 9, 9, 9];

/// After a failed start for which there was no place, while its function has instances.
const NO_PLACE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum Event {
    Arrive {
        function: usize,
        /// Changes since.
        behind: u64,
        patience_secs: u64,
    },
    Finish {
        pick: usize,
        after: AfterCall,
    },
    Started {
        pick: usize,
    },
    Failed {
        pick: usize,
        failure: StartFailure,
    },
    Gone {
        pick: usize,
    },
    Died {
        pick: usize,
    },
    Cancel {
        pick: usize,
    },
    /// Calls bring it from now on; it is told later.
    Change {
        function: usize,
    },
    Tell {
        function: usize,
        /// Changes since.
        behind: u64,
    },
    Remove {
        function: usize,
    },
    Pass {
        secs: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let pick = 0..64usize;
    let after = prop_oneof![4 => Just(AfterCall::Kept), 1 => Just(AfterCall::Lost)];
    let behind = prop_oneof![6 => Just(0), 1 => Just(1)];
    let failure = prop_oneof![
        Just(StartFailure::Failed),
        Just(StartFailure::NoPlace("full".to_owned()))
    ];
    prop_oneof![
        400 => (0..MEMORY_MB.len(), behind.clone(), 0..20u64).prop_map(|(function, behind, patience_secs)| {
            Event::Arrive { function, behind, patience_secs }
        }),
        300 => (pick.clone(), after).prop_map(|(pick, after)| Event::Finish { pick, after }),
        300 => pick.clone().prop_map(|pick| Event::Started { pick }),
        50 => (pick.clone(), failure).prop_map(|(pick, failure)| Event::Failed { pick, failure }),
        200 => pick.clone().prop_map(|pick| Event::Gone { pick }),
        30 => pick.clone().prop_map(|pick| Event::Died { pick }),
        50 => pick.prop_map(|pick| Event::Cancel { pick }),
        30 => (0..MEMORY_MB.len()).prop_map(|function| Event::Change { function }),
        30 => (0..MEMORY_MB.len(), behind)
            .prop_map(|(function, behind)| Event::Tell { function, behind }),
        10 => (0..MEMORY_MB.len()).prop_map(|function| Event::Remove { function }),
        150 => (0..10u64).prop_map(|secs| Event::Pass { secs }),
    ]
}

fn id(function: usize) -> FnId {
    FnId::new(function.to_string())
}

fn spec(function: usize, settings: u64) -> Spec {
    Spec {
        key: Key {
            function: id(function),
            settings,
        },
        memory_mb: MEMORY_MB[function],
        instances_max: INSTANCES_MAX[function],
        idle_timeout: Duration::from_secs(5 + settings % 2),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Waiting { until: Duration },
    Running(InstanceId),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Starting,
    Idle { since: Duration, rank: u64 },
    Running(Call),
    Stopping,
}

fn is_up(phase: Phase) -> bool {
    matches!(phase, Phase::Idle { .. } | Phase::Running(_))
}

struct World {
    dispatcher: Dispatcher,
    now: Duration,
    calls: BTreeMap<Call, (Spec, Fate)>,
    instances: BTreeMap<InstanceId, (Spec, Phase)>,
    specs: BTreeMap<Key, Spec>,
    /// Each function's settings, which only grow.
    settings: [u64; MEMORY_MB.len()],
    /// What the dispatcher was told of them last.
    told: BTreeMap<FnId, u64>,
    /// What was there when its function was removed.
    removed: BTreeSet<Key>,
    no_place_until: BTreeMap<Key, Duration>,
    /// As the dispatcher counts, looked up again only for what it says was touched.
    counted: BTreeMap<Key, Counts>,
    rank: u64,
}

impl World {
    fn new() -> Self {
        Self {
            dispatcher: Dispatcher::new(LIMITS),
            now: Duration::ZERO,
            calls: BTreeMap::new(),
            instances: BTreeMap::new(),
            specs: BTreeMap::new(),
            settings: [10; MEMORY_MB.len()],
            told: BTreeMap::new(),
            removed: BTreeSet::new(),
            no_place_until: BTreeMap::new(),
            counted: BTreeMap::new(),
            rank: 0,
        }
    }

    fn pick_instance(&self, pick: usize, is: impl Fn(Phase) -> bool) -> Option<InstanceId> {
        let of: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, (_, phase))| is(*phase))
            .collect();
        (!of.is_empty()).then(|| *of[pick % of.len()].0)
    }

    fn pick_call(&self, pick: usize, is: impl Fn(&Fate) -> bool) -> Option<Call> {
        let of: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, (_, fate))| is(fate))
            .collect();
        (!of.is_empty()).then(|| *of[pick % of.len()].0)
    }

    fn waiting(&self, key: &Key) -> usize {
        let of_key =
            |(spec, fate): &&(Spec, Fate)| spec.key == *key && matches!(fate, Fate::Waiting { .. });
        self.calls.values().filter(of_key).count()
    }

    fn instances_of(&self, key: &Key, is: impl Fn(Phase) -> bool) -> usize {
        let of_key = |(spec, phase): &&(Spec, Phase)| spec.key == *key && is(*phase);
        self.instances.values().filter(of_key).count()
    }

    fn set_idle(&mut self, instance: InstanceId) {
        self.rank += 1;
        let (since, rank) = (self.now, self.rank);
        if let Some((_, phase)) = self.instances.get_mut(&instance) {
            *phase = Phase::Idle { since, rank };
        }
    }

    fn feed(&mut self, event: &Event) {
        let now = self.now;
        let actions = match *event {
            Event::Arrive {
                function,
                behind,
                patience_secs,
            } => {
                let spec = spec(function, self.settings[function] - behind);
                let call = Call(self.calls.len() as u64);
                let until = now + Duration::from_secs(patience_secs);
                self.specs.insert(spec.key.clone(), spec.clone());
                self.calls
                    .insert(call, (spec.clone(), Fate::Waiting { until }));
                self.dispatcher.call_arrived(now, call, &spec, until)
            }
            Event::Finish { pick, after } => {
                let running = |fate: &Fate| matches!(fate, Fate::Running(_));
                let Some(call) = self.pick_call(pick, running) else {
                    return;
                };
                self.finish(call, after)
            }
            Event::Started { pick } => {
                let Some(instance) = self.pick_instance(pick, |phase| phase == Phase::Starting)
                else {
                    return;
                };
                self.set_idle(instance);
                self.dispatcher.instance_started(now, instance)
            }
            Event::Failed { pick, ref failure } => {
                let Some(instance) = self.pick_instance(pick, |phase| phase == Phase::Starting)
                else {
                    return;
                };
                let (spec, _) = self.instances.remove(&instance).expect("it was picked");
                let up = self.instances_of(&spec.key, is_up);
                if matches!(failure, StartFailure::NoPlace(_)) && up > 0 {
                    self.no_place_until.insert(spec.key, now + NO_PLACE_PAUSE);
                }
                self.dispatcher
                    .instance_failed(now, instance, failure.clone())
            }
            Event::Gone { pick } => {
                let Some(instance) = self.pick_instance(pick, |phase| phase == Phase::Stopping)
                else {
                    return;
                };
                self.instances.remove(&instance);
                self.dispatcher.instance_exited(now, instance)
            }
            Event::Died { pick } => {
                let Some(instance) = self.pick_instance(pick, is_up) else {
                    return;
                };
                self.instances.remove(&instance);
                self.dispatcher.instance_exited(now, instance)
            }
            Event::Cancel { pick } => {
                let unfinished = |fate: &Fate| *fate != Fate::Over;
                let Some(call) = self.pick_call(pick, unfinished) else {
                    return;
                };
                let (_, fate) = self.calls.get_mut(&call).expect("it was picked");
                if matches!(fate, Fate::Waiting { until } if *until > now) {
                    *fate = Fate::Over;
                }
                self.dispatcher.call_cancelled(now, call)
            }
            Event::Change { function } => {
                self.settings[function] += 1;
                return;
            }
            Event::Tell { function, behind } => {
                let (id, settings) = (id(function), self.settings[function] - behind);
                self.removed.retain(|key| key.function != id);
                self.told.insert(id.clone(), settings);
                self.dispatcher.function_changed(now, &id, Some(settings))
            }
            Event::Remove { function } => {
                let id = id(function);
                let used = self.used().into_iter();
                let of_it = used.filter(|key| key.function == id);
                self.removed.extend(of_it.collect::<Vec<_>>());
                self.told.remove(&id);
                self.dispatcher.function_changed(now, &id, None)
            }
            Event::Pass { secs } => {
                self.now += Duration::from_secs(secs);
                self.dispatcher.tick(self.now)
            }
        };
        for action in actions {
            self.obey(action);
        }
        // A function is forgotten with its last call and its last instance.
        let used = self.used();
        self.no_place_until.retain(|key, _| used.contains(key));
        self.removed.retain(|key| used.contains(key));
        for key in self.dispatcher.take_touched() {
            let found = self.dispatcher.functions().find(|(of, _)| **of == key);
            match found.map(|(_, counts)| counts) {
                Some(counts) => self.counted.insert(key, counts),
                None => self.counted.remove(&key),
            };
        }
        self.check();
    }

    fn used(&self) -> BTreeSet<Key> {
        let functions = self.dispatcher.functions();
        functions.map(|(key, _)| key.clone()).collect()
    }

    fn is_outdated(&self, key: &Key) -> bool {
        let told = self.told.get(&key.function);
        told.is_some_and(|told| key.settings < *told) || self.removed.contains(key)
    }

    /// No place was found for one more, and others are up.
    fn is_held_off(&self, key: &Key) -> bool {
        let until = self.no_place_until.get(key);
        until.is_some_and(|until| *until > self.now) && self.instances_of(key, is_up) > 0
    }

    fn finish(&mut self, call: Call, after: AfterCall) -> Vec<Action> {
        let (_, fate) = self.calls.get_mut(&call).expect("it was picked");
        let Fate::Running(instance) = std::mem::replace(fate, Fate::Over) else {
            panic!("{call:?} does not run")
        };
        if after == AfterCall::Kept {
            self.set_idle(instance);
        }
        self.dispatcher.call_finished(self.now, call, after)
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Run { call, instance } => {
                let (wanted, fate) = self.calls.get_mut(&call).expect("it arrived");
                assert!(
                    matches!(fate, Fate::Waiting { .. }),
                    "{call:?} runs a second time"
                );
                *fate = Fate::Running(instance);
                let (spec, phase) = self.instances[&instance].clone();
                assert_eq!(spec.key, wanted.key);
                let Phase::Idle { rank, .. } = phase else {
                    panic!("{call:?} was given to {instance:?}, which is {phase:?}")
                };
                assert!(
                    self.instances
                        .values()
                        .all(|(other, phase)| other.key != spec.key
                            || !matches!(phase, Phase::Idle { rank: other, .. } if *other > rank)),
                    "a more recently used one was idle"
                );
                self.instances
                    .insert(instance, (spec, Phase::Running(call)));
            }
            Action::Start { instance, key } => {
                let starting = self.instances_of(&key, |phase| phase == Phase::Starting);
                assert!(
                    self.waiting(&key) > starting,
                    "{instance:?} is started for nobody"
                );
                let spec = self.specs[&key].clone();
                let there = starting + self.instances_of(&key, is_up);
                assert!(there < spec.instances_max as usize, "{there} are there");
                assert!(!self.is_held_off(&key), "no place was found just now");
                assert!(!self.is_outdated(&key), "{key:?} is outdated");
                let known = self.instances.insert(instance, (spec, Phase::Starting));
                assert_eq!(known, None, "numbers are used once");
            }
            Action::Stop { instance, reason } => {
                let (spec, phase) = self.instances[&instance].clone();
                match (reason, phase) {
                    (StopReason::Evicted, Phase::Idle { rank, .. }) => assert!(
                        self.instances.values().all(|(_, phase)| !matches!(
                            phase, Phase::Idle { rank: other, .. } if *other < rank
                        )),
                        "a less recently used one was idle"
                    ),
                    (StopReason::Idle, Phase::Idle { since, .. }) => {
                        assert!(since + spec.idle_timeout <= self.now, "stopped too early");
                    }
                    (StopReason::Unneeded, Phase::Starting) => {
                        let starting =
                            self.instances_of(&spec.key, |phase| phase == Phase::Starting);
                        let spare = usize::from(!self.is_outdated(&spec.key));
                        let wanted = self.waiting(&spec.key).max(spare);
                        assert!(starting > wanted, "somebody waits");
                    }
                    (StopReason::Outdated, Phase::Idle { .. } | Phase::Starting) => {
                        assert!(self.is_outdated(&spec.key), "its function has no others");
                    }
                    (StopReason::Lost, Phase::Running(_)) => {}
                    (reason, phase) => panic!("{instance:?} is {phase:?}, stopped as {reason:?}"),
                }
                self.instances.insert(instance, (spec, Phase::Stopping));
            }
            Action::Reject { call, rejection } => {
                let (spec, fate) = self.calls.get_mut(&call).expect("it arrived");
                let Fate::Waiting { until } = *fate else {
                    panic!("{call:?} is {fate:?} and was rejected as {rejection:?}")
                };
                *fate = Fate::Over;
                let spec = spec.clone();
                match rejection {
                    Rejection::TimedOutWaiting => assert!(until <= self.now, "too early"),
                    Rejection::MemoryNeverFits => {
                        assert!(spec.memory_mb > LIMITS.memory_budget_mb);
                    }
                    Rejection::StartFailed(StartFailure::NoPlace(_)) => {
                        assert_eq!(self.instances_of(&spec.key, is_up), 0, "one may serve it");
                    }
                    Rejection::Outdated => {
                        assert!(self.is_outdated(&spec.key), "it would be offered the same");
                    }
                    Rejection::Full if self.admitted() >= LIMITS.calls_max as usize => {}
                    Rejection::Full => {
                        let there = self.instances_of(&spec.key, |phase| phase != Phase::Stopping);
                        assert_eq!(there, 0, "one will serve it");
                        let left_mb = self.left_mb();
                        assert!(spec.memory_mb > left_mb, "{left_mb} MB could be made");
                    }
                    Rejection::QueueFull | Rejection::StartFailed(_) => {}
                }
            }
        }
        // Not only at the end of an event: actions are obeyed one by one.
        let held: u64 = self
            .instances
            .values()
            .map(|(spec, _)| spec.memory_mb)
            .sum();
        assert!(held <= LIMITS.memory_budget_mb, "{held} MB are held");
    }

    /// Calls for which an instance could be started, and its megabytes.
    fn unserved(&self, spec: &Spec) -> Vec<(Call, u64)> {
        let key = &spec.key;
        if self.is_outdated(key) || self.is_held_off(key) {
            return Vec::new();
        }
        let starting = self.instances_of(key, |phase| phase == Phase::Starting);
        let there = starting + self.instances_of(key, is_up);
        let of_key = |(_, (spec, fate)): &(&Call, &(Spec, Fate))| {
            spec.key == *key && matches!(fate, Fate::Waiting { .. })
        };
        let waiting = self.calls.iter().filter(of_key).skip(starting);
        waiting
            .take(spec.instances_max as usize - there)
            .map(|(call, _)| (*call, spec.memory_mb))
            .collect()
    }

    /// What can be made free now, without what those who wait will have of it.
    fn left_mb(&self) -> u64 {
        let kept = |phase| matches!(phase, Phase::Starting | Phase::Running(_));
        let instances = self.instances.values().filter(|(_, phase)| kept(*phase));
        let kept_mb: u64 = instances.map(|(spec, _)| spec.memory_mb).sum();
        let specs = self.specs.values();
        let mut unserved: Vec<_> = specs.flat_map(|spec| self.unserved(spec)).collect();
        unserved.sort_unstable();
        let mut left_mb = LIMITS.memory_budget_mb - kept_mb;
        for (_, need_mb) in unserved {
            left_mb = left_mb.checked_sub(need_mb).unwrap_or(left_mb);
        }
        left_mb
    }

    fn admitted(&self) -> usize {
        let fates = self.calls.values().map(|(_, fate)| fate);
        fates.filter(|fate| **fate != Fate::Over).count()
    }

    fn check(&self) {
        let held: u64 = self
            .instances
            .values()
            .map(|(spec, _)| spec.memory_mb)
            .sum();
        assert_eq!(self.dispatcher.memory_held_mb(), held);

        let admitted = self.admitted();
        assert_eq!(self.dispatcher.load().current as usize, admitted);
        assert!(admitted <= LIMITS.calls_max as usize);

        let functions = self.dispatcher.functions();
        let counts: BTreeMap<_, _> = functions
            .map(|(key, counts)| (key.clone(), counts))
            .collect();
        assert_eq!(self.counted, counts, "changed without being touched");
        let queued: usize = counts.values().map(|counts| counts.waiting).sum();
        assert_eq!(self.dispatcher.queued() as usize, queued);
        for number in 0..MEMORY_MB.len() {
            let of_it = counts.iter().filter(|(key, _)| key.function == id(number));
            let mut sum = Counts::default();
            of_it.for_each(|(_, counts)| sum += *counts);
            assert_eq!(self.dispatcher.counts(&id(number)), sum);
        }

        for key in self.specs.keys() {
            let waiting = self.waiting(key);
            assert!(waiting <= LIMITS.queue_max as usize);
            let idle = self.instances_of(key, |phase| matches!(phase, Phase::Idle { .. }));
            assert!(
                waiting == 0 || idle == 0,
                "{waiting} calls wait while {idle} are idle"
            );

            let counts = self.dispatcher.functions().find(|(of, _)| *of == key);
            let counts = counts.map(|(_, counts)| counts).unwrap_or_default();
            assert_eq!((counts.waiting, counts.idle), (waiting, idle));
        }
        for (_, fate) in self.calls.values() {
            if let Fate::Waiting { until } = fate {
                assert!(*until > self.now, "nobody waits beyond its time");
            }
        }
        // Of settings that are not the function's, what is left are busy instances, starts that calls
        // settled for, and who waits for either.
        for key in self.specs.keys().filter(|key| self.is_outdated(key)) {
            let running = self.instances_of(key, |phase| matches!(phase, Phase::Running(_)));
            assert_eq!(self.instances_of(key, is_up), running);
            let starting = self.instances_of(key, |phase| phase == Phase::Starting);
            assert!(
                running + starting > 0 || self.waiting(key) == 0,
                "nobody will come"
            );
        }
        // What is free goes to whoever has waited longest of those who may have it.
        if let Some((_, need_mb)) = self
            .specs
            .values()
            .flat_map(|spec| self.unserved(spec))
            .min()
        {
            let free_mb = LIMITS.memory_budget_mb - held;
            assert!(need_mb > free_mb, "{free_mb} MB are left unused");
        }
        let due = self.dispatcher.next_tick();
        for (_, phase) in self.instances.values() {
            if matches!(phase, Phase::Idle { .. }) {
                assert!(due.is_some(), "an idle instance would never be stopped");
            }
        }
    }

    /// Lets everything come to its end, which must need no event from outside but time.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let events = [
                Event::Started { pick: 0 },
                Event::Finish {
                    pick: 0,
                    after: AfterCall::Kept,
                },
                Event::Gone { pick: 0 },
                Event::Pass { secs: 1 },
            ];
            for event in &events {
                self.feed(event);
            }
            if self.instances.is_empty() && self.dispatcher.load().current == 0 {
                break;
            }
        }
        assert_eq!(self.dispatcher.next_tick(), None);
        assert_eq!(self.dispatcher.functions().next(), None);
        assert_eq!(self.dispatcher.instances().next(), None);
        let unanswered = self.calls.values().find(|(_, fate)| *fate != Fate::Over);
        assert_eq!(unanswered, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_call_gets_one_answer_and_no_bound_is_ever_exceeded(events in vec(event(), 1..200)) {
        let mut world = World::new();
        for event in &events {
            world.feed(event);
        }
        world.settle();
    }
}
