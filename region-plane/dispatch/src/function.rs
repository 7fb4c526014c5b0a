//! One function's queue and the instances it has.

use std::collections::VecDeque;
use std::time::Duration;

use crate::{Call, Counts, InstanceId, Spec};

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) call: Call,
    /// Rank among all arrivals; the time cannot tell apart calls that arrive together.
    pub(crate) arrival: u64,
    pub(crate) wait_until: Duration,
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) spec: Spec,
    /// First come, first served.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Most recently used last.
    pub(crate) idle: Vec<InstanceId>,
    pub(crate) starting: usize,
    pub(crate) running: usize,
    /// Its settings are no longer the function's: instances go as soon as no call waits for them.
    pub(crate) outdated: bool,
}

impl Function {
    pub(crate) fn new(spec: Spec) -> Self {
        Self {
            spec,
            waiting: VecDeque::new(),
            idle: Vec::new(),
            starting: 0,
            running: 0,
            outdated: false,
        }
    }

    /// Instances that can take a call, now or later.
    pub(crate) fn instances(&self) -> usize {
        self.idle.len() + self.starting + self.running
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.instances() == 0 && self.waiting.is_empty()
    }

    /// Waiting calls for which no instance is being started, oldest first: queues are served in
    /// order, so the oldest ones are those that a starting instance will take.
    pub(crate) fn unserved(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().skip(self.starting)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            waiting: self.waiting.len(),
            starting: self.starting,
            idle: self.idle.len(),
            running: self.running,
        }
    }
}
