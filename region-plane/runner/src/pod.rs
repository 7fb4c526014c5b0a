//! Who has the pod, what it runs, and whether a call may reach it.
//!
//! A state machine without IO or clock: whoever owns it passes in the monotonic time since the
//! runner started. It is the one arbiter of claims, so that gateways need not agree with each other.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use api_types::Digest;

use crate::protocol::{
    CallFailure, Claimed, Conflict, ConflictReason, Holder, Kind, Phase, State, Tenant,
};

/// A pod, as its runner sees it.
#[derive(Debug)]
pub struct Pod {
    kind: Kind,
    /// What claims that are for this pod name, if it is known.
    uid: Option<String>,
    /// How long a claim is held with no open request that names it.
    lease: Duration,
    phase: Phase,
    reason: Option<EndReason>,
    claim: Option<HeldClaim>,
    /// The gateway that claimed the pod last, and its boot: an earlier boot of it is dead.
    newest: Option<(String, u64)>,
    /// A bundle is being put, under a claim that may have been dropped since.
    bundle_comes: bool,
    /// What runs or ran here, or is about to. Never changes once there is one, since the container
    /// cannot be started again.
    tenant: Option<Tenant>,
    /// The bundle that runs here, or is about to.
    bundle: Option<Digest>,
    call: Option<RunningCall>,
    calls: u64,
    idle_since: Duration,
}

/// A claim that is held.
#[derive(Debug)]
struct HeldClaim {
    holder: Holder,
    to_launch: Option<ToLaunch>,
    /// Open requests that name it.
    attended: usize,
    /// When the last of them ended, or the claim was made.
    unattended_since: Duration,
}

/// What a claim wants started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToLaunch {
    pub digest: Digest,
    /// Of Fn contract 9.1.
    pub environment: BTreeMap<String, String>,
    /// From its launch until it listens.
    pub start_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunningCall {
    /// Its body is being read; the function knows nothing of it.
    Coming,
    /// It is inside the function.
    Inside,
}

impl HeldClaim {
    fn digest(&self) -> Option<Digest> {
        self.to_launch.as_ref().map(|launch| launch.digest)
    }
}

/// Why an instance is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// It did not listen in time.
    StartTimedOut,
    /// What whoever noticed it says, in words for whoever owns the function.
    Reported(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartTimedOut => f.write_str("it did not listen in time"),
            Self::Reported(reason) => f.write_str(reason),
        }
    }
}

/// A claim that was not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefused {
    #[error("the claim is for pod {claimed}, this is pod {this}")]
    OtherPod { claimed: String, this: String },
    #[error("the pod is claimed by {}", .by.gateway)]
    Held { by: Holder },
    #[error("{gateway} was restarted after this claim")]
    Superseded { gateway: String },
    #[error("the claim was made for another function or bundle")]
    Changed,
    #[error("the pod runs {} with settings {}", .tenant.function, .tenant.settings)]
    Taken { tenant: Tenant },
    #[error("the instance has ended: {reason}")]
    Over { reason: EndReason },
    #[error("a call or upload of an earlier claim is still running")]
    Busy,
    #[error("a claim of a pool's pod has to name a bundle")]
    NothingToLaunch,
    #[error("a claim of an image's pod must not name a bundle")]
    LaunchesNothing,
}

impl ClaimRefused {
    /// What its gateway is told; `None` if the claim makes no sense on this pod.
    pub fn conflict(&self) -> Option<Conflict> {
        let claim = match self {
            Self::Held { by } => Some(by.clone()),
            Self::OtherPod { .. }
            | Self::Superseded { .. }
            | Self::Changed
            | Self::Taken { .. }
            | Self::Over { .. }
            | Self::Busy => None,
            Self::NothingToLaunch | Self::LaunchesNothing => return None,
        };
        let reason = match self {
            Self::OtherPod { .. } => Some(ConflictReason::OtherPod),
            Self::Superseded { .. } => Some(ConflictReason::Superseded),
            Self::Held { .. }
            | Self::Changed
            | Self::Taken { .. }
            | Self::Over { .. }
            | Self::Busy
            | Self::NothingToLaunch
            | Self::LaunchesNothing => None,
        };
        Some(Conflict {
            message: self.to_string(),
            claim,
            reason,
        })
    }
}

