//! `/invoke` and `/t` on a global node: the caller is steered as DNS would steer it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api_fn_http::{ApiError, Id};
use api_types::FnId;
use api_wire::call_headers::{CLIENT, FORWARDED_BY};
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use dns_steering::Target;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, RETRY_AFTER};

use super::error;
use crate::node::{Consistency, Node};
use crate::relay::RelayError;

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
        Ok(Target::function(catalog, function))
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
) -> Result<Target, &'static str> {
    let catalog = state.catalog();
    let app = catalog.app_named(app).ok_or("App not found")?;
    let trigger = catalog
        .trigger_by_source(&app.id, source)
        .ok_or("Trigger not found")?;
    let function = catalog.function(&trigger.fn_id).ok_or("Fn not found")?;
    Ok(Target::trigger(catalog, &app.name, function))
}

async fn call(
    node: &Node,
    peer: SocketAddr,
    mut request: Request,
    find: impl Fn(&global_plane_state::State) -> Result<Target, &'static str> + Send,
) -> Response {
    let called = match node.replica.read(&find) {
        Ok(called) => called,
        // What is not here may have been written through another node a moment ago.
        Err(_) => match node.read(Consistency::Linearizable, &find).await {
            Ok(Ok(called)) => called,
            Ok(Err(message)) => return error(StatusCode::NOT_FOUND, message),
            Err(none) => return super::no_leader(none),
        },
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
    request.headers_mut().remove(CLIENT);
    request.headers_mut().remove(FORWARDED_BY);

    let gateways = node.steer(client, &called);
    if gateways.is_empty() {
        return unavailable("no region may run this function at the moment");
    }
    let sent = node
        .relay
        .send(request, peer.ip(), &gateways, bytes_max)
        .await;
    match sent {
        Ok(response) => response,
        Err(failed) => relay_failed(&failed),
    }
}

fn relay_failed(failed: &RelayError) -> Response {
    match failed {
        RelayError::Unreachable { .. } => {
            tracing::warn!(error = %failed, "call not forwarded");
            unavailable("no region can be reached at the moment")
        }
        RelayError::TooLarge { bytes_max } => error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body too large for this server, max {bytes_max}"),
        ),
        RelayError::Broken { .. } | RelayError::Address { .. } => {
            tracing::warn!(error = %failed, "call broken off");
            error(StatusCode::BAD_GATEWAY, "the region broke the call off")
        }
        RelayError::Silent { .. } => error(StatusCode::GATEWAY_TIMEOUT, "Timed out"),
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
