//! Measures steering in simulation. Prints tables of docs/measurements/steering.md, and writes its plots
//! into the folder that is its one argument.

use std::path::{Path, PathBuf};

use chaos_tests_sim::optimum::Unsolved;
use chaos_tests_sim::plot::{Line, lines};
use chaos_tests_sim::record::moved;
use chaos_tests_sim::scenarios::{self, Shock, Size};
use chaos_tests_sim::steered::TTL_SECS;
use chaos_tests_sim::world::{Mix, World};

const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plots = std::env::args_os().nth(1).map(PathBuf::from);
    let plots = plots.ok_or("usage: tradewind-bench-steering FOLDER_FOR_PLOTS")?;
    std::fs::create_dir_all(&plots)?;
    let size = Size::WHOLE;
    let ideal = scenarios::world(SEED, size, Mix::IDEAL);
    let stated = scenarios::world(SEED, size, Mix::STATED);
    println!("Seed {SEED}.");
    for (title, world) in [
        (
            "every resolver sends ECS, honours TTLs, and no connection is kept",
            &ideal,
        ),
        ("the stated mix of resolvers and kept connections", &stated),
    ] {
        steady(title, world, size)?;
    }
    for (title, file, world) in [
        ("ideal", "ideal", &ideal),
        ("stated mix", "stated", &stated),
    ] {
        println!("\n### Shocks, {title}\n\n| what | promised | measured | |\n|---|---|---|---|");
        step(world, size, &plots.join(format!("step-{file}.svg")))?;
        loss(world, size, &plots.join(format!("loss-{file}.svg")))?;
        if file == "stated" {
            flapping(world, size);
            brownout(world, size);
        }
    }
    Ok(())
}

fn steady(title: &str, world: &World, size: Size) -> Result<(), Unsolved> {
    println!(
        "\n### Steady demand: {title}\n\n{} regions, {} networks of clients, {} things that DNS can tell \
         apart.",
        world.regions.len(),
        world.blocks.len(),
        world.asked.len()
    );
    for utilisation in [0.6, 0.8, 0.95] {
        let trace = scenarios::steady_trace(world, size, utilisation);
        let demand = scenarios::demand(world, &trace, 0);
        let best = scenarios::best(world, &demand, &scenarios::caps(world, &[]))?;
        let (optimum, clients) = (&best.by_question, &best.by_client);
        println!(
            "\nDemand {:.0} % of targets. Optimum: mean {:.2} ms, p95 {:.1} ms, certified from below by \
             {:.2} ms; over single clients {:.2} ms.\n\n| steering | mean ms | beside the optimum | p95 ms \
             | over target, 30 s mean | longest over 1.03 | came to a full region | refused | queries/s \
             |\n|---|---|---|---|---|---|---|---|---|",
            utilisation * 100.0,
            optimum.mean_ms,
            optimum.p95_ms,
            optimum.bound_ms,
            clients.mean_ms,
        );
        for (name, steering) in scenarios::contestants(&best.prices_ms) {
            let (of, _) = scenarios::steady(world, size, utilisation, &steering, name);
            println!(
                "| {name} | {:.2} | {:+.1} % | {:.1} | {:.3} | {} s | {:.2} % | {:.3} % | {:.0} |",
                of.times.mean_ms,
                (of.times.mean_ms / optimum.mean_ms - 1.0) * 100.0,
                of.times.p95_ms,
                of.over,
                of.over_secs,
                of.full * 100.0,
                of.refused * 100.0,
                of.lookups_per_sec,
            );
        }
    }
    Ok(())
}

fn row(what: &str, promised: &str, measured: &str, holds: bool) {
    let word = if holds { "holds" } else { "**falls short**" };
    println!("| {what} | {promised} | {measured} | {word} |");
}

fn step(world: &World, size: Size, plot: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let shock = scenarios::step(world, size);
    let Shock {
        record, from, to, ..
    } = &shock;
    let continent = scenarios::stepped(world);
    let (inside, outside): (Vec<usize>, Vec<usize>) =
        (0..world.regions.len()).partition(|region| world.regions[*region].continent == continent);
    let full = |from: u32, regions: &[usize]| {
        record.sum(from, *to, |second| {
            regions.iter().map(|region| second.full[*region]).sum()
        })
    };
    let name = format!("demand of {continent:?} doubles at 60 %:");
    let receiving = full(*from, &outside);
    row(
        &format!("{name} calls that came to a full region elsewhere"),
        "0",
        &receiving.to_string(),
        receiving == 0,
    );
    let shed = from + scenarios::SOLVE_SECS + TTL_SECS;
    let shedding = full(shed, &inside);
    row(
        &format!("{name} calls that came to a full region there, after a solve and one TTL"),
        "0",
        &shedding.to_string(),
        shedding == 0,
    );
    let refused = record.sum(*from, *to, |second| second.refused_with_room);
    row(
        &format!("{name} calls refused that another region had room for"),
        "0",
        &refused.to_string(),
        refused == 0,
    );
    let settling = scenarios::settling(record, *from, *to, TTL_SECS);
    let settled = settling.settled_secs.unwrap_or(u32::MAX);
    row(
        &format!("{name} TTL-honouring demand within 3 % of its end"),
        &format!("{} s", 3 * TTL_SECS),
        &format!("{settled} s"),
        settled <= 3 * TTL_SECS,
    );
    let late = from + 3 * TTL_SECS;
    let end = record.shares(to - 60, *to, |second| &second.sent);
    let tail = moved(
        &record.shares(late, late + TTL_SECS, |second| &second.sent),
        &end,
    );
    println!(
        "| {name} all demand, stretched TTLs and kept connections too, not yet where it ends after three \
         TTLs | printed | {:.1} % | |",
        tail * 100.0
    );
    row(
        &format!("{name} change of shares in the last minute"),
        "1 %",
        &format!("{:.2} %", settling.restless * 100.0),
        settling.restless <= 0.01,
    );
    draw(
        world,
        &shock,
        "Calls running over target; demand of a continent doubles",
        plot,
    )
}

