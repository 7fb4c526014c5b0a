//! What is decided where several answers would keep every promise.

use std::time::Duration;

use api_types::{FnId, Load};
use region_plane_dispatch::{
    Action, AfterCall, Call, Dispatcher, InstanceId, Key, Limits, Rejection, Spec, StartFailure,
    StopReason,
};

const LIMITS: Limits = Limits {
    memory_budget_mb: 256,
    calls_max: 8,
    calls_target: 6,
    queue_max: 3,
    settle_within: Duration::from_secs(5),
};

const NOON: Duration = Duration::from_secs(43_200);

fn secs(secs: u64) -> Duration {
    NOON + Duration::from_secs(secs)
}

fn spec(name: &str, memory_mb: u64) -> Spec {
    Spec {
        key: Key {
            function: FnId::new(name),
            settings: 1,
        },
        memory_mb,
        instances_max: 100,
        idle_timeout: Duration::from_secs(30),
    }
}

fn arrive(dispatcher: &mut Dispatcher, call: u64, spec: &Spec) -> Vec<Action> {
    dispatcher.call_arrived(NOON, Call(call), spec, secs(10))
}

fn start(instance: u64, spec: &Spec) -> Action {
    Action::Start {
        instance: InstanceId(instance),
        key: spec.key.clone(),
    }
}

fn run(call: u64, instance: u64) -> Action {
    Action::Run {
        call: Call(call),
        instance: InstanceId(instance),
    }
}

fn stop(instance: u64, reason: StopReason) -> Action {
    Action::Stop {
        instance: InstanceId(instance),
        reason,
    }
}

fn reject(call: u64, rejection: Rejection) -> Action {
    Action::Reject {
        call: Call(call),
        rejection,
    }
}

/// Starts an instance by a call that has ended: it is idle.
fn warm(dispatcher: &mut Dispatcher, call: u64, instance: u64, spec: &Spec) {
    assert_eq!(arrive(dispatcher, call, spec), [start(instance, spec)]);
    let started = dispatcher.instance_started(NOON, InstanceId(instance));
    assert_eq!(started, [run(call, instance)]);
    assert_eq!(
        dispatcher.call_finished(NOON, Call(call), AfterCall::Kept),
        []
    );
}

#[test]
fn calls_wait_in_order_and_a_freed_instance_takes_the_next() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let big = spec("big", 200);
    assert_eq!(arrive(&mut dispatcher, 1, &big), [start(1, &big)]);
    assert_eq!(arrive(&mut dispatcher, 2, &big), []);
    assert_eq!(arrive(&mut dispatcher, 3, &big), []);
    assert_eq!(
        arrive(&mut dispatcher, 4, &big),
        [reject(4, Rejection::QueueFull)]
    );
    assert_eq!(
        dispatcher.instance_started(NOON, InstanceId(1)),
        [run(1, 1)]
    );
    let finished = dispatcher.call_finished(NOON, Call(1), AfterCall::Kept);
    assert_eq!(finished, [run(2, 1)]);
    assert_eq!(
        dispatcher.load(),
        Load {
            current: 2,
            target: 6,
            capacity: 8
        }
    );
}

#[test]
fn a_call_that_nothing_could_serve_is_refused_at_once() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let (busy, other) = (spec("busy", 200), spec("other", 100));
    arrive(&mut dispatcher, 1, &busy);
    assert_eq!(
        arrive(&mut dispatcher, 2, &other),
        [reject(2, Rejection::Full)]
    );
    let never = spec("never", 257);
    assert_eq!(
        arrive(&mut dispatcher, 3, &never),
        [reject(3, Rejection::MemoryNeverFits)]
    );
    let fits = spec("fits", 56);
    assert_eq!(arrive(&mut dispatcher, 4, &fits), [start(2, &fits)]);
}

#[test]
fn the_admission_limit_holds_over_all_functions() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    for call in 0..8 {
        let function = spec(&call.to_string(), 1);
        assert_eq!(arrive(&mut dispatcher, call, &function).len(), 1);
    }
    let ninth = spec("9", 1);
    assert_eq!(
        arrive(&mut dispatcher, 9, &ninth),
        [reject(9, Rejection::Full)]
    );
    assert_eq!(dispatcher.call_cancelled(NOON, Call(0)), []);
    assert_eq!(arrive(&mut dispatcher, 10, &ninth), [start(9, &ninth)]);
}

