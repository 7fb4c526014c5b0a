//! Checking a bundle and unpacking it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
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
    #[error("entry {path:?} is not in a folder of the bundle")]
    NoFolder { path: String },
    #[error("entry {path:?} is out of order or appears twice")]
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
/// The whole is hashed first and only then read as an archive. Nobody may write to what is below
/// `dest`: code that changes under those who run it is a fault. Blocking. Unpack beside the final
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
    check(&mut bundle, expected)?;
    let mut writing = Writing::new(dest)?;
    let manifest = read(bundle, &mut writing)?;
    writing.seal()?;
    Ok(manifest)
}

/// Whether `folder` holds what [`unpack`] makes of the bundle, and nothing else but files named
/// `beside` at its top. Blocking.
///
/// # Errors
/// As [`unpack`], about the bundle. A file of the folder that cannot be read is a difference.
pub fn is_unpacked(
    mut bundle: impl Read + Seek,
    expected: &Digest,
    folder: &Path,
    beside: &[&str],
) -> Result<bool, UnpackError> {
    check(&mut bundle, expected)?;
    let top = beside.iter().map(|name| (*name).to_owned()).collect();
    let mut comparing = Comparing {
        folder,
        names: BTreeMap::from([(String::new(), top)]),
        is_same: true,
    };
    read(bundle, &mut comparing)?;
    Ok(comparing.is_same && comparing.has_no_more())
}

/// What is done with the entries of a bundle, each of which has passed every check.
trait Entries {
    fn folder(&mut self, path: &str) -> Result<(), UnpackError>;
    fn file(
        &mut self,
        path: &str,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError>;
    fn link(&mut self, path: &str, target: &str) -> Result<(), UnpackError>;
}

/// Checks that it is the bundle expected, and goes back to its beginning.
fn check(bundle: &mut (impl Read + Seek), expected: &Digest) -> Result<(), UnpackError> {
    let read = |source| UnpackError::Read { source };
    bundle.seek(SeekFrom::Start(0)).map_err(read)?;
    verify(bundle, expected)?;
    bundle.seek(SeekFrom::Start(0)).map_err(read)?;
    Ok(())
}

/// Checks the entries of a bundle and gives them to `to`, the manifest first.
fn read(bundle: impl Read, to: &mut impl Entries) -> Result<Manifest, UnpackError> {
    let read = |source| UnpackError::Read { source };
    let unzipped = GzDecoder::new(bundle).take(STREAM_BYTES_MAX);
    let mut archive = Archive::new(unzipped);
    // Raw: what extends a name is read here, within bounds, rather than by the library.
    let entries = archive.entries().map_err(read)?.raw(true);
    let mut bounds = Bounds::default();
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
            to.file(MANIFEST_NAME, false, &mut json.as_slice())?;
            continue;
        }
        bounds.admit(&path, entry.size())?;
        match kind {
            EntryType::Directory => {
                to.folder(&path)?;
                bounds.folders.insert(path);
            }
            EntryType::Regular => {
                let mode = entry.header().mode().map_err(read)?;
                to.file(&path, mode & 0o100 != 0, &mut entry)?;
            }
            EntryType::Symlink => {
                let target = match long_link.take() {
                    Some(target) => target,
                    None => text(&entry.link_name_bytes().unwrap_or_default())?,
                };
                path::check_link(&path, &target)?;
                to.link(&path, &target)?;
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

/// What an entry may be, by those before it.
struct Bounds {
    /// Folders so far. An entry's parent must be one, so nothing is ever written through a link.
    folders: BTreeSet<String>,
    last: String,
    entries: usize,
    bytes_left: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            folders: BTreeSet::new(),
            last: String::new(),
            entries: 0,
            bytes_left: UNPACKED_BYTES_MAX,
        }
    }
}

impl Bounds {
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
}

/// Modes of what is unpacked: for everybody to read, for nobody to write.
const FOLDER_MODE: u32 = 0o555;
const FILE_MODE: u32 = 0o444;
const PROGRAM_MODE: u32 = 0o555;

struct Writing<'a> {
    dest: &'a Path,
    folders: Vec<PathBuf>,
}

