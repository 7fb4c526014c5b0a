//! The client map: which clients there are to tell apart, and how far each region is from them.
//!
//! It depends on what is known of the world and on where regions are, never on prices or verdicts: a
//! price step leaves every leaf, and so every ECS scope, as it was.

use std::net::IpAddr;

use api_types::Location;

use crate::distance;
use crate::mask::REGIONS_MAX;
use crate::partition::{Entry, Leaf, Partition};

/// One line of a processor's cache, so that a decision waits for one.
const _: () = assert!(size_of::<Class>() == 64);

/// How many regions a class lists. A seventeenth is only looked at where these do not decide.
pub const LISTED: usize = 16;

/// A part of the world whose regions can be reached, or not, together. Its word is a region's label
/// `geo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Continent {
    Africa,
    Asia,
    Europe,
    MiddleEast,
    NorthAmerica,
    Oceania,
    SouthAmerica,
}

/// A set of continents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Continents(pub u8);

/// A place that clients are at, and the part of the world that it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocationClass {
    /// `None` if nobody knows: all regions are equally far then.
    pub location: Option<Location>,
    pub continent: Option<Continent>,
}

/// The world without regions: where every address is.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    places: Vec<LocationClass>,
    /// Values are indices of `places`.
    partition: Partition,
}

/// Clients and what was measured of them.
#[derive(Debug, Clone, Copy)]
pub struct MapBlock<'a> {
    pub network: IpAddr,
    pub len: u8,
    /// Index among the places.
    pub place: u16,
    pub measured: &'a [RttCell],
}

/// One measured round-trip time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RttCell {
    /// Index among the regions, by name.
    pub region: u16,
    pub rtt_tenths: u16,
}

/// Clients that are equally far from every region. The number is the map's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

/// Every address's class, and every class's distances. See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientMap {
    /// Values are indices of `classes`.
    partition: Partition,
    classes: Vec<Class>,
    /// By place, then region.
    rows: Vec<u16>,
    /// By place: the regions by distance, then index.
    nearest: Vec<u8>,
    places: Vec<LocationClass>,
    regions: usize,
}

/// The distances of one class: what decides nearly always, in one line of the processor's cache.
#[repr(align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    /// In tenths of a millisecond, of the regions beside; ascending.
    rtts: [u16; LISTED],
    regions: [u8; LISTED],
    /// Whose row has the others.
    place: u16,
    /// A bit for each of the list that was measured.
    measured: u16,
    /// Least of the regions that are not listed; [`u16::MAX`] if all are.
    floor: u16,
    /// The place's, where it is at hand.
    continent: Option<Continent>,
    len: u8,
}

/// How far every region is from clients of one class.
#[derive(Debug, Clone, Copy)]
pub struct Distances<'a> {
    class: &'a Class,
    row: &'a [u16],
    nearest: &'a [u8],
    place: &'a LocationClass,
}

/// The distances from one place that no map has.
#[derive(Debug, Clone, PartialEq)]
pub struct Modelled {
    class: Class,
    row: Vec<u16>,
    nearest: Vec<u8>,
    place: LocationClass,
}

/// Why there is no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("{found} places, of at most {max}")]
    TooManyPlaces { found: usize, max: usize },
    #[error("{found} regions, of at most {REGIONS_MAX}")]
    TooManyRegions { found: usize },
    #[error("the network {network}/{len} is at place {place}, which there is not")]
    NoSuchPlace {
        network: IpAddr,
        len: u8,
        place: u16,
    },
    #[error("the network {network}/{len} was measured from region {region}, which there is not")]
    NoSuchRegion {
        network: IpAddr,
        len: u8,
        region: u16,
    },
}

/// Places are told apart by an index of 16 bits, and one is nowhere.
pub const PLACES_MAX: usize = u16::MAX as usize;

impl Continent {
    pub const ALL: [Self; 7] = [
        Self::Africa,
        Self::Asia,
        Self::Europe,
        Self::MiddleEast,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// By the label `geo` of regions.
    #[must_use]
    pub fn from_geo(geo: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.geo() == geo)
    }

