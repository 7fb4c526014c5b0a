//! What to write next, from what should be and what is.
//!
//! Pure: no clock, no randomness, no cluster. [`plan`] may be asked at any time and as often as one
//! likes; asked about the result of what it said, it says nothing more.

mod demands;
mod setbacks;
mod verdict;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use region_plane_resources::demand::{ClaimedPod, Code, Problem};

pub use demands::Demands;
pub use setbacks::Setbacks;
pub use verdict::{Condition, ConditionReason, Stated, Trouble};

use verdict::Evidence;

/// Time since some fixed start, on a clock that never goes back.
pub type Moment = Duration;

/// What the cluster should hold. Of both maps the key is the object's name.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub functions: BTreeMap<String, Function>,
    pub pools: BTreeMap<String, Pool>,
    /// Objects that are there and cannot be read.
    pub unreadable: BTreeMap<Owner, Unreadable>,
}

#[derive(Debug, Clone)]
pub struct Unreadable {
    pub generation: i64,
    pub stated: Option<Stated>,
    pub trouble: Trouble,
}

#[derive(Debug, Clone)]
pub struct Function {
    pub uid: String,
    pub generation: i64,
    /// Whether pods are made of its own image; else a pool's pod loads its bundle.
    pub image: bool,
    pub settings: String,
    pub memory_mb: u64,
    /// Stands for everything a pod of it is made from but its resources.
    pub template: String,
    pub min: u32,
    pub max: u32,
    pub stated: Option<Stated>,
}

#[derive(Debug, Clone)]
pub struct Pool {
    pub uid: String,
    pub generation: i64,
    pub runtime: String,
    pub memory_mb: u64,
    pub size: u32,
    pub template: String,
    pub stated: Option<Stated>,
}

/// Whose pods they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    Function(String),
    Pool(String),
}

impl Owner {
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Function(name) | Self::Pool(name) => name,
        }
    }
}

/// A pod that we made, or asked for and have not seen yet.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Empty until it was seen.
    pub uid: String,
    pub owner: Owner,
    pub owner_uid: String,
    /// Of an image's pod: what its container was started with.
    pub settings: Option<String>,
    /// Of a pool's pod: the function that took it.
    pub function: Option<String>,
    /// Of a pool's pod: the function it was made large enough for.
    pub dedicated: Option<String>,
    /// As gateways are told: it has at least this.
    pub memory_mb: u64,
    /// What it is to have.
    pub asked_mb: u64,
    /// Since when it is to have more than it has.
    pub growing_since: Option<Moment>,
    pub template: String,
    pub phase: Phase,
    pub trouble: Option<Trouble>,
    /// It is going, or we asked for that.
    pub deleting: bool,
    /// Something was asked of it and has not been answered: nothing more is.
    pub busy: bool,
    /// When we first saw it.
    pub seen: Moment,
    /// When we first saw it run.
    pub ran_from: Option<Moment>,
}

impl Pod {
    /// How long it ran, or has run.
    #[must_use]
    pub fn ran(&self, now: Moment) -> Duration {
        self.ran_from
            .map_or(Duration::ZERO, |from| now.saturating_sub(from))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Pending,
    /// Its containers run. Whether the function is ready only its runner knows.
    Running,
    /// It ran when its node was last heard. The node may be gone, and whoever has the pod knows more.
    Unheard,
    /// A container ended while the pod stands.
    Broken,
    /// Nothing of it runs.
    Ended,
}

#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A pod that nobody has or wants goes after this, so that a call that comes a moment later
    /// finds it.
    pub surplus_after: Duration,
    /// A pod that does not run by then is a problem.
    pub never_ready_after: Duration,
    /// A pod that no node has taken by then is a problem; before, it is a scheduler at work.
    pub unschedulable_after: Duration,
    /// A pool in which no pod has waited for so long is too small for its calls. Before, it is a
    /// burst, and its pods are on their way.
    pub pool_empty_after: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            surplus_after: Duration::from_secs(10),
            never_ready_after: Duration::from_secs(60),
            unschedulable_after: Duration::from_secs(5),
            pool_empty_after: Duration::from_secs(30),
        }
    }
}

/// How many writes of each sort there may be.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub creates: u32,
    pub deletes: u32,
    /// Labels, resources and conditions.
    pub patches: u32,
}

