//! Where regions are, by the metro codes that clouds use.

use std::collections::BTreeMap;

use api_types::Location;

/// What a region's name says about it, when its configuration does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegionPlace {
    pub city: &'static str,
    pub location: Location,
    /// Label `geo`: na, sa, eu, af, me, as or oc.
    pub geo: &'static str,
    /// Label `country`: ISO 3166-1, lower case.
    pub country: &'static str,
}

/// The place of a region named after a metro (`fra`) or after one with a number (`fra2`, `fra-2`).
#[must_use]
pub fn region_place(name: &str) -> Option<RegionPlace> {
    let metro = name
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches('-');
    let index = PLACES
        .binary_search_by_key(&metro, |(metro, ..)| *metro)
        .ok()?;
    let (_, city, latitude, longitude, geo, country) = PLACES[index];
    Some(RegionPlace {
        city,
        location: Location {
            latitude,
            longitude,
        },
        geo,
        country,
    })
}

/// Where a region is: as configured, else as its name says. `None` if neither does.
#[must_use]
pub fn region_location(
    name: &str,
    latitude: Option<f64>,
    longitude: Option<f64>,
) -> Option<Location> {
    match (latitude, longitude) {
        (Some(latitude), Some(longitude)) => Some(Location {
            latitude,
            longitude,
        }),
        _ => region_place(name).map(|place| place.location),
    }
}

/// A region's labels: as configured, else those of the place its name says.
#[must_use]
pub fn region_labels(
    name: &str,
    given: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    if let Some(labels) = given {
        return labels.clone();
    }
    region_place(name)
        .map(|place| {
            [("geo", place.geo), ("country", place.country)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into()
        })
        .unwrap_or_default()
}

/// All metro codes known, ascending.
pub fn region_metros() -> impl Iterator<Item = &'static str> {
    PLACES.iter().map(|(metro, ..)| *metro)
}

type Row = (
    &'static str,
    &'static str,
    f64,
    f64,
    &'static str,
    &'static str,
);

