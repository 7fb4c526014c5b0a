//! The region's front door for calls (Fn contract 6 to 8).
//!
//! It answers from the replica alone: no call waits for another plane, except for code that is not
//! here yet, which is fetched once. Calls are held whole in both directions, as Fn does.

mod body;
pub mod error;
mod fresh;
pub mod headers;
mod memory;
mod route;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_types::placement::Why;
use api_types::{App, CallId, Catalog, Fn, FnId, Revision};
use api_wire::call_headers::{ALIVE_PATH, BY_GATEWAY, BY_GLOBAL, MIN_REVISION};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use calls_forward::Forwarder;
use http::header::{CONNECTION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use region_plane_dispatch::{Key, Rejection, Spec};
use region_plane_replica::{Held, Replica, placement};
use region_plane_resources::Scaling;
use region_plane_runtime::{Code, InstanceSpec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bundles::Bundles;
use crate::engine::{Engine, Failure, Work};
use crate::spill::{Onward, Spill, Spilled};
use body::Bodies;
use daemon::clock;
use error::CallRefused;
use fresh::Fresh;
use headers::{FORWARDED_BY, INVOKE_TYPE, NOT_STARTED, REGION};
use memory::NoRoom;
use route::Route;

pub struct Gateway {
    pub replica: Replica,
    pub bundles: Bundles,
    pub engine: Engine,
    spill: Spill,
    fresh: Fresh,
    bodies: Bodies,
    region: HeaderValue,
    /// The port callers reach gateways on, before the first snapshot says it.
    port: u16,
    stopping: CancellationToken,
}

impl Gateway {
    #[must_use]
    pub fn new(
        forwarder: Arc<Forwarder>,
        replica: Replica,
        bundles: Bundles,
        engine: Engine,
        request_body_bytes_max: usize,
        port: u16,
        stopping: CancellationToken,
    ) -> Self {
        let name = replica.read(|held| held.me().name.clone());
        Self {
            fresh: Fresh::new(replica.clone()),
            replica,
            bundles,
            engine,
            spill: Spill::new(forwarder),
            bodies: Bodies::new(request_body_bytes_max),
            region: HeaderValue::from_str(name.as_str()).expect("a region name is a DNS label"),
            port,
            stopping,
        }
    }
}

pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new().fallback(call).with_state(gateway)
}

async fn call(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let version = request.version();
    // Boxed: axum keeps the future of a handler inside those of its layers.
    let mut response = Box::pin(gateway.answer(request)).await;
    // So that no client sends a call on a connection that is about to close (RFC 9112 section 9.6),
    // and the next connection leads to whoever takes this gateway's place. HTTP/2 has GOAWAY.
    if gateway.stopping.is_cancelled() && version <= Version::HTTP_11 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
        .headers_mut()
        .entry(REGION)
        .or_insert_with(|| gateway.region.clone());
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

/// How a function was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Invoke,
    Trigger,
}

/// What a route leads to.
enum Found {
    Here {
        way: Way,
        function: FnId,
    },
    /// Other regions serve it, or none does at the moment.
    Elsewhere {
        /// Where it may be found by its own name, unless the call came by it.
        redirect: Option<String>,
        onward: Onward,
    },
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

struct Target {
    way: Way,
    spec: Spec,
    timeout: Duration,
    /// Its bundle's folder is filled in once the bundle is here.
    launch: InstanceSpec,
}

impl Target {
    fn new(way: Way, app: &App, function: &Fn) -> Self {
        let spec = spec(app, function);
        let code = match function.bundle() {
            Some(bundle) => Code::Bundle {
                digest: bundle.digest,
                folder: PathBuf::new(),
            },
            None => Code::Image,
        };
        Self {
            way,
            timeout: Duration::from_secs(function.timeout_secs.into()),
            launch: InstanceSpec::new(app, function, spec.key.settings, code),
            spec,
        }
    }

    /// A function that was found here, as it is now.
    fn now(held: &Held, way: Way, function: &FnId) -> Result<Self, CallRefused> {
        // Known here a moment ago, so it was removed, and a peer that runs it has not heard of that.
        let found = by_id(held.all(), function.as_str());
        let (app, function) = found.map_err(|missing| match missing {
            Missing::Unknown(message) => CallRefused::not_found(message),
            Missing::NotYet => CallRefused::busy(),
        })?;
        if !placement::serves_itself(held, function) {
            return Err(CallRefused::busy());
        }
        Ok(Self::new(way, app, function))
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
    async fn answer(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let by = By::of(&head.headers);
        if by != By::Caller {
            if head.method == Method::GET && head.uri.path() == ALIVE_PATH {
                return StatusCode::NO_CONTENT.into_response();
            }
            let revision = min_revision(&head.headers);
            if self.fresh.reached(revision).await.is_err() {
                return tell(&CallRefused::behind(), None, by);
            }
        }
        let host = route::host(&head.uri, &head.headers).map(str::to_owned);
        let find = || {
            self.replica.read(|held| {
                let path = head.uri.path();
                let route = route::route(&head.method, host.as_deref(), path, held.zone());
                self.find(held, &route, &head, host.as_deref())
            })
        };
        let mut found = find();
        if by == By::Caller && is_unknown(&found) {
            // It may have been written a moment ago.
            let again = self
                .fresh
                .look(|| Some(find()).filter(|found| !is_unknown(found)));
            found = again.await.unwrap_or(found);
        }
        let call = Spilled {
            head,
            host,
            body: Bytes::new(),
        };
        match found {
            // What it names may be in what this region lacks.
            Found::Refused(refused) if refused.elsewhere && self.replica.behind().is_some() => {
                match by {
                    By::Caller => self.unknown(call, body).await,
                    By::Gateway | By::Global => tell(&CallRefused::behind(), None, by),
                }
            }
            Found::Refused(refused) => tell(&refused, None, by),
            // It exists; the forwarder knows another revision of where.
            Found::Elsewhere { .. } if by != By::Caller => tell(&CallRefused::nowhere(), None, by),
            Found::Elsewhere { redirect, onward } => {
                self.elsewhere(call, body, redirect, &onward).await
            }
            Found::Here { way, function } => self.here(call, body, way, &function, by).await,
        }
    }

    fn find(
        &self,
        held: &Held,
        route: &Route,
        head: &http::request::Parts,
        host: Option<&str>,
    ) -> Found {
        let path = head.uri.path();
        let (way, found) = match route {
            Route::NotFound => {
                return Found::Refused(CallRefused::path_not_found(&head.method, path));
            }
            Route::MethodNotAllowed => {
                return Found::Refused(CallRefused::method_not_allowed(&head.method, path));
            }
            Route::Invoke { fn_id } => (Way::Invoke, by_id(held.all(), fn_id)),
            Route::InvokeNamed { app, function } => {
                (Way::Invoke, by_name(held.all(), app, function))
            }
            Route::Trigger { app, source } => (Way::Trigger, by_source(held.all(), app, source)),
        };
        let (app, function) = match found {
            Ok(found) => found,
            Err(missing) => return Found::Refused(CallRefused::missing(held, missing)),
        };
        if placement::serves_itself(held, function) {
            return Found::Here {
                way,
                function: function.id.clone(),
            };
        }
        let peers = placement::peers(held, function);
        // A redirect to a name without a region that serves would leave its caller with nothing.
        let redirect = match peers.why {
            Why::AllDown | Why::Nowhere => None,
            Why::Placed | Why::FunctionYields | Why::AppYields => {
                self.redirect(held, app, function, way, head, host)
            }
        };
        Found::Elsewhere {
            redirect,
            onward: Onward::new(peers.regions, app, function),
        }
    }

    /// The call's URL by the name that is steered to where the function is; `None` if it has no
    /// such name or the call came by it.
    fn redirect(
        &self,
        held: &Held,
        app: &App,
        function: &Fn,
        way: Way,
        head: &http::request::Parts,
        host: Option<&str>,
    ) -> Option<String> {
        let zone = held.zone();
        // A function that narrows its app's placement is steered by its own name.
        let narrowed = function.placement().map(|_| function.name.as_str());
        let name = route::dns_name(zone, narrowed, &app.name)?;
        let came_by = route::without_port(host.unwrap_or_default())
            .trim_end_matches('.')
            .to_ascii_lowercase();
        if came_by == name {
            return None;
        }
        let query = head
            .uri
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let path = head.uri.path();
        // Paths below /invoke and /t mean the same on every host; others only on their own.
        let path = match way {
            Way::Invoke => format!("/invoke/{}", function.id),
            Way::Trigger if path.starts_with("/t/") || path == "/t" => path.to_owned(),
            Way::Trigger => format!("/t/{}{path}", app.name),
        };
        let port = held.gateway_port().unwrap_or(self.port);
        Some(format!("http://{name}:{port}{path}{query}"))
    }

    /// Before the body is read where there is a name to go to; else the call is handed on.
    async fn elsewhere(
        &self,
        mut call: Spilled,
        body: Body,
        redirect: Option<String>,
        onward: &Onward,
    ) -> Response {
        if let Some(location) = redirect.and_then(|url| HeaderValue::from_str(&url).ok()) {
            return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, location)]).into_response();
        }
        if onward.regions.is_empty() {
            return CallRefused::nowhere().respond(None);
        }
        let held = match self.bodies.receive(&call.head.headers, body).await {
            Ok(held) => held,
            Err(refused) => return refused.respond(None),
        };
        call.body = held.bytes.clone();
        match self.spill.send(&call, onward).await {
            Ok(Some(response)) => response,
            Ok(None) => CallRefused::nowhere().respond(None),
            Err(refused) => refused.respond(None),
        }
    }

    /// Hands a call that names nothing known here to a region that may know more.
    async fn unknown(&self, mut call: Spilled, body: Body) -> Response {
        let peers = self.replica.read(placement::peers_of_unknown);
        let held = match self.bodies.receive(&call.head.headers, body).await {
            Ok(held) => held,
            Err(refused) => return refused.respond(None),
        };
        call.body = held.bytes.clone();
        match self
            .spill
            .send(&call, &Onward::unknown(peers.regions))
            .await
        {
            Ok(Some(response)) => response,
            Ok(None) => CallRefused::behind().respond(None),
            Err(refused) => refused.respond(None),
        }
    }

    async fn here(
        &self,
        mut call: Spilled,
        body: Body,
        way: Way,
        function: &FnId,
        by: By,
    ) -> Response {
        let id = CallId::new(clock::mint());
        let refuse = |refused: &CallRefused| tell(refused, Some(&id), by);
        if way == Way::Invoke && is_detached(&call.head.headers) {
            return refuse(&CallRefused::detached());
        }
        let held = match self.bodies.receive(&call.head.headers, body).await {
            Ok(held) => held,
            Err(refused) => return refuse(&refused),
        };
        call.body = held.bytes.clone();

        // One that is stopping has its instances still, and its peers may have none.
        if self.replica.read(Held::drained) {
            // With nowhere to go it is better served here than not at all.
            match self.hand_on(&call, function, by).await {
                Ok(Some(response)) => return response,
                Ok(None) => {}
                Err(refused) => return refuse(&refused),
            }
        }
        let refused = match self.run(&call, &id, way, function).await {
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
            match self.hand_on(&call, function, by).await {
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
        call: &Spilled,
        function: &FnId,
        by: By,
    ) -> Result<Option<Response>, CallRefused> {
        if by == By::Gateway {
            return Ok(None);
        }
        match self.onward(function) {
            Some(onward) => self.spill.send(call, &onward).await,
            None => Ok(None),
        }
    }

    /// Runs a call here; once more if its function is changed while it waits.
    ///
    /// Looked up only now: a body may take minutes to come, and the engine hears of a change but once.
    async fn run(
        &self,
        call: &Spilled,
        id: &CallId,
        way: Way,
        function: &FnId,
    ) -> Result<http::Response<Bytes>, CallRefused> {
        for _ in 0..2 {
            let target = (self.replica).read(|held| Target::now(held, way, function))?;
            match self.attempt(call, id, target).await {
                Err(NotAnswered::Outdated) => {}
                Err(NotAnswered::Refused(refused)) => return Err(refused),
                Ok(answer) => return Ok(answer),
            }
        }
        // Changed twice while one call waits.
        Err(CallRefused::busy())
    }

    async fn attempt(
        &self,
        call: &Spilled,
        id: &CallId,
        target: Target,
    ) -> Result<http::Response<Bytes>, NotAnswered> {
        let deadline = Instant::now() + self.engine.wait_max();
        let mut launch = target.launch;
        if let Code::Bundle { digest, folder } = &mut launch.code {
            *folder = self
                .bundles
                .demand(digest, deadline)
                .await
                .map_err(|error| CallRefused::fetch(&launch.image, &error))?;
        }
        let image = launch.image.clone();
        let request_headers = match target.way {
            Way::Invoke => headers::invoke_request(&call.head.headers, id),
            Way::Trigger => {
                let path_and_query = call
                    .head
                    .uri
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                let url = headers::request_url(call.host.as_deref(), path_and_query);
                headers::trigger_request(&call.head.headers, &call.head.method, &url, id)
            }
        };
        let work = Work {
            spec: target.spec,
            launch,
            call: id.clone(),
            headers: request_headers,
            body: call.body.clone(),
            timeout: target.timeout,
        };
        let answer = self
            .engine
            .call(work)
            .await
            .map_err(|failure| match failure {
                Failure::Rejected(Rejection::Outdated) => NotAnswered::Outdated,
                failure => CallRefused::failure(&image, &failure).into(),
            })?;
        let (status, headers) = match target.way {
            Way::Invoke => (StatusCode::OK, headers::invoke_response(answer.headers, id)),
            Way::Trigger => headers::trigger_response(&answer.headers, id)
                .map_err(|_| CallRefused::bad_status())?,
        };
        let has_body = status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
        let body = if has_body { answer.body } else { Bytes::new() };
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Where a function that is here may go instead.
    fn onward(&self, function: &FnId) -> Option<Onward> {
        self.replica.read(|held| {
            let (app, function) = by_id(held.all(), function.as_str()).ok()?;
            let peers = placement::peers(held, function);
            Some(Onward::new(peers.regions, app, function))
        })
    }
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
fn tell(refused: &CallRefused, call: Option<&CallId>, by: By) -> Response {
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

/// What the dispatcher must know.
#[must_use]
pub fn spec(app: &App, function: &Fn) -> Spec {
    // What is wrong with annotations the operator says where they are looked for.
    let scaling = Scaling::of(app, function).unwrap_or_default();
    Spec {
        key: Key {
            function: function.id.clone(),
            settings: region_plane_replica::settings(app, function),
        },
        memory_mb: function.memory.max(1),
        instances_max: scaling.max.unsigned_abs(),
        idle_timeout: Duration::from_secs(function.idle_timeout_secs.into()),
    }
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

fn by_id<'a>(catalog: &'a Catalog, id: &str) -> Pair<'a> {
    let function = catalog.function(&FnId::new(id));
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
