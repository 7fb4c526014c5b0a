//! What whoever runs an operator sets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use api_client::Client;
use api_types::{Location, Region, RegionName, Revision, Timestamp, Verdict};
use serde::Deserialize;

use self::toleration::Toleration;
use crate::plan::Rules;
use crate::settings::{PodSettings, Settings};

mod toleration;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    name: String,
    zone: String,
    latitude: Option<f64>,
    longitude: Option<f64>,
    labels: Option<BTreeMap<String, String>>,
    pub globals: Vec<String>,
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    #[serde(default = "default_namespace")]
    namespace: String,
    identity: Option<String>,
    #[serde(default = "default_lease_name")]
    lease_name: String,
    #[serde(default = "default_lease_ttl_ms")]
    lease_ttl_ms: u64,
    #[serde(default = "default_settle_ms")]
    settle_ms: u64,
    #[serde(default = "default_pods_per_sec")]
    creates_per_sec: u32,
    #[serde(default = "default_pods_per_sec")]
    deletes_per_sec: u32,
    #[serde(default = "default_writes_per_sec")]
    writes_per_sec: u32,
    #[serde(default = "default_surplus_after_ms")]
    surplus_after_ms: u64,
    #[serde(default = "default_never_ready_after_ms")]
    never_ready_after_ms: u64,
    runner_image: String,
    #[serde(default = "default_image_pull_policy")]
    image_pull_policy: String,
    #[serde(default)]
    image_pull_secrets: Vec<String>,
    #[serde(default)]
    priority_class: String,
    #[serde(default = "default_topology_spread")]
    topology_spread: bool,
    #[serde(default)]
    node_selector: BTreeMap<String, String>,
    #[serde(default)]
    tolerations: Vec<Toleration>,
    #[serde(default)]
    runtime_class: String,
    #[serde(default = "default_function_cpu_millis")]
    function_cpu_millis: u32,
    #[serde(default = "default_runner_cpu_millis")]
    runner_cpu_millis: u32,
    #[serde(default = "default_runner_memory_mb")]
    runner_memory_mb: u64,
    #[serde(default = "default_runner_memory_max_mb")]
    runner_memory_max_mb: u64,
    #[serde(default = "default_termination_grace_secs")]
    termination_grace_secs: u64,
}

fn default_namespace() -> String {
    "tradewind".to_owned()
}

fn default_lease_name() -> String {
    "tradewind-operator".to_owned()
}

/// As long as Kubernetes' own controllers take.
fn default_lease_ttl_ms() -> u64 {
    15_000
}

fn default_settle_ms() -> u64 {
    10_000
}

/// What a scheduler at its default of 50 binds a second takes with ease.
fn default_pods_per_sec() -> u32 {
    20
}

fn default_writes_per_sec() -> u32 {
    100
}

fn default_surplus_after_ms() -> u64 {
    10_000
}

fn default_never_ready_after_ms() -> u64 {
    60_000
}

fn default_image_pull_policy() -> String {
    "IfNotPresent".to_owned()
}

fn default_topology_spread() -> bool {
    true
}

fn default_function_cpu_millis() -> u32 {
    100
}

fn default_runner_cpu_millis() -> u32 {
    10
}

fn default_runner_memory_mb() -> u64 {
    16
}

/// A call's whole body, both ways, at the largest that a gateway takes.
fn default_runner_memory_max_mb() -> u64 {
    128
}

fn default_termination_grace_secs() -> u64 {
    5
}

impl Config {
    fn location(&self) -> Option<Location> {
        dns_worldmap::region_location(&self.name, self.latitude, self.longitude)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        dns_worldmap::region_labels(&self.name, self.labels.as_ref())
    }

    /// Lower case, no trailing dot.
    #[must_use]
    pub fn zone(&self) -> String {
        self.zone.trim_end_matches('.').to_ascii_lowercase()
    }

