//! A region's own copy of the metadata: on disk, in memory, and never waited for by a call.
//!
//! One task, [`follow()`], changes it: what comes from the global plane is checked against what is
//! held, written to disk with its revision in one batch, and then shown to readers in one step.
//! This crate refuses to know what the copy is for: gateways serve calls from it, operators keep a
//! cluster in step with it.

mod disk;
mod feed;
mod follow;
mod here;
mod kept;
mod lag;
pub mod placement;
mod region_copy;
mod settings;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use api_types::{Region, Revision};
use tokio::sync::watch;
use tokio::time::Instant;

pub use disk::DiskError;
pub use feed::News;
pub use follow::follow;
pub use here::Reference;
pub use region_copy::{Meta, Refused, RegionCopy};
pub use settings::{order, settings};

use kept::Kept;
use lag::Lag;
use region_copy::Step;

/// Between looks whether a copy that could not be written may be tried again.
const LOOK: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    held: RwLock<RegionCopy>,
    kept: Kept,
    /// Held while a step is written and taken, and while the whole copy is written.
    writing: tokio::sync::Mutex<()>,
    position: watch::Sender<Position>,
    /// Counts steps that are visible.
    version: AtomicU64,
    marks: watch::Sender<Marks>,
    refused: RwLock<Option<String>>,
    progress: RwLock<Progress>,
    lag: Mutex<Lag>,
}

/// How the copy follows the global plane.
#[derive(Debug, Clone)]
pub struct Progress {
    /// When the watch last brought something new, progress included, or a snapshot was taken; when
    /// the copy was opened, before either.
    pub moved_at: Instant,
    /// Why nothing came since; `None` while lines come.
    pub problem: Option<String>,
    /// Snapshots taken because the watch failed again and again at one revision.
    pub forced_snapshots: u64,
}

/// What readers may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The last revision applied; `None` before anything was.
    pub revision: Option<Revision>,
    /// Counts what may change which functions run here or how.
    pub functions: u64,
}

/// What the watch says besides changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// A watch is open.
    pub is_following: bool,
    /// Progress marks received: each says that nothing is missing that its node had applied.
    pub count: u64,
}

impl Replica {
    /// Opens the copy on disk, so that the region serves with the global plane gone. Blocking.
    ///
    /// # Errors
    /// If another process holds the folder, or what is there cannot be read.
    pub fn open(data_dir: &Path, me: Region, zone: String) -> Result<Self, DiskError> {
        let (kept, held) = Kept::open(&data_dir.join("replica"), me, zone)?;
        let (position, _) = watch::channel(Position {
            revision: held.meta().map(|meta| meta.revision),
            functions: 0,
        });
        Ok(Self {
            shared: Arc::new(Shared {
                version: AtomicU64::new(0),
                held: RwLock::new(held),
                kept,
                writing: tokio::sync::Mutex::default(),
                position,
                marks: watch::channel(Marks::default()).0,
                refused: RwLock::new(None),
                progress: RwLock::new(Progress {
                    moved_at: Instant::now(),
                    problem: None,
                    forced_snapshots: 0,
                }),
                lag: Mutex::default(),
            }),
        })
    }

    /// Reads under a short lock; `answer` must not block.
    pub fn read<R>(&self, answer: impl FnOnce(&RegionCopy) -> R) -> R {
        answer(
            &self
                .shared
                .held
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Grows with each change of anything that is held, once readers see it: what was worked out from
    /// a read that began with this is right for as long as it stays.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.shared.position.subscribe()
    }

    #[must_use]
    pub fn marks(&self) -> watch::Receiver<Marks> {
        self.shared.marks.subscribe()
    }

    fn set_following(&self, is_following: bool) {
        self.shared.marks.send_if_modified(|marks| {
            std::mem::replace(&mut marks.is_following, is_following) != is_following
        });
    }

    fn mark(&self) {
        self.shared.marks.send_modify(|marks| {
            marks.is_following = true;
            marks.count += 1;
        });
    }

    /// Why the last snapshot offered was refused, while that stands.
    #[must_use]
    pub fn refused(&self) -> Option<String> {
        self.shared
            .refused
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared
            .progress
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A global node that answers has applied `newest`.
    pub fn note_newest(&self, newest: Revision) {
        let applied = self.read(RegionCopy::revision);
        let mut lag = self
            .shared
            .lag
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lag.heard(newest, applied, Instant::now());
    }

    /// How long the copy has lacked something that it could have had: what it does not know may exist.
    /// `None` while that is within the bound, and while the global plane is away.
    #[must_use]
    pub fn behind(&self) -> Option<Duration> {
        let applied = self.read(RegionCopy::revision);
        let lag = self
            .shared
            .lag
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lag.behind(applied, Instant::now())
    }

    fn note_progress(&self, note: impl FnOnce(&mut Progress)) {
        note(
            &mut self
                .shared
                .progress
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn note_moved(&self) {
        self.note_progress(|progress| {
            progress.moved_at = Instant::now();
            progress.problem = None;
        });
    }

    fn note_problem(&self, problem: String) {
        self.note_progress(|progress| progress.problem = Some(problem));
    }

    fn note_forced_snapshot(&self) {
        self.note_progress(|progress| progress.forced_snapshots += 1);
    }

    fn note_refused(&self, reason: Option<String>) {
        *self
            .shared
            .refused
            .write()
            .unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why the copy on disk is older than what is held, while it is. It is served from memory then.
    #[must_use]
    pub fn unwritten(&self) -> Option<String> {
        self.shared.kept.problem()
    }

    /// Tries from time to time to write a copy that could not be written. Never returns.
    async fn keep_written(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.shared.kept.is_due() {
                continue;
            }
            let _writing = self.shared.writing.lock().await;
            let shared = Arc::clone(&self.shared);
            let replica = self.clone();
            tokio::task::spawn_blocking(move || {
                if let Some(whole) = replica.read(RegionCopy::whole) {
                    shared.kept.catch_up(&whole);
                }
            })
            .await
            .expect("writing does not panic");
        }
    }

    /// Makes a step durable if the disk takes it, then visible.
    async fn take(&self, step: Step) {
        let _writing = self.shared.writing.lock().await;
        let shared = Arc::clone(&self.shared);
        let step = tokio::task::spawn_blocking(move || {
            shared.kept.write(&step);
            step
        })
        .await
        .expect("writing does not panic");
        let functions_changed = step.changes_functions();
        let revision = step.meta.revision;
        self.shared
            .held
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take(step);
        self.shared.version.fetch_add(1, Ordering::Release);
        self.shared.position.send_modify(|position| {
            position.revision = Some(revision);
            position.functions += u64::from(functions_changed);
        });
    }
}
