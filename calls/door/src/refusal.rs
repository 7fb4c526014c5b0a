//! What callers are told when no function answers: one table for every door.
//!
//! Statuses and texts are the Fn contract's where it has them (1.2, 6.4, 8).

use std::borrow::Cow;

use api_wire::fns::ErrorBody;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::Body;

/// A status and the message of its JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: Cow<'static, str>,
    /// Seconds after which to try again; with every 503.
    pub retry_after_secs: Option<u16>,
}

/// Of every error (Fn contract 1.2).
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// What Fn tells callers to wait when it has no capacity (Fn contract 8).
const BUSY_SECS: u16 = 15;

/// An election, or a region's return, takes about so long.
const AWAY_SECS: u16 = 1;

impl Refusal {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after_secs: None,
        }
    }

    /// 400: no host, two, or a malformed one.
    #[must_use]
    pub fn host(problem: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, problem)
    }

    /// 501 (RFC 9112 section 6.1).
    #[must_use]
    pub fn transfer_coding() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "the only transfer coding is chunked",
        )
    }

    /// 431 (Fn contract 6.4).
    #[must_use]
    pub fn head_too_large() -> Self {
        Self::of_head(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    }

    /// For a head that the HTTP library refused with this status.
    #[must_use]
    pub(crate) fn of_head(status: StatusCode) -> Self {
        Self::new(
            status,
            match status {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                    "the request's header has too many fields or bytes"
                }
                StatusCode::URI_TOO_LONG => "the request's target is too long",
                _ => "the request is malformed",
            },
        )
    }

    #[must_use]
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    #[must_use]
    pub fn path_not_found(method: &Method, path: &str) -> Self {
        Self::not_found(format!("Path not found: {method} {path}"))
    }

    #[must_use]
    pub fn method_not_allowed(method: &Method, path: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method not allowed: {method} {path}"),
        )
    }

    /// 413 for a body that says that it is too long.
    #[must_use]
    pub fn too_large(declared: u64, bytes_max: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("Content-Length too large for this server, {declared} > max {bytes_max}"),
        )
    }

    /// 413 for a body that did not say how long it is.
    #[must_use]
    pub fn too_long(bytes_max: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body too large for this server, max {bytes_max}"),
        )
    }

    /// 400: the caller's body ended early or is no chunked body. Its fault, at every door.
    #[must_use]
    pub fn body_broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "the request body broke off")
    }

    /// 408: the caller's body stopped, or came too slowly.
    #[must_use]
    pub fn body_late() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request body did not arrive in time",
        )
    }

    /// 503: no capacity within the call's wait.
    #[must_use]
    pub fn busy() -> Self {
        Self::busy_with("Timed out - server too busy")
    }

    /// 503: no capacity, as the message says.
    #[must_use]
    pub fn busy_with(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after_secs: Some(BUSY_SECS),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// 503: the listener's other requests have all that there is for heads.
    #[must_use]
    pub fn heads_full() -> Self {
        Self::busy_with(
            "no room for more bytes of request headers at the moment, try a smaller header",
        )
    }

    /// 503: all of the listener's connections are in use. Of the call nothing was read.
    #[must_use]
    pub fn connections_full() -> Self {
        Self::busy_with("all connections are in use")
    }

    /// 503: something that is needed is away and expected back.
    #[must_use]
    pub fn away(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after_secs: Some(AWAY_SECS),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    /// 502: whoever was to answer broke the call off; it may have run.
    #[must_use]
    pub fn broken_off(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, message)
    }

    /// 504: no answer within the call's time.
    #[must_use]
    pub fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timed out")
    }

    /// The body: `{"message"}` and a newline.
    #[must_use]
    pub fn json(&self) -> Bytes {
        let body = ErrorBody {
            message: self.message.clone().into_owned(),
        };
        let mut text = serde_json::to_vec(&body).expect("text is JSON");
        text.push(b'\n');
        text.into()
    }

    /// The response as HTTP/1.1 bytes, to a connection that ends with it.
    #[must_use]
    pub(crate) fn to_http1(&self) -> Bytes {
        let json = self.json();
        let kind = JSON;
        let kind = kind.to_str().expect("it is text");
        let reason = self.status.canonical_reason().unwrap_or_default();
        let retry = self
            .retry_after_secs
            .map_or(String::new(), |secs| format!("retry-after: {secs}\r\n"));
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n{retry}\
             connection: close\r\n\r\n",
            self.status.as_u16(),
            json.len()
        );
        [head.as_bytes(), &json].concat().into()
    }

    /// The response.
    #[must_use]
    pub fn respond(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, secs.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_json_and_says_when_to_come_back() {
        for (refusal, status, json, retry) in [
            (
                Refusal::not_found("Fn \"x\" not found"),
                404,
                "{\"message\":\"Fn \\\"x\\\" not found\"}\n",
                None,
            ),
            (
                Refusal::busy(),
                503,
                "{\"message\":\"Timed out - server too busy\"}\n",
                Some("15"),
            ),
            (
                Refusal::away("no leader"),
                503,
                "{\"message\":\"no leader\"}\n",
                Some("1"),
            ),
        ] {
            assert_eq!(refusal.json(), json);
            let response = refusal.respond();
            assert_eq!(response.status(), status);
            assert_eq!(
                response.headers()[CONTENT_TYPE],
                "application/json; charset=utf-8"
            );
            let after = response.headers().get(RETRY_AFTER);
            assert_eq!(after.map(|after| after.to_str().expect("digits")), retry);
        }
    }
}
