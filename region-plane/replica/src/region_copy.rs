//! A region's copy of the metadata in memory, and the rules for changing it.
//!
//! Pure: a [`Step`] is computed from the copy and from a received snapshot or watch line. The caller
//! makes the step durable and then gives it to [`RegionCopy::take`].

use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    Catalog, Digest, Fn, FnId, Kind, Object, ObjectId, ObjectRef, Region, Revision, Verdict,
};
use api_wire::view::{Envelope, MetadataBody, ViewError};
use api_wire::{ObjectError, WatchLine};
use sha2::{Digest as _, Sha256};

use crate::feed::News;
use crate::here::{Here, Reference};

/// Position and origin of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub cluster_id: String,
    pub epoch: u64,
    /// The newest revision of which at least one change is applied.
    pub revision: Revision,
    /// All changes up to this revision are applied. Lower than `revision` while more lines of `revision`
    /// may come: a stream can end between two lines of one revision.
    pub settled: Revision,
    pub zone: String,
    pub gateway_port: u16,
}

/// A checked change of the copy.
#[derive(Debug)]
pub struct Step {
    pub meta: Meta,
    pub puts: Vec<Object>,
    pub deletes: Vec<ObjectId>,
    /// Written with fsync: after a power cut the replaced objects must not be back.
    pub sync: bool,
}

impl Step {
    pub fn changes_functions(&self) -> bool {
        let puts = self.puts.iter().map(Object::kind);
        let mut kinds = puts.chain(self.deletes.iter().map(ObjectId::kind));
        kinds.any(|kind| kind != Kind::Region)
    }
}

/// Instructions for a person, about a snapshot that the region does not take by itself.
const TO_ACCEPT: &str = "if that is meant, stop this process, remove the folder `replica` in its data \
                         folder and start it again";

/// Why a snapshot or a watch line was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("the snapshot holds {found} objects, its header says {declared}")]
    Count { declared: u64, found: u64 },
    #[error(transparent)]
    Object(#[from] ObjectError),
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
    #[error("a change of revision {got} came after revision {held}")]
    Order { got: Revision, held: Revision },
    #[error("deletion of {kind} {id:?}, which this program does not know")]
    UnknownId { kind: String, id: String },
}

impl Refused {
    /// For a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::View(ViewError::Digest { .. }) => "digest",
            Self::Object(ObjectError::Unknown { .. }) | Self::UnknownId { .. } => "unknown_kind",
            Self::View(ViewError::Malformed { .. }) | Self::Object(_) => "malformed",
            Self::Count { .. } => "count",
            Self::Cluster { .. } => "cluster",
            Self::Epoch { .. } => "epoch",
            Self::Older { .. } => "older",
            Self::MassDelete { .. } => "mass_delete",
            Self::Order { .. } => "order",
        }
    }
}

/// A snapshot may always delete this many: in a small federation half is soon reached.
const DELETES_FREE: usize = 10;

/// The copy of all objects, and the part of it that is placed in this region.
///
/// Invariants: `here` is what `Here` makes of `all`; `revisions` has one entry for
/// each object of `all`; `hash` is the sum over `revisions`.
#[derive(Debug)]
pub struct RegionCopy {
    meta: Option<Meta>,
    all: Catalog,
    here: Here,
    revisions: BTreeMap<ObjectId, Revision>,
    hash: u64,
    zone_configured: String,
}

impl RegionCopy {
    pub fn new(me: Region, zone: String) -> Self {
        Self {
            meta: None,
            all: Catalog::default(),
            here: Here::new(me),
            revisions: BTreeMap::new(),
            hash: 0,
            zone_configured: zone,
        }
    }

    /// The whole copy as one step from an empty copy; `None` before the first snapshot.
    pub fn whole(&self) -> Option<Step> {
        Some(Step {
            meta: self.meta.clone()?,
            puts: self.all.objects().map(ObjectRef::to_owned).collect(),
            deletes: Vec::new(),
            sync: true,
        })
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
        self.here.placed()
    }

    /// Functions that may ever be called here: those placed here, and those that come while nowhere
    /// they are placed serves.
    pub fn callable(&self) -> impl Iterator<Item = &Fn> {
        let callable = self.here.callable();
        callable.filter_map(|function| self.all.function(function))
    }

