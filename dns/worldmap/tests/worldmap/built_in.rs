//! What the database that ships with us says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dns_steering::map::Continent;
use dns_steering::{View, ViewParts, distance};
use dns_worldmap::{Located, WorldMap, country, explain, region, region_place};

fn locate(ip: &str) -> Option<Located> {
    WorldMap::built_in().locate(ip.parse().unwrap())
}

/// The region of a set that is nearest to a client.
fn nearest<'a>(ip: &str, regions: &[&'a str]) -> &'a str {
    let client = locate(ip).unwrap_or_else(|| panic!("{ip} is nowhere"));
    let by_distance = |name: &&&str| {
        let place = region_place(name).unwrap_or_else(|| panic!("{name} is no metro"));
        distance::rtt_tenths(client.location, place.location)
    };
    regions.iter().min_by_key(by_distance).unwrap()
}

#[test]
fn clients_of_every_continent_are_in_their_country_and_near_the_right_region() {
    let three = ["iad", "fra", "nrt"];
    for (network, ip, country, region) in [
        // Those that the demo and other tests steer by.
        ("Amazon, Virginia", "3.80.0.0", "US", "iad"),
        ("Hetzner", "46.4.0.0", "DE", "fra"),
        ("IDC Frontier", "210.140.0.0", "JP", "nrt"),
        ("University of Maryland", "128.8.0.1", "US", "iad"),
        ("MIT", "18.9.22.69", "US", "iad"),
        ("Goethe University", "141.2.1.1", "DE", "fra"),
        ("Deutsche Telekom", "91.0.0.1", "DE", "fra"),
        ("University of Tokyo", "133.11.0.1", "JP", "nrt"),
        ("Hetzner", "2a01:4f8::1", "DE", "fra"),
        ("Amazon", "2600:1f18::1", "US", "iad"),
    ] {
        let located = locate(ip).unwrap();
        assert_eq!(located.country_code(), country, "{network} {ip}");
        assert_eq!(nearest(ip, &three), region, "{network} {ip}");
    }
    let all = [
        "iad", "fra", "nrt", "gru", "jnb", "bom", "syd", "lhr", "sin",
    ];
    for (network, ip, country, region) in [
        ("University of Cape Town", "137.158.0.1", "ZA", "jnb"),
        ("University of São Paulo", "143.107.0.1", "BR", "gru"),
        ("University of Sydney", "129.78.0.1", "AU", "syd"),
        ("University of Oxford", "129.67.0.1", "GB", "lhr"),
        (
            "National University of Singapore",
            "137.132.0.1",
            "SG",
            "sin",
        ),
        ("University of Toronto", "128.100.0.1", "CA", "iad"),
        ("BSNL", "117.192.0.1", "IN", "bom"),
    ] {
        let located = locate(ip).unwrap();
        assert_eq!(located.country_code(), country, "{network} {ip}");
        assert_eq!(nearest(ip, &all), region, "{network} {ip}");
    }
}

/// As `docs/operating/world-map.md` promises.
#[test]
fn whole_networks_used_by_the_demo_are_in_one_country() {
    for (first, len, country) in [
        ("3.80.0.0", 12, "US"),
        ("128.8.0.0", 16, "US"),
        ("46.4.0.0", 16, "DE"),
        ("91.0.0.0", 10, "DE"),
        ("141.2.0.0", 16, "DE"),
        ("133.11.0.0", 16, "JP"),
        ("210.140.0.0", 16, "JP"),
    ] {
        let located = locate(first).unwrap();
        assert_eq!(located.country_code(), country, "{first}");
        assert!(located.prefix_len <= len, "{first}: {}", located.prefix_len);
    }
}

#[test]
fn addresses_that_carry_an_ipv4_address_are_where_that_is() {
    let plain = locate("46.4.0.1").unwrap();
    for (ip, bits_in_front) in [
        ("::ffff:46.4.0.1", 96),
        ("64:ff9b::46.4.0.1", 96),
        ("2002:2e04:1::1", 16),
    ] {
        let located = locate(ip).unwrap();
        assert_eq!(located.location, plain.location, "{ip}");
        assert_eq!(located.prefix_len, bits_in_front + plain.prefix_len, "{ip}");
    }
}

