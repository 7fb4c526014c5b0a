//! The directories an instance has to itself.

use std::ffi::{CStr, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

use crate::trash::{self, Trash};

/// What `sun_path` holds without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest name an FDK binds before it makes the link: Java's ten letters and `.sock`.
const SOCKET_NAME_BYTES_MAX: usize = 15;

/// Digits that the number of an instance may have: nine would last a region that starts ten a
/// second for three years.
const NUMBER_BYTES_MAX: usize = 9;

const SOCKETS: &str = "s";
const TEMPORARY: &str = "t";

/// Where the directories of instances that are gone wait to be removed.
const TRASH: &str = "trash";

/// Of the directories in which runtimes have theirs.
const ROOT_PREFIX: &str = "tw-";

/// Locked while the runtime lives. A directory whose file is not was left by one that was killed.
const LOCK: &CStr = c"lock";

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("make a directory for sockets in {parent}")]
    Create {
        parent: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the socket directory {directory} is too long: paths of sockets in it would have {bytes} bytes, \
         {SOCKET_PATH_BYTES_MAX} are possible; set socket_dir to a shorter one"
    )]
    TooLong { directory: PathBuf, bytes: usize },
}

/// Where one runtime has all of them; removed with it.
#[derive(Debug)]
pub(super) struct ScratchRoot {
    directory: PathBuf,
    last: AtomicU64,
    /// `None` while it is being dropped.
    trash: Option<Trash>,
    _lock: File,
}

impl ScratchRoot {
    pub(super) fn new(parent: Option<&Path>) -> Result<Self, SettingsError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let made = fs::create_dir_all(&parent)
            .and_then(|()| parent.canonicalize())
            .and_then(|parent| Self::make(&parent));
        let root = made.map_err(|source| SettingsError::Create { parent, source })?;
        let bytes = root.directory.as_os_str().as_bytes().len()
            + "/".len()
            + NUMBER_BYTES_MAX
            + "/".len()
            + SOCKETS.len()
            + "/".len()
            + SOCKET_NAME_BYTES_MAX;
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(SettingsError::TooLong {
                directory: root.directory.clone(),
                bytes,
            });
        }
        Ok(root)
    }

    fn make(parent: &Path) -> io::Result<Self> {
        // Private to the region's user, as tempfile makes it.
        let directory = tempfile::Builder::new()
            .prefix(ROOT_PREFIX)
            .tempdir_in(parent)?
            .keep();
        let lock = lock(&directory)?;
        let trash = Trash::open(directory.join(TRASH))?;
        collect_abandoned(parent, &trash);
        Ok(Self {
            directory,
            last: AtomicU64::new(0),
            trash: Some(trash),
            _lock: lock,
        })
    }

    fn throw(&self, directory: &Path) {
        let trash = self.trash.as_ref().expect("it is taken only to be dropped");
        if let Err(error) = trash.throw(directory) {
            // It goes with the root, or with what the next start finds of it.
            warn!(directory = %directory.display(), %error, "instance's directory not removed");
        }
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        // Its thread ends first.
        self.trash = None;
        // The lock goes last: without it nobody would know that the rest was abandoned.
        if let Err(error) = trash::remove_with_last(&self.directory, LOCK) {
            warn!(directory = %self.directory.display(), %error, "left for the next start");
        }
    }
}

fn lock_in(directory: &Path) -> PathBuf {
    directory.join(OsStr::from_bytes(LOCK.to_bytes()))
}

/// The file gets its name only once it is locked, so that nobody finds it unlocked.
fn lock(directory: &Path) -> io::Result<File> {
    let unnamed = directory.join("lock.new");
    let file = File::create_new(&unnamed)?;
    file.lock()?;
    fs::rename(unnamed, lock_in(directory))?;
    Ok(file)
}

/// A region that is killed leaves its directory. What cannot be moved is somebody else's.
fn collect_abandoned(parent: &Path, trash: &Trash) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let is_root = entry
            .file_name()
            .as_bytes()
            .starts_with(ROOT_PREFIX.as_bytes());
        if is_root
            && let Ok(file) = File::open(lock_in(&entry.path()))
            && file.try_lock().is_ok()
            && let Err(error) = trash.take(&entry.path())
        {
            warn!(directory = %entry.path().display(), %error, "abandoned directory not removed");
        }
    }
}

/// One instance's socket directory and temporary files. It must be fresh: some FDKs do not remove a
/// stale socket (Fn contract 9.2).
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    /// Kept until the last instance is gone.
    root: Arc<ScratchRoot>,
    removed: bool,
}

impl Scratch {
    pub(super) async fn new(root: &Arc<ScratchRoot>) -> io::Result<Self> {
        let number = root.last.fetch_add(1, Ordering::Relaxed) + 1;
        let scratch = Self {
            directory: root.directory.join(number.to_string()),
            root: Arc::clone(root),
            removed: false,
        };
        let wanted = [
            scratch.directory.clone(),
            scratch.sockets(),
            scratch.temporary(),
        ];
        tokio::task::spawn_blocking(move || {
            wanted
                .iter()
                .try_for_each(|path| DirBuilder::new().mode(0o700).create(path))
        })
        .await
        .map_err(io::Error::other)??;
        Ok(scratch)
    }

    pub(super) fn sockets(&self) -> PathBuf {
        self.directory.join(SOCKETS)
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.directory.join(TEMPORARY)
    }

    pub(super) async fn remove(mut self) {
        self.removed = true;
        let (root, directory) = (Arc::clone(&self.root), self.directory.clone());
        // A rename, mostly.
        let thrown = tokio::task::spawn_blocking(move || root.throw(&directory));
        if let Err(error) = thrown.await {
            warn!(%error, "instance's directory not removed");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only when a start failed or the whole runtime is dropped; nothing can be awaited here.
        if !self.removed {
            self.root.throw(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_directory_too_deep_for_sockets_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(80));
        let error = ScratchRoot::new(Some(&deep)).unwrap_err();
        assert!(matches!(error, SettingsError::TooLong { .. }), "{error}");
        assert!(error.to_string().contains("socket_dir"), "{error}");
        assert!(ScratchRoot::new(Some(&dir.path().join("short"))).is_ok());
    }

    #[test]
    fn only_directories_of_runtimes_that_are_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let living = ScratchRoot::new(Some(parent.path())).unwrap();
        let killed = parent.path().join("tw-killed");
        let (unlocked, foreign) = (parent.path().join("tw-new"), parent.path().join("other"));
        for directory in [&killed, &unlocked, &foreign] {
            fs::create_dir(directory).unwrap();
        }
        for directory in [&killed, &foreign] {
            fs::write(lock_in(directory), "").unwrap();
        }
        let another = ScratchRoot::new(Some(parent.path())).unwrap();
        assert!(!killed.exists());
        assert!(living.directory.exists() && unlocked.exists() && foreign.exists());
        let gone = another.directory.clone();
        drop(another);
        assert!(!gone.exists());
    }
}
