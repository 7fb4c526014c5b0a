//! `/v2/apps`.

use api_types::{App, AppId};
use api_wire::Cursor;
use axum::extract::State;
use axum::response::Response;

use super::asked::{Asked, Id};
use super::{answer, page};
use crate::{ApiError, Source, decorate};

pub async fn list<S: Source>(State(source): State<S>, asked: Asked) -> Response {
    answer(&source, &asked, |catalog| {
        let after = asked.cursor::<1>()?.map(|[name]| name);
        let after = after.as_deref();
        let cursor = |app: &&App| Cursor(vec![app.name.clone()]);
        let show = |app: &&App| decorate::app(app);
        Ok(match asked.param("name") {
            Some(name) => {
                let named = catalog.app_named(name).into_iter();
                let apps = named.filter(|app| after.is_none_or(|after| app.name.as_str() > after));
                page(apps, asked.per_page(), cursor, show)
            }
            None => page(catalog.apps_after(after), asked.per_page(), cursor, show),
        })
    })
    .await
}

pub async fn inspect<S: Source>(State(source): State<S>, asked: Asked, Id(id): Id) -> Response {
    answer(&source, &asked, |catalog| {
        let found = catalog.app(&AppId::new(id));
        found
            .map(decorate::app)
            .ok_or_else(|| ApiError::not_found("App not found"))
    })
    .await
}
