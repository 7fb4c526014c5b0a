//! Which start takes which pod: the decisions, without IO or a clock.
//!
//! Pods come from the cluster, starts from the region's dispatcher. A start takes the best pod that
//! suits it or waits for one. Two starts never have one pod here; whether another gateway has it,
//! its runner knows, and says so when it is asked.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::Duration;

use region_plane_resources::demand::{ClaimedPod, Code, FunctionDemand};

/// One start of an instance, in the order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartId(pub u64);

/// What a pod must be for a start to take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub pair: Pair,
    pub code: Code,
}

/// A function's object and what its instances are started with. Instances of equal ones are
/// interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    pub function: String,
    pub settings: String,
}

/// What is known of a pod of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    /// Another pod may come to have the same name.
    pub uid: String,
    pub node: String,
    pub purpose: Purpose,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// It runs the image of this function, and nothing else ever.
    Image(Pair),
    /// It loads one bundle, once.
    Pool {
        runtime: String,
        memory_mb: u64,
        /// The function whose bundle it has loaded, if its label says so by now.
        function: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its runner cannot be asked yet.
    Coming,
    Running(IpAddr),
    /// Its function exited by itself, in this way.
    Ended(String),
    /// It is being taken away, or was.
    Leaving,
}

/// A pod for a start, whose runner is to be asked now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub start: StartId,
    pub pod: String,
    /// The pod's own: by now another may have its address.
    pub uid: String,
    pub address: IpAddr,
}

/// What follows from an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub offers: Vec<Offer>,
    pub bereft: Vec<Bereft>,
}

/// A start, or the instance it became, that has lost its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bereft {
    pub start: StartId,
    pub pod: String,
    pub loss: Loss,
}

/// How a start or an instance lost its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// In this way.
    FunctionExited(String),
    PodLeaves,
}

/// Why a start does not get the pod it was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodRefusal {
    /// For now, or so it seems: it does not answer, or another has it.
    Unavailable,
    /// Its runner says what it has loaded.
    Holds(Pair),
    /// It can run nothing any more, so the operator is told to take it away.
    Over,
}

/// What becomes of the pod of a start that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No instance is to be made of it again.
    Finished,
    /// Whoever wants the same may take it.
    Reusable,
}

#[derive(Debug)]
pub struct Claims {
    /// Lets gateways prefer different ones of pods that are equally good.
    salt: u64,
    pods: BTreeMap<String, Known>,
    /// The pods a start could be offered, by what they could run and by node, best first.
    free: BTreeMap<Slot, BTreeMap<String, BTreeSet<Ranked>>>,
    /// Pods that were refused, by when they may be offered again.
    resting: BTreeSet<(Duration, String)>,
    starts: BTreeMap<StartId, Start>,
    /// Starts that have no pod, by what could change that, in the order they came.
    waiting: BTreeMap<Need, BTreeSet<StartId>>,
    /// Pods that starts have, by node.
    taken_on: BTreeMap<String, usize>,
    finished: BTreeSet<String>,
    /// Another gateway is taking this one's place.
    handing_over: bool,
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    loaded: Option<Loaded>,
    taken_by: Option<StartId>,
    /// The last list did not have it.
    unlisted: bool,
    /// No instance is to be made of it again.
    finished: bool,
    refusals: u32,
    resting_until: Option<Duration>,
}

/// What is in a pool's pod. Its label names the function only; its runner says all when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loaded {
    function: String,
    settings: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Image(Pair),
    /// A pool's pod that has this function's bundle.
    Hot(String),
    Empty {
        runtime: String,
        memory_mb: u64,
    },
}

/// A free pod among those of its slot and node: surely hot ones come first, then those that were
/// refused least. The number lets gateways prefer different ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    unsure: bool,
    refusals: u32,
    number: u64,
    name: String,
}

/// Which pods are worth looking at for a start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Image(Pair),
    Runtime(String),
}

#[derive(Debug)]
struct Start {
    wanted: Wanted,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Waiting,
    /// Its runner is being asked.
    Asking(String),
    Held(String),
    /// The pod left.
    Bereft,
}

/// A pod whose runner cannot be reached or serves another is left alone at first this long, then
/// twice as long each time.
const REST_MIN: Duration = Duration::from_millis(20);

/// What a gateway that died leaves claimed is free within seconds, and starts may wait for it.
const REST_MAX: Duration = Duration::from_secs(1);

