//! Fn contract 2.

use api_types::{App, AppId, Kind, ObjectId, Refusal};

use super::{State, created_config, given, merge_annotations, merge_config};
use crate::command::{AppDraft, Preconditions};
use crate::draft_checks;
use crate::outcome::{Change, Outcome, Reply};

impl State {
    pub(super) fn create_app(
        &mut self,
        id: &AppId,
        draft: &AppDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        draft_checks::app_create(draft)?;
        let name = draft.name.clone().unwrap_or_default();
        let taken = self.catalog.app_named(&name).is_some() || self.catalog.app(id).is_some();
        conditions.hold_for_new(taken)?;
        if taken {
            return Err(Refusal::conflict("App already exists"));
        }
        self.room_for(Kind::App)?;
        let mut app = App {
            id: id.clone(),
            name,
            config: created_config(draft.config.as_ref()),
            annotations: api_types::Annotations::new(),
            syslog_url: given(draft.syslog_url.as_ref()).cloned(),
            shape: draft.shape.clone().unwrap_or_default(),
            created_at: self.log_time,
            updated_at: self.log_time,
            revision: self.revision.next(),
        };
        merge_annotations(&mut app.annotations, draft.annotations.as_ref());
        Ok(self.put(app, changes))
    }

    pub(super) fn update_app(
        &mut self,
        id: &AppId,
        change: &AppDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        if given(change.id.as_ref()).is_some_and(|sent| sent != id.as_str()) {
            return Err(Refusal::invalid("App ID in path does not match ID in body"));
        }
        let stored = self.stored_app(id)?;
        conditions.hold_for(stored.revision)?;
        if given(change.name.as_ref()).is_some_and(|sent| *sent != stored.name) {
            return Err(Refusal::conflict("Could not update - name is immutable"));
        }
        let mut app = stored.clone();
        merge_config(&mut app.config, change.config.as_ref());
        merge_annotations(&mut app.annotations, change.annotations.as_ref());
        if let Some(url) = &change.syslog_url {
            app.syslog_url = given(Some(url)).cloned();
        }
        draft_checks::app_merged(&app)?;
        if app == *stored {
            return Ok(Reply::Put(app.into()));
        }
        app.updated_at = self.log_time;
        app.revision = self.revision.next();
        Ok(self.put(app, changes))
    }

    pub(super) fn delete_app(
        &mut self,
        id: &AppId,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        conditions.hold_for(self.stored_app(id)?.revision)?;
        self.delete(&ObjectId::App(id.clone()), changes)
    }

    pub(super) fn stored_app(&self, id: &AppId) -> Result<&App, Refusal> {
        self.catalog
            .app(id)
            .ok_or_else(|| Refusal::not_found("App not found"))
    }
}