pub struct Observed<'a> {
    pub now: Moment,
    pub rules: Rules,
    pub pods: &'a BTreeMap<String, Pod>,
    pub demands: &'a Demands,
    pub setbacks: &'a Setbacks,
    /// As the last plan found pools.
    pub fills: &'a BTreeMap<String, Fill>,
    /// No pod is surplus before this: whoever has it may not have told us yet. `None` while nobody
    /// tells us.
    pub surplus_from: Option<Moment>,
}

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    pub size: u32,
    /// Pods that run and that nobody has taken.
    pub waiting: u32,
    /// Since when none waits, if any should.
    pub empty_since: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        owner: Owner,
        memory_mb: u64,
        /// The function it is made large enough for.
        dedicated: Option<String>,
    },
    Delete {
        pod: String,
        uid: String,
        why: Why,
    },
    /// Gives a pod that runs more or less memory, and the settings that go with it.
    Resize {
        pod: String,
        uid: String,
        memory_mb: u64,
        settings: Option<String>,
        how: Resizing,
    },
    Label {
        pod: String,
        uid: String,
        function: String,
        settings: String,
    },
    State {
        owner: Owner,
        condition: Condition,
    },
}

/// Gateways go by a pod's labels, so they never promise memory that it does not have: they follow
/// when it gets more, and go ahead when it gets less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resizing {
    /// Ask for more memory.
    Grow,
    /// Change the labels, then ask for less.
    Shrink,
    /// Change the labels.
    Tell,
}

/// Why a pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its gateway gave it back.
    Finished,
    /// It does not run any more.
    Failed,
    /// The function is started otherwise now.
    Outdated,
    /// More than are wanted.
    Surplus,
}

impl Why {
    /// For logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Outdated => "outdated",
            Self::Surplus => "surplus",
        }
    }
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Most urgent first of each sort.
    pub actions: Vec<Action>,
    /// What gateways are told: what stands in the way of pods now, whatever conditions still say.
    pub problems: Vec<Problem>,
    /// Every pool's, by its name.
    pub fills: BTreeMap<String, Fill>,
    /// When time alone will have changed the plan.
    pub next_wakeup: Option<Moment>,
    /// More was wanted than the budget allowed.
    pub short: bool,
}

/// Says what to write next.
///
/// Never deletes a pod that a gateway holds, unless nothing of it runs any more, nor one whose owner it
/// does not know; never has more pods of a function than its `max`; never touches what it was not told
/// of.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed<'_>, budget: Budget) -> Plan {
    Planner::new(desired, observed, budget).plan()
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed<'a>,
    budget: Budget,
    claims: HashMap<&'a str, &'a ClaimedPod>,
    /// Pods of gateways that fell silent: they may still be serving.
    lapsed: HashSet<&'a str>,
    finished: HashSet<&'a str>,
    creates: Vec<Create>,
    deletes: Vec<Delete<'a>>,
    patches: Vec<Action>,
    states: Vec<Action>,
    unfilled: Unfilled<'a>,
    plan: Plan,
}

struct Create {
    /// Smaller is more urgent.
    rank: u8,
    owner: Owner,
    memory_mb: u64,
    dedicated: Option<String>,
    count: u32,
}

struct Delete<'a> {
    why: Why,
    idle_since: Moment,
    name: &'a str,
    uid: &'a str,
}

/// What gateways want of one function, all together.
#[derive(Default)]
struct Wanted<'a> {
    /// Of the settings the function has now.
    current: u32,
    all: u32,
    claimed: u32,
    /// Pods that a gateway has and the list of pods lacks: the list may be short, and the gateway is
    /// connected to them.
    unlisted: u32,
    /// Of those, the ones of the settings the function has now.
    unlisted_current: u32,
    bundle: Option<(&'a str, u64)>,
}

/// A pod in the light of what gateways say.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    name: &'a str,
    pod: &'a Pod,
    claimed: bool,
    /// It is to go, and still counts until it does.
    going: bool,
    /// It is to be replaced, whatever its template says.
    stale: bool,
    idle_since: Moment,
}

impl Candidate<'_> {
    /// Nobody has it and nobody can take it, so that it counts for nothing. It may stay: its node may
    /// be back before Kubernetes removes it.
    fn lost(&self) -> bool {
        self.pod.phase == Phase::Unheard && !self.claimed
    }
}

/// A kubelet that has room gives a pod more memory within a second or two. One that has none may
/// never have it, and another node may.
const GROWN_WITHIN: Duration = Duration::from_secs(10);

/// Calls wait and nothing runs.
const RANK_FROM_ZERO: u8 = 0;
/// A pool is empty: the next bundle waits for a pod.
const RANK_EMPTY_POOL: u8 = 1;
const RANK_MORE: u8 = 2;
const RANK_REPLACE: u8 = 3;

