//! A global plane of one, in memory: registrations, reports, snapshots, the watch, bundles.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use api_bundle::{Manifest, Tree};
use api_types::{
    App, Catalog, Digest, Fn, FnId, Object, ObjectId, Platform, Region, Trigger, Verdict,
};
use api_wire::call_headers::REVISION;
use api_wire::planes::{RegionBody, RegisterRegion, Report, VerdictBody};
use api_wire::view::{Envelope, MetadataBody, ViewId};
use api_wire::{AppBody, FnBody, TriggerBody, WatchLine};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct Plane {
    pub url: String,
    state: Arc<Mutex<PlaneState>>,
    revision: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

struct PlaneState {
    cluster_id: String,
    catalog: Catalog,
    lines: Vec<(u64, WatchLine)>,
    compacted: u64,
    /// The line of this revision never comes through.
    /// Watches bring nothing newer, only progress marks at this revision.
    stalled_at: Option<u64>,
    spoiled: Option<(u64, Spoiled)>,
    reports: BTreeMap<String, Report>,
    bundles: BTreeMap<String, Vec<u8>>,
}

/// How a line does not come through.
#[derive(Debug, Clone, Copy)]
pub enum Spoiled {
    /// It is longer than any consumer takes.
    TooLong,
    Garbled,
    /// The stream ends in the middle of it.
    CutOff,
}

impl Plane {
    pub fn start(address: &str) -> Self {
        let plane = Self {
            url: format!("http://{address}"),
            state: Arc::new(Mutex::new(PlaneState {
                cluster_id: "test".to_owned(),
                catalog: Catalog::default(),
                lines: Vec::new(),
                compacted: 0,
                stalled_at: None,
                spoiled: None,
                reports: BTreeMap::new(),
                bundles: BTreeMap::new(),
            })),
            revision: watch::channel(1).0,
            stop: CancellationToken::new(),
            tasks: Arc::default(),
        };
        plane.serve(address.parse().unwrap());
        plane
    }

    fn serve(&self, address: SocketAddr) {
        let router = Router::new()
            .route("/v1/regions", post(register))
            .route("/v1/regions/{name}/report", post(report))
            .route("/v1/snapshot", get(snapshot))
            .route("/v1/watch", get(lines))
            .route("/v1/bundles/{hex}", get(bundle))
            .with_state(self.clone());
        let listener = daemon::bind(address).unwrap();
        let limits = daemon::HttpLimits {
            grace: std::time::Duration::ZERO,
            ..daemon::HttpLimits::default()
        };
        let serving = daemon::serve(listener, router, self.stop.clone(), limits);
        let mut tasks = self.tasks.lock().unwrap();
        tasks.spawn(async move { serving.await.unwrap() });
    }

    /// Gone, as after a `kill -9`.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tasks.lock().unwrap().abort_all();
    }

    fn change(&self, change: impl FnOnce(&mut Catalog, u64) -> WatchLine) -> u64 {
        let mut held = self.state.lock().unwrap();
        let revision = *self.revision.borrow() + 1;
        let line = change(&mut held.catalog, revision);
        held.lines.push((revision, line));
        self.revision.send_replace(revision);
        revision
    }

    fn put<T: Into<Object>>(&self, make: impl FnOnce(&Catalog, u64) -> T) -> u64 {
        self.change(|catalog, revision| {
            let object: Object = make(catalog, revision).into();
            let line = WatchLine::put(object.by_ref());
            catalog.put(object);
            line
        })
    }

    pub fn put_app(&self, id: &str, name: &str, placement: Option<&str>) -> u64 {
        let app = AppBody {
            id: Some(id.to_owned()),
            name: Some(name.to_owned()),
            annotations: placement.map(|json| {
                let value = serde_json::value::RawValue::from_string(json.to_owned()).unwrap();
                [("tradewind.dev/placement".to_owned(), value)].into()
            }),
            created_at: Some(TIME.to_owned()),
            updated_at: Some(TIME.to_owned()),
            ..AppBody::default()
        };
        self.put(|_, revision| {
            let tradewind_revision = Some(revision);
            App::try_from(AppBody {
                tradewind_revision,
                ..app
            })
            .unwrap()
        })
    }

    pub fn put_fn(&self, function: FnBody) -> u64 {
        self.put(|_, revision| {
            let function = FnBody {
                created_at: Some(TIME.to_owned()),
                updated_at: Some(TIME.to_owned()),
                tradewind_revision: Some(revision),
                ..function
            };
            Fn::try_from(function).unwrap()
        })
    }

    pub fn put_trigger(&self, id: &str, app: &str, function: &str, source: &str) -> u64 {
        self.put(|_, revision| {
            let trigger = TriggerBody {
                id: Some(id.to_owned()),
                name: Some(id.to_lowercase()),
                app_id: Some(app.to_owned()),
                fn_id: Some(function.to_owned()),
                kind: Some("http".to_owned()),
                source: Some(source.to_owned()),
                created_at: Some(TIME.to_owned()),
                updated_at: Some(TIME.to_owned()),
                tradewind_revision: Some(revision),
                ..TriggerBody::default()
            };
            Trigger::try_from(trigger).unwrap()
        })
    }

    pub fn delete_fn(&self, id: &str) -> u64 {
        self.change(|catalog, revision| {
            let id = ObjectId::Fn(FnId::new(id));
            catalog.delete(&id);
            WatchLine::deleted(api_types::Revision(revision), &id)
        })
    }

    pub fn set_drained(&self, name: &str, drained: bool) -> u64 {
        self.put(|catalog, revision| Region {
            drained,
            verdict: match drained {
                true => Verdict::Draining,
                false => Verdict::Healthy,
            },
            revision: api_types::Revision(revision),
            ..catalog.region(&name.parse().unwrap()).unwrap().clone()
        })
    }

    /// The next change's line will not come through, whoever asks for it.
    pub fn spoil_next(&self, how: Spoiled) {
        let mut held = self.state.lock().unwrap();
        held.spoiled = Some((*self.revision.borrow() + 1, how));
    }

    /// Forgets changes: whoever is behind must take a snapshot.
    pub fn compact(&self) {
        let mut held = self.state.lock().unwrap();
        held.compacted = *self.revision.borrow();
        held.lines.clear();
    }

    /// Watches bring nothing new from now on, as from a node that is cut off from the others.
    pub fn stall(&self) {
        self.state.lock().unwrap().stalled_at = Some(self.revision());
    }

    /// A region whose gateway answers everything with its name.
    pub fn put_answering_region(&self, name: &'static str, gateway: &str) -> u64 {
        let answer = move || async move { ([("tradewind-region", name)], name) };
        let listener = daemon::bind(gateway.parse().unwrap()).unwrap();
        let serving = daemon::serve(
            listener,
            Router::new().fallback(answer),
            self.stop.clone(),
            daemon::HttpLimits::default(),
        );
        let mut tasks = self.tasks.lock().unwrap();
        tasks.spawn(async move { serving.await.unwrap() });
        let region = RegionBody {
            name: name.to_owned(),
            ipv4: Some(std::net::Ipv4Addr::LOCALHOST),
            ipv6: None,
            gateway: gateway.to_owned(),
            admin: gateway.to_owned(),
            latitude: 0.0,
            longitude: 0.0,
            labels: BTreeMap::new(),
            drained: false,
            verdict: VerdictBody::Healthy,
            price_ms: 0,
            registered_at: TIME.to_owned(),
            tradewind_revision: 0,
        };
        self.put(|_, revision| {
            let tradewind_revision = revision;
            Region::try_from(RegionBody {
                tradewind_revision,
                ..region
            })
            .unwrap()
        })
    }

    /// Becomes another cluster with nothing in it.
    pub fn become_another(&self) {
        let mut held = self.state.lock().unwrap();
        held.cluster_id = "other".to_owned();
        let apps: Vec<_> = held.catalog.apps().map(|app| app.id.clone()).collect();
        for app in apps {
            held.catalog.delete(&ObjectId::App(app));
        }
    }

    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    pub fn report(&self, region: &str) -> Option<Report> {
        self.state.lock().unwrap().reports.get(region).cloned()
    }

    /// The region is no longer known.
    pub fn forget(&self, region: &str) {
        let mut held = self.state.lock().unwrap();
        let id = ObjectId::Region(region.parse().unwrap());
        held.catalog.delete(&id);
        held.reports.remove(region);
    }

    pub fn knows(&self, region: &str) -> bool {
        let held = self.state.lock().unwrap();
        held.catalog.region(&region.parse().unwrap()).is_some()
    }

    /// Packs the answering function and stores it; returns the image.
    pub fn store_bundle(&self) -> String {
        let mut tree = Tree::default();
        tree.add_file("function/answering", &function_program(), true)
            .unwrap();
        let manifest = Manifest {
            schema: 1,
            name: "answering".to_owned(),
            version: "1".to_owned(),
            runtime: "executable".to_owned(),
            platform: Platform::here().0,
            entrypoint: vec!["/function/answering".to_owned()],
            cmd: Vec::new(),
        };
        let mut bytes = Vec::new();
        let packed = tree.pack(&manifest, &mut bytes).unwrap();
        self.keep(packed.digest, bytes);
        format!("bundle/answering:1@sha256:{}", packed.digest)
    }

    /// As when every global node's copy is gone.
    pub fn lose_bundles(&self) {
        self.state.lock().unwrap().bundles.clear();
    }

    pub fn keep(&self, digest: Digest, bytes: Vec<u8>) {
        let mut held = self.state.lock().unwrap();
        held.bundles.insert(digest.to_string(), bytes);
    }
}

