//! `/invoke` and `/t` on a global node: the caller is steered as DNS would steer it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api_types::{FnId, Revision, chain};
use api_wire::call_headers::{CLIENT, NOT_STARTED};
use calls_door::route::{self, Path};
use calls_door::{Body, Caller, Refusal};
use calls_forward::{Call, ForwardError, Forwarded, Gateway, Outcome, Reply};
use daemon::Routed;
use dns_steering::Target;
use http::header::HeaderMap;
use http::{HeaderValue, Request, Response, StatusCode, request};
use http_body::Body as _;
use http_body_util::{LengthLimitError, Limited};
use hyper::service::Service;

use crate::node::Node;

/// A node's one listener, for one connection: calls, and everything else by the router.
#[derive(Clone)]
pub struct Front {
    node: Arc<Node>,
    admin: Routed,
    caller: Caller,
}

impl Front {
    #[must_use]
    pub fn new(node: Arc<Node>, router: axum::Router, caller: Caller) -> Self {
        Self {
            node,
            admin: Routed::new(router, caller),
            caller,
        }
    }
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Body>) -> Self::Future {
        let path = match route::path(request.method(), request.uri().path()) {
            Ok(None) => return self.admin.call(request),
            Ok(Some(path)) => Ok(path),
            Err(refusal) => Err(refusal),
        };
        let (node, caller) = (Arc::clone(&self.node), self.caller.address.ip());
        Box::pin(async move {
            // What it was made from, or at least what it is no older than.
            let revision = node.replica.position().revision;
            let mut response = match path {
                Ok(path) => call(&node, caller, &path, request).await,
                Err(refusal) => refusal.respond(),
            };
            response
                .headers_mut()
                .entry(super::REVISION)
                .or_insert(HeaderValue::from(revision.0));
            Ok(response)
        })
    }
}

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

fn find(state: &global_plane_state::State, path: &Path) -> Result<Found, &'static str> {
    match path {
        Path::Invoke { fn_id } => {
            let catalog = state.catalog();
            let function = catalog.function(&FnId::new(fn_id)).ok_or("Fn not found")?;
            let app = catalog.app(&function.app_id).map(|app| app.revision);
            let called = Target::function(catalog, function);
            Ok(Found::new(called, function, app.as_slice()))
        }
        Path::Trigger { app, source } => by_source(state, app, source),
    }
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

async fn call(node: &Node, caller: IpAddr, path: &Path, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    match forward(node, caller, path, &head, body).await {
        Ok(response) => response,
        Err(refusal) => refusal.respond(),
    }
}

async fn forward(
    node: &Node,
    caller: IpAddr,
    path: &Path,
    head: &request::Parts,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    // What was written through another node a moment ago is called as it was written. Without a
    // leader what is here is served: nothing can have been written.
    let confirmed = node.reader.confirm_shared().await;
    let found = node.replica.read(|state| find(state, path));
    let found = found.map_err(|message| match confirmed {
        Ok(()) => Refusal::not_found(message),
        Err(none) => Refusal::away(none.to_string()),
    })?;
    let bytes_max = node.config.limits.invoke_body_bytes_max;
    if let Some(length) = body
        .size_hint()
        .exact()
        .filter(|length| *length > bytes_max)
    {
        return Err(Refusal::too_large(length, bytes_max));
    }
    let client = client_of(&head.headers, caller)?;
    let gateways = node.steer(client, &found.called);
    if gateways.is_empty() {
        return Err(Refusal::away(NOBODY));
    }
    let body_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let forwarding = Call {
        head,
        body: Limited::new(body, body_max),
        caller: Some(caller),
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
        Ok(Forwarded::Answered(response)) => Ok(response.map(Body::stream)),
        Ok(Forwarded::NotStarted { refusal }) => not_started(refusal),
        Err(failed) => Err(not_answered(&failed, bytes_max)),
    }
}

const NOBODY: &str = "no region may run this function at the moment";

/// The function exists here, so that no region has it yet or any more is no reason for a 404.
fn not_started(refusal: Option<Response<Reply>>) -> Result<Response<Body>, Refusal> {
    match refusal {
        None => Err(Refusal::away("no region can be reached at the moment")),
        Some(refusal) if refusal.status() == StatusCode::NOT_FOUND => Err(Refusal::away(NOBODY)),
        Some(mut refusal) => {
            refusal.headers_mut().remove(NOT_STARTED);
            Ok(refusal.map(Body::stream))
        }
    }
}

fn not_answered(
    failed: &ForwardError<Box<dyn std::error::Error + Send + Sync>>,
    bytes_max: u64,
) -> Refusal {
    match failed {
        ForwardError::Caller(broken) if broken.is::<LengthLimitError>() => {
            Refusal::too_long(bytes_max)
        }
        ForwardError::Caller(_) => Refusal::body_broken(),
        ForwardError::Broken { .. } => {
            tracing::warn!(error = chain(&failed), "call broken off");
            Refusal::broken_off("the region broke the call off")
        }
        ForwardError::Silent { .. } => {
            tracing::warn!(error = chain(&failed), "call broken off");
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the region has gone silent")
        }
        ForwardError::TimedOut { .. } => Refusal::timed_out(),
    }
}

/// The address to steer for: the caller's, unless a caller on this machine says otherwise.
/// `X-Forwarded-For` is anyone's word and is not read.
fn client_of(headers: &HeaderMap, caller: IpAddr) -> Result<IpAddr, Refusal> {
    let caller = caller.to_canonical();
    match headers.get(CLIENT) {
        Some(said) if caller.is_loopback() => said
            .to_str()
            .ok()
            .and_then(|said| said.trim().parse().ok())
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "Tradewind-Client is not an IP address",
                )
            }),
        _ => Ok(caller),
    }
}
