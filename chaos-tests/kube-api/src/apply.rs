//! Server-side apply: who owns which field, and what an apply makes of that.
//!
//! A manager owns the leaves it applied or last changed. An apply sets its own, conflicts where
//! another owns a leaf with another value, and removes leaves that it owned alone and no longer
//! names. An object never applied to carries no `managedFields`, as on a real server when they are
//! absent; its fields count as `before-first-apply`'s.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::resource::{Definition, built_in_list_keys};

/// What the schema says of the place we are at.
#[derive(Clone, Copy)]
pub(crate) enum Cursor<'a> {
    Schema(&'a Value),
    /// Built-in types and metadata: the field's name alone decides.
    Named(&'a str),
}

enum ListRule {
    Atomic,
    Set,
    Map(Vec<String>),
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(definition: &'a Definition) -> Self {
        match &definition.schema {
            Some(schema) => Cursor::Schema(schema.root()),
            None => Cursor::Named(""),
        }
    }

    fn field(self, name: &'a str) -> Self {
        match self {
            Cursor::Schema(_) if name == "metadata" => Cursor::Named(name),
            Cursor::Schema(schema) => {
                let each = schema
                    .get("properties")
                    .and_then(|properties| properties.get(name))
                    .or_else(|| schema.get("additionalProperties"));
                each.map_or(Cursor::Named(""), Cursor::Schema)
            }
            // Ports of a container and of a Service are named differently, and labels may have any
            // name at all.
            Cursor::Named("labels" | "annotations" | "data" | "stringData") => Cursor::Named(""),
            Cursor::Named("containers") if name == "ports" => Cursor::Named("containerPorts"),
            Cursor::Named(_) => Cursor::Named(name),
        }
    }

    fn item(self) -> Self {
        match self {
            Cursor::Schema(schema) => schema
                .get("items")
                .map_or(Cursor::Named(""), Cursor::Schema),
            Cursor::Named(_) => self,
        }
    }

    fn list(self) -> ListRule {
        match self {
            Cursor::Schema(schema) => match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListRule::Set,
                Some("map") => ListRule::Map(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|key| key.as_str().map(str::to_owned))
                        .collect(),
                ),
                _ => ListRule::Atomic,
            },
            Cursor::Named("finalizers") => ListRule::Set,
            Cursor::Named(name) => match built_in_list_keys().get(name) {
                Some(keys) => ListRule::Map(keys.iter().map(|key| (*key).to_owned()).collect()),
                None => ListRule::Atomic,
            },
        }
    }

    fn is_atomic_map(self) -> bool {
        match self {
            Cursor::Schema(schema) => schema["x-kubernetes-map-type"] == "atomic",
            Cursor::Named(name) => matches!(name, "nodeSelector" | "matchLabels"),
        }
    }
}

/// A set of leaves, in the shape of `FieldsV1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// The place itself is in the set.
    own: bool,
    children: BTreeMap<String, Fields>,
}

