//! What the client map costs: seconds to build, bytes, and nanoseconds a decision beside one random read
//! of as many bytes. `cargo run --release -p dns-steering --example bench_rank`.
//!
//! 1,000,000 blocks that were each measured by four regions, 4,000 places, 200 regions, 50 placement
//! sets; each decision waits for the one before, as each read of the memory does.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Location, Region, Revision, Timestamp, Verdict};
use dns_steering::map::{Continent, Continents, LISTED, MapBlock, RttCell};
use dns_steering::rank::shares;
use dns_steering::split::{WHOLE, mixed};
use dns_steering::{
    ClassId, ClientMap, Key, LocationClass, NameHash, PlacedApp, RegionRow, Rows, SetId, View,
    ViewParts, rank,
};

const REGIONS: usize = 200;
const PLACES: usize = 4_000;
const SETS: usize = 50;
const MEASURED: usize = 4;
const DECISIONS: usize = 4_000_000;

/// Deterministic, so that two runs are of the same world.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    /// Between 0 and 1.
    fn part(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// On a continent of which there are few, as people are.
    fn location(&mut self) -> Location {
        let centres = [
            (48.0, 8.0),
            (40.0, -90.0),
            (25.0, 105.0),
            (-15.0, -55.0),
            (0.0, 25.0),
            (-30.0, 145.0),
        ];
        let (north, east) = centres[self.below(centres.len())];
        Location {
            latitude: north + (self.part() - 0.5) * 25.0,
            longitude: east + (self.part() - 0.5) * 40.0,
        }
    }
}

/// First /24 and length: 3,000 networks of /16 as /24, the others as /18.
fn blocks() -> Vec<(u32, u8)> {
    let mut blocks = Vec::new();
    for top in 0..1_u32 << 16 {
        let dense = top % 22 == 0;
        let (step, len) = if dense { (1, 24) } else { (64, 18) };
        for at in (0..256).step_by(step) {
            blocks.push((top << 8 | at, len));
        }
    }
    blocks
}

