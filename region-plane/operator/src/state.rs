//! What is known and what was asked for, kept by the one task that decides.
//!
//! A watch lags behind our own writes. So what was asked for is remembered beside what was seen,
//! and counts until the watch has caught up: no pod is made twice because the first is not yet seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use region_plane_resources::demand::Sizing;
use region_plane_resources::{Function, FunctionSpec, WarmPool, WarmPoolSpec};

use crate::cluster::{
    Broken, Change, FunctionSeen, Kind, Meta, NEEDED, NodeSeen, PodSeen, PoolSeen, Seen, room,
};
use crate::plan::{
    self, ConditionReason, Demands, Desired, Moment, Owner, Phase, Pod, Setbacks, Stated, Trouble,
    Unreadable,
};
use crate::settings::PodSettings;
use crate::template;

/// What an operator lists before it may take over: one that may not read it must not replace one that
/// may.
pub const LISTED_BEFORE_READY: [Kind; 4] =
    [Kind::Functions, Kind::Pools, Kind::Pods, Kind::Secrets];

/// A pod whose creation got no answer may exist: it counts for this long unless it is seen.
const UNANSWERED_FOR: Duration = Duration::from_secs(10);

/// A pod that we made, and that the watch had not shown when a list without it came, counts for this
/// long. The list may be older than the pod; then the watch that goes on from it shows it, and a
/// watch that breaks there is back within three of its longest pauses.
const UNLISTED_FOR: Duration = Duration::from_secs(30);

/// What has no meaning any more takes memory and nothing else, so it may stay a while.
const SWEPT_EVERY: Duration = Duration::from_secs(5);

/// A pod that ended by itself, or whose function did.
#[derive(Debug)]
pub struct Ended {
    pub owner: Owner,
    pub trouble: Trouble,
    /// How long it had run.
    pub ran: Duration,
    /// It was of settings that the function does not have any more, and tells nothing of those that it
    /// has.
    pub outdated: bool,
}

pub struct State {
    settings: PodSettings,
    pub pods: BTreeMap<String, Pod>,
    asked: HashMap<String, Asked>,
    unscheduled: BTreeSet<String>,
    pub functions: BTreeMap<String, Record<Function>>,
    pub pools: BTreeMap<String, Record<WarmPool>>,
    pub desired: Desired,
    /// Conditions we wrote, or are writing: what is seen of an older version does not undo them.
    wrote: HashMap<Owner, (u64, Stated)>,
    /// Secret to its uid; `None` until they were listed.
    pub secrets: Option<BTreeMap<String, String>>,
    nodes: BTreeMap<String, NodeSeen>,
    pub demands: Demands,
    pub setbacks: Setbacks,
    /// Pods seen to have ended since these were taken, each once, whatever becomes of the attempts to
    /// delete it.
    pub ended: Vec<Ended>,
    swept: Moment,
    listed: BTreeSet<Kind>,
    pub broken: BTreeMap<Kind, Broken>,
    /// Fields that the cluster's definitions lack.
    pub lacking: Vec<String>,
}

pub struct Record<K> {
    pub meta: Meta,
    pub object: Result<Arc<K>, String>,
}

/// What we asked of a pod and the watch has not shown yet.
#[derive(Debug)]
enum Asked {
    /// To be. The moment is when it is given up, once nobody knows whether it is there.
    Create {
        until: Option<Moment>,
    },
    Delete {
        uid: String,
    },
    Patch {
        uid: String,
    },
    /// It cannot be resized, so it is of no use to anything that needs other resources.
    Replace {
        uid: String,
    },
}

/// What a change may matter to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    pub plan: bool,
    /// `Function` objects or their Secrets.
    pub objects: bool,
}

