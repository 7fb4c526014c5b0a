//! The controller: what stands between the solved price and the published one.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeMap;

use api_types::{RegionName, Verdict};
use global_plane_prices::controller::{
    FALL_TENTHS_PER_SEC, FREEZE_MAX_MS, HALF_LIFE_MS, HOLD_MS, PERIOD_MS, RISE_TENTHS_PER_SEC,
};
use global_plane_prices::{
    Candidate, Carried, Controller, Decision, Frozen, Market, PRICE_CAP_TENTHS, PricePolicy, Room,
    Rule, Seen, SeenRegion, decayed,
};
use proptest::prelude::*;
use world::{Random, World};

fn name(region: usize) -> RegionName {
    format!("r{region}").parse().unwrap()
}

/// All regions are well, with the targets of the market's rooms.
fn seen(market: &Market) -> Seen {
    let loads = market.loads(&[]);
    let region = |(index, room): (usize, &Room)| SeenRegion {
        name: name(index),
        current: loads[index],
        target: room.target,
        capacity: room.capacity,
        report_age_ms: Some(500),
        probes_succeed: true,
        verdict: Verdict::Healthy,
        policy: PricePolicy::Free,
        ramp_permille: 1000,
    };
    Seen {
        regions: market.rooms().iter().enumerate().map(region).collect(),
        market: market.clone(),
        demand_is_back: true,
        ttl_ms: 30_000,
    }
}

/// `demand` hundreds of calls that are nearest to region 0, by 20 to 39 ms; each region has a target of
/// 10,000 calls. So many that noise does not hide what the tests are about.
fn pair(demand: u64) -> Seen {
    let mut market = Market::new(vec![Room::new(10_000_000, 12_500_000); 2]).unwrap();
    for row in 0..20_u16 {
        let candidates = [(0, 100), (1, 300 + 10 * row)]
            .map(|(region, rtt_tenths)| Candidate { region, rtt_tenths });
        market.push(demand * 5_000, false, &candidates).unwrap();
    }
    seen(&market)
}

fn carried(prices: &[u32]) -> BTreeMap<RegionName, Carried> {
    let carry = |(index, price): (usize, &u32)| {
        let carried = Carried {
            price_tenths: *price,
            factor_permille: 1000,
        };
        (name(index), carried)
    };
    prices.iter().enumerate().map(carry).collect()
}

/// Regions get what the model says.
fn follow(seen: &mut Seen, decision: &Decision) {
    let prices: Vec<u32> = decision
        .regions
        .iter()
        .map(|region| region.price_tenths)
        .collect();
    for (region, load) in seen.regions.iter_mut().zip(seen.market.loads(&prices)) {
        region.current = load;
    }
}

struct Run {
    controller: Controller,
    now_ms: u64,
}

impl Run {
    fn from(prices: &[u32]) -> Self {
        Self {
            controller: Controller::new(&carried(prices)),
            now_ms: 1_000_000,
        }
    }

    fn step(&mut self, seen: &mut Seen) -> Decision {
        self.now_ms += PERIOD_MS;
        let decision = self.controller.step(self.now_ms, seen);
        follow(seen, &decision);
        decision
    }

    fn steps(&mut self, count: usize, seen: &mut Seen) -> Decision {
        let mut last = self.step(seen);
        for _ in 1..count {
            last = self.step(seen);
        }
        last
    }
}

fn prices(decision: &Decision) -> Vec<u32> {
    decision
        .regions
        .iter()
        .map(|region| region.price_tenths)
        .collect()
}

fn rule(decision: &Decision) -> Rule {
    decision.regions[0].why.rule
}

