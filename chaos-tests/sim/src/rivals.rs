//! Other ways to steer, on the same trace. Each is as good as its rule allows: all know verdicts at once
//! and true distances.

use crate::dice::Dice;
use crate::world::World;
use dns_steering::distance;

/// A rule that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// The region whose great circle to the resolver is shortest, of those that are up.
    Nearest,
    /// The region of least latency, of those that are up: Route 53's latency records with health checks.
    LatencyThenHealth,
    /// At random by target, of those that are up.
    StaticWeights,
    /// The region that reported the least load over its target.
    LeastLoaded,
}

impl Rival {
    pub const ALL: [Self; 4] = [
        Self::Nearest,
        Self::LatencyThenHealth,
        Self::StaticWeights,
        Self::LeastLoaded,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest by geography",
            Self::LatencyThenHealth => "latency, then health",
            Self::StaticWeights => "static weights",
            Self::LeastLoaded => "least loaded",
        }
    }

    /// `load` is by region, over the target, as last reported. `None` if no region is up.
    pub fn answer(
        self,
        world: &World,
        asked: usize,
        serving: &[bool],
        load: &[f64],
        dice: &mut Dice,
    ) -> Option<usize> {
        let asked = &world.asked[asked];
        let up = (0..world.regions.len()).filter(|region| serving[*region]);
        if self == Self::StaticWeights {
            // The exponential race: each wins as often as its weight says.
            let raced =
                up.map(|region| (region, dice.exponential() / world.regions[region].target));
            let first = raced.min_by(|a, b| a.1.total_cmp(&b.1));
            return first.map(|(region, _)| region);
        }
        let cost = |region: usize| match self {
            Self::Nearest => f64::from(distance::rtt_tenths(
                crate::world::location(&crate::places::CITIES[asked.city]),
                world.regions[region].location,
            )),
            Self::LatencyThenHealth => asked.rtt_ms[region],
            Self::LeastLoaded | Self::StaticWeights => load[region],
        };
        up.min_by(|a, b| cost(*a).total_cmp(&cost(*b)))
    }
}
