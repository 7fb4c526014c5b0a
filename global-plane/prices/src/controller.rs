//! From what is solved to what is published: solve, then correct.
//!
//! The leader steps every few seconds. Each step solves the market outright. Four things stand between
//! the solved price and the published one, and each decision says which of them applied: a freeze after
//! an election, the operator's policy, a dead band against noise, and limits of a step.
//!
//! What the model does not know (demand that it misjudges, resolvers that stretch TTLs) shows as a region
//! whose load stays off what the model says of it. A factor on the target that the solver is given
//! corrects that, slowly.

use std::collections::BTreeMap;

use api_types::{RegionName, Verdict};
use dns_steering::split::BAND_TENTHS;

use crate::{DEMAND_MAX, Market, PRICE_CAP_TENTHS, Room, solve};

/// How often the leader steps.
pub const PERIOD_MS: u64 = 5_000;

/// A report is lost when it is older than the lease of reports.
pub const REPORT_LEASE_MS: u64 = 3_000;

/// Fast to shed: a whole continent's RTT in five seconds.
pub const RISE_TENTHS_PER_SEC: u64 = 200;

/// Slow to return: 30 ms in a TTL of 30 s, so that answers have taken effect before the next step counts.
pub const FALL_TENTHS_PER_SEC: u64 = 10;

/// Without reports a price is held for so long: a gateway may restart, a leader may change.
pub const HOLD_MS: u64 = 300_000;

/// Afterwards half of it is gone in each of these.
pub const HALF_LIFE_MS: u64 = 1_800_000;

/// A new leader waits no longer than this: a region that never reports must not freeze the others.
pub const FREEZE_MAX_MS: u64 = 60_000;

/// What the factor may be, in thousandths. A model that is off by more is no matter of correction.
pub const FACTOR_PERMILLE: std::ops::RangeInclusive<u32> = 500..=1500;

/// Steps farther apart than this count as this far: a leader that was stopped has no credit for it.
const STEP_MAX_MS: u64 = 3 * PERIOD_MS;

/// The factor corrects a quarter of an error in one TTL, so that an answer's effect is seen before the
/// next quarter.
const TTLS_OF_CORRECTION: u64 = 4;

/// The dead band is never narrower than this much of the target, in thousandths: rounding prices to
/// tenths puts regions off by as much.
const DEAD_BAND_PERMILLE: u64 = 15;

/// Within the dead band a price may differ from the solved one by this, in tenths of a millisecond.
/// What differs by more is published although it moves hardly anybody.
const HELD_TENTHS_MAX: u32 = 100;

/// What the leader before this one replicated for a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub price_tenths: u32,
    /// On the target that the solver is given.
    pub factor_permille: u32,
}

/// The operator's word on a region's price, in tenths of a millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PricePolicy {
    Free,
    Pin(u32),
    Cap(u32),
}

/// What is known of one region. Loads are in thousandths of a call in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRegion {
    pub name: RegionName,
    pub current: u64,
    pub target: u64,
    pub capacity: u64,
    /// `None`: no report has come to this leader.
    pub report_age_ms: Option<u64>,
    pub probes_succeed: bool,
    pub verdict: Verdict,
    pub policy: PricePolicy,
    /// How much of its target a recovering region is given; 1000 for all of it.
    pub ramp_permille: u32,
}

/// What a step decides from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// In the order of the market's regions.
    pub regions: Vec<SeenRegion>,
    /// Its rooms are not read: they are made from `regions`.
    pub market: Market,
    /// Demand has been gathered for long enough to be all of it.
    pub demand_is_back: bool,
    /// The longest TTL of answers that are out.
    pub ttl_ms: u64,
}

/// What to publish and to replicate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In the order of [`Seen::regions`].
    pub regions: Vec<RegionDecision>,
    pub frozen: Option<Frozen>,
    /// See [`Solution::scaled_targets_permille`](crate::Solution::scaled_targets_permille).
    pub scaled_targets_permille: u32,
    /// Rows of strict sets that do not fit.
    pub short_rows: usize,
    pub iterations: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionDecision {
    pub name: RegionName,
    pub price_tenths: u32,
    pub factor_permille: u32,
    pub why: Why,
}

