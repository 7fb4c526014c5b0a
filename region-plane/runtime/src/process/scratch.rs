//! The directories an instance has to itself.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tracing::warn;

/// What `sun_path` holds without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest name an FDK binds before it makes the link: Java's ten letters and `.sock`.
const SOCKET_NAME_BYTES_MAX: usize = 15;

/// Digits that the number of an instance may have: nine would last a region that starts ten a
/// second for three years.
const NUMBER_BYTES_MAX: usize = 9;

const SOCKETS: &str = "s";
const TEMPORARY: &str = "t";

/// Of the directories in which runtimes have theirs.
const ROOT_PREFIX: &str = "tw-";

/// Locked while the runtime lives. A directory whose file is not was left by one that was killed.
const LOCK: &str = "lock";

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
    #[error("start a thread")]
    Thread {
        #[source]
        source: io::Error,
    },
}

/// Where one runtime has all of them; removed with it.
#[derive(Debug)]
pub(super) struct ScratchRoot {
    directory: TempDir,
    last: AtomicU64,
    _lock: File,
}

impl ScratchRoot {
    pub(super) fn new(parent: Option<&Path>) -> Result<Self, SettingsError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let made = fs::create_dir_all(&parent)
            .and_then(|()| parent.canonicalize())
            .and_then(|parent| {
                remove_abandoned(&parent);
                // Private to the region's user, as tempfile makes it.
                tempfile::Builder::new()
                    .prefix(ROOT_PREFIX)
                    .tempdir_in(parent)
            })
            .and_then(|directory| Ok((lock(directory.path())?, directory)));
        let (lock, directory) = made.map_err(|source| SettingsError::Create { parent, source })?;
        let bytes = directory.path().as_os_str().as_bytes().len()
            + "/".len()
            + NUMBER_BYTES_MAX
            + "/".len()
            + SOCKETS.len()
            + "/".len()
            + SOCKET_NAME_BYTES_MAX;
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(SettingsError::TooLong {
                directory: directory.path().to_owned(),
                bytes,
            });
        }
        Ok(Self {
            directory,
            last: AtomicU64::new(0),
            _lock: lock,
        })
    }
}

/// The file gets its name only once it is locked, so that nobody finds it unlocked.
fn lock(directory: &Path) -> io::Result<File> {
    let unnamed = directory.join("lock.new");
    let file = File::create_new(&unnamed)?;
    file.lock()?;
    fs::rename(unnamed, directory.join(LOCK))?;
    Ok(file)
}

/// A region that is killed leaves its directory; what cannot be removed is somebody else's.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let is_root = entry
            .file_name()
            .as_bytes()
            .starts_with(ROOT_PREFIX.as_bytes());
        if is_root
            && let Ok(file) = File::open(entry.path().join(LOCK))
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// One instance's socket directory and temporary files. It must be fresh: some FDKs do not remove a
/// stale socket (Fn contract 9.2).
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    /// Keeps the root until the last instance is gone.
    _root: Arc<ScratchRoot>,
    removed: bool,
}

impl Scratch {
    pub(super) async fn new(root: &Arc<ScratchRoot>) -> io::Result<Self> {
        let number = root.last.fetch_add(1, Ordering::Relaxed) + 1;
        let scratch = Self {
            directory: root.directory.path().join(number.to_string()),
            _root: Arc::clone(root),
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
        let directory = self.directory.clone();
        let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(directory)).await;
        if let Err(error) = removed.map_err(io::Error::other).flatten() {
            warn!(%error, "an instance's directory stays behind");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only when a start failed or the whole runtime is dropped; nothing can be awaited here.
        if !self.removed {
            let _ = fs::remove_dir_all(&self.directory);
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
            fs::write(directory.join(LOCK), "").unwrap();
        }
        let _another = ScratchRoot::new(Some(parent.path())).unwrap();
        assert!(!killed.exists());
        assert!(living.directory.path().exists() && unlocked.exists() && foreign.exists());
    }
}