#[test]
fn evicts_the_least_recently_used_and_starts_only_when_they_are_gone() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let (first, second, third) = (spec("a", 100), spec("b", 50), spec("c", 100));
    warm(&mut dispatcher, 1, 1, &first);
    warm(&mut dispatcher, 2, 2, &second);
    warm(&mut dispatcher, 3, 3, &third);
    // The first becomes the most recently used.
    assert_eq!(arrive(&mut dispatcher, 4, &first), [run(4, 1)]);
    assert_eq!(dispatcher.call_finished(NOON, Call(4), AfterCall::Kept), []);

    let newcomer = spec("d", 150);
    assert_eq!(
        arrive(&mut dispatcher, 5, &newcomer),
        [stop(2, StopReason::Evicted), stop(3, StopReason::Evicted)]
    );
    // Killed is not gone: until it is reaped a process holds its memory.
    assert_eq!(dispatcher.instance_exited(NOON, InstanceId(2)), []);
    assert_eq!(
        dispatcher.instance_exited(NOON, InstanceId(3)),
        [start(4, &newcomer)]
    );
    assert_eq!(dispatcher.memory_held_mb(), 250);
}

#[test]
fn freed_memory_goes_to_the_function_whose_caller_has_waited_longest() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let (young, old, third) = (spec("a", 64), spec("b", 64), spec("c", 128));
    arrive(&mut dispatcher, 1, &young);
    arrive(&mut dispatcher, 2, &old);
    arrive(&mut dispatcher, 3, &third);
    for (call, instance) in [(1, 1), (2, 2), (3, 3)] {
        let started = dispatcher.instance_started(NOON, InstanceId(instance));
        assert_eq!(started, [run(call, instance)]);
    }
    // Both have an instance that is busy, so both wait; the name that sorts first came last.
    assert_eq!(arrive(&mut dispatcher, 4, &old), []);
    assert_eq!(arrive(&mut dispatcher, 5, &old), []);
    assert_eq!(arrive(&mut dispatcher, 6, &young), []);
    assert_eq!(
        dispatcher.call_finished(NOON, Call(3), AfterCall::Kept),
        [stop(3, StopReason::Evicted)],
        "idle memory is used for those who wait"
    );
    assert_eq!(
        dispatcher.instance_exited(NOON, InstanceId(3)),
        [start(4, &old), start(5, &old)]
    );
}

#[test]
fn a_need_that_cannot_be_met_leaves_free_memory_to_smaller_ones() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let (large, small) = (spec("large", 200), spec("small", 50));
    arrive(&mut dispatcher, 1, &large);
    arrive(&mut dispatcher, 2, &large);
    assert_eq!(arrive(&mut dispatcher, 3, &small), [start(2, &small)]);
}

#[test]
fn a_failed_start_answers_one_caller_and_is_tried_again_for_the_others() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 200);
    arrive(&mut dispatcher, 1, &function);
    arrive(&mut dispatcher, 2, &function);
    let failed = dispatcher.instance_failed(NOON, InstanceId(1), StartFailure::TimedOut);
    assert_eq!(
        failed,
        [
            reject(1, Rejection::StartFailed(StartFailure::TimedOut)),
            start(2, &function)
        ]
    );
    let failed = dispatcher.instance_failed(NOON, InstanceId(2), StartFailure::Failed);
    assert_eq!(
        failed,
        [reject(2, Rejection::StartFailed(StartFailure::Failed))]
    );
    assert_eq!(dispatcher.memory_held_mb(), 0);
    assert_eq!(dispatcher.functions().count(), 0);
}

#[test]
fn a_lost_instance_is_replaced_for_those_who_wait() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 200);
    arrive(&mut dispatcher, 1, &function);
    dispatcher.instance_started(NOON, InstanceId(1));
    arrive(&mut dispatcher, 2, &function);
    assert_eq!(
        dispatcher.call_finished(NOON, Call(1), AfterCall::Lost),
        [stop(1, StopReason::Lost)]
    );
    assert_eq!(
        dispatcher.instance_exited(NOON, InstanceId(1)),
        [start(2, &function)]
    );
    // It may also go by itself, before its call is known to be over.
    dispatcher.instance_started(NOON, InstanceId(2));
    assert_eq!(dispatcher.instance_exited(NOON, InstanceId(2)), []);
    assert_eq!(dispatcher.call_finished(NOON, Call(2), AfterCall::Lost), []);
    assert_eq!(dispatcher.load().current, 0);
}

