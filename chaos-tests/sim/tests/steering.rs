//! Small, seeded worlds. A failure prints its seed; run it again with that one in [`SEEDS`].

use api_types::Verdict;
use chaos_tests_sim::optimum::{bound, by_client, by_question};
use chaos_tests_sim::rivals::Rival;
use chaos_tests_sim::run::{Steering, run};
use chaos_tests_sim::scenarios::{self, DETECTION_SECS_MAX, Size};
use chaos_tests_sim::steered::TTL_SECS;
use chaos_tests_sim::world::{Mix, World};

const SEEDS: [u64; 3] = [1, 2, 3];

fn world(seed: u64, mix: Mix) -> World {
    scenarios::world(seed, Size::SMALL, mix)
}

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let loads = |seed| {
        let world = world(seed, Mix::STATED);
        let trace = scenarios::steady_trace(&world, Size::SMALL, 0.8);
        let steering = Steering::Rival(Rival::StaticWeights);
        let record = run(&world, &steering, &trace);
        let seconds = record.seconds.iter();
        seconds
            .map(|second| second.current.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(loads(7), loads(7));
    assert_ne!(loads(7), loads(8));
}

#[test]
fn no_prices_bound_the_optimum_from_above_and_its_own_meet_it() {
    for seed in SEEDS {
        let world = world(seed, Mix::STATED);
        let trace = scenarios::steady_trace(&world, Size::SMALL, 0.9);
        let demand = scenarios::demand(&world, &trace, 0);
        let caps = scenarios::caps(&world, &[]);
        let best = scenarios::best(&world, &demand, &caps).expect("it fits");
        let optimum = &best.by_question;
        let gap = optimum.mean_ms - optimum.bound_ms;
        let within = (-1e-3..1e-3 * optimum.mean_ms).contains(&gap);
        assert!(within, "seed {seed}: {gap}");
        assert!(
            best.by_client.mean_ms <= optimum.mean_ms + 1e-3,
            "seed {seed}: telling more clients apart made it worse"
        );
        let groups = by_question(&world, &demand);
        for times in [0.0, 0.5, 0.9, 1.1, 3.0] {
            let prices: Vec<f64> = optimum
                .prices_ms
                .iter()
                .map(|price| price * times)
                .collect();
            let bound = bound(&groups, &caps, &prices);
            assert!(
                bound <= optimum.mean_ms + 1e-3,
                "seed {seed}: {times}: {bound}"
            );
        }
    }
}

#[test]
fn demand_that_does_not_fit_has_no_optimum() {
    let world = world(1, Mix::IDEAL);
    let trace = scenarios::steady_trace(&world, Size::SMALL, 1.1);
    let demand = scenarios::demand(&world, &trace, 0);
    let groups = by_client(&world, &demand);
    let caps = scenarios::caps(&world, &[]);
    assert!(chaos_tests_sim::optimum::solve(&world, &groups, &caps).is_err());
}

/// Prices that the leader's own code finds from reports, with chance in all of them.
#[test]
fn the_leader_s_prices_are_near_the_optimum() {
    for seed in SEEDS {
        let world = world(seed, Mix::IDEAL);
        for utilisation in [0.6, 0.9] {
            let trace = scenarios::steady_trace(&world, Size::SMALL, utilisation);
            let demand = scenarios::demand(&world, &trace, 0);
            let best = scenarios::best(&world, &demand, &scenarios::caps(&world, &[]));
            let best = best.expect("it fits");
            let ours = Steering::Controlled;
            let (steady, record) = scenarios::steady(&world, Size::SMALL, utilisation, &ours, "");
            let times = steady.times.mean_ms / best.by_question.mean_ms;
            assert!(
                (0.94..=1.10).contains(&times),
                "seed {seed}, {utilisation}: {times} of the optimum"
            );
            let refused = record.sum(0, u32::MAX, |second| second.refused);
            assert_eq!(refused, 0, "seed {seed}, {utilisation}");
        }
    }
}

/// What the one ranking makes of right prices: the split inside the band costs little, and moves a region
/// to its target and not beyond.
#[test]
fn answers_at_right_prices_are_near_the_optimum() {
    for seed in SEEDS {
        let world = world(seed, Mix::IDEAL);
        for utilisation in [0.6, 0.95] {
            let trace = scenarios::steady_trace(&world, Size::SMALL, utilisation);
            let demand = scenarios::demand(&world, &trace, 0);
            let best = scenarios::best(&world, &demand, &scenarios::caps(&world, &[]));
            let best = best.expect("it fits");
            let steering = Steering::Priced(best.prices_ms.clone());
            let (steady, record) =
                scenarios::steady(&world, Size::SMALL, utilisation, &steering, "");
            let times = steady.times.mean_ms / best.by_question.mean_ms;
            // 3 % is promised of the whole size. Here a network is half a per cent of all demand, and
            // chance moves a mean by as much; rules that ignore prices are 20 % below, over targets.
            assert!(
                (0.96..=1.08).contains(&times),
                "seed {seed}, {utilisation}: {times} of the optimum"
            );
            let refused = record.sum(0, u32::MAX, |second| second.refused);
            assert_eq!(refused, 0, "seed {seed}, {utilisation}");
        }
    }
}

#[test]
fn a_lost_region_leaves_the_answers_and_takes_no_other_with_it() {
    for seed in SEEDS {
        let world = world(seed, Mix::STATED);
        let shock = scenarios::loss(&world, Size::SMALL);
        let lost = world.largest_region();
        let detected = shock.detected_secs(lost).expect("it is down");
        assert!(detected <= DETECTION_SECS_MAX, "seed {seed}: {detected} s");
        let verdicts: Vec<_> = shock
            .record
            .verdicts
            .iter()
            .map(|(_, of, to)| (*of, *to))
            .collect();
        let want = [(lost, Verdict::Down), (lost, Verdict::Healthy)];
        assert_eq!(verdicts, want, "seed {seed}");
        let (gone, back) = (
            shock.from + detected + TTL_SECS,
            shock.from + Size::SMALL.shock_secs,
        );
        let sent = |from, to| shock.record.sum(from, to, |second| second.honoured[lost]);
        assert!(sent(shock.from, gone) > 0, "seed {seed}: nobody was there");
        assert_eq!(sent(gone, back), 0, "seed {seed}");
        assert!(
            sent(back + TTL_SECS, shock.to) > 0,
            "seed {seed}: nobody returned"
        );
    }
}

#[test]
fn no_call_is_refused_that_another_region_has_room_for() {
    for seed in SEEDS {
        let world = world(seed, Mix::STATED);
        let shocks = [
            ("step", scenarios::step(&world, Size::SMALL)),
            ("loss", scenarios::loss(&world, Size::SMALL)),
            ("brownout", scenarios::brownout(&world, Size::SMALL)),
        ];
        for (case, shock) in shocks {
            let refused = shock
                .record
                .sum(0, shock.to, |second| second.refused_with_room);
            assert_eq!(refused, 0, "seed {seed}, {case}");
        }
    }
}

#[test]
fn a_doubled_continent_is_served_and_demand_comes_to_rest() {
    for seed in SEEDS {
        let world = world(seed, Mix::IDEAL);
        let shock = scenarios::step(&world, Size::SMALL);
        let end = shock.to - 30;
        let refused = shock
            .record
            .sum(shock.from, shock.to, |second| second.refused);
        assert_eq!(refused, 0, "seed {seed}");
        let full = shock
            .record
            .sum(end, shock.to, |second| second.full.iter().sum());
        let calls = shock.record.sum(end, shock.to, |second| second.calls);
        // A region of 250 calls is at its capacity by chance now and then: 4 sigma above its target.
        assert!(full * 500 <= calls, "seed {seed}: {full} of {calls}");
    }
}

/// The simulation can show a difference: rules that know no load fill regions at 95 %.
#[test]
fn rules_that_know_no_load_overfill_regions() {
    for seed in SEEDS {
        let world = world(seed, Mix::IDEAL);
        for rival in [Rival::Nearest, Rival::LatencyThenHealth] {
            let steering = Steering::Rival(rival);
            let (steady, _) = scenarios::steady(&world, Size::SMALL, 0.95, &steering, "");
            assert!(
                steady.over > 1.15,
                "seed {seed}, {rival:?}: {}",
                steady.over
            );
            assert!(
                steady.full > 0.01,
                "seed {seed}, {rival:?}: {}",
                steady.full
            );
        }
    }
}
