//! What the cluster holds, followed by watches.
//!
//! Each kind is one task. A list counts only once it is complete: until then, and while a watch is
//! broken, what was known stands. Objects are cut down to what planning needs as they come in, so
//! that 20,000 pods are a few megabytes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{
    ContainerStatus, Node, Pod, PodStatus, ResourceRequirements, Secret,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use rand::Rng as _;
use region_plane_resources::{Function, WarmPool, labels, watches};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::plan::{ConditionReason, Owner, Phase, Stated, Trouble};
use crate::template::DEDICATED;
use crate::writer::is_secret_of;

const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// An API server that is back is noticed within this.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A watch that lasted this long was well, or took as long to fail as the longest pause: either way
/// the shortest is enough. Events alone would not do to tell: where nothing changes there are none,
/// and bookmarks are not shown to us.
const STEADY_AFTER: Duration = BACKOFF_MAX;

/// What a watch tells.
#[derive(Debug)]
pub enum Change {
    Pods(Seen<PodSeen>),
    Functions(Seen<FunctionSeen>),
    Pools(Seen<PoolSeen>),
    /// The uid of each.
    Secrets(Seen<String>),
    Nodes(Seen<NodeSeen>),
    /// Fields that the cluster's definitions of our resources lack.
    Definitions(Vec<String>),
    /// A watch began to fail, or is well again.
    Watch {
        kind: Kind,
        broken: Option<Broken>,
    },
}

#[derive(Debug)]
pub enum Seen<V> {
    /// All there is.
    All(Vec<(String, V)>),
    Put(String, V),
    Gone(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pods,
    Functions,
    Pools,
    Secrets,
    Nodes,
}

/// The kinds without which nothing is known of a region.
pub const NEEDED: [Kind; 3] = [Kind::Functions, Kind::Pools, Kind::Pods];

impl Kind {
    /// As roles name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Functions => "functions.tradewind.dev",
            Self::Pools => "warmpools.tradewind.dev",
            Self::Secrets => "secrets",
            Self::Nodes => "nodes",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The server does not know the kind.
    Unknown,
    /// We may not read it.
    Forbidden,
    Failing,
}

#[derive(Debug)]
pub struct PodSeen {
    pub uid: String,
    pub owner: Owner,
    pub owner_uid: String,
    pub settings: Option<String>,
    pub function: Option<String>,
    pub dedicated: Option<String>,
    /// As its label says, by which gateways go.
    pub memory_mb: u64,
    /// What its function is to have, and what the kubelet says it has. Kubelets that give pods no
    /// other memory than they were made with may not say.
    pub asked_mb: Option<u64>,
    pub has_mb: Option<u64>,
    pub template: String,
    pub phase: Phase,
    pub unscheduled: bool,
    pub trouble: Option<Trouble>,
    pub deleting: bool,
}

/// `Err` says why the object cannot be read.
#[derive(Debug)]
pub struct FunctionSeen {
    pub meta: Meta,
    pub object: Result<Arc<Function>, String>,
}

#[derive(Debug)]
pub struct PoolSeen {
    pub meta: Meta,
    pub object: Result<Arc<WarmPool>, String>,
}

/// What is read even of an object whose spec cannot be.
#[derive(Debug, Clone)]
pub struct Meta {
    pub generation: i64,
    pub stated: Option<Stated>,
    /// When that condition became true or false.
    pub since: Option<String>,
    pub managed: bool,
    /// Somebody other than the metadata replica set fields of its spec.
    pub foreign: bool,
    pub uid: String,
    /// Grows with each write. Zero if the server's are no numbers.
    pub version: u64,
}

#[derive(Debug)]
pub struct NodeSeen {
    /// Ready, and taking pods.
    pub open: bool,
    pub allocatable_memory_mb: u64,
}

/// Starts a watch of each kind; they end when nobody listens any more, or with the set.
pub fn follow(
    tasks: &mut JoinSet<&'static str>,
    client: &Client,
    namespace: &str,
    changes: &mpsc::Sender<Change>,
) {
    let selecting = |selector: &str| watches::config().labels(selector);
    let ours = selecting(labels::POD_SELECTOR);
    let pods = Follower::new(Kind::Pods, changes, Change::Pods, ours, |pod: Pod| {
        let name = pod.metadata.name.clone()?;
        Some((name, pod_seen(pod)?))
    });
    tasks.spawn(pods.run(Api::namespaced(client.clone(), namespace)));

    let any = watches::config;
    let functions = ApiResource::erase::<Function>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &functions);
    let follower = Follower::new(
        Kind::Functions,
        changes,
        Change::Functions,
        any(),
        |object| {
            let (name, meta, object) = read(object)?;
            Some((name, FunctionSeen { meta, object }))
        },
    );
    tasks.spawn(follower.run(api));

