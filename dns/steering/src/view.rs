//! What is known of regions and placements at one revision.

use std::collections::BTreeMap;

use api_types::placement::{Placement, Placements, Selector, Tier};
use api_types::{Catalog, Location, Region, RegionName};

use crate::name::{self, Target};

/// All that decisions are made from. Two views of equal parts, in whatever order, decide alike.
///
/// Invariants: regions are sorted by name, each once, each with an address and a place on Earth;
/// tiers have one entry for each region.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    zone: String,
    gateway_port: u16,
    regions: Vec<Region>,
    everywhere: Vec<Tier>,
    apps: BTreeMap<String, Vec<Tier>>,
    /// By app, then function.
    fns: BTreeMap<String, BTreeMap<String, Vec<Tier>>>,
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
    /// Checks the parts and builds the tables.
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
        let tiers = |placements: &Placements| -> Vec<Tier> {
            let each = regions.iter().map(|region| placements.tier(region));
            each.collect()
        };
        let everywhere = tiers(&Placements::default());
        let mut placements = BTreeMap::new();
        let mut apps = BTreeMap::new();
        for app in placed_apps {
            let placement = Placements {
                app: Some(placement(app.regions, app.strict)),
                function: None,
            };
            if apps.insert(app.name.clone(), tiers(&placement)).is_some() {
                return Err(ViewError::PlacedTwice { name: app.name });
            }
            placements.insert(app.name, placement);
        }
        let mut fns = BTreeMap::<String, BTreeMap<String, Vec<Tier>>>::new();
        for function in placed_fns {
            let of_app = placements.get(&function.app).cloned().unwrap_or_default();
            let placements = Placements {
                function: Some(placement(function.regions, function.strict)),
                ..of_app
            };
            let of_app = fns.entry(function.app).or_default();
            if of_app
                .insert(function.name.clone(), tiers(&placements))
                .is_some()
            {
                return Err(ViewError::PlacedTwice {
                    name: function.name,
                });
            }
        }
        Ok(Self {
            zone,
            gateway_port,
            regions,
            everywhere,
            apps,
            fns,
        })
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
        self.apps.keys().map(String::as_str)
    }

    /// (app, function) of functions with a placement, ascending.
    pub fn placed_fns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fns
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
            Target::App(app) => self.apps.contains_key(&app),
            Target::Fn { app, name } => {
                self.apps.contains_key(&app) || self.fn_tiers(&app, &name).is_some()
            }
            _ => false,
        }
    }

    /// By index of the region; `None` for what is not steered.
    pub(crate) fn tiers(&self, target: &Target) -> Option<&[Tier]> {
        let tiers = match target {
            Target::Apex | Target::Invoke | Target::Other | Target::Deeper { .. } => None,
            Target::App(app) => self.apps.get(app),
            Target::Fn { app, name } => self.fn_tiers(app, name).or_else(|| self.apps.get(app)),
            Target::At | Target::RegionAt(_) | Target::Nameserver(_) | Target::Nothing => {
                return None;
            }
        };
        Some(tiers.unwrap_or(&self.everywhere))
    }

    fn fn_tiers(&self, app: &str, name: &str) -> Option<&Vec<Tier>> {
        self.fns.get(app)?.get(name)
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
