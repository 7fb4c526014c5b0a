//! What pods say on their way up and down is read as what it is.

use std::time::Duration;

use chaos_tests_kube_api::cluster::{ClusterConfig, Fate};
use chaos_tests_kube_api::{Calls, Verb};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use region_plane_operator::NotLeading;
use region_plane_resources::demand::{Code, Demand, DemandReply, FunctionDemand};
use region_plane_resources::{Function, WarmPool, WarmPoolSpec, labels};
use serde_json::json;

use crate::region::{Region, Running, events_told, eventually};

const OPERATOR: &str = "operator-a";

async fn told(
    operator: &Running,
    sequence: u64,
    functions: Vec<FunctionDemand>,
) -> Result<DemandReply, NotLeading> {
    let demand = Demand {
        gateway: "gateway".to_owned(),
        boot: 1,
        sequence,
        functions,
        claims: Vec::new(),
        finished: Vec::new(),
        failures: Vec::new(),
    };
    operator.handle.demand(demand).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_a_node_waits_for_no_room() {
    // The kubelet of its node says nothing, as that of one that died would.
    let cluster = ClusterConfig {
        start_after: Duration::from_secs(3_600),
        ..ClusterConfig::default()
    };
    let region = Region::undefined(2, 1, cluster).await;
    region.define();
    region.cluster.set_fate(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if name.starts_with("fn-01fn00001") {
            Fate::Unschedulable
        } else {
            Fate::Runs
        }
    });
    let operator = region.operator(Region::settings(OPERATOR));
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    eventually("one has a node, and one is said to have none", async || {
        let all = pods.list(&ListParams::default()).await.unwrap().items;
        let bound = all.iter().filter(|pod| {
            let spec = pod.spec.as_ref();
            spec.is_some_and(|spec| spec.node_name.is_some())
        });
        let refused = all.iter().filter(|pod| {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref());
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.status == "False")
        });
        (bound.count() == 1 && refused.count() == 1).then_some(())
    })
    .await;
    operator
        .until("it sees both", |status| status.pods.pending == 2)
        .await;
    let mut sequence = 0;
    eventually("one pod waits for room", async || {
        sequence += 1;
        let reply = told(&operator, sequence, vec![]).await.ok()?;
        (reply.sizing.pending_pods == 1).then_some(())
    })
    .await;
    operator.stop().await;
}

/// The one pod of the pool: its uid, the memory that gateways go by, and why it has no other yet.
async fn pool_pod(region: &Region) -> Option<(String, String, Option<String>)> {
    let pods: Api<Pod> = Api::default_namespaced(region.api.client("tests"));
    let mut pods = pods.list(&ListParams::default()).await.unwrap().items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    let [pod] = pods.as_slice() else {
        return None;
    };
    let status = pod.status.as_ref()?;
    (status.phase.as_deref() == Some("Running")).then_some(())?;
    let mut conditions = status.conditions.iter().flatten();
    let pending = conditions.find(|condition| condition.type_ == "PodResizePending");
    Some((
        pod.uid()?,
        pod.labels().get(labels::MEMORY_MB)?.clone(),
        pending.and_then(|pending| pending.reason.clone()),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_told_as_larger_once_it_is_and_replaced_where_it_cannot_be() {
    let region = Region::start(0, 0).await;
    let mut operator = region.operator(Region::settings(OPERATOR));
    let pools: Api<WarmPool> = Api::default_namespaced(region.api.client("tests"));
    let pool = WarmPool::new(
        "python",
        WarmPoolSpec {
            runtime: "python3.11".to_owned(),
            image: "localhost/tradewind/runtime-python:dev".to_owned(),
            size: 1,
            memory_mb: 128,
            cpu_millis: 100,
        },
    );
    pools.create(&PostParams::default(), &pool).await.unwrap();
    operator
        .until("the pod runs", |status| status.pods.running == 1)
        .await;
    let (first, memory, _) = pool_pod(&region).await.unwrap();
    assert_eq!(memory, "128");
    let resize = async |memory_mb: u64| {
        let patch = Patch::Merge(json!({ "spec": { "memoryMb": memory_mb } }));
        let by = PatchParams::default();
        pools.patch("python", &by, &patch).await.unwrap();
    };

    region.cluster.set_fate(|_| Fate::ResizeDeferred);
    resize(256).await;
    eventually("its node has no room yet", async || {
        let (_, _, pending) = pool_pod(&region).await?;
        (pending.as_deref() == Some("Deferred")).then_some(())
    })
    .await;
    region.quiet(OPERATOR, Duration::from_millis(500)).await;
    let (uid, memory, _) = pool_pod(&region).await.unwrap();
    assert_eq!((&uid, memory.as_str()), (&first, "128"));
    region.cluster.set_fate(|_| Fate::Runs);
    eventually("it is told as larger", async || {
        let (uid, memory, pending) = pool_pod(&region).await?;
        assert_eq!(uid, first, "where it is");
        (memory == "256" && pending.is_none()).then_some(())
    })
    .await;

    // Without a gateway the old one would not be too many.
    operator.idle_gateway();
    region.cluster.set_fate(|_| Fate::ResizeInfeasible);
    resize(512).await;
    eventually("another is there in its place", async || {
        let (uid, memory, _) = pool_pod(&region).await?;
        (uid != first && memory == "512").then_some(())
    })
    .await;
    operator.stop().await;
}

/// As a kubelet ends them: the containers exit, the pod fails, and then it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_are_given_up_are_not_told_as_failures() {
    const MORE: usize = 6;
    let region = Region::start(1, 1).await;
    let mut settings = Region::settings(OPERATOR);
    settings.rules.surplus_after = Duration::from_millis(200);
    let mut operator = region.operator(settings);
    region.converged(&operator).await;
    let functions: Api<Function> = Api::default_namespaced(region.api.client("tests"));
    let function = functions.list(&ListParams::default()).await.unwrap().items[0].clone();
    let wants = |wanted: usize| FunctionDemand {
        function: function.name_any(),
        settings: function.spec.settings.clone(),
        wanted: wanted.try_into().unwrap(),
        code: Code::Image,
    };
    told(&operator, 1, vec![wants(MORE)]).await.unwrap();
    operator
        .until("there are more", |status| status.pods.running == MORE)
        .await;
    told(&operator, 2, vec![]).await.unwrap();
    // However long the deletions take.
    operator.idle_gateway();
    region.converged(&operator).await;

    let since = region.api.counts();
    let deletions = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::Delete])
        .resource("pods");
    assert_eq!(since.of(&deletions).changed, MORE as u64 - 1, "{since}");
    assert_eq!(
        events_told(&since, OPERATOR),
        0,
        "{:?}",
        region.api.writes()
    );
    let status = functions.get(&function.name_any()).await.unwrap().status;
    let ready = &status.unwrap().conditions[0];
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "Serving")
    );
    operator.stop().await;
}
