//! Writes to the API server: one request each, with a time limit, and no retry. What failed is
//! planned again from what is seen then.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as Stated, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};
use region_plane_resources::{Function, WarmPool, labels};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::api_failure::{ApiFailure, api_failure};
use crate::bucket::WriteOutcome;
use crate::lease::Leadership;
use crate::plan::{Action, Condition, Moment, Owner, Resizing, Why};
use crate::template::{SAFE_TO_EVICT, megabytes};
use crate::writer::Wanted;

/// An API server that takes longer than this for one object is not going to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// For a pod that its gateway gave back. No call is in it, unless another gateway took it in the second
/// before it was told to be of other settings. And a function that ignores signals, as most programs do
/// that are their container's first, would keep its memory for as long as it may.
const FINISHED_GRACE_SECS: u32 = 1;

#[derive(Debug)]
pub enum Write {
    Create {
        owner: Owner,
        pod: Box<Pod>,
    },
    Delete {
        pod: String,
        uid: String,
        why: Why,
    },
    Resize {
        pod: String,
        uid: String,
        memory_mb: u64,
        settings: Option<String>,
        how: Resizing,
    },
    Label {
        pod: String,
        uid: String,
        function: String,
        settings: String,
    },
    State {
        owner: Owner,
        condition: Condition,
        /// When it became so, unless it becomes so now.
        since: Option<String>,
    },
    ApplyFunction {
        name: String,
        object: Box<Function>,
        wanted: Arc<Wanted>,
    },
    ApplySecret {
        function: String,
        object: Box<Secret>,
    },
    DeleteFunction {
        name: String,
        uid: String,
    },
    DeleteSecret {
        name: String,
        uid: String,
    },
}

/// Which bucket a write is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Create,
    Delete,
    Other,
}

impl Write {
    #[must_use]
    pub fn sort(&self) -> Sort {
        match self {
            Self::Create { .. } => Sort::Create,
            Self::Delete { .. } => Sort::Delete,
            _ => Sort::Other,
        }
    }

    /// As roles name them.
    #[must_use]
    pub fn verb_and_resource(&self) -> (&'static str, &'static str) {
        match self {
            Self::Create { .. } => ("create", "pods"),
            Self::Delete { .. } => ("delete", "pods"),
            Self::Resize {
                how: Resizing::Grow | Resizing::Shrink,
                ..
            } => ("patch", "pods/resize"),
            Self::Resize { .. } | Self::Label { .. } => ("patch", "pods"),
            Self::State {
                owner: Owner::Function(_),
                ..
            } => ("patch", "functions/status"),
            Self::State { .. } => ("patch", "warmpools/status"),
            Self::ApplyFunction { .. } => ("patch", "functions"),
            Self::ApplySecret { .. } => ("patch", "secrets"),
            Self::DeleteFunction { .. } => ("delete", "functions"),
            Self::DeleteSecret { .. } => ("delete", "secrets"),
        }
    }
}

#[derive(Debug)]
pub struct Done {
    pub write: Write,
    pub result: Result<WriteReply, ApiFailure>,
    /// `None` if it was not sent.
    pub outcome: Option<WriteOutcome>,
}

#[derive(Debug)]
pub enum WriteReply {
    Nothing,
    Uid(String),
    Object(Arc<DynamicObject>),
}

#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    start: Instant,
    /// Of the lease.
    ttl: Duration,
    leadership: watch::Receiver<Option<Leadership>>,
}

impl Writer {
    #[must_use]
    pub fn new(
        client: Client,
        namespace: String,
        start: Instant,
        ttl: Duration,
        leadership: watch::Receiver<Option<Leadership>>,
    ) -> Self {
        Self {
            client,
            namespace,
            start,
            ttl,
            leadership,
        }
    }

