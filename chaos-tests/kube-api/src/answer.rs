//! From a request to its answer: routing, faults, the store, counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::count::{Counters, Tally};
use crate::fault::{Effect, Faults};
use crate::query::Query;
use crate::refusal::{self, FailureStatus};
use crate::request::{Call, Calls, Verb};
use crate::resource::{Definition, Target};
use crate::selector::Selector;
use crate::store::{Deletion, ListQuery, ObjectName, Page, Patch, Store, Stored, Write, Written};
use crate::watching::{Initial, WatchEnd, WatchQuery, Watcher};

/// The connection closes with nothing more said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection was dropped")]
pub struct Dropped;

pub(crate) type Body = UnsyncBoxBody<Bytes, Dropped>;

/// The server's state, for every connection and for the handle.
#[derive(Debug)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    streaming_lists: AtomicBool,
    watches: Mutex<Vec<(Call, oneshot::Sender<WatchEnd>)>>,
    bookmark_every: Mutex<Duration>,
}

/// Real servers send one a minute; a test should not have to wait that long for one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            store: Mutex::new(Store::new()),
            faults: Faults::default(),
            counters: Counters::default(),
            streaming_lists: AtomicBool::new(true),
            watches: Mutex::new(Vec::new()),
            bookmark_every: Mutex::new(BOOKMARK_EVERY),
        }
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no holder panics")
    }

    pub(crate) fn bookmark_every(&self) -> Duration {
        *self.bookmark_every.lock().expect("no holder panics")
    }

    pub(crate) fn set_bookmark_every(&self, every: Duration) {
        *self.bookmark_every.lock().expect("no holder panics") = every;
    }

    pub(crate) fn refuse_streaming_lists(&self) {
        self.streaming_lists.store(false, Ordering::SeqCst);
    }

    fn register_watch(&self, call: &Call) -> oneshot::Receiver<WatchEnd> {
        let (ender, ended) = oneshot::channel();
        let mut watches = self.watches.lock().expect("no holder panics");
        watches.retain(|(_, ender)| !ender.is_closed());
        watches.push((call.clone(), ender));
        ended
    }

    /// How many watches of `calls` are open.
    pub(crate) fn watches(&self, calls: &Calls) -> usize {
        let watches = self.watches.lock().expect("no holder panics");
        watches
            .iter()
            .filter(|(call, ender)| !ender.is_closed() && calls.include(call))
            .count()
    }

    pub(crate) fn end_watches(&self, calls: &Calls, end: WatchEnd) {
        let mut watches = self.watches.lock().expect("no holder panics");
        for (_, ender) in watches.extract_if(.., |(call, _)| calls.include(call)) {
            // A watch that has just ended by itself needs no end.
            let _ = ender.send(end);
        }
    }
}

pub(crate) fn status_json(status: &Status) -> Value {
    let mut value = serde_json::to_value(status).expect("a status can be written");
    value["apiVersion"] = json!("v1");
    value["kind"] = json!("Status");
    value["metadata"] = json!({});
    value
}

/// The `PartialObjectMetadata` of an object.
pub(crate) fn metadata_only(object: &[u8]) -> Bytes {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let envelope: Envelope<'_> = serde_json::from_slice(object).expect("the store wrote it");
    Bytes::from(format!(
        "{{\"apiVersion\":\"meta.k8s.io/v1\",\"kind\":\"PartialObjectMetadata\",\"metadata\":{}}}",
        envelope.metadata
    ))
}

