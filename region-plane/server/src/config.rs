//! What an operator sets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api_client::Client;
use api_types::{Location, Region, RegionName, Revision, Timestamp, Verdict};
use api_wire::planes::RegisterRegion;
use calls_door::Network;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    name: String,
    pub data_dir: PathBuf,
    pub gateway_listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    gateway_address: Option<String>,
    admin_address: Option<String>,
    pub globals: Vec<String>,
    zone: String,
    latitude: Option<f64>,
    longitude: Option<f64>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default = "default_memory_budget_mb")]
    pub memory_budget_mb: u64,
    #[serde(default = "default_calls_max")]
    pub calls_max: u32,
    #[serde(default = "default_queue_max")]
    pub queue_max: u32,
    #[serde(default = "default_body_bytes_max")]
    pub request_body_bytes_max: usize,
    #[serde(default = "default_body_bytes_max")]
    pub response_body_bytes_max: usize,
    #[serde(default = "default_hot_start_timeout_ms")]
    hot_start_timeout_ms: u64,
    #[serde(default = "default_wait_max_ms")]
    wait_max_ms: u64,
    drain_pause_ms: Option<u64>,
    #[serde(default = "default_drain_grace_ms")]
    drain_grace_ms: u64,
    /// Networks of proxies that speak the PROXY protocol to the gateway.
    #[serde(default)]
    pub proxy_protocol_from: Vec<Network>,
    #[serde(default)]
    pub socket_dir: PathBuf,
    /// Absent: functions run as processes on this machine.
    pub kubernetes: Option<Kubernetes>,
}

/// Where functions run in pods.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Base URLs of the operator's replicas; any of them, the leader is found.
    pub operators: Vec<String>,
    #[serde(default = "default_pod_start_timeout_ms")]
    pod_start_timeout_ms: u64,
}

impl Kubernetes {
    /// From the moment a pod is wanted until its runner answers.
    #[must_use]
    pub fn pod_start_timeout(&self) -> Duration {
        Duration::from_millis(self.pod_start_timeout_ms)
    }
}

fn default_namespace() -> String {
    "tradewind".to_owned()
}

/// A node that has to be added and an image that has to be pulled. Calls do not wait this long
/// ([`Config::wait_max`]); the pod is for those that come later.
fn default_pod_start_timeout_ms() -> u64 {
    300_000
}

fn default_memory_budget_mb() -> u64 {
    2048
}

fn default_calls_max() -> u32 {
    256
}

fn default_queue_max() -> u32 {
    1024
}

/// What Fn's system tests and Oracle's service use (Fn contract 6.4).
fn default_body_bytes_max() -> usize {
    6 << 20
}

fn default_hot_start_timeout_ms() -> u64 {
    5_000
}

/// A cold start that takes all of its five seconds, behind another.
fn default_wait_max_ms() -> u64 {
    10_000
}

fn default_drain_grace_ms() -> u64 {
    15_000
}

/// From the report that asks for no more clients until the last answer that names this region: the
/// report, the verdict that is made of it, the view that carries the verdict, and a resolver that had
/// asked just before. Each takes a fraction of a second unless something is busy.
const PROPAGATION: Duration = Duration::from_secs(2);

/// A longer TTL is not waited for: nobody restarts a region for hours.
const DNS_TTL_MAX: Duration = Duration::from_secs(300);

/// What global nodes give answers unless configured, for a region that stops before it has been told.
pub const DNS_TTL_DEFAULT: Duration = Duration::from_secs(30);

/// Steering starts to shed here, in hundredths of the admission limit.
const TARGET_PERCENT: u64 = 80;

/// More calls than fit one process's descriptors and memory would be a mistake.
const CALLS_MAX: u32 = 65_536;

/// A body is held whole, and every call in flight may have one.
const BODY_BYTES_MAX: usize = 64 << 20;

