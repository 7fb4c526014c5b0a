//! The pods we make.
//!
//! Made for massive churn: no service account token, no service links, no probes, a short grace
//! period, and of the runner only what the gateway needs. What Fn's container contract asks for
//! (9.1 environment, 9.2 socket folder, 9.5 sandbox) is all here.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvFromSource, EnvVar,
    EnvVarSource, LocalObjectReference, ObjectFieldSelector, Pod, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecretEnvSource, SecurityContext, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use region_plane_resources::{Function, RUNNER_PORT, WarmPool, labels};
use sha2::{Digest as _, Sha256};

use crate::settings::PodSettings;

/// Annotation: the function a pool's pod was made large enough for.
pub const DEDICATED: &str = "tradewind.dev/dedicated";

/// Annotation: whether a cluster autoscaler may end the pod to be rid of its node. Without it one never
/// does, since the owner is of a kind that it does not know, and nodes are only ever added. `true` on
/// pods of pools, which lose nothing while they wait; whoever labels one as taken says `false` in the
/// same write. An image's pod goes by itself once it is idle.
pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Where the function's socket appears (Fn contract 9.2).
const SOCKET_DIR: &str = "/tmp/iofs";

/// Where a pool's pod gets its bundle.
const CODE_DIR: &str = "/tradewind/code";

/// Where a pool's pod gets the launcher.
const BIN_DIR: &str = "/tradewind/bin";

/// Fn contract 9.5.
const FUNCTION_USER: i64 = 1000;

/// Another one, so that a function cannot signal or trace its runner.
const RUNNER_USER: i64 = 1001;

/// The bundle as it came, 64 MiB, beside what is in it, 512 MiB (`api_bundle`), and the ends of blocks.
/// A pod that has more is evicted instead of filling its node.
const CODE_MAX: &str = "1Gi";

/// The launcher alone.
const BIN_MAX: &str = "64Mi";

/// Most bundles. A node that is short of disk evicts first what uses more than it asked for.
const DISK: &str = "16Mi";

/// Why a container exited is in what it printed, which goes with its pod. The kubelet keeps the end.
const LAST_LINES: &str = "FallbackToLogsOnError";

/// A node that says nothing for so long, after the 40 s in which it may be late, is lost.
const LOST_NODE_SECS: i64 = 30;

/// Who a pod is made for, and by whom.
pub struct Made<'a> {
    pub name: String,
    pub memory_mb: u64,
    pub dedicated: Option<&'a str>,
    pub fence: u64,
}

/// A pod of an image function. `None` if the function has no image.
#[must_use]
pub fn image_pod(function: &Function, settings: &PodSettings, made: &Made<'_>) -> Option<Pod> {
    let owner = owner_of(function);
    let template = image_template(function, settings)?;
    let mut pod = image_body(function, settings)?;
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(labels::SETTINGS.to_owned(), function.spec.settings.clone());
    finish(&mut pod, owner, &template, made);
    let spec = pod.spec.as_mut().expect("just made");
    let container = spec.containers.first_mut().expect("just made");
    // Not in the template: a pod that is given more memory while it runs keeps what it was told.
    let env = container.env.get_or_insert_default();
    env.push(variable("FN_MEMORY", &made.memory_mb.to_string()));
    Some(pod)
}

/// Stands for everything a pod of the function is made from but its resources.
#[must_use]
pub fn image_template(function: &Function, settings: &PodSettings) -> Option<String> {
    image_body(function, settings).map(|pod| hash(&pod))
}

#[must_use]
pub fn pool_pod(pool: &WarmPool, settings: &PodSettings, made: &Made<'_>) -> Pod {
    let template = pool_template(pool, settings);
    let mut pod = pool_body(pool, settings);
    finish(&mut pod, owner_of(pool), &template, made);
    pod
}

#[must_use]
pub fn pool_template(pool: &WarmPool, settings: &PodSettings) -> String {
    hash(&pool_body(pool, settings))
}

