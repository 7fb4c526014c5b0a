//! Removing trees that functions wrote.
//!
//! A function may leave any tree behind: deeper than a stack or the limit of open files allows to walk,
//! folders without permissions, links out of it, a file that is still growing. So nothing here recurses,
//! follows a link, or holds more than a few descriptors, and a tree that cannot be removed is an error
//! for nobody: it is set aside in a [`Trash`], counted, and tried again.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;
use tracing::{info, warn};

/// How long one attempt at one tree may take. A disk that discards what is freed removes 600 folders a
/// second (measured); a tree that a process adds to all the time would take for ever. The next attempt
/// goes on from there.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);

/// The same, while somebody waits for it.
const AWAITED_MAX: Duration = Duration::from_secs(10);

/// How long a tree that could not be removed is left alone, so that it does not keep others waiting.
const RETRY: Duration = Duration::from_secs(30);

/// Names that are tried for a tree in the trash. Names are taken only by trees that are stuck there.
const NAMES_MAX: usize = 10_000;

/// Trees that are waiting to be removed by a thread of their own. Dropped, it ends the thread and leaves
/// what is still there to whoever opens the folder next.
#[derive(Debug)]
pub struct Trash {
    folder: PathBuf,
    last: AtomicU64,
    nudge: Option<SyncSender<()>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Makes the folder if it is not there, and begins to remove all that is in it.
    ///
    /// # Errors
    /// If the folder cannot be made or the thread not started.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        // One is enough: the thread looks at the whole folder.
        let (nudge, nudged) = mpsc::sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let mut emptying = Emptying {
            folder: folder.clone(),
            stop: Arc::clone(&stop),
            stuck: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("trash".to_owned())
            .spawn(move || {
                loop {
                    emptying.all();
                    match nudged.recv_timeout(RETRY) {
                        Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        Ok(Self {
            folder,
            last: AtomicU64::new(0),
            nudge: Some(nudge),
            stop,
            thread: Some(thread),
        })
    }

    /// Takes a tree out of its place, in one step, and has it removed. It must be on the same file system.
    ///
    /// # Errors
    /// If it is not there, or cannot be moved; it is where it was then.
    pub fn take(&self, path: &Path) -> io::Result<()> {
        for _ in 0..NAMES_MAX {
            let name = self.last.fetch_add(1, Ordering::Relaxed).to_string();
            match rename(path, &self.folder.join(name)) {
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    if let Some(nudge) = &self.nudge {
                        // Full, it has been nudged and not looked yet.
                        let _full = nudge.try_send(());
                    }
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::DirectoryNotEmpty.into())
    }

    /// As [`Self::take`]; what cannot be moved is removed where it is. Nothing there is no error.
    ///
    /// # Errors
    /// If it is still where it was. That is counted.
    pub fn throw(&self, path: &Path) -> io::Result<()> {
        match self.take(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => remove(path).inspect_err(|_| count_failure()),
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.nudge = None;
        if let Some(thread) = self.thread.take() {
            // It ends after the step it is at.
            let _panicked = thread.join();
        }
    }
}

/// The thread's side.
struct Emptying {
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    /// Trees that could not be removed, and when they were last tried. As many as there are in the folder.
    stuck: BTreeMap<OsString, Instant>,
}

impl Emptying {
    fn all(&mut self) {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                count_failure();
                warn!(folder = %self.folder.display(), %error, "trash folder cannot be read");
                return;
            }
        };
        for entry in entries.flatten() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let name = entry.file_name();
            if (self.stuck.get(&name)).is_some_and(|tried| tried.elapsed() < RETRY) {
                continue;
            }
            let stop = || self.stop.load(Ordering::Relaxed);
            match remove_within(ATTEMPT_MAX, &entry.path(), None, &stop) {
                Ok(()) => {
                    if self.stuck.remove(&name).is_some() {
                        info!(path = %entry.path().display(), "folder removed");
                    }
                }
                Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Err(error) => {
                    count_failure();
                    if self.stuck.insert(name, Instant::now()).is_none() {
                        warn!(path = %entry.path().display(), %error, "folder not removed, trying again later");
                    }
                }
            }
        }
        metrics::gauge!("tradewind_trees_not_removed")
            .set(u32::try_from(self.stuck.len()).unwrap_or(u32::MAX));
    }
}

fn count_failure() {
    metrics::counter!("tradewind_tree_removals_failed_total").increment(1);
}

/// Renames, also a folder that its owner may not write to: to change its parent it has to be written.
///
/// # Errors
/// Those of rename(2).
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (parent, name) = parent_and_name(from)?;
            permit(parent.as_fd(), &name)?;
            fs::rename(from, to)
        }
        renamed => renamed,
    }
}

/// Removes a file, a link or a folder with all that is in it. Blocking, for some ten seconds at most.
/// Nothing there is no error.
///
/// # Errors
/// If something of it is left. All that could be removed is.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_within(AWAITED_MAX, path, None, &|| false)
}

/// As [`remove`], with the file of that name in the folder last: as long as anything is left, it is.
///
/// # Errors
/// As [`remove`].
pub fn remove_with_last(path: &Path, last: &CStr) -> io::Result<()> {
    remove_within(AWAITED_MAX, path, Some(last), &|| false)
}

