//! The starts that wait for pods or have them, and what each is told.
//!
//! All decisions are made under one lock that is never held across an await, so that an instance
//! that is dropped gives its pod back there and then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_types::chain;
use region_plane_resources::demand::{ClaimedPod, FunctionDemand, Problem, StartFailure};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::claims::{
    Bereft, Claims, Effects, Fate, Loss, Offer, Pair, PodRefusal, StartId, Wanted,
};
use crate::failures::Failures;
use crate::pods::Change;
use crate::runner::Runner;

/// What a start or an instance knows of its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Waiting,
    /// The pod of this uid is there, at this address.
    Offered {
        uid: String,
        address: IpAddr,
    },
    Lost(Loss),
    /// The operator says that there will be none.
    Hopeless {
        reason: String,
        message: String,
    },
}

#[derive(Debug)]
pub struct Seats {
    started: Instant,
    state: Mutex<State>,
    /// What the operator is told may have changed.
    pub demand_changed: Notify,
    rest_changed: Notify,
    pods_known: watch::Sender<bool>,
    releases: TaskTracker,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug)]
struct State {
    claims: Claims,
    told: HashMap<StartId, watch::Sender<Told>>,
    newest: StartId,
    failures: Failures,
}

/// A start, and then the instance it became. Dropped, it gives its pod back.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    id: StartId,
    told: watch::Receiver<Told>,
    claims_made: u32,
    /// No instance is to be made of the pod it leaves.
    spends: bool,
    holding: Mutex<Holding>,
    released: CancellationToken,
}

#[derive(Debug)]
enum Holding {
    Nothing,
    /// The runner may think that its pod is ours. Told otherwise once the token is cancelled.
    Claim(Arc<Runner>, String, CancellationToken),
    Ended,
}

/// What the operator is to be told.
#[derive(Debug)]
pub struct Snapshot {
    pub functions: Vec<FunctionDemand>,
    pub claims: Vec<ClaimedPod>,
    pub finished: Vec<String>,
    pub failures: Vec<StartFailure>,
    /// The last start that is counted in it.
    pub newest: StartId,
}

impl Seats {
    /// Must be called inside a tokio runtime, which then runs its tasks.
    #[must_use]
    pub fn new(gateway: &str) -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::new(State {
                claims: Claims::new(gateway),
                told: HashMap::new(),
                newest: StartId(0),
                failures: Failures::default(),
            }),
            demand_changed: Notify::new(),
            rest_changed: Notify::new(),
            pods_known: watch::Sender::new(false),
            releases: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    pub fn pods_changed(&self, change: Change) {
        let mut state = self.state();
        let effects = match change {
            Change::Listed(pods) => {
                info!(pods = pods.len(), "pods listed");
                self.pods_known.send_replace(true);
                state.claims.pods_listed(pods)
            }
            Change::Seen(pod) => state.claims.pod_seen(pod),
            Change::Gone(name) => state.claims.pod_gone(&name),
        };
        if !effects.bereft.is_empty() {
            self.demand_changed.notify_one();
        }
        state.tell(effects);
    }

    pub fn knows_pods(&self) -> bool {
        *self.pods_known.borrow()
    }

    pub async fn pods_known(&self) {
        let mut known = self.pods_known.subscribe();
        known
            .wait_for(|known| *known)
            .await
            .expect("its sender is here");
    }