#[test]
fn every_address_of_the_network_matched_is_in_the_same_place() {
    for ip in [
        "3.80.0.0",
        "46.4.77.1",
        "210.140.9.9",
        "128.8.0.1",
        "1.1.1.1",
    ] {
        let located = locate(ip).unwrap();
        let IpAddr::V4(ip) = ip.parse().unwrap() else {
            panic!("an IPv4 address")
        };
        let host_bits = u32::MAX.checked_shr(located.prefix_len.into()).unwrap_or(0);
        let (first, last) = (ip.to_bits() & !host_bits, ip.to_bits() | host_bits);
        let step = usize::try_from(host_bits / 64).unwrap().max(1);
        for inside in (first..=last).step_by(step) {
            let ip = std::net::Ipv4Addr::from_bits(inside);
            assert_eq!(locate(&ip.to_string()), Some(located), "{ip}");
        }
    }
}

#[test]
fn what_is_nobodys_is_nowhere() {
    for ip in [
        "127.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "::1",
        "fd00::1",
        "64:ff9b::10.0.0.1",
    ] {
        assert_eq!(locate(ip), None, "{ip}");
    }
}

/// A view without regions, by the map.
fn view() -> View {
    let parts = ViewParts {
        zone: "fn.test".to_owned(),
        gateway_port: 8080,
        regions: Vec::new(),
        placed_apps: Vec::new(),
        placed_fns: Vec::new(),
    };
    let view = View::new(parts).unwrap();
    view.located(WorldMap::built_in().world(), None).unwrap()
}

#[test]
fn one_address_stands_for_its_site_in_the_family_its_client_really_has() {
    let view = view();
    for (ip, inside) in [
        ("46.4.0.77", "46.4.0.0"),
        ("::ffff:46.4.0.77", "46.4.0.0"),
        ("64:ff9b::46.4.0.77", "46.4.0.0"),
        ("2a01:4f8:0:2::4", "2a01:4f8::"),
        // Nobody's, and so are all its neighbours.
        ("fd00:1:2:3::4", "fd00:1:2::"),
    ] {
        let client = explain::site(&view, ip.parse().unwrap());
        let site = match client.network().is_ipv4() {
            true => explain::SITE_V4,
            false => explain::SITE_V6,
        };
        assert_eq!(client, view.client(inside.parse().unwrap(), site), "{ip}");
        assert!(client.scope() <= site, "{ip}");
    }
}

/// What steering is told of the map is what the map says, up to the longest networks that are told.
#[test]
fn the_world_is_the_database_with_equal_neighbours_put_together() {
    let map = WorldMap::built_in();
    let world = map.world();
    let mut at = 1_u64;
    let mut checked = 0;
    for _ in 0..100_000 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let [a, b, c, ..] = at.to_be_bytes();
        let ip = match at % 3 {
            0 => IpAddr::from([0x20 | a & 0x1f, b, c, 0]),
            1 => IpAddr::from([a, b, c, 0]),
            _ => {
                let segment = |at: u64| u16::try_from(at & 0xffff).unwrap();
                let top = 0x2000 | segment(at >> 48) & 0x0fff;
                IpAddr::from([
                    top,
                    segment(at >> 32) & 0x0fff,
                    segment(at >> 24),
                    0,
                    0,
                    0,
                    0,
                    0,
                ])
            }
        };
        let (leaf, place) = world.locate(ip);
        let located = map.locate(ip);
        assert_eq!(
            place.location,
            located.map(|located| located.location),
            "{ip}"
        );
        assert!(leaf.len <= if ip.is_ipv4() { 24 } else { 56 }, "{ip}");
        if let Some(located) = located {
            assert!(
                leaf.len <= located.prefix_len.max(1),
                "{ip} {leaf:?} {located:?}"
            );
            checked += 1;
        }
    }
    assert!(checked > 20_000, "{checked} addresses are somewhere");
}

