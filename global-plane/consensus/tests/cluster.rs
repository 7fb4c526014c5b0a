//! Three nodes over TCP and RocksDB on loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use global_plane_consensus::driver::{Config, deliver_to};
use global_plane_consensus::node::Settings;
use global_plane_consensus::store::Identity;
use global_plane_consensus::transport::{Peers, Transport};
use global_plane_consensus::{
    ApplyError, Driver, Handle, LogIndex, NodeId, ProposeError, Role, StateBatch, StateMachine,
    Store,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const FAMILY: &str = "list";
const PATIENCE: Duration = Duration::from_secs(20);

/// A list that commands append to, kept in the family by position.
struct List {
    items: Arc<Mutex<Vec<String>>>,
}

impl StateMachine for List {
    type Outcome = usize;

    fn apply(
        &mut self,
        _index: LogIndex,
        payload: &[u8],
        batch: &mut StateBatch<'_>,
    ) -> Result<usize, ApplyError> {
        let mut items = self.items.lock().unwrap();
        batch.put(FAMILY, (items.len() as u64).to_be_bytes(), payload);
        items.push(String::from_utf8(payload.to_vec()).unwrap());
        Ok(items.len())
    }

    fn committed(&mut self, _applied: LogIndex) {}

    fn snapshot(&self) -> Vec<u8> {
        self.items.lock().unwrap().join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8], batch: &mut StateBatch<'_>) -> Result<(), ApplyError> {
        batch.clear(FAMILY);
        let items: Vec<String> = std::str::from_utf8(snapshot)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        for (position, item) in items.iter().enumerate() {
            batch.put(FAMILY, (position as u64).to_be_bytes(), item);
        }
        *self.items.lock().unwrap() = items;
        Ok(())
    }
}

struct Running {
    handle: Handle<usize>,
    items: Arc<Mutex<Vec<String>>>,
    driver: Driver,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(dir: &Path, id: u64, addresses: &BTreeMap<NodeId, SocketAddr>) -> Self {
        let me = NodeId(id);
        let identity = Identity {
            cluster: "test".to_owned(),
            node: me,
        };
        let voters: Vec<NodeId> = addresses.keys().copied().collect();
        let (store, persisted) =
            Store::open(&dir.join(id.to_string()), &identity, &voters, &[FAMILY]).unwrap();
        let held = store.reader().scan(FAMILY).unwrap();
        let items: Vec<String> = held
            .into_iter()
            .map(|(_, value)| String::from_utf8(value).unwrap())
            .collect();
        let items = Arc::new(Mutex::new(items));
        let config = Config {
            tick: Duration::from_millis(20),
            settings: Settings {
                id: me,
                boot: rand::random(),
                seed: id,
                election_ticks: 10,
                heartbeat_ticks: 1,
            },
            compact_every: 50,
            keep: 10,
        };
        let node = Driver::node(&config, persisted).unwrap();
        let (handle, inbox) = Driver::prepare(&node, &store);
        let listener = TcpListener::bind(addresses[&me]).await.unwrap();
        let peers = Peers {
            cluster: "test".to_owned(),
            me,
            addresses: addresses.clone(),
        };
        let mut tasks = JoinSet::new();
        let transport = Transport::start(&peers, listener, deliver_to(handle.clone()), &mut tasks);
        let machine = List {
            items: Arc::clone(&items),
        };
        let driver = Driver::start(config, node, store, machine, transport, inbox);
        Self {
            handle,
            items,
            driver,
            tasks,
        }
    }

    async fn stop(mut self) {
        self.handle.shutdown();
        let driver = self.driver;
        tokio::task::spawn_blocking(move || driver.join())
            .await
            .unwrap();
        self.tasks.shutdown().await;
    }

    fn items(&self) -> Vec<String> {
        self.items.lock().unwrap().clone()
    }
}

