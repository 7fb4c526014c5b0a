//! What changes often: what is thought of each region now, and what that makes of the structure.

use std::sync::Arc;

use api_types::placement::{Ruling, Why};
use api_types::{RegionName, Verdict};

use crate::map::{ClassId, Continent, Continents};
use crate::mask::RegionSet;
use crate::structure::{PlacementSet, SetId, Structure};

/// No price is higher: one second. A client that is farther away than this from the next region is better
/// served late by a full one.
pub const PRICE_MAX_TENTHS: u32 = 10_000;

/// What is thought of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRow {
    pub verdict: Verdict,
    /// Added to its RTT. What exceeds [`PRICE_MAX_TENTHS`] counts as that.
    pub price_tenths: u32,
    /// Demand in thousandths of the target; `None` if it is not known.
    pub utilisation_permille: Option<u16>,
    /// Where it cannot be reached from, although it may serve others.
    pub unreachable_from: Continents,
}

/// All rows, as one leader made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Of the leader that made them.
    pub term: u64,
    /// Grows by one with each that this leader made.
    pub sequence: u64,
    /// Digest of the client map that they were made for.
    pub map: [u8; 32],
    /// How fast a price can rise, in tenths of a millisecond a second; 0 while prices do not move.
    pub slew_tenths_per_sec: u32,
    pub regions: Vec<(RegionName, RegionRow)>,
    /// What is so much that it is spread over time slots too; nearly always nothing.
    pub heavy: Vec<(ClassId, SetId)>,
}

/// Rows made ready for a structure: what [`crate::rank()`] reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// By region.
    prices_tenths: Vec<u32>,
    admitted: Arc<Admissions>,
    /// Sorted.
    heavy: Vec<(ClassId, SetId)>,
}

/// What depends on verdicts and reachability, but on no price.
#[derive(Debug, Clone, PartialEq)]
struct Admissions {
    /// Of the rows they were made of, by region.
    made_of: Vec<(Verdict, Continents)>,
    sets: Vec<OfSet>,
}

#[derive(Debug, Clone, PartialEq)]
struct OfSet {
    /// By continent, then for clients whose continent nobody knows.
    continents: [Admitted; Continent::ALL.len() + 1],
    depends: bool,
}

/// The regions that serve a placement set for clients of one continent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    pub why: Why,
    /// Those of a layer go before all of the next, whatever they cost. With IPv4 before those without,
    /// because a region wins for both families; while failing open those that an operator drains before
    /// those that are down.
    pub layers: [RegionSet; 4],
}

impl RegionRow {
    /// A region that has no row yet: nobody has heard it.
    pub const UNHEARD: Self = Self {
        verdict: Verdict::Down,
        price_tenths: 0,
        utilisation_permille: None,
        unreachable_from: Continents(0),
    };

    #[must_use]
    pub fn price_tenths(&self) -> u32 {
        self.price_tenths.min(PRICE_MAX_TENTHS)
    }
}

impl Rows {
    /// Whether these replace `held`: a later leader's, or later ones of the same.
    #[must_use]
    pub fn supersede(&self, held: &Self) -> bool {
        (self.term, self.sequence) > (held.term, held.sequence)
    }

    /// By the structure's order. A region without a row is [`RegionRow::UNHEARD`]; a row without a region is
    /// left out.
    #[must_use]
    pub fn aligned(&self, structure: &Structure) -> Vec<RegionRow> {
        let mut rows = vec![RegionRow::UNHEARD; structure.names().len()];
        for (name, row) in &self.regions {
            if let Some(index) = structure.index(name.as_str()) {
                rows[usize::from(index)] = *row;
            }
        }
        rows
    }
}

impl Prepared {
    /// `rows` are by the structure's order. What did not change is taken from `held`, which was made for
    /// the same structure: a price step copies one number a region.
    #[must_use]
    pub fn new(
        structure: &Structure,
        rows: &[RegionRow],
        heavy: &[(ClassId, SetId)],
        held: Option<&Self>,
    ) -> Self {
        let made_of = rows.iter().map(|row| (row.verdict, row.unreachable_from));
        let made_of: Vec<_> = made_of.collect();
        let admitted = match held {
            Some(held) if held.admitted.made_of == made_of => Arc::clone(&held.admitted),
            _ => Arc::new(Admissions::new(structure, made_of)),
        };
        let mut heavy = heavy.to_vec();
        heavy.sort_unstable();
        Self {
            prices_tenths: rows.iter().map(RegionRow::price_tenths).collect(),
            admitted,
            heavy,
        }
    }

