//! Three nodes with real threads, RocksDB and TCP.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use global_plane_consensus::driver::{Config, deliver_to};
use global_plane_consensus::node::Settings;
use global_plane_consensus::store::Identity;
use global_plane_consensus::transport::{Peers, Transport};
use global_plane_consensus::{
    ApplyError, Driver, Handle, LogIndex, NodeId, ProposeError, ReadError, Role, StateBatch,
    StateMachine, Status, Store,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Many elections on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Seen {
    list: Arc<Mutex<Vec<String>>>,
    restored: Arc<AtomicUsize>,
    /// The program is older than commands that begin with `new`.
    is_old: Arc<AtomicBool>,
}

impl Seen {
    fn list(&self) -> Vec<String> {
        self.list.lock().unwrap().clone()
    }
}

/// Appends every command; the outcome is the length after it.
struct Appender(Seen);

impl Appender {
    fn put(batch: &mut StateBatch<'_>, position: usize, text: &str) {
        batch.put("list", (position as u64).to_be_bytes(), text);
    }
}

impl StateMachine for Appender {
    type Outcome = usize;

    fn apply(
        &mut self,
        index: LogIndex,
        payload: &[u8],
        batch: &mut StateBatch<'_>,
    ) -> Result<usize, ApplyError> {
        let text = String::from_utf8(payload.to_vec()).unwrap();
        if text.starts_with("new") && self.0.is_old.load(Ordering::Relaxed) {
            let problem = text;
            return Err(ApplyError::Newer { index, problem });
        }
        let mut list = self.0.list.lock().unwrap();
        Self::put(batch, list.len(), &text);
        list.push(text);
        Ok(list.len())
    }

    fn committed(&mut self, _applied: LogIndex) {}

    fn snapshot(&self) -> Vec<u8> {
        self.0.list().join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8], batch: &mut StateBatch<'_>) -> Result<(), ApplyError> {
        self.0.restored.fetch_add(1, Ordering::Relaxed);
        let text = std::str::from_utf8(snapshot).unwrap();
        let list: Vec<String> = text.lines().map(str::to_owned).collect();
        batch.clear("list");
        for (position, text) in list.iter().enumerate() {
            Self::put(batch, position, text);
        }
        *self.0.list.lock().unwrap() = list;
        Ok(())
    }
}

struct Running {
    handle: Handle<usize>,
    driver: Driver,
    seen: Seen,
    /// Dropping it ends the transport's tasks.
    network: JoinSet<()>,
}

struct Cluster {
    dirs: BTreeMap<NodeId, TempDir>,
    addresses: BTreeMap<NodeId, SocketAddr>,
    running: BTreeMap<NodeId, Running>,
}

