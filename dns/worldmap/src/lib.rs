//! Where on Earth an address is, and where a region is by its name.
//!
//! A country-level database is built in, so that steering works before anybody set anything up; an
//! operator's own database in MaxMind's format replaces it, and its places are used where it has
//! them. It decides nothing: `dns-steering` does.
//!
//! `data/README.md` has the origin and the licence of what is built in.

pub mod country;
pub mod explain;
pub mod map;
pub mod region;

pub use map::{Located, OpenError, WorldMap};
pub use region::{RegionPlace, region_labels, region_location, region_place};