fn image_body(function: &Function, settings: &PodSettings) -> Option<Pod> {
    let spec = &function.spec;
    let object = function.metadata.name.clone().unwrap_or_default();
    let platform = [
        ("FN_LISTENER", "unix:/tmp/iofs/lsnr.sock"),
        ("FN_FORMAT", "http-stream"),
        ("FN_FN_ID", &spec.fn_id),
        ("FN_APP_ID", &spec.app_id),
        ("FN_FN_NAME", &spec.fn_name),
        ("FN_APP_NAME", &spec.app_name),
        ("FN_TYPE", "sync"),
        ("FN_LOGFRAME_NAME", "tradewind-call"),
        ("FN_LOGFRAME_HDR", "Fn-Call-Id"),
    ];
    let function_container = Container {
        name: labels::FUNCTION_CONTAINER.to_owned(),
        image: Some(spec.image.clone()?),
        env: Some(platform.map(|(name, value)| variable(name, value)).to_vec()),
        env_from: spec.config_secret.as_ref().map(|secret| {
            vec![EnvFromSource {
                secret_ref: Some(SecretEnvSource {
                    name: secret.clone(),
                    // A Secret that is late is a pod that waits, not one without its configuration.
                    optional: Some(false),
                }),
                ..EnvFromSource::default()
            }]
        }),
        volume_mounts: Some(vec![
            mount("tmp", "/tmp", false),
            mount("socket", SOCKET_DIR, false),
        ]),
        resources: Some(requests(settings.function_cpu_millis)),
        security_context: Some(sandbox(FUNCTION_USER)),
        termination_message_policy: Some(LAST_LINES.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        ..Container::default()
    };
    let volumes = vec![
        memory_volume("socket", Some("1Mi")),
        memory_volume("tmp", None),
        disk_volume("code", CODE_MAX),
    ];
    let labels = [
        (labels::KIND, labels::KIND_IMAGE),
        (labels::FUNCTION, &object),
    ];
    Some(body(
        settings,
        labels::KIND_IMAGE,
        None,
        function_container,
        volumes,
        &labels,
        (labels::FUNCTION, &object),
    ))
}

fn pool_body(pool: &WarmPool, settings: &PodSettings) -> Pod {
    let spec = &pool.spec;
    let object = pool.metadata.name.clone().unwrap_or_default();
    let install = Container {
        name: "install".to_owned(),
        image: Some(settings.runner_image.clone()),
        args: Some(vec!["install".to_owned(), BIN_DIR.to_owned()]),
        volume_mounts: Some(vec![mount("bin", BIN_DIR, false)]),
        resources: Some(runner_requests(settings)),
        security_context: Some(sandbox(RUNNER_USER)),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        ..Container::default()
    };
    let function_container = Container {
        name: labels::FUNCTION_CONTAINER.to_owned(),
        image: Some(spec.image.clone()),
        command: Some(vec![
            format!("{BIN_DIR}/tradewind-runner"),
            "launch".to_owned(),
        ]),
        env: Some(vec![variable("FN_LISTENER", "unix:/tmp/iofs/lsnr.sock")]),
        volume_mounts: Some(vec![
            mount("tmp", "/tmp", false),
            mount("socket", SOCKET_DIR, false),
            mount("code", CODE_DIR, true),
            mount("bin", BIN_DIR, true),
        ]),
        resources: Some(requests(spec.cpu_millis.unsigned_abs())),
        security_context: Some(sandbox(FUNCTION_USER)),
        termination_message_policy: Some(LAST_LINES.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        ..Container::default()
    };
    let volumes = vec![
        memory_volume("socket", Some("1Mi")),
        memory_volume("tmp", None),
        disk_volume("code", CODE_MAX),
        disk_volume("bin", BIN_MAX),
    ];
    let labels = [
        (labels::KIND, labels::KIND_POOL),
        (labels::POOL, &object),
        (labels::RUNTIME, &spec.runtime),
    ];
    body(
        settings,
        labels::KIND_POOL,
        Some(install),
        function_container,
        volumes,
        &labels,
        (labels::POOL, &object),
    )
}

fn body(
    settings: &PodSettings,
    kind: &str,
    init: Option<Container>,
    function: Container,
    volumes: Vec<Volume>,
    labels: &[(&str, &str)],
    spread_by: (&str, &str),
) -> Pod {
    let runner = Container {
        name: labels::RUNNER_CONTAINER.to_owned(),
        image: Some(settings.runner_image.clone()),
        env: Some(vec![
            variable("TRADEWIND_RUNNER_KIND", kind),
            variable("TRADEWIND_RUNNER_GRACE_MS", &call_grace_ms(settings)),
            uid_of_pod("TRADEWIND_POD_UID"),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some("runner".to_owned()),
            container_port: i32::from(RUNNER_PORT),
            ..ContainerPort::default()
        }]),
        volume_mounts: Some(vec![
            mount("socket", SOCKET_DIR, false),
            mount("code", CODE_DIR, false),
        ]),
        resources: Some(with_disk(runner_requests(settings))),
        security_context: Some(sandbox(RUNNER_USER)),
        termination_message_policy: Some(LAST_LINES.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        ..Container::default()
    };
    let labels: BTreeMap<String, String> = [(labels::MANAGED_BY, labels::MANAGED_BY_VALUE)]
        .iter()
        .chain(labels)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let spread = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        // A pod in the wrong place is better than none.
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some([(spread_by.0.to_owned(), spread_by.1.to_owned())].into()),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    };
    let waits = kind == labels::KIND_POOL;
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Pod {
        metadata: ObjectMeta {
            labels: Some(labels),
            annotations: Some([(SAFE_TO_EVICT.to_owned(), waits.to_string())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            init_containers: init.map(|container| vec![container]),
            containers: vec![function, runner],
            volumes: Some(volumes),
            restart_policy: Some("Never".to_owned()),
            termination_grace_period_seconds: i64::try_from(settings.termination_grace.as_secs())
                .ok(),
            enable_service_links: Some(false),
            automount_service_account_token: Some(false),
            priority_class_name: some(&settings.priority_class),
            node_selector: (!settings.node_selector.is_empty())
                .then(|| settings.node_selector.clone()),
            image_pull_secrets: (!settings.image_pull_secrets.is_empty()).then(|| {
                let names = settings.image_pull_secrets.iter();
                names
                    .map(|name| LocalObjectReference { name: name.clone() })
                    .collect()
            }),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                fs_group: Some(FUNCTION_USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: settings.topology_spread.then(|| {
                ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
                    .map(spread)
                    .to_vec()
            }),
            runtime_class_name: some(&settings.runtime_class),
            tolerations: Some({
                let leaving = ["not-ready", "unreachable"].map(leaves_after_a_while);
                [&leaving, settings.tolerations.as_slice()].concat()
            }),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Kubernetes' own default leaves a pod on a lost node for five minutes, and its function with one
/// instance less.
fn leaves_after_a_while(condition: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{condition}")),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(LOST_NODE_SECS),
        ..Toleration::default()
    }
}

/// How long a runner that is to end waits for a call under way: it must be done before the kubelet
/// kills it.
fn call_grace_ms(settings: &PodSettings) -> String {
    let grace = settings.termination_grace;
    let left = grace.saturating_sub(Duration::from_secs(1));
    left.max(Duration::from_millis(1)).as_millis().to_string()
}

/// Adds what differs between pods of one template.
fn finish(pod: &mut Pod, owner: OwnerReference, template: &str, made: &Made<'_>) {
    let metadata = &mut pod.metadata;
    metadata.name = Some(made.name.clone());
    metadata.owner_references = Some(vec![owner]);
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(labels::MEMORY_MB.to_owned(), made.memory_mb.to_string());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(labels::TEMPLATE.to_owned(), template.to_owned());
    annotations.insert(labels::FENCE.to_owned(), made.fence.to_string());
    if let Some(function) = made.dedicated {
        annotations.insert(DEDICATED.to_owned(), function.to_owned());
    }
    let spec = pod.spec.as_mut().expect("a pod of ours has a spec");
    let function = spec.containers.first_mut().expect("the function's");
    let resources = function.resources.get_or_insert_default();
    for quantities in [&mut resources.requests, &mut resources.limits] {
        let quantities = quantities.get_or_insert_default();
        quantities.insert("memory".to_owned(), megabytes(made.memory_mb));
    }
}

fn owner_of<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        // It need not wait for its pods: they go after it.
        block_owner_deletion: None,
        ..object
            .controller_owner_ref(&())
            .expect("an object that was read has a name and a uid")
    }
}

fn hash(pod: &Pod) -> String {
    let json = serde_json::to_vec(pod).expect("a pod is plain data");
    let digest = Sha256::digest(json);
    let head: [u8; 8] = *digest.first_chunk().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(head))
}

#[must_use]
pub fn megabytes(count: u64) -> Quantity {
    Quantity(format!("{count}Mi"))
}

/// No limit of CPU: it would throttle a function on an idle machine.
fn requests(cpu_millis: u32) -> ResourceRequirements {
    let cpu = ("cpu".to_owned(), Quantity(format!("{cpu_millis}m")));
    ResourceRequirements {
        requests: Some([cpu].into()),
        ..ResourceRequirements::default()
    }
}

fn runner_requests(settings: &PodSettings) -> ResourceRequirements {
    let memory = |count| ("memory".to_owned(), megabytes(count));
    let mut resources = requests(settings.runner_cpu_millis);
    let reserved = resources.requests.get_or_insert_default();
    reserved.extend([memory(settings.runner_memory_mb)]);
    resources.limits = Some([memory(settings.runner_memory_max_mb)].into());
    resources
}

/// Of the pod's disk, which is written to by the runner.
fn with_disk(mut resources: ResourceRequirements) -> ResourceRequirements {
    let disk = ("ephemeral-storage".to_owned(), Quantity(DISK.to_owned()));
    resources.requests.get_or_insert_default().extend([disk]);
    resources
}

/// Fn contract 9.5.
fn sandbox(user: i64) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(user),
        run_as_group: Some(user),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        // Kubernetes would expand `$(NAME)`; a function's or an app's name is no template.
        value: Some(value.replace('$', "$$")),
        value_from: None,
    }
}

/// What the pod is known by to gateways, of which its runner sees nothing else.
fn uid_of_pod(name: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: "metadata.uid".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn disk_volume(name: &str, size: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: None,
            size_limit: Some(Quantity(size.to_owned())),
        }),
        ..Volume::default()
    }
}

/// Counts against the memory of whoever writes to it.
fn memory_volume(name: &str, size: Option<&str>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: size.map(|size| Quantity(size.to_owned())),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests;
