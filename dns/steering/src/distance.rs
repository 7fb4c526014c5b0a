//! How far a region is from a client that nobody measured.

use api_types::Location;

/// Mean radius of the Earth (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.009;

/// What the last mile, the resolver's choice of path and two TCP stacks cost over no distance.
const BASE_MS: f64 = 4.0;

/// Light in fibre goes and returns over 100 km in 1.0 ms; cables are about 1.3 times as long as the
/// great circle between well-connected places (the lower end of the
/// 1.3 to 2 between measured RTT and light in fibre, because regions are well-connected places).
const MS_PER_KM: f64 = 1.3 / 100.0;

/// Length of the great circle between two places, in km (haversine: exact enough for antipodes and
/// for neighbours, unlike the law of cosines).
#[must_use]
pub fn great_circle_km(from: Location, to: Location) -> f64 {
    let (from_latitude, to_latitude) = (from.latitude.to_radians(), to.latitude.to_radians());
    let half_chord = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let chord = half_chord(to.latitude - from.latitude)
        + from_latitude.cos() * to_latitude.cos() * half_chord(to.longitude - from.longitude);
    2.0 * EARTH_RADIUS_KM * chord.clamp(0.0, 1.0).sqrt().asin()
}

/// The modelled round-trip time, in whole milliseconds: 4 for the same place, 264 for antipodes.
///
/// Whole, because the model is not better than that, and because what a decision line does not show
/// must not decide.
#[must_use]
pub fn rtt_ms(from: Location, to: Location) -> u32 {
    let rtt = BASE_MS + great_circle_km(from, to) * MS_PER_KM;
    #[expect(clippy::cast_possible_truncation, reason = "between 4 and 264")]
    let whole = rtt.round() as u32;
    whole
}
