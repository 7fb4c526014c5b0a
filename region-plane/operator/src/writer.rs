//! What `Function` objects there should be, by the metadata replica.
//!
//! Pure. A function's configuration is in a Secret that is never changed: its name carries a hash
//! of what it holds, so a pod gets what was meant when it was made, and whether a Secret is right is
//! known from its name.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{App, Fn, FnId, chain};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use region_plane_replica::{News, RegionCopy};
use region_plane_resources::{Function, FunctionSpec, Scaling, labels, object_name, settings_text};
use sha2::{Digest as _, Sha256};

/// What the replica holds, as objects: everything that may run here. Kept in step at the cost of what
/// changes.
#[derive(Debug, Default, PartialEq)]
pub struct Written {
    /// Whether the replica knows anything at all: an empty one says nothing about what should not
    /// be there.
    pub known: bool,
    /// Newest change it reflects.
    pub revision: i64,
    pub functions: BTreeMap<String, Wanted>,
    /// Functions that cannot be objects, and why.
    pub skipped: BTreeMap<FnId, &'static str>,
    /// Functions by the name of their object. Ids that differ only in case have the same; the first
    /// has it.
    names: BTreeMap<String, BTreeSet<FnId>>,
    /// Of the replica's changes.
    position: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub spec: FunctionSpec,
    pub config: BTreeMap<String, String>,
    /// What of it could not be taken as it is.
    pub notes: Vec<String>,
}

impl Written {
    /// Takes what changed in the replica.
    pub fn catch_up(&mut self, held: &RegionCopy) {
        let (news, position) = held.functions_since(self.position);
        let looked_at = match news {
            News::These(changed) => changed,
            News::All => {
                *self = Self::default();
                held.callable()
                    .map(|function| function.id.clone())
                    .collect()
            }
        };
        self.known = held.meta().is_some();
        self.revision = held.revision().0.try_into().unwrap_or(i64::MAX);
        self.position = position;
        for function in looked_at {
            self.look_at(&function, held);
        }
    }

    /// Looks anew at a function, and at those whose objects would have its name.
    fn look_at(&mut self, id: &FnId, held: &RegionCopy) {
        let is_callable = callable(held, id).is_some();
        self.skipped.remove(id);
        let Some(name) = object_name(id) else {
            if is_callable {
                let problem = "its id cannot be the name of an object";
                self.skipped.insert(id.clone(), problem);
            }
            return;
        };
        let ids = self.names.entry(name.clone()).or_default();
        ids.insert(id.clone());
        ids.retain(|id| callable(held, id).is_some());
        let mut ids = ids.iter();
        let first = ids.next().and_then(|id| Some((id, callable(held, id)?)));
        match first {
            Some((first, (app, function, is_placed))) => {
                let mut wanted = wanted(&name, app, function);
                if !is_placed {
                    wanted.spec.scaling.min = 0;
                }
                self.skipped.remove(first);
                for other in ids {
                    let problem = "another function's id differs from its only in case";
                    self.skipped.insert(other.clone(), problem);
                }
                self.functions.insert(name, wanted);
            }
            None => {
                self.functions.remove(&name);
                self.names.remove(&name);
            }
        }
    }
}

/// A function that may run here, its app, and whether it is placed here: else it comes while all
/// regions that it is placed in are away. By then nobody may be there to write an object.
fn callable<'a>(held: &'a RegionCopy, id: &FnId) -> Option<(&'a App, &'a Fn, bool)> {
    held.order(id)?;
    let function = held.all().function(id)?;
    let app = held.all().app(&function.app_id)?;
    Some((app, function, held.here().function(id).is_some()))
}

fn wanted(name: &str, app: &App, function: &Fn) -> Wanted {
    let mut notes = Vec::new();
    let scaling = Scaling::of(app, function).unwrap_or_else(|problem| {
        notes.push(format!("{}; it is ignored", chain(&problem)));
        Scaling::default()
    });
    let mut config = app.config.clone();
    config.extend(function.config.clone());
    let unfit: BTreeSet<String> = config
        .iter()
        .filter(|(key, value)| !is_variable(key) || value.contains('\0'))
        .map(|(key, _)| key.clone())
        .collect();
    if !unfit.is_empty() {
        config.retain(|key, _| !unfit.contains(key));
        notes.push(format!(
            "configuration that cannot be an environment variable is left out: {unfit:?}"
        ));
    }
    let bundle = function.bundle();
    let image = bundle.is_none().then(|| function.image.clone());
    // A bundle's configuration goes to its pod with the claim.
    let config = match image {
        Some(_) => config,
        None => BTreeMap::new(),
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let spec = FunctionSpec {
        revision: number(app.revision.0.max(function.revision.0)),
        app_id: app.id.to_string(),
        app_name: app.name.clone(),
        fn_id: function.id.to_string(),
        fn_name: function.name.clone(),
        image,
        bundle: bundle.map(|bundle| bundle.digest.to_string()),
        memory_mb: number(function.memory),
        timeout_secs: function.timeout_secs.try_into().unwrap_or(i32::MAX),
        idle_timeout_secs: function.idle_timeout_secs.try_into().unwrap_or(i32::MAX),
        config_secret: secret_name(name, &config),
        scaling,
        shape: match function.shape.is_empty() {
            true => app.shape.clone(),
            false => function.shape.clone(),
        },
        settings: settings_text(region_plane_replica::settings(app, function)),
    };
    Wanted {
        spec,
        config,
        notes,
    }
}

/// What both a Secret's key and a container's variable may be.
fn is_variable(key: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    key.len() <= 253
        && key.bytes().all(word)
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && !matches!(key, "" | "." | "..")
        && !key.starts_with("..")
}

/// Whether a Secret's name is one that we give to `function`'s.
pub(crate) fn is_secret_of(name: &str, function: &str) -> bool {
    let hash = name
        .strip_prefix(function)
        .and_then(|rest| rest.strip_prefix('-'));
    hash.is_some_and(|hash| {
        hash.len() == 2 * HASH_BYTES && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// A function has few Secrets at a time; that two of them differ and have one name is once in 2^40.
const HASH_BYTES: usize = 5;

fn secret_name(function: &str, config: &BTreeMap<String, String>) -> Option<String> {
    if config.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    for (key, value) in config {
        for text in [key, value] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
    }
    let digest = digest.finalize();
    let head: [u8; HASH_BYTES] = *digest.first_chunk().expect("SHA-256 has 32 bytes");
    let hash = head.iter().fold(String::new(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    });
    Some(format!("{function}-{hash}"))
}

/// As it is applied: what we manage, and nothing else.
#[must_use]
pub fn function_object(name: &str, namespace: &str, wanted: &Wanted) -> Function {
    let mut object = Function::new(name, wanted.spec.clone());
    object.metadata.namespace = Some(namespace.to_owned());
    object.metadata.labels = Some(managed());
    object
}

#[must_use]
pub fn secret_object(
    function: &str,
    namespace: &str,
    owner: OwnerReference,
    wanted: &Wanted,
) -> Option<Secret> {
    let mut labels = managed();
    labels.insert(labels::FUNCTION.to_owned(), function.to_owned());
    Some(Secret {
        metadata: ObjectMeta {
            name: Some(wanted.spec.config_secret.clone()?),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(
            wanted
                .config
                .iter()
                .map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    })
}

fn managed() -> BTreeMap<String, String> {
    [(
        labels::MANAGED_BY.to_owned(),
        labels::MANAGED_BY_VALUE.to_owned(),
    )]
    .into()
}

#[cfg(test)]
mod tests;
