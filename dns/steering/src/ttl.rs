//! How long an answer can stay true.

/// Shorter lives would only multiply queries: a price moves once a second at most, and failing over
/// takes longer.
pub const TTL_SECS_MIN: u32 = 5;

/// Longer ones keep clients at a region that is lost.
pub const TTL_SECS_MAX: u32 = 60;

/// Seconds until a price that changes as fast as prices can could make the answer another.
///
/// `margin_tenths` is [`crate::rank::Ranked::margin_tenths`]: `None` if no other region could win.
/// Of two prices one may rise while the other falls, which is why the slew counts twice.
#[must_use]
pub fn ttl_secs(margin_tenths: Option<u32>, slew_tenths_per_sec: u32) -> u32 {
    let closing = slew_tenths_per_sec.saturating_mul(2);
    let secs = match margin_tenths {
        Some(margin) => margin.checked_div(closing).unwrap_or(TTL_SECS_MAX),
        None => TTL_SECS_MAX,
    };
    secs.clamp(TTL_SECS_MIN, TTL_SECS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lives_until_a_price_could_change_it() {
        for (case, margin_tenths, slew, want) in [
            ("within the band", Some(0), 50, 5),
            ("soon", Some(300), 50, 5),
            ("10 s", Some(1_000), 50, 10),
            ("far from any other", Some(20_000), 50, 60),
            ("no other", None, 50, 60),
            ("prices stand", Some(1), 0, 60),
            ("slew beyond all bounds", Some(u32::MAX), u32::MAX, 5),
        ] {
            assert_eq!(ttl_secs(margin_tenths, slew), want, "{case}");
        }
    }
}