    /// Does `write` if `fence` is still that of the leader, which is us.
    pub async fn perform(self, write: Write, fence: u64) -> Done {
        let now = self.start.elapsed();
        let held = *self.leadership.borrow();
        let Some(held) = held.filter(|held| held.fence == fence && held.holds(now)) else {
            return Done {
                write,
                result: Err(ApiFailure::Conflict),
                outcome: None,
            };
        };
        let patience = patience(held, self.ttl, now);
        let (verb, resource) = write.verb_and_resource();
        let began = Instant::now();
        let result = match timeout(patience, self.send(&write)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(api_failure(&error, verb, resource)),
            Err(_) => Err(ApiFailure::Lost("no answer in time".to_owned())),
        };
        let took = began.elapsed();
        let label = result.as_ref().err().map_or("done", ApiFailure::label);
        metrics::counter!("tradewind_operator_writes_total",
            "verb" => verb, "resource" => resource, "result" => label)
        .increment(1);
        metrics::histogram!("tradewind_operator_write_seconds", "verb" => verb)
            .record(took.as_secs_f64());
        let outcome = match &result {
            Err(ApiFailure::Throttled { retry_after }) => WriteOutcome::Throttled {
                retry_after: *retry_after,
            },
            Err(ApiFailure::Lost(_)) => WriteOutcome::Lost,
            _ => WriteOutcome::Answered { took },
        };
        Done {
            write,
            result,
            outcome: Some(outcome),
        }
    }

    async fn send(&self, write: &Write) -> Result<WriteReply, kube::Error> {
        let pods = || Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let secrets = || Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let ours = PatchParams::apply(labels::OPERATOR_MANAGER);
        let merging = PatchParams {
            field_manager: Some(labels::OPERATOR_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let replica = PatchParams::apply(labels::REPLICA_MANAGER).force();
        match write {
            Write::Create { pod, .. } => {
                let params = PostParams {
                    field_manager: Some(labels::OPERATOR_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                let made = pods().create(&params, pod).await?;
                Ok(WriteReply::Uid(made.metadata.uid.unwrap_or_default()))
            }
            Write::Delete { pod, uid, why } => {
                pods().delete(pod, &deletion(uid, *why)).await?;
                Ok(WriteReply::Nothing)
            }
            Write::Resize {
                pod,
                uid,
                memory_mb,
                settings,
                how,
            } => {
                let mut labels = serde_json::Map::new();
                labels.insert(labels::MEMORY_MB.to_owned(), memory_mb.to_string().into());
                if let Some(settings) = settings {
                    labels.insert(labels::SETTINGS.to_owned(), settings.clone().into());
                }
                let told = json!({ "metadata": { "uid": uid, "labels": labels } });
                let memory = megabytes(*memory_mb);
                let resources = json!({
                    "requests": { "memory": memory }, "limits": { "memory": memory },
                });
                let container = json!({
                    "name": labels::FUNCTION_CONTAINER, "resources": resources,
                });
                let resized = json!({
                    "metadata": { "uid": uid }, "spec": { "containers": [container] },
                });
                if let Resizing::Shrink | Resizing::Tell = how {
                    pods().patch(pod, &merging, &Patch::Merge(told)).await?;
                }
                if let Resizing::Grow | Resizing::Shrink = how {
                    pods()
                        .patch_subresource("resize", pod, &merging, &Patch::Strategic(resized))
                        .await?;
                }
                Ok(WriteReply::Nothing)
            }
            Write::Label {
                pod,
                uid,
                function,
                settings,
            } => {
                let metadata = json!({
                    "uid": uid,
                    "labels": { labels::FUNCTION: function, labels::SETTINGS: settings },
                    "annotations": { SAFE_TO_EVICT: "false" },
                });
                let patch = json!({ "metadata": metadata });
                pods().patch(pod, &merging, &Patch::Merge(patch)).await?;
                Ok(WriteReply::Nothing)
            }
            Write::State {
                owner,
                condition,
                since,
            } => {
                let patch = status(owner, condition, since.as_deref());
                let api = match owner {
                    Owner::Function(_) => self.dynamic::<Function>(),
                    Owner::Pool(_) => self.dynamic::<WarmPool>(),
                };
                let object = api
                    .patch_status(owner.name(), &ours.force(), &Patch::Apply(patch))
                    .await?;
                Ok(WriteReply::Object(Arc::new(object)))
            }
            Write::ApplyFunction { name, object, .. } => {
                let api = self.dynamic::<Function>();
                let mut stored = api.patch(name, &replica, &Patch::Apply(object)).await?;
                if let Some(patch) = without_extras(&stored, object) {
                    let ours = PatchParams {
                        field_manager: Some(labels::REPLICA_MANAGER.to_owned()),
                        ..PatchParams::default()
                    };
                    stored = api.patch(name, &ours, &Patch::Merge(patch)).await?;
                }
                Ok(WriteReply::Object(Arc::new(stored)))
            }
            Write::ApplySecret { object, .. } => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let applied = secrets()
                    .patch(name, &replica, &Patch::Apply(object))
                    .await?;
                Ok(WriteReply::Uid(applied.metadata.uid.unwrap_or_default()))
            }
            Write::DeleteFunction { name, uid } => {
                self.dynamic::<Function>().delete(name, &only(uid)).await?;
                Ok(WriteReply::Nothing)
            }
            Write::DeleteSecret { name, uid } => {
                secrets().delete(name, &only(uid)).await?;
                Ok(WriteReply::Nothing)
            }
        }
    }

    /// So that an answer under an older definition is still one.
    fn dynamic<K: kube::Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind)
    }
}

/// What is done later than that is done while another may lead, who knows what we do not.
fn patience(held: Leadership, ttl: Duration, now: Moment) -> Duration {
    let taken = held.until + ttl / 3;
    PATIENCE.min(taken.saturating_sub(now))
}

/// Takes out what somebody put into the spec that we leave out: applying ours does not, since it was
/// never ours.
fn without_extras(stored: &DynamicObject, sent: &Function) -> Option<serde_json::Value> {
    let sent = serde_json::to_value(&sent.spec).expect("a spec is plain data");
    let extras: serde_json::Map<_, _> = stored.data["spec"]
        .as_object()?
        .keys()
        .filter(|field| sent.get(field).is_none())
        .map(|field| (field.clone(), serde_json::Value::Null))
        .collect();
    (!extras.is_empty()).then(|| json!({ "spec": extras }))
}

/// Never another object that has come by the same name.
fn only(uid: &str) -> DeleteParams {
    DeleteParams::background().preconditions(Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    })
}