/// What a new leader waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frozen {
    Report(RegionName),
    Demand,
}

/// What made a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Why {
    pub rule: Rule,
    /// What the solver says it should be; the price itself where nothing was solved.
    pub solved_tenths: u32,
    /// The target that the solver was given: scaled by factor and ramp.
    pub target_given: u64,
    /// What the region gets at the published prices by the model.
    pub load: u64,
    /// Loads that differ by less are the same.
    pub dead_band: u64,
}

/// Which rule had the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The solved price is published.
    Solved,
    /// The solved price would change the load by no more than the dead band.
    DeadBand,
    /// Higher, but by no more than a step may be.
    RiseLimited,
    /// Lower, but by no more than a step may be.
    FallLimited,
    /// The region serves again, or is new: the solved price at once, since nobody is there yet.
    Returned,
    /// It does not serve: the cap, so that nobody comes before a price is solved for it.
    NotServing,
    /// No reports: the last price.
    Held {
        age_ms: u64,
    },
    /// No reports for longer, while probes succeed.
    Decayed {
        age_ms: u64,
    },
    Pinned,
    Capped,
    /// A new leader waits.
    Frozen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Memory {
    price: u32,
    factor: u32,
    /// The last solved price: where the solver starts.
    solved: u32,
    /// The last reported target and capacity.
    room: Option<(u64, u64)>,
    serves: bool,
    /// Since when there has been no report, and the price then.
    lost: Option<(u64, u32)>,
    /// When its price last changed its load by much.
    moved_ms: u64,
}

/// Keeps what a step needs of those before it. Time is passed in; it may be of any clock that does not
/// jump.
#[derive(Debug, Clone)]
pub struct Controller {
    memory: BTreeMap<RegionName, Memory>,
    /// Of the first step, while frozen.
    frozen_since: Option<u64>,
    thawed: bool,
    last_ms: Option<u64>,
}

/// A held price without reports for `age_ms`: the price for [`HOLD_MS`], then half of it in each
/// [`HALF_LIFE_MS`]. A DNS server that is cut off from the global plane does the same.
#[must_use]
pub fn decayed(price_tenths: u32, age_ms: u64) -> u32 {
    let beyond = age_ms.saturating_sub(HOLD_MS);
    let halvings = u32::try_from(beyond / HALF_LIFE_MS).unwrap_or(u32::MAX);
    let price = u64::from(price_tenths.checked_shr(halvings).unwrap_or(0));
    // Between halvings in a straight line.
    let gone = price * (beyond % HALF_LIFE_MS) / (2 * HALF_LIFE_MS);
    u32::try_from(price - gone).unwrap_or(price_tenths)
}

impl Controller {
    /// Starts from what was replicated; frozen until reports and demand are back.
    #[must_use]
    pub fn new(carried: &BTreeMap<RegionName, Carried>) -> Self {
        let memory = |carried: &Carried| Memory {
            price: carried.price_tenths.min(PRICE_CAP_TENTHS),
            factor: within(carried.factor_permille),
            solved: carried.price_tenths.min(PRICE_CAP_TENTHS),
            room: None,
            serves: true,
            lost: None,
            moved_ms: 0,
        };
        Self {
            memory: carried
                .iter()
                .map(|(name, carried)| (name.clone(), memory(carried)))
                .collect(),
            frozen_since: None,
            thawed: false,
            last_ms: None,
        }
    }

