//! Pods follow demand, and nothing else.

use std::time::Duration;

use chaos_tests_kube_api::cluster::{Ending, Fate};
use chaos_tests_kube_api::{Calls, Effect, Verb};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use region_plane_operator::template::SAFE_TO_EVICT;
use region_plane_resources::labels;
use serde_json::json;

use crate::region::{OPERATOR, Region, eventually, settings, wants, wants_bundle};

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_with_demand_and_go_when_they_are_given_back() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.function("fn-a", |_| {}).await;
    region.until_reason("fn-a", "Serving").await;
    let reply = operator.demand(vec![wants("fn-a", 3)], &[], &[]).await;
    assert_eq!((reply.sizing.nodes, reply.problems.len()), (3, 0));
    let pods = region.until_running(3).await;
    let claims: Vec<_> = pods.iter().map(|pod| (pod.as_str(), "fn-a")).collect();
    operator.demand(vec![wants("fn-a", 3)], &claims, &[]).await;

    // Whatever is told again and again, nothing is written.
    let before = region.writes();
    let mut decided = operator.handle.watch();
    for _ in 0..50 {
        operator.demand(vec![wants("fn-a", 3)], &claims, &[]).await;
    }
    // The last is told with a reason to decide, and is decided on after all before it.
    decided.mark_unchanged();
    let finished = ["not-there"];
    operator
        .demand(vec![wants("fn-a", 3)], &claims, &finished)
        .await;
    decided.changed().await.unwrap();
    let over = decided.wait_for(|status| status.writes_in_flight == 0);
    over.await.unwrap();
    assert_eq!(region.writes(), before, "{:?}", region.api.writes());

    operator
        .demand(vec![wants("fn-a", 2)], &claims[1..], &[claims[0].0])
        .await;
    let left = region.until_running(2).await;
    assert!(!left.contains(&pods[0]), "the one that was given back");
    operator.demand(vec![], &[], &[&pods[1], &pods[2]]).await;
    region.until_running(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_refilled_and_what_was_taken_is_labelled() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.pool("python", 2).await;
    let pods = region.until_running(2).await;
    let waiting = region.pods().get(&pods[0]).await.unwrap();
    assert_eq!(waiting.annotations()[SAFE_TO_EVICT], "true");
    operator
        .demand(vec![wants_bundle("fn-b", 1)], &[(&pods[0], "fn-b")], &[])
        .await;
    region.until_running(3).await;
    eventually("the taken pod is labelled", async || {
        let pod = region.pods().get(&pods[0]).await.unwrap();
        (pod.labels().get(labels::FUNCTION)? == "fn-b").then_some(())?;
        (pod.annotations()[SAFE_TO_EVICT] == "false").then_some(())
    })
    .await;
    operator.demand(vec![], &[], &[&pods[0]]).await;
    let left = region.until_running(2).await;
    assert!(!left.contains(&pods[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_full_a_pool_is_is_written_only_when_it_stays_empty() {
    let mut region = Region::start().await;
    region.settings.rules.pool_empty_after = Duration::from_secs(2);
    region.settings.rules.never_ready_after = Duration::from_secs(60);
    let operator = region.operate().await;
    region.pool("python", 2).await;
    let mut taken: Vec<String> = Vec::new();
    let waiting = async |taken: &[String], want: u32| {
        eventually(&format!("{want} pods wait"), async || {
            let claims: Vec<_> = taken.iter().map(|pod| (pod.as_str(), "fn-b")).collect();
            let wants = wants_bundle("fn-b", claims.len().try_into().unwrap());
            operator.demand(vec![wants], &claims, &[]).await;
            let pods = operator.handle.status().pool_pods;
            let pods = pods.get("python").filter(|pods| pods.wanted == 2)?;
            (pods.waiting == want).then_some(())
        })
        .await;
    };
    let free = async |taken: &[String]| {
        let mut running = region.running().await;
        running.retain(|pod| !taken.contains(pod));
        running
    };
    for _ in 0..5 {
        waiting(&taken, 2).await;
        let pods = free(&taken).await;
        taken.extend(pods.into_iter().take(1));
        eventually("another is made", async || {
            waiting(&taken, 2).await;
            (region.running().await.len() == taken.len() + 2).then_some(())
        })
        .await;
    }
    let states = || {
        let states = Calls::writes().user(OPERATOR);
        let states = states.resource("warmpools.tradewind.dev/status");
        region.api.counts().of(&states).requests
    };
    assert_eq!(states(), 1, "that nothing stands in its way, and no more");

    region.cluster.set_fate(|_| Fate::NeverStarts);
    taken.extend(free(&taken).await);
    let until_reason = async |want: &str| {
        eventually(want, async || {
            waiting(&taken, if want == "PoolEmpty" { 0 } else { 2 }).await;
            let status = region.pools().get("python").await.unwrap().status?;
            let ready = status.conditions.into_iter().next()?;
            (ready.reason == want).then_some(ready.message)
        })
        .await
    };
    let message = until_reason("PoolEmpty").await;
    assert!(message.contains("raise its size"), "{message}");
    region.cluster.set_fate(|_| Fate::Runs);
    until_reason("Serving").await;
    assert_eq!(states(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_is_replaced_and_a_second_time_told() {
    let mut region = Region::start().await;
    let _operator = region.operate().await;
    region.function("fn-a", |spec| spec.scaling.min = 1).await;
    for failure in 1..=2 {
        let pod = region.until_running(1).await.remove(0);
        // So that it is another failure and not part of the last: the cluster's times are whole seconds.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        region
            .cluster
            .end_container("tradewind", &pod, "function", Ending::OutOfMemory)
            .unwrap();
        eventually(&format!("failure {failure} is cleared away"), async || {
            (!region.pod_names().await.contains(&pod)).then_some(())
        })
        .await;
    }
    region.until_reason("fn-a", "OutOfMemory").await;
    region.until_running(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pod_is_resized_where_only_its_memory_differs() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.function("fn-a", |spec| spec.scaling.min = 1).await;
    let before = region.until_running(1).await;
    // One that is not seen to run yet is replaced.
    eventually("the operator sees it run", async || {
        (operator.handle.status().pods.running == 1).then_some(())
    })
    .await;
    let patch = json!({ "spec": { "memoryMb": 256, "settings": settings(2) } });
    region
        .functions()
        .patch("fn-a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let pod = eventually("its label tells its memory", async || {
        let pod = region.pods().get(&before[0]).await.unwrap();
        (pod.labels()[labels::MEMORY_MB] == "256").then_some(pod)
    })
    .await;
    assert_eq!(pod.labels()[labels::SETTINGS], settings(2));
    let spec = pod.spec.as_ref().unwrap();
    let memory = &spec.containers[0]
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap()["memory"];
    assert_eq!(memory.0, "256Mi");
    assert_eq!(region.until_running(1).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_deletes_nothing_and_is_gone_on_from() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.function("fn-a", |spec| spec.scaling.min = 5).await;
    let before = region.until_running(5).await;
    region.api.set_quota("pods", "tradewind", 5);
    operator.demand(vec![wants("fn-a", 6)], &[], &[]).await;
    region.until_reason("fn-a", "QuotaExceeded").await;
    let mut status = operator.handle.watch();
    // It is none for the moment in which it is tried again.
    let told = status.wait_for(|status| status.problems.len() == 1);
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .expect("it is told")
        .unwrap();
    region.api.begin_outage();
    let lost = status.wait_for(|status| !status.leading);
    let lost = tokio::time::timeout(Duration::from_secs(20), lost)
        .await
        .expect("it stops leading")
        .unwrap()
        .clone();
    assert_eq!(lost.problems, [], "another may know better");
    region.api.set_quota("pods", "tradewind", 100);
    region.api.end_outage();
    let back = status.wait_for(|status| status.leading && status.waiting_for.is_none());
    tokio::time::timeout(Duration::from_secs(30), back)
        .await
        .expect("it leads again")
        .unwrap();
    operator.demand(vec![wants("fn-a", 7)], &[], &[]).await;
    let after = region.until_running(7).await;
    assert!(before.iter().all(|pod| after.contains(pod)));
}

/// Reads of what owns pods.
fn owners() -> [Calls; 2] {
    ["functions.tradewind.dev", "warmpools.tradewind.dev"].map(|resource| {
        let reads = Calls::all().user(OPERATOR);
        reads.verbs(&[Verb::List, Verb::Watch]).resource(resource)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_partial_lists_delete_nothing() {
    let mut region = Region::start().await;
    // Several times what it waits for before it deletes.
    let long = 4 * region.settings.settle_for;
    let operator = region.operate().await;
    for n in 0..30 {
        region
            .function(&format!("fn-{n}"), |spec| spec.scaling.min = 1)
            .await;
    }
    for pool in ["python", "node"] {
        region.pool(pool, 3).await;
    }
    let before = region.until_running(36).await;
    operator.end().await;

    let broken = owners().map(|reads| {
        let partial = Effect::BreakList { after: 1 };
        region.api.faults().begin(reads, partial)
    });
    let second = region.begin("two", region_plane_operator::Source::Objects);
    eventually("it leads", async || {
        second.handle.status().leading.then_some(())
    })
    .await;
    region.decides_for(&second, long).await;
    assert_eq!(region.running().await, before, "a partial list is none");
    for fault in broken {
        region.api.faults().end(fault);
    }
    let mut status = second.handle.watch();
    let listed = status.wait_for(|status| status.waiting_for.is_none());
    tokio::time::timeout(Duration::from_secs(30), listed)
        .await
        .expect("it lists")
        .unwrap();

    let empty = owners().map(|reads| region.api.faults().begin(reads, Effect::EmptyList));
    for reads in owners() {
        region
            .api
            .end_watches(&reads, chaos_tests_kube_api::WatchEnd::Expired);
    }
    eventually("it sees none", async || {
        let status = second.handle.status();
        (status.functions + status.pools == 0).then_some(())
    })
    .await;
    region.decides_for(&second, long).await;
    assert_eq!(region.running().await, before, "nor is an empty one");

    // Nor does another believe it, that never saw more.
    second.end().await;
    let third = region
        .operate_as("three", region_plane_operator::Source::Objects)
        .await;
    region.decides_for(&third, long).await;
    assert_eq!(third.handle.status().pods.running, 36);
    assert_eq!(region.running().await, before, "nor by a new leader");

    for fault in empty {
        region.api.faults().end(fault);
    }
    for reads in owners() {
        region
            .api
            .end_watches(&reads, chaos_tests_kube_api::WatchEnd::Expired);
    }
    eventually("it sees them again", async || {
        let status = third.handle.status();
        (status.functions + status.pools == 32).then_some(())
    })
    .await;
    region.decides_for(&third, long).await;
    assert_eq!(region.running().await, before);
    let deletions = Calls::writes().user(OPERATOR).verbs(&[Verb::Delete]);
    assert_eq!(region.api.counts().of(&deletions).requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_gateway_heard_what_is_too_many_stays() {
    let mut region = Region::start().await;
    let long = 4 * region.settings.settle_for;
    let first = region.operate().await;
    region.pool("python", 3).await;
    region.function("fn-a", |spec| spec.scaling.min = 2).await;
    let before = region.until_running(5).await;
    first.end().await;
    // Another leads, and no gateway has found it yet. They have pods that it takes for idle.
    let second = region
        .operate_as("two", region_plane_operator::Source::Objects)
        .await;
    let patch = json!({ "spec": { "scaling": { "min": 0, "max": 2 } } });
    let params = PatchParams::default();
    let patch = Patch::Merge(patch);
    region
        .functions()
        .patch("fn-a", &params, &patch)
        .await
        .unwrap();
    let patch = Patch::Merge(json!({ "spec": { "size": 1 } }));
    region
        .pools()
        .patch("python", &params, &patch)
        .await
        .unwrap();
    let began = tokio::time::Instant::now();
    eventually("others would be surplus", async || {
        (began.elapsed() > long).then_some(())
    })
    .await;
    assert_eq!(region.running().await, before);

    // One of the pool's is had, and so is one of the function's.
    let of = |owner: &str| before.iter().find(|pod| pod.starts_with(owner)).unwrap();
    let claims = [
        (of("fn-a").as_str(), "fn-a"),
        (of("python").as_str(), "fn-b"),
    ];
    let demand = || vec![wants("fn-a", 1), wants_bundle("fn-b", 1)];
    eventually("what nobody has goes", async || {
        second.demand(demand(), &claims, &[]).await;
        let all = region.pod_names().await;
        assert!(
            claims
                .iter()
                .all(|(pod, _)| all.contains(&(*pod).to_owned()))
        );
        (all.len() == 3).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_others_are_left_alone() {
    let mut region = Region::start().await;
    let stranger = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "stranger", "labels": {
            labels::MANAGED_BY: labels::MANAGED_BY_VALUE, labels::KIND: labels::KIND_IMAGE,
        } },
        "spec": { "containers": [{ "name": "function", "image": "localhost/x:1" }] },
    });
    region.api.install(stranger).unwrap();
    let operator = region.operate().await;
    region.function("fn-a", |spec| spec.scaling.min = 1).await;
    region.until_running(2).await;
    region
        .functions()
        .delete("fn-a", &DeleteParams::default())
        .await
        .unwrap();
    operator.demand(vec![], &[], &[]).await;
    assert_eq!(region.until_running(1).await, ["stranger"]);
}
