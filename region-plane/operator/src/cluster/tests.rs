#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};

use super::*;

fn pod(owner: &Value, status: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "p", "uid": "u",
            "labels": { labels::MEMORY_MB: "128", labels::SETTINGS: "ab", labels::FUNCTION: "fn-a" },
            "annotations": { labels::TEMPLATE: "t" },
            "ownerReferences": [owner],
        },
        "status": status,
    }))
    .unwrap()
}

fn owner(api_version: &str, kind: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": "o", "uid": "ou", "controller": true })
}

fn ours() -> Value {
    owner("tradewind.dev/v1alpha1", "Function")
}

#[test]
fn only_pods_that_our_objects_own_are_ours() {
    for (reference, want) in [
        (ours(), Some(Owner::Function("o".to_owned()))),
        (
            owner("tradewind.dev/v1alpha1", "WarmPool"),
            Some(Owner::Pool("o".to_owned())),
        ),
        (owner("apps/v1", "ReplicaSet"), None),
        (owner("tradewind.dev/v1alpha1", "Other"), None),
        (owner("example.dev/v1", "Function"), None),
        (
            json!({ "apiVersion": "tradewind.dev/v1alpha1", "kind": "Function", "name": "o", "uid": "u" }),
            None,
        ),
    ] {
        let seen = pod_seen(pod(&reference, &json!({})));
        assert_eq!(seen.map(|seen| seen.owner), want, "{reference}");
    }
}

#[test]
fn the_function_label_is_what_took_a_pools_pod_and_nothing_else() {
    let image = pod_seen(pod(&ours(), &json!({}))).unwrap();
    assert_eq!(
        (image.function, image.settings.as_deref()),
        (None, Some("ab"))
    );
    let pool = owner("tradewind.dev/v1alpha1", "WarmPool");
    let pool = pod_seen(pod(&pool, &json!({}))).unwrap();
    assert_eq!(pool.function.as_deref(), Some("fn-a"));
}

#[test]
fn phases_and_troubles_are_read_from_the_status() {
    let waiting = |reason: &str| {
        json!({
            "phase": "Pending", "hostIP": "10.0.0.1",
            "containerStatuses": [{
                "name": "function", "image": "i:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": reason, "message": "why" } },
            }],
        })
    };
    let ended = |phase: &str, reason: &str| {
        json!({
            "phase": phase,
            "containerStatuses": [{
                "name": "function", "image": "i:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 137, "reason": reason } },
            }],
        })
    };
    let running = |ready: &str, containers: &str, reason: &str| {
        json!({
            "phase": "Running",
            "conditions": [
                { "type": "ContainersReady", "status": containers, "reason": "ContainersNotReady" },
                { "type": "Ready", "status": ready, "reason": reason },
            ],
        })
    };
    let evicted = |message: &str| {
        let mut status = ended("Failed", "Error");
        status["reason"] = json!("Evicted");
        status["message"] = json!(message);
        status
    };
    let unschedulable = json!({
        "phase": "Pending",
        "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes",
        }],
    });
    for (status, phase, reason) in [
        (json!({}), Phase::Pending, None),
        (json!({ "phase": "Running" }), Phase::Running, None),
        (running("True", "True", ""), Phase::Running, None),
        (running("False", "True", ""), Phase::Unheard, None),
        // A probe that somebody's webhook put in: its runner answers all the same.
        (
            running("False", "False", "ContainersNotReady"),
            Phase::Running,
            None,
        ),
        (
            running("False", "True", "ReadinessGatesNotReady"),
            Phase::Running,
            None,
        ),
        (waiting("ContainerCreating"), Phase::Pending, None),
        (
            waiting("ErrImagePull"),
            Phase::Pending,
            Some(ConditionReason::ImagePullFailed),
        ),
        (
            waiting("ImagePullBackOff"),
            Phase::Pending,
            Some(ConditionReason::ImagePullFailed),
        ),
        (
            waiting("CreateContainerConfigError"),
            Phase::Pending,
            Some(ConditionReason::ContainerConfigInvalid),
        ),
        (
            unschedulable,
            Phase::Pending,
            Some(ConditionReason::PodUnschedulable),
        ),
        (
            ended("Running", "OOMKilled"),
            Phase::Broken,
            Some(ConditionReason::OutOfMemory),
        ),
        (
            ended("Failed", "Error"),
            Phase::Ended,
            Some(ConditionReason::FunctionExited),
        ),
        (
            evicted("The node was low on resource: memory. Threshold quantity: 100Mi"),
            Phase::Ended,
            Some(ConditionReason::PodLost),
        ),
        (
            evicted("Usage of EmptyDir volume \"tmp\" exceeds the limit \"64Mi\". "),
            Phase::Ended,
            Some(ConditionReason::FunctionExited),
        ),
        (
            json!({ "phase": "Failed", "reason": "Terminated", "message": "node shutdown" }),
            Phase::Ended,
            Some(ConditionReason::PodLost),
        ),
    ] {
        let seen = pod_seen(pod(&ours(), &status)).unwrap();
        assert_eq!(seen.phase, phase, "{status}");
        assert_eq!(
            seen.trouble.map(|trouble| trouble.reason),
            reason,
            "{status}"
        );
    }
}