impl Claims {
    #[must_use]
    pub fn new(gateway: &str) -> Self {
        Self {
            salt: hash(0, gateway),
            pods: BTreeMap::new(),
            free: BTreeMap::new(),
            resting: BTreeSet::new(),
            starts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            taken_on: BTreeMap::new(),
            finished: BTreeSet::new(),
            handing_over: false,
        }
    }

    /// From now on the pods that starts have are wanted by the next gateway, which asks for as many
    /// itself: wanted by both they would be made twice. Nor is any that is let go finished.
    pub fn hand_over(&mut self) {
        self.handing_over = true;
    }

    /// These are all pods there are.
    ///
    /// A list can be wrong where an event cannot, as from a server that has not caught up. So one
    /// that is missing is only forgotten if no start has it: a pod that is really gone breaks its
    /// connection, and one that is not answers its calls.
    pub fn pods_listed(&mut self, pods: Vec<Pod>) -> Effects {
        let mut effects = Effects::default();
        let listed: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|name| !listed.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            if self.pods[&name].taken_by.is_none() {
                self.forget(&name, &mut effects);
            } else {
                self.change(&name, |known| known.unlisted = true);
            }
        }
        for pod in pods {
            self.see(pod, &mut effects);
        }
        // Only now, so that nobody takes an empty pod while a hot one comes later in the list.
        let waiting: BTreeSet<StartId> = self.waiting.values().flatten().copied().collect();
        for id in waiting {
            self.seat(id, &mut effects);
        }
        effects
    }

    /// A pod is new or changed.
    pub fn pod_seen(&mut self, pod: Pod) -> Effects {
        let mut effects = Effects::default();
        let name = pod.name.clone();
        self.see(pod, &mut effects);
        self.offer(&name, &mut effects);
        effects
    }

    pub fn pod_gone(&mut self, name: &str) -> Effects {
        let mut effects = Effects::default();
        self.forget(name, &mut effects);
        effects
    }

    /// A start wants a pod; it is offered one now or by a later event.
    pub fn started(&mut self, id: StartId, wanted: Wanted) -> Effects {
        let mut effects = Effects::default();
        let at = At::Waiting;
        self.starts.insert(id, Start { wanted, at });
        self.seat(id, &mut effects);
        effects
    }

    /// The runner says that the pod is this start's.
    pub fn claimed(&mut self, id: StartId) {
        if let Some(start) = self.starts.get_mut(&id)
            && let At::Asking(name) = &start.at
        {
            let name = name.clone();
            start.at = At::Held(name.clone());
            self.change(&name, |known| known.refusals = 0);
        }
    }

    /// The pod has what the start runs. Until then a pool's may still become anything.
    pub fn loaded(&mut self, id: StartId) {
        if let Some(Start {
            wanted,
            at: At::Held(name),
        }) = self.starts.get(&id)
        {
            let (name, pair) = (name.clone(), wanted.pair.clone());
            self.change(&name, |known| known.load(pair));
        }
    }

    /// The start wants another pod than the one it was offered.
    pub fn refused(&mut self, now: Duration, id: StartId, refusal: PodRefusal) -> Effects {
        let mut effects = Effects::default();
        if let Some(name) = self.leave(id) {
            match refusal {
                PodRefusal::Unavailable => self.rest(now, &name, None),
                // Its label was changed when it was given other resources, but it had been claimed
                // before: what it runs then it runs for good.
                PodRefusal::Holds(pair) if self.is_image_of_other(&name, &pair) => {
                    self.finish(&name)
                }
                PodRefusal::Holds(pair) => self.rest(now, &name, Some(pair)),
                PodRefusal::Over => self.finish(&name),
            }
            self.forget_if_unlisted(&name);
        }
        if let Some(start) = self.starts.get_mut(&id) {
            start.at = At::Waiting;
            self.seat(id, &mut effects);
        }
        effects
    }

    /// The start failed or was given up, or the instance it became is no more.
    pub fn ended(&mut self, id: StartId, fate: Fate) -> Effects {
        let mut effects = Effects::default();
        let name = self.leave(id);
        self.wait_no_longer(id);
        self.starts.remove(&id);
        if let Some(name) = name {
            if fate == Fate::Finished && !self.handing_over {
                self.finish(&name);
            }
            self.forget_if_unlisted(&name);
            self.offer(&name, &mut effects);
        }
        effects
    }

    /// Offers what has rested.
    pub fn tick(&mut self, now: Duration) -> Effects {
        let mut effects = Effects::default();
        while let Some((until, _)) = self.resting.first()
            && *until <= now
        {
            let (until, name) = self.resting.pop_first().expect("it was just seen");
            // It may have been refused anew since.
            if self
                .pods
                .get(&name)
                .is_some_and(|known| known.resting_until == Some(until))
            {
                self.change(&name, |known| known.resting_until = None);
                self.offer(&name, &mut effects);
            }
        }
        effects
    }

    /// When [`Claims::tick`] has something to do.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Starts up to this one that have waited for a pod of the function, with these settings or with
    /// any, and have none.
    #[must_use]
    pub fn waiting_for(
        &self,
        function: &str,
        settings: Option<&str>,
        newest: StartId,
    ) -> Vec<StartId> {
        let is_meant = |pair: &Pair| {
            pair.function == function && settings.is_none_or(|settings| pair.settings == settings)
        };
        self.waiting
            .values()
            .flat_map(|starts| starts.range(..=newest))
            .filter(|id| is_meant(&self.starts[*id].wanted.pair))
            .copied()
            .collect()
    }

    /// What the operator should know: functions with instances or starts, pods that are held, and
    /// names of finished pods that are still there.
    #[must_use]
    pub fn demand(&self) -> (Vec<FunctionDemand>, Vec<ClaimedPod>, Vec<String>) {
        let mut functions: BTreeMap<&Pair, FunctionDemand> = BTreeMap::new();
        let mut claims = Vec::new();
        for start in self.starts.values() {
            let pair = &start.wanted.pair;
            if let At::Held(pod) = &start.at {
                claims.push(ClaimedPod {
                    pod: pod.clone(),
                    function: pair.function.clone(),
                    settings: pair.settings.clone(),
                });
            }
            if start.at != At::Bereft {
                let demand = functions.entry(pair).or_insert_with(|| FunctionDemand {
                    function: pair.function.clone(),
                    settings: pair.settings.clone(),
                    wanted: 0,
                    code: start.wanted.code.clone(),
                });
                let is_the_next_ones = self.handing_over && matches!(start.at, At::Held(_));
                let wanted = u32::from(!is_the_next_ones);
                demand.wanted = demand.wanted.saturating_add(wanted);
            }
        }
        let finished = self.finished.iter().cloned().collect();
        (functions.into_values().collect(), claims, finished)
    }

    /// The function of a start that is not over.
    #[must_use]
    pub fn function(&self, id: StartId) -> Option<&str> {
        let start = self.starts.get(&id)?;
        Some(&start.wanted.pair.function)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            pods: self.pods.len(),
            taken: self.taken_on.values().sum(),
            waiting: self.waiting.values().map(BTreeSet::len).sum(),
        }
    }

    fn see(&mut self, pod: Pod, effects: &mut Effects) {
        let name = pod.name.clone();
        if self
            .pods
            .get(&name)
            .is_some_and(|known| known.pod.uid != pod.uid)
        {
            self.forget(&name, effects);
        }
        let loss = match &pod.standing {
            Standing::Coming | Standing::Running(_) => None,
            Standing::Ended(how) => Some(Loss::FunctionExited(how.clone())),
            Standing::Leaving => Some(Loss::PodLeaves),
        };
        self.pods.entry(name.clone()).or_insert_with(|| Known {
            pod: Pod {
                // Nothing to take out of the index yet.
                standing: Standing::Coming,
                ..pod.clone()
            },
            loaded: None,
            taken_by: None,
            unlisted: false,
            finished: false,
            refusals: 0,
            resting_until: None,
        });
        self.change(&name, |known| {
            if let Purpose::Pool {
                function: Some(function),
                ..
            } = &pod.purpose
                && known
                    .loaded
                    .as_ref()
                    .is_none_or(|held| held.function != *function)
            {
                known.loaded = Some(Loaded {
                    function: function.clone(),
                    settings: None,
                });
            }
            known.pod = pod;
            known.unlisted = false;
        });
        if let (Some(loss), Some(holder)) = (loss, self.pods[&name].taken_by) {
            self.bereave(holder, loss, effects);
        }
    }

    fn forget(&mut self, name: &str, effects: &mut Effects) {
        let Some(known) = self.pods.get(name) else {
            return;
        };
        if let Some(holder) = known.taken_by {
            self.bereave(holder, Loss::PodLeaves, effects);
        }
        self.change(name, |known| known.pod.standing = Standing::Leaving);
        self.finished.remove(name);
        if let Some(until) = self.pods.remove(name).and_then(|known| known.resting_until) {
            self.resting.remove(&(until, name.to_owned()));
        }
    }

    fn forget_if_unlisted(&mut self, name: &str) {
        if self.pods.get(name).is_some_and(|known| known.unlisted) {
            self.forget(name, &mut Effects::default());
        }
    }

    fn bereave(&mut self, start: StartId, loss: Loss, effects: &mut Effects) {
        if let Some(pod) = self.leave(start) {
            effects.bereft.push(Bereft { start, pod, loss });
        }
    }

    /// Takes its pod from a start, which is bereft of it until it is told where it is.
    fn leave(&mut self, id: StartId) -> Option<String> {
        let start = self.starts.get_mut(&id)?;
        let at = std::mem::replace(&mut start.at, At::Bereft);
        let (At::Asking(name) | At::Held(name)) = at else {
            return None;
        };
        let node = self.pods[&name].pod.node.clone();
        if let Some(taken) = self.taken_on.get_mut(&node) {
            *taken -= 1;
            if *taken == 0 {
                self.taken_on.remove(&node);
            }
        }
        self.change(&name, |known| known.taken_by = None);
        Some(name)
    }

    fn is_image_of_other(&self, name: &str, pair: &Pair) -> bool {
        let known = self.pods.get(name);
        known.is_some_and(|known| matches!(&known.pod.purpose, Purpose::Image(own) if own != pair))
    }

    fn rest(&mut self, now: Duration, name: &str, holds: Option<Pair>) {
        let mut until = now;
        self.change(name, |known| {
            let doublings = known.refusals.min(10);
            until = now + (REST_MIN * 2_u32.pow(doublings)).min(REST_MAX);
            known.refusals = known.refusals.saturating_add(1);
            known.resting_until = Some(until);
            if let Some(pair) = holds {
                known.load(pair);
            }
        });
        self.resting.insert((until, name.to_owned()));
    }

    fn finish(&mut self, name: &str) {
        self.change(name, |known| known.finished = true);
        self.finished.insert(name.to_owned());
    }

    /// The best free pod for a start, or a place among those who wait.
    fn seat(&mut self, id: StartId, effects: &mut Effects) {
        match self.best(&self.starts[&id].wanted) {
            Some(name) => effects.offers.push(self.take(id, &name)),
            None => {
                let need = self.starts[&id].wanted.need();
                self.waiting.entry(need).or_default().insert(id);
            }
        }
    }

    /// A pod may have become free: whoever has waited longest and is suited by it gets it.
    fn offer(&mut self, name: &str, effects: &mut Effects) {
        let Some(known) = self.pods.get(name) else {
            return;
        };
        let Some(slot) = known.slot() else {
            return;
        };
        let need = match &known.pod.purpose {
            Purpose::Image(pair) => Need::Image(pair.clone()),
            Purpose::Pool { runtime, .. } => Need::Runtime(runtime.clone()),
        };
        let suited = self
            .waiting
            .get(&need)
            .into_iter()
            .flatten()
            .copied()
            .find(|id| known.suits(&slot, &self.starts[id].wanted));
        if let Some(id) = suited {
            effects.offers.push(self.take(id, name));
        }
    }

    fn wait_no_longer(&mut self, id: StartId) {
        let Some(start) = self.starts.get(&id) else {
            return;
        };
        let need = start.wanted.need();
        if let Some(starts) = self.waiting.get_mut(&need) {
            starts.remove(&id);
            if starts.is_empty() {
                self.waiting.remove(&need);
            }
        }
    }

    fn take(&mut self, id: StartId, name: &str) -> Offer {
        self.change(name, |known| known.taken_by = Some(id));
        let pod = &self.pods[name].pod;
        let Standing::Running(address) = pod.standing else {
            unreachable!("only pods that run are free");
        };
        let uid = pod.uid.clone();
        *self.taken_on.entry(pod.node.clone()).or_default() += 1;
        self.wait_no_longer(id);
        let start = self.starts.get_mut(&id).expect("it is being seated");
        start.at = At::Asking(name.to_owned());
        Offer {
            start: id,
            pod: name.to_owned(),
            uid,
            address,
        }
    }

    fn best(&self, wanted: &Wanted) -> Option<String> {
        let slots: Vec<&Slot> = match &wanted.code {
            Code::Image => self
                .free
                .get_key_value(&Slot::Image(wanted.pair.clone()))
                .map(|(slot, _)| slot)
                .into_iter()
                .collect(),
            Code::Bundle { runtime, memory_mb } => {
                let of = |memory_mb| Slot::Empty {
                    runtime: runtime.clone(),
                    memory_mb,
                };
                let hot = self
                    .free
                    .get_key_value(&Slot::Hot(wanted.pair.function.clone()));
                let empty = self.free.range(of(*memory_mb)..=of(u64::MAX));
                hot.into_iter().chain(empty).map(|(slot, _)| slot).collect()
            }
        };
        // Slots are in order of preference. Within one, a node that does little for us is better
        // than one that does much, once the pods themselves are equally good.
        slots.into_iter().find_map(|slot| {
            self.free[slot]
                .iter()
                .filter_map(|(node, pods)| {
                    let taken = self.taken_on.get(node).copied().unwrap_or(0);
                    pods.iter()
                        .find(|ranked| self.pods[&ranked.name].suits(slot, wanted))
                        .map(|best| (best.unsure, best.refusals, taken, best.number, &best.name))
                })
                .min()
                .map(|(.., name)| name.clone())
        })
    }

    /// Changes what is known of a pod and keeps the index of free ones in step.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Known)) {
        let Some(known) = self.pods.get_mut(name) else {
            return;
        };
        let before = known.place(self.salt);
        change(known);
        let after = known.place(self.salt);
        if before == after {
            return;
        }
        if let Some((slot, node, ranked)) = before
            && let Some(nodes) = self.free.get_mut(&slot)
        {
            if let Some(pods) = nodes.get_mut(&node) {
                pods.remove(&ranked);
                if pods.is_empty() {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.free.remove(&slot);
            }
        }
        if let Some((slot, node, ranked)) = after {
            let nodes = self.free.entry(slot).or_default();
            nodes.entry(node).or_default().insert(ranked);
        }
    }
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub pods: usize,
    pub taken: usize,
    pub waiting: usize,
}