#[test]
fn each_rule_has_its_say_and_its_price() {
    let healthy = |_: &mut SeenRegion| ();
    type Change = fn(&mut SeenRegion);
    let cases: &[(&str, u32, u64, Change, Rule, u32)] = &[
        ("nothing to do", 0, 80, healthy, Rule::Solved, 0),
        ("over target", 0, 180, healthy, Rule::Solved, 284),
        (
            "room again: a smaller step down",
            2000,
            80,
            healthy,
            Rule::FallLimited,
            1950,
        ),
        (
            "a small difference that moves nobody",
            40,
            99,
            healthy,
            Rule::DeadBand,
            40,
        ),
        ("room for certain", 40, 80, healthy, Rule::Solved, 0),
        (
            "pinned",
            70,
            180,
            |r| r.policy = PricePolicy::Pin(5),
            Rule::Pinned,
            5,
        ),
        (
            "pinned too high",
            70,
            180,
            |r| r.policy = PricePolicy::Pin(99_999),
            Rule::Pinned,
            PRICE_CAP_TENTHS,
        ),
        (
            "capped",
            900,
            180,
            |r| r.policy = PricePolicy::Cap(60),
            Rule::Capped,
            60,
        ),
        (
            "not capped by a cap above",
            0,
            80,
            |r| r.policy = PricePolicy::Cap(60),
            Rule::Solved,
            0,
        ),
        (
            "down",
            70,
            80,
            |r| r.verdict = Verdict::Down,
            Rule::NotServing,
            PRICE_CAP_TENTHS,
        ),
        (
            "draining",
            70,
            80,
            |r| r.verdict = Verdict::Draining,
            Rule::NotServing,
            PRICE_CAP_TENTHS,
        ),
        (
            "reports lost",
            2000,
            80,
            |r| r.report_age_ms = Some(60_000),
            Rule::Held { age_ms: 60_000 },
            2000,
        ),
        (
            "reports lost for long",
            2000,
            80,
            |r| r.report_age_ms = Some(HOLD_MS + HALF_LIFE_MS),
            Rule::Decayed {
                age_ms: HOLD_MS + HALF_LIFE_MS,
            },
            1000,
        ),
        (
            "reports lost for long, and probes fail",
            2000,
            80,
            |r| {
                r.report_age_ms = Some(HOLD_MS + HALF_LIFE_MS);
                r.probes_succeed = false;
            },
            Rule::Held {
                age_ms: HOLD_MS + HALF_LIFE_MS,
            },
            2000,
        ),
        (
            "recovering: little room",
            0,
            180,
            |r| {
                r.verdict = Verdict::Recovering;
                r.ramp_permille = 10;
            },
            Rule::Solved,
            417,
        ),
        (
            "no target",
            0,
            80,
            |r| r.target = 0,
            Rule::RiseLimited,
            1000,
        ),
    ];
    for (case, price, demand, change, rule, want) in cases {
        let mut seen = pair(*demand);
        let mut run = Run::from(&[*price, 0]);
        // Past the freeze, with all as it was carried.
        let frozen = Seen {
            demand_is_back: false,
            ..seen.clone()
        };
        for _ in 0..FREEZE_MAX_MS / PERIOD_MS {
            run.now_ms += PERIOD_MS;
            run.controller.step(run.now_ms, &frozen);
        }
        let lost = seen.regions[0].report_age_ms;
        change(&mut seen.regions[0]);
        if seen.regions[0].report_age_ms != lost {
            // What was heard before the reports were lost.
            run.now_ms += HALF_LIFE_MS;
        }
        let decision = run.step(&mut seen);
        let found = &decision.regions[0];
        assert_eq!(decision.frozen, None, "{case}");
        assert_eq!(found.why.rule, *rule, "{case}: {found:?}");
        assert!(found.price_tenths.abs_diff(*want) <= 4, "{case}: {found:?}");
    }
}

#[test]
fn a_price_without_reports_halves_every_half_life() {
    for (age_ms, want) in [
        (0, 800),
        (HOLD_MS, 800),
        (HOLD_MS + HALF_LIFE_MS / 2, 600),
        (HOLD_MS + HALF_LIFE_MS, 400),
        (HOLD_MS + 2 * HALF_LIFE_MS, 200),
        (HOLD_MS + 9 * HALF_LIFE_MS, 1),
        (u64::MAX, 0),
    ] {
        assert_eq!(decayed(800, age_ms), want, "{age_ms}");
    }
    assert_eq!(decayed(u32::MAX, 0), u32::MAX);
}

