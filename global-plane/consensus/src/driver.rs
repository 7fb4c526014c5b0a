//! Runs the machine on one thread with the real clock, disk and transport.
//!
//! Proposals that wait are gathered before a step, so that one batch and one sync serve them all. A
//! disk that fails ends the process: what a failed sync left on the disk is unknown, and asking
//! again would be told that all is well.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raft::StateRole;
use tokio::sync::{oneshot, watch};

use crate::node::{Committed, Effect, Event, LogError, Node, Outgoing, Persisted, Settings, Token};
use crate::store::{ApplyError, StateBatch, Store};
use crate::transport::{Incoming, Transport};
use crate::{LogIndex, NodeId};

/// Inputs that wait for the thread: a second's worth at the rate it is made for. Beyond this,
/// proposals are refused as overloaded and messages dropped.
const INPUTS_MAX: usize = 8192;
/// Inputs gathered before one step: about what one sync on a slow disk lets arrive.
const GATHERED_MAX: usize = 256;
const GATHERED_BYTES_MAX: usize = 1 << 20;
/// A command of ours is metadata; its largest field is a function's configuration.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// An attempt to read that no leader confirmed is asked again, with a fresh context.
const READ_ATTEMPT: Duration = Duration::from_millis(400);
const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// The log is held in memory; beyond this, followers that are far behind are sent the state instead.
/// Looked at once a tick, so a tick's worth of proposals may come on top.
const LOG_BYTES_MAX: usize = 64 << 20;
/// The largest frame over a slow link between continents; the report itself may be lost.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);

/// The replicated state. Called only from the driver's thread, in log order.
pub trait StateMachine: Send + 'static {
    /// What whoever proposed a command on this node is told.
    type Outcome: Send + 'static;

    /// Applies one command. What must survive goes into `batch`, which is written with the applied
    /// index before outcomes are told.
    ///
    /// # Errors
    /// If this program cannot apply it. The thread ends: see [`Driver::join`].
    fn apply(
        &mut self,
        index: LogIndex,
        payload: &[u8],
        batch: &mut StateBatch<'_>,
    ) -> Result<Self::Outcome, ApplyError>;

    /// Everything up to `applied` is written: readers may see it.
    fn committed(&mut self, applied: LogIndex);

    /// The whole state at the applied index.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by a snapshot of another node.
    ///
    /// # Errors
    /// If it cannot be read. The thread ends: see [`Driver::join`].
    fn restore(&mut self, snapshot: &[u8], batch: &mut StateBatch<'_>) -> Result<(), ApplyError>;
}

#[derive(Debug, Clone)]
pub struct Config {
    pub tick: Duration,
    pub settings: Settings,
    /// Applied entries after which the log is compacted, and how many are kept for followers that
    /// are a little behind.
    pub compact_every: u64,
    pub keep: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// What the node knows of itself and, as leader, of its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: NodeId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub applied: LogIndex,
    pub committed: LogIndex,
    /// The log that is still there goes from `first` to `last`.
    pub first: LogIndex,
    pub last: LogIndex,
    /// Leader only: how far each member is known to be.
    pub matched: BTreeMap<NodeId, LogIndex>,
    /// It leads, and its state has everything that was ever acknowledged.
    pub leads_with_whole_state: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    /// It may still be applied: repeat it only under the same request id.
    #[error("leadership changed before the outcome was known")]
    Dropped,
    #[error("too many proposals wait")]
    Overloaded,
    #[error("a command has at most {max} bytes")]
    TooLarge { max: usize },
    #[error("the node is stopping")]
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader confirmed the read in time")]
    NoLeader,
    #[error("the node is stopping")]
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this node does not lead")]
    NotLeader,
    #[error("no peer took over in time")]
    NotTaken,
}

/// What is held until a proposal's outcome is known.
type Held = Box<dyn Send>;

struct Told<O> {
    outcome: oneshot::Sender<Result<(LogIndex, O), ProposeError>>,
    _held: Held,
}

impl<O> Told<O> {
    fn tell(self, outcome: Result<(LogIndex, O), ProposeError>) {
        // The proposer may have given up waiting.
        let _ = self.outcome.send(outcome);
    }
}

