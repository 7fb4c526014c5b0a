//! The operator against a server that counts what it writes and fails when told to.
//!
//! The whole region has 2,000 functions with four pods each unless `TRADEWIND_SCALE_FUNCTIONS` says
//! otherwise (5,000 for the promised size); scenarios about faults use a small one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod leaders;
mod region;
mod scale;
