//! What a name in the zone means.
//!
//! The zone Z holds, as RFC 4592 counts names: Z, its name servers, `invoke.Z`, `at.Z` (which exists
//! only because `REGION.at.Z` does), an own name for each app and function with a placement, and the
//! wildcard `*.Z`. Everything else below Z is covered by the wildcard, at any depth, unless a name
//! that exists stands between: `a.b.Z` is covered when `b.Z` is not a name of the zone, while
//! `x.invoke.Z`, `x.at.Z`, `x.ns1.Z` and names below a placed app's are nothing (RFC 4592 §3.3.1:
//! only the closest encloser's wildcard counts). All of `ns*` below Z is kept out of the wildcard,
//! so that a name server may be added without its name having been steered before.
//!
//! [`parse`] needs no view, so it cannot tell which apps are placed: it gives [`Target::Deeper`] and
//! [`crate::View::holds`] says whether that is covered.

use api_types::dns_label::{SEPARATOR, app_label, fn_label};
use api_types::fns::PLACEMENT_ANNOTATION;
use api_types::{Catalog, Fn};

/// What is asked for. Texts are lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The zone's own name.
    Apex,
    /// `invoke.Z`: any function.
    Invoke,
    /// `APP.Z`. The app may not exist: the wildcard answers for it all the same.
    App(String),
    /// `FN--APP.Z`.
    Fn { app: String, name: String },
    /// One label that is no app's nor function's, by the wildcard.
    Other,
    /// A name below `below.Z`, where `below` is none of the fixed names.
    Deeper { below: String },
    /// `at.Z`, an empty non-terminal.
    At,
    /// `REGION.at.Z`; the region may not exist.
    RegionAt(String),
    /// `ns*.Z`; which of them exist is the server's configuration.
    Nameserver(String),
    /// Outside the zone, or below a name that exists and has no wildcard.
    Nothing,
}

impl Target {
    /// What a call of a function by its id is steered as: `FN--APP.Z`, whether or not that is a
    /// DNS name.
    #[must_use]
    pub fn function(catalog: &Catalog, function: &Fn) -> Self {
        match catalog.app(&function.app_id) {
            Some(app) => Self::Fn {
                app: app.name.clone(),
                name: function.name.clone(),
            },
            None => Self::Invoke,
        }
    }

    /// What a call of one of an app's triggers is steered as: `APP.Z`, unless its function has a
    /// placement of its own.
    #[must_use]
    pub fn trigger(catalog: &Catalog, app: &str, function: &Fn) -> Self {
        if function.annotations.contains_key(PLACEMENT_ANNOTATION) {
            return Self::function(catalog, function);
        }
        Self::App(app.to_owned())
    }
}

const INVOKE: &str = "invoke";
const AT: &str = "at";
const NAMESERVERS: &str = "ns";

/// Reads a name in presentation form (RFC 1035 §5.1, escapes included), with or without the final
/// dot, in any case.
#[must_use]
pub fn parse(zone: &str, name: &str) -> Target {
    parse_labels(zone, &split(name))
}

/// Reads a name by its labels, first label first, the root not among them.
#[must_use]
pub fn parse_labels(zone: &str, labels: &[&[u8]]) -> Target {
    let zone = split(zone);
    let Some(below) = labels.len().checked_sub(zone.len()) else {
        return Target::Nothing;
    };
    let (inside, tail) = labels.split_at(below);
    let in_zone = tail
        .iter()
        .zip(&zone)
        .all(|(label, of_zone)| label.eq_ignore_ascii_case(of_zone));
    if !in_zone {
        return Target::Nothing;
    }
    match inside {
        [] => Target::Apex,
        [label] => below_apex(label),
        [region, at] if at.eq_ignore_ascii_case(AT.as_bytes()) => match text(region) {
            Some(region) => Target::RegionAt(region),
            None => Target::Nothing,
        },
        [.., top] => match below_apex(top) {
            Target::Invoke | Target::At | Target::Nameserver(_) => Target::Nothing,
            _ => Target::Deeper {
                below: String::from_utf8_lossy(top).to_ascii_lowercase(),
            },
        },
    }
}

