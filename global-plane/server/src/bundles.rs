//! Bundles as files beside the database, named by their digest.
//!
//! A file under its final name is complete, checked and synced: it is written under a temporary
//! name first and renamed. Nothing deletes a bundle yet; a name that was handed out stays good.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use api_types::Digest;
use api_wire::planes::BUNDLE_BYTES_MAX;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

pub struct BundleStore {
    dir: PathBuf,
    uploads: AtomicU64,
    places: Semaphore,
}

/// Bundles written at once. More would only share the same disk, and each holds a file open.
const WRITES_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("a bundle may have at most {BUNDLE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the body's sha256 is {found}, not {declared}")]
    Mismatch { declared: Digest, found: Digest },
    #[error("the bundle's body ended early: {reason}")]
    Body { reason: String },
    #[error("store bundle {digest}")]
    Store {
        digest: Digest,
        #[source]
        source: io::Error,
    },
}

impl BundleStore {
    /// Opens the store, forgetting uploads that a crash cut short.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "part")
            {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self {
            dir,
            uploads: AtomicU64::new(0),
            places: Semaphore::new(WRITES_MAX),
        })
    }

    /// Bytes of a bundle that is here.
    pub async fn size(&self, digest: Digest) -> Option<u64> {
        let found = tokio::fs::metadata(self.path(digest)).await.ok()?;
        Some(found.len())
    }

    /// A bundle's file and its size, if it is here.
    ///
    /// # Errors
    /// If it is here and cannot be opened.
    pub async fn read(&self, digest: Digest) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path(digest)).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a body under its digest and returns its size. Once this returns, the bundle survives
    /// a power cut. Cancel safe: what was written is removed.
    ///
    /// # Errors
    /// [`ReceiveError`] says whose fault it is; nothing is stored then.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        digest: Digest,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<u64, ReceiveError> {
        let _place = self
            .places
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let upload = self.uploads.fetch_add(1, Ordering::Relaxed);
        let part = Part(self.dir.join(format!("{digest}.{upload}.part")));
        let store = |source| ReceiveError::Store { digest, source };

        let mut file = File::create(&part.0).await.map_err(store)?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| ReceiveError::Body {
                reason: error.to_string(),
            })?;
            size += chunk.len() as u64;
            if size > BUNDLE_BYTES_MAX {
                return Err(ReceiveError::TooLarge);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(store)?;
        }
        let found = Digest(hash.finalize().into());
        if found != digest {
            return Err(ReceiveError::Mismatch {
                declared: digest,
                found,
            });
        }
        file.flush().await.map_err(store)?;
        file.sync_all().await.map_err(store)?;
        tokio::fs::rename(&part.0, self.path(digest))
            .await
            .map_err(store)?;
        sync_directory(&self.dir).await.map_err(store)?;
        Ok(size)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }
}

/// Makes a rename in `dir` durable.
async fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir).await?.sync_all().await
}

/// A file being written; gone when dropped, unless it was renamed.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "an unfinished upload stays until restart");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    fn digest_of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    fn body(chunks: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::iter(chunks.to_vec()).map(|chunk| Ok(Bytes::from_static(chunk)))
    }

    fn names(dir: &Path) -> Vec<String> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn only_whole_and_true_bundles_get_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = BundleStore::open(dir.path().to_owned()).unwrap();
        let digest = digest_of(b"hello world");

        let wrong = store.receive(digest, body(&[b"hello"])).await;
        assert!(
            matches!(wrong, Err(ReceiveError::Mismatch { .. })),
            "{wrong:?}"
        );
        let broken = stream::iter([Ok(Bytes::from_static(b"hello")), Err("reset")]);
        let broken = store.receive(digest, broken).await;
        assert!(
            matches!(broken, Err(ReceiveError::Body { .. })),
            "{broken:?}"
        );
        let endless = stream::repeat(Bytes::from(vec![0; 1 << 20])).map(Ok::<_, Infallible>);
        let endless = store.receive(digest, endless).await;
        assert!(
            matches!(endless, Err(ReceiveError::TooLarge)),
            "{endless:?}"
        );
        assert_eq!(names(dir.path()), Vec::<String>::new());
        assert_eq!(store.size(digest).await, None);

        let size = store
            .receive(digest, body(&[b"hello ", b"world"]))
            .await
            .unwrap();
        assert_eq!((size, store.size(digest).await), (11, Some(11)));
        assert_eq!(names(dir.path()), [digest.to_string()]);
    }

    #[tokio::test]
    async fn uploads_cut_short_by_a_crash_are_forgotten_at_open() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ab.0.part"), "x").unwrap();
        BundleStore::open(dir.path().to_owned()).unwrap();
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}
