//! How the demand of one block is split between regions that are about equally good.
//!
//! Prices are computed by a solver that assumes a split, and DNS servers carry the split out. Both call
//! this module, so what the solver assumed is what happens. All arithmetic is on integers: two builds,
//! two processors and two compilers get the same answer.
//!
//! Without a split all blocks of a country change sides at one price, and no price puts a region exactly
//! at its target. With it, shares move continuously with prices inside a band of indifference.

/// Width of the band of indifference in tenths of a millisecond: a region that costs this much more than
/// the best one gets nothing. DESIGN measured 3 to 6 ms to stay within 0.5 % of the optimum. The split
/// adds to a block's mean latency at most an eighth of it between two regions, and less than a quarter
/// between any number.
pub const BAND_TENTHS: u32 = 40;

/// The sum of all shares of a block.
pub const WHOLE: u32 = 1 << 16;

/// Splits [`WHOLE`] by costs (`rtt + price`, in tenths of a millisecond) and writes each share beside its
/// cost. `None` is a region that may not be given. With no region at all, all shares are 0.
///
/// The shares are the point of the simplex nearest to `-cost / band` (Martins and Astudillo, "From
/// Softmax to Sparsemax", 2016): equal costs have equal shares, dearer never has more than cheaper, and
/// beyond the band a share is exactly 0. They minimise `sum(cost * share) + band / 2 * sum(share²)`,
/// which is what makes the solver's problem smooth and convex.
///
/// # Panics
/// If the slices have different lengths.
pub fn split(costs_tenths: &[Option<u32>], band_tenths: u32, shares: &mut [u32]) {
    assert_eq!(costs_tenths.len(), shares.len(), "one share for each cost");
    shares.fill(0);
    let band = u64::from(band_tenths.max(1));
    let Some((best, least)) = least(costs_tenths) else {
        return;
    };
    // Costs are counted from the least one, so that sums stay small whatever the costs are.
    let above = |cost: Option<u32>| u64::from(cost.unwrap_or(u32::MAX) - least);
    let mut limit = band;
    let mut divisor = 1;
    // `limit / divisor` is the cost at which a share becomes 0. Each round drops regions above it, which
    // lowers it, until none is left to drop.
    loop {
        let (mut sum, mut count) = (0, 0);
        for cost in costs_tenths {
            let above = above(*cost);
            if cost.is_some() && above * divisor < limit {
                sum += above;
                count += 1;
            }
        }
        let same = count == divisor && sum + band == limit;
        (limit, divisor) = (sum + band, count);
        if same {
            break;
        }
    }
    let mut left = WHOLE;
    for (cost, share) in costs_tenths.iter().zip(shares.iter_mut()) {
        let above = above(*cost) * divisor;
        if cost.is_some() && above < limit {
            let exact = (limit - above) * u64::from(WHOLE) / (divisor * band);
            *share = u32::try_from(exact).unwrap_or(WHOLE).min(left);
            left -= *share;
        }
    }
    // Rounding down leaves less than one unit a region.
    shares[best] += left;
}

/// The first of the cheapest.
fn least(costs: &[Option<u32>]) -> Option<(usize, u32)> {
    let known = costs.iter().enumerate();
    known
        .filter_map(|(index, cost)| Some((index, (*cost)?)))
        .min_by_key(|(_, cost)| *cost)
}

/// Draws one region by its share, for a key that stands for who asks and for what; `salt` has a fixed
/// number for each region. `None` if all shares are 0.
///
/// Weighted rendezvous hashing: where a share grows by 5 % at another's cost, 5 % of the keys move, from
/// that one to this, and no others. Over many keys each region is drawn as often as its share says.
#[must_use]
pub fn draw(key: u64, shares: &[u32], salts: &[u64]) -> Option<usize> {
    let mut best: Option<(usize, u64, u64)> = None;
    for (index, (share, salt)) in shares.iter().zip(salts).enumerate() {
        let share = u64::from(*share);
        if share == 0 {
            continue;
        }
        if share == u64::from(WHOLE) {
            return Some(index);
        }
        let wait = u64::from(neg_log2(mixed(key ^ salt)));
        // An exponential race: the least wait / share wins. Below 2^47, so the products fit.
        if best.is_none_or(|(_, least, of)| wait * of < least * share) {
            best = Some((index, wait, share));
        }
    }
    best.map(|(index, ..)| index)
}

