//! Query parameters of a request.

use percent_encoding::percent_decode_str;

use crate::refusal::{self, FailureStatus};

/// Query parameters, percent-decoded; empty ones count as absent, as clients send those too.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(pairs(text).filter(|(_, value)| !value.is_empty()).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, FailureStatus> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    refusal::bad_request(&format!("Invalid value: {value:?}: {name} is no number"))
                })
            })
            .transpose()
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn parameters_are_decoded_and_empty_ones_are_absent() {
        let query =
            Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&limit=5&continue=&watch=1&x");
        assert_eq!(query.get("labelSelector"), Some("app=web,tier in (a)"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.get("continue"), None);
        assert!(query.is_true("watch"));
        assert!(!query.is_true("x"));
        assert_eq!(query.number("labelSelector").unwrap_err().code, 400);
        assert_eq!(Query::parse("a=100%").get("a"), Some("100%"));
    }
}