/// How long answers of its DNS servers live.
pub const DNS_TTL_SECS: u64 = 3;

const TIME: &str = "2026-01-02T15:04:05.678Z";

/// `cargo test` builds examples beside the binaries.
fn function_program() -> std::path::PathBuf {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_tradewind-region"))
        .with_file_name("examples")
        .join("answering-function");
    assert!(
        program.exists(),
        "{program:?} is built by `cargo test` without `--test`, or by `cargo build --example answering-function`"
    );
    program
}

/// A function of app `A` that runs the answering function.
pub fn function(id: &str, image: &str) -> FnBody {
    FnBody {
        id: Some(id.to_owned()),
        name: Some(id.to_lowercase()),
        app_id: Some("A".to_owned()),
        image: Some(image.to_owned()),
        memory: Some(128),
        timeout: Some(30),
        idle_timeout: Some(30),
        ..FnBody::default()
    }
}

async fn register(State(plane): State<Plane>, Json(region): Json<RegisterRegion>) -> Response {
    plane.put(|_, revision| {
        let row = RegionBody {
            name: region.name.clone(),
            ipv4: region.ipv4,
            ipv6: region.ipv6,
            gateway: region.gateway,
            admin: region.admin,
            latitude: region.latitude,
            longitude: region.longitude,
            labels: region.labels,
            drained: false,
            verdict: VerdictBody::Healthy,
            price_ms: 0,
            registered_at: TIME.to_owned(),
            tradewind_revision: revision,
        };
        Region::try_from(row).unwrap()
    });
    Json(serde_json::json!({
        "name": region.name, "verdict": "healthy", "price_ms": 0,
        "load": {"current": 0, "target": 0, "capacity": 0}, "revision": 0, "lag_ms": 0,
        "gateway": "", "admin": "", "latitude": 0.0, "longitude": 0.0, "labels": {},
    }))
    .into_response()
}

