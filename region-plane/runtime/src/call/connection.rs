//! The one connection to an instance (Fn contract 9.3).

mod socket;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use calls_door::limits::{FIELDS_MAX, HEAD_BYTES_MAX};
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::framing::{self, BodyError, without_framing};
use super::{Breach, CallError, CallRequest, CallResponse};
use socket::{Listens, Socket};

/// Fn's own value: some FDKs take an idle connection away, and a request sent at that moment would
/// kill a healthy instance.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How long the function may take to read the end of its call once it has answered. It mostly has read
/// it before; one that leaves it unread is sent the next call on a new connection.
const UNREAD_MAX: Duration = Duration::from_millis(20);

/// Reaches one instance by at most one connection, opened when there is a call to send and closed
/// when there has been none for a second.
#[derive(Debug)]
pub struct Connection {
    socket: PathBuf,
    tasks: TaskTracker,
    held: Mutex<Held>,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Open(Open),
    /// A call has it, or had it when it was given up.
    Taken,
}

#[derive(Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Since when it has been idle; its task closes it after [`IDLE_MAX`].
    idle_since: watch::Sender<Option<Instant>>,
    listens: Listens,
}

impl Connection {
    /// `tasks` owns the tasks that drive the connection.
    #[must_use]
    pub fn new(socket: PathBuf, tasks: TaskTracker) -> Self {
        Self {
            socket,
            tasks,
            held: Mutex::new(Held::Nothing),
        }
    }

    /// Gives the function a call and waits for its answer, of so many bytes at most, until `deadline`.
    ///
    /// Not cancel safe, as [`crate::Instance::call`].
    ///
    /// # Errors
    /// Any [`CallError`]. After one of [`CallError::instance_lost`] every later call fails.
    pub async fn call(
        &self,
        request: CallRequest,
        deadline: Instant,
        body_bytes_max: usize,
    ) -> Result<CallResponse, CallError> {
        let open = match std::mem::replace(&mut *self.held(), Held::Taken) {
            Held::Nothing => None,
            Held::Open(open) => Some(open),
            Held::Taken => {
                return Err(CallError::Broken {
                    source: Breach::GivenUp,
                });
            }
        };
        let exchange = self.exchange(open, compose(request), body_bytes_max);
        let (answer, open) = timeout_at(deadline, exchange)
            .await
            .unwrap_or((Err(CallError::TimedOut), None));
        // An instance that is lost stays taken: the call is still going on inside it.
        if !answer.as_ref().is_err_and(CallError::instance_lost) {
            *self.held() = open.map_or(Held::Nothing, |open| {
                open.idle_since.send_replace(Some(Instant::now()));
                Held::Open(open)
            });
        }
        answer
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, and the connection if it can carry another call.
    async fn exchange(
        &self,
        open: Option<Open>,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> (Result<CallResponse, CallError>, Option<Open>) {
        let (mut open, response) = match self.send(open, request).await {
            Ok(sent) => sent,
            Err(error) => return (Err(error), None),
        };
        let outcome = match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::BAD_GATEWAY => Err(CallError::FunctionFailed),
            StatusCode::GATEWAY_TIMEOUT => Err(CallError::FunctionTimedOut),
            status => return (Err(CallError::InvalidStatus { status }), None),
        };
        let (parts, body) = response.into_parts();
        // The body of a failure is thrown away, but has to be read for the connection to go on.
        let body = framing::whole(body, body_bytes_max).await;
        let body = match body.map_err(unread) {
            Ok(body) => body,
            Err(_) if outcome.is_err() => {
                return (outcome.map(|()| unreachable!("it is an error")), None);
            }
            Err(error) => return (Err(error), None),
        };
        let ready = timeout(UNREAD_MAX, open.sender.ready()).await;
        let reusable = ready.is_ok_and(|ready| ready.is_ok()) && open.listens.still();
        let answer = outcome.map(|()| CallResponse {
            headers: without_framing(parts.headers),
            body,
        });
        (answer, reusable.then_some(open))
    }

    async fn send(
        &self,
        open: Option<Open>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Open, Response<Incoming>), CallError> {
        if let Some(mut open) = open {
            open.idle_since.send_replace(None);
            match open.sender.try_send_request(request).await {
                Ok(response) => return Ok((open, response)),
                // It was closed while it was idle, and nothing of the request was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(error.into_error())),
                },
            }
        }
        let mut open = self.open().await?;
        let response = open.sender.send_request(request).await.map_err(failed)?;
        Ok((open, response))
    }

    /// A call fails by this as one that was not started: nothing of it has been sent.
    async fn open(&self) -> Result<Open, CallError> {
        let not_started = |source| CallError::NotStarted { source };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| not_started(Breach::Connect { source }))?;
        let (socket, listens) = Socket::new(stream);
        let (sender, connection) = http1::Builder::new()
            .title_case_headers(true)
            .max_headers(FIELDS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|source| not_started(Breach::Exchange { source }))?;
        let (idle_since, idle) = watch::channel(None);
        self.tasks.spawn(drive(connection, idle));
        Ok(Open {
            sender,
            idle_since,
            listens,
        })
    }
}

/// Moves bytes until either side closes, or the connection has been idle for too long.
async fn drive(
    connection: http1::Connection<TokioIo<Socket>, Full<Bytes>>,
    mut idle_since: watch::Receiver<Option<Instant>>,
) {
    let mut connection = pin!(connection);
    loop {
        let idle = *idle_since.borrow_and_update();
        let expiry = async {
            match idle {
                Some(since) => sleep_until(since + IDLE_MAX).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Its error, if any, has reached the call it failed.
            _ = &mut connection => return,
            () = expiry => return,
            changed = idle_since.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

fn compose(request: CallRequest) -> Request<Full<Bytes>> {
    let mut composed = Request::new(Full::new(request.body));
    *composed.method_mut() = Method::POST;
    *composed.uri_mut() = http::Uri::from_static("/call");
    *composed.headers_mut() = without_framing(request.headers);
    let localhost = HeaderValue::from_static("localhost");
    composed.headers_mut().insert(HOST, localhost);
    composed
}

fn failed(error: hyper::Error) -> CallError {
    if error.is_parse_too_large() {
        return CallError::HeadersTooLarge;
    }
    CallError::Broken {
        source: Breach::Exchange { source: error },
    }
}

fn unread(error: BodyError) -> CallError {
    match error {
        BodyError::TooLarge { .. } => CallError::BodyTooLarge,
        BodyError::Exchange { source } => failed(source),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::time::Duration;

    use api_types::CallId;
    use http::HeaderMap;

    use super::*;

    #[tokio::test]
    async fn a_call_that_nobody_listens_for_was_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::new(folder.path().join("lsnr.sock"), TaskTracker::new());
        let request = CallRequest {
            call: CallId::new("CALL"),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = connection.call(request, deadline, 0).await.unwrap_err();
        assert!(
            matches!(
                error,
                CallError::NotStarted {
                    source: Breach::Connect { .. }
                }
            ),
            "{error:?}"
        );
    }
}
