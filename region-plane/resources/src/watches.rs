//! What all who watch a region's objects do alike.

use kube::runtime::watcher;

/// A connection that was dropped without a word is noticed some seconds later.
const RENEWED_EVERY_SECS: u32 = 60;

/// Of all objects of a kind.
#[must_use]
pub fn config() -> watcher::Config {
    watcher::Config::default().timeout(RENEWED_EVERY_SECS)
}

/// Whether the server lists in pages only: before 1.34, 1.32 apart, unless a feature gate is set.
#[must_use]
pub fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 422) && status.message.contains("sendInitialEvents")
    )
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_who_names_the_parameter_refuses_streaming() {
        let failed = |code, said: &str| {
            let status = Status::failure(said, "Invalid").with_code(code);
            kube::Error::Api(status.boxed())
        };
        let refused = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        for (code, said, want) in [
            (422, refused, true),
            (400, refused, true),
            (403, refused, false),
            (422, "unable to parse requirement", false),
        ] {
            let error = watcher::Error::WatchStartFailed(failed(code, said));
            assert_eq!(refuses_streaming(&error), want, "{code} {said}");
        }
        let other = watcher::Error::InitialListFailed(failed(422, refused));
        assert!(!refuses_streaming(&other));
    }
}
