//! `Function` objects and their Secrets.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use region_plane_resources::{Function, FunctionSpec};
use tokio::time::Instant;
use tracing::{info, warn};

use super::doubt::HeldDeletion;
use super::{IN_FLIGHT_MAX, Rest, Running, Source, TRIED_AGAIN_AFTER};
use crate::api_failure::ApiFailure;
use crate::cluster::{Kind, read};
use crate::lease::{ACCEPT_DELETIONS, Leadership};
use crate::plan::{ConditionReason, Moment, Owner};
use crate::state::Record;
use crate::write::{Write, WriteReply};
use crate::writer::{Wanted, function_object, secret_object};

/// How many of the requests under way may be for objects. The rest is for pods.
const OBJECTS_IN_FLIGHT_MAX: usize = IN_FLIGHT_MAX / 2;

/// Most requests under way are answered within this time and free their slots.
const SLOTS_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// A field that the server drops stays dropped until somebody upgrades its definition.
const PRUNED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A function to be deleted is kept for its longest call, and this much longer.
const DRAIN_MARGIN: Duration = Duration::from_secs(30);

/// Between checks whether a function to be deleted still has running calls.
const DRAIN_LOOKED_EVERY: Duration = Duration::from_secs(1);

/// One look at all objects.
struct Pass {
    now: Moment,
    fence: u64,
    /// Before this time a gateway may have pods that it has not reported; `None` while no gateway reports.
    heard_all: Option<Moment>,
    /// How many more writes may be sent.
    room: u32,
    /// Some objects have not been checked.
    left: bool,
    /// When to check again although no event came.
    later: Option<Moment>,
}

impl Pass {
    fn look_at(&mut self, at: Moment) {
        self.later = Some(self.later.map_or(at, |later| later.min(at)));
    }
}

impl Running {
    /// Brings `Function` objects and their Secrets in step with the replica.
    pub(super) fn write_objects(&mut self, now: Moment, led: Leadership) {
        let due = std::mem::take(&mut self.objects_due);
        let known = matches!(self.source, Source::Replica(_)) && self.written.known;
        if !due || !known || self.state.undefined(Kind::Functions) {
            return;
        }
        let began = Instant::now();
        for (function, problem) in self.written.skipped.clone() {
            let message = format!("function {function} is skipped: {problem}");
            self.warn_about_us("FunctionSkipped", message);
        }
        self.resting.retain(|_, rest| rest.until > now);
        let mut pass = Pass {
            now,
            fence: led.fence,
            heard_all: self.heard_all(led, now),
            room: room(
                self.others.available(now),
                self.others.rate(),
                self.writing.len(),
            )
            .min(self.slots()),
            left: false,
            later: None,
        };
        let mut writes = Vec::new();
        for (name, wanted) in &self.written.functions {
            if writes.len() == pass.room as usize {
                pass.left = true;
                break;
            }
            writes.extend(self.object_write(name, wanted, &mut pass));
        }
        for write in writes {
            if let Write::ApplyFunction { name, wanted, .. } = &write {
                self.note_applied(name, wanted);
            }
            self.begin_object(write, &mut pass);
        }
        self.delete_functions(&mut pass);
        self.delete_secrets(&mut pass);
        // With all slots in use, the end of a write starts the next pass.
        if pass.left && self.writing.len() < OBJECTS_IN_FLIGHT_MAX {
            let least = least_tokens(self.others.rate());
            let next = self.others.next_tokens(least, now);
            pass.look_at(next.max(now + SLOTS_AGAIN_AFTER));
        }
        self.objects_at = pass.later;
        metrics::histogram!("tradewind_operator_objects_seconds")
            .record(began.elapsed().as_secs_f64());
    }

    fn begin_object(&mut self, write: Write, pass: &mut Pass) {
        let key = match &write {
            Write::ApplyFunction { name, .. }
            | Write::DeleteFunction { name, .. }
            | Write::DeleteSecret { name, .. } => name.clone(),
            Write::ApplySecret { object, .. } => object.metadata.name.clone().unwrap_or_default(),
            _ => return,
        };
        self.writing.insert(key);
        pass.room -= 1;
        self.send(write, pass.fence);
    }