impl State {
    #[must_use]
    pub fn new(settings: PodSettings) -> Self {
        Self {
            settings,
            pods: BTreeMap::new(),
            asked: HashMap::new(),
            unscheduled: BTreeSet::new(),
            functions: BTreeMap::new(),
            pools: BTreeMap::new(),
            desired: Desired::default(),
            wrote: HashMap::new(),
            secrets: None,
            nodes: BTreeMap::new(),
            demands: Demands::default(),
            setbacks: Setbacks::default(),
            ended: Vec::new(),
            swept: Moment::ZERO,
            listed: BTreeSet::new(),
            broken: BTreeMap::new(),
            lacking: Vec::new(),
        }
    }

    /// Whether enough was listed to decide anything.
    #[must_use]
    pub fn complete(&self) -> bool {
        // Without one of our kinds, what hangs on the other is served all the same. Without Secrets
        // pods are made too, and only no new function with configuration gets one.
        NEEDED
            .iter()
            .all(|kind| self.listed.contains(kind) || self.undefined(*kind))
            && self.listed.contains(&Kind::Pods)
    }

    /// What has never been listed. Once nothing is left it stays so: what was known stands.
    pub fn unlisted(&self) -> impl Iterator<Item = Kind> {
        LISTED_BEFORE_READY
            .into_iter()
            .filter(|kind| !self.listed.contains(kind))
    }

    #[must_use]
    pub fn undefined(&self, kind: Kind) -> bool {
        self.broken.get(&kind) == Some(&Broken::Unknown)
    }

    #[must_use]
    pub fn sizing(&self) -> Sizing {
        let (nodes, allocatable_memory_mb) = room(&self.nodes);
        Sizing {
            nodes,
            allocatable_memory_mb,
            pending_pods: u32::try_from(self.unscheduled.len()).unwrap_or(u32::MAX),
        }
    }

    pub fn take(&mut self, change: Change, now: Moment) -> Touched {
        match change {
            Change::Pods(seen) => {
                self.listed.insert(Kind::Pods);
                self.pods_seen(seen, now);
                Touched {
                    plan: true,
                    objects: false,
                }
            }
            Change::Functions(seen) => {
                self.listed.insert(Kind::Functions);
                self.functions_seen(seen);
                Touched {
                    plan: true,
                    objects: true,
                }
            }
            Change::Pools(seen) => {
                self.listed.insert(Kind::Pools);
                self.pools_seen(seen);
                Touched {
                    plan: true,
                    objects: false,
                }
            }
            Change::Secrets(seen) => {
                self.listed.insert(Kind::Secrets);
                let secrets = self.secrets.get_or_insert_default();
                put(secrets, seen);
                Touched {
                    plan: false,
                    objects: true,
                }
            }
            Change::Nodes(seen) => {
                put(&mut self.nodes, seen);
                Touched::default()
            }
            Change::Definitions(lacking) => {
                self.lacking = lacking;
                let names: Vec<Owner> = self.desired.unreadable.keys().cloned().collect();
                for owner in names {
                    self.derive(&owner);
                }
                Touched {
                    plan: true,
                    objects: false,
                }
            }
            Change::Watch { kind, broken } => {
                match broken {
                    Some(broken) => self.broken.insert(kind, broken),
                    None => self.broken.remove(&kind),
                };
                Touched {
                    plan: true,
                    objects: true,
                }
            }
        }
    }

    fn pods_seen(&mut self, seen: Seen<PodSeen>, now: Moment) {
        match seen {
            Seen::All(pods) => {
                let mut before = std::mem::take(&mut self.pods);
                self.unscheduled.clear();
                for (name, seen) in pods {
                    if let Some(pod) = before.remove(&name) {
                        self.pods.insert(name.clone(), pod);
                    }
                    self.pod_put(name, seen, now);
                }
                for (name, pod) in before {
                    if let Some(Asked::Create { until }) = self.asked.get_mut(&name) {
                        // What was made and is gone already no event will tell of.
                        until.get_or_insert(now + UNLISTED_FOR);
                        self.pods.insert(name, pod);
                    } else {
                        self.asked.remove(&name);
                    }
                }
            }
            Seen::Put(name, seen) => self.pod_put(name, seen, now),
            Seen::Gone(name) => {
                self.pods.remove(&name);
                self.asked.remove(&name);
                self.unscheduled.remove(&name);
            }
        }
    }

