//! The log, Raft's few facts and the state machine's own families, in one RocksDB.
//!
//! One database means one write-ahead log: every batch is atomic over all families, and what was
//! written later is never kept without what was written before. So the batch that applies a command
//! needs no sync: after a crash it is replayed from the log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use raft::prelude::{ConfState, Entry, HardState};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode,
    Options, WriteBatch, WriteOptions,
};

use crate::node::{LogWrite, Persisted};
use crate::{LogIndex, NodeId};

const LOG: &str = "raft_log";
const META: &str = "raft_meta";

const IDENTITY: &[u8] = b"identity";
const HARD_STATE: &[u8] = b"hard_state";
const CONF_STATE: &[u8] = b"conf_state";
const TRUNCATED: &[u8] = b"truncated";
const APPLIED: &[u8] = b"applied";
/// Kept apart from the hard state, so that applying can never overwrite a newer term or vote.
const COMMIT: &[u8] = b"commit";
/// How often this directory was opened by its node.
const BOOTS: &[u8] = b"boots";

/// Of the records above and of the state machine's families; another one is refused. What comes after
/// it is agreed on by the members and needs no other number.
const FORMAT: u32 = 2;

/// Bounds the write-ahead files that a quiet family would otherwise keep alive.
const WAL_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open the database at {path}: another process may hold it, or the disk is damaged")]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("read the database")]
    Read(#[source] rocksdb::Error),
    #[error("write the database")]
    Write(#[source] rocksdb::Error),
    #[error("{what} is corrupt: wipe the data directory and let the node rejoin under a new id")]
    Corrupt { what: String },
    #[error("the data directory belongs to {found}, this is {wanted}")]
    Identity { found: String, wanted: String },
    #[error("the data directory has format {found}, this program reads {FORMAT}")]
    Format { found: u32 },
}

/// A committed entry that this program cannot apply. The process must stop: skipping the entry would
/// make this replica differ.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A newer program wrote it.
    #[error("entry {index} needs a newer program: {problem}")]
    Newer { index: LogIndex, problem: String },
    #[error("entry {index} is corrupt: {problem}")]
    Corrupt { index: LogIndex, problem: String },
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub node: NodeId,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        format!("{FORMAT}\n{}\n{}", self.node, self.cluster).into_bytes()
    }

    fn check(&self, stored: &[u8]) -> Result<(), StoreError> {
        let corrupt = || StoreError::Corrupt {
            what: "the identity record".to_owned(),
        };
        let text = std::str::from_utf8(stored).map_err(|_| corrupt())?;
        let mut lines = text.splitn(3, '\n');
        let format: u32 = lines
            .next()
            .and_then(|line| line.parse().ok())
            .ok_or_else(corrupt)?;
        if format != FORMAT {
            return Err(StoreError::Format { found: format });
        }
        let node = lines.next().ok_or_else(corrupt)?;
        let cluster = lines.next().ok_or_else(corrupt)?;
        if node == self.node.to_string() && cluster == self.cluster {
            return Ok(());
        }
        Err(StoreError::Identity {
            found: format!("node {node} of cluster {cluster:?}"),
            wanted: format!("node {} of cluster {:?}", self.node, self.cluster),
        })
    }
}

/// The log on disk. Invariant: `last` is the index of the last entry written.
pub struct Store {
    db: Arc<DB>,
    last: u64,
    boots: u64,
    fsyncs: Arc<AtomicU64>,
}

