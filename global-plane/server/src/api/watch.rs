//! `GET /v1/watch?from=REV&cluster_id=ID&epoch=N`: every change after REV, in order, as
//! newline-delimited JSON.
//!
//! A revision says nothing without whose it is: changes of another cluster, or of a state that was
//! restored, may well follow on the number of the last one held.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Knowledge, Revision};
use api_wire::WatchLine;
use api_wire::fns::ErrorBody;
use api_wire::planes::Compacted;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agreement;
use crate::machine::{Position, Replica};
use crate::node::Node;
use crate::views::EPOCH;

/// How often a watcher hears that it lacks nothing; it may take twice this long as a dead peer.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
pub struct WatchQuery {
    /// Exclusive.
    #[serde(default)]
    from: u64,
    /// Whose revision that is; a person who looks on need not say.
    cluster_id: Option<String>,
    epoch: Option<u64>,
    /// Formats that the region knows, with commas between.
    #[serde(default)]
    knows: String,
}

pub async fn watch(State(node): State<Arc<Node>>, Query(asked): Query<WatchQuery>) -> Response {
    let replica = Arc::clone(&node.replica);
    let cluster_id = replica.read(|state| state.cluster_id().to_owned());
    if asked.cluster_id.is_some_and(|asked| asked != cluster_id)
        || asked.epoch.is_some_and(|asked| asked != EPOCH)
    {
        return stranger(&cluster_id);
    }
    let knows = Knowledge::said(asked.knows.split(','));
    let lacks = replica.read(|state| agreement::region_lacks(state.catalog(), &knows));
    if !lacks.is_empty() {
        return super::views::formats_unknown(&lacks);
    }
    let from = asked.from;
    if replica.changes_after(Revision(from)).is_err() {
        return compacted(from, replica.position().revision);
    }
    let watcher = Watcher {
        changed: replica.subscribe(),
        replica,
        from: Revision(from),
        progress_at: Instant::now(),
        shutdown: node.shutdown.clone(),
        _counted: Counted::new(),
    };
    let lines = stream::unfold(watcher, async |mut watcher| {
        let lines = watcher.next().await?;
        Some((Ok::<_, Infallible>(lines), watcher))
    });
    (
        [
            (CONTENT_TYPE, "application/x-ndjson"),
            (CACHE_CONTROL, "no-store"),
        ],
        Body::from_stream(lines),
    )
        .into_response()
}

fn compacted(from: u64, current: Revision) -> Response {
    let body = Compacted {
        message: format!(
            "changes after revision {from} are no longer kept; take /v1/snapshot and watch from its revision"
        ),
        snapshot_revision: current.0,
    };
    (StatusCode::GONE, Json(body)).into_response()
}

fn stranger(cluster_id: &str) -> Response {
    let message = format!(
        "the revision is not of cluster {cluster_id:?} in epoch {EPOCH}; take /v1/snapshot"
    );
    (StatusCode::CONFLICT, Json(ErrorBody { message })).into_response()
}

struct Watcher {
    replica: Arc<Replica>,
    changed: watch::Receiver<Position>,
    /// Sent so far.
    from: Revision,
    progress_at: Instant,
    shutdown: CancellationToken,
    _counted: Counted,
}

impl Watcher {
    /// The next lines; `None` ends the stream, and the watcher goes on elsewhere from what it has.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.changed.mark_unchanged();
            let Ok(pulled) = self.replica.changes_after(self.from) else {
                tracing::warn!(revision = %self.from, "watcher fell behind what is kept");
                metrics::counter!("tradewind_watchers_cut_off_total").increment(1);
                return None;
            };
            self.from = pulled.upto;
            let mut lines = BytesMut::with_capacity(pulled.lines.iter().map(Bytes::len).sum());
            for line in pulled.lines {
                lines.extend_from_slice(&line);
            }
            if self.progress_at <= Instant::now() {
                self.progress_at = Instant::now() + PROGRESS_EVERY;
                let line = WatchLine::Progress {
                    revision: self.from.0,
                };
                lines.extend_from_slice(
                    &serde_json::to_vec(&line).expect("watch lines are plain data"),
                );
                lines.extend_from_slice(b"\n");
            }
            if !lines.is_empty() {
                return Some(lines.freeze());
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.progress_at) => {}
                () = self.shutdown.cancelled() => return None,
            }
        }
    }
}

/// Counts the watchers that are connected.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("tradewind_watchers").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("tradewind_watchers").decrement(1.0);
    }
}
