//! What a caller is told when there is no answer from a function (Fn contract 8).
//!
//! Statuses and texts that other doors use too are `calls-door`'s.

use api_types::CallId;
use calls_door::{Body, Refusal};
use http::{HeaderValue, Response, StatusCode};
use region_plane_dispatch::{Rejection, StartFailure};
use region_plane_replica::RegionCopy;
use region_plane_runtime::{CallError, INIT_FAILED, INIT_TIMED_OUT};

use super::Missing;
use super::headers::CALL_ID;
use crate::bundles::FetchError;
use crate::engine::Failure;

/// A refusal, and whether another region may do better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRefused {
    pub refusal: Refusal,
    /// No function has seen the call, and another region may have what this one lacks.
    pub elsewhere: bool,
}

impl From<Refusal> for CallRefused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            elsewhere: false,
        }
    }
}

impl CallRefused {
    #[must_use]
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Refusal::new(status, message).into()
    }

    fn elsewhere(refusal: Refusal) -> Self {
        Self {
            refusal,
            elsewhere: true,
        }
    }

    /// The app, function or trigger of a call is not in this region's copy of the metadata. 404 only if
    /// the copy is up to date; in every case another region may have it.
    #[must_use]
    pub fn missing(held: &RegionCopy, missing: Missing) -> Self {
        Self::elsewhere(match missing {
            _ if held.meta().is_none() => Refusal::busy_with(
                "this region has not reached the global plane since its start and knows no function",
            ),
            Missing::NotYet => {
                Refusal::busy_with("this region has not received the whole function yet")
            }
            Missing::Unknown(message) => Refusal::not_found(message),
        })
    }

    /// This region lacks a revision that it could have had: what the call needs may be in it.
    #[must_use]
    pub fn behind() -> Self {
        Self::elsewhere(Refusal::busy_with(
            "this region has not applied the newest revision yet",
        ))
    }

    #[must_use]
    pub fn busy() -> Self {
        Self::elsewhere(Refusal::busy())
    }

    /// The function exists, and no region that may run it can be reached.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::elsewhere(Refusal::busy_with(
            "no region that may run this function is available at the moment",
        ))
    }

    /// The function has run, and there is no memory for its answer. Not a 503: that asks its caller
    /// to have it run again.
    #[must_use]
    pub fn unanswerable() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "no memory for the function's response",
        )
    }

    #[must_use]
    pub fn detached() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "Detach call functions are not supported on this server",
        )
    }

    #[must_use]
    pub fn pull(image: &str, problem: &str) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            format!("Failed to pull image '{image}': {problem}"),
        )
    }

    #[must_use]
    pub fn fetch(image: &str, error: &FetchError) -> Self {
        Self {
            elsewhere: true,
            ..match error {
                FetchError::Failed(problem) => Self::pull(image, problem),
                FetchError::TimedOut => {
                    Self::new(StatusCode::GATEWAY_TIMEOUT, "Image pull timed out")
                }
            }
        }
    }

    #[must_use]
    pub fn bad_status() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "invalid function response")
    }

    #[must_use]
    pub fn failure(image: &str, failure: &Failure) -> Self {
        match failure {
            Failure::Call(CallError::NotStarted { .. }) => Self::busy(),
            Failure::Call(error) => Self::new(error.status(), error.to_string()),
            Failure::Stopped => Self::busy(),
            Failure::Rejected(rejection) => match rejection {
                Rejection::Full
                | Rejection::QueueFull
                | Rejection::TimedOutWaiting
                | Rejection::Outdated => Self::busy(),
                Rejection::MemoryNeverFits => Self::new(
                    StatusCode::BAD_REQUEST,
                    "Requested CPU/Memory cannot be allocated",
                ),
                Rejection::StartFailed(StartFailure::Failed) => {
                    Self::new(StatusCode::BAD_GATEWAY, INIT_FAILED)
                }
                Rejection::StartFailed(StartFailure::TimedOut) => {
                    Self::new(StatusCode::GATEWAY_TIMEOUT, INIT_TIMED_OUT)
                }
                Rejection::StartFailed(StartFailure::NotRunnable(problem)) => {
                    Self::pull(image, problem)
                }
                Rejection::StartFailed(StartFailure::NoPlace(problem)) => Self::elsewhere(
                    Refusal::busy_with(format!("Timed out - server too busy: {problem}")),
                ),
            },
        }
    }

    /// The response; `call` is named once there is one (Fn contract 6.2).
    #[must_use]
    pub fn respond(&self, call: Option<&CallId>) -> Response<Body> {
        let mut response = self.refusal.respond();
        if let Some(value) = call.and_then(|call| HeaderValue::from_str(call.as_str()).ok()) {
            response.headers_mut().insert(CALL_ID, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, RETRY_AFTER};
    use region_plane_runtime::Breach;

    use super::*;

    #[test]
    fn every_failure_has_the_contracts_status_and_message() {
        let start = |failure| Failure::Rejected(Rejection::StartFailed(failure));
        for (failure, status, message, elsewhere) in [
            (
                Failure::Rejected(Rejection::Full),
                503,
                "Timed out - server too busy",
                true,
            ),
            (
                Failure::Rejected(Rejection::QueueFull),
                503,
                "Timed out - server too busy",
                true,
            ),
            (
                Failure::Rejected(Rejection::TimedOutWaiting),
                503,
                "Timed out - server too busy",
                true,
            ),
            (
                Failure::Rejected(Rejection::MemoryNeverFits),
                400,
                "Requested CPU/Memory cannot be allocated",
                false,
            ),
            (
                start(StartFailure::Failed),
                502,
                "Container failed to initialize, please ensure you are using the latest fdk and check the logs",
                false,
            ),
            (
                start(StartFailure::TimedOut),
                504,
                "Container initialization timed out, please ensure you are using the latest fdk and check the logs",
                false,
            ),
            (
                start(StartFailure::NotRunnable("no python".to_owned())),
                502,
                "Failed to pull image 'img': no python",
                false,
            ),
            (
                start(StartFailure::NoPlace("no quota".to_owned())),
                503,
                "Timed out - server too busy: no quota",
                true,
            ),
            (
                Failure::Call(CallError::NotStarted {
                    source: Breach::PodLost,
                }),
                503,
                "Timed out - server too busy",
                true,
            ),
            (Failure::Call(CallError::TimedOut), 504, "Timed out", false),
            (
                Failure::Call(CallError::FunctionTimedOut),
                504,
                "Timed out",
                false,
            ),
            (
                Failure::Call(CallError::FunctionFailed),
                502,
                "function failed",
                false,
            ),
            (
                Failure::Call(CallError::BodyTooLarge),
                502,
                "function response body too large",
                false,
            ),
            (
                Failure::Call(CallError::InvalidStatus {
                    status: StatusCode::OK,
                }),
                502,
                "invalid function response",
                false,
            ),
        ] {
            let refused = CallRefused::failure("img", &failure);
            assert_eq!(
                (
                    refused.refusal.status.as_u16(),
                    refused.refusal.message.as_ref(),
                    refused.elsewhere
                ),
                (status, message, elsewhere),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn only_a_busy_region_asks_to_be_tried_again() {
        let busy = CallRefused::busy().respond(Some(&CallId::new("01X")));
        assert_eq!(busy.headers()[RETRY_AFTER], "15");
        assert_eq!(busy.headers()[CALL_ID], "01X");
        let run = CallRefused::unanswerable();
        assert!(!run.elsewhere);
        assert!(!run.respond(None).headers().contains_key(RETRY_AFTER));
        let missing = CallRefused::from(Refusal::not_found("Fn not found")).respond(None);
        assert!(!missing.headers().contains_key(RETRY_AFTER));
        assert!(!missing.headers().contains_key(CALL_ID));
        assert_eq!(
            missing.headers()[CONTENT_TYPE],
            "application/json; charset=utf-8"
        );
    }
}