    /// The region as far as placement needs it: its name, place and labels.
    ///
    /// # Panics
    /// Never once [`daemon::Config::problems`] found nothing.
    #[must_use]
    pub fn region(&self) -> Region {
        Region {
            name: self.name.parse().expect("checked at start"),
            ipv4: None,
            ipv6: None,
            gateway: String::new(),
            admin: String::new(),
            location: self.location().expect("checked at start"),
            labels: self.labels(),
            drained: false,
            verdict: Verdict::Healthy,
            price_ms: 0,
            registered_at: Timestamp(0),
            revision: Revision(0),
        }
    }

    /// `process` tells processes of one identity apart where none is configured.
    #[must_use]
    pub fn settings(&self, process: &str) -> Settings {
        let milliseconds = Duration::from_millis;
        Settings {
            namespace: self.namespace.clone(),
            identity: self
                .identity
                .clone()
                .unwrap_or_else(|| format!("{}-{process}", self.name)),
            lease_name: self.lease_name.clone(),
            lease_ttl: milliseconds(self.lease_ttl_ms),
            settle_for: milliseconds(self.settle_ms),
            creates_per_sec: self.creates_per_sec,
            deletes_per_sec: self.deletes_per_sec,
            writes_per_sec: self.writes_per_sec,
            rules: Rules {
                surplus_after: milliseconds(self.surplus_after_ms),
                never_ready_after: milliseconds(self.never_ready_after_ms),
                ..Rules::default()
            },
            secret_kept_for: Settings::default().secret_kept_for,
            pods: PodSettings {
                runner_image: self.runner_image.clone(),
                image_pull_policy: self.image_pull_policy.clone(),
                image_pull_secrets: self.image_pull_secrets.clone(),
                priority_class: self.priority_class.clone(),
                topology_spread: self.topology_spread,
                node_selector: self.node_selector.clone(),
                tolerations: self.tolerations.iter().cloned().map(Into::into).collect(),
                runtime_class: self.runtime_class.clone(),
                function_cpu_millis: self.function_cpu_millis,
                runner_cpu_millis: self.runner_cpu_millis,
                runner_memory_mb: self.runner_memory_mb,
                runner_memory_max_mb: self.runner_memory_max_mb,
                termination_grace: Duration::from_secs(self.termination_grace_secs),
            },
        }
    }
}

impl daemon::Config for Config {
    const ABOUT: &'static str = "The operator of one region on Kubernetes. It writes Function objects from the metadata \
         and creates and deletes the pods that the gateway asks for. It finds the cluster by KUBECONFIG, \
         by ~/.kube/config, or by the pod that it runs in.";

