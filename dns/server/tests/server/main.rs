//! `tradewind-dns` as a process: real packets, a real HTTP server in the place of a global node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dig;
mod harness;
mod process;
mod protocol;
mod steering;
mod views;