    /// Decides what to publish. A region that is missing from `seen` is forgotten.
    pub fn step(&mut self, now_ms: u64, seen: &Seen) -> Decision {
        let elapsed =
            now_ms.saturating_sub(self.last_ms.unwrap_or(now_ms.saturating_sub(PERIOD_MS)));
        let elapsed_ms = elapsed.min(STEP_MAX_MS);
        self.last_ms = Some(now_ms);
        if let Some(frozen) = self.waits_for(now_ms, seen) {
            return self.frozen(seen, frozen);
        }
        let thawed = !std::mem::replace(&mut self.thawed, true);
        let mut regions: Vec<Memory> = seen
            .regions
            .iter()
            .map(|region| {
                self.memory
                    .remove(&region.name)
                    .unwrap_or_else(Memory::of_new)
            })
            .collect();
        for (memory, region) in regions.iter_mut().zip(&seen.regions) {
            memory.hear(now_ms, region);
            if thawed {
                // What was published last has not taken effect for all this leader knows.
                memory.moved_ms = now_ms;
            }
        }
        let rooms: Vec<Room> = regions
            .iter()
            .zip(&seen.regions)
            .map(|(memory, region)| memory.room_given(now_ms, region))
            .collect();
        let market = seen.market.clone().with_rooms(rooms.clone());
        let warm: Vec<u32> = regions.iter().map(|memory| memory.solved).collect();
        let solution = solve(&market, &warm);
        let published: Vec<u32> = regions.iter().map(|memory| memory.price).collect();
        let (loads_before, play) = market.loads_and_play(&published);
        let at = |of: &[u64], region: usize| *of.get(region).unwrap_or(&0);

        let mut whys = Vec::new();
        for (index, memory) in regions.iter_mut().enumerate() {
            let region = &seen.regions[index];
            let solved = *solution.prices_tenths.get(index).unwrap_or(&0);
            let load = at(&solution.loads, index).max(at(&loads_before, index));
            let dead_band =
                dead_band(load, region.target) + at(&play, index) / u64::from(BAND_TENTHS);
            let change = at(&loads_before, index).abs_diff(at(&solution.loads, index));
            // A region with room for certain needs no price.
            let has_room = at(&solution.loads, index) + dead_band <= rooms[index].target;
            let is_noise = change <= dead_band && !(solved == 0 && has_room);
            let rule = memory.publish(now_ms, region, solved, is_noise, elapsed_ms);
            whys.push(Why {
                rule,
                solved_tenths: solved,
                target_given: rooms[index].target,
                load: 0,
                dead_band,
            });
        }
        let published = |regions: &[Memory]| -> Vec<u32> {
            regions.iter().map(|memory| memory.price).collect()
        };
        let mut loads = market.loads(&published(&regions));
        let scaled = |target: u64| target * u64::from(solution.scaled_targets_permille) / 1000;
        let is_over = whys
            .iter()
            .zip(&loads)
            .any(|(why, load)| *load > scaled(why.target_given) + why.dead_band);
        if is_over {
            // Prices that are held above the solved ones, each for noise of its own, send others too much.
            for (index, memory) in regions.iter_mut().enumerate() {
                let why = &mut whys[index];
                if why.rule == Rule::DeadBand && memory.price > why.solved_tenths {
                    let rule = memory.move_towards(why.solved_tenths, false, elapsed_ms);
                    why.rule = memory
                        .apply_policy(seen.regions[index].policy)
                        .unwrap_or(rule);
                }
            }
            loads = market.loads(&published(&regions));
        }
        let ttl_ms = seen.ttl_ms.clamp(PERIOD_MS, 600_000);
        for (index, memory) in regions.iter_mut().enumerate() {
            let region = &seen.regions[index];
            whys[index].load = at(&loads, index);
            if at(&loads, index).abs_diff(at(&loads_before, index)) > whys[index].dead_band {
                memory.moved_ms = now_ms;
            }
            let is_still = now_ms.saturating_sub(memory.moved_ms) >= ttl_ms;
            if is_still {
                memory.correct(region, &whys[index], elapsed_ms, ttl_ms);
            }
        }
        let decisions = regions.iter().zip(&seen.regions).zip(whys);
        let decision = Decision {
            regions: decisions
                .map(|((memory, region), why)| memory.decision(region, why))
                .collect(),
            frozen: None,
            scaled_targets_permille: solution.scaled_targets_permille,
            short_rows: solution.short.len(),
            iterations: solution.iterations,
        };
        let names = seen.regions.iter().map(|region| region.name.clone());
        self.memory = names.zip(regions).collect();
        decision
    }

