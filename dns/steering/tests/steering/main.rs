//! The decisions of `dns-steering`, by cases and by properties.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decisions;
mod properties;
mod ranking;
mod world;
