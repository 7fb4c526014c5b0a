//! `/regions/NAME` in front of Fn's paths: an unchanged `fn` CLI sees one region.
//!
//! Reads are the region's own answer from what it has applied. Writes are the global plane's: there
//! is one truth.

use std::sync::Arc;
use std::time::Duration;

use api_types::RegionName;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode, Uri};
use tower::ServiceExt as _;

use super::{error, regions};
use crate::node::Node;

/// A page of objects from a region's memory; one that takes longer is as good as gone.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests under the prefix. `here` answers writes.
pub async fn region(
    State((node, here)): State<(Arc<Node>, Router)>,
    Path((name, rest)): Path<(String, String)>,
    mut request: Request,
) -> Response {
    let admin = name.parse::<RegionName>().ok().and_then(|name| {
        node.replica.read(|state| {
            state
                .catalog()
                .region(&name)
                .map(|region| region.admin.clone())
        })
    });
    let Some(admin) = admin else {
        return regions::unknown(&name);
    };
    let query = request.uri().query();
    let target = match query {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    };
    if rest != "version" && !rest.starts_with("v2/") {
        return error(
            StatusCode::NOT_FOUND,
            format!(
                "Path not found: {} {}",
                request.method(),
                request.uri().path()
            ),
        );
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return read(&node, &name, &admin, &target).await;
    }
    match target.parse::<Uri>() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return error(StatusCode::BAD_REQUEST, "invalid path"),
    }
    match here.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn read(node: &Node, name: &str, admin: &str, target: &str) -> Response {
    let asked = node
        .peers
        .proxy(&format!("http://{admin}{target}"), READ_TIMEOUT)
        .await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(failed) => {
            tracing::info!(region = name, error = %failed, "region cannot be read");
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
    for name in [&CONTENT_TYPE, &super::REVISION] {
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