/// SplitMix64's last step: each bit of the result depends on each bit of the input.
#[must_use]
pub fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const FRACTION_BITS: u32 = 24;

/// `-log2((u + 1) / 2^64)` with 24 fractional bits, at most 2^-18 from the true value.
fn neg_log2(u: u64) -> u32 {
    let u = u.saturating_add(1);
    let zeros = u.leading_zeros();
    // In [0, 2^63): how far the leading one is exceeded.
    let rest = (u << zeros) & (u64::MAX >> 1);
    let index = usize::try_from(rest >> 55).unwrap_or(0);
    let between = (rest >> 31) & 0x00ff_ffff;
    let (low, high) = (u64::from(LOG2[index]), u64::from(LOG2[index + 1]));
    let log = low + (((high - low) * between) >> FRACTION_BITS);
    let whole = u64::from(zeros + 1) << FRACTION_BITS;
    u32::try_from(whole - log).unwrap_or(u32::MAX)
}

/// `log2(1 + i / 256)` with 24 fractional bits. Worked out by the compiler in integers: `f64::log2`
/// differs between C libraries.
static LOG2: [u32; 257] = {
    let mut table = [0; 257];
    let mut i = 0;
    while i < 256 {
        table[i] = log2((256 + i as u64) << 23);
        i += 1;
    }
    table[256] = 1 << FRACTION_BITS;
    table
};

