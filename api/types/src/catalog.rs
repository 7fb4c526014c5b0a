//! Every app, function and trigger, with the look-ups and lists that both planes answer from.
//!
//! Pure and ordered: two catalogs that took the same puts and deletes list the same pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::placement::Placements;
use crate::{App, AppId, Fn, FnId, Trigger, TriggerId};

/// Invariants: every index entry points at a stored object; an app's fns and triggers go with it,
/// a fn's triggers go with it. A fn or trigger may be put before its app (a replica may meet them
/// in that order); look-ups by app simply find it once the app is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    apps: BTreeMap<AppId, App>,
    fns: BTreeMap<FnId, Fn>,
    triggers: BTreeMap<TriggerId, Trigger>,
    app_names: BTreeMap<String, AppId>,
    fn_names: BTreeMap<AppId, BTreeMap<String, FnId>>,
    /// By app, then name, then fn: the order of a page, with the fn as tie-breaker because trigger
    /// names are unique only within a fn (Fn contract 1.5).
    trigger_names: BTreeMap<AppId, BTreeMap<(String, FnId), TriggerId>>,
    /// (app, source) to trigger; type is always http.
    sources: BTreeMap<(AppId, String), TriggerId>,
    fn_triggers: BTreeMap<FnId, BTreeSet<TriggerId>>,
}

impl Catalog {
    #[must_use]
    pub fn app(&self, id: &AppId) -> Option<&App> {
        self.apps.get(id)
    }

    #[must_use]
    pub fn app_named(&self, name: &str) -> Option<&App> {
        self.apps.get(self.app_names.get(name)?)
    }

    #[must_use]
    pub fn function(&self, id: &FnId) -> Option<&Fn> {
        self.fns.get(id)
    }

    #[must_use]
    pub fn fn_named(&self, app: &AppId, name: &str) -> Option<&Fn> {
        self.fns.get(self.fn_names.get(app)?.get(name)?)
    }

    /// Where a function may run. `None` while its app is unknown, which may confine it: a replica
    /// may hold a function before its app.
    #[must_use]
    pub fn placements(&self, function: &Fn) -> Option<Placements> {
        let app = self.app(&function.app_id)?;
        Some(Placements {
            app: app.placement(),
            function: function.placement(),
        })
    }

    #[must_use]
    pub fn trigger(&self, id: &TriggerId) -> Option<&Trigger> {
        self.triggers.get(id)
    }

    #[must_use]
    pub fn trigger_named(&self, app: &AppId, function: &FnId, name: &str) -> Option<&Trigger> {
        let key = (name.to_owned(), function.clone());
        self.triggers.get(self.trigger_names.get(app)?.get(&key)?)
    }

    /// The trigger whose source is exactly `source`, slashes included (Fn contract 7).
    #[must_use]
    pub fn trigger_by_source(&self, app: &AppId, source: &str) -> Option<&Trigger> {
        self.triggers
            .get(self.sources.get(&(app.clone(), source.to_owned()))?)
    }

    /// All apps by id.
    pub fn apps(&self) -> impl Iterator<Item = &App> {
        self.apps.values()
    }

    /// All fns by id.
    pub fn fns(&self) -> impl Iterator<Item = &Fn> {
        self.fns.values()
    }

    /// All triggers by id.
    pub fn triggers(&self) -> impl Iterator<Item = &Trigger> {
        self.triggers.values()
    }

    #[must_use]
    pub fn apps_len(&self) -> usize {
        self.apps.len()
    }

    #[must_use]
    pub fn fns_len(&self) -> usize {
        self.fns.len()
    }

    #[must_use]
    pub fn triggers_len(&self) -> usize {
        self.triggers.len()
    }

    #[must_use]
    pub fn fns_len_of(&self, app: &AppId) -> usize {
        self.fn_names.get(app).map_or(0, BTreeMap::len)
    }

    #[must_use]
    pub fn triggers_len_of(&self, app: &AppId) -> usize {
        self.trigger_names.get(app).map_or(0, BTreeMap::len)
    }

    /// Apps by name, ascending by bytes, strictly after `after`.
    pub fn apps_after<'a>(
        &'a self,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a App> + use<'a> {
        self.app_names
            .range::<str, _>(from(after))
            .filter_map(|(_, id)| self.apps.get(id))
    }

