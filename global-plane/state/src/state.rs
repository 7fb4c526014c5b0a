//! The state and the one way to change it.

mod apps;
mod fns;
mod formats;
mod regions;
mod sessions;
mod triggers;

use api_types::{
    Annotations, Bundle, Catalog, Config, Digest, Kind, Object, ObjectId, Refusal, Revision,
    Timestamp,
};

pub use sessions::{Remembered, Session};

use crate::bounds;
use crate::command::{AnnotationChanges, Command, Envelope, Preconditions, RequestId};
use crate::draft_checks::{is_no_value, is_server_set};
use crate::outcome::{Applied, Change, Outcome, Reply};
use sessions::Sessions;

/// All that the global plane has agreed on.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    cluster_id: String,
    catalog: Catalog,
    sessions: Sessions,
    revision: Revision,
    log_time: Timestamp,
}

/// A state taken apart: what is kept on disk and sent in snapshots. Lists may come in any order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateParts {
    pub cluster_id: String,
    pub objects: Vec<Object>,
    pub sessions: Vec<Session>,
    pub revision: Revision,
    pub log_time: Timestamp,
}

impl State {
    #[must_use]
    pub fn new(cluster_id: &str) -> Self {
        Self::restore(StateParts {
            cluster_id: cluster_id.to_owned(),
            ..StateParts::default()
        })
    }

    /// The state whose changes were kept.
    #[must_use]
    pub fn restore(parts: StateParts) -> Self {
        let mut catalog = Catalog::default();
        for object in parts.objects {
            catalog.put(object);
        }
        Self {
            cluster_id: parts.cluster_id,
            catalog,
            sessions: parts.sessions.into_iter().collect(),
            revision: parts.revision,
            log_time: parts.log_time,
        }
    }

    /// The reverse of [`Self::restore`], each list in its order.
    #[must_use]
    pub fn parts(&self) -> StateParts {
        StateParts {
            cluster_id: self.cluster_id.clone(),
            objects: self
                .catalog
                .objects()
                .map(|object| object.to_owned())
                .collect(),
            sessions: self.sessions.iter().cloned().collect(),
            revision: self.revision,
            log_time: self.log_time,
        }
    }

    /// Applies the log entry at `index`. Indexes must grow from call to call.
    pub fn apply(&mut self, index: u64, envelope: &Envelope) -> Applied {
        // Before anything else, time included: a replay changes nothing.
        if let Some(first) = self.sessions.of(&envelope.request) {
            return Applied {
                outcome: self.replay(first, envelope),
                replayed: true,
                changes: Vec::new(),
            };
        }
        let before = (self.revision, self.log_time);
        self.log_time = self.log_time.max(envelope.log_time);

        let mut changes = Vec::new();
        let outcome = self.obey(envelope, &mut changes);
        if !changes.is_empty() {
            self.revision = self.revision.next();
        }
        let session = Session {
            index,
            request: envelope.request.clone(),
            fingerprint: envelope.fingerprint,
            at: self.log_time,
            outcome: Remembered::of(&outcome),
        };
        changes.push(Change::Session(session.clone()));
        self.sessions.add(session);
        let gone = self.sessions.forget(self.log_time);
        changes.extend(gone.map(|index| Change::SessionGone { index }));
        if before != (self.revision, self.log_time) {
            changes.push(Change::Counters {
                revision: self.revision,
                log_time: self.log_time,
            });
        }
        Applied {
            outcome,
            replayed: false,
            changes,
        }
    }

    /// The outcome of a request that was applied before, with the object as it is now.
    fn replay(&self, first: &Session, envelope: &Envelope) -> Outcome {
        if first.fingerprint != envelope.fingerprint {
            return Err(Refusal::key_reused(
                "this Idempotency-Key was used for another request; \
                 use a new key for each request, and the same request for each retry",
            ));
        }
        let (id, revision) = match &first.outcome {
            Remembered::Wrote { id, revision } => (id, revision),
            Remembered::Deleted(revision) => return Ok(Reply::Deleted(*revision)),
            Remembered::Done(revision) => return Ok(Reply::Done(*revision)),
            Remembered::Refused(refusal) => return Err(refusal.clone()),
        };
        let object = self.catalog.get(id).ok_or_else(|| {
            Refusal::not_found(format!(
                "this request wrote the {} {id} at revision {revision}, which has been deleted since",
                id.kind(),
            ))
        })?;
        Ok(Reply::Put(object.to_owned()))
    }