    let pools = ApiResource::erase::<WarmPool>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &pools);
    let follower = Follower::new(Kind::Pools, changes, Change::Pools, any(), |object| {
        let (name, meta, object) = read(object)?;
        Some((name, PoolSeen { meta, object }))
    });
    tasks.spawn(follower.run(api));

    let selector = format!(
        "{}={},{}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE,
        labels::FUNCTION
    );
    let selected = selecting(&selector);
    let secrets = Follower::new(
        Kind::Secrets,
        changes,
        Change::Secrets,
        selected,
        |secret| secret_seen(&secret),
    );
    // Of Secrets nothing but names is ever asked for.
    tasks.spawn(secrets.run(Api::<PartialObjectMeta<Secret>>::namespaced(
        client.clone(),
        namespace,
    )));

    let nodes = Follower::new(Kind::Nodes, changes, Change::Nodes, any(), |node: Node| {
        let name = node.metadata.name.clone()?;
        Some((name, node_seen(&node)))
    });
    tasks.spawn(nodes.run(Api::<Node>::all(client.clone())));
}

struct Follower<K, V> {
    kind: Kind,
    changes: mpsc::Sender<Change>,
    wrap: fn(Seen<V>) -> Change,
    config: watcher::Config,
    /// `None` for what is none of ours.
    convert: fn(K) -> Option<(String, V)>,
}

impl<K, V> Follower<K, V>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: Send + 'static,
{
    fn new(
        kind: Kind,
        changes: &mpsc::Sender<Change>,
        wrap: fn(Seen<V>) -> Change,
        config: watcher::Config,
        convert: fn(K) -> Option<(String, V)>,
    ) -> Self {
        Self {
            kind,
            changes: changes.clone(),
            wrap,
            config,
            convert,
        }
    }

    async fn run(self, api: Api<K>) -> &'static str {
        // One answer, without a page of everything in the server's memory and ours.
        let streaming = self.config.clone().streaming_lists();
        let ended = self.follow(watcher::watcher(api.clone(), streaming)).await;
        if ended == Ended::Refused {
            let paged = self.config.clone();
            self.follow(watcher::watcher(api, paged)).await;
        }
        self.kind.resource()
    }

    async fn follow(
        &self,
        stream: impl futures_util::Stream<Item = Result<Event<K>, watcher::Error>>,
    ) -> Ended {
        let mut stream = pin!(stream);
        let mut backoff = Backoff::default();
        let mut began = Instant::now();
        let mut broken = None;
        let mut listed = false;
        let mut listing = Vec::new();
        while let Some(event) = stream.next().await {
            let change = match event {
                Ok(Event::Init) => {
                    listing.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listing.extend((self.convert)(object));
                    continue;
                }
                Ok(Event::InitDone) => {
                    listed = true;
                    Some(Seen::All(std::mem::take(&mut listing)))
                }
                Ok(Event::Apply(object)) => {
                    let name = object.meta().name.clone();
                    match (self.convert)(object) {
                        Some((name, value)) => Some(Seen::Put(name, value)),
                        None => name.map(Seen::Gone),
                    }
                }
                Ok(Event::Delete(object)) => object.meta().name.clone().map(Seen::Gone),
                Err(error) => {
                    if !listed && watches::refuses_streaming(&error) {
                        info!(
                            kind = self.kind.resource(),
                            "API server lists in pages only"
                        );
                        return Ended::Refused;
                    }
                    if !self.note(&mut broken, &error).await {
                        return Ended::Unheard;
                    }
                    let pause = backoff.after(began.elapsed());
                    // Half to all of it: watches that broke together must not come back as one.
                    let pause = rand::rng().random_range(pause / 2..=pause);
                    tokio::time::sleep(pause).await;
                    began = Instant::now();
                    continue;
                }
            };
            backoff = Backoff::default();
            if broken.take().is_some() {
                info!(kind = self.kind.resource(), "watch works again");
                let well = Change::Watch {
                    kind: self.kind,
                    broken: None,
                };
                if self.changes.send(well).await.is_err() {
                    return Ended::Unheard;
                }
            }
            if let Some(change) = change
                && self.changes.send((self.wrap)(change)).await.is_err()
            {
                return Ended::Unheard;
            }
        }
        Ended::Unheard
    }

    /// Whether anybody listens.
    async fn note(&self, broken: &mut Option<Broken>, error: &watcher::Error) -> bool {
        let kind = self.kind.resource();
        metrics::counter!("tradewind_operator_watch_errors_total", "kind" => kind).increment(1);
        let now = match code(error) {
            Some(404) => Broken::Unknown,
            Some(403 | 401) => Broken::Forbidden,
            // Too old to go on from: the next list follows at once and nothing is wrong.
            Some(410) => return true,
            _ => Broken::Failing,
        };
        if broken.as_ref() == Some(&now) {
            return true;
        }
        warn!(kind, %error, "cannot watch");
        *broken = Some(now.clone());
        let change = Change::Watch {
            kind: self.kind,
            broken: Some(now),
        };
        self.changes.send(change).await.is_ok()
    }
}