#[test]
fn a_new_leader_moves_nothing_until_reports_and_demand_are_back() {
    let mut seen = pair(180);
    seen.demand_is_back = false;
    seen.regions[1].report_age_ms = None;
    let mut run = Run::from(&[40, 7]);
    let decision = run.step(&mut seen);
    assert_eq!(decision.frozen, Some(Frozen::Report(name(1))));
    assert_eq!(prices(&decision), [40, 7]);
    assert_eq!(rule(&decision), Rule::Frozen);

    seen.regions[1].report_age_ms = Some(100);
    let decision = run.steps(1000, &mut seen);
    assert_eq!(
        decision.frozen,
        Some(Frozen::Demand),
        "however long it takes"
    );
    assert_eq!(prices(&decision), [40, 7]);

    // The operator's word holds meanwhile too.
    seen.regions[0].policy = PricePolicy::Pin(3);
    assert_eq!(prices(&run.step(&mut seen)), [3, 7]);
    seen.regions[0].policy = PricePolicy::Free;

    seen.demand_is_back = true;
    let decision = run.step(&mut seen);
    assert_eq!(decision.frozen, None);
    assert!(decision.regions[0].price_tenths > 100, "{decision:?}");
}

#[test]
fn a_region_that_never_reports_does_not_freeze_the_others_for_good() {
    let mut seen = pair(180);
    seen.regions[1].report_age_ms = None;
    let mut run = Run::from(&[40, 7]);
    let steps = usize::try_from(FREEZE_MAX_MS / PERIOD_MS).unwrap();
    let decision = run.steps(steps, &mut seen);
    assert_eq!(decision.frozen, Some(Frozen::Report(name(1))));
    let decision = run.step(&mut seen);
    assert_eq!(decision.frozen, None);
    assert!(matches!(decision.regions[1].why.rule, Rule::Held { .. }));
    assert_eq!(decision.regions[1].price_tenths, 7);
    // A region that does not serve is not waited for.
    seen.regions[1].verdict = Verdict::Down;
    assert_eq!(Run::from(&[40, 7]).step(&mut seen).frozen, None);
}

#[test]
fn a_region_that_returns_has_its_ramp_s_price_at_once_and_is_never_over_it() {
    let mut seen = pair(90);
    let mut run = Run::from(&[0, 0]);
    run.steps(20, &mut seen);
    // While it is away, answers are masked; here all demand is next door.
    seen.regions[0].verdict = Verdict::Down;
    assert_eq!(prices(&run.steps(20, &mut seen))[0], PRICE_CAP_TENTHS);
    seen.regions[0].verdict = Verdict::Recovering;
    for ramp_permille in [100, 100, 200, 400, 800, 1000] {
        seen.regions[0].ramp_permille = ramp_permille;
        let decision = run.step(&mut seen);
        let given = 10_000 * u64::from(ramp_permille);
        let most = given + decision.regions[0].why.dead_band;
        assert!(
            decision.regions[0].why.load <= most,
            "{ramp_permille}: {decision:?}"
        );
        assert_eq!(decision.regions[0].why.target_given, given);
    }
}

#[test]
fn a_load_that_the_model_misjudges_is_corrected_and_does_not_wind_up() {
    // Region 0 gets 1.2 times what the model says: resolvers that stretch TTLs, misjudged demand.
    let mut seen = pair(170);
    let mut run = Run::from(&[0, 0]);
    let mut decision = run.step(&mut seen);
    for _ in 0..200 {
        seen.regions[0].current = seen.regions[0].current * 12 / 10;
        decision = run.step(&mut seen);
    }
    let found = &decision.regions[0];
    let load = seen.regions[0].current * 12 / 10;
    // Without a correction it would be 12,000 calls.
    assert!(
        load <= 10_000_000 + 2 * found.why.dead_band,
        "{load} {found:?}"
    );
    assert!((780..=900).contains(&found.factor_permille), "{found:?}");

    // It is forgotten where the model is right.
    let mut quiet = pair(30);
    decision = run.steps(400, &mut quiet);
    assert_eq!(prices(&decision), [0, 0]);
    assert_eq!(decision.regions[0].factor_permille, 1000);

    // What no price can change is not heaped up.
    for policy in [PricePolicy::Pin(0), PricePolicy::Pin(PRICE_CAP_TENTHS)] {
        let mut fixed = pair(170);
        fixed.regions[0].policy = policy;
        for _ in 0..100 {
            decision = run.step(&mut fixed);
            fixed.regions[0].current = 19_000_000;
        }
        assert_eq!(decision.regions[0].factor_permille, 1000, "{policy:?}");
    }

    // Nor what a neighbour's price, which may only fall slowly, keeps here.
    let mut busy = pair(180);
    let mut run = Run::from(&[0, 5000]);
    for _ in 0..100 {
        decision = run.step(&mut busy);
        assert_eq!(decision.regions[0].factor_permille, 1000, "{decision:?}");
    }
    assert_eq!(decision.regions[1].why.rule, Rule::Solved);
}

