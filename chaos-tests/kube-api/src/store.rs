//! Objects by resource and name, one counter of revisions, and the log that watches read.
//!
//! An object is kept as the JSON text that lists and watches send, beside the few fields that
//! selectors and garbage collection look at; it is parsed only to be changed. A list is then a
//! concatenation and a watch event a copy, whatever the number of watchers.

mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use crate::refusal::{self, FailureStatus};
use crate::resource::{Definition, ResourceKey, Target, built_in};
use crate::selector::Selector;

pub(crate) use write::{Deletion, Patch, Write, Written, now};

/// Empty namespace for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) resource: ResourceKey,
    pub(crate) name: ObjectName,
}

/// One version of an object.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: ObjectName,
    pub(crate) revision: u64,
    pub(crate) uid: String,
    pub(crate) json: Bytes,
    pub(crate) labels: BTreeMap<String, String>,
    /// `spec.nodeName`, empty where there is none.
    pub(crate) node: String,
    /// `status.phase`, empty where there is none.
    pub(crate) phase: String,
    /// Uids of `metadata.ownerReferences`.
    owners: Vec<String>,
    pub(crate) terminating: bool,
}

impl Stored {
    fn new(name: ObjectName, revision: u64, object: &Value) -> Self {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let labels = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object);
        let owners = object
            .pointer("/metadata/ownerReferences")
            .and_then(Value::as_array);
        Self {
            name,
            revision,
            uid: text("/metadata/uid"),
            json: Bytes::from(serde_json::to_vec(object).expect("a JSON value can be written")),
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            node: text("/spec/nodeName"),
            phase: text("/status/phase"),
            owners: owners
                .into_iter()
                .flatten()
                .filter_map(|owner| owner["uid"].as_str().map(str::to_owned))
                .collect(),
            terminating: object.pointer("/metadata/deletionTimestamp").is_some(),
        }
    }

    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the store wrote it")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: ChangeKind,
    /// The object after the change, or as it was last for a deletion.
    pub(crate) object: Arc<Stored>,
    before: Option<Arc<Stored>>,
}

impl Change {
    /// What a watcher with `selector` sees of it: an object that begins to match is added, and one
    /// that ceases to is deleted.
    pub(crate) fn seen_through(&self, selector: &Selector) -> Option<ChangeKind> {
        if selector.is_everything() {
            return Some(self.kind);
        }
        let was = self
            .before
            .as_ref()
            .is_some_and(|before| selector.matches(before));
        let is = self.kind != ChangeKind::Deleted && selector.matches(&self.object);
        match (was, is) {
            (true, true) => Some(ChangeKind::Modified),
            (false, true) => Some(ChangeKind::Added),
            (true, false) => Some(ChangeKind::Deleted),
            (false, false) => None,
        }
    }
}

#[derive(Debug)]
struct Table {
    definition: Arc<Definition>,
    objects: BTreeMap<ObjectName, Arc<Stored>>,
    log: VecDeque<Change>,
    /// The oldest revision that the log goes on from.
    oldest: u64,
    /// The oldest that a watch may start from. Those under way go on from the log.
    compacted: u64,
    /// The revision of the newest change; watchers wait on it.
    changed: watch::Sender<u64>,
}

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    pub(crate) limit: Option<usize>,
    pub(crate) continues: Option<String>,
    pub(crate) revision: Option<u64>,
    pub(crate) exact: bool,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Arc<Stored>>,
    pub(crate) continues: Option<String>,
    pub(crate) remaining: usize,
}

/// The rest of a paged list, so that later pages show the same moment as the first.
#[derive(Debug)]
struct Snapshot {
    token: String,
    revision: u64,
    rest: Vec<Arc<Stored>>,
}

/// Paged lists under way at once; the oldest beyond it continues with 410, as after compaction.
const SNAPSHOTS_MAX: usize = 64;

/// Changes kept per resource. A watcher this far behind gets 410, as from the real watch cache,
/// which holds up to 100,000; 20,000 pods bound, started and ended fit.
const LOG_MAX: usize = 60_000;

