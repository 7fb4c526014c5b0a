//! One region: its gateway, its instances and its copy of the metadata.
//!
//! A call is answered from what is here: the replica holds the metadata, [`bundles`] the code,
//! [`engine`] the instances. The global plane is followed and told ([`reporter`]), and never waited
//! for. What there is no room for goes to a peer ([`spill`]).
//!
//! A library, so that a simulation can link its parts; the program `tradewind-region` only starts
//! [`region::run`].

pub mod admin;
pub mod bundles;
pub mod config;
pub mod definitions;
pub mod engine;
pub mod gateway;
pub mod region;
pub mod reporter;
pub mod spill;
pub mod starting;
