//! Chance that can be repeated: equal seeds give equal numbers.

use dns_steering::split::mixed;

/// SplitMix64: a counter through a mixer. Ours and not a crate's, so that a seed written down today gives
/// the same run after an update of dependencies.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: mixed(seed) }
    }

    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.state)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [0, n); 0 if there is nothing to choose from.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Of the time to the next event of a Poisson process with a mean of 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Box-Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Lognormal with a mean of 1.
    pub fn noise(&mut self, sigma: f64) -> f64 {
        (sigma * self.normal() - sigma * sigma / 2.0).exp()
    }
}

/// Draws an index by weight in constant time (Walker's alias method, as Vose builds it).
#[derive(Debug, Clone)]
pub struct Alias {
    cut: Vec<f64>,
    other: Vec<u32>,
}

impl Alias {
    #[must_use]
    pub fn new(weights: &[f64]) -> Self {
        let n = weights.len();
        let sum: f64 = weights.iter().sum();
        let mut cut: Vec<f64> = weights.iter().map(|w| w * n as f64 / sum).collect();
        let mut other: Vec<u32> = (0..n as u32).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..n).partition(|i| cut[*i] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            other[less] = more as u32;
            cut[more] -= 1.0 - cut[less];
            if cut[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        // What is left differs from 1 by rounding only.
        for rest in small.into_iter().chain(large) {
            cut[rest] = 1.0;
        }
        Self { cut, other }
    }

    pub fn draw(&self, dice: &mut Dice) -> usize {
        let index = dice.below(self.cut.len());
        match dice.unit() < self.cut[index] {
            true => index,
            false => self.other[index] as usize,
        }
    }
}
