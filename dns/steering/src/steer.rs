//! The decision.

use std::net::IpAddr;

use api_types::placement::{Ruling, Tier};
use api_types::{Region, Verdict};

use crate::answer::{Answer, Because, Candidate, Reason};
use crate::client::Client;
use crate::distance;
use crate::name::Target;
use crate::view::View;

/// The operator's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// For an answer that nothing is about to change.
    pub ttl_secs: u32,
    /// For one that hopes to be wrong soon: failing open, or with a winner that may soon be another.
    /// Counts only if shorter.
    pub ttl_all_down_secs: u32,
}

/// Chooses the regions to answer with, best first.
///
/// [`api_types::placement::rule`] says which regions serve it. The one of least `rtt + price` wins;
/// equals share the clients among them by rendezvous hashing of the client's network and the name,
/// so that removing a region moves only its own clients. Where all are down, all of those that the
/// rule names are answered, briefly. Never a region outside a strict placement; empty only if that
/// admits none.
#[must_use]
pub fn steer(client: &Client, target: &Target, view: &View, policy: &Policy) -> Answer {
    let Some(tiers) = view.tiers(target) else {
        return not_steered(client, target, view, policy);
    };
    let regions = || view.regions().iter().zip(tiers.iter().copied());
    let ruling = Ruling::of(regions().map(|(region, tier)| (tier, region.verdict.serves())));
    let reason = Reason::from(ruling.why());
    let mut ranked: Vec<Ranked> = regions()
        .enumerate()
        .map(|(index, (region, tier))| Ranked::new(index, region, tier, client, target, ruling))
        .collect();
    // No two keys are equal, so the order does not depend on the order before.
    ranked.sort_by_key(Ranked::key);

    let winner = ranked.first().filter(|first| first.admitted).cloned();
    let candidates: Vec<Candidate> = ranked
        .iter()
        .map(|each| each.told(reason, winner.as_ref()))
        .collect();
    let regions: Vec<_> = ranked
        .iter()
        .filter(|each| each.admitted)
        .map(|each| each.region.name.clone())
        .collect();
    // All of them or the only one: any client would get the same.
    let depends = reason != Reason::AllDown && regions.len() > 1;
    Answer {
        ttl_secs: ttl_secs(reason, winner.as_ref(), regions.len(), tiers, policy),
        scope: if depends { client.scope() } else { 0 },
        reason,
        regions,
        candidates,
    }
}

/// How long the answer can stay true. Short while failing open or elsewhere, and when the winner
/// may soon be another: its verdict is not settled, it was asked to drain, or it is the last of
/// several that serves.
fn ttl_secs(
    reason: Reason,
    winner: Option<&Ranked>,
    admitted: usize,
    tiers: &[Tier],
    policy: &Policy,
) -> u32 {
    let unsettled = winner
        .is_some_and(|winner| winner.region.verdict != Verdict::Healthy || winner.region.drained);
    let placed = tiers.iter().filter(|tier| **tier == Tier::Placed).count();
    let last = admitted == 1 && placed > 1;
    if reason == Reason::Ranked && !unsettled && !last {
        policy.ttl_secs
    } else {
        policy.ttl_secs.min(policy.ttl_all_down_secs)
    }
}

/// A region's own name, or one that has no addresses: the client does not matter.
fn not_steered(client: &Client, target: &Target, view: &View, policy: &Policy) -> Answer {
    let named = match target {
        Target::RegionAt(name) => view.region(name),
        _ => None,
    };
    let mut candidates: Vec<Candidate> = view
        .regions()
        .iter()
        .map(|region| {
            let chosen = named.is_some_and(|named| named.name == region.name);
            Candidate {
                region: region.name.clone(),
                rtt_ms: rtt_ms(client, region),
                price_ms: region.price_ms,
                verdict: region.verdict,
                placed: chosen,
                chosen,
                because: if chosen {
                    Because::Named
                } else {
                    Because::NotNamed
                },
            }
        })
        .collect();
    candidates.sort_by_key(|candidate| (!candidate.chosen, candidate.total_ms()));
    Answer {
        regions: named
            .map(|region| region.name.clone())
            .into_iter()
            .collect(),
        ttl_secs: policy.ttl_secs,
        scope: 0,
        reason: Reason::Static,
        candidates,
    }
}

