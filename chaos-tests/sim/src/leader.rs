//! What the leader does beside judging: it gathers demand from gateways and prices regions.
//!
//! All decisions are `global-plane-prices`'. What is this crate's own is what nobody has built yet: how
//! reports of arrivals become demand.

use std::collections::BTreeMap;

use api_types::{Load, RegionName, Verdict};
use global_plane_prices::{
    Candidate, Controller, Market, PricePolicy, Room, Seen, SeenRegion, controller::PERIOD_MS,
};

use crate::run::CALL_SECS;
use crate::steered::{Answers, Held, TTL_SECS};
use crate::world::World;

/// Weight of the newest period's arrivals. Of 5 s alone they are off by a few per cent; a flood has to be
/// seen within two periods.
const NEWEST: f64 = 0.5;

/// Prices regions from what gateways report.
#[derive(Debug)]
pub struct Pricer {
    controller: Controller,
    names: Vec<RegionName>,
    /// By block: calls that arrived in this period, wherever they were sent.
    arrived: Vec<u32>,
    /// By block: calls in progress that arrivals make.
    demand: Vec<f64>,
    /// By region: what was reported last, and when.
    reports: Vec<Option<(Load, u64)>>,
    periods: u32,
}

impl Pricer {
    #[must_use]
    pub fn new(world: &World) -> Self {
        let names = world.regions.iter();
        Self {
            controller: Controller::new(&BTreeMap::new()),
            names: names
                .map(|region| region.name.parse().expect("it is a region's name"))
                .collect(),
            arrived: vec![0; world.blocks.len()],
            demand: vec![0.0; world.blocks.len()],
            reports: vec![None; world.regions.len()],
            periods: 0,
        }
    }

    pub fn arrived(&mut self, block: usize) {
        self.arrived[block] += 1;
    }

    pub fn hear(&mut self, region: usize, now_ms: u64, load: Load) {
        self.reports[region] = Some((load, now_ms));
    }

    /// Whether it is time to solve.
    #[must_use]
    pub fn is_due(now_ms: u64) -> bool {
        now_ms > 0 && now_ms.is_multiple_of(PERIOD_MS)
    }

    /// Solves, and writes prices into what DNS holds. `up` is what probes say of each region.
    pub fn step(&mut self, now_ms: u64, answers: &Answers, up: &[bool], held: &mut Held) {
        self.gather();
        let seen = Seen {
            regions: self.regions(now_ms, up, &held.verdicts),
            market: self.market(answers, &held.verdicts),
            demand_is_back: true,
            ttl_ms: u64::from(TTL_SECS) * 1000,
        };
        let decision = self.controller.step(now_ms, &seen);
        let mut fastest = 0;
        for (price, region) in held.prices_tenths.iter_mut().zip(&decision.regions) {
            fastest = fastest.max(price.abs_diff(region.price_tenths));
            *price = region.price_tenths;
        }
        // Regions that go or come back jump; the others say how fast prices move.
        let period_secs = (PERIOD_MS / 1000) as u32;
        held.slew_tenths_per_sec = match self.periods {
            // There were no prices before.
            1 => 0,
            _ => fastest.div_ceil(period_secs).min(SLEW_TENTHS_PER_SEC_MAX),
        };
        held.factors_permille = decision
            .regions
            .iter()
            .map(|of| of.factor_permille)
            .collect();
    }

    fn gather(&mut self) {
        let secs = PERIOD_MS as f64 / 1000.0;
        let newest = if self.periods == 0 { 1.0 } else { NEWEST };
        for (demand, arrived) in self.demand.iter_mut().zip(&mut self.arrived) {
            let now = f64::from(std::mem::take(arrived)) / secs * CALL_SECS;
            *demand += newest * (now - *demand);
        }
        self.periods += 1;
    }

    fn regions(&self, now_ms: u64, up: &[bool], verdicts: &[Verdict]) -> Vec<SeenRegion> {
        let regions = self.names.iter().zip(&self.reports).zip(verdicts).zip(up);
        regions
            .map(|(((name, report), verdict), up)| {
                let (load, at_ms) = report.unwrap_or_default();
                SeenRegion {
                    name: name.clone(),
                    current: u64::from(load.current) * 1000,
                    target: u64::from(load.target) * 1000,
                    capacity: u64::from(load.capacity) * 1000,
                    report_age_ms: report.map(|_| now_ms - at_ms),
                    probes_succeed: *up,
                    verdict: *verdict,
                    policy: PricePolicy::Free,
                    ramp_permille: 1000,
                }
            })
            .collect()
    }

    fn market(&self, answers: &Answers, verdicts: &[Verdict]) -> Market {
        let rooms = vec![Room::new(0, 0); verdicts.len()];
        let mut market = Market::new(rooms).expect("a world has no more regions than steering");
        let map = answers.structure().map();
        for (block, demand) in self.demand.iter().enumerate() {
            let distances = map.distances(answers.class(block));
            let serving = distances
                .listed()
                .filter(|cell| verdicts[usize::from(cell.region)].serves());
            let candidates: Vec<Candidate> = serving
                .map(|cell| Candidate {
                    region: cell.region,
                    rtt_tenths: cell.rtt_tenths,
                })
                .collect();
            if !candidates.is_empty() {
                let demand = (demand * 1000.0).round() as u64;
                market
                    .push(demand, false, &candidates)
                    .expect("blocks of the world are within the market's bounds");
            }
        }
        market
    }
}

/// As fast as prices may rise.
const SLEW_TENTHS_PER_SEC_MAX: u32 = 200;
