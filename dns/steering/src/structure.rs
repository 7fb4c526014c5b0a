//! What changes rarely: the regions that there are, what may be placed where, and the client map.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::placement::Tier;
use api_types::{Location, Region, RegionName};

use crate::map::{ClientMap, MapError, World};
use crate::mask::RegionSet;
use crate::split::mixed;

/// Everything that a price step leaves as it is.
///
/// Regions are sorted by name, and their place in that order is their index everywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    names: Vec<RegionName>,
    locations: Vec<Location>,
    salts: Vec<u64>,
    with_ipv4: RegionSet,
    sets: Vec<PlacementSet>,
    map: Arc<ClientMap>,
}

/// Regions by what a placement says of them. Those in none of the three are forbidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementSet {
    pub placed: RegionSet,
    pub in_app: RegionSet,
    pub unplaced: RegionSet,
}

/// One of a structure's placement sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

impl SetId {
    /// Of whatever has no placement: everywhere.
    pub const EVERYWHERE: Self = Self(0);
}

impl Structure {
    /// Of regions sorted by name, each once, and sets of which the first is everywhere.
    ///
    /// # Errors
    /// If there are too many regions.
    pub(crate) fn new(regions: &[Region], sets: Sets, world: &World) -> Result<Self, MapError> {
        let locations: Vec<Location> = regions.iter().map(|region| region.location).collect();
        let map = Arc::new(ClientMap::modelled(world, &locations)?);
        let indexed = (0..).zip(regions);
        let with_ipv4 = indexed.filter(|(_, region)| region.ipv4.is_some());
        Ok(Self {
            names: regions.iter().map(|region| region.name.clone()).collect(),
            salts: regions.iter().map(|region| salt(&region.name)).collect(),
            with_ipv4: with_ipv4.map(|(index, _)| index).collect(),
            locations,
            sets: sets.sets,
            map,
        })
    }

    /// The same with another map of the same regions.
    #[must_use]
    pub fn with_map(&self, map: Arc<ClientMap>) -> Self {
        Self {
            map,
            ..self.clone()
        }
    }

    /// By index.
    #[must_use]
    pub fn names(&self) -> &[RegionName] {
        &self.names
    }

    /// By index.
    #[must_use]
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// A region's index.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<u16> {
        let found = self.names.binary_search_by(|each| each.as_str().cmp(name));
        u16::try_from(found.ok()?).ok()
    }

    /// What [`crate::split::draw`] takes for each region, by index.
    #[must_use]
    pub fn salts(&self) -> &[u64] {
        &self.salts
    }

    /// The regions that can be answered to a question for A.
    #[must_use]
    pub fn with_ipv4(&self) -> RegionSet {
        self.with_ipv4
    }

    #[must_use]
    pub fn sets(&self) -> &[PlacementSet] {
        &self.sets
    }

    #[must_use]
    pub fn map(&self) -> &Arc<ClientMap> {
        &self.map
    }
}

impl PlacementSet {
    #[must_use]
    pub fn of(tiers: &[Tier]) -> Self {
        let mut set = Self::default();
        for (index, tier) in (0..).zip(tiers) {
            if let Some(regions) = set.tier_mut(*tier) {
                regions.insert(index);
            }
        }
        set
    }

    fn tier_mut(&mut self, tier: Tier) -> Option<&mut RegionSet> {
        match tier {
            Tier::Placed => Some(&mut self.placed),
            Tier::InApp => Some(&mut self.in_app),
            Tier::Unplaced => Some(&mut self.unplaced),
            Tier::Forbidden => None,
        }
    }

    /// The tiers that may hold it, lesser ones first.
    #[must_use]
    pub fn tiers(&self) -> [(Tier, RegionSet); 3] {
        [
            (Tier::Placed, self.placed),
            (Tier::InApp, self.in_app),
            (Tier::Unplaced, self.unplaced),
        ]
    }

    #[must_use]
    pub fn tier(&self, region: u16) -> Tier {
        let found = self.tiers().into_iter().find(|(_, of)| of.has(region));
        found.map_or(Tier::Forbidden, |(tier, _)| tier)
    }
}

/// Placement sets, each once.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    sets: Vec<PlacementSet>,
    ids: BTreeMap<PlacementSet, SetId>,
}

impl Sets {
    pub(crate) fn intern(&mut self, set: PlacementSet) -> SetId {
        *self.ids.entry(set).or_insert_with(|| {
            let id = u32::try_from(self.sets.len()).expect("no more sets than apps and functions");
            self.sets.push(set);
            SetId(id)
        })
    }
}

/// A number that is fixed for ever for a region's name: other hashers may change with the compiler, and
/// then DNS servers of two builds would disagree.
#[must_use]
pub fn salt(name: &RegionName) -> u64 {
    mixed(fnv(FNV_START, name.as_str().as_bytes()))
}

pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits. It barely moves the high bits for a change in the last bytes, so mix it afterwards.
pub(crate) fn fnv(from: u64, bytes: &[u8]) -> u64 {
    let eat = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(from, eat)
}