/// By IATA code of the metro's main airport, as clouds name their sites. Own compilation of public
/// facts; the location is the metro's, not the airport's.
const PLACES: &[Row] = &[
    ("akl", "Auckland", -36.85, 174.76, "oc", "nz"),
    ("ams", "Amsterdam", 52.37, 4.90, "eu", "nl"),
    ("arn", "Stockholm", 59.33, 18.07, "eu", "se"),
    ("ath", "Athens", 37.98, 23.73, "eu", "gr"),
    ("atl", "Atlanta", 33.75, -84.39, "na", "us"),
    ("auh", "Abu Dhabi", 24.45, 54.38, "me", "ae"),
    ("bah", "Manama", 26.23, 50.59, "me", "bh"),
    ("bcn", "Barcelona", 41.39, 2.17, "eu", "es"),
    ("ber", "Berlin", 52.52, 13.41, "eu", "de"),
    ("bkk", "Bangkok", 13.76, 100.50, "as", "th"),
    ("bne", "Brisbane", -27.47, 153.03, "oc", "au"),
    ("bog", "Bogotá", 4.71, -74.07, "sa", "co"),
    ("bom", "Mumbai", 19.08, 72.88, "as", "in"),
    ("bos", "Boston", 42.36, -71.06, "na", "us"),
    ("bru", "Brussels", 50.85, 4.35, "eu", "be"),
    ("bud", "Budapest", 47.50, 19.04, "eu", "hu"),
    ("cai", "Cairo", 30.04, 31.24, "af", "eg"),
    ("ccu", "Kolkata", 22.57, 88.36, "as", "in"),
    ("cdg", "Paris", 48.86, 2.35, "eu", "fr"),
    ("cgk", "Jakarta", -6.21, 106.85, "as", "id"),
    ("cmh", "Columbus", 39.96, -83.00, "na", "us"),
    ("cph", "Copenhagen", 55.68, 12.57, "eu", "dk"),
    ("cpt", "Cape Town", -33.92, 18.42, "af", "za"),
    ("del", "Delhi", 28.61, 77.21, "as", "in"),
    ("den", "Denver", 39.74, -104.99, "na", "us"),
    ("dfw", "Dallas", 32.78, -96.80, "na", "us"),
    ("dmm", "Dammam", 26.42, 50.09, "me", "sa"),
    ("doh", "Doha", 25.29, 51.53, "me", "qa"),
    ("dub", "Dublin", 53.35, -6.26, "eu", "ie"),
    ("dxb", "Dubai", 25.20, 55.27, "me", "ae"),
    ("ewr", "New York", 40.71, -74.01, "na", "us"),
    ("eze", "Buenos Aires", -34.60, -58.38, "sa", "ar"),
    ("fco", "Rome", 41.90, 12.50, "eu", "it"),
    ("fra", "Frankfurt", 50.11, 8.68, "eu", "de"),
    ("gig", "Rio de Janeiro", -22.91, -43.17, "sa", "br"),
    ("gru", "São Paulo", -23.55, -46.63, "sa", "br"),
    ("hel", "Helsinki", 60.17, 24.94, "eu", "fi"),
    ("hkg", "Hong Kong", 22.32, 114.17, "as", "hk"),
    ("hnd", "Tokyo", 35.68, 139.69, "as", "jp"),
    ("hyd", "Hyderabad", 17.39, 78.49, "as", "in"),
    ("iad", "Ashburn", 39.04, -77.49, "na", "us"),
    ("iah", "Houston", 29.76, -95.37, "na", "us"),
    ("icn", "Seoul", 37.57, 126.98, "as", "kr"),
    ("ist", "Istanbul", 41.01, 28.98, "eu", "tr"),
    ("jnb", "Johannesburg", -26.20, 28.05, "af", "za"),
    ("kix", "Osaka", 34.69, 135.50, "as", "jp"),
    ("kul", "Kuala Lumpur", 3.15, 101.69, "as", "my"),
    ("las", "Las Vegas", 36.17, -115.14, "na", "us"),
    ("lax", "Los Angeles", 34.05, -118.24, "na", "us"),
    ("lhr", "London", 51.51, -0.13, "eu", "gb"),
    ("lim", "Lima", -12.05, -77.04, "sa", "pe"),
    ("lis", "Lisbon", 38.72, -9.14, "eu", "pt"),
    ("los", "Lagos", 6.52, 3.38, "af", "ng"),
    ("maa", "Chennai", 13.08, 80.27, "as", "in"),
    ("mad", "Madrid", 40.42, -3.70, "eu", "es"),
    ("man", "Manchester", 53.48, -2.24, "eu", "gb"),
    ("mel", "Melbourne", -37.81, 144.96, "oc", "au"),
    ("mia", "Miami", 25.76, -80.19, "na", "us"),
    ("mnl", "Manila", 14.60, 120.98, "as", "ph"),
    ("mrs", "Marseille", 43.30, 5.37, "eu", "fr"),
    ("msp", "Minneapolis", 44.98, -93.27, "na", "us"),
    ("muc", "Munich", 48.14, 11.58, "eu", "de"),
    ("mxp", "Milan", 45.46, 9.19, "eu", "it"),
    ("nbo", "Nairobi", -1.29, 36.82, "af", "ke"),
    ("nrt", "Tokyo", 35.68, 139.69, "as", "jp"),
    ("ord", "Chicago", 41.88, -87.63, "na", "us"),
    ("osl", "Oslo", 59.91, 10.75, "eu", "no"),
    ("otp", "Bucharest", 44.43, 26.10, "eu", "ro"),
    ("pdx", "Portland", 45.52, -122.68, "na", "us"),
    ("pek", "Beijing", 39.90, 116.41, "as", "cn"),
    ("per", "Perth", -31.95, 115.86, "oc", "au"),
    ("phx", "Phoenix", 33.45, -112.07, "na", "us"),
    ("prg", "Prague", 50.08, 14.44, "eu", "cz"),
    ("pvg", "Shanghai", 31.23, 121.47, "as", "cn"),
    ("qro", "Querétaro", 20.59, -100.39, "na", "mx"),
    ("scl", "Santiago", -33.45, -70.67, "sa", "cl"),
    ("sea", "Seattle", 47.61, -122.33, "na", "us"),
    ("sfo", "San Francisco", 37.77, -122.42, "na", "us"),
    ("sgn", "Ho Chi Minh City", 10.82, 106.63, "as", "vn"),
    ("sin", "Singapore", 1.35, 103.82, "as", "sg"),
    ("sjc", "San Jose", 37.34, -121.89, "na", "us"),
    ("slc", "Salt Lake City", 40.76, -111.89, "na", "us"),
    ("sof", "Sofia", 42.70, 23.32, "eu", "bg"),
    ("syd", "Sydney", -33.87, 151.21, "oc", "au"),
    ("tlv", "Tel Aviv", 32.09, 34.78, "me", "il"),
    ("tpe", "Taipei", 25.03, 121.57, "as", "tw"),
    ("vie", "Vienna", 48.21, 16.37, "eu", "at"),
    ("waw", "Warsaw", 52.23, 21.01, "eu", "pl"),
    ("yul", "Montreal", 45.50, -73.57, "na", "ca"),
    ("yvr", "Vancouver", 49.28, -123.12, "na", "ca"),
    ("yyc", "Calgary", 51.05, -114.07, "na", "ca"),
    ("yyz", "Toronto", 43.65, -79.38, "na", "ca"),
    ("zrh", "Zurich", 47.38, 8.54, "eu", "ch"),
];
