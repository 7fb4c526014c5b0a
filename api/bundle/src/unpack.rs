//! Checking a bundle and unpacking it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use api_types::Digest;
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType};

use crate::manifest::{MANIFEST_BYTES_MAX, MANIFEST_NAME};
use crate::path::{self, PathError};
use crate::{ENTRIES_MAX, Manifest, ManifestError, PACKED_BYTES_MAX, UNPACKED_BYTES_MAX};

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("read the bundle")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error(
        "the bundle has more than {} MiB packed",
        PACKED_BYTES_MAX >> 20
    )]
    Packed,
    #[error("the bundle's sha256 is {found}, expected {expected}")]
    Digest { found: Digest, expected: Digest },
    #[error("the bundle does not begin with {MANIFEST_NAME}")]
    NoManifest,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("an entry's path or link is not UTF-8")]
    Name,
    #[error("entry {path:?} is a {kind}; only files, folders and links are allowed")]
    Kind { path: String, kind: String },
    #[error("entry {path:?} lies in no folder of the bundle")]
    NoFolder { path: String },
    #[error("entry {path:?} is not in order, or there twice")]
    Order { path: String },
    #[error("the bundle has more than {ENTRIES_MAX} entries")]
    Entries,
    #[error("the bundle's files have more than {} MiB", UNPACKED_BYTES_MAX >> 20)]
    Unpacked,
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The SHA-256 and size of a bundle, reading no more than a bundle may have.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn digest(bundle: &mut impl Read) -> Result<(Digest, u64), UnpackError> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let read = match bundle.read(&mut chunk) {
            Ok(0) => return Ok((Digest(hash.finalize().into()), size)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(UnpackError::Read { source }),
        };
        size += read as u64;
        if size > PACKED_BYTES_MAX {
            return Err(UnpackError::Packed);
        }
        hash.update(&chunk[..read]);
    }
}

/// Checks that a bundle is the one expected; returns its size in bytes.
///
/// # Errors
/// [`UnpackError::Digest`] if it is another.
pub fn verify(bundle: &mut impl Read, expected: &Digest) -> Result<u64, UnpackError> {
    let (found, size) = digest(bundle)?;
    if found != *expected {
        return Err(UnpackError::Digest {
            found,
            expected: *expected,
        });
    }
    Ok(size)
}

/// Unpacks a bundle into `dest`, which is made and must not exist or be empty.
///
/// The whole is hashed first and only then read as an archive. Blocking. Unpack beside the final
/// place and rename once this returns: on an error `dest` holds what was written so far, and
/// nothing is synced to disk.
///
/// # Errors
/// If the digest differs, a bound is exceeded, or there is an entry that [`crate::Tree::pack`]
/// would not have written.
pub fn unpack(
    mut bundle: impl Read + Seek,
    expected: &Digest,
    dest: &Path,
) -> Result<Manifest, UnpackError> {
    let read = |source| UnpackError::Read { source };
    bundle.seek(SeekFrom::Start(0)).map_err(read)?;
    verify(&mut bundle, expected)?;
    bundle.seek(SeekFrom::Start(0)).map_err(read)?;

    let unzipped = GzDecoder::new(bundle).take(STREAM_BYTES_MAX);
    let mut archive = Archive::new(unzipped);
    // Raw: what extends a name is read here, within bounds, rather than by the library.
    let entries = archive.entries().map_err(read)?.raw(true);
    let mut unpacking = Unpacking::new(dest)?;
    let mut manifest = None;
    let mut long_path = None;
    let mut long_link = None;
    for entry in entries {
        let mut entry = entry.map_err(read)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                long_path = Some(long_text(&mut entry)?);
                continue;
            }
            EntryType::GNULongLink => {
                long_link = Some(long_text(&mut entry)?);
                continue;
            }
            _ => {}
        }
        let path = match long_path.take() {
            Some(path) => path,
            None => text(&entry.path_bytes())?,
        };
        if manifest.is_none() {
            let json = manifest_json(&path, kind, &mut entry)?;
            manifest = Some(Manifest::from_json(&json)?);
            unpacking.file(MANIFEST_NAME, false, &mut json.as_slice())?;
            continue;
        }
        unpacking.admit(&path, entry.size())?;
        match kind {
            EntryType::Directory => unpacking.folder(&path)?,
            EntryType::Regular => {
                let mode = entry.header().mode().map_err(read)?;
                unpacking.file(&path, mode & 0o100 != 0, &mut entry)?;
            }
            EntryType::Symlink => {
                let target = match long_link.take() {
                    Some(target) => target,
                    None => text(&entry.link_name_bytes().unwrap_or_default())?,
                };
                unpacking.link(&path, &target)?;
            }
            other => {
                return Err(UnpackError::Kind {
                    path,
                    kind: format!("{other:?}").to_lowercase(),
                });
            }
        }
    }
    manifest.ok_or(UnpackError::NoManifest)
}

