//! What is known of regions and placements at one revision.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use api_types::placement::{Placement, Placements, Selector, Tier};
use api_types::{Catalog, Location, Region, RegionName};

use crate::client::Client;
use crate::map::{ClassId, ClientMap, Continents, MapError, World};
use crate::name::{self, Target};
use crate::rows::{Prepared, RegionRow, Rows};
use crate::structure::{PlacementSet, SetId, Sets, Structure};

/// All that decisions are made from. Two views of equal parts, in whatever order, decide alike.
///
/// Invariants: regions are sorted by name, each once, each with an address and a place on Earth; rows
/// have one entry for each region.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    zone: String,
    gateway_port: u16,
    regions: Arc<[Region]>,
    names: Arc<Names>,
    world: Arc<World>,
    structure: Arc<Structure>,
    rows: Vec<RegionRow>,
    slew_tenths_per_sec: u32,
    prepared: Prepared,
}

/// What has a placement of its own.
#[derive(Debug, Clone, Default, PartialEq)]
struct Names {
    apps: BTreeMap<String, SetId>,
    /// By app, then function.
    fns: BTreeMap<String, BTreeMap<String, SetId>>,
}

/// What a view is made of, as it travels.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewParts {
    /// Lower case, no trailing dot.
    pub zone: String,
    /// TCP port of every gateway.
    pub gateway_port: u16,
    pub regions: Vec<Region>,
    pub placed_apps: Vec<PlacedApp>,
    pub placed_fns: Vec<PlacedFn>,
}

/// An app that restricts where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedApp {
    pub name: String,
    /// Names of regions inside. One that the view does not hold admits nothing.
    pub regions: Vec<String>,
    /// Residency: never elsewhere. Otherwise elsewhere only while none of these serves.
    pub strict: bool,
}

/// A function with a placement of its own, which narrows its app's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFn {
    pub app: String,
    pub name: String,
    /// Names of regions inside its own placement, whether or not the app's admits them too.
    pub regions: Vec<String>,
    pub strict: bool,
}

/// Why parts make no view. Whoever meets one keeps the view it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    #[error("zone {zone:?} is not a lower-case domain name")]
    Zone { zone: String },
    #[error("region {region} is listed twice")]
    RegionTwice { region: RegionName },
    #[error("region {region} has no address")]
    NoAddress { region: RegionName },
    #[error("region {region} is nowhere on Earth")]
    NoPlace { region: RegionName },
    #[error("the placement of {name:?} is listed twice")]
    PlacedTwice { name: String },
    #[error("no client map can be made")]
    Map(#[source] MapError),
}

impl ViewParts {
    /// Of all that there is, with selectors resolved to the regions they admit. The apps and
    /// functions may have names that are no DNS names.
    #[must_use]
    pub fn new(zone: String, gateway_port: u16, catalog: &Catalog, regions: Vec<Region>) -> Self {
        let inside = |placement: &Placement| -> Vec<String> {
            let inside = regions.iter().filter(|region| placement.admits(region));
            inside.map(|region| region.name.to_string()).collect()
        };
        let placed_apps = catalog.apps().filter_map(|app| {
            let placement = app.placement()?;
            Some(PlacedApp {
                name: app.name.clone(),
                regions: inside(&placement),
                strict: placement.strict,
            })
        });
        let placed_fns = catalog.fns().filter_map(|function| {
            let (app, placement) = (catalog.app(&function.app_id)?, function.placement()?);
            Some(PlacedFn {
                app: app.name.clone(),
                name: function.name.clone(),
                regions: inside(&placement),
                strict: placement.strict,
            })
        });
        Self {
            zone,
            gateway_port,
            placed_apps: placed_apps.collect(),
            placed_fns: placed_fns.collect(),
            regions,
        }
    }
}