    #[must_use]
    pub fn geo(self) -> &'static str {
        match self {
            Self::Africa => "af",
            Self::Asia => "as",
            Self::Europe => "eu",
            Self::MiddleEast => "me",
            Self::NorthAmerica => "na",
            Self::Oceania => "oc",
            Self::SouthAmerica => "sa",
        }
    }

    fn bit(self) -> u8 {
        1 << self.index()
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Africa => 0,
            Self::Asia => 1,
            Self::Europe => 2,
            Self::MiddleEast => 3,
            Self::NorthAmerica => 4,
            Self::Oceania => 5,
            Self::SouthAmerica => 6,
        }
    }
}

impl Continents {
    #[must_use]
    pub fn has(self, continent: Continent) -> bool {
        self.0 & continent.bit() != 0
    }
}

impl FromIterator<Continent> for Continents {
    fn from_iter<T: IntoIterator<Item = Continent>>(continents: T) -> Self {
        let bits = continents.into_iter().map(Continent::bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl LocationClass {
    pub const NOWHERE: Self = Self {
        location: None,
        continent: None,
    };
}

impl World {
    /// Networks are (first address, length, index among the places), in any order; within a longer one
    /// a shorter one does not count. What none covers is nowhere.
    ///
    /// # Errors
    /// If there are too many places or a network's is none of them.
    pub fn new(
        mut places: Vec<LocationClass>,
        networks: impl IntoIterator<Item = (IpAddr, u8, u16)>,
    ) -> Result<Self, MapError> {
        if places.len() > PLACES_MAX {
            return Err(MapError::TooManyPlaces {
                found: places.len(),
                max: PLACES_MAX,
            });
        }
        let nowhere = u32::try_from(places.len()).expect("checked above");
        places.push(LocationClass::NOWHERE);
        let mut wrong = None;
        let entries = networks.into_iter().map(|(network, len, place)| {
            if usize::from(place) >= places.len() {
                wrong = Some(MapError::NoSuchPlace {
                    network,
                    len,
                    place,
                });
            }
            Entry {
                network,
                len,
                value: place.into(),
            }
        });
        let partition = Partition::new(entries, nowhere, |a, b| a.cmp(&b));
        wrong.map_or(Ok(Self { places, partition }), Err)
    }

    /// Nobody knows where anybody is.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            places: vec![LocationClass::NOWHERE],
            partition: Partition::new([], 0, |a, b| a.cmp(&b)),
        }
    }

    /// The last one is nowhere.
    #[must_use]
    pub fn places(&self) -> &[LocationClass] {
        &self.places
    }

    /// The widest network around an address that is at one place, and the index of that.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> (Leaf, LocationClass) {
        let leaf = self.partition.leaf(ip);
        (leaf, self.places[leaf.value as usize])
    }

    /// All that it tells apart, as [`ClientMap::new`] takes it.
    pub fn blocks(&self) -> impl Iterator<Item = MapBlock<'static>> {
        self.partition.leaves().map(|leaf| MapBlock {
            network: leaf.network,
            len: leaf.len,
            place: u16::try_from(leaf.value).expect("an index of a place"),
            measured: &[],
        })
    }

    /// What it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.partition.bytes() + size_of_val(self.places.as_slice())
    }
}

impl ClientMap {
    /// The map of a world in which nothing was measured. `regions` are locations, by name of the region.
    ///
    /// # Errors
    /// If there are too many regions.
    pub fn modelled(world: &World, regions: &[Location]) -> Result<Self, MapError> {
        let model = Model::new(&world.places, regions)?;
        let classes = model.classes();
        // Places that are equally far from everything are one class; mostly there are none.
        let apart = (0..).zip(&model.canonical).all(|(place, of)| place == *of);
        let partition = if apart {
            world.partition.clone()
        } else {
            let canonical = |place: u32| model.canonical[place as usize].into();
            world.partition.mapped(canonical)
        };
        Ok(model.map(partition, classes))
    }

