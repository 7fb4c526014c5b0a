//! Forwarding one call to the first of several gateways that takes it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api_wire::call_headers::{ALIVE_PATH, FORWARDED_BY, MIN_REVISION, NOT_STARTED, ours};
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, request};
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::answer::Answer;
use crate::connect::Connector;
use crate::head::{Continue, encode};
use crate::link::{Exchange, ExchangeError, Failed, Link};
use crate::pool::{Peer, Pool};
use crate::sending::Nothing;

/// From sending a call's head until its gateway says that it takes the call. A gateway answers that
/// from its own memory, and waits for metadata for less; without it nothing has run.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// How long a call is offered around: to five silent gateways. A caller that waits longer is likelier
/// cut off by its own patience.
const OFFER_MAX: Duration = Duration::from_secs(10);

/// A gateway whose process has said nothing for this long after it took a call is silent, ...
const SILENT_MAX: Duration = Duration::from_secs(5);

/// ... and is asked whether it lives after this long, so that the answer has three tries, ...
const ASK_AFTER: Duration = Duration::from_secs(1);

/// ... each this long at most.
const ASK_TIMEOUT: Duration = Duration::from_millis(1300);

/// Between tries that fail at once, and between looks at what another call has heard.
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// What a call may take beyond its function's own time-out: waiting for an instance, fetching code
/// and a cold start.
const SLACK: Duration = Duration::from_secs(60);

/// Between looks whether a call has taken too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an answer may pause between its head and its end. Gateways hold answers whole, so this is
/// the network: a path that fails over takes some seconds.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Between sweeps of idle connections.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Cheap to share; one for all calls of a program.
#[derive(Debug)]
pub struct Forwarder {
    by: HeaderValue,
    connector: Connector,
    pool: Pool,
}

/// Where a call may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub region: String,
    /// `host:port`.
    pub address: String,
}

/// A call to be forwarded.
#[derive(Debug)]
pub struct Call<'a, B> {
    /// As it came. Nothing of it is changed, so that it can still be answered here.
    pub head: &'a request::Parts,
    /// Bounded by whoever received it.
    pub body: B,
    /// Appended to `X-Forwarded-For`.
    pub caller: Option<IpAddr>,
    /// The gateway has to have applied this revision.
    pub min_revision: Option<u64>,
    /// The function's own time-out.
    pub timeout: Duration,
}

/// What came of offering a call to one gateway; for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// It said that it has not started the call and another region may.
    NotStarted,
    /// No connection, or it closed before it took the call.
    Unreachable,
    /// It did not take the call in time.
    Silent,
    /// It took the call and there is no answer.
    Failed,
}

impl Outcome {
    /// For a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotStarted => "not_started",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Failed => "failed",
        }
    }
}

/// What came of a call.
#[derive(Debug)]
pub enum Forwarded {
    Answered(Response<Reply>),
    /// No gateway has started it, and nothing of its body was sent.
    NotStarted {
        /// What the last gateway that said anything said.
        refusal: Option<Response<Reply>>,
    },
}

/// The call may have run, and there is no answer. `E` is of the call's body.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError<E> {
    /// The caller's fault.
    #[error("read the caller's body")]
    Caller(E),
    #[error("region {region} broke the call off")]
    Broken {
        region: String,
        #[source]
        source: ExchangeError,
    },
    /// Its process answers nothing any more.
    #[error("region {region} has gone silent")]
    Silent { region: String },
    #[error("region {region} did not answer within the function's time-out")]
    TimedOut { region: String },
}

/// How one gateway took it.
enum Attempt<B, E> {
    NotTaken(B, Outcome),
    NotStarted(Option<B>, Response<Reply>),
    Answered(Response<Reply>),
    Failed(ForwardError<E>),
}

impl Forwarder {
    /// `by` is a value of [`FORWARDED_BY`].
    #[must_use]
    pub fn new(by: &'static str) -> Self {
        Self {
            by: HeaderValue::from_static(by),
            connector: Connector,
            pool: Pool::new(),
        }
    }

    /// Closes connections that have been idle for too long, until `end`.
    pub async fn tend(&self, end: CancellationToken) {
        while timeout(SWEEP_EVERY, end.cancelled()).await.is_err() {
            self.pool.sweep();
        }
    }

