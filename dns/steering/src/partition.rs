//! The address space, cut into networks that each have one value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::client::embedded_v4;

/// No longer network is ever told: resolvers refuse longer ones (RFC 7871 §11.1), and answers by
/// smaller networks would be cached once and never used again.
pub const LEAF_MAX_V4: u8 = 24;
pub const LEAF_MAX_V6: u8 = 56;

/// The networks that the map tells apart, for both families. Each address is in exactly one.
///
/// A lookup reads one entry of a direct table and searches what it points to: two arrays, no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    v4: Arc<Ranges<u32>>,
    v6: Arc<Ranges<u64>>,
}

/// A network of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Its first address.
    pub network: IpAddr,
    pub len: u8,
    pub value: u32,
}

/// A network that is to have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Host bits do not matter.
    pub network: IpAddr,
    /// A length beyond the address means all of it.
    pub len: u8,
    pub value: u32,
}

impl Partition {
    /// Of two networks that overlap the longer has its value within the shorter; of two equal ones the
    /// one with the larger value by `order`. What no entry covers has `rest`. Neighbours of equal value
    /// by `order` are one.
    ///
    /// A network longer than [`LEAF_MAX_V4`] or [`LEAF_MAX_V6`] counts for the one of that length around
    /// it, if both begin at the same address: a resolver that asks for the latter names that address.
    pub fn new(
        entries: impl IntoIterator<Item = Entry>,
        rest: u32,
        order: impl Fn(u32, u32) -> std::cmp::Ordering,
    ) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Entry {
            network,
            len,
            value,
        } in entries
        {
            match network {
                IpAddr::V4(ip) => {
                    let len = len.min(32);
                    let first = ip.to_bits() & !u32::MAX.checked_shr(len.into()).unwrap_or(0);
                    if first & 0xff == 0 {
                        v4.push((first >> 8, len, value));
                    }
                }
                IpAddr::V6(ip) => {
                    let len = len.min(128);
                    let first = ip.to_bits() & !u128::MAX.checked_shr(len.into()).unwrap_or(0);
                    let (key, below) = (first >> 72, first << 56);
                    if below == 0 {
                        // 56 bits.
                        v6.push((u64::try_from(key).unwrap_or(u64::MAX), len, value));
                    }
                }
            }
        }
        Self {
            v4: Arc::new(Ranges::new(LEAF_MAX_V4, v4, rest, &order)),
            v6: Arc::new(Ranges::new(LEAF_MAX_V6, v6, rest, &order)),
        }
    }

    /// The leaf that an address is in, and no other leaf reaches into it. An IPv6 address that carries an IPv4 one is in the leaf of that,
    /// as a longer IPv6 network.
    #[must_use]
    pub fn leaf(&self, ip: IpAddr) -> Leaf {
        match (ip, embedded_v4(ip)) {
            (IpAddr::V4(ip), _) => {
                let (len, value) = self.v4.find(u64::from(ip.to_bits() >> 8));
                leaf(ip.into(), len, value)
            }
            (IpAddr::V6(_), Some(embedded)) => {
                let (len, value) = self.v4.find(u64::from(embedded.ipv4.to_bits() >> 8));
                leaf(ip, embedded.offset + len, value)
            }
            (IpAddr::V6(v6), None) => {
                let key = u64::try_from(v6.to_bits() >> 72).unwrap_or(u64::MAX);
                let (len, value) = self.v6.find(key);
                leaf(ip, len, value)
            }
        }
    }

    /// The value at an address, without working out how wide it is.
    #[must_use]
    #[inline]
    pub fn value_v4(&self, ip: Ipv4Addr) -> u32 {
        let index = self.v4.index(u64::from(ip.to_bits() >> 8));
        self.v4.runs[index].1
    }

    /// All leaves, ascending, IPv4 first.
    pub fn leaves(&self) -> impl Iterator<Item = Leaf> {
        let v4 = self.v4.networks(LEAF_MAX_V4).map(|(key, len, value)| {
            let ip = u32::try_from(key << 8).unwrap_or(u32::MAX);
            leaf(Ipv4Addr::from_bits(ip).into(), len, value)
        });
        let v6 = self.v6.networks(LEAF_MAX_V6).map(|(key, len, value)| {
            let ip = u128::from(key) << 72;
            leaf(Ipv6Addr::from_bits(ip).into(), len, value)
        });
        v4.chain(v6)
    }

    /// Tells the value of each run, in the order of [`Self::leaves`].
    pub fn for_each_value(&self, mut tell: impl FnMut(u32)) {
        let v4 = self.v4.runs.iter().map(|(_, value)| value);
        for value in v4.chain(self.v6.runs.iter().map(|(_, value)| value)) {
            tell(*value);
        }
    }

    /// The same with other values; neighbours that become equal become one.
    #[must_use]
    pub fn mapped(&self, value: impl Fn(u32) -> u32) -> Self {
        Self {
            v4: Arc::new(self.v4.mapped(LEAF_MAX_V4, &value)),
            v6: Arc::new(self.v6.mapped(LEAF_MAX_V6, &value)),
        }
    }

    /// What it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }

    /// How many runs of equal value it has.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.v4.runs.len() + self.v6.runs.len()
    }
}

