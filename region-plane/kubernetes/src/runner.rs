//! What the gateway asks of a pod's runner, over one HTTP/2 connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use api_wire::call_headers::DEADLINE;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use region_plane_runner::protocol::{
    self, CallFailure, Claim, Claimed, Conflict, Event, Release, State, Trouble,
};
use region_plane_runtime::call::{self, BodyError, without_framing};
use region_plane_runtime::{Breach, CallError, CallRequest, CallResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::launch::Packed;

/// A node in the same cluster answers within milliseconds, or it does not.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How often a runner that is silent while something is asked of it is asked whether it is alive, and
/// how long it has to answer. A node that is gone breaks no connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// For what a runner answers from its memory.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// For the largest bundle over a busy network.
const BUNDLE_MAX: Duration = Duration::from_secs(60);

/// Of an answer that is none of a function's: the longest is a message.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Of a line of an event stream: 16 KiB that were printed and a call's id, each byte escaped as six.
const LINE_BYTES_MAX: usize = 128 << 10;

/// Of the headers of an answer, more than a runner takes from a function: 408 KiB as HTTP/1.1 counts them,
/// and HTTP/2 counts 32 more for each.
const HEADER_BYTES_MAX: u32 = 1 << 20;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why a runner did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("connect to the runner at {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("exchange with the runner")]
    Exchange {
        #[source]
        source: hyper::Error,
    },
    #[error("the runner did not answer in time")]
    TimedOut,
    #[error("the runner closed its event stream")]
    Ended,
    #[error("the runner answered {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the runner's answer cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("the runner's answer is too large")]
    TooLarge,
    #[error("read the bundle")]
    ReadBundle {
        #[source]
        source: io::Error,
    },
}

/// What became of a claim.
#[derive(Debug)]
pub enum ClaimAnswer {
    Ours(Claimed),
    Refused(Conflict),
}

/// What became of waiting for an instance.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadyAnswer {
    Ready,
    TimedOut,
    Failed(String),
}

/// A pod's runner. Whoever has a claim keeps it connected; everyone else waits for that.
#[derive(Debug)]
pub struct Runner {
    address: SocketAddr,
    /// Of the connection there was last. It may take no requests any more, and still bring answers.
    sender: watch::Sender<Option<SendRequest<Body>>>,
    calls: Calls,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// The calls that have neither their answer nor an error yet.
///
/// Counted here because nobody else knows: hyper ends a client's connection task as soon as that meets
/// the peer's GOAWAY, while a task that nobody can await still brings the answers; and an answer that
/// comes with the connection's last bytes is handed on by a third task, which may run after all others.
#[derive(Debug, Default)]
struct Calls(watch::Sender<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    calls: usize,
    /// None begins any more.
    closed: bool,
}

struct CallUnderWay<'a>(&'a Calls);

impl Calls {
    /// `None` once they are closed.
    fn begin(&self) -> Option<CallUnderWay<'_>> {
        let begun = self.0.send_if_modified(|under_way| {
            under_way.calls += usize::from(!under_way.closed);
            !under_way.closed
        });
        begun.then(|| CallUnderWay(self))
    }

    /// Returns once there is none, and lets none begin from then on.
    async fn close(&self) {
        let mut under_way = self.0.subscribe();
        loop {
            let none = under_way.wait_for(|under_way| under_way.calls == 0);
            drop(none.await.expect("its sender is here"));
            // One may have begun in between.
            let closed = self.0.send_if_modified(|under_way| {
                under_way.closed |= under_way.calls == 0;
                under_way.closed
            });
            if closed {
                return;
            }
        }
    }
}

impl Drop for CallUnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|under_way| under_way.calls -= 1);
    }
}

impl Runner {
    /// Its connections are tasks in `tasks` until `closing` is cancelled or it is dropped.
    pub fn new(address: SocketAddr, tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self {
            address,
            sender: watch::Sender::new(None),
            calls: Calls::default(),
            tasks,
            closing,
        }
    }