    /// A new leader moves nothing before it knows what the old one knew.
    fn waits_for(&mut self, now_ms: u64, seen: &Seen) -> Option<Frozen> {
        if self.thawed {
            return None;
        }
        let since = *self.frozen_since.get_or_insert(now_ms);
        let missing = seen
            .regions
            .iter()
            .find(|region| region.verdict.serves() && region.is_lost());
        let waits = match missing {
            Some(region) => Some(Frozen::Report(region.name.clone())),
            None if !seen.demand_is_back => Some(Frozen::Demand),
            None => None,
        };
        // Without demand there is nothing to solve, however long it takes.
        let is_over = seen.demand_is_back && now_ms.saturating_sub(since) >= FREEZE_MAX_MS;
        if waits.is_some() && !is_over {
            return waits;
        }
        None
    }

    fn frozen(&mut self, seen: &Seen, frozen: Frozen) -> Decision {
        let regions = seen.regions.iter().map(|region| {
            let memory = self.memory.get(&region.name).cloned();
            let mut memory = memory.unwrap_or_else(Memory::of_new);
            let rule = memory.apply_policy(region.policy).unwrap_or(Rule::Frozen);
            let why = Why {
                rule,
                solved_tenths: memory.price,
                target_given: region.target,
                load: 0,
                dead_band: 0,
            };
            memory.decision(region, why)
        });
        Decision {
            regions: regions.collect(),
            frozen: Some(frozen),
            scaled_targets_permille: 1000,
            short_rows: 0,
            iterations: 0,
        }
    }
}

impl SeenRegion {
    fn is_lost(&self) -> bool {
        self.report_age_ms.is_none_or(|age| age > REPORT_LEASE_MS)
    }
}

impl Memory {
    fn of_new() -> Self {
        Self {
            price: 0,
            factor: 1000,
            solved: 0,
            room: None,
            serves: false,
            lost: None,
            moved_ms: 0,
        }
    }

    fn hear(&mut self, now_ms: u64, region: &SeenRegion) {
        if region.is_lost() {
            let age = region.report_age_ms.unwrap_or(0);
            self.lost
                .get_or_insert((now_ms.saturating_sub(age), self.price));
        } else {
            self.lost = None;
            self.room = Some((region.target, region.capacity));
        }
    }

    /// What the solver is given.
    fn room_given(&self, now_ms: u64, region: &SeenRegion) -> Room {
        let (target, capacity) = self.room.unwrap_or((region.target, region.capacity));
        let target = target.min(DEMAND_MAX);
        let scale = |of: u64, permille: u32| of * u64::from(permille) / 1000;
        // A correction upwards ends at the capacity.
        let corrected = scale(target, self.factor).min(capacity.max(target));
        let target = scale(corrected, region.ramp_permille.min(1000));
        let serves = region.verdict.serves();
        let room = Room::new(if serves { target } else { 0 }, capacity);
        match region.policy {
            PricePolicy::Pin(price) => room.priced(price, price),
            _ if !serves => room,
            PricePolicy::Cap(price) => room.priced(0, price),
            PricePolicy::Free => match self.held(now_ms, region) {
                Some((price, _)) => room.priced(price, price),
                None => room,
            },
        }
    }

    fn held(&self, now_ms: u64, region: &SeenRegion) -> Option<(u32, Rule)> {
        let (since, price) = self.lost?;
        let age_ms = now_ms.saturating_sub(since);
        // Where probes fail as well, the verdict has the word.
        if age_ms > HOLD_MS && region.probes_succeed {
            return Some((decayed(price, age_ms), Rule::Decayed { age_ms }));
        }
        Some((price, Rule::Held { age_ms }))
    }