/// Of a number in [1, 2) with 31 fractional bits, bit by bit: squaring doubles the logarithm, and each
/// time that 2 is reached gives a bit.
const fn log2(mut x: u64) -> u32 {
    let mut log = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        x = (x * x) >> 31;
        log <<= 1;
        if x >= 1 << 32 {
            x >>= 1;
            log |= 1;
        }
        bit += 1;
    }
    log
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn shares(costs: &[Option<u32>], band: u32) -> Vec<u32> {
        let mut shares = vec![u32::MAX; costs.len()];
        split(costs, band, &mut shares);
        shares
    }

    #[test]
    fn shares_are_those_of_the_formula() {
        let whole = WHOLE;
        for (case, costs, want) in [
            ("none", vec![], vec![]),
            ("none may be given", vec![None, None], vec![0, 0]),
            ("one", vec![Some(900)], vec![whole]),
            ("one may be given", vec![None, Some(7)], vec![0, whole]),
            ("equal", vec![Some(5), Some(5)], vec![whole / 2, whole / 2]),
            ("the band apart", vec![Some(0), Some(40)], vec![whole, 0]),
            (
                "half the band apart",
                vec![Some(100), Some(120)],
                vec![whole / 4 * 3, whole / 4],
            ),
            (
                "the third is too dear because there are two",
                vec![Some(0), Some(0), Some(20)],
                vec![whole / 2, whole / 2, 0],
            ),
            (
                "what rounding leaves is the cheapest's",
                vec![Some(3), Some(3), Some(3)],
                vec![21_846, 21_845, 21_845],
            ),
            (
                "as dear as can be",
                vec![Some(u32::MAX), Some(u32::MAX), None],
                vec![whole / 2, whole / 2, 0],
            ),
        ] {
            assert_eq!(shares(&costs, 40), want, "{case}");
        }
    }

    #[test]
    fn the_logarithm_is_close_to_the_true_one() {
        let mut u = 1_u64;
        for _ in 0..100_000 {
            u = mixed(u.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let shifted = u >> (u % 60);
            #[expect(clippy::cast_precision_loss, reason = "a test of 18 bits")]
            let want = 64.0 - (shifted as f64 + 1.0).log2();
            let found = f64::from(neg_log2(shifted)) / f64::from(1 << FRACTION_BITS);
            assert!((found - want).abs() < 4e-6, "{shifted}: {found} {want}");
        }
        assert_eq!(neg_log2(0), 64 << FRACTION_BITS);
        assert!(neg_log2(u64::MAX) <= 1);
    }

    fn costs() -> impl Strategy<Value = Vec<Option<u32>>> {
        let near = prop::option::weighted(0.9, 0..200_u32);
        let any = prop::option::weighted(0.9, any::<u32>());
        prop_oneof![
            prop::collection::vec(near, 1..20),
            prop::collection::vec(any, 1..20)
        ]
    }

    proptest! {
        #[test]
        fn a_share_is_never_less_than_a_dearer_one_s_and_all_make_a_whole(
            costs in costs(),
            band in 1..1000_u32,
        ) {
            let shares = shares(&costs, band);
            let sum: u32 = shares.iter().sum();
            prop_assert_eq!(sum, if costs.iter().any(Option::is_some) { WHOLE } else { 0 });
            let least = costs.iter().flatten().min().copied().unwrap_or(0);
            for (cost, share) in costs.iter().zip(&shares) {
                match cost {
                    None => prop_assert_eq!(*share, 0),
                    Some(cost) if cost - least >= band => prop_assert_eq!(*share, 0),
                    Some(_) => {}
                }
                for (other, other_share) in costs.iter().zip(&shares) {
                    if let (Some(cost), Some(other)) = (cost, other) && cost < other {
                        prop_assert!(share >= other_share);
                    }
                }
            }
        }

        /// Beside rounding, of which there is less than one unit a region.
        #[test]
        fn a_region_that_becomes_dearer_gains_nothing_and_takes_nothing_from_others(
            costs in costs(),
            which in any::<prop::sample::Index>(),
            by in 0..500_u32,
        ) {
            let which = which.index(costs.len());
            let before = shares(&costs, 40);
            let mut dearer = costs.clone();
            dearer[which] = dearer[which].map(|cost| cost.saturating_add(by));
            let after = shares(&dearer, 40);
            let rounding = u32::try_from(costs.len()).unwrap();
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                if index == which {
                    prop_assert!(*after <= before + rounding);
                } else {
                    prop_assert!(after + rounding >= *before);
                }
            }
        }

        #[test]
        fn keys_move_only_to_the_region_whose_share_grows(
            key in any::<u64>(),
            salts in prop::collection::vec(any::<u64>(), 4),
            mut of in prop::collection::vec(0..10_000_u32, 4),
            more in 1..10_000_u32,
        ) {
            of[0] += 1;
            let before = draw(key, &of, &salts).unwrap();
            of[1] += more;
            let after = draw(key, &of, &salts).unwrap();
            prop_assert!(after == before || after == 1);
            prop_assert!(of[after] > 0);
        }
    }

    #[test]
    fn regions_are_drawn_as_often_as_their_shares_say() {
        let of = shares(&[Some(0), Some(9), Some(17), None, Some(70)], 40);
        let salts = [11, 22, 33, 44, 55].map(mixed);
        let mut drawn = [0_u32; 5];
        let keys = 200_000;
        for key in 0..keys {
            drawn[draw(mixed(key), &of, &salts).unwrap()] += 1;
        }
        for (drawn, share) in drawn.iter().zip(&of) {
            let want = f64::from(*share) / f64::from(WHOLE) * 200_000.0;
            // Five standard deviations of a fair draw.
            let slack = 5.0 * want.sqrt();
            assert!((f64::from(*drawn) - want).abs() <= slack, "{drawn} {want}");
        }
    }
}