impl<'a> Planner<'a> {
    fn new(desired: &'a Desired, observed: &'a Observed<'a>, budget: Budget) -> Self {
        let demands = observed.demands;
        let mut claims = HashMap::new();
        for claim in demands.claims(observed.now) {
            claims.insert(claim.pod.as_str(), claim);
        }
        Self {
            desired,
            observed,
            budget,
            claims,
            lapsed: demands
                .lapsed_claims(observed.now)
                .map(|claim| claim.pod.as_str())
                .collect(),
            finished: demands.finished(observed.now).collect(),
            creates: Vec::new(),
            deletes: Vec::new(),
            patches: Vec::new(),
            states: Vec::new(),
            unfilled: Unfilled::default(),
            plan: Plan::default(),
        }
    }

    fn plan(mut self) -> Plan {
        let wanted = self.wanted();
        let mut of_functions = HashMap::<&str, Vec<Candidate<'_>>>::new();
        let mut of_pools = HashMap::<&str, Vec<Candidate<'_>>>::new();
        for (name, pod) in self.observed.pods {
            let Some(candidate) = self.candidate(name, pod) else {
                continue;
            };
            let pods = match &pod.owner {
                Owner::Function(owner) => of_functions.entry(owner),
                Owner::Pool(owner) => of_pools.entry(owner),
            };
            pods.or_default().push(candidate);
        }
        let none = Wanted::default();
        let waiting = self.waiting_bundles(&wanted);
        // Before functions: what keeps a pool from filling is what bundles wait for.
        for (name, pool) in &self.desired.pools {
            let pods = own(&mut of_pools, name, &pool.uid);
            self.pool(name, pool, waiting.of_pool(name), &pods);
        }
        for (name, function) in &self.desired.functions {
            let pods = own(&mut of_functions, name, &function.uid);
            let wanted = wanted.get(name.as_str()).unwrap_or(&none);
            if function.image {
                self.image(name, function, wanted, &pods);
            } else {
                let trouble = waiting.trouble(name, &self.unfilled);
                self.bundle(name, function, wanted, trouble);
            }
        }
        for (owner, unreadable) in &self.desired.unreadable {
            let evidence = Evidence {
                runs: false,
                comes: false,
                trouble: Some(unreadable.trouble.clone()),
            };
            let stated = unreadable.stated.as_ref();
            self.judge(owner.clone(), evidence, unreadable.generation, stated);
        }
        self.finish()
    }