fn remove_within(
    time_max: Duration,
    path: &Path,
    last: Option<&CStr>,
    stop: &dyn Fn() -> bool,
) -> io::Result<()> {
    let (parent, name) = match parent_and_name(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    match discard(parent.as_fd(), &name)? {
        Discarded::Gone => return Ok(()),
        Discarded::FullFolder => {}
    }
    let mut removal = Removal {
        top: open(parent.as_fd(), &name)?,
        last,
        until: Instant::now() + time_max,
        stop,
        moved: 0,
        cleared: 0,
        problem: None,
    };
    removal.empty()?;
    if let Some(last) = last {
        unlinkat(&removal.top, last, AtFlags::empty())?;
    }
    match unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

/// A tree on its way out. It is flattened: a folder in it that is not empty is moved up into the topmost
/// one and emptied there, so whatever its depth two folders are open at a time.
struct Removal<'a> {
    top: OwnedFd,
    last: Option<&'a CStr>,
    until: Instant,
    stop: &'a dyn Fn() -> bool,
    /// Folders moved up, and those of them that have been emptied: their names are these numbers.
    moved: u64,
    cleared: u64,
    /// The first of the problems of this pass, which did not keep it from what comes next.
    problem: Option<Errno>,
}

/// What became of an entry.
enum Discarded {
    Gone,
    FullFolder,
}

impl Removal<'_> {
    /// Removes everything but the last. Passes are repeated while they remove anything: what is read of a
    /// folder that changes may lack some entries.
    fn empty(&mut self) -> io::Result<()> {
        loop {
            self.problem = None;
            let pass = self.pass()?;
            if pass.left == 0 {
                return Ok(());
            }
            if pass.removed == 0 {
                return Err(self.problem.unwrap_or(Errno::NOTEMPTY).into());
            }
        }
    }

    fn pass(&mut self) -> io::Result<Pass> {
        let mut pass = Pass::default();
        for entry in Dir::read_from(&self.top)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) || self.last == Some(name) {
                continue;
            }
            self.in_time()?;
            let gone = match discard(self.top.as_fd(), name) {
                Ok(Discarded::Gone) => true,
                Ok(Discarded::FullFolder) => self.clear(name, &mut pass)?,
                Err(error) => self.note(error),
            };
            pass.count(gone);
        }
        while self.cleared < self.moved {
            let name = number(self.cleared);
            self.cleared += 1;
            let gone = self.clear(&name, &mut pass)?;
            pass.count(gone);
        }
        Ok(pass)
    }

    /// Removes a folder of the topmost one, whose subfolders are moved up. Whether it is gone.
    fn clear(&mut self, name: &CStr, pass: &mut Pass) -> io::Result<bool> {
        let folder = match open(self.top.as_fd(), name) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(true),
            Err(error) => return Ok(self.note(error)),
        };
        let mut entries = match Dir::new(folder) {
            Ok(entries) => entries,
            Err(error) => return Ok(self.note(error)),
        };
        loop {
            let before = pass.removed;
            while let Some(entry) = entries.read() {
                let entry = entry?;
                let inside = entry.file_name();
                if is_dots(inside) {
                    continue;
                }
                self.in_time()?;
                let gone = match discard(entries.fd()?, inside) {
                    Ok(Discarded::Gone) => true,
                    Ok(Discarded::FullFolder) => self.move_up(entries.fd()?, inside)?,
                    Err(error) => self.note(error),
                };
                pass.removed += usize::from(gone);
            }
            match unlinkat(&self.top, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(true),
                Err(Errno::NOTEMPTY | Errno::EXIST) if pass.removed > before => entries.rewind(),
                Err(error) => return Ok(self.note(error)),
            }
        }
    }

    /// Whether it has been moved. It is emptied once the pass comes to its number.
    fn move_up(&mut self, from: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
        let mut is_permitted = false;
        loop {
            self.in_time()?;
            let to = number(self.moved);
            self.moved += 1;
            match renameat(from, name, &self.top, &to) {
                Ok(()) | Err(Errno::NOENT) => return Ok(true),
                // The function has one of that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(Errno::ACCESS | Errno::PERM) if !is_permitted => {
                    is_permitted = true;
                    if let Err(error) = permit(from, name) {
                        return Ok(self.note(error));
                    }
                }
                Err(error) => return Ok(self.note(error)),
            }
        }
    }

    fn note(&mut self, error: Errno) -> bool {
        self.problem.get_or_insert(error);
        false
    }

    fn in_time(&self) -> io::Result<()> {
        if (self.stop)() || Instant::now() > self.until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it takes longer than one attempt may",
            ));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Pass {
    removed: usize,
    /// Entries of the topmost folder that are still there.
    left: usize,
}

impl Pass {
    fn count(&mut self, gone: bool) {
        self.removed += usize::from(gone);
        self.left += usize::from(!gone);
    }
}

fn number(number: u64) -> CString {
    CString::new(format!("removed-{number}")).expect("digits have no zero byte")
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Removes a file, a link or an empty folder. Not to be there is to be gone.
fn discard(parent: BorrowedFd<'_>, name: &CStr) -> Result<Discarded, Errno> {
    let unlinked = match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(Discarded::Gone),
        // Linux says the one of a folder, POSIX the other.
        Err(error @ (Errno::ISDIR | Errno::PERM)) => error,
        Err(error) => return Err(error),
    };
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Discarded::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Discarded::FullFolder),
        Err(Errno::NOTDIR) => Err(unlinked),
        Err(error) => Err(error),
    }
}

/// A folder, never through a link, with all permissions for us.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            permit(parent, name)?;
            openat(parent, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    // What may be read may still not be written. If that fails, so does what needs it.
    let _denied = fchmod(&folder, Mode::RWXU);
    Ok(folder)
}

/// Gives a folder's owner all permissions, never through a link.
fn permit(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    // fchmod(2) does not take such a descriptor, and chmod(2) with the name would follow a link that
    // the folder was exchanged for meanwhile.
    chmod(format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU)
}

fn parent_and_name(path: &Path) -> io::Result<(OwnedFd, CString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(CWD, parent, flags, Mode::empty())?;
    let name = CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok((parent, name))
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
    )
}

#[cfg(test)]
mod tests;
