//! The stepped machine: events in, effects out.
//!
//! The order of effects is the order they must be carried out in, and all of them before the next
//! step. That order is the Raft contract: a leader's messages may leave before its own disk write
//! (thesis 10.2.1), a follower's promises only after it; entries and hard state are one write.

pub mod log;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{Config, RawNode, SnapshotStatus, StateRole};

use crate::{LogIndex, NodeId};
use log::MemoryLog;

/// One message of a leader carries at most this many bytes of entries; raft-rs's default of one
/// entry a message would make catching up a round trip an entry.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Appends in flight to one follower; with the bound above at most 256 MiB, in practice far less.
const INFLIGHT_MAX: usize = 256;
/// Proposals beyond this wait for commits, so that a leader cut off from its followers stays small.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Bounds the apply batch of one ready.
const COMMITTED_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    pub id: NodeId,
    /// Distinguishes this start of the node from all others, so that what was asked before a
    /// restart is never answered after it.
    pub boot: u64,
    /// Seeds the election timeouts.
    pub seed: u64,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
}

/// What the disk had.
#[derive(Debug, Default, Clone)]
pub struct Persisted {
    pub hard_state: HardState,
    pub conf_state: ConfState,
    pub truncated: (u64, u64),
    pub entries: Vec<Entry>,
    pub applied: LogIndex,
}

impl Persisted {
    /// A new group: every voter starts from the same snapshot at index 1, which holds who they are.
    #[must_use]
    pub fn bootstrap(voters: &[NodeId]) -> Self {
        let conf_state = ConfState {
            voters: voters.iter().map(|id| id.0).collect(),
            ..ConfState::default()
        };
        let hard_state = HardState {
            term: 1,
            vote: 0,
            commit: 1,
        };
        Self {
            hard_state,
            conf_state,
            truncated: (1, 1),
            entries: Vec::new(),
            applied: LogIndex(1),
        }
    }
}

/// A handle of the caller's on something it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

#[derive(Debug)]
pub enum Event {
    Tick,
    /// From a peer, as its transport knows it.
    Message {
        from: NodeId,
        bytes: Bytes,
    },
    Propose {
        token: Token,
        payload: Vec<u8>,
    },
    /// Asks for an index that is no older than this moment.
    Read {
        token: Token,
    },
    Transfer {
        to: NodeId,
    },
    Unreachable {
        peer: NodeId,
    },
    SnapshotSent {
        peer: NodeId,
        whole: bool,
    },
    /// The state at the applied index, after [`Effect::MakeSnapshot`].
    Snapshot {
        data: Vec<u8>,
    },
    /// Drops the log up to and including an applied index.
    Compact {
        to: LogIndex,
    },
}

/// One atomic write of the log.
#[derive(Debug, Default, Clone)]
pub struct LogWrite {
    /// Overwrite everything from the first one's index on.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Whether it must be on the disk before anything after it happens. Not so where only the
    /// commit index moved.
    pub must_sync: bool,
}

#[derive(Debug)]
pub struct Outgoing {
    pub to: NodeId,
    pub bytes: Bytes,
    /// Its delivery must be reported by [`Event::SnapshotSent`].
    pub is_snapshot: bool,
}

#[derive(Debug)]
pub struct Committed {
    pub index: LogIndex,
    pub payload: Bytes,
    /// Set where this start of this node proposed it.
    pub token: Option<Token>,
}

#[derive(Debug)]
pub enum Effect {
    Send(Vec<Outgoing>),
    Persist(LogWrite),
    /// Replaces the state and the log in one synced write.
    Install {
        index: LogIndex,
        term: u64,
        hard_state: HardState,
        conf_state: ConfState,
        data: Bytes,
    },
    /// In log order. `applied` may be past the last entry: elections leave empty ones.
    Apply {
        entries: Vec<Committed>,
        applied: LogIndex,
        commit: LogIndex,
    },
    /// Answer once everything up to `index` is applied.
    Read {
        token: Token,
        index: LogIndex,
    },
    /// This node does not lead, or its log is full: nothing was appended.
    Refused {
        token: Token,
        leader: Option<NodeId>,
    },
    /// Drop the log up to and including `index`.
    Truncate {
        index: LogIndex,
        term: u64,
    },
    /// A follower needs the state: answer with [`Event::Snapshot`].
    MakeSnapshot,
}

pub struct Node {
    raw: RawNode<MemoryLog>,
    settings: Settings,
    applied: LogIndex,
    reads: u64,
    readies: u64,
    draw: SplitMix,
    election_term_seen: (u64, StateRole),
}

