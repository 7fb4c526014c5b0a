//! Creating and changing apps (Fn contract 2), each check in the contract's order.

use api_types::{App, AppId, Refusal};

use crate::annotations;
use crate::command::{AppDraft, Reply};
use crate::state::{Decided, Effect, Now, State, given, merge_config};

/// Every region holds every app in memory; this many are some hundred megabytes.
const APPS_MAX: usize = 100_000;
const NAME_BYTES_MAX: usize = 255;
const SYSLOG_SCHEMES: [&str; 5] = ["udp", "tcp", "unix", "unixgram", "tcp+tls"];
const SHAPES: [&str; 4] = ["", "GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM"];

impl State {
    pub(crate) fn create_app(&self, id: &AppId, draft: &AppDraft, now: Now) -> Decided {
        if given(draft.id.as_ref()).is_some() {
            return Err(Refusal::invalid("App ID cannot be supplied on create"));
        }
        let name = given(draft.name.as_ref()).ok_or_else(|| Refusal::invalid("Missing Name"))?;
        check_name(
            name,
            "App name must be 255 characters or less",
            "Invalid app name",
        )?;
        let annotations = annotations::created(draft.annotations.as_ref())?;
        let app = App {
            id: id.clone(),
            name: name.to_owned(),
            config: draft.config.clone().unwrap_or_default(),
            annotations,
            syslog_url: given(draft.syslog_url.as_ref()).map(str::to_owned),
            shape: draft.shape.clone().unwrap_or_default(),
            created_at: now.time,
            updated_at: now.time,
            revision: now.revision,
        };
        check(&app)?;
        if self.catalog.app_named(name).is_some() {
            return Err(Refusal::conflict("App already exists"));
        }
        if self.catalog.apps().count() >= APPS_MAX {
            return Err(Refusal::full(format!(
                "there are already {APPS_MAX} apps; delete some"
            )));
        }
        Ok(Effect::App(app))
    }

    pub(crate) fn update_app(&self, id: &AppId, change: &AppDraft, now: Now) -> Decided {
        if given(change.id.as_ref()).is_some_and(|body| body != id.as_str()) {
            return Err(Refusal::invalid("App ID in path does not match ID in body"));
        }
        let held = self
            .catalog
            .app(id)
            .ok_or_else(|| Refusal::not_found("App not found"))?;
        if given(change.name.as_ref()).is_some_and(|name| name != held.name) {
            return Err(Refusal::conflict("Could not update - name is immutable"));
        }
        let mut app = held.clone();
        merge_config(&mut app.config, change.config.as_ref());
        annotations::merge(&mut app.annotations, change.annotations.as_ref())?;
        if let Some(url) = &change.syslog_url {
            app.syslog_url = Some(url.clone()).filter(|url| !url.is_empty());
        }
        check(&app)?;
        if app == *held {
            return Ok(Effect::Nothing(Reply::App(app)));
        }
        app.updated_at = now.time;
        app.revision = now.revision;
        Ok(Effect::App(app))
    }
}

/// Names of apps and triggers: letters, numbers, `_` and `-`.
pub(crate) fn check_name(name: &str, too_long: &str, invalid: &str) -> Result<(), Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::invalid(too_long));
    }
    if !name
        .chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
    {
        return Err(Refusal::invalid(invalid));
    }
    Ok(())
}

fn check(app: &App) -> Result<(), Refusal> {
    if let Some(url) = &app.syslog_url {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| SYSLOG_SCHEMES.contains(&scheme)) {
            return Err(Refusal::invalid(format!(
                "invalid syslog url: {url:?} must be [udp|tcp|unix|unixgram|tcp+tls]://host:port"
            )));
        }
    }
    if !SHAPES.contains(&app.shape.as_str()) {
        return Err(Refusal::invalid("Invalid app shape"));
    }
    Ok(())
}
