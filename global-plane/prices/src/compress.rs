//! Makes a market small enough to be solved: rows whose RTTs are about the same become one.

use crate::{CANDIDATES_MAX, Candidate, Market};

/// What compression cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    pub rows_before: usize,
    pub rows_after: usize,
    /// RTTs of merged rows were equal when divided by this, in tenths of a millisecond. No RTT is off by
    /// as much, if no candidates were left out.
    pub step_tenths: u32,
    /// By how much RTTs are off: the most, and the mean over demand and candidates, in microseconds.
    pub error_max_micros: u32,
    pub error_mean_micros: u32,
    /// Candidates kept of each row, nearest first: fewer than all only if demand differs in more sets of
    /// candidates than there may be rows.
    pub candidates: usize,
}

/// Steps in tenths of a millisecond. The last one puts all RTTs together.
const STEPS: [u32; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 65_536];

/// Merges rows to at most `rows_max` (at least one for each region and kind of set), at the finest step
/// that is enough. Merged RTTs are means by demand. A market that is small enough is returned as it is.
///
/// This works for RTTs that come in classes, as those modelled by location do. Where each block's 16 RTTs
/// are of their own, no step but a wide one makes rows equal: a million such blocks took 15 s and were off
/// by 5 ms in the mean, and prices of the result put a region 73 % over its target. Look at
/// [`Compression::error_mean_micros`] before trusting prices for more than the [band of
/// indifference](dns_steering::split::BAND_TENTHS).
#[must_use]
pub fn compress(blocks: Market, rows_max: usize) -> (Market, Compression) {
    let rows_max = rows_max.max(2 * blocks.rooms().len());
    if blocks.rows() <= rows_max {
        let rows = blocks.rows();
        return (blocks, Compression::none(rows));
    }
    let mut candidates = CANDIDATES_MAX;
    loop {
        let step = STEPS
            .iter()
            .find(|step| groups(&blocks, **step, candidates).1 <= rows_max);
        match step {
            Some(step) => return merged(&blocks, *step, candidates),
            // One candidate and the widest step leave a row for each region and kind of set.
            None => candidates /= 2,
        }
    }
}

impl Compression {
    fn none(rows: usize) -> Self {
        Self {
            rows_before: rows,
            rows_after: rows,
            step_tenths: 1,
            error_max_micros: 0,
            error_mean_micros: 0,
            candidates: CANDIDATES_MAX,
        }
    }
}

/// The nearest candidates of a row, by region.
fn kept(market: &Market, row: usize, candidates: usize, into: &mut Vec<Candidate>) {
    into.clear();
    into.extend_from_slice(market.candidates(row));
    if into.len() > candidates {
        into.sort_unstable_by_key(|c| (c.rtt_tenths, c.region));
        into.truncate(candidates);
    }
    into.sort_unstable();
}

/// The group of each row, and how many there are. Groups are numbered in the order of their first rows.
fn groups(market: &Market, step: u32, candidates: usize) -> (Vec<u32>, usize) {
    let mut keys: Vec<(u64, u32)> = Vec::with_capacity(market.rows());
    let mut of_row = Vec::new();
    for row in 0..market.rows() {
        kept(market, row, candidates, &mut of_row);
        keys.push((hash(&of_row, market.is_strict(row), step), number(row)));
    }
    keys.sort_unstable();
    let mut first_of = vec![0_u32; market.rows()];
    let mut other = Vec::new();
    let mut first = None;
    for (hash, row) in keys {
        let index = row as usize;
        // Two keys with one hash are told apart; a group in two parts costs a row and nothing else.
        let is_same = first.is_some_and(|(of, first): (u64, u32)| {
            of == hash && {
                kept(market, index, candidates, &mut of_row);
                kept(market, first as usize, candidates, &mut other);
                market.is_strict(index) == market.is_strict(first as usize)
                    && of_row.len() == other.len()
                    && of_row.iter().zip(&other).all(|(a, b)| {
                        a.region == b.region
                            && u32::from(a.rtt_tenths) / step == u32::from(b.rtt_tenths) / step
                    })
            }
        });
        match first {
            Some((_, of)) if is_same => first_of[index] = of,
            _ => {
                first_of[index] = row;
                first = Some((hash, row));
            }
        }
    }
    let mut count = 0;
    let mut group = vec![0_u32; market.rows()];
    for row in 0..group.len() {
        let first = first_of[row] as usize;
        // Rows of one hash are in order, so the first of a group comes before the others.
        if first == row {
            group[row] = number(count);
            count += 1;
        } else {
            group[row] = group[first];
        }
    }
    (group, count)
}

/// Demand, whether strict, and for each region the sum of `demand * RTT`.
type Sum = (u64, bool, Vec<(u16, u128)>);

fn merged(market: &Market, step: u32, candidates: usize) -> (Market, Compression) {
    let (group, count) = groups(market, step, candidates);
    let mut rows: Vec<Sum> = vec![(0, false, Vec::new()); count];
    let mut of_row = Vec::new();
    for (row, group) in group.iter().enumerate() {
        let demand = market.demand(row);
        kept(market, row, candidates, &mut of_row);
        let (sum, strict, rtts) = &mut rows[*group as usize];
        *sum += demand;
        *strict = market.is_strict(row);
        if rtts.is_empty() {
            rtts.extend(of_row.iter().map(|c| (c.region, 0)));
        }
        for ((_, rtt), candidate) in rtts.iter_mut().zip(&of_row) {
            *rtt += u128::from(demand) * u128::from(candidate.rtt_tenths);
        }
    }
    let mut result = Market::new(market.rooms().to_vec()).expect("as many regions as before");
    let mut means: Vec<Vec<Candidate>> = Vec::with_capacity(count);
    for (demand, strict, rtts) in rows {
        let all = u128::from(demand.max(1));
        let mean = |(region, rtt): (u16, u128)| Candidate {
            region,
            rtt_tenths: u16::try_from((rtt + all / 2) / all).unwrap_or(u16::MAX),
        };
        let row: Vec<Candidate> = rtts.into_iter().map(mean).collect();
        result.add(demand, strict, &row);
        means.push(row);
    }
    let (mut most, mut sum, mut weight) = (0, 0_u128, 0_u128);
    for (row, group) in group.iter().enumerate() {
        kept(market, row, candidates, &mut of_row);
        for (mean, candidate) in means[*group as usize].iter().zip(&of_row) {
            let off = u32::from(mean.rtt_tenths.abs_diff(candidate.rtt_tenths)) * 100;
            most = most.max(off);
            sum += u128::from(off) * u128::from(market.demand(row));
            weight += u128::from(market.demand(row));
        }
    }
    let compression = Compression {
        rows_before: market.rows(),
        rows_after: count,
        step_tenths: step,
        error_max_micros: most,
        error_mean_micros: u32::try_from(sum / weight.max(1)).unwrap_or(u32::MAX),
        candidates,
    };
    (result, compression)
}

/// FNV-1a over 64-bit words, and SplitMix64's last step.
fn hash(candidates: &[Candidate], strict: bool, step: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ u64::from(strict);
    for candidate in candidates {
        let key =
            u64::from(candidate.region) << 32 | u64::from(u32::from(candidate.rtt_tenths) / step);
        hash = (hash ^ key).wrapping_mul(0x0100_0000_01b3);
    }
    dns_steering::split::mixed(hash)
}

fn number(row: usize) -> u32 {
    u32::try_from(row).expect("there are at most BLOCKS_MAX rows")
}
