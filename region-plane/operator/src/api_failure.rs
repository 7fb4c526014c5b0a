//! The meaning of errors of the API server, and what a person can do about them.

use std::time::Duration;

use crate::plan::{ConditionReason, Trouble};

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiFailure {
    /// The object is not there, or another by that name is.
    Gone,
    /// Another write was first. The next watch events show whether this one is still needed.
    Conflict,
    /// The server asks for fewer requests.
    Throttled { retry_after: Option<Duration> },
    /// A second try would be refused too.
    Refused(Trouble),
    /// No answer: the write may have been done.
    Lost(String),
}

impl ApiFailure {
    /// For a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Conflict => "conflict",
            Self::Throttled { .. } => "throttled",
            Self::Refused(_) => "refused",
            Self::Lost(_) => "lost",
        }
    }
}

/// Classifies the error of a write. `verb` and `resource` are those of RBAC roles.
#[must_use]
pub fn api_failure(error: &kube::Error, verb: &str, resource: &str) -> ApiFailure {
    let status = match error {
        kube::Error::Api(status) => status,
        kube::Error::SerdeError(error) => {
            return ApiFailure::Refused(Trouble {
                reason: ConditionReason::ResourceDefinitionOutdated,
                message: format!(
                    "the server stored {resource} otherwise than it was sent ({error}); \
                     install the resource definitions of this version"
                ),
            });
        }
        other => return ApiFailure::Lost(other.to_string()),
    };
    let said = &status.message;
    let refused = |reason, message| ApiFailure::Refused(Trouble { reason, message });
    match status.code {
        404 if said.starts_with("namespaces \"") => refused(
            ConditionReason::ApiRefused,
            format!("{said}; create the namespace, or correct the operator's `namespace`"),
        ),
        // No path, where a missing object has a status that names it.
        404 if said == "404 page not found" => refused(
            ConditionReason::ResourceDefinitionOutdated,
            format!(
                "the server does not know {resource}; install the resource definitions of this version"
            ),
        ),
        404 => ApiFailure::Gone,
        409 => ApiFailure::Conflict,
        429 | 503 => {
            let seconds = status
                .details
                .as_ref()
                .map_or(0, |details| details.retry_after_seconds);
            ApiFailure::Throttled {
                retry_after: (seconds > 0).then(|| Duration::from_secs(seconds.into())),
            }
        }
        403 if said.contains("exceeded quota") => refused(
            ConditionReason::QuotaExceeded,
            format!(
                "{said}; raise the namespace's ResourceQuota, or have fewer or smaller instances"
            ),
        ),
        401 | 403 if status.code == 401 || said.contains("cannot ") => refused(
            ConditionReason::Forbidden,
            format!("the operator may not {verb} {resource}; add it to its Role ({said})"),
        ),
        403 => refused(
            ConditionReason::Forbidden,
            format!("an admission rule of the cluster refuses {resource}: {said}"),
        ),
        400 | 422 => refused(
            ConditionReason::InvalidSpec,
            format!("the server finds it invalid: {said}; correct the function or the pool"),
        ),
        // Of server-side apply; no request is to blame for it, so it has no better code.
        500 if said.contains("field not declared in schema") => refused(
            ConditionReason::ResourceDefinitionOutdated,
            format!(
                "the cluster's definition of {resource} lacks a field ({said}); \
                 install the resource definitions of this version"
            ),
        ),
        code if code >= 500 => ApiFailure::Lost(format!("{code} {said}")),
        code => refused(
            ConditionReason::ApiRefused,
            format!("the server answered {code}: {said}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        for (code, said, want, names) in [
            (
                403,
                "pods \"fn-a-x\" is forbidden: exceeded quota: small, requested: pods=1",
                ConditionReason::QuotaExceeded,
                "ResourceQuota",
            ),
            (
                403,
                "pods is forbidden: User \"operator\" cannot create resource \"pods\" in API group \"\"",
                ConditionReason::Forbidden,
                "create pods",
            ),
            (
                403,
                "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
                ConditionReason::Forbidden,
                "admission",
            ),
            (
                422,
                "Pod \"x\" is invalid: spec",
                ConditionReason::InvalidSpec,
                "correct",
            ),
            (
                404,
                "404 page not found",
                ConditionReason::ResourceDefinitionOutdated,
                "definitions",
            ),
            (
                500,
                "failed to create typed patch object: .spec.settings: field not declared in schema",
                ConditionReason::ResourceDefinitionOutdated,
                "definitions",
            ),
            (
                404,
                "namespaces \"tradewind\" not found",
                ConditionReason::ApiRefused,
                "create the namespace",
            ),
        ] {
            let error = kube::Error::Api(Status::failure(said, "").with_code(code).boxed());
            let ApiFailure::Refused(trouble) = api_failure(&error, "create", "pods") else {
                panic!("{code} {said} is a refusal");
            };
            assert_eq!(trouble.reason, want, "{said}");
            assert!(trouble.message.contains(names), "{}", trouble.message);
        }
    }

    #[test]
    fn what_will_pass_is_no_refusal() {
        for (code, want) in [
            (404, ApiFailure::Gone),
            (409, ApiFailure::Conflict),
            (429, ApiFailure::Throttled { retry_after: None }),
            (503, ApiFailure::Throttled { retry_after: None }),
            (500, ApiFailure::Lost("500 x".to_owned())),
        ] {
            let error = kube::Error::Api(Status::failure("x", "").with_code(code).boxed());
            assert_eq!(api_failure(&error, "create", "pods"), want, "{code}");
        }
        let gone = Status::failure("pods \"namespaces-b7k2qd\" not found", "").with_code(404);
        let error = kube::Error::Api(gone.boxed());
        assert_eq!(api_failure(&error, "delete", "pods"), ApiFailure::Gone);
    }
}