    /// Offers the call to one gateway after another until one takes it. `told` hears of each.
    ///
    /// The gateways are not offered it again after one has taken it: from then on it may have run.
    /// Dropping the future closes the connection, by which the gateway knows that the caller left.
    ///
    /// # Errors
    /// If the call may have run and there is no answer.
    pub async fn forward<B>(
        &self,
        call: Call<'_, B>,
        gateways: &[Gateway],
        told: impl Fn(&Gateway, Outcome),
    ) -> Result<Forwarded, ForwardError<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let length = call.body.size_hint().exact();
        let Some(first) = gateways.first() else {
            return Ok(Forwarded::NotStarted { refusal: None });
        };
        let head = self.head(&call, &first.address, length);
        let (mut body, mut refusal) = (call.body, None);
        let began = Instant::now();
        for gateway in gateways {
            if began.elapsed() >= OFFER_MAX {
                break;
            }
            let sent = Sent {
                method: &call.head.method,
                head: &head,
                length,
                timeout: call.timeout,
            };
            match self.attempt(&sent, body, gateway).await {
                Attempt::Answered(response) => {
                    told(gateway, Outcome::Answered);
                    return Ok(Forwarded::Answered(response));
                }
                Attempt::NotTaken(held, outcome) => {
                    told(gateway, outcome);
                    body = held;
                }
                Attempt::NotStarted(held, response) => {
                    told(gateway, Outcome::NotStarted);
                    refusal = Some(response);
                    match held {
                        Some(held) => body = held,
                        None => return Ok(Forwarded::NotStarted { refusal }),
                    }
                }
                Attempt::Failed(error) => {
                    told(gateway, Outcome::Failed);
                    return Err(error);
                }
            }
        }
        Ok(Forwarded::NotStarted { refusal })
    }

    fn head<B>(&self, call: &Call<'_, B>, address: &str, length: Option<u64>) -> Bytes {
        let request::Parts {
            method,
            uri,
            headers,
            ..
        } = call.head;
        let mut added = vec![(FORWARDED_BY, self.by.clone())];
        if let Some(revision) = call.min_revision {
            added.push((MIN_REVISION, revision.into()));
        }
        if let Some(chain) = call
            .caller
            .and_then(|caller| forwarded_for(headers, caller))
        {
            added.push((X_FORWARDED_FOR, chain));
        }
        if !headers.contains_key(HOST) {
            // HTTP/1.0 knows no host, and HTTP/1.1 has to name one.
            let host = uri.authority().map_or(address, |host| host.as_str());
            added.extend(HeaderValue::from_str(host).ok().map(|host| (HOST, host)));
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        // A caller's own fields of ours would be taken for the forwarder's.
        let skip =
            |name: &HeaderName| ours(name) || (*name == X_FORWARDED_FOR && call.caller.is_some());
        encode(
            method,
            target,
            headers,
            skip,
            &added,
            length,
            Continue::Wait,
        )
    }

    async fn attempt<B>(
        &self,
        sent: &Sent<'_>,
        mut body: B,
        gateway: &Gateway,
    ) -> Attempt<B, B::Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let peer = self.pool.peer(&gateway.address);
        let by = Instant::now() + TAKEN_MAX;
        let mut exchange = loop {
            let idle = peer.take();
            let was_idle = idle.is_some();
            let link = match idle {
                Some(link) => link,
                None => match self.connector.connect(&gateway.address).await {
                    Ok(stream) => Link::new(stream),
                    Err(error) => {
                        info!(region = gateway.region, %error, "cannot connect to gateway");
                        return Attempt::NotTaken(body, Outcome::Unreachable);
                    }
                },
            };
            let head = sent.head.clone();
            let mut exchange = link.begin(sent.method, head, body, sent.length, Continue::Wait);
            let failed = match timeout_at(by, exchange.taken()).await {
                Ok(Ok(true)) => break exchange,
                Ok(Ok(false)) => {
                    peer.hear();
                    return early(exchange, peer);
                }
                Ok(Err(Failed::Body(error))) => {
                    return Attempt::Failed(ForwardError::Caller(error));
                }
                Ok(Err(Failed::Exchange(error))) => Some(error),
                Err(_) => None,
            };
            body = exchange.into_body().expect("it waits for a 100");
            match failed {
                None => {
                    info!(region = gateway.region, "gateway is silent");
                    return Attempt::NotTaken(body, Outcome::Silent);
                }
                // It was closed while it was idle, or the gateway has started anew since.
                Some(error) if was_idle => {
                    debug!(region = gateway.region, %error, "stale connection")
                }
                Some(error) => {
                    info!(region = gateway.region, %error, "gateway did not take a call");
                    return Attempt::NotTaken(body, Outcome::Unreachable);
                }
            }
        };
        peer.hear();
        let region = || gateway.region.clone();
        match self.wait(&mut exchange, &peer, sent.timeout).await {
            Ok(()) => {
                peer.hear();
                let (response, _) = exchange.into_answer_and_body();
                let response = response.map(|answer| Reply::new(answer, peer));
                match response.headers().contains_key(NOT_STARTED) {
                    true => Attempt::NotStarted(None, response),
                    false => Attempt::Answered(response),
                }
            }
            Err(Waited::Failed(Failed::Body(error))) => {
                Attempt::Failed(ForwardError::Caller(error))
            }
            Err(Waited::Failed(Failed::Exchange(source))) => {
                Attempt::Failed(ForwardError::Broken {
                    region: region(),
                    source,
                })
            }
            Err(Waited::Silent) => Attempt::Failed(ForwardError::Silent { region: region() }),
            Err(Waited::TimedOut) => Attempt::Failed(ForwardError::TimedOut { region: region() }),
        }
    }

    /// Waits for the answer's head for as long as the gateway's process lives and the function may run.
    async fn wait<B>(
        &self,
        exchange: &mut Exchange<TcpStream, B>,
        peer: &Peer,
        function: Duration,
    ) -> Result<(), Waited<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut silence = std::pin::pin!(self.silence(peer));
        let mut sent_at = None;
        loop {
            tokio::select! {
                biased;
                answered = exchange.answered() => return answered.map_err(Waited::Failed),
                () = &mut silence => return Err(Waited::Silent),
                () = sleep(LOOK_EVERY) => {}
            }
            // How long a caller may take to send its body is its receiver's to bound.
            if exchange.is_sent() {
                let since = *sent_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= function + SLACK {
                    return Err(Waited::TimedOut);
                }
            }
        }
    }

    /// Returns once the gateway's process has not been heard for [`SILENT_MAX`]. Of all calls that
    /// wait for it one asks.
    async fn silence(&self, peer: &Peer) {
        let began = Instant::now();
        loop {
            let heard = peer.heard().max(began);
            sleep_until(heard + ASK_AFTER).await;
            let heard = peer.heard().max(began);
            if heard.elapsed() >= SILENT_MAX {
                return;
            }
            if heard.elapsed() < ASK_AFTER {
                continue;
            }
            if let Some(_asking) = peer.begin_asking()
                && let Ok(Ok(())) = timeout(ASK_TIMEOUT, self.ask(peer)).await
            {
                peer.hear();
                continue;
            }
            sleep(ASK_PAUSE).await;
        }
    }

    /// Asks the gateway's process whether it lives. Any answer is one.
    async fn ask(&self, peer: &Peer) -> Result<(), AskError> {
        let link = match peer.take() {
            Some(link) => link,
            None => {
                let stream = self.connector.connect(&peer.address).await;
                Link::new(stream.map_err(|_| AskError)?)
            }
        };
        let host = HeaderValue::from_str(&peer.address).map_err(|_| AskError)?;
        let added = [(HOST, host), (FORWARDED_BY, self.by.clone())];
        let (none, length, follow) = (HeaderMap::new(), Some(0), Continue::Follow);
        let head = encode(
            &Method::GET,
            ALIVE_PATH,
            &none,
            |_| false,
            &added,
            length,
            follow,
        );
        let mut exchange = link.begin(&Method::GET, head, Nothing, length, follow);
        exchange.answered().await.map_err(|_| AskError)?;
        if let Some(link) = exchange.into_answer().into_body().into_link() {
            peer.put(link);
        }
        Ok(())
    }
}

