//! What an object's `Ready` condition says.

use std::fmt;
use std::time::Duration;

/// Why a function's or a pool's pods do not come up. Its text is the condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionReason {
    ImagePullFailed,
    ContainerConfigInvalid,
    PodUnschedulable,
    PodNeverReady,
    FunctionExited,
    OutOfMemory,
    /// The runner container ended. That is not a fault of the function.
    RunnerFailed,
    PodLost,
    NoWarmPool,
    PoolEmpty,
    StartFailed,
    QuotaExceeded,
    Forbidden,
    InvalidSpec,
    ResourceDefinitionOutdated,
    ApiRefused,
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: ConditionReason,
    /// What to do about it.
    pub message: String,
}

impl Trouble {
    pub(super) fn never_ready(after: Duration) -> Self {
        Self {
            reason: ConditionReason::PodNeverReady,
            message: format!(
                "a pod has a node and does not run after {} s; `kubectl describe pod` shows what it waits for",
                after.as_secs()
            ),
        }
    }

    /// A pod was there and the function did not come up in it.
    pub(super) fn start_failed(message: &str) -> Self {
        Self {
            reason: ConditionReason::StartFailed,
            message: format!("{message}; correct it and deploy it anew"),
        }
    }

    pub(super) fn pool_empty(after: Duration) -> Self {
        Self {
            reason: ConditionReason::PoolEmpty,
            message: format!(
                "no pod of it has waited for {} s, so every bundle waits for one to start; raise its size, or see what takes its pods so long",
                after.as_secs()
            ),
        }
    }

    /// What is wrong with a pool, for a bundle that waits for it. By the reason gateways tell whether
    /// another region may do better, and a pool is the region's: that its image cannot be had, say, is
    /// no fault of the bundle.
    pub(super) fn of_its_pool(what: &str, trouble: &Self) -> Self {
        let reason = match trouble.reason {
            ConditionReason::PodUnschedulable => ConditionReason::PodUnschedulable,
            _ => ConditionReason::PoolEmpty,
        };
        Self {
            reason,
            message: format!("{what}, {}: {}", trouble.reason, trouble.message),
        }
    }

    pub(super) fn no_warm_pool(runtime: &str) -> Self {
        Self {
            reason: ConditionReason::NoWarmPool,
            message: format!(
                "no WarmPool has the runtime {runtime:?} that its bundle needs; create one"
            ),
        }
    }
}

/// A condition of type `Ready` as the object has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    pub generation: i64,
    pub ready: bool,
    pub reason: String,
}

/// A condition of type `Ready` as the object should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub generation: i64,
    pub trouble: Option<Trouble>,
}

impl Condition {
    #[must_use]
    pub fn reason(&self) -> String {
        self.trouble.as_ref().map_or_else(
            || "Serving".to_owned(),
            |trouble| trouble.reason.to_string(),
        )
    }

    #[must_use]
    pub fn message(&self) -> &str {
        self.trouble
            .as_ref()
            .map_or("nothing stands in its way", |trouble| &trouble.message)
    }
}

#[derive(Default)]
pub(super) struct Evidence {
    pub runs: bool,
    /// A pod that nobody has runs or is about to.
    pub comes: bool,
    pub trouble: Option<Trouble>,
}

/// `None` if what is stated may stand.
///
/// A trouble is stated until something runs: with nobody calling, no pod is there to show that it
/// is over. Its message alone is no change: kubelets word the same trouble in turns.
pub(super) fn judge(
    evidence: Evidence,
    generation: i64,
    stated: Option<&Stated>,
) -> Option<Condition> {
    let current = stated.filter(|stated| stated.generation == generation);
    let stands = match (&evidence.trouble, current) {
        (_, None) => false,
        (Some(trouble), Some(stated)) => {
            !stated.ready && stated.reason == trouble.reason.to_string()
        }
        (None, Some(stated)) => stated.ready || !evidence.runs,
    };
    (!stands).then_some(Condition {
        generation,
        trouble: evidence.trouble,
    })
}
