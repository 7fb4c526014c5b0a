//! How long a solve takes and how far it is from the optimum, at the size that the design names.
//!
//! `cargo test --release -p global-plane-prices --test measure -- --ignored --nocapture`
#![expect(clippy::unwrap_used, reason = "a measurement fails by panicking")]

mod world;

use std::time::{Duration, Instant};

use global_plane_prices::{Market, ROWS_MAX, Room, Solution, compress, plan, solve};
use world::World;

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn report(case: &str, market: &Market, solved: &Solution, took: Duration) {
    let scaled = |room: &Room| room.target * u64::from(solved.scaled_targets_permille) / 1000;
    let targets: Vec<u64> = market.rooms().iter().map(scaled).collect();
    let over = targets
        .iter()
        .zip(&solved.loads)
        .filter(|(target, _)| **target > 0)
        .map(|(target, load)| load.saturating_sub(*target) * 100_000 / target)
        .max();
    let certificate = market.certificate(&solved.prices_tenths, &targets);
    println!(
        "{case:<34} {took:>10.1?} {:>4} evaluations, worst {:>5} of 100,000 over target, scale {}, \
         mean RTT {} us, at most {} us above the optimum, highest price {} tenths",
        solved.iterations,
        over.unwrap_or(0),
        solved.scaled_targets_permille,
        certificate.cost * 100 / i128::from(certificate.demand.max(1)),
        certificate.gap_micros(),
        solved
            .prices_tenths
            .iter()
            .zip(&targets)
            .filter(|(_, t)| **t > 0)
            .map(|(p, _)| p)
            .max()
            .unwrap_or(&0),
    );
}

/// The same demand, each row with up to `percent` more or less.
fn drifted(market: &Market, percent: u64, seed: u64) -> Market {
    let mut random = world::Random::new(seed);
    let mut drifted = Market::new(market.rooms().to_vec()).unwrap();
    for row in 0..market.rows() {
        let demand = market.demand(row) * (100 - percent + random.below(2 * percent + 1)) / 100;
        drifted
            .push(demand, market.is_strict(row), market.candidates(row))
            .unwrap();
    }
    drifted
}

#[test]
#[ignore = "a measurement, for the release profile"]
fn solving_200_regions_and_100_000_rows() {
    for utilisation_permille in [600, 800, 950, 1200] {
        let world = World {
            regions: 200,
            rows: ROWS_MAX,
            candidates: 16,
            utilisation_permille,
            strict_every: if utilisation_permille == 800 { 50 } else { 0 },
        };
        let market = world.market(7);
        println!("demand {} % of all targets", utilisation_permille / 10);
        let (first, took) = timed(|| solve(&market, &[]));
        report("  from nothing", &market, &first, took);
        for (percent, seed) in [(2, 1), (10, 2), (50, 3)] {
            let next = drifted(&market, percent, seed);
            let (warm, took) = timed(|| solve(&next, &first.prices_tenths));
            report(
                &format!("  warm, each row up to {percent} % off"),
                &next,
                &warm,
                took,
            );
        }
        let largest = (0..200).max_by_key(|region| first.loads[*region]).unwrap();
        let (plan, took) = timed(|| {
            plan::drain(
                &market,
                &first.prices_tenths,
                u16::try_from(largest).unwrap(),
            )
            .unwrap()
        });
        println!(
            "  plan without the fullest: {took:.1?}, {} calls to {} regions, +{} and +{} tenths at p50 and p99, {} above target",
            plan.drained / 1000,
            plan.moved.len(),
            plan.added_p50_tenths,
            plan.added_p99_tenths,
            plan.above_target.len(),
        );
        let mut rooms = market.rooms().to_vec();
        rooms[largest] = Room::new(0, 0);
        let lost = market.clone().with_rooms(rooms);
        let (cold, took) = timed(|| solve(&lost, &first.prices_tenths));
        report("  after the loss of the fullest", &lost, &cold, took);
        let (cold, took) = timed(|| solve(&lost, &[]));
        report("  the same from nothing", &lost, &cold, took);
    }
}

#[test]
#[ignore = "a measurement, for the release profile"]
fn compressing_a_million_blocks() {
    let world = World {
        regions: 200,
        rows: 1_000_000,
        candidates: 16,
        utilisation_permille: 800,
        strict_every: 50,
    };
    let market = world.market(7);
    let exact = market.clone();
    let ((small, compression), took) = timed(|| compress(market, ROWS_MAX));
    println!("{took:.1?}: {compression:?}");
    let (solved, took) = timed(|| solve(&small, &[]));
    report("compressed, from nothing", &small, &solved, took);
    let loads = exact.loads(&solved.prices_tenths);
    let targets = exact.rooms().iter().map(|room| room.target);
    let over = targets
        .zip(&loads)
        .map(|(target, load)| load.saturating_sub(target) * 100_000 / target)
        .max();
    println!(
        "its prices over all blocks: worst {} of 100,000 over target",
        over.unwrap_or(0)
    );
}
