//! Decides which region a client is sent to, and says why.
//!
//! [`steer()`] is a plain function of (client, target, view, policy): every DNS server and every
//! global node gives the same answer for the same inputs, so a bad answer can be replayed from what
//! its log line says. [`rank`](mod@rank) is the decision itself, without allocation; [`name`] tells what a query name
//! means, [`distance`] how far a region is from a client that nobody measured.
//!
//! What it decides from comes in three: a [`World`] says where addresses are; a [`Structure`] has the
//! regions, what may be placed where and the [`ClientMap`], and changes rarely; [`Rows`] have verdicts
//! and prices, and change every second. [`Prepared`] is what rows make of a structure.
//!
//! It knows no packet, no socket, no clock and no file; it does not know how a client was located
//! (`dns-worldmap` does) nor what address a region has in the answer. It does not log.

pub mod answer;
pub mod client;
pub mod distance;
pub mod map;
pub mod mask;
pub mod name;
pub mod partition;
pub mod rank;
pub mod rows;
pub mod split;
pub mod structure;
pub mod ttl;
pub mod view;

mod steer;

pub use answer::{Answer, Because, Candidate, Reason};
pub use client::{Client, Place};
pub use map::{ClassId, ClientMap, LocationClass, World};
pub use name::Target;
pub use rank::{Key, NameHash, Ranked, rank};
pub use rows::{Prepared, RegionRow, Rows};
pub use steer::{Decision, Policy, decide, steer};
pub use structure::{SetId, Structure};
pub use view::{PlacedApp, PlacedFn, View, ViewError, ViewParts};