#[test]
fn waiting_ends_at_the_deadline_and_idling_at_the_timeout() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 200);
    arrive(&mut dispatcher, 1, &function);
    assert_eq!(dispatcher.next_tick(), Some(secs(10)));
    assert_eq!(dispatcher.tick(secs(9)), []);
    assert_eq!(
        dispatcher.tick(secs(10)),
        [reject(1, Rejection::TimedOutWaiting)]
    );
    assert_eq!(dispatcher.next_tick(), None);
    // Started for somebody who gave up: ready for the next.
    assert_eq!(dispatcher.instance_started(secs(11), InstanceId(1)), []);
    assert_eq!(dispatcher.next_tick(), Some(secs(41)));
    assert_eq!(dispatcher.tick(secs(40)), []);
    assert_eq!(dispatcher.tick(secs(41)), [stop(1, StopReason::Idle)]);
}

#[test]
fn a_deadline_is_honoured_even_if_the_instance_comes_first_to_the_owner() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 200);
    arrive(&mut dispatcher, 1, &function);
    assert_eq!(
        dispatcher.instance_started(secs(12), InstanceId(1)),
        [reject(1, Rejection::TimedOutWaiting)]
    );
}

#[test]
fn changing_a_function_stops_its_idle_instances_and_spares_the_busy_until_they_are_free() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 50);
    let new = later(&old);
    let other = spec("b", 50);
    warm(&mut dispatcher, 1, 1, &old);
    warm(&mut dispatcher, 2, 2, &other);
    assert_eq!(arrive(&mut dispatcher, 3, &old), [run(3, 1)]);
    assert_eq!(arrive(&mut dispatcher, 4, &old), [start(3, &old)]);
    dispatcher.instance_started(NOON, InstanceId(3));
    assert_eq!(dispatcher.call_finished(NOON, Call(4), AfterCall::Kept), []);

    let changed = dispatcher.function_changed(NOON, &old.key.function, Some(2));
    assert_eq!(changed, [stop(3, StopReason::Outdated)]);
    assert_eq!(arrive(&mut dispatcher, 5, &new), [start(4, &new)]);
    assert_eq!(
        dispatcher.call_finished(NOON, Call(3), AfterCall::Kept),
        [stop(1, StopReason::Outdated)]
    );
    dispatcher.instance_started(NOON, InstanceId(4));
    assert_eq!(dispatcher.call_finished(NOON, Call(5), AfterCall::Kept), []);
    let removed = dispatcher.function_changed(NOON, &old.key.function, None);
    assert_eq!(removed, [stop(4, StopReason::Outdated)]);
}

/// Of the same function.
fn later(spec: &Spec) -> Spec {
    Spec {
        key: Key {
            settings: spec.key.settings + 1,
            ..spec.key.clone()
        },
        ..spec.clone()
    }
}

#[test]
fn a_call_that_arrives_after_its_time_is_refused_and_starts_nothing() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 50);
    let refused = dispatcher.call_arrived(secs(10), Call(1), &function, secs(10));
    assert_eq!(refused, [reject(1, Rejection::TimedOutWaiting)]);
    assert_eq!(dispatcher.memory_held_mb(), 0);
}

#[test]
fn a_function_has_no_more_instances_than_it_may() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let two = Spec {
        instances_max: 2,
        ..spec("a", 10)
    };
    assert_eq!(arrive(&mut dispatcher, 1, &two), [start(1, &two)]);
    assert_eq!(arrive(&mut dispatcher, 2, &two), [start(2, &two)]);
    assert_eq!(arrive(&mut dispatcher, 3, &two), [], "it waits for them");
    for instance in [1, 2] {
        dispatcher.instance_started(NOON, InstanceId(instance));
    }
    assert_eq!(
        dispatcher.call_finished(NOON, Call(1), AfterCall::Lost),
        [stop(1, StopReason::Lost), start(3, &two)],
        "one that is lost makes room"
    );
    assert_eq!(
        dispatcher.call_finished(NOON, Call(2), AfterCall::Kept),
        [run(3, 2)]
    );
}

