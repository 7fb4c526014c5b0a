//! Fn contract 3.

use api_types::{Annotations, AppId, Fn, FnId, Kind, ObjectId, Refusal};

use super::{State, bounded, created_config, given, merge_annotations, merge_config};
use crate::bounds;
use crate::command::{FnDraft, Preconditions};
use crate::draft_checks::{self, IDLE_TIMEOUT_SECS_DEFAULT, MEMORY_DEFAULT, TIMEOUT_SECS_DEFAULT};
use crate::outcome::{Change, Outcome, Reply};

impl State {
    pub(super) fn create_fn(
        &mut self,
        id: &FnId,
        draft: &FnDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        draft_checks::fn_create(draft)?;
        let image = draft.image.clone().unwrap_or_default();
        self.bundle_known(&image)?;
        let app_id = AppId::new(draft.app_id.clone().unwrap_or_default());
        let shape = self.stored_app(&app_id)?.shape.clone();
        let name = draft.name.clone().unwrap_or_default();
        let taken =
            self.catalog.fn_named(&app_id, &name).is_some() || self.catalog.function(id).is_some();
        conditions.hold_for_new(taken)?;
        if taken {
            return Err(Refusal::conflict("Fn with specified name already exists"));
        }
        self.room_for(Kind::Fn)?;
        bounded(
            "functions in an app",
            self.catalog.fns_len_of(&app_id),
            bounds::FNS_PER_APP_MAX,
        )?;
        let mut function = Fn {
            id: id.clone(),
            name,
            app_id,
            image,
            memory: nonzero(draft.memory).unwrap_or(MEMORY_DEFAULT),
            timeout_secs: secs(nonzero(draft.timeout_secs).unwrap_or(TIMEOUT_SECS_DEFAULT)),
            idle_timeout_secs: secs(
                nonzero(draft.idle_timeout_secs).unwrap_or(IDLE_TIMEOUT_SECS_DEFAULT),
            ),
            config: created_config(draft.config.as_ref()),
            annotations: Annotations::new(),
            shape,
            created_at: self.log_time,
            updated_at: self.log_time,
            revision: self.revision.next(),
        };
        merge_annotations(&mut function.annotations, draft.annotations.as_ref());
        Ok(self.put(function, changes))
    }

    pub(super) fn update_fn(
        &mut self,
        id: &FnId,
        change: &FnDraft,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        if given(change.id.as_ref()).is_some_and(|sent| sent != id.as_str()) {
            return Err(Refusal::invalid(
                "Fn ID in path does not match that in body",
            ));
        }
        let stored = self.stored_fn(id)?;
        conditions.hold_for(stored.revision)?;
        // Name and app id are ignored (Fn contract 3.1); deploy sends them empty.
        let mut function = stored.clone();
        if let Some(image) = given(change.image.as_ref()) {
            function.image.clone_from(image);
        }
        if let Some(memory) = nonzero(change.memory) {
            function.memory = memory;
        }
        draft_checks::fn_settings(change)?;
        if let Some(timeout) = nonzero(change.timeout_secs) {
            function.timeout_secs = secs(timeout);
        }
        if let Some(idle_timeout) = nonzero(change.idle_timeout_secs) {
            function.idle_timeout_secs = secs(idle_timeout);
        }
        merge_config(&mut function.config, change.config.as_ref());
        merge_annotations(&mut function.annotations, change.annotations.as_ref());
        draft_checks::fn_merged(&function)?;
        self.bundle_known(&function.image)?;
        if function == *stored {
            return Ok(Reply::Put(function.into()));
        }
        function.updated_at = self.log_time;
        function.revision = self.revision.next();
        Ok(self.put(function, changes))
    }

    pub(super) fn delete_fn(
        &mut self,
        id: &FnId,
        conditions: &Preconditions,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        conditions.hold_for(self.stored_fn(id)?.revision)?;
        self.delete(&ObjectId::Fn(id.clone()), changes)
    }

    pub(super) fn stored_fn(&self, id: &FnId) -> Result<&Fn, Refusal> {
        self.catalog
            .function(id)
            .ok_or_else(|| Refusal::not_found("Fn not found"))
    }

    /// A region must be able to fetch what it is told to run. Images of registries are not ours to
    /// know.
    fn bundle_known(&self, image: &str) -> Result<(), Refusal> {
        let Ok(bundle) = image.parse::<api_types::BundleRef>() else {
            return Ok(());
        };
        if self.catalog.bundle(&bundle.digest).is_some() {
            return Ok(());
        }
        Err(Refusal::invalid(format!(
            "image {image} names a bundle that is not stored; upload it first: \
             PUT /v1/bundles/{}",
            bundle.digest
        )))
    }
}

/// 0 is "default" on create and "unchanged" on update (Fn contract 3.1).
fn nonzero<N: Default + PartialEq>(sent: Option<N>) -> Option<N> {
    sent.filter(|n| *n != N::default())
}

fn secs(checked: i32) -> u32 {
    u32::try_from(checked).expect("checked to be in range")
}
