//! The decision about a name in a view, and the whole of its reasons.

use api_types::placement::{Tier, Why};
use api_types::{Region, Verdict};

use crate::answer::{Answer, Because, Candidate, Reason, Used};
use crate::client::Client;
use crate::map::{Distances, Modelled};
use crate::mask::{REGIONS_MAX, RegionSet};
use crate::name::Target;
use crate::rank::{Key, NameHash, Ranked, order, rank_from, shares};
use crate::rows::RegionRow;
use crate::split::WHOLE;
use crate::structure::SetId;
use crate::ttl;
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

/// What a client is to be answered, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub ranked: Ranked,
    pub reason: Reason,
    pub ttl_secs: u32,
    /// See [`Answer::scope`].
    pub scope: u8,
    set: SetId,
    key: Key,
    slot: Option<u64>,
}

/// Decides without saying why; allocates nothing for a client that the view's map has. `None` for a
/// name that is not steered.
///
/// [`api_types::placement::rule`] says which regions serve it, and [`mod@crate::rank`] which of those
/// wins. Never a region outside a strict placement; no winner only if that admits none.
#[must_use]
pub fn decide(client: &Client, target: &Target, view: &View, policy: &Policy) -> Option<Decision> {
    let set = view.set(target)?;
    Some(with_distances(client, view, |distances| {
        decide_from(client, target, view, policy, set, distances)
    }))
}

impl Decision {
    /// Writes the regions to answer with, best first, and returns how many there are.
    pub fn order(&self, client: &Client, view: &View, into: &mut [u16]) -> usize {
        with_distances(client, view, |distances| {
            let (structure, prepared) = (view.structure(), view.prepared());
            order(structure, prepared, distances, self.set, self.key, into)
        })
    }
}

/// Chooses the regions to answer with, best first, and says why each of all regions won or lost.
///
/// The first is [`decide`]'s winner, and each other is who would win without those before it. Where all
/// are down, all of those that the rule of placement names are answered, briefly.
#[must_use]
pub fn steer(client: &Client, target: &Target, view: &View, policy: &Policy) -> Answer {
    let Some(set) = view.set(target) else {
        return not_steered(client, target, view, policy);
    };
    with_distances(client, view, |distances| {
        let decision = decide_from(client, target, view, policy, set, distances);
        explained(client, view, &decision, distances)
    })
}

/// By the view's map, or modelled for a client that is in no map.
fn with_distances<T>(client: &Client, view: &View, then: impl FnOnce(&Distances) -> T) -> T {
    let structure = view.structure();
    match client.class() {
        Some(class) => then(&structure.map().distances(class)),
        None => then(&Modelled::new(client.place(), structure.locations()).distances()),
    }
}

fn decide_from(
    client: &Client,
    target: &Target,
    view: &View,
    policy: &Policy,
    set: SetId,
    distances: &Distances,
) -> Decision {
    let (structure, prepared) = (view.structure(), view.prepared());
    let heavy = client
        .class()
        .is_some_and(|class| prepared.is_heavy(class, set));
    let slot = client.slot().filter(|_| heavy);
    let key = Key::new(client.network(), client.scope(), name_hash(target), slot);
    let ranked = rank_from(structure, prepared, distances, set, key);
    Decision {
        reason: Reason::from(ranked.why),
        ttl_secs: ttl_secs(&ranked, view, set, distances, policy),
        scope: match prepared.depends(set) {
            true => client.scope(),
            false => 0,
        },
        ranked,
        set,
        key,
        slot,
    }
}

fn name_hash(target: &Target) -> NameHash {
    match target {
        Target::App(app) => NameHash::new(app, ""),
        Target::Fn { app, name } => NameHash::new(app, name),
        Target::Apex
        | Target::Invoke
        | Target::Other
        | Target::Deeper { .. }
        | Target::At
        | Target::RegionAt(_)
        | Target::Nameserver(_)
        | Target::Nothing => NameHash::new("", ""),
    }
}

/// How long the answer can stay true. Short while failing open or elsewhere, and when the winner
/// may soon be another: its verdict is not settled, it was asked to drain, or it is the last of
/// several that serves. While prices move, as long as none could change it.
fn ttl_secs(
    ranked: &Ranked,
    view: &View,
    set: SetId,
    distances: &Distances,
    policy: &Policy,
) -> u32 {
    let winner = ranked.winner.map(usize::from);
    let unsettled = winner.is_some_and(|winner| {
        view.rows()[winner].verdict != Verdict::Healthy || view.regions()[winner].drained
    });
    let placed = view.structure().sets()[set.0 as usize].placed.len();
    let admitted = view.prepared().admitted(set, distances.continent()).all();
    let last = admitted.len() == 1 && placed > 1;
    let lasting = match view.slew_tenths_per_sec() {
        0 => policy.ttl_secs,
        slew => ttl::ttl_secs(ranked.margin_tenths, slew),
    };
    if ranked.why == Why::Placed && !unsettled && !last {
        lasting
    } else {
        lasting.min(policy.ttl_all_down_secs)
    }
}

