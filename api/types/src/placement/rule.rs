//! Which regions may hold a function, which of them serve it now, and why.
//!
//! The one rule of placement. DNS servers, global nodes, gateways, replicas and Kubernetes operators
//! all ask it, so that the region a client is sent to always has the code and serves.
//!
//! A strict placement is residency: the function is never outside it, whoever is down. A placement
//! that is not strict is a preference, and preferences yield one after another while no region that
//! fulfils them serves: first the function's own, within its app's, then its app's.

use crate::placement::Placement;
use crate::region::{Region, RegionName};

/// Both placements of a function, where it has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placements {
    pub app: Option<Placement>,
    /// Narrows the app's.
    pub function: Option<Placement>,
}

/// What the placements of a function say of one region, whatever its verdict. Lesser ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Both placements admit it.
    Placed,
    /// The app's placement admits it, and the function only prefers others.
    InApp,
    /// The app only prefers others too, or the function is residency that its app does not prefer.
    Unplaced,
    /// Outside residency: it never has the code and never serves.
    Forbidden,
}

impl Tier {
    /// Whether the function's code and metadata may be in the region at all.
    #[must_use]
    pub fn may_hold(self) -> bool {
        self != Self::Forbidden
    }
}

/// Which tier of regions serves a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    why: Why,
    /// The tier that calls go to; nobody's for [`Why::Nowhere`].
    tier: Tier,
}

/// Why calls of a function go where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Some region of both placements serves.
    Placed,
    /// None of those does, and some other region of the app's placement does.
    FunctionYields,
    /// No region of the app's placement serves, and some region outside does.
    AppYields,
    /// No region that may hold the function serves. The verdicts are then likelier wrong than all of
    /// the regions, so the best tier there is is asked all the same.
    AllDown,
    /// The placements are residency in regions that do not exist.
    Nowhere,
}

impl Placements {
    /// What they say of one region. It need not be registered.
    #[must_use]
    pub fn tier(&self, region: &Region) -> Tier {
        let misses = |placement: &Option<Placement>| {
            let missed = placement.as_ref().filter(|each| !each.admits(region));
            missed.map(|placement| placement.strict)
        };
        match (misses(&self.app), misses(&self.function)) {
            (Some(true), _) | (_, Some(true)) => Tier::Forbidden,
            (Some(false), _) => Tier::Unplaced,
            (None, Some(false)) => Tier::InApp,
            (None, None) => Tier::Placed,
        }
    }

    /// Which of `regions` serve.
    #[must_use]
    pub fn ruling<'a>(&self, regions: impl IntoIterator<Item = &'a Region>) -> Ruling {
        let regions = regions.into_iter();
        Ruling::of(regions.map(|region| (self.tier(region), region.verdict.serves())))
    }

    /// Whether `me` serves a call that came to it. It runs, so it counts as serving whatever its
    /// verdict is; `regions` may have a row of it or not.
    #[must_use]
    pub fn serves_itself<'a>(
        &self,
        me: &Region,
        regions: impl IntoIterator<Item = &'a Region>,
    ) -> bool {
        let tier = self.tier(me);
        let others = regions.into_iter().filter(|other| other.name != me.name);
        let others = others.map(|other| (self.tier(other), other.verdict.serves()));
        Ruling::of(others.chain([(tier, true)])).may_serve(tier, true)
    }

    /// The regions that a call which came to `me` may be handed to, in the order of `regions`, and
    /// why those. None if all are down and `me` is as good as any of them.
    #[must_use]
    pub fn peers<'a>(
        &self,
        me: &RegionName,
        regions: impl Iterator<Item = &'a Region> + Clone,
    ) -> (Why, Vec<&'a Region>) {
        let ruling = self.ruling(regions.clone());
        let may_serve =
            |region: &&Region| ruling.may_serve(self.tier(region), region.verdict.serves());
        let (mine, peers): (Vec<_>, Vec<_>) = regions
            .filter(may_serve)
            .partition(|region| region.name == *me);
        if ruling.why == Why::AllDown && !mine.is_empty() {
            return (ruling.why, Vec::new());
        }
        (ruling.why, peers)
    }
}

impl Ruling {
    /// By the tier of each region and whether its verdict serves.
    #[must_use]
    pub fn of(regions: impl IntoIterator<Item = (Tier, bool)>) -> Self {
        let (mut serving, mut existing) = (Tier::Forbidden, Tier::Forbidden);
        for (tier, serves) in regions {
            existing = existing.min(tier);
            if serves {
                serving = serving.min(tier);
            }
        }
        let (why, tier) = match (serving, existing) {
            (Tier::Placed, _) => (Why::Placed, serving),
            (Tier::InApp, _) => (Why::FunctionYields, serving),
            (Tier::Unplaced, _) => (Why::AppYields, serving),
            (Tier::Forbidden, Tier::Forbidden) => (Why::Nowhere, Tier::Forbidden),
            (Tier::Forbidden, _) => (Why::AllDown, existing),
        };
        Self { why, tier }
    }

    #[must_use]
    pub fn why(self) -> Why {
        self.why
    }

    /// Whether a region of this tier serves; `serves` is what its verdict says.
    #[must_use]
    pub fn may_serve(self, tier: Tier, serves: bool) -> bool {
        tier.may_hold() && tier == self.tier && (serves || self.why == Why::AllDown)
    }
}

#[cfg(test)]
mod tests;
