//! The rules on annotations (Fn contract 5.1), and our own on placement.

use api_types::fns::{
    DNS_NAME_ANNOTATION, HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION, PLACEMENT_ANNOTATION,
};
use api_types::{Annotations, Placement, Refusal};

use crate::command::AnnotationsDraft;

const KEYS_MAX: usize = 100;
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 512;

/// What the server sets on reading. Clients send back whole objects that they read, so these come
/// in and must not be stored (Fn contract 5.3).
const SET_BY_SERVER: [&str; 3] = [
    INVOKE_ENDPOINT_ANNOTATION,
    HTTP_ENDPOINT_ANNOTATION,
    DNS_NAME_ANNOTATION,
];

/// The annotations of a new object.
pub(crate) fn created(draft: Option<&AnnotationsDraft>) -> Result<Annotations, Refusal> {
    let mut held = Annotations::new();
    for (key, value) in draft
        .into_iter()
        .flatten()
        .filter(|(key, _)| !SET_BY_SERVER.contains(&key.as_str()))
    {
        let Some(value) = value else {
            check_key(key)?;
            return Err(Refusal::invalid(
                "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays",
            ));
        };
        put(&mut held, key, value)?;
    }
    check_count(&held)?;
    Ok(held)
}

/// Merges a change: no value deletes, a missing key stays.
pub(crate) fn merge(
    held: &mut Annotations,
    change: Option<&AnnotationsDraft>,
) -> Result<(), Refusal> {
    for (key, value) in change
        .into_iter()
        .flatten()
        .filter(|(key, _)| !SET_BY_SERVER.contains(&key.as_str()))
    {
        match value {
            None => drop(held.remove(key)),
            Some(value) => put(held, key, value)?,
        }
    }
    check_count(held)
}

fn put(held: &mut Annotations, key: &str, value: &str) -> Result<(), Refusal> {
    check_key(key)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Refusal::invalid(
            "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON",
        ));
    }
    if key == PLACEMENT_ANNOTATION {
        Placement::from_json(value).map_err(|error| Refusal::invalid(error.to_string()))?;
    }
    held.insert(key.to_owned(), value.to_owned());
    Ok(())
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::invalid(
            "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace",
        ));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::invalid(
            "Invalid annotation key length, annotation keys may not be larger than 128 bytes",
        ));
    }
    Ok(())
}

fn check_count(held: &Annotations) -> Result<(), Refusal> {
    if held.len() > KEYS_MAX {
        return Err(Refusal::invalid(
            "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)",
        ));
    }
    Ok(())
}