    /// Whether an object is being written, or was refused and is not to be asked for again yet.
    fn rests(&self, key: &str, wanted: Option<&Wanted>, pass: &mut Pass) -> bool {
        if self.writing.contains(key) {
            return true;
        }
        let rest = self.resting.get(key).filter(|rest| {
            // A different object may be accepted.
            rest.of.as_deref().is_none_or(|of| Some(of) == wanted)
        });
        rest.inspect(|rest| pass.look_at(rest.until)).is_some()
    }

    /// The write that one function's objects need, if it may be sent now.
    fn object_write(&self, name: &str, wanted: &Wanted, pass: &mut Pass) -> Option<Write> {
        let record = self.state.functions.get(name);
        if let Some(secret) = &wanted.spec.config_secret
            && let Some(record) = record
            && let Some(secrets) = &self.state.secrets
            && !secrets.contains_key(secret)
            && !self.rests(secret, None, pass)
        {
            let owner = OwnerReference {
                api_version: Function::api_version(&()).into_owned(),
                kind: Function::kind(&()).into_owned(),
                name: name.to_owned(),
                uid: record.meta.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            };
            let namespace = &self.settings.namespace;
            return Some(Write::ApplySecret {
                function: name.to_owned(),
                object: Box::new(secret_object(name, namespace, owner, wanted)?),
            });
        }
        let differs = record.is_none_or(|record| {
            let stored = record.object.as_ref().map(|object| &object.spec);
            !record.meta.managed || stored != Ok(&wanted.spec)
        });
        if !differs || self.rests(name, Some(wanted), pass) {
            return None;
        }
        let object = function_object(name, &self.settings.namespace, wanted);
        Some(Write::ApplyFunction {
            name: name.to_owned(),
            object: Box::new(object),
            wanted: Arc::new(wanted.clone()),
        })
    }

    /// Writes events and logs for a function that is applied.
    fn note_applied(&mut self, name: &str, wanted: &Wanted) {
        let owner = Owner::Function(name.to_owned());
        let record = self.state.functions.get(name);
        if record.is_some_and(|record| record.meta.foreign) {
            info!(
                function = name,
                "function object changed by somebody else, restoring it"
            );
            self.warn_about(
                &owner,
                "ManagedFieldsRestored",
                "somebody changed what Tradewind manages, and it is put back; change the function through Fn's API".to_owned(),
            );
        }
        for note in &wanted.notes {
            warn!(
                function = name,
                note, "part of a function's settings was ignored"
            );
            self.warn_about(&owner, "NotTaken", note.clone());
        }
    }

    /// Functions that are not placed here any more.
    fn delete_functions(&mut self, pass: &mut Pass) {
        let now = pass.now;
        let (functions, written) = (&self.state.functions, &self.written);
        let managed = functions.values().filter(|record| record.meta.managed);
        let managed = managed.count();
        let unplaced = |name: &String, record: &Record<Function>| {
            // An object of a newer revision than the replica's is none that it has deleted.
            let spec = record.object.as_ref().map(|object| &object.spec);
            let known = spec.map_or(true, |spec| spec.revision <= written.revision);
            record.meta.managed && known && !written.functions.contains_key(name)
        };
        let doomed: BTreeMap<String, (String, Duration)> = functions
            .iter()
            .filter(|(name, record)| unplaced(name, record))
            .map(|(name, record)| {
                let spec = record.object.as_ref().map(|object| &object.spec);
                let timeout = spec.map_or(0, |spec| spec.timeout_secs);
                let drain = Duration::from_secs(u64::from(timeout.unsigned_abs())) + DRAIN_MARGIN;
                (name.clone(), (record.meta.uid.clone(), drain))
            })
            .collect();
        self.doomed.retain(|name, _| doomed.contains_key(name));
        let news = doomed.len() - self.doomed.len();
        let mass = news > 10 && news > managed / 2 && now >= self.accepted_until;
        let held = mass.then(|| HeldDeletion {
            count: news,
            message: format!(
                "{news} of {managed} Function objects are to be deleted at once; they are kept until the lease is annotated {ACCEPT_DELETIONS}=true"
            ),
        });
        let told = self.objects_held.look(held);
        self.tell_held(told);
        if !mass {
            for name in doomed.keys() {
                self.doomed.entry(name.clone()).or_insert(now);
            }
        }
        for (name, (uid, drain)) in doomed {
            let Some(since) = self.doomed.get(&name).copied() else {
                continue;
            };
            // With the object go its pods, also those in the middle of a call.
            let heard_all = pass.heard_all.unwrap_or(now + DRAIN_LOOKED_EVERY);
            if now < heard_all {
                pass.look_at(heard_all);
                continue;
            }
            if self.state.demands.holds(&name, now) && now < since + drain {
                pass.look_at(now + DRAIN_LOOKED_EVERY);
                continue;
            }
            if self.rests(&name, None, pass) {
                continue;
            }
            if pass.room == 0 {
                pass.left = true;
                break;
            }
            info!(
                function = name,
                "function is not placed here any more, deleting its object"
            );
            self.begin_object(Write::DeleteFunction { name, uid }, pass);
        }
    }

