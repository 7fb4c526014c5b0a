//! The replicated state on this node: applied from the log, kept in RocksDB, read by handlers.
//!
//! One writer, the consensus thread, applies; readers share a lock that it holds only for the
//! moment in which one command changes memory. Nothing is copied for a write; a reader builds what
//! it answers with inside the lock and must keep that to a page.

pub mod disk;
pub mod history;
pub mod sizes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use api_types::{Knowledge, Object, ObjectId, Revision, Timestamp, chain};
use api_wire::{ObjectBody, WatchLine};
use bytes::Bytes;
use global_plane_consensus::store::StateReader;
use global_plane_consensus::{ApplyError, LogIndex, StateBatch, StateMachine, StoreError};
use global_plane_state::{Change, Command, Outcome, State, StateParts, SteeringRevision};
use tokio::sync::watch;

use disk::{DecodeError, Standing};
use history::{Compacted, Entry, History, Pulled};
use sizes::Sizes;

/// Column families of the state.
pub const FAMILIES: [&str; 4] = [OBJECTS, CHANGES, SESSIONS, META];

/// Records by [`ObjectId::key`].
const OBJECTS: &str = "objects";
const CHANGES: &str = "changes";
const SESSIONS: &str = "sessions";
const META: &str = "meta";

const STANDING: &str = "standing";

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read the state from disk")]
    Store(#[from] StoreError),
    #[error("the state on disk cannot be read")]
    Decode(#[from] DecodeError),
    #[error("the state on disk has an object under a key that is not its own, {key:?}")]
    Key { key: String },
}

impl LoadError {
    /// A newer program wrote what is on the disk.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Decode(error) if error.is_newer())
    }
}

/// What readers share.
pub struct Replica {
    core: RwLock<Core>,
    history: Mutex<History>,
    sizes: Mutex<Sizes>,
    position: watch::Sender<Position>,
}

pub struct Core {
    pub state: State,
    pub steering: SteeringRevision,
}

impl Core {
    fn standing(&self) -> Standing {
        Standing {
            revision: self.state.revision().0,
            log_time: self.state.log_time().0,
            steering: self.steering.at().0,
        }
    }
}

/// How far this node has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Of the log.
    pub index: u64,
    pub revision: Revision,
    /// The revision that last changed the steering view.
    pub steering: Revision,
}

impl Replica {
    /// Reads back what was applied up to `index`.
    ///
    /// # Errors
    /// If the disk fails or holds what this program cannot read; it must not start then.
    pub fn load(
        reader: &StateReader,
        cluster_id: &str,
        index: LogIndex,
        revisions_max: usize,
    ) -> Result<Self, LoadError> {
        let standing: Standing = match reader.get(META, STANDING)? {
            Some(bytes) => disk::decode("the state's standing", &bytes)?,
            None => Standing::default(),
        };
        let mut parts = StateParts {
            cluster_id: cluster_id.to_owned(),
            revision: Revision(standing.revision),
            log_time: Timestamp(standing.log_time),
            ..StateParts::default()
        };
        let mut sizes = Sizes::default();
        for (key, value) in reader.scan(OBJECTS)? {
            let object = ObjectBody::from_record(&value).map_err(DecodeError::Object)?;
            if object.id().key().as_bytes() != &key[..] {
                return Err(LoadError::Key {
                    key: String::from_utf8_lossy(&key).into_owned(),
                });
            }
            sizes.put(object.id().key(), value.len());
            parts.objects.push(object);
        }
        known(&Knowledge::own(), &parts)?;
        for (_, value) in reader.scan(SESSIONS)? {
            parts.sessions.push(disk::decode_session(&value)?);
        }
        let mut entries = Vec::new();
        for (key, value) in reader.scan(CHANGES)? {
            entries.push(read_entry(&key, value)?);
        }
        let revision = parts.revision;
        let state = State::restore(parts);
        let objects = state.catalog().objects();
        let steering = SteeringRevision::of(objects, Revision(standing.steering));
        let position = Position {
            index: index.0,
            revision,
            steering: steering.at(),
        };
        Ok(Self {
            core: RwLock::new(Core { state, steering }),
            history: Mutex::new(History::reload(entries, revision, revisions_max)),
            sizes: Mutex::new(sizes),
            position: watch::Sender::new(position),
        })
    }

