//! Making the socket, and saying that it is there (Fn contract 9.2).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Bound first; the name that the platform watches for is a link to it.
const SOCKET_NAME: &str = "phonylsnr.sock";

#[derive(Debug, thiserror::Error)]
#[error("{what} {path}")]
pub struct ListenError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Listens beside `link` and then makes `link`, which is the ready signal.
pub(crate) fn listen(link: &Path) -> Result<UnixListener, ListenError> {
    let socket = link.with_file_name(SOCKET_NAME);
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ListenError { what, path, source }
    };
    // The directory should be fresh, but a function tried by hand leaves these behind.
    for stale in [link, &socket] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", stale)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let listener = UnixListener::bind(&socket).map_err(failed("bind", &socket))?;
    // The platform may be another user.
    fs::set_permissions(&socket, Permissions::from_mode(0o666))
        .map_err(failed("make accessible", &socket))?;
    symlink(SOCKET_NAME, link).map_err(failed("link", link))?;
    Ok(listener)
}