    fn pod_put(&mut self, name: String, seen: PodSeen, now: Moment) {
        if seen.unscheduled && !seen.deleting {
            self.unscheduled.insert(name.clone());
        } else {
            self.unscheduled.remove(&name);
        }
        let before = self.pods.get(&name);
        let since = before
            .filter(|pod| pod.uid.is_empty() || pod.uid == seen.uid)
            .map_or(now, |pod| pod.seen);
        let ran_from = before
            .filter(|pod| pod.uid == seen.uid)
            .and_then(|pod| pod.ran_from)
            .or((seen.phase == Phase::Running).then_some(now));
        let asked_mb = seen.asked_mb.unwrap_or(seen.memory_mb);
        let grows = asked_mb > seen.memory_mb && seen.has_mb != Some(asked_mb);
        let growing_since = before
            .filter(|pod| pod.uid == seen.uid && pod.asked_mb == asked_mb)
            .and_then(|pod| pod.growing_since)
            .or(Some(now))
            .filter(|_| grows);
        let mut pod = Pod {
            uid: seen.uid,
            owner: seen.owner,
            owner_uid: seen.owner_uid,
            settings: seen.settings,
            function: seen.function,
            dedicated: seen.dedicated,
            memory_mb: seen.memory_mb,
            asked_mb,
            growing_since,
            template: seen.template,
            phase: seen.phase,
            trouble: seen.trouble,
            deleting: seen.deleting,
            busy: false,
            seen: since,
            ran_from,
        };
        match self.asked.get(&name) {
            Some(Asked::Delete { uid }) if *uid == pod.uid => pod.deleting = true,
            Some(Asked::Patch { uid }) if *uid == pod.uid => pod.busy = true,
            Some(Asked::Replace { uid }) if *uid == pod.uid => pod.template.clear(),
            Some(_) => {
                self.asked.remove(&name);
            }
            None => {}
        }
        let told = |pod: &Pod| ended(pod).is_some();
        if !self.pods.get(&name).is_some_and(told)
            && let Some(trouble) = ended(&pod)
        {
            let claim = self.demands.taken_for(&name, now);
            // A pool is not to blame for what the function did to its pod.
            let function = pod.function.as_ref();
            let function = function.or(claim.map(|claim| &claim.function));
            let owner = match function {
                Some(function) => Owner::Function(function.clone()),
                None => pod.owner.clone(),
            };
            let settings = pod.settings.as_ref();
            let settings = settings.or(claim.map(|claim| &claim.settings));
            let outdated = match &owner {
                Owner::Function(name) => self.desired.functions.get(name).is_some_and(|function| {
                    settings.is_some_and(|settings| *settings != function.settings)
                }),
                Owner::Pool(_) => false,
            };
            self.ended.push(Ended {
                owner,
                trouble,
                ran: pod.ran(now),
                outdated,
            });
        }
        self.pods.insert(name, pod);
    }

    fn functions_seen(&mut self, seen: Seen<FunctionSeen>) {
        let record = |seen: FunctionSeen| Record {
            meta: seen.meta,
            object: seen.object,
        };
        match seen {
            Seen::All(all) => {
                let mut gone: BTreeSet<String> = self.functions.keys().cloned().collect();
                for (name, seen) in all {
                    gone.remove(&name);
                    self.function_put(name, record(seen));
                }
                for name in gone {
                    self.function_gone(&name);
                }
            }
            Seen::Put(name, seen) => self.function_put(name, record(seen)),
            Seen::Gone(name) => self.function_gone(&name),
        }
    }

