//! Listening and serving HTTP/1.1 and HTTP/2 with prior knowledge, on one port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
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
    /// Connections served at once; more wait unaccepted in the kernel's backlog, where they cost
    /// neither a file descriptor nor a buffer.
    pub connections_max: usize,
    /// From accepting a connection, or from the end of an HTTP/1.1 response, until the head of the
    /// next request has arrived. It is therefore also how long an idle HTTP/1.1 connection is
    /// kept: clients should drop theirs sooner.
    pub header_read_timeout: Duration,
    /// Requests in flight on one HTTP/2 connection.
    pub http2_streams_max: u32,
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
            http2_streams_max: 256,
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
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let begin = |connections: &mut JoinSet<()>, (permit, stream, peer): Accepted| {
        let connection = connection(
            stream,
            peer,
            router.clone(),
            closing.clone(),
            limits.clone(),
        );
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    };
    let mut broken = None;
    let mut pause = ACCEPT_PAUSE_MIN;
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
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                pause = ACCEPT_PAUSE_MIN;
                begin(&mut connections, accepted);
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
        match timeout(QUEUE_EMPTY_AFTER, accept(&listener, &places)).await {
            Ok(Ok(accepted)) => begin(&mut connections, accepted),
            // One that was aborted while it waited, say.
            Ok(Err(error)) => debug!(%error, "connection not accepted at the end"),
            Err(_) => break,
        }
    }
    drop(listener);
    // An idle connection is closed as soon as it is told, whether or not a request is on its way.
    let _ = timeout(LINGER, async {
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

/// From the last connection to the closing of those that are idle: a client sends its request within
/// a round trip of connecting, or of the answer before.
const LINGER: Duration = Duration::from_millis(200);

type Accepted = (OwnedSemaphorePermit, TcpStream, SocketAddr);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(places)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, peer) = listener.accept().await?;
    Ok((permit, stream, peer))
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
    shutdown: CancellationToken,
    limits: HttpLimits,
) {
    // Answers are written whole or in large pieces; waiting to fill a segment only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "no TCP_NODELAY");
    }
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            async move { router.oneshot(request).await as Result<_, Infallible> }
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
            () = shutdown.cancelled(), if !closing => {
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