/// Pauses between tries that fail one after the other.
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_MIN }
    }
}

impl Backoff {
    /// The pause after a try that failed when it had `lasted` so long.
    fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= STEADY_AFTER {
            self.next = BACKOFF_MIN;
        }
        let pause = self.next;
        self.next = (pause * 2).min(BACKOFF_MAX);
        pause
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The server does not stream lists.
    Refused,
    Unheard,
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn label(metadata: &ObjectMeta, name: &str) -> Option<String> {
    metadata.labels.as_ref()?.get(name).cloned()
}

fn annotation(metadata: &ObjectMeta, name: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(name).cloned()
}

/// The object of ours that has it.
fn owner_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut all = metadata.owner_references.iter().flatten();
    all.find(|reference| {
        reference.controller == Some(true)
            && reference.api_version.split('/').next() == Some(region_plane_resources::GROUP)
    })
}

/// `None` if the Secret is none of ours. A copy that somebody made has the labels of ours and the
/// owner too, but not the name.
fn secret_seen(secret: &PartialObjectMeta<Secret>) -> Option<(String, String)> {
    let reference = owner_of(&secret.metadata)?;
    let name = secret.metadata.name.as_ref()?;
    let ours = reference.kind == "Function" && is_secret_of(name, &reference.name);
    let uid = secret.metadata.uid.clone()?;
    ours.then(|| (name.clone(), uid))
}

