//! The region's front door for calls (Fn contract 6 to 8).
//!
//! It answers from the replica alone: no call waits for another plane, except for code that is not
//! here yet, which is fetched once. Calls are held whole in both directions, as Fn does.

mod body;
mod callable;
pub mod error;
mod fresh;
pub mod headers;
mod memory;
mod route;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api_types::{App, CallId, Catalog, Fn, FnId, Revision};
use api_wire::call_headers::{ALIVE_PATH, BY_GATEWAY, BY_GLOBAL, MIN_REVISION};
use bytes::Bytes;
use calls_door::head::host_of;
use calls_door::{Body, Caller, Refusal};
use calls_forward::Forwarder;
use http::header::{CONNECTION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use hyper::service::Service;
use region_plane_dispatch::Rejection;
use region_plane_replica::{RegionCopy, Replica, placement};
use region_plane_runtime::{CallHeaders, Code};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bundles::Bundles;
use crate::definitions::Definitions;
use crate::engine::{Engine, Failure, Launch, Work};
use crate::spill::{Onward, Received, Spill};
use body::Bodies;
use callable::{Callable, Callables, Place};
use daemon::clock;
use error::CallRefused;
use fresh::Fresh;
use headers::{FORWARDED_BY, INVOKE_TYPE, NOT_STARTED, REGION};
use memory::NoRoom;
use route::Route;

pub struct Gateway {
    replica: Replica,
    bundles: Bundles,
    engine: Engine,
    callables: Callables,
    spill: Spill,
    fresh: Fresh,
    bodies: Bodies,
    region: HeaderValue,
    stopping: CancellationToken,
}

/// What a gateway calls with.
pub struct Parts {
    pub forwarder: Arc<Forwarder>,
    pub replica: Replica,
    pub bundles: Bundles,
    pub engine: Engine,
    pub definitions: Arc<Definitions>,
    pub request_body_bytes_max: usize,
    /// The port callers reach gateways on, before the first snapshot says it.
    pub port: u16,
    pub stopping: CancellationToken,
}

impl Gateway {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let name = parts.replica.read(|held| held.me().name.clone());
        Self {
            fresh: Fresh::new(parts.replica.clone()),
            replica: parts.replica,
            bundles: parts.bundles,
            engine: parts.engine,
            callables: Callables::new(parts.definitions, parts.port),
            spill: Spill::new(parts.forwarder),
            bodies: Bodies::new(parts.request_body_bytes_max),
            region: HeaderValue::from_str(name.as_str()).expect("a region name is a DNS label"),
            stopping: parts.stopping,
        }
    }
}

/// The gateway as one connection's requests reach it.
#[derive(Clone)]
pub struct Counter {
    gateway: Arc<Gateway>,
    caller: Caller,
}

impl Counter {
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, caller: Caller) -> Self {
        Self { gateway, caller }
    }
}

impl Service<Request<Body>> for Counter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Body>) -> Self::Future {
        let (gateway, caller) = (Arc::clone(&self.gateway), self.caller.address.ip());
        // Boxed once for each call: the connection keeps the future within its own.
        Box::pin(async move { Ok(gateway.call(caller, request).await) })
    }
}

/// How a function was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Invoke,
    Trigger,
}

/// What a request leads to.
enum Found {
    Function { way: Way, callable: Arc<Callable> },
    Refused(CallRefused),
}

/// Who sent a call here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Caller,
    /// A gateway without room; it is not handed on again.
    Gateway,
    /// A global node, which steered it.
    Global,
}

impl By {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(FORWARDED_BY).map(HeaderValue::as_bytes) {
            Some(by) if by == BY_GATEWAY.as_bytes() => Self::Gateway,
            Some(by) if by == BY_GLOBAL.as_bytes() => Self::Global,
            Some(_) | None => Self::Caller,
        }
    }
}

/// Why a call has no answer from a function here.
enum NotAnswered {
    Refused(CallRefused),
    /// Its function was changed while it waited, and nothing of it has reached an instance.
    Outdated,
}

impl From<CallRefused> for NotAnswered {
    fn from(refused: CallRefused) -> Self {
        Self::Refused(refused)
    }
}

