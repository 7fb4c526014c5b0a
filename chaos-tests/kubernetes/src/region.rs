//! A region whose pods are in the cluster: an operator and a gateway, as processes of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::federation::{RegionProcess, binary};
use chaos_tests_cluster::{Federation, eventually};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client};
use region_plane_resources::{Function, FunctionStatus, WarmPool, WarmPoolStatus};
use serde_json::{Value, json};

use crate::Cluster;
use crate::daemon::Daemon;
use crate::install::{self, GATEWAY, OPERATOR, apply};

/// Two planes start on two busy cores.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// A shorter one than by default, so that a scenario need not wait long for the next leader.
pub const LEASE_TTL: Duration = Duration::from_secs(5);

/// Much shorter than by default, so that a scenario sees what a new leader deletes: nothing may go
/// before. Gateways tell what they want once a second.
pub const SETTLE_FOR: Duration = Duration::from_secs(2);

/// As by default.
pub const SURPLUS_AFTER: Duration = Duration::from_secs(10);

/// Shorter than by default as well, and longer than a pod takes to run on a busy machine.
pub const NEVER_READY_AFTER: Duration = Duration::from_secs(30);

/// The one region of the federation: what `tradewind up` calls the first.
pub const NAME: &str = "iad";

pub struct Region {
    pub cluster: Cluster,
    pub namespace: String,
    pub federation: Federation,
    /// Of operators that are started from now on.
    pub lease_ttl: Duration,
    dir: tempfile::TempDir,
    operators: Vec<Option<Daemon>>,
    gateway: Option<Daemon>,
    second_gateway: Option<Daemon>,
}

/// Who a process is for the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// What the chart grants it.
    Granted,
    /// An account to which nothing was granted.
    None,
}

impl Region {
    /// Starts a federation, and nothing in the cluster yet.
    pub async fn prepare(cluster: Cluster, namespace: &str) -> anyhow::Result<Self> {
        Ok(Self {
            cluster,
            namespace: namespace.to_owned(),
            federation: Federation::start_of(1, 1).await?,
            lease_ttl: LEASE_TTL,
            dir: tempfile::tempdir().context("make a folder for the region")?,
            operators: vec![None, None],
            gateway: None,
            second_gateway: None,
        })
    }

    /// Makes what an installation has before its processes start.
    pub async fn install(&self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        // First, so that no other test takes the definitions away.
        install::namespace(client, &self.namespace).await?;
        install::definitions(client).await?;
        install::rights(client, &self.namespace).await
    }

