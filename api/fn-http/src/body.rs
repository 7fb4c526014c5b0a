//! JSON in and out (Fn contract 1.2).

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// A JSON body. As a request's its content type is not checked, and whatever is wrong with it is
/// 400 `Invalid JSON`, or 413 if it is larger than the router's `DefaultBodyLimit`.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::new(error.status(), "Request body too large for this server")
            } else {
                invalid_json()
            }
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|_| invalid_json())
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

/// A response whose body is `value`.
///
/// # Panics
/// Never: bodies are plain data with text keys.
#[must_use]
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut text = serde_json::to_vec(value).expect("bodies are plain data");
    // Fn ends its bodies so, and a terminal's prompt is glad of it.
    text.push(b'\n');
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    (status, [(CONTENT_TYPE, json)], text).into_response()
}

fn invalid_json() -> ApiError {
    ApiError::invalid("Invalid JSON")
}
