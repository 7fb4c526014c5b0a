//! Which processes a local federation has, where they listen and how they are configured.
//!
//! Pure: the same shape and folder give the same files (docs/reference/interfaces.md fixes the addresses).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The zone that DNS answers for.
pub const ZONE: &str = "fn.test";

const GLOBAL_API_PORT: u16 = 7400;
const GLOBAL_RAFT_PORT: u16 = 7401;
/// Short, so that a demonstration of failover need not wait for resolvers.
const DNS_TTL_SECS: u32 = 5;
/// One port for all gateways, so that a DNS answer is the address to call.
const GATEWAY_PORT: u16 = 8080;
const REGION_ADMIN_PORT: u16 = 8081;
const DNS_PORT: u16 = 5300;
const DNS_HTTP_PORT: u16 = 5380;

/// Real places that the world map knows, in the order they are taken.
pub const REGION_NAMES: [&str; 9] = [
    "iad", "fra", "nrt", "gru", "syd", "lhr", "sin", "bom", "jnb",
];

/// Raft with more voters only gets slower.
pub const GLOBALS_MAX: u8 = 9;

/// One machine has no use for more; their ports lie side by side.
pub const DNS_MAX: u8 = 9;

/// First two octets of every address, as `127.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net(pub u8, pub u8);

impl Net {
    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.0, self.1, third, fourth)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the first two octets of loopback addresses, as 127.0 or 127.44")]
pub struct NetError;

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let (first, second) = text.split_once('.').ok_or(NetError)?;
        match (first.parse(), second.parse()) {
            (Ok(first @ 127), Ok(second)) => Ok(Self(first, second)),
            _ => Err(NetError),
        }
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub net: Net,
    pub regions: u8,
    pub globals: u8,
    pub dns: u8,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// As in `/v1/members` and `/v1/regions`; unique.
    pub name: String,
    pub role: Role,
    /// The text of its configuration file.
    pub config: String,
    /// Everything it binds.
    pub listens: Vec<Listen>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Global {
        api: String,
    },
    Dns {
        udp: SocketAddr,
        http: SocketAddr,
    },
    Region {
        gateway: SocketAddr,
        admin: SocketAddr,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

impl Role {
    /// The daemon's program, beside this one.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Global { .. } => "tradewind-global",
            Self::Dns { .. } => "tradewind-dns",
            Self::Region { .. } => "tradewind-region",
        }
    }

    /// Base URL of `/healthz` and the like.
    pub fn operations(&self) -> String {
        match self {
            Self::Global { api } => api.clone(),
            Self::Dns { http, .. } => format!("http://{http}"),
            Self::Region { admin, .. } => format!("http://{admin}"),
        }
    }
}

/// Where things lie in the federation's folder.
#[derive(Debug, Clone)]
pub struct Layout {
    pub dir: PathBuf,
}

impl Layout {
    pub fn config(&self, part: &str) -> PathBuf {
        self.dir.join("config").join(format!("{part}.toml"))
    }

    pub fn log(&self, part: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{part}.log"))
    }

    pub fn data(&self, part: &str) -> PathBuf {
        self.dir.join("data").join(part)
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("up.json")
    }

    pub fn lock(&self) -> PathBuf {
        self.dir.join("up.lock")
    }
}

#[derive(Serialize)]
struct GlobalConfig<'a> {
    name: &'a str,
    node_id: u8,
    cluster_id: &'a str,
    data_dir: PathBuf,
    api_listen: SocketAddr,
    raft_listen: SocketAddr,
    zone: &'a str,
    gateway_port: u16,
    dns_ttl_secs: u32,
    members: Vec<MemberConfig>,
}

#[derive(Clone, Serialize)]
struct MemberConfig {
    name: String,
    node_id: u8,
    api: String,
    raft: String,
}

#[derive(Serialize)]
struct RegionConfig<'a> {
    name: &'a str,
    data_dir: PathBuf,
    gateway_listen: SocketAddr,
    admin_listen: SocketAddr,
    ipv4: Ipv4Addr,
    globals: &'a [String],
    zone: &'a str,
}

