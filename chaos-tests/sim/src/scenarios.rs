//! What steering must show, as runs with figures.

use api_types::Verdict;
use dns_steering::map::Continent;

use crate::optimum::{Optimum, Unsolved, as_believed, by_client, by_question, solve};
use crate::record::{Record, Times, moved};
use crate::rivals::Rival;
use crate::run::{Event, Steering, Trace, hour_factor, run};
use crate::steered::TTL_SECS;
use crate::world::{Mix, Spec, World};

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub blocks: usize,
    pub targets: f64,
    /// Until caches, pools and loads are as they stay.
    pub warm_secs: u32,
    /// Of a steady run, after that.
    pub measured_secs: u32,
    /// After a fault or a flood.
    pub shock_secs: u32,
}

impl Size {
    /// Of the published figures: a region is meant to run 2,500 calls at once, of which chance makes 2 %.
    pub const WHOLE: Self = Self {
        blocks: 5_000,
        targets: 30_000.0,
        warm_secs: 240,
        measured_secs: 300,
        shock_secs: 300,
    };

    /// Of the tests: seconds in a build without optimisation.
    pub const SMALL: Self = Self {
        blocks: 200,
        targets: 3_000.0,
        warm_secs: 40,
        measured_secs: 60,
        shock_secs: 120,
    };
}

#[must_use]
pub fn world(seed: u64, size: Size, mix: Mix) -> World {
    World::new(Spec {
        seed,
        regions: 12,
        blocks: size.blocks,
        names: 50,
        targets: size.targets,
        mix,
        path_sigma: 0.2,
        map_sigma: 0.02,
    })
}

/// By block, in calls running at once, at one second of a trace.
#[must_use]
pub fn demand(world: &World, trace: &Trace, sec: u32) -> Vec<f64> {
    let mut factors = [1.0; 7];
    for (at, event) in &trace.events {
        if let Event::Step(continent, factor) = event
            && *at <= sec
        {
            factors[index(*continent)] = *factor;
        }
    }
    let all = trace.utilisation * world.targets_sum();
    let blocks = world.blocks.iter().enumerate();
    blocks
        .map(|(block, of)| {
            let hour = hour_factor(of.city, f64::from(sec), trace.day_secs);
            all * of.share * factors[index(world.continent(block))] * hour
        })
        .collect()
}

fn index(continent: Continent) -> usize {
    let found = Continent::ALL.iter().position(|each| *each == continent);
    found.expect("it lists all")
}

/// The targets, and none for regions that are out.
#[must_use]
pub fn caps(world: &World, without: &[usize]) -> Vec<f64> {
    let regions = world.regions.iter().enumerate();
    regions
        .map(|(index, region)| match without.contains(&index) {
            true => 0.0,
            false => region.target,
        })
        .collect()
}

/// What is best, over what DNS can tell apart and over single clients.
#[derive(Debug, Clone)]
pub struct Best {
    pub by_question: Optimum,
    pub by_client: Optimum,
    /// Dual prices over what DNS takes for true, in ms.
    pub prices_ms: Vec<f64>,
}

/// # Errors
/// If the demand does not fit.
pub fn best(world: &World, demand: &[f64], caps: &[f64]) -> Result<Best, Unsolved> {
    Ok(Best {
        by_question: solve(world, &by_question(world, demand), caps)?,
        by_client: solve(world, &by_client(world, demand), caps)?,
        prices_ms: solve(world, &as_believed(world, demand), caps)?.prices_ms,
    })
}

/// One way to steer through a steady trace.
#[derive(Debug, Clone)]
pub struct Steady {
    pub name: &'static str,
    pub times: Times,
    /// The highest load over a target, of a region, as a mean over one TTL.
    pub over: f64,
    /// The longest that a region was over 1.03 of its target without a break, in seconds.
    pub over_secs: u32,
    /// Parts of all calls.
    pub full: f64,
    pub refused: f64,
    pub lookups_per_sec: f64,
}

#[must_use]
pub fn steady(
    world: &World,
    size: Size,
    utilisation: f64,
    steering: &Steering,
    name: &'static str,
) -> (Steady, Record) {
    let (from, to) = (size.warm_secs, size.warm_secs + size.measured_secs);
    let trace = steady_trace(world, size, utilisation);
    let record = run(world, steering, &trace);
    let all: Vec<usize> = (0..world.regions.len()).collect();
    let calls = record.sum(from, to, |second| second.calls) as f64;
    let steady = Steady {
        name,
        times: record.times(from, to),
        over: record.highest_mean(from, to, TTL_SECS as usize, &all),
        over_secs: record.longest_over(from, to, 1.03, &all),
        full: record.sum(from, to, |second| second.full.iter().sum()) as f64 / calls,
        refused: record.sum(from, to, |second| second.refused) as f64 / calls,
        lookups_per_sec: record.sum(from, to, |second| second.lookups) as f64
            / f64::from(size.measured_secs),
    };
    (steady, record)
}

#[must_use]
pub fn steady_trace(world: &World, size: Size, utilisation: f64) -> Trace {
    Trace {
        seed: world.spec.seed,
        utilisation,
        secs: size.warm_secs + size.measured_secs,
        events: Vec::new(),
        day_secs: None,
    }
}

