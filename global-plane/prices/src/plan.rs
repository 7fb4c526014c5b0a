//! What would happen if a region were drained.

use crate::{CANDIDATES_MAX, Candidate, Market, Room, solve};

/// Where the demand of a drained region goes. Demand is in thousandths of a call in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the region has now.
    pub drained: u64,
    /// Regions that get more than now, and how much; those with most first. More than `drained` in sum
    /// where others have to make room in turn.
    pub moved: Vec<(u16, u64)>,
    /// Demand that may go nowhere else. It stays while the region answers, and has no region then.
    pub stays: u64,
    /// By how many tenths of a millisecond the RTT of the region's clients grows, for half of them and
    /// for 99 of 100 at most. Negative if nearer regions had been full.
    pub added_p50_tenths: i32,
    pub added_p99_tenths: i32,
    /// Regions that end above their target.
    pub above_target: Vec<Above>,
    /// Prices afterwards, in tenths of a millisecond.
    pub prices_tenths: Vec<u32>,
    /// By which the targets of all regions have to be exceeded, in thousandths; 1000 if by nothing.
    pub scaled_targets_permille: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Above {
    pub region: u16,
    pub load: u64,
    pub target: u64,
}

/// Loads above the target by no more than this many thousandths are rounding.
const ROUNDING_PERMILLE: u64 = 15;

/// Compares the split at today's prices with the solved one of a market without the region. `None` if
/// there is no such region.
#[must_use]
pub fn drain(market: &Market, prices_tenths: &[u32], region: u16) -> Option<Plan> {
    let drained = usize::from(region);
    let before = market.loads(prices_tenths);
    let now = *before.get(drained)?;
    let (without, rows) = without(market, region);
    let solution = solve(&without, prices_tenths);
    let stays = market.total_demand() - without.total_demand();

    let mut added: Vec<(i32, u128)> = Vec::new();
    let mut shares_before = [0; CANDIDATES_MAX];
    let mut shares_after = [0; CANDIDATES_MAX];
    for (row, of) in rows.iter().enumerate() {
        market.shares(*of, prices_tenths, &mut shares_before);
        let candidates = market.candidates(*of);
        let at = candidates.iter().position(|c| c.region == region);
        let Some(leaving) = at.filter(|at| shares_before[*at] > 0) else {
            continue;
        };
        without.shares(row, &solution.prices_tenths, &mut shares_after);
        let after = |candidate: &Candidate| {
            let place = without.candidates(row).iter().position(|c| c == candidate);
            place.map_or(0, |place| shares_after[place])
        };
        let gains: Vec<(u16, u32)> = candidates
            .iter()
            .zip(&shares_before)
            .map(|(candidate, before)| {
                (
                    candidate.rtt_tenths,
                    after(candidate).saturating_sub(*before),
                )
            })
            .collect();
        let gained: u128 = gains.iter().map(|(_, gain)| u128::from(*gain)).sum();
        let leaves = u128::from(market.demand(*of)) * u128::from(shares_before[leaving]);
        for (rtt, gain) in gains.into_iter().filter(|(_, gain)| *gain > 0) {
            let more = i32::from(rtt) - i32::from(candidates[leaving].rtt_tenths);
            added.push((more, leaves * u128::from(gain) / gained.max(1)));
        }
    }
    added.sort_unstable();

    let mut moved = Vec::new();
    let mut above_target = Vec::new();
    for index in (0..before.len()).filter(|index| *index != drained) {
        let number = u16::try_from(index).expect("there are at most REGIONS_MAX regions");
        let (load, target) = (solution.loads[index], market.rooms()[index].target);
        if load > before[index] {
            moved.push((number, load - before[index]));
        }
        if load > target + target * ROUNDING_PERMILLE / 1000 {
            above_target.push(Above {
                region: number,
                load,
                target,
            });
        }
    }
    moved.sort_by_key(|(region, more)| (std::cmp::Reverse(*more), *region));
    Some(Plan {
        drained: now,
        moved,
        stays,
        added_p50_tenths: percentile(&added, 50),
        added_p99_tenths: percentile(&added, 99),
        above_target,
        prices_tenths: solution.prices_tenths,
        scaled_targets_permille: solution.scaled_targets_permille,
    })
}

/// The market as if the region were not there, and which row each of its rows was.
fn without(market: &Market, region: u16) -> (Market, Vec<usize>) {
    let mut rooms = market.rooms().to_vec();
    rooms[usize::from(region)] = Room::new(0, 0);
    let mut rest = Market::new(rooms).expect("as many regions as before");
    let mut rows = Vec::new();
    for row in 0..market.rows() {
        let candidates: Vec<Candidate> = market
            .candidates(row)
            .iter()
            .filter(|candidate| candidate.region != region)
            .copied()
            .collect();
        if !candidates.is_empty() {
            rest.add(market.demand(row), market.is_strict(row), &candidates);
            rows.push(row);
        }
    }
    (rest, rows)
}

/// The least value that so many hundredths of the weight are at or below; 0 for nothing.
fn percentile(sorted: &[(i32, u128)], percent: u128) -> i32 {
    let all: u128 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0;
    for (value, weight) in sorted {
        sum += weight;
        if sum * 100 >= all * percent {
            return *value;
        }
    }
    0
}
