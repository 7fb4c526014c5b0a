//! What of the catalog concerns this region, kept in step at the cost of what changes.
//!
//! The rule is [`crate::placement`]'s; this is only the record of what it said of each function.

use std::collections::{BTreeMap, BTreeSet};

use api_types::placement::Tier;
use api_types::{AppId, Catalog, Digest, Fn, FnId, ObjectId, Region, TriggerId};

use crate::feed::{Feed, News};
use crate::{order, placement};

/// How functions that may be called in this region refer to a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// Only functions that come here in a failover do.
    Failover,
    /// One that is placed here does.
    Placed,
}

/// Invariant: everything but the feeds is what a new one makes of the same catalog.
#[derive(Debug)]
pub struct Here {
    me: Region,
    placed: Catalog,
    /// Functions that may ever be called here.
    callable: BTreeMap<FnId, Callable>,
    bundles: BTreeMap<Digest, References>,
    functions_changed: Feed<FnId>,
    bundles_changed: Feed<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Callable {
    order: u64,
    bundle: Option<Digest>,
    reference: Reference,
}

/// How many functions refer to a bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct References {
    placed: usize,
    failover: usize,
}

impl References {
    fn kind(self) -> Option<Reference> {
        if self.placed > 0 {
            Some(Reference::Placed)
        } else {
            (self.failover > 0).then_some(Reference::Failover)
        }
    }

    fn of(&mut self, reference: Reference) -> &mut usize {
        match reference {
            Reference::Placed => &mut self.placed,
            Reference::Failover => &mut self.failover,
        }
    }
}

impl Here {
    pub fn new(me: Region) -> Self {
        Self {
            me,
            placed: Catalog::default(),
            callable: BTreeMap::new(),
            bundles: BTreeMap::new(),
            functions_changed: Feed::default(),
            bundles_changed: Feed::default(),
        }
    }

    /// This region by its own configuration.
    pub fn me(&self) -> &Region {
        &self.me
    }

    /// What is placed here, and nothing else.
    pub fn placed(&self) -> &Catalog {
        &self.placed
    }

    /// Functions that may ever be called here, by id: those placed here, and those that come while
    /// no region of their placement serves.
    pub fn callable(&self) -> impl Iterator<Item = &FnId> {
        self.callable.keys()
    }

    /// See [`crate::order`]; `None` if it may never be called here.
    pub fn order(&self, function: &FnId) -> Option<u64> {
        Some(self.callable.get(function)?.order)
    }

    /// Functions that were or are [`Self::callable`] and that changed after a position.
    pub fn functions_since(&self, position: u64) -> (News<FnId>, u64) {
        self.functions_changed.since(position)
    }

    /// `None` if no function that may be called here has it.
    pub fn reference(&self, bundle: &Digest) -> Option<Reference> {
        self.bundles.get(bundle)?.kind()
    }

    /// Every bundle that has one.
    pub fn references(&self) -> impl Iterator<Item = (&Digest, Reference)> {
        let kinds = self.bundles.iter();
        kinds.filter_map(|(bundle, references)| Some((bundle, references.kind()?)))
    }

    /// Bundles whose [`Self::reference`] changed after a position.
    pub fn bundles_since(&self, position: u64) -> (News<Digest>, u64) {
        self.bundles_changed.since(position)
    }

    /// An app of `all` was put or deleted. An app's placement and settings are those of all of its
    /// functions too, so this costs as much as it has.
    pub fn app_changed(&mut self, all: &Catalog, id: &AppId) {
        match all
            .app(id)
            .filter(|app| placement::places_app(app, &self.me))
        {
            Some(app) => self.placed.put(app.clone()),
            None => drop(self.placed.delete(&ObjectId::App(id.clone()))),
        }
        let functions = all.fns_after(id, None).map(|function| function.id.clone());
        for function in functions.collect::<Vec<_>>() {
            self.function_changed(all, &function);
        }
    }

    /// A function of `all` was put or deleted.
    pub fn function_changed(&mut self, all: &Catalog, id: &FnId) {
        let function = all.function(id);
        let callable = function.and_then(|function| self.judge(all, function));
        let is_placed = callable.is_some_and(|callable| callable.reference == Reference::Placed);
        match function.filter(|_| is_placed) {
            Some(function) => {
                let was_placed = self.placed.function(id);
                let is_new = was_placed.is_none();
                if was_placed != Some(function) {
                    self.placed.put(function.clone());
                }
                if is_new {
                    for dependent in all.dependents(&ObjectId::Fn(id.clone())) {
                        let trigger = all.get(&dependent).expect("dependents are held");
                        self.placed.put(trigger.to_owned());
                    }
                }
            }
            None => drop(self.placed.delete(&ObjectId::Fn(id.clone()))),
        }
        let was_callable = match callable {
            Some(callable) => self.callable.insert(id.clone(), callable),
            None => self.callable.remove(id),
        };
        if was_callable != callable {
            self.functions_changed.push(id.clone());
            self.count(was_callable, callable);
        }
    }

    /// A trigger of `all` was put or deleted.
    pub fn trigger_changed(&mut self, all: &Catalog, id: &TriggerId) {
        let trigger = all.trigger(id);
        match trigger.filter(|trigger| self.placed.function(&trigger.fn_id).is_some()) {
            Some(trigger) => self.placed.put(trigger.clone()),
            None => drop(self.placed.delete(&ObjectId::Trigger(id.clone()))),
        }
    }

    fn judge(&self, all: &Catalog, function: &Fn) -> Option<Callable> {
        let reference = match placement::tier(all, function, &self.me) {
            Tier::Placed => Reference::Placed,
            tier if tier.may_hold() => Reference::Failover,
            _ => return None,
        };
        Some(Callable {
            order: order(all.app(&function.app_id)?, function),
            bundle: function.bundle().map(|bundle| bundle.digest),
            reference,
        })
    }

    /// Counts a function's reference anew.
    fn count(&mut self, was: Option<Callable>, is: Option<Callable>) {
        let bundles = [was, is].map(|callable| callable.and_then(|callable| callable.bundle));
        let touched: BTreeSet<Digest> = bundles.into_iter().flatten().collect();
        let before = touched.iter().map(|bundle| self.reference(bundle));
        let before: Vec<_> = before.collect();
        if let Some(Callable {
            bundle: Some(bundle),
            reference,
            ..
        }) = is
        {
            *self.bundles.entry(bundle).or_default().of(reference) += 1;
        }
        if let Some(Callable {
            bundle: Some(bundle),
            reference,
            ..
        }) = was
        {
            let references = self.bundles.entry(bundle).or_default();
            *references.of(reference) -= 1;
            if references.kind().is_none() {
                self.bundles.remove(&bundle);
            }
        }
        for (bundle, before) in touched.into_iter().zip(before) {
            if self.reference(&bundle) != before {
                self.bundles_changed.push(bundle);
            }
        }
    }
}