    /// The map of blocks, some of which were measured, in any order; of overlapping ones the longer
    /// counts. What none covers is nowhere. Neighbours that are equally far from everything become one.
    ///
    /// The same class may have several ids where its blocks are not neighbours. Ids do not depend on the
    /// order of the blocks.
    ///
    /// # Errors
    /// If there are too many places or regions, or a block names one that there is not.
    pub fn new<'a>(
        places: &[LocationClass],
        regions: &[Location],
        blocks: impl IntoIterator<Item = MapBlock<'a>>,
    ) -> Result<Self, MapError> {
        let mut places = places.to_vec();
        if places.last() != Some(&LocationClass::NOWHERE) {
            places.push(LocationClass::NOWHERE);
        }
        let model = Model::new(&places, regions)?;
        let mut classes = model.classes();
        let mut entries = Vec::new();
        for block in blocks {
            let MapBlock {
                network,
                len,
                place,
                measured,
            } = block;
            let Some(&canonical) = model.canonical.get(usize::from(place)) else {
                return Err(MapError::NoSuchPlace {
                    network,
                    len,
                    place,
                });
            };
            let known = |cell: &&RttCell| usize::from(cell.region) >= regions.len();
            if let Some(unknown) = measured.iter().find(known) {
                return Err(MapError::NoSuchRegion {
                    network,
                    len,
                    region: unknown.region,
                });
            }
            let value = if measured.is_empty() {
                u32::from(canonical)
            } else {
                let next = u32::try_from(classes.len()).expect("no more classes than networks");
                classes.push(model.class(canonical, measured));
                next
            };
            entries.push(Entry {
                network,
                len,
                value,
            });
        }
        let nowhere = model.canonical.last().copied().unwrap_or(0).into();
        let partition = Partition::new(entries, nowhere, |a, b| {
            classes[a as usize].cmp(&classes[b as usize])
        });
        // By the leaves that have them, and only those that any has: clients that are near each other
        // have classes that are, and the order of the blocks is forgotten.
        let places = model.canonical.len();
        let mut renumbered = vec![u32::MAX; classes.len()];
        let mut kept = classes[..places].to_vec();
        let modelled = 0..u32::try_from(places).expect("an index of a place");
        renumbered[..places].copy_from_slice(&modelled.collect::<Vec<_>>());
        partition.for_each_value(|value| {
            let new = &mut renumbered[value as usize];
            if *new == u32::MAX {
                *new = u32::try_from(kept.len()).expect("no more classes than networks");
                kept.push(classes[value as usize]);
            }
        });
        drop(classes);
        kept.shrink_to_fit();
        let partition = partition.mapped(|value| renumbered[value as usize]);
        Ok(model.map(partition, kept))
    }

    /// The leaf of an address; its value is the number of its [`ClassId`].
    #[must_use]
    pub fn leaf(&self, ip: IpAddr) -> Leaf {
        self.partition.leaf(ip)
    }

    /// All leaves, ascending, IPv4 first.
    pub fn leaves(&self) -> impl Iterator<Item = (Leaf, ClassId)> {
        self.partition
            .leaves()
            .map(|leaf| (leaf, ClassId(leaf.value)))
    }

    /// The distances of a class of this map; those of nowhere for a class of another.
    #[must_use]
    #[inline]
    pub fn distances(&self, class: ClassId) -> Distances<'_> {
        let class = self.classes.get(class.0 as usize);
        let class = class.unwrap_or(&self.classes[self.places.len() - 1]);
        let place = usize::from(class.place);
        Distances {
            class,
            row: &self.rows[place * self.regions..][..self.regions],
            nearest: &self.nearest[place * self.regions..][..self.regions],
            place: &self.places[place],
        }
    }

    /// How many classes it tells apart.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// How many runs of one class the address space has.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.partition.runs()
    }

    /// What it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.partition.bytes()
            + self.classes.capacity() * size_of::<Class>()
            + size_of_val(self.rows.as_slice())
            + size_of_val(self.nearest.as_slice())
            + size_of_val(self.places.as_slice())
    }
}

/// The distances between places and regions.
struct Model {
    rows: Vec<u16>,
    /// By place: the regions by distance, then index.
    nearest: Vec<u8>,
    places: Vec<LocationClass>,
    /// By place: the first that is as far from everything, and on the same continent.
    canonical: Vec<u16>,
    regions: usize,
}