enum Input<O> {
    Propose { payload: Vec<u8>, told: Told<O> },
    Read { told: oneshot::Sender<LogIndex> },
    Transfer { to: NodeId },
    Incoming(Incoming),
    Stop,
}

/// How async code asks the thread. Cloneable.
pub struct Handle<O> {
    inputs: SyncSender<Input<O>>,
    status: watch::Receiver<Status>,
    readies: Arc<AtomicU64>,
    fsyncs: Arc<AtomicU64>,
}

impl<O> Clone for Handle<O> {
    fn clone(&self) -> Self {
        Self {
            inputs: self.inputs.clone(),
            status: self.status.clone(),
            readies: Arc::clone(&self.readies),
            fsyncs: Arc::clone(&self.fsyncs),
        }
    }
}

impl<O: Send + 'static> Handle<O> {
    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]; after `Dropped` its fate is unknown. Dropping the future does not take
    /// the command back.
    pub async fn propose(&self, payload: Vec<u8>) -> Result<(LogIndex, O), ProposeError> {
        self.propose_holding(payload, ()).await
    }

    /// As [`Self::propose`]. `held` is dropped once the command is applied here and seen by readers, or
    /// this node has ceased to lead, or it was refused: not when the future is dropped before.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_holding(
        &self,
        payload: Vec<u8>,
        held: impl Send + 'static,
    ) -> Result<(LogIndex, O), ProposeError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                max: PAYLOAD_BYTES_MAX,
            });
        }
        let (told, outcome) = oneshot::channel();
        let told = Told {
            outcome: told,
            _held: Box::new(held),
        };
        self.inputs
            .try_send(Input::Propose { payload, told })
            .map_err(|error| match error {
                TrySendError::Full(_) => ProposeError::Overloaded,
                TrySendError::Disconnected(_) => ProposeError::Stopped,
            })?;
        outcome.await.unwrap_or(Err(ProposeError::Dropped))
    }

    /// Waits until this node has applied everything acknowledged before the call (ReadIndex, thesis
    /// 6.4). Cancel safe.
    ///
    /// # Errors
    /// If no leader confirms within `deadline`.
    pub async fn read_index(&self, deadline: Duration) -> Result<LogIndex, ReadError> {
        let end = tokio::time::Instant::now() + deadline;
        while tokio::time::Instant::now() < end {
            let (told, index) = oneshot::channel();
            match self.inputs.try_send(Input::Read { told }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(ReadError::NoLeader),
                Err(TrySendError::Disconnected(_)) => return Err(ReadError::Stopped),
            }
            let attempt = (tokio::time::Instant::now() + READ_ATTEMPT).min(end);
            match tokio::time::timeout_at(attempt, index).await {
                Ok(Ok(index)) => return Ok(index),
                // A read is dropped where no leader is known; it is asked again when one is.
                Ok(Err(_)) => {
                    tokio::time::sleep_until(
                        attempt.min(tokio::time::Instant::now() + READ_ATTEMPT / 8),
                    )
                    .await
                }
                Err(_) => {}
            }
        }
        Err(ReadError::NoLeader)
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the thread has ended. Cancel safe.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Hands leadership to the peer that is furthest.
    ///
    /// # Errors
    /// If this node does not lead, or nobody took over within two seconds.
    pub async fn transfer_leadership(&self) -> Result<(), TransferError> {
        let mut status = self.status.clone();
        let now = status.borrow().clone();
        if now.role != Role::Leader {
            return Err(TransferError::NotLeader);
        }
        let peers = now.matched.iter().filter(|(peer, _)| **peer != now.id);
        let (to, _) = peers
            .max_by_key(|(_, matched)| **matched)
            .ok_or(TransferError::NotTaken)?;
        self.inputs
            .try_send(Input::Transfer { to: *to })
            .map_err(|_| TransferError::NotTaken)?;
        let gone = status.wait_for(|status| status.role != Role::Leader && status.leader.is_some());
        match tokio::time::timeout(TRANSFER_PATIENCE, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(TransferError::NotTaken),
        }
    }

    /// Delivers what the transport received; drops it where the thread is too far behind.
    pub fn deliver(&self, incoming: Incoming) {
        // Raft repeats every message, and the thread gives up on a snapshot that nobody reports.
        let _ = self.inputs.try_send(Input::Incoming(incoming));
    }

    /// Asks the thread to end; [`Driver::join`] waits for it.
    pub fn shutdown(&self) {
        // A full queue is drained in a moment; a closed one has ended already.
        let _ = self.inputs.send(Input::Stop);
    }

    /// How often Raft had something to be done, and writes that waited for the disk.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.readies.load(Ordering::Relaxed),
            self.fsyncs.load(Ordering::Relaxed),
        )
    }
}

