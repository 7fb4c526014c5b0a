//! JSON merge patch (RFC 7396) and JSON patch (RFC 6902).

use serde::Deserialize;
use serde_json::Value;

use crate::refusal::{self, FailureStatus};

pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let fields = target.as_object_mut().expect("made an object above");
    for (name, change) in patch {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Step {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

/// Applies all steps or none.
pub(crate) fn json(target: &Value, patch: Value) -> Result<Value, FailureStatus> {
    let steps: Vec<Step> = serde_json::from_value(patch)
        .map_err(|error| refusal::bad_request(&format!("error decoding patch: {error}")))?;
    let mut patched = target.clone();
    for step in steps {
        match step {
            Step::Add { path, value } => add(&mut patched, &path, value)?,
            Step::Remove { path } => drop(remove(&mut patched, &path)?),
            Step::Replace { path, value } => {
                *patched.pointer_mut(&path).ok_or_else(|| missing(&path))? = value;
            }
            Step::Move { from, path } => {
                let value = remove(&mut patched, &from)?;
                add(&mut patched, &path, value)?;
            }
            Step::Copy { from, path } => {
                let value = patched.pointer(&from).ok_or_else(|| missing(&from))?;
                let value = value.clone();
                add(&mut patched, &path, value)?;
            }
            Step::Test { path, value } => {
                if patched.pointer(&path) != Some(&value) {
                    return Err(unprocessable(&format!("testing path {path} value failed")));
                }
            }
        }
    }
    Ok(patched)
}

fn missing(path: &str) -> FailureStatus {
    unprocessable(&format!("path {path} is missing"))
}

/// The real server answers 422 with its patch library's sentence.
fn unprocessable(why: &str) -> FailureStatus {
    let mut refused = refusal::bad_request(&format!(
        "the server rejected our request due to an error in our request: {why}"
    ));
    refused.code = 422;
    kube::core::response::reason::INVALID.clone_into(&mut refused.reason);
    refused
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), FailureStatus> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| missing(path))?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = target.pointer_mut(parent).ok_or_else(|| missing(path))?;
    Ok((parent, last))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), FailureStatus> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    match parent(target, path)? {
        (Value::Object(fields), name) => {
            fields.insert(name, value);
        }
        (Value::Array(items), at) if at == "-" => items.push(value),
        (Value::Array(items), at) => {
            let at: usize = at.parse().map_err(|_| missing(path))?;
            if at > items.len() {
                return Err(missing(path));
            }
            items.insert(at, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, FailureStatus> {
    match parent(target, path)? {
        (Value::Object(fields), name) => fields.remove(&name).ok_or_else(|| missing(path)),
        (Value::Array(items), at) => match at.parse::<usize>() {
            Ok(at) if at < items.len() => Ok(items.remove(at)),
            Ok(_) | Err(_) => Err(missing(path)),
        },
        _ => Err(missing(path)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_sets_removes_and_replaces_lists_whole() {
        let mut target = json!({ "a": { "b": 1, "c": 2 }, "list": [1, 2], "gone": true });
        merge(
            &mut target,
            &json!({ "a": { "b": 3, "c": null }, "list": [9], "gone": null, "new": { "x": null, "y": 1 } }),
        );
        assert_eq!(
            target,
            json!({ "a": { "b": 3 }, "list": [9], "new": { "y": 1 } })
        );
    }

    #[test]
    fn a_json_patch_is_all_or_nothing() {
        let target = json!({ "a/b": 1, "list": [1, 2], "c": { "d": 4 } });
        for (steps, want) in [
            (
                json!([{ "op": "replace", "path": "/a~1b", "value": 2 }]),
                Some(json!({ "a/b": 2, "list": [1, 2], "c": { "d": 4 } })),
            ),
            (
                json!([
                    { "op": "test", "path": "/list/0", "value": 1 },
                    { "op": "remove", "path": "/list/0" },
                    { "op": "add", "path": "/list/-", "value": 3 },
                    { "op": "move", "from": "/c/d", "path": "/e" },
                ]),
                Some(json!({ "a/b": 1, "list": [2, 3], "c": {}, "e": 4 })),
            ),
            (
                json!([{ "op": "test", "path": "/list/0", "value": 2 }]),
                None,
            ),
            (
                json!([{ "op": "replace", "path": "/nothing", "value": 2 }]),
                None,
            ),
            (json!([{ "op": "remove", "path": "/list/2" }]), None),
        ] {
            let got = json(&target, steps.clone());
            match want {
                Some(want) => assert_eq!(got.unwrap(), want, "{steps}"),
                None => assert_eq!(got.unwrap_err().code, 422, "{steps}"),
            }
        }
    }
}
