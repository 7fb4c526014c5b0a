//! The structural schema of a CRD: what it prunes, defaults and refuses.
//!
//! Rules in CEL are not evaluated; everything else that an OpenAPI v3 schema of ours says is.

use serde_json::{Map, Value};

use crate::refusal::Invalid;

#[derive(Debug)]
pub(crate) struct Schema {
    root: Value,
}

impl Schema {
    pub(crate) fn new(root: Value) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Drops fields the schema does not know and nulls it does not allow, then fills in defaults,
    /// as the real server does before it validates.
    pub(crate) fn conform(&self, object: &mut Value) {
        let Some(fields) = object.as_object_mut() else {
            return;
        };
        let Some(properties) = self.root.get("properties").and_then(Value::as_object) else {
            return;
        };
        fields.retain(|name, _| is_envelope(name) || properties.contains_key(name));
        for (name, schema) in properties {
            if is_envelope(name) {
                continue;
            }
            conform_field(fields, name, schema);
        }
    }

    /// The path of a field that the schema does not know, which an apply may not have.
    pub(crate) fn undeclared(&self, object: &Value) -> Option<String> {
        let fields = object.as_object()?.iter();
        let mut described = fields.filter(|(name, _)| !is_envelope(name));
        described.find_map(|(name, value)| {
            let path = format!(".{name}");
            match self.root["properties"].get(name) {
                Some(schema) => undeclared(schema, value, &path),
                None => Some(path),
            }
        })
    }

    pub(crate) fn problems(&self, object: &Value) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let required = self.root.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if object.get(name).is_none() {
                problems.push(required_value(name));
            }
        }
        let properties = self.root.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            if let Some(value) = object.get(name).filter(|_| !is_envelope(name)) {
                check(schema, value, name, &mut problems);
            }
        }
        problems
    }
}

