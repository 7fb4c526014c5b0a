//! A federation of real processes, for tests that kill them.
//!
//! Each scenario in `tests/` starts its own federation by `tradewind up` on a loopback network of
//! its own, so that it can run beside a demo, kills processes by id and says what must be kept.
//! Everything started is ended by id, also when a scenario fails.

pub mod caller;
pub mod dns;
pub mod federation;
pub mod raw;

use std::time::{Duration, Instant};

pub use federation::Federation;

/// How often a condition that nothing announces is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `condition` gives a value and returns it with the time that took.
///
/// # Errors
/// If `patience` runs out; the error says what was awaited and what was seen last.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(error) if start.elapsed() >= patience => {
                return Err(error.context(format!("{what}: not within {patience:?}")));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Asserts a promised deadline with threefold slack, because a shared two-core machine is not the
/// machine the promise was made on, and prints what was measured.
///
/// # Panics
/// If `took` is more than three times `promised`.
pub fn assert_promise(what: &str, promised: Duration, took: Duration) {
    println!("measured: {what}: {took:.2?} (promised {promised:?})");
    assert!(
        took <= promised * 3,
        "{what} took {took:?}, promised {promised:?}"
    );
}
