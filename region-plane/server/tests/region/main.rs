//! A region as a process: its global plane speaks the wire forms, its functions are real programs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod changes;
mod forwarding;
mod machine;
mod plane;
mod process;
mod replication;
mod spilling;
mod starting;
