//! `/invoke` and `/t` on a global node: the caller is steered as DNS would steer it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api_fn_http::{ApiError, Id};
use api_types::{FnId, Revision, chain};
use api_wire::call_headers::{CLIENT, NOT_STARTED};
use axum::BoxError;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use calls_forward::{Call, ForwardError, Forwarded, Gateway, Outcome, Reply};
use dns_steering::Target;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER};
use http_body_util::{LengthLimitError, Limited};

use super::error;
use crate::node::Node;

/// What a call leads to.
struct Found {
    called: Target,
    /// The newest among the objects that it was found by: a gateway that has applied it finds the same.
    revision: Revision,
    timeout: Duration,
}

impl Found {
    fn new(called: Target, function: &api_types::Fn, others: &[Revision]) -> Self {
        let revision = others
            .iter()
            .copied()
            .fold(function.revision, Revision::max);
        Self {
            called,
            revision,
            timeout: Duration::from_secs(function.timeout_secs.into()),
        }
    }
}

pub async fn invoke(
    State(node): State<Arc<Node>>,
    Id(id): Id,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let id = FnId::new(id);
    let find = |state: &global_plane_state::State| {
        let catalog = state.catalog();
        let function = catalog.function(&id).ok_or("Fn not found")?;
        let app = catalog.app(&function.app_id).map(|app| app.revision);
        let called = Target::function(catalog, function);
        Ok(Found::new(called, function, app.as_slice()))
    };
    call(&node, peer, request, find).await
}

pub async fn trigger_root(
    State(node): State<Arc<Node>>,
    Id(app): Id,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let find = |state: &_| by_source(state, &app, "/");
    call(&node, peer, request, find).await
}

pub async fn trigger(
    State(node): State<Arc<Node>>,
    path: Result<Path<(String, String)>, PathRejection>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    // A path that is not text names nothing.
    let (app, source) = path.map(|Path(parts)| parts).unwrap_or_default();
    let source = format!("/{source}");
    let find = |state: &_| by_source(state, &app, &source);
    call(&node, peer, request, find).await
}

fn by_source(
    state: &global_plane_state::State,
    app: &str,
    source: &str,
) -> Result<Found, &'static str> {
    let catalog = state.catalog();
    let app = catalog.app_named(app).ok_or("App not found")?;
    let trigger = catalog
        .trigger_by_source(&app.id, source)
        .ok_or("Trigger not found")?;
    let function = catalog.function(&trigger.fn_id).ok_or("Fn not found")?;
    let called = Target::trigger(catalog, &app.name, function);
    Ok(Found::new(
        called,
        function,
        &[app.revision, trigger.revision],
    ))
}

async fn call(
    node: &Node,
    peer: SocketAddr,
    request: Request,
    find: impl Fn(&global_plane_state::State) -> Result<Found, &'static str> + Send,
) -> Response {
    // What was written through another node a moment ago is called as it was written. Without a
    // leader what is here is served: nothing can have been written.
    let confirmed = node.confirm_shared().await;
    let found = match (node.replica.read(&find), confirmed) {
        (Ok(found), _) => found,
        (Err(message), Ok(())) => return error(StatusCode::NOT_FOUND, message),
        (Err(_), Err(none)) => return super::no_leader(none),
    };
    let bytes_max = node.config.limits.invoke_body_bytes_max;
    let declared = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = declared.filter(|length| *length > bytes_max) {
        return error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Content-Length too large for this server, {length} > max {bytes_max}"),
        );
    }
    let client = match client_of(request.headers(), peer) {
        Ok(client) => client,
        Err(refused) => return refused.into_response(),
    };
    let gateways = node.steer(client, &found.called);
    if gateways.is_empty() {
        return unavailable("no region may run this function at the moment");
    }
    let (head, body) = request.into_parts();
    let body_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let forwarding = Call {
        head: &head,
        body: Limited::new(body, body_max),
        caller: Some(peer.ip()),
        min_revision: Some(found.revision.0),
        timeout: found.timeout,
    };
    let told = |gateway: &Gateway, outcome: Outcome| {
        metrics::counter!(
            "tradewind_calls_forwarded_total",
            "region" => gateway.region.clone(),
            "outcome" => outcome.as_str()
        )
        .increment(1);
    };
    match node.forwarder.forward(forwarding, &gateways, told).await {
        Ok(Forwarded::Answered(response)) => response.map(Body::new),
        Ok(Forwarded::NotStarted { refusal }) => not_started(refusal),
        Err(failed) => not_answered(&failed, bytes_max),
    }
}

/// The function exists here, so that no region has it yet or any more is no reason for a 404.
fn not_started(refusal: Option<http::Response<Reply>>) -> Response {
    match refusal {
        None => unavailable("no region can be reached at the moment"),
        Some(refusal) if refusal.status() == StatusCode::NOT_FOUND => {
            unavailable("no region may run this function at the moment")
        }
        Some(mut refusal) => {
            refusal.headers_mut().remove(NOT_STARTED);
            refusal.map(Body::new)
        }
    }
}

fn not_answered(failed: &ForwardError<BoxError>, bytes_max: u64) -> Response {
    match failed {
        ForwardError::Caller(broken) if broken.is::<LengthLimitError>() => error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body too large for this server, max {bytes_max}"),
        ),
        ForwardError::Caller(_) => error(StatusCode::BAD_REQUEST, "the request body broke off"),
        ForwardError::Broken { .. } => {
            tracing::warn!(error = chain(&failed), "call broken off");
            error(StatusCode::BAD_GATEWAY, "the region broke the call off")
        }
        ForwardError::Silent { .. } => {
            tracing::warn!(error = chain(&failed), "call broken off");
            error(StatusCode::GATEWAY_TIMEOUT, "the region has gone silent")
        }
        ForwardError::TimedOut { .. } => error(StatusCode::GATEWAY_TIMEOUT, "Timed out"),
    }
}

fn unavailable(message: &str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, message);
    response
        .headers_mut()
        .insert(RETRY_AFTER, http::HeaderValue::from_static("1"));
    response
}

/// The address to steer for: the peer's, unless a peer on this machine says otherwise.
/// `X-Forwarded-For` is anyone's word and is not read.
fn client_of(headers: &HeaderMap, peer: SocketAddr) -> Result<IpAddr, ApiError> {
    let peer = peer.ip().to_canonical();
    match headers.get(CLIENT) {
        Some(said) if peer.is_loopback() => said
            .to_str()
            .ok()
            .and_then(|said| said.trim().parse().ok())
            .ok_or_else(|| ApiError::invalid("Tradewind-Client is not an IP address")),
        _ => Ok(peer),
    }
}
