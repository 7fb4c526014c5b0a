//! The routes that read.

use api_types::{App, AppId, Catalog, FnId, Refusal, Revision, TriggerId};
use api_wire::page::per_page;
use api_wire::{AppBody, Cursor, FnBody, Page, TriggerBody};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use crate::error::{method_not_allowed, path_not_found};
use crate::{ApiError, Consistency, FN_VERSION, Source, shown};

/// The revision of the state that answered.
pub const REVISION: HeaderName = HeaderName::from_static("tradewind-revision");

/// What lists are asked by; members that only Oracle's service knows are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    name: Option<String>,
    app_id: Option<String>,
    fn_id: Option<String>,
    cursor: Option<String>,
    per_page: Option<String>,
    consistency: Option<String>,
}

impl Asked {
    fn consistency(&self) -> Consistency {
        if self.consistency.as_deref() == Some("stale") {
            Consistency::Stale
        } else {
            Consistency::Linearizable
        }
    }

    /// The sort key of the last item of the page before.
    fn after(&self) -> Result<Option<Vec<String>>, ApiError> {
        match self.cursor.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => Cursor::decode(text)
                .map(|cursor| Some(cursor.0))
                .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string())),
        }
    }

    fn per_page(&self) -> usize {
        per_page(self.per_page.as_deref())
    }
}

/// `/`, `/version` and everything under `/v2` that is read. Writes are merged on the same paths.
pub fn reads<S: Source>(source: S) -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/version", get(version))
        .route("/v2/apps", get(list_apps::<S>))
        .route("/v2/apps/{id}", get(get_app::<S>))
        .route("/v2/fns", get(list_fns::<S>))
        .route("/v2/fns/{id}", get(get_fn::<S>))
        .route("/v2/fns/{id}/calls", get(gone))
        .route("/v2/fns/{id}/calls/{call}", get(gone))
        .route("/v2/fns/{id}/calls/{call}/log", get(gone))
        .route("/v2/triggers", get(list_triggers::<S>))
        .route("/v2/triggers/{id}", get(get_trigger::<S>))
        .route(
            "/v2/runner/apps/{app}/triggerBySource/{kind}/{*source}",
            get(trigger_by_source::<S>),
        )
        .with_state(source)
}

/// What a server answers where it has no route, or not for this method (Fn contract 1.1): a path
/// with a slash too many is redirected to the one without.
pub fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    method_not_allowed(&method, &uri)
}

async fn no_route(method: Method, uri: Uri) -> Response {
    match uri.path().strip_suffix('/') {
        Some(path) if path.starts_with("/v2/") || path == "/version" => {
            let query = uri
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default();
            let target = format!("{path}{query}");
            if method == Method::GET {
                moved(&target)
            } else {
                Redirect::temporary(&target).into_response()
            }
        }
        _ => path_not_found(&method, &uri).into_response(),
    }
}

fn moved(target: &str) -> Response {
    let mut response = StatusCode::MOVED_PERMANENTLY.into_response();
    if let Ok(target) = HeaderValue::from_str(target) {
        response
            .headers_mut()
            .insert(http::header::LOCATION, target);
    }
    response
}

async fn hello() -> Json<serde_json::Value> {
    Json(json!({ "goto": "https://github.com/fnproject/fn", "hello": "world!" }))
}

async fn version() -> Json<serde_json::Value> {
    Json(json!({ "version": FN_VERSION }))
}

/// Records of calls are a feature that Fn removed.
async fn gone() -> StatusCode {
    StatusCode::GONE
}

fn host(headers: &HeaderMap) -> Option<String> {
    headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .map(str::to_owned)
}

/// The answer, with Fn's content type and the revision that gave it.
fn answer<T: serde::Serialize>(revision: Revision, value: T) -> Response {
    let mut response = Json(value).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(REVISION, HeaderValue::from(revision.0));
    response
}

/// A page: `next_cursor` is there exactly when the page is full (Fn contract 1.5).
fn page<T>(items: Vec<T>, per_page: usize, key: impl Fn(&T) -> Vec<String>) -> Page<T> {
    let full = items.len() == per_page;
    let next_cursor = items
        .last()
        .filter(|_| full)
        .map(|last| Cursor(key(last)).encode());
    Page { next_cursor, items }
}

async fn list_apps<S: Source>(
    State(source): State<S>,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let (after, per_page) = (asked.after()?, asked.per_page());
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let after = after
            .as_deref()
            .and_then(<[String]>::first)
            .map(String::as_str);
        let wanted = |app: &&App| {
            asked
                .name
                .as_deref()
                .is_none_or(|name| name.is_empty() || app.name == name)
        };
        let items: Vec<AppBody> = catalog
            .apps_after(after)
            .filter(wanted)
            .take(per_page)
            .map(shown::app)
            .collect();
        (
            revision,
            page(items, per_page, |app| {
                app.name.clone().into_iter().collect()
            }),
        )
    });
    let (revision, page) = read.await?;
    Ok(answer(revision, page))
}

