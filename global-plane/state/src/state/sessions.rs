//! Requests that were answered, so that a retry is answered the same.

use std::collections::BTreeMap;

use api_types::Timestamp;

use crate::bounds;
use crate::command::RequestId;
use crate::outcome::{Outcome, Reply};

/// The first outcome of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Of the log entry that was the first; sessions are forgotten in this order.
    pub index: u64,
    pub request: RequestId,
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// Invariant: both maps hold the same sessions, `bytes` is their weight.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sessions {
    by_index: BTreeMap<u64, Session>,
    by_request: BTreeMap<RequestId, u64>,
    bytes: usize,
}

impl Sessions {
    pub fn outcome(&self, request: &RequestId) -> Option<&Outcome> {
        let index = self.by_request.get(request)?;
        self.by_index.get(index).map(|session| &session.outcome)
    }

    /// By index.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_index.values()
    }

    pub fn add(&mut self, session: Session) {
        self.bytes += weight(&session);
        self.by_request
            .insert(session.request.clone(), session.index);
        self.by_index.insert(session.index, session);
    }

    /// Forgets the oldest until the rest are within bounds. Returns their indexes, oldest first.
    pub fn forget(&mut self, now: Timestamp) -> impl Iterator<Item = u64> + use<> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.by_index.first_entry() {
            let expired = now.millis_since(oldest.get().at) > bounds::SESSION_MILLIS_MAX;
            let many = self.by_request.len() > bounds::SESSIONS_MAX
                || self.bytes > bounds::SESSION_BYTES_MAX;
            if !expired && !many {
                break;
            }
            let session = oldest.remove();
            self.bytes -= weight(&session);
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

/// About what a session takes in memory, from nothing but its text: the same on every node.
fn weight(session: &Session) -> usize {
    const FIXED: usize = 512;
    let text = match &session.outcome {
        Err(refusal) => refusal.message.len(),
        Ok(Reply::App(app)) => map_weight(&app.config) + map_weight(&app.annotations),
        Ok(Reply::Fn(function)) => {
            function.image.len() + map_weight(&function.config) + map_weight(&function.annotations)
        }
        Ok(Reply::Trigger(trigger)) => trigger.source.len() + map_weight(&trigger.annotations),
        Ok(Reply::Region(region)) => map_weight(&region.labels),
        Ok(Reply::Deleted(_) | Reply::Done(_)) => 0,
    };
    FIXED + session.request.0.len() + text
}

fn map_weight(map: &BTreeMap<String, String>) -> usize {
    const ENTRY: usize = 64;
    map.iter()
        .map(|(key, value)| ENTRY + key.len() + value.len())
        .sum()
}
