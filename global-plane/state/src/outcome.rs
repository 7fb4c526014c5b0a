//! What comes of a command.

use api_types::{Object, ObjectId, Refusal, Revision, Timestamp};

use crate::state::Session;

/// What to answer and what to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: Outcome,
    /// The request had been applied before: the outcome is that of the first time, with the object
    /// as it is now, and nothing changed.
    pub replayed: bool,
    /// Everything that must be kept, in the order in which it happened. Objects come before the
    /// session and the counters that belong to them; all of it is one atomic write.
    pub changes: Vec<Change>,
}

/// The same on every node.
pub type Outcome = Result<Reply, Refusal>;

/// A reply carries objects as stored: what is added on reading is the reader's.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// As it is now.
    Put(Object),
    /// At which revision.
    Deleted(Revision),
    /// As of which revision; the one before if there was nothing to do.
    Done(Revision),
}

impl Reply {
    /// The revision at which what it says is true.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(object) => object.revision(),
            Self::Deleted(revision) | Self::Done(revision) => *revision,
        }
    }
}

/// One thing to keep. Each replaces what was kept under the same key before.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// By its id. Carries its revision.
    Put(Object),
    /// A tombstone. What went with an app or a function has its own, before it.
    Deleted {
        revision: Revision,
        object: ObjectId,
    },
    /// By the index of the log entry.
    Session(Session),
    /// The session of that log index is forgotten.
    SessionGone { index: u64 },
    /// One record.
    Counters {
        revision: Revision,
        log_time: Timestamp,
    },
}
