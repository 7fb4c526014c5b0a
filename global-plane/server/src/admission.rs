//! Which writes may enter the log.
//!
//! Everything here is refused before it is proposed, never when it is applied: a rule of
//! [`State::apply`] that differs between versions would let their states part, and the size of an
//! object as JSON changes with its form. Only the leader asks, so that it knows the newest object that
//! a change is merged into: it has applied every write of earlier leaders, and of its own it admits one
//! at a time for each object ([`Turns`]). All objects together may go beyond their bound by what is admitted
//! at once.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use api_types::{AppId, BundleRef, Config, FnId, Object, ObjectId, Refusal};
use api_wire::ObjectBody;
use api_wire::bounds::{OBJECT_BYTES_MAX, OBJECTS_BYTES_MAX};
use global_plane_consensus::driver::PAYLOAD_BYTES_MAX;
use global_plane_state::{Command, Envelope, Reply, State, StateParts};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::machine::disk;

/// Turns that objects share: with as many, writes of two objects seldom wait for each other, and a write
/// takes one fsync.
const TURNS: usize = 256;

/// Writes that are merged into one object go one after another, from the look at what it is until what
/// they made of it is applied: two at once might each fit, and make too large an object together.
#[derive(Debug)]
pub struct Turns {
    by_hash: Vec<Arc<Mutex<()>>>,
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            by_hash: std::iter::repeat_with(Arc::default).take(TURNS).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Turns {
    /// Waits for the turn of a write that is merged into an object; `None` for any other. It ends when
    /// what is returned is dropped.
    pub async fn take(&self, command: &Command) -> Option<OwnedMutexGuard<()>> {
        let object = merged_into(command)?;
        let hash = self.hasher.hash_one(object.to_string());
        let turns = u64::try_from(TURNS).expect("it is small");
        let turn = usize::try_from(hash % turns).expect("it is less than their number");
        Some(Arc::clone(&self.by_hash[turn]).lock_owned().await)
    }
}

/// The object that a command changes a part of. Others make one whole, or what they change is bounded.
fn merged_into(command: &Command) -> Option<ObjectId> {
    match command {
        Command::UpdateApp { id, .. } => Some(ObjectId::App(id.clone())),
        Command::UpdateFn { id, .. } => Some(ObjectId::Fn(id.clone())),
        Command::UpdateTrigger { id, .. } => Some(ObjectId::Trigger(id.clone())),
        Command::CreateApp { .. }
        | Command::DeleteApp { .. }
        | Command::CreateFn { .. }
        | Command::DeleteFn { .. }
        | Command::CreateTrigger { .. }
        | Command::DeleteTrigger { .. }
        | Command::RegisterRegion { .. }
        | Command::SetDrained { .. }
        | Command::SetVerdicts { .. }
        | Command::AddBundle { .. }
        | Command::SayKnown { .. }
        | Command::UseFormats { .. } => None,
        #[cfg(feature = "next-format")]
        Command::PutNote { .. } => None,
    }
}

/// The log entry of a write that may be proposed. `before` is its [`excerpt`], `held` what all objects
/// have in bytes.
///
/// A write that the state will refuse anyway is let through, so that the order of Fn's checks and
/// their messages stand in one place.
///
/// # Errors
/// If it is too large, or would make an object that is, or one with configuration that no environment
/// can hold, or if there is no room for what it adds.
pub fn admit(
    before: Option<StateParts>,
    held: usize,
    envelope: &Envelope,
) -> Result<Vec<u8>, Refusal> {
    let payload = disk::encode_envelope(envelope);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "the change has {} bytes, at most {PAYLOAD_BYTES_MAX} can be made at once",
            payload.len()
        )));
    }
    let Some(before) = before else {
        return Ok(payload);
    };
    let sizes: Vec<_> = before
        .objects
        .iter()
        .map(|object| (object.id(), bytes(object)))
        .collect();
    if let Ok(Reply::Put(object)) = State::restore(before).apply(1, envelope).outcome {
        check(&object)?;
        let (id, after) = (object.id(), bytes(&object));
        let replaced = sizes.iter().find(|(known, _)| *known == id);
        room(held, replaced.map_or(0, |(_, bytes)| *bytes), after)?;
    }
    Ok(payload)
}

fn bytes(object: &Object) -> usize {
    ObjectBody::of(object.by_ref()).object.get().len()
}

/// Whether all objects together may grow by what one of them does.
fn room(held: usize, before: usize, after: usize) -> Result<(), Refusal> {
    if after > before && held + (after - before) > OBJECTS_BYTES_MAX {
        return Err(Refusal::full(format!(
            "all objects together have {held} bytes as JSON, at most {OBJECTS_BYTES_MAX} are \
             possible; delete what is not needed"
        )));
    }
    Ok(())
}

