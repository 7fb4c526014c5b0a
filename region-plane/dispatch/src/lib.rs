//! Which instance runs which call, when an instance is started or stopped, and which call is refused.
//!
//! A state machine without IO: events go into the [`Dispatcher`] with the monotonic time since the
//! region started, [`Action`]s come out, and whoever owns it carries them out in order. It decides
//! by counts and memory alone. It refuses to know what a function is (only a [`Key`]), how an
//! instance runs, and where a refused call may go next.
//!
//! A call that no idle instance can take waits in its function's queue, first come, first served. It
//! is refused as [`Rejection::Full`] at once only when waiting could not help: its function has no
//! instance at all and no memory for one can be made.
//!
//! Starting an instance may take minutes, and may never succeed. What a start holds is held for the
//! calls that wait, and given up when they are gone.

mod dispatcher;
mod function;
mod memory;

use std::time::Duration;

use api_types::FnId;

pub use dispatcher::Dispatcher;

/// One call, numbered by whoever owns the dispatcher. A number is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// One instance, numbered by the dispatcher. A number is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u64);

/// Calls with equal keys can share instances (Fn contract 9.5: the hot-slot key).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub function: FnId,
    /// Stands for everything an instance is started with: code, configuration, limits. Of one
    /// function, larger ones are later.
    pub settings: u64,
}

/// What the dispatcher must know of a function. Calls with equal keys have equal specs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub key: Key,
    /// Megabytes an instance is given. At least 1, which also bounds the number of instances.
    pub memory_mb: u64,
    /// Instances it may have at once, those that start included. At least 1.
    pub instances_max: u32,
    /// How long an instance may be idle before it is stopped.
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// What all instances may hold together, from their start until they are known to be gone.
    pub memory_budget_mb: u64,
    /// Calls that may run or wait at once, over all functions: bounds what a flood can hold.
    pub calls_max: u32,
    /// Where steering should begin to shed, see [`api_types::Load::target`].
    pub calls_target: u32,
    /// Calls of one function that may wait, so that one function cannot take every place.
    pub queue_max: u32,
    /// A call that has no more than this left of its wait keeps the start it waits for when its
    /// function changes: one that changes faster than it starts would otherwise never run.
    pub settle_within: Duration,
}

/// What its owner must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give the call to the instance, which has no other.
    Run { call: Call, instance: InstanceId },
    /// Start an instance; answer with `instance_started` or `instance_failed`.
    Start { instance: InstanceId, key: Key },
    /// Kill the instance, or end its start; answer with `instance_exited` when it is gone. A
    /// start may be answered for once it has ended, though what it had begun goes a moment later.
    Stop {
        instance: InstanceId,
        reason: StopReason,
    },
    /// Answer the call: it will not run here.
    Reject { call: Call, rejection: Rejection },
}

/// Why a call will not run. Nothing of it has reached a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// There is no room in this region, neither among its calls nor in its memory; another may have some.
    Full,
    /// Too many calls of this function wait already.
    QueueFull,
    /// Its time to wait is over.
    TimedOutWaiting,
    /// The instance started for it did not come up.
    StartFailed(StartFailure),
    /// Its function has other settings by now, with which it may be offered anew.
    Outdated,
    /// Its function needs more memory than the region has.
    MemoryNeverFits,
}

/// Why an instance did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFailure {
    /// It exited before it was ready, or made a bad socket.
    Failed,
    /// It was not ready in time.
    TimedOut,
    /// Its code is not here or cannot run here, as the text says.
    NotRunnable(String),
    /// There is no place for it now, as the text says; another region may have one.
    NoPlace(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// Idle for its function's idle timeout.
    Idle,
    /// Another function needs its memory.
    Evicted,
    /// Its function was changed or removed.
    Outdated,
    /// It starts, and nobody waits for it.
    Unneeded,
    /// Its last call left it in a state that cannot be trusted.
    Lost,
}

/// What became of an instance by the call it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCall {
    /// It can take another.
    Kept,
    /// It must be stopped, or is gone already.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceState {
    Starting,
    Idle,
    Running(Call),
    Stopping,
}

/// One instance, as shown to operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRow<'a> {
    pub instance: InstanceId,
    pub key: &'a Key,
    pub memory_mb: u64,
    pub state: InstanceState,
}

/// A function's calls and instances, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub waiting: usize,
    pub starting: usize,
    pub idle: usize,
    pub running: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.starting += other.starting;
        self.idle += other.idle;
        self.running += other.running;
    }
}
