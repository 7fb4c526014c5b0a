//! Waiting for metadata that is on its way.
//!
//! Whoever wrote something and calls it at once must find it. A forwarder says which revision it found
//! the function at. A caller who comes directly does not, so one look that finds nothing is followed
//! by another once the watch says that nothing is missing.

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

    /// Returns once `revision` has been applied.
    ///
    /// # Errors
    /// If it has not come in time, cannot come because no watch is open, or too many wait already.
    pub async fn reached(&self, revision: Revision) -> Result<(), Behind> {
        let mut position = self.replica.subscribe();
        if revision == Revision(0) || position.borrow().revision >= Some(revision) {
            return Ok(());
        }
        let _place = self.places.try_acquire().map_err(|_| Behind)?;
        if !self.replica.marks().borrow().is_following {
            return Err(Behind);
        }
        let reached = position.wait_for(|now| now.revision >= Some(revision));
        match timeout(REVISION_MAX, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Behind),
        }
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