/// Ours and the rivals.
#[must_use]
pub fn contestants(prices_ms: &[f64]) -> Vec<(&'static str, Steering)> {
    let ours = [
        ("Tradewind", Steering::Controlled),
        (
            "the optimum's prices, fixed",
            Steering::Priced(prices_ms.to_vec()),
        ),
    ];
    let rivals = Rival::ALL.map(|rival| (rival.name(), Steering::Rival(rival)));
    ours.into_iter().chain(rivals).collect()
}

/// A fault or a flood, and what came of it. Seconds are of the run.
#[derive(Debug)]
pub struct Shock {
    pub trace: Trace,
    pub record: Record,
    /// When it began, and when the run ended.
    pub from: u32,
    pub to: u32,
}

/// Until a flood is in prices: two of the leader's periods, of which the first may have just ended.
pub const SOLVE_SECS: u32 = 10;

/// The continent whose demand is doubled: the largest of at most 30 %.
#[must_use]
pub fn stepped(world: &World) -> Continent {
    let continents = Continent::ALL.into_iter();
    let may = continents.filter(|each| world.continent_share(*each) <= 0.3);
    let by_share = |a: &Continent, b: &Continent| {
        let share = |of: &Continent| world.continent_share(*of);
        share(a).total_cmp(&share(b))
    };
    may.max_by(by_share)
        .expect("seven shares cannot all be over 30 %")
}

/// Twice the demand of one continent from one second to the next, at 60 %.
#[must_use]
pub fn step(world: &World, size: Size) -> Shock {
    let (from, to) = (size.warm_secs, size.warm_secs + size.shock_secs);
    let trace = Trace {
        utilisation: 0.6,
        secs: to,
        events: vec![(from, Event::Step(stepped(world), 2.0))],
        ..steady_trace(world, size, 0.6)
    };
    let record = run(world, &Steering::Controlled, &trace);
    Shock {
        trace,
        record,
        from,
        to,
    }
}

/// The largest region is lost at 80 %, and comes back after half of the time.
#[must_use]
pub fn loss(world: &World, size: Size) -> Shock {
    let (from, to) = (size.warm_secs, size.warm_secs + 2 * size.shock_secs);
    let back = from + size.shock_secs;
    let lost = world.largest_region();
    let trace = Trace {
        secs: to,
        events: vec![(from, Event::Lose(lost)), (back, Event::Return(lost))],
        ..steady_trace(world, size, 0.8)
    };
    let record = run(world, &Steering::Controlled, &trace);
    Shock {
        trace,
        record,
        from,
        to,
    }
}

/// A lease and a second.
pub const DETECTION_SECS_MAX: u32 = 4;

/// The largest region stops for `stopped` seconds and runs for `running`, over and over for two minutes.
#[must_use]
pub fn flapping(world: &World, size: Size, stopped: u32, running: u32) -> Shock {
    let (from, to) = (size.warm_secs, size.warm_secs + 180);
    let flapping = world.largest_region();
    let starts = (from..from + 120).step_by((stopped + running) as usize);
    let events = starts.flat_map(|start| {
        [
            (start, Event::Lose(flapping)),
            (start + stopped, Event::Return(flapping)),
        ]
    });
    let trace = Trace {
        secs: to,
        events: events.collect(),
        ..steady_trace(world, size, 0.6)
    };
    let record = run(world, &Steering::Controlled, &trace);
    Shock {
        trace,
        record,
        from,
        to,
    }
}

/// Half of the largest region's capacity is gone, and its reported target with it.
#[must_use]
pub fn brownout(world: &World, size: Size) -> Shock {
    let (from, to) = (size.warm_secs, size.warm_secs + size.shock_secs);
    let trace = Trace {
        secs: to,
        events: vec![(from, Event::Brown(world.largest_region(), 0.5))],
        ..steady_trace(world, size, 0.6)
    };
    let record = run(world, &Steering::Controlled, &trace);
    Shock {
        trace,
        record,
        from,
        to,
    }
}

impl Shock {
    /// Seconds until a verdict of a region changed to what it should be.
    #[must_use]
    pub fn detected_secs(&self, region: usize) -> Option<u32> {
        let mut verdicts = self.record.verdicts.iter();
        let found = verdicts.find(|(at, of, verdict)| {
            *of == region && *at >= self.from && *verdict == Verdict::Down
        });
        found.map(|(at, ..)| at - self.from)
    }
}

/// What happened to demand that moved.
#[derive(Debug, Clone)]
pub struct Settling {
    /// From the event to when shares of TTL-honouring demand are within 3 % of their end for good.
    pub settled_secs: Option<u32>,
    /// By minute at the end: the sum of |change of share|.
    pub restless: f64,
}

/// Shares are taken over windows of `window` seconds.
#[must_use]
pub fn settling(record: &Record, event: u32, to: u32, window: u32) -> Settling {
    let end = record.shares(to - 2 * window, to, |second| &second.honoured);
    let mut settled = None;
    let mut from = event;
    while from + window <= to {
        let now = record.shares(from, from + window, |second| &second.honoured);
        match moved(&now, &end) <= 0.03 {
            true => settled = settled.or(Some(from + window - event)),
            false => settled = None,
        }
        from += window / 3;
    }
    let (last, before) = (
        record.shares(to - 60, to, |second| &second.sent),
        record.shares(to - 120, to - 60, |second| &second.sent),
    );
    Settling {
        settled_secs: settled,
        restless: 2.0 * moved(&last, &before),
    }
}
