//! What this region holds and serves: the one rule of placement, asked of what the replica holds.

use api_types::placement::{Placements, Tier, Why};
use api_types::{App, Catalog, Fn, Region};
use dns_steering::rank::nearest_first;
use dns_steering::structure::salt;
use dns_steering::{Key, NameHash, distance};

use crate::RegionCopy;

/// More would keep a caller waiting through a federation that is full.
const PEERS_MAX: usize = 2;

/// What a function's placements say of `region`. Forbidden while its app is unknown, which may
/// confine it.
#[must_use]
pub fn tier(catalog: &Catalog, function: &Fn, region: &Region) -> Tier {
    let placements = catalog.placements(function);
    placements.map_or(Tier::Forbidden, |placements| placements.tier(region))
}

/// Whether this region serves a call of the function that came to it.
#[must_use]
pub fn serves_itself(held: &RegionCopy, function: &Fn) -> bool {
    let placements = held.all().placements(function);
    placements.is_some_and(|placements| placements.serves_itself(held.me(), held.regions()))
}

/// The regions to hand a call of the function to instead of this one, and why those.
#[must_use]
pub fn peers(held: &RegionCopy, function: &Fn) -> Peers {
    peers_of(held, held.all().placements(function), function.id.as_str())
}

/// The regions to hand a call to that names something unknown here: any, since whoever knows it
/// knows its placement too.
#[must_use]
pub fn peers_of_unknown(held: &RegionCopy) -> Peers {
    peers_of(held, Some(Placements::default()), "")
}

/// Those that are about equally near share the functions among them, as they share DNS's clients.
fn peers_of(held: &RegionCopy, placements: Option<Placements>, of: &str) -> Peers {
    let me = held.me();
    let (why, peers) = placements.map_or((Why::Nowhere, Vec::new()), |placements| {
        placements.peers(&me.name, held.regions())
    });
    let costs: Vec<u32> = peers
        .iter()
        .map(|peer| {
            let rtt = u32::from(distance::rtt_tenths(me.location, peer.location));
            rtt.saturating_add(peer.price_ms.saturating_mul(10))
        })
        .collect();
    let salts: Vec<u64> = peers.iter().map(|peer| salt(&peer.name)).collect();
    let key = Key(NameHash::new(me.name.as_str(), of).0);
    let order = nearest_first(&costs, &salts, key, PEERS_MAX);
    Peers {
        why,
        regions: order
            .into_iter()
            .map(|index| peers[index].clone())
            .collect(),
    }
}

/// Where a call that this region does not run may go.
#[derive(Debug, Clone, PartialEq)]
pub struct Peers {
    pub why: Why,
    /// Best first, by `rtt + price`.
    pub regions: Vec<Region>,
}

/// Whether an app may have functions in `region` that it does not merely yield to.
#[must_use]
pub fn places_app(app: &App, region: &Region) -> bool {
    let placements = Placements {
        app: app.placement(),
        function: None,
    };
    placements.tier(region) == Tier::Placed
}

#[cfg(test)]
mod tests {
    use api_types::Verdict;

    use super::*;
    use crate::region_copy::tests as world;

    #[test]
    fn the_best_peers_come_first_and_there_are_few() {
        let mut held = world::held(
            1,
            &[world::app("A", None, 1)],
            &[world::function("F", "A", 1)],
        );
        let at = |name: &str, longitude: f64, price_ms: u32, verdict: Verdict| {
            let mut region = world::region(name);
            region.location.longitude = longitude;
            (region.price_ms, region.verdict) = (price_ms, verdict);
            region
        };
        world::put_regions(
            &mut held,
            vec![
                at("fra", 8.0, 0, Verdict::Healthy),
                at("lhr", 0.0, 400, Verdict::Healthy),
                at("nrt", 139.0, 0, Verdict::Recovering),
                at("cdg", 2.0, 0, Verdict::Down),
                at("bru", 4.0, 0, Verdict::Draining),
                at("ams", 5.0, 0, Verdict::Healthy),
            ],
        );
        let function = world::function("F", "A", 1);
        let peers = peers(&held, &function);
        let names: Vec<_> = peers
            .regions
            .iter()
            .map(|peer| peer.name.as_str())
            .collect();
        assert_eq!((peers.why, names), (Why::Placed, vec!["ams", "nrt"]));
    }

    #[test]
    fn a_function_whose_app_is_unknown_is_nowhere() {
        let held = world::held(1, &[], &[world::function("F", "A", 1)]);
        let function = world::function("F", "A", 1);
        assert!(!serves_itself(&held, &function));
        assert!(peers(&held, &function).regions.is_empty());
        assert_eq!(held.callable().count(), 0);
    }
}
