//! Built-in types, as `k8s-openapi` reads them.

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event as CoreEvent, Namespace, Node, Pod, Secret, Service,
};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::refusal::{self, FailureStatus, Invalid};
use crate::resource::Definition;

/// Reads the object into its type and back: unknown fields and nulls go, wrong types are refused.
pub(crate) fn conform(definition: &Definition, object: &mut Value) -> Result<(), FailureStatus> {
    match (definition.group.as_str(), definition.kind.as_str()) {
        ("", "Pod") => read_as::<Pod>(definition, object),
        ("", "Secret") => {
            read_as::<Secret>(definition, object)?;
            encode_string_data(object);
            Ok(())
        }
        ("", "ConfigMap") => read_as::<ConfigMap>(definition, object),
        ("", "Node") => read_as::<Node>(definition, object),
        ("", "Namespace") => read_as::<Namespace>(definition, object),
        ("", "Service") => read_as::<Service>(definition, object),
        ("", "Event") => read_as::<CoreEvent>(definition, object),
        ("events.k8s.io", "Event") => read_as::<Event>(definition, object),
        ("coordination.k8s.io", "Lease") => read_as::<Lease>(definition, object),
        ("apps", "Deployment") => read_as::<Deployment>(definition, object),
        ("apps", "DaemonSet") => read_as::<DaemonSet>(definition, object),
        ("apiextensions.k8s.io", _) => read_as::<CustomResourceDefinition>(definition, object),
        _ => Ok(()),
    }
}

fn read_as<T: DeserializeOwned + Serialize>(
    definition: &Definition,
    object: &mut Value,
) -> Result<(), FailureStatus> {
    let typed: T = serde_json::from_value(object.take()).map_err(|error| {
        refusal::bad_request(&format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: {error}",
            kind = definition.kind,
            version = definition.versions[0],
        ))
    })?;
    *object = serde_json::to_value(typed).expect("a type of ours can be written");
    Ok(())
}

/// `stringData` is write-only: it ends in `data`.
fn encode_string_data(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else {
        return;
    };
    let Some(Value::Object(texts)) = fields.remove("stringData") else {
        return;
    };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    for (name, text) in texts {
        let bytes = ByteString(text.as_str().unwrap_or_default().into());
        data[name] = serde_json::to_value(bytes).expect("bytes can be written");
    }
}

/// What is wrong with names, labels and annotations.
pub(crate) fn metadata_problems(object: &Value) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, message: String| {
        problems.push(Invalid {
            field: field.to_owned(),
            message,
        });
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        refuse(
            "metadata.name",
            "Required value: name or generateName is required".to_owned(),
        );
    } else if !is_subdomain(name) {
        refuse(
            "metadata.name",
            format!(
                "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
            ),
        );
    }
    for (field, values_too) in [("labels", true), ("annotations", false)] {
        let pairs = object["metadata"][field].as_object();
        for (key, value) in pairs.into_iter().flatten() {
            if !is_qualified_name(key) {
                refuse(
                    &format!("metadata.{field}"),
                    format!(
                        "Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
                    ),
                );
            }
            let Some(value) = value.as_str() else {
                continue;
            };
            if values_too && !is_label_value(value) {
                refuse(
                    &format!("metadata.{field}"),
                    format!(
                        "Invalid value: {value:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, and be no more than 63 characters"
                    ),
                );
            }
        }
    }
    let owners = object["metadata"]["ownerReferences"].as_array();
    for owner in owners.into_iter().flatten() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                refuse(
                    &format!("metadata.ownerReferences.{field}"),
                    "Invalid value: \"\": must not be empty".to_owned(),
                );
            }
        }
    }
    problems
}

fn ends_with_alphanumerics(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
}

/// At most 253 characters, RFC 1123.
pub(crate) fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        ends_with_alphanumerics(label)
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty()
        || (value.len() <= 63
            && ends_with_alphanumerics(value)
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')))
}

fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && !name.is_empty() && is_label_value(name),
        None => !key.is_empty() && is_label_value(key),
    }
}
