//! What a write does to the store: checks, defaults, generations, graceful ends and what they
//! drag along.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Address, ChangeKind, ObjectName, Store, Stored};
use crate::apply::{Apply, Cursor, Writer, reassign, strategic};
use crate::refusal::{self, FailureStatus, Invalid};
use crate::resource::{Definition, ResourceKey};
use crate::{built_in, patch, pod};

/// Who writes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// `fieldManager`, or what the server makes of the user agent.
    pub(crate) manager: String,
    pub(crate) subresource: Option<String>,
    pub(crate) dry_run: bool,
}

#[derive(Debug)]
pub(crate) enum Patch {
    Merge(Value),
    Strategic(Value),
    Json(Value),
    Apply { object: Value, force: bool },
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Deletion {
    pub(crate) grace_period_seconds: Option<i64>,
    preconditions: Preconditions,
    propagation_policy: Option<String>,
    dry_run: Vec<String>,
}

impl Deletion {
    /// Without grace, as a kubelet ends a pod that has stopped.
    pub(crate) fn at_once() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Stored>,
    pub(crate) created: bool,
    /// False for a write that left everything as it was, and for a dry run.
    pub(crate) changed: bool,
    /// The object is gone from the store, not only marked.
    pub(crate) removed: bool,
}

pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn new_uid() -> String {
    let hex = format!("{:032x}", rand::rng().random::<u128>());
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, FailureStatus> {
    let fields = object
        .as_object_mut()
        .ok_or_else(|| refusal::bad_request("the object is not a JSON object"))?;
    fields
        .entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(|| refusal::bad_request("metadata is not a JSON object"))
}

fn finalizers(object: &Value) -> usize {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .map_or(0, Vec::len)
}

/// The desired state: everything but metadata and status.
fn desired(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
}

/// Metadata that no write but the server's own changes.
const KEPT: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl Store {
    pub(crate) fn create(
        &mut self,
        definition: &Definition,
        namespace: Option<&str>,
        mut object: Value,
        write: &Write,
    ) -> Result<Written, FailureStatus> {
        let metadata = metadata(&mut object)?;
        if metadata
            .get("resourceVersion")
            .is_some_and(|version| version != "")
        {
            return Err(refusal::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if !metadata.contains_key("name")
            && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
        {
            let suffix: String = (0..5)
                .map(|_| {
                    // The real server's alphabet: no vowels, nothing that looks like another.
                    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
                    char::from(ALPHABET[rand::rng().random_range(0..ALPHABET.len())])
                })
                .collect();
            let name = format!("{prefix}{suffix}");
            metadata.insert("name".to_owned(), json!(name));
        }
        let name = metadata
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        match metadata.get("namespace").and_then(Value::as_str) {
            Some(inside) if namespace.is_some_and(|namespace| namespace != inside) => {
                return Err(refusal::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            _ => {}
        }
        if let Some(namespace) = namespace.filter(|_| definition.namespaced) {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        metadata.insert("uid".to_owned(), json!(new_uid()));
        metadata.insert("creationTimestamp".to_owned(), json!(now()));
        metadata.remove("deletionTimestamp");
        if definition.generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        let key = ObjectName {
            namespace: namespace.unwrap_or_default().to_owned(),
            name: name.clone(),
        };
        if definition.namespaced {
            self.check_namespace(&key.namespace)?;
        }
        if self.get(definition, &key).is_ok() {
            return Err(refusal::already_exists(definition, &name));
        }
        if definition.status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        conform(definition, &mut object)?;
        if definition.is_pods() {
            pod::set_defaults(&mut object);
        }
        if definition.is_crds() {
            establish(&mut object);
        }
        check(definition, &object)?;
        self.check_quota(definition, &key)?;
        if write.dry_run {
            return Ok(Written {
                object: Arc::new(Stored::new(key, self.revision, &object)),
                created: true,
                changed: false,
                removed: false,
            });
        }
        let stored = self.commit(definition, key.clone(), object, ChangeKind::Added);
        // An object whose owners are all gone is collected as soon as it is seen.
        let orphan = !stored.owners.is_empty()
            && !stored
                .owners
                .iter()
                .any(|owner| self.addresses.contains_key(owner));
        if orphan {
            self.collect(vec![Address {
                resource: definition.key(),
                name: key,
            }]);
        }
        Ok(Written {
            object: stored,
            created: true,
            changed: true,
            removed: false,
        })
    }

    fn check_namespace(&self, namespace: &str) -> Result<(), FailureStatus> {
        let namespaces = ResourceKey {
            group: String::new(),
            plural: "namespaces".to_owned(),
        };
        let name = ObjectName {
            namespace: String::new(),
            name: namespace.to_owned(),
        };
        let table = &self.tables[&namespaces];
        if table.objects.contains_key(&name) {
            Ok(())
        } else {
            Err(refusal::not_found(&table.definition, namespace))
        }
    }

    fn check_quota(&self, definition: &Definition, name: &ObjectName) -> Result<(), FailureStatus> {
        let key = (definition.key(), name.namespace.clone());
        let Some(limit) = self.quotas.get(&key) else {
            return Ok(());
        };
        // Ended pods do not count against the real quota either.
        let used = self
            .all(&key.0, Some(&name.namespace))
            .filter(|object| !matches!(object.phase.as_str(), "Succeeded" | "Failed"))
            .count();
        if used < *limit {
            return Ok(());
        }
        let plural = &definition.plural;
        let why = format!(
            "exceeded quota: {namespace}, requested: {plural}=1, used: {plural}={used}, limited: {plural}={limit}",
            namespace = name.namespace,
        );
        Err(refusal::forbidden(definition, &name.name, &why))
    }

    pub(crate) fn update(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        new: Value,
        write: &Write,
    ) -> Result<Written, FailureStatus> {
        let current = self.get(definition, name)?;
        let names_version = new
            .pointer("/metadata/resourceVersion")
            .is_some_and(|version| version != "");
        // Custom resources and leases have no unconditional update.
        if !names_version
            && (definition.schema.is_some() || definition.group == "coordination.k8s.io")
        {
            let problem = Invalid {
                field: "metadata.resourceVersion".to_owned(),
                message: "Invalid value: 0: must be specified for an update".to_owned(),
            };
            return Err(refusal::invalid(definition, &name.name, &[problem]));
        }
        let old = current.value();
        self.replace(definition, &current, &old, new, write, Ownership::Moves)
    }

    pub(crate) fn patch(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        patch: Patch,
        write: &Write,
    ) -> Result<Written, FailureStatus> {
        if let (Patch::Apply { object, .. }, Some(schema)) = (&patch, &definition.schema)
            && let Some(path) = schema.undeclared(object)
        {
            let (namespace, name) = (&name.namespace, &name.name);
            return Err(refusal::undeclared(definition, namespace, name, &path));
        }
        let current = match self.get(definition, name) {
            Ok(current) => current,
            Err(refused) => {
                return match patch {
                    Patch::Apply { object, force } if write.subresource.is_none() => {
                        self.create_by_apply(definition, name, object, force, write)
                    }
                    Patch::Apply { .. }
                    | Patch::Merge(_)
                    | Patch::Strategic(_)
                    | Patch::Json(_) => Err(refused),
                };
            }
        };
        let old = current.value();
        match patch {
            Patch::Merge(change) => {
                let mut new = old.clone();
                patch::merge(&mut new, &change);
                self.replace(definition, &current, &old, new, write, Ownership::Moves)
            }
            Patch::Strategic(_) if definition.schema.is_some() => Err(
                refusal::unsupported_media_type("application/strategic-merge-patch+json"),
            ),
            Patch::Strategic(change) => {
                let mut new = old.clone();
                strategic(&mut new, &change, Cursor::root(definition));
                self.replace(definition, &current, &old, new, write, Ownership::Moves)
            }
            Patch::Json(steps) => {
                let new = patch::json(&old, steps)?;
                self.replace(definition, &current, &old, new, write, Ownership::Moves)
            }
            Patch::Apply { mut object, force } => {
                if object.pointer("/metadata/managedFields").is_some() {
                    return Err(refusal::bad_request("metadata.managedFields must be nil"));
                }
                let version = object.pointer("/metadata/resourceVersion").cloned();
                if version.is_some_and(|version| version != json!(current.revision.to_string())) {
                    return Err(refusal::modified(definition, &name.name));
                }
                conform(definition, &mut object)?;
                strip_to(definition, write.subresource.as_deref(), &mut object);
                let new = Apply {
                    definition,
                    writer: writer(write),
                    force,
                    now: &now(),
                }
                .to(Some(&old), &object)
                .map_err(|owned| refusal::apply_conflict(definition, &name.name, &owned))?;
                self.replace(definition, &current, &old, new, write, Ownership::Settled)
            }
        }
    }

    fn create_by_apply(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        mut object: Value,
        force: bool,
        write: &Write,
    ) -> Result<Written, FailureStatus> {
        conform(definition, &mut object)?;
        strip_to(definition, None, &mut object);
        metadata(&mut object)?.insert("name".to_owned(), json!(name.name));
        let object = Apply {
            definition,
            writer: writer(write),
            force,
            now: &now(),
        }
        .to(None, &object)
        .map_err(|owned| refusal::apply_conflict(definition, &name.name, &owned))?;
        let namespace = definition.namespaced.then_some(name.namespace.as_str());
        self.create(definition, namespace, object, write)
    }

    /// Puts `new` in the place of `current`, as far as the request's subresource reaches.
    fn replace(
        &mut self,
        definition: &Definition,
        current: &Arc<Stored>,
        old: &Value,
        mut new: Value,
        write: &Write,
        ownership: Ownership,
    ) -> Result<Written, FailureStatus> {
        let name = &current.name.name;
        let sent = metadata(&mut new)?;
        let differs = |field: &str, now: &str| {
            sent.get(field)
                .and_then(Value::as_str)
                .is_some_and(|sent| !sent.is_empty() && sent != now)
        };
        if differs("uid", &current.uid) {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                sent["uid"].as_str().unwrap_or_default(),
                current.uid
            );
            return Err(refusal::conflict(definition, name, &why));
        }
        if differs("resourceVersion", &current.revision.to_string()) {
            return Err(refusal::modified(definition, name));
        }
        if differs("name", name) || differs("namespace", &current.name.namespace) {
            return Err(refusal::bad_request(
                "the name of the object does not match the name on the URL",
            ));
        }
        let kept = old["metadata"].as_object().expect("stored with metadata");
        for field in KEPT {
            match kept.get(field) {
                Some(value) => sent.insert(field.to_owned(), value.clone()),
                None => sent.remove(field),
            };
        }
        if ownership == Ownership::Moves {
            sent.remove("managedFields");
        }
        let mut new = match write.subresource.as_deref() {
            None => {
                if definition.status {
                    set_or_remove(&mut new, "status", old.get("status"));
                }
                new
            }
            Some("status") if definition.status => {
                let mut kept = old.clone();
                set_or_remove(&mut kept, "status", new.get("status"));
                let owners = new.pointer("/metadata/managedFields");
                set_or_remove(&mut kept["metadata"], "managedFields", owners);
                kept
            }
            Some("resize") if definition.is_pods() => pod::resized(old, &new)?,
            Some(_) => return Err(refusal::unknown_path()),
        };
        conform(definition, &mut new)?;
        check(definition, &new)?;
        if definition.is_pods() && write.subresource.is_none() {
            pod::check_update(definition, name, old, &new)?;
        }
        if ownership == Ownership::Moves {
            reassign(definition, old, &mut new, &writer(write), &now());
        }
        if definition.generation && !desired(old).eq(desired(&new)) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        if write.dry_run || new == *old {
            let object = if write.dry_run {
                Arc::new(Stored::new(current.name.clone(), current.revision, &new))
            } else {
                Arc::clone(current)
            };
            return Ok(Written {
                object,
                created: false,
                changed: false,
                removed: false,
            });
        }
        let ended = current.terminating
            && finalizers(&new) == 0
            && (!definition.is_pods() || new["metadata"]["deletionGracePeriodSeconds"] == 0);
        if ended {
            let object = self.remove(definition, &current.name, new, false);
            return Ok(Written {
                object,
                created: false,
                changed: true,
                removed: true,
            });
        }
        let object = self.commit(definition, current.name.clone(), new, ChangeKind::Modified);
        Ok(Written {
            object,
            created: false,
            changed: true,
            removed: false,
        })
    }

    /// Changes an object as the cluster's own components do, past every check.
    pub(crate) fn rewrite(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Stored>, FailureStatus> {
        let current = self.get(definition, name)?;
        let old = current.value();
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return Ok(current);
        }
        Ok(self.commit(definition, name.clone(), new, ChangeKind::Modified))
    }

    pub(crate) fn delete(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        options: &Deletion,
    ) -> Result<Written, FailureStatus> {
        let current = self.get(definition, name)?;
        let precondition = |what: &str, wanted: &Option<String>, is: &str| match wanted {
            Some(wanted) if wanted != is => Err(refusal::conflict(
                definition,
                &name.name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"
                ),
            )),
            _ => Ok(()),
        };
        precondition("UID", &options.preconditions.uid, &current.uid)?;
        precondition(
            "ResourceVersion",
            &options.preconditions.resource_version,
            &current.revision.to_string(),
        )?;
        let unchanged = |object: Arc<Stored>| Written {
            object,
            created: false,
            changed: false,
            removed: false,
        };
        if !options.dry_run.is_empty() {
            return Ok(unchanged(current));
        }
        let mut object = current.value();
        let grace = if definition.is_pods() {
            pod::grace_seconds(&object, options.grace_period_seconds)
        } else {
            0
        };
        let orphan = options.propagation_policy.as_deref() == Some("Orphan");
        if grace == 0 && finalizers(&object) == 0 {
            let object = self.remove(definition, name, object, orphan);
            return Ok(Written {
                object,
                created: false,
                changed: true,
                removed: true,
            });
        }
        let already = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        if current.terminating && already.is_none_or(|already| grace >= already) {
            return Ok(unchanged(current));
        }
        let end = Timestamp::now() + std::time::Duration::from_secs(grace.unsigned_abs());
        let metadata = metadata(&mut object)?;
        metadata.insert(
            "deletionTimestamp".to_owned(),
            json!(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        );
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
        if definition.generation
            && !current.terminating
            && let Some(generation) = metadata.get("generation").and_then(Value::as_i64)
        {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
        let object = self.commit(definition, name.clone(), object, ChangeKind::Modified);
        Ok(Written {
            object,
            created: false,
            changed: true,
            removed: false,
        })
    }

    fn remove(
        &mut self,
        definition: &Definition,
        name: &ObjectName,
        object: Value,
        orphan: bool,
    ) -> Arc<Stored> {
        let gone = self.commit(definition, name.clone(), object, ChangeKind::Deleted);
        let dependants = self.dependants.remove(&gone.uid).unwrap_or_default();
        if !orphan {
            self.collect(dependants.into_iter().collect());
        }
        gone
    }

    /// Garbage collection in the background, all at once: deletes each of `candidates` that no
    /// living object owns.
    fn collect(&mut self, candidates: Vec<Address>) {
        for address in candidates {
            let Some(table) = self.tables.get(&address.resource) else {
                continue;
            };
            let definition = Arc::clone(&table.definition);
            let Ok(object) = self.get(&definition, &address.name) else {
                continue;
            };
            let owned = object
                .owners
                .iter()
                .any(|owner| self.addresses.contains_key(owner));
            if !owned {
                self.delete(&definition, &address.name, &Deletion::default())
                    .expect("it exists, and nothing is required of it");
            }
        }
    }
}

/// Whether a write still has to move the ownership of what it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ownership {
    Moves,
    Settled,
}

fn writer(write: &Write) -> Writer {
    Writer {
        manager: write.manager.clone(),
        subresource: write.subresource.clone(),
    }
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    match value {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Leaves of an applied object only what its endpoint writes, so that it owns no more.
fn strip_to(definition: &Definition, subresource: Option<&str>, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    match subresource {
        Some("status") => {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "status"));
        }
        _ if definition.status => {
            fields.remove("status");
        }
        _ => {}
    }
}

/// Prunes and defaults.
fn conform(definition: &Definition, object: &mut Value) -> Result<(), FailureStatus> {
    let api_version = definition.api_version();
    let fields = object
        .as_object_mut()
        .ok_or_else(|| refusal::bad_request("the object is not a JSON object"))?;
    if let Some(kind) = fields.get("kind").and_then(Value::as_str)
        && !kind.is_empty()
        && kind != definition.kind
    {
        return Err(refusal::bad_request(&format!(
            "{kind} in version \"{}\" cannot be handled as a {}",
            definition.versions[0], definition.kind
        )));
    }
    fields.insert("apiVersion".to_owned(), json!(api_version));
    fields.insert("kind".to_owned(), json!(definition.kind));
    match &definition.schema {
        Some(schema) => schema.conform(object),
        None => built_in::conform(definition, object)?,
    }
    Ok(())
}

/// Refuses what is not valid.
fn check(definition: &Definition, object: &Value) -> Result<(), FailureStatus> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut problems = built_in::metadata_problems(object);
    if let Some(schema) = &definition.schema {
        problems.extend(schema.problems(object));
    }
    if definition.is_pods() {
        problems.extend(pod::problems(object));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(refusal::invalid(definition, name, &problems))
    }
}

/// The status that the real server writes within milliseconds of a CRD's creation.
fn establish(crd: &mut Value) {
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": "the initial names have been accepted",
            "lastTransitionTime": now(),
        })
    };
    let names = crd.pointer("/spec/names").cloned().unwrap_or_default();
    crd["status"] = json!({
        "acceptedNames": names,
        "storedVersions": [],
        "conditions": [
            condition("NamesAccepted", "NoConflicts"),
            condition("Established", "InitialNamesAccepted"),
        ],
    });
}
