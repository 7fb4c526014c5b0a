//! What is held, what may change it, and what is refused.
//!
//! Pure: a [`Step`] is computed from what is held and what was received; the caller makes it
//! durable and then hands it to [`Held::take`].

use std::collections::BTreeMap;

use api_types::{
    App, AppId, Catalog, Fn, FnId, Region, RegionName, Revision, Trigger, TriggerId, Verdict,
};
use api_wire::fns::StoredError;
use api_wire::planes::{RegionBody, WatchLine};
use api_wire::view::{Envelope, MetadataBody, ViewError};
use api_wire::{AppBody, FnBody, TriggerBody};
use sha2::{Digest as _, Sha256};

use crate::placement;

/// Where the copy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub cluster_id: String,
    pub epoch: u64,
    /// The last revision of which a change was applied.
    pub revision: Revision,
    /// Up to here every change was applied. Behind `revision` while more lines of it may come: a
    /// stream can break off between two lines of one revision.
    pub settled: Revision,
    pub zone: String,
    pub gateway_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    App,
    Fn,
    Trigger,
    Region,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Fn => "fn",
            Self::Trigger => "trigger",
            Self::Region => "region",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::App, Self::Fn, Self::Trigger, Self::Region]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

pub type Key = (Kind, String);

#[derive(Debug, Clone)]
pub enum Object {
    App(App),
    Fn(Fn),
    Trigger(Trigger),
    Region(Region),
}

impl Object {
    pub fn key(&self) -> Key {
        match self {
            Self::App(app) => (Kind::App, app.id.to_string()),
            Self::Fn(function) => (Kind::Fn, function.id.to_string()),
            Self::Trigger(trigger) => (Kind::Trigger, trigger.id.to_string()),
            Self::Region(region) => (Kind::Region, region.name.to_string()),
        }
    }

    fn revision(&self) -> Revision {
        match self {
            Self::App(app) => app.revision,
            Self::Fn(function) => function.revision,
            Self::Trigger(trigger) => trigger.revision,
            Self::Region(region) => region.revision,
        }
    }

    /// The form on disk.
    pub fn to_json(&self) -> Vec<u8> {
        match self {
            Self::App(app) => serde_json::to_vec(&AppBody::stored(app)),
            Self::Fn(function) => serde_json::to_vec(&FnBody::stored(function)),
            Self::Trigger(trigger) => serde_json::to_vec(&TriggerBody::stored(trigger)),
            Self::Region(region) => serde_json::to_vec(&RegionBody::from(region)),
        }
        .expect("stored forms are plain data")
    }

    /// The reverse of [`Self::to_json`]; the text says what is wrong.
    pub fn from_json(kind: Kind, json: &[u8]) -> Result<Self, String> {
        fn read<B: serde::de::DeserializeOwned, T: TryFrom<B, Error = StoredError>>(
            json: &[u8],
        ) -> Result<T, String> {
            let body: B = serde_json::from_slice(json).map_err(|error| error.to_string())?;
            T::try_from(body).map_err(|error| error.to_string())
        }
        match kind {
            Kind::App => read::<AppBody, App>(json).map(Self::App),
            Kind::Fn => read::<FnBody, Fn>(json).map(Self::Fn),
            Kind::Trigger => read::<TriggerBody, Trigger>(json).map(Self::Trigger),
            Kind::Region => read::<RegionBody, Region>(json).map(Self::Region),
        }
    }
}

/// A checked change of what is held.
#[derive(Debug)]
pub struct Step {
    pub meta: Meta,
    pub puts: Vec<Object>,
    pub deletes: Vec<Key>,
    /// A power cut must not bring back what it replaced.
    pub sync: bool,
}

impl Step {
    pub fn changes_functions(&self) -> bool {
        self.puts
            .iter()
            .any(|object| !matches!(object, Object::Region(_)))
            || self.deletes.iter().any(|(kind, _)| *kind != Kind::Region)
    }
}

/// What a person does about a snapshot that is not taken unasked.
const TO_ACCEPT: &str = "if that is meant, stop this process, remove the folder `replica` in its data \
                         folder and start it again";

