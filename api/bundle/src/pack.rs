//! Gathering files and packing them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use api_types::Digest;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::manifest::{MANIFEST_BYTES_MAX, MANIFEST_NAME};
use crate::path::{self, PathError};
use crate::{ENTRIES_MAX, Manifest, PACKED_BYTES_MAX, UNPACKED_BYTES_MAX};

/// The files of a bundle-to-be by their path in it, as `function/func.py`.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Folder,
    File { from: Content, executable: bool },
    Link { target: String },
}

#[derive(Debug, Clone)]
enum Content {
    Disk(PathBuf),
    Bytes(Vec<u8>),
}

/// A packed bundle's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the packed bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not UTF-8, so it has no name in a bundle")]
    Name { path: PathBuf },
    #[error("{path} is neither a file, a folder nor a link; leave it out or remove it")]
    Kind { path: PathBuf },
    #[error("{from} cannot be in a bundle")]
    Path {
        from: PathBuf,
        #[source]
        source: PathError,
    },
    #[error("more than {ENTRIES_MAX} files; leave out what the function does not need")]
    Entries,
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} changed while it was packed; try again")]
    Changed { path: PathBuf },
    #[error("write the bundle")]
    Write {
        #[source]
        source: io::Error,
    },
    #[error("the manifest has {bytes} bytes, {MANIFEST_BYTES_MAX} are allowed")]
    Manifest { bytes: u64 },
    #[error(
        "the files have more than {} MiB; leave out what the function does not need",
        UNPACKED_BYTES_MAX >> 20
    )]
    Unpacked,
    #[error(
        "the bundle has {} MiB packed, {} are allowed; leave out what the function does not need",
        bytes >> 20,
        PACKED_BYTES_MAX >> 20
    )]
    Packed { bytes: u64 },
}

impl Tree {
    /// Adds a folder with what is below it under `at`, as `function`. `keep` is asked for every
    /// path below, relative to `folder`, with whether it is a folder; what it refuses is left out,
    /// a folder with all below it.
    ///
    /// # Errors
    /// On what cannot be read, is a socket, pipe or device, or is a link out of the bundle.
    pub fn add_folder(
        &mut self,
        at: &str,
        folder: &Path,
        keep: &impl Fn(&Path, bool) -> bool,
    ) -> Result<(), TreeError> {
        self.put(at.to_owned(), folder, Entry::Folder)?;
        self.walk(at, folder, Path::new(""), keep)
    }

