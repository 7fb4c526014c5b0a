//! Regions and views to decide about.

use std::net::Ipv4Addr;

use api_types::{Location, Region, Revision, Timestamp, Verdict};
use dns_steering::{Client, Place, PlacedApp, PlacedFn, Policy, View, ViewParts};

pub const ZONE: &str = "fn.test";

pub const POLICY: Policy = Policy {
    ttl_secs: 30,
    ttl_all_down_secs: 5,
};

pub fn at(latitude: f64, longitude: f64) -> Location {
    Location {
        latitude,
        longitude,
    }
}

pub fn region(name: &str, location: Location) -> Region {
    Region {
        name: name.parse().unwrap(),
        ipv4: Some(Ipv4Addr::LOCALHOST),
        ipv6: None,
        gateway: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:8081".to_owned(),
        location,
        labels: [].into(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

/// A metro by its code.
pub fn metro(name: &str) -> Region {
    let location = match name {
        "iad" => at(39.04, -77.49),
        "fra" => at(50.11, 8.68),
        "lhr" => at(51.51, -0.13),
        "nrt" => at(35.68, 139.69),
        _ => panic!("no metro {name}"),
    };
    region(name, location)
}

pub fn parts(regions: Vec<Region>) -> ViewParts {
    ViewParts {
        zone: ZONE.to_owned(),
        gateway_port: 8080,
        regions,
        placed_apps: Vec::new(),
        placed_fns: Vec::new(),
    }
}

pub fn view(parts: ViewParts) -> View {
    View::new(parts).unwrap()
}

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn placed_app(name: &str, regions: &[&str], strict: bool) -> PlacedApp {
    PlacedApp {
        name: name.to_owned(),
        regions: names(regions),
        strict,
    }
}

pub fn placed_fn(app: &str, name: &str, regions: &[&str], strict: bool) -> PlacedFn {
    PlacedFn {
        app: app.to_owned(),
        name: name.to_owned(),
        regions: names(regions),
        strict,
    }
}

/// A /24 somewhere.
pub fn client(block: &str, location: Option<Location>) -> Client {
    let place = location.map(|location| Place {
        location,
        network_len: 16,
    });
    Client::new(block.parse().unwrap(), 24, place)
}