    /// Answers from the state. The lock is held meanwhile, so `answer` must be short.
    pub fn read<R>(&self, answer: impl FnOnce(&State) -> R) -> R {
        self.read_core(|core| answer(&core.state))
    }

    pub fn read_core<R>(&self, answer: impl FnOnce(&Core) -> R) -> R {
        // A writer that panicked has ended the process.
        answer(&self.core.read().unwrap_or_else(PoisonError::into_inner))
    }

    #[must_use]
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Hears of every new position; a slow receiver sees the newest only.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Waits until this node has applied `revision`. Cancel safe.
    pub async fn reached(&self, revision: Revision) {
        let mut position = self.subscribe();
        // The sender lives as long as self.
        let _position = position
            .wait_for(|position| position.revision >= revision)
            .await;
    }

    /// Changes after `from`, exclusive.
    ///
    /// # Errors
    /// [`Compacted`] if they are no longer kept.
    pub fn changes_after(&self, from: Revision) -> Result<Pulled, Compacted> {
        self.history().after(from)
    }

    /// How long the oldest change after `revision` has been waiting, in milliseconds.
    #[must_use]
    pub fn lag_ms(&self, revision: Revision, now: Timestamp) -> u64 {
        self.history()
            .waiting_since(revision)
            .map_or(0, |since| now.millis_since(since))
    }

    /// Of the records of all objects together.
    #[must_use]
    pub fn objects_bytes(&self) -> usize {
        self.sizes().total()
    }

    fn sizes(&self) -> MutexGuard<'_, Sizes> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<R>(&self, change: impl FnOnce(&mut Core) -> R) -> R {
        change(&mut self.core.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A revision's changes: when they were proposed (8 bytes, big endian), then their lines.
fn read_entry(key: &[u8], value: Vec<u8>) -> Result<Entry, LoadError> {
    let corrupt = || DecodeError::Field {
        what: "the history of changes",
        field: "its key or time",
    };
    let revision: [u8; 8] = key.try_into().map_err(|_| corrupt())?;
    let at: [u8; 8] = value.first_chunk().copied().ok_or_else(corrupt)?;
    Ok(Entry {
        revision: Revision(u64::from_be_bytes(revision)),
        at: Timestamp(i64::from_be_bytes(at)),
        lines: Bytes::from(value).slice(8..),
    })
}

/// Applies the log to a [`Replica`].
pub struct Machine {
    replica: Arc<Replica>,
    knows: Knowledge,
}

impl Machine {
    /// Of a program that knows these formats.
    #[must_use]
    pub fn new(replica: Arc<Replica>, knows: Knowledge) -> Self {
        Self { replica, knows }
    }

    /// Persists what a command changed and adds it to the history. `revision` is the state's after
    /// it, `before` the one it had.
    fn keep(
        &self,
        changes: &[Change],
        (before, core): (Revision, Standing),
        batch: &mut StateBatch<'_>,
    ) {
        let mut lines = Vec::new();
        let revision = core.revision;
        for change in changes {
            let line = match change {
                Change::Put(object) => {
                    let object = object.by_ref();
                    let (key, record) = (object.id().key(), ObjectBody::to_record(object));
                    batch.put(OBJECTS, &key, &record);
                    self.replica.sizes().put(key, record.len());
                    received(&object.id()).then(|| WatchLine::put(object))
                }
                Change::Deleted { revision, object } => {
                    batch.delete(OBJECTS, object.key());
                    self.replica.sizes().deleted(&object.key());
                    received(object).then(|| WatchLine::deleted(*revision, object))
                }
                Change::Session(session) => {
                    let record = disk::encode_session(session);
                    batch.put(SESSIONS, session.index.to_be_bytes(), record);
                    None
                }
                Change::SessionGone { index } => {
                    batch.delete(SESSIONS, index.to_be_bytes());
                    None
                }
                // In the standing.
                Change::Counters { .. } => None,
            };
            if let Some(line) = line {
                lines.extend_from_slice(&disk::encode_line(&line));
            }
        }
        batch.put(META, STANDING, disk::encode(&core));
        if Revision(revision) > before {
            let record = [&core.log_time.to_be_bytes()[..], &lines].concat();
            batch.put(CHANGES, revision.to_be_bytes(), record);
            let dropped = self.replica.history().push(Entry {
                revision: Revision(revision),
                at: Timestamp(core.log_time),
                lines: Bytes::from(lines),
            });
            for old in dropped {
                batch.delete(CHANGES, old.0.to_be_bytes());
            }
        }
    }
}

/// A program that does not know every format in use must not go on: it would apply commands by other
/// rules, or lose what it cannot read.
fn known(knows: &Knowledge, parts: &StateParts) -> Result<(), DecodeError> {
    let in_use = parts.objects.iter().filter_map(|object| match object {
        Object::Format(format) => Some(format.name.as_str()),
        _ => None,
    });
    all_known(knows, in_use)
}

fn all_known<'a>(
    knows: &Knowledge,
    formats: impl Iterator<Item = &'a str>,
) -> Result<(), DecodeError> {
    let lacks = knows.lacks(formats);
    if lacks.is_empty() {
        return Ok(());
    }
    Err(DecodeError::UnknownFormats {
        formats: lacks.into_iter().map(str::to_owned).collect(),
    })
}

/// Whether regions hear of an object.
fn received(object: &ObjectId) -> bool {
    object.kind().received_by_regions()
}

impl StateMachine for Machine {
    type Outcome = Outcome;

