//! A region on a real Kubernetes API server, for tests that break it.
//!
//! `KUBECONFIG` names any conformant cluster of version 1.33 or newer, or `KUBEBUILDER_ASSETS` a
//! folder with `kube-apiserver` and `etcd`, which are then started here. The operator and the
//! gateway run as processes of this machine with no more rights than the chart gives them; pods are
//! reached by their addresses, so nothing in the cluster needs to reach this machine, its API server
//! or a name server.
//!
//! Everything made is removed at the end, also of a scenario that fails: our resource definitions too,
//! unless they were there before. Those are brought to this version, so a cluster in which a region
//! runs is refused. What a killed test process leaves is named `tradewind-PID-…`.

pub mod client_pod;
pub mod cluster;
pub mod daemon;
pub mod functions;
pub mod install;
pub mod kubectl;
pub mod load;
pub mod process;
pub mod region;
pub mod servers;
pub mod writes;

use std::panic::AssertUnwindSafe;

use anyhow::Context as _;
use futures_util::FutureExt as _;

pub use cluster::Cluster;
pub use functions::Functions;
pub use region::{Region, Rights};

/// What a scenario needs of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    ApiServer,
    /// Pods start, of the images that `make images` makes.
    Nodes,
    /// The API server was started here, so that it may be killed.
    OwnApiServer,
}

/// Runs `body` in a region of its own, then removes the region, whatever became of it.
///
/// Says so and does nothing where the cluster that it needs is not to be had.
pub async fn scenario(
    name: &str,
    needs: Needs,
    body: impl AsyncFnOnce(&mut Region) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(cluster) = cluster_for(name, needs).await? else {
        return Ok(());
    };
    let mut region = Region::prepare(cluster, &namespace(name)).await?;
    let ended = Ended::of(async {
        region.install().await?;
        body(&mut region).await
    });
    let ended = ended.await;
    if !ended.is_well() {
        println!("{}", region.describe().await);
    }
    let removed = region.remove().await;
    ended.after(removed)
}

/// The same for what needs a namespace with our resource definitions, and no region.
pub async fn in_namespace(
    cluster: &Cluster,
    name: &str,
    body: impl AsyncFnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (client, namespace) = (&cluster.client, namespace(name));
    let ended = Ended::of(async {
        install::namespace(client, &namespace).await?;
        install::definitions(client).await?;
        body(&namespace).await
    });
    let ended = ended.await;
    let removed = install::remove_namespace(client, &namespace, cluster.has_nodes).await;
    ended.after(removed.and(install::remove_definitions(client).await))
}

/// A test's own, which [`install::is_of_tests`] knows.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!("tradewind-{}-{name}", std::process::id())
}

/// How a test ended that still has to clean up.
pub struct Ended(std::thread::Result<anyhow::Result<()>>);

impl Ended {
    pub async fn of(body: impl Future<Output = anyhow::Result<()>>) -> Self {
        Self(AssertUnwindSafe(body).catch_unwind().await)
    }

    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self.0, Ok(Ok(())))
    }

    /// Fails as it failed, and else as the cleaning up did. Panics if it panicked.
    pub fn after(self, cleaned: anyhow::Result<()>) -> anyhow::Result<()> {
        let cleaned = cleaned.context("remove what the test made");
        match (self.0, cleaned) {
            (Ok(Ok(())), cleaned) => cleaned,
            (ended, cleaned) => {
                // Said, since the failure that mattered is the one returned.
                if let Err(error) = cleaned {
                    println!("{error:#}");
                }
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

/// The cluster for a test, or none; then it was said why.
pub async fn cluster_for(name: &str, needs: Needs) -> anyhow::Result<Option<Cluster>> {
    let Some(cluster) = Cluster::find().await? else {
        skip(name, "neither KUBECONFIG nor KUBEBUILDER_ASSETS is set");
        return Ok(None);
    };
    let lacks = match needs {
        Needs::Nodes if !cluster.has_nodes => "no node of the cluster is ready",
        Needs::OwnApiServer if cluster.servers.is_none() => {
            "the API server is not ours to kill (KUBEBUILDER_ASSETS without KUBECONFIG)"
        }
        Needs::ApiServer | Needs::Nodes | Needs::OwnApiServer => return Ok(Some(cluster)),
    };
    skip(name, lacks);
    Ok(None)
}

/// Says that a scenario does nothing on this machine.
pub fn skip(name: &str, why: &str) {
    chaos_tests_machine::skip(&format!("kubernetes/{name}"), why);
}
