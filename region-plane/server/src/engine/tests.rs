#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::pending;

use api_types::AppId;
use http::HeaderMap;
use metrics::{Counter, Gauge, Histogram, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;

/// For what is to happen soon, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

const LIMITS: Limits = Limits {
    memory_budget_mb: 5,
    calls_max: 4,
    calls_target: 3,
    queue_max: 4,
    settle_within: Duration::from_secs(5),
};

/// A machine whose instances come up at once and answer at once, but for those of the function
/// `stuck`, which never come up, and of `broken`, which fail to.
#[derive(Debug, Default)]
struct Machine {
    /// Starts under way and instances that are not gone.
    alive: watch::Sender<usize>,
    /// Starts that came to their own end.
    done: watch::Sender<usize>,
}

#[derive(Debug)]
struct Running {
    gone: CancellationToken,
    _alive: Alive,
}

#[derive(Debug)]
struct Alive(watch::Sender<usize>);

impl Alive {
    fn new(alive: &watch::Sender<usize>) -> Self {
        alive.send_modify(|alive| *alive += 1);
        Self(alive.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

impl Runtime for Machine {
    type Instance = Running;

    async fn start(&self, spec: InstanceSpec) -> Result<Running, StartError> {
        let alive = Alive::new(&self.alive);
        if spec.fn_name == "stuck" {
            pending::<()>().await;
        }
        self.done.send_modify(|done| *done += 1);
        if spec.fn_name == "broken" {
            return Err(StartError::TimedOut);
        }
        Ok(Running {
            gone: CancellationToken::new(),
            _alive: alive,
        })
    }

    async fn shutdown(&self) {}
}

impl Instance for Running {
    async fn call(&self, _: CallRequest, _: Instant) -> Result<CallResponse, CallError> {
        tokio::task::yield_now().await;
        Ok(CallResponse {
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    async fn stop(&self) {
        self.gone.cancel();
    }

    async fn exited(&self) {
        self.gone.cancelled().await;
    }
}

fn work(function: &str, memory_mb: u64) -> Work {
    Work {
        spec: Arc::new(Spec {
            key: Key {
                function: FnId::new(function),
                settings: 1,
            },
            memory_mb,
            instances_max: 100,
            idle_timeout: Duration::from_secs(30),
        }),
        launch: Launch {
            spec: Arc::new(InstanceSpec {
                app_id: AppId::new("app"),
                app_name: "app".to_owned(),
                fn_id: FnId::new(function),
                fn_name: function.to_owned(),
                memory_mb,
                app_config: BTreeMap::new(),
                fn_config: BTreeMap::new(),
                settings: 1,
                image: "image".to_owned(),
                code: Code::Image,
            }),
            folder: None,
        },
        call: CallId::new("01X"),
        headers: HeaderMap::new().into(),
        body: Bytes::new(),
        timeout: Duration::from_secs(30),
    }
}

/// An engine, and how many starts and instances its machine has.
fn engine(
    wait_max: Duration,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> (Engine, watch::Receiver<usize>) {
    let machine = Machine::default();
    let alive = machine.alive.subscribe();
    let shutdown = CancellationToken::new();
    let engine = start(machine, LIMITS, wait_max, tasks, shutdown);
    (engine, alive)
}

async fn becomes(count: &mut watch::Receiver<usize>, want: usize) {
    let reached = timeout(SOON, count.wait_for(|count| *count == want)).await;
    reached
        .unwrap_or_else(|_| panic!("still not {want}"))
        .unwrap();
}

#[tokio::test]
async fn each_call_of_a_burst_is_answered_however_many_there_are() {
    let mut tasks = JoinSet::new();
    let (engine, _) = engine(SOON, &mut tasks);
    // Many more than the inbox has places.
    let calls = (0..2_000).map(|_| engine.call(work("quick", 1), engine.wait_until()));
    let answers = timeout(SOON, futures_util::future::join_all(calls))
        .await
        .expect("nobody waits for what another keeps");
    let served = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(Failure::Rejected(Rejection::Full))))
        .count();
    assert!(served > 0);
    assert_eq!(served + refused, 2_000);
}

#[tokio::test]
async fn a_caller_who_leaves_makes_room_whether_he_was_heard_or_not() {
    for was_heard in [false, true] {
        let mut tasks = JoinSet::new();
        let (engine, mut alive) = engine(SOON, &mut tasks);
        // As many as are admitted.
        let mut waiting: Vec<_> = (0..4)
            .map(|_| Box::pin(engine.call(work("stuck", 1), engine.wait_until())))
            .collect();
        for call in &mut waiting {
            assert!(futures_util::poll!(call).is_pending());
        }
        if was_heard {
            becomes(&mut alive, 4).await;
        }
        drop(waiting);
        engine
            .call(work("quick", 1), engine.wait_until())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_gives_its_memory_back() {
    let mut tasks = JoinSet::new();
    // Long enough for a busy machine to start all of them.
    let (engine, mut alive) = engine(Duration::from_secs(1), &mut tasks);
    let calls = (0..3).map(|_| engine.call(work("stuck", 1), engine.wait_until()));
    for answer in futures_util::future::join_all(calls).await {
        let refused = Failure::Rejected(Rejection::TimedOutWaiting);
        assert_eq!(answer.unwrap_err().to_string(), refused.to_string());
    }
    becomes(&mut alive, 1).await;
    let patient = Engine {
        wait_max: SOON,
        ..engine
    };
    patient
        .call(work("large", 4), patient.wait_until())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_waits_for_a_start_is_told_when_his_function_changes() {
    let mut tasks = JoinSet::new();
    let (engine, mut alive) = engine(SOON, &mut tasks);
    let mut call = Box::pin(engine.call(work("stuck", 1), engine.wait_until()));
    assert!(futures_util::poll!(&mut call).is_pending());
    engine.changed(FnId::new("stuck"), Some(2)).await;
    let outdated = Failure::Rejected(Rejection::Outdated);
    assert_eq!(call.await.unwrap_err().to_string(), outdated.to_string());
    becomes(&mut alive, 0).await;
}

#[tokio::test]
async fn what_becomes_of_a_start_that_was_to_end_leaves_nothing_and_is_no_failure() {
    for function in ["quick", "broken"] {
        let machine = Machine::default();
        let (alive, mut done) = (machine.alive.subscribe(), machine.done.subscribe());
        let mut owner = Owner::new(machine, LIMITS);
        let (answer, _answered) = oneshot::channel();
        let arrived = Event::Arrived {
            call: Call(1),
            work: Arc::new(work(function, 1)),
            wait_until: Instant::now() + SOON,
            answer,
        };
        let actions = owner.event(arrived);
        owner.perform(actions);
        becomes(&mut done, 1).await;
        let actions = owner.event(Event::Changed {
            function: FnId::new(function),
            settings: Some(2),
        });
        owner.perform(actions);
        let failures = Failures::default();
        while let Some(ended) = owner.tasks.join_next().await {
            let ended = ended.unwrap();
            let actions = metrics::with_local_recorder(&failures, || owner.ended(ended));
            owner.perform(actions);
        }
        assert_eq!(*alive.borrow(), 0, "{function}");
        assert_eq!(owner.dispatcher.memory_held_mb(), 0, "{function}");
        assert_eq!(owner.dispatcher.instances().count(), 0, "{function}");
        assert_eq!(failures.0.load(Ordering::Relaxed), 0, "{function}");
    }
}

/// Starts that were counted as failed.
#[derive(Default)]
struct Failures(Arc<AtomicU64>);

impl Recorder for Failures {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &Metadata<'_>) -> Counter {
        match key.name() {
            "tradewind_region_start_failures_total" => Counter::from_arc(Arc::clone(&self.0)),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &metrics::Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &metrics::Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