impl Known {
    fn load(&mut self, pair: Pair) {
        if matches!(self.pod.purpose, Purpose::Pool { .. }) {
            self.loaded = Some(Loaded {
                function: pair.function,
                settings: Some(pair.settings),
            });
        }
    }

    /// What it could run, while it is free.
    fn slot(&self) -> Option<Slot> {
        let free = matches!(self.pod.standing, Standing::Running(_))
            && self.taken_by.is_none()
            && !self.finished
            && !self.unlisted
            && self.resting_until.is_none();
        free.then(|| match (&self.pod.purpose, &self.loaded) {
            (Purpose::Image(pair), _) => Slot::Image(pair.clone()),
            (Purpose::Pool { .. }, Some(loaded)) => Slot::Hot(loaded.function.clone()),
            (
                Purpose::Pool {
                    runtime, memory_mb, ..
                },
                None,
            ) => Slot::Empty {
                runtime: runtime.clone(),
                memory_mb: *memory_mb,
            },
        })
    }

    /// Where in the index of free ones it is.
    fn place(&self, salt: u64) -> Option<(Slot, String, Ranked)> {
        let slot = self.slot()?;
        let ranked = Ranked {
            unsure: self
                .loaded
                .as_ref()
                .is_some_and(|loaded| loaded.settings.is_none()),
            refusals: self.refusals,
            number: hash(salt, &self.pod.name),
            name: self.pod.name.clone(),
        };
        Some((slot, self.pod.node.clone(), ranked))
    }

    fn suits(&self, slot: &Slot, wanted: &Wanted) -> bool {
        match (slot, &wanted.code) {
            (Slot::Image(pair), Code::Image) => *pair == wanted.pair,
            (Slot::Hot(function), Code::Bundle { .. }) => {
                let settings = self.loaded.as_ref().and_then(|held| held.settings.as_ref());
                *function == wanted.pair.function
                    && settings.is_none_or(|settings| *settings == wanted.pair.settings)
            }
            (
                Slot::Empty { runtime, memory_mb },
                Code::Bundle {
                    runtime: wants,
                    memory_mb: needs,
                },
            ) => runtime == wants && memory_mb >= needs,
            (Slot::Image(_), Code::Bundle { .. })
            | (Slot::Hot(_) | Slot::Empty { .. }, Code::Image) => false,
        }
    }
}

impl Wanted {
    fn need(&self) -> Need {
        match &self.code {
            Code::Image => Need::Image(self.pair.clone()),
            Code::Bundle { runtime, .. } => Need::Runtime(runtime.clone()),
        }
    }
}

fn hash(salt: u64, text: &str) -> u64 {
    // Its keys are fixed, so that equal inputs give equal answers.
    let mut hasher = DefaultHasher::new();
    salt.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}
