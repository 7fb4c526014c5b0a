//! What the server says when it does not do what was asked, worded as kube-apiserver words it.
//!
//! Operators branch on `code` and `reason` and show `message` to people, so all three are copied
//! from what a 1.36 server answers.

use kube::core::Status;
use kube::core::response::{StatusCause, StatusDetails, reason};

use crate::resource::Definition;

/// A `Status` with its HTTP code; boxed, because it is the rare case of every result.
pub type FailureStatus = Box<Status>;

fn refusal(code: u16, reason: &str, message: &str) -> FailureStatus {
    Status::failure(message, reason).with_code(code).boxed()
}

fn about(definition: &Definition, name: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: definition.group.clone(),
        kind: definition.plural.clone(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

fn after_seconds(seconds: u32) -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: seconds,
    }
}

pub(crate) fn not_found(definition: &Definition, name: &str) -> FailureStatus {
    let message = format!("{} \"{name}\" not found", definition.qualified());
    Box::new(refusal(404, reason::NOT_FOUND, &message).with_details(about(definition, name)))
}

/// What the handlers before and behind the API's own say in plain text. It has no reason.
fn plain(code: u16, message: &str) -> FailureStatus {
    refusal(code, "", message)
}

/// Whether it is sent as its message alone.
pub(crate) fn is_plain(refused: &Status) -> bool {
    refused.reason.is_empty()
}

/// No such path: what an operator sees whose CRD is not installed. Go's `http.NotFound`; what kubectl
/// shows for it is client-go's own.
pub(crate) fn unknown_path() -> FailureStatus {
    plain(404, "404 page not found")
}

pub(crate) fn already_exists(definition: &Definition, name: &str) -> FailureStatus {
    let message = format!("{} \"{name}\" already exists", definition.qualified());
    Box::new(refusal(409, reason::ALREADY_EXISTS, &message).with_details(about(definition, name)))
}

pub(crate) fn conflict(definition: &Definition, name: &str, why: &str) -> FailureStatus {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": {why}",
        definition.qualified()
    );
    Box::new(refusal(409, reason::CONFLICT, &message).with_details(about(definition, name)))
}

/// The refusal of a write whose `resourceVersion` is not the newest.
pub(crate) fn modified(definition: &Definition, name: &str) -> FailureStatus {
    conflict(
        definition,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// Creations that come together race for the quota that counts them (kubernetes#67761).
pub(crate) fn quota_modified() -> FailureStatus {
    refusal(
        409,
        reason::CONFLICT,
        "Operation cannot be fulfilled on resourcequotas \"compute\": the object has been modified; \
         please apply your changes to the latest version and try again",
    )
}

/// Server-side apply without `force` over fields that others own.
pub(crate) fn apply_conflict(
    definition: &Definition,
    name: &str,
    owned: &[(String, String)],
) -> FailureStatus {
    let mut details = about(definition, name);
    details.causes = owned
        .iter()
        .map(|(manager, field)| StatusCause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {manager:?}"),
            field: field.clone(),
        })
        .collect();
    let plural = if owned.len() == 1 { "" } else { "s" };
    let listed: Vec<String> = owned
        .iter()
        .map(|(manager, field)| format!("conflict with {manager:?}: {field}"))
        .collect();
    let message = format!(
        "Apply failed with {} conflict{plural}: {}",
        owned.len(),
        listed.join("\n")
    );
    Box::new(refusal(409, reason::CONFLICT, &message).with_details(details))
}

/// One thing wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Dotted path from the object's root.
    pub field: String,
    /// kube-apiserver's sentence, such as `Required value`.
    pub message: String,
}

pub(crate) fn invalid(definition: &Definition, name: &str, problems: &[Invalid]) -> FailureStatus {
    let mut details = about(definition, name);
    details.kind.clone_from(&definition.kind);
    details.causes = problems
        .iter()
        .map(|problem| StatusCause {
            reason: "FieldValueInvalid".to_owned(),
            message: problem.message.clone(),
            field: problem.field.clone(),
        })
        .collect();
    let listed: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.field, problem.message))
        .collect();
    let listed = match listed.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let kind = if definition.group.is_empty() {
        definition.kind.clone()
    } else {
        format!("{}.{}", definition.kind, definition.group)
    };
    let message = format!("{kind} \"{name}\" is invalid: {listed}");
    Box::new(refusal(422, reason::INVALID, &message).with_details(details))
}

pub(crate) fn bad_request(message: &str) -> FailureStatus {
    refusal(400, reason::BAD_REQUEST, message)
}

/// A server whose `WatchList` feature is off, as it is by default in 1.33.
pub(crate) fn streaming_lists_off() -> FailureStatus {
    refusal(
        422,
        reason::INVALID,
        "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
         sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
    )
}

pub(crate) fn forbidden(definition: &Definition, name: &str, why: &str) -> FailureStatus {
    let object = if name.is_empty() {
        String::new()
    } else {
        format!(" \"{name}\"")
    };
    let message = format!("{}{object} is forbidden: {why}", definition.qualified());
    Box::new(refusal(403, reason::FORBIDDEN, &message).with_details(about(definition, name)))
}

pub(crate) fn method_not_allowed() -> FailureStatus {
    refusal(
        405,
        reason::METHOD_NOT_ALLOWED,
        "the server does not allow this method on the requested resource",
    )
}

pub(crate) fn unsupported_media_type(content_type: &str) -> FailureStatus {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, \
         application/strategic-merge-patch+json, application/apply-patch+yaml; \
         got {content_type:?}"
    );
    refusal(415, reason::UNSUPPORTED_MEDIA_TYPE, &message)
}

/// Priority and fairness refuses before the API is reached, so when to ask again is in the header
/// alone.
pub(crate) fn too_many_requests(retry_after_seconds: u32) -> FailureStatus {
    Box::new(
        plain(429, "Too many requests, please try again later.")
            .with_details(after_seconds(retry_after_seconds)),
    )
}

pub(crate) fn unavailable() -> FailureStatus {
    refusal(
        503,
        reason::SERVICE_UNAVAILABLE,
        "the server is currently unable to handle the request",
    )
}

pub(crate) fn internal(message: &str) -> FailureStatus {
    let message = format!("Internal error occurred: {message}");
    refusal(500, reason::INTERNAL_ERROR, &message)
}

/// Server-side apply of a field that the definition in the cluster does not have.
pub(crate) fn undeclared(
    definition: &Definition,
    namespace: &str,
    name: &str,
    path: &str,
) -> FailureStatus {
    let object = if namespace.is_empty() {
        format!("/{name}")
    } else {
        format!("{namespace}/{name}")
    };
    let message = format!(
        "failed to create typed patch object ({object}; {}, Kind={}): {path}: field not declared in schema",
        definition.api_version(),
        definition.kind,
    );
    refusal(500, reason::UNKNOWN, &message)
}

/// A watch or list from a version that is compacted away.
pub(crate) fn too_old(asked: u64, oldest: u64) -> FailureStatus {
    let message = format!("too old resource version: {asked} ({oldest})");
    refusal(410, reason::EXPIRED, &message)
}

pub(crate) fn continue_expired() -> FailureStatus {
    refusal(
        410,
        reason::EXPIRED,
        "The provided continue parameter is too old to display a consistent list result. \
         You can start a new list without the continue parameter.",
    )
}

/// A read that must not be older than a version this server has not reached, as after a restore.
pub(crate) fn too_large(asked: u64, current: u64) -> FailureStatus {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let mut details = after_seconds(1);
    details.causes.push(StatusCause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    });
    Box::new(refusal(504, reason::TIMEOUT, &message).with_details(details))
}
