//! Pods get nodes, addresses, failures and ends from the stand-ins.

use std::time::Duration;

use chaos_tests_kube_api::cluster::{ClusterConfig, Ending, Fate};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

use crate::{USER, pod, pods, server};

const PATIENCE: Duration = Duration::from_secs(20);

async fn until(api: &Api<Pod>, name: &str, holds: impl Fn(&PodStatus) -> bool) -> Pod {
    let condition = |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()).is_some_and(&holds);
    timeout(PATIENCE, await_condition(api.clone(), name, condition))
        .await
        .expect("in time")
        .unwrap()
        .unwrap()
}

fn phase_is(phase: &'static str) -> impl Fn(&PodStatus) -> bool {
    move |status| status.phase.as_deref() == Some(phase)
}

fn waiting_is(reason: &'static str) -> impl Fn(&PodStatus) -> bool {
    move |status| {
        status.container_statuses.iter().flatten().any(|container| {
            let waiting = container
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
        })
    }
}

#[tokio::test]
async fn a_pod_runs_at_the_address_it_was_promised_and_ends_when_deleted() {
    let mut server = server().await;
    let cluster = server.run_cluster(ClusterConfig::default()).unwrap();
    cluster.set_address(|pod| (pod["metadata"]["name"] == "mine").then(|| [127, 9, 8, 7].into()));
    let api = pods(&server);
    for name in ["mine", "other"] {
        api.create(&PostParams::default(), &pod(name))
            .await
            .unwrap();
    }
    let mine = until(&api, "mine", phase_is("Running")).await;
    assert_eq!(
        mine.status.as_ref().unwrap().pod_ip.as_deref(),
        Some("127.9.8.7")
    );
    let other = until(&api, "other", phase_is("Running")).await;
    assert_ne!(
        mine.spec.unwrap().node_name,
        other.spec.unwrap().node_name,
        "spread"
    );
    let on_node = ListParams::default().fields("spec.nodeName=node-0,status.phase=Running");
    assert_eq!(api.list(&on_node).await.unwrap().items.len(), 1);

    let marked = api.delete("mine", &DeleteParams::default()).await.unwrap();
    let marked = marked.left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(5));
    let version = mine.metadata.resource_version.unwrap();
    let only = WatchParams::default().fields("metadata.name=mine");
    let events = api.watch(&only, &version).await.unwrap();
    let mut events = std::pin::pin!(events);
    let mut seen = Vec::new();
    let mut gone = false;
    while !gone {
        let event = timeout(PATIENCE, events.try_next()).await.unwrap();
        let (pod, deleted) = match event.unwrap().unwrap() {
            WatchEvent::Modified(pod) => (pod, false),
            WatchEvent::Deleted(pod) => (pod, true),
            other => panic!("{other:?}"),
        };
        let going = pod.metadata.deletion_timestamp.is_some();
        seen.push((going, pod.status.unwrap().phase.unwrap(), deleted));
        gone = deleted;
    }
    let failed = "Failed".to_owned();
    let want = [
        (true, "Running".to_owned(), false),
        (true, failed.clone(), false),
        (true, failed, true),
    ];
    assert_eq!(
        seen, want,
        "it says how its containers ended before it goes"
    );

    let nodes: Api<Node> = Api::all(server.client(USER));
    assert_eq!(
        nodes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        3
    );
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_reads_as_the_kubelet_writes_it() {
    let mut server = server().await;
    let cluster = server.run_cluster(ClusterConfig::default()).unwrap();
    cluster.lose_image("localhost/fn:1");
    let api = pods(&server);
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    let waiting = until(&api, "p", waiting_is("ErrImagePull")).await;
    assert_eq!(waiting.status.unwrap().phase.as_deref(), Some("Pending"));
    until(&api, "p", waiting_is("ImagePullBackOff")).await;
    cluster.provide_image("localhost/fn:1");
    until(&api, "p", phase_is("Running")).await;
}

#[tokio::test]
async fn fates_are_as_decided() {
    let mut server = server().await;
    let cluster = server.run_cluster(ClusterConfig::default()).unwrap();
    cluster.set_fate(|pod| match pod["metadata"]["name"].as_str() {
        Some("unready") => Fate::NeverReady,
        Some("stuck") => Fate::NeverStarts,
        Some("nowhere") => Fate::Unschedulable,
        _ => Fate::Runs,
    });
    let api = pods(&server);
    for name in ["unready", "stuck", "nowhere", "fine"] {
        api.create(&PostParams::default(), &pod(name))
            .await
            .unwrap();
    }
    let condition = |kind: &'static str, status: &'static str| {
        move |of: &PodStatus| {
            of.conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == kind && condition.status == status)
        }
    };
    until(&api, "fine", condition("Ready", "True")).await;
    let unready = until(&api, "unready", condition("Ready", "False")).await;
    assert_eq!(unready.status.unwrap().phase.as_deref(), Some("Running"));
    let stuck = until(&api, "stuck", waiting_is("ContainerCreating")).await;
    assert!(stuck.status.unwrap().host_ip.is_some());
    until(&api, "nowhere", condition("PodScheduled", "False")).await;

    cluster.set_fate(|_| Fate::Runs);
    for name in ["stuck", "nowhere"] {
        until(&api, name, phase_is("Running")).await;
    }
}

