//! `/v1/regions`: registration, drains, reports, and what is known of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_fn_http::body::Json as Body;
use api_fn_http::{ApiError, Id};
use api_types::{Object, Region, RegionName, Revision, chain};
use api_wire::Page;
use api_wire::planes::{
    DNS_TTL_SECS, LoadBody, REPORT_ITEMS_MAX, RegionItem, Replication, ReplicationItem, Report,
};
use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use global_plane_state::{Command, Reply};
use http::StatusCode;
use http::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::write::{self, Received};
use super::{Asked, error, no_leader};
use crate::leader::Row;
use crate::node::Node;
use crate::peers::PeerError;
use crate::terms::Terms;
use daemon::clock;

/// Soft state is shown as missing rather than waited for.
const ROWS_TIMEOUT: Duration = Duration::from_millis(500);

/// A region tries the next node after the same time.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// `GET /v1/regions`.
pub async fn list(State(node): State<Arc<Node>>, Query(asked): Query<Asked>) -> Response {
    let regions = node.reader.read(asked.consistency(), |state| {
        state.catalog().regions().cloned().collect::<Vec<_>>()
    });
    let regions = match regions.await {
        Ok(regions) => regions,
        Err(none) => return no_leader(none),
    };
    let rows = rows(&node).await;
    let items = regions
        .iter()
        .map(|region| item(&node, region, rows.get(region.name.as_str())))
        .collect();
    Json(Page::<RegionItem>::whole(items)).into_response()
}

/// `GET /v1/replication`.
pub async fn replication(State(node): State<Arc<Node>>, Query(asked): Query<Asked>) -> Response {
    let found = node.reader.read(asked.consistency(), |state| {
        let regions: Vec<Region> = state.catalog().regions().cloned().collect();
        (state.revision(), regions)
    });
    let (revision, regions) = match found.await {
        Ok(found) => found,
        Err(none) => return no_leader(none),
    };
    let mut rows = rows(&node).await;
    let items = regions
        .into_iter()
        .map(|region| {
            let row = rows.remove(region.name.as_str());
            let applied = row.as_ref().map_or(0, |row| row.revision);
            ReplicationItem {
                verdict: region.verdict.into(),
                revision: applied,
                lag_ms: node.replica.lag_ms(Revision(applied), clock::now()),
                hash: row.as_ref().map(|row| row.hash.clone()).unwrap_or_default(),
                reported_ms_ago: row.as_ref().map(|row| row.reported_ms_ago),
                following: row.as_ref().and_then(|row| row.following.clone()),
                bundles_missing: row.map(|row| row.bundles_missing).unwrap_or_default(),
                region: region.name.to_string(),
            }
        })
        .collect();
    Json(Replication {
        revision: revision.0,
        items,
    })
    .into_response()
}

fn item(node: &Node, region: &Region, row: Option<&Row>) -> RegionItem {
    let revision = row.map_or(0, |row| row.revision);
    RegionItem {
        name: region.name.to_string(),
        verdict: region.verdict.into(),
        price_ms: region.price_ms,
        load: row.map_or(LoadBody::default(), |row| row.load),
        sizing: row.and_then(|row| row.sizing),
        revision,
        lag_ms: node.replica.lag_ms(Revision(revision), clock::now()),
        following: row.and_then(|row| row.following.clone()),
        ipv4: region.ipv4,
        ipv6: region.ipv6,
        gateway: region.gateway.clone(),
        admin: region.admin.clone(),
        latitude: region.location.latitude,
        longitude: region.location.longitude,
        labels: region.labels.clone(),
    }
}

/// What the leader has heard from regions; nothing if it cannot be asked.
async fn rows(node: &Node) -> BTreeMap<String, Row> {
    if let Some(rows) = node.leader.rows() {
        return rows;
    }
    let Some(leader) = node.raft().leader else {
        return BTreeMap::new();
    };
    let asked = node
        .peers
        .get(leader, "/internal/leader-regions", ROWS_TIMEOUT);
    asked.await.unwrap_or_else(|failed| {
        tracing::debug!(error = chain(&failed), "no reports from the leader");
        BTreeMap::new()
    })
}

/// `GET /internal/leader-regions`.
pub async fn leader_rows(State(node): State<Arc<Node>>) -> Response {
    match node.leader.rows() {
        Some(rows) => Json(rows).into_response(),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "not the leader"),
    }
}