/// `None` if the pod is none of ours, whatever its labels say.
fn pod_seen(pod: Pod) -> Option<PodSeen> {
    let metadata = &pod.metadata;
    let reference = owner_of(metadata)?;
    let owner = match reference.kind.as_str() {
        "Function" => Owner::Function(reference.name.clone()),
        "WarmPool" => Owner::Pool(reference.name.clone()),
        _ => return None,
    };
    let function = match owner {
        Owner::Function(_) => None,
        Owner::Pool(_) => label(metadata, labels::FUNCTION),
    };
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let initial = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    let exited = containers.iter().find_map(exit);
    let phase = match status.phase.as_deref() {
        Some("Failed" | "Succeeded") => Phase::Ended,
        Some("Running") if exited.is_some() => Phase::Broken,
        Some("Running") if node_unheard(&status) => Phase::Unheard,
        Some("Running") => Phase::Running,
        _ => Phase::Pending,
    };
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    // Accepted, and then found to fit no node: it has neither what its labels say nor what it had.
    let infeasible = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
    });
    let asked = pod.spec.as_ref().and_then(|spec| {
        let mut all = spec.containers.iter();
        let function = all.find(|container| container.name == labels::FUNCTION_CONTAINER)?;
        function.resources.as_ref()
    });
    // Of a pod that is bound the kubelet says nothing for a while, and that of a dead node never.
    let has_node = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let has = containers
        .iter()
        .find(|container| container.name == labels::FUNCTION_CONTAINER)
        .and_then(|function| function.resources.as_ref());
    let trouble = match phase {
        Phase::Running | Phase::Unheard => None,
        Phase::Broken => exited,
        Phase::Ended => Some(ended(&status, exited)),
        Phase::Pending => unscheduled
            .map(|condition| Trouble {
                reason: ConditionReason::PodUnschedulable,
                message: format!(
                    "no node takes its pod: {}; add nodes, or make room",
                    condition.message.as_deref().unwrap_or("no reason given")
                ),
            })
            .or_else(|| initial.iter().chain(containers).find_map(waiting)),
    };
    Some(PodSeen {
        uid: metadata.uid.clone()?,
        owner,
        owner_uid: reference.uid.clone(),
        settings: label(metadata, labels::SETTINGS),
        function,
        dedicated: annotation(metadata, DEDICATED),
        memory_mb: label(metadata, labels::MEMORY_MB)
            .and_then(|text| text.parse().ok())
            .filter(|_| !infeasible)
            .unwrap_or_default(),
        asked_mb: asked.and_then(memory_limit_mb),
        has_mb: has.and_then(memory_limit_mb),
        template: annotation(metadata, labels::TEMPLATE)
            .filter(|_| !infeasible)
            .unwrap_or_default(),
        phase,
        unscheduled: phase == Phase::Pending && !has_node,
        trouble,
        deleting: metadata.deletion_timestamp.is_some(),
    })
}

/// Whether Kubernetes has not heard from the pod's node for a while. It then takes back that the pod
/// is ready, and leaves all that the kubelet wrote last, which is the only one to judge containers.
fn node_unheard(status: &PodStatus) -> bool {
    let says = |kind: &str, value: &str| {
        status.conditions.iter().flatten().any(|condition| {
            condition.type_ == kind
                && condition.status == value
                && condition.reason.as_deref() != Some("ReadinessGatesNotReady")
        })
    };
    says("Ready", "False") && says("ContainersReady", "True")
}

/// Why nothing of a pod runs any more. A node that gives up a pod ends its containers as well, and
/// how they ended says nothing then.
fn ended(status: &PodStatus, exited: Option<Trouble>) -> Trouble {
    let message = status.message.as_deref().unwrap_or_default();
    match (status.reason.as_deref(), exited) {
        // "Usage of EmptyDir volume exceeds the limit", and the like. Of a node that is short of
        // something it says "The node was low on resource".
        (Some("Evicted"), _) if message.contains(" limit") => Trouble {
            reason: ConditionReason::FunctionExited,
            message: format!(
                "its node ended a pod that took more than it may ({message}); see what the function writes to disk"
            ),
        },
        (None, Some(exited)) => exited,
        (reason, _) => Trouble {
            reason: ConditionReason::PodLost,
            message: format!(
                "its node gave up a pod ({}); look at the node's memory, disk and health",
                reason.unwrap_or("no reason given")
            ),
        },
    }
}

fn exit(container: &ContainerStatus) -> Option<Trouble> {
    let ended = container.state.as_ref()?.terminated.as_ref()?;
    let code = ended.exit_code;
    let ran_out = ended.reason.as_deref() == Some("OOMKilled");
    // What it wrote to say why, else the end of what it printed.
    let printed = match ended.message.as_deref().unwrap_or_default().trim() {
        "" => String::new(),
        lines => format!(". It printed: {lines}"),
    };
    Some(if container.name == labels::RUNNER_CONTAINER {
        Trouble {
            reason: ConditionReason::RunnerFailed,
            message: match ran_out {
                true => "its runner used more memory than it may; raise the operator's `runner_memory_max_mb`, the chart's `operator.runner.memoryMaxMb`".to_owned(),
                false => format!("its runner exited with {code}{printed}"),
            },
        }
    } else if ran_out {
        Trouble {
            reason: ConditionReason::OutOfMemory,
            message: "its container used more memory than it may; give the function more"
                .to_owned(),
        }
    } else {
        Trouble {
            reason: ConditionReason::FunctionExited,
            message: format!(
                "its container exited with {code}; correct it and deploy it anew{printed}"
            ),
        }
    })
}

