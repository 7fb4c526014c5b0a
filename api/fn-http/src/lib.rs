//! The half of Fn's v2 API that reads (Fn contract 1 to 5), and what the writing half shares with
//! it: errors, bodies, and what is added to objects when they are shown.
//!
//! A global node and a region answer alike, each from its own [`Source`]. This crate does not know
//! where a catalog comes from, how fresh it is, or what may be written to it.

pub mod body;
pub mod conventions;
pub mod decorate;
pub mod endpoints;
pub mod error;
pub mod reads;

use std::fmt;

use api_types::{App, Catalog, Revision};

pub use endpoints::Reached;
pub use error::ApiError;
pub use reads::asked::Id;
pub use reads::reads;

/// On every answer: the revision of the state that was asked.
pub use api_wire::call_headers::REVISION;

/// The Fn server whose API this is; `fn version` shows it.
pub const FN_VERSION: &str = "0.3.753";

/// Where reads find a catalog.
pub trait Source: Clone + Send + Sync + 'static {
    /// Answers from the catalog. The source may hold a lock meanwhile, so `answer` builds a page at
    /// most.
    fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> impl Future<Output = Result<R, Unavailable>> + Send;

    /// What endpoint annotations start with, as [`endpoints::base_url`] has it; `app` is the one whose
    /// function is called, if it is known.
    fn base_url(&self, app: Option<&App>, reached: &Reached) -> String;
}

/// `?consistency=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Nothing that was written before the request is missing, as far as the source can promise.
    #[default]
    Linearizable,
    /// `stale`: whatever the answering node has.
    Stale,
}

/// The source cannot answer now; the text is shown, and the client is asked to come back in a
/// second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
