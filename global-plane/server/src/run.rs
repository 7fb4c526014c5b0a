//! A node's life: open, join, serve, hand over, stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use api_types::Knowledge;
use api_wire::call_headers::BY_GLOBAL;
use calls_forward::Forwarder;
use daemon::{HttpLimits, Shutdown, Unfit};
use dns_worldmap::WorldMap;
use global_plane_consensus::driver::{self, Handle};
use global_plane_consensus::node::Settings;
use global_plane_consensus::store::Identity;
use global_plane_consensus::transport::{Peers as RaftPeers, Transport};
use global_plane_consensus::{ApplyError, Driver, NodeId, Store, StoreError};
use global_plane_state::Outcome;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admission::Turns;
use crate::agreement::{self, Agreement, Askers};
use crate::api::{self, invoke::Front};
use crate::bundles::BundleStore;
use crate::config::Config;
use crate::leader::{self, Leader};
use crate::machine::{FAMILIES, Machine, Replica};
use crate::node::Node;
use crate::peers::Peers;
use crate::reader::Reader;
use crate::views::{Site, Views};
use crate::writer::Writer;

/// Applied entries after which the log is compacted, and what is kept for followers that were away
/// for a moment: about ten seconds of writes at full speed.
const COMPACT_EVERY: u64 = 10_000;
const KEEP: u64 = 10_000;

/// Copies of the whole catalog that may be in memory at once for `/v1/snapshot`.
const SNAPSHOTS_MAX: usize = 2;

/// What to do about what a newer program stored or agreed on.
const NEWER: &str = "start the version that the other global nodes run; the data directory is sound and \
                     needs nothing else";

/// What to do about a data directory that can neither be read nor taken over.
const OTHER: &str = "start the version that made it; or, to begin anew with this one, stop all global \
                     nodes, remove the data directory of each, start them and deploy again";

pub fn run(config: Config, shutdown: Shutdown) -> impl Future<Output = anyhow::Result<()>> {
    Box::pin(live(config, shutdown))
}

async fn live(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let api_listener = daemon::bind(config.api_listen)?;
    let raft_listener = daemon::bind(config.raft_listen)?;
    let map = world_map(&config)?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("make the data directory {}", config.data_dir.display()))?;
    let bundles = BundleStore::open(config.data_dir.join("bundles")).context("open the bundles")?;

    let voters: Vec<NodeId> = config
        .members
        .iter()
        .map(|member| NodeId(member.node_id))
        .collect();
    let identity = Identity {
        cluster: config.cluster_id.clone(),
        node: NodeId(config.node_id),
    };
    let (store, persisted) =
        Store::open(&config.data_dir.join("db"), &identity, &voters, &FAMILIES).map_err(
            |error| {
                let to_do = matches!(error, StoreError::Format { .. }).then_some(OTHER);
                Unfit::if_known(to_do, error)
            },
        )?;
    let loaded = Replica::load(
        &store.reader(),
        &config.cluster_id,
        persisted.applied,
        config.limits.watch_revisions_max,
    );
    let replica = Arc::new(loaded.map_err(|error| {
        let to_do = error.is_newer().then_some(NEWER);
        Unfit::if_known(to_do, error)
    })?);
    info!(
        index = %persisted.applied,
        revision = %replica.position().revision,
        "state read from disk"
    );
    let consensus_config = driver::Config {
        tick: config.tick(),
        settings: Settings {
            id: NodeId(config.node_id),
            boot: store.boots(),
            seed: rand::random(),
            election_ticks: config.election_ticks,
            heartbeat_ticks: 1,
        },
        compact_every: COMPACT_EVERY,
        keep: KEEP,
    };
    let raft = Driver::node(&consensus_config, persisted).context("read the log")?;
    let (handle, inbox) = Driver::prepare::<Outcome>(&raft, &store);
    let peers = RaftPeers {
        cluster: config.cluster_id.clone(),
        me: NodeId(config.node_id),
        addresses: raft_addresses(&config).await?,
    };
    let mut transport_tasks = JoinSet::new();
    let deliver = {
        let handle = handle.clone();
        Arc::new(move |incoming| handle.deliver(incoming))
    };
    let transport = Transport::start(&peers, raft_listener, deliver, &mut transport_tasks);
    let machine = Machine::new(Arc::clone(&replica), Knowledge::own());
    let driver = Driver::start(consensus_config, raft, store, machine, transport, inbox);

    let config = Arc::new(config);
    let peers = Peers::new().context("start the HTTP client")?;
    let leader = Arc::new(Leader::new(config.report_lease_ms));
    let agreement = Arc::new(Agreement {
        config: Arc::clone(&config),
        replica: Arc::clone(&replica),
        leader: Arc::clone(&leader),
        askers: Askers::default(),
    });
    let writer = Arc::new(Writer {
        config: Arc::clone(&config),
        replica: Arc::clone(&replica),
        consensus: handle.clone(),
        peers: peers.clone(),
        agreement: Arc::clone(&agreement),
        turns: Turns::default(),
    });
    let node = Arc::new(Node {
        views: Views::new(Site {
            cluster_id: config.cluster_id.clone(),
            zone: config.zone.clone(),
            gateway_port: config.gateway_port,
            map_sha256: map.sha256(),
            world: Arc::clone(map.world()),
        }),
        reader: Reader::new(Arc::clone(&replica), handle.clone()),
        forwarder: Arc::new(Forwarder::new(BY_GLOBAL)),
        snapshots: Semaphore::new(SNAPSHOTS_MAX),
        shutdown: shutdown.child_token(),
        consensus: handle.clone(),
        config,
        replica,
        writer,
        leader,
        agreement,
        peers,
        bundles,
        map,
    });
    let served = serve(&node, api_listener, &shutdown).await;

    handle.shutdown();
    let ended = tokio::task::spawn_blocking(move || driver.join())
        .await
        .context("wait for the consensus thread")?;
    transport_tasks.shutdown().await;
    match ended {
        Ok(()) => served,
        Err(error) => {
            let to_do = matches!(error, ApplyError::Newer { .. }).then_some(NEWER);
            Err(Unfit::if_known(to_do, error))
        }
    }
}