/// Why something received was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the snapshot holds {found} objects, its header says {declared}")]
    Count { declared: u64, found: u64 },
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error(
        "the snapshot is of cluster {offered:?}, this region belongs to {held:?}; \
         its `globals` lead elsewhere, or {TO_ACCEPT}"
    )]
    Cluster { offered: String, held: String },
    #[error(
        "the snapshot is of epoch {offered}, this region holds {held}: the global plane was \
         restored; {TO_ACCEPT}"
    )]
    Epoch { offered: u64, held: u64 },
    #[error("the snapshot is of revision {offered}, this region holds {held}")]
    Older { offered: Revision, held: Revision },
    #[error("the snapshot would delete {deleted} of {held} objects at once; {TO_ACCEPT}")]
    MassDelete { deleted: usize, held: usize },
    #[error("a change of revision {got} after {held}")]
    Order { got: Revision, held: Revision },
    #[error("a deletion of an unknown kind {kind:?}")]
    UnknownKind { kind: String },
}

impl Refused {
    /// For a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::View(ViewError::Digest { .. }) => "digest",
            Self::View(ViewError::Malformed { .. }) | Self::Stored(_) => "malformed",
            Self::Count { .. } => "count",
            Self::Cluster { .. } => "cluster",
            Self::Epoch { .. } => "epoch",
            Self::Older { .. } => "older",
            Self::MassDelete { .. } => "mass_delete",
            Self::Order { .. } => "order",
            Self::UnknownKind { .. } => "unknown_kind",
        }
    }
}

/// A snapshot may always delete this many: in a small federation half is soon reached.
const DELETES_FREE: usize = 10;

/// Everything held, and the part of it that is placed here.
///
/// Invariants: `here` is what [`placement::refresh`] makes of `all`; `revisions` has one entry for
/// each object of `all` and each region; `hash` is the sum over `revisions`.
#[derive(Debug)]
pub struct Held {
    meta: Option<Meta>,
    all: Catalog,
    here: Catalog,
    regions: BTreeMap<RegionName, Region>,
    revisions: BTreeMap<Key, Revision>,
    hash: u64,
    me: Region,
    zone_configured: String,
}

impl Held {
    pub fn new(me: Region, zone: String) -> Self {
        Self {
            meta: None,
            all: Catalog::default(),
            here: Catalog::default(),
            regions: BTreeMap::new(),
            revisions: BTreeMap::new(),
            hash: 0,
            me,
            zone_configured: zone,
        }
    }