/// Answers one request.
///
/// # Errors
/// If the connection must close without an answer.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Bytes>,
) -> Result<Response<Body>, Dropped> {
    if shared.faults.is_outage() {
        return Err(Dropped);
    }
    let path = request.uri().path();
    let Some(target) = Target::parse(path) else {
        return Ok(unlisted(path));
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let Some(verb) = Verb::of(request.method(), &target, query.is_true("watch")) else {
        return Ok(refused(&refusal::method_not_allowed()));
    };
    let call = call(&target, verb, request.headers());
    let bytes_in = request.body().len() as u64;

    let fate = shared.faults.fate(&call);
    if !fate.delay.is_zero() {
        tokio::time::sleep(fate.delay).await;
    }
    let answered = match &fate.effect {
        Some(Effect::Drop) => {
            tally(shared, &call, bytes_in, 0, false, 0);
            return Err(Dropped);
        }
        Some(Effect::DropAnswer) => {
            let outcome = perform(shared, &call, &target, &query, &request, None);
            let changed =
                matches!(outcome, Ok(Handled::Written { written, .. }) if written.changed);
            tally(shared, &call, bytes_in, 0, changed, 0);
            return Err(Dropped);
        }
        Some(effect) if !matches!(effect, Effect::EmptyList | Effect::BreakList { .. }) => {
            Err(fault(shared, &call, &target, effect))
        }
        effect => perform(shared, &call, &target, &query, &request, effect.as_ref()),
    };
    match answered {
        Err(status) => {
            let response = refused(&status);
            tally(shared, &call, bytes_in, status.code, false, 0);
            Ok(response)
        }
        Ok(Handled::Written {
            code,
            written,
            body,
        }) => {
            let length = body.len() as u64;
            tally(shared, &call, bytes_in, code, written.changed, length);
            Ok(respond(code, body))
        }
        Ok(Handled::Body { objects, body }) => {
            let length = body.len() as u64;
            tally(shared, &call, bytes_in, 200, false, length);
            let shown = Tally {
                objects_out: objects as u64,
                ..Tally::default()
            };
            shared.counters.add(&call, shown);
            Ok(respond(200, body))
        }
        Ok(Handled::Watch(watcher)) => {
            tally(shared, &call, bytes_in, 200, false, 0);
            let body = StreamBody::new(Box::pin(watcher.stream()));
            Ok(json_response(200, body.boxed_unsync()))
        }
    }
}

enum Handled {
    Body {
        objects: usize,
        body: Bytes,
    },
    Written {
        code: u16,
        written: Written,
        body: Bytes,
    },
    Watch(Box<Watcher>),
}

/// `code` 0 stands for no answer at all.
fn tally(shared: &Shared, call: &Call, bytes_in: u64, code: u16, changed: bool, bytes_out: u64) {
    let tally = Tally {
        requests: 1,
        refused: u64::from(code == 0 || code >= 400),
        changed: u64::from(changed),
        bytes_in,
        bytes_out,
        objects_out: 0,
    };
    shared.counters.add(call, tally);
    if call.verb.writes() {
        shared.counters.saw_write(call, code, changed);
    }
}

fn call(target: &Target, verb: Verb, headers: &HeaderMap) -> Call {
    let user = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or("system:anonymous");
    let mut resource = target.resource.plural.clone();
    if !target.resource.group.is_empty() {
        resource.push('.');
        resource.push_str(&target.resource.group);
    }
    if let Some(subresource) = &target.subresource {
        resource.push('/');
        resource.push_str(subresource);
    }
    Call {
        user: user.to_owned(),
        verb,
        resource,
        name: target.name.clone().unwrap_or_default(),
    }
}

/// The refusal that an injected fault stands for.
fn fault(shared: &Shared, call: &Call, target: &Target, effect: &Effect) -> FailureStatus {
    let definition = match shared.store().definition(target) {
        Ok(definition) => definition,
        Err(refused) => return refused,
    };
    match effect {
        Effect::TooManyRequests { retry_after_secs } => {
            refusal::too_many_requests(*retry_after_secs)
        }
        Effect::Limit { .. } => refusal::too_many_requests(1),
        Effect::Conflict if call.verb == Verb::Create => refusal::quota_modified(),
        Effect::Conflict => refusal::modified(&definition, &call.name),
        Effect::Forbidden => {
            let place = match &target.namespace {
                Some(namespace) => format!("in the namespace \"{namespace}\""),
                None => "at the cluster scope".to_owned(),
            };
            let resource = call.resource.replace(&format!(".{}", definition.group), "");
            let why = format!(
                "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
                call.user,
                call.verb.as_str(),
                definition.group,
            );
            refusal::forbidden(&definition, &call.name, &why)
        }
        Effect::InternalError => refusal::internal("an injected fault"),
        Effect::Unavailable
        | Effect::Drop
        | Effect::DropAnswer
        | Effect::Delay(_)
        | Effect::EmptyList
        | Effect::BreakList { .. } => refusal::unavailable(),
    }
}

fn perform(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
    query: &Query,
    request: &Request<Bytes>,
    effect: Option<&Effect>,
) -> Result<Handled, FailureStatus> {
    let definition = shared.store().definition(target)?;
    let name = ObjectName {
        namespace: target.namespace.clone().unwrap_or_default(),
        name: call.name.clone(),
    };
    let metadata = wants_metadata_only(request.headers());
    let write = Write {
        manager: query
            .get("fieldManager")
            .map_or_else(|| manager_of(request.headers()), str::to_owned),
        subresource: target.subresource.clone(),
        dry_run: query.get("dryRun") == Some("All"),
    };
    let namespace = target.namespace.as_deref();
    let written = match call.verb {
        Verb::Get => {
            let object = shared.store().get(&definition, &name)?;
            return Ok(Handled::Body {
                objects: 1,
                body: shown(&object, metadata),
            });
        }
        Verb::List => {
            let query = list_query(target, query)?;
            let page = list(shared, &definition, &query, effect)?;
            return Ok(Handled::Body {
                objects: page.items.len(),
                body: list_json(&definition, &page, metadata),
            });
        }
        Verb::Watch => {
            return watch(shared, call, &definition, target, query, metadata, effect);
        }
        Verb::DeleteCollection => {
            let query = list_query(target, query)?;
            return delete_collection(shared, &definition, &query, request.body());
        }
        Verb::Create => {
            if target.name.is_some() {
                return Err(refusal::unknown_path());
            }
            let object = parse(request.body())?;
            shared
                .store()
                .create(&definition, namespace, object, &write)?
        }
        Verb::Update => {
            let object = parse(request.body())?;
            shared.store().update(&definition, &name, object, &write)?
        }
        Verb::Patch => {
            let patch = patch(request, query)?;
            if matches!(patch, Patch::Apply { .. }) && query.get("fieldManager").is_none() {
                return Err(refusal::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            shared.store().patch(&definition, &name, patch, &write)?
        }
        Verb::Delete => {
            let options = deletion(request.body(), query)?;
            shared.store().delete(&definition, &name, &options)?
        }
    };
    let code = if written.created { 201 } else { 200 };
    // Most kinds answer the end of an object with a status; pods answer with the pod.
    let body = if call.verb == Verb::Delete && written.removed && !definition.is_pods() {
        let status = json!({
            "apiVersion": "v1",
            "kind": "Status",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": call.name,
                "group": definition.group,
                "kind": definition.plural,
                "uid": written.object.uid,
            },
        });
        Bytes::from(status.to_string())
    } else {
        shown(&written.object, metadata)
    };
    Ok(Handled::Written {
        code,
        written,
        body,
    })
}

fn shown(object: &Stored, metadata: bool) -> Bytes {
    if metadata {
        metadata_only(&object.json)
    } else {
        object.json.clone()
    }
}

fn list(
    shared: &Shared,
    definition: &Definition,
    query: &ListQuery,
    effect: Option<&Effect>,
) -> Result<Page, FailureStatus> {
    let mut page = shared.store().list(definition, query)?;
    match effect {
        Some(Effect::EmptyList) => {
            page.items.clear();
            page.continues = None;
        }
        Some(Effect::BreakList { after }) => {
            page.items.truncate(*after);
            // No such list is under way, so it continues with 410.
            page.continues = Some("expired".to_owned());
        }
        _ => {}
    }
    Ok(page)
}

fn list_json(definition: &Definition, page: &Page, metadata: bool) -> Bytes {
    let mut list_metadata = json!({ "resourceVersion": page.revision.to_string() });
    if let Some(token) = &page.continues {
        list_metadata["continue"] = json!(token);
        list_metadata["remainingItemCount"] = json!(page.remaining);
    }
    let (api_version, kind) = if metadata {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata")
    } else {
        (definition.api_version(), definition.kind.as_str())
    };
    let bytes: usize = page.items.iter().map(|object| object.json.len() + 1).sum();
    let mut body = BytesMut::with_capacity(bytes + 200);
    body.put_slice(
        format!("{{\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}List\",\"metadata\":{list_metadata},\"items\":[")
            .as_bytes(),
    );
    for (at, object) in page.items.iter().enumerate() {
        if at > 0 {
            body.put_u8(b',');
        }
        body.put_slice(&shown(object, metadata));
    }
    body.put_slice(b"]}");
    body.freeze()
}

fn watch(
    shared: &Arc<Shared>,
    call: &Call,
    definition: &Arc<Definition>,
    target: &Target,
    query: &Query,
    metadata_only: bool,
    effect: Option<&Effect>,
) -> Result<Handled, FailureStatus> {
    let list_query = ListQuery {
        limit: None,
        ..list_query(target, query)?
    };
    let bookmarks = query.is_true("allowWatchBookmarks");
    let send_initial = query.is_true("sendInitialEvents");
    if send_initial && !shared.streaming_lists.load(Ordering::SeqCst) {
        return Err(refusal::streaming_lists_off());
    }
    if send_initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(refusal::bad_request(
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
             sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let asked = list_query.revision;
    let (from, initial) = match asked {
        Some(revision) if revision > 0 && !send_initial => {
            let refused = shared.store().compacted(&definition.key(), revision);
            (revision, refused.map_or(Initial::Nothing, Initial::TooOld))
        }
        _ => {
            let page = list(shared, definition, &list_query, effect)?;
            let state = page.items;
            let initial = match effect {
                Some(Effect::BreakList { .. }) => Initial::Broken(state),
                _ if send_initial && bookmarks => Initial::StateThenBookmark(state),
                _ => Initial::State(state),
            };
            (page.revision, initial)
        }
    };
    let changed = shared
        .store()
        .watch_revision(&definition.key())
        .ok_or_else(refusal::unknown_path)?;
    let watch_query = WatchQuery {
        namespace: list_query.namespace,
        selector: list_query.selector,
        bookmarks,
        timeout: query.number("timeoutSeconds")?.map(Duration::from_secs),
        metadata_only,
        from,
        initial,
    };
    let ended = shared.register_watch(call);
    Ok(Handled::Watch(Box::new(Watcher::new(
        Arc::clone(shared),
        call.clone(),
        Arc::clone(definition),
        watch_query,
        changed,
        ended,
    ))))
}

fn delete_collection(
    shared: &Shared,
    definition: &Definition,
    query: &ListQuery,
    body: &[u8],
) -> Result<Handled, FailureStatus> {
    let options: Deletion = if body.is_empty() {
        Deletion::default()
    } else {
        serde_json::from_slice(body).map_err(|error| unreadable(&error))?
    };
    let mut store = shared.store();
    let page = store.list(definition, query)?;
    for object in &page.items {
        store.delete(definition, &object.name, &options)?;
    }
    Ok(Handled::Body {
        objects: page.items.len(),
        body: list_json(definition, &page, false),
    })
}

fn unreadable(error: &serde_json::Error) -> FailureStatus {
    refusal::bad_request(&format!("the request's body cannot be read: {error}"))
}

fn parse(body: &[u8]) -> Result<Value, FailureStatus> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

fn patch(request: &Request<Bytes>, query: &Query) -> Result<Patch, FailureStatus> {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let body = parse(request.body())?;
    match content_type {
        "application/merge-patch+json" => Ok(Patch::Merge(body)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(body)),
        "application/json-patch+json" => Ok(Patch::Json(body)),
        "application/apply-patch+yaml" => Ok(Patch::Apply {
            object: body,
            force: query.is_true("force"),
        }),
        other => Err(refusal::unsupported_media_type(other)),
    }
}

fn deletion(body: &[u8], query: &Query) -> Result<Deletion, FailureStatus> {
    let mut options: Deletion = if body.is_empty() {
        Deletion::default()
    } else {
        serde_json::from_slice(body).map_err(|error| unreadable(&error))?
    };
    if let Some(grace) = query.number("gracePeriodSeconds")? {
        options.grace_period_seconds = i64::try_from(grace).ok();
    }
    Ok(options)
}

fn list_query(target: &Target, query: &Query) -> Result<ListQuery, FailureStatus> {
    let mut selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
    if let Some(name) = &target.name {
        selector = Selector::parse(None, Some(&format!("metadata.name={name}")))?;
    }
    let limit = query.number("limit")?;
    Ok(ListQuery {
        namespace: target.namespace.clone(),
        selector,
        limit: limit.and_then(|limit| usize::try_from(limit).ok()),
        continues: query.get("continue").map(str::to_owned),
        revision: query.number("resourceVersion")?,
        exact: query.get("resourceVersionMatch") == Some("Exact"),
    })
}

fn wants_metadata_only(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
}

/// The real server's default manager: the user agent up to its version.
fn manager_of(headers: &HeaderMap) -> String {
    headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .and_then(|agent| agent.split('/').next())
        .filter(|name| !name.is_empty())
        .unwrap_or("unknown")
        .to_owned()
}

/// Paths that name no resource.
fn unlisted(path: &str) -> Response<Body> {
    match path {
        "/version" => respond(
            200,
            Bytes::from_static(
                br#"{"major":"1","minor":"36","gitVersion":"v1.36.2","gitCommit":"","gitTreeState":"clean","buildDate":"2026-06-01T00:00:00Z","goVersion":"go1.26","compiler":"gc","platform":"linux/amd64"}"#,
            ),
        ),
        "/healthz" | "/livez" | "/readyz" => respond(200, Bytes::from_static(b"ok")),
        _ => refused(&refusal::unknown_path()),
    }
}

fn refused(status: &FailureStatus) -> Response<Body> {
    let mut response = if refusal::is_plain(status) {
        let mut response = respond(status.code, Bytes::from(format!("{}\n", status.message)));
        let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    } else {
        respond(status.code, Bytes::from(status_json(status).to_string()))
    };
    let retry_after = status
        .details
        .as_ref()
        .map_or(0, |details| details.retry_after_seconds);
    if retry_after > 0 {
        response
            .headers_mut()
            .insert(RETRY_AFTER, retry_after.into());
    }
    response
}

fn respond(code: u16, body: Bytes) -> Response<Body> {
    let body = Full::new(body).map_err(|never| match never {});
    json_response(code, body.boxed_unsync())
}

fn json_response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("our codes are valid");
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}