#[derive(Serialize)]
struct DnsConfig<'a> {
    name: &'a str,
    data_dir: PathBuf,
    listen: [SocketAddr; 1],
    http_listen: SocketAddr,
    globals: &'a [String],
    zone: &'a str,
    ttl_secs: u32,
    nameservers: &'a [NameserverConfig],
}

#[derive(Serialize)]
struct NameserverConfig {
    name: String,
    ipv4: Ipv4Addr,
}

/// The processes of a federation: global nodes, then DNS servers, then regions.
pub fn parts(shape: Shape, layout: &Layout) -> Vec<Part> {
    let members: Vec<MemberConfig> = (1..=shape.globals)
        .map(|node_id| {
            let ip = shape.net.address(20, node_id);
            MemberConfig {
                name: format!("global-{node_id}"),
                node_id,
                api: format!("http://{ip}:{GLOBAL_API_PORT}"),
                raft: format!("{ip}:{GLOBAL_RAFT_PORT}"),
            }
        })
        .collect();
    let apis: Vec<String> = members.iter().map(|member| member.api.clone()).collect();
    let dns_ip = shape.net.address(0, 1);
    let nameservers: Vec<NameserverConfig> = (1..=shape.dns)
        .map(|number| NameserverConfig {
            name: format!("ns{number}.{ZONE}"),
            ipv4: dns_ip,
        })
        .collect();

    let globals = members.iter().map(|member| {
        let ip = shape.net.address(20, member.node_id);
        let api_listen = SocketAddr::from((ip, GLOBAL_API_PORT));
        let raft_listen = SocketAddr::from((ip, GLOBAL_RAFT_PORT));
        Part {
            name: member.name.clone(),
            role: Role::Global {
                api: member.api.clone(),
            },
            config: text(&GlobalConfig {
                name: &member.name,
                node_id: member.node_id,
                cluster_id: "local",
                data_dir: layout.data(&member.name),
                api_listen,
                raft_listen,
                zone: ZONE,
                gateway_port: GATEWAY_PORT,
                dns_ttl_secs: DNS_TTL_SECS,
                members: members.clone(),
            }),
            listens: vec![Listen::Tcp(api_listen), Listen::Tcp(raft_listen)],
        }
    });
    let dns = (1..=shape.dns).map(|number| {
        let name = format!("dns-{number}");
        let offset = u16::from(number) - 1;
        let udp = SocketAddr::from((dns_ip, DNS_PORT + offset));
        let http = SocketAddr::from((dns_ip, DNS_HTTP_PORT + offset));
        Part {
            config: text(&DnsConfig {
                name: &name,
                data_dir: layout.data(&name),
                listen: [udp],
                http_listen: http,
                globals: &apis,
                zone: ZONE,
                ttl_secs: DNS_TTL_SECS,
                nameservers: &nameservers,
            }),
            name,
            role: Role::Dns { udp, http },
            listens: vec![Listen::Udp(udp), Listen::Tcp(udp), Listen::Tcp(http)],
        }
    });
    let regions = (1..=shape.regions).zip(REGION_NAMES).map(|(number, name)| {
        let ip = shape.net.address(10 + number, 1);
        let gateway = SocketAddr::from((ip, GATEWAY_PORT));
        let admin = SocketAddr::from((ip, REGION_ADMIN_PORT));
        Part {
            name: name.to_owned(),
            role: Role::Region { gateway, admin },
            config: text(&RegionConfig {
                name,
                data_dir: layout.data(name),
                gateway_listen: gateway,
                admin_listen: admin,
                ipv4: ip,
                globals: &apis,
                zone: ZONE,
            }),
            listens: vec![Listen::Tcp(gateway), Listen::Tcp(admin)],
        }
    });
    globals.chain(dns).chain(regions).collect()
}

/// Base URLs of the global nodes among `parts`.
pub fn apis(parts: &[Part]) -> Vec<String> {
    parts
        .iter()
        .filter_map(|part| match &part.role {
            Role::Global { api } => Some(api.clone()),
            Role::Dns { .. } | Role::Region { .. } => None,
        })
        .collect()
}

fn text<C: Serialize>(config: &C) -> String {
    toml::to_string(config).expect("configurations are plain data with text keys")
}

