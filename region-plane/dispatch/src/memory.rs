//! The memory budget.

/// Megabytes held by instances, those being stopped included: a killed process holds its memory
/// until it is reaped.
#[derive(Debug)]
pub(crate) struct Memory {
    budget_mb: u64,
    held_mb: u64,
    /// The part of `held_mb` whose instances were told to stop.
    stopping_mb: u64,
    /// The part of `held_mb` whose instances are idle, and can be told to.
    idle_mb: u64,
}

impl Memory {
    pub(crate) fn new(budget_mb: u64) -> Self {
        Self {
            budget_mb,
            held_mb: 0,
            stopping_mb: 0,
            idle_mb: 0,
        }
    }

    pub(crate) fn ever_fits(&self, need_mb: u64) -> bool {
        need_mb <= self.budget_mb
    }

    pub(crate) fn free_mb(&self) -> u64 {
        self.budget_mb - self.held_mb
    }

    /// What is free once everything told to stop is gone.
    pub(crate) fn coming_mb(&self) -> u64 {
        self.free_mb() + self.stopping_mb
    }

    /// What all idle instances hold.
    pub(crate) fn idle_mb(&self) -> u64 {
        self.idle_mb
    }

    pub(crate) fn held_mb(&self) -> u64 {
        self.held_mb
    }

    pub(crate) fn take(&mut self, need_mb: u64) {
        assert!(need_mb <= self.free_mb(), "the caller found it free");
        self.held_mb += need_mb;
    }

    pub(crate) fn set_idle(&mut self, mb: u64) {
        self.idle_mb += mb;
    }

    pub(crate) fn end_idle(&mut self, mb: u64) {
        self.idle_mb -= mb;
    }

    pub(crate) fn stop(&mut self, mb: u64) {
        self.stopping_mb += mb;
    }

    pub(crate) fn release(&mut self, mb: u64, was_stopping: bool) {
        self.held_mb -= mb;
        if was_stopping {
            self.stopping_mb -= mb;
        }
    }
}
