//! Errors as Fn shows them, and the one place that chooses their statuses.

use api_types::{Refusal, RefusalKind};
use api_wire::fns::ErrorBody;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};

use crate::{Unavailable, body};

/// A status and `{"message":"…"}` (Fn contract 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// Seconds, for `Retry-After`.
    pub retry_after_secs: Option<u32>,
}

impl ApiError {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after_secs: None,
        }
    }

    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            // A bound of the store is met by deleting something; 507 is for disks.
            RefusalKind::Conflict | RefusalKind::Full => StatusCode::CONFLICT,
            RefusalKind::Precondition => StatusCode::PRECONDITION_FAILED,
            // draft-ietf-httpapi-idempotency-key-header-07, section 2.7.
            RefusalKind::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.message)
    }
}

impl From<Unavailable> for ApiError {
    fn from(unavailable: Unavailable) -> Self {
        Self {
            // An election takes about a second.
            retry_after_secs: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, unavailable.0)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let message = self.message;
        let mut response = body::json(self.status, &ErrorBody { message });
        if let Some(secs) = self.retry_after_secs {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}
