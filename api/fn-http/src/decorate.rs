//! Objects as they are shown: as stored, and what the server adds on reading (Fn contract 5.3).
//!
//! `base` is [`crate::endpoints::base_url`] of the object's app.

use api_types::dns_label::{self, WhyNot};
use api_types::fns::{DNS_NAME_ANNOTATION, HTTP_ENDPOINT_ANNOTATION, INVOKE_ENDPOINT_ANNOTATION};
use api_types::{App, Fn, Trigger};
use api_wire::fns::AnnotationsBody;
use api_wire::{AppBody, FnBody, TriggerBody};
use serde_json::value::to_raw_value;

#[must_use]
pub fn app(app: &App) -> AppBody {
    let mut body = AppBody::from(app);
    dns_name(&mut body.annotations, dns_label::app_label(&app.name));
    body
}

/// `app` is `None` where it has not been met yet: a replica may hold a function before its app.
#[must_use]
pub fn function(function: &Fn, app: Option<&App>, base: &str) -> FnBody {
    let mut body = FnBody::from(function);
    let endpoint = format!("{base}/invoke/{}", function.id);
    set(&mut body.annotations, INVOKE_ENDPOINT_ANNOTATION, &endpoint);
    if let Some(app) = app {
        let label = dns_label::fn_label(&function.name, &app.name);
        dns_name(&mut body.annotations, label);
    }
    body
}

/// A trigger is called by its app's name, so without the app there is no endpoint to show.
#[must_use]
pub fn trigger(trigger: &Trigger, app: Option<&App>, base: &str) -> TriggerBody {
    let mut body = TriggerBody::from(trigger);
    if let Some(app) = app
        && trigger.kind == "http"
    {
        let source = trigger.source.strip_prefix('/').unwrap_or_default();
        let endpoint = format!("{base}/t/{}/{source}", app.name);
        set(&mut body.annotations, HTTP_ENDPOINT_ANNOTATION, &endpoint);
    }
    body
}

/// Says so if there is no name.
fn dns_name(annotations: &mut Option<AnnotationsBody>, label: Result<String, WhyNot>) {
    if let Err(why) = label {
        let text = format!("none: {why}");
        set(annotations, DNS_NAME_ANNOTATION, &text);
    }
}

fn set(annotations: &mut Option<AnnotationsBody>, key: &str, text: &str) {
    let value = to_raw_value(text).expect("text is JSON");
    annotations
        .get_or_insert_default()
        .insert(key.to_owned(), value);
}
