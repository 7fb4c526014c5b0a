//! Objects as clients see them: with the annotations that the server sets (Fn contract 5.3).

use api_types::fns::{DNS_NAME_ANNOTATION, HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION};
use api_types::{App, Fn, Trigger, dns_label};
use api_wire::fns::AnnotationsBody;
use api_wire::{AppBody, FnBody, TriggerBody};

/// An app, with the reason if its name cannot be a DNS name.
#[must_use]
pub fn app(app: &App) -> AppBody {
    let mut body = AppBody::from(app);
    if let Err(why) = dns_label::app_label(&app.name) {
        set(
            &mut body.annotations,
            DNS_NAME_ANNOTATION,
            &format!("none: {why}"),
        );
    }
    body
}

/// A fn, with its invoke endpoint under `base`.
#[must_use]
pub fn function(function: &Fn, app: Option<&App>, base: &str) -> FnBody {
    let mut body = FnBody::from(function);
    set(
        &mut body.annotations,
        INVOKE_ENDPOINT_ANNOTATION,
        &format!("{base}/invoke/{}", function.id),
    );
    if let Some(Err(why)) = app.map(|app| dns_label::fn_label(&function.name, &app.name)) {
        set(
            &mut body.annotations,
            DNS_NAME_ANNOTATION,
            &format!("none: {why}"),
        );
    }
    body
}

/// A trigger, with its endpoint under `base`.
#[must_use]
pub fn trigger(trigger: &Trigger, app: Option<&App>, base: &str) -> TriggerBody {
    let mut body = TriggerBody::from(trigger);
    if let Some(app) = app {
        let source = trigger.source.strip_prefix('/').unwrap_or(&trigger.source);
        set(
            &mut body.annotations,
            HTTP_ENDPOINT_ANNOTATION,
            &format!("{base}/t/{}/{source}", app.name),
        );
    }
    body
}

fn set(annotations: &mut Option<AnnotationsBody>, key: &str, text: &str) {
    let value = serde_json::value::to_raw_value(text).expect("text is JSON");
    annotations
        .get_or_insert_default()
        .insert(key.to_owned(), value);
}
