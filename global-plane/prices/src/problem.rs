//! The smoothed dual of the transportation problem, and its minimum.
//!
//! For a row of demand `d` with costs `c = rtt + price`, let `v(c)` be the least of
//! `sum(c * x) + band / 2 * sum(x²)` over shares `x` that sum to 1: the same shares as `split`'s. The
//! dual is `g(price) = sum(price * target) - sum(d * v(c))`. It is convex and once differentiable; its
//! gradient is `target - load(price)`, so at its minimum each region has at most its target, and exactly
//! that if its price is above 0. Its second derivative has no positive entry beside the diagonal: when
//! one region becomes dearer, no other loses. That is why more room raises no price.

use crate::{CANDIDATES_MAX, Market, cholesky};

/// What the solver works on: the market in floats, with what it has changed of it.
pub struct Problem<'a> {
    pub market: &'a Market,
    /// By row.
    pub demand: Vec<f64>,
    /// By region, as the next three.
    pub target: Vec<f64>,
    pub low: Vec<f64>,
    pub high: Vec<f64>,
    /// Evaluations of the dual since the start.
    pub iterations: u32,
}

/// The dual at some prices.
struct Point {
    price: Vec<f64>,
    value: f64,
    /// `target - load`.
    gradient: Vec<f64>,
    /// Lower triangle, by region.
    second: Vec<f64>,
}

/// Of the target: how near to its load a solution is. Prices are rounded afterwards, which moves more.
const TOLERANCE: f64 = 1e-6;

/// The first attempt from the last solution. Demand that changed by a few percent takes 3 to 8.
const WARM_STEPS: u32 = 12;

/// Steps at one width of the band. It ends by itself long before; this bounds the time of a solve.
const STEPS_MAX: u32 = 60;

