//! The command with real daemons.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod federation;
mod up;