/// The claim is not, or no longer, the pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pod has no such claim")]
pub struct NotClaimed;

/// What becomes of a bundle that a gateway wants to put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundle {
    /// It has to come; nobody else may put one meanwhile.
    Wanted,
    /// It is here already.
    Here,
}

/// A bundle that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleRefused {
    #[error(transparent)]
    NotClaimed(#[from] NotClaimed),
    #[error("another request is uploading the bundle")]
    Coming,
    #[error("the claim is not for this bundle")]
    Other,
}

/// How a call that was begun ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// The instance can take another.
    Whole,
    /// The call may still be going on inside.
    Broken { reason: String },
    /// Nobody listened.
    Gone { reason: String },
}

impl Pod {
    pub fn new(kind: Kind, uid: Option<String>, lease: Duration) -> Self {
        Self {
            kind,
            uid,
            lease,
            phase: match kind {
                Kind::Image => Phase::Starting,
                Kind::Pool => Phase::Empty,
            },
            reason: None,
            claim: None,
            newest: None,
            bundle_comes: false,
            tenant: None,
            bundle: None,
            call: None,
            calls: 0,
            idle_since: Duration::ZERO,
        }
    }

    pub fn state(&self, now: Duration) -> State {
        let idle = match self.call {
            Some(RunningCall::Inside) => Duration::ZERO,
            Some(RunningCall::Coming) | None => now.saturating_sub(self.idle_since),
        };
        State {
            kind: self.kind,
            phase: self.phase,
            reason: self.reason.as_ref().map(EndReason::to_string),
            claim: self.claim.as_ref().map(|held| held.holder.clone()),
            tenant: self.tenant.clone(),
            running: self.call == Some(RunningCall::Inside),
            calls: self.calls,
            idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub fn holder(&self) -> Option<&Holder> {
        self.claim.as_ref().map(|held| &held.holder)
    }

    pub fn phase(&self) -> (Phase, Option<&EndReason>) {
        (self.phase, self.reason.as_ref())
    }

    /// Whether something goes on that was begun under a claim, be that dropped since.
    pub fn is_occupied(&self) -> bool {
        self.call.is_some() || self.bundle_comes
    }

    /// Makes a claim, or finds it made. The claim of an earlier boot of the same gateway is dropped,
    /// also if this one cannot have the pod: whoever made it is dead.
    ///
    /// `for_pod` is the uid the claimant means. Only where both are known can they differ: gateways and
    /// pods of two versions meet during an upgrade.
    ///
    /// # Errors
    /// If it cannot have the pod; then nothing else has changed.
    pub fn claim(
        &mut self,
        for_pod: Option<&str>,
        holder: &Holder,
        to_launch: Option<ToLaunch>,
        now: Duration,
    ) -> Result<Claimed, ClaimRefused> {
        // First of all: whatever else would be said is said of another pod.
        if let (Some(claimed), Some(this)) = (for_pod, &self.uid)
            && claimed != this
        {
            return Err(ClaimRefused::OtherPod {
                claimed: claimed.to_owned(),
                this: this.clone(),
            });
        }
        match (self.kind, &to_launch) {
            (Kind::Image, Some(_)) => return Err(ClaimRefused::LaunchesNothing),
            (Kind::Pool, None) => return Err(ClaimRefused::NothingToLaunch),
            (Kind::Image, None) | (Kind::Pool, Some(_)) => {}
        }
        let digest = to_launch.as_ref().map(|launch| launch.digest);
        self.expire(now);
        self.supersede(holder)?;
        if let Some(held) = &mut self.claim {
            if held.holder.claim != holder.claim {
                return Err(ClaimRefused::Held {
                    by: held.holder.clone(),
                });
            }
            if held.holder != *holder || held.digest() != digest {
                return Err(ClaimRefused::Changed);
            }
            held.unattended_since = now;
            return Ok(self.claimed());
        }
        if let Some(reason) = &self.reason {
            return Err(ClaimRefused::Over {
                reason: reason.clone(),
            });
        }
        if let Some(tenant) = &self.tenant
            && (*tenant != holder.tenant || self.bundle != digest)
        {
            return Err(ClaimRefused::Taken {
                tenant: tenant.clone(),
            });
        }
        // Two bundles would be unpacked into one place, and a call of the claim's would find another
        // inside.
        if self.is_occupied() {
            return Err(ClaimRefused::Busy);
        }
        if self.kind == Kind::Image {
            self.tenant = Some(holder.tenant.clone());
        }
        self.newest = Some((holder.gateway.clone(), holder.boot));
        self.claim = Some(HeldClaim {
            holder: holder.clone(),
            to_launch,
            attended: 0,
            unattended_since: now,
        });
        Ok(self.claimed())
    }

    /// Of two boots of one gateway the later is right.
    fn supersede(&mut self, holder: &Holder) -> Result<(), ClaimRefused> {
        let Some((gateway, boot)) = &mut self.newest else {
            return Ok(());
        };
        if *gateway != holder.gateway {
            return Ok(());
        }
        match holder.boot.cmp(boot) {
            Ordering::Less => Err(ClaimRefused::Superseded {
                gateway: gateway.clone(),
            }),
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                *boot = holder.boot;
                self.claim = None;
                Ok(())
            }
        }
    }

    fn claimed(&self) -> Claimed {
        Claimed {
            needs_bundle: self.phase == Phase::Empty,
            phase: self.phase,
        }
    }

    /// A request that names the claim begins. Each is to be followed by [`Self::leave`].
    ///
    /// # Errors
    /// If the claim is not the pod's.
    pub fn attend(&mut self, claim: &str) -> Result<(), NotClaimed> {
        self.held(claim)?.attended += 1;
        Ok(())
    }

    /// A request that named the claim ended. Nothing if the claim has been dropped since.
    pub fn leave(&mut self, claim: &str, now: Duration) {
        if let Ok(held) = self.held(claim) {
            held.attended = held.attended.saturating_sub(1);
            if held.attended == 0 {
                held.unattended_since = now;
            }
        }
    }

    /// When [`Self::expire`] will drop the claim unless something happens first.
    pub fn expires(&self) -> Option<Duration> {
        let held = self.claim.as_ref()?;
        (held.attended == 0 && self.call.is_none()).then(|| held.unattended_since + self.lease)
    }

    /// Drops the claim if its gateway has not been heard of for too long; returns it.
    pub fn expire(&mut self, now: Duration) -> Option<Holder> {
        if self.expires()? > now {
            return None;
        }
        self.claim.take().map(|held| held.holder)
    }

    /// Gives the pod back. Nothing if the claim is not its.
    pub fn release(&mut self, claim: &str) {
        if self.held(claim).is_ok() {
            self.claim = None;
        }
    }

    /// A gateway wants to put a bundle. [`Bundle::Wanted`] is to be followed by [`Self::launch`] or
    /// [`Self::bundle_failed`].
    ///
    /// # Errors
    /// If it must not.
    pub fn put_bundle(&mut self, claim: &str, digest: &Digest) -> Result<Bundle, BundleRefused> {
        let empty = self.phase == Phase::Empty;
        let held = self.held(claim)?;
        if held.digest() != Some(*digest) {
            return Err(BundleRefused::Other);
        }
        if !empty {
            return Ok(Bundle::Here);
        }
        if std::mem::replace(&mut self.bundle_comes, true) {
            return Err(BundleRefused::Coming);
        }
        Ok(Bundle::Wanted)
    }

    /// The bundle did not come, and may be put again.
    pub fn bundle_failed(&mut self) {
        self.bundle_comes = false;
    }

    /// The bundle is here: from now on the pod is its function's for good. Returns what to start it
    /// with.
    ///
    /// # Errors
    /// If the claim it was put under has been dropped since, or the container that would have become
    /// the function is gone; then nothing may be started.
    pub fn launch(&mut self, claim: &str) -> Result<ToLaunch, NotClaimed> {
        self.bundle_comes = false;
        let is_over = self.phase.is_over();
        let held = self.held(claim)?;
        if is_over {
            return Err(NotClaimed);
        }
        let tenant = held.holder.tenant.clone();
        let launch = held.to_launch.as_mut().ok_or(NotClaimed)?;
        let launch = ToLaunch {
            // Needed once only, and the largest thing here.
            environment: std::mem::take(&mut launch.environment),
            ..*launch
        };
        self.bundle = Some(launch.digest);
        self.tenant = Some(tenant);
        self.phase = Phase::Starting;
        Ok(launch)
    }

    /// The instance listens.
    pub fn ready(&mut self, now: Duration) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Ready;
            self.idle_since = now;
        }
    }

    /// The instance must not get another call.
    pub fn fail(&mut self, reason: EndReason) {
        if !self.phase.is_over() {
            self.phase = Phase::Failed;
            self.reason = Some(reason);
        }
    }

    /// The instance exited. The reason stays if there was one before: it is the cause.
    pub fn gone(&mut self, reason: String) {
        self.phase = Phase::Gone;
        self.reason.get_or_insert(EndReason::Reported(reason));
    }

    /// A call comes, and is the only one until [`Self::end_call`] or [`Self::call_given_up`].
    ///
    /// # Errors
    /// Those of which nothing reaches the function.
    pub fn begin_call(&mut self, claim: &str) -> Result<(), CallFailure> {
        self.held(claim).map_err(|_| CallFailure::NotClaimed)?;
        match self.phase {
            Phase::Empty | Phase::Starting => Err(CallFailure::Busy),
            Phase::Failed | Phase::Gone => Err(CallFailure::Gone),
            Phase::Ready if self.call.is_some() => Err(CallFailure::Busy),
            Phase::Ready => {
                self.call = Some(RunningCall::Coming);
                Ok(())
            }
        }
    }

    /// All of it is here, and it may be given to the function now.
    ///
    /// # Errors
    /// If the claim was lost or the instance ended meanwhile; the call is over then.
    pub fn enter_call(&mut self, claim: &str) -> Result<(), CallFailure> {
        debug_assert_eq!(self.call, Some(RunningCall::Coming));
        self.call = None;
        self.begin_call(claim)?;
        self.call = Some(RunningCall::Inside);
        self.calls += 1;
        Ok(())
    }

    /// It did not come, so the function knows nothing of it.
    pub fn call_given_up(&mut self) {
        debug_assert_eq!(self.call, Some(RunningCall::Coming));
        self.call = None;
    }

    /// The function is done with it, or will never be.
    pub fn end_call(&mut self, end: CallEnd, now: Duration) {
        debug_assert_eq!(self.call, Some(RunningCall::Inside));
        self.call = None;
        self.idle_since = now;
        match end {
            CallEnd::Whole => {}
            CallEnd::Broken { reason } => self.fail(EndReason::Reported(reason)),
            CallEnd::Gone { reason } => self.gone(reason),
        }
    }

    fn held(&mut self, claim: &str) -> Result<&mut HeldClaim, NotClaimed> {
        self.claim
            .as_mut()
            .filter(|held| held.holder.claim == claim)
            .ok_or(NotClaimed)
    }
}

#[cfg(test)]
mod tests;
