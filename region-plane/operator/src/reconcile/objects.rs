//! `Function` objects and their Secrets.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use region_plane_resources::Function;
use tracing::{info, warn};

use super::{Running, Source, TRIED_AGAIN_AFTER};
use crate::cluster::{Kind, read};
use crate::lease::ACCEPT_DELETIONS;
use crate::plan::{Moment, Owner, Reason};
use crate::refusal::Refusal;
use crate::state::Record;
use crate::write::{Answer, Write};
use crate::writer::{function_object, secret_object};

/// Requests under way are answered within this, mostly, and leave room for others.
const SLOTS_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What the server accepts and stores otherwise will be so until somebody upgrades.
const PRUNED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A function that goes is kept for its calls under way, and this much longer.
const DRAIN_MARGIN: Duration = Duration::from_secs(30);

impl Running {
    /// Brings `Function` objects and their Secrets in step with the replica.
    pub(super) fn write_objects(&mut self, now: Moment, fence: u64) {
        if !self.objects_due || !matches!(self.source, Source::Replica(_)) {
            self.objects_due = false;
            return;
        }
        if self.state.undefined(Kind::Functions) || !self.written.known {
            self.objects_due = false;
            return;
        }
        for (function, problem) in self.written.skipped.clone() {
            let message = format!("function {function} is skipped: {problem}");
            self.warn_about_us("FunctionSkipped", message);
        }
        self.resting.retain(|_, until| *until > now);
        let mut room = self.others.available(now).min(self.slots());
        let mut left = false;
        let mut later: Option<Moment> = None;
        let names: Vec<String> = self.written.functions.keys().cloned().collect();
        for name in names {
            let Some(write) = self.object_write(&name, &mut later) else {
                continue;
            };
            if room == 0 {
                left = true;
                break;
            }
            room -= 1;
            self.begin_object(write, fence);
        }
        self.delete_objects(now, fence, &mut room, &mut left, &mut later);
        self.objects_due = false;
        if left {
            let next = self.others.next_token(now).max(now + SLOTS_AGAIN_AFTER);
            earlier(&mut later, next);
        }
        self.objects_at = later;
    }

    fn begin_object(&mut self, write: Write, fence: u64) {
        let key = match &write {
            Write::ApplyFunction { name, .. }
            | Write::DeleteFunction { name, .. }
            | Write::DeleteSecret { name } => name.clone(),
            Write::ApplySecret { object, .. } => object.metadata.name.clone().unwrap_or_default(),
            _ => return,
        };
        self.writing.insert(key);
        self.send(write, fence);
    }

    /// What one function's objects lack, if they may be written now.
    fn object_write(&mut self, name: &str, later: &mut Option<Moment>) -> Option<Write> {
        let wanted = &self.written.functions[name];
        let record = self.state.functions.get(name);
        let rests = |key: &str, later: &mut Option<Moment>| {
            if let Some(until) = self.resting.get(key) {
                *later = Some(later.map_or(*until, |at| at.min(*until)));
                return true;
            }
            self.writing.contains(key)
        };
        if let Some(secret) = &wanted.spec.config_secret
            && let Some(record) = record
            && let Some(secrets) = &self.state.secrets
            && !secrets.contains_key(secret)
            && !rests(secret, later)
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
        let differs = match record {
            None => true,
            Some(record) => {
                !record.meta.managed
                    || record
                        .object
                        .as_ref()
                        .map_or(true, |object| object.spec != wanted.spec)
            }
        };
        let refused = self.applied.get(name).map(Arc::as_ref) == Some(wanted);
        if !differs || self.writing.contains(name) || (refused && rests(name, later)) {
            return None;
        }
        let object = function_object(name, &self.settings.namespace, wanted);
        let wanted = Arc::new(wanted.clone());
        let ours = self.applied.insert(name.to_owned(), Arc::clone(&wanted));
        let same_revision = record
            .and_then(|record| record.object.as_ref().ok())
            .is_some_and(|object| object.spec.revision == wanted.spec.revision);
        let drifted = record.is_some() && (ours.as_ref() == Some(&wanted) || same_revision);
        let owner = Owner::Function(name.to_owned());
        if drifted {
            info!(function = name, "changed by somebody else, and put back");
            self.warn_about(
                &owner,
                "ManagedFieldsRestored",
                "somebody changed what Tradewind manages, and it was put back; change the function through Fn's API".to_owned(),
            );
        }
        for note in wanted.notes.clone() {
            warn!(function = name, note, "not taken as it is");
            self.warn_about(&owner, "NotTaken", note);
        }
        Some(Write::ApplyFunction {
            name: name.to_owned(),
            object: Box::new(object),
        })
    }