async fn get_app<S: Source>(
    State(source): State<S>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, ApiError> {
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let app = catalog
            .app(&AppId::new(id))
            .ok_or_else(|| Refusal::not_found("App not found"))?;
        Ok::<_, Refusal>((revision, shown::app(app)))
    });
    let (revision, app) = read.await??;
    Ok(answer(revision, app))
}

async fn list_fns<S: Source>(
    State(source): State<S>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let app_id = AppId::new(needed(asked.app_id.as_ref(), "Missing AppID on Fn")?);
    let (after, per_page, host) = (asked.after()?, asked.per_page(), host(&headers));
    let bases = source.clone();
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let app = catalog.app(&app_id);
        let base = bases.base_url(app, host.as_deref());
        let after = after
            .as_deref()
            .and_then(<[String]>::first)
            .map(String::as_str);
        let items: Vec<FnBody> = catalog
            .fns_after(&app_id, after)
            .filter(|function| {
                asked
                    .name
                    .as_deref()
                    .is_none_or(|name| name.is_empty() || function.name == name)
            })
            .take(per_page)
            .map(|function| shown::function(function, app, &base))
            .collect();
        (
            revision,
            page(items, per_page, |function| {
                function.name.clone().into_iter().collect()
            }),
        )
    });
    let (revision, page) = read.await?;
    Ok(answer(revision, page))
}

async fn get_fn<S: Source>(
    State(source): State<S>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (bases, host) = (source.clone(), host(&headers));
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let function = catalog
            .function(&FnId::new(id))
            .ok_or_else(|| Refusal::not_found("Fn not found"))?;
        let app = catalog.app(&function.app_id);
        Ok::<_, Refusal>((
            revision,
            shown::function(function, app, &bases.base_url(app, host.as_deref())),
        ))
    });
    let (revision, function) = read.await??;
    Ok(answer(revision, function))
}

async fn list_triggers<S: Source>(
    State(source): State<S>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let app_id = AppId::new(needed(asked.app_id.as_ref(), "Missing App ID on Trigger")?);
    let (after, per_page, host) = (asked.after()?, asked.per_page(), host(&headers));
    let bases = source.clone();
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let app = catalog.app(&app_id);
        let base = bases.base_url(app, host.as_deref());
        // Names repeat between fns, so the fn is part of the key.
        let after = after.map(|key| {
            let mut parts = key.into_iter();
            (
                parts.next().unwrap_or_default(),
                FnId::new(parts.next().unwrap_or_default()),
            )
        });
        let matches = |wanted: &Option<String>, held: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted.is_empty() || wanted == held)
        };
        let items: Vec<TriggerBody> = catalog
            .triggers_after(&app_id, after.as_ref())
            .filter(|trigger| {
                matches(&asked.name, &trigger.name) && matches(&asked.fn_id, trigger.fn_id.as_str())
            })
            .take(per_page)
            .map(|trigger| shown::trigger(trigger, app, &base))
            .collect();
        let key = |trigger: &TriggerBody| {
            trigger
                .name
                .clone()
                .into_iter()
                .chain(trigger.fn_id.clone())
                .collect()
        };
        (revision, page(items, per_page, key))
    });
    let (revision, page) = read.await?;
    Ok(answer(revision, page))
}

async fn get_trigger<S: Source>(
    State(source): State<S>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (bases, host) = (source.clone(), host(&headers));
    let read = source.read(asked.consistency(), move |catalog, revision| {
        let trigger = catalog
            .trigger(&TriggerId::new(id))
            .ok_or_else(|| Refusal::not_found("Trigger not found"))?;
        let app = catalog.app(&trigger.app_id);
        Ok::<_, Refusal>((
            revision,
            shown::trigger(trigger, app, &bases.base_url(app, host.as_deref())),
        ))
    });
    let (revision, trigger) = read.await??;
    Ok(answer(revision, trigger))
}

async fn trigger_by_source<S: Source>(
    State(source): State<S>,
    Path((app_id, kind, path)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (bases, host) = (source.clone(), host(&headers));
    let read = source.read(
        Consistency::Linearizable,
        move |catalog: &Catalog, revision| {
            let app_id = AppId::new(app_id);
            let found = catalog
                .trigger_by_source(&app_id, &format!("/{path}"))
                .filter(|trigger| trigger.kind == kind);
            let trigger = found.ok_or_else(|| Refusal::not_found("Trigger not found"))?;
            let app = catalog.app(&app_id);
            Ok::<_, Refusal>((
                revision,
                shown::trigger(trigger, app, &bases.base_url(app, host.as_deref())),
            ))
        },
    );
    let (revision, trigger) = read.await??;
    Ok(answer(revision, trigger))
}

fn needed(value: Option<&String>, message: &str) -> Result<String, ApiError> {
    match value {
        Some(value) if !value.is_empty() => Ok(value.clone()),
        Some(_) | None => Err(Refusal::invalid(message).into()),
    }
}