    /// Opens a connection unless there is one.
    pub async fn connect(&self) -> Result<(), RunnerError> {
        if self.sender.borrow().as_ref().is_some_and(is_open) {
            return Ok(());
        }
        let failed = |source| RunnerError::Connect {
            address: self.address,
            source,
        };
        let connecting = async {
            let stream = TcpStream::connect(self.address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .max_header_list_size(HEADER_BYTES_MAX)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|source| RunnerError::Exchange { source })
        };
        let (sender, connection) = timeout(CONNECT_MAX, connecting)
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))??;
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Its error, if any, has reached the requests it failed.
                _ = connection => {}
                () = closing.cancelled() => {}
            }
        });
        self.sender.send_replace(Some(sender));
        Ok(())
    }

    /// Returns once every call that was begun has its answer, or has failed with its connection. No other
    /// begins from then on.
    pub async fn close_calls(&self) {
        self.calls.close().await;
    }

    pub async fn claim(&self, claim: &Claim) -> Result<ClaimAnswer, RunnerError> {
        let request = json(Method::POST, protocol::CLAIM_PATH, claim);
        within(ANSWER_MAX, async {
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::OK => Ok(ClaimAnswer::Ours(read(response).await?)),
                StatusCode::CONFLICT => Ok(ClaimAnswer::Refused(read(response).await?)),
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    pub async fn state(&self) -> Result<State, RunnerError> {
        within(ANSWER_MAX, async {
            let response = self.send(bare(Method::GET, protocol::STATE_PATH)).await?;
            match response.status() {
                StatusCode::OK => read(response).await,
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    pub async fn put_bundle(&self, claim: &str, bundle: &Packed) -> Result<(), RunnerError> {
        let file = tokio::fs::File::open(&bundle.file)
            .await
            .map_err(|source| RunnerError::ReadBundle { source })?;
        let body = StreamBody::new(ReaderStream::with_capacity(file, 64 << 10).map_ok(Frame::data));
        let path = format!("{}?claim={claim}", protocol::bundle_path(&bundle.digest));
        let mut request = compose(Method::PUT, &path, body.boxed_unsync());
        // One that is no header is refused by what the bundle itself says.
        if let Ok(platform) = HeaderValue::from_str(&bundle.platform) {
            request.headers_mut().insert(protocol::PLATFORM, platform);
        }
        within(BUNDLE_MAX, async {
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::NO_CONTENT => Ok(()),
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    /// Waits this long for the instance to listen.
    pub async fn ready(&self, claim: &str, wait: Duration) -> Result<ReadyAnswer, RunnerError> {
        let path = format!(
            "{}?claim={claim}&timeout_ms={}",
            protocol::READY_PATH,
            wait.as_millis()
        );
        within(wait + ANSWER_MAX, async {
            let response = self.send(bare(Method::GET, &path)).await?;
            match response.status() {
                StatusCode::OK => Ok(ReadyAnswer::Ready),
                StatusCode::GATEWAY_TIMEOUT => Ok(ReadyAnswer::TimedOut),
                StatusCode::BAD_GATEWAY => {
                    let trouble: Trouble = read(response).await?;
                    Ok(ReadyAnswer::Failed(trouble.message))
                }
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    /// Whoever has the claim keeps this open; it is lost soon after.
    pub async fn events(&self, claim: &str) -> Result<Events, RunnerError> {
        let path = format!("{}?claim={claim}", protocol::EVENTS_PATH);
        within(ANSWER_MAX, async {
            let response = self.send(bare(Method::GET, &path)).await?;
            match response.status() {
                StatusCode::OK => Ok(Events {
                    body: response.into_body(),
                    unread: BytesMut::new(),
                }),
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    pub async fn release(&self, claim: &str) -> Result<(), RunnerError> {
        let release = Release {
            claim: claim.to_owned(),
        };
        let request = json(Method::POST, protocol::RELEASE_PATH, &release);
        within(ANSWER_MAX, async {
            self.connect().await?;
            let response = self.send(request).await?;
            match response.status() {
                StatusCode::NO_CONTENT => Ok(()),
                _ => Err(refused(response).await),
            }
        })
        .await
    }

    /// Gives the function a call and waits for its answer until `deadline`.
    pub async fn call(
        &self,
        claim: &str,
        request: CallRequest,
        deadline: Instant,
        body_bytes_max: usize,
    ) -> Result<CallResponse, CallError> {
        let Some(_under_way) = self.calls.begin() else {
            let source = Breach::PodLost;
            return Err(CallError::NotStarted { source });
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let request = compose_call(claim, request, left, body_bytes_max);
        timeout_at(deadline, self.exchange_call(request, body_bytes_max))
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    async fn exchange_call(
        &self,
        request: Request<Body>,
        body_bytes_max: usize,
    ) -> Result<CallResponse, CallError> {
        let mut sender = self.sender().await.map_err(|error| CallError::NotStarted {
            source: Breach::Reported {
                message: error.to_string(),
            },
        })?;
        let exchange = |error: hyper::Error| Breach::Runner {
            source: error.into(),
        };
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let source = exchange(error.into_error());
                return Err(if unsent {
                    CallError::NotStarted { source }
                } else {
                    CallError::Broken { source }
                });
            }
        };
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Err(call_failure(&parts, body).await);
        }
        let body = call::whole(body, body_bytes_max)
            .await
            .map_err(|error| match error {
                BodyError::TooLarge { .. } => CallError::BodyTooLarge,
                BodyError::Exchange { source } => CallError::Broken {
                    source: exchange(source),
                },
            })?;
        Ok(CallResponse {
            headers: without_framing(parts.headers),
            body,
        })
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, RunnerError> {
        self.sender()
            .await?
            .send_request(request)
            .await
            .map_err(|source| RunnerError::Exchange { source })
    }

    /// Waits for a connection as long as making one may take.
    async fn sender(&self) -> Result<SendRequest<Body>, RunnerError> {
        let mut sender = self.sender.subscribe();
        let open = sender.wait_for(|sender| sender.as_ref().is_some_and(is_open));
        let opened = timeout(CONNECT_MAX, open).await.ok().and_then(Result::ok);
        opened
            .and_then(|sender| sender.clone())
            .ok_or(RunnerError::TimedOut)
    }
}

/// What the runner tells of a claimed pod.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    unread: BytesMut,
}

impl Events {
    /// `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Event>, RunnerError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return match serde_json::from_slice(&line) {
                    Ok(event) => Ok(Some(event)),
                    Err(source) => Err(RunnerError::Unreadable { source }),
                };
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(RunnerError::TooLarge);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(RunnerError::Exchange { source }),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.unread.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn is_open(sender: &SendRequest<Body>) -> bool {
    !sender.is_closed()
}

async fn within<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, RunnerError>>,
) -> Result<T, RunnerError> {
    timeout(limit, asking)
        .await
        .unwrap_or(Err(RunnerError::TimedOut))
}

fn compose(method: Method, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // HTTP/2 wants an authority, and a runner does not look at it.
    *request.uri_mut() = format!("http://runner{path}")
        .parse()
        .expect("claims and digests are words");
    request
}

fn bare(method: Method, path: &str) -> Request<Body> {
    let nothing = Empty::new().map_err(|never| match never {});
    compose(method, path, nothing.boxed_unsync())
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn json(method: Method, path: &str, content: &impl Serialize) -> Request<Body> {
    let text = serde_json::to_vec(content).expect("the protocol is JSON");
    let mut request = compose(method, path, whole(text.into()));
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

fn compose_call(
    claim: &str,
    request: CallRequest,
    left: Duration,
    response_bytes_max: usize,
) -> Request<Body> {
    let mut composed = compose(Method::POST, protocol::CALL_PATH, whole(request.body));
    let headers = composed.headers_mut();
    // The one copy: HTTP/2 wants a map of its own.
    *headers = without_framing(HeaderMap::clone(&request.headers));
    // HTTP/2 has an authority instead.
    headers.remove(HOST);
    if let Some(deadline) = request.deadline {
        headers.insert(DEADLINE, deadline);
    }
    headers.insert(protocol::RESPONSE_BYTES_MAX, response_bytes_max.into());
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    headers.insert(protocol::TIMEOUT_MS, millis.into());
    headers.insert(
        protocol::CLAIM,
        HeaderValue::from_str(claim).expect("a claim is a word"),
    );
    composed
}

async fn call_failure(parts: &http::response::Parts, body: Incoming) -> CallError {
    let trouble = match call::whole(body, ANSWER_BYTES_MAX).await {
        Ok(text) => serde_json::from_slice(&text).ok(),
        Err(_) => None,
    };
    let trouble = trouble.unwrap_or_else(|| Trouble {
        message: format!("the runner answered {}", parts.status),
        status: None,
    });
    let failure: Option<CallFailure> = parts
        .headers
        .get(protocol::CALL_ERROR)
        .and_then(|name| name.to_str().ok()?.parse().ok());
    let reported = Breach::Reported {
        message: trouble.message.clone(),
    };
    match failure {
        // A runner of another version; what the function saw of the call is not known.
        None => CallError::Broken { source: reported },
        Some(failure) => failure
            .into_call_error(trouble)
            .unwrap_or(CallError::NotStarted { source: reported }),
    }
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, RunnerError> {
    let text = call::whole(response.into_body(), ANSWER_BYTES_MAX).await?;
    serde_json::from_slice(&text).map_err(|source| RunnerError::Unreadable { source })
}

async fn refused(response: Response<Incoming>) -> RunnerError {
    let status = response.status();
    match read::<Trouble>(response).await {
        Ok(trouble) => RunnerError::Refused {
            status,
            message: trouble.message,
        },
        Err(error) => error,
    }
}

impl From<BodyError<hyper::Error>> for RunnerError {
    fn from(error: BodyError<hyper::Error>) -> Self {
        match error {
            BodyError::TooLarge { .. } => Self::TooLarge,
            BodyError::Exchange { source } => Self::Exchange { source },
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::pin::pin;
    use std::sync::Arc;

    use futures_util::poll;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn calls_that_have_begun_are_waited_for_and_then_none_begins() {
        let calls = Calls::default();
        let (first, second) = (calls.begin().unwrap(), calls.begin().unwrap());
        let mut closing = pin!(calls.close());
        assert!(poll!(closing.as_mut()).is_pending());
        drop(first);
        let third = calls.begin().unwrap();
        drop(second);
        assert!(poll!(closing.as_mut()).is_pending(), "one has begun since");
        drop(third);
        closing.await;
        assert!(calls.begin().is_none());
        calls.close().await;
    }

    /// Callers on other threads begin one call after the other until they may not.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn no_call_is_under_way_once_they_are_closed() {
        for _ in 0..300 {
            let calls = Arc::new(Calls::default());
            let mut callers = JoinSet::new();
            for _ in 0..2 {
                let calls = Arc::clone(&calls);
                callers.spawn(async move {
                    while let Some(_under_way) = calls.begin() {
                        tokio::task::yield_now().await;
                    }
                });
            }
            calls.close().await;
            assert_eq!(calls.0.borrow().calls, 0);
            callers.join_all().await;
            assert_eq!(calls.0.borrow().calls, 0);
        }
    }
}