async fn report(
    State(plane): State<Plane>,
    Path(name): Path<String>,
    Json(report): Json<Report>,
) -> Response {
    let mut held = plane.state.lock().unwrap();
    if held.catalog.region(&name.parse().unwrap()).is_none() {
        return StatusCode::NOT_FOUND.into_response();
    }
    held.reports.insert(name, report);
    let ttl = [(api_wire::planes::DNS_TTL_SECS, DNS_TTL_SECS.to_string())];
    let revision = [(REVISION, plane.revision().to_string())];
    (StatusCode::NO_CONTENT, ttl, revision).into_response()
}

async fn snapshot(State(plane): State<Plane>) -> Json<Envelope> {
    let held = plane.state.lock().unwrap();
    let body = MetadataBody::of("fn.test", 8080, held.catalog.objects());
    let id = ViewId {
        cluster_id: held.cluster_id.clone(),
        epoch: 1,
        revision: *plane.revision.borrow(),
        count: body.objects.len() as u64,
        sha256: String::new(),
    };
    Json(Envelope::seal(id, &body))
}

async fn lines(
    State(plane): State<Plane>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let from: u64 = query["from"].parse().unwrap();
    if query["cluster_id"] != plane.state.lock().unwrap().cluster_id {
        let body = serde_json::json!({"message": "of another cluster"});
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    if from < plane.state.lock().unwrap().compacted {
        let body =
            serde_json::json!({"message": "compacted", "snapshot_revision": plane.revision()});
        return (StatusCode::GONE, Json(body)).into_response();
    }
    let chunks = stream::unfold(Some((plane, from, true)), async |from| {
        let (plane, from, first) = from?;
        let mut changed = plane.revision.subscribe();
        if !first {
            let second = std::time::Duration::from_secs(1);
            let stalled = plane.state.lock().unwrap().stalled_at.is_some();
            let news = changed.wait_for(|revision| !stalled && *revision > from);
            let _quiet = tokio::time::timeout(second, news).await;
        }
        let (mut text, mut upto) = (String::new(), plane.revision());
        {
            let held = plane.state.lock().unwrap();
            let last = held.stalled_at.unwrap_or(u64::MAX);
            upto = upto.min(last);
            let news = held.lines.iter();
            let news = news.filter(|(revision, _)| (from + 1..=last).contains(revision));
            for (revision, line) in news {
                let line = serde_json::to_string(line).unwrap();
                match held.spoiled.filter(|(spoiled, _)| spoiled == revision) {
                    None => text += &(line + "\n"),
                    Some((_, Spoiled::Garbled)) => text += "{\"type\":\"fn\"}\n",
                    Some((_, Spoiled::TooLong)) => text += &("x".repeat(64 << 20) + "\n"),
                    Some((_, Spoiled::CutOff)) => {
                        text += &line[..line.len() / 2];
                        return Some((Ok::<_, Infallible>(text), None));
                    }
                }
                upto = upto.max(*revision);
            }
        }
        let progress = WatchLine::Progress { revision: upto };
        text += &(serde_json::to_string(&progress).unwrap() + "\n");
        Some((Ok(text), Some((plane, upto, false))))
    });
    Body::from_stream(chunks).into_response()
}

async fn bundle(State(plane): State<Plane>, Path(hex): Path<String>) -> Response {
    let held = plane.state.lock().unwrap();
    match held.bundles.get(&hex) {
        Some(bytes) => bytes.clone().into_response(),
        None => (
            StatusCode::NOT_FOUND,
            Json(serde_json::json!({"message": "Bundle not found"})),
        )
            .into_response(),
    }
}
