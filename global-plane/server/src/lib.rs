//! A node of the global plane.
//!
//! Holds the desired state by Raft, judges the regions, and serves Fn's v2 API, `/v1` and the views
//! of the other planes. Any node takes any request.
//!
//! A library, so that a simulation can link its parts; the program `tradewind-global` only starts
//! [`run::run`].

pub mod admission;
pub mod agreement;
pub mod api;
pub mod bundles;
pub mod config;
pub mod confirm;
pub mod leader;
pub mod machine;
pub mod node;
pub mod peers;
pub mod reader;
pub mod run;
pub mod steering;
pub mod tenure;
pub mod terms;
pub mod views;
pub mod writer;