impl Fields {
    fn leaf() -> Self {
        Self {
            own: true,
            children: BTreeMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    /// The leaves that `value` sets.
    fn of(value: &Value, cursor: Cursor<'_>) -> Self {
        match value {
            Value::Object(fields) if !fields.is_empty() && !cursor.is_atomic_map() => Self {
                own: false,
                children: fields
                    .iter()
                    .map(|(name, value)| (format!("f:{name}"), Self::of(value, cursor.field(name))))
                    .collect(),
            },
            Value::Array(items) => match cursor.list() {
                ListRule::Atomic => Self::leaf(),
                ListRule::Set => Self {
                    own: false,
                    children: items
                        .iter()
                        .map(|item| (format!("v:{item}"), Self::leaf()))
                        .collect(),
                },
                ListRule::Map(keys) => Self {
                    own: false,
                    children: items
                        .iter()
                        .map(|item| {
                            let mut fields = Self::of(item, cursor.item());
                            fields.own = true;
                            (item_key(item, &keys), fields)
                        })
                        .collect(),
                },
            },
            Value::Object(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => Self::leaf(),
        }
    }

    fn from_json(value: &Value) -> Self {
        let Some(fields) = value.as_object() else {
            return Self::leaf();
        };
        Self {
            own: fields.is_empty() || fields.contains_key("."),
            children: fields
                .iter()
                .filter(|(name, _)| *name != ".")
                .map(|(name, value)| (name.clone(), Self::from_json(value)))
                .collect(),
        }
    }

    fn to_json(&self) -> Value {
        let mut fields: Map<String, Value> = self
            .children
            .iter()
            .map(|(name, fields)| (name.clone(), fields.to_json()))
            .collect();
        if self.own && !fields.is_empty() {
            fields.insert(".".to_owned(), json!({}));
        }
        Value::Object(fields)
    }

    /// Adds all of `other`.
    fn add(&mut self, other: &Self) {
        self.own |= other.own;
        for (name, fields) in &other.children {
            self.children.entry(name.clone()).or_default().add(fields);
        }
    }

    /// Takes all of `other` away.
    fn subtract(&mut self, other: &Self) {
        if other.own {
            self.own = false;
        }
        for (name, fields) in &other.children {
            if let Some(mine) = self.children.get_mut(name) {
                mine.subtract(fields);
                if mine.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    fn shared_with(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(name, fields)| {
                let shared = fields.shared_with(other.children.get(name)?);
                (!shared.is_empty()).then(|| (name.clone(), shared))
            })
            .collect();
        Self {
            own: self.own && other.own,
            children,
        }
    }

    /// Of these leaves, those whose values differ between `left` and `right`.
    fn differing(&self, left: Option<&Value>, right: Option<&Value>, cursor: Cursor<'_>) -> Self {
        if left == right {
            return Self::default();
        }
        let mut differing = Self::default();
        for (key, fields) in &self.children {
            let (next, left) = step(left, cursor, key);
            let (_, right) = step(right, cursor, key);
            let below = fields.differing(left, right, next);
            if !below.is_empty() {
                differing.children.insert(key.clone(), below);
            }
        }
        // A named item of a list is owned beside its fields; it differs only by being there or not.
        differing.own = self.own && (self.children.is_empty() || left.is_none() != right.is_none());
        differing
    }

    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, at: &str, paths: &mut Vec<String>) {
        if self.own {
            paths.push(at.to_owned());
        }
        for (key, fields) in &self.children {
            let below = match key.split_once(':') {
                Some(("f", name)) => format!("{at}.{name}"),
                Some(("k", keys)) => format!("{at}[{}]", keys.trim_matches(['{', '}'])),
                _ => format!("{at}[{key}]"),
            };
            fields.collect_paths(&below, paths);
        }
    }
}

fn item_key(item: &Value, keys: &[String]) -> String {
    let named: Map<String, Value> = keys
        .iter()
        .filter_map(|key| match item.get(key) {
            Some(value) => Some((key.clone(), value.clone())),
            // The one key field of built-in types that has a default.
            None if key == "protocol" => Some((key.clone(), json!("TCP"))),
            None => None,
        })
        .collect();
    format!("k:{}", Value::Object(named))
}

/// The item of a set that a key `v:TEXT` names.
fn set_item(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Goes one key of a [`Fields`] down.
fn step<'a>(
    value: Option<&'a Value>,
    cursor: Cursor<'a>,
    key: &'a str,
) -> (Cursor<'a>, Option<&'a Value>) {
    match key.split_once(':') {
        Some(("f", name)) => (cursor.field(name), value.and_then(|value| value.get(name))),
        Some(("k", _)) => {
            let ListRule::Map(keys) = cursor.list() else {
                return (cursor.item(), None);
            };
            let items = value.and_then(Value::as_array);
            let item = items
                .into_iter()
                .flatten()
                .find(|item| item_key(item, &keys) == key);
            (cursor.item(), item)
        }
        Some((_, text)) => {
            let items = value.and_then(Value::as_array);
            let item = items
                .into_iter()
                .flatten()
                .find(|item| **item == set_item(text));
            (cursor.item(), item)
        }
        None => (cursor, None),
    }
}

fn merged(live: &Value, applied: &Value, cursor: Cursor<'_>) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if !cursor.is_atomic_map() => {
            let mut fields = live.clone();
            for (name, value) in applied {
                let value = match fields.get(name) {
                    Some(old) => merged(old, value, cursor.field(name)),
                    None => value.clone(),
                };
                fields.insert(name.clone(), value);
            }
            Value::Object(fields)
        }
        (Value::Array(live), Value::Array(applied)) => match cursor.list() {
            ListRule::Atomic => Value::Array(applied.clone()),
            ListRule::Set => {
                let mut items = live.clone();
                items.extend(applied.iter().filter(|item| !live.contains(item)).cloned());
                Value::Array(items)
            }
            ListRule::Map(keys) => {
                let mut items = live.clone();
                for item in applied {
                    let key = item_key(item, &keys);
                    match items.iter_mut().find(|old| item_key(old, &keys) == key) {
                        Some(old) => *old = merged(old, item, cursor.item()),
                        None => items.push(item.clone()),
                    }
                }
                Value::Array(items)
            }
        },
        _ => applied.clone(),
    }
}

/// A strategic merge patch: lists of named things merge by name, null and `$patch: delete` remove.
pub(crate) fn strategic(target: &mut Value, patch: &Value, cursor: Cursor<'_>) {
    match (&mut *target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, change) in patch {
                if change.is_null() {
                    target.remove(name);
                } else if !name.starts_with('$') {
                    let value = target.entry(name.as_str()).or_insert(Value::Null);
                    strategic(value, change, cursor.field(name));
                }
            }
        }
        (Value::Array(items), Value::Array(changes)) => match cursor.list() {
            ListRule::Atomic => items.clone_from(changes),
            ListRule::Set => {
                let new = changes.iter().filter(|change| !items.contains(change));
                let new: Vec<Value> = new.cloned().collect();
                items.extend(new);
            }
            ListRule::Map(keys) => {
                for change in changes {
                    let key = item_key(change, &keys);
                    let at = items.iter().position(|item| item_key(item, &keys) == key);
                    match at {
                        Some(at) if change["$patch"] == "delete" => drop(items.remove(at)),
                        Some(at) => strategic(&mut items[at], change, cursor.item()),
                        None => items.push(change.clone()),
                    }
                }
            }
        },
        // Where there is nothing yet, nulls inside still mean nothing.
        (_, Value::Object(_)) => {
            *target = Value::Object(Map::new());
            strategic(target, patch, cursor);
        }
        _ => *target = patch.clone(),
    }
}

