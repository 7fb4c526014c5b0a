//! Which apps and functions have a name in DNS, and why the others have none.
//!
//! In a zone Z an app is `APP.Z` and a function `FN--APP.Z`. Fn allows names that no host name can
//! have (RFC 952, RFC 1123 §2.1), and some labels mean something else; what they name is reached by
//! id.

use std::fmt;

/// RFC 1035 §2.3.4.
pub const LABEL_BYTES_MAX: usize = 63;

/// Stands between a function and its app.
pub const SEPARATOR: &str = "--";

/// Why a name is no label. Its text is shown to users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// A character other than `a-z`, `0-9` and `-`.
    Character { name: String },
    /// A hyphen at an end, or nothing at all.
    Ends { name: String },
    /// `--` stands between a function and its app.
    Separator { name: String },
    /// The whole label has so many bytes.
    Long { label: String },
    /// The label means something else in every zone.
    Reserved { name: String },
    /// The function's app has no name, so neither has it.
    App(Box<WhyNot>),
}

/// The label of an app.
///
/// # Errors
/// Says why it has none.
pub fn app_label(name: &str) -> Result<String, WhyNot> {
    hyphenated(name)?;
    let reserved = matches!(name, "invoke" | "at") || name.starts_with("ns");
    if reserved {
        return Err(WhyNot::Reserved {
            name: name.to_owned(),
        });
    }
    fits(name.to_owned())
}

/// The label of a function, its app's name included.
///
/// # Errors
/// Says why it has none.
pub fn fn_label(fn_name: &str, app_name: &str) -> Result<String, WhyNot> {
    app_label(app_name).map_err(|why| WhyNot::App(Box::new(why)))?;
    hyphenated(fn_name)?;
    // RFC 5890 §2.3.1: what starts with xn-- is an internationalised name.
    if fn_name == "xn" {
        return Err(WhyNot::Reserved {
            name: fn_name.to_owned(),
        });
    }
    fits(format!("{fn_name}{SEPARATOR}{app_name}"))
}

/// Whether a text is a host name's label as RFC 1123 §2.1 has it, in lower case.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(sound)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn hyphenated(name: &str) -> Result<(), WhyNot> {
    let name_owned = || name.to_owned();
    if !name
        .bytes()
        .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    {
        return Err(WhyNot::Character { name: name_owned() });
    }
    if name.is_empty() || name.starts_with('-') || name.ends_with('-') {
        return Err(WhyNot::Ends { name: name_owned() });
    }
    if name.contains(SEPARATOR) {
        return Err(WhyNot::Separator { name: name_owned() });
    }
    Ok(())
}

fn fits(label: String) -> Result<String, WhyNot> {
    if label.len() > LABEL_BYTES_MAX {
        return Err(WhyNot::Long { label });
    }
    Ok(label)
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character { name } => write!(
                f,
                "{name} has characters other than lower-case letters, digits and hyphens"
            ),
            Self::Ends { name } => write!(f, "{name} starts or ends with a hyphen"),
            Self::Separator { name } => write!(f, "{name} contains --"),
            Self::Long { label } => write!(
                f,
                "{label} is longer than the {LABEL_BYTES_MAX} bytes of a label"
            ),
            Self::Reserved { name } => write!(f, "{name} is reserved"),
            Self::App(why) => write!(f, "the app has none: {why}"),
        }
    }
}

impl std::error::Error for WhyNot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_host_names_have_them() {
        for (text, want) in [
            ("tradewind", true),
            ("a--b", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a.b", false),
        ] {
            assert_eq!(is_label(text), want, "{text:?}");
        }
    }

    fn reason(label: Result<String, WhyNot>) -> String {
        match label {
            Ok(label) => format!("ok {label}"),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn apps_have_names_unless_the_reason_says_otherwise() {
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        for (name, want) in [
            ("shop", "ok shop"),
            ("a-1", "ok a-1"),
            ("xn", "ok xn"),
            ("7", "ok 7"),
            (&longest, &format!("ok {longest}")),
            (
                &too_long,
                &format!("{too_long} is longer than the 63 bytes of a label"),
            ),
            (
                "Shop",
                "Shop has characters other than lower-case letters, digits and hyphens",
            ),
            (
                "a_b",
                "a_b has characters other than lower-case letters, digits and hyphens",
            ),
            ("-a", "-a starts or ends with a hyphen"),
            ("a-", "a- starts or ends with a hyphen"),
            ("a--b", "a--b contains --"),
            ("invoke", "invoke is reserved"),
            ("at", "at is reserved"),
            ("ns1", "ns1 is reserved"),
            ("nsx", "nsx is reserved"),
        ] {
            assert_eq!(reason(app_label(name)), want, "{name}");
        }
        assert!(app_label("").is_err());
    }

    #[test]
    fn functions_share_a_label_with_their_app() {
        let (long_fn, long_app) = ("f".repeat(31), "a".repeat(30));
        let full = format!("{long_fn}--{long_app}");
        assert_eq!(full.len(), 63);
        for (function, app, want) in [
            ("greet", "shop", "ok greet--shop"),
            ("invoke", "shop", "ok invoke--shop"),
            (&long_fn, &long_app, &format!("ok {full}")),
            (
                &long_fn,
                &format!("{long_app}a"),
                &format!("{full}a is longer than the 63 bytes of a label"),
            ),
            ("xn", "shop", "xn is reserved"),
            ("a-", "shop", "a- starts or ends with a hyphen"),
            (
                "a.b",
                "shop",
                "a.b has characters other than lower-case letters, digits and hyphens",
            ),
            ("greet", "ns1", "the app has none: ns1 is reserved"),
        ] {
            assert_eq!(reason(fn_label(function, app)), want, "{function} {app}");
        }
    }
}
