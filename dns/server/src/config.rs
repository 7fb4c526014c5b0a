//! What an operator sets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api_client::Client;
use hickory_proto::rr::Name;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub listen: Vec<SocketAddr>,
    pub http_listen: SocketAddr,
    pub globals: Vec<String>,
    pub zone: String,
    pub nameservers: Vec<Nameserver>,
    #[serde(default = "default_ttl_secs")]
    pub ttl_secs: u32,
    #[serde(default = "default_ttl_all_down_secs")]
    pub ttl_all_down_secs: u32,
    #[serde(default)]
    pub worldmap: WorldMap,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nameserver {
    pub name: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldMap {
    #[serde(default)]
    pub path: PathBuf,
}

/// Long enough for resolvers to help, short enough that a lost region is soon forgotten.
fn default_ttl_secs() -> u32 {
    30
}

/// Verdicts that say that every region is down are likelier wrong than right, and soon corrected.
fn default_ttl_all_down_secs() -> u32 {
    5
}

/// A day. Steered answers that live longer could not be withdrawn in time to matter.
const TTL_SECS_MAX: u32 = 86_400;

impl Config {
    /// The zone as text: lower case, no trailing dot.
    pub fn zone(&self) -> String {
        self.zone.trim_end_matches('.').to_ascii_lowercase()
    }
}

/// A name written with or without its trailing dot.
pub fn absolute_name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?.to_lowercase();
    name.set_fqdn(true);
    (!name.is_root()).then_some(name)
}

impl daemon::Config for Config {
    const ABOUT: &'static str = "Authoritative DNS server for the functions' zone. It answers each client with the \
         region that should respond to it fastest, from the newest steering view that it has.";

    const KEYS: &'static str = r#"
name = "dns-1"
data_dir = "/var/lib/tradewind/dns"      # the newest view, for when no global node answers
listen = ["127.0.0.1:5300"]              # UDP and TCP; list each address, not 0.0.0.0
http_listen = "127.0.0.1:5380"           # /healthz /readyz /metrics /v1/status /v1/explain
globals = ["http://127.0.20.1:7400"]     # global nodes; it follows each of them
zone = "fn.test"
ttl_secs = 30                            # TTL of answers; also, at most 30, of "no such name"
ttl_all_down_secs = 5                    # TTL when no region is healthy; then all are answered
[[nameservers]]                          # NS records of the zone, and addresses of ns*.ZONE
name = "ns1.fn.test"
ipv4 = "127.0.0.1"                       # or ipv6, or both
[worldmap]
path = ""                                # database in MaxMind format; empty: built in
"#;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |sound: bool, problem: String| {
            if !sound {
                problems.push(problem);
            }
        };
        check(!self.name.is_empty(), "`name` is empty".to_owned());
        check(
            !self.data_dir.as_os_str().is_empty(),
            "`data_dir` is empty".to_owned(),
        );
        check(!self.listen.is_empty(), "`listen` is empty".to_owned());
        for listen in &self.listen {
            check(
                !listen.ip().is_unspecified(),
                format!(
                    "`listen` has {listen}: answers could leave from another address than the query \
                     was sent to; list each address"
                ),
            );
        }
        if let Err(error) = Client::new(&self.globals) {
            check(false, format!("`globals`: {error}"));
        }
        let zone = absolute_name(&self.zone);
        check(
            zone.is_some(),
            format!("`zone` {:?} is not a domain name", self.zone),
        );
        check(
            !self.nameservers.is_empty(),
            "`nameservers` is empty".to_owned(),
        );
        for (index, server) in self.nameservers.iter().enumerate() {
            let Some(name) = absolute_name(&server.name) else {
                check(
                    false,
                    format!(
                        "`nameservers[{index}].name` {:?} is not a domain name",
                        server.name
                    ),
                );
                continue;
            };
            // A parent cannot delegate to a name inside the zone without its address.
            let inside = zone.as_ref().is_some_and(|zone| zone.zone_of(&name));
            check(
                !inside || server.ipv4.is_some() || server.ipv6.is_some(),
                format!("`nameservers[{index}]` is in the zone and has neither ipv4 nor ipv6"),
            );
            let label = name.iter().next().unwrap_or_default();
            check(
                !inside
                    || (label.starts_with(b"ns")
                        && zone
                            .as_ref()
                            .is_some_and(|zone| name.num_labels() == zone.num_labels() + 1)),
                format!(
                    "`nameservers[{index}].name` {:?} is in the zone but is not of the form \
                     ns*.ZONE, so an app could take its name",
                    server.name
                ),
            );
        }
        for (key, ttl) in [
            ("ttl_secs", self.ttl_secs),
            ("ttl_all_down_secs", self.ttl_all_down_secs),
        ] {
            check(
                (1..=TTL_SECS_MAX).contains(&ttl),
                format!("`{key}` is {ttl}, must be 1 to {TTL_SECS_MAX}"),
            );
        }
        problems
    }

    fn listens(&self) -> Vec<SocketAddr> {
        let mut listens = self.listen.clone();
        listens.push(self.http_listen);
        listens
    }

    fn drain_grace(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// Canonical form of an address: an IPv4 address mapped into IPv6 is the IPv4 address.
pub fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use daemon::Config as _;

    use super::*;

    const GOOD: &str = r#"
        name = "dns-1"
        data_dir = "/tmp/x"
        listen = ["127.0.0.1:0"]
        http_listen = "127.0.0.1:0"
        globals = ["http://127.0.20.1:7400"]
        zone = "Fn.Test."
        nameservers = [{name = "ns1.fn.test", ipv4 = "127.0.0.1"}]
    "#;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        daemon::config::parse(text, [], false)
    }

    #[test]
    fn the_keys_shown_in_help_are_a_configuration() {
        parse(Config::KEYS).unwrap();
        assert_eq!(parse(GOOD).unwrap().zone(), "fn.test");
    }

    #[test]
    fn every_rule_is_told() {
        let bad = r#"
            name = ""
            data_dir = ""
            listen = ["0.0.0.0:53"]
            http_listen = "192.0.2.1:80"
            globals = ["https://a"]
            zone = ".."
            ttl_secs = 0
            [[nameservers]]
            name = "x..y"
        "#;
        let problems = parse(bad).unwrap_err().join("\n");
        for want in [
            "`name`",
            "`data_dir`",
            "0.0.0.0:53",
            "192.0.2.1:80",
            "no TLS",
            "`zone`",
            "`ttl_secs`",
            "`nameservers[0].name`",
        ] {
            assert!(problems.contains(want), "{want} not in:\n{problems}");
        }
        for (server, want) in [
            (r#"name = "ns1.fn.test""#, "neither ipv4 nor ipv6"),
            (
                r#"name = "dns.fn.test", ipv4 = "127.0.0.1""#,
                "an app could take its name",
            ),
        ] {
            let text = GOOD.replace(r#"name = "ns1.fn.test", ipv4 = "127.0.0.1""#, server);
            assert!(parse(&text).unwrap_err()[0].contains(want), "{want}");
        }
    }
}