#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    tables: BTreeMap<ResourceKey, Table>,
    addresses: HashMap<String, Address>,
    dependants: HashMap<String, BTreeSet<Address>>,
    snapshots: VecDeque<Snapshot>,
    snapshots_made: u64,
    /// Most objects of a resource in a namespace.
    pub(crate) quotas: BTreeMap<(ResourceKey, String), usize>,
}

impl Store {
    pub(crate) fn new() -> Self {
        let mut store = Self {
            // Real servers never hand out small revisions; code that compares them as text shows.
            revision: 995,
            tables: BTreeMap::new(),
            addresses: HashMap::new(),
            dependants: HashMap::new(),
            snapshots: VecDeque::new(),
            snapshots_made: 0,
            quotas: BTreeMap::new(),
        };
        for definition in built_in() {
            store.define(definition);
        }
        store
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Serves `definition` from now on; objects it already has stay.
    fn define(&mut self, definition: Definition) {
        let revision = self.revision;
        let definition = Arc::new(definition);
        let table = self
            .tables
            .entry(definition.key())
            .or_insert_with(|| Table {
                definition: Arc::clone(&definition),
                objects: BTreeMap::new(),
                log: VecDeque::new(),
                oldest: revision,
                compacted: revision,
                changed: watch::Sender::new(revision),
            });
        table.definition = definition;
    }

    /// The resource that a request is about.
    ///
    /// # Errors
    /// 404 as a real server answers for a resource or version that it does not serve.
    pub(crate) fn definition(&self, target: &Target) -> Result<Arc<Definition>, FailureStatus> {
        self.tables
            .get(&target.resource)
            .map(|table| &table.definition)
            .filter(|definition| definition.versions.contains(&target.version))
            .map(Arc::clone)
            .ok_or_else(refusal::unknown_path)
    }

    pub(crate) fn resource_of_kind(&self, group: &str, kind: &str) -> Option<ResourceKey> {
        self.tables
            .values()
            .map(|table| &table.definition)
            .find(|definition| definition.group == group && definition.kind == kind)
            .map(|definition| definition.key())
    }

    pub(crate) fn get(
        &self,
        definition: &Definition,
        name: &ObjectName,
    ) -> Result<Arc<Stored>, FailureStatus> {
        self.tables
            .get(&definition.key())
            .and_then(|table| table.objects.get(name))
            .map(Arc::clone)
            .ok_or_else(|| refusal::not_found(definition, &name.name))
    }

    /// Every object of a resource, in the order of their names.
    pub(crate) fn all(
        &self,
        resource: &ResourceKey,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Stored>> {
        let start = ObjectName {
            namespace: namespace.unwrap_or_default().to_owned(),
            name: String::new(),
        };
        self.tables
            .get(resource)
            .into_iter()
            .flat_map(move |table| {
                table
                    .objects
                    .range((Bound::Included(start.clone()), Bound::Unbounded))
            })
            .take_while(move |(name, _)| {
                namespace.is_none_or(|namespace| name.namespace == namespace)
            })
            .map(|(_, object)| object)
    }

    pub(crate) fn list(
        &mut self,
        definition: &Definition,
        query: &ListQuery,
    ) -> Result<Page, FailureStatus> {
        if let Some(token) = &query.continues {
            let at = self
                .snapshots
                .iter()
                .position(|snapshot| snapshot.token == *token)
                .ok_or_else(refusal::continue_expired)?;
            let snapshot = self.snapshots.remove(at).expect("found above");
            return Ok(self.page(snapshot.revision, snapshot.rest, query.limit));
        }
        let resource = definition.key();
        if let Some(asked) = query.revision {
            if asked > self.revision {
                return Err(refusal::too_large(asked, self.revision));
            }
            // Only the present is kept, so any earlier exact version is as if compacted.
            if query.exact && asked < self.revision {
                return Err(refusal::too_old(asked, self.revision));
            }
        }
        let items = self
            .all(&resource, query.namespace.as_deref())
            .filter(|object| query.selector.matches(object))
            .map(Arc::clone)
            .collect();
        Ok(self.page(self.revision, items, query.limit))
    }

    fn page(&mut self, revision: u64, mut items: Vec<Arc<Stored>>, limit: Option<usize>) -> Page {
        let limit = limit.filter(|limit| *limit > 0).unwrap_or(items.len());
        let rest = items.split_off(limit.min(items.len()));
        let remaining = rest.len();
        let continues = (remaining > 0).then(|| {
            self.snapshots_made += 1;
            let token = format!("{revision}-{}", self.snapshots_made);
            if self.snapshots.len() == SNAPSHOTS_MAX {
                self.snapshots.pop_front();
            }
            self.snapshots.push_back(Snapshot {
                token: token.clone(),
                revision,
                rest,
            });
            token
        });
        Page {
            revision,
            items,
            continues,
            remaining,
        }
    }

    /// The newest revision of a resource, to wait on; `None` when it is no longer served.
    pub(crate) fn watch_revision(&self, resource: &ResourceKey) -> Option<watch::Receiver<u64>> {
        self.tables
            .get(resource)
            .map(|table| table.changed.subscribe())
    }

    /// Up to `max` changes after a revision, oldest first.
    ///
    /// # Errors
    /// 410 if they are no longer kept.
    pub(crate) fn changes_after(
        &self,
        resource: &ResourceKey,
        after: u64,
        max: usize,
    ) -> Result<Vec<Change>, FailureStatus> {
        let table = self
            .tables
            .get(resource)
            .ok_or_else(refusal::unknown_path)?;
        if after < table.oldest {
            return Err(refusal::too_old(after, table.oldest));
        }
        let start = table
            .log
            .partition_point(|change| change.object.revision <= after);
        Ok(table.log.range(start..).take(max).cloned().collect())
    }

    /// The refusal of a watch that starts after a revision, if what followed is forgotten.
    pub(crate) fn compacted(&self, resource: &ResourceKey, after: u64) -> Option<FailureStatus> {
        let table = self.tables.get(resource)?;
        let oldest = table.oldest.max(table.compacted);
        (after < oldest).then(|| refusal::too_old(after, oldest))
    }

    /// Forgets all history: whoever resumes from a revision seen before gets 410.
    pub(crate) fn compact(&mut self) {
        self.revision += 1;
        for table in self.tables.values_mut() {
            table.compacted = self.revision;
        }
        self.snapshots.clear();
    }

    /// Gives `object` the next revision and puts it in the place of `before`.
    fn commit(
        &mut self,
        definition: &Definition,
        name: ObjectName,
        mut object: Value,
        kind: ChangeKind,
    ) -> Arc<Stored> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        let stored = Arc::new(Stored::new(name.clone(), self.revision, &object));
        let resource = definition.key();
        let address = Address {
            resource: resource.clone(),
            name: name.clone(),
        };
        let table = self
            .tables
            .get_mut(&resource)
            .expect("a definition in hand has its table");
        let before = if kind == ChangeKind::Deleted {
            table.objects.remove(&name)
        } else {
            table.objects.insert(name, Arc::clone(&stored))
        };
        for owner in before.iter().flat_map(|before| &before.owners) {
            if let Some(dependants) = self.dependants.get_mut(owner) {
                dependants.remove(&address);
                if dependants.is_empty() {
                    self.dependants.remove(owner);
                }
            }
        }
        if kind == ChangeKind::Deleted {
            self.addresses.remove(&stored.uid);
        } else {
            for owner in &stored.owners {
                self.dependants
                    .entry(owner.clone())
                    .or_default()
                    .insert(address.clone());
            }
            self.addresses.insert(stored.uid.clone(), address);
        }
        if table.log.len() == LOG_MAX
            && let Some(forgotten) = table.log.pop_front()
        {
            table.oldest = forgotten.object.revision;
        }
        table.log.push_back(Change {
            kind,
            object: Arc::clone(&stored),
            before,
        });
        table.changed.send_replace(self.revision);
        if definition.is_crds() {
            self.crd_changed(&object, kind);
        }
        stored
    }

    fn crd_changed(&mut self, crd: &Value, kind: ChangeKind) {
        let Ok(definition) = Definition::from_crd(crd) else {
            return;
        };
        if kind == ChangeKind::Deleted {
            self.tables.remove(&definition.key());
        } else {
            self.define(definition);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Create(u8, bool),
        Relabel(u8, bool),
        Delete(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6_u8, any::<bool>()).prop_map(|(name, yes)| Step::Create(name, yes)),
            (0..6_u8, any::<bool>()).prop_map(|(name, yes)| Step::Relabel(name, yes)),
            (0..6_u8).prop_map(Step::Delete),
        ];
        prop::collection::vec(step, 1..40)
    }

    fn nodes(store: &Store) -> Arc<Definition> {
        store
            .definition(&Target::parse("/api/v1/nodes").unwrap())
            .unwrap()
    }

    fn labels(yes: bool) -> Value {
        json!({ "metadata": { "labels": { "yes": yes.to_string() } } })
    }

    /// Refusals (of what is there already, or not there) change nothing and are part of the game.
    fn perform(store: &mut Store, step: &Step) {
        let nodes = nodes(store);
        let write = Write {
            manager: "tests".to_owned(),
            subresource: None,
            dry_run: false,
        };
        let name = |name: u8| ObjectName {
            namespace: String::new(),
            name: format!("n{name}"),
        };
        match step {
            Step::Create(at, yes) => {
                let mut object = labels(*yes);
                object["metadata"]["name"] = json!(name(*at).name);
                drop(store.create(&nodes, None, object, &write));
            }
            Step::Relabel(at, yes) => {
                drop(store.patch(&nodes, &name(*at), Patch::Merge(labels(*yes)), &write));
            }
            Step::Delete(at) => drop(store.delete(&nodes, &name(*at), &Deletion::default())),
        }
    }

    fn chosen(store: &Store, selector: &Selector) -> BTreeMap<String, u64> {
        store
            .all(&nodes(store).key(), None)
            .filter(|object| selector.matches(object))
            .map(|object| (object.name.name.clone(), object.revision))
            .collect()
    }

    proptest! {
        /// What a reflector does, whatever it selects and whenever it begins.
        #[test]
        fn a_list_and_the_changes_after_it_are_the_present(steps in steps(), begin in 0..40_usize) {
            for selector in ["", "yes=true"] {
                let selector = Selector::parse(Some(selector), None).unwrap();
                let mut store = Store::new();
                let begin = begin.min(steps.len());
                steps[..begin].iter().for_each(|step| perform(&mut store, step));
                let from = store.revision();
                let mut seen = chosen(&store, &selector);
                steps[begin..].iter().for_each(|step| perform(&mut store, step));
                let key = nodes(&store).key();
                let mut last = from;
                for change in store.changes_after(&key, from, usize::MAX).unwrap() {
                    prop_assert!(change.object.revision > last, "revisions grow");
                    last = change.object.revision;
                    let name = change.object.name.name.clone();
                    match change.seen_through(&selector) {
                        Some(ChangeKind::Added) => {
                            prop_assert!(seen.insert(name, last).is_none(), "added once");
                        }
                        Some(ChangeKind::Modified) => {
                            prop_assert!(seen.insert(name, last).is_some(), "known before");
                        }
                        Some(ChangeKind::Deleted) => {
                            prop_assert!(seen.remove(&name).is_some(), "known before");
                        }
                        None => {}
                    }
                }
                prop_assert_eq!(seen, chosen(&store, &selector));
            }
        }
    }

    #[test]
    fn the_log_is_bounded_and_says_so() {
        let mut store = Store::new();
        let from = store.revision();
        perform(&mut store, &Step::Create(0, true));
        for at in 0..LOG_MAX + 2 {
            perform(&mut store, &Step::Relabel(0, at % 2 == 0));
        }
        let key = nodes(&store).key();
        assert_eq!(store.changes_after(&key, from, 1).unwrap_err().code, 410);
        let table = &store.tables[&key];
        assert!(table.log.len() <= LOG_MAX);
        let oldest = table.oldest;
        assert!(store.changes_after(&key, oldest, 1).is_ok());
    }
}
