//! The form in which a function's code travels: a gzipped tar that depends on nothing but its files.
//!
//! `manifest.json` comes first, then `function/` (the function's own files) and `python/` (installed
//! packages), by path. Times, owners and modes are fixed, so equal files give equal bytes and equal
//! digests wherever they are packed. Reading is strict: whatever [`Tree::pack`] would not have
//! written is refused, after the digest of the whole has been checked and before a byte is used.
//!
//! It refuses to know how files are gathered, where bundles are kept and how they are run.

pub mod manifest;
pub mod pack;
mod path;
pub mod unpack;

pub use manifest::{Manifest, ManifestError, PlatformMismatch};
pub use pack::{PackError, Packed, Tree, TreeError};
pub use path::PathError;
pub use unpack::{UnpackError, digest, is_unpacked, unpack, verify};

/// Bytes a bundle may have packed: it is held by every global node and sent to every region.
pub const PACKED_BYTES_MAX: u64 = 64 << 20;

/// Bytes its files may have: eight times the packed size is more than code compresses to, and far
/// less than what a bomb needs to fill a region's disk.
pub const UNPACKED_BYTES_MAX: u64 = 512 << 20;

/// Files, folders and links it may have: a large `node_modules` has 30,000, and each costs the
/// region an inode.
pub const ENTRIES_MAX: usize = 50_000;
