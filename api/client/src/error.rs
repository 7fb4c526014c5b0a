//! Why a call failed and what to do next.

use std::fmt;
use std::time::Duration;

use api_types::Revision;

#[derive(Debug, thiserror::Error)]
pub enum NewClientError {
    #[error("no global node is given")]
    NoNodes,
    #[error("{url:?} is not a global node: {problem}")]
    Url { url: String, problem: String },
    #[error("set up the HTTP client")]
    Http {
        #[source]
        source: reqwest::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The global plane understood and said no. The message is for the user as it stands.
    #[error("{message}")]
    Refused {
        status: u16,
        message: String,
        node: String,
    },
    /// Watching from there is no longer possible: take a snapshot.
    #[error("changes after {from} are compacted; take a snapshot at {snapshot_revision}")]
    Compacted {
        from: Revision,
        snapshot_revision: Revision,
    },
    /// Nobody answered. A write may or may not have happened.
    #[error(
        "no global node answered in {waited:.1?} ({tried}); \
         check that they run and that the list of nodes is right"
    )]
    Unreachable { waited: Duration, tried: Tried },
    /// An answer that is not what the interface promises, probably another program's.
    #[error("{node} did not answer as a Tradewind node: {problem}")]
    Garbled { node: String, problem: String },
    /// A stream broke off or fell silent. Ask again.
    #[error("the stream from {node} ended: {problem}")]
    Stream { node: String, problem: String },
    /// More than the interface allows, see [`api_wire::planes::BUNDLE_BYTES_MAX`].
    #[error("{what} has more than {bytes_max} bytes")]
    TooLarge { what: String, bytes_max: u64 },
    #[error("read {what}")]
    Local {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The status the global plane answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Compacted { .. } => Some(410),
            Self::Unreachable { .. }
            | Self::Garbled { .. }
            | Self::Stream { .. }
            | Self::TooLarge { .. }
            | Self::Local { .. } => None,
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// Each node and how it last failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried(pub Vec<(String, String)>);

impl Tried {
    pub(crate) fn note(&mut self, node: &str, problem: String) {
        match self.0.iter_mut().find(|(known, _)| known == node) {
            Some((_, last)) => *last = problem,
            None => self.0.push((node.to_owned(), problem)),
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (node, problem)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{node}: {problem}")?;
        }
        Ok(())
    }
}

/// The innermost reason, as `connection refused`: what reqwest puts around it repeats the URL.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
