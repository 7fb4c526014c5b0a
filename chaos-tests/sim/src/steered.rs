//! Verdicts and answers, as production makes them: `global-plane-state`'s and `dns-steering`'s.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api_types::{Knowledge, Load, Region, RegionName, Revision, Timestamp, Verdict};
use dns_steering::map::{LISTED, MapBlock, Modelled, RttCell};
use dns_steering::rank::{order, rank};
use dns_steering::rows::Prepared;
use dns_steering::{
    ClassId, ClientMap, Key, LocationClass, NameHash, RegionRow, SetId, Structure, View, ViewParts,
    ttl,
};
use global_plane_state::verdicts::{Facts, LEASE_MS_DEFAULT, Monitor};

use crate::dice::Dice;
use crate::places::CITIES;
use crate::world::{World, location};

/// The default of `ttl_secs` of a DNS server.
pub const TTL_SECS: u32 = 30;

/// Verdicts and prices of regions, by index.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub verdicts: Vec<Verdict>,
    pub prices_tenths: Vec<u32>,
    pub slew_tenths_per_sec: u32,
    /// What the leader corrects targets by, in thousandths.
    pub factors_permille: Vec<u32>,
}

impl Held {
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self {
            verdicts: vec![Verdict::Healthy; world.regions.len()],
            prices_tenths: vec![0; world.regions.len()],
            slew_tenths_per_sec: 0,
            factors_permille: vec![1000; world.regions.len()],
        }
    }
}

/// A DNS server, and the spillover of every gateway.
#[derive(Debug)]
pub struct Answers {
    structure: Structure,
    prepared: Prepared,
    slew_tenths_per_sec: u32,
    /// By [`World::asked`].
    asked: Vec<(IpAddr, u8, ClassId)>,
    /// By [`World::blocks`]: the class that a gateway counts a call in, by the caller's address.
    blocks: Vec<ClassId>,
    names: Vec<NameHash>,
    /// By region: how far it is from the others.
    between: Vec<Modelled>,
}

/// Length of every network of the world.
const NETWORK_LEN: u8 = 24;

impl Answers {
    #[must_use]
    pub fn new(world: &World, held: &Held) -> Self {
        let regions: Vec<Region> = world.regions.iter().map(registered).collect();
        let locations: Vec<_> = regions.iter().map(|region| region.location).collect();
        let places: Vec<LocationClass> = CITIES
            .iter()
            .map(|city| LocationClass {
                location: Some(location(city)),
                continent: Some(city.continent),
            })
            .collect();
        // The latency map: every network of clients was measured, with an error.
        let mut dice = Dice::new(world.spec.seed ^ 0x6d61_7073);
        let mut measured = |rtt_ms: &[f64]| -> Vec<RttCell> {
            let mut cells: Vec<RttCell> = (0..)
                .zip(rtt_ms)
                .map(|(region, rtt)| RttCell {
                    region,
                    rtt_tenths: (rtt * 10.0 * dice.noise(world.spec.map_sigma)).round() as u16,
                })
                .collect();
            cells.sort_by_key(|cell| cell.rtt_tenths);
            cells.truncate(LISTED);
            cells
        };
        let of_blocks = world.blocks.iter().enumerate();
        let of_blocks = of_blocks
            .map(|(index, block)| (client_network(index), block.city, measured(&block.rtt_ms)));
        let mut networks: Vec<(IpAddr, usize, Vec<RttCell>)> = of_blocks.collect();
        for (index, asked) in world.asked.iter().enumerate() {
            if asked.block.is_none() {
                networks.push((resolver_network(index), asked.city, Vec::new()));
            }
        }
        let blocks = networks.iter().map(|(network, city, measured)| MapBlock {
            network: *network,
            len: NETWORK_LEN,
            place: *city as u16,
            measured,
        });
        let map = ClientMap::new(&places, &locations, blocks).expect("the world is within bounds");
        let view = View::new(ViewParts {
            zone: "fn.test".to_owned(),
            gateway_port: 8080,
            regions,
            placed_apps: Vec::new(),
            placed_fns: Vec::new(),
        });
        let view = view.expect("the regions are valid");
        let class = |network: IpAddr| {
            let leaf = map.leaf(network);
            (leaf.network, leaf.len, ClassId(leaf.value))
        };
        let asked = world.asked.iter().enumerate().map(|(index, asked)| {
            class(match asked.block {
                Some(block) => client_network(block),
                None => resolver_network(index),
            })
        });
        let asked = asked.collect();
        let blocks = 0..world.blocks.len();
        let blocks = blocks.map(|block| class(client_network(block)).2).collect();
        let names = 0..world.spec.names;
        let structure = view.structure().with_map(Arc::new(map));
        let near = world.regions.iter().map(|region| {
            let place = LocationClass {
                location: Some(region.location),
                continent: Some(region.continent),
            };
            Modelled::new(place, &locations)
        });
        Self {
            prepared: Prepared::new(&structure, &rows(held), &[], None),
            slew_tenths_per_sec: held.slew_tenths_per_sec,
            between: near.collect(),
            names: names
                .map(|name| NameHash::new(&format!("app-{name}"), ""))
                .collect(),
            asked,
            blocks,
            structure,
        }
    }

