//! `tradewind-region`: one region's gateway, its instances and its copy of the metadata.
//!
//! A call is answered from what is here: the replica holds the metadata, [`bundles`] the code,
//! [`engine`] the instances. The global plane is followed and told ([`reporter`]), and never waited
//! for. What there is no room for goes to a peer ([`spill`]).

mod admin;
mod bundles;
mod config;
mod definitions;
mod engine;
mod gateway;
mod region;
mod reporter;
mod spill;
mod starting;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: what runs here also runs in every instance.
    region_plane_runtime::exec_instance_if_asked();
    daemon::main("tradewind-region", |config, shutdown| {
        Box::pin(region::run(config, shutdown))
    })
}