/// Fields that every object has and no CRD's schema describes.
fn is_envelope(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn conform_field(fields: &mut Map<String, Value>, name: &str, schema: &Value) {
    if fields.get(name).is_some_and(Value::is_null) && schema["nullable"] != true {
        fields.remove(name);
    }
    if !fields.contains_key(name)
        && let Some(default) = schema.get("default")
    {
        fields.insert(name.to_owned(), default.clone());
    }
    if let Some(value) = fields.get_mut(name) {
        conform(schema, value);
    }
}

fn conform(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                if schema["x-kubernetes-preserve-unknown-fields"] != true {
                    fields.retain(|name, _| properties.contains_key(name));
                }
                for (name, schema) in properties {
                    conform_field(fields, name, schema);
                }
            } else if let Some(each) = schema
                .get("additionalProperties")
                .filter(|each| each.is_object())
            {
                fields.values_mut().for_each(|value| conform(each, value));
            } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
                fields.clear();
            }
        }
        Value::Array(items) => {
            if let Some(each) = schema.get("items") {
                items.iter_mut().for_each(|item| conform(each, item));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn undeclared(schema: &Value, value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => {
            let properties = schema.get("properties");
            let additional = schema.get("additionalProperties");
            let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
            fields.iter().find_map(|(name, value)| {
                let path = format!("{path}.{name}");
                let known = properties.and_then(|properties| properties.get(name));
                match known.or(additional) {
                    Some(schema) => undeclared(schema, value, &path),
                    None => (!open).then_some(path),
                }
            })
        }
        Value::Array(items) => {
            let each = schema.get("items")?;
            items.iter().find_map(|item| undeclared(each, item, path))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn required_value(field: &str) -> Invalid {
    Invalid {
        field: field.to_owned(),
        message: "Required value".to_owned(),
    }
}

fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<Invalid>) {
    let mut refuse = |message: String| {
        problems.push(Invalid {
            field: path.to_owned(),
            message,
        });
    };
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(wanted) = schema.get("type").and_then(Value::as_str)
        && !has_type(value, wanted)
    {
        let got = type_name(value);
        return refuse(format!(
            "Invalid value: \"{got}\": {path} in body must be of type {wanted}: \"{got}\""
        ));
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let listed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        refuse(format!(
            "Unsupported value: {value}: supported values: {}",
            listed.join(", ")
        ));
    }
    if let Some(number) = value.as_f64() {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            refuse(format!(
                "Invalid value: {value}: {path} in body should be greater than or equal to {least}"
            ));
        }
        if let Some(most) = bound("maximum").filter(|most| number > *most) {
            refuse(format!(
                "Invalid value: {value}: {path} in body should be less than or equal to {most}"
            ));
        }
    }
    let (length, unit) = match value {
        Value::String(text) => (text.chars().count(), "Length"),
        Value::Array(items) => (items.len(), "Items"),
        Value::Object(fields) => (fields.len(), "Properties"),
        Value::Null | Value::Bool(_) | Value::Number(_) => (0, ""),
    };
    let limit = |prefix: &str| {
        schema
            .get(format!("{prefix}{unit}"))
            .and_then(Value::as_u64)
            .and_then(|limit| usize::try_from(limit).ok())
    };
    if let Some(least) = limit("min").filter(|least| length < *least) {
        refuse(format!(
            "Invalid value: {path} in body should be at least {least} long"
        ));
    }
    if let Some(most) = limit("max").filter(|most| length > *most) {
        refuse(format!("Too long: may not be more than {most}"));
    }
    match value {
        Value::Object(fields) => {
            let required = schema.get("required").and_then(Value::as_array);
            for name in required.into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(name) {
                    problems.push(required_value(&format!("{path}.{name}")));
                }
            }
            for (name, value) in fields {
                let each = schema
                    .get("properties")
                    .and_then(|properties| properties.get(name))
                    .or_else(|| schema.get("additionalProperties"));
                if let Some(each) = each {
                    check(each, value, &format!("{path}.{name}"), problems);
                }
            }
        }
        Value::Array(items) => {
            if let Some(each) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    check(each, item, &format!("{path}[{at}]"), problems);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(value: &Value, wanted: &str) -> bool {
    type_name(value) == wanted || (wanted == "number" && value.is_number())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::new(json!({
            "type": "object",
            "required": ["spec"],
            "properties": { "spec": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": { "type": "string", "minLength": 1 },
                    "size": { "type": "integer", "minimum": 0, "maximum": 9, "default": 2 },
                    "shape": { "type": "string", "enum": ["a", "b"] },
                    "note": { "type": "string", "nullable": true },
                    "env": { "type": "object", "additionalProperties": { "type": "string" } },
                },
            } },
        }))
    }

    #[test]
    fn unknown_fields_and_nulls_go_and_defaults_come() {
        let mut object = json!({
            "kind": "Thing",
            "metadata": { "name": "a" },
            "extra": 1,
            "spec": { "image": "i", "shape": null, "note": null, "later": true, "env": { "A": "b" } },
        });
        schema().conform(&mut object);
        assert_eq!(
            object,
            json!({
                "kind": "Thing",
                "metadata": { "name": "a" },
                "spec": { "image": "i", "note": null, "size": 2, "env": { "A": "b" } },
            })
        );
    }

    #[test]
    fn an_undeclared_field_is_found_wherever_it_is() {
        for (object, want) in [
            (
                json!({ "metadata": {}, "spec": { "image": "i", "env": { "A": "b" } } }),
                None,
            ),
            (json!({ "spec": { "later": 1 } }), Some(".spec.later")),
            (json!({ "extra": 1 }), Some(".extra")),
        ] {
            assert_eq!(schema().undeclared(&object).as_deref(), want, "{object}");
        }
    }

    #[test]
    fn each_broken_rule_is_named_by_its_field() {
        for (spec, want) in [
            (json!({ "image": "i" }), vec![]),
            (json!({}), vec!["spec.image"]),
            (json!({ "image": 1 }), vec!["spec.image"]),
            (json!({ "image": "" }), vec!["spec.image"]),
            (
                json!({ "image": "i", "size": 10, "shape": "c" }),
                vec!["spec.shape", "spec.size"],
            ),
            (
                json!({ "image": "i", "env": { "A": 1 } }),
                vec!["spec.env.A"],
            ),
        ] {
            let problems = schema().problems(&json!({ "spec": spec }));
            let fields: Vec<&str> = problems
                .iter()
                .map(|problem| problem.field.as_str())
                .collect();
            assert_eq!(fields, want, "{spec}");
        }
        assert_eq!(schema().problems(&json!({}))[0].field, "spec");
    }
}