#[tokio::test]
async fn full_nodes_take_the_next_pod_when_one_goes() {
    let mut server = server().await;
    server
        .run_cluster(ClusterConfig {
            nodes: 1,
            memory_mb_per_node: 200,
            ..ClusterConfig::default()
        })
        .unwrap();
    let api = pods(&server);
    api.create(&PostParams::default(), &pod("a")).await.unwrap();
    until(&api, "a", phase_is("Running")).await;
    api.create(&PostParams::default(), &pod("b")).await.unwrap();
    let full = |status: &PodStatus| {
        status.conditions.iter().flatten().any(|condition| {
            condition.reason.as_deref() == Some("Unschedulable")
                && condition.message.as_deref()
                    == Some("0/1 nodes are available: 1 Insufficient memory.")
        })
    };
    until(&api, "b", full).await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until(&api, "b", phase_is("Running")).await;
}

#[tokio::test]
async fn a_container_that_ends_shows_why_and_a_resize_shows_in_the_status() {
    let mut server = server().await;
    let cluster = server.run_cluster(ClusterConfig::default()).unwrap();
    let api = pods(&server);
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    until(&api, "p", phase_is("Running")).await;

    let resize = Patch::Strategic(json!({ "spec": { "containers": [
        { "name": "function", "resources": { "limits": { "memory": "64Mi" }, "requests": { "memory": "64Mi" } } },
    ] } }));
    api.patch_subresource("resize", "p", &PatchParams::default(), &resize)
        .await
        .unwrap();
    until(&api, "p", |status| {
        status.container_statuses.iter().flatten().any(|container| {
            let limits = container
                .resources
                .as_ref()
                .and_then(|set| set.limits.as_ref());
            limits.is_some_and(|limits| limits["memory"].0 == "64Mi")
        })
    })
    .await;

    cluster
        .end_container("tradewind", "p", "function", Ending::OutOfMemory)
        .unwrap();
    let half = api.get("p").await.unwrap();
    assert_eq!(
        half.status.as_ref().unwrap().phase.as_deref(),
        Some("Running")
    );
    let killed = half.status.unwrap().container_statuses.unwrap()[0].clone();
    let terminated = killed.state.unwrap().terminated.unwrap();
    assert_eq!(
        (terminated.reason.as_deref(), terminated.exit_code),
        (Some("OOMKilled"), 137)
    );
    cluster
        .end_container("tradewind", "p", "runner", Ending::Exited(0))
        .unwrap();
    let ended = api.get("p").await.unwrap();
    assert_eq!(ended.status.unwrap().phase.as_deref(), Some("Failed"));
}

/// What the operator's tests need of it: many pods fast, lists and watches of them cheap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_pods_run_within_seconds() {
    const PODS: usize = 2000;
    let mut server = server().await;
    server
        .run_cluster(ClusterConfig {
            nodes: 20,
            ..ClusterConfig::default()
        })
        .unwrap();
    let start = std::time::Instant::now();
    let client: Client = server.client(USER);
    let creations = (0..PODS).map(|at| {
        let api: Api<Pod> = Api::default_namespaced(client.clone());
        async move {
            api.create(&PostParams::default(), &pod(&format!("p{at:05}")))
                .await
                .unwrap()
        }
    });
    let made: Vec<Pod> = futures_util::StreamExt::collect(
        futures_util::StreamExt::buffer_unordered(futures_util::stream::iter(creations), 16),
    )
    .await;
    println!("measured: {PODS} pods created in {:.2?}", start.elapsed());
    let api = pods(&server);
    let running = ListParams::default().fields("status.phase=Running");
    timeout(PATIENCE, async {
        while api.list_metadata(&running).await.unwrap().items.len() < PODS {}
    })
    .await
    .unwrap();
    println!("measured: {PODS} pods running in {:.2?}", start.elapsed());
    assert_eq!(made.len(), PODS);
    let names: std::collections::BTreeSet<String> =
        made.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names.len(), PODS);
    assert!(made.iter().all(|pod| pod.resource_version().is_some()));
}
