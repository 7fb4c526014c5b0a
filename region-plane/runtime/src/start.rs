//! Why an instance does not come up.

use std::io;
use std::path::PathBuf;

use api_bundle::{ManifestError, PlatformMismatch};

/// Fn contract 8: no instance was ready in time.
pub const INIT_TIMED_OUT: &str = "Container initialization timed out, please ensure you are using the latest fdk and check the logs";

/// Fn contract 8: the function ended, or did what it must not, before it was ready.
pub const INIT_FAILED: &str =
    "Container failed to initialize, please ensure you are using the latest fdk and check the logs";

/// An instance did not come up. `Display` is what the caller is told (Fn contract 8); the source
/// says what happened, for whoever owns the function.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{INIT_TIMED_OUT}")]
    TimedOut,
    #[error("{INIT_FAILED}")]
    Failed {
        #[source]
        source: InitFailure,
    },
    #[error(transparent)]
    NotRunnable(NotRunnable),
}

/// The reasons of [`NotRunnable::Cluster`] that speak of the function: no other region would do better
/// by what it is told to run. One that is not known here may be of the cluster alone.
const OF_THE_FUNCTION: [&str; 5] = [
    "BundleInvalid",
    "ContainerConfigInvalid",
    "ImagePullFailed",
    "InvalidName",
    "InvalidSpec",
];

impl StartError {
    /// Whether it is the region's state that keeps it from running, and not its code.
    #[must_use]
    pub fn is_of_the_region(&self) -> bool {
        match self {
            Self::NotRunnable(NotRunnable::Cluster { reason, .. }) => {
                !OF_THE_FUNCTION.contains(&reason.as_str())
            }
            // Any other instance would have met the same, or its code is damaged here alone.
            Self::NotRunnable(NotRunnable::System { .. } | NotRunnable::CodeLost { .. }) => true,
            Self::NotRunnable(_) | Self::TimedOut | Self::Failed { .. } => false,
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
    #[error("its socket directory was removed")]
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
    /// What keeps all others from running too.
    #[error("{what} failed")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("its bundle is damaged on this region's disk and cannot be replaced: {problem}")]
    CodeLost { problem: String },
    /// The cluster makes no pod for it. `message` is for callers as well: nothing is in it of what a
    /// container printed.
    #[error("{message}")]
    Cluster { reason: String, message: String },
    #[error("the region is stopping")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_function_is_not_of_the_region() {
        for (reason, of_the_region) in [
            ("PodUnschedulable", true),
            ("QuotaExceeded", true),
            ("NoPod", true),
            ("PoolEmpty", true),
            ("BundleRefused", true),
            ("BundleUnreadable", true),
            ("OfALaterVersion", true),
            ("BundleInvalid", false),
            ("ContainerConfigInvalid", false),
            ("ImagePullFailed", false),
            ("InvalidName", false),
            ("InvalidSpec", false),
        ] {
            let error = StartError::NotRunnable(NotRunnable::Cluster {
                reason: reason.to_owned(),
                message: String::new(),
            });
            assert_eq!(error.is_of_the_region(), of_the_region, "{reason}");
        }
        assert!(!StartError::TimedOut.is_of_the_region());
        let system = StartError::NotRunnable(NotRunnable::System {
            what: "spawning the process",
            source: io::Error::from_raw_os_error(24),
        });
        assert!(system.is_of_the_region());
        let text = api_types::chain(&system);
        assert!(
            text.contains("spawning") && text.contains("os error 24"),
            "{text}"
        );
    }
}
