//! Learning that an instance listens (Fn contract 9.2).

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio_util::sync::CancellationToken;

use crate::StartError;
use crate::start::InitFailure;

/// The link whose creation is the ready signal.
pub const READY_LINK: &str = "lsnr.sock";

/// Several events of the longest name; more are read in several turns.
const EVENTS_BYTES: usize = 4096;

/// A socket directory that is being watched.
#[derive(Debug)]
pub struct Readiness {
    sockets: PathBuf,
    events: EventStream<[u8; EVENTS_BYTES]>,
}

/// Watches the directory from now on.
///
/// # Errors
/// If the user has no inotify instances left or there is no such directory.
pub fn watch(sockets: PathBuf) -> io::Result<Readiness> {
    let inotify = Inotify::init()?;
    inotify
        .watches()
        .add(&sockets, WatchMask::CREATE | WatchMask::MOVED_TO)?;
    let events = inotify.into_event_stream([0; EVENTS_BYTES])?;
    Ok(Readiness { sockets, events })
}

impl Readiness {
    /// The path of the socket, once the instance listens on it.
    ///
    /// # Errors
    /// [`StartError::Failed`] if it made a bad link, or `gone` was cancelled first.
    pub async fn until_ready(mut self, gone: &CancellationToken) -> Result<PathBuf, StartError> {
        let failed = |source| StartError::Failed { source };
        // An instance that nobody here started may have been faster than the watch.
        if self.sockets.join(READY_LINK).symlink_metadata().is_ok() {
            return resolve(&self.sockets).map_err(failed);
        }
        loop {
            let event = tokio::select! {
                () = gone.cancelled() => return Err(failed(InitFailure::Exited)),
                event = self.events.next() => event,
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(_)) | None => return Err(failed(InitFailure::NoDirectory)),
            };
            // An overflow hides names, so the link is looked for.
            if event.name.as_deref() == Some(OsStr::new(READY_LINK))
                || event.mask.contains(EventMask::Q_OVERFLOW)
                    && self.sockets.join(READY_LINK).is_symlink()
            {
                return resolve(&self.sockets).map_err(failed);
            }
            if event.mask.contains(EventMask::IGNORED) {
                return Err(failed(InitFailure::NoDirectory));
            }
        }
    }
}

/// The link must be a name in its own directory: it has to mean the same on either side of a mount.
/// Calls go to the socket it means now, whatever becomes of the link.
fn resolve(sockets: &Path) -> Result<PathBuf, InitFailure> {
    let target =
        std::fs::read_link(sockets.join(READY_LINK)).map_err(|_| InitFailure::NotASymlink)?;
    let mut parts = target.components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == target)
    {
        return Err(InitFailure::NotAName { target });
    }
    let socket = sockets.join(&target);
    let is_socket =
        std::fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Err(InitFailure::NotASocket { target });
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_link_to_a_socket_in_its_own_directory_counts() {
        let outside = tempfile::tempdir().unwrap();
        let _other = UnixListener::bind(outside.path().join("other.sock")).unwrap();
        let absolute = outside.path().join("other.sock");
        for (case, target, want) in [
            ("a name", "phonylsnr.sock", None),
            (
                "here, spelt as a path",
                "./phonylsnr.sock",
                Some("not a name"),
            ),
            ("elsewhere", absolute.to_str().unwrap(), Some("not a name")),
            ("the parent", "..", Some("not a name")),
            ("nothing", "nothing", Some("not a socket")),
            ("a file", "file", Some("not a socket")),
            ("a link to a socket", "link", Some("not a socket")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let _listener = UnixListener::bind(dir.path().join("phonylsnr.sock")).unwrap();
            std::fs::write(dir.path().join("file"), "").unwrap();
            symlink("phonylsnr.sock", dir.path().join("link")).unwrap();
            symlink(target, dir.path().join(READY_LINK)).unwrap();
            match (resolve(dir.path()), want) {
                (Ok(socket), None) => assert_eq!(socket, dir.path().join(target), "{case}"),
                (Err(error), Some(want)) => {
                    assert!(error.to_string().contains(want), "{case}: {error}")
                }
                (got, _) => panic!("{case}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_socket_without_a_link_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join(READY_LINK)).unwrap();
        assert!(matches!(resolve(dir.path()), Err(InitFailure::NotASymlink)));
    }
}