    #[must_use]
    pub fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), &self.namespace)
    }

    #[must_use]
    pub fn functions(&self) -> Api<Function> {
        Api::namespaced(self.client(), &self.namespace)
    }

    #[must_use]
    pub fn pools(&self) -> Api<WarmPool> {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// Makes a pool, or changes it.
    pub async fn pool(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        apply(&self.pools(), name, json!({ "spec": spec })).await
    }

    /// The names of all pods of ours that are not going.
    pub async fn standing(&self, selector: &str) -> anyhow::Result<Vec<Pod>> {
        let pods = self
            .pods()
            .list(&ListParams::default().labels(selector))
            .await?;
        let stands = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(pods.items.into_iter().filter(stands).collect())
    }

    /// Base URL of an operator.
    #[must_use]
    pub fn operator_url(&self, number: usize) -> String {
        format!("http://{}", self.operator_listen(number))
    }

    fn operator_listen(&self, number: usize) -> String {
        format!("{}.30.{}:8082", self.federation.network(), number + 1)
    }

    /// Starts an operator and waits until it serves. Number 0 is the one there is usually.
    pub async fn start_operator(&mut self, number: usize, rights: Rights) -> anyhow::Result<()> {
        let listen = self.operator_listen(number);
        let data = self.dir().join(format!("operator-{number}"));
        let globals = self.federation.apis()?;
        let config = self.dir().join(format!("operator-{number}.toml"));
        let text = format!(
            "name = {NAME:?}\n\
             zone = {:?}\n\
             identity = \"operator-{number}\"\n\
             namespace = {:?}\n\
             data_dir = {:?}\n\
             listen = {listen:?}\n\
             globals = {globals:?}\n\
             runner_image = {:?}\n\
             lease_ttl_ms = {}\n\
             settle_ms = {}\n\
             surplus_after_ms = {}\n\
             never_ready_after_ms = {}\n",
            self.federation.ready()?.zone,
            self.namespace,
            data.to_string_lossy(),
            images::RUNNER,
            self.lease_ttl.as_millis(),
            SETTLE_FOR.as_millis(),
            SURPLUS_AFTER.as_millis(),
            NEVER_READY_AFTER.as_millis(),
        );
        std::fs::write(&config, text).context("write the operator's configuration")?;
        let kubeconfig = self.kubeconfig(match rights {
            Rights::Granted => OPERATOR,
            Rights::None => "nobody",
        })?;
        let name = format!("operator-{number}");
        let mut daemon = Daemon::start(
            &name,
            Command::new(binary("tradewind-operator")?)
                .arg("--config")
                .arg(&config)
                .env("KUBECONFIG", kubeconfig),
            self.dir(),
        )?;
        serves(&mut daemon, &format!("http://{listen}/healthz")).await?;
        let slot = self
            .operators
            .get_mut(number)
            .context("operators are 0 and 1")?;
        *slot = Some(daemon);
        Ok(())
    }

    pub fn operator(&mut self, number: usize) -> anyhow::Result<&mut Daemon> {
        let slot = self
            .operators
            .get_mut(number)
            .context("operators are 0 and 1")?;
        slot.as_mut()
            .with_context(|| format!("operator {number} was started"))
    }

    /// Waits until an operator leads.
    pub async fn leads(&self, number: usize) -> anyhow::Result<Duration> {
        self.leadership(number, true).await
    }

    /// Waits until an operator knows that it does not lead.
    pub async fn leads_no_more(&self, number: usize) -> anyhow::Result<Duration> {
        self.leadership(number, false).await
    }

    async fn leadership(&self, number: usize, leads: bool) -> anyhow::Result<Duration> {
        let url = format!("{}/v1/status", self.operator_url(number));
        let what = format!("that operator {number} leads is {leads}");
        let (_, took) = eventually(&what, READY_PATIENCE, async || {
            let status: Value = reqwest::get(&url).await?.error_for_status()?.json().await?;
            ensure!(status["leading"] == leads, "{status}");
            Ok(())
        })
        .await?;
        Ok(took)
    }

    /// Starts the gateway in place of the region that ran on this machine, with its address and its
    /// data, and waits until it is ready.
    pub async fn start_gateway(&mut self) -> anyhow::Result<()> {
        let before = self.configuration()?;
        if self.gateway.is_none() {
            self.federation.kill(NAME).await?;
        }
        let admin = self.process()?.admin;
        self.gateway = Some(self.gateway_process("gateway", &before, &admin).await?);
        Ok(())
    }

    /// Starts another gateway of the region beside the first, as a rolling update does: with a
    /// folder of its own, and known to others by the same addresses. Waits until it is ready.
    pub async fn start_second_gateway(&mut self) -> anyhow::Result<()> {
        let RegionProcess { gateway, admin, .. } = self.process()?;
        let address = self.federation.network().address(31, 1);
        let own = |port: u16| format!("{address}:{port}");
        let own_lines = [
            (
                "data_dir",
                self.dir().join("second-gateway").display().to_string(),
            ),
            ("gateway_listen", own(8080)),
            ("admin_listen", own(8081)),
            ("gateway_address", gateway),
            ("admin_address", admin),
        ];
        let is_own = |line: &str| own_lines.iter().any(|(key, _)| line.starts_with(key));
        let mut text: Vec<String> = own_lines
            .iter()
            .map(|(key, value)| format!("{key} = {value:?}"))
            .collect();
        let before = self.configuration()?;
        text.extend(
            before
                .lines()
                .filter(|line| !is_own(line))
                .map(str::to_owned),
        );
        let daemon = self
            .gateway_process("second-gateway", &text.join("\n"), &own(8081))
            .await?;
        self.second_gateway = Some(daemon);
        Ok(())
    }

    /// Base URL for calls of the second gateway.
    #[must_use]
    pub fn second_url(&self) -> String {
        format!("http://{}:8080", self.federation.network().address(31, 1))
    }

    /// What the region ran with on this machine.
    fn configuration(&self) -> anyhow::Result<String> {
        let file = self.federation.up_dir().join(format!("config/{NAME}.toml"));
        std::fs::read_to_string(file).context("read the region's configuration")
    }

    async fn gateway_process(
        &self,
        name: &str,
        settings: &str,
        admin: &str,
    ) -> anyhow::Result<Daemon> {
        let operators = [self.operator_url(0), self.operator_url(1)];
        let config = self.dir().join(format!("{name}.toml"));
        let text = format!(
            "{settings}\n[kubernetes]\nnamespace = {:?}\noperators = {operators:?}\n",
            self.namespace
        );
        std::fs::write(&config, text).context("write the gateway's configuration")?;
        let kubeconfig = self.kubeconfig(GATEWAY)?;
        let mut daemon = Daemon::start(
            name,
            Command::new(binary("tradewind-region")?)
                .arg("--config")
                .arg(&config)
                .env("KUBECONFIG", kubeconfig),
            self.dir(),
        )?;
        serves(&mut daemon, &format!("http://{admin}/readyz")).await?;
        Ok(daemon)
    }

    pub fn gateway(&mut self) -> anyhow::Result<&mut Daemon> {
        self.gateway.as_mut().context("the gateway was started")
    }

    /// Base URL for calls.
    pub fn url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.process()?.gateway))
    }

    fn process(&self) -> anyhow::Result<RegionProcess> {
        let regions = self.federation.ready()?.regions;
        regions.into_iter().next().context("there is one region")
    }

    fn kubeconfig(&self, account: &str) -> anyhow::Result<PathBuf> {
        install::kubeconfig(
            &self.cluster.kubeconfig,
            &self.namespace,
            account,
            self.dir(),
        )
    }

    /// Waits for a function's `Ready` condition to have a status and a reason; returns its message.
    pub async fn function_says(
        &self,
        name: &str,
        status: &str,
        reason: &str,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let reasons = [reason];
        let said = self.function_says_one_of(name, status, &reasons, patience);
        Ok(said.await?.message)
    }

    /// The same where two of us may be the first to see why.
    pub async fn function_says_one_of(
        &self,
        name: &str,
        status: &str,
        reasons: &[&str],
        patience: Duration,
    ) -> anyhow::Result<Condition> {
        let what = format!("function {name} is Ready {status} {reasons:?}");
        let (said, took) = eventually(&what, patience, async || {
            let function = self.functions().get(name).await?;
            said(
                function
                    .status
                    .map(|FunctionStatus { conditions, .. }| conditions),
                status,
                reasons,
            )
        })
        .await?;
        println!(
            "measured: {} is said after {took:.2?}: {}",
            said.reason, said.message
        );
        Ok(said)
    }

    /// The same of a pool.
    pub async fn pool_says(
        &self,
        name: &str,
        status: &str,
        reason: &str,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let what = format!("pool {name} is Ready {status} {reason}");
        let (said, took) = eventually(&what, patience, async || {
            let pool = self.pools().get(name).await?;
            said(
                pool.status
                    .map(|WarmPoolStatus { conditions, .. }| conditions),
                status,
                &[reason],
            )
        })
        .await?;
        println!(
            "measured: {reason} is said after {took:.2?}: {}",
            said.message
        );
        Ok(said.message)
    }

    /// Waits for an event about an object; returns what it says.
    pub async fn event(&self, object: &str, reason: &str) -> anyhow::Result<String> {
        let events = Api::<Event>::namespaced(self.client(), &self.namespace);
        let what = format!("an event {reason} of {object}");
        let (message, _) = eventually(&what, Duration::from_secs(20), async || {
            let all = events.list(&ListParams::default()).await?;
            let seen = all.items.iter().map(|event| {
                let about = event.involved_object.name.as_deref().unwrap_or_default();
                (
                    about,
                    event.reason.as_deref().unwrap_or_default(),
                    &event.message,
                )
            });
            let found = seen
                .clone()
                .find(|(about, said, _)| *about == object && *said == reason);
            let found = found.with_context(|| format!("{:?}", seen.collect::<Vec<_>>()))?;
            Ok(found.2.clone().unwrap_or_default())
        })
        .await?;
        Ok(message)
    }

    /// What a person would look at first.
    pub async fn describe(&self) -> String {
        let mut text = String::new();
        for (number, operator) in self.operators.iter().enumerate() {
            if let Some(operator) = operator {
                text += &format!("--- operator {number}:\n{}\n", operator.log_tail());
            }
        }
        for gateway in [&self.gateway, &self.second_gateway].into_iter().flatten() {
            text += &format!("--- {}:\n{}\n", gateway.name(), gateway.log_tail());
        }
        if let Ok(pods) = self.pods().list(&ListParams::default()).await {
            for pod in pods.items {
                let status = pod.status.unwrap_or_default();
                text += &format!(
                    "--- pod {}: {:?} {:?} {:?}\n",
                    pod.metadata.name.unwrap_or_default(),
                    pod.metadata.labels.unwrap_or_default(),
                    status.phase,
                    status
                        .container_statuses
                        .into_iter()
                        .flatten()
                        .map(|container| container.state)
                        .collect::<Vec<_>>(),
                );
            }
        }
        text
    }

    /// Stops what runs and removes what was made, whatever state it is in.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        (self.gateway, self.second_gateway) = (None, None);
        self.operators.clear();
        let wait = self.cluster.has_nodes;
        let client = &self.cluster.client;
        let removed = install::remove_namespace(client, &self.namespace, wait).await;
        let taken_away = install::remove_cluster_rights(client, &self.namespace).await;
        let definitions = install::remove_definitions(client).await;
        removed.and(taken_away).and(definitions)
    }
}

