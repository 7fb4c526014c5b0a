//! Several operators, one of which writes.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::ResourceExt as _;
use region_plane_operator::{NotLeading, Source};
use region_plane_resources::demand::Demand;
use region_plane_resources::labels;

use crate::region::{Region, decides_rarely, eventually, wants};

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_at_once_from_one_that_stops_and_after_a_while_from_one_that_dies() {
    let mut region = Region::start().await;
    // Longer than is waited for anything.
    region.settings.lease_ttl = Duration::from_secs(60);
    let first = region.operate_as("one", Source::Objects).await;
    region.function("fn-a", |_| {}).await;
    let second = region.begin("two", Source::Objects);
    let demand = Demand {
        gateway: "gateway".to_owned(),
        boot: 1,
        sequence: 1,
        functions: Vec::new(),
        claims: Vec::new(),
        finished: Vec::new(),
        failures: Vec::new(),
    };
    assert_eq!(second.handle.demand(demand).await, Err(NotLeading));
    let first_fence = first.demand(vec![wants("fn-a", 1)], &[], &[]).await.fence;
    region.until_running(1).await;

    let began = tokio::time::Instant::now();
    first.stop.cancel();
    let second_fence = eventually("the second leads", async || second.handle.status().fence).await;
    assert!(second_fence > first_fence);
    let took = began.elapsed();
    assert!(took < region.settings.lease_ttl, "it need not run out");

    second.demand(vec![wants("fn-a", 2)], &[], &[]).await;
    let fences: Vec<String> = {
        region.until_running(2).await;
        let pods = region.living().await;
        pods.iter()
            .map(|pod| pod.annotations()[labels::FENCE].clone())
            .collect()
    };
    assert!(fences.contains(&first_fence.to_string()));
    assert!(fences.contains(&second_fence.to_string()));

    // As a process that is killed leaves it.
    let leases = Api::<Lease>::default_namespaced(region.client.clone());
    let dead = eventually("the second holds it", async || {
        let lease = leases.get("tradewind-operator").await.unwrap();
        let held = lease.spec.as_ref()?.holder_identity.as_deref() == Some("two");
        held.then_some(lease)
    })
    .await;
    second.stop.cancel();
    eventually("it is given up", async || {
        let lease = leases.get("tradewind-operator").await.unwrap();
        (lease.spec?.holder_identity.as_deref() == Some("")).then_some(())
    })
    .await;
    let ttl = Duration::from_secs(3);
    let patch = serde_json::json!({ "spec": {
        "holderIdentity": "dead",
        "leaseDurationSeconds": ttl.as_secs(),
        "leaseTransitions": dead.spec.unwrap().lease_transitions.unwrap() + 1,
    } });
    leases
        .patch(
            "tradewind-operator",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(patch),
        )
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    let third = region.operate_as("three", Source::Objects).await;
    assert!(began.elapsed() + Duration::from_millis(100) >= ttl);
    assert!(third.handle.status().fence.unwrap() > second_fence + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_lead_decides_nothing_over_and_over() {
    let mut region = Region::start().await;
    let _leader = region.operate_as("one", Source::Objects).await;
    region.function("fn-a", |spec| spec.scaling.min = 1).await;
    region.until_running(1).await;
    let second = region.begin("two", Source::Objects);
    eventually("it has seen all", async || {
        let status = second.handle.status();
        (status.readiness().is_ok() && status.pods.running == 1).then_some(())
    })
    .await;
    let mut decided = second.handle.watch();
    decides_rarely(&mut decided).await;
}
