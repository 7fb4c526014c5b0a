//! The statuses that kubelets and the scheduler write, in their words.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::{ClusterConfig, Ending};
use crate::store::now;

/// How a container stands after an attempt to start it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Ready,
    NotReady,
    ImageMissing,
}

pub(super) fn node(name: &str, address: Ipv4Addr, config: &ClusterConfig) -> Value {
    let resources = json!({
        "cpu": "16",
        "memory": format!("{}Mi", config.memory_mb_per_node),
        "pods": config.pods_per_node.to_string(),
    });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        } },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "kubelet is posting ready status",
                "lastHeartbeatTime": now(),
                "lastTransitionTime": now(),
            }],
            "addresses": [
                { "type": "InternalIP", "address": address },
                { "type": "Hostname", "address": name },
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "containerd://2.1.4",
                "kernelVersion": "6.12",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.2",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "Debian GNU/Linux 13",
                "systemUUID": "",
            },
        },
    })
}

/// Memory that the pod's containers ask for, in MiB, rounded up.
pub(super) fn memory_mb(pod: &Value) -> u64 {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers
        .into_iter()
        .flatten()
        .filter_map(|container| {
            let resources = &container["resources"];
            let asked = resources.pointer("/requests/memory");
            asked.or_else(|| resources.pointer("/limits/memory"))
        })
        .filter_map(|quantity| bytes_of(quantity.as_str()?))
        .sum::<u64>()
        .div_ceil(1 << 20)
}

fn bytes_of(quantity: &str) -> Option<u64> {
    let digits = quantity.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &quantity[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Value {
    let mut condition = json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "lastTransitionTime": now(),
    });
    if !reason.is_empty() {
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
    }
    condition
}

