//! The whole region: everything is written once, and then nothing.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use chaos_tests_kube_api::{Calls, Counts, Effect, Verb, WatchEnd};
use tower::ServiceExt as _;

use crate::region::{
    PODS_EACH, Region, Running, assert_each_counted, assert_no_object_writes, object_writes,
    patience,
};

/// `VmHWM` or `VmRSS` of this process, in MiB: server, operator and test together.
fn memory_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Threefold what a whole region takes, with whatever test runs beside it.
const MEMORY_MAX_MB: u64 = 3 * 650;

/// What a region promises, unless one looks for a fault and wants it sooner.
fn functions() -> usize {
    std::env::var("TRADEWIND_SCALE_FUNCTIONS").map_or(5_000, |text| text.parse().unwrap())
}

const OPERATOR: &str = "operator-a";

/// What the operator watches: functions, pools, pods, Secrets and nodes.
const WATCHES: usize = 5;

fn watches() -> Calls {
    Calls::all().user(OPERATOR).verbs(&[Verb::Watch])
}

/// However it lists.
fn reads() -> Calls {
    Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Watch, Verb::List])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_region_is_written_once_and_then_left_alone() {
    let region = Region::start(functions(), PODS_EACH).await;
    written_once_and_left_alone(region).await;
}

/// As older servers do, and those that are told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lists_in_pages_is_written_to_once_and_then_left_alone() {
    // Three pages of pods, as kube asks for them.
    let region = Region::start(300, PODS_EACH).await;
    region.api.refuse_streaming_lists();
    written_once_and_left_alone(region).await;
}

async fn written_once_and_left_alone(region: Region) {
    // Before the operator starts: it installs the recorder.
    passes().await;
    let before_mb = memory_mb("VmRSS");
    let (functions, pods) = (region.functions, region.pods());
    let start = Instant::now();
    let mut operator = region.operator(Region::settings(OPERATOR));
    region.converged(&operator).await;
    let took = start.elapsed();
    println!(
        "measured: {functions} functions, {pods} pods: converged in {took:.1?}, {:.0} pods/s",
        pods as f64 / took.as_secs_f64()
    );

    println!("measured: {}", passes().await);

    let counts = region.api.counts();
    println!("{counts}");
    for (verb, resource, want) in [
        (Verb::Patch, "functions.tradewind.dev", functions),
        (Verb::Patch, "secrets", functions),
        (Verb::Patch, "functions.tradewind.dev/status", functions),
        (Verb::Create, "pods", pods),
    ] {
        assert_each_counted(&counts, OPERATOR, verb, resource, want);
    }
    let needed = 3 * functions + pods;
    assert_eq!(object_writes(&counts, OPERATOR), needed as u64, "{counts}");
    let most_mb = memory_mb("VmHWM");
    println!(
        "measured: {needed} writes; memory of server, cluster, operator and test {} MiB, {most_mb} MiB at most, {before_mb} MiB before",
        memory_mb("VmRSS"),
    );
    assert!(most_mb < MEMORY_MAX_MB, "{most_mb} MiB");

    // Without one nothing would be too many, whatever a list says.
    operator.idle_gateway();
    resyncs_write_nothing(&region).await;
    bad_lists_delete_nothing(&region).await;
    an_outage_deletes_nothing(&region, &mut operator).await;

    operator.stop().await;
    a_new_leader_finds_nothing_to_do(&region).await;
}

/// What the operator's passes over all objects and all pods took, from its metrics.
async fn passes() -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = daemon::operations(|| Ok(()))
        .oneshot(request)
        .await
        .unwrap();
    let text = axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let value = |name: String| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    };
    ["objects", "plan"]
        .map(|pass| {
            let metric = format!("tradewind_operator_{pass}_seconds");
            let count = value(format!("{metric}_count"));
            let mean_ms = 1_000.0 * value(format!("{metric}_sum")) / count.max(1.0);
            format!("{count} passes over {pass}, {mean_ms:.2} ms each")
        })
        .join("; ")
}

