//! `Fn-Deadline`: RFC 3339, written by the platform in UTC to the second.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The latest instant that `text` may stand for: one without a fraction was cut to the second.
/// `None` if it is not an instant.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let (time, offset_secs) = split_offset(time)?;
    let (clock, fraction) = match time.split_once('.') {
        Some((clock, digits)) => (clock, Some(digits)),
        None => (time, None),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let clock_secs = i64::from(hour * 3_600 + minute * 60 + second);
    let secs = days_since_epoch(year, month, day) * 86_400 + clock_secs - offset_secs;
    let within = match fraction {
        None => Duration::from_secs(1),
        Some(digits) => nanoseconds(digits)?,
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(secs).ok()?) + within)
}

/// The time, and how far its zone is ahead of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let [hours, minutes] = numbers(&time[at + 1..], ':', [2, 2])?;
    let ahead = i64::from(hours * 3_600 + minutes * 60);
    Some((
        &time[..at],
        if time[at..].starts_with('-') {
            -ahead
        } else {
            ahead
        },
    ))
}

fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u32; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

fn nanoseconds(digits: &str) -> Option<Duration> {
    let known = digits.get(..digits.len().min(9))?;
    if known.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{known:0<9}")
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// In the Gregorian calendar. Years are counted from March, so that a leap day is the last of its
/// year, and in eras of 400 years, which all have 146,097 days.
fn days_since_epoch(year: u32, month: u32, day: u32) -> i64 {
    let (year, month, day) = (i64::from(year), i64::from(month), i64::from(day));
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    const EPOCH_DAY: i64 = 719_468;
    era * 146_097 + day_of_era - EPOCH_DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_every_form_of_rfc_3339() {
        for (text, want_millis) in [
            ("1970-01-01T00:00:00Z", Some(1_000)),
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2024-02-29T12:30:45.5Z", Some(1_709_209_845_500)),
            ("2026-01-02T15:04:05.678Z", Some(1_767_366_245_678)),
            ("2026-01-02T17:04:05.678+02:00", Some(1_767_366_245_678)),
            ("2026-01-02T10:34:05.678-04:30", Some(1_767_366_245_678)),
            ("2100-03-01T00:00:00.0Z", Some(4_107_542_400_000)),
            ("2026-13-02T15:04:05Z", None),
            ("2026-01-02T25:04:05Z", None),
            ("2026-01-02T15:04:05", None),
            ("2026-01-02T15:04:05.Z", None),
            ("1969-12-31T00:00:00Z", None),
            ("soon", None),
            ("", None),
        ] {
            let want = want_millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
