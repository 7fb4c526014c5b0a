//! Which region a client is sent to. The one ranking: DNS servers, global nodes, gateways, the solver's
//! simulation and what people are told all call it.
//!
//! Integers only, no allocation, no clock.

use std::net::IpAddr;

use api_types::placement::Why;

use crate::map::{ClassId, Distances, LISTED};
use crate::mask::{REGIONS_MAX, RegionSet};
use crate::rows::{PRICE_MAX_TENTHS, Prepared};
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
    let mut count = 0;
    for mut left in admitted.layers {
        while count < order.len() && !left.is_empty() {
            let contest = Contest::of(distances, prepared.prices_tenths(), left);
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
        Contest::One { winner, .. } => shares[usize::from(winner.region())] = WHOLE,
        Contest::Few(few) => few.shares(&mut shares),
        Contest::Many(many) => many.shares(&mut shares),
    }
    shares
}

/// Those who may win: all within the band of indifference of the cheapest.
#[expect(
    clippy::large_enum_variant,
    reason = "it stays on the stack for one decision, and a box would be an allocation"
)]
enum Contest {
    Nobody,
    /// No other is within the band.
    One {
        winner: Costs,
        /// The cheapest of the others costs at least this.
        next: Option<u32>,
    },
    Few(Near<LISTED>),
    /// Clients that nobody has located are about equally far from all.
    Many(Near<REGIONS_MAX>),
}

/// A region and what it costs, as one number: less is better, and of equals the first by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Costs(u32);

/// A cost is at most that of the highest price and the longest RTT, and so leaves room for the index.
const _: () = assert!((PRICE_MAX_TENTHS + u16::MAX as u32 + BAND_TENTHS) >> 24 == 0);

impl Costs {
    const NOTHING: Self = Self(u32::MAX);

    #[inline]
    fn new(region: u8, rtt_tenths: u16, prices: &[u32]) -> Self {
        let cost = u32::from(rtt_tenths) + prices[usize::from(region)];
        Self(cost << 8 | u32::from(region))
    }

    fn region(self) -> u16 {
        let [.., region] = self.0.to_be_bytes();
        region.into()
    }

    fn tenths(self) -> u32 {
        self.0 >> 8
    }
}

/// The two cheapest of those seen, without a branch.
struct Cheapest {
    first: Costs,
    second: Costs,
}

impl Cheapest {
    #[inline]
    fn see(&mut self, costs: Costs) {
        self.second = self.second.min(costs.max(self.first));
        self.first = self.first.min(costs);
    }

    /// What is beyond the band costs this or more.
    #[inline]
    fn edge(&self) -> u32 {
        self.first.tenths() + BAND_TENTHS
    }
}

impl Contest {
    #[inline]
    fn of(distances: &Distances<'_>, prices: &[u32], admitted: RegionSet) -> Self {
        let mut listed = [Costs::NOTHING; LISTED];
        let mut cheapest = Cheapest {
            first: Costs::NOTHING,
            second: Costs::NOTHING,
        };
        for (costs, (region, rtt)) in listed.iter_mut().zip(distances.list()) {
            let seen = Costs::new(region, rtt, prices);
            *costs = match admitted.has(region.into()) {
                true => seen,
                false => Costs::NOTHING,
            };
            cheapest.see(*costs);
        }
        // No price is below 0, so a region that is not listed costs no less than this.
        let floor = distances.floor_tenths().map(u32::from);
        if floor.is_some_and(|floor| floor < cheapest.edge()) {
            return Self::beyond_the_list(distances, prices, admitted, &listed, cheapest);
        }
        // The list has all, or the cheapest and whatever is near it.
        let unlisted = floor.filter(|_| admitted.len() > 1);
        Self::between(&cheapest, unlisted, listed.iter().copied())
    }

    /// Also by regions that are not listed: all that are admitted if they are few, else the nearest until
    /// no other can be within the band.
    #[inline(never)]
    fn beyond_the_list(
        distances: &Distances<'_>,
        prices: &[u32],
        admitted: RegionSet,
        listed: &[Costs; LISTED],
        mut cheapest: Cheapest,
    ) -> Self {
        let left = admitted.without(distances.list().map(|(region, _)| region.into()).collect());
        let (mut others, mut count) = ([Costs::NOTHING; REGIONS_MAX], 0);
        let mut unseen = None;
        let mut see = |cheapest: &mut Cheapest, region, rtt| {
            let costs = Costs::new(region, rtt, prices);
            cheapest.see(costs);
            others[count] = costs;
            count += 1;
        };
        if left.len() <= LISTED {
            for region in left.iter().filter_map(|region| u8::try_from(region).ok()) {
                see(&mut cheapest, region, distances.modelled(region));
            }
        } else {
            for (region, rtt) in distances.nearest() {
                if u32::from(rtt) >= cheapest.edge() {
                    unseen = Some(u32::from(rtt));
                    break;
                }
                if left.has(region.into()) {
                    see(&mut cheapest, region, rtt);
                }
            }
        }
        let unseen = unseen.filter(|_| admitted.len() > 1);
        let seen = listed.iter().chain(&others[..count]);
        Self::between(&cheapest, unseen, seen.copied())
    }

    /// `unseen` is the least that a region costs which is not among the seen.
    #[inline]
    fn between(
        cheapest: &Cheapest,
        unseen: Option<u32>,
        seen: impl Iterator<Item = Costs> + Clone,
    ) -> Self {
        if cheapest.first == Costs::NOTHING {
            return Self::Nobody;
        }
        let edge = cheapest.edge();
        if cheapest.second.tenths() >= edge {
            let second = Some(cheapest.second).filter(|second| *second != Costs::NOTHING);
            let second = second.map(Costs::tenths);
            return Self::One {
                winner: cheapest.first,
                next: second.into_iter().chain(unseen).min(),
            };
        }
        let near = seen.filter(|costs| costs.tenths() < edge);
        if near.clone().count() <= LISTED {
            Self::Few(near.collect())
        } else {
            Self::Many(near.collect())
        }
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
            Self::One { winner, next } => Ranked {
                winner: Some(winner.region()),
                why,
                cost_tenths: winner.tenths(),
                share: WHOLE,
                margin_tenths: next.map(|next| next - winner.tenths() - BAND_TENTHS),
            },
            Self::Few(near) => near.ranked(why, salts, key),
            Self::Many(near) => near.ranked(why, salts, key),
        }
    }
}

/// Regions that cost about the same, by index, whatever order they were found in.
struct Near<const N: usize> {
    regions: [u16; N],
    costs: [Option<u32>; N],
    len: usize,
}

impl<const N: usize> FromIterator<Costs> for Near<N> {
    /// Takes no more than `N`.
    fn from_iter<T: IntoIterator<Item = Costs>>(near: T) -> Self {
        let (mut regions, mut costs, mut len) = ([0; N], [None; N], 0);
        for found in near.into_iter().take(N) {
            let mut at = len;
            while at > 0 && regions[at - 1] > found.region() {
                (regions[at], costs[at]) = (regions[at - 1], costs[at - 1]);
                at -= 1;
            }
            (regions[at], costs[at]) = (found.region(), Some(found.tenths()));
            len += 1;
        }
        Self {
            regions,
            costs,
            len,
        }
    }
}

impl<const N: usize> Near<N> {
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