/// The thread that drives one node.
pub struct Driver {
    thread: JoinHandle<Result<(), ApplyError>>,
}

impl Driver {
    /// Makes the way in before the thread runs, because the transport needs it and the thread
    /// needs the transport.
    #[must_use]
    pub fn prepare<O: Send + 'static>(node: &Node, store: &Store) -> (Handle<O>, Inbox<O>) {
        let (inputs, queue) = sync_channel(INPUTS_MAX);
        let (publish, status) = watch::channel(status_of(node));
        let readies = Arc::<AtomicU64>::default();
        let handle = Handle {
            inputs,
            status,
            readies: Arc::clone(&readies),
            fsyncs: store.fsyncs(),
        };
        (
            handle,
            Inbox {
                queue,
                publish,
                readies,
            },
        )
    }

    /// Makes a node from what the disk had.
    ///
    /// # Errors
    /// If the log contradicts itself.
    pub fn node(config: &Config, persisted: Persisted) -> Result<Node, LogError> {
        Node::new(config.settings.clone(), persisted)
    }

    /// # Panics
    /// If the system has no thread left.
    pub fn start<M: StateMachine>(
        config: Config,
        node: Node,
        store: Store,
        machine: M,
        transport: Transport,
        inbox: Inbox<M::Outcome>,
    ) -> Self {
        let runner = Runner {
            id: config.settings.id,
            config,
            node,
            store,
            machine,
            transport,
            inbox,
            tokens: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            confirmed: Vec::new(),
            snapshots: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("raft".to_owned())
            .spawn(move || {
                // raft-rs panics where its invariants break, and so does what a state machine
                // meets; a process that lives on without this thread would only look alive.
                catch_unwind(AssertUnwindSafe(|| runner.run())).unwrap_or_else(|_| {
                    tracing::error!("the consensus thread panicked; stopping");
                    std::process::abort()
                })
            });
        Self {
            thread: thread.expect("a thread can be made at start"),
        }
    }

    /// Waits for the thread, after [`Handle::shutdown`] or [`Handle::ended`].
    ///
    /// # Errors
    /// Why it ended unasked: an entry that this program cannot apply. Nothing of that entry or after
    /// it was applied, so another version of the program can go on from the same disk.
    ///
    /// # Panics
    /// Never: a panic of the thread ends the process.
    pub fn join(self) -> Result<(), ApplyError> {
        self.thread
            .join()
            .expect("a panic of the thread has ended the process")
    }
}

/// The thread's end of a [`Handle`].
pub struct Inbox<O> {
    queue: Receiver<Input<O>>,
    publish: watch::Sender<Status>,
    readies: Arc<AtomicU64>,
}

struct Runner<M: StateMachine> {
    id: NodeId,
    config: Config,
    node: Node,
    store: Store,
    machine: M,
    transport: Transport,
    inbox: Inbox<M::Outcome>,
    tokens: u64,
    proposals: BTreeMap<Token, Told<M::Outcome>>,
    reads: BTreeMap<Token, oneshot::Sender<LogIndex>>,
    confirmed: Vec<(LogIndex, oneshot::Sender<LogIndex>)>,
    /// Snapshots on their way, and since when. Raft sends such a peer nothing until it hears what
    /// became of them, so a report that got lost would silence it for good.
    snapshots: BTreeMap<NodeId, Instant>,
}