#[derive(Debug, thiserror::Error)]
#[error("the persisted log contradicts itself: {problem}")]
pub struct LogError {
    problem: String,
}

impl Node {
    /// # Errors
    /// If what the disk had cannot be a Raft log.
    pub fn new(settings: Settings, persisted: Persisted) -> Result<Self, LogError> {
        let applied = persisted.applied;
        let mut log = MemoryLog {
            truncated: persisted.truncated,
            entries: persisted.entries.into(),
            hard_state: persisted.hard_state,
            conf_state: persisted.conf_state,
            ..MemoryLog::default()
        };
        // A commit index that only moved is not synced, so it may lag behind what was applied.
        log.hard_state.commit = log.hard_state.commit.max(applied.0);
        let problem = |problem: String| LogError { problem };
        if applied.0 < log.truncated.0 || log.hard_state.commit > log.last() {
            return Err(problem(format!(
                "log {}..={}, committed {}, applied {applied}",
                log.first(),
                log.last(),
                log.hard_state.commit
            )));
        }
        let config = Config {
            id: settings.id.0,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw =
            RawNode::new(&config, log, &logger).map_err(|error| problem(error.to_string()))?;
        let draw = SplitMix(settings.seed);
        let mut node = Self {
            raw,
            settings,
            applied,
            reads: 0,
            readies: 0,
            draw,
            election_term_seen: (0, StateRole::Follower),
        };
        node.draw_election_timeout();
        Ok(node)
    }

    /// Takes the events in order and says what must be done, in order, before the next step.
    pub fn step(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for event in events {
            self.take(event, &mut effects);
            self.redraw_if_reset();
        }
        while self.raw.has_ready() {
            self.ready(&mut effects);
            self.redraw_if_reset();
        }
        if self.raw.store().snapshot_wanted.take() {
            effects.push(Effect::MakeSnapshot);
        }
        effects
    }

    /// How often Raft had something to be done. Each time is at most one synced write of the log.
    #[must_use]
    pub fn readies(&self) -> u64 {
        self.readies
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.raw.raft.leader_id)
            .filter(|id| *id != 0)
            .map(NodeId)
    }

    #[must_use]
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether this node leads and has applied an entry of its own term, which is when its state
    /// has everything that was ever acknowledged.
    #[must_use]
    pub fn leads_with_whole_state(&self) -> bool {
        self.leads() && self.raw.store().term_or_zero(self.applied.0) == self.raw.raft.term
    }

