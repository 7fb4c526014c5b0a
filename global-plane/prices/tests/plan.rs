//! What a drain would do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use global_plane_prices::{Candidate, Market, PRICE_CAP_TENTHS, Room, plan, solve};
use world::World;

/// Demand, whether strict, and candidates.
type Row<'a> = (u64, bool, &'a [(u16, u16)]);

fn market(targets: &[u64], rows: &[Row]) -> Market {
    let rooms = targets.iter().map(|target| Room::new(*target, target * 2));
    let mut market = Market::new(rooms.collect()).unwrap();
    for (demand, strict, candidates) in rows {
        let candidates = candidates.iter().map(|(region, rtt_tenths)| Candidate {
            region: *region,
            rtt_tenths: *rtt_tenths,
        });
        let candidates: Vec<Candidate> = candidates.collect();
        market.push(*demand, *strict, &candidates).unwrap();
    }
    market
}

#[test]
fn a_drain_says_who_goes_where_and_what_it_costs() {
    let market = market(
        &[20_000, 8_000, 20_000],
        &[
            (6_000, false, &[(0, 100), (1, 250), (2, 900)]),
            (4_000, false, &[(0, 100), (1, 800), (2, 500)]),
            (1_000, true, &[(0, 100)]),
            (2_000, false, &[(1, 100), (2, 120)]),
        ],
    );
    let prices = solve(&market, &[]).prices_tenths;
    let plan = plan::drain(&market, &prices, 0).unwrap();
    assert_eq!(plan.drained, 11_000);
    assert_eq!(plan.stays, 1_000);
    assert_eq!(plan.moved, [(1, 6_000), (2, 4_000)]);
    assert_eq!((plan.added_p50_tenths, plan.added_p99_tenths), (150, 400));
    assert_eq!(plan.above_target, []);
    assert_eq!(plan.scaled_targets_permille, 1000);
    assert_eq!(plan.prices_tenths, [PRICE_CAP_TENTHS, 0, 0]);
    assert_eq!(plan::drain(&market, &prices, 3), None);
}

#[test]
fn a_drain_that_does_not_fit_says_which_regions_end_above_target() {
    let near = &[(0, 100), (1, 200), (2, 200)][..];
    let market = market(
        &[20_000, 5_000, 3_000],
        &[(10_000, false, near), (1_000, true, near)],
    );
    let plan = plan::drain(&market, &[0, 0, 0], 0).unwrap();
    let above: Vec<(u16, u64)> = plan
        .above_target
        .iter()
        .map(|above| (above.region, above.target))
        .collect();
    assert_eq!(above, [(1, 5_000), (2, 3_000)]);
    assert_eq!(plan.scaled_targets_permille, 1375);
    assert_eq!(plan.stays, 0);
}

#[test]
fn what_leaves_arrives() {
    for seed in 0..20 {
        let world = World {
            regions: 9,
            rows: 300,
            candidates: 9,
            utilisation_permille: 700,
            strict_every: 7,
        };
        let market = world.market(seed);
        let before = solve(&market, &[]);
        for region in 0..9 {
            let plan = plan::drain(&market, &before.prices_tenths, region).unwrap();
            assert_eq!(plan.drained, before.loads[usize::from(region)]);
            let arrives: u64 = plan.moved.iter().map(|(_, more)| more).sum();
            assert!(
                arrives + plan.stays + 9 >= plan.drained,
                "{seed} {region}: {plan:?}"
            );
            assert!(plan.moved.iter().all(|(to, _)| *to != region));
            assert!(plan.added_p50_tenths <= plan.added_p99_tenths);
        }
    }
}
