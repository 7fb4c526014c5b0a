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
use dns_steering::distance;
use http::header::{EXPECT, HOST, HeaderValue};
use http::{Method, Request, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use region_plane_runtime::call::without_framing;
use tracing::{debug, info};

use crate::gateway::error::CallRefused;

/// More would keep a caller waiting through a federation that is full.
const PEERS_MAX: usize = 2;

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

/// The peers to try, best first: those that serve and are admitted, by `rtt + price`.
#[must_use]
pub fn peers<'a>(
    me: &Region,
    regions: impl Iterator<Item = &'a Region>,
    admitted: impl Fn(&Region) -> bool,
) -> Vec<Region> {
    let cost = |region: &Region| {
        distance::rtt_ms(me.location, region.location).saturating_add(region.price_ms)
    };
    let mut peers: Vec<&Region> = regions
        .filter(|region| region.name != me.name)
        .filter(|region| region.verdict.serves() && !region.drained && admitted(region))
        .collect();
    peers.sort_by(|a, b| cost(a).cmp(&cost(b)).then_with(|| a.name.cmp(&b.name)));
    peers.into_iter().take(PEERS_MAX).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api_types::{Location, Revision, Timestamp, Verdict};

    use super::*;

    #[test]
    fn the_best_serving_peers_come_first() {
        let at =
            |name: &str, longitude: f64, price_ms: u32, verdict: Verdict, drained: bool| Region {
                name: name.parse().expect("a region's name"),
                ipv4: None,
                ipv6: None,
                gateway: format!("{name}:8080"),
                admin: format!("{name}:8081"),
                location: Location {
                    latitude: 50.0,
                    longitude,
                },
                labels: BTreeMap::new(),
                drained,
                verdict,
                price_ms,
                registered_at: Timestamp(0),
                revision: Revision(1),
            };
        let me = at("fra", 8.0, 0, Verdict::Healthy, false);
        let near = at("ams", 5.0, 0, Verdict::Healthy, false);
        let far = at("nrt", 139.0, 0, Verdict::Recovering, false);
        let priced = at("lhr", 0.0, 400, Verdict::Healthy, false);
        let down = at("cdg", 2.0, 0, Verdict::Down, false);
        let drained = at("bru", 4.0, 0, Verdict::Healthy, true);
        let all = [me.clone(), priced, far, down, drained, near];
        let names = |admitted: &dyn Fn(&Region) -> bool| -> Vec<String> {
            let peers = peers(&me, all.iter(), admitted);
            peers.iter().map(|peer| peer.name.to_string()).collect()
        };
        assert_eq!(names(&|_| true), ["ams", "nrt"]);
        assert_eq!(names(&|peer| peer.name.as_str() != "ams"), ["nrt", "lhr"]);
        assert!(names(&|_| false).is_empty());
    }
}
