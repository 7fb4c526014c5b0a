//! Fn contract 4.

use api_types::{Annotations, AppId, FnId, Kind, ObjectId, Refusal, Trigger, TriggerId};

use super::{State, bounded, given, merge_annotations};
use crate::bounds;
use crate::command::{Preconditions, TriggerDraft};
use crate::draft_checks;
use crate::outcome::{Change, Outcome, Reply};

impl State {
    pub(super) fn create_trigger(
        &mut self,
        id: &TriggerId,
        draft: &TriggerDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        draft_checks::trigger_create(draft)?;
        let mut trigger = Trigger {
            id: id.clone(),
            name: draft.name.clone().unwrap_or_default(),
            app_id: AppId::new(draft.app_id.clone().unwrap_or_default()),
            fn_id: FnId::new(draft.fn_id.clone().unwrap_or_default()),
            kind: draft.kind.clone().unwrap_or_default(),
            source: draft.source.clone().unwrap_or_default(),
            annotations: Annotations::new(),
            created_at: self.log_time,
            updated_at: self.log_time,
            revision: self.revision.next(),
        };
        merge_annotations(&mut trigger.annotations, draft.annotations.as_ref());
        self.stored_app(&trigger.app_id)?;
        self.owned_fn(&trigger)?;
        let named = self
            .catalog
            .trigger_named(&trigger.app_id, &trigger.fn_id, &trigger.name);
        conditions.hold_for_new(named.is_some())?;
        self.unique(&trigger)?;
        self.room_for(Kind::Trigger)?;
        bounded(
            "triggers in an app",
            self.catalog.triggers_len_of(&trigger.app_id),
            bounds::TRIGGERS_PER_APP_MAX,
        )?;
        Ok(self.put(trigger, changes))
    }

    pub(super) fn update_trigger(
        &mut self,
        id: &TriggerId,
        change: &TriggerDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        if given(change.id.as_ref()).is_some_and(|sent| sent != id.as_str()) {
            return Err(Refusal::invalid("ID in path does not match ID in body"));
        }
        let stored = self.stored_trigger(id)?;
        conditions.hold_for(stored.revision)?;
        if given(change.app_id.as_ref()).is_some_and(|sent| sent != stored.app_id.as_str()) {
            return Err(Refusal::invalid("App ID of a Trigger is immutable"));
        }
        // The type is ignored (Fn contract 4.2).
        let mut trigger = stored.clone();
        if let Some(name) = given(change.name.as_ref()) {
            trigger.name.clone_from(name);
        }
        if let Some(fn_id) = given(change.fn_id.as_ref()) {
            trigger.fn_id = FnId::new(fn_id.clone());
        }
        if let Some(source) = given(change.source.as_ref()) {
            trigger.source.clone_from(source);
        }
        merge_annotations(&mut trigger.annotations, change.annotations.as_ref());
        draft_checks::trigger_merged(&trigger)?;
        self.owned_fn(&trigger)?;
        self.unique(&trigger)?;
        if trigger == *stored {
            return Ok(Reply::Put(trigger.into()));
        }
        trigger.updated_at = self.log_time;
        trigger.revision = self.revision.next();
        Ok(self.put(trigger, changes))
    }

    pub(super) fn delete_trigger(
        &mut self,
        id: &TriggerId,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        conditions.hold_for(self.stored_trigger(id)?.revision)?;
        self.delete(&ObjectId::Trigger(id.clone()), changes)
    }

    fn stored_trigger(&self, id: &TriggerId) -> Result<&Trigger, Refusal> {
        self.catalog
            .trigger(id)
            .ok_or_else(|| Refusal::not_found("Trigger not found"))
    }

    fn owned_fn(&self, trigger: &Trigger) -> Result<(), Refusal> {
        if self.stored_fn(&trigger.fn_id)?.app_id != trigger.app_id {
            return Err(Refusal::invalid(
                "Invalid Fn ID - not owned by specified app",
            ));
        }
        Ok(())
    }

    /// Neither its source nor its name is another's.
    fn unique(&self, trigger: &Trigger) -> Result<(), Refusal> {
        let another = |found: Option<&Trigger>| found.is_some_and(|found| found.id != trigger.id);
        let catalog = &self.catalog;
        if another(catalog.trigger_by_source(&trigger.app_id, &trigger.source)) {
            return Err(Refusal::conflict(
                "Trigger with the same type and source exists on this app",
            ));
        }
        if another(catalog.trigger_named(&trigger.app_id, &trigger.fn_id, &trigger.name)) {
            return Err(Refusal::conflict("Trigger already exists"));
        }
        Ok(())
    }
}
