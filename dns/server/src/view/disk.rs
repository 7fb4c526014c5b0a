//! The newest view on disk, so that a server starts with every global node away.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use api_wire::view::Envelope;

/// A file that holds one view, replaced whole.
#[derive(Debug, Clone)]
pub struct ViewFile {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ViewFileError {
    #[error("{doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a view")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

const FILE_NAME: &str = "steering-view.json";

impl ViewFile {
    /// The file in `dir`, which is made if absent.
    ///
    /// # Errors
    /// If the directory can be neither used nor made.
    pub fn in_dir(dir: &Path) -> Result<Self, ViewFileError> {
        fs::create_dir_all(dir).map_err(|source| ViewFileError::Io {
            doing: "make",
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// What was last written; `None` if nothing ever was. The caller checks it as it checks one
    /// from the network.
    ///
    /// # Errors
    /// If the file cannot be read or is not a view.
    pub fn read(&self) -> Result<Option<Envelope>, ViewFileError> {
        let path = self.path();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| ViewFileError::Malformed { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ViewFileError::Io {
                doing: "read",
                path,
                source,
            }),
        }
    }

    /// How long ago it was written; `None` if that cannot be told.
    pub fn age(&self) -> Option<std::time::Duration> {
        let modified = fs::metadata(self.path()).ok()?.modified().ok()?;
        modified.elapsed().ok()
    }

    /// Replaces the file: after a crash it holds this view or the one before, whole.
    ///
    /// # Errors
    /// If the disk does not take it; the file then holds the view before.
    pub fn write(&self, envelope: &Envelope) -> Result<(), ViewFileError> {
        let bytes = serde_json::to_vec(envelope).expect("views are plain data");
        self.replace(&bytes).map_err(|source| ViewFileError::Io {
            doing: "write",
            path: self.path(),
            source,
        })
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.path()).map_err(|error| error.error)?;
        // The rename itself is durable once the directory is.
        fs::File::open(&self.dir)?.sync_all()
    }
}
