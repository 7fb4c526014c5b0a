//! A database of networks and the look-up in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use api_types::{Digest, Location};
use dns_steering::client::embedded_v4;
use dns_steering::map::Continent;
use dns_steering::{LocationClass, Place, World, distance};
use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions, path};
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::{country, region};

type Bytes = Cow<'static, [u8]>;

/// A database in memory. Look-ups cost microseconds and never fail: what a database does not
/// know, or tells in a way that is not understood, is nowhere.
pub struct WorldMap {
    reader: Reader<Bytes>,
    digest: Digest,
    world: OnceLock<Arc<World>>,
}

/// Where an address is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Located {
    /// ISO 3166-1, upper case; `ZZ` if the database has a place and no country.
    pub country: [u8; 2],
    pub location: Location,
    /// Length of the network that is there, in the family of the address asked: for an IPv6 address
    /// that carries an IPv4 one, the bits in front count.
    pub prefix_len: u8,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("read the world map {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the world map {name} is not a database in MaxMind's format, or is damaged")]
    Damaged {
        name: String,
        #[source]
        source: Box<MaxMindDbError>,
    },
    #[error(
        "the world map {name} (type {kind}) has neither countries nor locations; \
         give a Country or City database"
    )]
    NoPlaces { name: String, kind: String },
}

static BUILT_IN: LazyLock<Arc<WorldMap>> = LazyLock::new(|| {
    let bytes = include_bytes!("../data/geo-whois-asn-country.mmdb");
    let map = WorldMap::new("built in", Cow::Borrowed(bytes));
    Arc::new(map.expect("a test opens the built-in world map"))
});

const NO_COUNTRY: [u8; 2] = *b"ZZ";

/// How many networks are looked at for one with a place. A database that has places has them nearly
/// everywhere.
const SAMPLED_NETWORKS: usize = 1_000;

impl WorldMap {
    /// The database that ships with us.
    ///
    /// # Panics
    /// Never: tests open it.
    #[must_use]
    pub fn built_in() -> Arc<Self> {
        Arc::clone(&BUILT_IN)
    }

