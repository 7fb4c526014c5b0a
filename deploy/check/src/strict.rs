//! Kubernetes' types ignore fields they do not know, as old clients must; a typing error in a chart is
//! such a field. So what was read is written again, and whatever is missing then was never read.

use k8s_openapi::api::{
    apps::v1 as apps, core::v1 as core, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use region_plane_resources::WarmPool;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why an object is not one that Kubernetes would take.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    #[error("{kind} {name} is not of a kind that these charts have")]
    Kind { kind: String, name: String },
    #[error("{kind} {name}: {source}")]
    Malformed {
        kind: String,
        name: String,
        source: serde_json::Error,
    },
    #[error("{kind} {name} has what its kind does not know: {}", fields.join(", "))]
    Unknown {
        kind: String,
        name: String,
        fields: Vec<String>,
    },
}

/// The objects in a stream of YAML documents.
///
/// # Errors
/// If it is not YAML, or a key is given twice.
pub fn documents(yaml: &str) -> Result<Vec<Value>, serde_saphyr::Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// Reads an object into its type and returns what the type holds.
///
/// # Errors
/// If it is none of the kinds in our charts, lacks or mistypes a field, or has one too many.
pub fn read(object: &Value) -> Result<Value, NotRead> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = format!("{}/{}", text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    let held = match kind.as_str() {
        "v1/ConfigMap" => held::<core::ConfigMap>(object),
        "v1/PersistentVolumeClaim" => held::<core::PersistentVolumeClaim>(object),
        "v1/Service" => held::<core::Service>(object),
        "v1/ServiceAccount" => held::<core::ServiceAccount>(object),
        "apiextensions.k8s.io/v1/CustomResourceDefinition" => {
            held::<CustomResourceDefinition>(object)
        }
        "apps/v1/DaemonSet" => held::<apps::DaemonSet>(object),
        "apps/v1/Deployment" => held::<apps::Deployment>(object),
        "apps/v1/StatefulSet" => held::<apps::StatefulSet>(object),
        "flowcontrol.apiserver.k8s.io/v1/FlowSchema" => held::<flowcontrol::FlowSchema>(object),
        "flowcontrol.apiserver.k8s.io/v1/PriorityLevelConfiguration" => {
            held::<flowcontrol::PriorityLevelConfiguration>(object)
        }
        "monitoring.coreos.com/v1/ServiceMonitor" => held::<ServiceMonitor>(object),
        "networking.k8s.io/v1/NetworkPolicy" => held::<networking::NetworkPolicy>(object),
        "policy/v1/PodDisruptionBudget" => held::<policy::PodDisruptionBudget>(object),
        "rbac.authorization.k8s.io/v1/ClusterRole" => held::<rbac::ClusterRole>(object),
        "rbac.authorization.k8s.io/v1/ClusterRoleBinding" => {
            held::<rbac::ClusterRoleBinding>(object)
        }
        "rbac.authorization.k8s.io/v1/Role" => held::<rbac::Role>(object),
        "rbac.authorization.k8s.io/v1/RoleBinding" => held::<rbac::RoleBinding>(object),
        "scheduling.k8s.io/v1/PriorityClass" => held::<scheduling::PriorityClass>(object),
        "tradewind.dev/v1alpha1/WarmPool" => held::<WarmPool>(object),
        _ => return Err(NotRead::Kind { kind, name }),
    };
    let held = match held {
        Ok(held) => held,
        Err(source) => return Err(NotRead::Malformed { kind, name, source }),
    };
    let mut fields = Vec::new();
    unread(object, &held, "", &mut fields);
    if fields.is_empty() {
        Ok(held)
    } else {
        Err(NotRead::Unknown { kind, name, fields })
    }
}

fn held<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(object)?)
}

/// Paths into `given` where `held` has nothing or something else.
fn unread(given: &Value, held: &Value, path: &str, fields: &mut Vec<String>) {
    match (given, held) {
        (Value::Object(given), Value::Object(held)) => {
            for (name, inner) in given {
                let path = format!("{path}.{name}");
                match held.get(name) {
                    Some(kept) => unread(inner, kept, &path, fields),
                    None => fields.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(held)) if given.len() == held.len() => {
            for (index, (inner, kept)) in given.iter().zip(held).enumerate() {
                unread(inner, kept, &format!("{path}[{index}]"), fields);
            }
        }
        _ if given == held => {}
        _ => fields.push(path.to_owned()),
    }
}

/// The Prometheus operator's, as far as our charts use it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceMonitor {
    api_version: String,
    kind: String,
    metadata: Map<String, Value>,
    spec: ServiceMonitorSpec,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceMonitorSpec {
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    target_labels: Vec<String>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_kubernetes_would_refuse_or_ignore_is_an_error() {
        let service =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";
        assert!(read(&documents(service).unwrap()[0]).is_ok());
        for (from, to, want) in [
            ("kind: Service", "kind: Servise", "not of a kind"),
            ("spec:", "specs:", ".specs"),
            ("port: 1", "port: 1, prot: x", ".spec.ports[0].prot"),
            ("port: 1", "port: one", "invalid type"),
            ("metadata: {", "metadata: {labels: {a: 1}, ", "invalid type"),
            (
                "{name: a}",
                "{name: a, finalizer: [x]}",
                ".metadata.finalizer",
            ),
        ] {
            let text = service.replace(from, to);
            let error = read(&documents(&text).unwrap()[0]).unwrap_err().to_string();
            assert!(error.contains(want), "{to}: {error}");
        }
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        assert!(documents("a: 1\na: 2\n").is_err());
    }
}