/// Three rounds of cut watches: resumed, told to list again, and resumed too late.
async fn resyncs_write_nothing(region: &Region) {
    let counts = region.api.counts();
    let start = Instant::now();
    let everything = 2 * region.functions + region.pods();
    for (end, objects) in [
        (WatchEnd::Finished, 0),
        (WatchEnd::Expired, everything),
        (WatchEnd::Dropped, everything),
    ] {
        if end == WatchEnd::Dropped {
            region.api.compact();
        }
        let counts = region.api.counts();
        region.api.end_watches(&watches(), end);
        seen_again(region, &counts, &reads(), objects).await;
        region.quiet(OPERATOR, Duration::from_secs(1)).await;
    }
    let since = region.api.counts().since(&counts);
    assert_no_object_writes(&since, OPERATOR, "resyncs");
    println!(
        "measured: three resyncs in {:.1?}: no write, {} objects, {} MB sent",
        start.elapsed(),
        since.of(&reads()).objects_out,
        since.of(&reads()).bytes_out / 1_000_000,
    );
}

/// Waits until everything is watched, and `calls` have been sent so many objects.
async fn seen_again(region: &Region, counts: &Counts, calls: &Calls, objects: usize) {
    let again = async {
        while region.api.watches(&watches()) < WATCHES
            || region.api.counts().since(counts).of(calls).objects_out < objects as u64
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience(), again).await.unwrap();
}

async fn an_outage_deletes_nothing(region: &Region, operator: &mut Running) {
    let counts = region.api.counts();
    region.api.begin_outage();
    operator
        .until("its lease has run out", |status| !status.leading)
        .await;
    region.api.end_outage();
    let start = Instant::now();
    seen_again(region, &counts, &watches(), 0).await;
    println!(
        "measured: watching again {:.1?} after an outage",
        start.elapsed()
    );
    operator
        .until("it leads again", |status| {
            status.leading && status.waiting_for.is_none()
        })
        .await;
    operator.idle_gateway();
    region.quiet(OPERATOR, Duration::from_secs(2)).await;
    let since = region.api.counts().since(&counts);
    assert_no_object_writes(&since, OPERATOR, "an outage");
}

async fn bad_lists_delete_nothing(region: &Region) {
    const SOME: usize = 100;
    let functions = ("functions.tradewind.dev", region.functions);
    let pods = ("pods", region.pods());
    for (resource, total) in [functions, pods] {
        let start = Instant::now();
        let counts = region.api.counts();
        let calls = reads().resource(resource);
        let broken = Effect::BreakList { after: SOME };
        region.api.faults().next(1, calls.clone(), broken);
        region.api.end_watches(&calls, WatchEnd::Expired);
        seen_again(region, &counts, &calls, SOME.min(total) + total).await;
        region.quiet(OPERATOR, Duration::from_secs(1)).await;
        let since = region.api.counts().since(&counts);
        let case = format!("a list of {resource} that broke off");
        println!(
            "measured: {case}: seen whole and quiet after {:.1?}",
            start.elapsed()
        );
        assert_no_object_writes(&since, OPERATOR, &case);
    }

    // The server says that there is no function at all, and later that all are there. Applying them
    // again is right; taking their pods is not.
    let start = Instant::now();
    let counts = region.api.counts();
    let (resource, total) = functions;
    let calls = reads().resource(resource);
    let empty = region
        .api
        .faults()
        .next(1, calls.clone(), Effect::EmptyList);
    region.api.end_watches(&calls, WatchEnd::Expired);
    seen_again(region, &counts, &calls, 0).await;
    assert_eq!(region.api.faults().left(empty), 0);
    region.quiet(OPERATOR, Duration::from_secs(1)).await;
    region.api.end_watches(&calls, WatchEnd::Expired);
    seen_again(region, &counts, &calls, total).await;
    region.quiet(OPERATOR, Duration::from_secs(1)).await;
    let since = region.api.counts().since(&counts);
    println!(
        "measured: no list of functions and then all of it: {:.1?}\n{since}",
        start.elapsed()
    );
    let deletions = Calls::writes().user(OPERATOR).verbs(&[Verb::Delete]);
    assert_eq!(since.of(&deletions).requests, 0, "{since}");
}

async fn a_new_leader_finds_nothing_to_do(region: &Region) {
    const NEXT: &str = "operator-b";
    let counts = region.api.counts();
    let start = Instant::now();
    let mut operator = region.operator(Region::settings(NEXT));
    let pods = region.pods();
    operator
        .until("the next leads and sees every pod", |status| {
            status.leading && status.waiting_for.is_none() && status.pods.running == pods
        })
        .await;
    println!(
        "measured: a new leader knows all after {:.1?}",
        start.elapsed()
    );
    operator.idle_gateway();
    region.quiet(NEXT, Duration::from_secs(3)).await;
    let since = region.api.counts().since(&counts);
    assert_no_object_writes(&since, NEXT, "a new leader");
    operator.stop().await;
}