impl Problem<'_> {
    /// Moves `price` to the minimum between `low` and `high`.
    ///
    /// First by Newton's method from where it is. If that is not enough, with a wider band first: shares
    /// then change over tens of milliseconds instead of four, and steps find their way from afar.
    pub fn minimise(&mut self, price: &mut [f64], band: f64) {
        if self.newton(price, band, TOLERANCE, WARM_STEPS) {
            return;
        }
        for wider in [64.0, 16.0, 4.0] {
            self.newton(price, band * wider, 1e-2, STEPS_MAX);
        }
        self.newton(price, band, TOLERANCE, STEPS_MAX);
    }

    /// Projected Newton steps; true if the minimum was reached.
    fn newton(&mut self, price: &mut [f64], band: f64, tolerance: f64, steps: u32) -> bool {
        let regions = price.len();
        let mut here = self.point(price, band);
        let mut trial = self.point_of(regions);
        // How far a step goes where the second derivative knows nothing, in tenths of a millisecond.
        // Grows where steps succeed, shrinks where they do not.
        let mut reach = band;
        let mut done = false;
        for _ in 0..steps {
            done = self.is_minimum(&here, tolerance);
            if done {
                break;
            }
            let Some(step) = self.step(&here, reach) else {
                break;
            };
            let mut slope = 0.0;
            for (region, step) in step.into_iter().enumerate() {
                let to = here.price[region] + step;
                trial.price[region] = to.clamp(self.low[region], self.high[region]);
                slope += here.gradient[region] * (trial.price[region] - here.price[region]);
            }
            self.evaluate(&mut trial, band);
            let better = trial.value <= here.value + 1e-4 * slope.min(0.0);
            // Near the minimum the value's last digits are noise, the gradient's are not.
            if better || self.residual(&trial) < 0.5 * self.residual(&here) {
                std::mem::swap(&mut here, &mut trial);
                reach = (reach * 8.0).min(1e5);
            } else {
                reach /= 16.0;
                if reach < 1e-9 {
                    break;
                }
            }
        }
        price.copy_from_slice(&here.price);
        done || self.is_minimum(&here, tolerance)
    }

    /// By how much the region is off its target in a direction that its price may still move.
    fn off(&self, point: &Point, region: usize) -> f64 {
        let (price, gradient) = (point.price[region], point.gradient[region]);
        let stuck = price <= self.low[region] && gradient > 0.0
            || price >= self.high[region] && gradient < 0.0;
        if stuck { 0.0 } else { gradient.abs() }
    }

    fn is_minimum(&self, point: &Point, tolerance: f64) -> bool {
        (0..point.price.len())
            .all(|region| self.off(point, region) <= tolerance * self.target[region].max(1.0))
    }

    fn residual(&self, point: &Point) -> f64 {
        (0..point.price.len())
            .map(|region| self.off(point, region).powi(2))
            .sum()
    }

    /// The step of each price; those that may not move have 0.
    fn step(&self, point: &Point, reach: f64) -> Option<Vec<f64>> {
        let regions = point.price.len();
        let free: Vec<usize> = (0..regions)
            .filter(|region| self.low[*region] < self.high[*region])
            .filter(|region| self.off(point, *region) > 0.0 || self.is_inside(point, *region))
            .collect();
        let n = free.len();
        let steepest = free
            .iter()
            .map(|region| point.second[region * regions + region])
            .fold(0.0, f64::max);
        let mut matrix = vec![0.0; n * n];
        let mut step: Vec<f64> = free.iter().map(|region| -point.gradient[*region]).collect();
        for (row, of) in free.iter().enumerate() {
            for (column, by) in free[..=row].iter().enumerate() {
                matrix[row * n + column] = point.second[of * regions + by];
            }
            // Where no row is inside the band, the second derivative is 0: the step is then `reach`.
            matrix[row * n + row] +=
                point.gradient[*of].abs() / reach + steepest * 1e-10 + f64::MIN_POSITIVE;
        }
        if !cholesky::solve(&mut matrix, &mut step) {
            return None;
        }
        let mut all = vec![0.0; regions];
        for (region, step) in free.iter().zip(&step) {
            // Prices have an end, so this is far enough.
            all[*region] = step.clamp(-1e5, 1e5);
        }
        Some(all)
    }

    fn is_inside(&self, point: &Point, region: usize) -> bool {
        point.price[region] > self.low[region] && point.price[region] < self.high[region]
    }

    fn point_of(&self, regions: usize) -> Point {
        Point {
            price: vec![0.0; regions],
            value: 0.0,
            gradient: vec![0.0; regions],
            second: vec![0.0; regions * regions],
        }
    }

    fn point(&mut self, price: &[f64], band: f64) -> Point {
        let mut point = self.point_of(price.len());
        for (region, price) in price.iter().enumerate() {
            point.price[region] = price.clamp(self.low[region], self.high[region]);
        }
        self.evaluate(&mut point, band);
        point
    }

    /// Computes value, gradient and second derivative, in one pass over the rows in their order.
    fn evaluate(&mut self, point: &mut Point, band: f64) {
        self.iterations += 1;
        let regions = point.price.len();
        point.gradient.copy_from_slice(&self.target);
        point.second.fill(0.0);
        let mut value = 0.0;
        for (price, target) in point.price.iter().zip(&self.target) {
            value += price * target;
        }
        let mut costs = [0.0; CANDIDATES_MAX];
        let mut kept = [(0, 0.0); CANDIDATES_MAX];
        for (row, demand) in self.demand.iter().enumerate() {
            if *demand == 0.0 {
                continue;
            }
            let candidates = self.market.candidates(row);
            let mut least = f64::INFINITY;
            for (cost, candidate) in costs.iter_mut().zip(candidates) {
                *cost =
                    f64::from(candidate.rtt_tenths) + point.price[usize::from(candidate.region)];
                least = least.min(*cost);
            }
            let (mut count, mut sum) = (0, 0.0);
            for (cost, candidate) in costs.iter().zip(candidates) {
                if *cost < least + band {
                    kept[count] = (usize::from(candidate.region), *cost);
                    count += 1;
                    sum += cost;
                }
            }
            // As in `split`: those above the limit have no share, which lowers the limit.
            let mut limit = (sum + band) / as_float(count);
            loop {
                let (mut left, mut rest) = (0, 0.0);
                for index in 0..count {
                    if kept[index].1 < limit {
                        kept[left] = kept[index];
                        left += 1;
                        rest += kept[left - 1].1;
                    }
                }
                if left == count {
                    break;
                }
                (count, limit) = (left, (rest + band) / as_float(left));
            }
            let by = demand / band;
            let mutual = by / as_float(count);
            for (index, (region, cost)) in kept[..count].iter().enumerate() {
                let share = (limit - cost) / band;
                value -= demand * share * (cost + 0.5 * band * share);
                point.gradient[*region] -= demand * share;
                point.second[region * regions + region] += by - mutual;
                for (other, _) in &kept[..index] {
                    let (low, high) = (region.min(other), region.max(other));
                    point.second[high * regions + low] -= mutual;
                }
            }
        }
        point.value = value;
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most a few regions")]
fn as_float(count: usize) -> f64 {
    count as f64
}
