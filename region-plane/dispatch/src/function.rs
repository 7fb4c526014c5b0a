//! One function's queue and the instances it has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::{Call, Counts, InstanceId, Spec};

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) call: Call,
    /// Rank among all arrivals; the time cannot tell apart calls that arrive together.
    pub(crate) arrival: u64,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) spec: Spec,
    /// First come, first served.
    pub(crate) waiting: VecDeque<Waiting>,
    /// By the rank they became idle with: most recently used last.
    pub(crate) idle: BTreeMap<u64, InstanceId>,
    /// Oldest first.
    pub(crate) starting: BTreeSet<InstanceId>,
    pub(crate) running: usize,
    /// The function has later settings or is gone: nothing is started with these any more, and
    /// instances go as soon as no call waits for them. Starts go on for calls that settled for them.
    pub(crate) outdated: bool,
    /// Since when more instances start than calls wait.
    pub(crate) surplus_since: Option<Duration>,
    /// Nothing is started before while others are up, since there was no place for the last.
    pub(crate) held_off_until: Option<Duration>,
    /// When one of the two is due, as its timer has it.
    pub(crate) timer: Option<Duration>,
}

impl Function {
    pub(crate) fn new(spec: Spec) -> Self {
        Self {
            spec,
            waiting: VecDeque::new(),
            idle: BTreeMap::new(),
            starting: BTreeSet::new(),
            running: 0,
            outdated: false,
            surplus_since: None,
            held_off_until: None,
            timer: None,
        }
    }

    /// Instances that can take a call, now or later.
    pub(crate) fn instances(&self) -> usize {
        self.up() + self.starting.len()
    }

    /// Instances that have come up.
    pub(crate) fn up(&self) -> usize {
        self.idle.len() + self.running
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.instances() == 0 && self.waiting.is_empty()
    }

    /// Waiting calls to start an instance for, oldest first: queues are served in order, so the
    /// oldest ones are those that a starting instance will take.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = &Waiting> {
        // With the last instance goes what the calls were to wait for instead.
        let is_held_off = self.held_off_until.is_some() && self.up() > 0;
        let room = if self.outdated || is_held_off {
            0
        } else {
            let max = usize::try_from(self.spec.instances_max).unwrap_or(usize::MAX);
            max.saturating_sub(self.instances())
        };
        self.waiting.iter().skip(self.starting.len()).take(room)
    }

    /// How many start for nobody. One may, for whoever comes next; nobody comes for what is outdated.
    pub(crate) fn surplus(&self) -> usize {
        let spare = usize::from(!self.outdated);
        self.starting
            .len()
            .saturating_sub(self.waiting.len().max(spare))
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.waiting.len(),
            starting: self.starting.len(),
            idle: self.idle.len(),
            running: self.running,
        }
    }
}
