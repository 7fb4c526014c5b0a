//! The nodes of the global plane, as the answering node sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Knowledge, MemberId};
use api_wire::Page;
use api_wire::planes::{FormatItem, Member};
use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// `GET /v1/status`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub pid: u32,
    pub version: String,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    pub term: u64,
    /// Name of the member that leads; absent if this node knows none.
    pub leader: Option<String>,
    pub revision: u64,
    /// Log index applied.
    pub applied: u64,
}

/// A member that takes longer is shown as not heard from.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

pub async fn status(State(node): State<Arc<Node>>) -> Json<Status> {
    let position = node.replica.position();
    let raft = node.raft();
    Json(Status {
        name: node.config.name.clone(),
        pid: std::process::id(),
        version: daemon::VERSION.to_owned(),
        role: raft.role.to_owned(),
        term: raft.term,
        leader: raft.leader.map(|member| member.name.clone()),
        revision: position.revision.0,
        applied: position.index,
    })
}

pub async fn members(State(node): State<Arc<Node>>) -> Json<Page<Member>> {
    let leader = node.raft().leader.map(|member| member.node_id);
    let asked = node.config.members.iter().map(async |member| {
        let revision = if member.node_id == node.config.node_id {
            node.replica.position().revision.0
        } else {
            node.peers
                .get::<Status>(member, "/v1/status", ASK_TIMEOUT)
                .await
                .map_or(0, |status| status.revision)
        };
        Member {
            name: member.name.clone(),
            api: member.api.clone(),
            role: if leader == Some(member.node_id) {
                "leader".to_owned()
            } else {
                "follower".to_owned()
            },
            revision,
        }
    });
    Json(Page::whole(join_all(asked).await))
}

/// `GET /v1/formats`: what is agreed on beside what every version knows.
pub async fn formats(State(node): State<Arc<Node>>) -> Json<Page<FormatItem>> {
    let items = node.replica.read(|state| {
        let catalog = state.catalog();
        let said = |member: &crate::config::Member| {
            let said = catalog.member(MemberId(member.node_id));
            said.map_or_else(Knowledge::default, |said| said.knows.clone())
        };
        let own = Knowledge::own();
        let members = node.config.members.iter();
        let members: Vec<_> = members.map(|member| (&member.name, said(member))).collect();
        let in_use = catalog.formats().map(|format| format.name.as_str());
        let said = members.iter().flat_map(|(_, knows)| knows.to_say());
        let names: BTreeSet<&str> = own.to_say().chain(said).chain(in_use).collect();
        let item = |name: &str| FormatItem {
            name: name.to_owned(),
            in_use: catalog.formats().any(|format| format.name.as_str() == name),
            lacking: members
                .iter()
                .filter(|(_, knows)| !knows.knows(name))
                .map(|(member, _)| (*member).clone())
                .collect(),
        };
        names.into_iter().map(item).collect()
    });
    Json(Page::whole(items))
}
