//! Requests that were answered, so that a retry is answered the same.

use std::collections::BTreeMap;

use api_types::{Digest, ObjectId, Refusal, Revision, Timestamp};

use crate::bounds;
use crate::command::RequestId;
use crate::outcome::{Outcome, Reply};

/// The first outcome of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Of the log entry that was the first; sessions are forgotten in this order.
    pub index: u64,
    pub request: RequestId,
    /// See [`crate::Envelope::fingerprint`].
    pub fingerprint: Option<Digest>,
    pub at: Timestamp,
    pub outcome: Remembered,
}

/// What is kept of an outcome: the object itself is in the catalog, and is read there again for a
/// retry. A session is therefore small, and large writes push no others out.
#[derive(Debug, Clone, PartialEq)]
pub enum Remembered {
    /// The object was written, at this revision.
    Wrote {
        id: ObjectId,
        revision: Revision,
    },
    Deleted(Revision),
    Done(Revision),
    Refused(Refusal),
}

impl Remembered {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Ok(Reply::Put(object)) => Self::Wrote {
                id: object.id(),
                revision: object.revision(),
            },
            Ok(Reply::Deleted(revision)) => Self::Deleted(*revision),
            Ok(Reply::Done(revision)) => Self::Done(*revision),
            Err(refusal) => Self::Refused(shortened(refusal)),
        }
    }
}

/// A refusal may quote what was sent.
fn shortened(refusal: &Refusal) -> Refusal {
    let message = &refusal.message;
    let end = message.floor_char_boundary(bounds::SESSION_MESSAGE_BYTES_MAX);
    Refusal {
        kind: refusal.kind,
        message: message[..end].to_owned(),
    }
}

/// Invariant: both maps hold the same sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sessions {
    by_index: BTreeMap<u64, Session>,
    by_request: BTreeMap<RequestId, u64>,
}

impl Sessions {
    pub fn of(&self, request: &RequestId) -> Option<&Session> {
        self.by_index.get(self.by_request.get(request)?)
    }

    /// By index.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_index.values()
    }

    pub fn add(&mut self, session: Session) {
        self.by_request
            .insert(session.request.clone(), session.index);
        self.by_index.insert(session.index, session);
    }

    /// Forgets the oldest until the rest are within bounds. Returns their indexes, oldest first.
    pub fn forget(&mut self, now: Timestamp) -> impl Iterator<Item = u64> + use<> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.by_index.first_entry() {
            let expired = now.millis_since(oldest.get().at) > bounds::SESSION_MILLIS_MAX;
            let many = self.by_request.len() > bounds::SESSIONS_MAX;
            if !expired && !many {
                break;
            }
            let session = oldest.remove();
            self.by_request.remove(&session.request);
            gone.push(session.index);
        }
        gone.into_iter()
    }
}

impl FromIterator<Session> for Sessions {
    fn from_iter<T: IntoIterator<Item = Session>>(sessions: T) -> Self {
        let mut all = Self::default();
        for session in sessions {
            all.add(session);
        }
        all
    }
}
