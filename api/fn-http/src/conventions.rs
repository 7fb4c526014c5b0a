//! What happens to requests that no route takes (Fn contract 1.2).

use axum::Router;
use axum::extract::OriginalUri;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, LOCATION};
use http::{Method, StatusCode, Uri};

use crate::ApiError;

/// Adds Fn's answers for unknown paths and wrong methods to a router with all of its routes. To be
/// called once and last: routes added later do not have them, and two routers that each have them
/// cannot be merged.
pub fn conventional<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(path_not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

/// 404 `Path not found: GET /x`, or a redirect of API paths to the path without its last slash.
pub async fn path_not_found(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    if let Some(location) = without_slash(&uri) {
        let status = match method {
            Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
            // Keeps the method and the body.
            _ => StatusCode::TEMPORARY_REDIRECT,
        };
        return (status, [(LOCATION, location)]).into_response();
    }
    ApiError::not_found(format!("Path not found: {method} {}", uri.path())).into_response()
}

/// 405 `Method not allowed: PUT /x`.
pub async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Response {
    let message = format!("Method not allowed: {method} {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

/// Only of paths that are ours: `//host/` without its slash would lead to another host.
fn without_slash(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path().strip_suffix('/')?.trim_end_matches('/');
    let ours = ["/v1/", "/v2/", "/regions/"];
    if path != "/version" && !ours.iter().any(|prefix| path.starts_with(prefix)) {
        return None;
    }
    let location = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    HeaderValue::try_from(location).ok()
}