impl Store {
    /// Opens or makes the database, with `families` for the state machine, and reads the log.
    ///
    /// # Errors
    /// Anything that is not exactly what this node wrote is refused, never skipped: a log that
    /// silently lost its end could vote twice.
    pub fn open(
        path: &Path,
        identity: &Identity,
        voters: &[NodeId],
        families: &[&str],
    ) -> Result<(Self, Persisted), StoreError> {
        // With those that another version made: what it left must be opened to say whose it is.
        let mut names: BTreeSet<String> = [LOG, META]
            .iter()
            .chain(families)
            .map(|name| (*name).to_owned())
            .collect();
        if path.join("CURRENT").exists() {
            let there = DB::list_cf(&Options::default(), path);
            names.extend(there.map_err(|source| StoreError::Open {
                path: path.to_owned(),
                source,
            })?);
        }
        let descriptors = names.iter().map(|name| {
            let mut options = Options::default();
            options.set_compression_type(if name == LOG {
                DBCompressionType::None
            } else {
                DBCompressionType::Lz4
            });
            options.set_write_buffer_size(16 << 20);
            ColumnFamilyDescriptor::new(name, options)
        });
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        // The default mode would quietly forget synced writes after the first damaged record.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // A write-ahead file that went missing is damage too.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_bytes_per_sync(1 << 20);
        options.set_keep_log_file_num(4);
        let db = DB::open_cf_descriptors(&options, path, descriptors).map_err(|source| {
            StoreError::Open {
                path: path.to_owned(),
                source,
            }
        })?;
        let mut store = Self {
            db: Arc::new(db),
            last: 0,
            boots: 0,
            fsyncs: Arc::default(),
        };
        let persisted = match store.meta(IDENTITY)? {
            Some(stored) => {
                identity.check(&stored)?;
                store.load()?
            }
            None => store.create(identity, voters)?,
        };
        store.last = persisted.truncated.0 + persisted.entries.len() as u64;
        store.count_boot()?;
        Ok((store, persisted))
    }

