//! A global plane of one, in memory: a snapshot and the watch.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_client::Client;
use api_types::{
    App, Catalog, Fn, FnId, Location, Object, ObjectId, Region, Revision, Timestamp, Verdict,
};
use api_wire::view::{Envelope, MetadataBody, ViewId};
use api_wire::{AppBody, FnBody, WatchLine};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use region_plane_replica::{Replica, follow};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct Plane {
    held: Arc<Mutex<PlaneState>>,
    revision: watch::Sender<u64>,
}

struct PlaneState {
    cluster_id: &'static str,
    catalog: Catalog,
    lines: Vec<(u64, WatchLine)>,
}

const TIME: &str = "2026-01-01T00:00:00.000Z";

pub fn annotation(name: &str, json: &str) -> BTreeMap<String, Box<RawValue>> {
    let value = RawValue::from_string(json.to_owned()).unwrap();
    [(name.to_owned(), value)].into()
}

impl Plane {
    /// Serves, and has a replica in `folder` follow it.
    pub async fn start(folder: &Path, tasks: &mut JoinSet<()>) -> (Self, Replica) {
        Self::start_as("test", folder, tasks).await
    }

    /// As the global plane of another cluster would.
    pub async fn start_as(
        cluster_id: &'static str,
        folder: &Path,
        tasks: &mut JoinSet<()>,
    ) -> (Self, Replica) {
        let plane = Self {
            held: Arc::new(Mutex::new(PlaneState {
                cluster_id,
                catalog: Catalog::default(),
                lines: Vec::new(),
            })),
            revision: watch::channel(1).0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/v1/snapshot", get(snapshot))
            .route("/v1/watch", get(lines))
            .with_state(plane.clone());
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let replica = Replica::open(folder, fra(), "fn.test".to_owned()).unwrap();
        let following = follow(
            replica.clone(),
            Client::new(&[url]).unwrap(),
            CancellationToken::new(),
        );
        tasks.spawn(following);
        (plane, replica)
    }

    /// What a process has that starts while no global node answers.
    pub fn reopen(folder: &Path) -> Replica {
        Replica::open(folder, fra(), "fn.test".to_owned()).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Catalog, u64) -> WatchLine) {
        let mut held = self.held.lock().unwrap();
        let revision = *self.revision.borrow() + 1;
        let line = change(&mut held.catalog, revision);
        held.lines.push((revision, line));
        self.revision.send_replace(revision);
    }

    fn put<T: Into<Object>>(&self, make: impl FnOnce(u64) -> T) {
        self.change(|catalog, revision| {
            let object: Object = make(revision).into();
            let line = WatchLine::put(object.by_ref());
            catalog.put(object);
            line
        });
    }

    pub fn put_app(&self, app: AppBody) {
        self.put(|revision| {
            let app = AppBody {
                created_at: Some(TIME.to_owned()),
                updated_at: Some(TIME.to_owned()),
                tradewind_revision: Some(revision),
                ..app
            };
            App::try_from(app).unwrap()
        });
    }

    pub fn put_fn(&self, function: FnBody) {
        self.put(|revision| {
            let function = FnBody {
                created_at: Some(TIME.to_owned()),
                updated_at: Some(TIME.to_owned()),
                tradewind_revision: Some(revision),
                ..function
            };
            Fn::try_from(function).unwrap()
        });
    }

    pub fn delete_fn(&self, id: &str) {
        self.change(|catalog, revision| {
            let id = ObjectId::Fn(FnId::new(id));
            catalog.delete(&id);
            WatchLine::deleted(Revision(revision), &id)
        });
    }
}

pub fn app(id: &str) -> AppBody {
    AppBody {
        id: Some(id.to_owned()),
        name: Some(format!("app-{}", id.to_lowercase())),
        ..AppBody::default()
    }
}

pub fn function(id: &str, app: &str) -> FnBody {
    FnBody {
        id: Some(id.to_owned()),
        name: Some(format!("name-{}", id.to_lowercase())),
        app_id: Some(app.to_owned()),
        image: Some("localhost/tradewind/test-function:v1".to_owned()),
        memory: Some(128),
        timeout: Some(1),
        idle_timeout: Some(30),
        ..FnBody::default()
    }
}

fn fra() -> Region {
    Region {
        name: "fra".parse().unwrap(),
        ipv4: None,
        ipv6: None,
        gateway: String::new(),
        admin: String::new(),
        location: Location {
            latitude: 50.1,
            longitude: 8.7,
        },
        labels: BTreeMap::new(),
        drained: false,
        verdict: Verdict::Healthy,
        price_ms: 0,
        registered_at: Timestamp(0),
        revision: Revision(0),
    }
}

async fn snapshot(State(plane): State<Plane>) -> Json<Envelope> {
    let held = plane.held.lock().unwrap();
    let body = MetadataBody::of("fn.test", 8080, held.catalog.objects());
    let id = ViewId {
        cluster_id: held.cluster_id.to_owned(),
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
    if query["cluster_id"] != plane.held.lock().unwrap().cluster_id {
        return StatusCode::CONFLICT.into_response();
    }
    let from: u64 = query["from"].parse().unwrap();
    let chunks = stream::unfold((plane, from, true), async |(plane, from, first)| {
        let mut changed = plane.revision.subscribe();
        if !first {
            let news = changed.wait_for(|revision| *revision > from);
            let _quiet = tokio::time::timeout(Duration::from_secs(1), news).await;
        }
        let (mut text, upto) = {
            let held = plane.held.lock().unwrap();
            let news = held.lines.iter().filter(|(revision, _)| *revision > from);
            let text: String = news
                .map(|(_, line)| serde_json::to_string(line).unwrap() + "\n")
                .collect();
            (text, *plane.revision.borrow())
        };
        let progress = WatchLine::Progress { revision: upto };
        text += &(serde_json::to_string(&progress).unwrap() + "\n");
        Some((Ok::<_, Infallible>(text), (plane, upto, false)))
    });
    Body::from_stream(chunks).into_response()
}