    /// Takes what was seen, or what the server answered to a write of ours.
    pub fn function_put(&mut self, name: String, record: Record<Function>) {
        let older = self.functions.get(&name).is_some_and(|held| {
            held.meta.uid == record.meta.uid && held.meta.version > record.meta.version
        });
        if older && record.meta.version > 0 {
            return;
        }
        let owner = Owner::Function(name.clone());
        let changed = self
            .functions
            .get(&name)
            .is_some_and(|held| held.meta.generation != record.meta.generation);
        if changed {
            self.setbacks.forgive(&owner);
        }
        self.functions.insert(name, record);
        self.derive(&owner);
    }

    fn function_gone(&mut self, name: &str) {
        let owner = Owner::Function(name.to_owned());
        self.functions.remove(name);
        self.desired.functions.remove(name);
        self.owner_gone(&owner);
    }

    fn pools_seen(&mut self, seen: Seen<PoolSeen>) {
        let mut gone = BTreeSet::new();
        let puts = match seen {
            Seen::All(all) => {
                gone = self.pools.keys().cloned().collect();
                all
            }
            Seen::Put(name, seen) => vec![(name, seen)],
            Seen::Gone(name) => {
                gone.insert(name);
                Vec::new()
            }
        };
        for (name, seen) in puts {
            gone.remove(&name);
            let owner = Owner::Pool(name.clone());
            let record = Record {
                meta: seen.meta,
                object: seen.object,
            };
            let before = self.pools.get(&name);
            if before.is_some_and(|held| held.meta.generation != record.meta.generation) {
                self.setbacks.forgive(&owner);
            }
            self.pools.insert(name, record);
            self.derive(&owner);
        }
        for name in gone {
            self.pools.remove(&name);
            self.desired.pools.remove(&name);
            self.owner_gone(&Owner::Pool(name));
        }
    }

    fn owner_gone(&mut self, owner: &Owner) {
        self.desired.unreadable.remove(owner);
        self.wrote.remove(owner);
        self.setbacks.forgive(owner);
    }

    /// Brings what is desired of one object up to date with the object.
    fn derive(&mut self, owner: &Owner) {
        let (meta, unread) = match owner {
            Owner::Function(name) => {
                let Some(record) = self.functions.get(name) else {
                    return;
                };
                (record.meta.clone(), record.object.as_ref().err().cloned())
            }
            Owner::Pool(name) => {
                let Some(record) = self.pools.get(name) else {
                    return;
                };
                (record.meta.clone(), record.object.as_ref().err().cloned())
            }
        };
        let stated = self.stated(owner, &meta);
        if let Some(problem) = unread {
            let trouble = self.unreadable(&problem);
            let unreadable = Unreadable {
                generation: meta.generation,
                stated,
                trouble,
            };
            match owner {
                Owner::Function(name) => drop(self.desired.functions.remove(name)),
                Owner::Pool(name) => drop(self.desired.pools.remove(name)),
            }
            self.desired.unreadable.insert(owner.clone(), unreadable);
            return;
        }
        self.desired.unreadable.remove(owner);
        match owner {
            Owner::Function(name) => {
                let object = self.functions[name].object.as_ref();
                let object = object.expect("it was read");
                let before = self.desired.functions.get(name);
                let template = match before {
                    // Hashing is the expensive part, and most events are of conditions.
                    Some(before)
                        if before.generation == meta.generation && before.uid == meta.uid =>
                    {
                        before.template.clone()
                    }
                    _ => template::image_template(object, &self.settings).unwrap_or_default(),
                };
                let function = function(&object.spec, meta, stated, template);
                self.desired.functions.insert(name.clone(), function);
            }
            Owner::Pool(name) => {
                let object = self.pools[name].object.as_ref();
                let object = object.expect("it was read");
                let template = template::pool_template(object, &self.settings);
                let pool = pool(&object.spec, meta, stated, template);
                self.desired.pools.insert(name.clone(), pool);
            }
        }
    }