    /// Which opening of this directory this is, from 1: the `boot` of [`crate::node::Settings`]. On
    /// disk before anything is done under it, so that no two starts share one.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// A reader of the state machine's families, for its start.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        StateReader {
            db: Arc::clone(&self.db),
        }
    }

    /// Counts the writes that waited for the disk.
    #[must_use]
    pub fn fsyncs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fsyncs)
    }

    #[must_use]
    pub fn batch(&self) -> StateBatch<'_> {
        StateBatch {
            db: &self.db,
            batch: WriteBatch::default(),
        }
    }

    /// Writes entries and hard state as one batch, with at most one sync.
    pub fn persist(&mut self, write: &LogWrite) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            for stale in last.index + 1..=self.last {
                batch.delete_cf(self.family(LOG), stale.to_be_bytes());
            }
            debug_assert!(first.index <= self.last + 1, "entries leave a gap");
            self.last = last.index;
        }
        for entry in &write.entries {
            batch.put_cf(
                self.family(LOG),
                entry.index.to_be_bytes(),
                checked(&entry.encode_to_vec()),
            );
        }
        if let Some(hard_state) = &write.hard_state {
            batch.put_cf(
                self.family(META),
                HARD_STATE,
                checked(&hard_state.encode_to_vec()),
            );
        }
        self.write(batch, write.must_sync)
    }

    /// Completes an apply batch with how far it goes.
    pub fn applied(
        &self,
        mut batch: WriteBatch,
        applied: LogIndex,
        commit: LogIndex,
    ) -> Result<(), StoreError> {
        batch.put_cf(
            self.family(META),
            APPLIED,
            checked(&applied.0.to_be_bytes()),
        );
        batch.put_cf(self.family(META), COMMIT, checked(&commit.0.to_be_bytes()));
        self.write(batch, false)
    }

    /// Replaces the whole log and, by `batch`, the whole state, in one synced write.
    pub fn install(
        &mut self,
        mut batch: WriteBatch,
        (index, term): (LogIndex, u64),
        hard_state: &HardState,
        conf_state: &ConfState,
    ) -> Result<(), StoreError> {
        let start: &[u8] = &[];
        batch.delete_range_cf(self.family(LOG), start, &u64::MAX.to_be_bytes()[..]);
        let meta = self.family(META);
        batch.put_cf(meta, TRUNCATED, checked(&position(index.0, term)));
        batch.put_cf(meta, APPLIED, checked(&index.0.to_be_bytes()));
        batch.put_cf(meta, COMMIT, checked(&index.0.to_be_bytes()));
        batch.put_cf(meta, HARD_STATE, checked(&hard_state.encode_to_vec()));
        batch.put_cf(meta, CONF_STATE, checked(&conf_state.encode_to_vec()));
        self.last = index.0;
        self.write(batch, true)
    }

    /// Drops the log up to and including an applied entry. Unsynced: whatever survives a crash is
    /// a prefix of what was written, so this is never kept without the state it relies on.
    pub fn truncate(&self, index: LogIndex, term: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let start: &[u8] = &[];
        batch.delete_range_cf(self.family(LOG), start, &(index.0 + 1).to_be_bytes()[..]);
        batch.put_cf(
            self.family(META),
            TRUNCATED,
            checked(&position(index.0, term)),
        );
        self.write(batch, false)
    }

    fn create(&self, identity: &Identity, voters: &[NodeId]) -> Result<Persisted, StoreError> {
        let persisted = Persisted::bootstrap(voters);
        let mut batch = WriteBatch::default();
        let meta = self.family(META);
        batch.put_cf(meta, IDENTITY, checked(&identity.encode()));
        batch.put_cf(
            meta,
            HARD_STATE,
            checked(&persisted.hard_state.encode_to_vec()),
        );
        batch.put_cf(
            meta,
            CONF_STATE,
            checked(&persisted.conf_state.encode_to_vec()),
        );
        batch.put_cf(
            meta,
            TRUNCATED,
            checked(&position(persisted.truncated.0, persisted.truncated.1)),
        );
        batch.put_cf(meta, APPLIED, checked(&persisted.applied.0.to_be_bytes()));
        batch.put_cf(meta, COMMIT, checked(&persisted.applied.0.to_be_bytes()));
        self.write(batch, true)?;
        Ok(persisted)
    }

    fn count_boot(&mut self) -> Result<(), StoreError> {
        let before = match self.meta(BOOTS)? {
            Some(stored) => {
                u64::from_be_bytes(stored.try_into().map_err(|_| StoreError::Corrupt {
                    what: "boots".to_owned(),
                })?)
            }
            None => 0,
        };
        self.boots = before + 1;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(META), BOOTS, checked(&self.boots.to_be_bytes()));
        self.write(batch, true)
    }

    fn load(&self) -> Result<Persisted, StoreError> {
        let corrupt = |what: &str| StoreError::Corrupt {
            what: what.to_owned(),
        };
        let need = |key: &[u8]| -> Result<Vec<u8>, StoreError> {
            self.meta(key)?
                .ok_or_else(|| corrupt(&String::from_utf8_lossy(key)))
        };
        let number = |key: &[u8]| -> Result<u64, StoreError> {
            let bytes = need(key)?
                .try_into()
                .map_err(|_| corrupt(&String::from_utf8_lossy(key)))?;
            Ok(u64::from_be_bytes(bytes))
        };
        let mut hard_state =
            HardState::decode(&need(HARD_STATE)?[..]).map_err(|_| corrupt("hard_state"))?;
        hard_state.commit = hard_state.commit.max(number(COMMIT)?);
        let conf_state =
            ConfState::decode(&need(CONF_STATE)?[..]).map_err(|_| corrupt("conf_state"))?;
        let truncated: [u8; 16] = need(TRUNCATED)?
            .try_into()
            .map_err(|_| corrupt("truncated"))?;
        let (index, term) = truncated.split_at(8);
        let half =
            |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("half of sixteen bytes"));
        let truncated = (half(index), half(term));

        let mut entries = Vec::new();
        for record in self.db.iterator_cf(self.family(LOG), IteratorMode::Start) {
            let (_, value) = record.map_err(StoreError::Read)?;
            let expected = truncated.0 + 1 + entries.len() as u64;
            let what = format!("log entry {expected}");
            let entry = Entry::decode(unchecked(&value).ok_or_else(|| corrupt(&what))?)
                .map_err(|_| corrupt(&what))?;
            if entry.index != expected {
                return Err(corrupt(&what));
            }
            entries.push(entry);
        }
        Ok(Persisted {
            hard_state,
            conf_state,
            truncated,
            entries,
            applied: LogIndex(number(APPLIED)?),
        })
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = self
            .db
            .get_cf(self.family(META), key)
            .map_err(StoreError::Read)?
        else {
            return Ok(None);
        };
        let what = || String::from_utf8_lossy(key).into_owned();
        let value = unchecked(&value).ok_or_else(|| StoreError::Corrupt { what: what() })?;
        Ok(Some(value.to_vec()))
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        if sync {
            self.fsyncs.fetch_add(1, Ordering::Relaxed);
        }
        self.db
            .write_opt(batch, &options)
            .map_err(StoreError::Write)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("the database was opened with this family")
    }
}

