//! What kube-apiserver fills in, refuses and keeps of a pod.

use serde_json::{Map, Value, json};

use crate::refusal::{self, FailureStatus, Invalid};
use crate::resource::Definition;

fn set_default(fields: &mut Map<String, Value>, name: &str, value: Value) {
    fields.entry(name).or_insert(value);
}

/// Fills in what an operator may compare with what it sent.
pub(crate) fn set_defaults(pod: &mut Value) {
    pod["status"] = json!({ "phase": "Pending", "qosClass": quality_of_service(pod) });
    let Some(spec) = pod["spec"].as_object_mut() else {
        return;
    };
    set_default(spec, "restartPolicy", json!("Always"));
    set_default(spec, "dnsPolicy", json!("ClusterFirst"));
    set_default(spec, "schedulerName", json!("default-scheduler"));
    set_default(spec, "terminationGracePeriodSeconds", json!(30));
    set_default(spec, "enableServiceLinks", json!(true));
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "serviceAccountName", json!("default"));
    set_default(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    set_default(spec, "priority", json!(0));
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let tagged_latest = container["image"].as_str().is_some_and(|image| {
                let name = image.rsplit('/').next().unwrap_or_default();
                !name.contains(':') || name.ends_with(":latest")
            });
            let Some(container) = container.as_object_mut() else {
                continue;
            };
            let pull = if tagged_latest {
                "Always"
            } else {
                "IfNotPresent"
            };
            set_default(container, "imagePullPolicy", json!(pull));
            set_default(container, "resources", json!({}));
            set_default(
                container,
                "terminationMessagePath",
                json!("/dev/termination-log"),
            );
            set_default(container, "terminationMessagePolicy", json!("File"));
            let ports = container.get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    set_default(port, "protocol", json!("TCP"));
                }
            }
        }
    }
}

fn quality_of_service(pod: &Value) -> &'static str {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let resources: Vec<&Value> = containers
        .into_iter()
        .flatten()
        .map(|container| &container["resources"])
        .collect();
    let sets = |resources: &&Value, kind: &str| {
        resources[kind]
            .as_object()
            .is_some_and(|set| !set.is_empty())
    };
    if !resources
        .iter()
        .any(|each| sets(each, "limits") || sets(each, "requests"))
    {
        return "BestEffort";
    }
    let guaranteed = resources.iter().all(|each| {
        let same = |name: &str| {
            let limit = &each["limits"][name];
            let request = &each["requests"][name];
            !limit.is_null() && (request.is_null() || request == limit)
        };
        same("cpu") && same("memory")
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

pub(crate) fn problems(pod: &Value) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let mut refuse = |field: String, message: &str| {
        problems.push(Invalid {
            field,
            message: message.to_owned(),
        });
    };
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let volumes: Vec<&str> = pod
        .pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    if containers.is_none_or(Vec::is_empty) {
        refuse("spec.containers".to_owned(), "Required value");
    }
    let mut names = Vec::new();
    for list in ["initContainers", "containers"] {
        let containers = pod["spec"][list].as_array();
        for (at, container) in containers.into_iter().flatten().enumerate() {
            let field = |name: &str| format!("spec.{list}[{at}].{name}");
            let name = container["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                refuse(field("name"), "Required value");
            } else if names.contains(&name) {
                refuse(field("name"), &format!("Duplicate value: {name:?}"));
            }
            names.push(name);
            if container["image"].as_str().is_none_or(str::is_empty) {
                refuse(field("image"), "Required value");
            }
            let mounts = container["volumeMounts"].as_array();
            for mount in mounts.into_iter().flatten() {
                let volume = mount["name"].as_str().unwrap_or_default();
                if !volumes.contains(&volume) {
                    refuse(
                        field("volumeMounts.name"),
                        &format!("Not found: {volume:?}"),
                    );
                }
            }
        }
    }
    problems
}

/// Every field of a pod's spec but these is fixed when it is made.
const CHANGEABLE: [&str; 4] = [
    "activeDeadlineSeconds",
    "terminationGracePeriodSeconds",
    "tolerations",
    "schedulingGates",
];

/// # Errors
/// 422 if the update changes what only a new pod can have.
pub(crate) fn check_update(
    definition: &Definition,
    name: &str,
    old: &Value,
    new: &Value,
) -> Result<(), FailureStatus> {
    if fixed_part(old) == fixed_part(new) {
        return Ok(());
    }
    let problem = Invalid {
        field: "spec".to_owned(),
        message: "Forbidden: pod updates may not change fields other than \
                  `spec.containers[*].image`,`spec.initContainers[*].image`,\
                  `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                  tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if \
                  it was previously negative)"
            .to_owned(),
    };
    Err(refusal::invalid(definition, name, &[problem]))
}

fn fixed_part(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        for name in CHANGEABLE {
            spec.remove(name);
        }
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.remove("image");
                }
            }
        }
    }
    spec
}

/// `old` with the resources of `new`: what the `resize` subresource changes.
pub(crate) fn resized(old: &Value, new: &Value) -> Result<Value, FailureStatus> {
    let mut pod = old.clone();
    let wanted = new.pointer("/spec/containers").and_then(Value::as_array);
    let containers = pod
        .pointer_mut("/spec/containers")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| refusal::bad_request("the pod has no containers"))?;
    for container in containers {
        let resized = wanted
            .into_iter()
            .flatten()
            .find(|wanted| wanted["name"] == container["name"]);
        if let Some(resized) = resized {
            container["resources"] = resized["resources"].clone();
        }
    }
    Ok(pod)
}

/// How long the pod may take to end; 0 removes it at once.
pub(crate) fn grace_seconds(pod: &Value, asked: Option<i64>) -> i64 {
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    let unbound = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    if ended || unbound {
        return 0;
    }
    asked
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
        .max(0)
}
