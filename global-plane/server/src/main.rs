//! `tradewind-global`: a node of the global plane, see the library.

use std::process::ExitCode;

use global_plane_server::config::Config;
use global_plane_server::run;

fn main() -> ExitCode {
    daemon::main::<Config, _>("tradewind-global", run::run)
}
