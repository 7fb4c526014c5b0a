//! Bundles as files beside the database, named by their digest.
//!
//! A file under its final name is complete, checked and synced: it is written under a temporary
//! name first and renamed. Disks forget, so a file is compared with its name when it is first read and
//! whenever it was changed since. One that differs is removed: a member may have another, and to deploy
//! the bundle again stores it anew. Nothing else deletes a bundle yet.

use std::collections::BTreeMap;
use std::io::{self, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// The files that were compared with their names, as they were then: as many as there are.
    sound: Mutex<BTreeMap<Digest, Stamp>>,
}

/// Differs whenever a file's content was written to, or another put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &std::fs::Metadata) -> Self {
        Self {
            inode: file.ino(),
            size: file.len(),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
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
            sound: Mutex::default(),
        })
    }

    /// Bytes of a bundle that is here and sound.
    pub async fn size(&self, digest: Digest) -> Option<u64> {
        let (_, size) = self.read(digest).await.ok()??;
        Some(size)
    }

    /// A bundle's file and its size, if it is here and sound.
    ///
    /// # Errors
    /// If it is here and cannot be read.
    pub async fn read(&self, digest: Digest) -> io::Result<Option<(File, u64)>> {
        let file = match File::open(self.path(digest)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let found = file.metadata().await?;
        let stamp = Stamp::of(&found);
        if self.sound().get(&digest) == Some(&stamp) {
            return Ok(Some((file, stamp.size)));
        }
        let mut file = file.into_std().await;
        let compared = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            io::copy(&mut file, &mut hash)?;
            file.rewind()?;
            Ok::<_, io::Error>((Digest(hash.finalize().into()) == digest, file))
        });
        let (is_sound, file) = compared.await.expect("reading does not panic")?;
        if is_sound {
            self.sound().insert(digest, stamp);
            return Ok(Some((File::from_std(file), stamp.size)));
        }
        metrics::counter!("tradewind_global_bundles_damaged_total").increment(1);
        tracing::error!(%digest, "a bundle is damaged on disk, removed: deploy it again unless a member has it");
        self.remove(digest, stamp).await?;
        Ok(None)
    }

    /// Removes a damaged file, unless another has taken its place meanwhile.
    async fn remove(&self, digest: Digest, damaged: Stamp) -> io::Result<()> {
        let path = self.path(digest);
        let found = match tokio::fs::metadata(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        if Stamp::of(&found) == damaged {
            tokio::fs::remove_file(&path).await?;
        }
        Ok(())
    }

    fn sound(&self) -> MutexGuard<'_, BTreeMap<Digest, Stamp>> {
        self.sound.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Renamed: its stamp is another than while it was written.
        if let Ok(kept) = tokio::fs::metadata(self.path(digest)).await {
            self.sound().insert(digest, Stamp::of(&kept));
        }
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
    async fn a_file_that_is_not_what_its_name_says_is_removed_and_may_come_again() {
        let dir = tempfile::tempdir().unwrap();
        let digest = digest_of(b"hello world");
        for damage in ["hello", "hello World", ""] {
            let store = BundleStore::open(dir.path().to_owned()).unwrap();
            let whole = body(&[b"hello world"]);
            store.receive(digest, whole).await.unwrap();
            assert_eq!(store.size(digest).await, Some(11), "before {damage:?}");
            let path = dir.path().join(digest.to_string());
            let before = Stamp::of(&std::fs::metadata(&path).unwrap());
            // Some clocks of file systems are coarse.
            while Stamp::of(&std::fs::metadata(&path).unwrap()) == before {
                std::fs::write(&path, damage).unwrap();
            }
            assert_eq!(store.size(digest).await, None, "{damage:?}");
            assert_eq!(names(dir.path()), Vec::<String>::new(), "{damage:?}");
        }
        // Damaged while nobody looked.
        let path = dir.path().join(digest.to_string());
        std::fs::write(&path, "hello World").unwrap();
        let store = BundleStore::open(dir.path().to_owned()).unwrap();
        assert!(store.read(digest).await.unwrap().is_none());
        std::fs::write(&path, "hello world").unwrap();
        assert!(store.read(digest).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn uploads_cut_short_by_a_crash_are_forgotten_at_open() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ab.0.part"), "x").unwrap();
        BundleStore::open(dir.path().to_owned()).unwrap();
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}