/// A call as it leaves.
struct Sent<'a> {
    method: &'a Method,
    head: &'a Bytes,
    length: Option<u64>,
    timeout: Duration,
}

enum Waited<E> {
    Failed(Failed<E>),
    Silent,
    TimedOut,
}

struct AskError;

/// An answer that came before the body was asked for.
fn early<B>(exchange: Exchange<TcpStream, B>, peer: Arc<Peer>) -> Attempt<B, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (response, body) = exchange.into_answer_and_body();
    let response = response.map(|answer| Reply::new(answer, peer));
    match response.headers().contains_key(NOT_STARTED) {
        true => Attempt::NotStarted(body, response),
        false => Attempt::Answered(response),
    }
}

/// `X-Forwarded-For` with one more address; `None` if the chain is not text.
fn forwarded_for(headers: &HeaderMap, caller: IpAddr) -> Option<HeaderValue> {
    let mut chain = String::new();
    for before in headers.get_all(X_FORWARDED_FOR) {
        chain.push_str(before.to_str().ok()?);
        chain.push_str(", ");
    }
    chain.push_str(&caller.to_string());
    HeaderValue::from_str(&chain).ok()
}

/// A forwarded call's answer. Read to its end, it gives its connection back.
#[derive(Debug)]
pub struct Reply {
    /// `None` once its connection was given back.
    answer: Option<Answer<TcpStream>>,
    peer: Arc<Peer>,
    /// Since it last had to be waited for.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Reply {
    fn new(answer: Answer<TcpStream>, peer: Arc<Peer>) -> Self {
        let mut reply = Self {
            answer: Some(answer),
            peer,
            pause: None,
        };
        reply.give_back();
        reply
    }

    fn give_back(&mut self) {
        if self.answer.as_ref().is_some_and(Body::is_end_stream)
            && let Some(link) = self.answer.take().and_then(Answer::into_link)
        {
            self.peer.put(link);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let this = &mut *self;
        let Some(answer) = &mut this.answer else {
            return Poll::Ready(None);
        };
        match Pin::new(answer).poll_frame(context) {
            Poll::Ready(frame) => {
                this.pause = None;
                this.give_back();
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let pause = this.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE_MAX)));
                pause
                    .as_mut()
                    .poll(context)
                    .map(|()| Some(Err(ExchangeError::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.answer {
            Some(answer) => answer.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