    #[must_use]
    pub fn role(&self) -> StateRole {
        self.raw.raft.state
    }

    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.raw
            .store()
            .conf_state
            .learners
            .contains(&self.settings.id.0)
    }

    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        LogIndex(self.raw.store().first())
    }

    /// Bytes of the commands in the log, which is all in memory. Walks it.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.raw.store().bytes()
    }

    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.store().last())
    }

    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.raw.store().conf_state
    }

    /// How far each peer is known to be, on the leader.
    #[must_use]
    pub fn matched(&self) -> BTreeMap<NodeId, LogIndex> {
        let progress = self.raw.raft.prs().iter();
        progress
            .map(|(id, progress)| (NodeId(*id), LogIndex(progress.matched)))
            .collect()
    }

    fn take(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => drop(self.raw.tick()),
            Event::Message { from, bytes } => self.message(from, &bytes),
            Event::Propose { token, payload } => {
                let context = self.context(token.0);
                if !self.leads() || self.raw.propose(context, payload).is_err() {
                    effects.push(Effect::Refused {
                        token,
                        leader: self.leader(),
                    });
                }
            }
            Event::Read { token } => {
                // A context that was used before could be answered by acknowledgements of then
                // (etcd served stale reads that way), so every attempt has its own.
                self.reads += 1;
                let mut context = self.context(token.0);
                context.extend_from_slice(&self.reads.to_be_bytes());
                self.raw.read_index(context);
            }
            Event::Transfer { to } => self.raw.transfer_leader(to.0),
            Event::Unreachable { peer } => self.raw.report_unreachable(peer.0),
            Event::SnapshotSent { peer, whole } => {
                let status = if whole {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.raw.report_snapshot(peer.0, status);
            }
            Event::Snapshot { data } => self.keep_snapshot(data),
            Event::Compact { to } => {
                if to <= self.applied && to >= self.first_index() {
                    self.raw.mut_store().compact(to.0);
                    let (index, term) = self.raw.store().truncated;
                    effects.push(Effect::Truncate {
                        index: LogIndex(index),
                        term,
                    });
                }
            }
        }
    }

    fn message(&mut self, from: NodeId, bytes: &[u8]) {
        // Bytes that are no message of ours are a peer's fault and cost only themselves.
        let Ok(message) = Message::decode(bytes) else {
            return;
        };
        let kind = message.get_msg_type();
        // Writes are forwarded above, where they carry an id; a raw proposal could be lost silently.
        if kind == MessageType::MsgPropose
            || raft::raw_node::is_local_msg(kind)
            || message.to != self.settings.id.0
            || message.from != from.0
        {
            return;
        }
        // Errors say that the message is of no use to us (unknown peer, wrong role).
        let _ = self.raw.step(message);
    }

    fn keep_snapshot(&mut self, data: Vec<u8>) {
        let mut snapshot = Snapshot::default();
        let term = self.raw.store().term_or_zero(self.applied.0);
        let conf_state = self.raw.store().conf_state.clone();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.0;
        metadata.term = term;
        metadata.set_conf_state(conf_state);
        snapshot.data = data;
        self.raw.mut_store().snapshot = Some(snapshot);
    }

    fn ready(&mut self, effects: &mut Vec<Effect>) {
        self.readies += 1;
        let mut ready = self.raw.ready();
        self.send(ready.take_messages(), effects);

        let snapshot = ready.snapshot().clone();
        if !snapshot.is_empty() {
            self.install(&snapshot, ready.hs().cloned(), effects);
        }
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        if !entries.is_empty() || hard_state.is_some() {
            self.raw.mut_store().append(&entries);
            if let Some(hard_state) = &hard_state {
                self.raw.mut_store().hard_state = hard_state.clone();
            }
            effects.push(Effect::Persist(LogWrite {
                entries,
                hard_state,
                must_sync: ready.must_sync(),
            }));
        }
        self.send(ready.take_persisted_messages(), effects);
        let reads = ready.take_read_states();
        let mut committed = ready.take_committed_entries();

        let mut light = self.raw.advance_append(ready);
        self.send(light.take_messages(), effects);
        committed.extend(light.take_committed_entries());
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().hard_state.commit = commit;
        }
        // A snapshot counts as applied; entries after it move this on.
        self.raw.advance_apply_to(self.applied.0);
        self.apply(committed, effects);
        for read in reads {
            if let Some(token) = self.token_of(read.request_ctx.get(..24).unwrap_or_default()) {
                effects.push(Effect::Read {
                    token,
                    index: LogIndex(read.index),
                });
            }
        }
    }

    fn send(&self, messages: Vec<Message>, effects: &mut Vec<Effect>) {
        let outgoing: Vec<Outgoing> = messages
            .into_iter()
            .map(|message| Outgoing {
                to: NodeId(message.to),
                is_snapshot: message.get_msg_type() == MessageType::MsgSnapshot,
                bytes: message.encode_to_vec().into(),
            })
            .collect();
        if !outgoing.is_empty() {
            effects.push(Effect::Send(outgoing));
        }
    }

    fn install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: Option<HardState>,
        effects: &mut Vec<Effect>,
    ) {
        self.raw.mut_store().reset(snapshot);
        let metadata = snapshot.get_metadata();
        let mut hard_state = hard_state.unwrap_or_else(|| self.raw.store().hard_state.clone());
        // What was committed after the snapshot is written after it; a crash in between must not
        // find a commit index beyond the log.
        hard_state.commit = metadata.index;
        self.applied = LogIndex(metadata.index);
        effects.push(Effect::Install {
            index: LogIndex(metadata.index),
            term: metadata.term,
            hard_state,
            conf_state: metadata.get_conf_state().clone(),
            data: snapshot.data.clone().into(),
        });
    }

    fn apply(&mut self, committed: Vec<Entry>, effects: &mut Vec<Effect>) {
        let Some(last) = committed.last() else { return };
        let applied = LogIndex(last.index);
        let mut entries = Vec::new();
        for entry in committed {
            // Empty entries are a new leader's first, or a membership change that raft-rs dropped.
            // Membership is fixed for now: nothing proposes a change.
            if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
                continue;
            }
            entries.push(Committed {
                index: LogIndex(entry.index),
                token: self.token_of(&entry.context),
                payload: entry.data.into(),
            });
        }
        self.applied = applied;
        self.raw.advance_apply_to(applied.0);
        effects.push(Effect::Apply {
            entries,
            applied,
            commit: self.committed(),
        });
    }

    /// Node, boot and token: what was proposed or asked here, in this life.
    fn context(&self, token: u64) -> Vec<u8> {
        [self.settings.id.0, self.settings.boot, token]
            .iter()
            .flat_map(|part| part.to_be_bytes())
            .collect()
    }

    fn token_of(&self, context: &[u8]) -> Option<Token> {
        let token = u64::from_be_bytes(context.get(16..24)?.try_into().ok()?);
        (context.len() == 24 && self.context(token) == context).then_some(Token(token))
    }

    /// raft-rs draws the timeout from the thread's generator on every reset; a simulation needs
    /// it drawn from ours.
    fn redraw_if_reset(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.state);
        if now != self.election_term_seen {
            self.election_term_seen = now;
            self.draw_election_timeout();
        }
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.settings.election_ticks;
        let extra = usize::try_from(self.draw.next() % ticks as u64)
            .expect("less than the ticks, which are a usize");
        self.raw.raft.set_randomized_election_timeout(ticks + extra);
    }
}

