//! One connection: who is at its other end, and its requests one after another.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use api_wire::call_headers::{ALIVE_PATH, NOT_STARTED};
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::heads::{Budget, Full, Taken};
use super::socket::{self, Line, Socket};
use super::{Limits, Presence, Present, UnderWay};
use crate::body::{Rest, Unread};
use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX, HTTP2_HEAD_BYTES_MAX};
use crate::proxy::ProxyError;
use crate::{Body, BodyError, Caller, Network, Refusal, answer, head, proxy};

/// What a connection takes from an answer before it can be sent. Left to itself Linux takes up to
/// 4 MiB and asks for more once a third of that is gone, so that a steady reader seems to have stopped
/// for seconds: measured on loopback, 5 to 6 s at 256 KiB/s, and at most 0.5 s with this.
const UNSENT_MAX: u32 = 64 << 10;

/// A body of no more than this that its handler left is read on, so that the connection can go on: a
/// new one costs both sides more. Longer ones end their connection.
const READ_ON_BYTES_MAX: u64 = 64 << 10;

/// How long the rest of such a body may take: it is usually on its way with the head.
const READ_ON_MAX: Duration = Duration::from_millis(200);

pub(super) async fn run<M, S>(
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    service: M,
    present: Present,
    heads: Budget,
    limits: Arc<Limits>,
) where
    M: Fn(Caller) -> S,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    tune(&stream, peer, &limits);
    let introduced = introduce(&stream, peer, &limits.proxies);
    let caller = match timeout(limits.header_read_timeout, introduced).await {
        Ok(Ok(caller)) => caller,
        Ok(Err(error)) => return debug!(%error, %peer, "connection refused"),
        Err(_) => return debug!(%peer, "no PROXY header in time"),
    };
    let service = service(caller);
    serve(stream, service, &present.presence, caller, heads, &limits).await;
}

fn tune(stream: &TcpStream, peer: SocketAddr, limits: &Limits) {
    // Answers are written whole or in large pieces; waiting to fill a segment only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "no TCP_NODELAY");
    }
    let socket = socket2::SockRef::from(stream);
    if let Err(error) = socket.set_tcp_user_timeout(Some(limits.unread_timeout)) {
        debug!(%error, %peer, "no TCP_USER_TIMEOUT");
    }
    if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT_MAX) {
        debug!(%error, %peer, "no TCP_NOTSENT_LOWAT");
    }
}

#[derive(Debug, thiserror::Error)]
enum NotIntroduced {
    #[error("read the PROXY header")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] ProxyError),
}

/// Finds out who is at the other end, before a byte of HTTP is read.
///
/// This is the place for TLS: after the PROXY header, which is sent in the clear, and before HTTP.
/// Its handshake gives what the peer has proved about itself, for [`Caller`] to carry.
async fn introduce(
    stream: &TcpStream,
    peer: SocketAddr,
    proxies: &[Network],
) -> Result<Caller, NotIntroduced> {
    if !proxies.iter().any(|network| network.contains(peer.ip())) {
        return Ok(Caller { address: peer });
    }
    let mut fixed = [0; proxy::FIXED];
    read_exact(stream, &mut fixed).await?;
    let header = proxy::Header::parse(fixed)?;
    let mut rest = vec![0; header.rest_bytes];
    read_exact(stream, &mut rest).await?;
    Ok(Caller {
        address: header.source(&rest)?.unwrap_or(peer),
    })
}

async fn read_exact(stream: &TcpStream, mut wanted: &mut [u8]) -> io::Result<()> {
    while !wanted.is_empty() {
        stream.readable().await?;
        match stream.try_read(wanted) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => wanted = &mut wanted[bytes..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the requests of a connection share.
struct Shared<S> {
    service: S,
    presence: Arc<Presence>,
    unread: Arc<Unread>,
    line: Arc<Line>,
    heads: Budget,
    /// A request of HTTP/1.1 is being answered, and nothing of the answer is there yet.
    may_ask: AtomicBool,
    /// Whether a request has come.
    asked: AtomicBool,
}

async fn serve<S>(
    stream: Arc<TcpStream>,
    service: S,
    presence: &Arc<Presence>,
    caller: Caller,
    heads: Budget,
    limits: &Limits,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let peer = caller.address;
    let shared = Arc::new(Shared {
        service,
        presence: Arc::clone(presence),
        unread: Arc::default(),
        line: Arc::new(Line::new(heads.clone())),
        heads,
        asked: AtomicBool::new(false),
        may_ask: AtomicBool::new(false),
    });
    let socket = Socket::new(Arc::clone(&stream), Arc::clone(&shared.line));
    let answering = {
        let shared = Arc::clone(&shared);
        service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .half_close(true)
        .max_headers(FIELDS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_read_timeout)
        .keep_alive_timeout(limits.header_read_timeout)
        .max_header_list_size(HTTP2_HEAD_BYTES_MAX)
        .max_concurrent_streams(limits.http2_streams_max);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(socket), answering));
    // hyper's own timer starts once the protocol is known; a peer that says nothing, or half of an
    // HTTP/2 preface, is caught by this one.
    let mut first_head = pin!(tokio::time::sleep(limits.header_read_timeout));
    // While a request is answered nothing is read, so that nothing else would see a reset.
    let mut reset = pin!(stream.ready(Interest::ERROR));
    let mut waiting = true;
    let mut closing = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if shared.line.coming.is_refused() {
                    metrics::counter!("tradewind_requests_refused_total").increment(1);
                    debug!(%peer, "no room for a head");
                    return socket::refuse(Arc::clone(&stream), &Refusal::heads_full(), Arc::clone(&shared.line)).await;
                }
                if let Err(error) = ended {
                    debug!(%error, %peer, "connection ended");
                }
                return;
            }
            _ = reset.as_mut() => return debug!(%peer, "connection reset"),
            () = shared.presence.closed.notified() => {
                if let Err(error) = shared.ask_whether_it_reads(&stream) {
                    return debug!(%error, %peer, "client has left");
                }
            }
            () = shared.presence.close.cancelled(), if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
            () = first_head.as_mut(), if waiting => {
                waiting = false;
                if !shared.asked.load(Ordering::Relaxed) {
                    return debug!(%peer, "no request in time");
                }
            }
        }
    }
}

