//! How a located client is told to people.

use crate::Located;

/// `DE (worldmap)`, or `unknown`.
#[must_use]
pub fn located(located: Option<&Located>) -> String {
    match located {
        Some(located) => format!("{} (worldmap)", located.country_code()),
        None => "unknown".to_owned(),
    }
}