impl<'a> Writing<'a> {
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
            folders: Vec::new(),
        })
    }

    /// Once all is in them.
    fn seal(self) -> Result<(), UnpackError> {
        for path in self.folders {
            fs::set_permissions(&path, fs::Permissions::from_mode(FOLDER_MODE))
                .map_err(|source| UnpackError::Write { path, source })?;
        }
        Ok(())
    }
}

impl Entries for Writing<'_> {
    fn folder(&mut self, path: &str) -> Result<(), UnpackError> {
        let at = self.dest.join(path);
        match fs::DirBuilder::new().mode(0o755).create(&at) {
            Ok(()) => {
                self.folders.push(at);
                Ok(())
            }
            Err(source) => Err(UnpackError::Write { path: at, source }),
        }
    }

    fn file(
        &mut self,
        path: &str,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let at = self.dest.join(path);
        let write = |source| UnpackError::Write {
            path: at.clone(),
            source,
        };
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if executable { PROGRAM_MODE } else { FILE_MODE })
            .open(&at)
            .map_err(write)?;
        io::copy(content, &mut file).map_err(write)?;
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), UnpackError> {
        let at = self.dest.join(path);
        symlink(target, &at).map_err(|source| UnpackError::Write { path: at, source })
    }
}

struct Comparing<'a> {
    folder: &'a Path,
    /// The names in each folder of the bundle; the topmost is "".
    names: BTreeMap<String, BTreeSet<String>>,
    is_same: bool,
}

impl Comparing<'_> {
    fn expect(&mut self, path: &str) -> PathBuf {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let names = self.names.entry(parent.to_owned()).or_default();
        names.insert(name.to_owned());
        self.folder.join(path)
    }

    /// Whether each folder has no other names than the bundle's. The first one is the answer, however
    /// many a function has made.
    fn has_no_more(&self) -> bool {
        self.names.iter().all(|(folder, names)| {
            let Ok(mut entries) = fs::read_dir(self.folder.join(folder)) else {
                return false;
            };
            entries.all(|entry| {
                entry.is_ok_and(|entry| {
                    (entry.file_name().to_str()).is_some_and(|name| names.contains(name))
                })
            })
        })
    }
}

impl Entries for Comparing<'_> {
    fn folder(&mut self, path: &str) -> Result<(), UnpackError> {
        let at = self.expect(path);
        self.names.entry(path.to_owned()).or_default();
        self.is_same &= fs::symlink_metadata(at).is_ok_and(|found| found.is_dir());
        Ok(())
    }

    fn file(
        &mut self,
        path: &str,
        executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let at = self.expect(path);
        if self.is_same {
            let is_like_it = fs::symlink_metadata(&at).is_ok_and(|found| {
                found.is_file() && (found.permissions().mode() & 0o100 != 0) == executable
            });
            self.is_same = is_like_it && has_content(&at, content)?;
        }
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), UnpackError> {
        let at = self.expect(path);
        self.is_same &= fs::read_link(at).is_ok_and(|found| found == Path::new(target));
        Ok(())
    }
}

/// Whether a file has exactly this content.
fn has_content(path: &Path, content: &mut dyn Read) -> Result<bool, UnpackError> {
    let Ok(mut file) = File::open(path) else {
        return Ok(false);
    };
    let (mut wanted, mut found) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = match content.read(&mut wanted) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(UnpackError::Read { source }),
        };
        if read == 0 {
            return Ok(file.read(&mut found).is_ok_and(|more| more == 0));
        }
        if file.read_exact(&mut found[..read]).is_err() || found[..read] != wanted[..read] {
            return Ok(false);
        }
    }
}
