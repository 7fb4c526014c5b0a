//! Two operators: one writes, and the other takes over with a higher fence.

use std::time::{Duration, Instant};

use chaos_tests_kube_api::{Calls, Effect, Verb, WatchEnd};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use region_plane_resources::labels;

use crate::region::{Region, assert_no_object_writes, object_writes};

const FUNCTIONS: usize = 50;

/// One that nobody waits for.
const LEASE_TTL: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_and_the_other_takes_over_with_a_higher_fence() {
    let region = Region::start(FUNCTIONS, 2).await;
    let first = region.operator(Region::settings("operator-a"));
    let led = first
        .until("the first leads", |status| status.leading)
        .await;
    let second = region.operator(Region::settings("operator-b"));
    region.converged(&first).await;
    second
        .until("the second sees the pods", |status| {
            status.pods.running == region.pods()
        })
        .await;
    assert!(!second.handle.status().leading);
    let counts = region.api.counts();
    assert_eq!(object_writes(&counts, "operator-b"), 0, "{counts}");

    // Cut off from the server, not stopped: it has to notice by itself.
    let cut = Calls::all().user("operator-a");
    region.api.faults().begin(cut.clone(), Effect::Drop);
    region.api.end_watches(&cut, WatchEnd::Dropped);
    let start = Instant::now();
    let took_over = second
        .until("the second leads", |status| status.leading)
        .await;
    println!(
        "measured: a lost leader replaced after {:.1?}",
        start.elapsed()
    );
    assert!(!first.handle.status().leading, "two lead at once");
    assert!(took_over.fence > led.fence, "{took_over:?} after {led:?}");

    // The first is back, and only looks on.
    let counts = region.api.counts();
    region.api.faults().end_all();
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    let all = pods.list(&ListParams::default()).await.unwrap();
    let lost = all.items[0].metadata.name.clone().unwrap();
    pods.delete(&lost, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    second
        .until("the lost pod is replaced", |status| {
            status.pods.deleting == 0 && status.pods.running == region.pods()
        })
        .await;
    region.converged(&second).await;
    let since = region.api.counts().since(&counts);
    assert_no_object_writes(&since, "operator-a", "after it lost the lease");
    let made = since.of(&Calls::all()
        .user("operator-b")
        .verbs(&[Verb::Create])
        .resource("pods"));
    assert_eq!(made.changed, 1, "{since}");

    let all = pods.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), region.pods());
    let fences: std::collections::BTreeSet<&str> = all
        .iter()
        .filter_map(|pod| pod.metadata.annotations.as_ref()?.get(labels::FENCE))
        .map(String::as_str)
        .collect();
    let expected = [led.fence.unwrap(), took_over.fence.unwrap()].map(|fence| fence.to_string());
    assert_eq!(fences, expected.iter().map(String::as_str).collect());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_stops_gives_up_its_lease_at_once() {
    let region = Region::start(3, 1).await;
    let mut settings = Region::settings("operator-a");
    settings.lease_ttl = LEASE_TTL;
    let first = region.operator(settings.clone());
    region.converged(&first).await;
    "operator-b".clone_into(&mut settings.identity);
    let second = region.operator(settings);
    second
        .until("the second lists", |status| status.pods.running == 3)
        .await;
    let start = Instant::now();
    first.stop().await;
    second
        .until("the second leads", |status| status.leading)
        .await;
    println!(
        "measured: a stopped leader replaced after {:.1?}",
        start.elapsed()
    );
    assert!(start.elapsed() < LEASE_TTL, "it need not run out");
    second.stop().await;
}
