//! Three nodes in one thread: fake disks that lose what was not synced, links that lose messages,
//! crashes between any two effects, partitions, compaction and snapshots. A failure names its seed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use global_plane_consensus::node::{
    Committed, Effect, Event, LogWrite, Node, Outgoing, Persisted, Settings, Token,
};
use global_plane_consensus::{LogIndex, NodeId};
use raft::prelude::{ConfState, HardState};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const NODES: usize = 3;
const STEPS: usize = 6000;
/// Rounds of one tick and of every message on its way, within which a healed group must agree.
const CONVERGED_WITHIN: usize = 400;
const SEEDS: u64 = 2000;

/// The replicated state: every value by the position it was applied at.
type Applied = BTreeMap<u64, u64>;

/// What one write-ahead log holds.
#[derive(Clone)]
struct Image {
    log: Persisted,
    state: Applied,
}

enum Write {
    Log(LogWrite),
    Apply(Vec<(u64, u64)>, LogIndex, LogIndex),
    Install((LogIndex, u64), HardState, ConfState, Applied),
    Truncate(LogIndex, u64),
}

impl Image {
    fn write(&mut self, write: &Write) {
        let log = &mut self.log;
        match write {
            Write::Log(write) => {
                if let Some(first) = write.entries.first() {
                    let keep = usize::try_from(first.index - log.truncated.0 - 1).unwrap();
                    assert!(keep <= log.entries.len(), "the log has a gap");
                    log.entries.truncate(keep);
                    log.entries.extend(write.entries.iter().cloned());
                }
                if let Some(hard_state) = &write.hard_state {
                    log.hard_state = hard_state.clone();
                }
            }
            Write::Apply(values, applied, commit) => {
                self.state.extend(values.iter().copied());
                assert!(*applied > log.applied, "applied went back");
                log.applied = *applied;
                log.hard_state.commit = log.hard_state.commit.max(commit.0);
            }
            Write::Install((index, term), hard_state, conf_state, state) => {
                *log = Persisted {
                    hard_state: hard_state.clone(),
                    conf_state: conf_state.clone(),
                    truncated: (index.0, *term),
                    entries: Vec::new(),
                    applied: *index,
                };
                self.state.clone_from(state);
            }
            Write::Truncate(index, term) => {
                let gone = usize::try_from(index.0 - log.truncated.0).unwrap();
                log.entries.drain(..gone);
                log.truncated = (index.0, *term);
            }
        }
    }
}

/// As RocksDB: writes are kept in order, and up to some point after the last synced one.
struct Disk {
    durable: Image,
    current: Image,
    unsynced: Vec<Write>,
}

impl Disk {
    fn write(&mut self, write: Write, sync: bool) {
        self.current.write(&write);
        self.unsynced.push(write);
        if sync {
            for write in self.unsynced.drain(..) {
                self.durable.write(&write);
            }
        }
    }

    fn crash(&mut self, random: &mut StdRng) {
        let kept = random.random_range(0..=self.unsynced.len());
        for write in self.unsynced.drain(..).take(kept) {
            self.durable.write(&write);
        }
        self.current = self.durable.clone();
    }
}

struct World {
    random: StdRng,
    nodes: Vec<Option<Node>>,
    disks: Vec<Disk>,
    boots: u64,
    links: BTreeMap<(usize, usize), VecDeque<(Bytes, bool)>>,
    /// Pairs that cannot reach each other.
    cut: Vec<(usize, usize)>,
    tokens: u64,
    proposed: BTreeMap<Token, u64>,
    /// Reads on their way, with the newest position acknowledged before each began.
    reads: BTreeMap<Token, u64>,
    acknowledged: Applied,
    /// What any node ever applied at a position.
    history: Applied,
    leaders: BTreeMap<u64, usize>,
    calm: bool,
    /// How often each thing that must be put to the test happened.
    reads_answered: usize,
    installs: usize,
    crashes: usize,
    trace: DefaultHasher,
}

