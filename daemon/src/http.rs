//! Listening and serving HTTP/1.1 and HTTP/2 with prior knowledge, on one port.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

/// Bounds on what strangers may hold open.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections served at once. For one more, whichever has asked for nothing for longest is
    /// closed; if all are in use it waits, and those behind it stay unaccepted in the kernel's
    /// backlog, where they cost neither a file descriptor nor a buffer.
    pub connections_max: usize,
    /// From accepting a connection, or from the end of an HTTP/1.1 response, until the head of the
    /// next request has arrived. It is therefore also how long an idle HTTP/1.1 connection is
    /// kept: clients should drop theirs sooner.
    pub header_read_timeout: Duration,
    /// How long what was sent may stay unacknowledged, or unsendable to a client that does not read,
    /// before its connection is cut.
    pub unread_timeout: Duration,
    /// Requests in flight on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// From the last connection to the closing of those that are idle: a client sends its request
    /// within a round trip of connecting, or of the answer before.
    pub linger: Duration,
    /// How long requests in flight may go on after the shutdown.
    pub grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            // A connection costs a descriptor and about 16 KiB of buffers. 4096 stays well under
            // the 20,000 descriptors a service manager gives by default, with RocksDB beside it.
            connections_max: 4096,
            header_read_timeout: Duration::from_secs(20),
            // A path that fails over takes some seconds.
            unread_timeout: Duration::from_secs(20),
            http2_streams_max: 256,
            linger: Duration::from_millis(200),
            grace: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "listen on {addr}: the port is in use; is another copy running? \
         `ss -ltnp 'sport = :{port}'` shows who has it",
        port = addr.port()
    )]
    InUse { addr: SocketAddr },
    #[error("listen on {addr}")]
    Failed {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Listens on `addr`. Must be called inside a tokio runtime.
///
/// A port in `TIME_WAIT` after a restart is taken again at once.
///
/// # Errors
/// Names the address, and says so if another process holds it.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    listen(addr).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { addr },
        _ => BindError::Failed { addr, source },
    })
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // `[::]` means IPv6 alone, so that `0.0.0.0` beside it can be bound too.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `router` until `shutdown`, then lets requests in flight finish for `limits.grace`.
///
/// Handlers find the peer as `ConnectInfo<SocketAddr>`. The listener closes at the shutdown, so
/// new connections are refused and their clients go elsewhere at once. Whoever was quick enough to
/// connect is answered if the request comes at once as well. Errors of accepting are
/// survived: a connection that was aborted in the queue costs nothing, and when descriptors run
/// out, accepting pauses.
///
/// # Errors
/// Only if the listening socket itself is broken.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    limits: HttpLimits,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let idle = Arc::new(Idle::default());
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let begin = |connections: &mut JoinSet<()>, permit, (stream, peer): Accepted| {
        let connection = connection(
            stream,
            peer,
            router.clone(),
            Presence::new(&idle, closing.child_token()),
            limits.clone(),
        );
        connections.spawn(async move {
            connection.await;
            drop::<OwnedSemaphorePermit>(permit);
        });
    };
    let mut broken = None;
    let mut pause = ACCEPT_PAUSE_MIN;
    let mut next: Option<Accepted> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "connection task failed");
                }
                continue;
            }
            permit = place(&places, &idle), if next.is_some() => {
                if let Some(accepted) = next.take() {
                    begin(&mut connections, permit, accepted);
                }
                continue;
            }
            accepted = listener.accept(), if next.is_none() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                pause = ACCEPT_PAUSE_MIN;
                next = Some(accepted);
            }
            Err(error) => match AcceptError::from(&error) {
                AcceptError::Connection => {
                    debug!(%error, "connection ended before it was accepted")
                }
                AcceptError::Resources => {
                    warn!(%error, ?pause, "cannot accept, pausing");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
                AcceptError::Listener => {
                    broken = Some(error);
                    break;
                }
            },
        }
    }
    // Those that the kernel has accepted for us would be reset.
    for _ in 0..BACKLOG {
        let accept = async {
            match next.take() {
                Some(accepted) => Ok(accepted),
                None => listener.accept().await,
            }
        };
        let accepted = match timeout(QUEUE_EMPTY_AFTER, accept).await {
            Ok(Ok(accepted)) => accepted,
            // One that was aborted while it waited, say.
            Ok(Err(error)) => {
                debug!(%error, "connection not accepted at the end");
                continue;
            }
            Err(_) => break,
        };
        match timeout(QUEUE_EMPTY_AFTER, place(&places, &idle)).await {
            Ok(permit) => begin(&mut connections, permit, accepted),
            Err(_) => break,
        }
    }
    drop(listener);
    // An idle connection is closed as soon as it is told, whether or not a request is on its way.
    let _ = timeout(limits.linger, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    closing.cancel();
    let drained = timeout(limits.grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        warn!(connections = connections.len(), grace = ?limits.grace, "requests cut off by shutdown");
    }
    connections.shutdown().await;
    info!("stopped serving");
    broken.map_or(Ok(()), Err)
}

const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// The kernel has no more connections for us if it gives none for so long.
const QUEUE_EMPTY_AFTER: Duration = Duration::from_millis(1);