/// A region with what it is ranked by.
#[derive(Debug, Clone)]
struct Ranked<'a> {
    region: &'a Region,
    tier: Tier,
    index: usize,
    rtt_ms: Option<u32>,
    total_ms: u32,
    /// Decides between equals.
    draw: u64,
    admitted: bool,
}

impl<'a> Ranked<'a> {
    fn new(
        index: usize,
        region: &'a Region,
        tier: Tier,
        client: &Client,
        target: &Target,
        ruling: Ruling,
    ) -> Self {
        let rtt_ms = rtt_ms(client, region);
        Self {
            region,
            tier,
            index,
            rtt_ms,
            total_ms: rtt_ms.unwrap_or(0).saturating_add(region.price_ms),
            draw: draw(client, target, region),
            admitted: ruling.may_serve(tier, region.verdict.serves()),
        }
    }

    /// Those that draining still reaches go before those that are down, for who tries one after
    /// another.
    fn key(&self) -> (bool, bool, u32, u64, usize) {
        (
            !self.admitted,
            self.region.verdict == Verdict::Down,
            self.total_ms,
            self.draw,
            self.index,
        )
    }

    fn told(&self, reason: Reason, winner: Option<&Ranked>) -> Candidate {
        let placed = self.tier == Tier::Placed;
        let is_winner = winner.is_some_and(|winner| winner.index == self.index);
        let because = match (reason, winner) {
            (Reason::AllDown, _) if self.admitted => Because::FailingOpen,
            (Reason::Elsewhere, _) if is_winner => Because::PlacedDown,
            _ if is_winner => Because::LeastTotal,
            (_, Some(winner)) if self.admitted && winner.total_ms == self.total_ms => {
                Because::Equal {
                    winner: winner.region.name.clone(),
                }
            }
            (_, Some(winner)) if self.admitted => Because::Behind {
                by_ms: self.total_ms - winner.total_ms,
                winner: winner.region.name.clone(),
            },
            _ if !self.tier.may_hold() => Because::Forbidden,
            _ if !placed => Because::NotPlaced,
            _ => Because::NotServing(self.region.verdict),
        };
        Candidate {
            region: self.region.name.clone(),
            rtt_ms: self.rtt_ms,
            price_ms: self.region.price_ms,
            verdict: self.region.verdict,
            placed,
            chosen: is_winner || because == Because::FailingOpen,
            because,
        }
    }
}

fn rtt_ms(client: &Client, region: &Region) -> Option<u32> {
    let from = client.location()?;
    Some(distance::rtt_ms(from, region.location))
}

/// A number that is fixed for ever for (client network, name, region): other hashers may change
/// with the compiler, and then DNS servers of two builds would disagree. The least wins.
fn draw(client: &Client, target: &Target, region: &Region) -> u64 {
    let mut draw = Fnv::default();
    match client.network() {
        IpAddr::V4(ip) => draw.eat(&ip.octets()),
        IpAddr::V6(ip) => draw.eat(&ip.octets()),
    }
    draw.eat(&[client.scope()]);
    let (app, name) = match target {
        Target::App(app) => (app.as_str(), ""),
        Target::Fn { app, name } => (app.as_str(), name.as_str()),
        _ => ("", ""),
    };
    for part in [app, name, region.name.as_str()] {
        draw.eat(part.as_bytes());
        draw.eat(&[0]);
    }
    draw.mixed()
}

/// FNV-1a, 64 bits, with SplitMix64's last step, because FNV alone barely moves the high bits for
/// a change in the last bytes.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn eat(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn mixed(&self) -> u64 {
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
