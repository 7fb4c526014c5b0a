//! Raft over RocksDB: one group of nodes that agree on a log of opaque commands.
//!
//! [`node::Node`] is a stepped machine, events in and effects out, with no clock, disk, socket or
//! thread inside. [`driver`] runs it on one thread with the real ones. It knows nothing of what the
//! commands mean: a [`StateMachine`] applies them.

pub mod driver;
pub mod node;
pub mod store;
pub mod transport;

use std::fmt;

pub use driver::{Driver, Handle, ProposeError, ReadError, Role, StateMachine, Status};
pub use store::{ApplyError, StateBatch, Store, StoreError};

/// A position in the Raft log. Not a revision: elections take positions too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogIndex(pub u64);

/// A member of the group. Never reused: a wiped node comes back under a new id. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