/// Addresses of a loopback network of the test's own.
fn addresses(net: u8) -> BTreeMap<NodeId, SocketAddr> {
    (1..=3)
        .map(|n| {
            (
                NodeId(n),
                (Ipv4Addr::new(127, 46, net, u8::try_from(n).unwrap()), 7401).into(),
            )
        })
        .collect()
}

async fn leader(nodes: &BTreeMap<u64, Running>) -> u64 {
    let mut waits = JoinSet::new();
    for (id, node) in nodes {
        let (id, mut status) = (*id, node.handle.status());
        waits.spawn(async move {
            status
                .wait_for(|status| status.leads_with_whole_state)
                .await
                .unwrap();
            id
        });
    }
    tokio::time::timeout(PATIENCE, waits.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

/// Proposes through whichever node leads until it is acknowledged.
async fn append(nodes: &BTreeMap<u64, Running>, item: &str) {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let leader = leader(nodes).await;
            match nodes[&leader]
                .handle
                .propose(item.as_bytes().to_vec())
                .await
            {
                Ok(_) => return,
                // Nothing was appended, so it may be proposed again.
                Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{item}: {error}"),
            }
        }
    })
    .await
    .unwrap();
}

/// Waits until a node has applied all that was acknowledged anywhere, and returns its list.
async fn caught_up(node: &Running) -> Vec<String> {
    node.handle.read_index(PATIENCE).await.unwrap();
    node.items()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commands_survive_stops_and_reach_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(1);
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Running::start(dir.path(), id, &addresses).await);
    }
    let mut want = Vec::new();
    for n in 0..20 {
        append(&nodes, &format!("before {n}")).await;
        want.push(format!("before {n}"));
    }
    for node in nodes.values() {
        assert_eq!(caught_up(node).await, want);
    }

    // The leader stops; the others go on, far enough that it needs a snapshot.
    let gone = leader(&nodes).await;
    nodes.remove(&gone).unwrap().stop().await;
    for n in 0..150 {
        append(&nodes, &format!("without {n}")).await;
        want.push(format!("without {n}"));
    }
    nodes.insert(gone, Running::start(dir.path(), gone, &addresses).await);
    assert_eq!(
        caught_up(&nodes[&gone]).await,
        want,
        "the node that was away has everything"
    );

    // All stop and start again from their disks.
    for (_, node) in std::mem::take(&mut nodes) {
        node.stop().await;
    }
    for id in 1..=3 {
        nodes.insert(id, Running::start(dir.path(), id, &addresses).await);
    }
    append(&nodes, "after").await;
    want.push("after".to_owned());
    for node in nodes.values() {
        assert_eq!(caught_up(node).await, want);
    }
    for (_, node) in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_wait_together_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(2);
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Running::start(dir.path(), id, &addresses).await);
    }
    let leader = leader(&nodes).await;
    let handle = nodes[&leader].handle.clone();
    let (_, before) = handle.counts();
    let mut proposals = JoinSet::new();
    for n in 0..500 {
        let handle = handle.clone();
        proposals.spawn(async move {
            handle
                .propose(format!("{n}").into_bytes())
                .await
                .map(|_| ())
        });
    }
    for outcome in proposals.join_all().await {
        outcome.unwrap();
    }
    let (_, after) = handle.counts();
    println!("measured: 500 proposals took {} syncs", after - before);
    assert!(
        after - before < 250,
        "{} syncs for 500 proposals at once",
        after - before
    );
    for (_, node) in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = addresses(3);
    let mut nodes = BTreeMap::new();
    for id in 1..=3 {
        nodes.insert(id, Running::start(dir.path(), id, &addresses).await);
    }
    let old = leader(&nodes).await;
    nodes[&old].handle.transfer_leadership().await.unwrap();
    assert_ne!(nodes[&old].handle.status().borrow().role, Role::Leader);
    append(&nodes, "after").await;
    for (_, node) in nodes {
        node.stop().await;
    }
}