    /// Reads an operator's own database into memory and checks all of it, which takes seconds for
    /// a city-level one. Blocking; for the start of a process.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or has nothing to locate clients by.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| OpenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let map = Self::new(&name, Cow::Owned(bytes))?;
        map.check().map_err(|source| OpenError::Damaged {
            name,
            source: Box::new(source),
        })?;
        Ok(map)
    }

    /// Walks the whole tree and decodes every record once.
    ///
    /// The reader's own `verify` also wants a description in the metadata, which the databases of
    /// ip-location-db, ours among them, do not have.
    fn check(&self) -> Result<(), MaxMindDbError> {
        // A tree of n nodes has n + 1 ends; a damaged one may lead back to itself.
        let ends_max = usize::try_from(self.reader.metadata().node_count)
            .map_or(usize::MAX, |nodes| nodes.saturating_add(1));
        let every_end = WithinOptions::default().include_networks_without_data();
        let mut decoded = HashSet::new();
        for (ends, network) in self.reader.networks(every_end)?.enumerate() {
            let network = network?;
            if ends >= ends_max {
                return Err(MaxMindDbError::invalid_database(
                    "the search tree leads back to itself",
                ));
            }
            if network
                .offset()
                .is_some_and(|offset| decoded.insert(offset))
            {
                network.decode::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn new(name: &str, bytes: Bytes) -> Result<Self, OpenError> {
        let damaged = |source| OpenError::Damaged {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let digest = Digest(Sha256::digest(&bytes).into());
        let reader = Reader::from_source(bytes).map_err(damaged)?;
        let mut networks = reader.networks(WithinOptions::default()).map_err(damaged)?;
        let located = networks
            .by_ref()
            .take(SAMPLED_NETWORKS)
            .any(|network| network.is_ok_and(|network| place(&network).is_some()));
        drop(networks);
        if !located {
            return Err(OpenError::NoPlaces {
                name: name.to_owned(),
                kind: reader.metadata().database_type.clone(),
            });
        }
        Ok(Self {
            reader,
            digest,
            world: OnceLock::new(),
        })
    }

    /// SHA-256 of the database, 64 hexadecimal digits: two nodes with the same locate alike.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.digest.to_string()
    }

    /// The database as steering takes it, with neighbours that are at one place put together. Made when
    /// it is first asked for, which takes a second for a million networks; later it is ready.
    pub fn world(&self) -> &Arc<World> {
        self.world.get_or_init(|| Arc::new(self.make_world()))
    }

    fn make_world(&self) -> World {
        let mut places: HashMap<Option<usize>, Option<u32>> = HashMap::new();
        let mut locations: Vec<Location> = Vec::new();
        let mut networks = Vec::new();
        // Damage is found when a database is opened; what cannot be read here is nowhere.
        let found = self.reader.networks(WithinOptions::default());
        for network in found.into_iter().flatten().flatten() {
            let Ok(prefix) = network.network() else {
                continue;
            };
            // Most networks share their record with many others.
            let location = places.entry(network.offset()).or_insert_with(|| {
                let (_, location) = place(&network)?;
                locations.push(location);
                u32::try_from(locations.len() - 1).ok()
            });
            if let Some(location) = *location {
                networks.push((prefix.ip(), prefix.prefix(), location));
            }
        }
        let (places, place_of) = classes(&locations);
        let networks = networks
            .into_iter()
            .map(|(ip, len, location)| (ip, len, place_of[location as usize]));
        World::new(places, networks).expect("places are counted, and networks have one of them")
    }

    /// Where an address is; `None` if the database does not know.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Option<Located> {
        let (ip, offset) = match embedded_v4(ip) {
            Some(embedded) => (embedded.ipv4.into(), embedded.offset),
            None => (ip, 0),
        };
        let found = self.reader.lookup(ip).ok()?;
        let (country, location) = place(&found)?;
        let network = found.network().ok()?;
        // An IPv4 address found by an entry that also covers IPv6 says nothing narrower than
        // "all of IPv4".
        let len = match network.is_ipv4() == ip.is_ipv4() {
            true => network.prefix(),
            false => 0,
        };
        Some(Located {
            country,
            location,
            prefix_len: offset + len,
        })
    }
}

/// More would have more distances than memory is worth: a database of cities is coarser than the grid
/// that fits.
const CLASSES_MAX: usize = 16_384;

/// Steps in degrees that places are put on, if there are too many: the finest that leaves few enough.
/// Of the last there are no more cells than fit.
const GRIDS: [f64; 4] = [0.25, 0.5, 1.0, 2.0];

/// Places that are told apart, and which of them each location is.
fn classes(locations: &[Location]) -> (Vec<LocationClass>, Vec<u16>) {
    let exact = |degrees: f64| degrees;
    let mut found = distinct(locations, exact);
    for grid in GRIDS {
        if found.0.len() > CLASSES_MAX {
            found = distinct(locations, |degrees: f64| (degrees / grid).round() * grid);
        }
    }
    found
}

fn distinct(
    locations: &[Location],
    on_grid: impl Fn(f64) -> f64,
) -> (Vec<LocationClass>, Vec<u16>) {
    let mut classes = Vec::new();
    let mut known = BTreeMap::new();
    let of_each = locations.iter().map(|location| {
        let location = Location {
            latitude: on_grid(location.latitude),
            longitude: on_grid(location.longitude),
        };
        let bits = (location.latitude.to_bits(), location.longitude.to_bits());
        *known.entry(bits).or_insert_with(|| {
            let index = u16::try_from(classes.len()).unwrap_or(u16::MAX);
            classes.push(LocationClass {
                location: Some(location),
                continent: continent(location),
            });
            index
        })
    });
    let of_each = of_each.collect();
    (classes, of_each)
}

/// That of the nearest metro, by which regions are named: whoever is near it reaches what it reaches.
fn continent(location: Location) -> Option<Continent> {
    let metros = region::region_metros().filter_map(region::region_place);
    let nearest = metros.min_by_key(|metro| distance::rtt_tenths(location, metro.location));
    Continent::from_geo(nearest?.geo)
}

impl fmt::Debug for WorldMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorldMap")
            .field("type", &self.reader.metadata().database_type)
            .field("sha256", &self.digest.to_string())
            .finish_non_exhaustive()
    }
}

impl Located {
    /// As steering takes it.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            location: self.location,
            network_len: self.prefix_len,
        }
    }

    /// Two letters.
    #[must_use]
    pub fn country_code(&self) -> String {
        self.country.map(char::from).iter().collect()
    }
}

/// Country and place of a record: its own place if it has one (GeoIP2 City), else its country's.
fn place<S: AsRef<[u8]>>(found: &LookupResult<'_, S>) -> Option<([u8; 2], Location)> {
    let country = country_code(found);
    let location = match own_location(found) {
        Some(location) => location,
        None => country::location(country?)?,
    };
    Some((country.unwrap_or(NO_COUNTRY), location))
}

/// GeoIP2 (`country.iso_code`), ip-location-db (`country_code`) and IPinfo (`country`) name it
/// differently. GeoIP2 has only a `registered_country` for some networks.
fn country_code<S: AsRef<[u8]>>(found: &LookupResult<'_, S>) -> Option<[u8; 2]> {
    let paths: [&[PathElement<'_>]; 4] = [
        &path!["country", "iso_code"],
        &path!["country_code"],
        &path!["country"],
        &path!["registered_country", "iso_code"],
    ];
    paths.into_iter().find_map(|path| {
        // What is of another type than expected is not it.
        let code = found.decode_path::<&str>(path).ok()??;
        let code: [u8; 2] = code.as_bytes().try_into().ok()?;
        let letters = code.iter().all(u8::is_ascii_alphabetic);
        letters.then(|| code.map(|letter| letter.to_ascii_uppercase()))
    })
}

fn own_location<S: AsRef<[u8]>>(found: &LookupResult<'_, S>) -> Option<Location> {
    let degrees = |axis| {
        let path = path!["location", axis];
        found.decode_path::<f64>(&path).ok()?
    };
    let location = Location {
        latitude: degrees("latitude")?,
        longitude: degrees("longitude")?,
    };
    let on_earth = location.latitude.abs() <= 90.0 && location.longitude.abs() <= 180.0;
    on_earth.then_some(location)
}