impl Config {
    /// # Panics
    /// Never once [`daemon::Config::problems`] found nothing.
    #[must_use]
    pub fn name(&self) -> RegionName {
        self.name.parse().expect("checked at start")
    }

    /// Lower case, no trailing dot.
    #[must_use]
    pub fn zone(&self) -> String {
        self.zone.trim_end_matches('.').to_ascii_lowercase()
    }

    #[must_use]
    pub fn hot_start_timeout(&self) -> Duration {
        Duration::from_millis(self.hot_start_timeout_ms)
    }

    /// How long a call may wait for an instance.
    #[must_use]
    pub fn wait_max(&self) -> Duration {
        Duration::from_millis(self.wait_max_ms)
    }

    /// From the report that asks for no more clients until the gateway stops accepting: what is
    /// configured, else for as long as answers of the DNS servers name this region.
    #[must_use]
    pub fn drain_pause(&self, dns_ttl: Duration) -> Duration {
        match self.drain_pause_ms {
            Some(millis) => Duration::from_millis(millis),
            None => dns_ttl.min(DNS_TTL_MAX) + PROPAGATION,
        }
    }

    /// How long calls under way may go on after that.
    #[must_use]
    pub fn calls_grace(&self) -> Duration {
        Duration::from_millis(self.drain_grace_ms)
    }

    #[must_use]
    pub fn calls_target(&self) -> u32 {
        let target = u64::from(self.calls_max) * TARGET_PERCENT / 100;
        u32::try_from(target).unwrap_or(self.calls_max).max(1)
    }

    /// Callers of as many calls as are admitted, on a connection each, and as many that are refused;
    /// never fewer than other listeners have.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        let calls = usize::try_from(self.calls_max).unwrap_or(usize::MAX);
        let least = daemon::HttpLimits::default().connections_max;
        calls.saturating_mul(2).max(least)
    }

    fn location(&self) -> Option<Location> {
        dns_worldmap::region_location(&self.name, self.latitude, self.longitude)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        dns_worldmap::region_labels(&self.name, self.labels.as_ref())
    }

    /// This region as it sees itself before the global plane has said anything of it.
    ///
    /// # Panics
    /// Never once [`daemon::Config::problems`] found nothing.
    #[must_use]
    pub fn region(&self) -> Region {
        let text = |address: &Option<String>, listen: SocketAddr| {
            address.clone().unwrap_or_else(|| listen.to_string())
        };
        Region {
            name: self.name(),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            gateway: text(&self.gateway_address, self.gateway_listen),
            admin: text(&self.admin_address, self.admin_listen),
            location: self.location().expect("checked at start"),
            labels: self.labels(),
            drained: false,
            verdict: Verdict::Healthy,
            price_ms: 0,
            registered_at: Timestamp(0),
            revision: Revision(0),
        }
    }

    #[must_use]
    pub fn registration(&self) -> RegisterRegion {
        let region = self.region();
        RegisterRegion {
            name: region.name.to_string(),
            ipv4: region.ipv4,
            ipv6: region.ipv6,
            gateway: region.gateway,
            admin: region.admin,
            latitude: region.location.latitude,
            longitude: region.location.longitude,
            labels: region.labels,
        }
    }
}

impl daemon::Config for Config {
    const ABOUT: &'static str = "One region. It takes calls, runs functions, and keeps its own copy of the metadata. \
         When it has no room for a call, it hands the call to a peer region.";

