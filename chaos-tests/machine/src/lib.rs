//! What tests share with everything else on the machine that runs them.
//!
//! A test takes its addresses from a [`Network`] of its own, so that it can run beside other tests, and
//! beside another copy of itself. A test that cannot run on this machine says so with [`skip()`], so that
//! nobody takes it for one that passed.

mod network;
mod process;
mod skip;

pub use network::Network;
pub use process::{has_ended, wait_until_stopped};
pub use skip::skip;