impl<S> Shared<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    async fn answer(&self, request: Request<Incoming>) -> Response<Sending> {
        self.asked.store(true, Ordering::Relaxed);
        let under_way = self.presence.request();
        let (mut head, incoming) = request.into_parts();
        let method = head.method.clone();
        let is_http1 = head.version <= Version::HTTP_11;
        let waits_for_100 = head.headers.contains_key(EXPECT);
        let may_ask = head.version == Version::HTTP_11;
        self.line.coming.whole();
        let taken = self.heads.take(head::bytes(&head));
        let body = Body::received(incoming, is_http1.then_some(&self.unread));
        let admitted = match &taken {
            Ok(_) => self.admit(&mut head),
            Err(Full) => Err(Refusal::heads_full()),
        };
        let mut response = match admitted {
            Ok(()) => {
                self.may_ask.store(may_ask, Ordering::Relaxed);
                let answered = self.service.call(Request::from_parts(head, body)).await;
                self.may_ask.store(false, Ordering::Relaxed);
                let Ok(response) = answered;
                response
            }
            Err(refused) => {
                drop(body);
                metrics::counter!("tradewind_requests_refused_total").increment(1);
                refused.respond()
            }
        };
        if !self.presence.is_placed {
            // Others wait for what this connection takes.
            self.presence.close.cancel();
            let not_started = HeaderValue::from_static("1");
            response.headers_mut().insert(NOT_STARTED, not_started);
        }
        answer::conform(&method, &mut response);
        if let Some(rest) = self.unread.take()
            && !read_on(rest, waits_for_100).await
        {
            // RFC 9112 section 9.6: so that its client sends no request behind the body.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            self.line.lingers.store(true, Ordering::Relaxed);
        }
        response.map(|body| Sending {
            body,
            _request: OfARequest {
                line: is_http1.then(|| Arc::clone(&self.line)),
                _under_way: under_way,
                _head: taken.ok(),
            },
        })
    }

    /// As [`head::admit`]; of a connection without a place nothing but the question whether the process
    /// lives.
    fn admit(&self, head: &mut Parts) -> Result<(), Refusal> {
        head::admit(head)?;
        if self.presence.is_placed || head.uri.path() == ALIVE_PATH {
            return Ok(());
        }
        metrics::counter!("tradewind_connections_full_total").increment(1);
        Err(Refusal::connections_full())
    }

    /// Sends a client that has closed its sending half a 100 while its request is answered: a client that
    /// still reads skips it (RFC 9110 section 15.2.1), and the kernel of one that closed its
    /// connection resets it.
    fn ask_whether_it_reads(&self, stream: &TcpStream) -> io::Result<()> {
        const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        // Nothing of an answer may be on its way, nor the end of the answer before.
        let in_between = self.may_ask.load(Ordering::Relaxed);
        if !in_between || self.line.is_blocked.load(Ordering::Relaxed) {
            return Ok(());
        }
        match stream.try_write(INTERIM) {
            Ok(bytes) if bytes < INTERIM.len() => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether all of a body that its handler left has come, so that the connection may go on.
async fn read_on(rest: Rest, waits_for_100: bool) -> bool {
    let Rest {
        mut incoming,
        is_begun,
    } = rest;
    let is_small = incoming
        .size_hint()
        .upper()
        .is_some_and(|bytes| bytes <= READ_ON_BYTES_MAX);
    // To read is to ask for it: a client that waits for a 100 is not to send what nobody wants.
    if !is_small || (waits_for_100 && !is_begun) {
        return false;
    }
    let reading = async {
        while let Some(frame) = incoming.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(READ_ON_MAX, reading).await.unwrap_or(false)
}

/// A response's body; its request is under way until it is sent.
struct Sending {
    body: Body,
    _request: OfARequest,
}

/// What a request has until its answer is sent.
struct OfARequest {
    /// Of HTTP/1, where the next head may come then.
    line: Option<Arc<Line>>,
    _under_way: UnderWay,
    _head: Option<Taken>,
}

impl Drop for OfARequest {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.coming.next();
        }
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
