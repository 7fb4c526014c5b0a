//! What the global plane agrees on: a state, and how each command changes it.
//!
//! Pure and deterministic. Every node applies the same log of [`Envelope`]s to the same [`State`]
//! and gets the same outcomes and the same bytes to keep. Time comes in the envelope, ids come in
//! the command, maps are ordered. It refuses to know about disks, sockets, JSON forms, clocks and
//! logs: those are the server's. Two more rules are here: [`verdicts`] is what the leader thinks of each
//! region, and [`steering_revision`] is which revision last changed what DNS servers are sent.
//!
//! Invariants: a command that changes something gets exactly one next revision, which everything it
//! changed carries; one that changes nothing leaves the revision alone. A refusal changes nothing
//! but the memory that the request was refused. What [`State::apply`] returns as changes is all
//! that has to be kept to have the same state again by [`State::restore`].

pub mod bounds;
pub mod command;
pub mod draft_checks;
pub mod outcome;
pub mod state;
pub mod steering_revision;
pub mod verdicts;

pub use command::{
    AnnotationChanges, AppDraft, Command, Envelope, FnDraft, Preconditions, RegionDraft, RequestId,
    TriggerDraft,
};
pub use outcome::{Applied, Change, Outcome, Reply};
pub use state::{Remembered, Session, State, StateParts};
pub use steering_revision::SteeringRevision;
