//! The state and how a command is applied to it.

use std::collections::BTreeMap;

use api_types::catalog::Removed;
use api_types::{
    App, AppId, Catalog, Digest, Fn, FnId, Placement, Refusal, Region, RegionName, Revision,
    Timestamp, Trigger, TriggerId, placement,
};

use crate::command::{
    Applied, Change, Command, Deleted, Envelope, Preconditions, Reply, RequestId,
};
use crate::sessions::{Session, Sessions};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    pub(crate) catalog: Catalog,
    pub(crate) regions: BTreeMap<RegionName, Region>,
    pub(crate) bundles: BTreeMap<Digest, Bundle>,
    sessions: Sessions,
    revision: Revision,
    log_time: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bundle {
    pub size: u64,
    pub revision: Revision,
}

/// A state taken apart, as a shell persists it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parts {
    pub apps: Vec<App>,
    pub fns: Vec<Fn>,
    pub triggers: Vec<Trigger>,
    pub regions: Vec<Region>,
    pub bundles: Vec<(Digest, Bundle)>,
    pub sessions: Vec<(RequestId, Session)>,
    pub revision: Revision,
    pub log_time: Timestamp,
}

/// What one command is about to do: the objects to put, and its reply made with the new revision.
pub(crate) enum Effect {
    Nothing(Reply),
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Regions(Vec<Region>, Option<RegionName>),
    Delete(Deletion),
    Bundle(Digest, u64),
}

pub(crate) enum Deletion {
    App(AppId),
    Fn(FnId),
    Trigger(TriggerId),
}

/// When a command is applied and what comes next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub time: Timestamp,
    pub revision: Revision,
}

