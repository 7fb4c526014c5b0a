//! Which steering view is served: the newest valid one that was received.
//!
//! [`admit`] is the whole rule, a pure function. [`Views`] keeps the admitted view and counts refused
//! ones. A refused view changes nothing: the current view stays.

pub mod disk;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_wire::view::{Envelope, SteeringBody, ViewError, ViewId};
use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::steering::{BuildError, Setting, Steering};

/// A view that is served, with its tables.
#[derive(Debug)]
pub struct Loaded {
    pub id: ViewId,
    pub steering: Steering,
}

/// Why a view is not served.
#[derive(Debug, thiserror::Error)]
pub enum ViewRefused {
    #[error("the view is damaged")]
    Unsound(#[source] ViewError),
    #[error("the view is of cluster {offered:?}, the current one of {held:?}")]
    OtherCluster { held: String, offered: String },
    #[error("the view is of zone {offered:?}, this server's is {ours:?}")]
    OtherZone { ours: String, offered: String },
    #[error("view {offered} is older than the current view {held}")]
    Older { held: Position, offered: Position },
    #[error("view {position} has another digest than the current view of that position")]
    Forked { position: Position },
    #[error("the view has no regions")]
    Emptied,
    #[error("the view declares {declared} regions and has {found}")]
    Miscounted { declared: u64, found: usize },
    #[error("the view removes {dropped} of {held} regions at once")]
    MassChange { dropped: usize, held: usize },
    #[error("no steering tables can be built from the view")]
    Tables(#[source] BuildError),
    #[error("the view has no address for {name}")]
    NoAddress { name: String },
}

impl ViewRefused {
    /// A metric's label, from a fixed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Tables(BuildError::View(dns_steering::ViewError::NoAddress { .. })) => {
                "no_address"
            }
            Self::Unsound(_) | Self::Miscounted { .. } | Self::Tables(_) => "malformed",
            Self::OtherCluster { .. } => "other_cluster",
            Self::OtherZone { .. } => "other_zone",
            Self::Older { .. } => "older",
            Self::Forked { .. } => "forked",
            Self::Emptied => "emptied",
            Self::MassChange { .. } => "mass_change",
            Self::NoAddress { .. } => "no_address",
        }
    }
}

/// Orders the views of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub epoch: u64,
    pub revision: u64,
}

impl From<&ViewId> for Position {
    fn from(id: &ViewId) -> Self {
        Self {
            epoch: id.epoch,
            revision: id.revision,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.revision)
    }
}

/// Whether an offered view replaces the current one.
#[derive(Debug)]
pub enum Admission {
    /// It is newer and valid: serve it.
    Admitted(Box<Loaded>),
    /// It is the current view.
    Unchanged,
}

/// Decides whether an offered view replaces the current one.
///
/// Pure, so that tests can try any order of offers. It checks the digest, the cluster, the zone and the
/// position; that the view has regions and does not remove most of them at once; and that every name of
/// the view resolves.
///
/// # Errors
/// Why the view is refused.
pub fn admit(
    held: Option<&Loaded>,
    envelope: &Envelope,
    setting: &Setting,
) -> Result<Admission, ViewRefused> {
    let body: SteeringBody = envelope.open().map_err(ViewRefused::Unsound)?;
    let (id, position) = (&envelope.id, Position::from(&envelope.id));
    if let Some(held) = held {
        if held.id.cluster_id != id.cluster_id {
            return Err(ViewRefused::OtherCluster {
                held: held.id.cluster_id.clone(),
                offered: id.cluster_id.clone(),
            });
        }
        let held_at = Position::from(&held.id);
        if position == held_at {
            return if held.id.sha256 == id.sha256 {
                Ok(Admission::Unchanged)
            } else {
                Err(ViewRefused::Forked { position })
            };
        }
        if !id.supersedes(&held.id) {
            return Err(ViewRefused::Older {
                held: held_at,
                offered: position,
            });
        }
    }
    if body.zone != setting.zone {
        return Err(ViewRefused::OtherZone {
            ours: setting.zone.clone(),
            offered: body.zone,
        });
    }
    if body.regions.is_empty() {
        return Err(ViewRefused::Emptied);
    }
    if id.count != body.regions.len() as u64 {
        return Err(ViewRefused::Miscounted {
            declared: id.count,
            found: body.regions.len(),
        });
    }
    let before = held.map(|held| &held.steering);
    let steering = Steering::build(body, setting, before).map_err(ViewRefused::Tables)?;
    if let Some(held) = held {
        guard(&held.steering, &steering)?;
    }
    if let Some(name) = steering.first_name_without_address(setting) {
        return Err(ViewRefused::NoAddress { name });
    }
    Ok(Admission::Admitted(Box::new(Loaded {
        id: id.clone(),
        steering,
    })))
}

/// The mass-change guard: regions leave one by one, so losing most of them in one step is likelier
/// a mistake than a wish. Verdicts do not count, they remove nothing.
fn guard(held: &Steering, offered: &Steering) -> Result<(), ViewRefused> {
    let kept: BTreeSet<&str> = offered.region_names().collect();
    let held_count = held.region_names().count();
    let dropped = held
        .region_names()
        .filter(|name| !kept.contains(name))
        .count();
    if dropped * 2 > held_count {
        return Err(ViewRefused::MassChange {
            dropped,
            held: held_count,
        });
    }
    Ok(())
}

/// The view that is served now, and what operators ask about it. Readers never wait.
#[derive(Debug, Default)]
pub struct Views {
    current: ArcSwapOption<Loaded>,
    tally: Mutex<Tally>,
}

#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub refused: u64,
    pub last_refusal: Option<String>,
    /// When a global node last had nothing newer than what was held, or gave it.
    confirmed: Option<Instant>,
    /// How old what was read from disk was, and when it was read.
    from_disk: Option<(Duration, Instant)>,
}

impl Views {
    pub fn current(&self) -> Option<Arc<Loaded>> {
        self.current.load_full()
    }

    /// Where the next long poll starts.
    pub fn position(&self) -> Position {
        self.current()
            .map(|loaded| Position::from(&loaded.id))
            .unwrap_or_default()
    }

    pub fn serve(&self, loaded: Loaded) {
        self.current.store(Some(Arc::new(loaded)));
    }

    pub fn confirm(&self, now: Instant) {
        self.tally().confirmed = Some(now);
    }

    pub fn loaded_from_disk(&self, age: Duration, now: Instant) {
        self.tally().from_disk = Some((age, now));
    }

    /// Counts a refusal; whether it differs from the one before, and so is worth a line.
    pub fn refuse(&self, reason: String) -> bool {
        let mut tally = self.tally();
        tally.refused += 1;
        let news = tally.last_refusal.as_ref() != Some(&reason);
        tally.last_refusal = Some(reason);
        news
    }

    pub fn refused(&self) -> (u64, Option<String>) {
        let tally = self.tally();
        (tally.refused, tally.last_refusal.clone())
    }

    /// For how long no global node has confirmed the view; `None` before there is one.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        let tally = self.tally();
        match (tally.confirmed, tally.from_disk) {
            (Some(confirmed), _) => Some(now.saturating_duration_since(confirmed)),
            (None, Some((age, read))) => Some(age + now.saturating_duration_since(read)),
            (None, None) => None,
        }
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        // Counters stay true even if a holder of the lock panicked.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