/// `POST /v1/regions`.
pub async fn register(
    State(node): State<Arc<Node>>,
    received: Received,
) -> Result<Response, ApiError> {
    let command = write::register(received.object()?)?;
    change(&node, command, received.terms).await
}

/// `POST /v1/regions/NAME/drain`.
pub async fn drain(
    State(node): State<Arc<Node>>,
    Id(name): Id,
    received: Received,
) -> Result<Response, ApiError> {
    set_drained(&node, &name, received, true).await
}

/// `POST /v1/regions/NAME/undrain`.
pub async fn undrain(
    State(node): State<Arc<Node>>,
    Id(name): Id,
    received: Received,
) -> Result<Response, ApiError> {
    set_drained(&node, &name, received, false).await
}

async fn set_drained(
    node: &Node,
    name: &str,
    received: Received,
    drained: bool,
) -> Result<Response, ApiError> {
    let Ok(region) = name.parse::<RegionName>() else {
        return Ok(unknown(name));
    };
    change(
        node,
        Command::SetDrained { region, drained },
        received.terms,
    )
    .await
}

async fn change(node: &Node, command: Command, terms: Terms) -> Result<Response, ApiError> {
    let reply = match node.writer.write(command, terms).await {
        Ok(outcome) => outcome?,
        Err(none) => return Ok(no_leader(none)),
    };
    let Reply::Put(Object::Region(region)) = reply else {
        return Ok(super::unexpected(&reply));
    };
    let rows = rows(node).await;
    Ok(Json(item(node, &region, rows.get(region.name.as_str()))).into_response())
}

/// A report on its way from the node that took it to the leader.
#[derive(Debug, Serialize, Deserialize)]
pub struct Forwarded {
    region: String,
    report: Report,
}

/// `POST /v1/regions/NAME/report`.
pub async fn report(
    State(node): State<Arc<Node>>,
    Id(name): Id,
    mut body: Body<Report>,
) -> Response {
    body.0.bundles_missing.truncate(REPORT_ITEMS_MAX);
    body.0.functions.truncate(REPORT_ITEMS_MAX);
    let forwarded = Forwarded {
        region: name,
        report: body.0,
    };
    let Some(leader) = node.raft().leader else {
        return no_leader(crate::reader::NoLeader);
    };
    if leader.node_id == node.config.node_id {
        return heard(&node, take(&node, forwarded));
    }
    let sent = node
        .peers
        .post::<_, Taken>(leader, "/internal/report", &forwarded, REPORT_TIMEOUT);
    match sent.await {
        Ok(Taken {}) => heard(&node, StatusCode::NO_CONTENT.into_response()),
        Err(PeerError::Refused {
            status, message, ..
        }) => error(status, message),
        Err(failed @ PeerError::Unreachable { .. }) => {
            tracing::debug!(error = chain(&failed), "report not forwarded");
            no_leader(crate::reader::NoLeader)
        }
    }
}

/// Says how long DNS answers live: a region that stops is called for so long.
fn heard(node: &Node, mut response: Response) -> Response {
    let ttl = HeaderValue::from(node.config.policy().ttl_secs);
    response.headers_mut().insert(DNS_TTL_SECS, ttl);
    response
}

/// An empty object, because every peer answer is JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {}

/// `POST /internal/report`.
pub async fn forwarded_report(State(node): State<Arc<Node>>, body: Body<Forwarded>) -> Response {
    let taken = take(&node, body.0);
    match taken.status() {
        StatusCode::NO_CONTENT => Json(Taken {}).into_response(),
        _ => taken,
    }
}

fn take(node: &Node, Forwarded { region, report }: Forwarded) -> Response {
    let known = region.parse::<RegionName>().ok().filter(|name| {
        node.replica
            .read(|state| state.catalog().region(name).is_some())
    });
    let Some(name) = known else {
        return unknown(&region);
    };
    metrics::counter!("tradewind_reports_total").increment(1);
    if node.leader.heard(&name, report) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        no_leader(crate::reader::NoLeader)
    }
}

pub fn unknown(name: &str) -> Response {
    error(StatusCode::NOT_FOUND, format!("region {name:?} not found"))
}