/// What a single label below the zone means. An app or function that it names may not exist, but
/// could.
pub(crate) fn below_apex(label: &[u8]) -> Target {
    let Some(label) = text(label) else {
        return Target::Other;
    };
    match label.split_once(SEPARATOR) {
        Some((name, app)) if fn_label(name, app).is_ok() => Target::Fn {
            app: app.to_owned(),
            name: name.to_owned(),
        },
        Some(_) => Target::Other,
        None if label == INVOKE => Target::Invoke,
        None if label == AT => Target::At,
        None if label.starts_with(NAMESERVERS) => Target::Nameserver(label),
        None if app_label(&label).is_ok() => Target::App(label),
        None => Target::Other,
    }
}

/// A label of letters, digits and inner hyphens in lower case; `None` for any other.
fn text(label: &[u8]) -> Option<String> {
    let fits = |c: &u8| c.is_ascii_alphanumeric() || *c == b'-';
    let inner = !label.starts_with(b"-") && !label.ends_with(b"-");
    if label.is_empty() || !inner || !label.iter().all(fits) {
        return None;
    }
    Some(String::from_utf8_lossy(label).to_ascii_lowercase())
}

/// The labels of a name in presentation form. An escaped dot is part of its label; no label with an
/// escape is one of ours, so escapes are not resolved.
fn split(name: &str) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    let (bytes, mut start, mut at) = (name.as_bytes(), 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'.' => {
                labels.push(&bytes[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    if start < bytes.len() {
        labels.push(&bytes[start..]);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name that an app or a function is told it has leads back to it.
    #[test]
    fn labels_given_to_apps_and_functions_are_read_as_theirs() {
        let names = [
            "a", "xn", "a-1", "7", "invoke", "at", "ns1", "a--b", "-a", "A", "", "a_b",
        ];
        for app in names {
            if let Ok(label) = app_label(app) {
                let target = parse("fn.test", &format!("{label}.fn.test"));
                assert_eq!(target, Target::App(app.to_owned()), "{label}");
            }
            for name in names {
                if let Ok(label) = fn_label(name, app) {
                    let target = parse("fn.test", &format!("{label}.fn.test"));
                    let (app, name) = (app.to_owned(), name.to_owned());
                    assert_eq!(target, Target::Fn { app, name }, "{label}");
                }
            }
        }
    }

    #[test]
    fn names_are_what_they_look_like() {
        let app = |app: &str| Target::App(app.to_owned());
        let function = |name: &str, app: &str| Target::Fn {
            app: app.to_owned(),
            name: name.to_owned(),
        };
        let deeper = |below: &str| Target::Deeper {
            below: below.to_owned(),
        };
        let nameserver = |label: &str| Target::Nameserver(label.to_owned());
        let region = |name: &str| Target::RegionAt(name.to_owned());
        for (name, want) in [
            ("fn.test", Target::Apex),
            ("FN.Test.", Target::Apex),
            ("invoke.fn.test", Target::Invoke),
            ("hello.fn.test", app("hello")),
            ("heLLo.fn.TEST", app("hello")),
            ("a-1.fn.test", app("a-1")),
            ("greet--hello.fn.test", function("greet", "hello")),
            ("at.fn.test", Target::At),
            ("fra.at.fn.test", region("fra")),
            ("FRA.AT.fn.test", region("fra")),
            ("ns1.fn.test", nameserver("ns1")),
            ("nsx.fn.test", nameserver("nsx")),
            // No app's and no function's.
            ("a_b.fn.test", Target::Other),
            ("-a.fn.test", Target::Other),
            ("xn--bcher-kva.fn.test", Target::Other),
            ("--a.fn.test", Target::Other),
            ("a--b--c.fn.test", Target::Other),
            ("a--ns1.fn.test", Target::Other),
            ("a--invoke.fn.test", Target::Other),
            ("*.fn.test", Target::Other),
            ("a\\.b.fn.test", Target::Other),
            ("a\\.invoke.fn.test", Target::Other),
            ("\\255.fn.test", Target::Other),
            // Below.
            ("x.hello.fn.test", deeper("hello")),
            ("y.x.Hello.fn.test", deeper("hello")),
            ("x.invoke.fn.test", Target::Nothing),
            ("x.ns1.fn.test", Target::Nothing),
            ("x.fra.at.fn.test", Target::Nothing),
            ("a_b.at.fn.test", Target::Nothing),
            // Not ours.
            ("", Target::Nothing),
            (".", Target::Nothing),
            ("test", Target::Nothing),
            ("example.com", Target::Nothing),
            ("xfn.test", Target::Nothing),
            ("x\\.fn.test", Target::Nothing),
            ("fn.test\\", Target::Nothing),
        ] {
            assert_eq!(parse("fn.test", name), want, "{name:?}");
        }
    }
}
