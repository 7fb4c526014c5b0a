//! Listening, accepting and serving HTTP/1.1 and HTTP/2 with prior knowledge, on one port.

mod connection;
mod socket;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::service::Service;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Body, Caller, Network, descriptors};

/// Bounds on what strangers may hold open.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections served at once. For one more, whichever has asked for nothing for longest is
    /// closed; if all are in use it waits, and those behind it stay unaccepted in the kernel's
    /// backlog, where they cost neither a file descriptor nor a buffer.
    pub connections_max: usize,
    /// Of the files that the process may have open, how many of a hundred its connections may be at most.
    /// It has to leave room for other listeners and for what a connection leads to.
    pub descriptors_percent: u8,
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
    /// Connections from these begin with a header of the PROXY protocol, version 2, and are cut if
    /// they do not: the protocol forbids to guess. What it says of the caller is believed.
    pub proxies: Vec<Network>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A connection costs a descriptor and about 16 KiB of buffers.
            connections_max: 4096,
            // Two listeners of each daemon, at most; files, peers and functions have the rest.
            descriptors_percent: 25,
            header_read_timeout: Duration::from_secs(20),
            // A path that fails over takes some seconds.
            unread_timeout: Duration::from_secs(20),
            http2_streams_max: 256,
            linger: Duration::from_millis(200),
            grace: Duration::from_secs(5),
            proxies: Vec::new(),
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

/// Serves until `shutdown`, then lets requests in flight finish for `limits.grace`.
///
/// `service` makes what answers a connection's requests; each has been admitted by
/// [`crate::head::admit`], and its answer is brought into form by [`crate::answer::conform`].
///
/// The listener closes at the shutdown, so new connections are refused and their clients go
/// elsewhere at once. Whoever was quick enough to connect is answered if the request comes at once
/// as well. Errors of accepting are survived: a connection that was aborted in the queue costs
/// nothing, and when descriptors run out, accepting pauses.
///
/// A client that closes its sending half after a whole request gets its answer (RFC 9112 section
/// 9.6). What that costs: the end of what a client sends no longer says that it has left, and it
/// often is all that does. A call of a client that closed its connection keeps its place in a queue
/// until it runs or has waited too long. A connection that was reset is noticed at once.
///
/// # Errors
/// Only if the listening socket itself is broken.
pub async fn serve<M, S>(
    listener: TcpListener,
    service: M,
    shutdown: CancellationToken,
    limits: Limits,
) -> io::Result<()>
where
    M: Fn(Caller) -> S + Clone + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let connections_max =
        descriptors::connections(limits.connections_max, limits.descriptors_percent);
    if connections_max < limits.connections_max {
        let (wanted, open_files) = (limits.connections_max, descriptors::limit());
        warn!(
            connections_max,
            wanted, open_files, "connections limited by open files"
        );
    }
    let places = Arc::new(Semaphore::new(connections_max));
    let presences = Arc::new(Presences::default());
    let limits = Arc::new(limits);
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let begin = |connections: &mut JoinSet<()>, permit, (stream, peer): Accepted| {
        let presence = presences.enter(closing.child_token());
        let (service, limits) = (service.clone(), Arc::clone(&limits));
        connections.spawn(async move {
            connection::run(stream, peer, service, presence, limits).await;
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
            permit = place(&places, &presences), if next.is_some() => {
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
                    // One that asks for nothing has what this one lacks.
                    presences.close_longest_idle();
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
        match timeout(QUEUE_EMPTY_AFTER, place(&places, &presences)).await {
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

/// From becoming idle until a connection may be closed for another: longer than a request that is
/// on its way takes.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Between looks for one that has become idle enough. A look reads a number of each connection.
const IDLE_LOOK: Duration = Duration::from_millis(100);

type Accepted = (TcpStream, SocketAddr);

/// A place for one more connection, soon to be that of an idle one if there is none.
async fn place(places: &Arc<Semaphore>, presences: &Presences) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return permit;
        }
        presences.close_longest_idle();
        let permit = Arc::clone(places).acquire_owned();
        if let Ok(permit) = timeout(IDLE_LOOK, permit).await {
            return permit.expect("the semaphore is never closed");
        }
    }
}

/// All connections of a listener. Its lock is taken when one comes or goes, not for requests.
struct Presences {
    begun: Instant,
    connections: Mutex<Numbered>,
}

#[derive(Default)]
struct Numbered {
    last: u64,
    connections: BTreeMap<u64, Arc<Presence>>,
}

/// One connection, as far as it says whether it is idle.
struct Presence {
    /// Requests whose answer is not sent yet.
    under_way: AtomicU32,
    /// Milliseconds from the listener's beginning until the last answer was sent.
    idle_since_ms: AtomicU64,
    begun: Instant,
    close: CancellationToken,
}

impl Default for Presences {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            connections: Mutex::default(),
        }
    }
}

impl Presences {
    fn enter(self: &Arc<Self>, close: CancellationToken) -> Present {
        let presence = Arc::new(Presence {
            under_way: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(millis_since(self.begun)),
            begun: self.begun,
            close,
        });
        let mut numbered = self.numbered();
        numbered.last += 1;
        let number = numbered.last;
        numbered.connections.insert(number, Arc::clone(&presence));
        Present {
            presence,
            number,
            all: Arc::clone(self),
        }
    }

    /// Never held across anything that waits or takes another.
    fn numbered(&self) -> MutexGuard<'_, Numbered> {
        let connections = &self.connections;
        connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_longest_idle(&self) {
        let now = millis_since(self.begun);
        let numbered = self.numbered();
        let idle = numbered.connections.values().filter(|presence| {
            presence.under_way.load(Ordering::Relaxed) == 0 && !presence.close.is_cancelled()
        });
        let longest = idle.min_by_key(|presence| presence.idle_since_ms.load(Ordering::Relaxed));
        let Some(longest) = longest else { return };
        let since = longest.idle_since_ms.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(since)) >= IDLE_MIN.as_millis() {
            longest.close.cancel();
            metrics::counter!("tradewind_connections_closed_for_others_total").increment(1);
        }
    }
}

fn millis_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A connection's entry among all, for as long as it lasts.
struct Present {
    presence: Arc<Presence>,
    number: u64,
    all: Arc<Presences>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.all.numbered().connections.remove(&self.number);
    }
}

impl Presence {
    /// A request, until what is returned is dropped.
    fn request(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }
}

struct UnderWay(Arc<Presence>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = millis_since(self.0.begun);
        self.0.idle_since_ms.store(now, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
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