    /// Sets the price, and says by which rule.
    fn publish(
        &mut self,
        now_ms: u64,
        region: &SeenRegion,
        solved: u32,
        is_noise: bool,
        elapsed_ms: u64,
    ) -> Rule {
        let returned = !self.serves;
        self.serves = region.verdict.serves();
        self.solved = solved;
        let rule = if !self.serves {
            self.price = PRICE_CAP_TENTHS;
            Rule::NotServing
        } else if let Some((price, rule)) = self.held(now_ms, region) {
            self.price = price;
            rule
        } else if returned {
            self.price = solved;
            Rule::Returned
        } else {
            self.move_towards(solved, is_noise, elapsed_ms)
        };
        self.apply_policy(region.policy).unwrap_or(rule)
    }

    fn move_towards(&mut self, solved: u32, is_noise: bool, elapsed_ms: u64) -> Rule {
        if self.price == solved {
            return Rule::Solved;
        }
        if is_noise && self.price.abs_diff(solved) <= HELD_TENTHS_MAX {
            return Rule::DeadBand;
        }
        let most = |per_sec: u64| u32::try_from(per_sec * elapsed_ms / 1000).unwrap_or(u32::MAX);
        let highest = self.price.saturating_add(most(RISE_TENTHS_PER_SEC));
        let lowest = self.price.saturating_sub(most(FALL_TENTHS_PER_SEC));
        self.price = solved.clamp(lowest, highest);
        match self.price.cmp(&solved) {
            std::cmp::Ordering::Less => Rule::RiseLimited,
            std::cmp::Ordering::Equal => Rule::Solved,
            std::cmp::Ordering::Greater => Rule::FallLimited,
        }
    }

    /// The operator's word holds at once.
    fn apply_policy(&mut self, policy: PricePolicy) -> Option<Rule> {
        match policy {
            PricePolicy::Free => None,
            PricePolicy::Pin(price) => {
                self.price = price.min(PRICE_CAP_TENTHS);
                Some(Rule::Pinned)
            }
            PricePolicy::Cap(price) if self.price > price => {
                self.price = price;
                Some(Rule::Capped)
            }
            PricePolicy::Cap(_) => None,
        }
    }

    /// Corrects the factor by a part of how far the region's load is off what the model says of it at the
    /// prices that are out: where twice as much comes, the solver is given half the target.
    ///
    /// The model is compared with the region, not the target with its load: what a region is over its
    /// target because a price may not move, its own or a neighbour's, is no error of the model, and
    /// correcting it would wind the factor up. Where the model is right without it, it goes back to 1.
    fn correct(&mut self, region: &SeenRegion, why: &Why, elapsed_ms: u64, ttl_ms: u64) {
        let current = region.current.min(DEMAND_MAX);
        let price_acts = matches!(why.rule, Rule::Solved | Rule::DeadBand)
            && self.price < PRICE_CAP_TENTHS
            && region.ramp_permille >= 1000;
        if !price_acts {
            return;
        }
        let corrected = current * u64::from(self.factor) / 1000;
        let error = corrected.abs_diff(why.load);
        if error > why.dead_band {
            let most = corrected.max(why.load);
            let part = (error * 1000 / most) * elapsed_ms / (TTLS_OF_CORRECTION * ttl_ms);
            let part = u32::try_from(part).unwrap_or(u32::MAX).max(1);
            self.factor = within(if corrected > why.load {
                self.factor.saturating_sub(part)
            } else {
                self.factor.saturating_add(part)
            });
        } else if current.abs_diff(why.load) <= why.dead_band {
            self.factor -= u32::from(self.factor > 1000);
            self.factor += u32::from(self.factor < 1000);
        }
    }

    fn decision(&self, region: &SeenRegion, why: Why) -> RegionDecision {
        RegionDecision {
            name: region.name.clone(),
            price_tenths: self.price,
            factor_permille: self.factor,
            why,
        }
    }
}

fn within(factor_permille: u32) -> u32 {
    factor_permille.clamp(*FACTOR_PERMILLE.start(), *FACTOR_PERMILLE.end())
}

/// Two standard deviations of the calls in progress (Poisson: the root of their number), and not less
/// than what rounding does.
fn dead_band(load: u64, target: u64) -> u64 {
    let noise = 2 * (load.saturating_mul(1000)).isqrt();
    noise.max(target.min(DEMAND_MAX) * DEAD_BAND_PERMILLE / 1000)
}
