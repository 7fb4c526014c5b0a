//! Databases that an operator brings.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::mmdb::{
    self,
    Value::{Double, Map, Text},
};
use dns_worldmap::{OpenError, WorldMap};

/// A file that goes away with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let name = format!("tradewind-worldmap-{}-{name}.mmdb", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn open(&self) -> Result<WorldMap, OpenError> {
        WorldMap::open(&self.0)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

fn city(code: &'static str, latitude: f64, longitude: f64) -> mmdb::Value {
    Map(vec![
        ("country", Map(vec![("iso_code", Text(code))])),
        (
            "location",
            Map(vec![
                ("latitude", Double(latitude)),
                ("longitude", Double(longitude)),
            ]),
        ),
    ])
}

#[test]
fn records_of_every_known_shape_are_understood() {
    let iso_code = |code| Map(vec![("iso_code", Text(code))]);
    let file = File::new(
        "shapes",
        &mmdb::database(
            "Test-City",
            &[
                ("10.1.0.0/16", city("US", 47.6, -122.3)),
                ("10.2.0.0/16", Map(vec![("country", iso_code("DE"))])),
                ("10.3.0.0/16", Map(vec![("country_code", Text("jp"))])),
                ("10.4.0.0/16", Map(vec![("country", Text("FR"))])),
                (
                    "10.5.0.0/16",
                    Map(vec![("registered_country", iso_code("GB"))]),
                ),
                ("10.6.0.0/16", Map(vec![("country", iso_code("QQ"))])),
                ("10.7.0.0/16", city("US", 999.0, 0.0)),
                ("10.8.0.0/16", Map(vec![("country", Text("Germany"))])),
            ],
        ),
    );
    let map = file.open().unwrap();
    for (ip, want) in [
        ("10.1.9.9", Some(("US", 48, -122))),
        ("10.2.9.9", Some(("DE", 51, 10))),
        ("10.3.9.9", Some(("JP", 36, 140))),
        ("10.4.9.9", Some(("FR", 49, 2))),
        ("10.5.9.9", Some(("GB", 52, 0))),
        ("10.6.9.9", None),
        // A place that is not on Earth is not believed; the country is.
        ("10.7.9.9", Some(("US", 39, -92))),
        ("10.8.9.9", None),
        ("10.9.9.9", None),
        ("2001:db8::1", None),
    ] {
        let found = map.locate(ip.parse().unwrap());
        let whole = |degrees: f64| format!("{degrees:.0}").parse::<i32>().unwrap();
        let told = found.as_ref().map(|found| {
            let location = found.location;
            let degrees = (whole(location.latitude), whole(location.longitude));
            (found.country_code(), degrees.0, degrees.1)
        });
        let want = want.map(|(code, latitude, longitude)| (code.to_owned(), latitude, longitude));
        assert_eq!(told, want, "{ip}");
        assert!(found.is_none_or(|found| found.prefix_len == 16), "{ip}");
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_by_name() {
    let whole = mmdb::database("Test", &[("10.1.0.0/16", city("US", 47.6, -122.3))]);
    let cut = &whole[whole.len() / 2..whole.len() - 40];
    for (case, bytes) in [
        ("empty", &b""[..]),
        ("text", b"no database\n"),
        ("cut", cut),
    ] {
        let file = File::new(case, bytes);
        let error = file.open().unwrap_err();
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "{case}: {error}"
        );
        assert!(
            error.to_string().contains(file.0.to_str().unwrap()),
            "{error}"
        );
    }
    let error = WorldMap::open("/nowhere/map.mmdb".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "read the world map /nowhere/map.mmdb");
}

#[test]
fn a_database_of_other_things_is_refused() {
    let system = Map(vec![("autonomous_system_organization", Text("Example"))]);
    let file = File::new(
        "asn",
        &mmdb::database("Test-ASN", &[("10.1.0.0/16", system)]),
    );
    let error = file.open().unwrap_err();
    assert!(matches!(error, OpenError::NoPlaces { .. }), "{error}");
    assert!(error.to_string().contains("type Test-ASN"), "{error}");
}

/// Damage anywhere must be an error at start or an unknown place later, never a panic.
#[test]
fn damage_anywhere_is_survived() {
    let whole = mmdb::database(
        "Test",
        &[
            ("10.1.0.0/16", city("US", 47.6, -122.3)),
            ("10.2.0.0/15", city("DE", 50.1, 8.7)),
        ],
    );
    let sound = File::new("sound", &whole).open().unwrap();
    assert!(sound.locate("10.3.1.1".parse().unwrap()).is_some());
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xFF;
        let file = File::new("damaged", &damaged);
        match file.open() {
            Err(_) => refused += 1,
            Ok(map) => {
                for ip in ["10.1.1.1", "10.2.1.1", "10.3.1.1", "192.0.2.1", "::1"] {
                    let found = map.locate(ip.parse().unwrap());
                    let on_earth = |found: dns_worldmap::Located| {
                        found.location.latitude.abs() <= 90.0 && found.prefix_len <= 128
                    };
                    assert!(found.is_none_or(on_earth), "byte {at}, {ip}");
                }
            }
        }
    }
    assert!(refused > whole.len() / 4, "{refused} of {}", whole.len());
}

/// Of a database of cities: more places than are told apart are put on a grid.
#[test]
fn places_that_are_too_many_are_put_together() {
    let records: Vec<(String, mmdb::Value)> = (0..20_000_u32)
        .map(|n| {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 | n << 8);
            let degrees = f64::from(n) / 1_000.0;
            (format!("{ip}/24"), city("DE", 40.0 + degrees, degrees))
        })
        .collect();
    let networks: Vec<(&str, mmdb::Value)> = records
        .iter()
        .map(|(network, value)| (network.as_str(), value.clone()))
        .collect();
    let file = File::new("cities", &mmdb::database("Test-City", &networks));
    let map = file.open().unwrap();
    let world = map.world();
    // 20 degrees in steps of a quarter, and nowhere.
    assert_eq!(world.places().len(), 82);
    let (leaf, place) = world.locate("10.0.200.1".parse().unwrap());
    let near = place.location.unwrap();
    assert!((near.latitude - 40.2).abs() < 0.13, "{near:?}");
    assert!(leaf.len < 24, "{leaf:?}");
    assert_eq!(world.locate("11.0.0.0".parse().unwrap()).1.location, None);
}