fn leaf(ip: IpAddr, len: u8, value: u32) -> Leaf {
    Leaf {
        network: crate::client::network(ip, len),
        len,
        value,
    }
}

/// Runs of equal value over keys of a few bits. Networks are not stored: the one around a key is the
/// largest aligned one that fits into the key's run, so none overlap and none could be wider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges<K> {
    bits: u8,
    /// By the key's top 16 bits: the last run that starts at or before the first key with those.
    first: Vec<u32>,
    /// Where each starts, ascending, the first at 0, and its value: together, so that a lookup waits for
    /// memory once.
    runs: Vec<(K, u32)>,
}

const TOP_BITS: u8 = 16;

impl<K: Copy + Ord + Into<u64> + TryFrom<u64>> Ranges<K> {
    /// Entries are (key, prefix length in the address, value).
    fn new(
        bits: u8,
        mut entries: Vec<(K, u8, u32)>,
        rest: u32,
        order: &impl Fn(u32, u32) -> std::cmp::Ordering,
    ) -> Self {
        entries.sort_unstable_by(|(a, a_len, a_value), (b, b_len, b_value)| {
            let by_place = a.cmp(b).then(a_len.cmp(b_len));
            by_place.then_with(|| order(*a_value, *b_value))
        });
        let mut runs = Runs {
            runs: Vec::with_capacity(entries.len()),
            same: |a, b| a == b || order(a, b).is_eq(),
        };
        runs.begin(0, rest);
        // Networks that the sweep is inside of, with their ends, the narrowest last.
        let mut open: Vec<(u64, u32)> = vec![(u64::MAX, rest)];
        for (key, len, value) in entries {
            let key: u64 = key.into();
            close(&mut open, key, &mut runs);
            runs.begin(key, value);
            open.push((key + (1 << (bits - len.min(bits))), value));
        }
        close(&mut open, (1 << bits) - 1, &mut runs);
        let mut runs = runs.runs;
        runs.shrink_to_fit();
        Self::of_runs(bits, runs)
    }

    fn of_runs(bits: u8, mut runs: Vec<(K, u32)>) -> Self {
        let cuts = CUTS.iter().filter(|_| bits == LEAF_MAX_V6);
        for cut in cuts.filter_map(|cut| K::try_from(*cut).ok()) {
            let run = runs.partition_point(|(start, _)| *start <= cut) - 1;
            if runs[run].0 != cut {
                runs.insert(run + 1, (cut, runs[run].1));
            }
        }
        let mut first = Vec::with_capacity((1 << TOP_BITS) + 1);
        let mut run = 0;
        for top in 0..1_u64 << TOP_BITS {
            let key = top << (bits - TOP_BITS);
            while runs
                .get(run + 1)
                .is_some_and(|(next, _)| (*next).into() <= key)
            {
                run += 1;
            }
            first.push(u32::try_from(run).expect("fewer runs than keys of 24 bits, or in memory"));
        }
        first.push(u32::try_from(runs.len() - 1).expect("as above"));
        Self { bits, first, runs }
    }

