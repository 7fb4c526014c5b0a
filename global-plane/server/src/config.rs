//! What an operator says about this node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use calls_door::Network;
use dns_steering::Policy;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: String,
    pub node_id: u64,
    pub cluster_id: String,
    pub data_dir: PathBuf,
    pub api_listen: SocketAddr,
    pub raft_listen: SocketAddr,
    pub zone: String,
    #[serde(default = "default_gateway_port")]
    pub gateway_port: u16,
    #[serde(default = "default_dns_ttl_secs")]
    dns_ttl_secs: u32,
    /// Base of the endpoints handed out; empty means the scheme and `Host` of the request.
    #[serde(default)]
    pub public_url: String,
    /// Networks of proxies that speak the PROXY protocol to the API listener.
    #[serde(default)]
    pub proxy_protocol_from: Vec<Network>,
    #[serde(default = "default_tick_ms")]
    pub tick_ms: u64,
    #[serde(default = "default_election_ticks")]
    pub election_ticks: usize,
    #[serde(default = "default_report_lease_ms")]
    pub report_lease_ms: u64,
    pub members: Vec<Member>,
    #[serde(default)]
    pub worldmap: Worldmap,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub name: String,
    pub node_id: u64,
    /// Base URL of its API.
    pub api: String,
    /// `host:port` of its Raft listener.
    pub raft: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worldmap {
    /// Empty for the built-in map.
    pub path: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub invoke_body_bytes_max: u64,
    pub watch_revisions_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Fn's own tests and Oracle's service use 6 MiB (Fn contract 6.4).
            invoke_body_bytes_max: 6 << 20,
            // At a sustained 1,000 writes a second a watcher may be away for ten seconds, at the
            // usual few for hours.
            watch_revisions_max: 10_000,
        }
    }
}

/// As DNS servers have it.
fn default_dns_ttl_secs() -> u32 {
    30
}

/// As DNS servers have it.
const DNS_TTL_ALL_DOWN_SECS: u32 = 5;

fn default_gateway_port() -> u16 {
    8080
}

fn default_tick_ms() -> u64 {
    100
}

fn default_election_ticks() -> usize {
    10
}

fn default_report_lease_ms() -> u64 {
    3000
}

impl Config {
    /// What explanations say of DNS answers; nothing caches what is decided here.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            ttl_secs: self.dns_ttl_secs,
            ttl_all_down_secs: DNS_TTL_ALL_DOWN_SECS,
        }
    }

    /// This node among the members.
    #[must_use]
    pub fn member(&self, node_id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.node_id == node_id)
    }

    /// Every member but this node.
    pub fn peers(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|member| member.node_id != self.node_id)
    }

    /// How many nodes a majority is.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    #[must_use]
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }
}

/// Raft with more voters only gets slower; five survive two losses.
const MEMBERS_MAX: usize = 9;

