//! From requests to commands.

use std::collections::BTreeMap;

use api_types::{Refusal, Revision};
use api_wire::fns::AnnotationsBody;
use api_wire::planes::RegisterRegion;
use api_wire::{AppBody, FnBody, TriggerBody, json, time};
use global_plane_state::{AppDraft, Command, FnDraft, Preconditions, RequestId, TriggerDraft};
use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};

use crate::machine::disk;
use daemon::clock;

/// Under what a write may happen, from its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub request: RequestId,
    pub preconditions: Preconditions,
}

/// What clients mint is 36 bytes at most; more only fills the session table.
const KEY_BYTES_MAX: usize = 255;

impl Terms {
    /// A write that is never resent by its client.
    #[must_use]
    pub fn minted() -> Self {
        Self {
            request: RequestId(clock::mint()),
            preconditions: Preconditions::default(),
        }
    }

    /// `place` is the method and path: one key used on two resources means two writes.
    ///
    /// # Errors
    /// If a header says nothing that can be held to.
    pub fn read(headers: &HeaderMap, place: &str) -> Result<Self, Refusal> {
        let text = |name: &HeaderName| {
            let value = headers.get(name)?;
            Some(value.to_str().unwrap_or("\u{0}").trim())
        };
        let mut terms = Self::minted();
        if let Some(key) = text(&HeaderName::from_static("idempotency-key")) {
            let printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if key.is_empty() || key.len() > KEY_BYTES_MAX || !printable {
                return Err(Refusal::invalid(
                    "Idempotency-Key must be 1 to 255 printable ASCII characters",
                ));
            }
            terms.request = RequestId(format!("{place} {key}"));
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

    fn read(headers: &[(&'static str, &str)]) -> Result<Terms, Refusal> {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        Terms::read(&headers, "POST /v2/apps")
    }

    #[test]
    fn headers_say_under_what_a_write_may_happen() {
        let keyed = read(&[("idempotency-key", "k 1")]).unwrap();
        assert_eq!(keyed.request, RequestId("POST /v2/apps k 1".to_owned()));
        for value in ["42", "\"42\""] {
            let terms = read(&[("if-match", value)]).unwrap();
            assert_eq!(terms.preconditions.if_match, Some(Revision(42)), "{value}");
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
