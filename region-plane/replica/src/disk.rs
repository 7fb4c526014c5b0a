//! The copy on disk: RocksDB, one batch a step.

use std::path::{Path, PathBuf};

use api_types::{Region, Revision, chain};
use api_wire::{ObjectBody, ObjectError};
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::region_copy::{Meta, RegionCopy, Step};

/// Records by `ObjectId::key`.
const OBJECTS: &str = "objects";
/// One key.
const META: &str = "meta";
const POSITION: &[u8] = b"position";

/// Of the records; another one is refused. What comes after it has names of its own (`Knowledge`).
const FORMAT: u32 = 2;

pub struct Disk {
    db: DB,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(
        "the data folder {path} is in use by another process; \
         each region needs a folder of its own"
    )]
    InUse { path: PathBuf },
    #[error("open the metadata replica in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("read the metadata replica")]
    Read {
        #[source]
        source: rocksdb::Error,
    },
    #[error("the metadata replica is corrupt at {key}: {problem}")]
    Corrupt { key: String, problem: String },
    #[error("the metadata replica in {path} is of another version: {problem}")]
    Version { path: PathBuf, problem: String },
    #[error("write revision {revision} to the metadata replica")]
    Write {
        revision: Revision,
        #[source]
        source: rocksdb::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct PositionBody {
    /// Of all records, see [`FORMAT`].
    #[serde(default)]
    format: u32,
    cluster_id: String,
    epoch: u64,
    revision: u64,
    settled: u64,
    zone: String,
    gateway_port: u16,
}

impl DiskError {
    /// What a person does, where starting again would not help.
    #[must_use]
    pub fn to_do(&self) -> Option<&'static str> {
        match self {
            Self::Version { .. } => Some(
                "start the version that wrote it or a later one; or remove the folder `replica` in the \
                 data folder, and this one fetches the metadata again",
            ),
            Self::InUse { .. }
            | Self::Open { .. }
            | Self::Read { .. }
            | Self::Corrupt { .. }
            | Self::Write { .. } => None,
        }
    }
}

impl Disk {
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let options = options();
        let families =
            [OBJECTS, META].map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|source| {
            // RocksDB says it in words only: "… lock hold by current process …" or
            // "While lock file: …/LOCK: Resource temporarily unavailable".
            let text = source.to_string();
            let is_locked = text.contains("lock") && text.contains("LOCK");
            match is_locked && !text.contains("No space left") {
                true => DiskError::InUse {
                    path: path.to_owned(),
                },
                false => DiskError::Open {
                    path: path.to_owned(),
                    source,
                },
            }
        })?;
        Ok(Self { db })
    }

    /// What is there, with nothing written: not even who has it.
    pub fn read_only(path: &Path) -> Result<Self, DiskError> {
        DB::open_cf_for_read_only(&options(), path, [OBJECTS, META], false)
            .map(|db| Self { db })
            .map_err(|source| DiskError::Open {
                path: path.to_owned(),
                source,
            })
    }

    /// Everything on disk.
    pub fn load(&self, me: Region, zone: String) -> Result<RegionCopy, DiskError> {
        let read = |source| DiskError::Read { source };
        let mut held = RegionCopy::new(me, zone);
        let Some(position) = self.db.get_cf(self.family(META), POSITION).map_err(read)? else {
            return Ok(held);
        };
        let position: PositionBody =
            serde_json::from_slice(&position).map_err(|error| DiskError::Corrupt {
                key: "position".to_owned(),
                problem: error.to_string(),
            })?;
        let version = |problem: String| DiskError::Version {
            path: self.db.path().to_owned(),
            problem,
        };
        if position.format != FORMAT {
            let found = position.format;
            return Err(version(format!(
                "its records have format {found}, this program reads {FORMAT}"
            )));
        }
        let mut puts = Vec::new();
        for entry in self
            .db
            .iterator_cf(self.family(OBJECTS), IteratorMode::Start)
        {
            let (key, value) = entry.map_err(read)?;
            let corrupt = |problem: String| DiskError::Corrupt {
                key: String::from_utf8_lossy(&key).into_owned(),
                problem,
            };
            let object = ObjectBody::from_record(&value).map_err(|error| match error {
                ObjectError::Unknown { .. } => version(error.to_string()),
                error => corrupt(chain(&error)),
            })?;
            if object.id().key().as_bytes() != &*key {
                return Err(corrupt("the object has another key".to_owned()));
            }
            puts.push(object);
        }
        held.take(Step {
            meta: Meta {
                cluster_id: position.cluster_id,
                epoch: position.epoch,
                revision: Revision(position.revision),
                settled: Revision(position.settled),
                zone: position.zone,
                gateway_port: position.gateway_port,
            },
            puts,
            deletes: Vec::new(),
            sync: false,
        });
        Ok(held)
    }

    /// Writes a step that has everything in it, in place of what is there. Blocking.
    pub fn rewrite(&self, whole: &Step) -> Result<(), DiskError> {
        let mut batch = WriteBatch::default();
        for entry in self
            .db
            .iterator_cf(self.family(OBJECTS), IteratorMode::Start)
        {
            let (key, _) = entry.map_err(|source| DiskError::Read { source })?;
            batch.delete_cf(self.family(OBJECTS), key);
        }
        self.write_batch(batch, whole)
    }

    /// Blocking.
    pub fn write(&self, step: &Step) -> Result<(), DiskError> {
        self.write_batch(WriteBatch::default(), step)
    }

    fn write_batch(&self, mut batch: WriteBatch, step: &Step) -> Result<(), DiskError> {
        let objects = self.family(OBJECTS);
        for id in &step.deletes {
            batch.delete_cf(objects, id.key());
        }
        for object in &step.puts {
            let record = ObjectBody::to_record(object.by_ref());
            batch.put_cf(objects, object.id().key(), record);
        }
        let position = PositionBody {
            format: FORMAT,
            cluster_id: step.meta.cluster_id.clone(),
            epoch: step.meta.epoch,
            revision: step.meta.revision.0,
            settled: step.meta.settled.0,
            zone: step.meta.zone.clone(),
            gateway_port: step.meta.gateway_port,
        };
        batch.put_cf(
            self.family(META),
            POSITION,
            serde_json::to_vec(&position).expect("it is plain data"),
        );
        let mut options = WriteOptions::default();
        options.set_sync(step.sync);
        self.db
            .write_opt(batch, &options)
            .map_err(|source| DiskError::Write {
                revision: step.meta.revision,
                source,
            })
    }

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.db
            .cf_handle(name)
            .expect("it was opened with the database")
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Metadata of 20,000 functions is 40 MB; the defaults are for databases that never fit.
    options.set_write_buffer_size(8 << 20);
    options.set_keep_log_file_num(4);
    options
}
