//! The admin listener: what operators and global nodes ask of a region.

use std::sync::Arc;

use api_fn_http::endpoints::{self, Names};
use api_fn_http::{Consistency, Reached, Source, Unavailable};
use api_types::{App, Catalog, Revision};
use api_wire::page::Page;
use api_wire::planes::{LoadBody, VerdictBody};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use region_plane_kubernetes::KubernetesHandle;
use region_plane_replica::Replica;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, InstanceRow};
use crate::reporter;
use crate::starting::StartHealth;

#[derive(Clone)]
pub struct Admin {
    pub replica: Replica,
    pub engine: Engine,
    /// Of the cluster that functions run in, if they do.
    pub pods: Option<KubernetesHandle>,
    pub starts: StartHealth,
    pub stopping: CancellationToken,
}

/// Until a first snapshot.
const NO_METADATA: &str = "no metadata yet: the global plane has not been reached";

pub fn router(admin: Admin) -> Router {
    let (replica, pods) = (admin.replica.clone(), admin.pods.clone());
    let starts = admin.starts.clone();
    let ready = move || {
        if replica.read(|held| held.meta().is_none()) {
            return Err(NO_METADATA.to_owned());
        }
        // The gateway before this one has them, and is stopped once this one is ready.
        if pods.as_ref().is_some_and(|pods| !pods.knows_pods()) {
            return Err(
                "the cluster's pods are not known yet: they have not been listed".to_owned(),
            );
        }
        starts.problem().map_or(Ok(()), Err)
    };
    let reads = api_fn_http::reads(Placed {
        replica: admin.replica.clone(),
    });
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/instances", get(instances))
        .with_state(Arc::new(admin))
        .merge(daemon::operations(ready))
        .merge(reads);
    daemon::json_errors(api_fn_http::conventions::conventional(router))
}

/// What is placed here, as this region has applied it.
#[derive(Clone)]
struct Placed {
    replica: Replica,
}

impl Source for Placed {
    /// Whatever consistency is asked for: the answer is about this region, and says how old it is
    /// by its revision.
    async fn read<R: Send + 'static>(
        &self,
        _consistency: Consistency,
        answer: impl FnOnce(&Catalog, Revision) -> R + Send,
    ) -> Result<R, Unavailable> {
        self.replica.read(|held| match held.meta() {
            Some(_) => Ok(answer(held.here(), held.revision())),
            // That nothing is held says nothing about what there is.
            None => Err(Unavailable(NO_METADATA.to_owned())),
        })
    }

    /// Where a global node asks, as if it had answered itself; else this region's own gateway.
    fn base_url(&self, app: Option<&App>, reached: &Reached) -> String {
        self.replica.read(|held| {
            let gateway = &held.me().gateway;
            let Some(public_url) = &reached.public_url else {
                return format!("http://{gateway}");
            };
            let names = Names {
                zone: held.zone(),
                gateway_port: held.gateway_port().unwrap_or_default(),
            };
            let host = reached.host.as_deref().unwrap_or(gateway);
            endpoints::base_url(public_url, names, app, host)
        })
    }
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
    /// Why nothing came from the global plane since it last did; absent while it does.
    not_following: Option<String>,
    /// Since when it lacks something that it could have had, in milliseconds; 0 within the bound.
    behind_ms: u64,
    /// Why the metadata on disk is older than what is served, while it is.
    copy_problem: Option<String>,
    /// Why nothing can be run here at the moment, by the region's own fault.
    start_problem: Option<String>,
    load: LoadBody,
    queued: u32,
    memory_held_mb: u64,
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<Status> {
    let counts = admin.engine.counts().await;
    let snapshot_refused = admin.replica.refused();
    let not_following = admin.replica.progress().problem;
    let behind_ms = reporter::millis(admin.replica.behind().unwrap_or_default());
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
        not_following,
        behind_ms,
        copy_problem: admin.replica.unwritten(),
        start_problem: admin.starts.problem(),
        load: counts.load.into(),
        queued: counts.queued,
        memory_held_mb: counts.memory_held_mb,
    }))
}

async fn instances(State(admin): State<Arc<Admin>>) -> Json<Page<InstanceRow>> {
    Json(Page::whole(admin.engine.instances().await))
}
