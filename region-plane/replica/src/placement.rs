//! What this region may hold and serve.

use api_types::{App, Catalog, Fn, Region};

/// Whether a function may run in `region`. Not while its app is unknown: the app may confine it.
#[must_use]
pub fn admits(catalog: &Catalog, function: &Fn, region: &Region) -> bool {
    catalog.app(&function.app_id).is_some_and(|app| {
        api_types::placement::placed(
            app.placement().as_ref(),
            function.placement().as_ref(),
            region,
        )
    })
}

/// Whether a function may run outside its placement while no region of it serves: DNS sends its
/// clients to the next-best region then. Not while its app is unknown.
#[must_use]
pub fn yields(catalog: &Catalog, function: &Fn) -> bool {
    catalog.app(&function.app_id).is_some_and(|app| {
        !api_types::placement::strict(app.placement().as_ref(), function.placement().as_ref())
    })
}

/// Whether an app may have functions in `region`.
fn admits_app(app: &App, region: &Region) -> bool {
    api_types::placement::placed(app.placement().as_ref(), None, region)
}

/// Brings `here`, the part of `catalog` that is placed in `region`, up to date for one app.
///
/// An app's placement rules all of its functions, so the app is the unit: what it has here is
/// dropped and copied anew.
pub fn refresh(here: &mut Catalog, catalog: &Catalog, app: &api_types::AppId, region: &Region) {
    here.delete_app(app);
    let Some(app) = catalog.app(app) else { return };
    if !admits_app(app, region) {
        return;
    }
    here.put_app(app.clone());
    for function in catalog.fns_after(&app.id, None) {
        if admits(catalog, function, region) {
            here.put_fn(function.clone());
        }
    }
    for trigger in catalog.triggers_after(&app.id, None) {
        if here.function(&trigger.fn_id).is_some() {
            here.put_trigger(trigger.clone());
        }
    }
}
