//! Under what a write may happen: what its client says beside the command.

use api_types::Digest;
use daemon::clock;
use global_plane_state::{Preconditions, RequestId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub request: RequestId,
    /// See [`global_plane_state::Envelope::fingerprint`].
    pub fingerprint: Option<Digest>,
    pub preconditions: Preconditions,
}

impl Terms {
    /// A write that is never resent by its client.
    #[must_use]
    pub fn minted() -> Self {
        Self {
            request: RequestId(clock::mint()),
            fingerprint: None,
            preconditions: Preconditions::default(),
        }
    }
}
