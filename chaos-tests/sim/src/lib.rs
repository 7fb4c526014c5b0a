//! Steering, simulated: a world of clients and resolvers that calls regions, on the code that production
//! decides with.
//!
//! What decides (verdicts, prices, answers) is called in [`steered`] and [`leader`] and never imitated. What this crate makes
//! itself is the world around it: where clients are, what their resolvers do, how long calls take, what
//! fails. Equal seeds give equal runs. It opens no socket and reads no clock.

#![expect(
    clippy::cast_possible_truncation,
    reason = "counts of a simulated world are far from the limits of their types"
)]

pub mod dice;
pub mod leader;
pub mod optimum;
pub mod places;
pub mod plot;
pub mod record;
pub mod rivals;
pub mod run;
pub mod scenarios;
pub mod steered;
pub mod world;