/// What the state machine adds to the batch that applies a command.
pub struct StateBatch<'a> {
    db: &'a DB,
    batch: WriteBatch,
}

impl StateBatch<'_> {
    /// # Panics
    /// If the store was not opened with this family.
    pub fn put(&mut self, family: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.batch.put_cf(handle(self.db, family), key, value);
    }

    /// # Panics
    /// If the store was not opened with this family.
    pub fn delete(&mut self, family: &str, key: impl AsRef<[u8]>) {
        self.batch.delete_cf(handle(self.db, family), key);
    }

    /// Deletes from the first key up to, not including, `to`.
    ///
    /// # Panics
    /// If the store was not opened with this family.
    pub fn delete_range(&mut self, family: &str, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) {
        self.batch
            .delete_range_cf(handle(self.db, family), from.as_ref(), to.as_ref());
    }

    /// Deletes whatever a family holds.
    ///
    /// # Panics
    /// If the store was not opened with this family, or cannot be read: a state that kept what a
    /// snapshot has not would differ from every other replica's.
    pub fn clear(&mut self, family: &str) {
        let family = handle(self.db, family);
        for record in self.db.iterator_cf(family, IteratorMode::Start) {
            let (key, _) = record.expect("the disk can be read, or the process must not go on");
            self.batch.delete_cf(family, key);
        }
    }

    /// For [`Store::applied`].
    #[must_use]
    pub fn into_batch(self) -> WriteBatch {
        self.batch
    }
}

/// Reads the state machine's families.
#[derive(Clone)]
pub struct StateReader {
    db: Arc<DB>,
}

/// A family's records in key order.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl StateReader {
    /// # Errors
    /// If the disk fails or a block's checksum does not hold.
    pub fn scan(&self, family: &str) -> Result<Records, StoreError> {
        let records = self
            .db
            .iterator_cf(handle(&self.db, family), IteratorMode::Start);
        records
            .map(|record| {
                record
                    .map(|(key, value)| (key.into(), value.into()))
                    .map_err(StoreError::Read)
            })
            .collect()
    }

    /// # Errors
    /// If the disk fails or a block's checksum does not hold.
    pub fn get(&self, family: &str, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
        self.db
            .get_cf(handle(&self.db, family), key)
            .map_err(StoreError::Read)
    }
}

fn handle<'a>(db: &'a DB, family: &str) -> &'a ColumnFamily {
    db.cf_handle(family)
        .expect("the store was opened with this family")
}

fn position(index: u64, term: u64) -> Vec<u8> {
    [index.to_be_bytes(), term.to_be_bytes()].concat()
}

/// A record with its CRC-32 in front.
fn checked(record: &[u8]) -> Vec<u8> {
    [&crc32fast::hash(record).to_be_bytes()[..], record].concat()
}