#[test]
fn only_a_pod_without_a_node_waits_for_room() {
    for (case, node, phase, waits) in [
        ("new", None, "Pending", true),
        (
            "bound, and its kubelet has said nothing yet",
            Some("n"),
            "Pending",
            false,
        ),
        ("runs", Some("n"), "Running", false),
    ] {
        let mut pod = pod(&ours(), &json!({ "phase": phase }));
        pod.spec = serde_json::from_value(json!({ "nodeName": node, "containers": [] })).unwrap();
        assert_eq!(pod_seen(pod).unwrap().unscheduled, waits, "{case}");
    }
}

#[test]
fn what_ended_a_container_is_told_by_which_it_was_and_what_it_printed() {
    for (container, reason, message, want, says) in [
        (
            "function",
            "Error",
            "KeyError: 'TOKEN'\n",
            ConditionReason::FunctionExited,
            &["exited with 137", "It printed: KeyError: 'TOKEN'"][..],
        ),
        (
            "function",
            "Error",
            "",
            ConditionReason::FunctionExited,
            &["exited with 137; correct it and deploy it anew"],
        ),
        (
            "function",
            "OOMKilled",
            "",
            ConditionReason::OutOfMemory,
            &["give the function more"],
        ),
        (
            "runner",
            "OOMKilled",
            "",
            ConditionReason::RunnerFailed,
            &["`runner_memory_max_mb`", "`operator.runner.memoryMaxMb`"],
        ),
        (
            "runner",
            "Error",
            "unknown variable",
            ConditionReason::RunnerFailed,
            &["its runner exited with 137", "unknown variable"],
        ),
    ] {
        let terminated = json!({ "exitCode": 137, "reason": reason, "message": message });
        let status = json!({
            "phase": "Running",
            "containerStatuses": [{
                "name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": terminated },
            }],
        });
        let trouble = pod_seen(pod(&ours(), &status)).unwrap().trouble.unwrap();
        assert_eq!(trouble.reason, want, "{container} {reason}");
        let told = trouble.message;
        assert!(says.iter().all(|says| told.contains(says)), "{told}");
    }
}

#[test]
fn nodes_that_take_pods_are_counted_with_their_memory() {
    let node = |ready: &str, cordoned: bool, memory: &str| -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "n" },
            "spec": { "unschedulable": cordoned },
            "status": {
                "allocatable": { "memory": memory },
                "conditions": [{ "type": "Ready", "status": ready }],
            },
        }))
        .unwrap()
    };
    let nodes = [
        node("True", false, "2Gi"),
        node("True", false, "1048576Ki"),
        node("True", true, "8Gi"),
        node("False", false, "8Gi"),
        node("True", false, "1.5Gi"),
    ];
    let nodes: BTreeMap<String, NodeSeen> = nodes
        .iter()
        .enumerate()
        .map(|(n, node)| (n.to_string(), node_seen(node)))
        .collect();
    assert_eq!(room(&nodes), (3, 3_072));
}

