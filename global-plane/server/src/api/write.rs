//! From requests to commands.

use std::collections::BTreeMap;

use api_fn_http::ApiError;
use api_fn_http::body;
use api_types::{Digest, Refusal, Revision};
use api_wire::fns::AnnotationsBody;
use api_wire::planes::RegisterRegion;
use api_wire::{AppBody, FnBody, TriggerBody, json, time};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use global_plane_state::{AppDraft, Command, FnDraft, RequestId, TriggerDraft};
use http::header::{HOST, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use crate::machine::disk;
use crate::terms::Terms;

/// A write as it was sent.
pub struct Received {
    pub terms: Terms,
    /// The request's `Host`.
    pub host: Option<String>,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Received {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (head, sent) = request.into_parts();
        let body = body::whole(&head.headers, sent).await?;
        let terms = read_terms(&head, &body)?;
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        // HTTP/2 has the host in the target.
        let host = host.or_else(|| Some(head.uri.authority()?.as_str()));
        Ok(Self {
            terms,
            host: host.map(str::to_owned),
            body,
        })
    }
}

impl Received {
    /// The body, of a write that has one.
    ///
    /// # Errors
    /// 400 `Invalid JSON`.
    pub fn object<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::object(&self.body)
    }
}

/// What clients mint is 36 bytes at most; more only fills the session table.
const KEY_BYTES_MAX: usize = 255;

/// # Errors
/// If a header says nothing that can be held to.
fn read_terms(head: &Parts, body: &[u8]) -> Result<Terms, Refusal> {
    let text = |name: &HeaderName| text_of(&head.headers, name);
    let mut terms = Terms::minted();
    if let Some(key) = text(&HeaderName::from_static("idempotency-key")) {
        let printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !printable {
            return Err(Refusal::invalid(
                "Idempotency-Key must be 1 to 255 printable ASCII characters",
            ));
        }
        // Ids that are minted have no space.
        terms.request = RequestId(format!("key {key}"));
        terms.fingerprint = Some(fingerprint(head, body));
    }
    if let Some(value) = text(&IF_MATCH) {
        let revision = value.trim_matches('"').parse().map_err(|_| {
            Refusal::invalid("If-Match takes the object's revision, as 42 or \"42\"")
        })?;
        terms.preconditions.if_match = Some(Revision(revision));
    }
    if let Some(value) = text(&IF_NONE_MATCH) {
        if value != "*" {
            return Err(Refusal::invalid("If-None-Match takes only *"));
        }
        terms.preconditions.if_none_match_any = true;
    }
    Ok(terms)
}

/// What is not text reads as no key, revision or `*` can.
fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?;
    Some(value.to_str().unwrap_or("\u{0}").trim())
}

/// What a retry must have in common with the first try
/// (draft-ietf-httpapi-idempotency-key-header-07, section 2.4). Each part is preceded by its length, so
/// that no two requests have one text.
fn fingerprint(head: &Parts, body: &[u8]) -> Digest {
    let condition = |name| text_of(&head.headers, &name).unwrap_or_default().as_bytes();
    let mut hasher = Sha256::new();
    for part in [
        head.method.as_str().as_bytes(),
        head.uri.path().as_bytes(),
        condition(IF_MATCH),
        condition(IF_NONE_MATCH),
        body,
    ] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Digest(hasher.finalize().into())
}

/// Annotations as sent: `""` and `null` are `None`, which deletes (Fn contract 5.1).
fn annotations(body: &AnnotationsBody) -> BTreeMap<String, Option<String>> {
    body.iter()
        .map(|(key, value)| {
            let text = json::compact(value.get());
            let kept = text != "null" && text != r#""""#;
            (key.clone(), kept.then_some(text))
        })
        .collect()
}

#[must_use]
pub fn app(body: AppBody) -> AppDraft {
    AppDraft {
        annotations: body.annotations.as_ref().map(annotations),
        id: body.id,
        name: body.name,
        config: body.config,
        syslog_url: body.syslog_url,
        shape: body.shape,
    }
}