    /// Offers pods that were refused once they have rested, for ever.
    pub async fn keep_time(self: Arc<Self>) {
        loop {
            let next = self.state().claims.next_tick();
            let due = async {
                match next {
                    Some(at) => sleep_until(self.started + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    let mut state = self.state();
                    let effects = state.claims.tick(self.now());
                    state.tell(effects);
                }
                () = self.rest_changed.notified() => {}
            }
        }
    }

    pub fn demand(&self) -> Snapshot {
        let state = self.state();
        let (functions, claims, finished) = state.claims.demand();
        Snapshot {
            functions,
            claims,
            finished,
            failures: state.failures.list(),
            newest: state.newest,
        }
    }

    /// A start failed by what the function did.
    pub fn start_failed(&self, pair: &Pair, message: String) {
        self.state().failures.failed(pair, message);
    }

    pub fn start_succeeded(&self, pair: &Pair) {
        self.state().failures.succeeded(&pair.function);
    }

    /// Starts that the operator knew of when it said this wait no longer.
    pub fn hopeless(&self, problem: &Problem, newest: StartId) {
        let state = self.state();
        let (function, settings) = (&problem.function, problem.settings.as_deref());
        let starts = state.claims.waiting_for(function, settings, newest);
        if !starts.is_empty() {
            let (reason, error) = (&problem.reason, &problem.message);
            info!(
                function,
                reason,
                error,
                starts = starts.len(),
                "no pod will come"
            );
        }
        for id in starts {
            if let Some(told) = state.told.get(&id) {
                told.send_replace(Told::Hopeless {
                    reason: problem.reason.clone(),
                    message: problem.message.clone(),
                });
            }
        }
    }

    pub fn hand_over(&self) {
        self.state().claims.hand_over();
        self.demand_changed.notify_one();
    }

    /// Returns once every pod that was let go is given back. The others count as lost.
    pub async fn close(&self) {
        for told in self.state().told.values() {
            told.send_replace(Told::Lost(Loss::PodLeaves));
        }
        self.releases.close();
        self.releases.wait().await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(state: &State) {
        let counts = state.claims.counts();
        for (name, count) in [
            ("tradewind_region_pods", counts.pods),
            ("tradewind_region_pods_taken", counts.taken),
            ("tradewind_region_starts_waiting", counts.waiting),
        ] {
            metrics::gauge!(name).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
}

impl State {
    fn tell(&mut self, effects: Effects) {
        for Offer {
            start,
            address,
            pod,
            uid,
        } in effects.offers
        {
            if let Some(told) = self.told.get(&start) {
                let function = self.claims.function(start);
                debug!(pod, function, "a pod for a start");
                told.send_replace(Told::Offered { uid, address });
            }
        }
        for Bereft { start, pod, loss } in effects.bereft {
            if let Some(told) = self.told.get(&start) {
                let function = self.claims.function(start);
                info!(pod, function, ?loss, "pod lost");
                told.send_replace(Told::Lost(loss));
            }
        }
        Seats::record(self);
    }
}

impl Seat {
    pub fn take(seats: &Arc<Seats>, wanted: Wanted) -> Self {
        let mut state = seats.state();
        let id = StartId(state.newest.0 + 1);
        state.newest = id;
        let (tell, told) = watch::channel(Told::Waiting);
        state.told.insert(id, tell);
        let effects = state.claims.started(id, wanted);
        state.tell(effects);
        drop(state);
        seats.demand_changed.notify_one();
        Self {
            seats: Arc::clone(seats),
            id,
            told,
            claims_made: 0,
            spends: false,
            holding: Mutex::new(Holding::Nothing),
            released: CancellationToken::new(),
        }
    }

    /// What it is told once it waits no longer. Cancel safe.
    pub async fn told(&mut self) -> Told {
        match self.told.wait_for(|told| *told != Told::Waiting).await {
            Ok(told) => told.clone(),
            Err(_) => unreachable!("its sender goes after it"),
        }
    }

    /// For [`lost`].
    pub fn losses(&self) -> watch::Receiver<Told> {
        self.told.clone()
    }

    /// A name for the next claim, which no other of the process has.
    pub fn next_claim(&mut self) -> String {
        self.claims_made += 1;
        format!("{}.{}", self.id.0, self.claims_made)
    }

    /// From now on the runner may think that its pod is ours.
    pub fn asks(&self, runner: Arc<Runner>, claim: String) {
        let at_once = CancellationToken::new();
        at_once.cancel();
        *self.holding() = Holding::Claim(runner, claim, at_once);
    }

    pub fn was_refused(&self) {
        *self.holding() = Holding::Nothing;
    }

    /// The runner says that its pod is ours. It is given back only after `ended` is cancelled.
    pub fn claimed(&self, ended: CancellationToken) {
        if let Holding::Claim(_, _, release_after) = &mut *self.holding() {
            *release_after = ended;
        }
        self.seats.state().claims.claimed(self.id);
        self.seats.demand_changed.notify_one();
    }

    /// The pod has what it is to run, and can run nothing else any more.
    pub fn loaded(&self) {
        self.seats.state().claims.loaded(self.id);
    }

    /// Dropped from now on, its pod is finished: it served, or nobody knows whether the bundle that was
    /// on its way is there. Until then the next start may take it, with what is coming up in it.
    pub fn spends(&mut self) {
        self.spends = true;
    }

    /// Its pod is not to be had, or did not come up by no fault of the function; it wants another.
    pub fn refused(&mut self, refusal: PodRefusal) {
        self.spends = false;
        let held = std::mem::replace(&mut *self.holding(), Holding::Nothing);
        if let Holding::Claim(runner, claim, after) = held {
            self.release(runner, claim, after, CancellationToken::new());
        }
        let mut state = self.seats.state();
        if let Some(told) = state.told.get(&self.id) {
            told.send_replace(Told::Waiting);
        }
        let now = self.seats.now();
        let effects = state.claims.refused(now, self.id, refusal);
        state.tell(effects);
        drop(state);
        self.seats.rest_changed.notify_one();
        self.seats.demand_changed.notify_one();
    }

    /// Gives the pod back, to be deleted if it was ever claimed and is not handed over.
    pub fn end(&self) {
        self.let_go(Fate::Finished);
    }

    /// Gives the pod back to whoever wants it as it is.
    pub fn give_back(&self) {
        self.let_go(Fate::Reusable);
    }

    fn let_go(&self, claimed: Fate) {
        let held = std::mem::replace(&mut *self.holding(), Holding::Ended);
        let fate = match held {
            Holding::Ended => return,
            Holding::Nothing => {
                self.released.cancel();
                Fate::Reusable
            }
            Holding::Claim(runner, claim, after) => {
                self.release(runner, claim, after, self.released.clone());
                claimed
            }
        };
        let mut state = self.seats.state();
        state.told.remove(&self.id);
        let effects = state.claims.ended(self.id, fate);
        state.tell(effects);
        drop(state);
        self.seats.demand_changed.notify_one();
    }

    /// Returns once the runner knows that it [ended](Self::end), or cannot be told.
    pub async fn released(&self) {
        self.released.cancelled().await;
    }

    fn release(
        &self,
        runner: Arc<Runner>,
        claim: String,
        after: CancellationToken,
        done: CancellationToken,
    ) {
        let releasing = async move {
            after.cancelled().await;
            if let Err(error) = runner.release(&claim).await {
                // It drops the claim by itself, when nobody holds it any more.
                debug!(error = chain(&error), claim, "a pod was not given back");
            }
            done.cancel();
        };
        self.seats.releases.spawn_on(releasing, &self.seats.runtime);
    }

    fn holding(&self) -> MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.spends {
            self.end();
        } else {
            self.give_back();
        }
    }
}

/// Returns once the pod is lost, or the seat has ended.
pub async fn lost(told: &mut watch::Receiver<Told>) -> Loss {
    match told.wait_for(|told| matches!(told, Told::Lost(_))).await {
        Ok(told) => match &*told {
            Told::Lost(loss) => loss.clone(),
            Told::Waiting | Told::Offered { .. } | Told::Hopeless { .. } => Loss::PodLeaves,
        },
        Err(_) => Loss::PodLeaves,
    }
}