impl Cluster {
    async fn start() -> Self {
        let ids = [1, 2, 3].map(NodeId);
        let mut cluster = Self {
            dirs: ids.map(|id| (id, tempfile::tempdir().unwrap())).into(),
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        let mut listeners = Vec::new();
        for id in ids {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.addresses.insert(id, listener.local_addr().unwrap());
            listeners.push((id, listener));
        }
        for (id, listener) in listeners {
            cluster.start_node(id, listener);
        }
        cluster
    }

    fn start_node(&mut self, id: NodeId, listener: TcpListener) {
        let identity = Identity {
            cluster: "test".to_owned(),
            node: id,
        };
        let voters: Vec<NodeId> = self.addresses.keys().copied().collect();
        let (store, persisted) =
            Store::open(self.dirs[&id].path(), &identity, &voters, &["list"]).unwrap();
        let seen = Seen::default();
        let records = store.reader().scan("list").unwrap();
        *seen.list.lock().unwrap() = records
            .into_iter()
            .map(|(_, value)| String::from_utf8(value).unwrap())
            .collect();
        let config = Config {
            tick: Duration::from_millis(20),
            settings: Settings {
                id,
                boot: store.boots(),
                seed: id.0 * 1000 + store.boots(),
                election_ticks: 10,
                heartbeat_ticks: 1,
            },
            compact_every: 50,
            keep: 10,
        };
        let node = Driver::node(&config, persisted).unwrap();
        let (handle, inbox) = Driver::prepare(&node, &store);
        let peers = Peers {
            cluster: "test".to_owned(),
            me: id,
            addresses: self.addresses.clone(),
        };
        let mut network = JoinSet::new();
        let deliver = deliver_to(handle.clone());
        let transport = Transport::start(&peers, listener, deliver, &mut network);
        let machine = Appender(seen.clone());
        let driver = Driver::start(config, node, store, machine, transport, inbox);
        let running = Running {
            handle,
            driver,
            seen,
            network,
        };
        self.running.insert(id, running);
    }

    async fn stop(&mut self, id: NodeId) {
        let mut node = self.running.remove(&id).unwrap();
        node.network.shutdown().await;
        node.handle.shutdown();
        tokio::task::spawn_blocking(|| node.driver.join())
            .await
            .unwrap()
            .unwrap();
    }

    async fn restart(&mut self, id: NodeId) {
        let listener = TcpListener::bind(self.addresses[&id]).await.unwrap();
        self.start_node(id, listener);
    }

    /// A leader whose state has everything.
    async fn leader(&self) -> NodeId {
        let mut waits = JoinSet::new();
        for (id, node) in &self.running {
            let (id, mut status) = (*id, node.handle.status());
            waits.spawn(async move {
                let leads = status.wait_for(|status| status.leads_with_whole_state);
                leads.await.unwrap();
                id
            });
        }
        timeout(PATIENCE, waits.join_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    /// Proposes as a client does: to whoever leads, again while nobody takes it.
    async fn propose(&self, text: &str) -> (LogIndex, usize) {
        let attempts = async {
            loop {
                let leader = self.leader().await;
                match self.handle(leader).propose(text.into()).await {
                    Ok(told) => return told,
                    Err(error) => {
                        assert!(
                            matches!(error, ProposeError::NotLeader { .. }),
                            "a repeat could append twice: {error}"
                        );
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        timeout(PATIENCE, attempts).await.unwrap()
    }

    fn handle(&self, id: NodeId) -> &Handle<usize> {
        &self.running[&id].handle
    }

    async fn wait(&self, id: NodeId, until: impl FnMut(&Status) -> bool) {
        let mut status = self.handle(id).status();
        let reached = timeout(PATIENCE, status.wait_for(until)).await;
        reached.unwrap().unwrap();
    }

    async fn all_apply(&self, index: LogIndex) {
        for id in self.running.keys() {
            self.wait(*id, |status| status.applied >= index).await;
        }
    }

    async fn stop_all(mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_proposals_share_syncs_and_every_node_applies_them_alike() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let (readies_before, syncs_before) = cluster.handle(leader).counts();

    let mut proposals = JoinSet::new();
    for n in 0..400 {
        let handle = cluster.handle(leader).clone();
        proposals.spawn(async move { handle.propose(format!("p{n}").into()).await });
    }
    let mut lengths = Vec::new();
    let mut last = LogIndex(0);
    while let Some(told) = timeout(PATIENCE, proposals.join_next()).await.unwrap() {
        let (index, length) = told.unwrap().unwrap();
        lengths.push(length);
        last = last.max(index);
    }
    lengths.sort_unstable();
    assert_eq!(lengths, (1..=400).collect::<Vec<_>>(), "each once");

    let (readies, syncs) = cluster.handle(leader).counts();
    let (readies, syncs) = (readies - readies_before, syncs - syncs_before);
    assert!(syncs <= readies, "{syncs} syncs for {readies} readies");
    assert!(syncs < 200, "400 proposals waited for {syncs} syncs");

    cluster.all_apply(last).await;
    let want = cluster.running[&leader].seen.list();
    for node in cluster.running.values() {
        assert_eq!(node.seen.list(), want);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_apply_an_entry_stops_before_it_and_a_newer_program_goes_on_from_its_disk()
 {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let old = *cluster.running.keys().find(|id| **id != leader).unwrap();
    cluster.running[&old]
        .seen
        .is_old
        .store(true, Ordering::Relaxed);
    cluster.propose("before").await;
    let (index, _) = cluster.propose("new").await;
    let (last, _) = cluster.propose("after").await;

    let mut stopped = cluster.running.remove(&old).unwrap();
    timeout(PATIENCE, stopped.handle.ended()).await.unwrap();
    stopped.network.shutdown().await;
    let joined = tokio::task::spawn_blocking(|| stopped.driver.join()).await;
    match joined.unwrap() {
        Err(ApplyError::Newer { index: at, problem }) => {
            assert_eq!((at, problem.as_str()), (index, "new"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stopped.seen.list(), ["before"]);
    drop(stopped.handle);

    cluster.restart(old).await;
    cluster.wait(old, |status| status.applied >= last).await;
    assert_eq!(
        cluster.running[&old].seen.list(),
        ["before", "new", "after"]
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_read_on_a_follower_sees_what_was_acknowledged_before() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let follower = *cluster.running.keys().find(|id| **id != leader).unwrap();
    for n in 0..20 {
        let (index, length) = cluster.propose(&format!("r{n}")).await;
        let read = cluster.handle(follower).read_index(PATIENCE).await.unwrap();
        assert!(read >= index, "read at {read} after a write at {index}");
        assert!(cluster.running[&follower].seen.list().len() >= length);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_catches_up_from_the_log_or_by_a_snapshot() {
    for (case, writes, by_snapshot) in [("from the log", 5, false), ("by a snapshot", 300, true)] {
        let mut cluster = Cluster::start().await;
        let leader = cluster.leader().await;
        cluster.propose("before").await;
        let away = *cluster.running.keys().find(|id| **id != leader).unwrap();
        cluster.stop(away).await;
        let mut last = LogIndex(0);
        for n in 0..writes {
            (last, _) = cluster.propose(&format!("w{n}")).await;
        }
        cluster.restart(away).await;
        cluster.wait(away, |status| status.applied >= last).await;
        let node = &cluster.running[&away];
        let leader = cluster.leader().await;
        assert_eq!(
            node.seen.list(),
            cluster.running[&leader].seen.list(),
            "{case}"
        );
        let restored = node.seen.restored.load(Ordering::Relaxed);
        assert_eq!(restored > 0, by_snapshot, "{case}: {restored} restored");

        // What a snapshot brought must be on the disk too.
        cluster.stop(away).await;
        cluster.restart(away).await;
        assert!(cluster.running[&away].seen.list().len() > writes, "{case}");
        cluster.stop_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_nodes_keeps_what_was_acknowledged() {
    let mut cluster = Cluster::start().await;
    let mut want = Vec::new();
    for round in 0..3 {
        for n in 0..30 {
            let text = format!("round {round} write {n}");
            cluster.propose(&text).await;
            want.push(text);
        }
        for id in [1, 2, 3].map(NodeId) {
            cluster.stop(id).await;
        }
        for id in [1, 2, 3].map(NodeId) {
            cluster.restart(id).await;
        }
    }
    let (index, _) = cluster.propose("last").await;
    want.push("last".to_owned());
    cluster.all_apply(index).await;
    for node in cluster.running.values() {
        assert_eq!(node.seen.list(), want);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_handed_and_writes_go_on() {
    let cluster = Cluster::start().await;
    let before = cluster.leader().await;
    cluster.propose("before").await;
    cluster.handle(before).transfer_leadership().await.unwrap();
    cluster
        .wait(before, |status| {
            status.leader.is_some_and(|id| id != before)
        })
        .await;
    assert_ne!(cluster.handle(before).status().borrow().role, Role::Leader);
    let error = cluster.handle(before).propose("x".into()).await;
    assert!(matches!(error, Err(ProposeError::NotLeader { .. })));
    let (_, length) = cluster.propose("after").await;
    assert_eq!(length, 2);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_commands_are_compacted_before_they_are_many() {
    let cluster = Cluster::start().await;
    let text = "x".repeat(4 << 20);
    let mut last = LogIndex(0);
    for _ in 0..20 {
        (last, _) = cluster.propose(&text).await;
    }
    let too_large = cluster
        .handle(cluster.leader().await)
        .propose(vec![0; (4 << 20) + 1]);
    let error = too_large.await.unwrap_err();
    assert_eq!(error, ProposeError::TooLarge { max: 4 << 20 });
    cluster.all_apply(last).await;
    for id in [1, 2, 3].map(NodeId) {
        cluster.wait(id, |status| status.first > LogIndex(2)).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_confirms_nothing() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for id in [1, 2, 3].map(NodeId) {
        if id != leader {
            cluster.stop(id).await;
        }
    }
    let read = cluster.handle(leader).read_index(Duration::from_secs(1));
    assert_eq!(read.await, Err(ReadError::NoLeader));
    // Check-quorum ends its leadership, and what it had proposed is of unknown fate.
    cluster
        .wait(leader, |status| status.role != Role::Leader)
        .await;
    let error = cluster.handle(leader).propose("lost".into()).await;
    assert!(matches!(error, Err(ProposeError::NotLeader { .. })));
    cluster.stop_all().await;
}
