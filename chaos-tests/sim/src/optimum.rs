//! The best that any steering could do: a linear program, and a bound that certifies it.
//!
//! `min sum(demand * share * rtt)`, every group served whole, no region above its target. Clarabel solves
//! it by an interior-point method; microlp would be a simplex, which is slow on thousands of degenerate
//! rows, and tells no dual prices. The dual is what certifies: for any prices at all, [`bound`] is a
//! lower bound of the optimum, so a solver's fault cannot make steering look better than it is.

use clarabel::algebra::CscMatrix;
use clarabel::solver::{
    DefaultSettings, DefaultSolver, IPSolver, NonnegativeConeT, SolverStatus, ZeroConeT,
};

use crate::world::World;

/// Clients that get one answer.
#[derive(Debug, Clone)]
pub struct Group {
    /// Calls running at once.
    pub demand: f64,
    /// To each region, in ms.
    pub rtt_ms: Vec<f64>,
    /// Blocks inside, as (index, demand).
    pub blocks: Vec<(usize, f64)>,
}

#[derive(Debug, Clone)]
pub struct Optimum {
    pub mean_ms: f64,
    pub p95_ms: f64,
    /// What no steering can be below, by weak duality.
    pub bound_ms: f64,
    /// Dual prices of the regions, in ms.
    pub prices_ms: Vec<f64>,
}

#[derive(Debug)]
pub struct Unsolved(SolverStatus);

impl std::fmt::Display for Unsolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the linear program has no solution: {:?}", self.0)
    }
}

impl std::error::Error for Unsolved {}

/// What DNS can tell apart: one group for each block with ECS and for each resolver without. `demand` is
/// by block, in calls running at once.
#[must_use]
pub fn by_question(world: &World, demand: &[f64]) -> Vec<Group> {
    let mut groups: Vec<Group> = world
        .asked
        .iter()
        .map(|_| Group {
            demand: 0.0,
            rtt_ms: vec![0.0; world.regions.len()],
            blocks: Vec::new(),
        })
        .collect();
    for (index, (block, demand)) in world.blocks.iter().zip(demand).enumerate() {
        let group = &mut groups[block.asked];
        group.demand += demand;
        group.blocks.push((index, *demand));
        for (sum, rtt) in group.rtt_ms.iter_mut().zip(&block.rtt_ms) {
            *sum += rtt * demand;
        }
    }
    groups.retain(|group| group.demand > 0.0);
    for group in &mut groups {
        for rtt in &mut group.rtt_ms {
            *rtt /= group.demand;
        }
    }
    groups
}

/// The same groups with the distances that DNS takes for true: prices made of these are prices that its
/// answers obey.
#[must_use]
pub fn as_believed(world: &World, demand: &[f64]) -> Vec<Group> {
    let mut groups = by_question(world, demand);
    for group in &mut groups {
        let asked = world.blocks[group.blocks[0].0].asked;
        group.rtt_ms.clone_from(&world.asked[asked].rtt_ms);
    }
    groups
}

/// One group for each block: as if every resolver sent ECS.
#[must_use]
pub fn by_client(world: &World, demand: &[f64]) -> Vec<Group> {
    let blocks = world.blocks.iter().zip(demand).enumerate();
    blocks
        .filter(|(_, (_, demand))| **demand > 0.0)
        .map(|(index, (block, demand))| Group {
            demand: *demand,
            rtt_ms: block.rtt_ms.clone(),
            blocks: vec![(index, *demand)],
        })
        .collect()
}

/// The least mean of `rtt + price` less what prices earn: never above the optimum, whatever the prices.
#[must_use]
pub fn bound(groups: &[Group], caps: &[f64], prices_ms: &[f64]) -> f64 {
    let all: f64 = groups.iter().map(|group| group.demand).sum();
    let served = groups.iter().map(|group| {
        let costs = group.rtt_ms.iter().zip(prices_ms);
        let least = costs
            .map(|(rtt, price)| rtt + price.max(0.0))
            .fold(f64::INFINITY, f64::min);
        group.demand * least
    });
    let served: f64 = served.sum();
    let earned = caps.iter().zip(prices_ms);
    let earned: f64 = earned.map(|(cap, price)| cap * price.max(0.0)).sum();
    (served - earned) / all
}

/// `caps` are in calls running at once; a region with none is out. `world` has the RTTs of the blocks
/// inside of groups, of which the 95th percentile is taken.
///
/// # Errors
/// If the demand does not fit.
pub fn solve(world: &World, groups: &[Group], caps: &[f64]) -> Result<Optimum, Unsolved> {
    let (rows, regions) = (groups.len(), caps.len());
    let all: f64 = groups.iter().map(|group| group.demand).sum();
    // An average group has a demand of 1, whatever the size of the world.
    let unit = all / rows as f64;
    let columns = rows * regions;
    let mut cost = Vec::with_capacity(columns);
    let (mut starts, mut at, mut values) = (vec![0], Vec::new(), Vec::new());
    for (row, group) in groups.iter().enumerate() {
        for (region, rtt) in group.rtt_ms.iter().enumerate() {
            cost.push(*rtt);
            // Served whole; within the cap; not negative.
            at.extend([row, rows + region, rows + regions + cost.len() - 1]);
            values.extend([1.0, 1.0, -1.0]);
            starts.push(at.len());
        }
    }
    let constraints = rows + regions + columns;
    let matrix = CscMatrix::new(constraints, columns, starts, at, values);
    let demands = groups.iter().map(|group| group.demand / unit);
    let limits = caps.iter().map(|cap| cap / unit);
    let limits: Vec<f64> = demands
        .chain(limits)
        .chain(std::iter::repeat_n(0.0, columns))
        .collect();
    let cones = [ZeroConeT(rows), NonnegativeConeT(regions + columns)];
    let settings = DefaultSettings {
        verbose: false,
        ..DefaultSettings::default()
    };
    let quadratic = CscMatrix::zeros((columns, columns));
    let mut solver = DefaultSolver::new(&quadratic, &cost, &matrix, &limits, &cones, settings)
        .map_err(|_| Unsolved(SolverStatus::Unsolved))?;
    solver.solve();
    let solution = &solver.solution;
    if !matches!(
        solution.status,
        SolverStatus::Solved | SolverStatus::AlmostSolved
    ) {
        return Err(Unsolved(solution.status));
    }
    let prices_ms: Vec<f64> = solution.z[rows..rows + regions]
        .iter()
        .map(|price| price.max(0.0))
        .collect();
    let spent = cost.iter().zip(&solution.x);
    let spent: f64 = spent.map(|(cost, flow)| cost * flow).sum();
    let mut calls = Vec::new();
    for (group, flows) in groups.iter().zip(solution.x.chunks(regions)) {
        for (region, flow) in flows.iter().enumerate() {
            let share = flow * unit / group.demand;
            // An interior point leaves dust in every cell.
            if share > 1e-6 {
                let inside = group.blocks.iter();
                calls.extend(
                    inside.map(|(block, demand)| {
                        (world.blocks[*block].rtt_ms[region], share * demand)
                    }),
                );
            }
        }
    }
    Ok(Optimum {
        mean_ms: spent * unit / all,
        p95_ms: percentile(&mut calls, 0.95),
        bound_ms: bound(groups, caps, &prices_ms),
        prices_ms,
    })
}

/// Of (value, weight).
#[must_use]
pub fn percentile(values: &mut [(f64, f64)], part: f64) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    for (value, weight) in values.iter() {
        sum += weight;
        if sum >= part * all {
            return *value;
        }
    }
    0.0
}
