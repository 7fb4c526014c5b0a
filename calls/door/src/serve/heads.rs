//! What the heads of a listener's requests may have together.
//!
//! A head is held from its first byte until its request is answered: by the HTTP library while it comes,
//! then by whoever answers. Each may have a mebibyte, so that many connections, each bounded, would have a
//! process's memory. Of each head [`HEAD_BYTES_FREE`] are free, and what it has beyond is taken from one
//! budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::limits::HEAD_BYTES_FREE;

/// The bytes that are left. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// There are not as many left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Bytes of a budget, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// For a head of so many bytes.
    pub fn take(&self, head_bytes: usize) -> Result<Taken, Full> {
        let bytes = head_bytes.saturating_sub(HEAD_BYTES_FREE);
        self.less(bytes)?;
        Ok(Taken {
            budget: self.clone(),
            bytes,
        })
    }

    fn less(&self, bytes: usize) -> Result<(), Full> {
        // Of nearly every head.
        if bytes == 0 {
            return Ok(());
        }
        let take = |left: usize| left.checked_sub(bytes);
        let took = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        took.map(drop).map_err(|_| Full)
    }

    fn more(&self, bytes: usize) {
        if bytes > 0 {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.more(self.bytes);
    }
}

/// What a connection has read of a head that is not whole yet. Its socket counts, and whoever answers the
/// head takes bytes of its own for it.
///
/// Of an HTTP/2 connection only what comes before its first request is counted here, because heads and
/// bodies of several requests come mixed. Its later heads are counted once they are whole; before that a
/// connection has one at most, of [`HTTP2_HEAD_BYTES_MAX`](crate::limits::HTTP2_HEAD_BYTES_MAX).
#[derive(Debug)]
pub(super) struct Coming {
    budget: Budget,
    /// What is read now belongs to a head.
    is_head: AtomicBool,
    /// Bytes read of it.
    read: AtomicUsize,
    /// More came than there is room for.
    is_refused: AtomicBool,
}

impl Coming {
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            is_head: AtomicBool::new(true),
            read: AtomicUsize::new(0),
            is_refused: AtomicBool::new(false),
        }
    }

    /// So many bytes were read. Refused, the connection is to end.
    pub fn count(&self, bytes: usize) -> Result<(), Full> {
        if !self.is_head.load(Ordering::Relaxed) {
            return Ok(());
        }
        let before = self.read.load(Ordering::Relaxed);
        let beyond = |read: usize| read.saturating_sub(HEAD_BYTES_FREE);
        if let Err(full) = self.budget.less(beyond(before + bytes) - beyond(before)) {
            self.is_refused.store(true, Ordering::Relaxed);
            return Err(full);
        }
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A head is whole: what comes now is none.
    pub fn whole(&self) {
        self.is_head.store(false, Ordering::Relaxed);
        let read = self.read.swap(0, Ordering::Relaxed);
        self.budget.more(read.saturating_sub(HEAD_BYTES_FREE));
    }

    /// What comes now is the next head.
    pub fn next(&self) {
        self.is_head.store(true, Ordering::Relaxed);
    }

    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.whole();
    }
}