#[test]
fn one_object_that_cannot_be_read_is_still_there() {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "tradewind.dev/v1alpha1", "kind": "Function",
        "metadata": { "name": "fn-a", "uid": "u", "generation": 4, "resourceVersion": "12" },
        "spec": { "image": "x" },
        "status": { "conditions": [{
            "type": "Ready", "status": "False", "reason": "InvalidSpec", "observedGeneration": 3,
        }] },
    }))
    .unwrap();
    let (name, meta, read) = read::<Function>(object).unwrap();
    assert_eq!(
        (name.as_str(), meta.generation, meta.version),
        ("fn-a", 4, 12)
    );
    assert!(read.unwrap_err().contains("missing field"));
    let stated = Stated {
        generation: 3,
        ready: false,
        reason: "InvalidSpec".to_owned(),
    };
    assert_eq!(meta.stated, Some(stated));
}

#[test]
fn a_watch_that_lasted_pauses_as_briefly_as_one_that_first_failed() {
    let mut backoff = Backoff::default();
    let mut pauses = |lasted_secs: [u64; 8]| {
        lasted_secs.map(|lasted| backoff.after(Duration::from_secs(lasted)).as_millis())
    };
    // An outage, then hours on which nothing happened, then one cut or list that is too old.
    assert_eq!(
        pauses([0; 8]),
        [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]
    );
    assert_eq!(
        pauses([7_200, 0, 9, 1, 10, 0, 3_600, 3_600]),
        [200, 400, 800, 1_600, 200, 400, 200, 200]
    );
}

#[test]
fn the_memory_of_the_functions_container_is_read_as_asked_and_as_given() {
    let mut grows = pod(
        &ours(),
        &json!({ "phase": "Running", "containerStatuses": [
        { "name": "runner", "image": "", "imageID": "", "ready": true, "restartCount": 0,
          "resources": { "limits": { "memory": "64Mi" } } },
        { "name": "function", "image": "", "imageID": "", "ready": true, "restartCount": 0,
          "resources": { "limits": { "memory": "512Mi" } } },
    ] }),
    );
    grows.spec = serde_json::from_value(json!({ "containers": [
        { "name": "runner" },
        { "name": "function", "resources": { "limits": { "memory": "1Gi" } } },
    ] }))
    .unwrap();
    let seen = pod_seen(grows).unwrap();
    assert_eq!((seen.asked_mb, seen.has_mb), (Some(1_024), Some(512)));
    let seen = pod_seen(pod(&ours(), &json!({}))).unwrap();
    assert_eq!((seen.asked_mb, seen.has_mb), (None, None));
}

#[test]
fn only_a_secret_that_a_function_owns_and_that_has_our_name_for_it_is_ours() {
    let fn_a = json!({ "apiVersion": "tradewind.dev/v1alpha1", "kind": "Function", "name": "fn-a", "uid": "ou", "controller": true });
    for (name, owners, ours) in [
        ("fn-a-0123456789", json!([fn_a]), true),
        ("fn-a-0123456789", json!([]), false),
        (
            "fn-a-0123456789",
            json!([owner("apps/v1", "Deployment")]),
            false,
        ),
        ("fn-a-backup", json!([fn_a]), false),
        ("fn-b-0123456789", json!([fn_a]), false),
    ] {
        let secret = serde_json::from_value(json!({
            "metadata": { "name": name, "uid": "su", "ownerReferences": owners,
                "labels": { labels::FUNCTION: "fn-a" } },
        }));
        let seen = secret_seen(&secret.unwrap());
        let want = ours.then(|| (name.to_owned(), "su".to_owned()));
        assert_eq!(seen, want, "{name} {owners}");
    }
}
