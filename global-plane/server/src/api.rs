//! HTTP: Fn's v2 API, `/v1`, calls, and what nodes ask each other.

pub mod bundles;
pub mod explain;
pub mod fns;
pub mod internal;
pub mod invoke;
pub mod members;
#[cfg(feature = "next-format")]
pub mod notes;
pub mod proxy;
pub mod regions;
pub mod views;
pub mod watch;
pub mod write;

use std::sync::Arc;

use api_fn_http::REVISION;
use api_fn_http::conventions::conventional;
use api_wire::fns::ErrorBody;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use global_plane_state::Reply;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use crate::node::{Node, Source};
use crate::reader::Consistency;

/// `?consistency=` of the `/v1` reads.
#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    #[serde(default)]
    consistency: Option<String>,
}

impl Asked {
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        match self.consistency.as_deref() {
            Some("stale") => Consistency::Stale,
            _ => Consistency::Linearizable,
        }
    }
}

pub fn error(status: StatusCode, message: impl Into<String>) -> Response {
    let message = message.into();
    (status, Json(ErrorBody { message })).into_response()
}

/// A write or a read that cannot be done now: 503.
pub fn no_leader(why: impl std::fmt::Display) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, why.to_string());
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A command was answered by the reply of another.
pub fn unexpected(reply: &Reply) -> Response {
    tracing::error!(?reply, "a command got the reply of another");
    error(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
}

/// Everything this node serves, but for calls: those are [`invoke`]'s.
pub fn router(node: &Arc<Node>) -> Router {
    let fn_api = api_fn_http::reads(Source(Arc::clone(node))).merge(fns::writes(Arc::clone(node)));
    let here = conventional(fn_api.clone());
    let prefixed = Router::new()
        .route("/regions/{name}/{*rest}", any(proxy::region))
        .with_state((Arc::clone(node), here));
    let planes = Router::new()
        .route("/v1/regions", get(regions::list).post(regions::register))
        .route("/v1/regions/{name}/drain", post(regions::drain))
        .route("/v1/regions/{name}/undrain", post(regions::undrain))
        .route("/v1/regions/{name}/report", post(regions::report))
        .route("/v1/replication", get(regions::replication))
        .route("/v1/members", get(members::members))
        .route("/v1/formats", get(members::formats))
        .route("/v1/status", get(members::status))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/snapshot", get(views::snapshot))
        .route("/v1/views/steering", get(views::steering))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/bundles/{hex}", put(bundles::put).get(bundles::get))
        .with_state(Arc::clone(node));
    #[cfg(feature = "next-format")]
    let planes = planes.route(
        "/v1/notes/{id}",
        put(notes::put).with_state(Arc::clone(node)),
    );
    let ready = {
        let node = Arc::clone(node);
        move || match node.raft().leader {
            Some(_) => Ok(()),
            None => Err("no leader is known".to_owned()),
        }
    };
    let ours = fn_api
        .merge(planes)
        .merge(prefixed)
        .merge(internal::routes(Arc::clone(node)))
        .merge(daemon::operations(ready));
    conventional(daemon::json_errors(ours))
        .layer(middleware::from_fn_with_state(Arc::clone(node), revision))
}

/// Every response says which state it was made from, or at least which it is no older than.
async fn revision(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let before = node.replica.position().revision;
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .entry(REVISION)
        .or_insert(HeaderValue::from(before.0));
    response
}