    /// Of a function that may be called here, see [`crate::order`].
    pub fn order(&self, function: &FnId) -> Option<u64> {
        self.here.order(function)
    }

    /// Functions that came to be, changed, or are no longer among [`Self::callable`] after a
    /// position, and the position to ask from next time.
    pub fn functions_since(&self, position: u64) -> (News<FnId>, u64) {
        self.here.functions_since(position)
    }

    /// How functions that may be called here refer to a bundle; `None` if none does.
    pub fn reference(&self, bundle: &Digest) -> Option<Reference> {
        self.here.reference(bundle)
    }

    /// Every bundle that functions refer to that may be called here.
    pub fn references(&self) -> impl Iterator<Item = (&Digest, Reference)> {
        self.here.references()
    }

    /// Bundles that are referred to otherwise than at a position, and the position to ask from next
    /// time.
    pub fn bundles_since(&self, position: u64) -> (News<Digest>, u64) {
        self.here.bundles_since(position)
    }

    /// Every region, this one among them once the global plane knows it.
    pub fn regions(&self) -> impl Iterator<Item = &Region> + Clone {
        self.all.regions()
    }

    /// This region by its own configuration.
    pub fn me(&self) -> &Region {
        self.here.me()
    }

    /// What the global plane thinks of this region.
    pub fn verdict(&self) -> Option<Verdict> {
        self.all.region(&self.me().name).map(|row| row.verdict)
    }

    /// An operator asked this region to drain. Its verdict alone says less: a gateway that is
    /// stopping is `Draining` too.
    pub fn drained(&self) -> bool {
        self.all
            .region(&self.me().name)
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
        let objects = body.objects.into_iter().map(Object::try_from);
        let puts = objects.collect::<Result<Vec<_>, _>>()?;
        if puts.len() as u64 != envelope.id.count {
            return Err(Refused::Count {
                declared: envelope.id.count,
                found: puts.len() as u64,
            });
        }
        let offered: BTreeSet<ObjectId> = puts.iter().map(Object::id).collect();
        let deletes: Vec<ObjectId> = self
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
            WatchLine::Put { object, .. } => puts.push(object.try_into()?),
            WatchLine::Deleted { kind, id, .. } => {
                let known = Kind::named(&kind).and_then(|kind| ObjectId::parse(kind, &id));
                let id = known.ok_or(Refused::UnknownId { kind, id })?;
                deletes = self.all.dependents(&id);
                deletes.push(id);
                deletes.retain(|id| self.revisions.contains_key(id));
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

    /// Applies a step.
    pub fn take(&mut self, step: Step) {
        let mut touched = BTreeSet::new();
        for id in step.deletes {
            self.mark(&id, None);
            self.all.delete(&id);
            touched.insert(id);
        }
        for object in step.puts {
            let id = object.id();
            self.mark(&id, Some(object.revision()));
            self.all.put(object);
            touched.insert(id);
        }
        // Apps first, then functions: each kind rules the next.
        for id in touched {
            match id {
                ObjectId::App(app) => self.here.app_changed(&self.all, &app),
                ObjectId::Fn(function) => self.here.function_changed(&self.all, &function),
                ObjectId::Trigger(trigger) => self.here.trigger_changed(&self.all, &trigger),
                // Other kinds are not placed.
                _ => {}
            }
        }
        self.meta = Some(step.meta);
    }

    fn mark(&mut self, id: &ObjectId, revision: Option<Revision>) {
        let before = match revision {
            Some(revision) => self.revisions.insert(id.clone(), revision),
            None => self.revisions.remove(id),
        };
        for revision in before.into_iter().chain(revision) {
            self.hash ^= hash(id, revision);
        }
    }
}

fn hash(id: &ObjectId, revision: Revision) -> u64 {
    let digest = Sha256::new()
        .chain_update(id.key())
        .chain_update([0])
        .chain_update(revision.0.to_be_bytes())
        .finalize();
    let head = digest.first_chunk::<8>().expect("SHA-256 has 32 bytes");
    u64::from_be_bytes(*head)
}

#[cfg(test)]
pub(crate) mod tests;
