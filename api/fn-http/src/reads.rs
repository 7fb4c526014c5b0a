//! The routes that read (Fn contract 1.1).

mod apps;
pub(crate) mod asked;
mod fns;
mod triggers;

use api_types::Catalog;
use api_wire::{Cursor, Page};
use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::HeaderValue;
use serde::Serialize;

use crate::{ApiError, FN_VERSION, REVISION, Source, body};
use asked::Asked;

/// `GET` of `/`, `/version`, `/v2/apps…`, `/v2/fns…`, `/v2/triggers…` and Fn's internal look-up of
/// triggers. Paths with an id spell it `{id}`, so that a router with the writes can be merged;
/// [`crate::conventions::conventional`] goes over the whole.
pub fn reads<S: Source>(source: S) -> Router {
    let (call, log) = (
        "/v2/fns/{id}/calls/{call_id}",
        "/v2/fns/{id}/calls/{call_id}/log",
    );
    let by_source = "/v2/runner/apps/{id}/triggerBySource/{trigger_type}";
    Router::new()
        .route("/", get(hello))
        .route("/version", get(version))
        .route("/v2/apps", get(apps::list::<S>))
        .route("/v2/apps/{id}", get(apps::inspect::<S>))
        .route("/v2/fns", get(fns::list::<S>))
        .route("/v2/fns/{id}", get(fns::inspect::<S>))
        .route("/v2/fns/{id}/calls", get(StatusCode::GONE))
        .route(call, get(StatusCode::GONE))
        .route(log, get(StatusCode::GONE))
        .route("/v2/triggers", get(triggers::list::<S>))
        .route("/v2/triggers/{id}", get(triggers::inspect::<S>))
        .route(&format!("{by_source}/"), get(triggers::by_root::<S>))
        .route(
            &format!("{by_source}/{{*source}}"),
            get(triggers::by_source::<S>),
        )
        .with_state(source)
}

#[derive(Serialize)]
struct Hello {
    goto: &'static str,
    hello: &'static str,
}

async fn hello() -> body::Json<Hello> {
    body::Json(Hello {
        goto: "https://github.com/fnproject/fn",
        hello: "world!",
    })
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

async fn version() -> body::Json<Version> {
    body::Json(Version {
        version: FN_VERSION,
    })
}

/// What `look` finds, with the revision it was found at.
async fn answer<S: Source, T: Serialize + Send + 'static>(
    source: &S,
    asked: &Asked,
    look: impl FnOnce(&Catalog) -> Result<T, ApiError> + Send,
) -> Response {
    let read = source.read(asked.consistency(), |catalog, revision| {
        (look(catalog), revision)
    });
    let (found, revision) = match read.await {
        Ok(read) => read,
        Err(unavailable) => return ApiError::from(unavailable).into_response(),
    };
    let mut response = match found {
        Ok(value) => body::json(StatusCode::OK, &value),
        Err(error) => error.into_response(),
    };
    response
        .headers_mut()
        .insert(REVISION, HeaderValue::from(revision.0));
    response
}

/// At most `per_page` items. There is a cursor iff the page is full (Fn contract 1.5).
fn page<T, B>(
    items: impl Iterator<Item = T>,
    per_page: usize,
    cursor: impl Fn(&T) -> Cursor,
    show: impl Fn(&T) -> B,
) -> Page<B> {
    let items: Vec<T> = items.take(per_page).collect();
    let full = items.len() == per_page;
    Page {
        next_cursor: items
            .last()
            .filter(|_| full)
            .map(|last| cursor(last).encode()),
        items: items.iter().map(show).collect(),
    }
}
