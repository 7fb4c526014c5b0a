//! Receives HTTP requests: one acceptor and one set of rules for every listener.
//!
//! Gateways and global nodes both take callers' requests. What they accept, what they refuse and in
//! which words stands here once, so that a request is answered alike at both. The acceptor,
//! [`serve()`], checks each head by [`head::admit`] and hands on the request's parts with a
//! [`Body`]; [`Caller`] is among the request's extensions. This crate refuses to know what a
//! function is.

pub mod answer;
mod body;
pub mod descriptors;
pub mod head;
pub mod limits;
pub mod network;
mod proxy;
mod refusal;
pub mod route;
mod serve;

use std::net::SocketAddr;

pub use body::{Body, BodyError};
pub use network::Network;
pub use refusal::Refusal;
pub use serve::{BindError, Limits, bind, serve};

/// Who sent a request: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The caller's own address: the socket's peer, or what a proxy of a listed network says of it.
    pub address: SocketAddr,
}
