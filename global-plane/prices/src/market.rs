//! What is solved: how much demand there is, where it may go, and how much room each region has.

use dns_steering::split::{BAND_TENTHS, WHOLE, split};

use crate::{BLOCKS_MAX, CANDIDATES_MAX, DEMAND_MAX, PRICE_CAP_TENTHS, REGIONS_MAX};

/// How much a region takes, in thousandths of a call in progress, and between which prices it is solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// 0: takes nothing.
    pub target: u64,
    pub capacity: u64,
    /// Least and highest price in tenths of a millisecond. Equal: the price is fixed, and others are
    /// priced around it.
    pub price_min: u32,
    pub price_max: u32,
}

impl Room {
    /// Of a region whose price is free. A target above [`DEMAND_MAX`] is taken for that.
    #[must_use]
    pub fn new(target: u64, capacity: u64) -> Self {
        Self {
            target: target.min(DEMAND_MAX),
            capacity: capacity.min(DEMAND_MAX),
            price_min: 0,
            price_max: PRICE_CAP_TENTHS,
        }
    }

    #[must_use]
    pub fn priced(self, price_min: u32, price_max: u32) -> Self {
        let price_max = price_max.min(PRICE_CAP_TENTHS);
        Self {
            price_min: price_min.min(price_max),
            price_max,
            ..self
        }
    }
}

/// A region that a row's demand may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// Index in [`Market::rooms`].
    pub region: u16,
    /// In tenths of a millisecond.
    pub rtt_tenths: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarketError {
    #[error("{0} regions, at most {REGIONS_MAX}")]
    Regions(usize),
    #[error("more than {BLOCKS_MAX} rows of demand")]
    Rows,
    #[error("demand of {0} thousandths of a call, at most {DEMAND_MAX}")]
    Demand(u64),
    #[error("{0} candidates, at least one and at most {CANDIDATES_MAX}")]
    Candidates(usize),
    #[error("candidate {0} is no region, or is given twice")]
    Region(u16),
}

/// Rooms of regions by index, and rows of demand in flat arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Market {
    rooms: Vec<Room>,
    demand: Vec<u64>,
    strict: Vec<bool>,
    /// Row `i` has the candidates from `ends[i - 1]` to `ends[i]`.
    ends: Vec<usize>,
    candidates: Vec<Candidate>,
}

/// How far a split is from the least possible latency, for any number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Sum of `demand * RTT` of the split at these prices, in thousandths of a call times tenths of a
    /// millisecond.
    pub cost: i128,
    /// No split within all targets has less (weak duality).
    pub bound: i128,
    /// All demand.
    pub demand: u64,
}

