//! When a federation is ready, and the file that says so.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use api_client::Client;
use api_types::Revision;
use api_wire::planes::{ReplicationItem, VerdictBody};
use api_wire::view::{SteeringBody, ViewId};
use serde::{Deserialize, Serialize};

use super::plan::{Part, Role, ZONE};

/// The ready file (docs/reference/interfaces.md). `pid` is a part's last process, also after it died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub zone: String,
    pub globals: Vec<ReadyGlobal>,
    pub dns: Vec<ReadyDns>,
    pub regions: Vec<ReadyRegion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyGlobal {
    pub name: String,
    pub api: String,
    pub pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyDns {
    pub name: String,
    pub udp: String,
    pub http: String,
    pub pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyRegion {
    pub name: String,
    pub gateway: String,
    pub admin: String,
    pub pid: u32,
}

impl Ready {
    pub fn new(parts: &[Part], pids: &BTreeMap<String, u32>) -> Self {
        let mut ready = Self {
            zone: ZONE.to_owned(),
            globals: Vec::new(),
            dns: Vec::new(),
            regions: Vec::new(),
        };
        for part in parts {
            let name = part.name.clone();
            let pid = pids.get(&name).copied().unwrap_or(0);
            match &part.role {
                Role::Global { api } => ready.globals.push(ReadyGlobal {
                    name,
                    api: api.clone(),
                    pid,
                }),
                Role::Dns { udp, http } => ready.dns.push(ReadyDns {
                    name,
                    udp: udp.to_string(),
                    http: http.to_string(),
                    pid,
                }),
                Role::Region { gateway, admin } => ready.regions.push(ReadyRegion {
                    name,
                    gateway: gateway.to_string(),
                    admin: admin.to_string(),
                    pid,
                }),
            }
        }
        ready
    }
}

/// One look at a local daemon; the next comes soon.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// Missed reports after which a region's word is old (docs/reference/interfaces.md: the lease is 3 s).
const REPORT_AGE_MAX_MS: u64 = 3000;

/// Looks once at the whole federation.
///
/// # Errors
/// What is still missing, for people.
pub async fn look(client: &Client, http: &reqwest::Client, parts: &[Part]) -> anyhow::Result<()> {
    for part in parts {
        let url = format!("{}/readyz", part.role.operations());
        let answer = http.get(url).timeout(LOOK_PATIENCE).send().await;
        let answered = answer.is_ok_and(|response| response.status().is_success());
        ensure!(answered, "{} is not ready", part.name);
    }
    let members = in_time(client.members()).await?;
    ensure!(
        members.iter().any(|member| member.role == "leader"),
        "the global nodes have no leader"
    );
    let replication = in_time(client.replication()).await?;
    for region in names(parts) {
        let item = replication.items.iter().find(|item| item.region == region);
        ensure!(item.is_some_and(serves), "region {region} is not healthy");
    }
    let view = in_time(client.steering("", 0, Revision(0), Duration::ZERO))
        .await?
        .context("there is no steering view")?;
    let body: SteeringBody = view.open()?;
    for region in names(parts) {
        let listed = body.regions.iter().find(|row| row.name == region);
        ensure!(
            listed.is_some_and(|row| expected(row.verdict)),
            "the steering view does not have {region} healthy"
        );
    }
    for part in parts {
        if let Role::Dns { http: address, .. } = &part.role {
            let held = held_view(http, &address.to_string()).await?;
            ensure!(
                held.is_some_and(
                    |held| (held.epoch, held.revision) >= (view.id.epoch, view.id.revision)
                ),
                "{} does not hold the newest view",
                part.name
            );
        }
    }
    Ok(())
}

fn names(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts
        .iter()
        .filter(|part| matches!(part.role, Role::Region { .. }))
        .map(|part| part.name.as_str())
}

fn serves(item: &ReplicationItem) -> bool {
    let fresh = item
        .reported_ms_ago
        .is_some_and(|age| age <= REPORT_AGE_MAX_MS);
    fresh && expected(item.verdict)
}

/// A region that an operator drained stays so over restarts, and is then as it should be.
fn expected(verdict: VerdictBody) -> bool {
    matches!(verdict, VerdictBody::Healthy | VerdictBody::Draining)
}

async fn in_time<T>(ask: impl Future<Output = Result<T, api_client::Error>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(LOOK_PATIENCE, ask).await;
    Ok(answer.context("the global nodes do not answer")??)
}

#[derive(Deserialize)]
struct DnsStatus {
    view: Option<ViewId>,
}

async fn held_view(http: &reqwest::Client, address: &str) -> anyhow::Result<Option<ViewId>> {
    let url = format!("http://{address}/v1/status");
    let response = http.get(&url).timeout(LOOK_PATIENCE).send().await?;
    let status: DnsStatus = response.json().await?;
    Ok(status.view)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::PathBuf;

    use super::*;
    use crate::up::plan::{Layout, Net, Shape, parts};

    #[test]
    fn the_ready_file_has_the_form_of_the_design() {
        let shape = Shape {
            net: Net(127, 0),
            regions: 1,
            globals: 1,
            dns: 1,
        };
        let layout = Layout {
            dir: PathBuf::from("/d"),
        };
        let pids = [("global-1", 1), ("dns-1", 2), ("iad", 3)];
        let pids = pids.map(|(name, pid)| (name.to_owned(), pid)).into();
        let ready = Ready::new(&parts(shape, &layout), &pids);
        assert_eq!(
            serde_json::to_string(&ready).unwrap(),
            concat!(
                r#"{"zone":"fn.test","#,
                r#""globals":[{"name":"global-1","api":"http://127.0.20.1:7400","pid":1}],"#,
                r#""dns":[{"name":"dns-1","udp":"127.0.0.1:5300","http":"127.0.0.1:5380","pid":2}],"#,
                r#""regions":[{"name":"iad","gateway":"127.0.11.1:8080","admin":"127.0.11.1:8081","pid":3}]}"#,
            )
        );
    }
}
