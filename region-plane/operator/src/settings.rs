//! What an operator is told at start.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;

use crate::plan::Rules;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Every object of the region is in this one.
    pub namespace: String,
    /// Who holds the lease; unique to the process.
    pub identity: String,
    /// The name of the Lease that the processes contend for.
    pub lease_name: String,
    pub lease_ttl: Duration,
    /// Once a gateway has spoken to the leader, no pod is surplus for this long: others have yet to
    /// speak up.
    pub settle_for: Duration,
    /// A Secret that no function names any more is kept for pods that are about to start with it.
    pub secret_kept_for: Duration,
    /// Pods made, pods deleted, and other writes, each a second at most.
    pub creates_per_sec: u32,
    pub deletes_per_sec: u32,
    pub writes_per_sec: u32,
    pub rules: Rules,
    pub pods: PodSettings,
}

/// What every pod has in common.
#[derive(Debug, Clone)]
pub struct PodSettings {
    pub runner_image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    /// None if empty.
    pub priority_class: String,
    /// Spread over zones and nodes.
    pub topology_spread: bool,
    pub node_selector: BTreeMap<String, String>,
    /// Beside those that a pod needs to leave a lost node.
    pub tolerations: Vec<Toleration>,
    /// The nodes' own if empty.
    pub runtime_class: String,
    /// Thousandths of a core that an image function's container asks for.
    pub function_cpu_millis: u32,
    pub runner_cpu_millis: u32,
    pub runner_memory_mb: u64,
    /// What a runner may use while a large call or a bundle passes through it.
    pub runner_memory_max_mb: u64,
    /// For a call under way when a pod is deleted; all but the last second of it.
    pub termination_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "tradewind".to_owned(),
            identity: "tradewind-operator".to_owned(),
            lease_name: "tradewind-operator".to_owned(),
            lease_ttl: Duration::from_secs(15),
            settle_for: Duration::from_secs(10),
            secret_kept_for: Duration::from_secs(60),
            creates_per_sec: 20,
            deletes_per_sec: 20,
            writes_per_sec: 100,
            rules: Rules::default(),
            pods: PodSettings::default(),
        }
    }
}

impl Default for PodSettings {
    fn default() -> Self {
        Self {
            runner_image: "localhost/tradewind/tradewind-runner:dev".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            image_pull_secrets: Vec::new(),
            priority_class: String::new(),
            topology_spread: true,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            runtime_class: String::new(),
            function_cpu_millis: 100,
            runner_cpu_millis: 10,
            runner_memory_mb: 16,
            runner_memory_max_mb: 128,
            termination_grace: Duration::from_secs(5),
        }
    }
}
