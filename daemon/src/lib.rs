//! What every daemon does the same way: configuration, logging, signals, HTTP and operations.
//!
//! It knows no plane. A daemon is a [`Config`] and an async function that runs until [`Shutdown`]:
//!
//! ```no_run
//! # use std::{net::SocketAddr, process::ExitCode};
//! # #[derive(serde::Deserialize)] #[serde(deny_unknown_fields)] struct Settings { listen: SocketAddr }
//! impl daemon::Config for Settings {
//!     const ABOUT: &'static str = "Says nothing, reliably.";
//!     const KEYS: &'static str = "listen = \"127.0.0.1:1\"   # where to listen";
//!     fn listens(&self) -> Vec<SocketAddr> { vec![self.listen] }
//! }
//! async fn run(settings: Settings, shutdown: daemon::Shutdown) -> anyhow::Result<()> {
//!     let listener = daemon::bind(settings.listen)?;
//!     let router = daemon::operations(|| Ok(()));
//!     daemon::serve(listener, router, shutdown.child_token(), daemon::HttpLimits::default()).await?;
//!     Ok(())
//! }
//! fn main() -> ExitCode { daemon::main("tradewind-silent", run) }
//! ```

pub mod clock;
pub mod config;
pub mod errors;
pub mod http;
pub mod inherited;
pub mod operations;
pub mod process;

pub use calls_door::descriptors;
pub use config::Config;
pub use errors::json_errors;
pub use http::{BindError, HttpLimits, Routed, bind, serve};
pub use operations::operations;
pub use process::{Shutdown, Unfit, main};

/// The version of every daemon: they are released together.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
