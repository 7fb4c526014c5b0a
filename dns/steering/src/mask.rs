//! Sets of regions, by their index in the structure.

use std::fmt;

/// A federation has no more regions: an index fits a byte, and a set four words.
pub const REGIONS_MAX: usize = 256;

/// A set of regions.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionSet([u64; 4]);

impl RegionSet {
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds one; an index beyond [`REGIONS_MAX`] is left out.
    pub fn insert(&mut self, region: u16) {
        if let Some(word) = self.0.get_mut(usize::from(region / 64)) {
            *word |= 1 << (region % 64);
        }
    }

    pub fn remove(&mut self, region: u16) {
        if let Some(word) = self.0.get_mut(usize::from(region / 64)) {
            *word &= !(1 << (region % 64));
        }
    }

    #[must_use]
    #[inline]
    pub fn has(&self, region: u16) -> bool {
        let word = self.0.get(usize::from(region / 64));
        word.is_some_and(|word| word >> (region % 64) & 1 == 1)
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..4_u16).flat_map(move |word| {
            let mut left = self.0[usize::from(word)];
            std::iter::from_fn(move || {
                let bit = u16::try_from(left.trailing_zeros()).ok()?;
                // A word without bits has 64 zeros, and no such bit.
                left = left.checked_sub(1)? & left;
                Some(word * 64 + bit)
            })
        })
    }
}

impl FromIterator<u16> for RegionSet {
    fn from_iter<T: IntoIterator<Item = u16>>(indices: T) -> Self {
        let mut regions = Self::default();
        for region in indices {
            regions.insert(region);
        }
        regions
    }
}

impl fmt::Debug for RegionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in(
            one in prop::collection::btree_set(0..256_u16, 0..20),
            other in prop::collection::btree_set(0..256_u16, 0..20),
        ) {
            let (a, b): (RegionSet, RegionSet) = (one.iter().copied().collect(), other.iter().copied().collect());
            let listed = |regions: RegionSet| regions.iter().collect::<Vec<_>>();
            prop_assert_eq!(listed(a), one.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(listed(a.and(b)), one.intersection(&other).copied().collect::<Vec<_>>());
            prop_assert_eq!(listed(a.or(b)), one.union(&other).copied().collect::<Vec<_>>());
            prop_assert_eq!(listed(a.without(b)), one.difference(&other).copied().collect::<Vec<_>>());
            prop_assert_eq!((a.len(), a.is_empty()), (one.len(), one.is_empty()));
            for region in 0..300 {
                prop_assert_eq!(a.has(region), one.contains(&region));
            }
            let mut fewer = a;
            for region in &other {
                fewer.remove(*region);
            }
            prop_assert_eq!(fewer, a.without(b));
        }
    }
}
