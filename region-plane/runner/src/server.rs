//! Listening and serving, in little memory.
//!
//! The daemons' own server is not used: it brings a router and a metrics registry, which every pod
//! would pay for.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api;
use crate::instance::{Instance, PodError};
use crate::settings::Settings;

/// A gateway needs one; the rest are for those that come and go, and for people.
const CONNECTIONS_MAX: usize = 64;

/// Requests in flight on one HTTP/2 connection. A gateway has four or five.
const STREAMS_MAX: u32 = 64;

/// Headers of one request: a gateway takes no more from its clients.
const HEADERS_BYTES_MAX: u32 = 1 << 20;

/// Bytes of a request that may be under way unread. A bundle comes as fast at twice the round trip of
/// a cluster, and a runner that is not read from holds no more.
const WINDOW_BYTES: u32 = 256 << 10;

/// How often a silent connection is asked whether it is alive, and how long it has to answer. A
/// gateway that vanished with its node closes nothing, and its claim would stay.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// From a connection until the head of its first request, and between two of HTTP/1.1. A gateway asks as
/// soon as it is connected, and whoever is silent keeps a place from one that would claim.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a gateway has to hear that the runner stops, and to close its connection. A request
/// that crosses a GOAWAY fails in a way that does not tell whether the function saw it; until then
/// each is answered.
const LINGER: Duration = Duration::from_millis(500);

/// Descriptors may be free again by then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// `tradewind-runner`: serves until `shutdown`, then until the running call has ended.
///
/// # Errors
/// If the pod's folders or the port cannot be had.
pub async fn serve(settings: Settings, shutdown: CancellationToken) -> Result<(), ServeError> {
    let listener = listen(&settings).await?;
    let instance = Instance::new(settings, shutdown.clone())?;
    match listener.local_addr() {
        Ok(address) => info!(%address, "listening"),
        Err(error) => warn!(%error, "listening, address unknown"),
    }

    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places);
        let accept = async {
            let place = place.acquire_owned().await.expect("it is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, Arc::clone(&instance));
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let grace = instance.settings().grace;
    let ended = async {
        // The call first: its answer has then to be written.
        instance.drain().await;
        while connections.join_next().await.is_some() {}
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        warn!(?grace, "running requests are cut off");
    }
    connections.shutdown().await;
    info!("stopped");
    Ok(())
}

async fn listen(settings: &Settings) -> Result<TcpListener, ServeError> {
    let mut failed = None;
    for address in settings.listen.addresses() {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => {
                failed.get_or_insert(ServeError::Listen { address, source });
            }
        }
    }
    Err(failed.expect("there is an address"))
}

async fn until_closing(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, instance: Arc<Instance>) {
    // An answer is written whole; waiting to fill a segment only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "no TCP_NODELAY");
    }
    let shutdown = instance.shutdown().clone();
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        hyper::service::service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            api::answer(Arc::clone(&instance), request)
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // hyper's own timer starts once the protocol is known; a peer that says nothing, or half of an
    // HTTP/2 preface, is caught by this one.
    let mut first_head = pin!(tokio::time::sleep(HEAD_TIMEOUT));
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
            () = until_closing(&shutdown), if !closing => {
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