impl World {
    fn new(seed: u64) -> Self {
        let voters: Vec<NodeId> = (0..NODES).map(id).collect();
        let image = Image {
            log: Persisted::bootstrap(&voters),
            state: Applied::new(),
        };
        let disks = (0..NODES).map(|_| Disk {
            durable: image.clone(),
            current: image.clone(),
            unsynced: Vec::new(),
        });
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            nodes: (0..NODES).map(|_| None).collect(),
            disks: disks.collect(),
            boots: 0,
            links: BTreeMap::new(),
            cut: Vec::new(),
            tokens: 0,
            proposed: BTreeMap::new(),
            reads: BTreeMap::new(),
            acknowledged: Applied::new(),
            history: Applied::new(),
            leaders: BTreeMap::new(),
            calm: false,
            reads_answered: 0,
            installs: 0,
            crashes: 0,
            trace: DefaultHasher::new(),
        };
        for node in 0..NODES {
            world.start(node);
        }
        world
    }

    fn start(&mut self, at: usize) {
        self.boots += 1;
        let settings = Settings {
            id: id(at),
            boot: self.boots,
            seed: self.random.random(),
            election_ticks: 10,
            heartbeat_ticks: 1,
        };
        let persisted = self.disks[at].current.log.clone();
        self.nodes[at] = Some(Node::new(settings, persisted).unwrap());
    }

    fn crash(&mut self, at: usize) {
        self.crashes += 1;
        self.nodes[at] = None;
        self.disks[at].crash(&mut self.random);
        for link in self.links.keys().copied().collect::<Vec<_>>() {
            if link.0 == at || link.1 == at {
                self.lose(link);
            }
        }
    }

    /// Breaks a link: what was on its way is gone, and whoever sent a snapshot hears of it.
    fn lose(&mut self, link: (usize, usize)) {
        let lost = self.links.remove(&link).unwrap_or_default();
        if lost.iter().any(|(_, is_snapshot)| *is_snapshot) {
            self.report(link, false);
        }
    }

    fn report(&mut self, (from, to): (usize, usize), whole: bool) {
        let peer = id(to);
        self.step(from, vec![Event::SnapshotSent { peer, whole }]);
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn step(&mut self, at: usize, events: Vec<Event>) {
        let Some(mut node) = self.nodes[at].take() else {
            return;
        };
        let effects = node.step(events);
        if node.leads() {
            let before = *self.leaders.entry(node.term()).or_insert(at);
            assert_eq!(before, at, "two leaders in term {}", node.term());
        }
        let crash_at = (!self.calm && self.random.random_bool(0.002))
            .then(|| self.random.random_range(0..=effects.len()));
        self.nodes[at] = Some(node);
        for (done, effect) in effects.into_iter().enumerate() {
            if crash_at == Some(done) {
                return self.crash(at);
            }
            self.carry_out(at, effect);
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send(messages) => {
                for Outgoing {
                    to,
                    bytes,
                    is_snapshot,
                } in messages
                {
                    bytes.hash(&mut self.trace);
                    let to = usize::try_from(to.0).unwrap() - 1;
                    let link = self.links.entry((at, to)).or_default();
                    link.push_back((bytes, is_snapshot));
                }
            }
            Effect::Persist(write) => {
                let sync = write.must_sync;
                self.disks[at].write(Write::Log(write), sync);
            }
            Effect::Install {
                index,
                term,
                hard_state,
                conf_state,
                data,
            } => {
                self.installs += 1;
                let state: Applied = decode(&data);
                for (index, value) in &state {
                    assert_eq!(self.history.get(index), Some(value), "a snapshot differs");
                }
                let write = Write::Install((index, term), hard_state, conf_state, state);
                self.disks[at].write(write, true);
            }
            Effect::Apply {
                entries,
                applied,
                commit,
            } => self.apply(at, entries, applied, commit),
            Effect::Read { token, index } => {
                self.reads_answered += 1;
                let newest = self.reads.remove(&token).unwrap();
                assert!(index.0 >= newest, "a read at {index} misses {newest}");
            }
            Effect::Refused { token, .. } => {
                self.proposed.remove(&token);
            }
            Effect::Truncate { index, term } => {
                self.disks[at].write(Write::Truncate(index, term), false);
            }
            Effect::MakeSnapshot => {
                let data = encode(&self.disks[at].current.state);
                self.step(at, vec![Event::Snapshot { data }]);
            }
        }
    }

    fn apply(&mut self, at: usize, entries: Vec<Committed>, applied: LogIndex, commit: LogIndex) {
        let mut values = Vec::new();
        let mut told = Vec::new();
        for Committed {
            index,
            payload,
            token,
        } in entries
        {
            let value = u64::from_be_bytes(payload[..].try_into().unwrap());
            let known = *self.history.entry(index.0).or_insert(value);
            assert_eq!(known, value, "nodes differ at {index}");
            values.push((index.0, value));
            if let Some(token) = token {
                told.push((token, index.0, value));
            }
        }
        self.disks[at].write(Write::Apply(values, applied, commit), false);
        for (token, index, value) in told {
            assert_eq!(self.proposed.remove(&token), Some(value));
            self.acknowledged.insert(index, value);
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn propose(&mut self, at: usize, how_many: usize) {
        let mut events = Vec::new();
        for _ in 0..how_many {
            let token = self.token();
            self.proposed.insert(token, token.0);
            let payload = token.0.to_be_bytes().to_vec();
            events.push(Event::Propose { token, payload });
        }
        self.step(at, events);
    }

    fn read(&mut self, at: usize) {
        let token = self.token();
        let newest = self.acknowledged.keys().next_back().copied();
        self.reads.insert(token, newest.unwrap_or_default());
        self.step(at, vec![Event::Read { token }]);
    }

    /// Delivers what a link holds, up to `most` messages in one step.
    fn deliver(&mut self, link: (usize, usize), most: usize, loss: f64) {
        let (from, to) = link;
        let up = !self.is_cut(from, to) && self.nodes[to].is_some();
        let mut events = Vec::new();
        let mut snapshots = Vec::new();
        let mut lost = false;
        for _ in 0..most {
            let Some((bytes, is_snapshot)) =
                self.links.get_mut(&link).and_then(VecDeque::pop_front)
            else {
                break;
            };
            let arrives = up && !self.random.random_bool(loss);
            if is_snapshot {
                snapshots.push(arrives);
            }
            if arrives {
                let from = id(from);
                events.push(Event::Message { from, bytes });
            } else {
                lost = true;
            }
        }
        self.step(to, events);
        if lost {
            let peer = id(to);
            self.step(from, vec![Event::Unreachable { peer }]);
        }
        for whole in snapshots {
            self.report(link, whole);
        }
    }

    /// One thing happens.
    fn stir(&mut self) {
        let at = self.random.random_range(0..NODES);
        match self.random.random_range(0..1000) {
            0..=199 => self.step(at, vec![Event::Tick]),
            200..=799 => {
                let waiting = self.links.iter().filter(|(_, queue)| !queue.is_empty());
                let waiting: Vec<_> = waiting.map(|(link, _)| *link).collect();
                if !waiting.is_empty() {
                    let link = waiting[self.random.random_range(0..waiting.len())];
                    let most = self.random.random_range(1..5);
                    self.deliver(link, most, 0.02);
                }
            }
            800..=889 => {
                let how_many = self.random.random_range(1..4);
                self.propose(at, how_many);
            }
            890..=939 => self.read(at),
            940..=959 => {
                let applied = self.disks[at].current.log.applied;
                let keep = self.random.random_range(0..6);
                let to = LogIndex(applied.0.saturating_sub(keep));
                self.step(at, vec![Event::Compact { to }]);
            }
            960..=963 => {
                let to = id(self.random.random_range(0..NODES));
                self.step(at, vec![Event::Transfer { to }]);
            }
            964..=971 if self.nodes[at].is_some() => self.crash(at),
            972..=989 if self.nodes[at].is_none() => self.start(at),
            990..=993 => {
                let other = (at + 1) % NODES;
                self.cut.push((at.min(other), at.max(other)));
            }
            994..=999 => self.cut.clear(),
            _ => {}
        }
    }

    /// Everything works again: all must agree, with nothing acknowledged lost.
    fn settle(&mut self) {
        self.calm = true;
        self.cut.clear();
        let mut last = None;
        for round in 0..CONVERGED_WITHIN {
            for at in 0..NODES {
                if self.nodes[at].is_none() {
                    self.start(at);
                }
                self.step(at, vec![Event::Tick]);
            }
            for link in self.links.keys().copied().collect::<Vec<_>>() {
                self.deliver(link, usize::MAX, 0.0);
            }
            // Only a value proposed now proves that the group takes writes again; a change of
            // leaders may take it away, so it is repeated.
            let leader = (0..NODES).find(|at| {
                self.nodes[*at]
                    .as_ref()
                    .is_some_and(Node::leads_with_whole_state)
            });
            if let Some(leader) = leader
                && round % 50 == 49
            {
                self.propose(leader, 1);
                last = Some(self.tokens);
            }
            let done = last.is_some_and(|last| self.acknowledged.values().any(|v| *v == last));
            let states = || self.disks.iter().map(|disk| &disk.current.state);
            if done && states().all(|state| *state == self.history) {
                for (index, value) in &self.acknowledged {
                    assert_eq!(
                        self.history.get(index),
                        Some(value),
                        "an acknowledged write is lost"
                    );
                }
                return;
            }
        }
        panic!("the group did not agree after everything was healed");
    }
}

fn id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn encode(state: &Applied) -> Vec<u8> {
    state
        .iter()
        .flat_map(|(index, value)| [index.to_be_bytes(), value.to_be_bytes()].concat())
        .collect()
}

fn decode(data: &[u8]) -> Applied {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    data.chunks(16)
        .map(|pair| (number(&pair[..8]), number(&pair[8..])))
        .collect()
}

/// Names the seed when a world falls apart.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

fn run(seed: u64) -> World {
    let _named = Seed(seed);
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.stir();
    }
    world.settle();
    world
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails() {
    let (mut acknowledged, mut reads, mut installs, mut crashes) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let world = run(seed);
        acknowledged += world.acknowledged.len();
        reads += world.reads_answered;
        installs += world.installs;
        crashes += world.crashes;
    }
    eprintln!("{acknowledged} writes, {reads} reads, {installs} snapshots, {crashes} crashes");
    // A simulation in which nothing happens would prove nothing.
    assert!(acknowledged > 50_000 && reads > 20_000 && installs > 2_000 && crashes > 20_000);
}

#[test]
fn a_seed_replays_message_by_message() {
    for seed in [3, 17] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace.finish(), second.trace.finish());
        assert_eq!(first.history, second.history);
    }
}
