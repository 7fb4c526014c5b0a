//! The one connection to an instance (Fn contract 9.3).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use api_wire::call_headers::DEADLINE;
use bytes::Bytes;
use calls_forward::{Continue, ExchangeError, Failed, encode};
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::Full;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::framing::{self, BodyError};
use super::{Breach, CallError, CallRequest, CallResponse};

/// Fn's own value: some FDKs take an idle connection away, and a request sent at that moment would
/// kill a healthy instance.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How long the function may take to read the end of its call once it has answered. It mostly has read
/// it before; one that leaves it unread is sent the next call on a new connection.
const UNREAD_MAX: Duration = Duration::from_millis(20);

type Link = calls_forward::Link<UnixStream>;

/// Reaches one instance by at most one connection, opened when there is a call to send and closed
/// when there has been none for a second.
#[derive(Debug)]
pub struct Connection {
    socket: PathBuf,
    tasks: TaskTracker,
    held: Arc<Mutex<Held>>,
    dropped: CancellationToken,
    _drop: DropGuard,
}

#[derive(Debug)]
struct Held {
    state: State,
    /// A task closes the connection when it has been idle for too long. There is one at most.
    is_tended: bool,
}

#[derive(Debug)]
enum State {
    Nothing,
    Idle {
        link: Link,
        since: Instant,
    },
    /// A call has it, or had it when it was given up.
    Taken,
}

impl Connection {
    /// `tasks` owns the task that closes an idle connection.
    #[must_use]
    pub fn new(socket: PathBuf, tasks: TaskTracker) -> Self {
        let dropped = CancellationToken::new();
        Self {
            socket,
            tasks,
            held: Arc::new(Mutex::new(Held {
                state: State::Nothing,
                is_tended: false,
            })),
            _drop: dropped.clone().drop_guard(),
            dropped,
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
        let idle = match std::mem::replace(&mut lock(&self.held).state, State::Taken) {
            State::Nothing => None,
            State::Idle { link, since } => Some(link).filter(|_| since.elapsed() < IDLE_MAX),
            State::Taken => {
                return Err(CallError::Broken {
                    source: Breach::GivenUp,
                });
            }
        };
        let exchange = self.exchange(idle, request, body_bytes_max);
        let (answer, link) = timeout_at(deadline, exchange)
            .await
            .unwrap_or((Err(CallError::TimedOut), None));
        // An instance that is lost stays taken: the call is still going on inside it.
        if !answer.as_ref().is_err_and(CallError::instance_lost) {
            self.keep(link);
        }
        answer
    }

    fn keep(&self, link: Option<Link>) {
        let mut held = lock(&self.held);
        let Some(link) = link else {
            held.state = State::Nothing;
            return;
        };
        let since = Instant::now();
        held.state = State::Idle { link, since };
        if !held.is_tended {
            held.is_tended = true;
            let weak = Arc::downgrade(&self.held);
            self.tasks
                .spawn(close_idle(weak, since + IDLE_MAX, self.dropped.clone()));
        }
    }

    /// The answer, and the connection if it can carry another call.
    async fn exchange(
        &self,
        mut idle: Option<Link>,
        request: CallRequest,
        body_bytes_max: usize,
    ) -> (Result<CallResponse, CallError>, Option<Link>) {
        let link = match idle.take_if(Link::is_open) {
            Some(link) => link,
            // There is none, or the function closed it while it was idle.
            None => match self.open().await {
                Ok(link) => link,
                Err(error) => return (Err(error), None),
            },
        };
        let (head, length) = (compose(&request), Some(request.body.len() as u64));
        let body = Full::new(request.body);
        let mut exchange = link.begin(&Method::POST, head, body, length, Continue::Follow);
        match exchange.answered().await {
            Ok(()) => {}
            Err(Failed::Exchange(error)) => return (Err(failed(error)), None),
            Err(Failed::Body(never)) => match never {},
        }
        let (mut parts, mut body) = exchange.into_answer().into_parts();
        let outcome = match parts.status {
            StatusCode::OK => Ok(()),
            StatusCode::BAD_GATEWAY => Err(CallError::FunctionFailed),
            StatusCode::GATEWAY_TIMEOUT => Err(CallError::FunctionTimedOut),
            status => return (Err(CallError::InvalidStatus { status }), None),
        };
        // The body of a failure is thrown away, but has to be read for the connection to go on.
        let whole = match framing::whole(&mut body, body_bytes_max).await {
            Ok(whole) => whole,
            Err(error) => return (outcome.and(Err(unread(error))), None),
        };
        // What the function does not read in time is given up with the connection.
        let _unread = timeout(UNREAD_MAX, body.sent()).await;
        // The other fields about the connection are gone.
        parts.headers.remove(CONTENT_LENGTH);
        let answer = outcome.map(|()| CallResponse {
            headers: parts.headers,
            body: whole,
        });
        (answer, body.into_link())
    }

    /// A call fails by this as one that was not started: nothing of it has been sent.
    async fn open(&self) -> Result<Link, CallError> {
        let stream = UnixStream::connect(&self.socket).await;
        stream
            .map(Link::new)
            .map_err(|source| CallError::NotStarted {
                source: Breach::Connect { source },
            })
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the connection, and ends, once it has been idle for too long. A call costs it nothing: it
/// looks when the connection might have been, at the time since when it is.
async fn close_idle(held: Weak<Mutex<Held>>, first: Instant, dropped: CancellationToken) {
    let mut next = Some(first);
    while let Some(at) = next {
        tokio::select! {
            () = sleep_until(at) => {}
            () = dropped.cancelled() => return,
        }
        next = held.upgrade().and_then(|held| look(&mut lock(&held)));
    }
}

/// When to look again, if ever.
fn look(held: &mut Held) -> Option<Instant> {
    match &held.state {
        State::Taken => Some(Instant::now() + IDLE_MAX),
        State::Idle { since, .. } if since.elapsed() < IDLE_MAX => Some(*since + IDLE_MAX),
        State::Idle { .. } | State::Nothing => {
            held.state = State::Nothing;
            held.is_tended = false;
            None
        }
    }
}

fn compose(request: &CallRequest) -> Bytes {
    let host = (HOST, HeaderValue::from_static("localhost"));
    let deadline = request.deadline.as_ref();
    let added: &[(HeaderName, HeaderValue)] = match deadline {
        Some(deadline) => &[host, (DEADLINE, deadline.clone())],
        None => &[host],
    };
    encode(
        &Method::POST,
        "/call",
        &request.headers,
        |name| *name == HOST || (*name == DEADLINE && deadline.is_some()),
        added,
        Some(request.body.len() as u64),
        Continue::Follow,
    )
}

fn failed(error: ExchangeError) -> CallError {
    match error {
        ExchangeError::HeadTooLarge => CallError::HeadersTooLarge,
        source => CallError::Broken {
            source: Breach::Exchange { source },
        },
    }
}

fn unread(error: BodyError<ExchangeError>) -> CallError {
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
            headers: HeaderMap::new().into(),
            deadline: None,
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