fn deletion(uid: &str, why: Why) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: (why == Why::Finished).then_some(FINISHED_GRACE_SECS),
        ..only(uid)
    }
}

/// What is applied as an object's status.
fn status(owner: &Owner, condition: &Condition, since: Option<&str>) -> serde_json::Value {
    let kind = match owner {
        Owner::Function(_) => "Function",
        Owner::Pool(_) => "WarmPool",
    };
    let since = since.and_then(|text| text.parse().ok());
    let stated = Stated {
        type_: "Ready".to_owned(),
        status: match condition.trouble {
            None => "True".to_owned(),
            Some(_) => "False".to_owned(),
        },
        reason: condition.reason(),
        message: condition.message().to_owned(),
        observed_generation: Some(condition.generation),
        last_transition_time: Time(since.unwrap_or_else(Timestamp::now)),
    };
    json!({
        "apiVersion": format!("{}/{}", region_plane_resources::GROUP, region_plane_resources::VERSION),
        "kind": kind,
        "metadata": { "name": owner.name() },
        "status": { "observedGeneration": condition.generation, "conditions": [stated] },
    })
}

impl Write {
    /// What the plan says, ready to be sent, but for pods that are to be made.
    #[must_use]
    pub fn of(action: Action) -> Option<Self> {
        Some(match action {
            Action::Create { .. } => return None,
            Action::Delete { pod, uid, why } => Self::Delete { pod, uid, why },
            Action::Resize {
                pod,
                uid,
                memory_mb,
                settings,
                how,
            } => Self::Resize {
                pod,
                uid,
                memory_mb,
                settings,
                how,
            },
            Action::Label {
                pod,
                uid,
                function,
                settings,
            } => Self::Label {
                pod,
                uid,
                function,
                settings,
            },
            Action::State { owner, condition } => Self::State {
                owner,
                condition,
                since: None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_waited_for_no_longer_than_nobody_else_can_lead() {
        let secs = Duration::from_secs;
        // Renewed at 90 s.
        let held = Leadership {
            fence: 1,
            since: secs(50),
            until: secs(100),
        };
        for (now, want) in [(90, 10), (95, 10), (96, 9), (99, 6), (105, 0), (106, 0)] {
            assert_eq!(patience(held, secs(15), secs(now)), secs(want), "{now} s");
        }
    }

    #[test]
    fn only_a_pod_that_surely_has_no_call_is_given_no_time_for_one() {
        for (why, grace) in [
            (Why::Finished, Some(FINISHED_GRACE_SECS)),
            (Why::Failed, None),
            (Why::Outdated, None),
            (Why::Surplus, None),
        ] {
            assert_eq!(deletion("u", why).grace_period_seconds, grace, "{why:?}");
        }
    }
}