    /// Functions that are not placed here any more, and Secrets that nothing names.
    fn delete_objects(
        &mut self,
        now: Moment,
        fence: u64,
        room: &mut u32,
        left: &mut bool,
        later: &mut Option<Moment>,
    ) {
        let functions = &self.state.functions;
        let written = &self.written;
        self.applied
            .retain(|name, _| written.functions.contains_key(name));
        let managed = functions
            .values()
            .filter(|record| record.meta.managed)
            .count();
        let doomed: BTreeMap<String, (String, Duration)> = functions
            .iter()
            .filter(|(name, record)| {
                // An object of a newer revision than the replica's is none that it has deleted.
                let known = record
                    .object
                    .as_ref()
                    .map_or(true, |object| object.spec.revision <= written.revision);
                record.meta.managed && known && !written.functions.contains_key(*name)
            })
            .map(|(name, record)| {
                let timeout = record
                    .object
                    .as_ref()
                    .map_or(0, |object| object.spec.timeout_secs);
                let drain = Duration::from_secs(u64::from(timeout.unsigned_abs())) + DRAIN_MARGIN;
                (name.clone(), (record.meta.uid.clone(), drain))
            })
            .collect();
        self.doomed.retain(|name, _| doomed.contains_key(name));
        let mass = doomed.len() > 10 && doomed.len() > managed / 2 && now >= self.accepted_until;
        self.objects_held = mass.then(|| {
            format!(
                "{} of {managed} Function objects are to be deleted at once; they are kept until the lease is annotated {ACCEPT_DELETIONS}=true",
                doomed.len()
            )
        });
        self.tell_held(self.objects_held.clone());
        if !mass {
            for (name, (uid, drain)) in doomed {
                let since = *self.doomed.entry(name.clone()).or_insert(now);
                let busy = self.state.demands.holds(&name, now);
                if busy && now < since + drain {
                    earlier(later, now + Duration::from_secs(1));
                    continue;
                }
                if self.writing.contains(&name) || self.resting.contains_key(&name) {
                    continue;
                }
                if *room == 0 {
                    *left = true;
                    break;
                }
                *room -= 1;
                info!(function = name, "not placed here any more, deleted");
                self.begin_object(Write::DeleteFunction { name, uid }, fence);
            }
        }
        let named: HashSet<&str> =
            self.written
                .functions
                .values()
                .filter_map(|wanted| wanted.spec.config_secret.as_deref())
                .chain(self.state.functions.values().filter_map(|record| {
                    record.object.as_ref().ok()?.spec.config_secret.as_deref()
                }))
                .collect();
        let idle: Vec<String> = self
            .state
            .secrets
            .iter()
            .flatten()
            .map(|(secret, _)| secret)
            .filter(|secret| !named.contains(secret.as_str()))
            .cloned()
            .collect();
        self.idle_secrets.retain(|secret, _| idle.contains(secret));
        for secret in idle {
            let since = *self.idle_secrets.entry(secret.clone()).or_insert(now);
            let until = since + self.settings.secret_kept_for;
            if now < until {
                earlier(later, until);
                continue;
            }
            if self.writing.contains(&secret) || self.resting.contains_key(&secret) {
                continue;
            }
            if *room == 0 {
                *left = true;
                return;
            }
            *room -= 1;
            self.begin_object(Write::DeleteSecret { name: secret }, fence);
        }
    }

    pub(super) fn function_applied(
        &mut self,
        name: String,
        sent: &Function,
        result: Result<Answer, Refusal>,
        now: Moment,
    ) {
        self.objects_due = true;
        let owner = Owner::Function(name.clone());
        match result {
            Ok(Answer::Object(object)) => {
                let object = Arc::unwrap_or_clone(object);
                let Some((name, meta, object)) = read::<Function>(object) else {
                    return;
                };
                let as_sent = object.as_ref().is_ok_and(|stored| stored.spec == sent.spec);
                if !as_sent {
                    self.resting.insert(name.clone(), now + PRUNED_AGAIN_AFTER);
                    let lacking = self.state.lacking.join(", ");
                    let message = format!(
                        "the server stored it otherwise than it was sent, its definition lacks {lacking}; install the resource definitions of this version"
                    );
                    self.warn_about(
                        &owner,
                        &Reason::ResourceDefinitionOutdated.to_string(),
                        message,
                    );
                }
                self.state.function_put(name, Record { meta, object });
            }
            Ok(_) => {}
            Err(Refusal::Conflict | Refusal::Throttled { .. }) => {}
            Err(refusal) => {
                self.resting.insert(name, now + TRIED_AGAIN_AFTER);
                if let Refusal::Refused(trouble) = refusal {
                    warn!(object = owner.name(), reason = %trouble.reason, problem = trouble.message, "write refused");
                    self.warn_about(&owner, &trouble.reason.to_string(), trouble.message);
                }
            }
        }
    }
}

fn earlier(later: &mut Option<Moment>, at: Moment) {
    *later = Some(later.map_or(at, |other| other.min(at)));
}