impl View {
    /// Checks the parts and builds the tables. Nobody's place is known to it until it is
    /// [`Self::located`]; prices and verdicts are those of the regions until it has rows.
    ///
    /// # Errors
    /// If the parts contradict themselves.
    pub fn new(parts: ViewParts) -> Result<Self, ViewError> {
        let ViewParts {
            zone,
            gateway_port,
            mut regions,
            placed_apps,
            placed_fns,
        } = parts;
        if !is_zone(&zone) {
            return Err(ViewError::Zone { zone });
        }
        regions.sort_by(|a, b| a.name.cmp(&b.name));
        check(&regions)?;
        let set = |placements: &Placements| -> PlacementSet {
            let tiers: Vec<Tier> = regions
                .iter()
                .map(|region| placements.tier(region))
                .collect();
            PlacementSet::of(&tiers)
        };
        let mut sets = Sets::default();
        sets.intern(set(&Placements::default()));
        let mut placements = BTreeMap::new();
        let mut names = Names::default();
        for app in placed_apps {
            let placement = Placements {
                app: Some(placement(app.regions, app.strict)),
                function: None,
            };
            let id = sets.intern(set(&placement));
            if names.apps.insert(app.name.clone(), id).is_some() {
                return Err(ViewError::PlacedTwice { name: app.name });
            }
            placements.insert(app.name, placement);
        }
        for function in placed_fns {
            let of_app = placements.get(&function.app).cloned().unwrap_or_default();
            let placements = Placements {
                function: Some(placement(function.regions, function.strict)),
                ..of_app
            };
            let id = sets.intern(set(&placements));
            let of_app = names.fns.entry(function.app).or_default();
            if of_app.insert(function.name.clone(), id).is_some() {
                return Err(ViewError::PlacedTwice {
                    name: function.name,
                });
            }
        }
        let world = Arc::clone(&UNKNOWN);
        let structure = Structure::new(&regions, sets, &world).map_err(ViewError::Map)?;
        let rows: Vec<RegionRow> = regions.iter().map(row).collect();
        let prepared = Prepared::new(&structure, &rows, &[], None);
        Ok(Self {
            zone,
            gateway_port,
            regions: regions.into(),
            names: Arc::new(names),
            world,
            structure: Arc::new(structure),
            rows,
            slew_tenths_per_sec: 0,
            prepared,
        })
    }

    /// The same with the places of clients. Where `held`, a view before this one, has the same regions
    /// in the same world, its map is used again.
    ///
    /// # Errors
    /// If there are too many regions.
    pub fn located(self, world: &Arc<World>, held: Option<&Self>) -> Result<Self, ViewError> {
        let held = held.filter(|held| {
            Arc::ptr_eq(&held.world, world)
                && held.structure.names() == self.structure.names()
                && held.structure.locations() == self.structure.locations()
        });
        let map = match held {
            Some(held) => Arc::clone(held.structure.map()),
            None => {
                let map = ClientMap::modelled(world, self.structure.locations());
                Arc::new(map.map_err(ViewError::Map)?)
            }
        };
        Ok(Self {
            world: Arc::clone(world),
            structure: Arc::new(self.structure.with_map(map)),
            ..self
        })
    }

    /// The same with other rows: prices, verdicts and what else changes often. Nothing but what is
    /// worked out of them is built again.
    #[must_use]
    pub fn with_rows(&self, rows: &Rows) -> Self {
        let aligned = rows.aligned(&self.structure);
        let held = Some(&self.prepared);
        Self {
            prepared: Prepared::new(&self.structure, &aligned, &rows.heavy, held),
            rows: aligned,
            slew_tenths_per_sec: rows.slew_tenths_per_sec,
            ..self.clone()
        }
    }

    /// A client by its address, of which `source_len` bits are known (RFC 7871 SOURCE PREFIX-LENGTH).
    #[must_use]
    pub fn client(&self, ip: IpAddr, source_len: u8) -> Client {
        let leaf = self.structure.map().leaf(ip);
        let class = ClassId(leaf.value);
        let place = *self.structure.map().distances(class).place();
        Client::of_leaf(ip, source_len, leaf, place, class)
    }

    #[must_use]
    pub fn structure(&self) -> &Structure {
        &self.structure
    }

    /// By the structure's order.
    #[must_use]
    pub fn rows(&self) -> &[RegionRow] {
        &self.rows
    }

    #[must_use]
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// 0 while prices do not move.
    #[must_use]
    pub fn slew_tenths_per_sec(&self) -> u32 {
        self.slew_tenths_per_sec
    }

    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    #[must_use]
    pub fn gateway_port(&self) -> u16 {
        self.gateway_port
    }

