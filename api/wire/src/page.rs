//! Lists in pages (Fn contract 1.5); `/v1` lists have the same shape.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub const PER_PAGE_DEFAULT: usize = 30;
pub const PER_PAGE_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    pub items: Vec<T>,
}

impl<T> Page<T> {
    /// A list that is never cut.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self {
            next_cursor: None,
            items,
        }
    }
}

/// Where the next page starts: the parts of the last item's sort key, opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Vec<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor: use the next_cursor of the page before, or leave it out")]
pub struct PageError;

impl Cursor {
    #[must_use]
    pub fn encode(&self) -> String {
        // No name has a NUL (Fn contract 2.2, 3.2, 4.1), so it can part them.
        URL_SAFE_NO_PAD.encode(self.0.join("\0"))
    }

    /// # Errors
    /// If the text is not a cursor of ours.
    pub fn decode(text: &str) -> Result<Self, PageError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PageError)?;
        let joined = String::from_utf8(bytes).map_err(|_| PageError)?;
        Ok(Self(joined.split('\0').map(str::to_owned).collect()))
    }
}

/// `per_page` as clients send it: missing, unparsable, zero or negative means the default.
#[must_use]
pub fn per_page(query: Option<&str>) -> usize {
    match query.and_then(|text| text.parse::<i64>().ok()) {
        Some(n) if n > 0 => usize::try_from(n).map_or(PER_PAGE_MAX, |n| n.min(PER_PAGE_MAX)),
        _ => PER_PAGE_DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn cursors_read_back_and_refuse_other_text() {
        let cursor = Cursor(vec!["naïve".to_owned(), "01J".to_owned()]);
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        assert_eq!(Cursor::decode("!!"), Err(PageError));
    }

    #[test]
    fn per_page_is_clamped_as_fn_clamps_it() {
        for (query, want) in [
            (None, 30),
            (Some("0"), 30),
            (Some("-1"), 30),
            (Some("x"), 30),
            (Some("7"), 7),
            (Some("1000"), 100),
        ] {
            assert_eq!(per_page(query), want, "{query:?}");
        }
    }
}