#[test]
fn starts_that_nobody_waits_for_are_given_up_but_for_one() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 10);
    for call in [1, 2, 3] {
        let started = arrive(&mut dispatcher, call, &function);
        assert_eq!(started, [start(call, &function)]);
    }
    assert_eq!(dispatcher.call_cancelled(secs(1), Call(1)), []);
    assert_eq!(dispatcher.next_tick(), Some(secs(2)));
    assert_eq!(dispatcher.call_cancelled(secs(1), Call(2)), []);
    // The next caller is there within the second.
    let next = dispatcher.call_arrived(secs(1), Call(4), &function, secs(11));
    assert_eq!(next, []);
    assert_eq!(
        dispatcher.tick(secs(2)),
        [stop(3, StopReason::Unneeded)],
        "three start for two"
    );
    assert_eq!(
        dispatcher.tick(secs(11)),
        [
            reject(3, Rejection::TimedOutWaiting),
            reject(4, Rejection::TimedOutWaiting)
        ]
    );
    assert_eq!(
        dispatcher.tick(secs(12)),
        [stop(2, StopReason::Unneeded)],
        "one may serve whoever comes next"
    );
    assert_eq!(dispatcher.memory_held_mb(), 30, "until they are gone");
    // What comes up all the same is told to stop already.
    assert_eq!(dispatcher.instance_started(secs(12), InstanceId(3)), []);
    assert_eq!(dispatcher.instance_exited(secs(12), InstanceId(3)), []);
    assert_eq!(dispatcher.instance_exited(secs(12), InstanceId(2)), []);
    assert_eq!(dispatcher.memory_held_mb(), 10);
    assert_eq!(dispatcher.next_tick(), None);
}

/// A function whose one instance runs call 1. Call 2 waits, and there was no place for a second.
fn short_of_place() -> (Dispatcher, Spec, StartFailure) {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 10);
    let no_place = StartFailure::NoPlace("no node takes its pod".to_owned());
    arrive(&mut dispatcher, 1, &function);
    dispatcher.instance_started(NOON, InstanceId(1));
    assert_eq!(arrive(&mut dispatcher, 2, &function), [start(2, &function)]);
    let failed = dispatcher.instance_failed(NOON, InstanceId(2), no_place.clone());
    assert_eq!(failed, []);
    (dispatcher, function, no_place)
}

#[test]
fn while_instances_serve_a_lack_of_place_for_one_more_refuses_nobody_and_is_not_asked_again_at_once()
 {
    let (mut dispatcher, function, no_place) = short_of_place();
    assert_eq!(arrive(&mut dispatcher, 3, &function), []);
    assert_eq!(dispatcher.next_tick(), Some(secs(1)));
    assert_eq!(
        dispatcher.tick(secs(1)),
        [start(3, &function), start(4, &function)]
    );
    assert_eq!(
        dispatcher.call_finished(secs(1), Call(1), AfterCall::Lost),
        [stop(1, StopReason::Lost)]
    );
    assert_eq!(
        dispatcher.instance_failed(secs(1), InstanceId(3), no_place.clone()),
        [reject(2, Rejection::StartFailed(no_place)),],
        "nothing is left to wait for"
    );
}

#[test]
fn when_the_last_instance_goes_its_calls_wait_for_no_place_no_longer() {
    let (mut dispatcher, function, _) = short_of_place();
    assert_eq!(
        dispatcher.call_finished(NOON, Call(1), AfterCall::Lost),
        [stop(1, StopReason::Lost), start(3, &function)]
    );
    assert_eq!(arrive(&mut dispatcher, 3, &function), [start(4, &function)]);
}

#[test]
fn calls_that_wait_for_a_start_are_refused_as_outdated_when_their_function_changes() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 50);
    let new = later(&old);
    arrive(&mut dispatcher, 1, &old);
    arrive(&mut dispatcher, 2, &old);
    let changed = dispatcher.function_changed(NOON, &old.key.function, Some(new.key.settings));
    assert_eq!(
        changed,
        [
            reject(1, Rejection::Outdated),
            reject(2, Rejection::Outdated),
            stop(1, StopReason::Outdated),
            stop(2, StopReason::Outdated)
        ]
    );
    assert_eq!(arrive(&mut dispatcher, 3, &new), [start(3, &new)]);
    // Its body was long in coming.
    assert_eq!(
        arrive(&mut dispatcher, 4, &old),
        [reject(4, Rejection::Outdated)]
    );
    // Who looked the function up before the change was told here.
    let newest = later(&new);
    assert_eq!(arrive(&mut dispatcher, 5, &newest), [start(4, &newest)]);
}