    fn stated(&mut self, owner: &Owner, meta: &Meta) -> Option<Stated> {
        match self.wrote.get(owner) {
            Some((version, stated)) if meta.version < *version => Some(stated.clone()),
            Some(_) => {
                self.wrote.remove(owner);
                meta.stated.clone()
            }
            None => meta.stated.clone(),
        }
    }

    fn unreadable(&self, problem: &str) -> Trouble {
        if self.lacking.is_empty() {
            Trouble {
                reason: ConditionReason::InvalidSpec,
                message: format!("this version cannot read it: {problem}; correct it"),
            }
        } else {
            Trouble {
                reason: ConditionReason::ResourceDefinitionOutdated,
                message: format!(
                    "this version cannot read it: {problem}; the cluster's definition lacks {}: \
                     install the resource definitions of this version",
                    self.lacking.join(", ")
                ),
            }
        }
    }

    /// A pod is asked for; it counts from now on.
    pub fn creating(&mut self, name: String, pod: Pod) {
        self.asked
            .insert(name.clone(), Asked::Create { until: None });
        self.pods.insert(name, pod);
    }

    pub fn created(&mut self, name: &str, uid: String) {
        if let Some(Asked::Create { .. }) = self.asked.get(name)
            && let Some(pod) = self.pods.get_mut(name)
        {
            pod.uid = uid;
        }
    }

    /// It was not made, or, if `maybe`, nobody knows.
    pub fn not_created(&mut self, name: &str, maybe: bool, now: Moment) {
        let Some(Asked::Create { until }) = self.asked.get_mut(name) else {
            return;
        };
        if maybe {
            *until = Some(now + UNANSWERED_FOR);
        } else {
            self.asked.remove(name);
            self.pods.remove(name);
        }
    }

    pub fn deleting(&mut self, name: &str) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.deleting = true;
            let uid = pod.uid.clone();
            self.asked.insert(name.to_owned(), Asked::Delete { uid });
        }
    }

    pub fn not_deleted(&mut self, name: &str) {
        if let Some(Asked::Delete { .. }) = self.asked.get(name) {
            self.asked.remove(name);
            if let Some(pod) = self.pods.get_mut(name) {
                pod.deleting = false;
            }
        }
    }

    pub fn patching(&mut self, name: &str) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.busy = true;
            let uid = pod.uid.clone();
            self.asked.insert(name.to_owned(), Asked::Patch { uid });
        }
    }

    /// A patch was answered; `change` is what it did.
    pub fn patched(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(Asked::Patch { uid }) = self.asked.get(name) {
            let uid = uid.clone();
            self.asked.remove(name);
            if let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.uid == uid) {
                pod.busy = false;
                change(pod);
            }
        }
    }

    /// The server does not resize it.
    pub fn not_resizable(&mut self, name: &str) {
        if let Some(pod) = self.pods.get_mut(name) {
            pod.busy = false;
            pod.template.clear();
            let uid = pod.uid.clone();
            self.asked.insert(name.to_owned(), Asked::Replace { uid });
        }
    }

    /// Since when the object has been as ready as it is to be; `None` if that changes.
    #[must_use]
    pub fn ready_since(&self, owner: &Owner, ready: bool) -> Option<String> {
        let meta = match owner {
            Owner::Function(name) => &self.functions.get(name)?.meta,
            Owner::Pool(name) => &self.pools.get(name)?.meta,
        };
        let same = meta.stated.as_ref()?.ready == ready;
        same.then(|| meta.since.clone())?
    }

    /// A condition is being written: `version` of the object that has it is not known yet.
    pub fn stating(&mut self, owner: &Owner, stated: Stated) {
        self.wrote.insert(owner.clone(), (u64::MAX, stated));
        self.derive(owner);
    }

    pub fn said(&mut self, owner: &Owner, version: u64) {
        if let Some((held, _)) = self.wrote.get_mut(owner) {
            *held = version;
        }
    }

    /// Writing a condition failed some time ago, and may be tried again.
    pub fn unsaid(&mut self, owner: &Owner) {
        self.wrote.remove(owner);
        self.derive(owner);
    }

    /// Drops what time has ended.
    pub fn forget(&mut self, now: Moment) {
        let ended = self.asked.iter().filter_map(|(name, asked)| match asked {
            Asked::Create { until: Some(until) } if *until <= now => Some(name.clone()),
            _ => None,
        });
        for name in ended.collect::<Vec<_>>() {
            self.not_created(&name, false, now);
        }
        if now >= self.swept + SWEPT_EVERY {
            self.swept = now;
            let pods = &self.pods;
            self.demands.forget(now, |pod| pods.contains_key(pod));
            self.setbacks.forget(now);
        }
    }

    #[must_use]
    pub fn next_forgotten(&self) -> Option<Moment> {
        let unanswered = self.asked.values().filter_map(|asked| match asked {
            Asked::Create { until } => *until,
            _ => None,
        });
        unanswered.min()
    }
}