/// Sets a condition, keeping the time of its last transition where nothing changed.
fn set_condition(pod: &mut Value, new: Value) {
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("made an array above");
    match conditions
        .iter_mut()
        .find(|condition| condition["type"] == new["type"])
    {
        Some(old)
            if old["status"] == new["status"]
                && old["reason"] == new["reason"]
                && old["message"] == new["message"] => {}
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

pub(super) fn unschedulable(pod: &mut Value, why: &str) {
    set_condition(pod, condition("PodScheduled", false, "Unschedulable", why));
}

/// What the scheduler writes: the kubelet has said nothing yet.
pub(super) fn bound(pod: &mut Value, node: &str) {
    pod["spec"]["nodeName"] = json!(node);
    set_condition(pod, condition("PodScheduled", true, "", ""));
}

/// The first that the kubelet writes.
fn seen(pod: &mut Value, node: Ipv4Addr) {
    if pod.pointer("/status/hostIP").is_none() {
        pod["status"]["hostIP"] = json!(node);
        pod["status"]["startTime"] = json!(now());
    }
}

pub(super) fn creating(pod: &mut Value, node: Ipv4Addr) {
    seen(pod, node);
    let waiting: Vec<Value> = containers(pod)
        .map(|container| {
            json!({
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": false,
                "restartCount": 0,
                "started": false,
                "state": { "waiting": { "reason": "ContainerCreating" } },
            })
        })
        .collect();
    pod["status"]["containerStatuses"] = Value::Array(waiting);
}

pub(super) fn started(
    pod: &mut Value,
    node: Ipv4Addr,
    address: IpAddr,
    state_of: impl Fn(&Value) -> Container,
) {
    seen(pod, node);
    let backing_off = pod
        .pointer("/status/containerStatuses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|status| status.pointer("/state/waiting/reason") == Some(&json!("ErrImagePull")));
    let inits: Vec<Value> = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| {
            json!({
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": true,
                "restartCount": 0,
                "started": false,
                "state": { "terminated": {
                    "exitCode": 0,
                    "reason": "Completed",
                    "startedAt": now(),
                    "finishedAt": now(),
                } },
            })
        })
        .collect();
    let states: Vec<Container> = containers(pod).map(&state_of).collect();
    let statuses: Vec<Value> = containers(pod)
        .zip(&states)
        .map(|(container, state)| container_status(container, *state, backing_off))
        .collect();
    let all_ready = states.iter().all(|state| *state == Container::Ready);
    let all_running = !states.contains(&Container::ImageMissing);
    let unready: Vec<&str> = containers(pod)
        .zip(&states)
        .filter(|(_, state)| **state != Container::Ready)
        .filter_map(|(container, _)| container["name"].as_str())
        .collect();
    let why = format!("containers with unready status: [{}]", unready.join(" "));
    let reason = if all_ready { "" } else { "ContainersNotReady" };

    let status = &mut pod["status"];
    status["phase"] = json!(if all_running { "Running" } else { "Pending" });
    status["podIP"] = json!(address);
    status["podIPs"] = json!([{ "ip": address }]);
    if !inits.is_empty() {
        status["initContainerStatuses"] = Value::Array(inits);
    }
    status["containerStatuses"] = Value::Array(statuses);
    set_condition(pod, condition("PodReadyToStartContainers", true, "", ""));
    set_condition(pod, condition("Initialized", true, "", ""));
    set_condition(pod, condition("ContainersReady", all_ready, reason, &why));
    set_condition(pod, condition("Ready", all_ready, reason, &why));
}

fn container_status(container: &Value, state: Container, backing_off: bool) -> Value {
    let image = container["image"].as_str().unwrap_or_default();
    let running = state != Container::ImageMissing;
    let state_json = match state {
        Container::Ready | Container::NotReady => json!({ "running": { "startedAt": now() } }),
        Container::ImageMissing => {
            let failure = format!(
                "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
            );
            let (reason, message) = if backing_off {
                let message =
                    format!("Back-off pulling image \"{image}\": ErrImagePull: {failure}");
                ("ImagePullBackOff", message)
            } else {
                ("ErrImagePull", failure)
            };
            json!({ "waiting": { "reason": reason, "message": message } })
        }
    };
    let mut status = json!({
        "name": container["name"],
        "image": image,
        "imageID": if running { image } else { "" },
        "ready": state == Container::Ready,
        "restartCount": 0,
        "started": running,
        "state": state_json,
        "resources": container["resources"],
    });
    if running {
        status["containerID"] = json!(format!("containerd://{}", container["name"]));
    }
    status
}

/// Whether a container has other resources than it is said to have.
pub(super) fn is_to_be_resized(pod: &Value) -> bool {
    let mut resized = pod.clone();
    resized_containers(&mut resized);
    resized["status"] != pod["status"]
}

/// Why resources are not what the spec has.
pub(super) fn not_resized(pod: &mut Value, reason: &str) {
    let why = "Node didn't have enough resource: memory";
    set_condition(pod, condition("PodResizePending", true, reason, why));
}

/// Reports the resources that the spec has now.
pub(super) fn resized(pod: &mut Value) {
    resized_containers(pod);
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodResizePending");
    }
}

fn resized_containers(pod: &mut Value) {
    let wanted: Vec<(Value, Value)> = containers(pod)
        .map(|container| (container["name"].clone(), container["resources"].clone()))
        .collect();
    let statuses = pod
        .pointer_mut("/status/containerStatuses")
        .and_then(Value::as_array_mut);
    for status in statuses.into_iter().flatten() {
        if let Some((_, resources)) = wanted.iter().find(|(name, _)| *name == status["name"]) {
            status["resources"] = resources.clone();
        }
    }
}

/// Ends what runs of a pod that is going, as a container does that leaves SIGTERM to its default.
pub(super) fn stopped(pod: &mut Value) {
    let statuses = pod.pointer("/status/containerStatuses");
    let running: Vec<String> = statuses
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|status| status.pointer("/state/running").is_some())
        .filter_map(|status| status["name"].as_str().map(str::to_owned))
        .collect();
    for name in running {
        end_container(pod, &name, Ending::Exited(143));
    }
}

pub(super) fn end_container(pod: &mut Value, name: &str, ending: Ending) {
    let (code, reason) = match ending {
        Ending::OutOfMemory => (137, "OOMKilled"),
        Ending::Exited(0) => (0, "Completed"),
        Ending::Exited(code) => (code, "Error"),
    };
    let statuses = pod
        .pointer_mut("/status/containerStatuses")
        .and_then(Value::as_array_mut);
    let mut codes = Vec::new();
    for status in statuses.into_iter().flatten() {
        if status["name"] == name {
            status["ready"] = json!(false);
            status["started"] = json!(false);
            status["state"] = json!({ "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": status.pointer("/state/running/startedAt").cloned(),
                "finishedAt": now(),
                "containerID": status["containerID"],
            } });
        }
        codes.push(status.pointer("/state/terminated/exitCode").cloned());
    }
    if codes.iter().all(Option::is_some) {
        let failed = codes.iter().flatten().any(|code| *code != 0);
        pod["status"]["phase"] = json!(if failed { "Failed" } else { "Succeeded" });
    }
    let why = format!("containers with unready status: [{name}]");
    set_condition(
        pod,
        condition("ContainersReady", false, "ContainersNotReady", &why),
    );
    set_condition(pod, condition("Ready", false, "ContainersNotReady", &why));
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().into_iter().flatten()
}
