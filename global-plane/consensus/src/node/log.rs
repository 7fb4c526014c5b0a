//! The log's tail in memory, which raft-rs reads; the disk is written by effects.

use std::collections::VecDeque;

use raft::prelude::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

/// Invariants: entries are contiguous from `truncated.0 + 1`; what is here has been handed out for
/// persisting in the same ready, so nothing is here that the disk will not have.
#[derive(Debug, Default)]
pub struct MemoryLog {
    /// Index and term of the last entry that compaction or a snapshot took away.
    pub truncated: (u64, u64),
    pub entries: VecDeque<Entry>,
    pub hard_state: HardState,
    pub conf_state: ConfState,
    /// The state machine's state for a follower whose next entry is gone, made when asked for.
    pub snapshot: Option<Snapshot>,
    /// A follower needs a snapshot that is not here.
    pub snapshot_wanted: std::cell::Cell<bool>,
}

impl MemoryLog {
    pub fn first(&self) -> u64 {
        self.truncated.0 + 1
    }

    /// What the entries' payloads take.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }

    pub fn last(&self) -> u64 {
        self.truncated.0 + self.entries.len() as u64
    }

    /// Appends, overwriting a suffix that conflicts.
    ///
    /// # Panics
    /// If the entries would leave a gap or overwrite what was compacted: raft-rs never asks that.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.truncated.0,
            "append at {} below the log",
            first.index
        );
        assert!(
            first.index <= self.last() + 1,
            "append at {} leaves a gap",
            first.index
        );
        self.entries.truncate(position(first.index - self.first()));
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops entries up to and including `index`.
    pub fn compact(&mut self, index: u64) {
        let Ok(term) = self.term(index) else { return };
        if index < self.first() {
            return;
        }
        self.entries.drain(..position(index + 1 - self.first()));
        self.truncated = (index, term);
    }

    /// Starts over after a snapshot.
    pub fn reset(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        self.entries.clear();
        self.truncated = (metadata.index, metadata.term);
        self.conf_state = metadata.get_conf_state().clone();
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.hard_state.term = self.hard_state.term.max(metadata.term);
        self.snapshot = None;
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("a log in memory has fewer entries than addresses")
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let mut entries: Vec<Entry> = self
            .entries
            .range(position(low - self.first())..position(high - self.first()))
            .cloned()
            .collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(position(index - self.first()));
        entry
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.snapshot {
            Some(snapshot)
                if snapshot.get_metadata().index >= request_index
                    && snapshot.get_metadata().index >= self.truncated.0 =>
            {
                Ok(snapshot.clone())
            }
            // Any other error is fatal to raft-rs; this one it retries.
            _ => {
                self.snapshot_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
