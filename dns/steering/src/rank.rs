//! Which region a client is sent to. The one ranking: DNS servers, global nodes, gateways, the solver's
//! simulation and what people are told all call it.
//!
//! Integers only, no allocation, no clock.

use std::net::IpAddr;

use api_types::placement::Why;

use crate::map::{Cell, ClassId, Distances, LISTED};
use crate::mask::{REGIONS_MAX, RegionSet};
use crate::rows::Prepared;
use crate::split::{BAND_TENTHS, WHOLE, draw, mixed, split};
use crate::structure::{FNV_START, SetId, Structure, fnv};

/// What stands for who asks and for what; two that are equal get one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// What is asked for, as a part of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NameHash(pub u64);

/// Where clients of one key are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranked {
    /// Index of the region; `None` only if the placement admits no region that exists.
    pub winner: Option<u16>,
    pub why: Why,
    /// What the winner costs: `rtt + price`, in tenths of a millisecond.
    pub cost_tenths: u32,
    /// Of [`WHOLE`]: how much of the demand of its class the winner has.
    pub share: u32,
    /// By how much some price has to change at least before the answer can be another, in tenths of a
    /// millisecond. 0 within the band of indifference, `None` if there is no other region.
    pub margin_tenths: Option<u32>,
}

impl NameHash {
    /// Of an app or a function; both empty for names that stand for no one app.
    #[must_use]
    pub fn new(app: &str, function: &str) -> Self {
        let hash = fnv(fnv(FNV_START, app.as_bytes()), &[0]);
        Self(mixed(fnv(hash, function.as_bytes())))
    }
}

impl Key {
    /// Of a leaf of the client map and a name. `slot` is the number of a time slot: only demand that is
    /// marked heavy in the rows has one, see [`Prepared::is_heavy`].
    #[must_use]
    pub fn new(network: IpAddr, len: u8, name: NameHash, slot: Option<u64>) -> Self {
        let (family, bits) = match network {
            IpAddr::V4(ip) => (4, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (6, ip.to_bits()),
        };
        let [high, low] = [bits >> 64, bits & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).unwrap_or(u64::MAX));
        let mut key = mixed(low ^ (u64::from(len) << 8 | family).wrapping_mul(GOLDEN));
        if high != 0 {
            key = mixed(key ^ high);
        }
        key ^= name.0;
        if let Some(slot) = slot {
            key ^= mixed(slot.wrapping_add(1).wrapping_mul(GOLDEN));
        }
        Self(mixed(key))
    }
}

/// 2^64 over the golden ratio: multiples of it differ in high bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Chooses the region for clients of one class that ask for something of one placement set.
///
/// Of the regions that the one rule of placement admits, the one of least `rtt + price` wins. Those
/// within the band of indifference of it share the keys by [`split`] and [`draw`].
#[must_use]
pub fn rank(
    structure: &Structure,
    prepared: &Prepared,
    class: ClassId,
    set: SetId,
    key: Key,
) -> Ranked {
    rank_from(
        structure,
        prepared,
        &structure.map().distances(class),
        set,
        key,
    )
}

/// The same for distances that need not be of the structure's map.
#[must_use]
pub fn rank_from(
    structure: &Structure,
    prepared: &Prepared,
    distances: &Distances<'_>,
    set: SetId,
    key: Key,
) -> Ranked {
    let admitted = prepared.admitted(set, distances.continent());
    let prices = prepared.prices_tenths();
    let contest = Contest::of(distances, prices, admitted.first());
    contest.ranked(admitted.why, structure.salts(), key)
}

/// Writes the admitted regions, best first, and returns how many there are; at most as many as `order`
/// has room for.
///
/// The first is the winner, and each other is who would win without those before it, so that a region
/// that is lost hands its clients to whom they were told of as the next.
pub fn order(
    structure: &Structure,
    prepared: &Prepared,
    distances: &Distances<'_>,
    set: SetId,
    key: Key,
    order: &mut [u16],
) -> usize {
    let admitted = prepared.admitted(set, distances.continent());
    let row = distances.row();
    let mut count = 0;
    for mut left in admitted.layers {
        while count < order.len() && !left.is_empty() {
            let contest = Contest::of_row(&row, prepared.prices_tenths(), left);
            let ranked = contest.ranked(admitted.why, structure.salts(), key);
            let Some(winner) = ranked.winner else { break };
            order[count] = winner;
            count += 1;
            left.remove(winner);
        }
    }
    count
}

/// Up to `count` of regions that cost this, as indices, best first: the winner by [`split`] and [`draw`],
/// then who would win without those before it. For whoever is no class of clients, as a gateway is that
/// hands a call on.
#[must_use]
pub fn nearest_first(costs_tenths: &[u32], salts: &[u64], key: Key, count: usize) -> Vec<usize> {
    let mut left: Vec<Option<u32>> = costs_tenths.iter().copied().map(Some).collect();
    let mut shares = vec![0; left.len()];
    let winners = std::iter::from_fn(|| {
        split(&left, BAND_TENTHS, &mut shares);
        let winner = draw(key.0, &shares, salts)?;
        left[winner] = None;
        Some(winner)
    });
    winners.take(count).collect()
}

/// Of [`WHOLE`]: how much of a class's demand each region of the first layer has, by index.
#[must_use]
pub fn shares(prepared: &Prepared, distances: &Distances<'_>, set: SetId) -> [u32; REGIONS_MAX] {
    let admitted = prepared.admitted(set, distances.continent());
    let contest = Contest::of(distances, prepared.prices_tenths(), admitted.first());
    let mut shares = [0; REGIONS_MAX];
    match contest {
        Contest::Nobody => {}
        Contest::One { region, .. } => shares[usize::from(region)] = WHOLE,
        Contest::Few(few) => few.shares(&mut shares),
        Contest::Many(many) => many.shares(&mut shares),
    }
    shares
}

