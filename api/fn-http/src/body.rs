//! JSON in and out (Fn contract 1.2).

use api_wire::bounds::REQUEST_BYTES_MAX;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// A JSON body. As a request's its content type is not checked, and whatever is wrong with it is
/// 400 `Invalid JSON`, or 413 if it has more than [`REQUEST_BYTES_MAX`].
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        object(&whole(&head.headers, body).await?).map(Self)
    }
}

/// A request's whole body.
///
/// # Errors
/// 413 with the bound if it is larger, before any of it is read if its length says so; 400 if it
/// breaks off.
pub async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let length = headers.get(CONTENT_LENGTH);
    let declared = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(bytes) = declared.filter(|bytes| *bytes > REQUEST_BYTES_MAX as u64) {
        return Err(too_large(&format!("{bytes} > ")));
    }
    match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large("")),
        Err(_) => Err(ApiError::invalid("the request body broke off")),
    }
}

fn too_large(size: &str) -> ApiError {
    let message =
        format!("Request body too large for this server, {size}max {REQUEST_BYTES_MAX} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// Reads a body with [`api_wire::json::object`].
///
/// # Errors
/// 400 `Invalid JSON`.
pub fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    api_wire::json::object(body).map_err(|_| ApiError::invalid("Invalid JSON"))
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
