//! The world of a run: who calls from where, who resolves names for whom, and how far everything is.
//!
//! What is fixed by facts (cities, regions) and what a seed draws (networks, paths, resolvers) is all
//! settled here; a run draws only when calls come and how long they take.

use api_types::Location;
use dns_steering::distance;
use dns_steering::map::Continent;

use crate::dice::Dice;
use crate::places::{self, CITIES};

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    pub seed: u64,
    pub regions: usize,
    /// Networks of clients, a /24 each.
    pub blocks: usize,
    /// Names of functions that are called, by Zipf's law.
    pub names: usize,
    /// Calls running at once that all regions together are meant to have at most.
    pub targets: f64,
    pub mix: Mix,
    /// Of the logarithm of the factor by which a path is longer or shorter than its distance says.
    pub path_sigma: f64,
    /// The same for the error of the latency map. A low percentile of at least 20 samples is good to a
    /// few per cent.
    pub map_sigma: f64,
}

/// Shares of resolvers. What is left of 1 is asked about by resolvers with ECS.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Of demand: behind a resolver of their city's provider, without ECS.
    pub city: f64,
    /// Of demand: behind a resolver that a whole continent shares, without ECS.
    pub continent: f64,
    /// Of caches: keep answers for twice their TTL.
    pub stretch_2: f64,
    /// Of caches: keep answers for ten times their TTL.
    pub stretch_10: f64,
    /// Of caches: keep answers for 300 s at least.
    pub floor_300: f64,
    /// Of calls: over connections that are kept.
    pub keep_alive: f64,
}

impl Mix {
    /// Every resolver sends ECS and honours TTLs, and every call looks up.
    pub const IDEAL: Self = Self {
        city: 0.0,
        continent: 0.0,
        stretch_2: 0.0,
        stretch_10: 0.0,
        floor_300: 0.0,
        keep_alive: 0.0,
    };

    /// What the measurements use: a third behind their providers' resolvers, one in ten behind
    /// something continent-wide, one cache in eight that stretches TTLs, a third of calls from pools.
    pub const STATED: Self = Self {
        city: 0.35,
        continent: 0.10,
        stretch_2: 0.08,
        stretch_10: 0.02,
        floor_300: 0.03,
        keep_alive: 0.33,
    };
}

/// How a cache treats TTLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Honours,
    /// Multiplies them.
    Stretches(u32),
    /// Keeps answers for at least so many seconds.
    Floor(u32),
}

impl Cache {
    #[must_use]
    pub fn keeps_secs(self, ttl_secs: u32) -> u32 {
        match self {
            Self::Honours => ttl_secs,
            Self::Stretches(times) => ttl_secs * times,
            Self::Floor(secs) => ttl_secs.max(secs),
        }
    }
}

/// A network of clients.
#[derive(Debug, Clone)]
pub struct Block {
    /// Index in [`CITIES`].
    pub city: usize,
    /// Share of all demand on an average day.
    pub share: f64,
    /// Index in [`World::asked`]: what DNS sees when these clients look up.
    pub asked: usize,
    /// True round-trip time to each region, in ms.
    pub rtt_ms: Vec<f64>,
}

/// What DNS can tell apart: a block (by ECS), or a resolver without ECS. Also a cache.
#[derive(Debug, Clone)]
pub struct Asked {
    pub city: usize,
    pub cache: Cache,
    /// The block that ECS names; `None` for a resolver that stands for itself.
    pub block: Option<usize>,
    /// To each region, in ms, as far as it can be known: of a block what is true, of a resolver what its
    /// place says. Nobody calls from a resolver's network, so nobody measures it.
    pub rtt_ms: Vec<f64>,
}

#[derive(Debug, Clone)]
pub struct Place {
    pub name: String,
    pub location: Location,
    pub continent: Continent,
    /// Calls running at once from which on steering sheds.
    pub target: f64,
    /// Calls running at once from which on it refuses.
    pub capacity: u32,
}

/// Everything that does not change in a run.
#[derive(Debug, Clone)]
pub struct World {
    pub spec: Spec,
    pub regions: Vec<Place>,
    pub blocks: Vec<Block>,
    pub asked: Vec<Asked>,
    /// Between regions, in ms: what spillover adds.
    pub between_ms: Vec<Vec<f64>>,
    /// Weights of names.
    pub names: Vec<f64>,
}

