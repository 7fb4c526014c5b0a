//! `/regions/NAME` in front of Fn's paths: an unchanged `fn` CLI sees one region.
//!
//! Reads are the region's own answer from what it has applied. Writes are the global plane's: there
//! is one truth. A write returns once the region has applied it, so that what is read next under the
//! same prefix has it.

use std::sync::Arc;
use std::time::Duration;

use api_fn_http::endpoints::PUBLIC_URL;
use api_types::{RegionName, Verdict, chain};
use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use http::{Extensions, HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use super::{REVISION, error, no_leader, regions};
use crate::node::Node;
use crate::reader::Consistency;

/// On the answer to a write under the prefix: the revision that the region had applied by then.
/// Missing if it did not say. Less than `Tradewind-Revision` if it had not applied the write in
/// five seconds.
pub const APPLIED: HeaderName = HeaderName::from_static("tradewind-region-revision");

/// A page of objects from a region's memory; one that takes longer is as good as gone.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A region applies a change within a second of its making. One that takes longer than this may take
/// hours, and the write has happened all the same.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(5);

/// Between questions about what a region has applied; a change is applied in about this time.
const LOOK_INTERVAL: Duration = Duration::from_millis(30);

/// Requests under the prefix. `here` answers writes.
pub async fn region(
    State((node, here)): State<(Arc<Node>, Router)>,
    Path((name, rest)): Path<(String, String)>,
    OriginalUri(original): OriginalUri,
    request: Request,
) -> Response {
    let Ok(parsed) = name.parse::<RegionName>() else {
        return regions::unknown(&name);
    };
    let find = |state: &global_plane_state::State| {
        let region = state.catalog().region(&parsed)?;
        Some((region.admin.clone(), region.verdict))
    };
    let (admin, verdict) = match node.replica.read(find) {
        Some(found) => found,
        // It may have registered at another node a moment ago.
        None => match node.reader.read(Consistency::Linearizable, find).await {
            Ok(Some(found)) => found,
            Ok(None) => return regions::unknown(&name),
            Err(none) => return no_leader(none),
        },
    };
    if rest != "version" && !rest.starts_with("v2/") {
        return error(
            StatusCode::NOT_FOUND,
            format!("Path not found: {} {}", request.method(), original.path()),
        );
    }
    let target = match request.uri().query() {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let asking = asking(&node, &request);
        return read(&node, &name, &admin, &target, asking).await;
    }
    let Ok(uri) = target.parse::<Uri>() else {
        return error(StatusCode::BAD_REQUEST, "invalid path");
    };
    let (mut head, body) = request.into_parts();
    head.uri = uri;
    // What the outer route left would be read as the inner one's: a path of two names too many.
    head.extensions = Extensions::new();
    head.extensions.insert(OriginalUri(original));
    let mut response = match here.oneshot(Request::from_parts(head, body)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.status().is_success()
        && let Some(revision) = revision_of(&response)
    {
        // Nobody waits for a region that is known to be down.
        let applied = match verdict {
            Verdict::Down => None,
            _ => applied(&node, &admin, revision).await,
        };
        if let Some(applied) = applied {
            response.headers_mut().insert(APPLIED, applied.into());
        }
        if applied.is_none_or(|applied| applied < revision) {
            tracing::info!(
                region = name,
                revision,
                "write not applied in the region in time"
            );
        }
    }
    response
}

fn revision_of(response: &Response) -> Option<u64> {
    let revision = response.headers().get(REVISION)?;
    revision.to_str().ok()?.parse().ok()
}

/// What a region says of itself, as far as it matters here.
#[derive(Deserialize)]
struct Status {
    revision: u64,
}

/// The revision that a region has applied, once that is `revision` or the time is over. `None` if it
/// does not say.
async fn applied(node: &Node, admin: &str, revision: u64) -> Option<u64> {
    let deadline = Instant::now() + APPLIED_TIMEOUT;
    let url = format!("http://{admin}/v1/status");
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // One that is just starting again refuses connections; it may yet be in time.
        if let Ok(answer) = node.peers.proxy(&url, HeaderMap::new(), left).await {
            let Status { revision: now } = answer.json().await.ok()?;
            if now >= revision {
                return Some(now);
            }
            last = Some(now);
        }
        if Instant::now() + LOOK_INTERVAL >= deadline {
            return last;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// With these a region shows the endpoints that this node would show.
fn asking(node: &Node, request: &Request) -> HeaderMap {
    let mut asking = HeaderMap::new();
    if let Ok(url) = HeaderValue::from_str(&node.config.public_url) {
        asking.insert(PUBLIC_URL, url);
    }
    let host = request.headers().get(HOST).cloned().or_else(|| {
        let authority = request.uri().authority()?;
        HeaderValue::from_str(authority.as_str()).ok()
    });
    if let Some(host) = host {
        asking.insert(HOST, host);
    }
    asking
}

async fn read(node: &Node, name: &str, admin: &str, target: &str, asking: HeaderMap) -> Response {
    let url = format!("http://{admin}{target}");
    let asked = node.peers.proxy(&url, asking, READ_TIMEOUT).await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(failed) => {
            tracing::info!(
                region = name,
                error = chain(&failed),
                "region cannot be read"
            );
            let mut response = error(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("region {name:?} cannot be reached at the moment"),
            );
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
    };
    let (status, mut headers) = (answer.status(), HeaderMap::new());
    for name in [&CONTENT_TYPE, &RETRY_AFTER, &REVISION] {
        if let Some(value) = answer.headers().get(name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(location) = answer.headers().get(LOCATION)
        && let Ok(location) = location.to_str()
        && let Ok(prefixed) = HeaderValue::from_str(&format!("/regions/{name}{location}"))
    {
        headers.insert(LOCATION, prefixed);
    }
    (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
}
