//! Spillover: handing a call that this region does not run to a peer's gateway.
//!
//! One hop, and only a call that no function has seen: a peer is tried after another only if the
//! connection failed or the peer said that it did not start the call.

use std::time::Duration;

use api_types::{Region, RegionName};
use api_wire::call_headers::{BY_GATEWAY, FORWARDED_BY, NOT_STARTED};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{EXPECT, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use region_plane_runtime::call::without_framing;
use tracing::{debug, info};

use crate::gateway::error::CallRefused;

/// A gateway that does not accept a connection in this time is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest function timeout is 300 s (Fn contract 3.1); waiting and a cold start come on top.
const HEAD_TIMEOUT: Duration = Duration::from_secs(360);

/// Shorter than the 20 s after which our own servers close an idle connection. One whose connections
/// are all taken closes them after a second; a call that crosses that is broken off.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A call as it came, with its body.
#[derive(Debug, Clone)]
pub struct Spilled {
    pub method: Method,
    pub uri: Uri,
    /// The name it came by.
    pub host: Option<String>,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

pub struct Spill {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Spill {
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .build(connector),
        }
    }

    /// The first peer's answer; `None` if no peer has started the call.
    ///
    /// # Errors
    /// If a peer may have started it and there is no answer.
    pub async fn send(
        &self,
        call: &Spilled,
        peers: &[Region],
    ) -> Result<Option<Response>, CallRefused> {
        for peer in peers {
            let Some(request) = self.request(call, peer) else {
                continue;
            };
            let answered = tokio::time::timeout(HEAD_TIMEOUT, self.client.request(request)).await;
            let outcome = match answered {
                Ok(Ok(response)) if is_not_started(&response) => {
                    debug!(region = %peer.name, "a peer has no room either");
                    "full"
                }
                Ok(Ok(response)) => {
                    count(&peer.name, "served");
                    let (mut head, body) = response.into_parts();
                    head.headers = without_framing(head.headers);
                    return Ok(Some(Response::from_parts(head, Body::new(body))));
                }
                Ok(Err(error)) if error.is_connect() => {
                    info!(region = %peer.name, %error, "a peer's gateway cannot be connected to");
                    "unreachable"
                }
                Ok(Err(error)) => {
                    info!(region = %peer.name, %error, "a peer broke a call off");
                    count(&peer.name, "broken");
                    return Err(CallRefused::new(
                        StatusCode::BAD_GATEWAY,
                        format!("region {} broke the call off", peer.name),
                    ));
                }
                Err(_) => {
                    count(&peer.name, "silent");
                    return Err(CallRefused::new(StatusCode::GATEWAY_TIMEOUT, "Timed out"));
                }
            };
            count(&peer.name, outcome);
        }
        Ok(None)
    }

    fn request(&self, call: &Spilled, peer: &Region) -> Option<Request<Full<Bytes>>> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(peer.gateway.as_str())
            .path_and_query(call.uri.path_and_query()?.clone())
            .build()
            .ok()?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        let mut sent = without_framing(call.headers.clone());
        sent.remove(EXPECT);
        if let Some(host) = call.host.as_ref().and_then(|host| host.parse().ok()) {
            sent.insert(HOST, host);
        }
        sent.insert(FORWARDED_BY, HeaderValue::from_static(BY_GATEWAY));
        *request.headers_mut() = sent;
        Some(request)
    }
}

fn is_not_started<B>(response: &http::Response<B>) -> bool {
    response.headers().contains_key(NOT_STARTED)
}

fn count(region: &RegionName, outcome: &'static str) {
    metrics::counter!(
        "tradewind_region_spills_total",
        "region" => region.to_string(),
        "outcome" => outcome
    )
    .increment(1);
}
