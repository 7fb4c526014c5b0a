//! Listening, accepting and serving HTTP/1.1 and HTTP/2 with prior knowledge, on one port.

mod connection;
mod heads;
mod socket;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::service::Service;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{Body, Caller, Network, descriptors};

/// Bounds on what strangers may hold open.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections served at once. For one more, whichever has asked for nothing for longest is
    /// closed. If all are in use it waits for half a second, and is then told 503; the question whether the
    /// process lives is answered all the same. A sixteenth more may wait so, and those behind them stay
    /// unaccepted in the kernel's backlog, where they cost neither a file descriptor nor a buffer.
    pub connections_max: usize,
    /// Bytes that the heads of all requests of the listener may have together, beyond
    /// [`HEAD_BYTES_FREE`](crate::limits::HEAD_BYTES_FREE) of each. A request whose head does not fit is
    /// told 503.
    pub heads_bytes_max: usize,
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
            // Sixty-four of the largest. Parsed, a head takes about twice its bytes, and more if its fields
            // are short; with what each connection has free, a listener's heads stay below 512 MiB.
            heads_bytes_max: 64 << 20,
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
/// 9.6). One that closed its connection has left, and its request is given up. Until something is sent the
/// two look the same: both sent a FIN, and TCP_INFO says `CLOSE_WAIT` of both. So once a second such a
/// client is sent a 100, which a client that still reads skips (RFC 9110 section 15.2), and to which the
/// kernel of one that closed answers with a reset. A request is therefore given up within a second and a
/// round trip of its client's leaving, and at once if the client reset the connection. To HTTP/1.0 no 100 may
/// be sent: such a request keeps its place until it is answered or has waited too long. An HTTP/2
/// client that ends what it sends has ended its connection.
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
    let room = Arc::new(Semaphore::new(waiting_max(connections_max)));
    let heads = heads::Budget::new(limits.heads_bytes_max);
    let presences = Arc::new(Presences::default());
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let full_limits = Arc::new(Limits {
        header_read_timeout: limits.header_read_timeout.min(FULL_HEAD_MAX),
        ..limits.clone()
    });
    let limits = Arc::new(limits);
    let begin = |connections: &mut JoinSet<()>, standing, (stream, peer): Accepted| {
        let stream = Arc::new(stream);
        let close = closing.child_token();
        let (places, presences) = (Arc::clone(&places), Arc::clone(&presences));
        let (service, heads) = (service.clone(), heads.clone());
        let (limits, full_limits) = (Arc::clone(&limits), Arc::clone(&full_limits));
        connections.spawn(async move {
            let (standing, limits) = match standing {
                Standing::Placed(_) => (standing, limits),
                Standing::Waiting(waiting) => match presences.place_in_time(&places).await {
                    Some(place) => (Standing::Placed(place), limits),
                    None => (Standing::Waiting(waiting), full_limits),
                },
            };
            let is_placed = matches!(standing, Standing::Placed(_));
            let present = presences.enter(close, &stream, is_placed);
            connection::run(stream, peer, service, present, heads, limits).await;
            drop(standing);
        });
    };
    let mut broken = None;
    let mut pause = ACCEPT_PAUSE_MIN;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            _ = looks.tick() => {
                presences.ask_those_that_closed();
                continue;
            }
            accepted = accept(&listener, &places, &room) => accepted,
        };
        match accepted {
            Ok((standing, accepted)) => {
                pause = ACCEPT_PAUSE_MIN;
                begin(&mut connections, standing, accepted);
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
        match timeout(QUEUE_EMPTY_AFTER, accept(&listener, &places, &room)).await {
            Ok(Ok((standing, accepted))) => begin(&mut connections, standing, accepted),
            // One that was aborted while it waited, say.
            Ok(Err(error)) => debug!(%error, "connection not accepted at the end"),
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

/// How long a connection waits while all places are in use. A forwarder takes a gateway for silent whose
/// process has not answered for 1.3 s.
const PLACE_MAX: Duration = Duration::from_millis(500);

/// How long a connection without a place has for the head of its one request: in that time a peer that is
/// there has long sent it, and others wait for what this one takes.
const FULL_HEAD_MAX: Duration = Duration::from_secs(1);

/// Between looks for clients that closed their sending half: within this time a place in a queue is free
/// again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Accepted = (TcpStream, SocketAddr);

/// What a connection was accepted to.
enum Standing {
    Placed(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// All places were taken when it came.
    Waiting(OwnedSemaphorePermit),
}

/// How many connections may wait for a place or are told that there is none: enough that each
/// forwarder's question finds room between them, and few beside the places.
fn waiting_max(connections_max: usize) -> usize {
    (connections_max / 16).clamp(4, 256)
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    room: &Arc<Semaphore>,
) -> io::Result<(Standing, Accepted)> {
    const OPEN: &str = "the semaphore is never closed";
    let waiting = Arc::clone(room).acquire_owned().await.expect(OPEN);
    let accepted = listener.accept().await?;
    let standing = match Arc::clone(places).try_acquire_owned() {
        Ok(place) => Standing::Placed(place),
        Err(_) => Standing::Waiting(waiting),
    };
    Ok((standing, accepted))
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
    /// Whether it has a place that another could have instead.
    is_placed: bool,
    /// Not held open by this: tasks of an HTTP/2 connection may outlast it.
    stream: Weak<TcpStream>,
    /// Its client has closed its sending half while a request is under way.
    closed: Notify,
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
    fn enter(
        self: &Arc<Self>,
        close: CancellationToken,
        stream: &Arc<TcpStream>,
        is_placed: bool,
    ) -> Present {
        let presence = Arc::new(Presence {
            under_way: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(millis_since(self.begun)),
            begun: self.begun,
            close,
            is_placed,
            stream: Arc::downgrade(stream),
            closed: Notify::new(),
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

    /// A place for one more connection, soon to be that of an idle one. `None` if all are in use.
    async fn place_in_time(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let began = Instant::now();
        loop {
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return Some(place);
            }
            let is_any_idle = self.close_longest_idle();
            if !is_any_idle && began.elapsed() >= PLACE_MAX {
                return None;
            }
            let place = Arc::clone(places).acquire_owned();
            if let Ok(place) = timeout(IDLE_LOOK, place).await {
                return Some(place.expect("the semaphore is never closed"));
            }
        }
    }

    /// Closes the connection that has been idle for longest, unless it is about to be used. Whether any is
    /// idle.
    fn close_longest_idle(&self) -> bool {
        let now = millis_since(self.begun);
        let numbered = self.numbered();
        let idle = numbered.connections.values().filter(|presence| {
            presence.is_placed
                && presence.under_way.load(Ordering::Relaxed) == 0
                && !presence.close.is_cancelled()
        });
        let longest = idle.min_by_key(|presence| presence.idle_since_ms.load(Ordering::Relaxed));
        let Some(longest) = longest else { return false };
        let since = longest.idle_since_ms.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(since)) >= IDLE_MIN.as_millis() {
            longest.close.cancel();
            metrics::counter!("tradewind_connections_closed_for_others_total").increment(1);
        }
        true
    }

    /// Tells connections that answer a request of a client that closed its sending half.
    fn ask_those_that_closed(&self) {
        let under_way: Vec<_> = {
            let numbered = self.numbered();
            let connections = numbered.connections.values();
            connections
                .filter(|presence| presence.under_way.load(Ordering::Relaxed) > 0)
                .filter_map(|presence| Some((Arc::clone(presence), presence.stream.upgrade()?)))
                .collect()
        };
        let sockets = under_way.iter();
        let mut sockets: Vec<_> = sockets
            .map(|(_, stream)| PollFd::new(stream, PollFlags::RDHUP))
            .collect();
        if sockets.is_empty() {
            return;
        }
        // One system call for all of them. What it cannot say it says a second later.
        if let Err(error) = poll(&mut sockets, Some(&Timespec::default())) {
            return debug!(%error, "clients that left are not looked for");
        }
        for ((presence, _), socket) in under_way.iter().zip(&sockets) {
            if socket.revents().contains(PollFlags::RDHUP) {
                presence.closed.notify_one();
            }
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