async fn serves(daemon: &mut Daemon, url: &str) -> anyhow::Result<()> {
    eventually(&format!("{url} says yes"), READY_PATIENCE, async || {
        daemon.ensure_runs()?;
        let response = reqwest::get(url).await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{status} {text}");
        Ok(())
    })
    .await?;
    Ok(())
}

fn said(
    conditions: Option<Vec<Condition>>,
    status: &str,
    reasons: &[&str],
) -> anyhow::Result<Condition> {
    let conditions = conditions.context("it has no status")?;
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready");
    let ready = ready.context("it has no Ready condition")?;
    ensure!(
        ready.status == status && reasons.contains(&ready.reason.as_str()),
        "{ready:?}"
    );
    ensure!(!ready.message.is_empty(), "{ready:?} without a message");
    Ok(ready)
}

/// Images that `make images` makes; a cluster was given them before.
pub mod images {
    pub const RUNNER: &str = "localhost/tradewind/tradewind-runner:dev";
    pub const PYTHON: &str = "localhost/tradewind/runtime-python:dev";
    pub const NODE: &str = "localhost/tradewind/runtime-node:dev";
    pub const NATIVE: &str = "localhost/tradewind/runtime-native:dev";
    pub const FUNCTION_V1: &str = "localhost/tradewind/test-function:v1";
    pub const FUNCTION_V2: &str = "localhost/tradewind/test-function:v2";
    /// That no registry has.
    pub const MISSING: &str = "localhost/tradewind/no-such-image:v1";
}
