//! Paths that mean the same at every door and on every host.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::Refusal;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// `POST /invoke/ID` (Fn contract 6).
    Invoke { fn_id: String },
    /// `/t/APP/SOURCE` with any method (Fn contract 7). The source keeps its slashes; that of
    /// `/t/APP` is `/`.
    Trigger { app: String, source: String },
}

/// Reads a path; `None` if it belongs to neither kind.
///
/// # Errors
/// 405 for `/invoke/ID` with another method than `POST`.
pub fn path(method: &Method, path: &str) -> Result<Option<Path>, Refusal> {
    if let Some(fn_id) = path.strip_prefix("/invoke/")
        && !fn_id.is_empty()
        && !fn_id.contains('/')
    {
        return match *method {
            Method::POST => Ok(Some(Path::Invoke {
                fn_id: decoded(fn_id),
            })),
            _ => Err(Refusal::method_not_allowed(method, path)),
        };
    }
    Ok(path.strip_prefix("/t/").and_then(trigger))
}

fn trigger(rest: &str) -> Option<Path> {
    let (app, source) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (!app.is_empty()).then(|| Path::Trigger {
        app: decoded(app),
        source: decoded(source),
    })
}

/// Percent-decoded as Go does before it routes; text that does not decode is taken as it stands.
#[must_use]
pub fn decoded(text: &str) -> String {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_alike_at_every_door() {
        let invoke = |fn_id: &str| {
            Ok(Some(Path::Invoke {
                fn_id: fn_id.to_owned(),
            }))
        };
        let trigger = |app: &str, source: &str| {
            Ok(Some(Path::Trigger {
                app: app.to_owned(),
                source: source.to_owned(),
            }))
        };
        for (method, text, want) in [
            (Method::POST, "/invoke/01ABC", invoke("01ABC")),
            (Method::POST, "/invoke/%ff", invoke("%ff")),
            (Method::GET, "/invoke/01ABC", Err(405)),
            (Method::POST, "/invoke/", Ok(None)),
            (Method::POST, "/invoke/a/b", Ok(None)),
            (Method::GET, "/t/shop", trigger("shop", "/")),
            (Method::GET, "/t/shop/", trigger("shop", "/")),
            (Method::PATCH, "/t/shop/a/b/", trigger("shop", "/a/b/")),
            (Method::GET, "/t/sh%C3%B6p/a%20b", trigger("shöp", "/a b")),
            (Method::GET, "/t/shop/100%", trigger("shop", "/100%")),
            (Method::GET, "/t/", Ok(None)),
            (Method::GET, "/t", Ok(None)),
            (Method::GET, "/", Ok(None)),
        ] {
            let got = path(&method, text).map_err(|refused| refused.status.as_u16());
            assert_eq!(got, want, "{method} {text}");
        }
    }
}