impl Model {
    fn new(places: &[LocationClass], regions: &[Location]) -> Result<Self, MapError> {
        if regions.len() > REGIONS_MAX {
            return Err(MapError::TooManyRegions {
                found: regions.len(),
            });
        }
        if places.len() > PLACES_MAX + 1 {
            return Err(MapError::TooManyPlaces {
                found: places.len() - 1,
                max: PLACES_MAX,
            });
        }
        let mut rows = Vec::with_capacity(places.len() * regions.len());
        let mut nearest = Vec::with_capacity(places.len() * regions.len());
        for place in places {
            let (row, order) = model(place.location, regions);
            rows.extend(row);
            nearest.extend(order);
        }
        let row = |place: u16| {
            let place = usize::from(place);
            (
                &rows[place * regions.len()..][..regions.len()],
                places[place].continent,
                places[place].location.is_none(),
            )
        };
        let mut order: Vec<u16> = (0..=u16::MAX).take(places.len()).collect();
        order.sort_unstable_by(|a, b| row(*a).cmp(&row(*b)).then(a.cmp(b)));
        let mut canonical = vec![0; places.len()];
        let mut first = None;
        for place in order {
            let of = first.filter(|first| row(*first) == row(place));
            first = Some(of.unwrap_or(place));
            canonical[usize::from(place)] = of.unwrap_or(place);
        }
        Ok(Self {
            rows,
            nearest,
            places: places.to_vec(),
            canonical,
            regions: regions.len(),
        })
    }

    /// Those without measurements, by place.
    fn classes(&self) -> Vec<Class> {
        let places = (0..=u16::MAX).take(self.canonical.len());
        places.map(|place| self.class(place, &[])).collect()
    }

    fn class(&self, place: u16, measured: &[RttCell]) -> Class {
        let from = usize::from(place) * self.regions;
        let row = &self.rows[from..][..self.regions];
        let nearest = &self.nearest[from..][..self.regions];
        let continent = self.places[usize::from(place)].continent;
        Class::new(place, continent, row, nearest, measured)
    }

    fn map(self, partition: Partition, classes: Vec<Class>) -> ClientMap {
        ClientMap {
            partition,
            classes,
            rows: self.rows,
            nearest: self.nearest,
            places: self.places,
            regions: self.regions,
        }
    }
}

/// The distance to each region, and the regions by distance, then index.
fn model(from: Option<Location>, regions: &[Location]) -> (Vec<u16>, Vec<u8>) {
    let rtt = |to: &Location| from.map_or(0, |from| distance::rtt_tenths(from, *to));
    let row: Vec<u16> = regions.iter().map(rtt).collect();
    let mut nearest: Vec<u8> = (0..=u8::MAX).take(row.len()).collect();
    nearest.sort_unstable_by_key(|region| (row[usize::from(*region)], *region));
    (row, nearest)
}

impl Class {
    /// Lists what was measured, and the nearest of the others. Of more measured regions than fit, the
    /// list has those that are nearest by either way of knowing; of the rest the model counts.
    fn new(
        place: u16,
        continent: Option<Continent>,
        row: &[u16],
        nearest: &[u8],
        measured: &[RttCell],
    ) -> Self {
        let mut cells: Vec<(u16, u8, u16)> = measured
            .iter()
            .filter_map(|cell| {
                let region = u8::try_from(cell.region).ok()?;
                let modelled = *row.get(usize::from(region))?;
                Some((modelled.min(cell.rtt_tenths), region, cell.rtt_tenths))
            })
            .collect();
        // Of two measurements of one region the lower counts.
        cells.sort_unstable_by_key(|(_, region, rtt)| (*region, *rtt));
        cells.dedup_by_key(|(_, region, _)| *region);
        cells.sort_unstable();
        cells.truncate(LISTED);
        let was_measured = |region: u8| cells.iter().any(|(_, of, _)| *of == region);
        let mut others = nearest
            .iter()
            .copied()
            .filter(|region| !was_measured(*region));
        let mut listed: [(u16, u8, bool); LISTED] = [(u16::MAX, u8::MAX, false); LISTED];
        let mut len = 0;
        for (_, region, rtt) in &cells {
            listed[len] = (*rtt, *region, true);
            len += 1;
        }
        while len < LISTED
            && let Some(region) = others.next()
        {
            listed[len] = (row[usize::from(region)], region, false);
            len += 1;
        }
        let floor = others
            .next()
            .map_or(u16::MAX, |region| row[usize::from(region)]);
        listed[..len].sort_unstable();
        let bits = listed.iter().enumerate();
        Self {
            rtts: listed.map(|(rtt, ..)| rtt),
            regions: listed.map(|(_, region, _)| region),
            place,
            measured: bits.fold(0, |bits, (at, (.., measured))| {
                bits | u16::from(*measured) << at
            }),
            floor,
            continent,
            len: u8::try_from(len).unwrap_or(u8::MAX),
        }
    }
}