impl<M: StateMachine> Runner<M> {
    fn run(mut self) -> Result<(), ApplyError> {
        let mut next_tick = Instant::now() + self.config.tick;
        loop {
            let mut events = Vec::new();
            if !self.gather(next_tick, &mut events) {
                return Ok(());
            }
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                events.push(Event::Tick);
                // Ticks that a long step missed are not made up for: they would only end terms.
                next_tick = now + self.config.tick;
                self.forget_abandoned();
                self.give_up_snapshots(now, &mut events);
            }
            let led = self.node.leads();
            self.step(events)?;
            if led && !self.node.leads() {
                // Whether they were committed is for the next leader to know.
                for (_, told) in std::mem::take(&mut self.proposals) {
                    told.tell(Err(ProposeError::Dropped));
                }
            }
            self.compact(ticked)?;
            let status = status_of(&self.node);
            self.inbox.publish.send_if_modified(|held| {
                let changed = *held != status;
                *held = status;
                changed
            });
        }
    }

    /// Waits for an input or the tick, then takes what else waits. False when asked to stop.
    fn gather(&mut self, next_tick: Instant, events: &mut Vec<Event>) -> bool {
        let mut bytes = 0;
        let mut input = match self
            .inbox
            .queue
            .recv_timeout(next_tick.saturating_duration_since(Instant::now()))
        {
            Ok(input) => input,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        loop {
            match input {
                Input::Stop => return false,
                Input::Propose { payload, told } => {
                    bytes += payload.len();
                    let token = self.token();
                    self.proposals.insert(token, told);
                    events.push(Event::Propose { token, payload });
                }
                Input::Read { told } => {
                    let token = self.token();
                    self.reads.insert(token, told);
                    events.push(Event::Read { token });
                }
                Input::Transfer { to } => events.push(Event::Transfer { to }),
                Input::Incoming(Incoming::Message { from, bytes }) => {
                    events.push(Event::Message { from, bytes })
                }
                Input::Incoming(Incoming::Unreachable { peer }) => {
                    events.push(Event::Unreachable { peer })
                }
                Input::Incoming(Incoming::SnapshotSent { peer, whole }) => {
                    self.snapshots.remove(&peer);
                    events.push(Event::SnapshotSent { peer, whole });
                }
            }
            if events.len() >= GATHERED_MAX || bytes >= GATHERED_BYTES_MAX {
                return true;
            }
            match self.inbox.queue.try_recv() {
                Ok(next) => input = next,
                Err(_) => return true,
            }
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn step(&mut self, events: Vec<Event>) -> Result<(), ApplyError> {
        let effects = self.node.step(events);
        self.inbox
            .readies
            .store(self.node.readies(), Ordering::Relaxed);
        for effect in effects {
            self.carry_out(effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), ApplyError> {
        match effect {
            Effect::Send(messages) => {
                for Outgoing {
                    to,
                    bytes,
                    is_snapshot,
                } in messages
                {
                    if is_snapshot {
                        self.snapshots.insert(to, Instant::now());
                    }
                    self.transport.send(to, bytes, is_snapshot);
                }
            }
            Effect::Persist(write) => or_die("persist the log", self.store.persist(&write)),
            Effect::Install {
                index,
                term,
                hard_state,
                conf_state,
                data,
            } => {
                let mut batch = self.store.batch();
                self.machine.restore(&data, &mut batch)?;
                let batch = batch.into_batch();
                or_die(
                    "install a snapshot",
                    self.store
                        .install(batch, (index, term), &hard_state, &conf_state),
                );
                self.machine.committed(index);
                self.answer_reads();
                tracing::info!(%index, term, "installed a snapshot");
            }
            Effect::Apply {
                entries,
                applied,
                commit,
            } => self.apply(entries, applied, commit)?,
            Effect::Read { token, index } => {
                if let Some(told) = self.reads.remove(&token) {
                    self.confirmed.push((index, told));
                    self.answer_reads();
                }
            }
            Effect::Refused { token, leader } => {
                if let Some(told) = self.proposals.remove(&token) {
                    let leads = leader == Some(self.id);
                    let why = if leads {
                        ProposeError::Overloaded
                    } else {
                        ProposeError::NotLeader { leader }
                    };
                    told.tell(Err(why));
                }
            }
            Effect::Truncate { index, term } => {
                or_die("compact the log", self.store.truncate(index, term))
            }
            Effect::MakeSnapshot => {
                let data = self.machine.snapshot();
                tracing::info!(bytes = data.len(), applied = %self.node.applied(), "made a snapshot for a follower");
                self.step(vec![Event::Snapshot { data }])?;
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        entries: Vec<Committed>,
        applied: LogIndex,
        commit: LogIndex,
    ) -> Result<(), ApplyError> {
        let mut batch = self.store.batch();
        let mut outcomes = Vec::with_capacity(entries.len());
        for Committed {
            index,
            payload,
            token,
        } in entries
        {
            let outcome = self.machine.apply(index, &payload, &mut batch)?;
            outcomes.push((index, token, outcome));
        }
        let batch = batch.into_batch();
        or_die(
            "write what was applied",
            self.store.applied(batch, applied, commit),
        );
        self.machine.committed(applied);
        self.answer_reads();
        for (index, token, outcome) in outcomes {
            if let Some(told) = token.and_then(|token| self.proposals.remove(&token)) {
                told.tell(Ok((index, outcome)));
            }
        }
        Ok(())
    }

    fn compact(&mut self, ticked: bool) -> Result<(), ApplyError> {
        let applied = self.node.applied().0;
        let first = self.node.first_index().0;
        let to = if applied.saturating_sub(first) >= self.config.compact_every + self.config.keep {
            applied - self.config.keep
        } else if ticked && applied > first && self.node.log_bytes() > LOG_BYTES_MAX {
            // Few but large commands: the older half goes, as often as it takes.
            first + (applied - first) / 2
        } else {
            return Ok(());
        };
        self.step(vec![Event::Compact { to: LogIndex(to) }])
    }

    /// Answers confirmed reads that the state has caught up with; a follower may be told of an index
    /// before it has the entries.
    fn answer_reads(&mut self) {
        let applied = self.node.applied();
        let (ready, waiting) = std::mem::take(&mut self.confirmed)
            .into_iter()
            .partition(|(index, _)| *index <= applied);
        self.confirmed = waiting;
        let ready: Vec<(LogIndex, oneshot::Sender<LogIndex>)> = ready;
        for (index, told) in ready {
            let _ = told.send(index);
        }
    }

    fn give_up_snapshots(&mut self, now: Instant, events: &mut Vec<Event>) {
        self.snapshots.retain(|peer, since| {
            let waits = now.duration_since(*since) < SNAPSHOT_PATIENCE;
            if !waits {
                events.push(Event::SnapshotSent {
                    peer: *peer,
                    whole: false,
                });
            }
            waits
        });
    }

    /// Reads that nobody waits for any more; raft-rs says nothing of those it dropped.
    fn forget_abandoned(&mut self) {
        self.reads.retain(|_, told| !told.is_closed());
        self.confirmed.retain(|(_, told)| !told.is_closed());
    }
}

fn status_of(node: &Node) -> Status {
    let role = match node.role() {
        StateRole::Leader => Role::Leader,
        StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        StateRole::Follower if node.is_learner() => Role::Learner,
        StateRole::Follower => Role::Follower,
    };
    Status {
        id: node.id(),
        role,
        term: node.term(),
        leader: node.leader(),
        applied: node.applied(),
        committed: node.committed(),
        first: node.first_index(),
        last: node.last_index(),
        matched: if role == Role::Leader {
            node.matched()
        } else {
            BTreeMap::new()
        },
        leads_with_whole_state: node.leads_with_whole_state(),
    }
}

/// The log on disk is the promise; a node that cannot keep it must not go on.
fn or_die<T, E: std::error::Error + 'static>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "could not {what}; stopping"
        );
        std::process::abort()
    })
}

/// What [`Transport::start`] delivers to.
#[must_use]
pub fn deliver_to<O: Send + 'static>(handle: Handle<O>) -> crate::transport::Deliver {
    Arc::new(move |incoming| handle.deliver(incoming))
}