impl MemoryLog {
    fn term_or_zero(&self, index: u64) -> u64 {
        raft::Storage::term(self, index).unwrap_or(0)
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): enough to spread election timeouts.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The voters of a configuration.
#[must_use]
pub fn voters(conf_state: &ConfState) -> BTreeSet<NodeId> {
    conf_state.voters.iter().copied().map(NodeId).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn follower() -> Node {
        let settings = Settings {
            id: NodeId(2),
            boot: 1,
            seed: 1,
            election_ticks: 10,
            heartbeat_ticks: 1,
        };
        let voters = [1, 2, 3].map(NodeId);
        Node::new(settings, Persisted::bootstrap(&voters)).unwrap()
    }

    fn message(kind: MessageType) -> Message {
        let mut message = Message {
            from: 1,
            to: 2,
            term: 2,
            ..Message::default()
        };
        message.set_msg_type(kind);
        message
    }

    fn entry(index: u64) -> Entry {
        Entry {
            index,
            term: 2,
            data: b"value".to_vec(),
            ..Entry::default()
        }
    }

    fn from_leader(message: &Message) -> Event {
        Event::Message {
            from: NodeId(1),
            bytes: message.encode_to_vec().into(),
        }
    }

    #[test]
    fn a_snapshot_is_never_written_with_a_commit_index_beyond_it() {
        let mut node = follower();
        let mut snapshot = message(MessageType::MsgSnapshot);
        let metadata = snapshot.mut_snapshot().mut_metadata();
        metadata.index = 10;
        metadata.term = 2;
        metadata.set_conf_state(ConfState {
            voters: vec![1, 2, 3],
            ..ConfState::default()
        });
        let mut append = message(MessageType::MsgAppend);
        append.index = 10;
        append.log_term = 2;
        append.commit = 11;
        append.entries = vec![entry(11)];

        let effects = node.step([from_leader(&snapshot), from_leader(&append)]);
        let commits: Vec<u64> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Install { hard_state, .. } => Some(hard_state.commit),
                Effect::Persist(write) => write.hard_state.as_ref().map(|state| state.commit),
                _ => None,
            })
            .collect();
        assert_eq!(commits, [10, 11], "{effects:?}");
        assert_eq!(node.applied(), LogIndex(11));
    }

    #[test]
    fn what_a_peer_may_not_send_changes_nothing() {
        let mut append = message(MessageType::MsgAppend);
        append.index = 1;
        append.log_term = 1;
        append.entries = vec![entry(2)];
        let mut proposal = message(MessageType::MsgPropose);
        proposal.term = 0;
        proposal.entries = vec![entry(0)];
        let mut elsewhere = append.clone();
        elsewhere.to = 3;
        let mut forged = append.clone();
        forged.from = 3;
        for (case, event) in [
            ("a proposal", from_leader(&proposal)),
            (
                "a local message",
                from_leader(&message(MessageType::MsgHup)),
            ),
            ("a message for another node", from_leader(&elsewhere)),
            ("a message in another's name", from_leader(&forged)),
            (
                "no message",
                Event::Message {
                    from: NodeId(1),
                    bytes: Bytes::from_static(b"\xff\xff"),
                },
            ),
        ] {
            let mut node = follower();
            let effects = node.step([event]);
            assert!(effects.is_empty(), "{case}: {effects:?}");
        }
        let effects = follower().step([from_leader(&append)]);
        assert!(!effects.is_empty(), "the leader's own message counts");
    }
}