/// What a connection takes from an answer before it can be sent. Left to itself Linux takes up to
/// 4 MiB and asks for more once a third of that is gone, so that a steady reader seems to have stopped
/// for seconds: measured on loopback, 5 to 6 s at 256 KiB/s, and at most 0.5 s with this.
const UNSENT_MAX: u32 = 64 << 10;

/// From becoming idle until a connection may be closed for another: longer than a request that is
/// on its way takes.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Between looks for one that has become idle enough.
const IDLE_LOOK: Duration = Duration::from_millis(100);

type Accepted = (TcpStream, SocketAddr);

/// A place for one more connection, soon to be that of an idle one if there is none.
async fn place(places: &Arc<Semaphore>, idle: &Idle) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return permit;
        }
        idle.close_longest(Instant::now());
        let permit = Arc::clone(places).acquire_owned();
        if let Ok(permit) = timeout(IDLE_LOOK, permit).await {
            return permit.expect("the semaphore is never closed");
        }
    }
}

/// The connections without a request, and how to close them.
#[derive(Default)]
struct Idle(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    /// In the order in which they became idle.
    connections: BTreeMap<u64, (Instant, CancellationToken)>,
}

impl Idle {
    /// Never held across anything that waits or takes another.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_longest(&self, now: Instant) {
        let mut waiting = self.waiting();
        let Some(longest) = waiting.connections.first_entry() else {
            return;
        };
        if now < longest.get().0 + IDLE_MIN {
            return;
        }
        let (_, close) = longest.remove();
        close.cancel();
        metrics::counter!("tradewind_connections_closed_for_others_total").increment(1);
    }
}

/// One connection's requests, as far as they say whether it is idle.
#[derive(Clone)]
struct Presence(Arc<Requests>);

struct Requests {
    idle: Arc<Idle>,
    close: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// Its number among those that are idle.
    idle: Option<u64>,
}

impl Presence {
    fn new(idle: &Arc<Idle>, close: CancellationToken) -> Self {
        let requests = Requests {
            idle: Arc::clone(idle),
            close,
            state: Mutex::default(),
        };
        requests.rest(&mut requests.state());
        Self(Arc::new(requests))
    }

    /// A request, until what is returned is dropped.
    fn request(&self) -> UnderWay {
        let mut state = self.0.state();
        state.under_way += 1;
        if let Some(number) = state.idle.take() {
            self.0.idle.waiting().connections.remove(&number);
        }
        UnderWay(Arc::clone(&self.0))
    }
}

impl Requests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self, state: &mut State) {
        let mut waiting = self.idle.waiting();
        waiting.last += 1;
        let number = waiting.last;
        let since = (Instant::now(), self.close.clone());
        waiting.connections.insert(number, since);
        state.idle = Some(number);
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if let Some(number) = self.state().idle {
            self.idle.waiting().connections.remove(&number);
        }
    }
}

struct UnderWay(Arc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.0.rest(&mut state);
        }
    }
}

/// A response's body; its request is under way until it is sent.
struct Sending {
    body: Body,
    _request: UnderWay,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What an error of `accept(2)` is about. Linux also hands a connection's own pending network
/// errors to the acceptor (accept(2), "Error handling").
enum AcceptError {
    Connection,
    Resources,
    Listener,
}

impl From<&io::Error> for AcceptError {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(EBADF | EINVAL | ENOTSOCK) => Self::Listener,
            Some(ENFILE | EMFILE | ENOMEM | ENOBUFS) => Self::Resources,
            _ => Self::Connection,
        }
    }
}

const EBADF: i32 = 9;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOTSOCK: i32 = 88;
const ENOBUFS: i32 = 105;

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    presence: Presence,
    limits: HttpLimits,
) {
    // Answers are written whole or in large pieces; waiting to fill a segment only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "no TCP_NODELAY");
    }
    let socket = socket2::SockRef::from(&stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(limits.unread_timeout)) {
        debug!(%error, %peer, "no TCP_USER_TIMEOUT");
    }
    if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT_MAX) {
        debug!(%error, %peer, "no TCP_NOTSENT_LOWAT");
    }
    let close = presence.0.close.clone();
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            let under_way = presence.request();
            async move {
                let answered: Result<_, Infallible> = router.oneshot(request).await;
                answered.map(|response| {
                    response.map(|body| Sending {
                        body,
                        _request: under_way,
                    })
                })
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_read_timeout)
        .keep_alive_timeout(limits.header_read_timeout)
        .max_concurrent_streams(limits.http2_streams_max);
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // hyper's own timer starts once the protocol is known; a peer that says nothing, or half of an
    // HTTP/2 preface, is caught by this one.
    let mut first_head = pin!(tokio::time::sleep(limits.header_read_timeout));
    let mut waiting = true;
    let mut closing = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, %peer, "connection ended");
                }
                return;
            }
            () = close.cancelled(), if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = first_head.as_mut(), if waiting => {
                waiting = false;
                if !asked.load(Ordering::Relaxed) {
                    debug!(%peer, "no request in time");
                    return;
                }
            }
        }
    }
}