    /// `None` until a first snapshot was taken.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    pub fn revision(&self) -> Revision {
        self.meta.as_ref().map_or(Revision(0), |meta| meta.revision)
    }

    /// Order independent, over (kind, id, revision) of every object: two replicas at one revision
    /// agree on it however they came there.
    pub fn hash(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// Everything, placed here or not.
    pub fn all(&self) -> &Catalog {
        &self.all
    }

    /// What is placed here, and nothing else.
    pub fn here(&self) -> &Catalog {
        &self.here
    }

    /// Functions that may ever be called here: those placed here, and those that come while nowhere
    /// they are placed serves.
    pub fn callable(&self) -> impl Iterator<Item = &Fn> {
        let tier = |function: &Fn| placement::tier(&self.all, function, &self.me);
        self.all
            .fns()
            .filter(move |function| tier(function).may_hold())
    }

    /// Every region, this one among them once the global plane knows it.
    pub fn regions(&self) -> impl Iterator<Item = &Region> + Clone {
        self.regions.values()
    }

    /// This region by its own configuration.
    pub fn me(&self) -> &Region {
        &self.me
    }

    /// What the global plane thinks of this region.
    pub fn verdict(&self) -> Option<Verdict> {
        self.regions.get(&self.me.name).map(|row| row.verdict)
    }

    /// An operator asked this region to drain. Its verdict alone says less: a gateway that is
    /// stopping is `Draining` too.
    pub fn drained(&self) -> bool {
        self.regions
            .get(&self.me.name)
            .is_some_and(|row| row.drained)
    }

    pub fn zone(&self) -> &str {
        self.meta
            .as_ref()
            .map_or(&self.zone_configured, |meta| &meta.zone)
    }

    /// TCP port of every gateway as names are called; `None` before the first snapshot.
    pub fn gateway_port(&self) -> Option<u16> {
        self.meta.as_ref().map(|meta| meta.gateway_port)
    }

    /// What a snapshot changes; `None` if it is what is held.
    ///
    /// # Errors
    /// If it must not replace what is held.
    pub fn snapshot(&self, envelope: &Envelope) -> Result<Option<Step>, Refused> {
        let body: MetadataBody = envelope.open()?;
        let offered = Revision(envelope.id.revision);
        if let Some(held) = &self.meta {
            if envelope.id.cluster_id != held.cluster_id {
                return Err(Refused::Cluster {
                    offered: envelope.id.cluster_id.clone(),
                    held: held.cluster_id.clone(),
                });
            }
            if envelope.id.epoch != held.epoch {
                return Err(Refused::Epoch {
                    offered: envelope.id.epoch,
                    held: held.epoch,
                });
            }
            if offered < held.revision {
                return Err(Refused::Older {
                    offered,
                    held: held.revision,
                });
            }
            if offered == held.revision && held.settled == held.revision {
                return Ok(None);
            }
        }
        let meta = Meta {
            cluster_id: envelope.id.cluster_id.clone(),
            epoch: envelope.id.epoch,
            revision: offered,
            settled: offered,
            zone: body.zone.trim_end_matches('.').to_ascii_lowercase(),
            gateway_port: body.gateway_port,
        };
        let puts = objects(body)?;
        if puts.len() as u64 != envelope.id.count {
            return Err(Refused::Count {
                declared: envelope.id.count,
                found: puts.len() as u64,
            });
        }
        let offered: std::collections::BTreeSet<Key> = puts.iter().map(Object::key).collect();
        let deletes: Vec<Key> = self
            .revisions
            .keys()
            .filter(|key| !offered.contains(*key))
            .cloned()
            .collect();
        if deletes.len() > DELETES_FREE && deletes.len() > self.revisions.len() / 2 {
            return Err(Refused::MassDelete {
                deleted: deletes.len(),
                held: self.revisions.len(),
            });
        }
        Ok(Some(Step {
            meta,
            puts,
            deletes,
            sync: true,
        }))
    }

    /// What a line of the watch changes; `None` if nothing.
    ///
    /// # Errors
    /// If it does not follow on what is held: a snapshot is needed.
    ///
    /// # Panics
    /// If nothing is held: a watch begins at a snapshot.
    pub fn line(&self, line: WatchLine) -> Result<Option<Step>, Refused> {
        let held = self.meta.as_ref().expect("a watch begins at a snapshot");
        let revision = line.revision();
        if revision < held.revision {
            return Err(Refused::Order {
                got: revision,
                held: held.revision,
            });
        }
        let mut meta = held.clone();
        if revision > held.revision {
            meta.settled = held.revision;
        }
        meta.revision = revision;
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        match line {
            WatchLine::Progress { .. } => {
                meta.settled = revision;
                if meta == *held {
                    return Ok(None);
                }
            }
            WatchLine::App { object, .. } => puts.push(Object::App(object.try_into()?)),
            WatchLine::Fn { object, .. } => puts.push(Object::Fn(object.try_into()?)),
            WatchLine::Trigger { object, .. } => puts.push(Object::Trigger(object.try_into()?)),
            WatchLine::Region { object, .. } => puts.push(Object::Region(object.try_into()?)),
            WatchLine::Deleted { kind, id, .. } => {
                let kind = Kind::parse(&kind).ok_or(Refused::UnknownKind { kind })?;
                deletes = self.with_dependents((kind, id));
            }
        }
        Ok(Some(Step {
            meta,
            puts,
            deletes,
            // Lost in a power cut it is sent again, since its revision is lost with it.
            sync: false,
        }))
    }

    /// An app goes with its fns and triggers, a fn with its triggers.
    fn with_dependents(&self, (kind, id): Key) -> Vec<Key> {
        let mut gone = Vec::new();
        let trigger_key = |trigger: &Trigger| (Kind::Trigger, trigger.id.to_string());
        match kind {
            Kind::App => {
                let app = AppId::new(id.clone());
                gone.extend(self.all.triggers_after(&app, None).map(trigger_key));
                gone.extend(
                    self.all
                        .fns_after(&app, None)
                        .map(|function| (Kind::Fn, function.id.to_string())),
                );
            }
            Kind::Fn => {
                let function = FnId::new(id.clone());
                let app = self.all.function(&function).map(|held| held.app_id.clone());
                let triggers = app
                    .iter()
                    .flat_map(|app| self.all.triggers_after(app, None));
                gone.extend(
                    triggers
                        .filter(|trigger| trigger.fn_id == function)
                        .map(trigger_key),
                );
            }
            Kind::Trigger | Kind::Region => {}
        }
        gone.push((kind, id));
        gone.retain(|key| self.revisions.contains_key(key));
        gone
    }

    /// Applies a step.
    pub fn take(&mut self, step: Step) {
        let mut touched = std::collections::BTreeSet::new();
        for key in step.deletes {
            self.mark(&key, None);
            touched.extend(self.app_of(&key));
            match key.0 {
                Kind::App => drop(self.all.delete_app(&AppId::new(key.1))),
                Kind::Fn => drop(self.all.delete_fn(&FnId::new(key.1))),
                Kind::Trigger => drop(self.all.delete_trigger(&TriggerId::new(key.1))),
                Kind::Region => {
                    if let Ok(name) = key.1.parse::<RegionName>() {
                        self.regions.remove(&name);
                    }
                }
            }
        }
        for object in step.puts {
            let key = object.key();
            touched.extend(self.app_of(&key));
            self.mark(&key, Some(object.revision()));
            match object {
                Object::App(app) => self.all.put_app(app),
                Object::Fn(function) => self.all.put_fn(function),
                Object::Trigger(trigger) => self.all.put_trigger(trigger),
                Object::Region(region) => {
                    self.regions.insert(region.name.clone(), region);
                }
            }
            touched.extend(self.app_of(&key));
        }
        for app in touched {
            placement::refresh(&mut self.here, &self.all, &app, &self.me);
        }
        self.meta = Some(step.meta);
    }

    /// The app that an object held belongs to.
    fn app_of(&self, (kind, id): &Key) -> Option<AppId> {
        match kind {
            Kind::App => Some(AppId::new(id.as_str())),
            Kind::Fn => {
                let function = self.all.function(&FnId::new(id.as_str()))?;
                Some(function.app_id.clone())
            }
            Kind::Trigger => {
                let trigger = self.all.trigger(&TriggerId::new(id.as_str()))?;
                Some(trigger.app_id.clone())
            }
            Kind::Region => None,
        }
    }

    fn mark(&mut self, key: &Key, revision: Option<Revision>) {
        let before = match revision {
            Some(revision) => self.revisions.insert(key.clone(), revision),
            None => self.revisions.remove(key),
        };
        for revision in before.into_iter().chain(revision) {
            self.hash ^= hash(key, revision);
        }
    }
}

fn hash((kind, id): &Key, revision: Revision) -> u64 {
    let digest = Sha256::new()
        .chain_update(kind.as_str())
        .chain_update([0])
        .chain_update(id)
        .chain_update([0])
        .chain_update(revision.0.to_be_bytes())
        .finalize();
    let head = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
    u64::from_be_bytes(*head)
}

fn objects(body: MetadataBody) -> Result<Vec<Object>, StoredError> {
    let mut objects = Vec::new();
    for app in body.apps {
        objects.push(Object::App(app.try_into()?));
    }
    for function in body.fns {
        objects.push(Object::Fn(function.try_into()?));
    }
    for trigger in body.triggers {
        objects.push(Object::Trigger(trigger.try_into()?));
    }
    for region in body.regions {
        objects.push(Object::Region(region.try_into()?));
    }
    Ok(objects)
}

#[cfg(test)]
pub(crate) mod tests;
