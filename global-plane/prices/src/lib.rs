//! Decides the price of each region: the milliseconds that are added to its RTT so that no region gets
//! more demand than its target.
//!
//! Prices are the dual variables of a transportation problem: serve all demand at least total latency
//! within each region's target. [`solve()`] computes them outright for one [`Market`]; [`compress()`]
//! makes a market small enough for that. The [`Controller`] turns what is solved each few seconds into
//! what is published: it holds prices still against noise, limits their steps and corrects the model
//! slowly by what regions report. [`plan`] answers what would happen without a region.
//!
//! The split of demand at given prices is `dns_steering::split`, which is also what answers carry out,
//! so the loads that are computed here are those that come about.
//!
//! It knows no names of functions, no verdict's evidence, no clock and no socket, and it does not log.
//! Only a leader solves, so floats may appear inside the solver; all results are integers.

mod cholesky;
mod compress;
pub mod controller;
mod market;
pub mod plan;
mod problem;
mod solve;

pub use compress::{Compression, compress};
pub use controller::{
    Carried, Controller, Decision, Frozen, PricePolicy, RegionDecision, Rule, Seen, SeenRegion,
    Why, decayed,
};
pub use market::{Candidate, Certificate, Market, MarketError, Room};
pub use solve::{Solution, solve};

/// No price is higher, as in answers.
pub const PRICE_CAP_TENTHS: u32 = dns_steering::rows::PRICE_MAX_TENTHS;

/// A market has at most this many demand rows when it is solved: one evaluation of them takes about
/// 10 ms, and [`compress()`] makes them from any number.
pub const ROWS_MAX: usize = 100_000;

/// Blocks that [`compress()`] takes: what a leader has memory for.
pub const BLOCKS_MAX: usize = 2_000_000;

/// Candidates of one row, nearest first. A row's demand practically never goes farther than this.
pub const CANDIDATES_MAX: usize = 16;

/// Regions of a market, as many as steering has.
pub const REGIONS_MAX: usize = dns_steering::mask::REGIONS_MAX;

/// Demand of one row, in thousandths of a call in progress: a thousand million calls. More is a fault of
/// whoever reports it, and sums of it would not fit.
pub const DEMAND_MAX: u64 = 1_000_000_000_000;