impl State {
    #[must_use]
    pub fn restore(parts: Parts) -> Self {
        let mut catalog = Catalog::default();
        parts.apps.into_iter().for_each(|app| catalog.put_app(app));
        parts
            .fns
            .into_iter()
            .for_each(|function| catalog.put_fn(function));
        parts
            .triggers
            .into_iter()
            .for_each(|trigger| catalog.put_trigger(trigger));
        Self {
            catalog,
            regions: parts
                .regions
                .into_iter()
                .map(|region| (region.name.clone(), region))
                .collect(),
            bundles: parts.bundles.into_iter().collect(),
            sessions: Sessions::restore(parts.sessions),
            revision: parts.revision,
            log_time: parts.log_time,
        }
    }

    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            apps: self.catalog.apps().cloned().collect(),
            fns: self.catalog.fns().cloned().collect(),
            triggers: self.catalog.triggers().cloned().collect(),
            regions: self.regions.values().cloned().collect(),
            bundles: self
                .bundles
                .iter()
                .map(|(digest, bundle)| (*digest, *bundle))
                .collect(),
            sessions: self
                .sessions
                .iter()
                .map(|(request, session)| (request.clone(), session.clone()))
                .collect(),
            revision: self.revision,
            log_time: self.log_time,
        }
    }

    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Regions by name.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    #[must_use]
    pub fn region(&self, name: &RegionName) -> Option<&Region> {
        self.regions.get(name)
    }

    #[must_use]
    pub fn bundle(&self, digest: &Digest) -> Option<Bundle> {
        self.bundles.get(digest).copied()
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The time of the last command; never goes back.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// The regions that an app's placement, and a fn's if given, admit.
    pub fn placed<'a>(
        &'a self,
        app: Option<&'a Placement>,
        function: Option<&'a Placement>,
    ) -> impl Iterator<Item = &'a Region> {
        self.regions
            .values()
            .filter(move |region| placement::placed(app, function, region))
    }

    /// Applies one command. `changes` is empty only for a replay.
    pub fn apply(&mut self, envelope: &Envelope) -> Applied {
        if let Some(outcome) = self.sessions.outcome(&envelope.request) {
            return Applied {
                outcome: outcome.clone(),
                replayed: true,
                revision: self.revision,
                changes: Vec::new(),
            };
        }
        self.log_time = self.log_time.max(envelope.log_time);
        let now = Now {
            time: self.log_time,
            revision: self.revision.next(),
        };
        let mut changes = Vec::new();
        let outcome = self
            .decide(&envelope.command, envelope.preconditions, now)
            .map(|effect| self.carry_out(effect, now, &mut changes));
        if !changes.is_empty() {
            self.revision = now.revision;
        }
        let (session, dropped) =
            self.sessions
                .remember(envelope.request.clone(), now.time, outcome.clone());
        changes.push(Change::Session(envelope.request.clone(), session));
        changes.extend(dropped.into_iter().map(Change::SessionDropped));
        changes.push(Change::Position {
            revision: self.revision,
            log_time: self.log_time,
        });
        Applied {
            outcome,
            replayed: false,
            revision: self.revision,
            changes,
        }
    }

    fn decide(
        &self,
        command: &Command,
        preconditions: Preconditions,
        now: Now,
    ) -> Result<Effect, Refusal> {
        self.check(command, preconditions)?;
        match command {
            Command::CreateApp { id, draft } => self.create_app(id, draft, now),
            Command::UpdateApp { id, change } => self.update_app(id, change, now),
            Command::DeleteApp { id } => match self.catalog.app(id) {
                Some(_) => Ok(Effect::Delete(Deletion::App(id.clone()))),
                None => Err(Refusal::not_found("App not found")),
            },
            Command::CreateFn { id, draft } => self.create_fn(id, draft, now),
            Command::UpdateFn { id, change } => self.update_fn(id, change, now),
            Command::DeleteFn { id } => match self.catalog.function(id) {
                Some(_) => Ok(Effect::Delete(Deletion::Fn(id.clone()))),
                None => Err(Refusal::not_found("Fn not found")),
            },
            Command::CreateTrigger { id, draft } => self.create_trigger(id, draft, now),
            Command::UpdateTrigger { id, change } => self.update_trigger(id, change, now),
            Command::DeleteTrigger { id } => match self.catalog.trigger(id) {
                Some(_) => Ok(Effect::Delete(Deletion::Trigger(id.clone()))),
                None => Err(Refusal::not_found("Trigger not found")),
            },
            Command::RegisterRegion { registration } => self.register_region(registration, now),
            Command::SetDrained { region, drained } => self.set_drained(region, *drained, now),
            Command::SetVerdicts { verdicts } => Ok(self.set_verdicts(verdicts, now)),
            Command::AddBundle { digest, size } => Ok(match self.bundles.get(digest) {
                Some(_) => Effect::Nothing(Reply::Done(self.revision)),
                None => Effect::Bundle(*digest, *size),
            }),
        }
    }

    /// `If-Match` holds against the object named; creating commands name none.
    fn check(&self, command: &Command, preconditions: Preconditions) -> Result<(), Refusal> {
        let revision = match command {
            Command::UpdateApp { id, .. } | Command::DeleteApp { id } => {
                self.catalog.app(id).map(|app| app.revision)
            }
            Command::UpdateFn { id, .. } | Command::DeleteFn { id } => {
                self.catalog.function(id).map(|function| function.revision)
            }
            Command::UpdateTrigger { id, .. } | Command::DeleteTrigger { id } => {
                self.catalog.trigger(id).map(|trigger| trigger.revision)
            }
            Command::SetDrained { region, .. } => {
                self.regions.get(region).map(|region| region.revision)
            }
            Command::CreateApp { .. }
            | Command::CreateFn { .. }
            | Command::CreateTrigger { .. }
            | Command::RegisterRegion { .. }
            | Command::SetVerdicts { .. }
            | Command::AddBundle { .. } => None,
        };
        if preconditions.if_none_match_any && revision.is_some() {
            return Err(Refusal::precondition(
                "If-None-Match: * does not hold: the object exists",
            ));
        }
        match (preconditions.if_match, revision) {
            (Some(wanted), Some(found)) if wanted != found => Err(Refusal::precondition(format!(
                "If-Match does not hold: the object is at revision {found}, not {wanted}; read it again"
            ))),
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    fn carry_out(&mut self, effect: Effect, now: Now, changes: &mut Vec<Change>) -> Reply {
        match effect {
            Effect::Nothing(reply) => reply,
            Effect::App(app) => {
                self.catalog.put_app(app.clone());
                changes.push(Change::App(app.clone()));
                Reply::App(app)
            }
            Effect::Fn(function) => {
                self.catalog.put_fn(function.clone());
                changes.push(Change::Fn(function.clone()));
                Reply::Fn(function)
            }
            Effect::Trigger(trigger) => {
                self.catalog.put_trigger(trigger.clone());
                changes.push(Change::Trigger(trigger.clone()));
                Reply::Trigger(trigger)
            }
            Effect::Regions(rows, shown) => {
                for row in rows {
                    self.regions.insert(row.name.clone(), row.clone());
                    changes.push(Change::Region(row));
                }
                match shown.and_then(|name| self.regions.get(&name)) {
                    Some(region) => Reply::Region(region.clone()),
                    None => Reply::Done(if changes.is_empty() {
                        self.revision
                    } else {
                        now.revision
                    }),
                }
            }
            Effect::Delete(deletion) => {
                let removed = match deletion {
                    Deletion::App(id) => self.catalog.delete_app(&id),
                    Deletion::Fn(id) => self.catalog.delete_fn(&id),
                    Deletion::Trigger(id) => self.catalog.delete_trigger(&id),
                };
                changes.extend(tombstones(removed));
                Reply::Deleted(now.revision)
            }
            Effect::Bundle(digest, size) => {
                let bundle = Bundle {
                    size,
                    revision: now.revision,
                };
                self.bundles.insert(digest, bundle);
                changes.push(Change::Bundle(digest, bundle));
                Reply::Done(now.revision)
            }
        }
    }
}

/// What refers goes before what it refers to.
fn tombstones(removed: Removed) -> impl Iterator<Item = Change> {
    let triggers = removed.triggers.into_iter().map(Deleted::Trigger);
    let fns = removed.fns.into_iter().map(Deleted::Fn);
    let apps = removed.apps.into_iter().map(Deleted::App);
    triggers.chain(fns).chain(apps).map(Change::Deleted)
}

/// A merge in place (Fn contract 2.1): `""` deletes a key.
pub(crate) fn merge_config(
    held: &mut BTreeMap<String, String>,
    change: Option<&BTreeMap<String, String>>,
) {
    for (key, value) in change.into_iter().flatten() {
        if value.is_empty() {
            held.remove(key);
        } else {
            held.insert(key.clone(), value.clone());
        }
    }
}

/// What a client sent, where it sent anything.
pub(crate) fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// The type of every creating and changing rule.
pub(crate) type Decided = Result<Effect, Refusal>;