impl Market {
    /// # Errors
    /// More than [`REGIONS_MAX`] regions.
    pub fn new(rooms: Vec<Room>) -> Result<Self, MarketError> {
        if rooms.len() > REGIONS_MAX {
            return Err(MarketError::Regions(rooms.len()));
        }
        Ok(Self {
            rooms,
            demand: Vec::new(),
            strict: Vec::new(),
            ends: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// Adds a row: demand in thousandths of a call in progress; the regions that it may go to by
    /// placement and verdict, in any order; `strict` if it may never go elsewhere. Rows without demand
    /// are left out.
    ///
    /// # Errors
    /// What the market refuses of it; the market is then as it was.
    pub fn push(
        &mut self,
        demand: u64,
        strict: bool,
        candidates: &[Candidate],
    ) -> Result<(), MarketError> {
        if self.rows() >= BLOCKS_MAX {
            return Err(MarketError::Rows);
        }
        if demand > DEMAND_MAX {
            return Err(MarketError::Demand(demand));
        }
        if !(1..=CANDIDATES_MAX).contains(&candidates.len()) {
            return Err(MarketError::Candidates(candidates.len()));
        }
        for (index, candidate) in candidates.iter().enumerate() {
            let region = candidate.region;
            let twice = candidates[..index].iter().any(|c| c.region == region);
            if twice || usize::from(region) >= self.rooms.len() {
                return Err(MarketError::Region(region));
            }
        }
        if demand > 0 {
            self.add(demand, strict, candidates);
        }
        Ok(())
    }

    /// Adds a row made of rows that were taken: [`BLOCKS_MAX`] times [`DEMAND_MAX`] fits.
    pub(crate) fn add(&mut self, demand: u64, strict: bool, candidates: &[Candidate]) {
        self.demand.push(demand);
        self.strict.push(strict);
        self.candidates.extend_from_slice(candidates);
        self.ends.push(self.candidates.len());
    }

    #[must_use]
    pub fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// The same demand with other rooms; regions that are missing take nothing.
    #[must_use]
    pub fn with_rooms(mut self, mut rooms: Vec<Room>) -> Self {
        rooms.resize(self.rooms.len(), Room::new(0, 0));
        self.rooms = rooms;
        self
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.demand.len()
    }

    #[must_use]
    pub fn demand(&self, row: usize) -> u64 {
        self.demand[row]
    }

    #[must_use]
    pub fn is_strict(&self, row: usize) -> bool {
        self.strict[row]
    }

    #[must_use]
    pub fn candidates(&self, row: usize) -> &[Candidate] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.candidates[start..self.ends[row]]
    }

    #[must_use]
    pub fn total_demand(&self) -> u64 {
        self.demand.iter().sum()
    }

    /// Writes the shares of a row's candidates at these prices, of [`WHOLE`], as answers split it.
    /// Regions without a price have 0.
    pub fn shares(
        &self,
        row: usize,
        prices_tenths: &[u32],
        shares: &mut [u32; CANDIDATES_MAX],
    ) -> usize {
        let candidates = self.candidates(row);
        let mut costs = [None; CANDIDATES_MAX];
        for (cost, candidate) in costs.iter_mut().zip(candidates) {
            let price = prices_tenths.get(usize::from(candidate.region));
            *cost = Some(u32::from(candidate.rtt_tenths).saturating_add(*price.unwrap_or(&0)));
        }
        let count = candidates.len();
        split(&costs[..count], BAND_TENTHS, &mut shares[..count]);
        count
    }

    /// What each region gets at these prices, in thousandths of a call in progress.
    #[must_use]
    pub fn loads(&self, prices_tenths: &[u32]) -> Vec<u64> {
        self.loads_and_play(prices_tenths).0
    }

    /// The loads, and for each region the demand of rows that it shares with others: a tenth of a
    /// millisecond moves at most a fortieth of that ([`BAND_TENTHS`]).
    #[must_use]
    pub fn loads_and_play(&self, prices_tenths: &[u32]) -> (Vec<u64>, Vec<u64>) {
        let mut loads = vec![0_u128; self.rooms.len()];
        let mut play = vec![0_u64; self.rooms.len()];
        let mut shares = [0; CANDIDATES_MAX];
        for row in 0..self.rows() {
            self.shares(row, prices_tenths, &mut shares);
            for (candidate, share) in self.candidates(row).iter().zip(&shares) {
                let region = usize::from(candidate.region);
                loads[region] += u128::from(self.demand[row]) * u128::from(*share);
                if *share > 0 && *share < WHOLE {
                    play[region] = play[region].saturating_add(self.demand[row]);
                }
            }
        }
        let whole = u128::from(WHOLE);
        let rounded = |load: u128| u64::try_from((load + whole / 2) / whole).unwrap_or(u64::MAX);
        (loads.into_iter().map(rounded).collect(), play)
    }

    /// What the split at these prices costs, and what any split within `targets` costs at least: the
    /// value of the linear program's dual at these prices. If the demand of strict rows does not fit,
    /// no split is within the targets and the bound says nothing.
    #[must_use]
    pub fn certificate(&self, prices_tenths: &[u32], targets: &[u64]) -> Certificate {
        let price = |region: usize| i128::from(*prices_tenths.get(region).unwrap_or(&0));
        let mut shares = [0; CANDIDATES_MAX];
        let (mut cost, mut bound) = (0, 0);
        for row in 0..self.rows() {
            self.shares(row, prices_tenths, &mut shares);
            let demand = i128::from(self.demand[row]);
            let mut least = i128::MAX;
            for (candidate, share) in self.candidates(row).iter().zip(&shares) {
                let rtt = i128::from(candidate.rtt_tenths);
                cost += demand * rtt * i128::from(*share);
                least = least.min(rtt + price(usize::from(candidate.region)));
            }
            bound += demand * least;
        }
        for (region, target) in targets.iter().enumerate() {
            bound -= price(region) * i128::from(*target);
        }
        Certificate {
            cost: cost / i128::from(WHOLE),
            bound,
            demand: self.total_demand(),
        }
    }
}

impl Certificate {
    /// How much longer a call travels than it must, on average, in microseconds: at most this.
    #[must_use]
    pub fn gap_micros(&self) -> i128 {
        (self.cost - self.bound) * 100 / i128::from(self.demand.max(1))
    }
}