    /// By region.
    #[must_use]
    pub fn prices_tenths(&self) -> &[u32] {
        &self.prices_tenths
    }

    /// The regions that serve a set for clients of a continent; none for a set of another structure.
    #[must_use]
    #[inline]
    pub fn admitted(&self, set: SetId, continent: Option<Continent>) -> &Admitted {
        const NONE: Admitted = Admitted {
            why: Why::Nowhere,
            layers: [const { RegionSet::EMPTY }; 4],
        };
        let at = continent.map_or(Continent::ALL.len(), Continent::index);
        let of_set = self.admitted.sets.get(set.0 as usize);
        of_set.map_or(&NONE, |set| &set.continents[at])
    }

    /// Whether what a set is answered depends on who asks.
    #[must_use]
    #[inline]
    pub fn depends(&self, set: SetId) -> bool {
        let of_set = self.admitted.sets.get(set.0 as usize);
        of_set.is_some_and(|set| set.depends)
    }

    /// Whether the demand of a class for a set is spread over time slots too.
    #[must_use]
    #[inline]
    pub fn is_heavy(&self, class: ClassId, set: SetId) -> bool {
        !self.heavy.is_empty() && self.heavy.binary_search(&(class, set)).is_ok()
    }
}

impl Admissions {
    fn new(structure: &Structure, made_of: Vec<(Verdict, Continents)>) -> Self {
        let chosen = |keep: &dyn Fn(Verdict, Continents) -> bool| -> RegionSet {
            let rows = (0..).zip(&made_of);
            let kept = rows.filter(|(_, (verdict, unreachable))| keep(*verdict, *unreachable));
            kept.map(|(index, _)| index).collect()
        };
        let serving = chosen(&|verdict, _| verdict.serves());
        let down = chosen(&|verdict, _| verdict == Verdict::Down);
        let with_ipv4 = structure.with_ipv4();
        let everywhere = |set: &PlacementSet| Admitted::new(set, serving, down, with_ipv4);
        let reachable = Continent::ALL.map(|continent| {
            let cut_off = chosen(&|_, unreachable| unreachable.has(continent));
            (!cut_off.is_empty()).then(|| serving.without(cut_off))
        });
        let sets = structure.sets().iter().map(|set| {
            let whole = everywhere(set);
            let continents = std::array::from_fn(|at| match reachable.get(at) {
                Some(Some(serving)) => Admitted::new(set, *serving, down, with_ipv4),
                _ => whole,
            });
            // All of them or the only one: any client gets the same.
            let choice = whole.why != Why::AllDown && whole.all().len() > 1;
            OfSet {
                depends: choice || continents.iter().any(|each| *each != whole),
                continents,
            }
        });
        Self {
            sets: sets.collect(),
            made_of,
        }
    }
}

impl Admitted {
    /// By the one rule of placement.
    fn new(set: &PlacementSet, serving: RegionSet, down: RegionSet, with_ipv4: RegionSet) -> Self {
        let tiers = set.tiers().into_iter().flat_map(|(tier, regions)| {
            let both = [
                (true, regions.and(serving)),
                (false, regions.without(serving)),
            ];
            both.map(|(serves, regions)| (tier, serves, regions))
        });
        let tiers = tiers.filter(|(.., regions)| !regions.is_empty());
        let ruling = Ruling::of(tiers.clone().map(|(tier, serves, _)| (tier, serves)));
        let admitted = tiers
            .filter(|(tier, serves, _)| ruling.may_serve(*tier, *serves))
            .fold(RegionSet::default(), |all, (.., regions)| all.or(regions));
        let (with, without) = (admitted.and(with_ipv4), admitted.without(with_ipv4));
        Self {
            why: ruling.why(),
            layers: [
                with.without(down),
                with.and(down),
                without.without(down),
                without.and(down),
            ],
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> RegionSet {
        self.layers
            .iter()
            .fold(RegionSet::EMPTY, |all, layer| all.or(*layer))
    }

    /// Those that any of goes before all others.
    #[must_use]
    #[inline]
    pub fn first(&self) -> RegionSet {
        let mut layers = self.layers.iter().filter(|layer| !layer.is_empty());
        layers.next().copied().unwrap_or(RegionSet::EMPTY)
    }
}