/// Of the capacity: DESIGN's 80 %.
pub const TARGET_SHARE: f64 = 0.8;

impl World {
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        let mut dice = Dice::new(spec.seed);
        let mut places = regions(spec.regions);
        let mut world = Self {
            names: (1..=spec.names).map(|rank| 1.0 / rank as f64).collect(),
            regions: Vec::new(),
            blocks: Vec::new(),
            asked: Vec::new(),
            between_ms: Vec::new(),
            spec,
        };
        let locations: Vec<Location> = places.iter().map(|place| place.location).collect();
        world.add_blocks(&locations, &mut dice);
        world.add_resolvers(&locations, &mut dice);
        let targets = world.targets(&mut dice);
        for (place, target) in places.iter_mut().zip(targets) {
            place.target = target.round();
            place.capacity = (target / TARGET_SHARE).round() as u32;
        }
        let sigma = world.spec.path_sigma;
        for (one, from) in locations.iter().enumerate() {
            let to = locations.iter().enumerate();
            let row = to.map(|(other, to)| match one == other {
                true => 0.0,
                false => path_ms(*from, *to, sigma, &mut dice),
            });
            let row = row.collect();
            world.between_ms.push(row);
        }
        world.regions = places;
        world
    }

    fn add_blocks(&mut self, regions: &[Location], dice: &mut Dice) {
        let weights: Vec<f64> = CITIES
            .iter()
            .map(|city| city.millions * places::calls_per_head(city.continent))
            .collect();
        let all: f64 = weights.iter().sum();
        for (index, city) in CITIES.iter().enumerate() {
            // A city has as many blocks as it has demand, and at least one.
            let count = (weights[index] / all * self.spec.blocks as f64).round();
            let count = count.max(1.0) as usize;
            let harmonic: f64 = (1..=count).map(|rank| 1.0 / (rank as f64 + 4.0)).sum();
            for rank in 1..=count {
                // Zipf sizes, flattened at the head: a /24 is not a tenth of Tokyo.
                let size = 1.0 / (rank as f64 + 4.0) / harmonic;
                self.blocks.push(Block {
                    city: index,
                    share: weights[index] / all * size,
                    asked: 0,
                    rtt_ms: row_ms(location(city), regions, self.spec.path_sigma, dice),
                });
            }
        }
    }

    /// Gives each block what asks for it.
    fn add_resolvers(&mut self, regions: &[Location], dice: &mut Dice) {
        let mix = self.spec.mix;
        let mut of_city = vec![None; CITIES.len()];
        let mut of_continent = vec![None; Continent::ALL.len()];
        for block in 0..self.blocks.len() {
            let city = self.blocks[block].city;
            let kind = dice.unit();
            let continent = CITIES[city].continent;
            let slot = if kind < mix.city {
                &mut of_city[city]
            } else if kind < mix.city + mix.continent {
                let index = Continent::ALL.iter().position(|each| *each == continent);
                &mut of_continent[index.expect("it lists all")]
            } else {
                &mut None
            };
            let asked = match *slot {
                Some(asked) => asked,
                None => {
                    let ecs = kind >= mix.city + mix.continent;
                    // A continent's resolver is in its largest city, wherever the first client is.
                    let at = match kind >= mix.city && !ecs {
                        true => largest(continent),
                        false => city,
                    };
                    let rtt_ms = match ecs {
                        true => self.blocks[block].rtt_ms.clone(),
                        false => row_ms(location(&CITIES[at]), regions, 0.0, dice),
                    };
                    self.asked.push(Asked {
                        city: at,
                        cache: cache(&mix, dice),
                        block: ecs.then_some(block),
                        rtt_ms,
                    });
                    self.asked.len() - 1
                }
            };
            *slot = Some(asked);
            self.blocks[block].asked = asked;
        }
    }

    /// Half by the demand that is nearest, half equal, each off by up to a third: builders of regions
    /// guess. No region has more than 15 % of all.
    fn targets(&self, dice: &mut Dice) -> Vec<f64> {
        let count = self.spec.regions;
        let mut nearest = vec![0.0; count];
        for block in &self.blocks {
            nearest[least(&block.rtt_ms)] += block.share;
        }
        let guess = |near: &f64| {
            let wish = 0.5 * near + 0.5 / count as f64;
            wish * (0.75 + 0.5 * dice.unit())
        };
        let mut shares: Vec<f64> = nearest.iter().map(guess).collect();
        for _ in 0..20 {
            let sum: f64 = shares.iter().sum();
            for share in &mut shares {
                *share = (*share / sum).min((0.15_f64).max(1.5 / count as f64));
            }
        }
        let sum: f64 = shares.iter().sum();
        let targets = shares.iter();
        targets
            .map(|share| share / sum * self.spec.targets)
            .collect()
    }

    #[must_use]
    pub fn targets_sum(&self) -> f64 {
        self.regions.iter().map(|region| region.target).sum()
    }

    #[must_use]
    pub fn largest_region(&self) -> usize {
        let by_target = |region: &usize| self.regions[*region].target as u64;
        (0..self.regions.len()).max_by_key(by_target).unwrap_or(0)
    }

    #[must_use]
    pub fn continent(&self, block: usize) -> Continent {
        CITIES[self.blocks[block].city].continent
    }

    /// Of demand.
    #[must_use]
    pub fn continent_share(&self, continent: Continent) -> f64 {
        let blocks = 0..self.blocks.len();
        let of = blocks.filter(|block| self.continent(*block) == continent);
        of.map(|block| self.blocks[block].share).sum()
    }
}

