//! What a call costs does not grow with what else the region holds.

use std::time::Duration;

use allocation_counter::measure;
use api_types::FnId;
use region_plane_dispatch::{Action, AfterCall, Call, Dispatcher, Key, Limits, Spec};

const NOW: Duration = Duration::from_secs(1);

const LIMITS: Limits = Limits {
    memory_budget_mb: 20_000,
    calls_max: 20_000,
    calls_target: 15_000,
    queue_max: 20_000,
    settle_within: Duration::from_secs(5),
};

fn spec(function: &str) -> Spec {
    Spec {
        key: Key {
            function: FnId::new(function),
            settings: 1,
        },
        memory_mb: 1,
        instances_max: 20_000,
        idle_timeout: Duration::from_secs(60),
    }
}

/// Numbers calls.
#[derive(Default)]
struct Region {
    calls: u64,
}

impl Region {
    fn arrive(&mut self, dispatcher: &mut Dispatcher, spec: &Spec) -> (Call, Vec<Action>) {
        self.calls += 1;
        let call = Call(self.calls);
        (call, dispatcher.call_arrived(NOW, call, spec, NOW * 10))
    }

    /// A call that finds an idle instance, until it is over.
    fn hot_call(&mut self, dispatcher: &mut Dispatcher, spec: &Spec) {
        let (call, actions) = self.arrive(dispatcher, spec);
        assert!(matches!(actions[..], [Action::Run { .. }]), "{actions:?}");
        let actions = dispatcher.call_finished(NOW, call, AfterCall::Kept);
        assert!(actions.is_empty(), "{actions:?}");
    }
}

/// Allocations, and bytes allocated, of a hundred calls while `idle` instances of `of(n)` are idle.
fn cost(idle: u32, of: impl Fn(u32) -> Spec) -> (u64, u64) {
    let (mut dispatcher, mut region) = (Dispatcher::new(LIMITS), Region::default());
    let mut running = Vec::new();
    for n in 0..idle {
        let (call, actions) = region.arrive(&mut dispatcher, &of(n));
        let [Action::Start { instance, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        dispatcher.instance_started(NOW, instance);
        running.push(call);
    }
    for call in running {
        dispatcher.call_finished(NOW, call, AfterCall::Kept);
    }
    let called = of(idle - 1);
    for _ in 0..100 {
        region.hot_call(&mut dispatcher, &called);
    }
    let measured = measure(|| {
        for _ in 0..100 {
            region.hot_call(&mut dispatcher, &called);
        }
    });
    (measured.count_total, measured.bytes_total)
}

#[test]
fn a_hot_call_allocates_the_same_however_many_instances_are_idle() {
    let of_others: fn(u32) -> Spec = |n| spec(&format!("function-{n:05}"));
    let of_its_own: fn(u32) -> Spec = |_| spec("function-00000");
    for (case, of) in [("of other functions", of_others), ("its own", of_its_own)] {
        assert_eq!(cost(10, of), cost(10_000, of), "{case}");
    }
}
