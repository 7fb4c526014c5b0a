//! Prices at which each region gets at most its target.

use dns_steering::split::BAND_TENTHS;

use crate::problem::Problem;
use crate::{Market, PRICE_CAP_TENTHS};

/// What a market's prices are, and what comes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solution {
    /// By region, in tenths of a millisecond; at most [`PRICE_CAP_TENTHS`].
    pub prices_tenths: Vec<u32>,
    /// What each region gets at these prices, in thousandths of a call in progress. Computed with the
    /// integers that answers use. Above the scaled target only by rounding: a price is off by at most
    /// half a tenth of a millisecond, so a row moves at most a fortieth of itself.
    pub loads: Vec<u64>,
    /// 1000 if demand fits in the targets; else the least common factor with which it does, in
    /// thousandths. Only targets of regions whose price is free are scaled.
    pub scaled_targets_permille: u32,
    /// Rows of strict sets that do not fit in the targets of their set's regions. Those regions are
    /// priced at the cap, and no other is because of them.
    pub short: Vec<u32>,
    /// Evaluations of the dual.
    pub iterations: u32,
}

/// A set of regions with more demand that can go nowhere else than room.
struct Cut {
    /// Demand over target.
    ratio: f64,
    /// By region.
    inside: Vec<bool>,
}

/// Each round finds a region set that is fuller than all before, which there are few of.
const ROUNDS_MAX: usize = 16;

/// Over target by less than this is a matter of rounding.
const SLACK: f64 = 1e-4;

/// Solves from `warm` prices, those of the last solution; missing ones are 0.
///
/// A region with a target of 0 is priced at the cap. Demand above all targets scales them, so that
/// regions are equally overfull and prices stay as low as they can.
#[must_use]
pub fn solve(market: &Market, warm: &[u32]) -> Solution {
    let mut solver = Solver::new(market, warm);
    let is_over = solver.cut(&solver.price).ratio > 1.0 + SLACK;
    if !is_over && solver.fits() {
        let (short, _) = solver.strict_rows();
        return solver.solution(1.0, short);
    }
    let short = solver.price_strict_sets_that_are_short();
    let factor = solver.scale();
    solver.solution(factor, short)
}

/// Targets are larger by this. Where demand is as much as room, prices could all be anything above some
/// least ones; with a little room left, they are the least ones. Ten times the solver's tolerance.
const LEAST: f64 = 1e-5;

struct Solver<'a> {
    problem: Problem<'a>,
    price: Vec<f64>,
    /// Regions that count as no way out: without a target, or full of strict demand.
    closed: Vec<bool>,
}

impl<'a> Solver<'a> {
    fn new(market: &'a Market, warm: &[u32]) -> Self {
        let mut problem = Problem {
            market,
            demand: (0..market.rows())
                .map(|row| float(market.demand(row)))
                .collect(),
            target: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            iterations: 0,
        };
        let mut price = Vec::new();
        let mut closed = Vec::new();
        for (region, room) in market.rooms().iter().enumerate() {
            let takes_nothing = room.target == 0 && room.price_min < room.price_max;
            let low = if takes_nothing {
                room.price_max
            } else {
                room.price_min
            };
            problem.target.push(float(room.target) * (1.0 + LEAST));
            problem.low.push(f64::from(low));
            problem.high.push(f64::from(room.price_max));
            closed.push(takes_nothing);
            let warm = *warm.get(region).unwrap_or(&0);
            price.push(f64::from(warm.clamp(low, room.price_max)));
        }
        Self {
            problem,
            price,
            closed,
        }
    }

    /// Whether the price of the region is free up to the cap.
    fn is_free(&self, region: usize) -> bool {
        self.problem.low[region] < self.problem.high[region]
            && self.problem.high[region] >= f64::from(PRICE_CAP_TENTHS)
    }

    /// Solves, and says whether no region with a free price is over its target.
    fn fits(&mut self) -> bool {
        self.problem
            .minimise(&mut self.price, f64::from(BAND_TENTHS));
        // Only a price at the cap leaves a region over its target.
        !(0..self.price.len()).any(|region| {
            self.is_free(region) && self.price[region] >= f64::from(PRICE_CAP_TENTHS) - 1e-6
        })
    }

    /// Of all sets of the regions that are dearer than some price, the one that demand overfills most. If
    /// demand does not fit, the set to blame is among these at the right prices; and whatever the prices
    /// are, no smaller factor than its ratio can be enough.
    fn cut(&self, price: &[f64]) -> Cut {
        let regions = price.len();
        let mut order: Vec<usize> = (0..regions)
            .filter(|region| self.is_free(*region))
            .collect();
        order.sort_by(|a, b| price[*b].total_cmp(&price[*a]));
        let mut rank = vec![usize::MAX; regions];
        for (at, region) in order.iter().enumerate() {
            rank[*region] = at;
        }
        let mut trapped = vec![0.0; order.len()];
        for (row, demand) in self.problem.demand.iter().enumerate() {
            if let Some(last) = self.way_out(row, &rank)
                && let Some(trapped) = trapped.get_mut(last)
            {
                *trapped += demand;
            }
        }
        let (mut demand, mut target) = (0.0, 0.0);
        let (mut ratio, mut until) = (0.0, 0);
        for (at, region) in order.iter().enumerate() {
            demand += trapped[at];
            target += self.problem.target[*region];
            if demand / target > ratio {
                (ratio, until) = (demand / target, at + 1);
            }
        }
        let mut inside = vec![false; regions];
        for region in &order[..until] {
            inside[*region] = true;
        }
        Cut { ratio, inside }
    }