    fn apply(
        &mut self,
        index: LogIndex,
        payload: &[u8],
        batch: &mut StateBatch<'_>,
    ) -> Result<Outcome, ApplyError> {
        let stop = |error: DecodeError| unreadable(index, &error);
        let envelope = disk::decode_envelope(payload).map_err(stop)?;
        if let Command::UseFormats { formats } = &envelope.command {
            let formats = formats.iter().map(|format| format.as_str());
            all_known(&self.knows, formats).map_err(stop)?;
        }
        let (before, standing, applied) = self.replica.write(|core| {
            let before = core.state.revision();
            let applied = core.state.apply(index.0, &envelope);
            let revision = core.state.revision();
            core.steering.follow(&applied.changes, revision);
            (before, core.standing(), applied)
        });
        if !applied.changes.is_empty() {
            self.keep(&applied.changes, (before, standing), batch);
        }
        metrics::counter!("tradewind_commands_applied_total").increment(1);
        Ok(applied.outcome)
    }

    fn committed(&mut self, applied: LogIndex) {
        let (revision, steering) = self
            .replica
            .read_core(|core| (core.state.revision(), core.steering.at()));
        self.replica.position.send_replace(Position {
            index: applied.0,
            revision,
            steering,
        });
    }

    fn snapshot(&self) -> Vec<u8> {
        let (parts, steering) = self
            .replica
            .read_core(|core| (core.state.parts(), core.steering.at()));
        disk::encode_snapshot(&parts, steering)
    }

    fn restore(&mut self, snapshot: &[u8], batch: &mut StateBatch<'_>) -> Result<(), ApplyError> {
        let stop = |error: DecodeError| unreadable(LogIndex(0), &error);
        let (parts, steering) = disk::decode_snapshot(snapshot).map_err(stop)?;
        known(&self.knows, &parts).map_err(stop)?;
        for family in FAMILIES {
            batch.clear(family);
        }
        let mut sizes = Sizes::default();
        for object in &parts.objects {
            let object = object.by_ref();
            let (key, record) = (object.id().key(), ObjectBody::to_record(object));
            batch.put(OBJECTS, &key, &record);
            sizes.put(key, record.len());
        }
        for session in &parts.sessions {
            let record = disk::encode_session(session);
            batch.put(SESSIONS, session.index.to_be_bytes(), record);
        }
        let revision = parts.revision;
        let state = State::restore(parts);
        let steering = SteeringRevision::of(state.catalog().objects(), steering);
        let core = Core { state, steering };
        batch.put(META, STANDING, disk::encode(&core.standing()));
        self.replica.write(|held| *held = core);
        *self.replica.sizes() = sizes;
        self.replica.history().restart(revision);
        Ok(())
    }
}

fn unreadable(index: LogIndex, error: &DecodeError) -> ApplyError {
    let problem = chain(error);
    if error.is_newer() {
        ApplyError::Newer { index, problem }
    } else {
        ApplyError::Corrupt { index, problem }
    }
}

#[cfg(test)]
mod tests;
