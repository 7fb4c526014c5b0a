//! `WarmPool`: pods of one runtime that wait for a bundle.
#![expect(
    clippy::duplicated_attributes,
    reason = "each printed column has the same keys, which clippy takes for attributes"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Pods that are kept waiting, so that a bundle starts without a pod being made.
///
/// An instance takes a pod out of its pool; the operator makes another.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tradewind.dev",
    version = "v1alpha1",
    kind = "WarmPool",
    namespaced,
    derive = "PartialEq",
    doc = "Pods of one runtime that wait for a bundle.",
    shortname = "twpool",
    category = "tradewind",
    status = "WarmPoolStatus",
    printcolumn(name = "Runtime", type_ = "string", json_path = ".spec.runtime"),
    printcolumn(name = "Size", type_ = "integer", json_path = ".spec.size"),
    printcolumn(name = "Memory", type_ = "integer", json_path = ".spec.memoryMb"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct WarmPoolSpec {
    /// The runtime of the bundles it can load, as a bundle's manifest names it: `python3.11`,
    /// `node`, `rust`. A label value.
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
            .message("runtime must be lower-case letters, digits, dots and hyphens")
    )]
    #[schemars(length(min = 1, max = 63))]
    pub runtime: String,
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// Pods that wait; those that were taken are beside these.
    #[schemars(range(min = 0, max = 10_000))]
    pub size: i32,
    /// Megabytes the function container of each may use; functions that need more do not fit.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub memory_mb: i64,
    /// Thousandths of a core each asks the scheduler for. It may use what is idle beyond that.
    #[serde(default = "default_cpu_millis")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cpu_millis: i32,
}

/// Ten to a core: most functions wait for something most of the time.
fn default_cpu_millis() -> i32 {
    100
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmPoolStatus {
    /// The `metadata.generation` this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One of type `Ready`: `False` while something keeps its pods from coming up, or none has
    /// waited for half a minute. How many wait now is not here, where it would be a write for every
    /// pod that is taken: ask for pods with the label `tradewind.dev/pool` and none that is
    /// `tradewind.dev/function`, or the operator's `/v1/status`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
