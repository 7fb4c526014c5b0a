//! One question to the leader for all who wait.
//!
//! A read is no older than its request only if the leader confirmed itself after the request came. So
//! whoever comes while a question is under way waits for the next one, and all of those share it: at
//! most two are waited for, however many calls come.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Rounds of questions, in order.
#[derive(Debug)]
pub struct Shared<E> {
    begun: AtomicU64,
    /// The last round that ended, and how. Held by the one that asks; fair, so nobody waits for more
    /// than the round that is under way and the next.
    ended: Mutex<(u64, Result<(), E>)>,
}

impl<E> Default for Shared<E> {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: Mutex::new((0, Ok(()))),
        }
    }
}

impl<E: Copy> Shared<E> {
    /// Returns what a round came to that began after this was called; `ask` makes one if nobody else
    /// has. May be dropped at any time.
    ///
    /// # Errors
    /// As `ask`.
    pub async fn round<F>(&self, ask: impl FnOnce() -> F) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let before = self.begun.load(Ordering::Acquire);
        let mut ended = self.ended.lock().await;
        let (last, outcome) = *ended;
        if last > before {
            return outcome;
        }
        let round = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let outcome = ask().await;
        *ended = (round, outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn callers_share_the_next_round_and_never_the_one_under_way() {
        let shared = Arc::new(Shared::<()>::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let answers = Arc::new(Semaphore::new(0));
        let mut tasks = JoinSet::new();
        let mut come = |count: usize| {
            for _ in 0..count {
                let (shared, asked, answers) = (
                    Arc::clone(&shared),
                    Arc::clone(&asked),
                    Arc::clone(&answers),
                );
                tasks.spawn(async move {
                    let round = shared.round(|| async {
                        asked.fetch_add(1, Ordering::Relaxed);
                        answers.acquire().await.unwrap().forget();
                        Ok(())
                    });
                    round.await.unwrap();
                });
            }
        };
        come(1);
        while asked.load(Ordering::Relaxed) < 1 {
            tokio::task::yield_now().await;
        }
        come(50);
        // They have looked which rounds have begun.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        answers.add_permits(1);
        while asked.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        answers.add_permits(1);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one alone, one for fifty");
    }

    #[tokio::test]
    async fn a_round_that_is_dropped_is_nobodys_answer() {
        let shared = Shared::<&str>::default();
        let hung = shared.round(std::future::pending);
        tokio::time::timeout(std::time::Duration::from_millis(1), hung)
            .await
            .unwrap_err();
        assert_eq!(
            shared.round(|| async { Err("no leader") }).await,
            Err("no leader")
        );
        assert_eq!(shared.round(|| async { Ok(()) }).await, Ok(()));
    }
}
