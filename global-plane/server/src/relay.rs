//! Hands a call on, streaming, to the first gateway that can be connected to.
//!
//! A second gateway is tried only when connecting to the first failed: then not a byte of the call
//! has left, so no function can have seen it. Anything later is the caller's to retry, who alone
//! knows whether that is safe.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, Uri, Version};
use http_body::{Frame, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

#[derive(Clone)]
pub struct Relay {
    client: Client<HttpConnector, Retained>,
}

#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Nothing was sent anywhere.
    #[error("no gateway of {tried} could be connected to")]
    Unreachable { tried: usize },
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("forward a call to {gateway}")]
    Broken {
        gateway: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("{gateway} did not answer in {HEAD_TIMEOUT:?}")]
    Silent { gateway: String },
    #[error("{gateway:?} cannot be called")]
    Address { gateway: String },
}

/// A gateway that does not accept a connection in this time is as good as gone; the next-best
/// region is at most a few hundred milliseconds farther.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest function timeout is 300 s (Fn contract 3.1); queueing and a cold start come on top.
const HEAD_TIMEOUT: Duration = Duration::from_secs(360);

/// Shorter than the 20 s after which our own servers close an idle connection, so that a call is
/// rarely sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

impl Relay {
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self { client }
    }

    /// Sends the request to the first of `gateways` (`host:port`) that accepts a connection, its
    /// target and `Host` unchanged. A body of more than `bytes_max` bytes is cut off.
    ///
    /// # Errors
    /// [`RelayError::Unreachable`] if nothing was sent; the others leave open what was received.
    pub async fn send(
        &self,
        request: Request<Body>,
        peer: IpAddr,
        gateways: &[String],
        bytes_max: u64,
    ) -> Result<Response<Body>, RelayError> {
        let (mut head, body) = request.into_parts();
        let hint = http_body::Body::size_hint(&body);
        if hint.lower() > bytes_max {
            return Err(RelayError::TooLarge { bytes_max });
        }
        if !head.headers.contains_key(HOST)
            && let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(HOST, host);
        }
        strip_hop_by_hop(&mut head.headers);
        head.headers.remove(EXPECT);
        append_forwarded_for(&mut head.headers, peer);

        let slot = Arc::new(Mutex::new(Some(body)));
        let too_large = Arc::new(AtomicBool::new(false));
        for gateway in gateways {
            let mut attempt = Request::new(Retained {
                slot: Arc::clone(&slot),
                body: None,
                hint,
                bytes_left: bytes_max,
                too_large: Arc::clone(&too_large),
            });
            *attempt.method_mut() = head.method.clone();
            *attempt.uri_mut() = at(gateway, &head.uri).ok_or_else(|| RelayError::Address {
                gateway: gateway.clone(),
            })?;
            *attempt.version_mut() = Version::HTTP_11;
            *attempt.headers_mut() = head.headers.clone();

            let answered = tokio::time::timeout(HEAD_TIMEOUT, self.client.request(attempt)).await;
            match answered {
                Ok(Ok(response)) => {
                    let mut response = response.map(Body::new);
                    strip_hop_by_hop(response.headers_mut());
                    return Ok(response);
                }
                Ok(Err(error)) if error.is_connect() => {
                    tracing::info!(%gateway, %error, "gateway cannot be connected to");
                }
                Ok(Err(_)) if too_large.load(Ordering::Relaxed) => {
                    return Err(RelayError::TooLarge { bytes_max });
                }
                Ok(Err(source)) => {
                    return Err(RelayError::Broken {
                        gateway: gateway.clone(),
                        source,
                    });
                }
                Err(_) => {
                    return Err(RelayError::Silent {
                        gateway: gateway.clone(),
                    });
                }
            }
        }
        Err(RelayError::Unreachable {
            tried: gateways.len(),
        })
    }
}

fn at(gateway: &str, target: &Uri) -> Option<Uri> {
    Uri::builder()
        .scheme("http")
        .authority(gateway)
        .path_and_query(target.path_and_query()?.clone())
        .build()
        .ok()
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    let name = HeaderName::from_static("x-forwarded-for");
    let before = headers
        .get_all(&name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let chain: Vec<String> = before
        .map(str::to_owned)
        .chain([peer.to_string()])
        .collect();
    if let Ok(value) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(name, value);
    }
}

