//! Views for the other planes. Any node serves them from what it has applied: a server that has a newer
//! view refuses an older one.

use std::sync::Arc;
use std::time::Duration;

use api_types::Knowledge;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::Instant;

use crate::agreement;
use crate::node::Node;
use crate::views::EPOCH;

/// A poll that outlived the proxies and timeouts on its way would only look like a dead node.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct SteeringQuery {
    after: u64,
    epoch: u64,
    wait_ms: u64,
    /// The DNS server that asks; empty for anybody else.
    who: String,
    /// Formats that it knows, with commas between.
    knows: String,
}

impl Default for SteeringQuery {
    /// Of a DNS server that has no view yet.
    fn default() -> Self {
        Self {
            after: 0,
            epoch: 0,
            wait_ms: 0,
            who: String::new(),
            knows: String::new(),
        }
    }
}

pub async fn steering(
    State(node): State<Arc<Node>>,
    Query(asked): Query<SteeringQuery>,
) -> Response {
    let knows = Knowledge::said(asked.knows.split(','));
    let lacks = (node.replica).read(|state| agreement::dns_server_lacks(state.catalog(), &knows));
    if !asked.who.is_empty() {
        node.agreement
            .askers
            .heard(&asked.who, knows, Instant::now());
    }
    if !lacks.is_empty() {
        return formats_unknown(&lacks);
    }
    let newer = |revision: u64| (EPOCH, revision) > (asked.epoch, asked.after);
    let mut position = node.replica.subscribe();
    let wait = Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
    let news = position.wait_for(|position| newer(position.steering.0));
    let waited = tokio::select! {
        waited = tokio::time::timeout(wait, news) => waited.is_ok(),
        () = node.shutdown.cancelled() => false,
    };
    if !waited {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let steering = node.views.steering(&node.replica);
    (
        [(CONTENT_TYPE, "application/json; charset=utf-8")],
        Body::from(steering.sealed.clone()),
    )
        .into_response()
}

/// 406: the server that asks does not know formats that are in use, so it could not read the answer.
pub fn formats_unknown(lacks: &[String]) -> Response {
    let message = format!(
        "in use and not known to who asks: {}; upgrade it",
        lacks.join(", ")
    );
    super::error(StatusCode::NOT_ACCEPTABLE, message)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotQuery {
    /// Formats that the region knows, with commas between.
    knows: String,
}

/// Walks the whole catalog, so it runs where it may block.
pub async fn snapshot(
    State(node): State<Arc<Node>>,
    Query(asked): Query<SnapshotQuery>,
) -> Response {
    let knows = Knowledge::said(asked.knows.split(','));
    let lacks = (node.replica).read(|state| agreement::region_lacks(state.catalog(), &knows));
    if !lacks.is_empty() {
        return formats_unknown(&lacks);
    }
    let place = node.snapshots.acquire().await;
    let built = tokio::task::spawn_blocking({
        let node = Arc::clone(&node);
        move || Json(node.views.metadata(&node.replica)).into_response()
    })
    .await;
    drop(place);
    built.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