fn loss(world: &World, size: Size, plot: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let shock = scenarios::loss(world, size);
    let Shock {
        record, from, to, ..
    } = &shock;
    let lost = world.largest_region();
    let back = from + size.shock_secs;
    let name = format!("{} is lost at 80 %:", world.regions[lost].name);
    let detected = shock.detected_secs(lost).unwrap_or(u32::MAX);
    row(
        &format!("{name} verdict down"),
        &format!("{} s", scenarios::DETECTION_SECS_MAX),
        &format!("{detected} s"),
        detected <= scenarios::DETECTION_SECS_MAX,
    );
    let gone = from + detected.min(size.shock_secs) + TTL_SECS;
    let late = record.sum(gone, back, |second| second.honoured[lost]);
    row(
        &format!("{name} calls by TTL-honouring clients sent to it after detection and one TTL"),
        "0",
        &late.to_string(),
        late == 0,
    );
    let stretched = record.sum(gone, back, |second| second.lost[lost]);
    let all = record.sum(gone, back, |second| second.calls) as f64;
    println!(
        "| {name} calls sent to it after that by caches that stretch TTLs | printed | {:.2} % of all | |",
        stretched as f64 / all * 100.0
    );
    let others = record
        .verdicts
        .iter()
        .filter(|(_, region, _)| *region != lost);
    let others = others.count();
    row(
        &format!("{name} verdicts of other regions that changed"),
        "0",
        &others.to_string(),
        others == 0,
    );
    let rest: Vec<usize> = (0..world.regions.len())
        .filter(|each| *each != lost)
        .collect();
    let full = record.between(gone, back).iter();
    let full: u64 = full
        .map(|second| {
            rest.iter()
                .map(|region| u64::from(second.full[*region]))
                .sum::<u64>()
        })
        .sum();
    row(
        &format!("{name} calls that came to a full region after detection and one TTL"),
        "0",
        &full.to_string(),
        full == 0,
    );
    let over = record.highest_mean(back, *to, TTL_SECS as usize, &[lost]);
    row(
        &format!("{name} load over its target after its return, mean over one TTL"),
        "1.05",
        &format!("{over:.3}"),
        over <= 1.05,
    );
    let refused = record.sum(*from, *to, |second| second.refused);
    println!("| {name} calls refused by all | printed | {refused} | |");
    draw(
        world,
        &shock,
        "Calls running over target; the largest region is lost and returns",
        plot,
    )
}

fn flapping(world: &World, size: Size) {
    for (stopped, running) in [(1, 1), (4, 3)] {
        let shock = scenarios::flapping(world, size, stopped, running);
        let flips = shock.record.verdicts.len();
        let lost = shock
            .record
            .sum(shock.from, shock.to, |second| second.lost.iter().sum());
        let calls = shock
            .record
            .sum(shock.from, shock.to, |second| second.calls);
        row(
            &format!(
                "a region stops for {stopped} s and runs for {running} s for two minutes: verdicts"
            ),
            "2 changes",
            &format!(
                "{flips} changes; {:.2} % of calls were sent to it while it was gone",
                lost as f64 / calls as f64 * 100.0
            ),
            flips <= 2,
        );
    }
}

fn brownout(world: &World, size: Size) {
    let shock = scenarios::brownout(world, size);
    let count = |of: fn(&chaos_tests_sim::record::Second) -> u32| {
        shock.record.sum(shock.from, shock.to, of)
    };
    let refused = count(|second| second.refused_with_room);
    row(
        "the largest region loses half of its capacity: calls refused that another region had room for",
        "0",
        &format!(
            "{refused}; {} went to a peer",
            count(|second| second.full.iter().sum())
        ),
        refused == 0,
    );
}

fn draw(
    world: &World,
    shock: &Shock,
    title: &str,
    plot: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = shock.from.saturating_sub(60);
    let seconds = shock.record.between(start, shock.to);
    let drawn = world
        .regions
        .iter()
        .enumerate()
        .map(|(index, region)| Line {
            name: region.name.clone(),
            points: seconds
                .iter()
                .map(|second| {
                    let load = f64::from(second.current[index]) / region.target;
                    (f64::from(second.sec - start), load)
                })
                .collect(),
        });
    let drawn: Vec<Line> = drawn.collect();
    let svg = lines(
        title,
        "seconds",
        &drawn,
        &[(1.0, "target"), (1.25, "capacity")],
    );
    Ok(std::fs::write(plot, svg)?)
}
