//! Errors of admin listeners, all in one form.

use api_wire::fns::ErrorBody;
use axum::body::to_bytes;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};

/// What our own and the HTTP library's refusals have at most; the first part of a longer one says
/// enough.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Every error of `router` has a JSON body, `{"message":"…"}` (Fn contract 1.2), also those that the
/// HTTP library makes of paths, queries and methods. What is JSON already stays as it is.
///
/// For routers of our own answers only: a function's errors are the function's.
pub fn json_errors<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(middleware::map_response(json_error))
}

async fn json_error(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_error || is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let said = to_bytes(body, MESSAGE_BYTES_MAX).await.unwrap_or_default();
    let message = match String::from_utf8_lossy(&said).trim() {
        "" => status.canonical_reason().unwrap_or("error").to_owned(),
        text => text.to_owned(),
    };
    let (json, body) = Json(ErrorBody { message }).into_response().into_parts();
    let kind = json.headers.get(CONTENT_TYPE).cloned();
    let kind = kind.unwrap_or(HeaderValue::from_static("application/json"));
    head.headers.insert(CONTENT_TYPE, kind);
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, body)
}