    /// By name.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    #[must_use]
    pub fn region(&self, name: &str) -> Option<&Region> {
        let find = |region: &Region| region.name.as_str().cmp(name);
        let index = self.regions.binary_search_by(find).ok()?;
        self.regions.get(index)
    }

    /// Names of apps with a placement, ascending.
    pub fn placed_apps(&self) -> impl Iterator<Item = &str> {
        self.names.apps.keys().map(String::as_str)
    }

    /// (app, function) of functions with a placement, ascending.
    pub fn placed_fns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names
            .fns
            .iter()
            .flat_map(|(app, fns)| fns.keys().map(|name| (app.as_str(), name.as_str())))
    }

    /// Whether a name exists in the zone or is covered by its wildcard: NXDOMAIN if not, for name
    /// servers unless the server's configuration knows them.
    #[must_use]
    pub fn holds(&self, target: &Target) -> bool {
        match target {
            Target::Apex
            | Target::Invoke
            | Target::App(_)
            | Target::Fn { .. }
            | Target::Other
            | Target::At => true,
            Target::Deeper { below } => !self.has_own_name(below),
            Target::RegionAt(region) => self.region(region).is_some(),
            Target::Nameserver(_) | Target::Nothing => false,
        }
    }

    /// Whether a label below the zone is a name of its own and not the wildcard's.
    fn has_own_name(&self, label: &str) -> bool {
        match name::below_apex(label.as_bytes()) {
            Target::App(app) => self.names.apps.contains_key(&app),
            Target::Fn { app, name } => {
                self.names.apps.contains_key(&app) || self.fn_set(&app, &name).is_some()
            }
            _ => false,
        }
    }

    /// The placement set of a name; `None` for what is not steered.
    #[must_use]
    pub fn set(&self, target: &Target) -> Option<SetId> {
        let set = match target {
            Target::Apex | Target::Invoke | Target::Other | Target::Deeper { .. } => None,
            Target::App(app) => self.names.apps.get(app).copied(),
            Target::Fn { app, name } => {
                let of_app = || self.names.apps.get(app).copied();
                self.fn_set(app, name).or_else(of_app)
            }
            Target::At | Target::RegionAt(_) | Target::Nameserver(_) | Target::Nothing => {
                return None;
            }
        };
        Some(set.unwrap_or(SetId::EVERYWHERE))
    }

    fn fn_set(&self, app: &str, name: &str) -> Option<SetId> {
        self.names.fns.get(app)?.get(name).copied()
    }
}

static UNKNOWN: LazyLock<Arc<World>> = LazyLock::new(|| Arc::new(World::unknown()));

/// A region's row until rows are told apart from regions.
fn row(region: &Region) -> RegionRow {
    RegionRow {
        verdict: region.verdict,
        price_tenths: region.price_ms.saturating_mul(10),
        utilisation_permille: None,
        unreachable_from: Continents::default(),
    }
}

/// By names: selectors were resolved where the labels are.
fn placement(regions: Vec<String>, strict: bool) -> Placement {
    Placement {
        selectors: regions.into_iter().map(Selector::Name).collect(),
        strict,
    }
}

fn check(regions: &[Region]) -> Result<(), ViewError> {
    for pair in regions.windows(2) {
        if let [one, other] = pair
            && one.name == other.name
        {
            return Err(ViewError::RegionTwice {
                region: one.name.clone(),
            });
        }
    }
    for region in regions {
        let name = || region.name.clone();
        if region.ipv4.is_none() && region.ipv6.is_none() {
            return Err(ViewError::NoAddress { region: name() });
        }
        let Location {
            latitude,
            longitude,
        } = region.location;
        // Written so that what is not a number fails too.
        if !(latitude.abs() <= 90.0 && longitude.abs() <= 180.0) {
            return Err(ViewError::NoPlace { region: name() });
        }
    }
    Ok(())
}

/// RFC 1035 §2.3.4 for lengths.
fn is_zone(zone: &str) -> bool {
    let fits = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    zone.len() <= 253
        && zone
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.bytes().all(fits))
}