    /// `None` for what is no candidate for anything: it goes already, or runs no more.
    fn candidate(&mut self, name: &'a str, pod: &'a Pod) -> Option<Candidate<'a>> {
        if pod.deleting {
            return None;
        }
        let claim = self.claims.get(name);
        let claimed = claim.is_some() || self.lapsed.contains(name);
        let candidate = Candidate {
            name,
            pod,
            claimed,
            going: false,
            stale: false,
            idle_since: self.observed.demands.last_claimed(name).max(pod.seen),
        };
        match pod.phase {
            // The gateway is told by the runner and lets go; then it is deleted.
            Phase::Broken if claimed => return Some(candidate),
            Phase::Broken | Phase::Ended => {
                self.delete(candidate, Why::Failed);
                return None;
            }
            Phase::Pending | Phase::Running | Phase::Unheard => {}
        }
        if !claimed && self.finished.contains(name) {
            self.delete(candidate, Why::Finished);
            return Some(Candidate {
                going: true,
                ..candidate
            });
        }
        if let (Owner::Pool(_), Some(claim)) = (&pod.owner, claim)
            && !pod.busy
            && (pod.function.as_ref() != Some(&claim.function)
                || pod.settings.as_ref() != Some(&claim.settings))
        {
            self.patches.push(Action::Label {
                pod: name.to_owned(),
                uid: pod.uid.clone(),
                function: claim.function.clone(),
                settings: claim.settings.clone(),
            });
        }
        Some(candidate)
    }

    fn wanted(&self) -> HashMap<&'a str, Wanted<'a>> {
        let mut wanted = HashMap::<&str, Wanted<'_>>::new();
        for demand in self.observed.demands.functions(self.observed.now) {
            let entry = wanted.entry(&demand.function).or_default();
            entry.all = entry.all.saturating_add(demand.wanted);
            let current = self
                .desired
                .functions
                .get(&demand.function)
                .is_some_and(|function| function.settings == demand.settings);
            if current {
                entry.current = entry.current.saturating_add(demand.wanted);
            }
            if let Code::Bundle { runtime, memory_mb } = &demand.code {
                let memory_mb = entry
                    .bundle
                    .map_or(*memory_mb, |(_, other)| other.max(*memory_mb));
                entry.bundle = Some((runtime, memory_mb));
            }
        }
        for (pod, claim) in &self.claims {
            let entry = wanted.entry(&claim.function).or_default();
            entry.claimed += 1;
            if !self.observed.pods.contains_key(*pod) {
                let function = self.desired.functions.get(&claim.function);
                let current = function.is_some_and(|function| function.settings == claim.settings);
                entry.unlisted += 1;
                entry.unlisted_current += u32::from(current);
            }
        }
        wanted
    }

    /// Which pool serves the bundles that wait for a pod.
    fn waiting_bundles(&self, wanted: &HashMap<&'a str, Wanted<'a>>) -> Waiting<'a> {
        let mut waiting = Waiting::default();
        let mut by_runtime = HashMap::<&str, Vec<(&'a String, &'a Pool)>>::new();
        for (name, pool) in &self.desired.pools {
            by_runtime
                .entry(&pool.runtime)
                .or_default()
                .push((name, pool));
        }
        for pools in by_runtime.values_mut() {
            pools.sort_by_key(|(name, pool)| (pool.memory_mb, *name));
        }
        for (function, wanted) in wanted {
            let Some((runtime, memory_mb)) = wanted.bundle else {
                continue;
            };
            let max = self
                .desired
                .functions
                .get(*function)
                .map_or(u32::MAX, |function| function.max);
            let owner = Owner::Function((*function).to_owned());
            let count = match self.observed.setbacks.until(&owner) {
                // It ends the pods it is given: it gets what the pool has, and no more are made.
                Some(until) if until > self.observed.now => 0,
                _ => wanted.all.min(max).saturating_sub(wanted.claimed),
            };
            let Some(pools) = by_runtime.get(runtime) else {
                if count > 0 {
                    waiting.unserved.insert(function, runtime);
                }
                continue;
            };
            let fits = pools.iter().find(|(_, pool)| pool.memory_mb >= memory_mb);
            if count > 0
                && let Some((name, _)) = fits.or(pools.last())
            {
                waiting.served.insert(function, name);
            }
            match (fits, pools.last()) {
                (Some((name, _)), _) => waiting.pools.entry(name).or_default().shared += count,
                (None, Some((name, _))) => waiting
                    .pools
                    .entry(name)
                    .or_default()
                    .dedicated
                    .push((function, memory_mb, count)),
                (None, None) => {}
            }
        }
        waiting
    }

    fn image(
        &mut self,
        name: &'a str,
        function: &'a Function,
        wanted: &Wanted<'_>,
        pods: &[Candidate<'a>],
    ) {
        let owner = Owner::Function(name.to_owned());
        let mut usable = Vec::new();
        let mut evidence = Evidence::default();
        for candidate in pods {
            let pod = candidate.pod;
            if pod.phase == Phase::Broken || candidate.going || candidate.lost() {
                continue;
            }
            let same_settings = pod.settings.as_ref() == Some(&function.settings);
            let same_memory = pod.memory_mb == function.memory_mb;
            if same_settings && same_memory {
                usable.push(*candidate);
                self.note(&mut evidence, *candidate);
            } else if candidate.claimed {
                // Its gateway lets it finish, and gives it back.
            } else if pod.template == function.template
                && self.adapt(*candidate, function.memory_mb, Some(&function.settings))
            {
                usable.push(*candidate);
                self.note(&mut evidence, *candidate);
            } else {
                self.delete_surplus(*candidate, Why::Outdated, Duration::ZERO);
            }
        }
        let target = wanted.current.max(function.min).min(function.max);
        let live = pods.iter().filter(|candidate| !candidate.lost()).count();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        let group = Group {
            template: &function.template,
            target,
            unlisted: wanted.unlisted_current,
            room: function.max.saturating_sub(live + wanted.unlisted),
        };
        let rank = match (usable.is_empty(), wanted.current > 0) {
            (true, true) => RANK_FROM_ZERO,
            _ => RANK_MORE,
        };
        self.settle(&owner, &group, rank, function.memory_mb, &usable);
        self.judge(
            owner,
            evidence,
            function.generation,
            function.stated.as_ref(),
        );
    }

    fn bundle(
        &mut self,
        name: &'a str,
        function: &'a Function,
        wanted: &Wanted<'_>,
        trouble: Option<Trouble>,
    ) {
        let owner = Owner::Function(name.to_owned());
        let evidence = Evidence {
            runs: wanted.claimed > 0,
            comes: false,
            trouble,
        };
        self.judge(
            owner,
            evidence,
            function.generation,
            function.stated.as_ref(),
        );
    }

    fn pool(
        &mut self,
        name: &'a str,
        pool: &'a Pool,
        waiting: Option<&PoolWaiting<'a>>,
        pods: &[Candidate<'a>],
    ) {
        let owner = Owner::Pool(name.to_owned());
        let mut free = Vec::new();
        let mut dedicated = HashMap::<&str, Vec<Candidate<'a>>>::new();
        let mut evidence = Evidence::default();
        for candidate in pods {
            let pod = candidate.pod;
            if candidate.claimed || candidate.going || pod.phase == Phase::Broken {
                evidence.runs |= candidate.claimed;
                continue;
            }
            if let (None, Some(function)) = (&pod.function, &pod.dedicated) {
                // Nobody else gets it: whether it comes is nothing to those who share the pool.
                if !candidate.lost() {
                    dedicated.entry(function).or_default().push(*candidate);
                }
                continue;
            }
            self.note(&mut evidence, *candidate);
            if pod.function.is_some() {
                // It ran that function and can run no other. A gateway that comes back may take it.
                self.delete_surplus(*candidate, Why::Surplus, self.observed.rules.surplus_after);
                continue;
            }
            if candidate.lost() {
                continue;
            }
            let fits = pod.memory_mb == pool.memory_mb
                || pod.template == pool.template && self.adapt(*candidate, pool.memory_mb, None);
            // What does not fit still serves smaller bundles, until others can.
            free.push(Candidate {
                stale: !fits,
                ..*candidate
            });
        }
        let shared = waiting.map_or(0, |waiting| waiting.shared);
        let group = Group {
            template: &pool.template,
            target: pool.size.saturating_add(shared),
            unlisted: 0,
            room: u32::MAX,
        };
        let rank = match free.is_empty() {
            true if shared > 0 => RANK_FROM_ZERO,
            true => RANK_EMPTY_POOL,
            false => RANK_MORE,
        };
        self.settle(&owner, &group, rank, pool.memory_mb, &free);
        for (function, memory_mb, count) in
            waiting.into_iter().flat_map(|waiting| &waiting.dedicated)
        {
            let pods = dedicated.remove(function).unwrap_or_default();
            let (fitting, small): (Vec<_>, Vec<_>) = pods
                .into_iter()
                .partition(|candidate| candidate.pod.memory_mb >= *memory_mb);
            for candidate in small {
                self.delete_surplus(candidate, Why::Outdated, Duration::ZERO);
            }
            let mut of_its_own = Evidence::default();
            for candidate in &fitting {
                self.note(&mut of_its_own, *candidate);
            }
            if of_its_own.comes || of_its_own.trouble.is_some() {
                let trouble = of_its_own.trouble.filter(|_| !of_its_own.comes);
                self.unfilled.dedicated.insert(function, trouble);
            }
            let have = u32::try_from(fitting.len()).unwrap_or(u32::MAX);
            self.create(
                RANK_FROM_ZERO,
                &owner,
                *memory_mb,
                Some(function),
                count.saturating_sub(have),
            );
            self.trim(fitting, *count);
        }
        for (_, pods) in dedicated {
            self.trim(pods, 0);
        }
        self.fill(name, pool, &free);
        let stated = pool.stated.as_ref();
        if let Some(trouble) = self.judge(owner, evidence, pool.generation, stated) {
            self.unfilled.pools.insert(name, trouble);
        }
    }

    /// Brings a pod that nobody has to other memory or settings, if that can be done to it.
    fn adapt(
        &mut self,
        candidate: Candidate<'a>,
        memory_mb: u64,
        settings: Option<&String>,
    ) -> bool {
        let pod = candidate.pod;
        if pod.phase != Phase::Running {
            return false;
        }
        let how = match memory_mb.cmp(&pod.memory_mb) {
            Ordering::Equal => Resizing::Tell,
            Ordering::Less if pod.asked_mb != memory_mb => Resizing::Shrink,
            Ordering::Greater if pod.asked_mb != memory_mb => Resizing::Grow,
            Ordering::Less | Ordering::Greater => match pod.growing_since {
                None => Resizing::Tell,
                Some(since) if since + GROWN_WITHIN <= self.observed.now => return false,
                Some(since) => {
                    self.wake_at(since + GROWN_WITHIN);
                    return true;
                }
            },
        };
        if !pod.busy {
            self.patches.push(Action::Resize {
                pod: candidate.name.to_owned(),
                uid: pod.uid.clone(),
                memory_mb,
                settings: settings.cloned(),
                how,
            });
        }
        true
    }

    fn fill(&mut self, name: &str, pool: &Pool, free: &[Candidate<'_>]) {
        let runs = |candidate: &&Candidate<'_>| candidate.pod.phase == Phase::Running;
        let waiting = u32::try_from(free.iter().filter(runs).count()).unwrap_or(u32::MAX);
        let before = self.observed.fills.get(name);
        let before = before.and_then(|fill| fill.empty_since);
        let fill = Fill {
            size: pool.size,
            waiting,
            empty_since: (waiting == 0 && pool.size > 0)
                .then(|| before.unwrap_or(self.observed.now)),
        };
        self.plan.fills.insert(name.to_owned(), fill);
    }

    /// Brings the pods of one template to a number, old ones replaced one by one: an old pod that
    /// nobody has stays until a new one runs.
    fn settle(
        &mut self,
        owner: &Owner,
        group: &Group<'_>,
        rank: u8,
        memory_mb: u64,
        pods: &[Candidate<'a>],
    ) {
        let count = |is: &dyn Fn(&Candidate<'_>) -> bool| {
            u32::try_from(pods.iter().filter(|candidate| is(candidate)).count()).unwrap_or(u32::MAX)
        };
        let fresh = |candidate: &Candidate<'_>| {
            candidate.pod.template == group.template && !candidate.stale
        };
        let taken_stale = count(&|candidate| !fresh(candidate) && candidate.claimed);
        let fresh_all = count(&fresh);
        let fresh_running =
            count(&|candidate| fresh(candidate) && candidate.pod.phase == Phase::Running);
        let usable = u32::try_from(pods.len()).unwrap_or(u32::MAX);

        let missing = group
            .target
            .saturating_sub(usable.saturating_add(group.unlisted))
            .min(group.room);
        self.create(rank, owner, memory_mb, None, missing);
        let to_replace = group
            .target
            .saturating_sub(fresh_all + taken_stale + group.unlisted);
        let replaced = to_replace.min(group.room).saturating_sub(missing);
        self.create(RANK_REPLACE, owner, memory_mb, None, replaced);
        // With no room for a new one beside them, one old one goes for each new one that runs.
        let makes_room =
            to_replace > 0 && missing == 0 && replaced == 0 && fresh_all == fresh_running;

        let (new, old): (Vec<_>, Vec<_>) = pods
            .iter()
            .filter(|candidate| !candidate.claimed)
            .partition(|candidate| fresh(candidate));
        let old_kept = group
            .target
            .saturating_sub(fresh_running + taken_stale + u32::from(makes_room));
        let wait = match group.target {
            // Nothing replaces them: they are surplus like any other.
            0 => self.observed.rules.surplus_after,
            _ => Duration::ZERO,
        };
        let excess = old.len().saturating_sub(old_kept as usize);
        for candidate in idlest_first(old).into_iter().take(excess) {
            self.delete_surplus(candidate, Why::Outdated, wait);
        }
        let taken_fresh = fresh_all.saturating_sub(u32::try_from(new.len()).unwrap_or(u32::MAX));
        self.trim(new, group.target.saturating_sub(taken_fresh + taken_stale));
    }

    /// Deletes what is beyond `keep` of pods that nobody has: the idlest first.
    fn trim(&mut self, pods: Vec<Candidate<'a>>, keep: u32) {
        let excess = pods.len().saturating_sub(keep as usize);
        let wait = self.observed.rules.surplus_after;
        for candidate in idlest_first(pods).into_iter().take(excess) {
            self.delete_surplus(candidate, Why::Surplus, wait);
        }
    }

    fn create(
        &mut self,
        rank: u8,
        owner: &Owner,
        memory_mb: u64,
        dedicated: Option<&str>,
        count: u32,
    ) {
        if count == 0 {
            return;
        }
        if let Some(until) = self.observed.setbacks.until(owner)
            && until > self.observed.now
        {
            self.wake_at(until);
            return;
        }
        self.creates.push(Create {
            rank,
            owner: owner.clone(),
            memory_mb,
            dedicated: dedicated.map(str::to_owned),
            count,
        });
    }

    fn delete(&mut self, candidate: Candidate<'a>, why: Why) {
        if candidate.pod.uid.is_empty() {
            return;
        }
        self.deletes.push(Delete {
            why,
            idle_since: candidate.idle_since,
            name: candidate.name,
            uid: &candidate.pod.uid,
        });
    }

    /// Deletes a pod that nobody has, once that is sure and it has idled for `wait`.
    fn delete_surplus(&mut self, candidate: Candidate<'a>, why: Why, wait: Duration) {
        let Some(from) = self.observed.surplus_from else {
            return;
        };
        if candidate.claimed {
            return;
        }
        let at = from.max(candidate.idle_since + wait);
        if at > self.observed.now {
            self.wake_at(at);
        } else {
            self.delete(candidate, why);
        }
    }

    fn wake_at(&mut self, at: Moment) {
        let next = self.plan.next_wakeup.get_or_insert(at);
        *next = at.min(*next);
    }

    fn note(&mut self, evidence: &mut Evidence, candidate: Candidate<'_>) {
        let pod = candidate.pod;
        let age = self.observed.now.saturating_sub(pod.seen);
        let rules = self.observed.rules;
        match &pod.trouble {
            _ if pod.phase == Phase::Running => {
                evidence.runs = true;
                evidence.comes |= !candidate.claimed && pod.function.is_none();
            }
            _ if pod.phase == Phase::Unheard => {}
            Some(trouble) if trouble.reason == ConditionReason::PodUnschedulable => {
                if age >= rules.unschedulable_after {
                    evidence.trouble = Some(trouble.clone());
                } else {
                    evidence.comes = true;
                    self.wake_at(pod.seen + rules.unschedulable_after);
                }
            }
            Some(trouble) => evidence.trouble = Some(trouble.clone()),
            None if pod.uid.is_empty() => evidence.comes = true,
            None if age >= rules.never_ready_after => {
                evidence.trouble = Some(Trouble::never_ready(rules.never_ready_after));
            }
            None => {
                evidence.comes = true;
                self.wake_at(pod.seen + rules.never_ready_after);
            }
        }
    }

    /// Returns what stands in the way of whoever waits now.
    fn judge(
        &mut self,
        owner: Owner,
        mut evidence: Evidence,
        generation: i64,
        stated: Option<&Stated>,
    ) -> Option<Trouble> {
        // Whoever waits gets one of those that come, though another stands still.
        let mut trouble = evidence.trouble.clone().filter(|_| !evidence.comes);
        if let Some(setback) = self.observed.setbacks.trouble(&owner) {
            evidence.trouble = Some(setback.clone());
            // Once its time is up another is tried, and whoever waits gets that one.
            if let Some(until) = self.observed.setbacks.until(&owner)
                && until > self.observed.now
            {
                trouble = Some(setback.clone());
                self.wake_at(until);
            }
        }
        if let (Some(trouble), Owner::Function(function)) = (&trouble, &owner) {
            let desired = self.desired.functions.get(function);
            self.plan.problems.push(Problem {
                function: function.clone(),
                settings: desired.map(|function| function.settings.clone()),
                reason: trouble.reason.to_string(),
                message: trouble.message.clone(),
            });
        }
        // Not problems that gateways are told: only another start shows whether the first is over,
        // and an empty pool serves whoever waits as its pods come.
        if evidence.trouble.is_none() {
            evidence.trouble = match &owner {
                Owner::Function(function) => self.start_failure(function),
                Owner::Pool(pool) => self.emptiness(pool),
            };
        }
        if let Some(condition) = verdict::judge(evidence, generation, stated) {
            self.states.push(Action::State { owner, condition });
        }
        trouble
    }

    /// Of the settings the function has now.
    fn start_failure(&mut self, function: &str) -> Option<Trouble> {
        let current = &self.desired.functions.get(function)?.settings;
        let (failure, until) = self.observed.demands.failure(function, self.observed.now)?;
        if failure.settings != *current {
            return None;
        }
        self.wake_at(until);
        Some(Trouble::start_failed(&failure.message))
    }

    fn emptiness(&mut self, pool: &str) -> Option<Trouble> {
        let since = self.plan.fills.get(pool)?.empty_since?;
        let pool = &self.desired.pools[pool];
        let after = self.observed.rules.pool_empty_after;
        let trouble = Trouble::pool_empty(after);
        // Another leader may have waited for that long.
        let stated = pool.stated.as_ref().is_some_and(|stated| {
            stated.generation == pool.generation && stated.reason == trouble.reason.to_string()
        });
        if stated || since + after <= self.observed.now {
            return Some(trouble);
        }
        self.wake_at(since + after);
        None
    }

    fn finish(mut self) -> Plan {
        let mut creates = self.budget.creates;
        self.creates.sort_by(|a, b| {
            (a.rank, &a.owner, &a.dedicated).cmp(&(b.rank, &b.owner, &b.dedicated))
        });
        // One each in turn, so that one function's burst does not keep others from their first.
        let mut turn = self.creates.as_mut_slice();
        while let Some(rank) = turn.first().map(|create| create.rank) {
            let end = turn.partition_point(|create| create.rank == rank);
            let (this, rest) = turn.split_at_mut(end);
            let mut left = true;
            while left && creates > 0 {
                left = false;
                for create in this.iter_mut().filter(|create| create.count > 0) {
                    if creates == 0 {
                        break;
                    }
                    creates -= 1;
                    create.count -= 1;
                    left |= create.count > 0;
                    self.plan.actions.push(Action::Create {
                        owner: create.owner.clone(),
                        memory_mb: create.memory_mb,
                        dedicated: create.dedicated.clone(),
                    });
                }
            }
            self.plan.short |= this.iter().any(|create| create.count > 0);
            turn = rest;
        }
        self.deletes
            .sort_by_key(|delete| (delete.why, delete.idle_since, delete.name));
        self.plan.short |= self.deletes.len() > self.budget.deletes as usize;
        let deletes = self.deletes.into_iter().take(self.budget.deletes as usize);
        self.plan
            .actions
            .extend(deletes.map(|delete| Action::Delete {
                pod: delete.name.to_owned(),
                uid: delete.uid.to_owned(),
                why: delete.why,
            }));
        // An idle pod may be found fit to be adapted, and then be one too many.
        let going: HashSet<&str> = self
            .plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Delete { pod, .. } => Some(pod.as_str()),
                _ => None,
            })
            .collect();
        self.patches.retain(|action| match action {
            Action::Resize { pod, .. } | Action::Label { pod, .. } => !going.contains(pod.as_str()),
            _ => true,
        });
        self.patches.append(&mut self.states);
        self.plan.short |= self.patches.len() > self.budget.patches as usize;
        self.patches.truncate(self.budget.patches as usize);
        self.plan.actions.append(&mut self.patches);
        self.plan
    }
}

