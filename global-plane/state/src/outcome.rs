//! What comes of a command.

use api_types::{
    App, AppId, Digest, Fn, FnId, Refusal, Region, RegionName, Revision, Timestamp, Trigger,
    TriggerId,
};

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
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Region(Region),
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
            Self::App(app) => app.revision,
            Self::Fn(function) => function.revision,
            Self::Trigger(trigger) => trigger.revision,
            Self::Region(region) => region.revision,
            Self::Deleted(revision) | Self::Done(revision) => *revision,
        }
    }
}

/// One thing to keep. Each replaces what was kept under the same key before.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// By kind and id. Carries its revision.
    Put(Object),
    /// A tombstone. What went with an app or a function has its own, before it.
    Deleted {
        revision: Revision,
        object: ObjectId,
    },
    /// By digest. Not an object: nobody watches it.
    Bundle { digest: Digest, size: u64 },
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

#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Region(Region),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectId {
    App(AppId),
    Fn(FnId),
    Trigger(TriggerId),
    Region(RegionName),
}

impl Object {
    /// The kind's name in tombstones: `app`, `fn`, `trigger` or `region`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Fn(_) => "fn",
            Self::Trigger(_) => "trigger",
            Self::Region(_) => "region",
        }
    }
}

impl ObjectId {
    /// See [`Object::kind`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) => "app",
            Self::Fn(_) => "fn",
            Self::Trigger(_) => "trigger",
            Self::Region(_) => "region",
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::App(id) => id.as_str(),
            Self::Fn(id) => id.as_str(),
            Self::Trigger(id) => id.as_str(),
            Self::Region(name) => name.as_str(),
        }
    }
}
