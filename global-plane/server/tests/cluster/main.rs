//! The global plane as three real processes on loopback addresses of their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod bundles;
mod contract;
mod errors;
mod fn_api;
mod formats;
mod nodes;
mod starting;
mod steering;
mod watch;
mod writes;