impl Gateway {
    async fn call(&self, caller: IpAddr, request: Request<Body>) -> Response<Body> {
        let version = request.version();
        let mut response = self.answer(caller, request).await;
        // So that no client sends a call on a connection that is about to close (RFC 9112 section 9.6),
        // and the next connection leads to whoever takes this gateway's place. HTTP/2 has GOAWAY.
        if self.stopping.is_cancelled() && version <= Version::HTTP_11 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
            .headers_mut()
            .entry(REGION)
            .or_insert_with(|| self.region.clone());
        metrics::counter!(
            "tradewind_region_responses_total",
            "class" => match response.status().as_u16() / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            }
        )
        .increment(1);
        response
    }

    async fn answer(&self, caller: IpAddr, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let by = By::of(&head.headers);
        if by != By::Caller {
            if head.method == Method::GET && head.uri.path() == ALIVE_PATH {
                return status(StatusCode::NO_CONTENT);
            }
            let revision = min_revision(&head.headers);
            if self.fresh.reached(revision).await.is_err() {
                return tell(&CallRefused::behind(), None, by);
            }
        }
        let mut found = self.find(&head);
        if by == By::Caller && is_unknown(&found) {
            // It may have been written a moment ago.
            let again = self
                .fresh
                .look(|| Some(self.find(&head)).filter(|found| !is_unknown(found)));
            found = again.await.unwrap_or(found);
        }
        let (way, callable) = match found {
            // What it names may be in what this region lacks.
            Found::Refused(refused) if refused.elsewhere && self.replica.behind().is_some() => {
                return match by {
                    By::Caller => self.unknown(caller, head, body).await,
                    By::Gateway | By::Global => tell(&CallRefused::behind(), None, by),
                };
            }
            Found::Refused(refused) => return tell(&refused, None, by),
            Found::Function { way, callable } => (way, callable),
        };
        match &callable.place {
            Place::Here => self.here(caller, head, body, way, callable, by).await,
            // It exists; the forwarder knows another revision of where.
            Place::Elsewhere { .. } if by != By::Caller => tell(&CallRefused::nowhere(), None, by),
            Place::Elsewhere { host } => {
                let redirect = host
                    .as_ref()
                    .and_then(|host| redirect(host, &callable, way, &head));
                self.elsewhere(caller, head, body, redirect, &callable)
                    .await
            }
        }
    }

    fn find(&self, head: &request::Parts) -> Found {
        let version = self.replica.version();
        self.replica.read(|held| {
            let (path, host) = (head.uri.path(), host_of(&head.headers));
            let route = match route::route(&head.method, host, path, held.zone()) {
                Ok(route) => route,
                Err(refusal) => return Found::Refused(refusal.into()),
            };
            let (way, found) = match &route {
                Route::Invoke { fn_id } => (Way::Invoke, by_id(held.all(), &FnId::new(fn_id))),
                Route::InvokeNamed { app, function } => {
                    (Way::Invoke, by_name(held.all(), app, function))
                }
                Route::Trigger { app, source } => {
                    (Way::Trigger, by_source(held.all(), app, source))
                }
            };
            match found {
                Ok((app, function)) => Found::Function {
                    way,
                    callable: self.callables.get(version, held, app, function),
                },
                Err(missing) => Found::Refused(CallRefused::missing(held, missing)),
            }
        })
    }

    /// What the function has become since it was found.
    fn again(&self, function: &FnId) -> Result<Arc<Callable>, CallRefused> {
        let version = self.replica.version();
        self.replica.read(|held: &RegionCopy| {
            // Known here a moment ago, so it was removed, and a peer that runs it has not heard of that.
            let found = by_id(held.all(), function);
            let (app, function) = found.map_err(|missing| match missing {
                Missing::Unknown(message) => Refusal::not_found(message).into(),
                Missing::NotYet => CallRefused::busy(),
            })?;
            Ok(self.callables.get(version, held, app, function))
        })
    }

    /// Before the body is read where there is a name to go to; else the call is handed on.
    async fn elsewhere(
        &self,
        caller: IpAddr,
        head: request::Parts,
        body: Body,
        redirect: Option<HeaderValue>,
        callable: &Callable,
    ) -> Response<Body> {
        if let Some(location) = redirect {
            let mut response = status(StatusCode::TEMPORARY_REDIRECT);
            response.headers_mut().insert(LOCATION, location);
            return response;
        }
        if callable.onward.regions.is_empty() {
            return CallRefused::nowhere().respond(None);
        }
        let held = match self.bodies.receive(body).await {
            Ok(held) => held,
            Err(refused) => return refused.respond(None),
        };
        let call = Received {
            caller,
            head: Arc::new(head),
            body: held.bytes.clone(),
        };
        match self.spill.send(&call, &callable.onward).await {
            Ok(Some(response)) => response,
            Ok(None) => CallRefused::nowhere().respond(None),
            Err(refused) => refused.respond(None),
        }
    }

    /// Hands a call that names nothing known here to a region that may know more.
    async fn unknown(&self, caller: IpAddr, head: request::Parts, body: Body) -> Response<Body> {
        let peers = self.replica.read(placement::peers_of_unknown);
        let held = match self.bodies.receive(body).await {
            Ok(held) => held,
            Err(refused) => return refused.respond(None),
        };
        let call = Received {
            caller,
            head: Arc::new(head),
            body: held.bytes.clone(),
        };
        let onward = Onward::unknown(peers.regions);
        match self.spill.send(&call, &onward).await {
            Ok(Some(response)) => response,
            Ok(None) => CallRefused::behind().respond(None),
            Err(refused) => refused.respond(None),
        }
    }

    async fn here(
        &self,
        caller: IpAddr,
        mut head: request::Parts,
        body: Body,
        way: Way,
        callable: Arc<Callable>,
        by: By,
    ) -> Response<Body> {
        let id = CallId::new(clock::mint());
        let refuse = |refused: &CallRefused| tell(refused, Some(&id), by);
        if way == Way::Invoke && is_detached(&head.headers) {
            return refuse(&CallRefused::detached());
        }
        let held = match self.bodies.receive(body).await {
            Ok(held) => held,
            Err(refused) => return refuse(&refused),
        };
        if way == Way::Invoke {
            headers::into_invoke_request(&mut head.headers, &id);
        }
        let call = Received {
            caller,
            head: Arc::new(head),
            body: held.bytes.clone(),
        };

        // One that is stopping has its instances still, and its peers may have none.
        if callable.is_drained {
            // With nowhere to go it is better served here than not at all.
            match self.hand_on(&call, &callable, by).await {
                Ok(Some(response)) => return response,
                Ok(None) => {}
                Err(refused) => return refuse(&refused),
            }
        }
        let (refused, callable) = match self.run(&call, &id, way, callable).await {
            Ok(answer) => {
                let (head, bytes) = answer.into_parts();
                return match self.bodies.memory.answer(bytes, held.into_memory()) {
                    Ok(body) => Response::from_parts(head, body),
                    Err(NoRoom) => refuse(&CallRefused::unanswerable()),
                };
            }
            Err(refused) => refused,
        };
        if refused.elsewhere {
            match self.hand_on(&call, &callable, by).await {
                Ok(Some(response)) => return response,
                Ok(None) => {}
                Err(refused) => return refuse(&refused),
            }
        }
        refuse(&refused)
    }

    /// Hands a call of a function that is here to a peer, unless one handed it to us. `None` as
    /// [`Spill::send`] has it.
    async fn hand_on(
        &self,
        call: &Received,
        callable: &Callable,
        by: By,
    ) -> Result<Option<Response<Body>>, CallRefused> {
        if by == By::Gateway {
            return Ok(None);
        }
        self.spill.send(call, &callable.onward).await
    }

    /// Runs a call here, by what its function is when it runs: it is looked up anew whenever it has
    /// changed before the call reached an instance, for as long as the call may wait.
    ///
    /// A refusal comes with what the function was last.
    async fn run(
        &self,
        call: &Received,
        id: &CallId,
        way: Way,
        mut callable: Arc<Callable>,
    ) -> Result<Response<Bytes>, (CallRefused, Arc<Callable>)> {
        let wait_until = self.engine.wait_until();
        let mut version = 0;
        loop {
            // A body may take minutes to come, and the engine hears of a change but once.
            let now = self.replica.version();
            if now != version {
                version = now;
                callable = match self.again(&callable.function) {
                    Ok(current) => current,
                    Err(refused) => return Err((refused, callable)),
                };
                if matches!(callable.place, Place::Elsewhere { .. }) {
                    return Err((CallRefused::busy(), callable));
                }
            }
            match self.attempt(call, id, way, &callable, wait_until).await {
                Ok(answer) => return Ok(answer),
                Err(NotAnswered::Refused(refused)) => return Err((refused, callable)),
                Err(NotAnswered::Outdated) if Instant::now() >= wait_until => {
                    return Err((CallRefused::busy(), callable));
                }
                // The engine was told of what is not seen here, or the other way round; soon it is.
                Err(NotAnswered::Outdated) if self.replica.version() == version => {
                    tokio::time::sleep(TOLD_SOON).await;
                    version = 0;
                }
                Err(NotAnswered::Outdated) => {}
            }
        }
    }

    async fn attempt(
        &self,
        call: &Received,
        id: &CallId,
        way: Way,
        callable: &Callable,
        wait_until: Instant,
    ) -> Result<Response<Bytes>, NotAnswered> {
        let image = &callable.launch.image;
        let folder = match &callable.launch.code {
            Code::Bundle { digest, .. } => Some(
                self.bundles
                    .demand(digest, wait_until)
                    .await
                    .map_err(|error| CallRefused::fetch(image, &error))?,
            ),
            Code::Image => None,
        };
        let headers = match way {
            Way::Invoke => CallHeaders::OfTheRequest(Arc::clone(&call.head)),
            Way::Trigger => triggered(&call.head, id).into(),
        };
        let work = Work {
            spec: Arc::clone(&callable.spec),
            launch: Launch {
                spec: Arc::clone(&callable.launch),
                folder,
            },
            call: id.clone(),
            headers,
            body: call.body.clone(),
            timeout: callable.timeout,
        };
        let answer = self.engine.call(work, wait_until).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::Rejected(Rejection::Outdated) => NotAnswered::Outdated,
            failure => CallRefused::failure(image, &failure).into(),
        })?;
        let (status, headers) = match way {
            Way::Invoke => (StatusCode::OK, headers::invoke_response(answer.headers, id)),
            Way::Trigger => headers::trigger_response(&answer.headers, id)
                .map_err(|_| CallRefused::bad_status())?,
        };
        let mut response = Response::new(answer.body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Between the replica's hearing of a change and the engine's there is a pause, and as much between two
/// tries of a call that falls into it.
const TOLD_SOON: Duration = Duration::from_millis(20);

/// The call's URL by the name that is steered to where the function is; `None` if it came by it.
fn redirect(
    host: &str,
    callable: &Callable,
    way: Way,
    head: &request::Parts,
) -> Option<HeaderValue> {
    let bare = |host: &str| {
        let name = route::without_port(host).trim_end_matches('.');
        name.to_ascii_lowercase()
    };
    if host_of(&head.headers).is_some_and(|came_by| bare(came_by) == bare(host)) {
        return None;
    }
    let path = head.uri.path();
    // Paths below /invoke and /t mean the same on every host; others only on their own.
    let path = match way {
        Way::Invoke => format!("/invoke/{}", callable.function),
        Way::Trigger if path.starts_with("/t/") => path.to_owned(),
        Way::Trigger => format!("/t/{}{path}", callable.app_name),
    };
    let query = head.uri.query().map(|query| format!("?{query}"));
    let url = format!("http://{host}{path}{}", query.unwrap_or_default());
    HeaderValue::from_str(&url).ok()
}

fn triggered(head: &request::Parts, id: &CallId) -> HeaderMap {
    let target = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = headers::request_url(host_of(&head.headers), target);
    headers::trigger_request(&head.headers, &head.method, &url, id)
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Nothing is called so here, as far as this region has heard.
fn is_unknown(found: &Found) -> bool {
    matches!(found, Found::Refused(refused) if refused.elsewhere)
}

/// Zero if it does not say.
fn min_revision(headers: &HeaderMap) -> Revision {
    let said = headers.get(MIN_REVISION);
    let said = said.and_then(|said| said.to_str().ok()?.parse().ok());
    Revision(said.unwrap_or_default())
}

/// A forwarder is told if it may try another region.
fn tell(refused: &CallRefused, call: Option<&CallId>, by: By) -> Response<Body> {
    let mut response = refused.respond(call);
    if by != By::Caller && refused.elsewhere {
        response
            .headers_mut()
            .insert(NOT_STARTED, HeaderValue::from_static("1"));
    }
    response
}

/// Fn contract 6.3: on direct calls only, since a trigger's headers are renamed.
fn is_detached(headers: &HeaderMap) -> bool {
    headers
        .get(INVOKE_TYPE)
        .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"detached"))
}

