//! Request bodies.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::response::IntoResponse as _;
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::ApiError;

/// A JSON body whatever its `Content-Type` says; anything else is 400 `Invalid JSON` (Fn contract
/// 1.2), or 413 where it is longer than the route takes.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.into_response().status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "request body too large for this server",
                    ),
                    _ => ApiError::new(StatusCode::BAD_REQUEST, "Invalid JSON"),
                })?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "Invalid JSON"))
    }
}