impl Modelled {
    /// From a place that may be nowhere, to regions by name.
    #[must_use]
    pub fn new(from: LocationClass, regions: &[Location]) -> Self {
        let (row, nearest) = model(from.location, regions);
        Self {
            class: Class::new(0, from.continent, &row, &nearest, &[]),
            row,
            nearest,
            place: from,
        }
    }

    #[must_use]
    pub fn distances(&self) -> Distances<'_> {
        Distances {
            class: &self.class,
            row: &self.row,
            nearest: &self.nearest,
            place: &self.place,
        }
    }
}

impl<'a> Distances<'a> {
    /// In tenths of a millisecond, and whether it was measured; 0 to a region that there is not.
    #[must_use]
    pub fn rtt_tenths(&self, region: u16) -> (u16, bool) {
        let mut listed = self.listed().enumerate();
        let found = listed.find(|(_, cell)| cell.region == region);
        match found {
            Some((at, cell)) => (cell.rtt_tenths, self.class.measured >> at & 1 == 1),
            None => {
                let row = self.row.get(usize::from(region));
                (row.copied().unwrap_or(0), false)
            }
        }
    }

    #[must_use]
    #[inline]
    pub fn continent(&self) -> Option<Continent> {
        self.class.continent
    }

    #[must_use]
    pub fn place(&self) -> &'a LocationClass {
        self.place
    }

    /// Whether it is known where the clients are, or only what was measured of them.
    #[must_use]
    pub fn is_located(&self) -> bool {
        self.place.location.is_some()
    }

    /// Those that nearly always decide, the nearest first.
    pub fn listed(&self) -> impl Iterator<Item = RttCell> + use<'a> {
        self.list().map(|(region, rtt_tenths)| RttCell {
            region: region.into(),
            rtt_tenths,
        })
    }

    #[inline]
    pub(crate) fn list(&self) -> impl Iterator<Item = (u8, u16)> + use<'a> {
        let class = self.class;
        let each = class.regions.iter().zip(&class.rtts);
        each.take(usize::from(class.len))
            .map(|(region, rtt)| (*region, *rtt))
    }

    /// To a region that is not listed.
    #[inline]
    pub(crate) fn modelled(&self, region: u8) -> u16 {
        self.row[usize::from(region)]
    }

    /// All regions, the nearest by the model first, listed ones too.
    #[inline]
    pub(crate) fn nearest(&self) -> impl Iterator<Item = (u8, u16)> + use<'a> {
        let row = self.row;
        let each = self.nearest.iter();
        each.map(|region| (*region, row[usize::from(*region)]))
    }

    /// No region that is not listed is nearer; `None` if all are listed.
    #[must_use]
    #[inline]
    pub fn floor_tenths(&self) -> Option<u16> {
        let all = usize::from(self.class.len) == self.row.len();
        (!all).then_some(self.class.floor)
    }

    /// To every region, by index; a copy, so that the rest can be used without asking the list.
    #[must_use]
    pub fn row(&self) -> [u16; REGIONS_MAX] {
        let mut row = [0; REGIONS_MAX];
        row[..self.row.len()].copy_from_slice(self.row);
        for cell in self.listed() {
            row[usize::from(cell.region)] = cell.rtt_tenths;
        }
        row
    }
}

/// For tests that two maps have the same distances whatever their ids are.
impl PartialEq for Distances<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.row() == other.row() && self.place.continent == other.place.continent
    }
}