/// Why a pod ended by itself, if it did. What a kubelet makes of one that is to go is no end of its own;
/// but that it ran out of memory it often tells only when its gateway has given it back.
fn ended(pod: &Pod) -> Option<Trouble> {
    let of_memory = |trouble: &&Trouble| trouble.reason == ConditionReason::OutOfMemory;
    let ended = matches!(pod.phase, Phase::Broken | Phase::Ended) && !pod.deleting;
    let of_memory = pod.trouble.as_ref().filter(of_memory).cloned();
    of_memory.or_else(|| {
        ended.then(|| {
            pod.trouble.clone().unwrap_or_else(|| Trouble {
                reason: ConditionReason::FunctionExited,
                message: "a pod of it ended".to_owned(),
            })
        })
    })
}

/// A pod that is asked for.
#[must_use]
pub fn asked_for(
    owner: &Owner,
    owner_uid: &str,
    settings: Option<String>,
    memory_mb: u64,
    dedicated: Option<String>,
    template: &str,
    now: Moment,
) -> Pod {
    Pod {
        uid: String::new(),
        owner: owner.clone(),
        owner_uid: owner_uid.to_owned(),
        settings,
        function: None,
        dedicated,
        memory_mb,
        asked_mb: memory_mb,
        growing_since: None,
        template: template.to_owned(),
        phase: Phase::Pending,
        trouble: None,
        deleting: false,
        busy: false,
        seen: now,
        ran_from: None,
    }
}

fn put<V>(held: &mut BTreeMap<String, V>, seen: Seen<V>) {
    match seen {
        Seen::All(all) => *held = all.into_iter().collect(),
        Seen::Put(name, value) => drop(held.insert(name, value)),
        Seen::Gone(name) => drop(held.remove(&name)),
    }
}

fn function(
    spec: &FunctionSpec,
    meta: Meta,
    stated: Option<Stated>,
    template: String,
) -> plan::Function {
    plan::Function {
        uid: meta.uid,
        generation: meta.generation,
        image: spec.image.is_some(),
        settings: spec.settings.clone(),
        memory_mb: spec.memory_mb.unsigned_abs(),
        template,
        min: spec.scaling.min.unsigned_abs(),
        max: spec.scaling.max.unsigned_abs(),
        stated,
    }
}

fn pool(spec: &WarmPoolSpec, meta: Meta, stated: Option<Stated>, template: String) -> plan::Pool {
    plan::Pool {
        uid: meta.uid,
        generation: meta.generation,
        runtime: spec.runtime.clone(),
        memory_mb: spec.memory_mb.unsigned_abs(),
        size: spec.size.unsigned_abs(),
        template,
        stated,
    }
}

#[cfg(test)]
mod tests;
