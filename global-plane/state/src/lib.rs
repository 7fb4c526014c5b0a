//! What the global plane replicates, and the only ways it changes.
//!
//! [`State::apply`] takes a command at its place in the log and gives an outcome and the changes a
//! shell must persist. The same commands give the same state on every node: time comes in the
//! envelope, ids in the command, and every map is ordered. A refusal is an outcome like any other.

mod annotations;
mod apps;
mod command;
mod fns;
mod regions;
mod sessions;
mod state;
mod triggers;
pub mod verdicts;

pub use command::{
    AppDraft, Applied, Change, Command, Deleted, Envelope, FnDraft, Outcome, Preconditions,
    Registration, Reply, RequestId, TriggerDraft,
};
pub use sessions::{SESSION_LIFETIME_MS, SESSIONS_MAX, Session};
pub use state::{Bundle, Parts, State};