/// How many pods of one template there should be.
struct Group<'a> {
    template: &'a str,
    target: u32,
    /// How many there are beside those that are listed.
    unlisted: u32,
    /// How many more there may be.
    room: u32,
}

#[derive(Default)]
struct Waiting<'a> {
    pools: HashMap<&'a str, PoolWaiting<'a>>,
    /// Function to the pool it waits for.
    served: HashMap<&'a str, &'a str>,
    /// Function to the runtime of which there is no pool.
    unserved: HashMap<&'a str, &'a str>,
}

#[derive(Default)]
struct PoolWaiting<'a> {
    shared: u32,
    /// Functions that need more memory than any pool's pods have: name, megabytes, pods.
    dedicated: Vec<(&'a str, u64, u32)>,
}

impl<'a> Waiting<'a> {
    fn of_pool(&self, pool: &str) -> Option<&PoolWaiting<'a>> {
        self.pools.get(pool)
    }

    /// What `function` waits for in vain.
    fn trouble(&self, function: &str, unfilled: &Unfilled<'_>) -> Option<Trouble> {
        if let Some(runtime) = self.unserved.get(function) {
            return Some(Trouble::no_warm_pool(runtime));
        }
        let pool = self.served.get(function)?;
        let (what, trouble) = match unfilled.dedicated.get(function) {
            Some(of_its_own) => {
                let what = format!("no pod of its pool {pool} comes that is large enough for it");
                (what, of_its_own.as_ref()?)
            }
            None => {
                let what = format!("its pool {pool} does not fill");
                (what, unfilled.pools.get(pool)?)
            }
        };
        Some(Trouble::of_its_pool(&what, trouble))
    }
}

/// What bundles wait for in vain.
#[derive(Default)]
struct Unfilled<'a> {
    pools: HashMap<&'a str, Trouble>,
    /// By the function that pods are made large enough for. `None` where one comes, whatever becomes
    /// of the pool's others.
    dedicated: HashMap<&'a str, Option<Trouble>>,
}

/// The pods of one object. Those of an earlier one of its name are Kubernetes' to collect, as are those
/// of objects that are gone: it knows, where a list that lacks an object may only be short.
fn own<'a>(
    of_all: &mut HashMap<&str, Vec<Candidate<'a>>>,
    name: &str,
    uid: &str,
) -> Vec<Candidate<'a>> {
    let mut pods = of_all.remove(name).unwrap_or_default();
    pods.retain(|candidate| candidate.pod.owner_uid == uid);
    pods
}

/// Pods that do not run first, then those that nobody has had for longest.
fn idlest_first(mut pods: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    pods.sort_by_key(|candidate| {
        (
            candidate.pod.trouble.is_none(),
            candidate.idle_since,
            candidate.name,
        )
    });
    pods
}

#[cfg(test)]
mod tests;