fn unchecked(stored: &[u8]) -> Option<&[u8]> {
    let (crc, record) = stored.split_at_checked(4)?;
    (crc == crc32fast::hash(record).to_be_bytes()).then_some(record)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn identity(node: u64) -> Identity {
        Identity {
            cluster: "test".to_owned(),
            node: NodeId(node),
        }
    }

    fn open(path: &Path) -> Result<(Store, Persisted), StoreError> {
        Store::open(path, &identity(1), &[NodeId(1)], &["objects"])
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            data: format!("entry {index} of {term}").into_bytes(),
            ..Entry::default()
        }
    }

    fn write(entries: Vec<Entry>, term: u64, commit: u64) -> LogWrite {
        LogWrite {
            entries,
            hard_state: Some(HardState {
                term,
                vote: 1,
                commit,
            }),
            must_sync: true,
        }
    }

    #[test]
    fn a_log_reads_back_as_it_was_last_written() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (mut store, persisted) = open(dir.path()).unwrap();
            assert_eq!(persisted.applied, LogIndex(1));
            store
                .persist(&write(vec![entry(2, 2), entry(3, 2), entry(4, 2)], 2, 2))
                .unwrap();
            store.persist(&write(vec![entry(3, 3)], 3, 2)).unwrap();
            let mut batch = store.batch();
            batch.put("objects", "a", "1");
            let batch = batch.into_batch();
            store.applied(batch, LogIndex(3), LogIndex(3)).unwrap();
            store.truncate(LogIndex(2), 2).unwrap();
        }
        let (store, persisted) = open(dir.path()).unwrap();
        assert_eq!(
            persisted.entries,
            [entry(3, 3)],
            "the overwritten suffix and the truncated prefix are gone"
        );
        assert_eq!(persisted.truncated, (2, 2));
        assert_eq!(
            (persisted.applied, persisted.hard_state.commit),
            (LogIndex(3), 3)
        );
        assert_eq!(
            store.reader().scan("objects").unwrap(),
            [(b"a".to_vec(), b"1".to_vec())]
        );
    }

    #[test]
    fn an_installed_snapshot_replaces_log_and_state() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (mut store, persisted) = open(dir.path()).unwrap();
            store.persist(&write(vec![entry(2, 2)], 2, 2)).unwrap();
            let mut batch = store.batch();
            batch.put("objects", "old", "1");
            let batch = batch.into_batch();
            store.applied(batch, LogIndex(2), LogIndex(2)).unwrap();
            let mut batch = store.batch();
            batch.clear("objects");
            batch.put("objects", "new", "2");
            let batch = batch.into_batch();
            let hard_state = HardState {
                term: 4,
                vote: 0,
                commit: 9,
            };
            store
                .install(batch, (LogIndex(9), 4), &hard_state, &persisted.conf_state)
                .unwrap();
        }
        let (store, persisted) = open(dir.path()).unwrap();
        assert_eq!(
            (
                persisted.truncated,
                persisted.applied,
                persisted.entries.len()
            ),
            ((9, 4), LogIndex(9), 0)
        );
        assert_eq!(
            store.reader().scan("objects").unwrap(),
            [(b"new".to_vec(), b"2".to_vec())]
        );
    }

    #[test]
    fn a_directory_of_another_node_or_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let other = Identity {
            cluster: "other".to_owned(),
            node: NodeId(1),
        };
        for (identity, want) in [
            (
                identity(2),
                "the data directory belongs to node 1 of cluster \"test\", this is node 2 of cluster \"test\"",
            ),
            (
                other,
                "the data directory belongs to node 1 of cluster \"test\", this is node 1 of cluster \"other\"",
            ),
        ] {
            let opened = Store::open(dir.path(), &identity, &[NodeId(1)], &["objects"]);
            assert_eq!(opened.err().unwrap().to_string(), want);
        }
    }

    #[test]
    fn a_directory_of_an_older_or_a_newer_program_is_refused_as_what_it_is() {
        for other in [FORMAT - 1, FORMAT + 1] {
            let dir = tempfile::tempdir().unwrap();
            {
                let (mut store, _) = open(dir.path()).unwrap();
                let theirs = checked(format!("{other}\n1\ntest").as_bytes());
                store
                    .db
                    .put_cf(store.family(META), IDENTITY, theirs)
                    .unwrap();
                // Its state machine had a family that ours has not.
                let db = Arc::get_mut(&mut store.db).unwrap();
                db.create_cf("theirs", &Options::default()).unwrap();
            }
            let error = open(dir.path()).err().unwrap();
            assert!(
                matches!(error, StoreError::Format { found } if found == other),
                "{error}"
            );
        }
    }

    #[test]
    fn no_two_openings_share_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        for want in 1..4 {
            assert_eq!(open(dir.path()).unwrap().0.boots(), want);
        }
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = open(dir.path()).unwrap();
        assert!(matches!(
            open(dir.path()).err().unwrap(),
            StoreError::Open { .. }
        ));
        drop(held);
    }

    #[test]
    fn a_damaged_record_is_refused_and_not_skipped() {
        let dir = tempfile::tempdir().unwrap();
        {
            let (mut store, _) = open(dir.path()).unwrap();
            store
                .persist(&write(vec![entry(2, 2), entry(3, 2)], 2, 1))
                .unwrap();
            let mut damaged = store
                .db
                .get_cf(store.family(LOG), 2u64.to_be_bytes())
                .unwrap()
                .unwrap();
            damaged[6] ^= 1;
            store
                .db
                .put_cf(store.family(LOG), 2u64.to_be_bytes(), damaged)
                .unwrap();
        }
        let error = open(dir.path()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "log entry 2 is corrupt: wipe the data directory and let the node rejoin under a new id"
        );
    }
}
