//! The operator against a server that counts what it writes and fails when told to.
//!
//! The whole region has 5,000 functions with four pods each, as promised, unless
//! `TRADEWIND_SCALE_FUNCTIONS` says otherwise; scenarios about faults use a small one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod leaders;
mod pods;
mod region;
mod scale;
mod watches;
