//! What a federation's folder remembers: who runs it, and which processes it last had.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::parts::is_ours;
use super::plan::{Layout, Net};

/// The file `up.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of the `up` that wrote this.
    pub up_pid: u32,
    pub net: Net,
    /// Raft's membership is on the nodes' disks, so this cannot change.
    pub globals: u8,
    /// Process ids by part.
    pub pids: BTreeMap<String, u32>,
    /// Says that they are ready, so it must go when they do.
    pub ready_file: Option<PathBuf>,
}

impl State {
    /// `None` before the first start.
    pub fn read(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let path = layout.state();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let state = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is corrupt; check that no daemon of this folder runs, then remove the file",
                path.display()
            )
        })?;
        Ok(Some(state))
    }

    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        write_by_rename(&layout.state(), &text)
    }

    /// Recorded processes that still run and are this folder's.
    pub fn survivors(&self, layout: &Layout) -> Vec<(String, u32)> {
        self.pids
            .iter()
            .filter(|(name, pid)| is_ours(**pid, &layout.config(name)))
            .map(|(name, pid)| (name.clone(), *pid))
            .collect()
    }
}

/// A reader sees the old file or the new one, never a part.
pub fn write_by_rename(path: &Path, text: &str) -> anyhow::Result<()> {
    let context = || format!("write {}", path.display());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.write_all(b"\n").with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}

/// Held by the one `up` of a folder; the kernel lets go of it however that ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// # Errors
    /// If another `up` runs here; names its process.
    pub fn take(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.lock();
        let context = || format!("lock {}", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).with_context(context)?;
                let dir = layout.dir.display();
                bail!(
                    "`tradewind up` already runs in {dir} (process {}); \
                     see it with `tradewind up --dir {dir} --status`, \
                     stop it with `--stop`, or use another --dir and --net",
                    pid.trim()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        file.set_len(0).with_context(context)?;
        writeln!(file, "{}", std::process::id()).with_context(context)?;
        Ok(Self { _file: file })
    }

    /// Whether an `up` holds the folder now.
    pub fn is_held(layout: &Layout) -> anyhow::Result<bool> {
        let path = layout.lock();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_folder_has_one_up_which_the_second_names() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            dir: dir.path().to_owned(),
        };
        assert!(!Lock::is_held(&layout).unwrap());
        let lock = Lock::take(&layout).unwrap();
        assert!(Lock::is_held(&layout).unwrap());
        let error = Lock::take(&layout).err().unwrap().to_string();
        let pid = std::process::id().to_string();
        assert!(error.contains("already") && error.contains(&pid), "{error}");
        drop(lock);
        assert!(!Lock::is_held(&layout).unwrap());
        Lock::take(&layout).unwrap();
    }

    #[test]
    fn state_reads_back_and_corrupt_state_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            dir: dir.path().to_owned(),
        };
        assert_eq!(State::read(&layout).unwrap(), None);
        let state = State {
            up_pid: 7,
            net: Net(127, 44),
            globals: 3,
            pids: BTreeMap::from([("fra".to_owned(), std::process::id())]),
            ready_file: Some(PathBuf::from("/d/ready.json")),
        };
        state.write(&layout).unwrap();
        assert_eq!(State::read(&layout).unwrap(), Some(state.clone()));
        assert!(
            state.survivors(&layout).is_empty(),
            "this test is no daemon"
        );
        fs::write(layout.state(), "{").unwrap();
        let error = State::read(&layout).unwrap_err().to_string();
        assert!(error.contains("corrupt"), "{error}");
    }
}
