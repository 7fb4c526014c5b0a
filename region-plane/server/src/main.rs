//! `tradewind-region`: one region, see the library.

use std::process::ExitCode;

use region_plane_server::region;

fn main() -> ExitCode {
    // Before anything else: what runs here also runs in every instance.
    region_plane_runtime::exec_instance_if_asked();
    daemon::main("tradewind-region", |config, shutdown| {
        Box::pin(region::run(config, shutdown))
    })
}
