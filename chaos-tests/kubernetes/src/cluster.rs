//! The cluster a scenario runs against.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::servers::Servers;

pub struct Cluster {
    pub client: Client,
    pub kubeconfig: PathBuf,
    /// Whether pods start: some node is ready.
    pub has_nodes: bool,
    /// If it was started here.
    pub servers: Option<Servers>,
}

impl Cluster {
    /// The cluster that `KUBECONFIG` names, else an API server from `KUBEBUILDER_ASSETS`, else none.
    pub async fn find() -> anyhow::Result<Option<Self>> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let (kubeconfig, servers) = if let Some(path) = variable("KUBECONFIG") {
            (PathBuf::from(path), None)
        } else if let Some(assets) = variable("KUBEBUILDER_ASSETS") {
            let servers = Servers::start(Path::new(&assets)).await?;
            (servers.kubeconfig()?, Some(servers))
        } else {
            return Ok(None);
        };
        let client = connect(&kubeconfig).await?;
        let version = client.apiserver_version().await;
        let version = version.with_context(|| format!("ask {}", kubeconfig.display()))?;
        let nodes = Api::<Node>::all(client.clone());
        let nodes = nodes.list(&ListParams::default()).await?;
        let has_nodes = nodes.items.iter().any(is_ready);
        println!(
            "cluster: Kubernetes {}, {} nodes",
            version.git_version,
            nodes.items.len()
        );
        Ok(Some(Self {
            client,
            kubeconfig,
            has_nodes,
            servers,
        }))
    }
}

pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether pods start on it.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
