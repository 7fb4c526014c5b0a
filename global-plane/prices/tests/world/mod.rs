//! Markets to try: regions and clients on a globe, the same for the same seed.

use dns_steering::split::mixed;
use global_plane_prices::{CANDIDATES_MAX, Candidate, Market, Room};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(mixed(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0) % end
    }

    /// In [0, 1).
    fn part(&mut self) -> f64 {
        f64::from(u32::try_from(self.below(1 << 31)).expect("below 2^31")) / 2_147_483_648.0
    }

    fn place(&mut self) -> [f64; 3] {
        let around = self.part() * std::f64::consts::TAU;
        let high = self.part() * 1.6 - 0.6;
        let flat = (1.0 - high * high).sqrt();
        [flat * around.cos(), flat * around.sin(), high]
    }
}

pub struct World {
    pub regions: usize,
    pub rows: usize,
    pub candidates: usize,
    /// Demand over the sum of targets.
    pub utilisation_permille: u64,
    /// One row in so many may go to its two nearest regions only, and is strict. 0: none.
    pub strict_every: usize,
}

impl World {
    /// Clients live near regions, some regions are popular, and demand is heavy-tailed.
    pub fn market(&self, seed: u64) -> Market {
        let mut random = Random::new(seed);
        let places: Vec<[f64; 3]> = (0..self.regions).map(|_| random.place()).collect();
        let mut rows = Vec::new();
        let mut all = 0;
        for row in 0..self.rows {
            // The lesser of two is more often a low number: some regions are popular.
            let count = self.regions as u64;
            let near = random.below(count).min(random.below(count));
            let near = places[usize::try_from(near).expect("an index")];
            let far = random.place();
            let spread = random.part() * 0.5;
            let place = [0, 1, 2].map(|axis| near[axis] * (1.0 - spread) + far[axis] * spread);
            let mut candidates: Vec<Candidate> = (0..)
                .zip(&places)
                .map(|(region, at)| {
                    let way: f64 = (0..3).map(|axis| (at[axis] - place[axis]).powi(2)).sum();
                    let noise = 1.0 + 0.3 * random.part();
                    let rtt = 30.0 + way.sqrt() * 1000.0 * noise;
                    Candidate {
                        region,
                        rtt_tenths: tenths(rtt),
                    }
                })
                .collect();
            candidates.sort_by_key(|candidate| (candidate.rtt_tenths, candidate.region));
            let strict = self.strict_every > 0 && row % self.strict_every == 0;
            let count = if strict {
                2
            } else {
                self.candidates.min(CANDIDATES_MAX)
            };
            candidates.truncate(count);
            let demand = 1000 * (1 + 200 / (1 + random.below(200)));
            all += demand;
            rows.push((demand, strict, candidates));
        }
        let weights: Vec<u64> = (0..self.regions).map(|_| 1 + random.below(4)).collect();
        let sum: u64 = weights.iter().sum();
        let room = |weight: u64| {
            let target = all * 1000 / self.utilisation_permille * weight / sum;
            Room::new(target, target * 5 / 4)
        };
        let rooms = weights.into_iter().map(room).collect();
        let mut market = Market::new(rooms).expect("not too many regions");
        for (demand, strict, candidates) in rows {
            market
                .push(demand, strict, &candidates)
                .expect("a good row");
        }
        market
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "RTTs of a globe are positive and fit"
)]
fn tenths(rtt: f64) -> u16 {
    rtt as u16
}