fn waiting(container: &ContainerStatus) -> Option<Trouble> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let said = waiting.message.as_deref().unwrap_or_default();
    let image = &container.image;
    match waiting.reason.as_deref()? {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => Some(Trouble {
            reason: ConditionReason::ImagePullFailed,
            message: format!(
                "the image {image} cannot be pulled ({said}); push it, correct its name, or give the nodes access"
            ),
        }),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Trouble {
                reason: ConditionReason::ContainerConfigInvalid,
                message: format!(
                    "the container {} cannot be made ({said}); look at the function's image and configuration",
                    container.name
                ),
            })
        }
        _ => None,
    }
}

fn node_seen(node: &Node) -> NodeSeen {
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let cordoned = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true));
    let memory = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref()?.get("memory"))
        .map_or(0, |quantity| quantity_megabytes(&quantity.0));
    NodeSeen {
        open: ready && !cordoned,
        allocatable_memory_mb: memory,
    }
}

fn memory_limit_mb(resources: &ResourceRequirements) -> Option<u64> {
    let memory = resources.limits.as_ref()?.get("memory")?;
    Some(quantity_megabytes(&memory.0))
}

/// Of a quantity as nodes report memory: a whole number and a suffix. Zero for anything else.
fn quantity_megabytes(text: &str) -> u64 {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let bytes: u128 = match suffix {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => 0,
    };
    let number: u128 = number.parse().unwrap_or_default();
    u64::try_from(number.saturating_mul(bytes) >> 20).unwrap_or(u64::MAX)
}

/// One object that is not as our types have it, stored under an older definition for one, must not
/// hide all others: so they are read one by one.
pub fn read<K: DeserializeOwned>(
    mut object: DynamicObject,
) -> Option<(String, Meta, Result<Arc<K>, String>)> {
    let entries = object.metadata.managed_fields.take().unwrap_or_default();
    let foreign = entries.iter().any(|entry| {
        let fields = entry.fields_v1.as_ref();
        entry.manager.as_deref() != Some(labels::REPLICA_MANAGER)
            && fields.is_some_and(|fields| fields.0.get("f:spec").is_some())
    });
    let name = object.metadata.name.clone()?;
    let ready = object.data["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    let meta = Meta {
        generation: object.metadata.generation.unwrap_or_default(),
        stated: ready.map(|ready| Stated {
            generation: ready["observedGeneration"].as_i64().unwrap_or_default(),
            ready: ready["status"] == "True",
            reason: ready["reason"].as_str().unwrap_or_default().to_owned(),
        }),
        since: ready.and_then(|ready| Some(ready["lastTransitionTime"].as_str()?.to_owned())),
        managed: label(&object.metadata, labels::MANAGED_BY).as_deref()
            == Some(labels::MANAGED_BY_VALUE),
        foreign,
        uid: object.metadata.uid.clone().unwrap_or_default(),
        version: version(&object.metadata),
    };
    let read = serde_json::to_value(object)
        .and_then(serde_json::from_value)
        .map(Arc::new)
        .map_err(|error| error.to_string());
    Some((name, meta, read))
}

/// The API promises since 1.35 what has been so before: resource versions are numbers that grow.
pub fn version(metadata: &ObjectMeta) -> u64 {
    let text = metadata.resource_version.as_deref().unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// Nodes as gateways and the global plane are told of them.
#[must_use]
pub fn room(nodes: &BTreeMap<String, NodeSeen>) -> (u32, u64) {
    let open = nodes.values().filter(|node| node.open);
    open.fold((0, 0), |(count, memory), node| {
        (count + 1, memory + node.allocatable_memory_mb)
    })
}

#[cfg(test)]
mod tests;
