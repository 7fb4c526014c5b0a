//! Reading: from this node's state, once a leader has confirmed that it is new enough.

use std::sync::Arc;
use std::time::Duration;

pub use api_fn_http::Consistency;
use api_types::chain;
use global_plane_consensus::Handle;
use global_plane_state::{Outcome, State};
use tokio::time::timeout;

use crate::confirm::Shared;
use crate::machine::Replica;

/// How long a linearizable read waits for a leader to confirm itself.
const READ_DEADLINE: Duration = Duration::from_secs(2);

/// How long a call waits for that before it is served from what is here: two rounds and a busy
/// machine. A leader that has died is known to have for most of an election.
const CALL_CONFIRM_MAX: Duration = Duration::from_secs(1);

/// Nobody could confirm the read or take the write in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the global plane has no leader at the moment, try again")]
pub struct NoLeader;

pub struct Reader {
    replica: Arc<Replica>,
    consensus: Handle<Outcome>,
    confirming: Shared<NoLeader>,
}

impl Reader {
    #[must_use]
    pub fn new(replica: Arc<Replica>, consensus: Handle<Outcome>) -> Self {
        Self {
            replica,
            consensus,
            confirming: Shared::default(),
        }
    }

    /// Answers from this node's state, once it is known to be no older than the request unless
    /// `consistency` says that it may be. `answer` runs in the lock and must be short.
    ///
    /// # Errors
    /// If no leader confirms in time.
    pub async fn read<R>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&State) -> R,
    ) -> Result<R, NoLeader> {
        if consistency == Consistency::Linearizable {
            self.confirm().await?;
        }
        Ok(self.replica.read(answer))
    }

    /// Makes sure that what is read here next is no older than now, with one question to the leader
    /// for all calls that wait meanwhile.
    ///
    /// # Errors
    /// If no leader is known, or it does not confirm in time.
    pub async fn confirm_shared(&self) -> Result<(), NoLeader> {
        if self.consensus.status().borrow().leader.is_none() {
            return Err(NoLeader);
        }
        let round = self.confirming.round(|| self.confirm());
        timeout(CALL_CONFIRM_MAX, round)
            .await
            .unwrap_or(Err(NoLeader))
    }

    async fn confirm(&self) -> Result<(), NoLeader> {
        match self.consensus.read_index(READ_DEADLINE).await {
            Ok(_) => Ok(()),
            Err(failed) => {
                tracing::debug!(error = chain(&failed), "read not confirmed");
                Err(NoLeader)
            }
        }
    }
}