    /// Takes what the leader holds now, as a DNS server takes rows.
    pub fn take(&mut self, held: &Held) {
        let before = Some(&self.prepared);
        self.prepared = Prepared::new(&self.structure, &rows(held), &[], before);
        self.slew_tenths_per_sec = held.slew_tenths_per_sec;
    }

    /// The region that DNS answers with, and for how long.
    #[must_use]
    pub fn answer(&self, asked: usize, name: usize) -> Option<(usize, u32)> {
        let (network, len, class) = self.asked[asked];
        let key = Key::new(network, len, self.names[name], None);
        let ranked = rank(
            &self.structure,
            &self.prepared,
            class,
            SetId::EVERYWHERE,
            key,
        );
        let ttl_secs = match self.slew_tenths_per_sec {
            0 => TTL_SECS,
            slew => ttl::ttl_secs(ranked.margin_tenths, slew),
        };
        Some((usize::from(ranked.winner?), ttl_secs))
    }

    /// The peers that a full region offers a call of this name to, best first.
    pub fn peers(&self, region: usize, name: usize, into: &mut [u16]) -> usize {
        let distances = self.between[region].distances();
        let network = IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_0000 + region as u32));
        let key = Key::new(network, 32, self.names[name], None);
        order(
            &self.structure,
            &self.prepared,
            &distances,
            SetId::EVERYWHERE,
            key,
            into,
        )
    }

    /// The class that a gateway counts calls of a block in.
    #[must_use]
    pub fn class(&self, block: usize) -> ClassId {
        self.blocks[block]
    }

    #[must_use]
    pub fn structure(&self) -> &Structure {
        &self.structure
    }
}

/// 10.0.0.0/8 has a /24 for each of 65,536 blocks.
fn client_network(block: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + ((block as u32) << 8)))
}

/// Above the blocks, in 11.0.0.0/8.
fn resolver_network(asked: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + ((asked as u32) << 8)))
}

fn rows(held: &Held) -> Vec<RegionRow> {
    let rows = held.verdicts.iter().zip(&held.prices_tenths);
    rows.map(|(verdict, price_tenths)| RegionRow {
        verdict: *verdict,
        price_tenths: *price_tenths,
        ..RegionRow::UNHEARD
    })
    .collect()
}

fn registered(place: &crate::world::Place) -> Region {
    Region {
        name: name(place),
        ipv4: Some(Ipv4Addr::LOCALHOST),
        ipv6: None,
        gateway: "127.0.0.1:8080".to_owned(),
        admin: "127.0.0.1:8081".to_owned(),
        location: place.location,
        labels: [].into(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

fn name(place: &crate::world::Place) -> RegionName {
    place.name.parse().expect("it is a region's name")
}

/// The part of the leader that judges regions by their reports.
#[derive(Debug)]
pub struct Judge {
    monitor: Monitor,
    regions: Vec<Region>,
    sequence: u64,
}

impl Judge {
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self {
            monitor: Monitor::new(0, LEASE_MS_DEFAULT),
            regions: world.regions.iter().map(registered).collect(),
            sequence: 0,
        }
    }

    pub fn hear(&mut self, region: usize, now_ms: u64, load: Load) {
        self.sequence += 1;
        let facts = Facts {
            started_at: Timestamp(0),
            sequence: self.sequence,
            draining: false,
            load,
            queued: 0,
            sizing: None,
            revision: Revision(1),
            hash: String::new(),
            bundles_missing: Vec::new(),
            following: None,
            knows: Knowledge::default(),
        };
        self.monitor
            .report(&self.regions[region].name, now_ms, facts);
    }

    /// The verdicts that changed, by region.
    pub fn evaluate(&mut self, now_ms: u64) -> Vec<(usize, Verdict)> {
        let changed = self.monitor.evaluate(now_ms, &self.regions);
        let changed = changed.into_iter().filter_map(|(name, verdict)| {
            let index = self.regions.iter().position(|each| each.name == name)?;
            self.regions[index].verdict = verdict;
            Some((index, verdict))
        });
        changed.collect()
    }
}
