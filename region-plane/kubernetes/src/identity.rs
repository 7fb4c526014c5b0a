//! Who a gateway is to runners and to the operator: a name that its data folder keeps, and how often
//! it has been started.
//!
//! By these a runner knows the gateway that was killed from the one that follows it, and gives the
//! follower its pods at once. The folder is what makes two processes the same gateway: one has it at
//! a time, it is there again after a container was restarted, and a gateway with another folder is
//! another gateway. A count, since a clock may be set back.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

const FILE: &str = "gateway.json";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The same each time a gateway with this folder is started.
    pub name: String,
    /// Larger each time. At least one.
    pub boot: u64,
}

/// The start could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Tells the folder from all others.
    mark: String,
    boot: u64,
}

impl Identity {
    /// Counts a start of the gateway that keeps its data in `folder`. Whoever calls this has the
    /// folder for itself. Blocking.
    ///
    /// # Errors
    /// If the folder cannot be read or written. Nothing may be claimed then: the next start would
    /// count the same.
    pub fn of_next_start(folder: &Path, region: &str, random: u64) -> Result<Self, IdentityError> {
        let path = folder.join(FILE);
        let kept = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Kept>(&text) {
                Ok(kept) => Some(kept),
                Err(error) => {
                    // To be another gateway costs a few seconds at most: claims lapse.
                    warn!(%error, path = %path.display(), "gateway identity cannot be read, taking a new one");
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        let mut kept = kept.unwrap_or_else(|| Kept {
            mark: format!("{random:016x}"),
            boot: 0,
        });
        kept.boot += 1;
        write(folder, &path, &kept).map_err(|source| IdentityError::Write { path, source })?;
        Ok(Self {
            name: format!("{region}-{}", kept.mark),
            boot: kept.boot,
        })
    }
}

/// On disk when it returns, and never there in part.
fn write(folder: &Path, path: &Path, kept: &Kept) -> io::Result<()> {
    let beside = folder.join("gateway.json.new");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn start(folder: &Path, random: u64) -> (String, u64) {
        let identity = Identity::of_next_start(folder, "fra", random).unwrap();
        (identity.name, identity.boot)
    }

    #[test]
    fn a_folder_is_one_gateway_whose_starts_are_counted() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = |mark: &str| format!("fra-{mark}");
        assert_eq!(start(one.path(), 1), (name("0000000000000001"), 1));
        assert_eq!(start(other.path(), 2), (name("0000000000000002"), 1));
        for boot in 2..5 {
            assert_eq!(start(one.path(), 9), (name("0000000000000001"), boot));
        }
    }

    #[test]
    fn a_folder_whose_count_is_lost_is_another_gateway() {
        for left in ["", "{\"mark\":\"00", "{\"mark\":\"1\"}"] {
            let folder = tempfile::tempdir().unwrap();
            start(folder.path(), 1);
            fs::write(folder.path().join(FILE), left).unwrap();
            let want = ("fra-0000000000000002".to_owned(), 1);
            assert_eq!(start(folder.path(), 2), want, "{left:?}");
        }
    }

    #[test]
    fn a_start_that_cannot_be_counted_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Identity::of_next_start(&folder.path().join("none"), "fra", 1);
        assert!(matches!(missing, Err(IdentityError::Write { .. })));
    }
}
