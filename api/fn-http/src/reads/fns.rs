//! `/v2/fns`.

use api_types::{AppId, Fn, FnId};
use api_wire::Cursor;
use axum::extract::State;
use axum::response::Response;

use super::asked::{Asked, Id};
use super::{answer, page};
use crate::{ApiError, Source, decorate};

pub async fn list<S: Source>(State(source): State<S>, asked: Asked) -> Response {
    answer(&source, &asked, |catalog| {
        let app = asked.param("app_id").map(AppId::new);
        let app = app.ok_or_else(|| ApiError::invalid("Missing AppID on Fn"))?;
        let after = asked.cursor::<1>()?.map(|[name]| name);
        let after = after.as_deref();
        let owner = catalog.app(&app);
        let base = source.base_url(owner, &asked.reached);
        let cursor = |function: &&Fn| Cursor(vec![function.name.clone()]);
        let show = |function: &&Fn| decorate::function(function, owner, &base);
        Ok(match asked.param("name") {
            Some(name) => {
                let named = catalog.fn_named(&app, name).into_iter();
                let fns = named.filter(|named| after.is_none_or(|after| *named.name > *after));
                page(fns, asked.per_page(), cursor, show)
            }
            None => page(
                catalog.fns_after(&app, after),
                asked.per_page(),
                cursor,
                show,
            ),
        })
    })
    .await
}

pub async fn inspect<S: Source>(State(source): State<S>, asked: Asked, Id(id): Id) -> Response {
    answer(&source, &asked, |catalog| {
        let found = catalog.function(&FnId::new(id));
        let function = found.ok_or_else(|| ApiError::not_found("Fn not found"))?;
        let owner = catalog.app(&function.app_id);
        let base = source.base_url(owner, &asked.reached);
        Ok(decorate::function(function, owner, &base))
    })
    .await
}