    /// Secrets that no function names.
    fn delete_secrets(&mut self, pass: &mut Pass) {
        let of_objects = self.state.functions.values();
        let of_objects = of_objects.filter_map(|record| {
            let object = record.object.as_ref().ok()?;
            object.spec.config_secret.as_deref()
        });
        let of_replica = self.written.functions.values();
        let named: HashSet<&str> = of_replica
            .filter_map(|wanted| wanted.spec.config_secret.as_deref())
            .chain(of_objects)
            .collect();
        let idle: BTreeMap<String, String> = self
            .state
            .secrets
            .iter()
            .flatten()
            .filter(|(secret, _)| !named.contains(secret.as_str()))
            .map(|(secret, uid)| (secret.clone(), uid.clone()))
            .collect();
        self.idle_secrets
            .retain(|secret, _| idle.contains_key(secret));
        for (secret, uid) in idle {
            let since = self.idle_secrets.entry(secret.clone()).or_insert(pass.now);
            let until = *since + self.settings.secret_kept_for;
            if pass.now < until {
                pass.look_at(until);
                continue;
            }
            if self.rests(&secret, None, pass) {
                continue;
            }
            if pass.room == 0 {
                pass.left = true;
                return;
            }
            self.begin_object(Write::DeleteSecret { name: secret, uid }, pass);
        }
    }

    pub(super) fn function_applied(
        &mut self,
        name: String,
        wanted: Arc<Wanted>,
        result: Result<WriteReply, ApiFailure>,
        now: Moment,
    ) {
        self.objects_due = true;
        let owner = Owner::Function(name.clone());
        match result {
            Ok(WriteReply::Object(object)) => {
                let object = Arc::unwrap_or_clone(object);
                let Some((name, meta, object)) = read::<Function>(object) else {
                    return;
                };
                let as_sent = object
                    .as_ref()
                    .is_ok_and(|stored| stored.spec == wanted.spec);
                if !as_sent {
                    let rest = Rest {
                        until: now + PRUNED_AGAIN_AFTER,
                        of: Some(wanted.clone()),
                        trouble: None,
                    };
                    self.resting.insert(name.clone(), rest);
                    let stored = object.as_ref().map(|stored| &stored.spec);
                    let message = stored_otherwise(stored, &wanted.spec, &self.state.lacking);
                    self.warn_about(
                        &owner,
                        &ConditionReason::ResourceDefinitionOutdated.to_string(),
                        message,
                    );
                }
                self.state.function_put(name, Record { meta, object });
            }
            Ok(_) => {}
            Err(ApiFailure::Conflict | ApiFailure::Throttled { .. }) => {}
            Err(refusal) => {
                let mut rest = Rest {
                    until: now + TRIED_AGAIN_AFTER,
                    of: Some(wanted),
                    trouble: None,
                };
                if let ApiFailure::Refused(trouble) = refusal {
                    warn!(object = owner.name(), reason = %trouble.reason, problem = trouble.message, "write refused");
                    self.warn_about(&owner, &trouble.reason.to_string(), trouble.message.clone());
                    rest.trouble = Some(trouble);
                    self.plan_due = true;
                }
                self.resting.insert(name, rest);
            }
        }
    }
}

