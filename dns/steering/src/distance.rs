//! How far a region is from a client that nobody measured.
//!
//! Every build works out the same integers: sums, products and roots of floating-point numbers are
//! exact to the last bit everywhere, and the sines are `libm`'s, in Rust. Those of C libraries differ.

use api_types::Location;

/// Mean radius of the Earth (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.009;

/// What the last mile, the resolver's choice of path and two TCP stacks cost over no distance.
const BASE_TENTHS: f64 = 40.0;

/// Light in fibre goes and returns over 100 km in 1.0 ms; cables are about 1.3 times as long as the
/// great circle between well-connected places (the lower end of the
/// 1.3 to 2 between measured RTT and light in fibre, because regions are well-connected places).
const TENTHS_PER_KM: f64 = 1.3 / 10.0;

/// Length of the great circle between two places, in km (haversine: exact enough for antipodes and
/// for neighbours, unlike the law of cosines).
#[must_use]
pub fn great_circle_km(from: Location, to: Location) -> f64 {
    let (from_latitude, to_latitude) = (from.latitude.to_radians(), to.latitude.to_radians());
    let squared_sine_of_half = |degrees: f64| {
        let sine = libm::sin(degrees.to_radians() / 2.0);
        sine * sine
    };
    let chord = squared_sine_of_half(to.latitude - from.latitude)
        + libm::cos(from_latitude)
            * libm::cos(to_latitude)
            * squared_sine_of_half(to.longitude - from.longitude);
    2.0 * EARTH_RADIUS_KM * libm::asin(libm::sqrt(chord.clamp(0.0, 1.0)))
}

/// The modelled round-trip time, in tenths of a millisecond: 40 for the same place, 2642 for
/// antipodes.
#[must_use]
pub fn rtt_tenths(from: Location, to: Location) -> u16 {
    let rtt = BASE_TENTHS + great_circle_km(from, to) * TENTHS_PER_KM;
    #[expect(clippy::cast_possible_truncation, reason = "between 40 and 2642")]
    let whole = libm::round(rtt) as u16;
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

    /// Every server has to have exactly these.
    #[test]
    fn time_grows_from_4_to_264_ms_with_distance() {
        for (from, to, want) in [
            (FRANKFURT, FRANKFURT, 40),
            (FRANKFURT, at(52.52, 13.41), 95),
            (FRANKFURT, at(39.04, -77.49), 891),
            (FRANKFURT, at(-50.11, -171.32), 2_642),
            (at(0.0, 0.0), at(0.0, 180.0), 2_642),
        ] {
            assert_eq!(rtt_tenths(from, to), want, "{to:?}");
        }
    }
}