    const KEYS: &'static str = r#"
name = "fra"                             # the same as in the gateway's configuration
zone = "fn.test"                         # the same as in the gateway's configuration
latitude = 50.11                         # default by name
longitude = 8.68                         # default by name
labels = { geo = "eu", country = "de" }  # default by name
globals = ["http://127.0.20.1:7400"]     # some or all global nodes
data_dir = "/var/lib/tradewind/operator" # the copy of the metadata
listen = "127.0.11.1:8082"               # /v1/demand /v1/status /healthz /readyz /metrics
namespace = "tradewind"                  # namespace of all objects of the region
identity = "fra-1"                       # unique; default: the region's name and a random number
lease_name = "tradewind-operator"        # the Lease that operators of the region contend for
lease_ttl_ms = 15000                     # in whole seconds; then a dead leader is replaced
settle_ms = 10000                        # a new leader waits so long after a first report
                                         # before it deletes surplus pods
creates_per_sec = 20                     # pods created, at most; fewer if the API is slow
deletes_per_sec = 20                     # pods deleted, likewise
writes_per_sec = 100                     # writes of labels, conditions and functions, likewise
surplus_after_ms = 10000                 # before a pod without claim or demand is deleted
never_ready_after_ms = 60000             # before a pod that does not run is reported
runner_image = "localhost/tradewind/tradewind-runner:dev"
image_pull_policy = "IfNotPresent"       # of every container; or Always, Never
image_pull_secrets = []
priority_class = "tradewind-function"    # PriorityClass of pods; default: none
topology_spread = true                   # over zones and nodes
node_selector = {}
tolerations = [{ key = "functions", operator = "Exists", effect = "NoSchedule" }]
runtime_class = "gvisor"                 # RuntimeClass of pods; default: that of the nodes
function_cpu_millis = 100                # CPU request of an image's container
runner_cpu_millis = 10
runner_memory_mb = 16                    # memory request of the runner
runner_memory_max_mb = 128               # memory limit of the runner
termination_grace_secs = 5               # for the running call of a pod, less one second
"#;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |sound: bool, problem: String| {
            if !sound {
                problems.push(problem);
            }
        };
        if let Err(error) = self.name.parse::<RegionName>() {
            check(false, format!("`name` {:?}: {error}", self.name));
        }
        check(
            !self.data_dir.as_os_str().is_empty(),
            "`data_dir` is empty".to_owned(),
        );
        check(
            self.latitude.is_some() == self.longitude.is_some(),
            "`latitude` and `longitude` have to be set together".to_owned(),
        );
        match self.location() {
            None => check(
                false,
                format!(
                    "`name` {:?} is not a known metro code: set `latitude` and `longitude`",
                    self.name
                ),
            ),
            Some(place) => check(
                (-90.0..=90.0).contains(&place.latitude)
                    && (-180.0..=180.0).contains(&place.longitude),
                "`latitude` is -90 to 90, `longitude` -180 to 180 degrees".to_owned(),
            ),
        }
        if let Err(error) = Client::new(&self.globals) {
            check(false, format!("`globals`: {error}"));
        }
        check(!self.zone().is_empty(), "`zone` is empty".to_owned());
        for (key, name) in [
            ("namespace", &self.namespace),
            ("lease_name", &self.lease_name),
        ] {
            check(
                api_types::dns_label::is_label(name),
                format!(
                    "`{key}` {name:?} is not a valid object name: use lower-case letters, digits and hyphens"
                ),
            );
        }
        check(
            self.identity
                .as_ref()
                .is_none_or(|identity| !identity.is_empty()),
            "`identity` is empty".to_owned(),
        );
        check(
            !self.runner_image.trim().is_empty(),
            "`runner_image` is empty".to_owned(),
        );
        check(
            ["IfNotPresent", "Always", "Never"].contains(&self.image_pull_policy.as_str()),
            format!(
                "`image_pull_policy` is {:?}, expected IfNotPresent, Always or Never",
                self.image_pull_policy
            ),
        );
        check(
            self.runtime_class.is_empty()
                || self
                    .runtime_class
                    .split('.')
                    .all(api_types::dns_label::is_label),
            format!(
                "`runtime_class` {:?} is not a valid object name: use lower-case letters, digits, hyphens and dots",
                self.runtime_class
            ),
        );
        for (index, toleration) in self.tolerations.iter().enumerate() {
            if let Some(problem) = toleration.problem() {
                check(false, format!("`tolerations[{index}]`: {problem}"));
            }
        }
        check(
            self.lease_ttl_ms.is_multiple_of(1_000),
            format!(
                "`lease_ttl_ms` is {}, expected whole seconds",
                self.lease_ttl_ms
            ),
        );
        for (key, value, min, max) in [
            ("lease_ttl_ms", self.lease_ttl_ms, 1_000, 600_000),
            ("settle_ms", self.settle_ms, 1_000, 600_000),
            ("creates_per_sec", self.creates_per_sec.into(), 1, 10_000),
            ("deletes_per_sec", self.deletes_per_sec.into(), 1, 10_000),
            ("writes_per_sec", self.writes_per_sec.into(), 1, 10_000),
            ("surplus_after_ms", self.surplus_after_ms, 0, 3_600_000),
            (
                "never_ready_after_ms",
                self.never_ready_after_ms,
                1_000,
                3_600_000,
            ),
            (
                "function_cpu_millis",
                self.function_cpu_millis.into(),
                1,
                1_000_000,
            ),
            (
                "runner_cpu_millis",
                self.runner_cpu_millis.into(),
                1,
                1_000_000,
            ),
            ("runner_memory_mb", self.runner_memory_mb, 8, 65_536),
            (
                "runner_memory_max_mb",
                self.runner_memory_max_mb,
                self.runner_memory_mb,
                65_536,
            ),
            (
                "termination_grace_secs",
                self.termination_grace_secs,
                2,
                3_600,
            ),
        ] {
            check(
                (min..=max).contains(&value),
                format!("`{key}` is {value}, expected {min} to {max}"),
            );
        }
        problems
    }

    fn listens(&self) -> Vec<SocketAddr> {
        vec![self.listen]
    }

    fn drain_grace(&self) -> Duration {
        // Writes under way, then the lease.
        Duration::from_secs(15)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SOUND: &str = r#"
        name = "fra"
        zone = "fn.test"
        globals = ["http://127.0.20.1:7400"]
        data_dir = "/tmp/x"
        listen = "127.0.11.1:8082"
        runner_image = "localhost/tradewind/tradewind-runner:dev"
    "#;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        daemon::config::parse(text, [], false)
    }

    #[test]
    fn little_must_be_set() {
        let config = read(SOUND).unwrap();
        let settings = config.settings("7");
        assert_eq!(settings.identity, "fra-7");
        assert_eq!(settings.namespace, "tradewind");
        assert_eq!(config.region().labels["geo"], "eu");
    }

    #[test]
    fn every_problem_is_named() {
        for (from, to, want) in [
            ("\"fra\"", "\"Atlantis\"", "`name`"),
            ("\"fra\"", "\"atlantis\"", "latitude"),
            ("http://", "https://", "no TLS"),
            ("127.0.11.1:", "192.0.2.1:", "loopback"),
            ("\"fn.test\"", "\"\"", "zone"),
            (
                "localhost/tradewind/tradewind-runner:dev",
                "",
                "runner_image",
            ),
            ("zone =", "namespace = \"a_b\"\nzone =", "namespace"),
            ("zone =", "lease_ttl_ms = 1500\nzone =", "whole seconds"),
            ("zone =", "creates_per_sec = 0\nzone =", "creates_per_sec"),
            (
                "zone =",
                "image_pull_policy = \"Often\"\nzone =",
                "IfNotPresent",
            ),
            (
                "zone =",
                "runtime_class = \"g visor\"\nzone =",
                "runtime_class",
            ),
            (
                "zone =",
                "tolerations = [{ operator = \"Exists\" }, { value = \"x\" }]\nzone =",
                "`tolerations[1]`: one without a key",
            ),
            (
                "zone =",
                "tolerations = [{ key = \"a\", operator = \"Exists\", value = \"x\" }]\nzone =",
                "has no value",
            ),
            (
                "zone =",
                "tolerations = [{ key = \"a\", toleration_seconds = 1 }]\nzone =",
                "NoExecute",
            ),
            (
                "zone =",
                "tolerations = [{ key = \"a\", effect = \"Never\" }]\nzone =",
                "Never",
            ),
            ("zone =", "settle_ms = 0\nzone =", "`settle_ms`"),
            (
                "zone =",
                "termination_grace_secs = 1\nzone =",
                "`termination_grace_secs`",
            ),
            ("zone =", "zonk = 1\nzone =", "zonk"),
        ] {
            let problems = read(&SOUND.replace(from, to)).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem.contains(want)),
                "{to}: {problems:?}"
            );
        }
    }

    #[test]
    fn the_help_lists_keys_that_are_read() {
        read(<Config as daemon::Config>::KEYS).unwrap();
    }
}