#[test]
fn clients_are_on_the_continent_whose_regions_are_near_them() {
    let map = WorldMap::built_in();
    for (ip, continent) in [
        ("3.80.0.0", Continent::NorthAmerica),
        ("46.4.0.0", Continent::Europe),
        ("133.11.0.1", Continent::Asia),
        ("143.107.0.1", Continent::SouthAmerica),
        ("137.158.0.1", Continent::Africa),
        ("129.78.0.1", Continent::Oceania),
    ] {
        let (_, place) = map.world().locate(ip.parse().unwrap());
        assert_eq!(place.continent, Some(continent), "{ip}");
    }
    let (_, place) = map.world().locate("10.0.0.1".parse().unwrap());
    assert_eq!(place.continent, None);
}

#[test]
fn its_digest_is_the_one_that_was_written_down() {
    let readme = include_str!("../../data/README.md");
    let sha256 = WorldMap::built_in().sha256();
    assert!(
        readme.contains(&sha256),
        "{sha256} is not in data/README.md"
    );
}

/// The file as an operator's would be read, so all of it is checked.
#[test]
fn every_part_of_it_is_sound() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/data/geo-whois-asn-country.mmdb"
    );
    let map = WorldMap::open(file.as_ref()).unwrap();
    assert_eq!(map.sha256(), WorldMap::built_in().sha256());
}

#[test]
fn every_country_of_it_has_a_place() {
    let bytes = include_bytes!("../../data/geo-whois-asn-country.mmdb");
    let reader = maxminddb::Reader::from_source(bytes.as_slice()).unwrap();
    let networks = reader.networks(maxminddb::WithinOptions::default());
    let path = maxminddb::path!["country_code"];
    let codes: BTreeSet<String> = networks
        .unwrap()
        .filter_map(|network| network.unwrap().decode_path(&path).unwrap())
        .collect();
    assert!(codes.len() > 200, "only {} countries", codes.len());
    let nowhere: Vec<&String> = codes
        .iter()
        .filter(|code| country::location(code.as_bytes().try_into().unwrap()).is_none())
        .collect();
    assert!(nowhere.is_empty(), "{nowhere:?}");
}

/// A wrong sign or a swapped axis in either table would put thousands of kilometres between them.
#[test]
fn metros_lie_in_their_countries() {
    for metro in region::region_metros() {
        let place = region_place(metro).unwrap();
        let code = place.country.to_ascii_uppercase();
        let country = country::location(code.as_bytes().try_into().unwrap()).unwrap();
        let km = distance::great_circle_km(place.location, country);
        // From Sydney to Perth it is 3 300 km, from Toronto to Vancouver 3 360.
        assert!(km < 3_500.0, "{metro} is {km} km from {code}'s centre");
    }
}

#[test]
fn regions_are_known_by_their_metro_with_or_without_a_number() {
    for (name, city) in [
        ("fra", Some("Frankfurt")),
        ("fra2", Some("Frankfurt")),
        ("nrt-2", Some("Tokyo")),
        ("akl", Some("Auckland")),
        ("yyz", Some("Toronto")),
        ("west", None),
        ("FRA", None),
        ("7", None),
        ("", None),
    ] {
        let place = region_place(name);
        assert_eq!(place.map(|place| place.city), city, "{name:?}");
    }
    let iad = region_place("iad").unwrap();
    assert_eq!((iad.geo, iad.country), ("na", "us"));
    let mut metros: Vec<&str> = region::region_metros().collect();
    metros.dedup();
    assert!(metros.is_sorted() && metros.len() >= 50);
}

/// An American must go to Ashburn rather than over an ocean, wherever in the country they are.
#[test]
fn large_countries_are_served_from_their_own_continent() {
    let all: Vec<&str> = region::region_metros().collect();
    for (code, geo) in [
        (*b"US", "na"),
        (*b"CA", "na"),
        (*b"BR", "sa"),
        (*b"RU", "eu"),
        (*b"CN", "as"),
        (*b"IN", "as"),
        (*b"AU", "oc"),
        (*b"ZA", "af"),
        (*b"NG", "af"),
        (*b"AE", "me"),
    ] {
        let from = country::location(code).unwrap();
        let nearest = all
            .iter()
            .min_by_key(|metro| distance::rtt_tenths(from, region_place(metro).unwrap().location))
            .unwrap();
        assert_eq!(region_place(nearest).unwrap().geo, geo, "{nearest}");
    }
}
