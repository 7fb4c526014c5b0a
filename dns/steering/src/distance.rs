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

#[cfg(test)]
mod tests {
    use super::*;

    const FRANKFURT: Location = at(50.11, 8.68);

    const fn at(latitude: f64, longitude: f64) -> Location {
        Location {
            latitude,
            longitude,
        }
    }

    #[test]
    fn distances_are_those_of_the_map() {
        for (case, to, km) in [
            ("here", FRANKFURT, 0.0),
            ("Berlin", at(52.52, 13.41), 424.0),
            ("Ashburn", at(39.04, -77.49), 6_562.0),
            ("Tokyo, over the pole", at(35.68, 139.69), 9_340.0),
            ("the antipode", at(-50.11, -171.32), 20_015.0),
        ] {
            for (from, to) in [(FRANKFURT, to), (to, FRANKFURT)] {
                let found = great_circle_km(from, to);
                assert!((found - km).abs() <= 1.0 + km * 0.003, "{case}: {found} km");
            }
        }
        let over_the_date_line = great_circle_km(at(0.0, 179.5), at(0.0, -179.5));
        assert!((over_the_date_line - 111.2).abs() < 0.1);
    }

    #[test]
    fn time_grows_from_4_to_264_ms_with_distance() {
        assert_eq!(rtt_ms(FRANKFURT, FRANKFURT), 4);
        assert_eq!(rtt_ms(FRANKFURT, at(39.04, -77.49)), 89);
        assert_eq!(rtt_ms(at(0.0, 0.0), at(0.0, 180.0)), 264);
    }
}
