//! What a run leaves behind, and what can be asked of it.

use api_types::Verdict;

use crate::optimum::percentile;
use crate::world::World;

/// One second of a run; lists are by region.
#[derive(Debug, Clone)]
pub struct Second {
    pub sec: u32,
    pub calls: u32,
    pub lookups: u32,
    /// Calls that clients sent there.
    pub sent: Vec<u32>,
    /// Of these, by clients whose cache honours TTLs and that keep no connection.
    pub honoured: Vec<u32>,
    /// Sent to a region that was gone.
    pub lost: Vec<u32>,
    /// Came while it was full.
    pub full: Vec<u32>,
    /// Taken by no region.
    pub refused: u32,
    /// Taken by none although one had room.
    pub refused_with_room: u32,
    /// Running at the second's end.
    pub current: Vec<u32>,
    /// The most that ran at once.
    pub most: Vec<u32>,
    pub serves: Vec<bool>,
    pub prices_tenths: Vec<u32>,
    pub factors_permille: Vec<u32>,
}

impl Second {
    #[must_use]
    pub fn new(world: &World) -> Self {
        let zeros = vec![0; world.regions.len()];
        Self {
            sec: 0,
            calls: 0,
            lookups: 0,
            sent: zeros.clone(),
            honoured: zeros.clone(),
            lost: zeros.clone(),
            full: zeros.clone(),
            refused: 0,
            refused_with_room: 0,
            current: zeros.clone(),
            most: zeros.clone(),
            serves: vec![true; world.regions.len()],
            prices_tenths: zeros.clone(),
            factors_permille: zeros,
        }
    }
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Record {
    pub seconds: Vec<Second>,
    /// (second, region, the new verdict).
    pub verdicts: Vec<(u32, usize, Verdict)>,
    /// Answered calls by second and RTT: sums, and counts by [`BUCKET_MS`].
    rtts: Vec<Rtts>,
    targets: Vec<f64>,
}

#[derive(Debug, Clone)]
struct Rtts {
    sum_ms: f64,
    count: u32,
    buckets: Vec<u32>,
}

const BUCKET_MS: f64 = 0.5;
const BUCKETS: usize = 1200;

/// How the calls between two seconds went.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub mean_ms: f64,
    pub p95_ms: f64,
}

impl Record {
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self {
            seconds: Vec::new(),
            verdicts: Vec::new(),
            rtts: Vec::new(),
            targets: world.regions.iter().map(|region| region.target).collect(),
        }
    }

    pub fn answered(&mut self, now: f64, rtt_ms: f64) {
        let sec = now as usize;
        if self.rtts.len() <= sec {
            let empty = Rtts {
                sum_ms: 0.0,
                count: 0,
                buckets: vec![0; BUCKETS],
            };
            self.rtts.resize(sec + 1, empty);
        }
        let of = &mut self.rtts[sec];
        of.sum_ms += rtt_ms;
        of.count += 1;
        of.buckets[((rtt_ms / BUCKET_MS) as usize).min(BUCKETS - 1)] += 1;
    }

    /// Of `from..to`.
    #[must_use]
    pub fn times(&self, from: u32, to: u32) -> Times {
        let of = self.rtts.iter().take(to as usize).skip(from as usize);
        let (mut sum, mut count) = (0.0, 0.0);
        let mut buckets = vec![0.0; BUCKETS];
        for each in of {
            sum += each.sum_ms;
            count += f64::from(each.count);
            for (all, more) in buckets.iter_mut().zip(&each.buckets) {
                *all += f64::from(*more);
            }
        }
        let weighted = buckets.into_iter().enumerate();
        let mut weighted: Vec<(f64, f64)> = weighted
            .map(|(bucket, weight)| ((bucket as f64 + 0.5) * BUCKET_MS, weight))
            .collect();
        Times {
            mean_ms: sum / count,
            p95_ms: percentile(&mut weighted, 0.95),
        }
    }

    #[must_use]
    pub fn between(&self, from: u32, to: u32) -> &[Second] {
        let to = (to as usize).min(self.seconds.len());
        &self.seconds[(from as usize).min(to)..to]
    }

    /// Sum of something over `from..to`.
    #[must_use]
    pub fn sum(&self, from: u32, to: u32, of: impl Fn(&Second) -> u32) -> u64 {
        let seconds = self.between(from, to).iter();
        seconds.map(|second| u64::from(of(second))).sum()
    }

    /// The longest time that any region of `regions` was over `times` its target, in seconds.
    #[must_use]
    pub fn longest_over(&self, from: u32, to: u32, times: f64, regions: &[usize]) -> u32 {
        let longest = regions.iter().map(|region| {
            let (mut longest, mut now) = (0, 0);
            for second in self.between(from, to) {
                let over = f64::from(second.current[*region]) > times * self.targets[*region];
                now = if over { now + 1 } else { 0 };
                longest = longest.max(now);
            }
            longest
        });
        longest.max().unwrap_or(0)
    }

    /// The highest mean load over a target of any region of `regions`, in windows of `window` seconds.
    #[must_use]
    pub fn highest_mean(&self, from: u32, to: u32, window: usize, regions: &[usize]) -> f64 {
        let highest = regions.iter().map(|region| {
            let loads: Vec<f64> = self
                .between(from, to)
                .iter()
                .map(|second| f64::from(second.current[*region]) / self.targets[*region])
                .collect();
            let means = loads.windows(window);
            let means = means.map(|window| window.iter().sum::<f64>() / window.len() as f64);
            means.fold(0.0, f64::max)
        });
        highest.fold(0.0, f64::max)
    }

    /// Shares of regions in calls that `of` counts, over `from..to`.
    #[must_use]
    pub fn shares(&self, from: u32, to: u32, of: impl Fn(&Second) -> &[u32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.targets.len()];
        for second in self.between(from, to) {
            for (sum, count) in sums.iter_mut().zip(of(second)) {
                *sum += f64::from(*count);
            }
        }
        let all: f64 = sums.iter().sum::<f64>().max(1.0);
        sums.into_iter().map(|sum| sum / all).collect()
    }
}

/// Half of the sum of the differences: the part of demand that would have to move.
#[must_use]
pub fn moved(one: &[f64], other: &[f64]) -> f64 {
    let pairs = one.iter().zip(other);
    pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}