/// How many objects may be written now. With many to write, what pods need comes between.
fn room(tokens: u32, per_sec: f64, writing: usize) -> u32 {
    let tokens = tokens / least_tokens(per_sec);
    let slots = OBJECTS_IN_FLIGHT_MAX.saturating_sub(writing);
    tokens.min(u32::try_from(slots).unwrap_or(u32::MAX))
}

/// Of so many tokens one is an object's.
fn least_tokens(per_sec: f64) -> u32 {
    // At so low a rate there is never more than one.
    if per_sec < 2.0 { 1 } else { 2 }
}

/// What people are told of an object that the server changed as it took it.
fn stored_otherwise(
    stored: Result<&FunctionSpec, &String>,
    sent: &FunctionSpec,
    lacking: &[String],
) -> String {
    let fields = |spec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let what = match stored {
        Err(problem) => format!("so that it cannot be read, {problem}"),
        Ok(stored) => {
            let (stored, sent) = (fields(stored), fields(sent));
            let names: BTreeSet<&String> = stored.keys().chain(sent.keys()).collect();
            let differ = names
                .into_iter()
                .filter(|name| stored.get(*name) != sent.get(*name));
            let differ: Vec<&str> = differ.map(String::as_str).collect();
            format!("with other {}", differ.join(", "))
        }
    };
    let advice = match lacking {
        [] => "see which admission webhook changes it, or install the resource definitions of this version".to_owned(),
        lacking => format!(
            "its definition lacks {}; install the resource definitions of this version",
            lacking.join(", ")
        ),
    };
    format!("the server stored it otherwise than it was sent, {what}: {advice}")
}

#[cfg(test)]
mod tests {
    use region_plane_resources::Scaling;

    use super::*;

    #[test]
    fn objects_leave_tokens_and_requests_for_pods_and_come_through_all_the_same() {
        for (tokens, per_sec, writing, want) in [
            (100, 100.0, 0, 32),
            (100, 100.0, 30, 2),
            (100, 100.0, 40, 0),
            (20, 100.0, 0, 10),
            (2, 100.0, 0, 1),
            (1, 100.0, 0, 0),
            (1, 1.5, 0, 1),
            (0, 1.5, 0, 0),
        ] {
            let case = format!("{tokens} at {per_sec}, {writing} under way");
            assert_eq!(room(tokens, per_sec, writing), want, "{case}");
        }
    }

    #[test]
    fn what_the_server_stores_otherwise_is_named_and_so_is_what_to_do() {
        let sent = FunctionSpec {
            revision: 1,
            app_id: "A".to_owned(),
            app_name: "a".to_owned(),
            fn_id: "F".to_owned(),
            fn_name: "f".to_owned(),
            image: Some("image".to_owned()),
            bundle: None,
            memory_mb: 128,
            timeout_secs: 30,
            idle_timeout_secs: 30,
            config_secret: None,
            scaling: Scaling::default(),
            shape: String::new(),
            settings: "1".repeat(16),
        };
        let stored = FunctionSpec {
            memory_mb: 256,
            image: None,
            ..sent.clone()
        };
        let unread = "missing field `settings`".to_owned();
        let lacking = ["Function.spec.settings".to_owned()];
        for (stored, lacking, says) in [
            (Ok(&stored), &[][..], ["image, memoryMb:", "webhook"]),
            (
                Ok(&stored),
                &lacking,
                ["image, memoryMb:", "lacks Function.spec.settings;"],
            ),
            (
                Err(&unread),
                &lacking,
                ["missing field", "lacks Function.spec.settings;"],
            ),
        ] {
            let told = stored_otherwise(stored, &sent, lacking);
            assert!(says.iter().all(|says| told.contains(says)), "{told}");
        }
    }
}