fn check(object: &Object) -> Result<(), Refusal> {
    let name = match object {
        Object::App(app) => {
            environment(&app.config)?;
            app.name.clone()
        }
        Object::Fn(function) => {
            environment(&function.config)?;
            function.name.clone()
        }
        Object::Trigger(trigger) => trigger.name.clone(),
        other => other.id().to_string(),
    };
    let bytes = bytes(object);
    if bytes > OBJECT_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "{name} would have {bytes} bytes as JSON, at most {OBJECT_BYTES_MAX} are possible; \
             configuration is the part that grows"
        )));
    }
    Ok(())
}

/// Linux's MAX_ARG_STRLEN: what one `KEY=VALUE` may have, its NUL included (execve(2)).
const VARIABLE_BYTES_MAX: usize = 128 << 10;

/// Keys and values become a process's environment (Fn contract 5.2).
fn environment(config: &Config) -> Result<(), Refusal> {
    for (key, value) in config {
        let problem = if key.is_empty() {
            "a config key is empty; it becomes the name of an environment variable".to_owned()
        } else if let Some(mark) = key.chars().find(|c| matches!(c, '=' | '\0')) {
            format!(
                "config key {key:?} has {mark:?}, which the name of an environment variable cannot have"
            )
        } else if value.contains('\0') {
            format!(
                "the config value of {key:?} has '\\0', which an environment variable cannot have"
            )
        } else if key.len() + value.len() + 2 > VARIABLE_BYTES_MAX {
            format!(
                "config key {key:?} and its value have {} bytes together, an environment variable has \
                 at most {}",
                key.len() + value.len(),
                VARIABLE_BYTES_MAX - 2
            )
        } else {
            continue;
        };
        return Err(Refusal::invalid(problem));
    }
    Ok(())
}

/// Of a state only the objects that the write reads or changes; nothing if it is a retry, which
/// changes nothing any more.
#[must_use]
pub fn excerpt(state: &State, envelope: &Envelope) -> Option<StateParts> {
    if state.answered(&envelope.request) {
        return None;
    }
    let catalog = state.catalog();
    let app = |id: &AppId| catalog.app(id).cloned().map(Object::App);
    let function = |id: &FnId| catalog.function(id).cloned().map(Object::Fn);
    let bundle = |image: Option<&str>| {
        let digest = image?.parse::<BundleRef>().ok()?.digest;
        catalog.bundle(&digest).cloned().map(Object::Bundle)
    };
    let mut parts = StateParts {
        cluster_id: state.cluster_id().to_owned(),
        revision: state.revision(),
        log_time: state.log_time(),
        ..StateParts::default()
    };
    let objects = &mut parts.objects;
    match &envelope.command {
        Command::UpdateApp { id, .. } => objects.extend(app(id)),
        Command::CreateFn { draft, .. } => {
            let owner = draft.app_id.clone().unwrap_or_default();
            objects.extend(app(&AppId::new(owner)));
            objects.extend(bundle(draft.image.as_deref()));
        }
        Command::UpdateFn { id, change } => {
            let stored = catalog.function(id);
            objects.extend(bundle(stored.map(|stored| stored.image.as_str())));
            objects.extend(bundle(change.image.as_deref()));
            objects.extend(function(id));
        }
        Command::CreateTrigger { draft, .. } => {
            let owner = draft.app_id.clone().unwrap_or_default();
            let called = draft.fn_id.clone().unwrap_or_default();
            objects.extend(app(&AppId::new(owner)));
            objects.extend(function(&FnId::new(called)));
        }
        Command::UpdateTrigger { id, change } => {
            let stored = catalog.trigger(id).cloned();
            let called = change.fn_id.clone().filter(|id| !id.is_empty());
            let called = called.map(FnId::new);
            let called = called.or_else(|| Some(stored.as_ref()?.fn_id.clone()));
            objects.extend(called.as_ref().and_then(function));
            objects.extend(stored.map(Object::Trigger));
        }
        Command::RegisterRegion { region } => {
            objects.extend(catalog.region(&region.name).cloned().map(Object::Region));
        }
        Command::CreateApp { .. }
        | Command::DeleteApp { .. }
        | Command::DeleteFn { .. }
        | Command::DeleteTrigger { .. }
        | Command::SetDrained { .. }
        | Command::SetVerdicts { .. }
        | Command::AddBundle { .. }
        | Command::SayKnown { .. }
        | Command::UseFormats { .. } => {}
        #[cfg(feature = "next-format")]
        Command::PutNote { .. } => {}
    }
    Some(parts)
}

#[cfg(test)]
mod tests;