/// Takes the leaves of `fields` out of `value`, and containers that this empties.
fn take_out(value: &mut Value, fields: &Fields, cursor: Cursor<'_>) {
    for (key, below) in &fields.children {
        match (key.split_once(':'), &mut *value) {
            (Some(("f", name)), Value::Object(object)) => {
                let Some(inner) = object.get_mut(name) else {
                    continue;
                };
                take_out(inner, below, cursor.field(name));
                let emptied = !below.own
                    && (inner.as_object().is_some_and(Map::is_empty)
                        || inner.as_array().is_some_and(Vec::is_empty));
                if below.own || emptied {
                    object.remove(name);
                }
            }
            (Some(("k", _)), Value::Array(items)) => {
                let ListRule::Map(keys) = cursor.list() else {
                    continue;
                };
                if below.own {
                    items.retain(|item| item_key(item, &keys) != *key);
                } else if let Some(item) =
                    items.iter_mut().find(|item| item_key(item, &keys) == *key)
                {
                    take_out(item, below, cursor.item());
                }
            }
            (Some(("v", text)), Value::Array(items)) => {
                let gone = set_item(text);
                items.retain(|item| *item != gone);
            }
            _ => {}
        }
    }
}

/// Who is writing, as `managedFields` records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) subresource: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Owner {
    writer: Writer,
    applies: bool,
    api_version: String,
    time: String,
    fields: Fields,
}

fn owners(object: &Value) -> Vec<Owner> {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .into_iter()
        .flatten()
        .map(|entry| Owner {
            writer: Writer {
                manager: text(entry, "manager"),
                subresource: entry["subresource"].as_str().map(str::to_owned),
            },
            applies: entry["operation"] == "Apply",
            api_version: text(entry, "apiVersion"),
            time: text(entry, "time"),
            fields: Fields::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

fn record(object: &mut Value, owners: &[Owner]) {
    let entries: Vec<Value> = owners
        .iter()
        .filter(|owner| !owner.fields.is_empty())
        .map(|owner| {
            let mut entry = json!({
                "manager": owner.writer.manager,
                "operation": if owner.applies { "Apply" } else { "Update" },
                "apiVersion": owner.api_version,
                "time": owner.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": owner.fields.to_json(),
            });
            if let Some(subresource) = &owner.writer.subresource {
                entry["subresource"] = json!(subresource);
            }
            entry
        })
        .collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }
}

/// The leaves of `object` that can be owned.
fn ownable(object: &Value, cursor: Cursor<'_>) -> Fields {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in SERVERS_OWN {
            metadata.remove(name);
        }
        if metadata.is_empty() {
            object
                .as_object_mut()
                .expect("it has metadata")
                .remove("metadata");
        }
    }
    if object.as_object().is_some_and(Map::is_empty) {
        return Fields::default();
    }
    Fields::of(&object, cursor)
}

