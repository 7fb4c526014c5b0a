//! Instants as RFC 3339 text (Fn contract 1.3).

use api_types::Timestamp;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// Go's zero time, which the `fn` CLI sends for "not set".
pub const ZERO: &str = "0001-01-01T00:00:00.000Z";

/// `2026-01-02T15:04:05.678Z`: UTC, exactly three fractional digits.
///
/// # Panics
/// Never for instants between the years 0 and 9999.
#[must_use]
pub fn format(at: Timestamp) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    let instant =
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    instant
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        ))
        .expect("every component is in range")
}

/// `2026-01-02T15:04:05Z`: to the second, as `Fn-Deadline` is (Fn contract 6.1). Rounds down.
#[must_use]
pub fn format_seconds(at: Timestamp) -> String {
    let mut text = format(at);
    text.truncate("2026-01-02T15:04:05".len());
    text.push('Z');
    text
}

/// Reads an RFC 3339 instant of any offset; `None` if it is not one.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let instant = OffsetDateTime::parse(text, &Rfc3339)
        .ok()?
        .to_offset(UtcOffset::UTC);
    i64::try_from(instant.unix_timestamp_nanos() / 1_000_000)
        .ok()
        .map(Timestamp)
}

/// Whether a client's time field means "not given": absent, empty or Go's zero time.
#[must_use]
pub fn is_unset(text: Option<&str>) -> bool {
    match text {
        None | Some("") => true,
        Some(text) => text.starts_with("0001-01-01T00:00:00"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_three_fractional_digits_and_read_back() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_366_245_678, "2026-01-02T15:04:05.678Z"),
            (1_767_366_245_600, "2026-01-02T15:04:05.600Z"),
        ] {
            assert_eq!(format(Timestamp(millis)), text);
            assert_eq!(parse(text), Some(Timestamp(millis)));
        }
        assert_eq!(
            format_seconds(Timestamp(1_767_366_245_678)),
            "2026-01-02T15:04:05Z"
        );
        assert_eq!(
            parse("2026-01-02T16:04:05.678000+01:00"),
            Some(Timestamp(1_767_366_245_678))
        );
    }
}