/// A region's own name, or one that has no addresses: the client does not matter.
fn not_steered(client: &Client, target: &Target, view: &View, policy: &Policy) -> Answer {
    let named = match target {
        Target::RegionAt(name) => view.structure().index(name),
        _ => None,
    };
    let mut candidates: Vec<Candidate> = with_distances(client, view, |distances| {
        let regions = (0..).zip(view.regions().iter().zip(view.rows()));
        regions
            .map(|(index, (region, row))| {
                let chosen = named == Some(index);
                let because = match chosen {
                    true => Because::Named,
                    false => Because::NotNamed,
                };
                candidate(region, index, row, distances, because)
            })
            .collect()
    });
    candidates.sort_by_key(|candidate| (!candidate.chosen, candidate.total_tenths()));
    Answer {
        regions: named
            .map(|region| view.regions()[usize::from(region)].name.clone())
            .into_iter()
            .collect(),
        ttl_secs: policy.ttl_secs,
        scope: 0,
        reason: Reason::Static,
        candidates,
        used: None,
    }
}

/// As one that is chosen because it is named, or not.
fn candidate(
    region: &Region,
    index: u16,
    row: &RegionRow,
    distances: &Distances,
    because: Because,
) -> Candidate {
    let (rtt, measured) = distances.rtt_tenths(index);
    let known = measured || distances.is_located();
    Candidate {
        region: region.name.clone(),
        rtt_tenths: known.then_some(rtt.into()),
        measured,
        price_tenths: row.price_tenths(),
        utilisation_permille: row.utilisation_permille,
        verdict: row.verdict,
        share: 0,
        placed: because == Because::Named,
        chosen: because == Because::Named,
        because,
    }
}

fn explained(client: &Client, view: &View, decision: &Decision, distances: &Distances) -> Answer {
    let (structure, prepared, set) = (view.structure(), view.prepared(), decision.set);
    let mut ranked = [0; REGIONS_MAX];
    let count = order(
        structure,
        prepared,
        distances,
        set,
        decision.key,
        &mut ranked,
    );
    let ranked = &ranked[..count];
    let reasons = Reasons {
        decision,
        view,
        shares: shares(prepared, distances, set),
        admitted: ranked.iter().copied().collect(),
    };
    let told = |index: u16| {
        let (region, row) = (
            &view.regions()[usize::from(index)],
            &view.rows()[usize::from(index)],
        );
        let plain = candidate(region, index, row, distances, Because::NotNamed);
        let because = reasons.because(index, plain.total_tenths());
        Candidate {
            placed: structure.sets()[set.0 as usize].tier(index) == Tier::Placed,
            share: reasons.shares[usize::from(index)],
            chosen: reasons.is_winner(index) || because == Because::FailingOpen,
            because,
            ..plain
        }
    };
    let mut others: Vec<Candidate> = (0..)
        .take(view.regions().len())
        .filter(|index| !reasons.admitted.has(*index))
        .map(told)
        .collect();
    // Stable: those that are equal stay in the order of their names.
    others.sort_by_key(|other| (other.verdict == Verdict::Down, other.total_tenths()));
    let name = |index: &u16| view.regions()[usize::from(*index)].name.clone();
    Answer {
        regions: ranked.iter().map(name).collect(),
        ttl_secs: decision.ttl_secs,
        scope: decision.scope,
        reason: decision.reason,
        candidates: ranked.iter().copied().map(told).chain(others).collect(),
        used: Some(Used {
            class: client.class(),
            key: decision.key,
            slot: decision.slot,
            margin_tenths: decision.ranked.margin_tenths,
        }),
    }
}

/// What every region is judged by.
struct Reasons<'a> {
    decision: &'a Decision,
    view: &'a View,
    shares: [u32; REGIONS_MAX],
    admitted: RegionSet,
}

impl Reasons<'_> {
    fn is_winner(&self, index: u16) -> bool {
        self.decision.ranked.winner == Some(index)
    }

    fn because(&self, index: u16, total_tenths: u32) -> Because {
        let (ranked, reason) = (&self.decision.ranked, self.decision.reason);
        if self.admitted.has(index) {
            let share = self.shares[usize::from(index)];
            let winner = ranked.winner.unwrap_or(index);
            if reason == Reason::AllDown {
                return Because::FailingOpen;
            }
            if winner == index {
                return match reason {
                    Reason::Elsewhere => Because::PlacedDown,
                    _ if share < WHOLE => Because::Drawn,
                    _ => Because::LeastTotal,
                };
            }
            let winner = self.view.regions()[usize::from(winner)].name.clone();
            return match total_tenths.checked_sub(ranked.cost_tenths) {
                _ if share > 0 => Because::Shared { winner },
                Some(by_tenths) => Because::Behind { by_tenths, winner },
                None => Because::NoIpv4 { winner },
            };
        }
        let set = &self.view.structure().sets()[self.decision.set.0 as usize];
        let tier = set.tier(index);
        let verdict = self.view.rows()[usize::from(index)].verdict;
        if !tier.may_hold() {
            Because::Forbidden
        } else if tier != Tier::Placed {
            Because::NotPlaced
        } else if verdict.serves() {
            Because::Unreachable
        } else {
            Because::NotServing(verdict)
        }
    }
}