/// Whether a folder can be written into a configuration file.
pub fn nameable(dir: &Path) -> bool {
    dir.to_str().is_some()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn plan(net: &str, regions: u8, globals: u8, dns: u8) -> Vec<Part> {
        let shape = Shape {
            net: net.parse().unwrap(),
            regions,
            globals,
            dns,
        };
        let layout = Layout {
            dir: PathBuf::from("/d"),
        };
        parts(shape, &layout)
    }

    #[test]
    fn the_default_federation_is_the_one_of_the_design() {
        let parts = plan("127.0", 3, 3, 2);
        let table: Vec<String> = parts
            .iter()
            .map(|part| format!("{} {:?}", part.name, part.role))
            .collect();
        assert_eq!(
            table,
            [
                r#"global-1 Global { api: "http://127.0.20.1:7400" }"#,
                r#"global-2 Global { api: "http://127.0.20.2:7400" }"#,
                r#"global-3 Global { api: "http://127.0.20.3:7400" }"#,
                "dns-1 Dns { udp: 127.0.0.1:5300, http: 127.0.0.1:5380 }",
                "dns-2 Dns { udp: 127.0.0.1:5301, http: 127.0.0.1:5381 }",
                "iad Region { gateway: 127.0.11.1:8080, admin: 127.0.11.1:8081 }",
                "fra Region { gateway: 127.0.12.1:8080, admin: 127.0.12.1:8081 }",
                "nrt Region { gateway: 127.0.13.1:8080, admin: 127.0.13.1:8081 }",
            ]
        );
    }

    #[test]
    fn configuration_files_are_as_written_down() {
        let parts = plan("127.44", 1, 2, 1);
        let config = |name: &str| &parts.iter().find(|part| part.name == name).unwrap().config;
        assert_eq!(
            *config("global-2"),
            r#"name = "global-2"
node_id = 2
cluster_id = "local"
data_dir = "/d/data/global-2"
api_listen = "127.44.20.2:7400"
raft_listen = "127.44.20.2:7401"
zone = "fn.test"
gateway_port = 8080
dns_ttl_secs = 5

[[members]]
name = "global-1"
node_id = 1
api = "http://127.44.20.1:7400"
raft = "127.44.20.1:7401"

[[members]]
name = "global-2"
node_id = 2
api = "http://127.44.20.2:7400"
raft = "127.44.20.2:7401"
"#
        );
        assert_eq!(
            *config("iad"),
            r#"name = "iad"
data_dir = "/d/data/iad"
gateway_listen = "127.44.11.1:8080"
admin_listen = "127.44.11.1:8081"
ipv4 = "127.44.11.1"
globals = ["http://127.44.20.1:7400", "http://127.44.20.2:7400"]
zone = "fn.test"
"#
        );
        assert_eq!(
            *config("dns-1"),
            r#"name = "dns-1"
data_dir = "/d/data/dns-1"
listen = ["127.44.0.1:5300"]
http_listen = "127.44.0.1:5380"
globals = ["http://127.44.20.1:7400", "http://127.44.20.2:7400"]
zone = "fn.test"
ttl_secs = 5

[[nameservers]]
name = "ns1.fn.test"
ipv4 = "127.44.0.1"
"#
        );
    }

    #[test]
    fn no_two_parts_of_the_largest_federation_share_a_name_or_an_address() {
        let regions = u8::try_from(REGION_NAMES.len()).unwrap();
        let parts = plan("127.0", regions, GLOBALS_MAX, DNS_MAX);
        let mut seen = std::collections::BTreeSet::new();
        for part in &parts {
            assert!(seen.insert(part.name.clone()), "{}", part.name);
            for listen in &part.listens {
                assert!(seen.insert(format!("{listen:?}")), "{listen:?}");
            }
        }
    }

    #[test]
    fn only_loopback_is_a_net() {
        for text in ["", "127", "10.0", "127.256", "127.0.0", "a.b", "127.-1"] {
            assert_eq!(text.parse::<Net>(), Err(NetError), "{text}");
        }
        assert_eq!("127.44".parse(), Ok(Net(127, 44)));
    }
}
