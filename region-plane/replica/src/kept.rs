//! Keeping the copy on disk for as long as the disk takes it.
//!
//! A disk that is full ends no region: what cannot be written is served from memory, and said. RocksDB
//! takes nothing more after a write that failed, so it is opened anew from time to time, and once it takes
//! it the whole copy is written in one batch.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api_types::{Region, chain};
use tracing::{error, info};

use crate::DiskError;
use crate::disk::Disk;
use crate::region_copy::{RegionCopy, Step};

/// Between attempts to write the whole copy: each reads and writes all of it.
const RETRY: Duration = Duration::from_secs(5);

pub struct Kept {
    path: PathBuf,
    state: Mutex<State>,
}

enum State {
    /// What is held is on disk.
    Written(Disk),
    /// What is on disk is older than what is held.
    Behind { problem: String, tried: Instant },
}

impl Kept {
    /// Opens the copy and reads what is there. One that can be read and not written is served.
    ///
    /// # Errors
    /// If another process has the folder, or what is there cannot be read.
    pub fn open(path: &Path, me: Region, zone: String) -> Result<(Self, RegionCopy), DiskError> {
        let (held, state) = match Disk::open(path) {
            Ok(disk) => {
                let held = disk.load(me, zone)?;
                (held, State::Written(disk))
            }
            Err(unwritable @ DiskError::Open { .. }) => {
                let Ok(held) = Disk::read_only(path).and_then(|disk| disk.load(me, zone)) else {
                    return Err(unwritable);
                };
                (held, behind(&unwritable))
            }
            Err(error) => return Err(error),
        };
        let path = path.to_owned();
        let state = Mutex::new(state);
        Ok((Self { path, state }, held))
    }

    /// Why the copy on disk is older than what is held, while it is.
    pub fn problem(&self) -> Option<String> {
        match &*self.state() {
            State::Written(_) => None,
            State::Behind { problem, .. } => Some(problem.clone()),
        }
    }

    /// Writes a step, unless the copy is behind already. Blocking. Steps come in their order, and none
    /// while [`Self::catch_up`] writes.
    pub fn write(&self, step: &Step) {
        let mut state = self.state();
        if let State::Written(disk) = &*state
            && let Err(error) = disk.write(step)
        {
            // Closed by this, so that it can be opened again.
            *state = behind(&error);
        }
    }

    /// Whether it is time to try again to write the whole copy.
    pub fn is_due(&self) -> bool {
        matches!(&*self.state(), State::Behind { tried, .. } if tried.elapsed() >= RETRY)
    }

    /// Writes the whole copy, which `whole` is. Blocking.
    pub fn catch_up(&self, whole: &Step) {
        let written = Disk::open(&self.path).and_then(|disk| disk.rewrite(whole).map(|()| disk));
        let mut state = self.state();
        *state = match written {
            Ok(disk) => {
                metrics::gauge!("tradewind_region_copy_unwritten").set(0.0);
                info!(revision = %whole.meta.revision, "metadata is on disk again");
                State::Written(disk)
            }
            Err(error) => behind(&error),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn behind(failed: &DiskError) -> State {
    metrics::gauge!("tradewind_region_copy_unwritten").set(1.0);
    metrics::counter!("tradewind_region_copy_write_failures_total").increment(1);
    let problem = chain(failed);
    error!(
        error = problem,
        "metadata cannot be written to disk, serving from memory"
    );
    State::Behind {
        problem: format!("the copy on disk is behind: {problem}"),
        tried: Instant::now(),
    }
}
