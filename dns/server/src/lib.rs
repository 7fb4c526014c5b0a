//! A DNS server: answers DNS queries for a zone of functions.
//!
//! It follows the global plane's steering view and needs it for nothing else: with every global
//! node away it answers from the last view, and starts from the one on disk. What to answer is
//! decided in `dns-steering`; here are the protocol, the sockets and the view's keeping.
//!
//! A library, so that a simulation can link its parts; the program `tradewind-dns` only starts
//! [`server::run`].

pub mod config;
pub mod edns;
pub mod follow;
pub mod handler;
pub mod server;
pub mod sockets;
pub mod status;
pub mod steering;
pub mod view;
pub mod zone;
