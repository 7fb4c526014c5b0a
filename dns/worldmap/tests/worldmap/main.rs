//! The built-in database, and those of operators.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod built_in;
mod mmdb;
mod own_database;