    /// Whether the request has been applied, so that another try changes nothing.
    #[must_use]
    pub fn answered(&self, request: &RequestId) -> bool {
        self.sessions.of(request).is_some()
    }

    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The newest instant that any command was proposed at.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// Pushes what changes and changes it, all at the next revision; refuses before the first.
    fn obey(&mut self, envelope: &Envelope, changes: &mut Vec<Change>) -> Outcome {
        let conditions = &envelope.preconditions;
        match &envelope.command {
            Command::CreateApp { id, draft } => self.create_app(id, draft, conditions, changes),
            Command::UpdateApp { id, change } => self.update_app(id, change, conditions, changes),
            Command::DeleteApp { id } => self.delete_app(id, conditions, changes),
            Command::CreateFn { id, draft } => self.create_fn(id, draft, conditions, changes),
            Command::UpdateFn { id, change } => self.update_fn(id, change, conditions, changes),
            Command::DeleteFn { id } => self.delete_fn(id, conditions, changes),
            Command::CreateTrigger { id, draft } => {
                self.create_trigger(id, draft, conditions, changes)
            }
            Command::UpdateTrigger { id, change } => {
                self.update_trigger(id, change, conditions, changes)
            }
            Command::DeleteTrigger { id } => self.delete_trigger(id, conditions, changes),
            Command::RegisterRegion { region } => self.register_region(region, conditions, changes),
            Command::SetDrained { region, drained } => {
                self.set_drained(region, *drained, conditions, changes)
            }
            Command::SetVerdicts { verdicts } => self.set_verdicts(verdicts, changes),
            Command::AddBundle { digest, size } => self.add_bundle(*digest, *size, changes),
            Command::SayKnown { member, knows } => self.say_known(*member, knows, changes),
            Command::UseFormats { formats } => self.use_formats(formats, changes),
            #[cfg(feature = "next-format")]
            Command::PutNote { id, text } => {
                self.room_for(Kind::Note)?;
                let note = api_types::Note {
                    id: id.clone(),
                    text: text.clone(),
                    revision: self.revision.next(),
                };
                Ok(self.put(note, changes))
            }
        }
    }

    fn add_bundle(&mut self, digest: Digest, size: u64, changes: &mut Vec<Change>) -> Outcome {
        if size > bounds::BUNDLE_BYTES_MAX {
            return Err(Refusal::invalid(format!(
                "bundle sha256:{digest} has {size} bytes, more than the {} allowed",
                bounds::BUNDLE_BYTES_MAX
            )));
        }
        match self.catalog.bundle(&digest) {
            Some(known) if known.size == size => return Ok(Reply::Done(self.revision)),
            Some(known) => {
                return Err(Refusal::conflict(format!(
                    "bundle sha256:{digest} is known with {} bytes, not {size}",
                    known.size
                )));
            }
            None => {}
        }
        self.room_for(Kind::Bundle)?;
        let revision = self.revision.next();
        let bundle = Bundle {
            digest,
            size,
            revision,
        };
        self.put(bundle, changes);
        Ok(Reply::Done(revision))
    }

    /// Stores an object and says so.
    fn put(&mut self, object: impl Into<Object>, changes: &mut Vec<Change>) -> Reply {
        let object = object.into();
        changes.push(Change::Put(object.clone()));
        self.catalog.put(object.clone());
        Reply::Put(object)
    }

    /// Deletes an object with its dependents, each with a tombstone of its own.
    fn delete(&mut self, id: &ObjectId, changes: &mut Vec<Change>) -> Outcome {
        let revision = self.revision.next();
        let gone = self.catalog.delete(id).into_iter();
        changes.extend(gone.map(|object| Change::Deleted { revision, object }));
        Ok(Reply::Deleted(revision))
    }

    /// Whether one more object of a kind may be stored.
    fn room_for(&self, kind: Kind) -> Result<(), Refusal> {
        let declared = kind.declared();
        bounded(declared.plural, self.catalog.len(kind), declared.count_max)
    }
}

impl Preconditions {
    /// Of an object that exists at `revision`.
    fn hold_for(&self, revision: Revision) -> Result<(), Refusal> {
        if self.if_none_match_any {
            return Err(Refusal::precondition("If-None-Match: it exists"));
        }
        match self.if_match {
            Some(wanted) if wanted != revision => Err(Refusal::precondition(format!(
                "If-Match: it is at revision {revision}, not {wanted}"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Of an object that is to be created; `taken` if there is one by its name.
    fn hold_for_new(&self, taken: bool) -> Result<(), Refusal> {
        if self.if_match.is_some() {
            return Err(Refusal::precondition("If-Match: it does not exist yet"));
        }
        if self.if_none_match_any && taken {
            return Err(Refusal::precondition("If-None-Match: it exists"));
        }
        Ok(())
    }
}

fn bounded(what: &str, held: usize, max: usize) -> Result<(), Refusal> {
    if held >= max {
        return Err(Refusal::full(format!("no room for more than {max} {what}")));
    }
    Ok(())
}

/// Members of a request that mean nothing when empty.
fn given(member: Option<&String>) -> Option<&String> {
    member.filter(|text| !text.is_empty())
}

/// On create, empty values are kept (Fn contract 5.2).
fn created_config(sent: Option<&Config>) -> Config {
    sent.cloned().unwrap_or_default()
}

/// On update, an empty value deletes its key (Fn contract 5.2).
fn merge_config(stored: &mut Config, sent: Option<&Config>) {
    for (key, value) in sent.into_iter().flatten() {
        if value.is_empty() {
            stored.remove(key);
        } else {
            stored.insert(key.clone(), value.clone());
        }
    }
}

/// Fn contract 5.1. On create the values that delete have been refused before.
fn merge_annotations(stored: &mut Annotations, sent: Option<&AnnotationChanges>) {
    for (key, value) in sent.into_iter().flatten() {
        match value {
            _ if is_server_set(key) => {}
            Some(json) if !is_no_value(Some(json)) => {
                stored.insert(key.clone(), json.clone());
            }
            Some(_) | None => {
                stored.remove(key);
            }
        }
    }
}
