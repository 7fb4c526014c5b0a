//! The admin listener: what operators and global nodes ask of a region.

use std::sync::Arc;

use api_wire::page::Page;
use api_wire::planes::{LoadBody, VerdictBody};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::Serialize;

use crate::engine::{Engine, InstanceRow};
use crate::replica::Replica;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct Admin {
    pub replica: Replica,
    pub engine: Engine,
    pub stopping: CancellationToken,
}

pub fn router(admin: Admin) -> Router {
    let replica = admin.replica.clone();
    let ready = move || match replica.read(|held| held.meta().is_some()) {
        true => Ok(()),
        false => Err("no metadata yet: the global plane has not been reached".to_owned()),
    };
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/instances", get(instances))
        .with_state(Arc::new(admin))
        .merge(daemon::operations(ready))
}

#[derive(Debug, Serialize)]
struct Status {
    name: String,
    pid: u32,
    version: &'static str,
    cluster_id: Option<String>,
    epoch: Option<u64>,
    revision: u64,
    hash: String,
    /// What the global plane thinks of this region, as far as it has been heard here.
    verdict_seen: Option<VerdictBody>,
    draining: bool,
    /// Why the last snapshot offered was not taken.
    snapshot_refused: Option<String>,
    load: LoadBody,
    queued: u32,
    memory_held_mb: u64,
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    let counts = admin.engine.counts();
    let snapshot_refused = admin.replica.refused();
    let stopping = admin.stopping.is_cancelled();
    Json(admin.replica.read(|held| Status {
        name: held.me().name.to_string(),
        pid: std::process::id(),
        version: daemon::VERSION,
        cluster_id: held.meta().map(|meta| meta.cluster_id.clone()),
        epoch: held.meta().map(|meta| meta.epoch),
        revision: held.revision().0,
        hash: held.hash(),
        verdict_seen: held.verdict().map(VerdictBody::from),
        draining: stopping || held.drained(),
        snapshot_refused,
        load: counts.load.into(),
        queued: counts.queued,
        memory_held_mb: counts.memory_held_mb,
    }))
}

async fn instances(State(admin): State<Arc<Admin>>) -> Json<Page<InstanceRow>> {
    Json(Page::whole(admin.engine.counts().instances))
}