#[must_use]
pub fn function(body: FnBody) -> FnDraft {
    FnDraft {
        annotations: body.annotations.as_ref().map(annotations),
        id: body.id,
        name: body.name,
        app_id: body.app_id,
        image: body.image,
        memory: body.memory,
        timeout_secs: body.timeout,
        idle_timeout_secs: body.idle_timeout,
        config: body.config,
    }
}

#[must_use]
pub fn trigger(body: TriggerBody) -> TriggerDraft {
    TriggerDraft {
        annotations: body.annotations.as_ref().map(annotations),
        created_at_given: !time::is_unset(body.created_at.as_deref()),
        updated_at_given: !time::is_unset(body.updated_at.as_deref()),
        id: body.id,
        name: body.name,
        app_id: body.app_id,
        fn_id: body.fn_id,
        kind: body.kind,
        source: body.source,
    }
}

/// # Errors
/// If its name can be none of a region.
pub fn register(body: RegisterRegion) -> Result<Command, Refusal> {
    let region =
        disk::region_draft(body).map_err(|problem| Refusal::invalid(problem.to_string()))?;
    Ok(Command::RegisterRegion { region })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn read(headers: &[(&str, &str)]) -> Result<Terms, Refusal> {
        read_terms(&head("POST", "/v2/apps", headers), b"{}")
    }

    #[test]
    fn headers_say_under_what_a_write_may_happen() {
        let keyed = read(&[("idempotency-key", "k 1")]).unwrap();
        assert_eq!(keyed.request, RequestId("key k 1".to_owned()));
        assert!(keyed.fingerprint.is_some());
        for value in ["42", "\"42\""] {
            let terms = read(&[("if-match", value)]).unwrap();
            assert_eq!(terms.preconditions.if_match, Some(Revision(42)), "{value}");
            assert_eq!(terms.fingerprint, None, "the server minted its id");
        }
        let terms = read(&[("if-none-match", "*")]).unwrap();
        assert!(terms.preconditions.if_none_match_any);
        assert_ne!(read(&[]).unwrap().request, read(&[]).unwrap().request);
        for (name, value) in [
            ("idempotency-key", ""),
            ("if-match", "yesterday"),
            ("if-match", "*"),
            ("if-none-match", "42"),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn a_fingerprint_is_of_everything_that_makes_the_write() {
        let key = ("idempotency-key", "k");
        let requests = [
            (head("POST", "/v2/apps", &[key]), "{}"),
            (head("POST", "/v2/apps", &[key]), "{ }"),
            (head("POST", "/v2/fns", &[key]), "{}"),
            (head("PUT", "/v2/apps", &[key]), "{}"),
            (head("POST", "/v2/apps", &[key, ("if-match", "4")]), "{}"),
            (head("POST", "/v2/apps", &[key, ("if-match", "42")]), "{}"),
            (
                head("POST", "/v2/apps", &[key, ("if-none-match", "*")]),
                "{}",
            ),
        ];
        let of = |(head, body): &(Parts, &str)| {
            read_terms(head, body.as_bytes())
                .unwrap()
                .fingerprint
                .unwrap()
        };
        for (at, one) in requests.iter().enumerate() {
            for (other_at, other) in requests.iter().enumerate() {
                assert_eq!(of(one) == of(other), at == other_at, "{one:?}, {other:?}");
            }
        }
        let same = head("POST", "/v2/apps", &[("user-agent", "x"), key]);
        assert_eq!(of(&(same, "{}")), of(&requests[0]));
    }

    #[test]
    fn empty_and_null_annotations_delete() {
        let body = r#"{"annotations":{"a":"","b":null,"c":{ "y": 1, "x": [ 2 ] }}}"#;
        let draft = app(serde_json::from_str(body).unwrap());
        let want = [
            ("a", None),
            ("b", None),
            ("c", Some(r#"{"y":1,"x":[2]}"#.to_owned())),
        ];
        let want = want.map(|(key, value)| (key.to_owned(), value));
        assert_eq!(draft.annotations.unwrap(), BTreeMap::from(want));
    }
}