fn region(index: usize, location: Location) -> Region {
    Region {
        name: format!("r{index:03}").parse().unwrap(),
        ipv4: Some(Ipv4Addr::LOCALHOST),
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location,
        labels: [].into(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(1),
    }
}

fn rows(dice: &mut Dice) -> Rows {
    let regions = (0..REGIONS).map(|index| {
        let priced = dice.below(3) == 0;
        let row = RegionRow {
            verdict: match dice.below(40) {
                0 => Verdict::Down,
                _ => Verdict::Healthy,
            },
            price_tenths: if priced { dice.below(300) as u32 } else { 0 },
            utilisation_permille: None,
            unreachable_from: Continents::default(),
        };
        (format!("r{index:03}").parse().unwrap(), row)
    });
    Rows {
        term: 1,
        sequence: 1,
        map: [0; 32],
        slew_tenths_per_sec: 0,
        regions: regions.collect(),
        heavy: Vec::new(),
    }
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Time on a processor: of what else the machine does only the caches are felt.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn nanos(spent: Duration, times: usize) -> f64 {
    spent.as_nanos() as f64 / times as f64
}

fn main() {
    let mut dice = Dice(12);
    let places: Vec<LocationClass> = (0..PLACES)
        .map(|index| LocationClass {
            location: Some(dice.location()),
            continent: Some(Continent::ALL[index % 7]),
        })
        .collect();
    let regions: Vec<Region> = (0..REGIONS).map(|n| region(n, dice.location())).collect();
    let locations: Vec<Location> = regions.iter().map(|region| region.location).collect();
    let blocks = blocks();
    let cells: Vec<[RttCell; MEASURED]> = blocks
        .iter()
        .map(|_| {
            std::array::from_fn(|_| RttCell {
                region: dice.below(REGIONS) as u16,
                rtt_tenths: 100 + dice.below(2_000) as u16,
            })
        })
        .collect();
    let place_of: Vec<u16> = blocks.iter().map(|_| dice.below(PLACES) as u16).collect();

    let before = peak_mib();
    let started = spent();
    let input = blocks.iter().zip(&cells).zip(&place_of);
    let map = ClientMap::new(
        &places,
        &locations,
        input.map(|(((at, len), measured), place)| MapBlock {
            network: Ipv4Addr::from_bits(at << 8).into(),
            len: *len,
            place: *place,
            measured,
        }),
    )
    .unwrap();
    let built = spent() - started;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "built {} blocks ({} classes, {} runs) in {:.2} s: {:.0} MiB, peak {} MiB of the process before and {} after",
        blocks.len(),
        map.classes(),
        map.runs(),
        built.as_secs_f64(),
        mib(map.bytes()),
        before,
        peak_mib(),
    );

    let placed_apps = (0..SETS - 1).map(|set| PlacedApp {
        name: format!("app{set}"),
        regions: (0..REGIONS)
            .filter(|_| set % 4 == 0 || dice.below(SETS) < set)
            .map(|index| format!("r{index:03}"))
            .collect(),
        strict: set % 2 == 0,
    });
    let view = View::new(ViewParts {
        zone: "fn.test".to_owned(),
        gateway_port: 8080,
        placed_apps: placed_apps.collect(),
        placed_fns: Vec::new(),
        regions,
    })
    .unwrap();
    let structure = view.structure().with_map(Arc::new(map));
    let map = Arc::clone(structure.map());
    let first = view.with_rows(&rows(&mut dice));
    let started = spent();
    for step in 0..100 {
        let mut rows = rows(&mut Dice(7));
        rows.regions[step].1.price_tenths += 1;
        std::hint::black_box(first.with_rows(&rows));
    }
    println!(
        "a price step takes {:.0} us",
        nanos(spent() - started, 100) / 1e3
    );
    let prepared = first.prepared();
    let sets = structure.sets().len() as u32;

    for (case, zipf) in [("Zipf(1)", true), ("uniform", false)] {
        let queries: Vec<(Ipv4Addr, SetId)> = (0..DECISIONS)
            .map(|_| {
                let rank = match zipf {
                    true => (blocks.len() as f64).powf(dice.part()) as usize - 1,
                    false => dice.below(blocks.len()),
                };
                // Neighbours in rank are no neighbours in the address space.
                let block = (rank * 700_001) % blocks.len();
                let ip = Ipv4Addr::from_bits(blocks[block].0 << 8 | 77);
                (ip, SetId(dice.below(sets as usize) as u32))
            })
            .collect();
        let name = NameHash::new("app", "");
        let mut longest = 0.0_f64;
        let (mut at, mut sum) = (0, 0_usize);
        let started = spent();
        while at < DECISIONS {
            let part = spent();
            let until = (at + DECISIONS / 100).min(DECISIONS);
            let from = at;
            while at < until {
                let (ip, set) = queries[at];
                let leaf = map.leaf(ip.into());
                let key = Key::new(leaf.network, leaf.len, name, None);
                let ranked = rank(&structure, prepared, ClassId(leaf.value), set, key);
                let winner = usize::from(ranked.winner.unwrap_or(0));
                sum += winner;
                // Always one further, which the processor cannot know before the winner.
                at += 1 + (winner >> 15);
            }
            longest = longest.max(nanos(spent() - part, until - from));
        }
        let decision = nanos(spent() - started, DECISIONS);

        let started = spent();
        let (mut at, mut lookups) = (0, 0_usize);
        while at < DECISIONS {
            let leaf = map.leaf(queries[at].0.into());
            lookups += usize::from(leaf.len);
            at += 1 + (usize::from(leaf.len) >> 15);
        }
        let lookup = nanos(spent() - started, DECISIONS);

        // The same clients read one line of a table that is as large as the map.
        // Not zeros, which would all be one page.
        let table: Vec<u64> = vec![1; map.bytes() / 8];
        let lines = table.len() / 8;
        let places: Vec<u32> = queries
            .iter()
            .map(|(ip, _)| (mixed(u64::from(ip.to_bits())) % lines as u64) as u32)
            .collect();
        let started = spent();
        let mut read = 0_usize;
        for place in &places {
            read = table[(*place as usize * 8) + read] as usize >> 1;
        }
        let random = nanos(spent() - started, DECISIONS);
        println!(
            "{case}: {decision:.0} ns a lookup and rank (slowest hundredth {longest:.0}), {lookup:.0} ns the lookup, \
             {random:.0} ns a random read ({sum} {lookups} {read})"
        );
        let split = queries.iter().take(10_000).filter(|(ip, set)| {
            let class = ClassId(map.leaf((*ip).into()).value);
            let shares = shares(prepared, &map.distances(class), *set);
            shares.iter().all(|share| *share < WHOLE)
        });
        let beyond = queries.iter().take(10_000).filter(|(ip, set)| {
            let distances = map.distances(ClassId(map.leaf((*ip).into()).value));
            let admitted = prepared.admitted(*set, distances.continent()).first();
            let listed = distances.listed().filter(|cell| admitted.has(cell.region));
            listed.count() == 0
        });
        println!(
            "  {} % are drawn within the band, {} % have none of their {LISTED} candidates admitted",
            split.count() / 100,
            beyond.count() / 100
        );
    }
}
