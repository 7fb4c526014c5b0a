//! A Kubernetes API server in memory, for tests that must see what an operator asks of one.
//!
//! It serves the resources that a region touches, and CRDs once they are installed, over HTTP or in
//! process, and answers as kube-apiserver 1.36 does where an operator can tell: resource versions
//! and conflicts, paged and streaming lists, watches that expire, server-side apply with its field
//! owners, subresources, graceful deletion, finalizers, garbage collection by owner, and refusals
//! word for word. It counts every call by user, verb and resource, and fails on request.
//!
//! The cases of `tests/server/both.rs` run against a real API server too, where there is one.
//!
//! It does not evaluate CEL, convert between versions of a CRD, authorise (denials are faults) or
//! offer discovery; a client's bearer token is its user name. [`Cluster`] stands in for the
//! scheduler and the kubelets.

mod answer;
mod apply;
mod built_in;
pub mod cluster;
mod count;
mod fault;
mod patch;
mod pod;
mod query;
mod refusal;
mod request;
mod resource;
mod schema;
mod selector;
mod server;
mod store;
mod watching;

pub use answer::Dropped;
pub use cluster::Cluster;
pub use count::{Counts, Tally, WriteSeen};
pub use fault::{Effect, FaultId, Faults};
pub use request::{Call, Calls, Verb};
pub use server::KubeApi;
pub use watching::WatchEnd;
