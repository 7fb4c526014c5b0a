//! What a request at the gateway asks for, by its method, host and path.

use calls_door::Refusal;
use calls_door::route::{self as door, Path};
use dns_steering::name::{self, Target};
use http::Method;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /invoke/ID`, on every host.
    Invoke { fn_id: String },
    /// `POST /` on `FN--APP.Z`.
    InvokeNamed { app: String, function: String },
    /// `/t/APP/SOURCE` on every host; any other path on `APP.Z`.
    Trigger { app: String, source: String },
}

/// Reads a request. `host` is the name it came by, with or without a port.
///
/// # Errors
/// 404 or 405 if it asks for nothing that there is.
pub fn route(
    method: &Method,
    host: Option<&str>,
    path: &str,
    zone: &str,
) -> Result<Route, Refusal> {
    match door::path(method, path)? {
        Some(Path::Invoke { fn_id }) => return Ok(Route::Invoke { fn_id }),
        Some(Path::Trigger { app, source }) => return Ok(Route::Trigger { app, source }),
        None => {}
    }
    match host.map(|host| name::parse(zone, without_port(host))) {
        Some(Target::App(app)) => Ok(Route::Trigger {
            app,
            source: door::decoded(path),
        }),
        Some(Target::Fn { app, name }) if path == "/" => match *method {
            Method::POST => Ok(Route::InvokeNamed {
                app,
                function: name,
            }),
            _ => Err(Refusal::method_not_allowed(method, path)),
        },
        _ => Err(Refusal::path_not_found(method, path)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(app: &str, source: &str) -> Result<Route, u16> {
        Ok(Route::Trigger {
            app: app.to_owned(),
            source: source.to_owned(),
        })
    }

    #[test]
    fn requests_are_routed_by_path_and_then_by_host() {
        let invoke = Route::Invoke {
            fn_id: "01ABC".to_owned(),
        };
        let named = Route::InvokeNamed {
            app: "shop".to_owned(),
            function: "cart".to_owned(),
        };
        for (method, host, path, want) in [
            ("POST", "shop.fn.test", "/invoke/01ABC", Ok(invoke)),
            ("GET", "invoke.fn.test", "/invoke/01ABC", Err(405)),
            ("POST", "fra.at.fn.test", "/invoke/", Err(404)),
            ("POST", "fra.at.fn.test", "/invoke/a/b", Err(404)),
            ("GET", "other.fn.test", "/t/shop/a", trigger("shop", "/a")),
            ("GET", "x", "/t/", Err(404)),
            ("GET", "SHOP.fn.test.:8080", "/a", trigger("shop", "/a")),
            ("GET", "shop.fn.test", "/", trigger("shop", "/")),
            ("GET", "shop.fn.test", "/t", trigger("shop", "/t")),
            ("GET", "shop.fn.test", "/a%20b", trigger("shop", "/a b")),
            (
                "GET",
                "shop.fn.test",
                "/invoke/",
                trigger("shop", "/invoke/"),
            ),
            ("POST", "cart--shop.fn.test", "/", Ok(named)),
            ("GET", "cart--shop.fn.test", "/", Err(405)),
            ("POST", "cart--shop.fn.test", "/a", Err(404)),
            ("GET", "invoke.fn.test", "/a", Err(404)),
            ("GET", "fn.test", "/", Err(404)),
            ("GET", "shop.example.com", "/", Err(404)),
        ] {
            let method = method.parse::<Method>().expect("a method");
            let got = route(&method, Some(host), path, "fn.test");
            let got = got.map_err(|refused| refused.status.as_u16());
            assert_eq!(got, want, "{method} {host} {path}");
        }
        let nameless = route(&Method::GET, None, "/", "fn.test");
        assert_eq!(
            nameless.map_err(|refused| refused.status.as_u16()),
            Err(404)
        );
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