    /// Which run a key is in.
    ///
    /// Where runs are about equally long, as the blocks of a busy network are, the first guess is right:
    /// halving would wait for memory at each step.
    #[inline]
    fn index(&self, key: u64) -> usize {
        let below = self.bits - TOP_BITS;
        let top = usize::try_from(key >> below).unwrap_or(0);
        let (low, high) = (self.first[top] as usize, self.first[top + 1] as usize);
        let into = key & ((1 << below) - 1);
        // The product fits: an index has 32 bits at most, and of the key 24 bits are precise enough.
        let dropped = below.saturating_sub(24);
        let (into, below) = (into >> dropped, below - dropped);
        let ahead = (into * (high - low) as u64) >> below;
        let guess = low + usize::try_from(ahead).unwrap_or(0);
        let starts_by = |run: usize| self.runs[run].0.into() <= key;
        if guess > high || !starts_by(guess) {
            let earlier = &self.runs[low + 1..guess.min(high)];
            return low + earlier.partition_point(|(start, _)| (*start).into() <= key);
        }
        if guess == high || !starts_by(guess + 1) {
            return guess;
        }
        let later = &self.runs[guess + 1..=high];
        guess + later.partition_point(|(start, _)| (*start).into() <= key)
    }

    /// The length of the network around a key, and its value.
    fn find(&self, key: u64) -> (u8, u32) {
        let run = self.index(key);
        let host_bits = host_bits(self.bits, self.start(run), key, self.end(run));
        (self.bits - host_bits, self.runs[run].1)
    }

    fn start(&self, run: usize) -> u64 {
        self.runs[run].0.into()
    }

    fn end(&self, run: usize) -> u64 {
        let next = self.runs.get(run + 1);
        next.map_or(1 << self.bits, |(next, _)| (*next).into())
    }

    /// (first key, length, value), ascending.
    fn networks(&self, len_max: u8) -> impl Iterator<Item = (u64, u8, u32)> {
        let (mut key, mut run) = (0, 0);
        std::iter::from_fn(move || {
            let value = self.runs.get(run)?.1;
            let at = key;
            let bits = host_bits(self.bits, self.start(run), at, self.end(run));
            key = at + (1 << bits);
            if key >= self.end(run) {
                run += 1;
            }
            Some((at, len_max - bits, value))
        })
    }

    fn mapped(&self, bits: u8, value: &impl Fn(u32) -> u32) -> Self {
        let mut runs: Vec<(K, u32)> = Vec::with_capacity(self.runs.len());
        for (start, old) in &self.runs {
            let value = value(*old);
            if runs.last().is_none_or(|(_, last)| *last != value) {
                runs.push((*start, value));
            }
        }
        Self::of_runs(bits, runs)
    }

    fn bytes(&self) -> usize {
        size_of_val(self.first.as_slice()) + self.runs.capacity() * size_of::<(K, u32)>()
    }
}

/// No leaf of IPv6 crosses these: where what [`embedded_v4`] reads begins and ends. Addresses in there
/// are in the leaves of IPv4, and a leaf around them would tell their resolvers another answer.
const CUTS: [u64; 5] = [
    1,
    0x0064_ff9b << 24,
    (0x0064_ff9b << 24) + 1,
    0x2002 << 40,
    0x2003 << 40,
];

/// Bits of the largest aligned network around `key` that lies in `start..end`.
fn host_bits(bits: u8, start: u64, key: u64, end: u64) -> u8 {
    // A network of n bits holds two keys exactly if they differ below bit n only.
    let fits = |outside: Option<u64>| match outside {
        Some(outside) => u8::try_from(63 - (key ^ outside).leading_zeros()).unwrap_or(0),
        None => bits,
    };
    let before = fits(start.checked_sub(1));
    let after = fits(Some(end).filter(|end| *end < 1 << bits));
    before.min(after)
}

/// Ends the networks that do not reach `key`.
fn close<K: TryFrom<u64> + Copy + Into<u64>>(
    open: &mut Vec<(u64, u32)>,
    key: u64,
    runs: &mut Runs<K, impl Fn(u32, u32) -> bool>,
) {
    while let [.., (_, around), (end, _)] = open.as_slice()
        && *end <= key
    {
        runs.begin(*end, *around);
        open.pop();
    }
}

struct Runs<K, S> {
    runs: Vec<(K, u32)>,
    same: S,
}