/// Metadata that names the object or is the server's.
const SERVERS_OWN: [&str; 11] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
];

/// What an apply is about.
pub(crate) struct Apply<'a> {
    pub(crate) definition: &'a Definition,
    pub(crate) writer: Writer,
    pub(crate) force: bool,
    pub(crate) now: &'a str,
}

impl Apply<'_> {
    /// Makes the object that results; `live` is `None` when the apply creates it.
    ///
    /// # Errors
    /// The fields that others own with other values, as (manager, path).
    pub(crate) fn to(
        &self,
        live: Option<&Value>,
        applied: &Value,
    ) -> Result<Value, Vec<(String, String)>> {
        let cursor = Cursor::root(self.definition);
        let mine = ownable(applied, cursor);
        let mut owners = live.map(owners).unwrap_or_default();
        if let Some(live) = live
            && owners.is_empty()
        {
            owners.push(Owner {
                writer: Writer {
                    manager: "before-first-apply".to_owned(),
                    subresource: None,
                },
                applies: false,
                api_version: self.definition.api_version(),
                time: self.now.to_owned(),
                fields: ownable(live, cursor),
            });
        }
        let is_me = |owner: &Owner| owner.applies && owner.writer == self.writer;

        let mut conflicts = Vec::new();
        for owner in owners.iter_mut().filter(|owner| !is_me(owner)) {
            let taken = mine
                .shared_with(&owner.fields)
                .differing(live, Some(applied), cursor);
            if self.force {
                owner.fields.subtract(&taken);
            } else {
                let manager = &owner.writer.manager;
                conflicts.extend(
                    taken
                        .paths()
                        .into_iter()
                        .map(|path| (manager.clone(), path)),
                );
            }
        }
        if !conflicts.is_empty() {
            return Err(conflicts);
        }

        let before = owners
            .iter()
            .find(|owner| is_me(owner))
            .map(|owner| owner.fields.clone())
            .unwrap_or_default();
        let mut dropped = before.clone();
        dropped.subtract(&mine);
        for owner in owners.iter().filter(|owner| !is_me(owner)) {
            dropped.subtract(&owner.fields);
        }

        let mut result = match live {
            Some(live) => merged(live, applied, cursor),
            None => applied.clone(),
        };
        take_out(&mut result, &dropped, cursor);
        match owners.iter_mut().find(|owner| is_me(owner)) {
            Some(owner) if owner.fields == mine => {}
            Some(owner) => {
                owner.fields = mine;
                self.now.clone_into(&mut owner.time);
            }
            None => owners.push(Owner {
                writer: self.writer.clone(),
                applies: true,
                api_version: self.definition.api_version(),
                time: self.now.to_owned(),
                fields: mine,
            }),
        }
        record(&mut result, &owners);
        Ok(result)
    }
}

/// Moves ownership after a write that was not an apply: what changed is now `writer`'s.
///
/// Does nothing to an object that nobody ever applied.
pub(crate) fn reassign(
    definition: &Definition,
    old: &Value,
    new: &mut Value,
    writer: &Writer,
    now: &str,
) {
    let mut owners = owners(old);
    if owners.is_empty() {
        return;
    }
    let cursor = Cursor::root(definition);
    let has = ownable(new, cursor);
    let mut gone = ownable(old, cursor);
    gone.subtract(&has);
    let changed = has.differing(Some(old), Some(new), cursor);
    if gone.is_empty() && changed.is_empty() {
        record(new, &owners);
        return;
    }
    let is_me = |owner: &Owner| !owner.applies && owner.writer == *writer;
    for owner in &mut owners {
        owner.fields.subtract(&gone);
        if !is_me(owner) {
            owner.fields.subtract(&changed);
        }
    }
    match owners.iter_mut().find(|owner| is_me(owner)) {
        Some(owner) => {
            owner.fields.add(&changed);
            now.clone_into(&mut owner.time);
        }
        None => owners.push(Owner {
            writer: writer.clone(),
            applies: false,
            api_version: definition.api_version(),
            time: now.to_owned(),
            fields: changed,
        }),
    }
    record(new, &owners);
}
