//! Every app, function and trigger, with the look-ups and lists that both planes answer from.
//!
//! Pure and ordered: two catalogs that took the same puts and deletes list the same pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

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
        if let Some(old) = self.fns.get(&function.id)
            && let Some(names) = self.fn_names.get_mut(&old.app_id)
        {
            names.remove(&old.name);
        }
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

    /// Removes an app with its fns and triggers. Returns what went, the app last; empty if unknown.
    pub fn delete_app(&mut self, id: &AppId) -> Removed {
        let mut removed = Removed::default();
        let fns: Vec<FnId> = self
            .fn_names
            .get(id)
            .into_iter()
            .flat_map(|names| names.values().cloned())
            .collect();
        for function in fns {
            removed.extend(self.delete_fn(&function));
        }
        self.fn_names.remove(id);
        self.trigger_names.remove(id);
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
        self.fn_triggers.remove(id);
        if let Some(function) = self.fns.remove(id) {
            if let Some(names) = self.fn_names.get_mut(&function.app_id) {
                names.remove(&function.name);
            }
            removed.fns.push(function.id);
        }
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

    fn unindex_trigger(&mut self, id: &TriggerId) {
        let Some(old) = self.triggers.get(id) else {
            return;
        };
        if let Some(names) = self.trigger_names.get_mut(&old.app_id) {
            names.remove(&(old.name.clone(), old.fn_id.clone()));
        }
        self.sources
            .remove(&(old.app_id.clone(), old.source.clone()));
        if let Some(triggers) = self.fn_triggers.get_mut(&old.fn_id) {
            triggers.remove(id);
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
