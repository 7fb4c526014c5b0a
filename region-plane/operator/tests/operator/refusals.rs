//! What goes wrong is told where people look, with what to do about it, and the rest is served.

use std::time::Duration;

use chaos_tests_kube_api::cluster::Fate;
use chaos_tests_kube_api::{Calls, Effect, Verb};
use kube::CustomResourceExt as _;
use region_plane_operator::Source;
use region_plane_resources::{Function, WarmPool};

use crate::region::{OPERATOR, Region, eventually, wants};

/// A function that must go on whatever happens to others.
const WELL: &str = "fn-well";

#[tokio::test(flavor = "multi_thread")]
async fn troubles_of_one_function_are_conditions_and_events_and_others_are_served() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.cluster.lose_image("localhost/missing:1");
    region.cluster.set_fate(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match name {
            name if name.starts_with("fn-large") => Fate::Unschedulable,
            name if name.starts_with("fn-slow") => Fate::NeverStarts,
            _ => Fate::Runs,
        }
    });
    region
        .function("fn-missing", |spec| {
            spec.image = Some("localhost/missing:1".to_owned())
        })
        .await;
    for name in ["fn-large", "fn-slow", WELL] {
        region.function(name, |_| {}).await;
    }
    let all = ["fn-missing", "fn-large", "fn-slow", WELL].map(|name| wants(name, 1));
    operator.demand(all.to_vec(), &[], &[]).await;
    for (function, reason, says) in [
        ("fn-missing", "ImagePullFailed", "localhost/missing:1"),
        ("fn-large", "PodUnschedulable", "add nodes"),
        ("fn-slow", "PodNeverReady", "kubectl describe pod"),
    ] {
        let message = region.until_reason(function, reason).await;
        assert!(message.contains(says), "{function}: {message}");
        let event = region.until_event(reason).await;
        assert_eq!(event.regarding.unwrap().name.as_deref(), Some(function));
    }
    let reply = operator.demand(all.to_vec(), &[], &[]).await;
    assert_eq!(reply.problems.len(), 3, "{:?}", reply.problems);
    region.until_reason(WELL, "Serving").await;

    // And when it is over, that is told too.
    region.cluster.provide_image("localhost/missing:1");
    region.cluster.set_fate(|_| Fate::Runs);
    region.until_reason("fn-missing", "Serving").await;
    eventually("nothing is wrong", async || {
        let reply = operator.demand(all.to_vec(), &[], &[]).await;
        reply.problems.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_and_a_missing_role_are_told_and_tried_again_with_patience() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.function("fn-a", |_| {}).await;
    region.api.set_quota("pods", "tradewind", 2);
    operator.demand(vec![wants("fn-a", 5)], &[], &[]).await;
    let message = region.until_reason("fn-a", "QuotaExceeded").await;
    assert!(message.contains("ResourceQuota"), "{message}");
    let creates = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Create])
        .resource("pods");
    let asked = region.api.counts().of(&creates).requests;
    assert!(asked < 30, "each second, and then less: {asked}");
    region.api.set_quota("pods", "tradewind", 100);
    region.until_running(5).await;
    region.until_reason("fn-a", "Serving").await;

    let fault = region.api.faults().begin(creates, Effect::Forbidden);
    operator.demand(vec![wants("fn-a", 6)], &[], &[]).await;
    let message = region.until_reason("fn-a", "Forbidden").await;
    assert!(message.contains("create pods"), "{message}");
    region.api.faults().end(fault);
    eventually("six pods run", async || {
        operator.demand(vec![wants("fn-a", 6)], &[], &[]).await;
        (region.running().await.len() == 6).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_definition_of_pools_functions_are_served_and_nothing_is_deleted() {
    let mut region = Region::bare().await;
    region
        .api
        .install(serde_json::to_value(Function::crd()).unwrap())
        .unwrap();
    let operator = region.operate().await;
    region.function("fn-a", |spec| spec.scaling.min = 1).await;
    region.until_running(1).await;
    let event = region.until_event("ResourceDefinitionOutdated").await;
    assert!(event.note.unwrap().contains("warmpools.tradewind.dev"));
    region
        .api
        .install(serde_json::to_value(WarmPool::crd()).unwrap())
        .unwrap();
    region.pool("python", 1).await;
    operator.demand(vec![wants("fn-a", 1)], &[], &[]).await;
    region.until_running(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_names_what_the_definition_lacks() {
    let mut region = Region::bare().await;
    let mut older = serde_json::to_value(Function::crd()).unwrap();
    let spec = older
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .unwrap();
    spec["properties"]
        .as_object_mut()
        .unwrap()
        .remove("settings");
    spec["required"]
        .as_array_mut()
        .unwrap()
        .retain(|field| field != "settings");
    region.api.install(older).unwrap();
    region
        .api
        .install(serde_json::to_value(WarmPool::crd()).unwrap())
        .unwrap();
    let object = serde_json::json!({
        "apiVersion": "tradewind.dev/v1alpha1", "kind": "Function",
        "metadata": { "name": "fn-old" },
        "spec": {
            "revision": 1, "appId": "A", "appName": "a", "fnId": "OLD", "fnName": "old",
            "image": "localhost/x:1", "memoryMb": 128, "timeoutSecs": 30, "idleTimeoutSecs": 30,
            "settings": "0000000000000001",
        },
    });
    region.api.install(object).unwrap();
    region.pool("python", 1).await;
    let _operator = region.operate_as("one", Source::Objects).await;
    region.until_running(1).await;
    let dynamic = kube::Api::<kube::api::DynamicObject>::default_namespaced_with(
        region.client.clone(),
        &kube::api::ApiResource::erase::<Function>(&()),
    );
    let message = eventually("the condition is there", async || {
        let object = dynamic.get("fn-old").await.unwrap();
        let ready = &object.data["status"]["conditions"][0];
        (ready["reason"] == "ResourceDefinitionOutdated")
            .then(|| ready["message"].as_str().unwrap().to_owned())
    })
    .await;
    assert!(message.contains("Function.spec.settings"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_throttles_is_asked_less_and_all_pods_come_in_the_end() {
    let mut region = Region::start().await;
    let operator = region.operate().await;
    region.function("fn-a", |_| {}).await;
    let creates = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Create])
        .resource("pods");
    region
        .api
        .faults()
        .begin(creates.clone(), Effect::Limit { per_second: 10 });
    let before = operator.handle.status().creates_per_sec;
    operator.demand(vec![wants("fn-a", 40)], &[], &[]).await;
    let mut status = operator.handle.watch();
    let slowed = status.wait_for(|status| status.creates_per_sec < before);
    tokio::time::timeout(Duration::from_secs(10), slowed)
        .await
        .expect("it slows")
        .unwrap();
    eventually("all run", async || {
        operator.demand(vec![wants("fn-a", 40)], &[], &[]).await;
        (region.running().await.len() == 40).then_some(())
    })
    .await;
    let tally = region.api.counts().of(&creates);
    assert_eq!(region.pod_names().await.len(), 40);
    assert!(tally.refused < 120, "{tally:?}");
}
