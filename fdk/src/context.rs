//! What a function knows of the call it serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method};

use crate::deadline;

/// Prefix of the headers that a trigger's request had (Fn contract 7).
pub(crate) const HTTP_HEADER_PREFIX: &str = "fn-http-h-";

/// One call.
#[derive(Debug, Clone)]
pub struct Context {
    config: Arc<BTreeMap<String, String>>,
    headers: HeaderMap,
    deadline: Option<SystemTime>,
    http: Option<HttpRequest>,
}

/// The request by which an HTTP trigger was called.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    pub method: Method,
    /// Absolute, with the query.
    pub url: String,
    /// As the client sent them, `Content-Type` included.
    pub headers: HeaderMap,
}

impl Context {
    pub(crate) fn new(config: Arc<BTreeMap<String, String>>, headers: HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            deadline: text("fn-deadline").and_then(deadline::parse),
            http: (text("fn-intent") == Some("httprequest")).then(|| HttpRequest {
                method: text("fn-http-method")
                    .and_then(|method| method.parse().ok())
                    .unwrap_or_default(),
                url: text("fn-http-request-url").unwrap_or_default().to_owned(),
                headers: of_client(&headers),
            }),
            config,
            headers,
        }
    }

    /// The call's id, empty only if the platform gave none.
    #[must_use]
    pub fn call_id(&self) -> &str {
        self.header("fn-call-id").unwrap_or_default()
    }

    /// When the platform gives up on the call.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.deadline
    }

    /// Everything in the environment: the configuration of the app and the function, and what the
    /// platform added.
    #[must_use]
    pub fn config(&self) -> &BTreeMap<String, String> {
        &self.config
    }

    #[must_use]
    pub fn app_id(&self) -> &str {
        self.variable("FN_APP_ID")
    }

    #[must_use]
    pub fn app_name(&self) -> &str {
        self.variable("FN_APP_NAME")
    }

    #[must_use]
    pub fn fn_id(&self) -> &str {
        self.variable("FN_FN_ID")
    }

    #[must_use]
    pub fn fn_name(&self) -> &str {
        self.variable("FN_FN_NAME")
    }

    /// The headers of the call. Those of a trigger's client are in [`Self::http`].
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header of the call that is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The request of an HTTP trigger's client; `None` if the function was invoked directly.
    #[must_use]
    pub fn http(&self) -> Option<&HttpRequest> {
        self.http.as_ref()
    }

    fn variable(&self, name: &str) -> &str {
        self.config.get(name).map_or("", String::as_str)
    }
}

fn of_client(headers: &HeaderMap) -> HeaderMap {
    let mut of_client: HeaderMap = headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix(HTTP_HEADER_PREFIX)?;
            Some((name.parse::<HeaderName>().ok()?, value.clone()))
        })
        .collect();
    if let Some(content_type) = headers.get(http::header::CONTENT_TYPE) {
        of_client.insert(http::header::CONTENT_TYPE, content_type.clone());
    }
    of_client
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn context(headers: &[(&str, &str)]) -> Context {
        let typed = |&(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
        };
        // `collect` would keep the last of several values.
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(typed) {
            map.append(name, value);
        }
        Context::new(Arc::default(), map)
    }

    #[test]
    fn a_triggers_request_is_seen_as_the_client_sent_it() {
        let context = context(&[
            ("Fn-Intent", "httprequest"),
            ("Fn-Http-Method", "PURGE"),
            ("Fn-Http-Request-Url", "http://h/t/a?q=1"),
            ("Fn-Http-H-Accept", "text/html"),
            ("Fn-Http-H-Accept", "text/plain"),
            ("Content-Type", "application/json"),
            ("Fn-Call-Id", "01ID"),
        ]);
        let request = context.http().unwrap();
        assert_eq!(request.method, "PURGE");
        assert_eq!(request.url, "http://h/t/a?q=1");
        let accepted: Vec<_> = request.headers.get_all("accept").iter().collect();
        assert_eq!(accepted, ["text/html", "text/plain"]);
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(request.headers.len(), 3);
        assert_eq!(context.call_id(), "01ID");
    }

    #[test]
    fn a_direct_call_has_no_http_request() {
        assert!(context(&[("Fn-Http-Method", "GET")]).http().is_none());
    }
}
