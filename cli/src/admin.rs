//! The commands that ask and tell the global plane.

pub mod apps;
pub mod fns;
pub mod invoke;
pub mod planes;
mod settings;
pub mod triggers;
