//! Creating and changing triggers (Fn contract 4), each check in the contract's order.

use api_types::{AppId, FnId, Refusal, Trigger, TriggerId};

use crate::annotations;
use crate::apps::check_name;
use crate::command::{Reply, TriggerDraft};
use crate::state::{Decided, Effect, Now, State, given};

/// Each is a source that a gateway matches exactly; far beyond what an app is.
const TRIGGERS_PER_APP_MAX: usize = 10_000;

impl State {
    pub(crate) fn create_trigger(&self, id: &TriggerId, draft: &TriggerDraft, now: Now) -> Decided {
        if given(draft.id.as_ref()).is_some() {
            return Err(Refusal::invalid(
                "ID cannot be provided for Trigger creation",
            ));
        }
        if draft.created_at_given {
            return Err(Refusal::invalid("Trigger Created At Provided for Create"));
        }
        if draft.updated_at_given {
            return Err(Refusal::invalid("Trigger ID Provided for Create"));
        }
        let app_id = given(draft.app_id.as_ref())
            .ok_or_else(|| Refusal::invalid("Missing App ID on Trigger"))?;
        let name = given(draft.name.as_ref())
            .ok_or_else(|| Refusal::invalid("Missing name on Trigger"))?;
        check_trigger_name(name)?;
        let fn_id = given(draft.fn_id.as_ref())
            .ok_or_else(|| Refusal::invalid("Missing Fn ID on Trigger"))?;
        if given(draft.kind.as_ref()) != Some("http") {
            return Err(Refusal::invalid("Trigger Type Not Supported"));
        }
        let source = given(draft.source.as_ref())
            .ok_or_else(|| Refusal::invalid("Missing Trigger Source"))?;
        check_source(source)?;
        let trigger = Trigger {
            id: id.clone(),
            name: name.to_owned(),
            app_id: AppId::new(app_id),
            fn_id: FnId::new(fn_id),
            kind: "http".to_owned(),
            source: source.to_owned(),
            annotations: annotations::created(draft.annotations.as_ref())?,
            created_at: now.time,
            updated_at: now.time,
            revision: now.revision,
        };
        if self.catalog.app(&trigger.app_id).is_none() {
            return Err(Refusal::not_found("App not found"));
        }
        self.check_owner(&trigger)?;
        self.check_taken(&trigger)?;
        if self.catalog.triggers_after(&trigger.app_id, None).count() >= TRIGGERS_PER_APP_MAX {
            return Err(Refusal::full(format!(
                "the app already has {TRIGGERS_PER_APP_MAX} triggers; delete some"
            )));
        }
        Ok(Effect::Trigger(trigger))
    }

    pub(crate) fn update_trigger(
        &self,
        id: &TriggerId,
        change: &TriggerDraft,
        now: Now,
    ) -> Decided {
        if given(change.id.as_ref()).is_some_and(|body| body != id.as_str()) {
            return Err(Refusal::invalid("ID in path does not match ID in body"));
        }
        let held = self
            .catalog
            .trigger(id)
            .ok_or_else(|| Refusal::not_found("Trigger not found"))?;
        let mut trigger = held.clone();
        if let Some(name) = given(change.name.as_ref()) {
            check_trigger_name(name)?;
            name.clone_into(&mut trigger.name);
        }
        if let Some(fn_id) = given(change.fn_id.as_ref()) {
            trigger.fn_id = FnId::new(fn_id);
        }
        if let Some(source) = given(change.source.as_ref()) {
            check_source(source)?;
            source.clone_into(&mut trigger.source);
        }
        annotations::merge(&mut trigger.annotations, change.annotations.as_ref())?;
        self.check_owner(&trigger)?;
        self.check_taken(&trigger)?;
        if trigger == *held {
            return Ok(Effect::Nothing(Reply::Trigger(trigger)));
        }
        trigger.updated_at = now.time;
        trigger.revision = now.revision;
        Ok(Effect::Trigger(trigger))
    }

    fn check_owner(&self, trigger: &Trigger) -> Result<(), Refusal> {
        let function = self
            .catalog
            .function(&trigger.fn_id)
            .ok_or_else(|| Refusal::not_found("Fn not found"))?;
        if function.app_id != trigger.app_id {
            return Err(Refusal::invalid(
                "Invalid Fn ID - not owned by specified app",
            ));
        }
        Ok(())
    }

    fn check_taken(&self, trigger: &Trigger) -> Result<(), Refusal> {
        let other = |found: Option<&Trigger>| found.is_some_and(|found| found.id != trigger.id);
        if other(
            self.catalog
                .trigger_by_source(&trigger.app_id, &trigger.source),
        ) {
            return Err(Refusal::conflict(
                "Trigger with the same type and source exists on this app",
            ));
        }
        if other(
            self.catalog
                .trigger_named(&trigger.app_id, &trigger.fn_id, &trigger.name),
        ) {
            return Err(Refusal::conflict("Trigger already exists"));
        }
        Ok(())
    }
}

fn check_trigger_name(name: &str) -> Result<(), Refusal> {
    check_name(
        name,
        "Trigger name must be 255 characters or less",
        "Invalid name for Trigger",
    )
}

fn check_source(source: &str) -> Result<(), Refusal> {
    if source.starts_with('/') {
        Ok(())
    } else {
        Err(Refusal::invalid("Missing Trigger Source Prefix '/'"))
    }
}