impl<K: TryFrom<u64> + Copy + Into<u64>, S: Fn(u32, u32) -> bool> Runs<K, S> {
    /// From `at` on it is `value`, until the next call. Calls come in ascending order.
    fn begin(&mut self, at: u64, value: u32) {
        let Ok(key) = K::try_from(at) else { return };
        if self
            .runs
            .last()
            .is_some_and(|(last, _)| (*last).into() == at)
        {
            self.runs.pop();
        }
        let goes_on = self.runs.last();
        if !goes_on.is_some_and(|(_, last)| (self.same)(*last, value)) {
            self.runs.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn entry(network: &str, value: u32) -> Entry {
        let (ip, len) = network.split_once('/').unwrap();
        Entry {
            network: ip.parse().unwrap(),
            len: len.parse().unwrap(),
            value,
        }
    }

    fn partition(entries: &[Entry]) -> Partition {
        Partition::new(entries.iter().copied(), 0, |a, b| a.cmp(&b))
    }

    fn told(leaf: Leaf) -> String {
        format!("{}/{} {}", leaf.network, leaf.len, leaf.value)
    }

    #[test]
    fn a_leaf_is_the_widest_network_that_has_one_value() {
        let partition = partition(&[
            entry("10.0.0.0/8", 1),
            entry("10.1.0.0/16", 2),
            entry("10.1.2.0/24", 1),
            // Halves of one value are a whole.
            entry("20.0.0.0/9", 3),
            entry("20.128.0.0/9", 3),
            // Longer than is ever told: the one at the first address counts.
            entry("30.0.0.0/25", 4),
            entry("30.0.0.128/25", 5),
            entry("2001:db8::/32", 6),
            entry("2001:db8:0:100::/56", 7),
            entry("2001:db8:1::/64", 8),
            entry("2001:db8:1:1::/64", 9),
        ]);
        for (ip, want) in [
            ("9.255.255.255", "8.0.0.0/7 0"),
            ("10.0.0.1", "10.0.0.0/16 1"),
            ("10.1.2.3", "10.1.2.0/24 1"),
            ("10.1.3.3", "10.1.3.0/24 2"),
            ("10.1.4.3", "10.1.4.0/22 2"),
            ("10.200.0.0", "10.128.0.0/9 1"),
            ("20.77.0.1", "20.0.0.0/8 3"),
            ("30.0.0.200", "30.0.0.0/24 4"),
            ("255.255.255.255", "128.0.0.0/1 0"),
            ("::ffff:10.1.4.3", "::ffff:10.1.4.0/118 2"),
            ("2002:a01:403::1", "2002:a01:400::/38 2"),
            ("2001:db8::1", "2001:db8::/56 6"),
            ("2001:db8:0:1ff::1", "2001:db8:0:100::/56 7"),
            ("2001:db8:1:ff::1", "2001:db8:1::/56 8"),
            ("2001:db8:8000::1", "2001:db8:8000::/33 6"),
            ("::1", "::/56 0"),
            ("2003::1", "2003::/16 0"),
        ] {
            assert_eq!(told(partition.leaf(ip.parse().unwrap())), want, "{ip}");
        }
        let empty = Partition::new([], 5, |a, b| a.cmp(&b));
        let leaves: Vec<String> = empty.leaves().map(told).collect();
        assert_eq!(leaves[..2], ["0.0.0.0/0 5", "::/56 5"]);
        assert_eq!(leaves.last().map(String::as_str), Some("8000::/1 5"));
    }

    /// In a small corner, so that they overlap.
    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let v4 = (0..64_u32, 16..=32_u8).prop_map(|(at, len)| {
            let ip = 0x0a00_0000 | at << 8;
            (IpAddr::from(Ipv4Addr::from_bits(ip)), len)
        });
        let v6 = (0..64_u128, 48..=60_u8).prop_map(|(at, len)| {
            let ip = 0x2001_0db8_u128 << 96 | at << 72;
            (IpAddr::from(Ipv6Addr::from_bits(ip)), len)
        });
        let each = (prop_oneof![v4, v6], 0..4_u32);
        prop::collection::vec(each, 0..24).prop_map(|entries| {
            let entries = entries.into_iter();
            entries
                .map(|((network, len), value)| Entry {
                    network,
                    len,
                    value,
                })
                .collect()
        })
    }

    /// By looking at every entry.
    fn slow(entries: &[Entry], ip: IpAddr) -> u32 {
        let len_max = if ip.is_ipv4() {
            LEAF_MAX_V4
        } else {
            LEAF_MAX_V6
        };
        let first = crate::client::network(ip, len_max);
        let inside = entries.iter().filter(|entry| {
            entry.network.is_ipv4() == ip.is_ipv4()
                && crate::client::network(first, entry.len)
                    == crate::client::network(entry.network, entry.len)
        });
        let longest = inside.max_by_key(|entry| (entry.len, entry.value));
        longest.map_or(0, |entry| entry.value)
    }

    proptest! {
        #[test]
        fn every_address_has_the_value_of_the_longest_entry_and_so_has_its_whole_leaf(
            entries in entries(), at in 0..64_u32, inside in any::<u32>(),
        ) {
            let partition = partition(&entries);
            let v4 = Ipv4Addr::from_bits(0x0a00_0000 | at << 8 | inside & 0xff);
            let v6 = Ipv6Addr::from_bits(
                0x2001_0db8_u128 << 96 | u128::from(at) << 72 | u128::from(inside),
            );
            for ip in [IpAddr::from(v4), v6.into()] {
                let leaf = partition.leaf(ip);
                prop_assert_eq!(leaf.value, slow(&entries, ip), "{}", ip);
                let near: IpAddr = match leaf.network {
                    IpAddr::V4(ip) => {
                        let host = u32::MAX.checked_shr(leaf.len.into()).unwrap_or(0);
                        Ipv4Addr::from_bits(ip.to_bits() | inside & host).into()
                    }
                    IpAddr::V6(ip) => {
                        let host = u128::MAX.checked_shr(leaf.len.into()).unwrap_or(0);
                        let inside = u128::from(inside) << 64 | u128::from(inside);
                        Ipv6Addr::from_bits(ip.to_bits() | inside & host).into()
                    }
                };
                prop_assert_eq!(partition.leaf(near), leaf);
            }
            prop_assert_eq!(partition.value_v4(v4), partition.leaf(v4.into()).value);
        }

        #[test]
        fn the_order_of_entries_does_not_matter(
            (entries, shuffled) in entries().prop_flat_map(|entries| {
                (Just(entries.clone()), Just(entries).prop_shuffle())
            }),
        ) {
            prop_assert_eq!(partition(&entries), partition(&shuffled));
        }

        #[test]
        fn leaves_cover_everything_once_and_no_two_halves_are_equal(entries in entries()) {
            let partition = partition(&entries);
            let (mut v4, mut v6) = (0_u64, 0_u128);
            let leaves: Vec<Leaf> = partition.leaves().collect();
            for leaf in &leaves {
                // Nobody is in a leaf of IPv6 whose addresses carry others.
                if embedded_v4(leaf.network).is_none() {
                    prop_assert_eq!(partition.leaf(leaf.network), *leaf);
                }
                match leaf.network {
                    IpAddr::V4(ip) => {
                        prop_assert_eq!(u64::from(ip.to_bits()), v4);
                        v4 += 1 << (32 - leaf.len);
                    }
                    IpAddr::V6(ip) => {
                        prop_assert_eq!(ip.to_bits(), v6);
                        v6 = v6.wrapping_add(1_u128.checked_shl(u32::from(128 - leaf.len)).unwrap_or(0));
                    }
                }
            }
            prop_assert_eq!((v4, v6), (1 << 32, 0));
            for pair in leaves.windows(2) {
                let halves = pair[0].len == pair[1].len
                    && pair[0].network.is_ipv4() == pair[1].network.is_ipv4()
                    && crate::client::network(pair[1].network, pair[1].len - 1) == pair[0].network;
                let cut = pair.iter().any(|leaf| match leaf.network {
                    IpAddr::V4(_) => false,
                    IpAddr::V6(ip) => CUTS.iter().any(|cut| u128::from(*cut) << 72 == ip.to_bits()),
                });
                prop_assert!(!halves || cut || pair[0].value != pair[1].value, "{:?}", pair);
            }
        }

        #[test]
        fn other_values_are_what_other_entries_would_have_made(entries in entries()) {
            let halved = |entry: &Entry| Entry { value: entry.value / 2, ..*entry };
            let other: Vec<Entry> = entries.iter().map(halved).collect();
            let mapped = partition(&entries).mapped(|value| value / 2);
            // Of two equal networks the larger value wins before and after.
            prop_assert_eq!(mapped, partition(&other));
        }
    }
}