#[test]
fn a_call_that_has_waited_long_keeps_its_start_whatever_changes() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 50);
    arrive(&mut dispatcher, 1, &old);
    let late = dispatcher.call_arrived(NOON, Call(2), &old, secs(30));
    assert_eq!(late, [start(2, &old)]);
    let changed = dispatcher.function_changed(secs(5), &old.key.function, Some(2));
    assert_eq!(
        changed,
        [
            reject(2, Rejection::Outdated),
            stop(2, StopReason::Outdated)
        ]
    );
    assert_eq!(
        dispatcher.instance_started(secs(6), InstanceId(1)),
        [run(1, 1)]
    );
    assert_eq!(
        dispatcher.call_finished(secs(7), Call(1), AfterCall::Kept),
        [stop(1, StopReason::Outdated)]
    );
}

#[test]
fn a_start_that_fails_with_outdated_settings_is_nobodys_answer() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 50);
    arrive(&mut dispatcher, 1, &old);
    assert_eq!(
        dispatcher.function_changed(secs(5), &old.key.function, Some(2)),
        []
    );
    assert_eq!(
        dispatcher.instance_failed(secs(6), InstanceId(1), StartFailure::Failed),
        [reject(1, Rejection::Outdated)]
    );
}

#[test]
fn calls_that_busy_instances_will_serve_are_not_outdated_until_the_last_is_gone() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 200);
    arrive(&mut dispatcher, 1, &old);
    dispatcher.instance_started(NOON, InstanceId(1));
    for call in [2, 3, 4] {
        assert_eq!(arrive(&mut dispatcher, call, &old), []);
    }
    assert_eq!(
        dispatcher.function_changed(NOON, &old.key.function, Some(2)),
        []
    );
    assert_eq!(
        dispatcher.call_finished(NOON, Call(1), AfterCall::Kept),
        [run(2, 1)]
    );
    assert_eq!(
        dispatcher.call_finished(NOON, Call(2), AfterCall::Kept),
        [run(3, 1)]
    );
    assert_eq!(
        dispatcher.call_finished(NOON, Call(3), AfterCall::Lost),
        [stop(1, StopReason::Lost), reject(4, Rejection::Outdated)]
    );
    dispatcher.instance_exited(NOON, InstanceId(1));
    assert_eq!(dispatcher.functions().next(), None);
}

#[test]
fn calls_are_outdated_when_the_last_instance_goes_by_itself() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 200);
    arrive(&mut dispatcher, 1, &old);
    dispatcher.instance_started(NOON, InstanceId(1));
    arrive(&mut dispatcher, 2, &old);
    dispatcher.function_changed(NOON, &old.key.function, Some(2));
    assert_eq!(
        dispatcher.instance_exited(NOON, InstanceId(1)),
        [reject(2, Rejection::Outdated)]
    );
}

#[test]
fn a_removed_function_keeps_nobody_waiting() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let function = spec("a", 50);
    arrive(&mut dispatcher, 1, &function);
    assert_eq!(
        dispatcher.function_changed(NOON, &function.key.function, None),
        [
            reject(1, Rejection::Outdated),
            stop(1, StopReason::Outdated)
        ]
    );
}

#[test]
fn a_change_told_late_leaves_those_alone_who_heard_of_a_later_one() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let old = spec("a", 50);
    let new = later(&old);
    assert_eq!(arrive(&mut dispatcher, 1, &new), [start(1, &new)]);
    for settings in [old.key.settings, new.key.settings] {
        let changed = dispatcher.function_changed(NOON, &old.key.function, Some(settings));
        assert_eq!(changed, []);
    }
    assert_eq!(
        dispatcher.instance_started(NOON, InstanceId(1)),
        [run(1, 1)]
    );
}

#[test]
fn a_function_that_is_back_starts_again_for_those_who_wait() {
    let mut dispatcher = Dispatcher::new(LIMITS);
    let (small, large) = (spec("a", 56), spec("b", 200));
    for (call, function) in [(1, &small), (2, &large)] {
        arrive(&mut dispatcher, call, function);
        dispatcher.instance_started(NOON, InstanceId(call));
    }
    assert_eq!(arrive(&mut dispatcher, 3, &small), []);
    let id = &small.key.function;
    assert_eq!(dispatcher.function_changed(NOON, id, None), []);
    assert_eq!(dispatcher.instance_exited(NOON, InstanceId(2)), []);
    assert_eq!(
        dispatcher.function_changed(NOON, id, Some(small.key.settings)),
        [start(3, &small)]
    );
}
