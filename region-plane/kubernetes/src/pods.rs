//! The pods of the region's namespace, as its API server tells of them.
//!
//! Only what the decisions need is kept of each. While the server is away nothing is told, so that
//! what was known goes on being used; a list counts only once it is whole.

use std::net::IpAddr;
use std::pin::pin;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use region_plane_resources::{labels, watches};
use tracing::{info, warn};

use crate::claims::{Pair, Pod, Purpose, Standing};

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These are all there are.
    Listed(Vec<Pod>),
    Seen(Pod),
    Gone(String),
}

/// Tells every change for ever, the first being the whole list.
pub async fn follow(pods: Api<core::Pod>, mut tell: impl FnMut(Change)) {
    let config = watches::config().labels(labels::POD_SELECTOR);
    if follow_with(&pods, config.clone().streaming_lists(), &mut tell).await == Unsupported {
        info!("the API server streams no lists; asking for pages");
        follow_with(&pods, config, &mut tell).await;
    }
}

/// The server knows no streaming lists.
#[derive(PartialEq, Eq)]
struct Unsupported;

async fn follow_with(
    pods: &Api<core::Pod>,
    config: watcher::Config,
    tell: &mut impl FnMut(Change),
) -> Unsupported {
    let mut events = pin!(watcher(pods.clone(), config).default_backoff());
    let mut listed = Vec::new();
    let mut heard = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if !heard {
                    info!("pods are watched again");
                    heard = true;
                }
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(pod) => listed.extend(read(&pod)),
                    Event::InitDone => tell(Change::Listed(std::mem::take(&mut listed))),
                    Event::Apply(pod) => match read(&pod) {
                        Some(pod) => tell(Change::Seen(pod)),
                        None => tell(Change::Gone(pod.metadata.name.unwrap_or_default())),
                    },
                    Event::Delete(pod) => {
                        tell(Change::Gone(pod.metadata.name.unwrap_or_default()));
                    }
                }
            }
            Err(error) if watches::refuses_streaming(&error) => return Unsupported,
            Err(error) => {
                metrics::counter!("tradewind_region_pod_watch_errors_total").increment(1);
                if heard {
                    warn!(%error, "pods cannot be watched, using the known ones");
                    heard = false;
                }
            }
        }
    }
    unreachable!("a watcher goes on for ever")
}

/// `None` if it is not labelled as one of ours is.
fn read(pod: &core::Pod) -> Option<Pod> {
    let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();
    let purpose = match label(labels::KIND)?.as_str() {
        labels::KIND_IMAGE => Purpose::Image(Pair {
            function: label(labels::FUNCTION)?,
            settings: label(labels::SETTINGS)?,
        }),
        labels::KIND_POOL => Purpose::Pool {
            runtime: label(labels::RUNTIME)?,
            memory_mb: label(labels::MEMORY_MB)?.parse().ok()?,
            function: label(labels::FUNCTION),
        },
        _ => return None,
    };
    Some(Pod {
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        node: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default(),
        purpose,
        standing: standing(pod),
    })
}

fn standing(pod: &core::Pod) -> Standing {
    let Some(status) = &pod.status else {
        return Standing::Coming;
    };
    let phase = status.phase.as_deref().unwrap_or_default();
    // With a reason it was the node that ended it: `Evicted`, `NodeShutdown`, ….
    if pod.metadata.deletion_timestamp.is_some() || status.reason.is_some() {
        return Standing::Leaving;
    }
    let exited = |name: &str| {
        let mut containers = status.container_statuses.iter().flatten();
        let container = containers.find(|container| container.name == name)?;
        container.state.as_ref()?.terminated.as_ref()
    };
    if let Some(exited) = exited(labels::FUNCTION_CONTAINER) {
        let reason = exited.reason.as_deref().unwrap_or("it exited");
        return Standing::Ended(format!("{reason}, exit code {}", exited.exit_code));
    }
    if exited(labels::RUNNER_CONTAINER).is_some() {
        return Standing::Leaving;
    }
    let address = status
        .pod_ip
        .as_deref()
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    match (phase, address) {
        ("Succeeded" | "Failed", _) => Standing::Leaving,
        ("Running", Some(address)) => Standing::Running(address),
        _ => Standing::Coming,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use serde_json::{Value, json};

    use super::*;

    fn pool_pod(metadata: &Value, status: &Value) -> core::Pod {
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u", "labels": {
                "tradewind.dev/kind": "pool",
                "tradewind.dev/runtime": "node",
                "tradewind.dev/memory-mb": "128",
            }},
            "spec": {"nodeName": "n", "containers": []},
            "status": status,
        });
        for (name, value) in metadata.as_object().into_iter().flatten() {
            pod["metadata"][name] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_is_asked_only_while_it_runs_and_stays() {
        let terminated = |name: &str| {
            json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{
                "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            }]})
        };
        let running = Standing::Running("10.0.0.1".parse().unwrap());
        for (case, metadata, status, want) in [
            ("new", json!({}), json!({}), Standing::Coming),
            (
                "no address",
                json!({}),
                json!({"phase": "Running"}),
                Standing::Coming,
            ),
            (
                "address only",
                json!({}),
                json!({"phase": "Pending", "podIP": "10.0.0.1"}),
                Standing::Coming,
            ),
            (
                "running",
                json!({}),
                json!({"phase": "Running", "podIP": "10.0.0.1"}),
                running.clone(),
            ),
            (
                "being deleted",
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
                json!({"phase": "Running", "podIP": "10.0.0.1"}),
                Standing::Leaving,
            ),
            (
                "evicted",
                json!({}),
                json!({"phase": "Failed", "reason": "Evicted", "podIP": "10.0.0.1"}),
                Standing::Leaving,
            ),
            (
                "succeeded",
                json!({}),
                json!({"phase": "Succeeded", "podIP": "10.0.0.1"}),
                Standing::Leaving,
            ),
            (
                "the function exited",
                json!({}),
                terminated("function"),
                Standing::Ended("OOMKilled, exit code 137".to_owned()),
            ),
            (
                "the runner exited",
                json!({}),
                terminated("runner"),
                Standing::Leaving,
            ),
            (
                "another container did",
                json!({}),
                terminated("install"),
                running,
            ),
        ] {
            let read = read(&pool_pod(&metadata, &status)).unwrap();
            assert_eq!(read.standing, want, "{case}");
        }
    }

    #[test]
    fn a_pod_without_the_labels_of_its_kind_is_none_of_ours() {
        for (labels, ours) in [
            (json!({"tradewind.dev/kind": "image"}), false),
            (
                json!({"tradewind.dev/kind": "image", "tradewind.dev/function": "fn-a",
                    "tradewind.dev/settings": "0000000000000001"}),
                true,
            ),
            (
                json!({"tradewind.dev/kind": "pool", "tradewind.dev/runtime": "node",
                    "tradewind.dev/memory-mb": "much"}),
                false,
            ),
            (json!({"tradewind.dev/kind": "headroom"}), false),
        ] {
            let pod = pool_pod(&json!({ "labels": labels }), &json!({}));
            assert_eq!(read(&pod).is_some(), ours, "{labels}");
        }
    }
}
