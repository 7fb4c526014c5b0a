//! An operator against an API server in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod functions;
mod leading;
mod plane;
mod pods;
mod readiness;
mod refusals;
mod region;
