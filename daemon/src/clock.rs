//! The one place where a daemon reads the wall clock.

use std::time::UNIX_EPOCH;

use api_types::Timestamp;

#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the shell reads the clock here and passes time in everywhere else"
)]
pub fn now() -> Timestamp {
    let millis = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
}

/// A fresh id: this moment and 80 random bits.
#[must_use]
pub fn mint() -> String {
    api_types::id::mint(u64::try_from(now().0).unwrap_or(0), rand::random())
}