    /// An app's fns by name, strictly after `after`.
    pub fn fns_after<'a>(
        &'a self,
        app: &AppId,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Fn> + use<'a> {
        let names = self.fn_names.get(app);
        let bounds = from(after);
        let ids: Vec<&FnId> = names
            .into_iter()
            .flat_map(|names| names.range::<str, _>(bounds))
            .map(|(_, id)| id)
            .collect();
        ids.into_iter().filter_map(|id| self.fns.get(id))
    }

    /// An app's triggers by name then fn, strictly after `after`.
    pub fn triggers_after<'a>(
        &'a self,
        app: &AppId,
        after: Option<&(String, FnId)>,
    ) -> impl Iterator<Item = &'a Trigger> + use<'a> {
        let bounds = (
            after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone())),
            Bound::Unbounded,
        );
        self.trigger_names
            .get(app)
            .into_iter()
            .flat_map(move |names| names.range(bounds.clone()))
            .filter_map(|(_, id)| self.triggers.get(id))
    }

    pub fn put_app(&mut self, app: App) {
        if let Some(old) = self.apps.get(&app.id) {
            self.app_names.remove(&old.name);
        }
        self.app_names.insert(app.name.clone(), app.id.clone());
        self.apps.insert(app.id.clone(), app);
    }

    pub fn put_fn(&mut self, function: Fn) {
        self.unindex_fn(&function.id);
        let names = self.fn_names.entry(function.app_id.clone()).or_default();
        names.insert(function.name.clone(), function.id.clone());
        self.fns.insert(function.id.clone(), function);
    }

    pub fn put_trigger(&mut self, trigger: Trigger) {
        self.unindex_trigger(&trigger.id);
        let names = self
            .trigger_names
            .entry(trigger.app_id.clone())
            .or_default();
        names.insert(
            (trigger.name.clone(), trigger.fn_id.clone()),
            trigger.id.clone(),
        );
        self.sources.insert(
            (trigger.app_id.clone(), trigger.source.clone()),
            trigger.id.clone(),
        );
        self.fn_triggers
            .entry(trigger.fn_id.clone())
            .or_default()
            .insert(trigger.id.clone());
        self.triggers.insert(trigger.id.clone(), trigger);
    }

    /// Removes an app with its fns and triggers. Returns what went; empty if nothing did.
    pub fn delete_app(&mut self, id: &AppId) -> Removed {
        let mut removed = Removed::default();
        // Not by way of the fns: a replica may hold a trigger whose fn it has not met yet.
        let triggers: Vec<TriggerId> = self
            .trigger_names
            .get(id)
            .into_iter()
            .flat_map(|names| names.values().cloned())
            .collect();
        for trigger in triggers {
            removed.extend(self.delete_trigger(&trigger));
        }
        let fns: Vec<FnId> = self
            .fn_names
            .get(id)
            .into_iter()
            .flat_map(|names| names.values().cloned())
            .collect();
        for function in fns {
            removed.extend(self.delete_fn(&function));
        }
        if let Some(app) = self.apps.remove(id) {
            self.app_names.remove(&app.name);
            removed.apps.push(app.id);
        }
        removed
    }

    /// Removes a fn with its triggers.
    pub fn delete_fn(&mut self, id: &FnId) -> Removed {
        let mut removed = Removed::default();
        for trigger in self.fn_triggers.get(id).cloned().unwrap_or_default() {
            removed.extend(self.delete_trigger(&trigger));
        }
        self.unindex_fn(id);
        removed
            .fns
            .extend(self.fns.remove(id).map(|function| function.id));
        removed
    }

    pub fn delete_trigger(&mut self, id: &TriggerId) -> Removed {
        self.unindex_trigger(id);
        Removed {
            triggers: self
                .triggers
                .remove(id)
                .map(|trigger| trigger.id)
                .into_iter()
                .collect(),
            ..Removed::default()
        }
    }

    fn unindex_fn(&mut self, id: &FnId) {
        let Some(old) = self.fns.get(id) else { return };
        prune(&mut self.fn_names, &old.app_id, |names| {
            drop(names.remove(&old.name))
        });
    }

    fn unindex_trigger(&mut self, id: &TriggerId) {
        let Some(old) = self.triggers.get(id) else {
            return;
        };
        let key = (old.name.clone(), old.fn_id.clone());
        prune(&mut self.trigger_names, &old.app_id, |names| {
            drop(names.remove(&key))
        });
        self.sources
            .remove(&(old.app_id.clone(), old.source.clone()));
        if let Some(triggers) = self.fn_triggers.get_mut(&old.fn_id) {
            triggers.remove(id);
            if triggers.is_empty() {
                self.fn_triggers.remove(&old.fn_id);
            }
        }
    }
}

/// Takes something out of an app's names and drops the map with the last, so that a catalog's form
/// depends on what it holds and not on how it came to hold it.
fn prune<K: Ord, V>(
    names: &mut BTreeMap<AppId, BTreeMap<K, V>>,
    app: &AppId,
    take: impl FnOnce(&mut BTreeMap<K, V>),
) {
    if let Some(of_app) = names.get_mut(app) {
        take(of_app);
        if of_app.is_empty() {
            names.remove(app);
        }
    }
}

/// What a delete took with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    pub triggers: Vec<TriggerId>,
    pub fns: Vec<FnId>,
    pub apps: Vec<AppId>,
}

impl Removed {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.triggers.is_empty() && self.fns.is_empty() && self.apps.is_empty()
    }

    fn extend(&mut self, other: Self) {
        self.triggers.extend(other.triggers);
        self.fns.extend(other.fns);
        self.apps.extend(other.apps);
    }
}

