//! The read half of Fn's v2 API (Fn contract 1 to 5) over a catalog, and what its write half shares.
//!
//! Two servers have it: global nodes over the replicated state, regions over their replica. It
//! chooses the HTTP status of every refusal, and nothing else does.

pub mod body;
pub mod error;
pub mod reads;
pub mod shown;

use api_types::{App, Catalog, Revision};

pub use error::ApiError;
pub use reads::reads;

/// The version of Fn's server whose API this is (Fn contract, head).
pub const FN_VERSION: &str = "0.3.753";

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything acknowledged before the request is in it.
    #[default]
    Linearizable,
    /// Whatever this node has.
    Stale,
}

/// Nobody can vouch for an answer at the moment; the client should ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no leader can be reached at the moment; ask again, or read with ?consistency=stale")]
pub struct Unavailable;

/// A catalog that can be read.
pub trait Source: Clone + Send + Sync + 'static {
    /// Runs `answer` on the catalog; it is short, because a lock may be held meanwhile.
    fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> impl Future<Output = Result<R, Unavailable>> + Send;

    /// The start of endpoint URLs (Fn contract 5.3): the public URL, else one made of the request's
    /// host.
    fn base_url(&self, app: Option<&App>, request_host: Option<&str>) -> String;
}