#[test]
fn absurd_input_is_bounded() {
    let mut seen = pair(180);
    for region in &mut seen.regions {
        region.current = u64::MAX;
        region.target = u64::MAX;
        region.capacity = 0;
        region.ramp_permille = u32::MAX;
        region.policy = PricePolicy::Cap(u32::MAX);
    }
    // More regions than the market has.
    seen.regions.push(SeenRegion {
        name: name(9),
        ..seen.regions[0].clone()
    });
    for ttl_ms in [0, u64::MAX] {
        seen.ttl_ms = ttl_ms;
        let mut controller = Controller::new(&BTreeMap::from([(
            name(0),
            Carried {
                price_tenths: u32::MAX,
                factor_permille: 0,
            },
        )]));
        for now_ms in [0, u64::MAX, 5, 10_000] {
            let decision = controller.step(now_ms, &seen);
            for region in &decision.regions {
                assert!(region.price_tenths <= PRICE_CAP_TENTHS);
                assert!((500..=1500).contains(&region.factor_permille));
            }
        }
    }
    let nobody = Seen {
        regions: vec![],
        market: Market::new(vec![]).unwrap(),
        demand_is_back: true,
        ttl_ms: 30_000,
    };
    assert!(
        Controller::new(&carried(&[1]))
            .step(0, &nobody)
            .regions
            .is_empty()
    );
}

fn worlds() -> impl Strategy<Value = Market> {
    (any::<u64>(), 2..8_usize, 20..200_usize, 500..1300_u64).prop_map(
        |(seed, regions, rows, utilisation_permille)| {
            let world = World {
                regions,
                rows,
                candidates: 8,
                utilisation_permille,
                strict_every: 0,
            };
            world.market(seed)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Once prices have come to where they go, constant demand moves none of them, ever.
    #[test]
    fn constant_demand_ends_in_constant_prices(market in worlds(), start in 0..3000_u32) {
        let mut seen = seen(&market);
        let mut run = Run::from(&vec![start; market.rooms().len()]);
        // From 3000 tenths down at 50 a step, and corrections of a few TTLs.
        let settled = run.steps(150, &mut seen);
        let mut sum = 0;
        let short = |decision: &Decision| format!("{:?}", decision.regions.iter().map(|r| (r.price_tenths, r.factor_permille, r.why)).collect::<Vec<_>>());
        for _ in 0..60 {
            let decision = run.step(&mut seen);
            for (before, after) in prices(&settled).iter().zip(prices(&decision)) {
                sum += before.abs_diff(after);
            }
        }
        prop_assert_eq!(sum, 0, "{} {}", short(&settled), short(&run.step(&mut seen)));
        for region in &settled.regions {
            let target = region.why.target_given * u64::from(settled.scaled_targets_permille) / 1000;
            prop_assert!(region.why.load <= target + target / 1000 + region.why.dead_band + 1, "{} of {}", region.name, short(&settled));
        }
    }

    /// Whatever demand does, a price that no event and no operator set moves by one step at most.
    #[test]
    fn steps_are_bounded(market in worlds(), seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let mut seen = seen(&market);
        let mut run = Run::from(&vec![100; market.rooms().len()]);
        let mut last = run.step(&mut seen);
        for _ in 0..25 {
            let mut changed = Market::new(market.rooms().to_vec()).unwrap();
            for row in 0..market.rows() {
                let demand = market.demand(row) * random.below(3);
                changed.push(demand, false, market.candidates(row)).unwrap();
            }
            seen.market = changed;
            for region in &mut seen.regions {
                region.current = random.below(3 * region.target.max(1));
            }
            let decision = run.step(&mut seen);
            for (before, after) in last.regions.iter().zip(&decision.regions) {
                let rise = u64::from(after.price_tenths.saturating_sub(before.price_tenths));
                let fall = u64::from(before.price_tenths.saturating_sub(after.price_tenths));
                prop_assert!(rise * 1000 <= RISE_TENTHS_PER_SEC * PERIOD_MS);
                prop_assert!(fall * 1000 <= FALL_TENTHS_PER_SEC * PERIOD_MS);
                prop_assert!((500..=1500).contains(&after.factor_permille));
            }
            last = decision;
        }
    }
}