/// Index of the least.
#[must_use]
pub fn least(values: &[f64]) -> usize {
    let indices = 0..values.len();
    let by_value = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    indices.min_by(by_value).unwrap_or(0)
}

#[must_use]
pub fn location(city: &places::City) -> Location {
    Location {
        latitude: city.latitude,
        longitude: city.longitude,
    }
}

fn largest(continent: Continent) -> usize {
    let cities = 0..CITIES.len();
    let inside = cities.filter(|city| CITIES[*city].continent == continent);
    let by_size = |a: &usize, b: &usize| CITIES[*a].millions.total_cmp(&CITIES[*b].millions);
    inside.max_by(by_size).unwrap_or(0)
}

fn cache(mix: &Mix, dice: &mut Dice) -> Cache {
    let kind = dice.unit();
    if kind < mix.stretch_2 {
        Cache::Stretches(2)
    } else if kind < mix.stretch_2 + mix.stretch_10 {
        Cache::Stretches(10)
    } else if kind < mix.stretch_2 + mix.stretch_10 + mix.floor_300 {
        Cache::Floor(300)
    } else {
        Cache::Honours
    }
}

fn path_ms(from: Location, to: Location, sigma: f64, dice: &mut Dice) -> f64 {
    f64::from(distance::rtt_tenths(from, to)) / 10.0 * dice.noise(sigma)
}

fn row_ms(from: Location, regions: &[Location], sigma: f64, dice: &mut Dice) -> Vec<f64> {
    let row = regions.iter();
    row.map(|to| path_ms(from, *to, sigma, dice)).collect()
}

/// Sorted by name, as production sorts them. Beyond the table they are at the other cities, the largest
/// first, and then again at the largest.
fn regions(count: usize) -> Vec<Place> {
    let named = places::REGIONS
        .iter()
        .filter_map(|(name, city)| Some(((*name).to_owned(), places::find(city)?)));
    let mut others: Vec<usize> = (0..CITIES.len()).collect();
    others.sort_by(|a, b| CITIES[*b].millions.total_cmp(&CITIES[*a].millions));
    let more = others.into_iter().cycle().enumerate();
    let more = more.map(|(index, city)| (format!("x{index:03}"), city));
    let mut regions: Vec<Place> = named
        .chain(more)
        .take(count)
        .map(|(name, city)| Place {
            name,
            location: location(&CITIES[city]),
            continent: CITIES[city].continent,
            target: 0.0,
            capacity: 0,
        })
        .collect();
    regions.sort_by(|a, b| a.name.cmp(&b.name));
    regions
}
