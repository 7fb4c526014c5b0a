//! Waiting for metadata that is on its way.
//!
//! Whoever wrote something and calls it at once must find it. A forwarder says which revision it found
//! the function at. A caller who comes directly does not, so one look that finds nothing is followed
//! by another once the watch says that nothing is missing.
//!
//! No call depends on the global plane. While it is away no watch is open anywhere, and no region will get
//! the revision that a global node still asks for: after the wait the region runs what it has, as it does for
//! a caller who comes directly. A region alone that cannot follow does the same, until its reports lapse and
//! nobody is steered to it; what it then runs may be older than what was written. A watch that is open and
//! late is another matter: others are likely to have the revision, and the forwarder goes to them.

use std::time::Duration;

use api_types::Revision;
use region_plane_replica::Replica;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// For a revision. A watch brings it within milliseconds; a forwarder goes elsewhere after 2 s.
const REVISION_MAX: Duration = Duration::from_secs(1);

/// For a progress mark, which comes every second.
const MARK_MAX: Duration = Duration::from_millis(1_500);

/// Calls that wait for metadata at once. A call of something that does not exist costs its place for
/// a second, so that strangers may keep others from waiting; those are then told what is known here.
const WAITING_MAX: usize = 1024;

pub struct Fresh {
    replica: Replica,
    places: Semaphore,
}

/// The revision has not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

impl Fresh {
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        Self {
            replica,
            places: Semaphore::new(WAITING_MAX),
        }
    }

    /// Returns once `revision` has been applied, or has not come in time and no watch is open that could
    /// bring it: then what is here is all that there is.
    ///
    /// # Errors
    /// If it has not come in time although a watch is open, or too many wait already.
    pub async fn reached(&self, revision: Revision) -> Result<(), Behind> {
        let mut position = self.replica.subscribe();
        if revision == Revision(0) || position.borrow().revision >= Some(revision) {
            return Ok(());
        }
        // With no place to wait at, a call goes elsewhere at once, or runs at once.
        if let Ok(_place) = self.places.try_acquire() {
            // Also without a watch, which may have broken off a moment ago and be back in another.
            let reached = position.wait_for(|now| now.revision >= Some(revision));
            if let Ok(Ok(_)) = timeout(REVISION_MAX, reached).await {
                return Ok(());
            }
        }
        if self.replica.marks().borrow().is_following {
            return Err(Behind);
        }
        metrics::counter!("tradewind_region_calls_without_revision_total").increment(1);
        Ok(())
    }

    /// Looks again whenever something changes, until something is found or the watch has said that
    /// nothing is missing.
    pub async fn look<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let _place = self.places.try_acquire().ok()?;
        let (mut position, mut marks) = (self.replica.subscribe(), self.replica.marks());
        let before = *marks.borrow_and_update();
        position.borrow_and_update();
        // What came before the two were subscribed to.
        if let Some(found) = look() {
            return Some(found);
        }
        if !before.is_following {
            return None;
        }
        let looking = async {
            loop {
                let is_over = tokio::select! {
                    changed = position.changed() => changed.is_err(),
                    // Or the watch has ended, and no mark will come.
                    _ = marks.wait_for(|now| *now != before) => true,
                };
                let found = look();
                if found.is_some() || is_over {
                    return found;
                }
            }
        };
        timeout(MARK_MAX, looking).await.ok().flatten()
    }
}