    const KEYS: &'static str = r#"
name = "fra"                             # a metro code such as fra sets location and labels
data_dir = "/var/lib/tradewind/region"   # metadata replica and unpacked bundles
gateway_listen = "127.0.11.1:8080"       # calls
admin_listen = "127.0.11.1:8081"         # /v2 reads, /healthz /readyz /metrics
                                         # /v1/status /v1/instances
ipv4 = "127.0.11.1"                      # address that DNS answers; or ipv6, or both
gateway_address = "127.0.11.1:8080"      # for peers and global nodes; default gateway_listen
admin_address = "127.0.11.1:8081"        # for global nodes; default admin_listen
globals = ["http://127.0.20.1:7400"]     # some or all global nodes
zone = "fn.test"                         # used until the first snapshot gives the zone
latitude = 50.11                         # default by name
longitude = 8.68                         # default by name
labels = { geo = "eu", country = "de" }  # default by name
memory_budget_mb = 2048                  # memory limits of all instances together
calls_max = 256                          # calls running or waiting; target utilisation: 80 %
queue_max = 1024                         # waiting calls of one function
request_body_bytes_max = 6291456
response_body_bytes_max = 6291456
hot_start_timeout_ms = 5000              # until an instance has to be ready
wait_max_ms = 10000                      # longest wait of a call for an instance
drain_pause_ms = 7000                    # still takes calls after SIGTERM; default DNS TTL + 2 s
drain_grace_ms = 15000                   # then it waits so long for running calls
proxy_protocol_from = []                 # proxies that send PROXY v2, such as ["10.0.0.0/8"]
socket_dir = ""                          # of functions' sockets, a short path; default in /tmp

[kubernetes]                             # run functions in pods; without it: on this machine
namespace = "tradewind"                  # of the pods, in $KUBECONFIG's or this pod's cluster
operators = ["http://127.0.0.1:8082"]    # some or all replicas of tradewind-operator
pod_start_timeout_ms = 300000            # for creating and scheduling a pod and pulling its image
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
            self.ipv4.is_some() || self.ipv6.is_some(),
            "neither `ipv4` nor `ipv6` is set: DNS needs an address of this region".to_owned(),
        );
        check(
            self.latitude.is_some() == self.longitude.is_some(),
            "`latitude` and `longitude` have to be set together".to_owned(),
        );
        check(
            self.location().is_some(),
            format!(
                "`name` {:?} is not a known metro code: set `latitude` and `longitude`",
                self.name
            ),
        );
        if let Some(location) = self.location() {
            check(
                (-90.0..=90.0).contains(&location.latitude)
                    && (-180.0..=180.0).contains(&location.longitude),
                "`latitude` is -90 to 90, `longitude` -180 to 180 degrees".to_owned(),
            );
        }
        for (key, address) in [
            ("gateway_address", &self.gateway_address),
            ("admin_address", &self.admin_address),
        ] {
            let sound = address.as_ref().is_none_or(|address| {
                address
                    .parse::<http::uri::Authority>()
                    .is_ok_and(|authority| authority.port_u16().is_some())
            });
            check(sound, format!("`{key}` is not host:port"));
        }
        for (key, address, listen) in [
            ("gateway_listen", &self.gateway_address, self.gateway_listen),
            ("admin_listen", &self.admin_address, self.admin_listen),
        ] {
            let reachable = !listen.ip().is_unspecified() && listen.port() != 0;
            check(
                reachable || address.is_some(),
                format!(
                    "`{key}` {listen} is not an address that others can connect to: set `{}`",
                    key.replace("_listen", "_address")
                ),
            );
        }
        if let Err(error) = Client::new(&self.globals) {
            check(false, format!("`globals`: {error}"));
        }
        let zone = self.zone();
        check(
            !zone.is_empty()
                && zone
                    .parse::<http::uri::Authority>()
                    .is_ok_and(|a| a.port().is_none()),
            format!("`zone` {:?} is not a domain name", self.zone),
        );
        for (key, value, max) in [
            ("memory_budget_mb", self.memory_budget_mb, u64::MAX),
            ("calls_max", self.calls_max.into(), CALLS_MAX.into()),
            ("queue_max", self.queue_max.into(), CALLS_MAX.into()),
            (
                "request_body_bytes_max",
                self.request_body_bytes_max as u64,
                BODY_BYTES_MAX as u64,
            ),
            (
                "response_body_bytes_max",
                self.response_body_bytes_max as u64,
                BODY_BYTES_MAX as u64,
            ),
            ("hot_start_timeout_ms", self.hot_start_timeout_ms, 600_000),
            ("wait_max_ms", self.wait_max_ms, 600_000),
        ] {
            check(
                (1..=max).contains(&value),
                format!("`{key}` is {value}, expected 1 to {max}"),
            );
        }
        if let Some(kubernetes) = &self.kubernetes {
            if let Err(error) = Client::new(&kubernetes.operators) {
                check(false, format!("`kubernetes.operators`: {error}"));
            }
            let namespace = &kubernetes.namespace;
            let label = api_types::dns_label::is_label(namespace);
            check(
                label,
                format!("`kubernetes.namespace` {namespace:?} is not a DNS label"),
            );
            check(
                (1..=3_600_000).contains(&kubernetes.pod_start_timeout_ms),
                format!(
                    "`kubernetes.pod_start_timeout_ms` is {}, expected 1 to 3600000",
                    kubernetes.pod_start_timeout_ms
                ),
            );
        }
        for (key, value) in [
            ("drain_pause_ms", self.drain_pause_ms.unwrap_or_default()),
            ("drain_grace_ms", self.drain_grace_ms),
        ] {
            check(
                value <= 600_000,
                format!("`{key}` is {value}, expected at most 600000"),
            );
        }
        problems
    }

    fn listens(&self) -> Vec<SocketAddr> {
        vec![self.gateway_listen, self.admin_listen]
    }

    fn drain_grace(&self) -> Duration {
        // Instances are killed and the replica is closed after the calls.
        self.drain_pause(DNS_TTL_MAX) + self.calls_grace() + Duration::from_secs(5)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// Of fra.
    pub fn sound() -> Config {
        read(SOUND).unwrap()
    }

    const SOUND: &str = r#"
        name = "fra"
        data_dir = "/tmp/x"
        gateway_listen = "127.0.11.1:8080"
        admin_listen = "127.0.11.1:8081"
        ipv4 = "127.0.11.1"
        globals = ["http://127.0.20.1:7400"]
        zone = "fn.test"
    "#;

    fn read(text: &str) -> Result<Config, Vec<String>> {
        daemon::config::parse(text, [], false)
    }

    #[test]
    fn a_metro_code_gives_place_and_labels() {
        let config = read(SOUND).unwrap();
        let region = config.region();
        assert_eq!(region.labels["geo"], "eu");
        assert_eq!(region.gateway, "127.0.11.1:8080");
        assert!((region.location.latitude - 50.11).abs() < 0.1);
        assert_eq!(config.calls_target(), 204);
    }

    #[test]
    fn connections_follow_the_calls_that_are_admitted() {
        for (calls_max, connections_max) in [(1, 4096), (2048, 4096), (65_536, 131_072)] {
            let text = format!("calls_max = {calls_max}\n{SOUND}");
            assert_eq!(read(&text).unwrap().connections_max(), connections_max);
        }
    }

    #[test]
    fn every_problem_is_named() {
        for (from, to, want) in [
            ("\"fra\"", "\"Atlantis\"", "region name"),
            ("\"fra\"", "\"atlantis\"", "latitude"),
            ("ipv4 = \"127.0.11.1\"", "", "neither `ipv4` nor `ipv6`"),
            ("\"127.0.11.1:8080\"", "\"127.0.0.1:0\"", "gateway_listen"),
            ("\"127.0.11.1:8080\"", "\"192.0.2.1:80\"", "loopback"),
            ("http://", "https://", "no TLS"),
            ("\"fn.test\"", "\"\"", "zone"),
            ("zone =", "calls_max = 0\nzone =", "calls_max"),
            ("zone =", "latitude = 1.0\nzone =", "set together"),
            ("zone =", "zonk = 1\nzone =", "zonk"),
            (
                "zone = \"fn.test\"",
                "zone = \"fn.test\"\n[kubernetes]\noperators = []\nnamespace = \"A b\"",
                "kubernetes.namespace",
            ),
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