fn from(after: Option<&str>) -> (Bound<&str>, Bound<&str>) {
    (
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Revision, Timestamp};

    #[derive(Debug, Clone)]
    enum Step {
        PutApp(u8),
        PutFn {
            id: u8,
            app: u8,
        },
        PutTrigger {
            id: u8,
            app: u8,
            function: u8,
            name: u8,
        },
        DeleteApp(u8),
        DeleteFn(u8),
        DeleteTrigger(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let small = 0..4u8;
        prop_oneof![
            small.clone().prop_map(Step::PutApp),
            (0..8u8, small.clone()).prop_map(|(id, app)| Step::PutFn { id, app }),
            (0..8u8, small.clone(), 0..8u8, small.clone()).prop_map(|(id, app, function, name)| {
                Step::PutTrigger {
                    id,
                    app,
                    function,
                    name,
                }
            }),
            small.prop_map(Step::DeleteApp),
            (0..8u8).prop_map(Step::DeleteFn),
            (0..8u8).prop_map(Step::DeleteTrigger),
        ]
    }

    fn app(n: u8) -> AppId {
        AppId::new(format!("app{n}"))
    }

    fn function(n: u8) -> FnId {
        FnId::new(format!("fn{n}"))
    }

    fn take(catalog: &mut Catalog, step: &Step) {
        match *step {
            Step::PutApp(id) => catalog.put_app(App {
                id: app(id),
                name: format!("name{id}"),
                config: BTreeMap::new(),
                annotations: BTreeMap::new(),
                syslog_url: None,
                shape: String::new(),
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
                revision: Revision(0),
            }),
            // Names and owners are fixed for an id, as the global plane's checks keep them.
            Step::PutFn { id, app: owner } => catalog.put_fn(Fn {
                id: function(id * 4 + owner),
                name: format!("name{id}"),
                app_id: app(owner),
                image: String::new(),
                memory: 128,
                timeout_secs: 30,
                idle_timeout_secs: 30,
                config: BTreeMap::new(),
                annotations: BTreeMap::new(),
                shape: String::new(),
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
                revision: Revision(0),
            }),
            Step::PutTrigger {
                id,
                app: owner,
                function: fn_id,
                name,
            } => catalog.put_trigger(Trigger {
                id: TriggerId::new(format!("trigger{id}")),
                name: format!("name{name}-{id}"),
                app_id: app(owner),
                fn_id: function(fn_id * 4 + owner),
                kind: "http".to_owned(),
                source: format!("/{id}"),
                annotations: BTreeMap::new(),
                created_at: Timestamp(0),
                updated_at: Timestamp(0),
                revision: Revision(0),
            }),
            Step::DeleteApp(id) => drop(catalog.delete_app(&app(id))),
            Step::DeleteFn(id) => drop(catalog.delete_fn(&function(id))),
            Step::DeleteTrigger(id) => {
                drop(catalog.delete_trigger(&TriggerId::new(format!("trigger{id}"))))
            }
        }
    }

    proptest! {
        #[test]
        fn every_way_to_an_object_leads_to_the_object_that_is_stored(steps in prop::collection::vec(step(), 0..60)) {
            let mut catalog = Catalog::default();
            for step in &steps {
                take(&mut catalog, step);
            }
            for app in catalog.apps() {
                prop_assert_eq!(catalog.app_named(&app.name), Some(app));
            }
            for function in catalog.fns() {
                prop_assert_eq!(catalog.fn_named(&function.app_id, &function.name), Some(function));
            }
            for trigger in catalog.triggers() {
                prop_assert_eq!(catalog.trigger_by_source(&trigger.app_id, &trigger.source), Some(trigger));
                prop_assert_eq!(
                    catalog.trigger_named(&trigger.app_id, &trigger.fn_id, &trigger.name),
                    Some(trigger)
                );
            }
            let listed = catalog.apps_after(None).count();
            prop_assert_eq!(listed, catalog.apps().count());
            let fns: usize = (0..4).map(|n| catalog.fns_after(&app(n), None).count()).sum();
            prop_assert_eq!(fns, catalog.fns().count());
            let triggers: usize = (0..4).map(|n| catalog.triggers_after(&app(n), None).count()).sum();
            prop_assert_eq!(triggers, catalog.triggers().count());
        }
    }

    #[test]
    fn deleting_an_app_takes_its_fns_and_triggers_and_leaves_the_rest() {
        let mut catalog = Catalog::default();
        for step in [
            Step::PutApp(0),
            Step::PutApp(1),
            Step::PutFn { id: 1, app: 0 },
            Step::PutFn { id: 2, app: 1 },
            Step::PutTrigger {
                id: 1,
                app: 0,
                function: 1,
                name: 1,
            },
            Step::PutTrigger {
                id: 2,
                app: 1,
                function: 2,
                name: 1,
            },
        ] {
            take(&mut catalog, &step);
        }
        let removed = catalog.delete_app(&app(0));
        assert_eq!(removed.apps, [app(0)]);
        assert_eq!(removed.fns, [function(4)]);
        assert_eq!(removed.triggers, [TriggerId::new("trigger1")]);
        assert_eq!(
            (
                catalog.apps().count(),
                catalog.fns().count(),
                catalog.triggers().count()
            ),
            (1, 1, 1)
        );
        assert!(catalog.delete_app(&app(0)).is_empty());
    }
}