/// Why a call leads to no function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The replica holds nothing of that name.
    Unknown(&'static str),
    /// The replica holds a part of it, and the rest is still to come.
    NotYet,
}

type Pair<'a> = Result<(&'a App, &'a Fn), Missing>;

fn by_id<'a>(catalog: &'a Catalog, id: &FnId) -> Pair<'a> {
    let function = catalog.function(id);
    let function = function.ok_or(Missing::Unknown("Fn not found"))?;
    let app = catalog.app(&function.app_id).ok_or(Missing::NotYet)?;
    Ok((app, function))
}

fn by_name<'a>(catalog: &'a Catalog, app: &str, function: &str) -> Pair<'a> {
    let app = catalog.app_named(app);
    let app = app.ok_or(Missing::Unknown("App not found"))?;
    let function = catalog.fn_named(&app.id, function);
    Ok((app, function.ok_or(Missing::Unknown("Fn not found"))?))
}

fn by_source<'a>(catalog: &'a Catalog, app: &str, source: &str) -> Pair<'a> {
    let app = catalog.app_named(app);
    let app = app.ok_or(Missing::Unknown("App not found"))?;
    let trigger = catalog.trigger_by_source(&app.id, source);
    let trigger = trigger.ok_or(Missing::Unknown("Trigger not found"))?;
    let function = catalog.function(&trigger.fn_id).ok_or(Missing::NotYet)?;
    Ok((app, function))
}
