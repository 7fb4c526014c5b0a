//! `/v2/triggers`, and how Fn's load balancers look them up.

use api_types::{AppId, Catalog, FnId, Trigger, TriggerId};
use api_wire::{Cursor, TriggerBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::asked::{Asked, Id};
use super::{answer, page};
use crate::{ApiError, Source, decorate};

/// Trigger names are unique within a function only, so the cursor has the function too: a page that
/// ends between two equal names loses none (Fn contract 1.5).
pub async fn list<S: Source>(State(source): State<S>, asked: Asked) -> Response {
    answer(&source, &asked, |catalog| {
        let app = asked.param("app_id").map(AppId::new);
        let app = app.ok_or_else(|| ApiError::invalid("Missing App ID on Trigger"))?;
        let after = asked.cursor::<2>()?;
        let after = after.map(|[name, function]| (name, FnId::new(function)));
        let owner = catalog.app(&app);
        let base = source.base_url(owner, &asked.reached);
        let (function, name) = (asked.param("fn_id"), asked.param("name"));
        let triggers = catalog
            .triggers_after(&app, after.as_ref())
            .filter(|trigger| function.is_none_or(|id| trigger.fn_id.as_str() == id))
            .filter(|trigger| name.is_none_or(|name| trigger.name == name));
        let cursor =
            |trigger: &&Trigger| Cursor(vec![trigger.name.clone(), trigger.fn_id.to_string()]);
        let show = |trigger: &&Trigger| decorate::trigger(trigger, owner, &base);
        Ok(page(triggers, asked.per_page(), cursor, show))
    })
    .await
}

pub async fn inspect<S: Source>(State(source): State<S>, asked: Asked, Id(id): Id) -> Response {
    answer(&source, &asked, |catalog| {
        let found = catalog.trigger(&TriggerId::new(id));
        shown(&source, &asked, catalog, found)
    })
    .await
}

/// `/v2/runner/apps/ID/triggerBySource/TYPE/…`: what a load balancer asks.
pub async fn by_source<S: Source>(
    State(source): State<S>,
    asked: Asked,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Response {
    let (app, kind, rest) = path.map(|Path(parts)| parts).unwrap_or_default();
    find(&source, &asked, app, &kind, &format!("/{rest}")).await
}

/// The same of the source `/`.
pub async fn by_root<S: Source>(
    State(source): State<S>,
    asked: Asked,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Response {
    let (app, kind) = path.map(|Path(parts)| parts).unwrap_or_default();
    find(&source, &asked, app, &kind, "/").await
}

async fn find<S: Source>(
    source: &S,
    asked: &Asked,
    app: String,
    kind: &str,
    trigger_source: &str,
) -> Response {
    answer(source, asked, |catalog| {
        let found = catalog
            .trigger_by_source(&AppId::new(app), trigger_source)
            .filter(|trigger| trigger.kind == kind);
        shown(source, asked, catalog, found)
    })
    .await
}

fn shown<S: Source>(
    source: &S,
    asked: &Asked,
    catalog: &Catalog,
    found: Option<&Trigger>,
) -> Result<TriggerBody, ApiError> {
    let trigger = found.ok_or_else(|| ApiError::not_found("Trigger not found"))?;
    let owner = catalog.app(&trigger.app_id);
    let base = source.base_url(owner, &asked.reached);
    Ok(decorate::trigger(trigger, owner, &base))
}