/// What a stream of entries that are within bounds can have: their bytes, and for each a header, a
/// long name, a long link and padding. Whatever lies behind is not read.
const STREAM_BYTES_MAX: u64 = UNPACKED_BYTES_MAX + ENTRIES_MAX as u64 * (8 << 10);

/// A long name or link; longer ones are refused by the checks of paths anyway.
const LONG_TEXT_BYTES_MAX: u64 = 4096;

fn long_text(entry: &mut impl Read) -> Result<String, UnpackError> {
    let mut bytes = Vec::new();
    entry
        .take(LONG_TEXT_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| UnpackError::Read { source })?;
    text(&bytes)
}

/// A header's text, up to its NUL.
fn text(bytes: &[u8]) -> Result<String, UnpackError> {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = &bytes[..end.unwrap_or(bytes.len())];
    String::from_utf8(bytes.to_vec()).map_err(|_| UnpackError::Name)
}

fn manifest_json(
    path: &str,
    kind: EntryType,
    entry: &mut impl Read,
) -> Result<Vec<u8>, UnpackError> {
    if path != MANIFEST_NAME || kind != EntryType::Regular {
        return Err(UnpackError::NoManifest);
    }
    let mut json = Vec::new();
    entry
        .take(MANIFEST_BYTES_MAX)
        .read_to_end(&mut json)
        .map_err(|source| UnpackError::Read { source })?;
    Ok(json)
}

struct Unpacking<'a> {
    dest: &'a Path,
    /// Folders made so far. An entry's parent must be one, so nothing is ever written through a
    /// link.
    folders: BTreeSet<String>,
    last: String,
    entries: usize,
    bytes_left: u64,
}

impl<'a> Unpacking<'a> {
    fn new(dest: &'a Path) -> Result<Self, UnpackError> {
        let failed = |source| UnpackError::Write {
            path: dest.to_owned(),
            source,
        };
        fs::create_dir_all(dest).map_err(failed)?;
        if fs::read_dir(dest).map_err(failed)?.next().is_some() {
            return Err(failed(io::ErrorKind::DirectoryNotEmpty.into()));
        }
        Ok(Self {
            dest,
            folders: BTreeSet::new(),
            last: String::new(),
            entries: 0,
            bytes_left: UNPACKED_BYTES_MAX,
        })
    }

    /// The checks that every entry must pass before anything of it is used.
    fn admit(&mut self, path: &str, size: u64) -> Result<(), UnpackError> {
        path::check(path)?;
        if path <= self.last.as_str() {
            return Err(UnpackError::Order {
                path: path.to_owned(),
            });
        }
        path.clone_into(&mut self.last);
        if path::parent(path).is_some_and(|parent| !self.folders.contains(parent)) {
            return Err(UnpackError::NoFolder {
                path: path.to_owned(),
            });
        }
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        self.bytes_left = self
            .bytes_left
            .checked_sub(size)
            .ok_or(UnpackError::Unpacked)?;
        Ok(())
    }

    fn folder(&mut self, path: &str) -> Result<(), UnpackError> {
        let at = self.dest.join(path);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&at)
            .map_err(|source| UnpackError::Write { path: at, source })?;
        self.folders.insert(path.to_owned());
        Ok(())
    }

    fn file(
        &self,
        path: &str,
        executable: bool,
        content: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let at = self.dest.join(path);
        let write = |source| UnpackError::Write {
            path: at.clone(),
            source,
        };
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if executable { 0o755 } else { 0o644 })
            .open(&at)
            .map_err(write)?;
        io::copy(content, &mut file).map_err(write)?;
        Ok(())
    }

    fn link(&self, path: &str, target: &str) -> Result<(), UnpackError> {
        path::check_link(path, target)?;
        let at = self.dest.join(path);
        symlink(target, &at).map_err(|source| UnpackError::Write { path: at, source })
    }
}
