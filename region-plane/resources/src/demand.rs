//! What a gateway asks of the operator, over `POST /v1/demand`.
//!
//! Soft state: the operator holds the last one of each gateway and forgets it
//! [`FORGOTTEN_AFTER`] after it came. One that does not lead answers 503.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Path of the one request there is.
pub const PATH: &str = "/v1/demand";

/// A gateway tells its demand at least this often, and at once when it changes.
pub const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Ten missed: a gateway that is only slow keeps its pods.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// The same each time the gateway is started.
    pub gateway: String,
    /// Larger each time it is started: what an earlier one said is void.
    #[serde(default)]
    pub boot: u64,
    /// Grows with each of a boot; an older one that comes late is dropped.
    pub sequence: u64,
    /// Functions that have or want instances.
    pub functions: Vec<FunctionDemand>,
    /// Pods this gateway has taken.
    pub claims: Vec<ClaimedPod>,
    /// Names of pods it gave back and that no instance should be made of again. Told until they
    /// are gone.
    pub finished: Vec<String>,
    /// Functions whose last start failed by what they did; at most [`FAILURES_MAX`].
    #[serde(default)]
    pub failures: Vec<StartFailure>,
}

/// Bounds a demand in which everything fails.
pub const FAILURES_MAX: usize = 1_000;

/// A function that a pod was there for and that did not come up in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    pub function: String,
    pub settings: String,
    /// What it did, for whoever owns it.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDemand {
    /// Its [`crate::object_name`].
    pub function: String,
    /// Its [`crate::settings_text`].
    pub settings: String,
    /// Instances it has taken, and those its calls wait for.
    pub wanted: u32,
    pub code: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A pod is made of its own image.
    Image,
    /// A pod of this runtime loads it.
    Bundle { runtime: String, memory_mb: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedPod {
    pub pod: String,
    pub function: String,
    pub settings: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandReply {
    /// The lease transitions of the operator that answers; a reply with a smaller one is stale.
    pub fence: u64,
    /// Functions whose pods do not come up.
    pub problems: Vec<Problem>,
    pub sizing: Sizing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub function: String,
    /// Of which [`crate::settings_text`] it is; of all if there is none. What was changed since may
    /// be what was wrong.
    #[serde(default)]
    pub settings: Option<String>,
    /// As in the function's `Ready` condition: `ImagePullFailed`, `QuotaExceeded`, ….
    pub reason: String,
    /// For whoever owns the function or the cluster: what to do.
    pub message: String,
}

/// How much room the cluster has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// That are ready and take pods.
    pub nodes: u32,
    pub allocatable_memory_mb: u64,
    /// Pods of ours that no node has taken.
    pub pending_pods: u32,
}
