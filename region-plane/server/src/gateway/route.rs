//! What a request at the gateway asks for, by its method, host and path.

use std::borrow::Cow;

use dns_steering::name::{self, Target};
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /invoke/ID`, on every host.
    Invoke {
        fn_id: String,
    },
    /// `POST /` on `FN--APP.Z`.
    InvokeNamed {
        app: String,
        function: String,
    },
    /// `/t/APP/SOURCE` on every host; any other path on `APP.Z`.
    Trigger {
        app: String,
        source: String,
    },
    NotFound,
    MethodNotAllowed,
}

/// Reads a request. `host` is the name it came by, with or without a port.
#[must_use]
pub fn route(method: &Method, host: Option<&str>, path: &str, zone: &str) -> Route {
    if let Some(fn_id) = path
        .strip_prefix("/invoke/")
        .filter(|id| is_one_segment(id))
    {
        return match *method {
            Method::POST => Route::Invoke {
                fn_id: decoded(fn_id),
            },
            _ => Route::MethodNotAllowed,
        };
    }
    if let Some((app, source)) = path.strip_prefix("/t/").and_then(app_and_source) {
        return Route::Trigger { app, source };
    }
    match host.map(|host| name::parse(zone, without_port(host))) {
        Some(Target::App(app)) => Route::Trigger {
            app,
            source: decoded(path),
        },
        Some(Target::Fn { app, name }) if path == "/" => match *method {
            Method::POST => Route::InvokeNamed {
                app,
                function: name,
            },
            _ => Route::MethodNotAllowed,
        },
        _ => Route::NotFound,
    }
}

/// The host a request was sent to: HTTP/2's authority, else the `Host` header.
#[must_use]
pub fn host<'a>(uri: &'a Uri, headers: &'a http::HeaderMap) -> Option<&'a str> {
    uri.authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| {
            headers
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok())
        })
}

#[must_use]
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The DNS name of an app, or of a function with its app; `None` if it can have none.
#[must_use]
pub fn dns_name(zone: &str, function: Option<&str>, app: &str) -> Option<String> {
    let label = match function {
        Some(function) => format!("{function}--{app}"),
        None => app.to_owned(),
    };
    let full = format!("{label}.{zone}");
    let reads_back = match (name::parse(zone, &full), function) {
        (Target::App(read), None) => read == app,
        (Target::Fn { app: of, name }, Some(function)) => of == app && name == function,
        _ => false,
    };
    (reads_back && label.len() <= 63).then_some(full)
}

fn is_one_segment(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

/// `app`, `app/` and `app/x/y` as (app, source); the source keeps its slashes (Fn contract 7).
fn app_and_source(rest: &str) -> Option<(String, String)> {
    let (app, source) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (!app.is_empty()).then(|| (decoded(app), decoded(source)))
}

/// Percent-decoded as Go does before it routes; text that does not decode is taken as it stands.
fn decoded(text: &str) -> String {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoke(fn_id: &str) -> Route {
        Route::Invoke {
            fn_id: fn_id.to_owned(),
        }
    }

    fn trigger(app: &str, source: &str) -> Route {
        Route::Trigger {
            app: app.to_owned(),
            source: source.to_owned(),
        }
    }

    #[test]
    fn requests_are_routed_by_path_and_then_by_host() {
        let named = Route::InvokeNamed {
            app: "shop".to_owned(),
            function: "cart".to_owned(),
        };
        for (method, host, path, want) in [
            ("POST", "127.0.11.1:8080", "/invoke/01ABC", invoke("01ABC")),
            ("POST", "shop.fn.test", "/invoke/01ABC", invoke("01ABC")),
            (
                "GET",
                "invoke.fn.test",
                "/invoke/01ABC",
                Route::MethodNotAllowed,
            ),
            ("POST", "fra.at.fn.test", "/invoke/", Route::NotFound),
            ("POST", "fra.at.fn.test", "/invoke/a/b", Route::NotFound),
            ("GET", "x", "/t/shop", trigger("shop", "/")),
            ("GET", "x", "/t/shop/", trigger("shop", "/")),
            ("PATCH", "x", "/t/shop/a/b/", trigger("shop", "/a/b/")),
            ("GET", "x", "/t/sh%C3%B6p/a%20b", trigger("shöp", "/a b")),
            ("GET", "x", "/t/shop/100%", trigger("shop", "/100%")),
            ("GET", "other.fn.test", "/t/shop/a", trigger("shop", "/a")),
            ("GET", "x", "/t/", Route::NotFound),
            ("GET", "SHOP.fn.test.:8080", "/a", trigger("shop", "/a")),
            ("GET", "shop.fn.test", "/", trigger("shop", "/")),
            ("GET", "shop.fn.test", "/t", trigger("shop", "/t")),
            (
                "GET",
                "shop.fn.test",
                "/invoke/",
                trigger("shop", "/invoke/"),
            ),
            ("POST", "cart--shop.fn.test", "/", named),
            ("GET", "cart--shop.fn.test", "/", Route::MethodNotAllowed),
            ("POST", "cart--shop.fn.test", "/a", Route::NotFound),
            ("GET", "invoke.fn.test", "/a", Route::NotFound),
            ("GET", "fn.test", "/", Route::NotFound),
            ("GET", "shop.example.com", "/", Route::NotFound),
        ] {
            let method = method.parse::<Method>().expect("a method");
            assert_eq!(
                route(&method, Some(host), path, "fn.test"),
                want,
                "{method} {host} {path}"
            );
        }
        assert_eq!(route(&Method::GET, None, "/", "fn.test"), Route::NotFound);
    }

    #[test]
    fn only_names_that_read_back_are_dns_names() {
        let long = "a".repeat(64);
        for (function, app, want) in [
            (None, "shop", Some("shop.fn.test")),
            (Some("cart"), "shop", Some("cart--shop.fn.test")),
            (None, "Shop", None),
            (None, "invoke", None),
            (None, "ns1", None),
            (None, "at", None),
            (None, "a--b", None),
            (None, "a_b", None),
            (Some("xn"), "shop", None),
            (None, long.as_str(), None),
        ] {
            assert_eq!(
                dns_name("fn.test", function, app).as_deref(),
                want,
                "{function:?} {app}"
            );
        }
    }
}
