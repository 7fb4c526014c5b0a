//! Views: whole, numbered, checksummed states that consumers keep, check and swap in one step.
//!
//! A view travels as `{"id":{…},"body":"…"}` where `body` is JSON text and the id's digest is the
//! SHA-256 of exactly that text, so a reader can check it before it believes a byte of it.

use api_types::{Digest, ObjectRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ObjectBody;
use crate::planes::RegionBody;

/// Which state a view is. Of two views of one cluster, the greater (epoch, revision) is newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewId {
    pub cluster_id: String,
    pub epoch: u64,
    pub revision: u64,
    /// Objects in the body: regions for steering, all of them for metadata. Zero where there should
    /// be some is how an emptied view shows.
    pub count: u64,
    /// SHA-256 of the body text, 64 hexadecimal digits.
    pub sha256: String,
}

impl ViewId {
    /// Whether this view may replace `held`: same cluster, and newer.
    #[must_use]
    pub fn supersedes(&self, held: &Self) -> bool {
        self.cluster_id == held.cluster_id
            && (self.epoch, self.revision) > (held.epoch, held.revision)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub id: ViewId,
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("view {revision} has SHA-256 {found}, its header says {declared}")]
    Digest {
        revision: u64,
        declared: String,
        found: String,
    },
    #[error("view {revision} is malformed")]
    Malformed {
        revision: u64,
        #[source]
        source: serde_json::Error,
    },
}

impl Envelope {
    /// Seals a body. `id.sha256` is filled in.
    ///
    /// # Panics
    /// Never: bodies are plain data with text keys.
    #[must_use]
    pub fn seal<T: Serialize>(mut id: ViewId, body: &T) -> Self {
        let body = serde_json::to_string(body).expect("views are plain data");
        id.sha256 = digest(&body);
        Self { id, body }
    }

    /// Checks the digest, then reads the body.
    ///
    /// # Errors
    /// A view that fails here must be refused and reported; the one held stays.
    pub fn open<T: DeserializeOwned>(&self) -> Result<T, ViewError> {
        let (revision, found) = (self.id.revision, digest(&self.body));
        if found != self.id.sha256 {
            return Err(ViewError::Digest {
                revision,
                declared: self.id.sha256.clone(),
                found,
            });
        }
        serde_json::from_str(&self.body).map_err(|source| ViewError::Malformed { revision, source })
    }
}

fn digest(body: &str) -> String {
    Digest(Sha256::digest(body).into()).to_string()
}

/// Body of `GET /v1/views/steering`: all that DNS needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteeringBody {
    /// Lower case, no trailing dot.
    pub zone: String,
    /// TCP port of every gateway; DNS answers are addresses to call on it.
    pub gateway_port: u16,
    /// SHA-256 of the world map this view was made with; a holder of another one says so.
    pub map_sha256: String,
    pub regions: Vec<RegionBody>,
    /// Apps that restrict where they run; all others are covered by the wildcard.
    pub placed_apps: Vec<PlacedApp>,
    /// Functions that narrow their app's placement.
    pub placed_fns: Vec<PlacedFn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedApp {
    /// Only apps whose names can be DNS names are listed.
    pub name: String,
    /// Regions inside, by name, already resolved from selectors.
    pub regions: Vec<String>,
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFn {
    pub app: String,
    pub name: String,
    /// Regions inside its own placement, whether or not the app's admits them too.
    pub regions: Vec<String>,
    pub strict: bool,
}

/// Body of `GET /v1/snapshot`: all that a region holds. Watch from the id's revision afterwards.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetadataBody {
    pub zone: String,
    pub gateway_port: u16,
    /// What others refer to comes first.
    pub objects: Vec<ObjectBody>,
}

impl MetadataBody {
    /// With those of `objects` that regions receive.
    #[must_use]
    pub fn of<'a>(
        zone: &str,
        gateway_port: u16,
        objects: impl Iterator<Item = ObjectRef<'a>>,
    ) -> Self {
        Self {
            zone: zone.to_owned(),
            gateway_port,
            objects: objects
                .filter(|object| object.kind().received_by_regions())
                .map(ObjectBody::of)
                .collect(),
        }
    }
}
