//! Outcomes by request id, so that a retry is answered and not done again.

use std::collections::{BTreeMap, VecDeque};

use api_types::Timestamp;

use crate::command::{Outcome, RequestId};

/// A retry comes within seconds of its first try, across elections within a minute; ten minutes are
/// generous, measured in log time so that every replica forgets at the same place.
pub const SESSION_LIFETIME_MS: u64 = 10 * 60 * 1000;

/// At a thousand writes a second this still covers ten seconds, and it bounds memory at some
/// kilobytes an outcome.
pub const SESSIONS_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Counts up; the lowest is forgotten first.
    pub sequence: u64,
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// Invariant: `order` names every session once, by ascending sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sessions {
    held: BTreeMap<RequestId, Session>,
    order: VecDeque<RequestId>,
    next: u64,
}

impl Sessions {
    pub(crate) fn restore(sessions: Vec<(RequestId, Session)>) -> Self {
        let mut by_age: Vec<(u64, RequestId)> = sessions
            .iter()
            .map(|(request, session)| (session.sequence, request.clone()))
            .collect();
        by_age.sort();
        Self {
            next: by_age.last().map_or(0, |(sequence, _)| sequence + 1),
            order: by_age.into_iter().map(|(_, request)| request).collect(),
            held: sessions.into_iter().collect(),
        }
    }

    pub(crate) fn outcome(&self, request: &RequestId) -> Option<&Outcome> {
        self.held.get(request).map(|session| &session.outcome)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RequestId, &Session)> {
        self.held.iter()
    }

    /// Remembers an outcome and forgets what is too old or too many; says both.
    pub(crate) fn remember(
        &mut self,
        request: RequestId,
        at: Timestamp,
        outcome: Outcome,
    ) -> (Session, Vec<RequestId>) {
        let session = Session {
            sequence: self.next,
            at,
            outcome,
        };
        self.next += 1;
        self.order.push_back(request.clone());
        self.held.insert(request, session.clone());
        let mut dropped = Vec::new();
        while let Some(oldest) = self.order.front() {
            let expired = self
                .held
                .get(oldest)
                .is_none_or(|held| at.millis_since(held.at) > SESSION_LIFETIME_MS);
            if !expired && self.order.len() <= SESSIONS_MAX {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.held.remove(&oldest);
                dropped.push(oldest);
            }
        }
        (session, dropped)
    }
}
