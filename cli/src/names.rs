//! From the names that people type to the objects that the API knows by id.

use anyhow::{Context as _, anyhow};
use api_client::Client;
use api_types::{AppId, FnId, TriggerId};
use api_wire::{AppBody, FnBody, TriggerBody};

/// A source with the leading slash that the `fn` CLI adds too (Fn contract 11.2).
pub fn source(text: &str) -> String {
    if text.starts_with('/') {
        text.to_owned()
    } else {
        format!("/{text}")
    }
}

pub async fn app(client: &Client, name: &str) -> anyhow::Result<(AppId, AppBody)> {
    let found = client.app_named(name).await?;
    let app = found.ok_or_else(|| {
        anyhow!("there is no app {name:?}; `tradewind apps list` shows those there are")
    })?;
    let id = app.id.clone().context("the app in the answer has no id")?;
    Ok((AppId::new(id), app))
}

pub async fn function(
    client: &Client,
    app_name: &str,
    name: &str,
) -> anyhow::Result<(AppId, FnId, FnBody)> {
    let (app_id, _) = app(client, app_name).await?;
    let found = client.fn_named(&app_id, name).await?;
    let function = found.ok_or_else(|| {
        anyhow!(
            "there is no function {name:?} in app {app_name:?}; \
             `tradewind fns list {app_name}` shows those there are"
        )
    })?;
    let id = fn_id(&function)?;
    Ok((app_id, id, function))
}

pub fn fn_id(function: &FnBody) -> anyhow::Result<FnId> {
    let id = function.id.clone();
    Ok(FnId::new(
        id.context("the function in the answer has no id")?,
    ))
}

pub fn trigger_id(trigger: &TriggerBody) -> anyhow::Result<TriggerId> {
    let id = trigger.id.clone();
    Ok(TriggerId::new(
        id.context("the trigger in the answer has no id")?,
    ))
}

pub async fn trigger(
    client: &Client,
    app_name: &str,
    fn_name: &str,
    name: &str,
) -> anyhow::Result<(TriggerId, TriggerBody)> {
    let (app_id, fn_id, _) = function(client, app_name, fn_name).await?;
    let found = client.trigger_named(&app_id, &fn_id, name).await?;
    let trigger = found.ok_or_else(|| {
        anyhow!(
            "function {fn_name:?} has no trigger {name:?}; \
             `tradewind triggers list {app_name} {fn_name}` shows those there are"
        )
    })?;
    Ok((trigger_id(&trigger)?, trigger))
}