    fn walk(
        &mut self,
        at: &str,
        root: &Path,
        below: &Path,
        keep: &impl Fn(&Path, bool) -> bool,
    ) -> Result<(), TreeError> {
        let folder = root.join(below);
        let read = |source| TreeError::Read {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            let kind = entry.file_type().map_err(read)?;
            let from = entry.path();
            let relative = below.join(entry.file_name());
            if !keep(&relative, kind.is_dir()) {
                continue;
            }
            let name = relative
                .to_str()
                .ok_or_else(|| TreeError::Name { path: from.clone() })?;
            let path = format!("{at}/{name}");
            if kind.is_dir() {
                self.put(path, &from, Entry::Folder)?;
                self.walk(at, root, &relative, keep)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&from).map_err(read)?;
                let target = target
                    .to_str()
                    .ok_or_else(|| TreeError::Name { path: from.clone() })?
                    .to_owned();
                path::check_link(&path, &target).map_err(|source| TreeError::Path {
                    from: from.clone(),
                    source,
                })?;
                self.put(path, &from, Entry::Link { target })?;
            } else if kind.is_file() {
                let mode = entry.metadata().map_err(read)?.permissions().mode();
                let file = Entry::File {
                    from: Content::Disk(from.clone()),
                    executable: mode & 0o100 != 0,
                };
                self.put(path, &from, file)?;
            } else {
                return Err(TreeError::Kind { path: from });
            }
        }
        Ok(())
    }

    /// Adds one file, with the folders above it.
    ///
    /// # Errors
    /// If `at` is no path for a bundle.
    pub fn add_file(&mut self, at: &str, from: &Path, executable: bool) -> Result<(), TreeError> {
        let content = Content::Disk(from.to_owned());
        self.add_content(at, from, content, executable)
    }

    /// Adds a file of these bytes, in place of one that is there.
    ///
    /// # Errors
    /// If `at` is no path for a bundle.
    pub fn add_bytes(
        &mut self,
        at: &str,
        bytes: Vec<u8>,
        executable: bool,
    ) -> Result<(), TreeError> {
        self.add_content(at, Path::new(at), Content::Bytes(bytes), executable)
    }

    fn add_content(
        &mut self,
        at: &str,
        named: &Path,
        from: Content,
        executable: bool,
    ) -> Result<(), TreeError> {
        let mut above = at;
        while let Some(parent) = path::parent(above) {
            if !self.entries.contains_key(parent) {
                self.put(parent.to_owned(), named, Entry::Folder)?;
            }
            above = parent;
        }
        self.put(at.to_owned(), named, Entry::File { from, executable })
    }

    fn put(&mut self, path: String, from: &Path, entry: Entry) -> Result<(), TreeError> {
        path::check(&path).map_err(|source| TreeError::Path {
            from: from.to_owned(),
            source,
        })?;
        self.entries.insert(path, entry);
        if self.entries.len() > ENTRIES_MAX {
            return Err(TreeError::Entries);
        }
        Ok(())
    }

    /// Whether a file or link is at `path`.
    #[must_use]
    pub fn has_file(&self, path: &str) -> bool {
        matches!(
            self.entries.get(path),
            Some(Entry::File { .. } | Entry::Link { .. })
        )
    }

    /// Paths of all files and links, ascending.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let is_file = |entry: &Entry| !matches!(entry, Entry::Folder);
        self.entries
            .iter()
            .filter(move |(_, entry)| is_file(entry))
            .map(|(path, _)| path.as_str())
    }

    /// Writes the bundle. The same files and manifest give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be read or a bound is exceeded; what was written is then of no use.
    pub fn pack(&self, manifest: &Manifest, out: impl Write) -> Result<Packed, PackError> {
        let write = |source| PackError::Write { source };
        let gzip = GzBuilder::new().write(Measured::new(out), Compression::default());
        let mut tar = Builder::new(gzip);
        let json = manifest.to_json();
        if json.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(PackError::Manifest {
                bytes: json.len() as u64,
            });
        }
        let mut header = header(EntryType::Regular, 0o644, json.len() as u64);
        tar.append_data(&mut header, MANIFEST_NAME, json.as_slice())
            .map_err(write)?;
        let mut left = UNPACKED_BYTES_MAX;
        for (path, entry) in &self.entries {
            append(&mut tar, path, entry, &mut left)?;
        }
        let measured = tar
            .into_inner()
            .and_then(flate2::write::GzEncoder::finish)
            .map_err(write)?;
        let packed = measured.packed().map_err(write)?;
        if packed.size > PACKED_BYTES_MAX {
            return Err(PackError::Packed { bytes: packed.size });
        }
        Ok(packed)
    }
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    path: &str,
    entry: &Entry,
    left: &mut u64,
) -> Result<(), PackError> {
    let write = |source| PackError::Write { source };
    match entry {
        Entry::Folder => {
            let mut header = header(EntryType::Directory, 0o755, 0);
            tar.append_data(&mut header, path, io::empty())
                .map_err(write)
        }
        Entry::Link { target } => {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, path, target).map_err(write)
        }
        Entry::File { from, executable } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            let bytes = match from {
                Content::Bytes(bytes) => bytes.clone(),
                Content::Disk(from) => read(from, *left)?,
            };
            let size = bytes.len() as u64;
            *left = left.checked_sub(size).ok_or(PackError::Unpacked)?;
            let mut header = header(EntryType::Regular, mode, size);
            tar.append_data(&mut header, path, bytes.as_slice())
                .map_err(write)
        }
    }
}

/// A file's bytes, which are all that a file that grows meanwhile can add.
fn read(from: &Path, bytes_max: u64) -> Result<Vec<u8>, PackError> {
    let failed = |source| PackError::Read {
        path: from.to_owned(),
        source,
    };
    let file = fs::File::open(from).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > bytes_max {
        return Err(PackError::Unpacked);
    }
    let mut bytes = Vec::new();
    file.take(size + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 != size {
        return Err(PackError::Changed {
            path: from.to_owned(),
        });
    }
    Ok(bytes)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Hashes and counts what passes through.
struct Measured<W> {
    out: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Measured<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hash: Sha256::new(),
            size: 0,
        }
    }

    fn packed(mut self) -> io::Result<Packed> {
        self.out.flush()?;
        Ok(Packed {
            digest: Digest(self.hash.finalize().into()),
            size: self.size,
        })
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
