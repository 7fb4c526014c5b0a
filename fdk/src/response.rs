//! What a function answers.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body_util::Full;

use crate::context::HTTP_HEADER_PREFIX;

/// An answer: a body, and for callers by HTTP a status and headers.
///
/// Text answers `text/plain`, bytes `application/octet-stream`, [`Response::json`] JSON.
#[derive(Debug, Clone, Default)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    /// A body that is JSON already.
    #[must_use]
    pub fn json(text: impl Into<String>) -> Self {
        Self::of("application/json", Bytes::from(text.into()))
    }

    /// The status a trigger's client sees. Whoever invokes a function directly sees 200: the
    /// function did answer.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// One more header; `Content-Type` replaces the body's own.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if name == CONTENT_TYPE {
            self.headers.insert(name, value);
        } else {
            self.headers.append(name, value);
        }
        self
    }

    fn of(content_type: &'static str, body: Bytes) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self {
            body,
            ..Self::default()
        }
        .header(CONTENT_TYPE, content_type)
    }

    /// As it goes to the platform (Fn contract 6.2 and 7).
    pub(crate) fn into_wire(self, by_trigger: bool) -> http::Response<Full<Bytes>> {
        let mut wire = http::Response::new(Full::new(self.body));
        if !by_trigger {
            *wire.headers_mut() = self.headers;
            return wire;
        }
        for (name, value) in &self.headers {
            let name = if name == CONTENT_TYPE {
                name.clone()
            } else {
                format!("{HTTP_HEADER_PREFIX}{name}")
                    .parse()
                    .expect("a header's name with letters before it is one")
            };
            wire.headers_mut().append(name, value.clone());
        }
        let status = HeaderValue::from(self.status.as_u16());
        wire.headers_mut().insert("fn-http-status", status);
        wire
    }
}

impl From<()> for Response {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<&'static str> for Response {
    fn from(text: &'static str) -> Self {
        Self::of("text/plain; charset=utf-8", Bytes::from(text))
    }
}

impl From<String> for Response {
    fn from(text: String) -> Self {
        Self::of("text/plain; charset=utf-8", Bytes::from(text))
    }
}

impl From<Vec<u8>> for Response {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Response {
    fn from(bytes: Bytes) -> Self {
        Self::of("application/octet-stream", bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_the_clients_only_by_way_of_a_trigger() {
        let response = Response::from("no")
            .status(StatusCode::NOT_FOUND)
            .header(
                HeaderName::from_static("x-a"),
                HeaderValue::from_static("1"),
            )
            .header(
                HeaderName::from_static("x-a"),
                HeaderValue::from_static("2"),
            );

        let direct = response.clone().into_wire(false);
        assert_eq!(direct.status(), StatusCode::OK);
        assert_eq!(direct.headers().get_all("x-a").iter().count(), 2);
        assert!(!direct.headers().contains_key("fn-http-status"));

        let by_trigger = response.into_wire(true);
        assert_eq!(by_trigger.status(), StatusCode::OK);
        assert_eq!(by_trigger.headers()["fn-http-status"], "404");
        assert_eq!(
            by_trigger.headers()["content-type"],
            "text/plain; charset=utf-8"
        );
        assert_eq!(
            by_trigger.headers().get_all("fn-http-h-x-a").iter().count(),
            2
        );
        assert!(!by_trigger.headers().contains_key("x-a"));
    }
}
