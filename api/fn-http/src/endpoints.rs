//! Where the endpoints that objects are shown with begin (Fn contract 5.3).
//!
//! One rule, asked by global nodes and by regions that answer for one, so that an object has the same
//! endpoints by whichever node and under whichever `/regions/NAME` it is read.

use api_types::{App, dns_label};
use http::HeaderName;

/// Set by a global node on what it asks a region for a caller: its `public_url`, empty where it has
/// none. Beside it `Host` is the caller's.
pub const PUBLIC_URL: HeaderName = HeaderName::from_static("tradewind-public-url");

/// How a request reached the server that answers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// The host that was asked.
    pub host: Option<String>,
    /// [`PUBLIC_URL`], where a global node asks.
    pub public_url: Option<String>,
}

/// The names that calls are steered by.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub zone: &'a str,
    /// TCP port of every gateway, told in URLs without TLS.
    pub gateway_port: u16,
}

/// What endpoints of an app's functions begin with, without a final slash: `public_url`, and the
/// app's own name if it has a placement and the name is a DNS name; without a `public_url`, the host
/// that was asked.
#[must_use]
pub fn base_url(public_url: &str, names: Names<'_>, app: Option<&App>, host: &str) -> String {
    if public_url.is_empty() {
        return format!("http://{host}");
    }
    let scheme = public_url.split("://").next().unwrap_or("https");
    let placed = app.filter(|app| app.placement().is_some());
    match placed.filter(|app| dns_label::app_label(&app.name).is_ok()) {
        Some(app) if scheme == "https" => format!("https://{}.{}", app.name, names.zone),
        Some(app) => format!("http://{}.{}:{}", app.name, names.zone, names.gateway_port),
        None => public_url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api_types::fns::PLACEMENT_ANNOTATION;
    use api_types::{AppId, Revision, Timestamp};

    use super::*;

    #[test]
    fn endpoints_begin_with_the_public_url_the_apps_own_name_or_the_host_asked() {
        let names = Names {
            zone: "fn.test",
            gateway_port: 8080,
        };
        let app = |name: &str, placement: Option<&str>| App {
            id: AppId::new("A"),
            name: name.to_owned(),
            config: BTreeMap::new(),
            annotations: placement
                .map(|json| (PLACEMENT_ANNOTATION.to_owned(), json.to_owned()))
                .into_iter()
                .collect(),
            syslog_url: None,
            shape: String::new(),
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
            revision: Revision(1),
        };
        let fra = Some(r#"{"regions":["fra"]}"#);
        for (case, public_url, app, want) in [
            ("nothing public", "", app("shop", fra), "http://node:7400"),
            (
                "no placement",
                "https://invoke.fn.test",
                app("shop", None),
                "https://invoke.fn.test",
            ),
            (
                "its own name",
                "https://invoke.fn.test",
                app("shop", fra),
                "https://shop.fn.test",
            ),
            (
                "without TLS",
                "http://node:1",
                app("shop", fra),
                "http://shop.fn.test:8080",
            ),
            (
                "no DNS name",
                "http://node:1",
                app("a_b", fra),
                "http://node:1",
            ),
        ] {
            let base = base_url(public_url, names, Some(&app), "node:7400");
            assert_eq!(base, want, "{case}");
        }
        let unknown = base_url("https://invoke.fn.test", names, None, "node:7400");
        assert_eq!(unknown, "https://invoke.fn.test");
    }
}
