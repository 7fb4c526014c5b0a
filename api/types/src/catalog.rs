//! Every object, with the look-ups and lists that both planes answer from.
//!
//! Pure and ordered: two catalogs that took the same puts and deletes list the same pages.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::placement::Placements;
use crate::{
    App, AppId, Bundle, Digest, Fn, FnId, Format, FormatName, Kind, Member, MemberId, Object,
    ObjectId, ObjectRef, Region, RegionName, Trigger, TriggerId,
};
#[cfg(feature = "next-format")]
use crate::{Note, NoteId};

/// Invariants: every index entry points at a stored object; an app's fns and triggers go with it,
/// a fn's triggers go with it. A fn or trigger may be put before its app (a replica may meet them
/// in that order); look-ups by app simply find it once the app is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    apps: BTreeMap<AppId, App>,
    fns: BTreeMap<FnId, Fn>,
    triggers: BTreeMap<TriggerId, Trigger>,
    regions: BTreeMap<RegionName, Region>,
    bundles: BTreeMap<Digest, Bundle>,
    members: BTreeMap<MemberId, Member>,
    formats: BTreeMap<FormatName, Format>,
    #[cfg(feature = "next-format")]
    notes: BTreeMap<NoteId, Note>,
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

    /// All regions by name.
    pub fn regions(&self) -> impl Iterator<Item = &Region> + Clone {
        self.regions.values()
    }

    #[must_use]
    pub fn region(&self, name: &RegionName) -> Option<&Region> {
        self.regions.get(name)
    }

    /// All members by number.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The formats in use beside those that every version knows, by name.
    pub fn formats(&self) -> impl Iterator<Item = &Format> {
        self.formats.values()
    }

    #[must_use]
    pub fn format(&self, name: &FormatName) -> Option<&Format> {
        self.formats.get(name)
    }

    /// All bundles by digest.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.values()
    }

    #[must_use]
    pub fn bundle(&self, digest: &Digest) -> Option<&Bundle> {
        self.bundles.get(digest)
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

    /// How many objects of a kind there are.
    #[must_use]
    pub fn len(&self, kind: Kind) -> usize {
        match kind {
            Kind::App => self.apps.len(),
            Kind::Fn => self.fns.len(),
            Kind::Trigger => self.triggers.len(),
            Kind::Region => self.regions.len(),
            Kind::Bundle => self.bundles.len(),
            Kind::Member => self.members.len(),
            Kind::Format => self.formats.len(),
            #[cfg(feature = "next-format")]
            Kind::Note => self.notes.len(),
        }
    }

    /// Every object, kind by kind and by id within one.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef<'_>> {
        Kind::ALL.iter().flat_map(|kind| self.of_kind(*kind))
    }

    /// Every object of a kind, by id.
    #[must_use]
    pub fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectRef<'_>> + '_> {
        match kind {
            Kind::App => Box::new(self.apps.values().map(Into::into)),
            Kind::Fn => Box::new(self.fns.values().map(Into::into)),
            Kind::Trigger => Box::new(self.triggers.values().map(Into::into)),
            Kind::Region => Box::new(self.regions.values().map(Into::into)),
            Kind::Bundle => Box::new(self.bundles.values().map(Into::into)),
            Kind::Member => Box::new(self.members.values().map(Into::into)),
            Kind::Format => Box::new(self.formats.values().map(Into::into)),
            #[cfg(feature = "next-format")]
            Kind::Note => Box::new(self.notes.values().map(Into::into)),
        }
    }

    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<ObjectRef<'_>> {
        match id {
            ObjectId::App(id) => self.apps.get(id).map(Into::into),
            ObjectId::Fn(id) => self.fns.get(id).map(Into::into),
            ObjectId::Trigger(id) => self.triggers.get(id).map(Into::into),
            ObjectId::Region(name) => self.regions.get(name).map(Into::into),
            ObjectId::Bundle(digest) => self.bundles.get(digest).map(Into::into),
            ObjectId::Member(id) => self.members.get(id).map(Into::into),
            ObjectId::Format(name) => self.formats.get(name).map(Into::into),
            #[cfg(feature = "next-format")]
            ObjectId::Note(id) => self.notes.get(id).map(Into::into),
        }
    }

    /// Adds an object, or replaces the one of its id.
    pub fn put(&mut self, object: impl Into<Object>) {
        match object.into() {
            Object::App(app) => self.put_app(app),
            Object::Fn(function) => self.put_fn(function),
            Object::Trigger(trigger) => self.put_trigger(trigger),
            Object::Region(region) => drop(self.regions.insert(region.name.clone(), region)),
            Object::Bundle(bundle) => drop(self.bundles.insert(bundle.digest, bundle)),
            Object::Member(member) => drop(self.members.insert(member.id, member)),
            Object::Format(format) => drop(self.formats.insert(format.name.clone(), format)),
            #[cfg(feature = "next-format")]
            Object::Note(note) => drop(self.notes.insert(note.id.clone(), note)),
        }
    }

    /// Removes an object and what cannot be without it. Returns what went, dependents before what
    /// they depended on; empty if nothing did.
    pub fn delete(&mut self, id: &ObjectId) -> Vec<ObjectId> {
        let mut gone = self.dependents(id);
        gone.push(id.clone());
        gone.retain(|id| self.remove(id));
        gone
    }

    /// What goes with an object: an app's fns and triggers, a fn's triggers.
    #[must_use]
    pub fn dependents(&self, id: &ObjectId) -> Vec<ObjectId> {
        match id {
            ObjectId::App(id) => {
                // Not by way of the fns: a replica may hold a trigger whose fn it has not met yet.
                let triggers = self.trigger_names.get(id).into_iter();
                let triggers = triggers.flat_map(BTreeMap::values).cloned();
                let fns = self.fn_names.get(id).into_iter();
                let fns = fns.flat_map(BTreeMap::values).cloned();
                triggers
                    .map(ObjectId::Trigger)
                    .chain(fns.map(ObjectId::Fn))
                    .collect()
            }
            ObjectId::Fn(id) => {
                let triggers = self.fn_triggers.get(id).into_iter().flatten();
                triggers.cloned().map(ObjectId::Trigger).collect()
            }
            ObjectId::Trigger(_)
            | ObjectId::Region(_)
            | ObjectId::Bundle(_)
            | ObjectId::Member(_)
            | ObjectId::Format(_) => Vec::new(),
            #[cfg(feature = "next-format")]
            ObjectId::Note(_) => Vec::new(),
        }
    }

    fn put_app(&mut self, app: App) {
        if let Some(old) = self.apps.get(&app.id) {
            self.app_names.remove(&old.name);
        }
        self.app_names.insert(app.name.clone(), app.id.clone());
        self.apps.insert(app.id.clone(), app);
    }

    fn put_fn(&mut self, function: Fn) {
        self.unindex_fn(&function.id);
        let names = self.fn_names.entry(function.app_id.clone()).or_default();
        names.insert(function.name.clone(), function.id.clone());
        self.fns.insert(function.id.clone(), function);
    }

    fn put_trigger(&mut self, trigger: Trigger) {
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

    /// Removes one object alone; whether it was there.
    fn remove(&mut self, id: &ObjectId) -> bool {
        match id {
            ObjectId::App(id) => {
                let app = self.apps.remove(id);
                if let Some(app) = &app {
                    self.app_names.remove(&app.name);
                }
                app.is_some()
            }
            ObjectId::Fn(id) => {
                self.unindex_fn(id);
                self.fns.remove(id).is_some()
            }
            ObjectId::Trigger(id) => {
                self.unindex_trigger(id);
                self.triggers.remove(id).is_some()
            }
            ObjectId::Region(name) => self.regions.remove(name).is_some(),
            ObjectId::Bundle(digest) => self.bundles.remove(digest).is_some(),
            ObjectId::Member(id) => self.members.remove(id).is_some(),
            ObjectId::Format(name) => self.formats.remove(name).is_some(),
            #[cfg(feature = "next-format")]
            ObjectId::Note(id) => self.notes.remove(id).is_some(),
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
    use crate::object::example::example;
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
            Step::PutApp(id) => catalog.put(App {
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
            Step::PutFn { id, app: owner } => catalog.put(Fn {
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
            } => catalog.put(Trigger {
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
            Step::DeleteApp(id) => drop(catalog.delete(&ObjectId::App(app(id)))),
            Step::DeleteFn(id) => drop(catalog.delete(&ObjectId::Fn(function(id)))),
            Step::DeleteTrigger(id) => {
                let id = TriggerId::new(format!("trigger{id}"));
                drop(catalog.delete(&ObjectId::Trigger(id)));
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
    fn a_catalog_holds_every_kind_and_lets_go_of_it() {
        let mut catalog = Catalog::default();
        let all: Vec<Object> = Kind::ALL
            .iter()
            .map(|kind| example(*kind, Revision(1)))
            .collect();
        for object in &all {
            catalog.put(object.clone());
            catalog.put(object.clone());
            assert_eq!(catalog.len(object.kind()), 1);
            assert_eq!(catalog.get(&object.id()), Some(object.by_ref()));
        }
        let held: Vec<Object> = catalog.objects().map(|object| object.to_owned()).collect();
        assert_eq!(held, all);
        for object in all.iter().rev() {
            assert_eq!(catalog.delete(&object.id()), [object.id()]);
            assert!(catalog.delete(&object.id()).is_empty());
        }
        assert_eq!(catalog, Catalog::default());
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
        let gone = catalog.delete(&ObjectId::App(app(0)));
        let want = [
            ObjectId::Trigger(TriggerId::new("trigger1")),
            ObjectId::Fn(function(4)),
            ObjectId::App(app(0)),
        ];
        assert_eq!(gone, want);
        assert_eq!(
            (
                catalog.apps().count(),
                catalog.fns().count(),
                catalog.triggers().count()
            ),
            (1, 1, 1)
        );
        assert!(catalog.delete(&ObjectId::App(app(0))).is_empty());
    }
}
