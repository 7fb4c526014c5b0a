//! Why an instance does not come up.

use std::io;
use std::path::PathBuf;

use api_bundle::{ManifestError, PlatformMismatch};
use http::StatusCode;

/// An instance did not come up. `Display` is what the caller is told (Fn contract 8); the source
/// says what happened, for whoever owns the function.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "Container initialization timed out, please ensure you are using the latest fdk and check the logs"
    )]
    TimedOut,
    #[error(
        "Container failed to initialize, please ensure you are using the latest fdk and check the logs"
    )]
    Failed {
        #[source]
        source: InitFailure,
    },
    #[error("{0}")]
    NotRunnable(NotRunnable),
}

/// The one reason of [`NotRunnable::Cluster`] that speaks of the function's code.
pub const IMAGE_PULL_FAILED: &str = "ImagePullFailed";

impl StartError {
    /// Whether it is the region's state that keeps it from running, and not its code.
    #[must_use]
    pub fn is_of_the_region(&self) -> bool {
        match self {
            Self::NotRunnable(NotRunnable::Cluster { reason, .. }) => reason != IMAGE_PULL_FAILED,
            Self::NotRunnable(_) | Self::TimedOut | Self::Failed { .. } => false,
        }
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed { .. } | Self::NotRunnable(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What an instance did instead of becoming ready.
#[derive(Debug, thiserror::Error)]
pub enum InitFailure {
    #[error("it exited before it was ready")]
    Exited,
    #[error("its lsnr.sock is not a symlink")]
    NotASymlink,
    #[error("its lsnr.sock points to {target:?}, which is not a name in the same directory")]
    NotAName { target: PathBuf },
    #[error("its lsnr.sock points to {target:?}, which is not a socket")]
    NotASocket { target: PathBuf },
    #[error("its socket directory was taken away")]
    NoDirectory,
    /// By whoever started it on another machine.
    #[error("{message}")]
    Reported { message: String },
}

/// This machine cannot run it, now or ever.
#[derive(Debug, thiserror::Error)]
pub enum NotRunnable {
    #[error("this region runs bundles; deploy the function with `tradewind deploy`")]
    NotABundle,
    #[error("the manifest of {bundle} cannot be read")]
    ReadManifest {
        bundle: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Platform(#[from] PlatformMismatch),
    #[error("a function of runtime {runtime:?} needs {program}, which this machine does not have")]
    NotInstalled { runtime: String, program: String },
    #[error("{what} failed")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The cluster makes no pod for it. `message` is for whoever owns the function or the cluster.
    #[error("{message}")]
    Cluster { reason: String, message: String },
    #[error("the region is stopping")]
    Stopping,
}
