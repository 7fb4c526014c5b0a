//! Writing: a command is proposed at the leader, wherever that is, until its outcome is known.

use std::sync::Arc;
use std::time::Duration;

use api_types::chain;
use daemon::clock;
use global_plane_consensus::{Handle, NodeId};
use global_plane_state::{Command, Envelope, Outcome};
use tokio::time::{Instant, sleep, timeout_at};

use crate::admission::{self, Turns};
use crate::agreement::{self, Agreement, Lacking};
use crate::config::Config;
use crate::machine::{Replica, disk};
use crate::peers::{PeerError, Peers};
use crate::reader::NoLeader;
use crate::terms::Terms;

/// How long a write is tried before its client is asked to try again.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Between tries of a write while there is no leader; an election takes twenty times as long.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why a write was not done, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// It needs formats that not everybody knows yet.
    #[error("{0}")]
    Lacking(String),
}

/// A try of a write that may be repeated under the same request id.
#[derive(Debug, thiserror::Error)]
pub enum Again {
    #[error("no leader is known")]
    LeaderUnknown,
    #[error("the leader did not take the write")]
    Peer(#[source] PeerError),
    #[error("the leader's answer cannot be read")]
    Garbled(#[source] disk::DecodeError),
    #[error("this node did not take the write")]
    Consensus(#[source] global_plane_consensus::ProposeError),
    /// Repeating it does not help.
    #[error(transparent)]
    Lacking(#[from] Lacking),
}

pub struct Writer {
    pub config: Arc<Config>,
    pub replica: Arc<Replica>,
    pub consensus: Handle<Outcome>,
    pub peers: Peers,
    pub agreement: Arc<Agreement>,
    pub turns: Turns,
}

impl Writer {
    /// Has the command applied, wherever the leader is, and returns once this node has applied it
    /// too. Every try carries the same request id, so that it happens once.
    ///
    /// # Errors
    /// [`Unwritten::NoLeader`] if no leader answered in time. The write may still happen; a resend with
    /// the same `Idempotency-Key` finds out. [`Unwritten::Lacking`] if it did not happen.
    pub async fn write(&self, command: Command, terms: Terms) -> Result<Outcome, Unwritten> {
        let deadline = Instant::now() + WRITE_DEADLINE;
        let envelope = envelope(command, terms);
        let outcome = loop {
            let again = match timeout_at(deadline, self.propose(&envelope)).await {
                Ok(Ok(outcome)) => break outcome,
                Ok(Err(Again::Lacking(lacking))) => {
                    return Err(Unwritten::Lacking(lacking.to_string()));
                }
                Ok(Err(again)) => again,
                Err(_) => return Err(NoLeader.into()),
            };
            tracing::debug!(
                request_id = envelope.request.0,
                error = chain(&again),
                "write is tried again"
            );
            metrics::counter!("tradewind_write_retries_total").increment(1);
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(NoLeader.into());
            }
            sleep(RETRY_PAUSE).await;
        };
        if let Ok(reply) = &outcome {
            // The write has happened. If this node lags for longer, only a stale read here may
            // miss it.
            let _in_time = timeout_at(deadline, self.replica.reached(reply.revision())).await;
        }
        Ok(outcome)
    }

    /// Tries once, here or at the leader.
    async fn propose(&self, envelope: &Envelope) -> Result<Outcome, Again> {
        let leader = self.consensus.status().borrow().leader;
        let Some(leader) = leader.and_then(|NodeId(id)| self.config.member(id)) else {
            return Err(Again::LeaderUnknown);
        };
        if leader.node_id == self.config.node_id {
            return self.propose_here(envelope).await;
        }
        let payload = disk::encode_envelope(envelope);
        let answer = self.peers.propose(leader, payload, WRITE_DEADLINE).await;
        let outcome = answer.map_err(|error| match error {
            PeerError::Refused {
                status: agreement::LACKING,
                message,
                ..
            } => Again::Lacking(Lacking(message)),
            error => Again::Peer(error),
        })?;
        disk::decode_outcome(&outcome).map_err(Again::Garbled)
    }

    /// Tries once, if this node leads.
    ///
    /// # Errors
    /// [`Again`]: it may be repeated under the same request id, and only so.
    pub async fn propose_here(&self, envelope: &Envelope) -> Result<Outcome, Again> {
        metrics::counter!("tradewind_proposals_total").increment(1);
        let turn = self.turns.take(&envelope.command).await;
        // What earlier leaders wrote is applied here by then, and so counts.
        if turn.is_some() && !self.consensus.status().borrow().leads_with_whole_state {
            return Err(Again::LeaderUnknown);
        }
        let before = self
            .replica
            .read(|state| admission::excerpt(state, envelope));
        let payload = match admission::admit(before, self.replica.objects_bytes(), envelope) {
            Ok(payload) => payload,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.agree(&envelope.command).await?;
        let proposed = self.consensus.propose_holding(payload, turn).await;
        let (_, outcome) = proposed.map_err(Again::Consensus)?;
        Ok(outcome)
    }

    /// Has what a command needs in use before the command is in the log. Only the leader may ask.
    async fn agree(&self, command: &Command) -> Result<(), Again> {
        if let Command::UseFormats { formats } = command {
            return Ok(self.agreement.all_know(formats)?);
        }
        let needs = command.needs();
        let formats = self
            .replica
            .read(|state| agreement::not_in_use(state.catalog(), needs));
        if formats.is_empty() {
            return Ok(());
        }
        if !self.consensus.status().borrow().leads_with_whole_state {
            return Err(Again::LeaderUnknown);
        }
        self.agreement.all_know(&formats)?;
        tracing::info!(formats = ?formats, "formats are in use from now on");
        let envelope = envelope(Command::UseFormats { formats }, Terms::minted());
        let payload = disk::encode_envelope(&envelope);
        let proposed = self.consensus.propose(payload).await;
        proposed.map_err(Again::Consensus).map(|_| ())
    }
}

fn envelope(command: Command, terms: Terms) -> Envelope {
    Envelope {
        format: disk::FORMAT,
        request: terms.request,
        fingerprint: terms.fingerprint,
        log_time: clock::now(),
        preconditions: terms.preconditions,
        command,
    }
}