#[expect(
    clippy::large_enum_variant,
    reason = "it stays on the stack for one decision, and a box would be an allocation"
)]
/// Those who may win: all within the band of indifference of the cheapest.
enum Contest {
    Nobody,
    /// No other is within the band.
    One {
        region: u16,
        cost: u32,
        /// The cheapest of the others costs at least this.
        next: Option<u32>,
    },
    Few(Near<LISTED>),
    Many(Near<REGIONS_MAX>),
}

/// Regions that cost about the same, by index.
struct Near<const N: usize> {
    regions: [u16; N],
    costs: [Option<u32>; N],
    len: usize,
}

impl Contest {
    #[inline]
    fn of(distances: &Distances<'_>, prices: &[u32], admitted: RegionSet) -> Self {
        let mut costs = [(0, u32::MAX); LISTED];
        let (mut best, mut second) = ((0, u32::MAX), u32::MAX);
        let mut len = 0;
        for Cell { region, rtt_tenths } in distances.listed() {
            if !admitted.has(region) {
                continue;
            }
            let cost = u32::from(rtt_tenths) + prices[usize::from(region)];
            costs[len] = (region, cost);
            len += 1;
            if cost < best.1 {
                second = best.1;
                best = (region, cost);
            } else {
                second = second.min(cost);
            }
        }
        let edge = best.1.saturating_add(BAND_TENTHS);
        // No price is below 0, so a region that is not listed costs no less than this.
        let floor = distances.floor_tenths().map(u32::from);
        if len == 0 || floor.is_some_and(|floor| floor < edge) {
            return Self::of_row(&distances.row(), prices, admitted);
        }
        if second >= edge {
            let listed = (second < u32::MAX).then_some(second);
            let others = listed.is_some() || admitted.len() > 1;
            return Self::One {
                region: best.0,
                cost: best.1,
                next: listed.into_iter().chain(floor).min().filter(|_| others),
            };
        }
        let mut near = Near::default();
        costs[..len].sort_unstable();
        for (region, cost) in &costs[..len] {
            if *cost < edge {
                near.push(*region, *cost);
            }
        }
        Self::Few(near)
    }

    /// By looking at every region.
    fn of_row(row: &[u16; REGIONS_MAX], prices: &[u32], admitted: RegionSet) -> Self {
        let cost = |region: u16| u32::from(row[usize::from(region)]) + prices[usize::from(region)];
        let (mut best, mut second) = ((0, u32::MAX), u32::MAX);
        for region in admitted.iter() {
            let cost = cost(region);
            if cost < best.1 {
                second = best.1;
                best = (region, cost);
            } else {
                second = second.min(cost);
            }
        }
        let edge = best.1.saturating_add(BAND_TENTHS);
        if admitted.is_empty() {
            return Self::Nobody;
        }
        if second >= edge {
            return Self::One {
                region: best.0,
                cost: best.1,
                next: (second < u32::MAX).then_some(second),
            };
        }
        let mut near = Near::default();
        for region in admitted.iter() {
            let cost = cost(region);
            if cost < edge {
                near.push(region, cost);
            }
        }
        Self::Many(near)
    }

    #[inline]
    fn ranked(&self, why: Why, salts: &[u64], key: Key) -> Ranked {
        match self {
            Self::Nobody => Ranked {
                winner: None,
                why,
                cost_tenths: 0,
                share: 0,
                margin_tenths: None,
            },
            Self::One { region, cost, next } => Ranked {
                winner: Some(*region),
                why,
                cost_tenths: *cost,
                share: WHOLE,
                margin_tenths: next.map(|next| next - cost - BAND_TENTHS),
            },
            Self::Few(near) => near.ranked(why, salts, key),
            Self::Many(near) => near.ranked(why, salts, key),
        }
    }
}

impl<const N: usize> Default for Near<N> {
    fn default() -> Self {
        Self {
            regions: [0; N],
            costs: [None; N],
            len: 0,
        }
    }
}

impl<const N: usize> Near<N> {
    fn push(&mut self, region: u16, cost: u32) {
        self.regions[self.len] = region;
        self.costs[self.len] = Some(cost);
        self.len += 1;
    }

    fn shares(&self, by_region: &mut [u32; REGIONS_MAX]) {
        let mut shares = [0; N];
        split(
            &self.costs[..self.len],
            BAND_TENTHS,
            &mut shares[..self.len],
        );
        for (region, share) in self.regions[..self.len].iter().zip(&shares) {
            by_region[usize::from(*region)] = *share;
        }
    }

    fn ranked(&self, why: Why, salts: &[u64], key: Key) -> Ranked {
        let (mut shares, mut own_salts) = ([0; N], [0; N]);
        let shares = &mut shares[..self.len];
        split(&self.costs[..self.len], BAND_TENTHS, shares);
        for (salt, region) in own_salts.iter_mut().zip(&self.regions[..self.len]) {
            *salt = salts[usize::from(*region)];
        }
        let drawn = draw(key.0, shares, &own_salts[..self.len]).unwrap_or(0);
        Ranked {
            winner: Some(self.regions[drawn]),
            why,
            cost_tenths: self.costs[drawn].unwrap_or(0),
            share: shares[drawn],
            margin_tenths: Some(0),
        }
    }
}