/// Runs the node's tasks until the shutdown, then hands leadership on while they drain.
async fn serve(
    node: &Arc<Node>,
    listener: tokio::net::TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let drained = shutdown.child_token();
    let router = api::router(node);
    let limits = HttpLimits {
        // A call that is handed on has another.
        descriptors_percent: 40,
        proxies: node.config.proxy_protocol_from.clone(),
        ..HttpLimits::default()
    };
    let front = {
        let node = Arc::clone(node);
        move |caller| Front::new(Arc::clone(&node), router.clone(), caller)
    };
    let http = calls_door::serve(listener, front, drained, limits);
    tasks.spawn(async move { http.await.context("serve the API") });
    let (leader, writer) = (Arc::clone(&node.leader), Arc::clone(&node.writer));
    let judging = leader::run(leader, writer, node.shutdown.clone());
    tasks.spawn(async move {
        judging.await;
        Ok(())
    });
    let (forwarder, tended) = (Arc::clone(&node.forwarder), shutdown.child_token());
    tasks.spawn(async move {
        forwarder.tend(tended).await;
        Ok(())
    });
    let applying = Arc::clone(node);
    tasks.spawn(async move {
        tokio::select! {
            () = applying.consensus.ended() => anyhow::bail!("this node stopped applying the log"),
            () = applying.shutdown.cancelled() => Ok(()),
        }
    });
    let saying = Arc::clone(node);
    tasks.spawn(async move {
        agreement::say_known(&saying.reader, &saying.writer, saying.shutdown.clone()).await;
        Ok(())
    });
    let counting = Arc::clone(node);
    tasks.spawn(async move {
        count(&counting).await;
        Ok(())
    });
    info!(api = %node.config.api_listen, raft = %node.config.raft_listen, "serving");

    let unasked = tokio::select! {
        // First: tasks that end because of it were asked to.
        biased;
        () = shutdown.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    shutdown.begin();
    hand_over(&node.consensus).await;
    let mut result = match unasked {
        None => Ok(()),
        Some(ended) => ended
            .context("a task failed")
            .flatten()
            .and_then(|()| anyhow::bail!("a task ended unasked")),
    };
    while let Some(ended) = tasks.join_next().await {
        result = result.and(ended.context("a task failed").flatten());
    }
    result
}

async fn hand_over(consensus: &Handle<Outcome>) {
    use global_plane_consensus::driver::TransferError;

    match consensus.transfer_leadership().await {
        Ok(()) => info!("handed leadership on"),
        Err(TransferError::NotLeader) => {}
        Err(error @ TransferError::NotTaken) => warn!(%error, "leadership not handed on"),
    }
}

/// Keeps the gauges of Raft's state true.
async fn count(node: &Node) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.shutdown.cancelled() => return,
        }
        let status = node.consensus.status();
        let (term, leads, applied) = {
            let status = status.borrow();
            let leads = status.role == global_plane_consensus::Role::Leader;
            (status.term, leads, status.applied.0)
        };
        let (readies, fsyncs) = node.consensus.counts();
        let revision = node.replica.position().revision.0;
        metrics::gauge!("tradewind_raft_term").set(float(term));
        metrics::gauge!("tradewind_raft_leads").set(f64::from(u8::from(leads)));
        metrics::gauge!("tradewind_raft_applied").set(float(applied));
        metrics::gauge!("tradewind_revision").set(float(revision));
        metrics::counter!("tradewind_raft_readies_total").absolute(readies);
        metrics::counter!("tradewind_raft_fsyncs_total").absolute(fsyncs);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a float; positions stay far below 2^53"
)]
fn float(position: u64) -> f64 {
    position as f64
}

fn world_map(config: &Config) -> anyhow::Result<Arc<WorldMap>> {
    let path = &config.worldmap.path;
    if path.is_empty() {
        return Ok(WorldMap::built_in());
    }
    let map = WorldMap::open(Path::new(path)).with_context(|| format!("open world map {path}"))?;
    Ok(Arc::new(map))
}

/// Members may be named by host; names are looked up once, at the start.
async fn raft_addresses(config: &Config) -> anyhow::Result<BTreeMap<NodeId, SocketAddr>> {
    let mut addresses = BTreeMap::new();
    for member in &config.members {
        let mut found = tokio::net::lookup_host(&member.raft)
            .await
            .with_context(|| format!("look up member {} at {}", member.name, member.raft))?;
        let address = found
            .next()
            .with_context(|| format!("{} has no address", member.raft))?;
        addresses.insert(NodeId(member.node_id), address);
    }
    Ok(addresses)
}
