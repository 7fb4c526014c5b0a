//! `tradewind-global`: a node of the global plane.
//!
//! Holds the desired state by Raft, judges the regions, and serves Fn's v2 API, `/v1` and the views
//! of the other planes. Any node takes any request.

mod admission;
mod agreement;
mod api;
mod bundles;
mod config;
mod confirm;
mod leader;
mod machine;
mod node;
mod peers;
mod run;
mod steering;
mod views;

use std::process::ExitCode;

fn main() -> ExitCode {
    daemon::main::<config::Config, _>("tradewind-global", run::run)
}
