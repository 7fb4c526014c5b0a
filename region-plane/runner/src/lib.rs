//! The small program beside every function's container.
//!
//! It arbitrates who has the pod, brings a bundle into it, tells when the function listens, gives it
//! one call at a time over Fn's contract (Fn contract 9), and passes on what it prints. It answers
//! gateways and opens no connection itself. It refuses to know the cluster: which pods there are,
//! whose turn it is and when a pod goes is decided elsewhere.
//!
//! It shares no process with the function, so it cannot kill it. An instance that a call broke, or
//! that is over its deadline, is marked [failed](protocol::Phase::Failed) and takes no more calls
//! until whoever made the pod deletes it.
//!
//! It believes whoever reaches its port: network policies have to keep all but the region's gateways
//! from it. The function can reach it too, from its own pod, and so disturb nobody but itself.

pub mod launch;
pub mod protocol;
pub mod server;
pub mod settings;

mod api;
mod bundle;
mod instance;
mod log;
mod pod;