/// RFC 9110 7.6.1: fields about one connection, those that `Connection` names among them.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A request whose length could be talked away would be read as two by the next hop.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// A request body that an attempt which never connected leaves for the next one.
struct Retained {
    slot: Arc<Mutex<Option<Body>>>,
    body: Option<Body>,
    hint: SizeHint,
    bytes_left: u64,
    too_large: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
enum RetainedError {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the body was sent already")]
    Sent,
    #[error("read the caller's body")]
    Caller(#[source] axum::Error),
}

impl http_body::Body for Retained {
    type Data = Bytes;
    type Error = RetainedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RetainedError>>> {
        if self.body.is_none() {
            let taken = self
                .slot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            self.body = taken;
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(Err(RetainedError::Sent)));
        };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(RetainedError::Caller(error)))),
            Some(Ok(frame)) => frame,
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.bytes_left.checked_sub(length) {
            Some(left) => {
                self.bytes_left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.too_large.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(RetainedError::TooLarge)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Some(body) => body.is_end_stream(),
            None => self.hint.exact() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => http_body::Body::size_hint(body),
            None => self.hint,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::convert::Infallible;

    use axum::Router;
    use axum::routing::any;
    use futures_util::stream;
    use http::StatusCode;
    use http_body_util::BodyExt as _;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// A gateway that answers with what it received.
    async fn echo(tasks: &mut JoinSet<()>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(any(async |request: Request<Body>| {
            let (parts, body) = request.into_parts();
            let text = |name: &str| {
                let value = parts.headers.get(name);
                value.map_or("-".to_owned(), |value| value.to_str().unwrap().to_owned())
            };
            let head = format!(
                "{} {} {} {} {}|",
                parts.uri,
                text("host"),
                text("x-forwarded-for"),
                text("x-secret"),
                text("upgrade"),
            );
            let body = body.collect().await.unwrap().to_bytes();
            [head.into_bytes(), body.to_vec()].concat()
        }));
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    /// An address that refuses connections: the port was ours and is closed.
    async fn refusing() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn call(body: Body) -> Request<Body> {
        Request::post("/t/shop/hello?x=1")
            .header(HOST, "shop.fn.test")
            .header("X-Forwarded-For", "203.0.113.9")
            .header(CONNECTION, "x-secret, Upgrade")
            .header("X-Secret", "s")
            .header(UPGRADE, "h2c")
            .body(body)
            .unwrap()
    }

    async fn text(response: Response<Body>) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_streamed_call_goes_to_the_next_gateway_when_the_first_refuses_connections() {
        let mut tasks = JoinSet::new();
        let gateways = [refusing().await, echo(&mut tasks).await];
        let chunks = stream::iter(["hello ", "world"]).map_ok_chunks();
        let response = Relay::new()
            .send(call(Body::from_stream(chunks)), PEER, &gateways, 100)
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            text(response).await,
            "/t/shop/hello?x=1 shop.fn.test 203.0.113.9, 127.0.0.1 - -|hello world"
        );
    }

    #[tokio::test]
    async fn without_a_reachable_gateway_nothing_is_sent() {
        let gateways = [refusing().await, refusing().await];
        let sent = Relay::new()
            .send(call(Body::from("x")), PEER, &gateways, 100)
            .await;
        assert!(
            matches!(sent, Err(RelayError::Unreachable { tried: 2 })),
            "{sent:?}"
        );
    }

    #[tokio::test]
    async fn bodies_over_the_limit_are_cut_off_declared_or_not() {
        let mut tasks = JoinSet::new();
        let gateways = [echo(&mut tasks).await];
        let chunks = stream::iter(["hello ", "world"]).map_ok_chunks();
        for body in [Body::from("hello world"), Body::from_stream(chunks)] {
            let sent = Relay::new().send(call(body), PEER, &gateways, 10).await;
            assert!(
                matches!(sent, Err(RelayError::TooLarge { bytes_max: 10 })),
                "{sent:?}"
            );
        }
    }

    trait OkChunks: futures_util::Stream<Item = &'static str> + Sized {
        fn map_ok_chunks(self) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
            futures_util::StreamExt::map(self, |chunk| Ok(Bytes::from_static(chunk.as_bytes())))
        }
    }

    impl<S: futures_util::Stream<Item = &'static str>> OkChunks for S {}
}
