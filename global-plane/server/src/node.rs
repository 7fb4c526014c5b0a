//! One node: what its handlers and loops share, and how it reads and writes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_types::{App, Catalog, Digest, Revision, chain};
use calls_forward::{Forwarder, Gateway};
use dns_steering::Target;
use global_plane_consensus::{Handle, NodeId};
use global_plane_state::{Command, Envelope, Outcome, State};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admission;
use crate::agreement::{self, Askers, Lacking};
use crate::api::write::Terms;
use crate::bundles::BundleStore;
use crate::config::{Config, Member};
use crate::confirm::Shared;
use crate::leader::Leader;
use crate::machine::{Replica, disk};
use crate::peers::{PeerError, Peers};
use crate::steering;
use crate::views::Views;
use daemon::clock;

use api_fn_http::Unavailable;
use api_fn_http::endpoints::{self, Names};
pub use api_fn_http::{Consistency, Reached};

pub struct Node {
    pub config: Config,
    pub replica: Arc<Replica>,
    pub consensus: Handle<Outcome>,
    pub peers: Peers,
    pub leader: Leader,
    pub askers: Askers,
    pub views: Views,
    pub bundles: BundleStore,
    pub forwarder: Forwarder,
    pub confirming: Shared<NoLeader>,
    pub map: Arc<dns_worldmap::WorldMap>,
    /// Metadata snapshots built at once: each is a copy of the whole catalog in memory.
    pub snapshots: Semaphore,
    pub shutdown: CancellationToken,
}

/// Raft's state as this node sees it.
#[derive(Debug, Clone, Copy)]
pub struct Raft<'a> {
    pub role: &'static str,
    pub term: u64,
    pub leader: Option<&'a Member>,
}

/// How long a write is tried before its client is asked to try again.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a linearizable read waits for a leader to confirm itself.
const READ_DEADLINE: Duration = Duration::from_secs(2);

/// How long a call waits for that before it is served from what is here: two rounds and a busy
/// machine. A leader that has died is known to have for most of an election.
const CALL_CONFIRM_MAX: Duration = Duration::from_secs(1);

/// Between tries of a write while there is no leader; an election takes twenty times as long.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Nobody could confirm the read or take the write in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the global plane has no leader at the moment, try again")]
pub struct NoLeader;

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

impl Node {
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

    /// Has the command applied, wherever the leader is, and returns once this node has applied it
    /// too. Every try carries the same request id, so that it happens once.
    ///
    /// # Errors
    /// [`Unwritten::NoLeader`] if no leader answered in time. The write may still happen; a resend with
    /// the same `Idempotency-Key` finds out. [`Unwritten::Lacking`] if it did not happen.
    pub async fn write(&self, command: Command, terms: Terms) -> Result<Outcome, Unwritten> {
        let deadline = Instant::now() + WRITE_DEADLINE;
        let envelope = self.envelope(command, terms);
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
        let Some(leader) = self.raft().leader else {
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
        let before = self
            .replica
            .read(|state| admission::excerpt(state, envelope));
        let payload = match admission::admit(before, self.replica.objects_bytes(), envelope) {
            Ok(payload) => payload,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.agree(&envelope.command).await?;
        let proposed = self.consensus.propose(payload).await;
        let (_, outcome) = proposed.map_err(Again::Consensus)?;
        Ok(outcome)
    }

    /// Makes sure that what is read here next is no older than now, with one question to the leader
    /// for all calls that wait meanwhile.
    ///
    /// # Errors
    /// If no leader is known, or it does not confirm in time.
    pub async fn confirm_shared(&self) -> Result<(), NoLeader> {
        if self.raft().leader.is_none() {
            return Err(NoLeader);
        }
        let round = self.confirming.round(|| self.confirm());
        timeout(CALL_CONFIRM_MAX, round)
            .await
            .unwrap_or(Err(NoLeader))
    }

    /// Has what a command needs in use before the command is in the log. Only the leader may ask.
    async fn agree(&self, command: &Command) -> Result<(), Again> {
        if let Command::UseFormats { formats } = command {
            return Ok(agreement::all_know(self, formats)?);
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
        agreement::all_know(self, &formats)?;
        tracing::info!(formats = ?formats, "formats are in use from now on");
        let envelope = self.envelope(Command::UseFormats { formats }, Terms::minted());
        let payload = disk::encode_envelope(&envelope);
        let proposed = self.consensus.propose(payload).await;
        proposed.map_err(Again::Consensus).map(|_| ())
    }

    fn envelope(&self, command: Command, terms: Terms) -> Envelope {
        Envelope {
            format: disk::FORMAT,
            request: terms.request,
            fingerprint: terms.fingerprint,
            log_time: clock::now(),
            preconditions: terms.preconditions,
            command,
        }
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

    #[must_use]
    pub fn raft(&self) -> Raft<'_> {
        let status = self.consensus.status();
        let status = status.borrow();
        Raft {
            role: status.role.as_str(),
            term: status.term,
            leader: status.leader.and_then(|NodeId(id)| self.config.member(id)),
        }
    }

    /// Where endpoints begin, as [`endpoints::base_url`] has it. `host` is the one that was asked.
    #[must_use]
    pub fn base_url(&self, app: Option<&App>, host: Option<&str>) -> String {
        let listen = self.config.api_listen.to_string();
        let names = Names {
            zone: &self.config.zone,
            gateway_port: self.config.gateway_port,
        };
        endpoints::base_url(&self.config.public_url, names, app, host.unwrap_or(&listen))
    }

    /// Size of a bundle that a majority has.
    #[must_use]
    pub fn knows_bundle(&self, digest: Digest) -> Option<u64> {
        self.replica
            .read(|state| state.catalog().bundle(&digest).map(|bundle| bundle.size))
    }

    /// Gateways that may serve a call, best first.
    #[must_use]
    pub fn steer(&self, client: IpAddr, called: &Target) -> Vec<Gateway> {
        match &self.views.steering(&self.replica).view {
            Ok(view) => steering::gateways(view, &self.map, &self.config.policy(), client, called),
            Err(_) => Vec::new(),
        }
    }
}

/// The catalog as the reading half of Fn's API asks for it.
#[derive(Clone)]
pub struct Reader(pub Arc<Node>);

impl api_fn_http::Source for Reader {
    async fn read<R: Send + 'static>(
        &self,
        consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> Result<R, Unavailable> {
        let read = self.0.read(consistency, |state| {
            answer(state.catalog(), state.revision())
        });
        read.await.map_err(|none| Unavailable(none.to_string()))
    }

    fn base_url(&self, app: Option<&App>, reached: &Reached) -> String {
        self.0.base_url(app, reached.host.as_deref())
    }
}
