//! Decides which region a client is sent to, and says why.
//!
//! [`steer()`] is a plain function of (client, target, view, policy): every DNS server and every
//! global node gives the same answer for the same inputs, so a bad answer can be replayed from what
//! its log line says. [`name`] tells what a query name means, [`distance`] how far a region is from
//! a client that nobody measured.
//!
//! It knows no packet, no socket, no clock and no file; it does not know how a client was located
//! (`dns-worldmap` does) nor what address a region has in the answer. It does not log.

pub mod answer;
pub mod client;
pub mod distance;
pub mod name;
pub mod split;
pub mod view;

mod steer;

pub use answer::{Answer, Because, Candidate, Reason};
pub use client::{Client, Place};
pub use name::Target;
pub use steer::{Policy, steer};
pub use view::{PlacedApp, PlacedFn, View, ViewError, ViewParts};