impl daemon::Config for Config {
    const ABOUT: &'static str =
        "A node of Tradewind's global plane: metadata, Fn's v2 API, region verdicts and views";
    const KEYS: &'static str = r#"
name = "global-1"                      # as in /v1/members
node_id = 1                            # never reused: a wiped node comes back under a new one
cluster_id = "demo"                    # the same on every node; data of another cluster is refused
data_dir = "/var/lib/tradewind/global"
api_listen = "127.0.20.1:7400"
raft_listen = "127.0.20.1:7401"
zone = "fn.test"                       # lower case, no trailing dot
gateway_port = 8080                    # TCP port of every region's gateway
dns_ttl_secs = 30                      # of DNS servers' answers, for explanations
public_url = ""                        # base of invoke endpoints; empty: scheme and Host of the request
proxy_protocol_from = []               # proxies before this node that say who calls, e.g. ["10.0.0.0/8"]
tick_ms = 100                          # Raft's clock
election_ticks = 10                    # ticks without a leader before an election
report_lease_ms = 3000                 # silence after which a region may be thought down

[[members]]                            # every voter, this node included
name = "global-1"
node_id = 1
api = "http://127.0.20.1:7400"
raft = "127.0.20.1:7401"

[worldmap]
path = ""                              # MaxMind-format database; empty: built in

[limits]
invoke_body_bytes_max = 6291456        # of calls that this node forwards
watch_revisions_max = 10000            # changes kept for watches; who is farther behind takes a snapshot
"#;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        check(!self.name.is_empty(), "`name` is empty".to_owned());
        check(
            !self.cluster_id.is_empty() && self.cluster_id.len() <= 64,
            "`cluster_id` must have 1 to 64 bytes".to_owned(),
        );
        check(self.node_id > 0, "`node_id` must be at least 1".to_owned());
        check(
            !self.data_dir.as_os_str().is_empty(),
            "`data_dir` is empty".to_owned(),
        );
        check(
            is_zone(&self.zone),
            format!(
                "`zone` {:?} is not a lower-case domain name without a trailing dot",
                self.zone
            ),
        );
        check(
            self.gateway_port > 0,
            "`gateway_port` must be at least 1".to_owned(),
        );
        check(
            self.public_url.is_empty() || is_base_url(&self.public_url),
            format!(
                "`public_url` {:?} is not http://… or https://… without a trailing slash",
                self.public_url
            ),
        );
        check(
            (1..=10_000).contains(&self.tick_ms),
            "`tick_ms` must be 1 to 10000".to_owned(),
        );
        check(
            (3..=100).contains(&self.election_ticks),
            "`election_ticks` must be 3 to 100: heartbeats go out every tick".to_owned(),
        );
        check(
            (1000..=600_000).contains(&self.report_lease_ms),
            "`report_lease_ms` must be 1000 to 600000: regions report every second".to_owned(),
        );
        check(
            (1..=1_000_000).contains(&self.limits.watch_revisions_max),
            "`limits.watch_revisions_max` must be 1 to 1000000".to_owned(),
        );
        check(
            (1..=MEMBERS_MAX).contains(&self.members.len()),
            format!("`members` must have 1 to {MEMBERS_MAX} entries"),
        );
        check(
            self.members
                .iter()
                .any(|member| member.node_id == self.node_id && member.name == self.name),
            format!(
                "`members` has none with name {:?} and node_id {}, which this node is",
                self.name, self.node_id
            ),
        );
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            let name = &member.name;
            check(
                ids.insert(member.node_id) && names.insert(name),
                format!("`members` names {name:?} or its node_id twice"),
            );
            check(
                is_base_url(&member.api),
                format!(
                    "`members` {name:?}: api {:?} is not http://… without a trailing slash",
                    member.api
                ),
            );
            check(
                member.raft.rsplit_once(':').is_some_and(|(host, port)| {
                    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
                }),
                format!(
                    "`members` {name:?}: raft {:?} is not host:port",
                    member.raft
                ),
            );
        }
        problems
    }

    fn listens(&self) -> Vec<SocketAddr> {
        vec![self.api_listen, self.raft_listen]
    }
}

fn is_zone(zone: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    zone.len() <= 200 && zone.split('.').all(label)
}

fn is_base_url(url: &str) -> bool {
    !url.ends_with('/')
        && url
            .parse::<http::Uri>()
            .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_keys_shown_in_help_configure_a_node() {
        daemon::config::parse::<Config>(<Config as daemon::Config>::KEYS, [], false).unwrap();
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_starts() {
        let keys = <Config as daemon::Config>::KEYS;
        for (from, to, want) in [
            ("node_id = 1   ", "node_id = 2   ", "which this node is"),
            (r#"zone = "fn.test""#, r#"zone = "Fn.test.""#, "`zone`"),
            (
                r#"raft = "127.0.20.1:7401""#,
                r#"raft = "127.0.20.1""#,
                "not host:port",
            ),
            (
                r#"api = "http://127.0.20.1:7400""#,
                r#"api = "127.0.20.1:7400""#,
                "api \"127",
            ),
            (
                "election_ticks = 10",
                "election_ticks = 1",
                "`election_ticks`",
            ),
            (
                r#"public_url = """#,
                r#"public_url = "https://x/""#,
                "`public_url`",
            ),
            (
                r#"api_listen = "127.0.20.1:7400""#,
                r#"api_listen = "0.0.0.0:7400""#,
                "loopback",
            ),
        ] {
            assert!(keys.contains(from), "{from}");
            let problems = daemon::config::parse::<Config>(&keys.replacen(from, to, 1), [], false)
                .unwrap_err();
            assert!(problems.join("\n").contains(want), "{want}: {problems:?}");
        }
    }
}
