//! Creating and changing fns (Fn contract 3), each check in the contract's order.

use api_types::{AppId, Fn, FnId, Refusal};

use crate::annotations;
use crate::command::{FnDraft, Reply};
use crate::state::{Decided, Effect, Now, State, given, merge_config};

/// A page of a region's memory each; far beyond what an app is.
const FNS_PER_APP_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 255;
const MEMORY_DEFAULT_MB: u64 = 128;
const MEMORY_MAX_MB: u64 = 8192;
const TIMEOUT_DEFAULT_SECS: u32 = 30;
const TIMEOUT_MAX_SECS: u32 = 300;
const IDLE_TIMEOUT_DEFAULT_SECS: u32 = 30;
const IDLE_TIMEOUT_MAX_SECS: u32 = 3600;

impl State {
    pub(crate) fn create_fn(&self, id: &FnId, draft: &FnDraft, now: Now) -> Decided {
        if given(draft.id.as_ref()).is_some() {
            return Err(Refusal::invalid("ID cannot be provided for Fn creation"));
        }
        let app_id =
            given(draft.app_id.as_ref()).ok_or_else(|| Refusal::invalid("Missing AppID on Fn"))?;
        let app_id = AppId::new(app_id);
        let name = given(draft.name.as_ref()).ok_or_else(|| Refusal::invalid("Missing Fn name"))?;
        check_name(name)?;
        let mut function = Fn {
            id: id.clone(),
            name: name.to_owned(),
            app_id: app_id.clone(),
            image: given(draft.image.as_ref()).unwrap_or_default().to_owned(),
            memory: MEMORY_DEFAULT_MB,
            timeout_secs: TIMEOUT_DEFAULT_SECS,
            idle_timeout_secs: IDLE_TIMEOUT_DEFAULT_SECS,
            config: draft.config.clone().unwrap_or_default(),
            annotations: api_types::Annotations::new(),
            shape: String::new(),
            created_at: now.time,
            updated_at: now.time,
            revision: now.revision,
        };
        set_limits(&mut function, draft)?;
        function.annotations = annotations::created(draft.annotations.as_ref())?;
        let app = self
            .catalog
            .app(&app_id)
            .ok_or_else(|| Refusal::not_found("App not found"))?;
        function.shape.clone_from(&app.shape);
        self.check_bundle(&function)?;
        if self.catalog.fn_named(&app_id, name).is_some() {
            return Err(Refusal::conflict("Fn with specified name already exists"));
        }
        if self.catalog.fns_after(&app_id, None).count() >= FNS_PER_APP_MAX {
            return Err(Refusal::full(format!(
                "the app already has {FNS_PER_APP_MAX} fns; delete some"
            )));
        }
        Ok(Effect::Fn(function))
    }

    pub(crate) fn update_fn(&self, id: &FnId, change: &FnDraft, now: Now) -> Decided {
        if given(change.id.as_ref()).is_some_and(|body| body != id.as_str()) {
            return Err(Refusal::invalid(
                "Fn ID in path does not match that in body",
            ));
        }
        let held = self
            .catalog
            .function(id)
            .ok_or_else(|| Refusal::not_found("Fn not found"))?;
        let mut function = held.clone();
        if let Some(image) = given(change.image.as_ref()) {
            image.clone_into(&mut function.image);
        }
        merge_config(&mut function.config, change.config.as_ref());
        set_limits(&mut function, change)?;
        annotations::merge(&mut function.annotations, change.annotations.as_ref())?;
        self.check_bundle(&function)?;
        if function == *held {
            return Ok(Effect::Nothing(Reply::Fn(function)));
        }
        function.updated_at = now.time;
        function.revision = now.revision;
        Ok(Effect::Fn(function))
    }

    /// A bundle that no node holds could never be run, and nobody would say so until a call.
    fn check_bundle(&self, function: &Fn) -> Result<(), Refusal> {
        match function.bundle() {
            Some(bundle) if !self.bundles.contains_key(&bundle.digest) => {
                Err(Refusal::invalid(format!(
                    "unknown bundle sha256:{}: upload it first, as `tradewind deploy` does",
                    bundle.digest
                )))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::invalid("Fn name must be 255 characters or less"));
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte))
    {
        return Err(Refusal::invalid("name must be a valid string"));
    }
    Ok(())
}

/// Image and numbers, in the contract's order; 0 means the default on create, unchanged on update.
fn set_limits(function: &mut Fn, draft: &FnDraft) -> Result<(), Refusal> {
    if function.image.is_empty() {
        return Err(Refusal::invalid("Missing image on Fn"));
    }
    let seconds = |given: Option<i32>, held: u32, max: u32, message: &str| match given.unwrap_or(0)
    {
        0 => Ok(held),
        secs => u32::try_from(secs)
            .ok()
            .filter(|secs| *secs <= max)
            .ok_or_else(|| Refusal::invalid(message)),
    };
    function.timeout_secs = seconds(
        draft.timeout_secs,
        function.timeout_secs,
        TIMEOUT_MAX_SECS,
        "timeout value is out of range, must be between 0 and 300",
    )?;
    function.idle_timeout_secs = seconds(
        draft.idle_timeout_secs,
        function.idle_timeout_secs,
        IDLE_TIMEOUT_MAX_SECS,
        "idle_timeout value is out of range, must be between 0 and 3600",
    )?;
    match draft.memory.unwrap_or(0) {
        0 => {}
        memory if memory <= MEMORY_MAX_MB => function.memory = memory,
        _ => {
            return Err(Refusal::invalid(
                "memory value is out of range. It should be between 0 and 8192",
            ));
        }
    }
    Ok(())
}