    /// The highest rank of a row's candidates; `None` if it has none that is open.
    fn way_out(&self, row: usize, rank: &[usize]) -> Option<usize> {
        self.problem
            .market
            .candidates(row)
            .iter()
            .map(|candidate| usize::from(candidate.region))
            .filter(|region| !self.closed[*region])
            .map(|region| rank[region])
            .max()
    }

    /// Fixes the prices of regions that have less room than the strict demand that may go nowhere else:
    /// the dearest at the cap, and the others as far below it as makes them equally overfull. Returns
    /// the rows that do not fit.
    fn price_strict_sets_that_are_short(&mut self) -> Vec<u32> {
        let market = self.problem.market;
        let all = self.problem.demand.clone();
        let target = self.problem.target.clone();
        let warm = self.price.clone();
        let mut short = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let (none, strict) = self.strict_rows();
            if short.is_empty() {
                short = none;
            }
            if strict.is_empty() {
                break;
            }
            self.only(&strict, &all);
            let fits = self.fits();
            let cut = self.cut(&self.price);
            if fits || cut.ratio <= 1.0 + SLACK {
                break;
            }
            let is_trapped = |row: &usize| {
                let mut open = market.candidates(*row).iter();
                open.all(|c| {
                    let region = usize::from(c.region);
                    cut.inside[region] || self.closed[region]
                })
            };
            let trapped: Vec<usize> = strict.into_iter().filter(is_trapped).collect();
            // Only the trapped rows, and targets in which they just fit: the price differences.
            self.only(&trapped, &all);
            for region in 0..self.price.len() {
                if cut.inside[region] {
                    self.problem.target[region] *= cut.ratio * (1.0 + SLACK);
                }
                self.price[region] = self.problem.low[region];
            }
            self.fits();
            let inside = || (0..cut.inside.len()).filter(|region| cut.inside[*region]);
            let dearest = inside()
                .map(|region| self.price[region])
                .fold(0.0, f64::max);
            for region in inside() {
                let price = f64::from(PRICE_CAP_TENTHS) - dearest + self.price[region];
                self.price[region] = price;
                (self.problem.low[region], self.problem.high[region]) = (price, price);
                self.closed[region] = true;
            }
            self.problem.target.clone_from(&target);
            short.extend(trapped.into_iter().map(number));
        }
        for (region, warm) in warm.into_iter().enumerate() {
            self.price[region] = if self.closed[region] {
                self.problem.low[region]
            } else {
                warm
            };
        }
        self.problem.demand = all;
        short.sort_unstable();
        short
    }

    /// The numbers of strict rows without an open region, and the others.
    fn strict_rows(&self) -> (Vec<u32>, Vec<usize>) {
        let rank = vec![0; self.price.len()];
        let strict =
            (0..self.problem.market.rows()).filter(|row| self.problem.market.is_strict(*row));
        let (open, none): (Vec<usize>, Vec<usize>) =
            strict.partition(|row| self.way_out(*row, &rank).is_some());
        (none.into_iter().map(number).collect(), open)
    }

    fn only(&mut self, rows: &[usize], demand: &[f64]) {
        self.problem.demand.fill(0.0);
        for row in rows {
            self.problem.demand[*row] = demand[*row];
        }
    }

    /// Scales the targets until demand fits, and solves. Returns the factor.
    fn scale(&mut self) -> f64 {
        let target = self.problem.target.clone();
        let mut factor = 1.0_f64;
        for round in 0..ROUNDS_MAX {
            self.problem.target.clone_from(&target);
            let ratio = self.cut(&self.price).ratio;
            let needed = (ratio * 1000.0).ceil().max(1000.0) / 1000.0;
            if round > 0 && needed <= factor {
                break;
            }
            factor = factor.max(needed);
            for (region, target) in target.iter().enumerate() {
                if self.is_free(region) {
                    self.problem.target[region] = target * factor;
                }
            }
            if self.fits() {
                break;
            }
        }
        factor
    }

    fn solution(self, factor: f64, short: Vec<u32>) -> Solution {
        let prices_tenths: Vec<u32> = self.price.iter().map(|price| rounded(*price)).collect();
        Solution {
            loads: self.problem.market.loads(&prices_tenths),
            prices_tenths,
            scaled_targets_permille: rounded(factor * 1000.0),
            short,
            iterations: self.problem.iterations,
        }
    }
}

fn number(row: usize) -> u32 {
    u32::try_from(row).expect("there are at most BLOCKS_MAX rows")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a row has 2^53 at most, or is of many"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and NaN becomes 0"
)]
fn rounded(value: f64) -> u32 {
    value.round() as u32
}
